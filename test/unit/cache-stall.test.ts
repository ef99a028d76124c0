/** A device that does not answer: what waits for it is a miss, what it holds stays its own, and it is asked again with back-off. */
import { describe, expect, it } from 'vitest';
import type { Address, Fd } from '#core/brand.ts';
import { KiB } from '#core/bytes.ts';
import { settle } from '#testsupport/sim-clock.ts';
import { isPayload, payloadOf, SimCache } from '#testsupport/sim-cache.ts';
import type { SimCacheOptions } from '#testsupport/sim-cache.ts';

const chunk = 64 * KiB;
const FIRST = '/ssd0/';

async function onSsd(count: number, options: SimCacheOptions = {}): Promise<SimCache> {
  const sim = await SimCache.start(options);
  for (let index = 0; index < count; index += 1) await sim.put(`k${index}`, payloadOf(index, chunk));
  await sim.run(sim.cache.control.evict('ram', { all: true }));
  await sim.quiet(1000);
  return sim;
}

function stateOf(sim: SimCache, folder = 0): string {
  return sim.tier('ssd').folders?.[folder]?.state ?? '';
}

function usedSlots(sim: SimCache): number {
  return sim.cache.holdings().usedSlots;
}

describe('A read that the device does not answer', () => {
  it('is a miss after the deadline, and so is every other read that waits for the folder', async () => {
    const sim = await onSsd(4);
    sim.io.stuck.add(FIRST);
    const opened = ['k0', 'k0', 'k1', 'k2'].map((key) => Promise.resolve(sim.open(key)));
    await settle();
    expect(sim.io.passDeadline(1)).toBe(1);
    // The one that ran passed its deadline; those that had not begun are given up with it.
    expect(await Promise.all(opened)).toEqual([undefined, undefined, undefined, undefined]);
    expect(stateOf(sim)).toBe('stalled');
    expect(sim.tier('ssd')).toMatchObject({ state: 'degraded', reasons: [expect.stringContaining('does not answer')] });
    // Nobody waits for it any more, and nobody is promised anything.
    expect(sim.open('k3')).toBeInstanceOf(Promise);
    expect(await sim.open('k3')).toBeUndefined();
    expect(sim.probe('k3', 1)).toBeUndefined();
    expect(sim.cache.control.stats()).toMatchObject({ misses: 6, refusedLookups: 6 });
    const region = { address: 0 as Address, fd: 0 as Fd, sizeBytes: chunk, sealed: true, close: (): void => {} };
    const span = { region, offset: 0, sizeBytes: chunk };
    expect(await sim.with('k3', (namespace, key) => sim.cache.openInto(namespace, key, { owner: 1, span }))).toBe('missing');
    expect(sim.cache.control.stats()).toMatchObject({ lookups: 7, misses: 7, refusedLookups: 7 });
    expect(sim.io.jobs.filter((job) => job.late === undefined)).toEqual([]);
    sim.check();
    sim.life.ssd.checkInvariants();
  });

  it('keeps its slot until the device answers, and gives it back then, whatever it was filled with', async () => {
    const sim = await onSsd(1);
    sim.io.stuck.add(FIRST);
    const opened = Promise.resolve(sim.open('k0'));
    await settle();
    sim.io.passDeadline();
    expect(await opened).toBeUndefined();
    expect(usedSlots(sim)).toBe(1);
    for (let index = 0; index < 80; index += 1) await sim.put(`other${index}`, payloadOf(100 + index, chunk));
    sim.io.unstick();
    await sim.drainIo();
    // What came late landed in its own slot: nobody else's bytes were overwritten.
    for (let index = 79; index > 40; index -= 1) {
      const payload = await sim.get(`other${index}`);
      expect(payload === undefined || isPayload(payload, 100 + index, chunk)).toBe(true);
    }
    await sim.quiet(20_000);
    sim.checkQuiet();
  });

  it('loses nothing: the chunk is there again when the folder is', async () => {
    const sim = await onSsd(3);
    sim.io.stuck.add(FIRST);
    const opened = Promise.resolve(sim.open('k0'));
    await settle();
    sim.io.passDeadline();
    await opened;
    sim.io.unstick();
    await sim.quiet(8000);
    expect(stateOf(sim)).toBe('ok');
    expect(sim.tier('ssd')).toMatchObject({ state: 'ok', reasons: [] });
    for (let index = 0; index < 3; index += 1) expect(isPayload(await sim.get(`k${index}`), index, chunk)).toBe(true);
    sim.checkQuiet();
  });

  it('is not tried again while it hangs: one bad file stalls its folder once', async () => {
    const sim = await onSsd(2);
    const bad = sim.chunkFiles()[0] as string;
    sim.io.stuck.add(bad);
    const opened = ['k0', 'k1'].map((key) => Promise.resolve(sim.open(key)));
    await settle();
    await sim.drainIo();
    sim.io.passDeadline();
    const first = await Promise.all(opened);
    for (const handle of first) handle?.release();
    await sim.quiet(8000);
    expect(stateOf(sim)).toBe('ok');
    for (const key of ['k0', 'k1', 'k0', 'k1']) await sim.get(key);
    expect(sim.io.jobs).toHaveLength(1);
    expect(stateOf(sim)).toBe('ok');
    expect(sim.life.ssd.stalls).toBe(1);
  });

  it('stalls its own folder alone', async () => {
    const sim = await onSsd(8, { ssdBytes: [4096 * KiB, 4096 * KiB] });
    const ofSecond = sim.chunkFiles().filter((path) => path.startsWith('/ssd1/')).length;
    expect(ofSecond).toBeGreaterThan(0);
    sim.io.stuck.add(FIRST);
    const opened = Array.from({ length: 8 }, (_, index) => Promise.resolve(sim.open(`k${index}`)));
    await settle();
    await sim.drainIo();
    sim.io.passDeadline();
    const handles = await Promise.all(opened);
    expect(handles.filter((handle) => handle !== undefined)).toHaveLength(ofSecond);
    for (const handle of handles) handle?.release();
    expect([stateOf(sim, 0), stateOf(sim, 1)]).toEqual(['stalled', 'ok']);
    await sim.put('new', payloadOf(50, chunk));
    await sim.quiet(3000);
    expect(sim.tiersOf('new')).toEqual(['ram', 'ssd']);
  });
});

