import { dlopen } from 'bun:ffi';
import { ChunkIndex } from '#cache/chunk-index.ts'; // canary: no-restricted-imports

export const wrong: unknown = [dlopen, ChunkIndex];
