import type { CacheDoor } from '#cache/door.ts';
import { ChunkIndex } from '#cache/chunk-index.ts'; // canary: no-restricted-imports

export const wrong: unknown = ChunkIndex;
export type Allowed = CacheDoor;
