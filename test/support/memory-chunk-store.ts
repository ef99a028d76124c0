/** Chunks in a Map, with the faults that a test asks for. Watches that no buffer is given to it twice at a time. */
import { ptr } from 'bun:ffi';
import { assert } from '#core/assert.ts';
import type { ChunkBuffer, ChunkStore } from '#engines/llama/chunk-store.ts';

/** Each is asked once for every key; what it leaves out is done right. */
export interface StoreFaults {
  /** Added to what a lookup answers. */
  readonly lookupError?: (found: number) => number;
  readonly loadFails?: (key: string) => boolean;
  /** Changes what is loaded. */
  readonly spoil?: (value: Uint8Array, key: string) => void;
  readonly storeFails?: (key: string) => boolean;
  /** How many turns of the event loop's microtasks an answer takes. */
  readonly turns?: () => number;
}

export class MemoryChunkStore implements ChunkStore {
  readonly values = new Map<string, Uint8Array>();
  faults: StoreFaults;
  readonly #busy = new Set<number>();

  constructor(faults: StoreFaults = {}) {
    this.faults = faults;
  }

  createBuffers(count: number, sizeBytes: number): readonly ChunkBuffer[] {
    return Array.from({ length: count }, () => {
      const bytes = new Uint8Array(sizeBytes);
      return { address: ptr(bytes), sizeBytes, bytes };
    });
  }

  async lookup(keys: readonly string[]): Promise<number> {
    const gap = keys.findIndex((key) => !this.values.has(key));
    const found = gap < 0 ? keys.length : gap;
    return await this.#later(Math.max(0, Math.min(keys.length, found + (this.faults.lookupError?.(found) ?? 0))));
  }

  load(keys: readonly string[], buffers: readonly ChunkBuffer[]): readonly Promise<boolean>[] {
    return keys.map((key, index) =>
      this.#use(buffers[index], (bytes) => {
        const value = this.values.get(key);
        if (value?.length !== bytes.length || this.faults.loadFails?.(key) === true) return false;
        bytes.set(value);
        this.faults.spoil?.(bytes, key);
        return true;
      }),
    );
  }

  store(keys: readonly string[], buffers: readonly ChunkBuffer[]): readonly Promise<boolean>[] {
    return keys.map((key, index) =>
      this.#use(buffers[index], (bytes) => {
        if (this.faults.storeFails?.(key) === true) return false;
        this.values.set(key, bytes.slice());
        return true;
      }),
    );
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  async #use(buffer: ChunkBuffer | undefined, work: (bytes: Uint8Array) => boolean): Promise<boolean> {
    assert(buffer !== undefined && !this.#busy.has(buffer.address), 'A buffer is missing, or the store has it already');
    this.#busy.add(buffer.address);
    await this.#later(undefined);
    const done = work(buffer.bytes);
    this.#busy.delete(buffer.address);
    return done;
  }

  async #later<T>(value: T): Promise<T> {
    for (let turn = this.faults.turns?.() ?? 1; turn > 0; turn -= 1) await Promise.resolve();
    return value;
  }
}
