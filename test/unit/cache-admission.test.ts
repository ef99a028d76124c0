/** What is written to SSD, and when; what operators order. */
import { describe, expect, it } from 'vitest';
import { KiB, MiB } from '#core/bytes.ts';
import { isPayload, payloadOf, SimCache } from '#testsupport/sim-cache.ts';

const chunk = 64 * KiB;

async function store(sim: SimCache, count: number, from = 0): Promise<void> {
  for (let index = from; index < from + count; index += 1) await sim.put(`k${index}`, payloadOf(index, chunk));
}

describe('Store admission', () => {
  it('`idle` writes a chunk once it has been in RAM for a while, in the order of the puts', async () => {
    const sim = await SimCache.start({ limits: { ssdIdleAfterMs: 1000, writesAtOnce: 1 } });
    await store(sim, 3);
    await sim.clock.advance(900);
    expect(sim.io.jobs).toEqual([]);
    await sim.clock.advance(200);
    const order: string[] = [];
    for (let job = sim.io.jobs[0]; job !== undefined; job = sim.io.jobs[0]) {
      if (!order.includes(job.path)) order.push(job.path);
      await sim.step();
    }
    expect(order).toEqual(order.toSorted((a, b) => (a.slice(-19) < b.slice(-19) ? -1 : 1)));
    expect(order).toHaveLength(3);
    expect(sim.tier('ram').dirtyBytes).toBe(0);
  });

  it('`idle` waits while a demand read waits', async () => {
    const sim = await SimCache.start();
    await sim.put('old', payloadOf(1, chunk));
    await sim.run(sim.cache.control.evict('ram', { all: true }));
    await store(sim, 2);
    void Promise.resolve(sim.open('old')).then((handle) => handle?.release());
    await sim.clock.advance(3000);
    expect(sim.io.jobs.map((job) => job.kind)).toEqual(['read']);
    await sim.quiet(1000);
    expect(sim.tier('ram').dirtyBytes).toBe(0);
  });

  it('`idle` does not wait where half of RAM is dirty', async () => {
    const sim = await SimCache.start({ ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB, limits: { ssdIdleAfterMs: 1e9 } });
    await store(sim, 15);
    await sim.quiet(1000);
    expect(sim.tier('ram').dirtyBytes).toBeLessThanOrEqual(512 * KiB);
    expect(sim.tier('ram').dirtyBytes).toBeGreaterThan(256 * KiB);
  });

  it('`demote` writes the coldest where RAM is nearly full of dirty chunks, and nothing before', async () => {
    const sim = await SimCache.start({ ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB, admission: 'demote' });
    await store(sim, 8);
    await sim.quiet(60_000, 1000);
    expect(sim.io.finished.write).toBe(0);
    await store(sim, 8, 8);
    await sim.quiet(2000);
    expect(sim.io.finished.write).toBeGreaterThan(0);
    expect(sim.tiersOf('k0')).toEqual(['ram', 'ssd']);
    expect(sim.tiersOf('k15')).toEqual(['ram']);
  });

  it('`through` writes at once, and sheds what is beyond its queue', async () => {
    const sim = await SimCache.start({ admission: 'through', limits: { ssdQueueBytes: 4 * chunk } });
    await store(sim, 1);
    expect(sim.io.jobs.map((job) => job.kind)).toEqual(['write']);
    await store(sim, 9, 1);
    expect(sim.cache.control.stats().storeAdmission.shedChunks).toBeGreaterThan(0);
    await sim.quiet(1000);
    expect(sim.io.finished.write).toBeLessThan(10);
    sim.checkQuiet();
  });

  it('`off` writes nothing, and drops without waiting', async () => {
    const sim = await SimCache.start({ ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB, admission: 'off' });
    await store(sim, 40);
    await sim.quiet(5000);
    expect(sim.io.finished.write).toBe(0);
    expect(sim.cache.control.stats().rejectedPuts.shed).toBe(0);
  });

  it('keeps to its write budget', async () => {
    const sim = await SimCache.start({ limits: { ssdWriteBytesPerSecond: 2 * chunk, ssdIdleAfterMs: 0 } });
    await store(sim, 20);
    await sim.quiet(4000);
    const written = sim.cache.control.stats().io.writtenBytes;
    expect(written).toBeGreaterThanOrEqual(4 * chunk);
    expect(written).toBeLessThanOrEqual(12 * chunk);
  });

  it('spreads chunks over folders by the room they have', async () => {
    const sim = await SimCache.start({ ssdBytes: [40 * (chunk + 4 * KiB), 20 * (chunk + 4 * KiB)] });
    await store(sim, 30);
    await sim.quiet(3000);
    expect(sim.tier('ssd').folders?.map((folder) => folder.chunkCount)).toEqual([25, 5]);
    expect(sim.cache.control.stats().evictions.ssd).toBe(0);
  });

  it('holds no more queue records than twice the chunks and some', async () => {
    const sim = await SimCache.start({ limits: { ssdIdleAfterMs: 1e9 }, ramBytes: 16 * MiB });
    await sim.put('hot', payloadOf(1, 100));
    for (let round = 0; round < 20_000; round += 1) await sim.put('cold', payloadOf(round, 8));
    sim.check();
    expect(sim.cache.chunkCount).toBe(2);
    await sim.run(sim.cache.control.persist({ all: true }));
    expect(sim.tier('ram').dirtyBytes).toBe(0);
  });
});

