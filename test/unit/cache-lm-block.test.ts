/** What lm:// wants back with a chunk: through RAM, SSD, restarts with and without a catalog, and through being stored again. */
import { describe, expect, it } from 'vitest';
import { KiB } from '#core/bytes.ts';
import type { LmBlock } from '#core/lm-block.ts';
import { isPayload, payloadOf, SimCache } from '#testsupport/sim-cache.ts';

const size = 64 * KiB;
const key = 'm@1@0@ab@bfloat16';
const first: LmBlock = { fmt: 1, dtype: 3, shape: [2, 32, 256, 1024] };
const second: LmBlock = { fmt: 2, dtype: 3, shape: [256, 2, -1, 0] };

function blockOf(sim: SimCache): LmBlock | undefined {
  const found = sim.peek(key);
  return found === undefined ? undefined : sim.cache.lmBlock(found.ref);
}

async function toSsd(sim: SimCache): Promise<void> {
  await sim.run(sim.cache.control.evict('ram', { all: true }));
  await sim.quiet(1000);
  expect(sim.tiersOf(key)).toEqual(['ssd']);
}

describe('An lm block', () => {
  it('is there as soon as its chunk is, and with it in RAM, on SSD and back', async () => {
    const sim = await SimCache.start();
    expect(await sim.put(key, payloadOf(1, size), { lmBlock: first })).toBe('stored');
    expect(blockOf(sim)).toEqual(first);
    await toSsd(sim);
    expect(blockOf(sim)).toEqual(first);
    expect(isPayload(await sim.get(key), 1, size)).toBe(true);
    expect(blockOf(sim)).toEqual(first);
    sim.checkQuiet();
  });

  it.each(['a clean catalog', 'no catalog'])('survives a kill, with %s', async (catalog) => {
    const sim = await SimCache.start();
    await sim.put(key, payloadOf(1, size), { lmBlock: first });
    await toSsd(sim);
    sim.life.catalog.commit();
    sim.crash();
    if (catalog === 'no catalog') sim.catalogDisk.clear();
    await sim.restart();
    await sim.drainIo();
    expect(blockOf(sim)).toEqual(first);
    expect(isPayload(await sim.get(key), 1, size)).toBe(true);
    expect(blockOf(sim)).toEqual(first);
  });

  it('of a file beats what a row of the catalog says', async () => {
    for (const claimed of [second, undefined]) {
      const sim = await SimCache.start();
      await sim.put(key, payloadOf(1, size), { lmBlock: first });
      await toSsd(sim);
      sim.life.catalog.commit();
      sim.crash();
      for (const [generation, row] of sim.catalogDisk.chunks) sim.catalogDisk.chunks.set(generation, { ...row, lmBlock: claimed });
      await sim.restart();
      expect(isPayload(await sim.get(key), 1, size)).toBe(true);
      expect(blockOf(sim)).toEqual(first);
    }
  });

  it('that only a row of the catalog has is gone with the first read', async () => {
    const sim = await SimCache.start();
    await sim.put(key, payloadOf(1, size));
    await toSsd(sim);
    sim.life.catalog.commit();
    sim.crash();
    for (const [generation, row] of sim.catalogDisk.chunks) sim.catalogDisk.chunks.set(generation, { ...row, lmBlock: first });
    await sim.restart();
    expect(isPayload(await sim.get(key), 1, size)).toBe(true);
    expect(blockOf(sim)).toBeUndefined();
  });

  it('goes with the bytes that it describes: other bytes without one have none', async () => {
    const sim = await SimCache.start();
    await sim.put(key, payloadOf(1, size), { lmBlock: first });
    const old = sim.peek(key)?.ref ?? { entry: 0, generation: 0 };
    await sim.put(key, payloadOf(2, size));
    expect(blockOf(sim)).toBeUndefined();
    expect(sim.cache.lmBlock(old)).toBeUndefined();
    await toSsd(sim);
    sim.crash();
    sim.catalogDisk.clear();
    await sim.restart();
    await sim.drainIo();
    expect(blockOf(sim)).toBeUndefined();
    sim.delete(key);
    await sim.put('another', payloadOf(3, size));
    sim.check();
  });

  it('stays where the same bytes are stored without one', async () => {
    const sim = await SimCache.start();
    await sim.put(key, payloadOf(1, size), { lmBlock: first });
    expect(await sim.put(key, payloadOf(1, size))).toBe('duplicate');
    expect(blockOf(sim)).toEqual(first);
  });

  it.each(['in RAM', 'in RAM and on SSD', 'on SSD', 'being written'])(
    'that comes later for a chunk %s is the one that stays',
    async (where) => {
      for (const before of [{}, { lmBlock: first }]) {
        const sim = await SimCache.start();
        await sim.put(key, payloadOf(1, size), before);
        if (where === 'in RAM and on SSD') await sim.quiet(3000);
        if (where === 'on SSD') await toSsd(sim);
        // The write has begun: its header is on its way with the former block.
        if (where === 'being written') while (sim.io.jobs.length === 0) await sim.clock.advance(100);
        expect(await sim.put(key, payloadOf(1, size), { lmBlock: second })).toBe('duplicate');
        expect(blockOf(sim)).toEqual(second);
        await sim.quiet(3000);
        await toSsd(sim);
        sim.checkQuiet();
        sim.crash();
        sim.catalogDisk.clear();
        await sim.restart();
        await sim.drainIo();
        expect(blockOf(sim)).toEqual(second);
        expect(isPayload(await sim.get(key), 1, size)).toBe(true);
        expect(blockOf(sim)).toEqual(second);
      }
    },
  );

  it('that came later is never replaced by the former one after a crash at any moment', async () => {
    for (let steps = 0; steps < 14; steps += 1) {
      const sim = await SimCache.start({ seed: steps });
      await sim.put(key, payloadOf(1, size), { lmBlock: first });
      await sim.quiet(3000);
      await sim.put(key, payloadOf(1, size), { lmBlock: second });
      for (let step = 0; step < steps; step += 1) {
        await sim.clock.advance(200);
        await sim.step();
      }
      sim.crash();
      if (steps % 2 === 0) sim.catalogDisk.clear();
      await sim.restart();
      await sim.drainIo();
      const found = blockOf(sim);
      expect(found === undefined || found.fmt === second.fmt, `after ${steps} steps`).toBe(true);
      if (found !== undefined) expect(isPayload(await sim.get(key), 1, size)).toBe(true);
    }
  });

  it('is refused where the journal cannot bury the file that has the former one, which stays', async () => {
    for (const before of [{}, { lmBlock: first }]) {
      const sim = await SimCache.start();
      await sim.put(key, payloadOf(1, size), before);
      await sim.quiet(3000);
      sim.disk.data.failNext('append', 28, { path: '/data/journal' });
      expect(await sim.put(key, payloadOf(1, size), { lmBlock: second })).toBe('failed');
      expect(blockOf(sim)).toEqual(before.lmBlock);
      expect(isPayload(await sim.get(key), 1, size)).toBe(true);
      expect(await sim.put(key, payloadOf(1, size), { lmBlock: second })).toBe('duplicate');
      expect(blockOf(sim)).toEqual(second);
      await sim.quiet(3000);
      sim.checkQuiet();
    }
  });
});
