/** What has expired stays away: from every door, tier and moment, over crashes and over clocks that are set back. */
import { describe, expect, it } from 'vitest';
import type { CommitOptions, PutTicket } from '#cache/door.ts';
import { KiB } from '#core/bytes.ts';
import { KvtierError } from '#core/errors.ts';
import { settle } from '#testsupport/sim-clock.ts';
import { isPayload, payloadOf, SimCache } from '#testsupport/sim-cache.ts';

const chunk = 16 * KiB;
const KEY = 'model-a@00000001@a1b2c3d4e5f60718a1b2c3d4e5f60718';
const TTL = 60_000;
const HOUR = 3_600_000;

const now = (sim: SimCache): number => sim.cache.expiryNowMs();

function put(sim: SimCache, value: number, options: CommitOptions = {}): void {
  expect(sim.commit(sim.reserve(KEY, chunk) as PutTicket, payloadOf(value, chunk), options)).toMatch(/^(stored|duplicate)$/);
}

/** Where the chunk is when its time comes, or when it is given another. */
const windows: Readonly<Record<string, (sim: SimCache) => Promise<void>>> = {
  'in RAM only': () => Promise.resolve(),
  'in RAM and on SSD': (sim) => sim.quiet(2000),
  'on SSD only': async (sim) => {
    await sim.run(sim.cache.control.evict('ram', { all: true }));
  },
  'being written': async (sim) => {
    await sim.clock.advance(1200);
    expect(sim.io.jobs[0]).toMatchObject({ kind: 'write', done: 0 });
    sim.io.step(sim.rng);
  },
  'written, not catalogued': async (sim) => {
    await sim.clock.advance(1200);
    for (let steps = 0; steps < 3; steps += 1) sim.io.step(sim.rng);
    expect(sim.chunkFiles()).toHaveLength(1);
  },
  'in RAM, with the unlink of its file under way': async (sim) => {
    await sim.run(sim.cache.control.persist({ all: true }));
    await sim.cache.control.evict('ssd', { all: true });
    expect(sim.io.jobs[0]).toMatchObject({ kind: 'unlink', done: 0 });
  },
  'being read': async (sim) => {
    await sim.run(sim.cache.control.evict('ram', { all: true }));
    void Promise.resolve(sim.open(KEY)).then((handle) => handle?.release());
    await settle();
    sim.io.step(sim.rng);
  },
  'out of a catalogued file of a former life': async (sim) => {
    await sim.quiet(2000);
    sim.life.catalog.commit();
    sim.crash();
    await sim.restart();
    await sim.quiet(500);
  },
  'out of an adopted file of a former life': async (sim) => {
    await sim.quiet(2000);
    sim.crash();
    sim.catalogDisk.clear();
    await sim.restart();
    await sim.quiet(500);
  },
};

/** How it came by its expiry, which is a minute away when they return. */
const ways: Readonly<Record<string, { readonly before: (sim: SimCache) => void; readonly inside: (sim: SimCache) => void }>> = {
  'with its put': { before: (sim) => put(sim, 1, { expiry: { ttlMs: TTL } }), inside: () => {} },
  'with its put, at a point in time': { before: (sim) => put(sim, 1, { expiry: { atMs: now(sim) + TTL } }), inside: () => {} },
  'by a later command': { before: (sim) => put(sim, 1), inside: (sim) => void sim.expire(KEY, now(sim) + TTL) },
  'by a command that brought it forward': {
    before: (sim) => put(sim, 1, { expiry: { ttlMs: 2 * HOUR } }),
    inside: (sim) => void sim.expire(KEY, now(sim) + TTL),
  },
  'by one that put it off and one that brought it forward': {
    before: (sim) => put(sim, 1, { expiry: { ttlMs: HOUR } }),
    inside: (sim) => {
      sim.expire(KEY, 0);
      sim.expire(KEY, now(sim) + TTL);
    },
  },
  'by one that brought it forward too far and one that put it off': {
    before: (sim) => put(sim, 1),
    inside: (sim) => {
      sim.expire(KEY, now(sim) + 1000);
      sim.expire(KEY, now(sim) + TTL);
    },
  },
  'by the same bytes again': { before: (sim) => put(sim, 1), inside: (sim) => put(sim, 1, { expiry: { ttlMs: TTL } }) },
};

