/** What HBM promises, one thing at a time: leases, strays, wrong bytes, exports, lost devices. The property tests mix them. */
import { describe, expect, it } from 'vitest';
import { KiB } from '#core/bytes.ts';
import { drainIterable } from '#testsupport/cache-mischief.ts';
import { isPayload, payloadOf, SimCache } from '#testsupport/sim-cache.ts';
import type { SimCacheOptions } from '#testsupport/sim-cache.ts';

const SIZE = 16 * KiB;
const KEY = 'opaque-0';

/** A cache with one chunk in HBM, beside what it has elsewhere. */
async function withChunkInHbm(options: SimCacheOptions = {}): Promise<SimCache> {
  const sim = await SimCache.start({ ramBytes: 256 * KiB, hbmBytes: [256 * KiB], hbmPieceBytes: 128 * KiB, ...options });
  await sim.put(KEY, payloadOf(0, SIZE));
  expect(await sim.run(sim.cache.control.prefetch([KEY], { tier: 'hbm' }))).toMatchObject({ promoted: 1 });
  return sim;
}

/** Other chunks fill RAM until it has given the first one up. */
async function pushOutOfRam(sim: SimCache): Promise<void> {
  for (let id = 1; sim.tiersOf(KEY).includes('ram'); id += 1) await sim.put(`opaque-${id}`, payloadOf(id, SIZE));
}

/** A chunk that only HBM has, since its file was lost; SSD may take it again. */
async function withStray(): Promise<SimCache> {
  const sim = await withChunkInHbm();
  await sim.quiet(5000, 500);
  await sim.run(sim.cache.control.evict('ram', { keys: [KEY] }));
  for (const path of sim.chunkFiles()) sim.disk.unlink(path);
  await sim.run(drainIterable(sim.cache.control.verify()));
  expect(sim.tiersOf(KEY)).toEqual(['hbm']);
  expect(sim.tier('hbm').dirtyBytes).toBe(SIZE);
  return sim;
}

