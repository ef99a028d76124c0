/** What was overwritten, deleted or invalidated stays away: from every tier, over a crash in every window. */
import { describe, expect, it } from 'vitest';
import type { PutTicket } from '#cache/door.ts';
import { KvtierError } from '#core/errors.ts';
import { KiB, MiB } from '#core/bytes.ts';
import type { Selector } from '#core/selector.ts';
import { settle } from '#testsupport/sim-clock.ts';
import { isPayload, payloadOf, SimCache } from '#testsupport/sim-cache.ts';

const chunk = 16 * KiB;
const KEY = 'model-a@00000001@a1b2c3d4e5f60718a1b2c3d4e5f60718';

/** Where v1 is when it is to die. */
const windows: Readonly<Record<string, (sim: SimCache) => Promise<void>>> = {
  'is on SSD and in RAM': async (sim) => {
    await sim.quiet(2000);
  },
  'is on SSD only': async (sim) => {
    await sim.run(sim.cache.control.evict('ram', { all: true }));
  },
  'is in RAM only': () => Promise.resolve(),
  'has a write that has not begun': async (sim) => {
    await sim.clock.advance(1200);
    expect(sim.io.jobs[0]).toMatchObject({ kind: 'write', done: 0 });
  },
  'has a temporary file': async (sim) => {
    await sim.clock.advance(1200);
    for (let steps = 0; steps < 2; steps += 1) sim.io.step(sim.rng);
  },
  'has a file that was renamed a moment ago': async (sim) => {
    await sim.clock.advance(1200);
    for (let steps = 0; steps < 3; steps += 1) sim.io.step(sim.rng);
    expect(sim.chunkFiles()).toHaveLength(1);
    expect(sim.tiersOf(KEY)).toEqual(['ram']);
  },
  'was evicted from SSD and its unlink is under way': async (sim) => {
    await sim.run(sim.cache.control.persist({ all: true }));
    await sim.cache.control.evict('ssd', { all: true });
    expect(sim.io.jobs[0]).toMatchObject({ kind: 'unlink', done: 0 });
  },
  'was evicted from all tiers and its unlink is under way': async (sim) => {
    await sim.run(sim.cache.control.evict('ram', { all: true }));
    await sim.cache.control.evict('ssd', { all: true });
    expect(sim.chunkFiles()).toHaveLength(1);
    expect(sim.peek(KEY)).toBeUndefined();
  },
  'is being read from SSD': async (sim) => {
    await sim.run(sim.cache.control.evict('ram', { all: true }));
    void Promise.resolve(sim.open(KEY)).then((handle) => handle?.release());
    await settle();
    sim.io.step(sim.rng);
  },
  'is in a file that was not adopted yet': async (sim) => {
    await sim.quiet(2000);
    sim.crash();
    sim.catalogDisk.clear();
    await sim.restart();
    expect(sim.peek(KEY)).toBeUndefined();
    expect(sim.chunkFiles()).toHaveLength(1);
  },
};

/** What kills it. Each is acknowledged when it returns. */
const deaths: Readonly<Record<string, (sim: SimCache) => Promise<void>>> = {
  overwritten: async (sim) => {
    const ticket = sim.reserve(KEY, chunk) as PutTicket;
    expect(sim.commit(ticket, payloadOf(2, chunk))).toBe('stored');
    await settle();
  },
  deleted: (sim) => {
    sim.delete(KEY);
    return Promise.resolve();
  },
  'invalidated by key': (sim) => invalidate(sim, { keys: [KEY] }),
  'invalidated by model': (sim) => invalidate(sim, { model: 'model-a' }),
  'invalidated by age of last use': (sim) => invalidate(sim, { olderThan: sim.clock.nowMs() + 1_000_000 }),
  'invalidated as a chain': (sim) => invalidate(sim, { chainFrom: KEY }),
  flushed: (sim) => sim.run(sim.cache.flushAll('resp')),
};

/** Without moving I/O where that can be, so that the window stays open. */
async function invalidate(sim: SimCache, selector: Selector): Promise<void> {
  await sim.run(sim.invalidate(selector));
}

