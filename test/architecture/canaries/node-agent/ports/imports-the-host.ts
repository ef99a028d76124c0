import { openLibc } from '#host/libc.ts'; // canary: no-restricted-imports

export const wrong: unknown = openLibc;
