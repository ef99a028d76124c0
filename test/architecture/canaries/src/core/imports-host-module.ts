import { readFileSync } from 'node:fs'; // canary: no-restricted-imports

export const wrong: unknown = readFileSync;