const crashes: Readonly<Record<string, (sim: SimCache) => void>> = {
  'with its catalog': () => {},
  'with a catalog that is behind': (sim) => sim.life.catalog.commit(),
  'without its catalog': (sim) => sim.catalogDisk.clear(),
};

describe.each(Object.entries(windows))('A value that %s', (_name, open) => {
  describe.each(Object.entries(deaths))('and is %s', (death, kill) => {
    it.each(Object.entries(crashes))('does not come back, now or after a crash %s', async (_crash, damage) => {
      const sim = await SimCache.start({ seed: 7 });
      await sim.put(KEY, payloadOf(1, chunk));
      await open(sim);
      await kill(sim);
      const overwritten = death === 'overwritten';
      const now = await sim.get(KEY);
      expect(overwritten ? isPayload(now, 2, chunk) : now === undefined).toBe(true);
      damage(sim);
      sim.crash();
      for (let life = 0; life < 3; life += 1) {
        if (life > 0) damage(sim);
        if (life > 0) sim.crash();
        await sim.restart();
        for (let look = 0; look < 2; look += 1) {
          const after = await sim.get(KEY);
          expect(after === undefined || (overwritten && isPayload(after, 2, chunk))).toBe(true);
          await sim.quiet(3000);
          sim.checkQuiet();
        }
      }
    });
  });
});

describe('An invalidation', () => {
  it('dooms the puts that began before it, and lets live those that began after', async () => {
    const sim = await SimCache.start();
    const before = sim.reserve('a', 100) as PutTicket;
    await sim.run(sim.invalidate({ keyPrefix: 'a' }));
    const after = sim.reserve('a1', 100) as PutTicket;
    expect(sim.commit(before, payloadOf(1, 100))).toBe('dropped');
    expect(sim.commit(after, payloadOf(2, 100))).toBe('stored');
    expect(await sim.get('a')).toBeUndefined();
    expect(isPayload(await sim.get('a1'), 2, 100)).toBe(true);
    sim.checkQuiet();
  });

  it('as a dry run counts and removes nothing', async () => {
    const sim = await SimCache.start();
    await sim.put('a', payloadOf(1, 100));
    await sim.put('b', payloadOf(1, 200));
    expect(await sim.invalidate({ all: true }, true)).toMatchObject({ matchedChunks: 2, removedBytes: 300, dryRun: true });
    expect(sim.cache.chunkCount).toBe(2);
  });

  it('takes a chunk that got a metadata twin, and so a newer number, while the scan had not reached it', async () => {
    const sim = await SimCache.start({ limits: { scanRows: 1 } });
    for (const key of ['a', 'b', 'c']) await sim.put(key, payloadOf(1, chunk));
    await sim.quiet(2000);
    const running = sim.invalidate({ all: true });
    const last = sim.peek('c');
    expect(last).toBeDefined();
    if (last !== undefined) sim.cache.setMetadata(last.ref, payloadOf(9, 20));
    // The file of the newer number exists by then.
    await sim.run(sim.cache.control.persist({ keys: ['c'] }));
    expect(await sim.run(running)).toMatchObject({ matchedChunks: 3 });
    expect(sim.cache.chunkCount).toBe(0);
    sim.crash();
    sim.catalogDisk.clear();
    await sim.restart();
    await sim.drainIo();
    expect(sim.cache.chunkCount).toBe(0);
  });

  it('judges each namespace for itself although its number is given out again during the scan', async () => {
    const sim = await SimCache.start({ limits: { scanRows: 1 } });
    const other = 'model-b@00000001@a1b2c3d4e5f60718a1b2c3d4e5f60718';
    for (const key of [KEY, other]) await sim.put(key, payloadOf(1, chunk));
    await sim.quiet(2000);
    sim.crash();
    // One file is known from the catalog; the other comes with adoption, while the scan stands still.
    const known = [...sim.catalogDisk.chunks.values()].find((row) => row.namespace.model === 'model-a');
    for (const generation of [...sim.catalogDisk.chunks.keys()])
      if (generation !== known?.generation) sim.catalogDisk.chunks.delete(generation);
    await sim.restart();
    await sim.put('filler', payloadOf(3, 100));
    const running = sim.invalidate({ modelPrefix: 'model-' });
    sim.delete(KEY);
    await sim.drainIo();
    await sim.run(running);
    expect(sim.peek(other)).toBeUndefined();
    sim.check();
  });

  it('by what only the index knows waits until every file is known', async () => {
    const sim = await SimCache.start();
    await sim.put(KEY, payloadOf(1, chunk));
    await sim.quiet(2000);
    sim.crash();
    sim.catalogDisk.clear();
    await sim.restart();
    const answer = await sim.run(sim.invalidate({ tier: 'ssd' }));
    expect(answer.matchedChunks).toBe(1);
    expect(await sim.get(KEY)).toBeUndefined();
  });

  it.each(['\ufeffkey', 'key\u0000', 'caf\u00e9', '\ufffd'])('by the key %j judges a file as it judges a chunk', async (key) => {
    const sim = await SimCache.start();
    await sim.put(key, payloadOf(1, chunk));
    await sim.quiet(2000);
    expect(await sim.invalidate({ keys: [key] })).toMatchObject({ matchedChunks: 1 });
    // The process ends before the file is unlinked.
    expect(sim.chunkFiles()).toHaveLength(1);
    sim.crash();
    sim.catalogDisk.clear();
    await sim.restart();
    await sim.drainIo();
    expect(await sim.get(key)).toBeUndefined();
  });

  it('holds although its record is cut off the journal: the folders remember how long it was', async () => {
    const sim = await SimCache.start();
    await sim.put('a', payloadOf(1, chunk));
    await sim.quiet(2000);
    const journal = sim.disk.readFile('/data/journal') as Uint8Array;
    await sim.invalidate({ keys: ['a'] });
    expect(sim.chunkFiles()).toHaveLength(1);
    sim.crash();
    sim.disk.data.plant('/data/journal', journal);
    await sim.restart();
    await sim.drainIo();
    expect(await sim.get('a')).toBeUndefined();
    expect(sim.life.findings[0]).toContain('journal is damaged');
  });

  it('is not acknowledged where the journal cannot be written, and the next one is', async () => {
    const sim = await SimCache.start();
    await sim.put('a', payloadOf(1, chunk));
    await sim.quiet(2000);
    sim.disk.data.failNext('sync', 5, { path: '/data/journal' });
    await expect(sim.run(sim.invalidate({ all: true }))).rejects.toThrow(KvtierError);
    // Housekeeping rewrites a journal that has failed.
    await sim.quiet(3000);
    expect(await sim.run(sim.invalidate({ keys: ['a'] }))).toMatchObject({ dryRun: false });
  });
});

