import { readFileSync } from 'node:fs'; // canary: TS2591
import { dlopen } from 'bun:ffi'; // canary: TS2307

export const wrong: unknown = [readFileSync, dlopen];
