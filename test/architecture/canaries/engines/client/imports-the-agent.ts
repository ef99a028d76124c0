import { dlopen } from 'bun:ffi';
import { libc } from '#host/libc.ts'; // canary: no-restricted-imports

export const wrong: unknown = [dlopen, libc];
