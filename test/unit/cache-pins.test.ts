/** Pins: what stays, what a pin yields to, and what a restart finds. */
import { describe, expect, it } from 'vitest';
import type { PinAnswer } from '#cache/control.ts';
import type { PinMode } from '#core/pin-mode.ts';
import type { Selector } from '#core/selector.ts';
import { KiB, MiB } from '#core/bytes.ts';
import { isPayload, payloadOf, SimCache } from '#testsupport/sim-cache.ts';

const chunk = 64 * KiB;

function pin(sim: SimCache, selector: Selector, mode: PinMode): Promise<PinAnswer> {
  return sim.run(sim.cache.control.pin(selector, mode));
}

function pinned(sim: SimCache, key: string): string | undefined {
  return sim.cache.control.chunks({ keyPrefix: key }, { limit: 100 }).chunks.find((found) => found.key === key)?.pinned;
}

async function fill(sim: SimCache, prefix: string, count: number): Promise<void> {
  for (let n = 0; n < count; n += 1) expect(await sim.put(`${prefix}${n}`, payloadOf(n, chunk))).toBe('stored');
}

function inRam(sim: SimCache, prefix: string, count: number): number[] {
  return Array.from({ length: count }, (_, n) => n).filter((n) => sim.tiersOf(`${prefix}${n}`).includes('ram'));
}