describe('A journal that cannot be written', () => {
  it('refuses deletions and overwrites of what is on SSD and leaves the old value', async () => {
    const sim = await SimCache.start();
    await sim.put('a', payloadOf(1, chunk));
    await sim.quiet(2000);
    sim.disk.data.failNext('append', 28, { path: '/data/journal' });
    expect(() => sim.delete('a')).toThrow(KvtierError);
    expect(isPayload(await sim.get('a'), 1, chunk)).toBe(true);
    sim.disk.data.failNext('append', 28, { path: '/data/journal' });
    expect(await sim.put('a', payloadOf(2, chunk))).toBe('failed');
    expect(isPayload(await sim.get('a'), 1, chunk)).toBe(true);
    expect(await sim.put('a', payloadOf(2, chunk))).toBe('stored');
    await sim.quiet(2000);
    sim.checkQuiet();
  });

  it('owes the record of a lost folder: nothing is put in place of its chunks before it is written', async () => {
    const sim = await SimCache.start({ ssdBytes: [4 * MiB] });
    await sim.put('a', payloadOf(1, chunk));
    await sim.quiet(2000);
    const files = sim.chunkFiles().map((path) => [path, sim.disk.file(path) as Uint8Array] as const);
    for (let times = 0; times < 3; times += 1) sim.disk.data.failNext('append', 5, { path: '/data/journal' });
    sim.disk.move('/ssd0/kv', '/ssd0/away');
    await sim.quiet(2000);
    expect(sim.tier('ssd').state).toBe('off');
    expect(await sim.put('a', payloadOf(2, chunk))).toBe('failed');
    await sim.quiet(6000);
    expect(await sim.put('a', payloadOf(2, chunk))).toBe('stored');
    sim.crash();
    sim.disk.move('/ssd0/away', '/ssd0/kv');
    for (const [path, bytes] of files) sim.disk.put(path, bytes);
    await sim.restart();
    await sim.drainIo();
    expect(await sim.get('a')).toBeUndefined();
  });
});