describe('A write that the device does not answer', () => {
  async function stuckWrite(sim: SimCache): Promise<void> {
    sim.io.stuck.add(FIRST);
    await sim.put('w', payloadOf(9, chunk));
    await sim.clock.advance(1500);
    expect(sim.io.jobs.map((job) => job.kind)).toEqual(['write']);
    sim.io.passDeadline();
    await settle();
    expect(stateOf(sim)).toBe('stalled');
  }

  it('leaves the chunk in RAM, which goes on taking chunks', async () => {
    const sim = await SimCache.start();
    await stuckWrite(sim);
    expect(isPayload(await sim.get('w'), 9, chunk)).toBe(true);
    for (let index = 0; index < 100; index += 1) expect(await sim.put(`m${index}`, payloadOf(index, chunk))).toBe('stored');
    expect(isPayload(await sim.get('m99'), 99, chunk)).toBe(true);
    sim.check();
  });

  it('that is done after all leaves no file behind that nobody knows, and the chunk is written again', async () => {
    const sim = await SimCache.start();
    await stuckWrite(sim);
    sim.io.unstick();
    await sim.quiet(20_000);
    expect(stateOf(sim)).toBe('ok');
    expect(sim.tiersOf('w')).toEqual(['ram', 'ssd']);
    expect(sim.chunkFiles()).toHaveLength(1);
    sim.checkQuiet();
  });

  it('whose chunk was deleted meanwhile does not bring it back, nor after a crash', async () => {
    for (const crashFirst of [false, true]) {
      const sim = await SimCache.start();
      await stuckWrite(sim);
      expect(sim.delete('w')).toBe(true);
      if (crashFirst) {
        // The machine's queue is emptied although the process is gone: the file is there at the next start.
        sim.io.unstick();
        for (const job of [...sim.io.jobs]) while (job.done < job.steps.length - 1) sim.io.step(sim.rng, job);
      } else {
        sim.io.unstick();
        await sim.quiet(20_000);
        expect(sim.chunkFiles()).toEqual([]);
        sim.checkQuiet();
      }
      sim.crash();
      sim.catalogDisk.clear();
      await sim.restart();
      await sim.quiet(1000);
      expect(await sim.get('w')).toBeUndefined();
    }
  });

  it('is the only one of its chunk: no other folder gets a file of the same name while it may still come', async () => {
    const sim = await SimCache.start({ ssdBytes: [4096 * KiB, 4096 * KiB] });
    await stuckWrite(sim);
    await sim.quiet(8000);
    expect(sim.tiersOf('w')).toEqual(['ram']);
    await sim.put('x', payloadOf(3, chunk));
    await sim.quiet(3000);
    expect(sim.tiersOf('x')).toEqual(['ram', 'ssd']);
    sim.io.unstick();
    await sim.quiet(20_000);
    expect(sim.tiersOf('w')).toEqual(['ram', 'ssd']);
    sim.checkQuiet();
  });

  it('that fails after all gives back memory and space', async () => {
    const sim = await SimCache.start();
    await stuckWrite(sim);
    sim.io.faults.push({ kind: 'write', errno: 5, path: `${FIRST}` });
    sim.io.unstick();
    await sim.quiet(30_000);
    expect(sim.tiersOf('w')).toEqual(['ram', 'ssd']);
    sim.checkQuiet();
  });
});