describe('A hard pin', () => {
  it('holds a chunk in RAM and on SSD while four times the tiers are stored', async () => {
    const sim = await SimCache.start({ ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB, ssdBytes: [2 * MiB] });
    await fill(sim, 'p', 2);
    expect(await pin(sim, { keyPrefix: 'p' }, 'hard')).toMatchObject({
      mode: 'hard',
      pinned: { chunks: 2, bytes: 2 * chunk },
      heldInRam: 2,
      alreadyPinned: { chunks: 0 },
      notFound: 0,
    });
    await fill(sim, 'x', 128);
    await sim.quiet(3000);
    for (const n of [0, 1]) {
      expect(sim.tiersOf(`p${n}`)).toEqual(['ram', 'ssd']);
      expect(isPayload(await sim.get(`p${n}`), n, chunk)).toBe(true);
    }
    expect(sim.cache.control.stats().pins).toEqual({
      chunks: 2,
      lost: 0,
      ram: { soft: { chunks: 0, bytes: 0 }, hard: { chunks: 2, bytes: 2 * chunk } },
      ssd: { soft: { chunks: 0, bytes: 0 }, hard: { chunks: 2, bytes: 2 * chunk } },
    });
    sim.checkQuiet();
  });

  it('writes what is only in RAM before it is answered, whatever the admission', async () => {
    const sim = await SimCache.start({ ramBytes: 4 * MiB, admission: 'demote' });
    await fill(sim, 'p', 3);
    expect(await pin(sim, { keys: ['p0', 'p1', 'gone'] }, 'hard')).toMatchObject({ pinned: { chunks: 2 }, notFound: 1 });
    expect([0, 1, 2].map((n) => sim.tiersOf(`p${n}`).length)).toEqual([2, 2, 1]);
    expect((await pin(sim, { keyPrefix: 'p' }, 'hard')).alreadyPinned.chunks).toBe(2);
  });

  it('takes at most a quarter of SSD, and of RAM what fits of its copies', async () => {
    const sim = await SimCache.start({ ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB, ssdBytes: [2 * MiB] });
    await fill(sim, 'p', 14);
    const answer = await pin(sim, { all: true }, 'hard');
    // Files of 68 KiB: seven in a quarter of 2 MiB.
    expect(answer).toMatchObject({
      pinned: { chunks: 7 },
      heldInRam: 4,
      refused: { ssd: { chunks: 7, bytes: 7 * chunk }, ram: { chunks: 0 } },
    });
    sim.check();
    await fill(sim, 'x', 64);
    await sim.quiet(3000);
    const { pins } = sim.cache.control.stats();
    expect(pins.ssd.hard.chunks).toBe(7);
    expect(pins.ram.hard.chunks).toBe(4);
    expect(sim.cache.control.stats().rejectedPuts.shed).toBe(0);
    sim.checkQuiet();
  });

  it('holds RAM alone without an SSD tier, a quarter of it at most', async () => {
    const sim = await SimCache.start({ ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB, ssdBytes: [] });
    await fill(sim, 'p', 6);
    expect(await pin(sim, { all: true }, 'hard')).toMatchObject({ pinned: { chunks: 4 }, refused: { ram: { chunks: 2 } } });
    await fill(sim, 'x', 40);
    expect(inRam(sim, 'p', 6)).toHaveLength(4);
    sim.check();
  });

  it('without an SSD tier outlives the process where RAM does, and holds on', async () => {
    const sim = await SimCache.start({ keep: true, ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB, ssdBytes: [] });
    await fill(sim, 'p', 6);
    expect(await pin(sim, { all: true }, 'hard')).toMatchObject({ pinned: { chunks: 4 } });
    const held = [0, 1, 2, 3, 4, 5].filter((n) => pinned(sim, `p${n}`) === 'hard');
    for (let kill = 0; kill < 2; kill += 1) {
      sim.crash();
      await sim.restart();
      await fill(sim, `x${kill}-`, 40);
      expect(inRam(sim, 'p', 6)).toEqual(held);
      expect(held.map((n) => pinned(sim, `p${n}`))).toEqual(held.map(() => 'hard'));
      sim.check();
    }
  });

  it('is refused for what cannot be written, and then nothing is pinned', async () => {
    const sim = await SimCache.start({ ramBytes: 4 * MiB });
    await fill(sim, 'p', 1);
    for (let n = 0; n < 3; n += 1) sim.io.faults.push({ kind: 'write', errno: 5 });
    expect(await pin(sim, { all: true }, 'hard')).toMatchObject({ pinned: { chunks: 0 }, refused: { unwritten: { chunks: 1 } } });
    expect(pinned(sim, 'p0')).toBeUndefined();
    sim.check();
  });

  it('survives kill -9, also without the catalog, and not after an unpin', async () => {
    const sim = await SimCache.start({ ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB, ssdBytes: [2 * MiB] });
    await fill(sim, 'p', 3);
    await pin(sim, { all: true }, 'hard');
    await sim.run(sim.cache.control.unpin({ keys: ['p2'] }));
    for (const lost of [false, true]) {
      sim.crash();
      if (lost) sim.catalogDisk.clear();
      await sim.restart();
      await sim.quiet(1000);
      expect([0, 1, 2].map((n) => pinned(sim, `p${n}`))).toEqual(['hard', 'hard', undefined]);
      sim.checkQuiet();
    }
    await fill(sim, 'x', 64);
    await sim.quiet(3000);
    expect([0, 1, 2].map((n) => sim.tiersOf(`p${n}`).includes('ssd'))).toEqual([true, true, false]);
    expect(isPayload(await sim.get('p0'), 0, chunk)).toBe(true);
  });

  it('holds the RAM copy again that a read brings after a restart', async () => {
    const sim = await SimCache.start({ ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB });
    await fill(sim, 'p', 1);
    await pin(sim, { all: true }, 'hard');
    sim.crash();
    await sim.restart();
    await sim.quiet(1000);
    await sim.get('p0');
    await fill(sim, 'x', 64);
    expect(sim.tiersOf('p0')).toEqual(['ram', 'ssd']);
    sim.check();
  });

  it('yields to DEL and to invalidation, for good', async () => {
    const sim = await SimCache.start({ ramBytes: 4 * MiB });
    await fill(sim, 'p', 2);
    await pin(sim, { all: true }, 'hard');
    expect(sim.delete('p0')).toBe(true);
    expect((await sim.run(sim.invalidate({ keys: ['p1'] }))).matchedChunks).toBe(1);
    expect(sim.cache.control.stats().pins).toMatchObject({ chunks: 0, lost: 0 });
    await fill(sim, 'p', 2);
    await sim.quiet(3000);
    sim.crash();
    await sim.restart();
    await sim.quiet(1000);
    expect([pinned(sim, 'p0'), pinned(sim, 'p1')]).toEqual([undefined, undefined]);
    expect(sim.tiersOf('p0')).toEqual(['ssd']);
    sim.checkQuiet();
  });

  it('is kept by an overwrite, whose value is written soon', async () => {
    const sim = await SimCache.start({ ramBytes: 4 * MiB, admission: 'demote' });
    await fill(sim, 'p', 1);
    await pin(sim, { all: true }, 'hard');
    expect(await sim.put('p0', payloadOf(7, 2 * chunk))).toBe('stored');
    expect(pinned(sim, 'p0')).toBe('hard');
    sim.check();
    await sim.quiet(1000);
    expect(sim.tiersOf('p0')).toEqual(['ram', 'ssd']);
    sim.crash();
    await sim.restart();
    await sim.quiet(1000);
    expect(pinned(sim, 'p0')).toBe('hard');
    expect(isPayload(await sim.get('p0'), 7, 2 * chunk)).toBe(true);
    sim.checkQuiet();
  });

  it('is given up by an overwrite that pins have no room for, and counted', async () => {
    const sim = await SimCache.start({ ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB, ssdBytes: [8 * MiB] });
    await fill(sim, 'p', 4);
    await pin(sim, { all: true }, 'hard');
    expect(await sim.put('p0', payloadOf(7, 2 * chunk))).toBe('stored');
    expect(pinned(sim, 'p0')).toBeUndefined();
    expect(sim.cache.control.stats().pins).toMatchObject({ chunks: 3, lost: 1 });
    sim.check();
  });

  it('is kept by a chunk whose metadata twin changes, over a restart', async () => {
    const sim = await SimCache.start({ ramBytes: 4 * MiB });
    await fill(sim, 'p', 1);
    await pin(sim, { all: true }, 'hard');
    const ref = sim.peek('p0')?.ref;
    expect(ref !== undefined && sim.cache.setMetadata(ref, payloadOf(1, 20))).toBe(true);
    sim.check();
    await sim.quiet(3000);
    sim.crash();
    await sim.restart();
    await sim.quiet(1000);
    expect(pinned(sim, 'p0')).toBe('hard');
  });

  it('holds against orders to evict, and lets an operator demote what is not held in RAM', async () => {
    const sim = await SimCache.start({ ramBytes: 4 * MiB });
    await fill(sim, 'p', 1);
    await pin(sim, { all: true }, 'hard');
    expect(await sim.run(sim.cache.control.evict('ram', { all: true }))).toMatchObject({ evicted: 0, skipped: 1 });
    expect(await sim.run(sim.cache.control.evict('ssd', { all: true }))).toMatchObject({ evicted: 0, skipped: 1 });
    await sim.run(sim.cache.control.unpin({ all: true }));
    expect(await sim.run(sim.cache.control.evict('ram', { all: true }))).toMatchObject({ evicted: 1, skipped: 0 });
  });

  it('is refused where the journal cannot be written, and nothing of it holds', async () => {
    const sim = await SimCache.start({ ramBytes: 4 * MiB });
    await fill(sim, 'p', 2);
    await sim.quiet(3000);
    sim.disk.data.failNext('append', 28, { path: '/data/journal' });
    await expect(sim.run(sim.cache.control.pin({ all: true }, 'hard'))).rejects.toMatchObject({ code: 'NO_SPACE' });
    expect(sim.cache.control.stats().pins.chunks).toBe(0);
    sim.check();
  });

  it('yields to expiry', async () => {
    const sim = await SimCache.start({ ramBytes: 4 * MiB });
    const now = sim.clock.nowMs();
    await sim.put('p0', payloadOf(0, chunk), { expiry: { atMs: now + 5000 } });
    await pin(sim, { all: true }, 'hard');
    await sim.quiet(10_000);
    expect(await sim.get('p0')).toBeUndefined();
    expect(sim.cache.control.stats().pins).toMatchObject({ chunks: 0, lost: 0 });
    sim.checkQuiet();
  });

  it('counts among the few rows of a full index', async () => {
    const sim = await SimCache.start({ ramBytes: 4 * MiB, limits: { maxChunks: 4 } });
    await fill(sim, 'p', 2);
    await pin(sim, { all: true }, 'hard');
    await fill(sim, 'x', 20);
    expect([pinned(sim, 'p0'), pinned(sim, 'p1')]).toEqual(['hard', 'hard']);
    expect(sim.cache.chunkCount).toBe(4);
  });

  it('keeps its row in a full index, also where its RAM copy is not held', async () => {
    const sim = await SimCache.start({ ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB, ssdBytes: [2 * MiB], limits: { maxChunks: 6 } });
    await fill(sim, 'p', 6);
    expect(await pin(sim, { all: true }, 'hard')).toMatchObject({ pinned: { chunks: 6 }, heldInRam: 4 });
    expect(await sim.put('x', payloadOf(1, chunk))).toBe('shed');
    expect(sim.cache.control.stats().pins.chunks).toBe(6);
  });
});