describe('Two files of one key that nothing declares dead', () => {
  it.each(['with its catalog', 'with a row of the older one only', 'with a row of the newer one only', 'without its catalog'])(
    'are settled for the newer one %s',
    async (which) => {
      const sim = await SimCache.start();
      await sim.put('a', payloadOf(1, chunk));
      await sim.quiet(2000);
      const [older] = sim.chunkFiles() as [string];
      const bytes = sim.disk.file(older) as Uint8Array;
      const journal = sim.disk.readFile('/data/journal') as Uint8Array;
      sim.life.catalog.commit();
      const rows = new Map(sim.catalogDisk.chunks);
      await sim.put('a', payloadOf(2, chunk));
      await sim.quiet(3000);
      sim.life.catalog.commit();
      sim.crash();
      // A power cut between two records of the journal, and before the unlink.
      sim.disk.data.plant('/data/journal', journal);
      sim.disk.put(older, bytes);
      if (which === 'with a row of the older one only' || which === 'without its catalog') sim.catalogDisk.clear();
      for (const [generation, row] of rows)
        if (which === 'with its catalog' || which === 'with a row of the older one only') sim.catalogDisk.chunks.set(generation, row);
      await sim.restart();
      await sim.quiet(2000);
      expect(isPayload(await sim.get('a'), 2, chunk)).toBe(true);
      expect(sim.chunkFiles()).toHaveLength(1);
      await sim.quiet(1000);
      sim.checkQuiet();
    },
  );
});

describe('After its end the cache', () => {
  it('refuses deletions, overwrites and invalidations with SHUTTING_DOWN', async () => {
    const sim = await SimCache.start();
    await sim.put('a', payloadOf(1, chunk));
    await sim.run(sim.cache.close(sim.clock.monotonicMs() + 10_000));
    expect(() => sim.delete('a')).toThrow(expect.objectContaining({ code: 'SHUTTING_DOWN' }));
    await expect(sim.run(sim.invalidate({ all: true }))).rejects.toThrow(expect.objectContaining({ code: 'SHUTTING_DOWN' }));
    await expect(sim.run(sim.invalidate({ tier: 'ram' }))).rejects.toThrow(KvtierError);
  });
});

describe('A metadata twin', () => {
  it('lives and dies with its chunk, over a restart', async () => {
    const sim = await SimCache.start();
    await sim.put('a', payloadOf(1, chunk));
    const found = sim.peek('a');
    if (found !== undefined) sim.cache.setMetadata(found.ref, payloadOf(5, 30));
    await sim.quiet(2000);
    sim.crash();
    sim.catalogDisk.clear();
    await sim.restart();
    await sim.drainIo();
    const again = sim.peek('a');
    expect(again !== undefined && isPayload(sim.cache.metadata(again.ref), 5, 30)).toBe(true);
    await sim.put('a', payloadOf(2, chunk));
    const newer = sim.peek('a');
    expect(newer !== undefined && sim.cache.metadata(newer.ref)).toBeUndefined();
  });

  it.each(['while RAM has the chunk', 'while SSD alone has it'])('that changes %s never comes back in its former form', async (when) => {
    const sim = await SimCache.start();
    await sim.put('a', payloadOf(1, chunk));
    const set = (value: number): void => {
      const found = sim.peek('a');
      if (found !== undefined) sim.cache.setMetadata(found.ref, payloadOf(value, 30));
    };
    set(5);
    await sim.quiet(2000);
    if (when === 'while SSD alone has it') await sim.run(sim.cache.control.evict('ram', { all: true }));
    set(6);
    for (let life = 0; life < 2; life += 1) {
      sim.crash();
      sim.catalogDisk.clear();
      await sim.restart();
      await sim.drainIo();
      const found = sim.peek('a');
      const twin = found === undefined ? undefined : sim.cache.metadata(found.ref);
      expect(twin === undefined || isPayload(twin, 6, 30)).toBe(true);
    }
  });
});