describe('An unlink that the device does not answer', () => {
  it('counts as used until it is done, and others go on', async () => {
    const sim = await onSsd(3, { ssdBytes: [4096 * KiB, 4096 * KiB] });
    sim.io.stuck.add(FIRST);
    for (let index = 0; index < 3; index += 1) sim.delete(`k${index}`);
    await settle();
    await sim.drainIo();
    sim.io.passDeadline();
    await settle();
    await sim.drainIo();
    expect(sim.chunkFiles().every((path) => path.startsWith(FIRST))).toBe(true);
    sim.io.unstick();
    await sim.quiet(20_000);
    expect(sim.chunkFiles()).toEqual([]);
    sim.checkQuiet();
    sim.life.ssd.checkInvariants();
  });
});

describe('A folder that is stalled', () => {
  it('is asked again with back-off, by one probe at a time, and not while a probe hangs', async () => {
    const sim = await onSsd(1);
    sim.io.stuck.add(FIRST);
    const opened = Promise.resolve(sim.open('k0'));
    await settle();
    sim.io.passDeadline();
    await opened;
    const probes: number[] = [];
    for (let second = 0; second < 300; second += 1) {
      await sim.quiet(1000);
      const waiting = sim.io.jobs.filter((job) => job.path.endsWith('/probe') && job.late === undefined);
      expect(waiting.length).toBeLessThanOrEqual(1);
      if (waiting.length === 1) {
        probes.push(second);
        sim.io.passDeadline();
      }
    }
    // The first one hangs for ever: no other follows.
    expect(probes).toHaveLength(1);
    sim.io.unstick();
    await sim.quiet(130_000, 1000);
    expect(stateOf(sim)).toBe('ok');
    sim.checkQuiet();
  });

  it('is left alone for longer each time that a probe fails, at most a minute', async () => {
    const sim = await onSsd(1);
    sim.io.stuck.add(FIRST);
    const opened = Promise.resolve(sim.open('k0'));
    await settle();
    sim.io.passDeadline();
    await opened;
    sim.io.unstick();
    sim.io.faults.push({ kind: 'write', errno: 5, path: `${FIRST}kv/00/probe`, times: 9 });
    const times: number[] = [];
    let left = 9;
    for (let second = 0; second < 600 && stateOf(sim) === 'stalled'; second += 1) {
      await sim.quiet(1000);
      const now = sim.io.faults[0]?.times ?? 0;
      if (now !== left) times.push(second);
      left = now;
    }
    const gaps = times.slice(1).map((time, index) => time - (times[index] ?? 0));
    expect(gaps.length).toBeGreaterThanOrEqual(7);
    expect(gaps.every((gap, index) => gap + 3 >= (gaps[index - 1] ?? 0))).toBe(true);
    expect(Math.max(...gaps)).toBeGreaterThan(50);
    expect(Math.max(...gaps)).toBeLessThan(66);
    expect(stateOf(sim)).toBe('ok');
  });

  it('gets no mark after an invalidation, which would wait for it; the others do', async () => {
    const sim = await onSsd(8, { ssdBytes: [4096 * KiB, 4096 * KiB] });
    const marked = (folder: number): number => {
      const bytes = sim.disk.readFile(`/ssd${folder}/kv/kvtier-folder.json`) ?? new Uint8Array();
      return (JSON.parse(new TextDecoder().decode(bytes)) as { journalSequence: number }).journalSequence;
    };
    const before = [marked(0), marked(1)];
    sim.io.stuck.add(FIRST);
    const opened = Array.from({ length: 8 }, (_, index) => Promise.resolve(sim.open(`k${index}`)));
    await settle();
    await sim.drainIo();
    sim.io.passDeadline();
    for (const handle of await Promise.all(opened)) handle?.release();
    expect(stateOf(sim, 0)).toBe('stalled');
    await sim.run(sim.invalidate({ keys: ['gone'] }));
    expect(marked(0)).toBe(before[0]);
    expect(marked(1)).toBeGreaterThan(before[1] ?? 0);
  });

  it('does not hold up a stop', async () => {
    const sim = await onSsd(1);
    sim.io.stuck.add(FIRST);
    const opened = Promise.resolve(sim.open('k0'));
    await settle();
    sim.io.passDeadline();
    await opened;
    await sim.put('dirty', payloadOf(1, chunk));
    expect(await sim.run(sim.cache.close(sim.clock.monotonicMs() + 5000))).toBe(chunk);
  });
});
