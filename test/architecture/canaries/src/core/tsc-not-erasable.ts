export enum Tier { // canary: TS1294
  ram,
}

export class Room {
  constructor(readonly folder: string) {} // canary: TS1294
}

export const first: number = [1, 2][0]; // canary: TS2322
