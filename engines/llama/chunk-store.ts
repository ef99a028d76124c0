/**
 * Where chunks are kept, as the prefix cache sees it: a port with an implementation for each door of the agent.
 *
 * Invariants of every implementation
 * - It fails open: no call rejects. What cannot be had is a miss, what cannot be kept is not kept, and a store that is away answers in time.
 * - A store is of one namespace; keys are the chained hashes of chunk-keys.ts, 64 hex digits.
 * - Order is the prefix: keys of one call are consecutive chunks, and are asked, loaded and stored in that order.
 * - A buffer is the store's from the call until its promise is settled, and not a moment longer.
 */
import type { MemoryRange } from './engine-messages.ts';

/**
 * Room for one value, at an address that every thread of the process may use; made by the store that will fill it. Ask for address and
 * bytes anew after each load and store: a store may put other memory there.
 */
export interface ChunkBuffer extends MemoryRange {
  /** The same memory. */
  readonly bytes: Uint8Array;
}

export interface ChunkStore {
  /** Memory in which values of exactly this size are loaded and stored; lives as long as the store. */
  createBuffers(count: number, sizeBytes: number): readonly ChunkBuffer[];
  /** How many of the keys, from the first on and without a gap, are there. One round trip. */
  lookup(keys: readonly string[]): Promise<number>;
  /**
   * Fills `buffers[i]` with the value of `keys[i]`. One promise a key, settled as its value is whole: true where the buffer holds a value of
   * exactly its size. What was in the buffer is gone either way.
   */
  load(keys: readonly string[], buffers: readonly ChunkBuffer[]): readonly Promise<boolean>[];
  /** One promise a key: whether the store has taken the value. `parent`: the key before the first, where there is one. */
  store(keys: readonly string[], buffers: readonly ChunkBuffer[], parent?: string): readonly Promise<boolean>[];
  close(): Promise<void>;
}