describe('Cache with HBM', () => {
  it('copies a chunk to HBM at its second hit within the window, and not before', async () => {
    const sim = await SimCache.start({ hbmBytes: [256 * KiB] });
    await sim.put(KEY, payloadOf(0, SIZE));
    await sim.get(KEY);
    await sim.drainIo();
    expect(sim.tiersOf(KEY)).toEqual(['ram']);
    await sim.clock.advance(700_000);
    await sim.get(KEY);
    await sim.drainIo();
    expect(sim.tiersOf(KEY)).not.toContain('hbm');
    await sim.get(KEY);
    await sim.drainIo();
    expect(sim.tiersOf(KEY)[0]).toBe('hbm');
  });

  it('writes what RAM gave up and SSD may take, so that kill -9 costs nothing', async () => {
    const sim = await withStray();
    await sim.quiet(5000, 500);
    expect(sim.cache.control.stats().tiers.map(({ dirtyBytes }) => dirtyBytes)).toEqual([0, 0, 0]);
    sim.crash();
    await sim.restart();
    await sim.drainIo();
    expect(isPayload(await sim.get(KEY), 0, SIZE)).toBe(true);
  });

  it('brings what only HBM has to SSD before it stops', async () => {
    const sim = await withStray();
    expect(await sim.run(sim.cache.close(sim.clock.monotonicMs() + 10_000))).toBe(0);
    sim.crash();
    await sim.restart();
    expect(isPayload(await sim.get(KEY), 0, SIZE)).toBe(true);
  });

  it('does not forget by order what only HBM has', async () => {
    const sim = await withChunkInHbm({ admission: 'off' });
    await pushOutOfRam(sim);
    const answer = await sim.run(sim.cache.control.evict('hbm', { keys: [KEY] }));
    expect(answer).toMatchObject({ evicted: 1, skipped: 0 });
    expect(sim.tiersOf(KEY)).toEqual(['ram']);
  });

  it('looks at a bounded number of chunks for the room of one promotion, past any number that may not go', async () => {
    // In each piece of four a chunk stays, so that no eviction makes room; the coldest 600 stay all.
    const [held, count] = [600, 1000];
    const stays = (id: number): boolean => id < held || id % 4 === 0;
    const sizes = { ramBytes: 24_576 * KiB, ssdBytes: [65_536 * KiB], hbmBytes: [count * SIZE], hbmPieceBytes: 4 * SIZE };
    const sim = await SimCache.start(sizes);
    const keys = Array.from({ length: count }, (_, id) => `opaque-${id}`);
    for (const [id, key] of keys.entries()) await sim.put(key, payloadOf(id, SIZE));
    expect(await sim.run(sim.cache.control.prefetch(keys, { tier: 'hbm' }))).toMatchObject({ promoted: count });
    await sim.quiet(5000, 500);
    const staying = keys.filter((_, id) => stays(id));
    await sim.run(sim.cache.control.evict('ram', { keys: staying }));
    // Leased where only HBM can be meant.
    for (const key of staying) expect(sim.probe(key, 1)?.tier).toBe('hbm');
    await sim.put('large', payloadOf(count, 4 * SIZE));
    const { tier } = sim.life.hbm;
    if (tier === undefined) throw new Error('there is an HBM tier');
    let looks = 0;
    const useCount = tier.useCount.bind(tier);
    tier.useCount = (slot) => {
      looks += 1;
      return useCount(slot);
    };
    void sim.cache.control.prefetch(['large'], { tier: 'hbm' });
    await Promise.resolve();
    expect(looks).toBeGreaterThan(held);
    expect(looks).toBeLessThan(20_000);
  });

  it('keeps the HBM copy that a lease was given for, and RAM the one of its own', async () => {
    const sim = await withChunkInHbm();
    await sim.quiet(5000, 500);
    await sim.run(sim.cache.control.evict('ram', { keys: [KEY] }));
    expect(sim.tiersOf(KEY)).toEqual(['hbm', 'ssd']);
    expect(sim.probe(KEY, 1)?.tier).toBe('hbm');
    expect(await sim.run(sim.cache.control.evict('hbm', { keys: [KEY] }))).toMatchObject({ evicted: 0, skipped: 1 });
    expect(sim.tiersOf(KEY)).toContain('hbm');
    expect(isPayload(await sim.get(KEY, 1), 0, SIZE)).toBe(true);
    expect(sim.cache.control.stats().hits).toEqual({ hbm: 1, ram: 0, ssd: 0 });
    expect(sim.probe(KEY, 1)?.tier).toBe('ram');
    expect(await sim.run(sim.cache.control.evict('ram', { keys: [KEY] }))).toMatchObject({ evicted: 0, skipped: 1 });
  });

  it('serves from SSD what has wrong bytes in HBM, and drops it there', async () => {
    const sim = await withChunkInHbm();
    await sim.quiet(5000, 500);
    await sim.run(sim.cache.control.evict('ram', { keys: [KEY] }));
    const found = sim.peek(KEY);
    const read = found && sim.cache.openDevice(found.ref);
    if (read === undefined) throw new Error('not exported');
    sim.life.hbm.devices.exported(read.handle)[read.offsetBytes + 100]! ^= 1;
    expect(read.release()).toBe(true);
    expect(isPayload(await sim.get(KEY), 0, SIZE)).toBe(true);
    expect(sim.cache.control.stats()).toMatchObject({ hits: { hbm: 0, ssd: 1 }, hbm: { checksumMismatches: 1 } });
    expect(sim.tiersOf(KEY)).not.toContain('hbm');
  });

  it('answers with a miss what has wrong bytes and is nowhere else', async () => {
    const sim = await withChunkInHbm({ admission: 'off' });
    await pushOutOfRam(sim);
    const found = sim.peek(KEY);
    const read = found && sim.cache.openDevice(found.ref);
    if (read === undefined) throw new Error('not exported');
    sim.life.hbm.devices.exported(read.handle)[read.offsetBytes] = 99;
    read.release();
    expect(await sim.get(KEY)).toBeUndefined();
    expect(sim.peek(KEY)).toBeUndefined();
  });

  it('holds the slot of an export, and says that a chunk did not hold which was deleted or whose device was lost', async () => {
    const sim = await withChunkInHbm();
    const open = (): NonNullable<ReturnType<typeof sim.cache.openDevice>> => {
      const found = sim.peek(KEY);
      const read = found && sim.cache.openDevice(found.ref);
      if (read === undefined) throw new Error('not exported');
      return read;
    };
    expect(open().release()).toBe(true);
    const deleted = open();
    sim.delete(KEY);
    expect(sim.life.hbm.tier?.usedSlots()).toBe(1);
    expect(deleted.release()).toBe(false);
    expect(sim.life.hbm.tier?.usedSlots()).toBe(0);
    await sim.put(KEY, payloadOf(0, SIZE));
    await sim.run(sim.cache.control.prefetch([KEY], { tier: 'hbm' }));
    const lost = open();
    expect(sim.probe(KEY, 3)?.tier).toBe('ram');
    sim.life.hbm.devices.opened[0]?.lose();
    expect(lost.release()).toBe(false);
    expect(sim.tiersOf(KEY)).toEqual(['ram']);
    expect(sim.tier('hbm').state).toBe('off');
    expect(sim.tier('hbm').reasons.join()).toContain('CUDA_ERROR_ILLEGAL_ADDRESS');
    sim.check();
  });

  it('ends the leases on what a lost device had, and serves the rest', async () => {
    const sim = await withChunkInHbm();
    await sim.quiet(5000, 500);
    await sim.run(sim.cache.control.evict('ram', { keys: [KEY] }));
    sim.probe(KEY, 1);
    expect(sim.cache.holdings().leases).toBe(1);
    sim.life.hbm.devices.opened[0]?.lose();
    expect(sim.cache.holdings().leases).toBe(0);
    expect(sim.peek(KEY)?.tier).toBe('ssd');
    expect(isPayload(await sim.get(KEY), 0, SIZE)).toBe(true);
  });

  it('copies into HBM what a pin wants there, from RAM or from SSD, and says what is there', async () => {
    const sim = await SimCache.start({ ramBytes: 256 * KiB, hbmBytes: [256 * KiB], hbmPieceBytes: 128 * KiB });
    for (let id = 0; id < 4; id += 1) await sim.put(`opaque-${id}`, payloadOf(id, SIZE));
    await sim.quiet(5000, 500);
    await sim.run(sim.cache.control.evict('ram', { keys: ['opaque-1'] }));
    expect([sim.tiersOf('opaque-0'), sim.tiersOf('opaque-1')]).toEqual([['ram', 'ssd'], ['ssd']]);
    const keys = ['opaque-0', 'opaque-1', 'opaque-9'];
    const plain = await sim.run(sim.cache.control.pin({ keys }, 'soft'));
    expect(plain).not.toHaveProperty('inHbm');
    expect(sim.tier('hbm').chunkCount).toBe(0);
    const answer = await sim.run(sim.cache.control.pin({ keys }, 'soft', { tier: 'hbm' }));
    expect(answer).toMatchObject({ alreadyPinned: { chunks: 2 }, notFound: 1, inHbm: { chunks: 2, bytes: 2 * SIZE } });
    for (const id of [0, 1]) {
      expect(sim.tiersOf(`opaque-${id}`)[0]).toBe('hbm');
      expect(isPayload(await sim.get(`opaque-${id}`), id, SIZE)).toBe(true);
    }
    expect(sim.tiersOf('opaque-2')).not.toContain('hbm');
    sim.check();
  });

  it('lets others leave HBM before what is pinned there, and does not push one pinned chunk out for another by the same order', async () => {
    const sim = await SimCache.start({ ramBytes: 1024 * KiB, hbmBytes: [128 * KiB], hbmPieceBytes: 128 * KiB });
    for (let id = 0; id < 20; id += 1) await sim.put(`opaque-${id}`, payloadOf(id, SIZE));
    const pinned = ['opaque-0', 'opaque-1', 'opaque-2'];
    await sim.run(sim.cache.control.pin({ keys: pinned }, 'soft', { tier: 'hbm' }));
    const others = Array.from({ length: 12 }, (_, id) => `opaque-${id + 3}`);
    expect(await sim.run(sim.cache.control.prefetch(others, { tier: 'hbm' }))).toMatchObject({ promoted: 12 });
    for (const key of pinned) expect([key, sim.tiersOf(key)[0]]).toEqual([key, 'hbm']);
    const before = sim.cache.control.stats().hbm?.promotions ?? 0;
    const all = await sim.run(sim.cache.control.pin({ all: true }, 'hard', { tier: 'hbm' }));
    const moved = (sim.cache.control.stats().hbm?.promotions ?? 0) - before;
    expect(all.inHbm).toEqual({ chunks: 8, bytes: 8 * SIZE });
    expect(moved).toBeLessThanOrEqual(8);
    sim.check();
  });

  it('brings to RAM what only HBM has before it is pinned hard', async () => {
    const sim = await withStray();
    expect(await sim.run(sim.cache.control.pin({ keys: [KEY] }, 'hard'))).toMatchObject({ pinned: { chunks: 1 } });
    expect(sim.tiersOf(KEY)).toEqual(['hbm', 'ram', 'ssd']);
    sim.check();
  });

  it('gives a hard pin up where only HBM is left of its chunk, and serves the chunk still', async () => {
    const sim = await withChunkInHbm();
    await sim.quiet(5000, 500);
    await sim.run(sim.cache.control.evict('ram', { keys: [KEY] }));
    expect(await sim.run(sim.cache.control.pin({ keys: [KEY] }, 'hard'))).toMatchObject({ pinned: { chunks: 1 } });
    for (const path of sim.chunkFiles()) sim.disk.unlink(path);
    await sim.run(drainIterable(sim.cache.control.verify()));
    sim.check();
    expect(sim.tiersOf(KEY)).toEqual(['hbm']);
    expect(sim.cache.control.stats().pins).toMatchObject({ chunks: 0, lost: 1 });
    expect(isPayload(await sim.get(KEY), 0, SIZE)).toBe(true);
  });

  it('counts promotions, demotions, loads and wrong bytes for the device where they happened', async () => {
    const sim = await SimCache.start({ ramBytes: 256 * KiB, hbmBytes: [128 * KiB, 128 * KiB], hbmPieceBytes: 128 * KiB, admission: 'off' });
    const devices = (): NonNullable<ReturnType<typeof sim.cache.control.stats>['hbm']>['devices'] =>
      sim.cache.control.stats().hbm?.devices ?? [];
    const key = (id: number): string => `opaque-${id}`;
    // One on each device, in turn.
    for (const id of [0, 1, 2]) {
      await sim.put(key(id), payloadOf(id, SIZE));
      await sim.run(sim.cache.control.prefetch([key(id)], { tier: 'hbm' }));
    }
    expect(devices().map(({ moves }) => moves.promotions)).toEqual([2, 1]);
    // RAM gives everything up for others, which then want the devices: what only these have comes back to RAM.
    for (let id = 3; id < 16; id += 1) {
      await sim.put(key(id), payloadOf(id, SIZE));
      await sim.run(sim.cache.control.prefetch([key(id)], { tier: 'hbm' }));
    }
    for (let id = 16; id < 32; id += 1) await sim.put(key(id), payloadOf(id, SIZE));
    for (let id = 16; id < 24; id += 1) await sim.run(sim.cache.control.prefetch([key(id)], { tier: 'hbm' }));
    for (const { moves, copies } of devices())
      expect(moves).toMatchObject({
        promotions: copies.toDeviceCopies,
        demotions: copies.toHostCopies,
        loads: copies.toHostCopies,
        checksumMismatches: 0,
      });
    const of = (what: 'promotions' | 'demotions'): number[] => devices().map(({ moves }) => moves[what]);
    expect(new Set(of('promotions')).size).toBe(2);
    expect(of('demotions').toSorted((a, b) => a - b)).toEqual([0, 1]);
    const sum = (counts: readonly number[]): number => counts.reduce((total, count) => total + count, 0);
    expect(sim.cache.control.stats().hbm).toMatchObject({ promotions: sum(of('promotions')), demotions: 1 });
    // Wrong bytes on the second device alone.
    const stray = Array.from({ length: 40 }, (_, id) => id).find(
      (id) => sim.tiersOf(key(id)).join() === 'hbm' && deviceOf(sim, key(id)) === 1,
    );
    if (stray === undefined) throw new Error('no chunk is on the second device alone');
    const found = sim.peek(key(stray));
    const read = found && sim.cache.openDevice(found.ref);
    if (read === undefined) throw new Error('not exported');
    sim.life.hbm.devices.exported(read.handle)[read.offsetBytes] = 99;
    read.release();
    expect(await sim.get(key(stray))).toBeUndefined();
    expect(devices().map(({ moves }) => moves.checksumMismatches)).toEqual([0, 1]);
    sim.life.hbm.devices.opened[1]?.lose();
    expect(devices()[1]?.moves.checksumMismatches).toBe(1);
    sim.check();
  });
});

function deviceOf(sim: SimCache, key: string): number {
  const found = sim.peek(key);
  const read = found && sim.cache.openDevice(found.ref);
  read?.release();
  return sim.life.hbm.devices.devices.findIndex(({ uuid }) => uuid === read?.deviceUuid);
}
