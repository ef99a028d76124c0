export const version: string = Bun.version; // canary: TS2868
export const pid: number = process.pid; // canary: TS2591
export const bytes: Uint8Array = Buffer.alloc(1); // canary: TS2591