/** Nobody sees it: not by key, not in a list. */
async function expectGone(sim: SimCache): Promise<void> {
  expect(sim.peek(KEY)).toBeUndefined();
  expect(sim.probe(KEY, 1)).toBeUndefined();
  expect(await sim.get(KEY)).toBeUndefined();
  expect(sim.cache.control.lookup([KEY])[0]?.reason).toBe('absent');
  expect(sim.cache.control.chunks({}, { limit: 10 }).chunks).toEqual([]);
  const scanned: unknown[] = [];
  sim.cache.scan(0, { limit: 100 }, (key) => scanned.push(key));
  expect(scanned).toEqual([]);
}

const afterwards = {
  'the process lives on': () => Promise.resolve(),
  'it crashes': async (sim) => {
    sim.crash();
    await sim.restart();
  },
  'it crashes, the catalog is lost': async (sim) => {
    sim.crash();
    sim.catalogDisk.clear();
    await sim.restart();
  },
  'it crashes, the clock is set back': async (sim) => {
    sim.crash();
    sim.clock.wallOffsetMs -= 10 * HOUR;
    await sim.restart();
  },
  'it crashes, the clock is set back and the catalog is lost': async (sim) => {
    sim.crash();
    sim.catalogDisk.clear();
    sim.clock.wallOffsetMs -= 10 * HOUR;
    await sim.restart();
  },
} as const satisfies Record<string, (sim: SimCache) => Promise<void>>;

describe.each(Object.entries(ways))('A chunk that got its expiry %s', (_way, { before, inside }) => {
  describe.each(Object.entries(windows))('while it was %s', (_window, reach) => {
    it.each(Object.entries(afterwards))('lives until then and is gone for good, where %s', async (_after, happens) => {
      const sim = await SimCache.start({});
      before(sim);
      const start = now(sim);
      await reach(sim);
      inside(sim);
      const at = sim.expiresAt(KEY) ?? 0;
      expect(at).toBeGreaterThanOrEqual(start + TTL);
      await sim.clock.advance(at - now(sim) - 1);
      expect(isPayload(await sim.get(KEY), 1, chunk)).toBe(true);
      await sim.clock.advance(1);
      expect(await sim.get(KEY)).toBeUndefined();
      await happens(sim);
      await expectGone(sim);
      await sim.quiet(1000);
      await expectGone(sim);
      sim.checkQuiet();
      expect(sim.chunkFiles()).toEqual([]);
    });

    it('is not served by a process that starts after its time', async () => {
      const sim = await SimCache.start({});
      before(sim);
      await reach(sim);
      inside(sim);
      const at = sim.expiresAt(KEY) ?? 0;
      sim.crash();
      sim.clock.wallOffsetMs += at - sim.clock.nowMs();
      await sim.restart();
      await expectGone(sim);
      await sim.quiet(1000);
      await expectGone(sim);
      expect(sim.chunkFiles()).toEqual([]);
    });

    it('is served after a restart before its time with the same expiry, where its file is whole', async () => {
      const sim = await SimCache.start({});
      before(sim);
      await reach(sim);
      inside(sim);
      const at = sim.expiresAt(KEY);
      await sim.quiet(3000);
      await sim.run(sim.cache.control.persist({ all: true }));
      for (const lost of [false, true]) {
        sim.life.catalog.commit();
        sim.crash();
        if (lost) sim.catalogDisk.clear();
        await sim.restart();
        await sim.quiet(500);
        expect(sim.expiresAt(KEY)).toBe(at);
        expect(isPayload(await sim.get(KEY), 1, chunk)).toBe(true);
      }
    });
  });
});

