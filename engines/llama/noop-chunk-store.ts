/** No store at all: everything is a miss and nothing is kept. */
import { ptr } from 'bun:ffi';
import type { ChunkBuffer, ChunkStore } from './chunk-store.ts';

export class NoopChunkStore implements ChunkStore {
  createBuffers(count: number, sizeBytes: number): readonly ChunkBuffer[] {
    return Array.from({ length: count }, () => {
      const bytes = new Uint8Array(sizeBytes);
      return { address: ptr(bytes), sizeBytes, bytes };
    });
  }
  lookup(): Promise<number> {
    return Promise.resolve(0);
  }
  load(keys: readonly string[]): readonly Promise<boolean>[] {
    return keys.map(() => Promise.resolve(false));
  }
  store(keys: readonly string[]): readonly Promise<boolean>[] {
    return keys.map(() => Promise.resolve(false));
  }
  close(): Promise<void> {
    return Promise.resolve();
  }
}
