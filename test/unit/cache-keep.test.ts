/** What the cache takes over from a process that ended, and what it does not. */
import { describe, expect, it } from 'vitest';
import type { PutTicket } from '#cache/door.ts';
import { MiB } from '#core/bytes.ts';
import { isPayload, payloadOf, SimCache } from '#testsupport/sim-cache.ts';
import type { SimCacheOptions } from '#testsupport/sim-cache.ts';

const options: SimCacheOptions = { keep: true, admission: 'off' };

async function withOne(more: SimCacheOptions = {}): Promise<SimCache> {
  const sim = await SimCache.start({ ...options, ...more });
  await sim.put('k', payloadOf(1, 5000));
  return sim;
}

async function has(sim: SimCache): Promise<boolean> {
  const got = await sim.get('k');
  sim.checkQuiet();
  if (got !== undefined) expect(Buffer.from(got).equals(payloadOf(1, 5000))).toBe(true);
  return got !== undefined;
}

/** Turns one byte of the value in shared memory. */
function damage(sim: SimCache): void {
  const bytes = sim.memory.file('ram-0');
  const at = Buffer.from(bytes?.buffer as ArrayBuffer).indexOf(payloadOf(1, 5000));
  expect(at).toBeGreaterThanOrEqual(0);
  if (bytes !== undefined) bytes[at + 4000] = (bytes[at + 4000] as number) ^ 1;
}

describe('Cache after a process that was killed', () => {
  it('serves what was only in RAM, over and over', async () => {
    const sim = await withOne();
    for (let kill = 0; kill < 5; kill += 1) {
      sim.crash();
      await sim.restart();
      expect(sim.cache.recovery.progress.keptChunks).toBe(1);
      expect(await has(sim)).toBe(true);
    }
  });

  it('forgets it after a boot, another size, and a run that kept nothing, and says so', async () => {
    const changes: ((sim: SimCache) => Promise<void>)[] = [
      (sim) => Promise.resolve(sim.reboot()),
      (sim) => Promise.resolve(sim.withOptions({ ...options, ramBytes: 8 * MiB }).crash()),
      async (sim) => {
        sim.crash();
        const image = new Map(sim.memory.fileNames().map((name) => [name, sim.memory.file(name)?.slice()]));
        await sim.withOptions({ ...options, keep: false }).restart();
        sim.crash();
        // A run without it leaves the memory where it was, say under another folder.
        for (const [name, bytes] of image) {
          const arena = sim.memory.create(name, bytes?.length ?? 0);
          arena.allocate(0, arena.sizeBytes);
          arena.view(0, arena.sizeBytes).set(bytes ?? []);
        }
        sim.memory.endProcess();
        sim.withOptions(options);
      },
    ];
    for (const change of changes) {
      const sim = await withOne();
      await change(sim);
      await sim.restart();
      expect(await has(sim)).toBe(false);
    }
  });

  it('serves the same bytes where they were put while it looked at those that were left', async () => {
    const sizeBytes = 100_000;
    const sim = await SimCache.start(options);
    await sim.put('k', payloadOf(1, sizeBytes));
    sim.crash();
    await sim.restart();
    const opened = Promise.resolve(sim.open('k'));
    const ticket = sim.reserve('k', sizeBytes) as PutTicket;
    expect(sim.commit(ticket, payloadOf(1, sizeBytes))).toBe('duplicate');
    const handle = await sim.run(opened);
    expect(isPayload(handle?.view(), 1, sizeBytes)).toBe(true);
    handle?.release();
    sim.checkQuiet();
  });

  it('never serves bytes that changed in shared memory: it is a miss, or SSD has them', async () => {
    const alone = await withOne();
    alone.crash();
    damage(alone);
    await alone.restart();
    expect(await has(alone)).toBe(false);
    const twice = await withOne({ admission: 'through' });
    await twice.quiet(1000);
    expect(twice.tiersOf('k')).toEqual(['ram', 'ssd']);
    twice.crash();
    damage(twice);
    await twice.restart();
    expect(twice.tiersOf('k')).toEqual(['ram', 'ssd']);
    expect(await has(twice)).toBe(true);
  });

  it('does not bring back what was deleted while somebody still read it', async () => {
    const sim = await withOne();
    const handle = sim.open('k');
    expect(handle).toBeDefined();
    expect(sim.delete('k')).toBe(true);
    sim.crash();
    await sim.restart();
    expect(await has(sim)).toBe(false);
  });

  it('takes the payload of a put for one that it has not looked at yet', async () => {
    const sim = await withOne();
    sim.crash();
    damage(sim);
    await sim.restart();
    expect(await sim.put('k', payloadOf(1, 5000))).toBe('duplicate');
    expect(await has(sim)).toBe(true);
  });

  it('writes to SSD only what it has looked at', async () => {
    const sim = await withOne();
    sim.crash();
    damage(sim);
    await sim.withOptions({ ...options, admission: 'through' }).restart();
    await sim.quiet(1000);
    expect(sim.chunkFiles()).toEqual([]);
    expect(await has(sim)).toBe(false);
  });

  it('evicts first what was used longest ago', async () => {
    const sim = await SimCache.start({ ...options, ramBytes: MiB, maxChunkBytes: 64 * 1024 });
    for (let index = 0; index < 12; index += 1) {
      await sim.put(`k${index}`, payloadOf(index, 65_536));
      await sim.clock.advance(10);
    }
    expect(await sim.get('k0')).toBeDefined();
    sim.crash();
    await sim.restart();
    for (let index = 20; index < 30; index += 1) await sim.put(`k${index}`, payloadOf(index, 65_536));
    expect(sim.peek('k0')).toBeDefined();
    expect(sim.peek('k1')).toBeUndefined();
  });
});