describe('An expiry', () => {
  it('is taken away by a put without one, also of the same bytes, and kept where the put says so', async () => {
    const sim = await SimCache.start({});
    put(sim, 1, { expiry: { ttlMs: TTL } });
    put(sim, 1);
    expect(sim.expiresAt(KEY)).toBe(0);
    put(sim, 1, { expiry: { ttlMs: TTL } });
    put(sim, 2);
    expect(sim.expiresAt(KEY)).toBe(0);
    const at = now(sim) + TTL;
    put(sim, 3, { expiry: { atMs: at } });
    await sim.clock.advance(1000);
    put(sim, 4, { expiry: 'keep' });
    expect(sim.expiresAt(KEY)).toBe(at);
    put(sim, 4, { expiry: 'keep' });
    expect(sim.expiresAt(KEY)).toBe(at);
    sim.delete(KEY);
    put(sim, 5, { expiry: 'keep' });
    expect(sim.expiresAt(KEY)).toBe(0);
  });

  it('that is over makes a put find nothing: NX stores, XX does not', async () => {
    const sim = await SimCache.start({});
    put(sim, 1, { expiry: { ttlMs: 100 } });
    await sim.clock.advance(100);
    const refused = sim.commit(sim.reserve(KEY, chunk) as PutTicket, payloadOf(2, chunk), { onlyIf: 'present' });
    expect(refused).toBe('condition');
    expect(await sim.put(KEY, payloadOf(3, chunk), { onlyIf: 'absent' })).toBe('stored');
    expect(sim.expiresAt(KEY)).toBe(0);
  });

  it('in the past stores nothing that anybody sees, and takes the old value away', async () => {
    const sim = await SimCache.start({});
    put(sim, 1);
    await sim.run(sim.cache.control.persist({ all: true }));
    put(sim, 2, { expiry: { atMs: now(sim) - 1 } });
    await expectGone(sim);
    sim.crash();
    sim.clock.wallOffsetMs -= HOUR;
    await sim.restart();
    await sim.quiet(500);
    await expectGone(sim);
  });

  it('set to a time that has passed deletes, durably', async () => {
    const sim = await SimCache.start({});
    put(sim, 1);
    await sim.run(sim.cache.control.persist({ all: true }));
    expect(sim.expire(KEY, now(sim))).toBe(true);
    sim.crash();
    sim.clock.wallOffsetMs -= HOUR;
    await sim.restart();
    await sim.quiet(500);
    await expectGone(sim);
  });

  it('ends a lease and a promise, but not a read that holds the bytes', async () => {
    const sim = await SimCache.start({});
    put(sim, 1, { expiry: { ttlMs: 1000 } });
    const handle = await sim.open(KEY);
    expect(sim.probe(KEY, 1)).toBeDefined();
    await sim.clock.advance(1000);
    await expectGone(sim);
    expect(sim.cache.holdings().leases).toBe(0);
    expect(isPayload(handle?.view(), 1, chunk)).toBe(true);
    handle?.release();
    sim.check();
  });

  it('that comes during a read from SSD makes it a miss, for who waits and for read-ahead', async () => {
    for (const how of ['open', 'probe'] as const) {
      const sim = await SimCache.start({});
      put(sim, 1, { expiry: { ttlMs: 5000 } });
      await sim.run(sim.cache.control.evict('ram', { all: true }));
      const opened = how === 'open' ? sim.open(KEY) : void sim.probe(KEY, 1);
      await settle();
      // Nothing looks at the key in between: what the read brings is what is asked about.
      sim.clock.wallOffsetMs += 10_000;
      await sim.drainIo();
      expect(await opened).toBeUndefined();
      expect(sim.tier('ram').chunkCount).toBe(0);
      await expectGone(sim);
    }
  });

  it('that comes while a put brings the chunk to RAM during a read makes that read a miss', async () => {
    const sim = await SimCache.start({});
    put(sim, 1, { expiry: { ttlMs: 5000 } });
    await sim.run(sim.cache.control.evict('ram', { all: true }));
    const opened = sim.open(KEY);
    await settle();
    put(sim, 1, { expiry: 'keep' });
    sim.clock.wallOffsetMs += 10_000;
    await sim.drainIo();
    expect(await opened).toBeUndefined();
    await expectGone(sim);
  });

  it('hides the chunk from lists before anybody has asked for it by its key, and the sweep has come', async () => {
    const sim = await SimCache.start({});
    put(sim, 1, { expiry: { ttlMs: 5000 } });
    const id = sim.cache.control.chunks({}, { limit: 10 }).chunks[0]?.id ?? '';
    sim.clock.wallOffsetMs += 5000;
    const scanned: unknown[] = [];
    sim.cache.scan(0, { limit: 100 }, (key) => scanned.push(key));
    expect(scanned).toEqual([]);
    expect(sim.cache.control.chunks({}, { limit: 10 }).chunks).toEqual([]);
    expect(sim.cache.control.chunk(id)).toBeUndefined();
    expect(sim.cache.chunkCount).toBe(1);
    await expectGone(sim);
  });

  it('is not put off by a wall clock that is set back, nor brought back by it, and is brought by one that is set forward', async () => {
    const sim = await SimCache.start({});
    put(sim, 1, { expiry: { ttlMs: 1000 } });
    sim.clock.wallOffsetMs -= HOUR;
    put(sim, 1, { expiry: 'keep' });
    await sim.clock.advance(999);
    expect(sim.peek(KEY)).toBeDefined();
    await sim.clock.advance(1);
    expect(sim.peek(KEY)).toBeUndefined();
    put(sim, 2, { expiry: { ttlMs: 1000 } });
    await sim.clock.advance(999);
    expect(sim.peek(KEY)).toBeDefined();
    await sim.clock.advance(1);
    expect(sim.peek(KEY)).toBeUndefined();
    put(sim, 3, { expiry: { ttlMs: TTL } });
    sim.clock.wallOffsetMs += 2 * HOUR;
    expect(sim.peek(KEY)).toBeUndefined();
  });

  it('is remembered by a clock that is at most a minute behind where nothing has expired yet', async () => {
    const sim = await SimCache.start({});
    put(sim, 1, { expiry: { ttlMs: HOUR } });
    await sim.quiet(30 * TTL, 1000);
    const at = now(sim);
    sim.crash();
    sim.clock.wallOffsetMs -= 10 * HOUR;
    await sim.restart();
    expect(now(sim)).toBeGreaterThan(at - TTL - 1000);
  });

  it('that the sweep has found is over although the clock is set back over a crash', async () => {
    for (const lost of [false, true]) {
      const sim = await SimCache.start({});
      put(sim, 1, { expiry: { ttlMs: TTL } });
      await sim.run(sim.cache.control.persist({ all: true }));
      sim.life.catalog.commit();
      await sim.clock.advance(TTL - (now(sim) % 1) - 10_000);
      await sim.clock.advance(10_500);
      expect(sim.cache.chunkCount).toBe(0);
      expect(sim.chunkFiles()).toHaveLength(1);
      sim.crash();
      if (lost) sim.catalogDisk.clear();
      sim.clock.wallOffsetMs -= HOUR;
      await sim.restart();
      await expectGone(sim);
      await sim.quiet(500);
      await expectGone(sim);
    }
  });

  it('that a start has found to be over stays so, although the clock is set back before its file is gone', async () => {
    for (const lost of [false, true]) {
      const sim = await SimCache.start({});
      put(sim, 1, { expiry: { ttlMs: TTL } });
      await sim.run(sim.cache.control.persist({ all: true }));
      sim.life.catalog.commit();
      sim.crash();
      if (lost) sim.catalogDisk.clear();
      sim.clock.wallOffsetMs += TTL;
      await sim.restart();
      for (let steps = 0; sim.cache.control.stats().expiredChunks === 0; steps += 1) {
        expect(steps).toBeLessThan(10);
        await sim.step();
      }
      expect(sim.chunkFiles()).toHaveLength(1);
      sim.crash();
      sim.clock.wallOffsetMs -= HOUR;
      await sim.restart();
      await sim.quiet(500);
      await expectGone(sim);
    }
  });

  it('that was brought forward holds over a rewritten journal', async () => {
    const sim = await SimCache.start({});
    put(sim, 1);
    await sim.run(sim.cache.control.persist({ all: true }));
    await sim.quiet(1000);
    const at = now(sim) + TTL;
    sim.expire(KEY, at);
    // A journal whose sync fails is rewritten with what is still needed.
    sim.disk.data.failNext('sync', 5, { path: '/data/journal' });
    await expect(sim.run(sim.invalidate({ keys: ['other'] }))).rejects.toThrow(KvtierError);
    await sim.quiet(3000);
    await sim.run(sim.invalidate({ keys: ['another'] }));
    sim.crash();
    sim.catalogDisk.clear();
    await sim.restart();
    await sim.quiet(500);
    expect(sim.expiresAt(KEY)).toBe(at);
  });

  it('that was brought forward and put off again is not shorter than it was over a crash, nor longer than it is', async () => {
    const sim = await SimCache.start({});
    put(sim, 1, { expiry: { ttlMs: HOUR } });
    await sim.run(sim.cache.control.persist({ all: true }));
    const at = sim.expiresAt(KEY) ?? 0;
    sim.expire(KEY, at + HOUR);
    for (const lost of [false, true]) {
      sim.life.catalog.commit();
      sim.crash();
      if (lost) sim.catalogDisk.clear();
      await sim.restart();
      await sim.quiet(500);
      // The catalog had it; without the catalog it is what the file says.
      expect(sim.expiresAt(KEY)).toBe(lost ? at : at + HOUR);
    }
  });

  it('goes along where the chunk gets another generation', async () => {
    const sim = await SimCache.start({});
    put(sim, 1);
    await sim.run(sim.cache.control.persist({ all: true }));
    const at = now(sim) + TTL;
    sim.expire(KEY, at);
    const found = sim.peek(KEY);
    expect(found !== undefined && sim.cache.setMetadata(found.ref, new Uint8Array([1]))).toBe(true);
    expect(sim.expiresAt(KEY)).toBe(at);
    await sim.run(sim.cache.control.persist({ all: true }));
    sim.crash();
    sim.catalogDisk.clear();
    await sim.restart();
    await sim.quiet(500);
    expect(sim.expiresAt(KEY)).toBe(at);
  });

  it('of a hard-pinned chunk comes all the same, and ends the pin', async () => {
    const sim = await SimCache.start({});
    put(sim, 1, { expiry: { ttlMs: TTL } });
    await sim.run(sim.cache.control.persist({ all: true }));
    await sim.run(sim.cache.control.pin({ keys: [KEY] }, 'hard'));
    await sim.clock.advance(TTL);
    await expectGone(sim);
    await sim.quiet(1000);
    put(sim, 2);
    expect(sim.cache.control.chunks({}, { limit: 1 }).chunks[0]?.pinned).toBeUndefined();
    sim.checkQuiet();
  });

  it('is refused where the journal cannot be written, and then nothing has changed', async () => {
    const sim = await SimCache.start({});
    put(sim, 1, { expiry: { ttlMs: HOUR } });
    const at = sim.expiresAt(KEY) ?? 0;
    sim.disk.data.failNext('append', 28, { path: '/data/journal' });
    expect(() => sim.expire(KEY, now(sim) + 1000)).toThrow(KvtierError);
    expect(sim.expiresAt(KEY)).toBe(at);
    sim.disk.data.failNext('append', 28, { path: '/data/journal' });
    expect(await sim.put(KEY, payloadOf(1, chunk), { expiry: { ttlMs: 1000 } })).toBe('failed');
    expect(sim.expiresAt(KEY)).toBe(at);
    // Putting it off needs no journal.
    sim.disk.data.failNext('append', 28, { path: '/data/journal' });
    expect(sim.expire(KEY, at + 1)).toBe(true);
  });

  it('counts a chunk once that a start finds over in RAM and on SSD', async () => {
    const sim = await SimCache.start({ keep: true });
    put(sim, 1, { expiry: { ttlMs: TTL } });
    await sim.run(sim.cache.control.persist({ all: true }));
    sim.life.catalog.commit();
    sim.crash();
    sim.clock.wallOffsetMs += TTL;
    await sim.restart();
    await sim.quiet(500);
    await expectGone(sim);
    expect(sim.cache.control.stats().expiredChunks).toBe(1);
  });

  it('takes the room back by itself, a million chunks in slices, and says how many', async () => {
    const sim = await SimCache.start({ ramBytes: 4 * 1024 * KiB, admission: 'off', ssdBytes: [] });
    for (let index = 0; index < 2000; index += 1) {
      const expiry = { ttlMs: 1000 + (index % 3) * 500 };
      expect(await sim.put(`k${index}`, payloadOf(index, 16), index % 4 === 0 ? {} : { expiry })).toBe('stored');
    }
    expect(sim.cache.expiringCount).toBe(1500);
    await sim.clock.advance(1250);
    expect(sim.cache.expiringCount).toBe(1000);
    await sim.clock.advance(1250);
    expect(sim.cache.expiringCount).toBe(0);
    expect(sim.cache.chunkCount).toBe(500);
    expect(sim.cache.control.stats().expiredChunks).toBe(1500);
    sim.check();
  });
});