describe('O_DIRECT', () => {
  it('that is refused is reported in the log and in the reasons of the tier', async () => {
    const sim = await SimCache.start();
    sim.io.direct = false;
    await store(sim, 2);
    await sim.quiet(3000);
    expect(sim.tier('ssd').reasons).toEqual(['/ssd0/kv: no O_DIRECT here, reads and writes go through the page cache']);
    expect(sim.log.filter((line) => line.includes('O_DIRECT'))).toHaveLength(1);
    expect(isPayload(await sim.get('k0'), 0, chunk)).toBe(true);
  });
});

describe('Orders of an operator', () => {
  it('persist answers when what matched is on SSD', async () => {
    const sim = await SimCache.start({ admission: 'demote' });
    await store(sim, 5);
    const answer = await sim.run(sim.cache.control.persist({ keys: ['k1', 'k2'] }));
    expect(answer).toEqual({ persisted: 2, alreadyOnSsd: 0, failed: 0, bytes: 2 * chunk });
    expect(await sim.run(sim.cache.control.persist({ all: true }))).toEqual({ persisted: 3, alreadyOnSsd: 2, failed: 0, bytes: 3 * chunk });
    sim.crash();
    await sim.restart();
    await sim.drainIo();
    expect(sim.cache.chunkCount).toBe(5);
  });

  it('evict from RAM forgets nothing that SSD can take', async () => {
    const sim = await SimCache.start();
    await store(sim, 5);
    expect(await sim.run(sim.cache.control.evict('ram', { all: true }))).toMatchObject({ evicted: 5, skipped: 0 });
    expect(sim.tier('ram').chunkCount).toBe(0);
    for (let index = 0; index < 5; index += 1) expect(isPayload(await sim.get(`k${index}`), index, chunk)).toBe(true);
  });

  it('evict spares what is leased or read', async () => {
    const sim = await SimCache.start();
    await store(sim, 2);
    sim.probe('k0', 1);
    const handle = sim.open('k1');
    expect(await sim.run(sim.cache.control.evict('ram', { all: true }))).toMatchObject({ evicted: 0, skipped: 2 });
    if (handle !== undefined && !(handle instanceof Promise)) handle.release();
    sim.check();
  });

  it('prefetch brings chunks to RAM and says of each what became of it', async () => {
    const sim = await SimCache.start();
    await store(sim, 2);
    await sim.run(sim.cache.control.evict('ram', { keys: ['k0'] }));
    expect(await sim.run(sim.cache.control.prefetch(['k0', 'k1', 'k2']))).toEqual({ promoted: 1, alreadyInRam: 1, missing: 1, refused: 0 });
    expect(sim.tiersOf('k0')).toEqual(['ram', 'ssd']);
  });

  it('verify reads every file, sets wrong ones aside and keeps the good copy that RAM has', async () => {
    const sim = await SimCache.start();
    await store(sim, 3);
    await sim.quiet(3000);
    const [first, second] = sim.chunkFiles() as [string, string];
    const bytes = (sim.disk.file(first) as Uint8Array).slice();
    bytes[6000] = (bytes[6000] as number) ^ 4;
    sim.disk.put(first, bytes);
    sim.disk.unlink(second);
    const run = async (): Promise<unknown> => {
      let last: unknown;
      for await (const step of sim.cache.control.verify()) last = step;
      return last;
    };
    expect(await sim.run(run())).toMatchObject({ checkedFiles: 3, totalFiles: 3, done: true, mismatches: [{}, {}] });
    await sim.quiet(3000);
    expect(await sim.run(run())).toMatchObject({ checkedFiles: 3, mismatches: [] });
    for (let index = 0; index < 3; index += 1) expect(isPayload(await sim.get(`k${index}`), index, chunk)).toBe(true);
    sim.checkQuiet();
  });

  it('an epoch invalidates the model, counts up, and is known after a restart', async () => {
    const sim = await SimCache.start();
    const key = 'model-a@00000001@a1b2c3d4e5f60718a1b2c3d4e5f60718';
    await sim.put(key, payloadOf(1, chunk));
    const options = { reason: 'weights', actor: 'admin' };
    const both = await sim.run(
      Promise.all([sim.cache.control.bumpEpoch('model-a', options), sim.cache.control.bumpEpoch('model-a', options)]),
    );
    expect(both.map((answer) => answer.epoch).toSorted((a, b) => a - b)).toEqual([1, 2]);
    expect(await sim.get(key)).toBeUndefined();
    sim.crash();
    await sim.restart();
    expect(sim.cache.control.epochs()).toEqual([{ model: 'model-a', epoch: 2 }]);
  });
});
