/** What every CatalogStore promises. Run against SimCatalogStore and against the one on SQLite. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { CatalogStore } from '#ports/catalog-store.ts';
import { llama, makeChunk, makeInvalidation, opaque, readAll } from './catalog-fixtures.ts';

export interface CatalogUnderTest {
  /** A new process on the same disk. */
  readonly make: () => CatalogStore;
  readonly dispose: () => void | Promise<void>;
}

export function describeCatalogStore(name: string, begin: () => CatalogUnderTest): void {
  describe(`${name} as CatalogStore`, () => {
    let under: CatalogUnderTest;
    let store: CatalogStore;
    beforeEach(async () => {
      under = begin();
      store = under.make();
      expect(await readAll(await store.open())).toEqual([]);
    });
    afterEach(async () => {
      await store.close();
      await under.dispose();
    });
    const reopen = async (): Promise<ReturnType<typeof readAll>> => {
      await store.close();
      store = under.make();
      return readAll(await store.open());
    };

    test('gives back chunks on SSD as they were put, coldest first', async () => {
      const chunks = [
        makeChunk(1, { key: new TextEncoder().encode('a schlüssel 鍵 🔑'), lastUsedAtMs: 30, checksum: 2n ** 64n - 1n, sizeBytes: 0 }),
        makeChunk(2, { lastUsedAtMs: 10, key: new Uint8Array([0xff, 0, 1]), redisMetadata: new Uint8Array(), namespace: opaque }),
        makeChunk(3, {
          lastUsedAtMs: 20,
          key: new Uint8Array(),
          redisMetadata: new Uint8Array([0, 255]),
          parentGeneration: 1,
          tokenCount: undefined,
          lmBlock: { fmt: 1, dtype: 3, shape: [2, 32, 256, -(2 ** 31)] },
        }),
        makeChunk(2 ** 52, { lastUsedAtMs: 40, namespace: { ...llama, tags: { 'lmcache.tag.b': '1', a: 'ü' }, keyTail: '@t' } }),
      ];
      for (const chunk of chunks) store.enqueue({ kind: 'put', chunk });
      expect(await reopen()).toEqual([chunks[1], chunks[2], chunks[0], chunks[3]]);
    });

    test('takes a signed checksum for the unsigned one', async () => {
      store.enqueue({ kind: 'put', chunk: makeChunk(1, { checksum: -1n }) });
      expect((await reopen()).map((chunk) => BigInt.asUintN(64, chunk.checksum))).toEqual([2n ** 64n - 1n]);
    });

    test('forgets at a start what only the RAM of the former process had', async () => {
      store.enqueue({ kind: 'put', chunk: makeChunk(1, { replicas: [{ tier: 'ram', folder: '', dirty: true }] }) });
      const both = [
        { tier: 'ram', folder: '', dirty: false },
        { tier: 'ssd', folder: 'a1', dirty: false },
      ] as const;
      store.enqueue({ kind: 'put', chunk: makeChunk(2, { replicas: both }) });
      expect(await reopen()).toEqual([makeChunk(2)]);
      expect(await reopen()).toEqual([makeChunk(2)]);
    });

    test('gives back every SSD folder that has a chunk', async () => {
      const replicas = ['a1', 'b2'].map((folder) => ({ tier: 'ssd' as const, folder, dirty: false }));
      store.enqueue({ kind: 'put', chunk: makeChunk(1, { replicas }) });
      expect((await reopen())[0]?.replicas).toEqual(replicas);
    });

    test('follows changes of an expiry, also back to none', async () => {
      store.enqueue({ kind: 'put', chunk: makeChunk(1, { expiresAtMs: 0 }) });
      await store.flush();
      store.enqueue({ kind: 'expiry', generation: 1, expiresAtMs: 1_800_000_000_001 });
      expect(await reopen()).toEqual([makeChunk(1, { expiresAtMs: 1_800_000_000_001 })]);
      store.enqueue({ kind: 'expiry', generation: 1, expiresAtMs: 0 });
      expect(await reopen()).toEqual([makeChunk(1, { expiresAtMs: 0 })]);
    });

    test('follows changes of replicas, use and parent', async () => {
      store.enqueue({ kind: 'put', chunk: makeChunk(1, { replicas: [{ tier: 'ram', folder: '', dirty: true }] }) });
      await store.flush();
      store.enqueue({ kind: 'replicas', generation: 1, replicas: [{ tier: 'ssd', folder: 'c3', dirty: false }] });
      store.enqueue({ kind: 'touch', generation: 1, lastUsedAtMs: 99, hitCount: 7 });
      store.enqueue({ kind: 'parent', generation: 1, parentGeneration: 5 });
      const wanted = {
        lastUsedAtMs: 99,
        hitCount: 7,
        parentGeneration: 5,
        replicas: [{ tier: 'ssd', folder: 'c3', dirty: false }],
      } as const;
      expect(await reopen()).toEqual([makeChunk(1, wanted)]);
      store.enqueue({ kind: 'parent', generation: 1, parentGeneration: undefined });
      expect((await reopen())[0]?.parentGeneration).toBeUndefined();
    });

    test('removes, and knows nothing of what comes for a chunk afterwards', async () => {
      store.enqueue({ kind: 'put', chunk: makeChunk(1) });
      store.enqueue({ kind: 'put', chunk: makeChunk(2) });
      await store.flush();
      store.enqueue({ kind: 'remove', generation: 1 });
      store.enqueue({ kind: 'touch', generation: 1, lastUsedAtMs: 1, hitCount: 1 });
      store.enqueue({ kind: 'replicas', generation: 1, replicas: [{ tier: 'ssd', folder: 'a1', dirty: false }] });
      await store.flush();
      store.enqueue({ kind: 'replicas', generation: 1, replicas: [{ tier: 'ssd', folder: 'a1', dirty: false }] });
      store.enqueue({ kind: 'parent', generation: 1, parentGeneration: 2 });
      expect(await reopen()).toEqual([makeChunk(2)]);
    });

    test('does not mind changes for chunks that it never heard of', async () => {
      store.enqueue({ kind: 'remove', generation: 77 });
      store.enqueue({ kind: 'touch', generation: 78, lastUsedAtMs: 1, hitCount: 1 });
      store.enqueue({ kind: 'replicas', generation: 79, replicas: [{ tier: 'ssd', folder: 'a1', dirty: false }] });
      expect(await reopen()).toEqual([]);
    });

    test('resolves flush when everything before it is committed', async () => {
      for (let generation = 1; generation <= 50; generation += 1) store.enqueue({ kind: 'put', chunk: makeChunk(generation) });
      store.enqueue({ kind: 'touch', generation: 1, lastUsedAtMs: 5, hitCount: 3 });
      await store.flush();
      expect(store.stats()).toMatchObject({ state: 'ok', reason: '', queuedChanges: 0, droppedChanges: 0 });
    });

    test('lists invalidations from the newest, page by page, also those not yet written', async () => {
      for (let generation = 1; generation <= 7; generation += 1) {
        store.enqueue({
          kind: 'invalidation',
          invalidation: makeInvalidation(generation, { selector: { keys: [`k${generation}`], olderThan: 1.5 } }),
        });
        if (generation === 4) await store.flush();
      }
      const seen: number[] = [];
      let beforeId: string | undefined;
      for (;;) {
        const page = await store.listInvalidations({ limit: 2, ...(beforeId === undefined ? {} : { beforeId }) });
        seen.push(...page.map((row) => row.generation));
        beforeId = page.at(-1)?.id;
        if (page.length < 2) break;
      }
      expect(seen).toEqual([7, 6, 5, 4, 3, 2, 1]);
      await store.flush();
      expect(await store.listInvalidations({ limit: 1, beforeId: 'inv-000003' })).toEqual([
        makeInvalidation(2, { selector: { keys: ['k2'], olderThan: 1.5 } }),
      ]);
      expect(await store.listInvalidations({ limit: 5, beforeId: 'unknown' })).toEqual([]);
    });

    test('keeps the audit log over a restart', async () => {
      store.enqueue({ kind: 'invalidation', invalidation: makeInvalidation(3) });
      await reopen();
      expect(await store.listInvalidations({ limit: 10 })).toEqual([makeInvalidation(3)]);
    });

    test('says off before and after, drops what comes then, and closes twice without complaint', async () => {
      const other = under.make();
      expect(other.stats().state).toBe('off');
      await store.close();
      await store.close();
      store.enqueue({ kind: 'put', chunk: makeChunk(1) });
      expect(store.stats()).toMatchObject({ state: 'off', droppedChanges: 1 });
    });
  });
}
