import { readFileSync } from 'node:fs';
import { KvtierClient } from '#client/kvtier-client.ts';
import { libc } from '#host/libc.ts'; // canary: no-restricted-imports
import type { CacheDoor } from '#cache/door.ts'; // canary: no-restricted-imports

export const wrong: readonly unknown[] = [readFileSync, KvtierClient, libc];
export type Wrong = CacheDoor;
