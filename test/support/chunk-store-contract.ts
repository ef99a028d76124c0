/** What the prefix cache relies on in a store of chunks, for every door and for the one in memory. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { ChunkBuffer, ChunkStore } from '#engines/llama/chunk-store.ts';

export interface ChunkStoreSubject {
  /** A store over an empty peer. */
  readonly open: () => Promise<ChunkStore>;
  /** Closes the store and its peer. */
  readonly close: (store: ChunkStore) => Promise<void>;
}

const VALUE_BYTES = 256 * 1024 + 4096;
let nextKey = 1;

export function describeChunkStore(name: string, subject: ChunkStoreSubject): void {
  describe(name, () => {
    let store: ChunkStore;
    beforeAll(async () => {
      store = await subject.open();
    });
    afterAll(async () => {
      await subject.close(store);
    });

    /** Never the same twice. */
    const keysOf = (count: number): string[] => Array.from({ length: count }, () => (nextKey++).toString(16).padStart(64, '0'));
    const filled = (count: number, seed: number): readonly ChunkBuffer[] => {
      const buffers = store.createBuffers(count, VALUE_BYTES);
      for (const [index, buffer] of buffers.entries()) buffer.bytes.fill(seed + index);
      return buffers;
    };

    test('gives back what it was given, each value in its own buffer', async () => {
      const keys = keysOf(5);
      expect(await Promise.all(store.store(keys, filled(5, 10)))).toEqual([true, true, true, true, true]);
      expect(await store.lookup(keys)).toBe(5);
      const buffers = filled(5, 100);
      expect(await Promise.all(store.load(keys, buffers))).toEqual([true, true, true, true, true]);
      for (const [index, { bytes }] of buffers.entries())
        expect(Buffer.compare(bytes, new Uint8Array(VALUE_BYTES).fill(10 + index))).toBe(0);
    });

    test('a lookup ends at the first gap, whatever is behind it', async () => {
      const keys = keysOf(5);
      expect(await store.lookup(keys)).toBe(0);
      const there = [keys[0], keys[1], keys[3]].filter((key) => key !== undefined);
      await Promise.all(store.store(there, filled(3, 1)));
      expect(await store.lookup(keys)).toBe(2);
      expect(await store.lookup(keys.slice(2))).toBe(0);
      expect(await store.lookup(keys.slice(3))).toBe(1);
    });

    test('a value that is not there is a miss, beside others that are', async () => {
      const keys = keysOf(3);
      await Promise.all(store.store([keys[0] ?? '', keys[2] ?? ''], filled(2, 1)));
      expect(await Promise.all(store.load(keys, filled(3, 50)))).toEqual([true, false, true]);
    });

    test('a value of another size is a miss, and the next one is whole', async () => {
      const keys = keysOf(2);
      await Promise.all(store.store(keys, filled(2, 1)));
      const [small] = store.createBuffers(1, 4096);
      const [whole] = filled(1, 50);
      if (small === undefined || whole === undefined) throw new Error('no buffers');
      expect(await Promise.all(store.load(keys, [small, whole]))).toEqual([false, true]);
      expect(Buffer.compare(whole.bytes, new Uint8Array(VALUE_BYTES).fill(2))).toBe(0);
    });

    test('batches may overlap', async () => {
      const [first, second] = [keysOf(3), keysOf(3)];
      const buffers = filled(3, 70);
      await Promise.all([...store.store(first, filled(3, 1)), ...store.store(second, filled(3, 30))]);
      const [found, loaded] = await Promise.all([store.lookup(first), Promise.all(store.load(second, buffers))]);
      expect([found, ...loaded]).toEqual([3, true, true, true]);
      expect(buffers.map(({ bytes }) => bytes[VALUE_BYTES - 1])).toEqual([30, 31, 32]);
    });

    test('the memory of a buffer is where it says', () => {
      const buffers = store.createBuffers(3, 4096);
      expect(new Set(buffers.map(({ address }) => address)).size).toBe(3);
      for (const { bytes, sizeBytes } of buffers) expect([bytes.length, sizeBytes]).toEqual([4096, 4096]);
    });
  });
}
