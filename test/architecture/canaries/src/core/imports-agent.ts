import type { CacheControl } from '#cache/control.ts'; // canary: no-restricted-imports

export type Wrong = CacheControl;