describe('A soft pin', () => {
  it('lets everything else go first, in RAM and on SSD, and then goes itself, coldest first', async () => {
    const sim = await SimCache.start({ ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB, ssdBytes: [] });
    await fill(sim, 'p', 12);
    expect(await pin(sim, { keyPrefix: 'p' }, 'soft')).toMatchObject({ pinned: { chunks: 12 }, heldInRam: 0 });
    await fill(sim, 'x', 40);
    expect(inRam(sim, 'p', 12)).toHaveLength(12);
    // Nothing else is left to go: readers hold the rest.
    const handles = Array.from({ length: 40 }, (_, n) => sim.open(`x${n}`)).filter((handle) => handle !== undefined);
    expect(await sim.put('y', payloadOf(1, chunk))).toBe('stored');
    expect(inRam(sim, 'p', 12)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    for (const handle of handles) (handle as { release(): void }).release();
    sim.check();
  });

  it('keeps a slab that chunks of another size want, while others can be had', async () => {
    const sim = await SimCache.start({ ramBytes: 4 * MiB, maxChunkBytes: 1 * MiB, ssdBytes: [] });
    // One among the coldest, whose slab would be the coldest in total.
    await fill(sim, 'p', 1);
    await pin(sim, { keyPrefix: 'p' }, 'soft');
    await fill(sim, 'x', 63);
    expect(await sim.put('large', payloadOf(1, 1 * MiB))).toBe('stored');
    expect(inRam(sim, 'p', 1)).toHaveLength(1);
  });

  it('is passed by once, however many of them are the coldest', async () => {
    const sim = await SimCache.start({ ramBytes: 16 * MiB, maxChunkBytes: 256 * KiB, ssdBytes: [] });
    const small = 2048;
    for (let n = 0; n < 5000; n += 1) await sim.put(`p${n}`, payloadOf(n, small));
    expect((await pin(sim, { keyPrefix: 'p' }, 'soft')).pinned.chunks).toBe(5000);
    for (let n = 0; n < 6000; n += 1) expect(await sim.put(`x${n}`, payloadOf(n, small))).toBe('stored');
    expect(sim.cache.control.stats().evictions.ram).toBeGreaterThan(1000);
    expect(sim.cache.control.stats().pins.ram.soft.chunks).toBe(5000);
  });

  it('waits for dirty chunks to be written rather than give way', async () => {
    const sim = await SimCache.start({ ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB });
    await fill(sim, 'p', 8);
    await sim.quiet(3000);
    await pin(sim, { keyPrefix: 'p' }, 'soft');
    await fill(sim, 'x', 8);
    expect(await sim.put('y', payloadOf(1, chunk))).toBe('stored');
    expect(inRam(sim, 'p', 8)).toHaveLength(8);
    expect(sim.cache.control.stats().droppedDirtyChunks).toBe(0);
  });

  it('survives a restart where the chunk is on SSD, and is evicted from there last', async () => {
    const sim = await SimCache.start({ ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB, ssdBytes: [2 * MiB] });
    await fill(sim, 'p', 4);
    await sim.quiet(3000);
    await pin(sim, { all: true }, 'soft');
    sim.crash();
    await sim.restart();
    await sim.quiet(1000);
    await fill(sim, 'x', 100);
    await sim.quiet(3000);
    expect([0, 1, 2, 3].map((n) => pinned(sim, `p${n}`))).toEqual(['soft', 'soft', 'soft', 'soft']);
    sim.checkQuiet();
  });

  it('becomes a hard one and back, at the word of an operator', async () => {
    const sim = await SimCache.start({ ramBytes: 4 * MiB });
    await fill(sim, 'p', 1);
    for (const mode of ['soft', 'hard', 'soft'] as const) {
      expect((await pin(sim, { all: true }, mode)).pinned.chunks).toBe(1);
      expect(pinned(sim, 'p0')).toBe(mode);
      sim.check();
    }
    sim.crash();
    await sim.restart();
    await sim.quiet(1000);
    expect(pinned(sim, 'p0')).toBe('soft');
  });

  it('yields to the quota of its tenant after everything else of it', async () => {
    const sim = await SimCache.start({ ramBytes: 4 * MiB, ssdBytes: [] });
    await fill(sim, 'p', 2);
    await pin(sim, { all: true }, 'soft');
    await fill(sim, 'x', 2);
    await sim.run(sim.cache.control.setQuota('default', { ramBytes: 3 * chunk, ssdBytes: undefined }));
    await sim.quiet(1000);
    expect([...inRam(sim, 'p', 2), ...inRam(sim, 'x', 2)]).toEqual([0, 1, 1]);
    expect(await sim.put('y', payloadOf(1, chunk))).toBe('stored');
    expect(await sim.put('z', payloadOf(1, chunk))).toBe('stored');
    expect(inRam(sim, 'p', 2)).toEqual([0, 1]);
    sim.check();
  });
});
