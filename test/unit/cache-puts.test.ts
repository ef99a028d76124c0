/** Puts, room in RAM, eviction orders. */
import { describe, expect, it } from 'vitest';
import type { PutTicket } from '#cache/door.ts';
import { KiB, MiB } from '#core/bytes.ts';
import { settle } from '#testsupport/sim-clock.ts';
import { isPayload, payloadOf, SimCache } from '#testsupport/sim-cache.ts';

const chunk = 64 * KiB;

describe('A put', () => {
  it('waits up to put.wait where RAM is full of what is not on SSD, holding nothing, and then drops the coldest dirty chunk', async () => {
    const sim = await SimCache.start({ ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB });
    for (let index = 0; index < 16; index += 1) await sim.put(`k${index}`, payloadOf(index, chunk));
    // The device does not answer: two chunks are being written for ever, and keep their memory.
    const reserved = sim.reserve('late', chunk) as Promise<PutTicket>;
    let settled = false;
    void reserved.then(() => (settled = true));
    const slots = sim.cache.holdings().usedSlots;
    await sim.clock.advance(990);
    expect(settled).toBe(false);
    expect(sim.cache.holdings()).toMatchObject({ usedSlots: slots, openTickets: 0, waiting: 1 });
    await sim.clock.advance(20);
    expect(settled).toBe(true);
    sim.commit(await reserved, payloadOf(99, chunk));
    expect(sim.cache.control.stats().droppedDirtyChunks).toBe(1);
    // k0 and k1 are the coldest and under way to SSD; k2 is the coldest that may go.
    const left = Array.from({ length: 16 }, (_, index) => sim.peek(`k${index}`) !== undefined);
    expect(left.indexOf(false)).toBe(2);
    expect(left.filter((there) => !there)).toHaveLength(1);
    sim.check();
  });

  it('that waits goes on the moment that a reader lets go, without any time passing', async () => {
    const sim = await SimCache.start({ ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB, admission: 'off', ssdBytes: [] });
    for (let index = 0; index < 16; index += 1) await sim.put(`k${index}`, payloadOf(index, chunk));
    const handles = Array.from({ length: 16 }, (_, index) => sim.open(`k${index}`));
    const reserved = sim.reserve('late', chunk) as Promise<PutTicket>;
    let ticket: PutTicket | undefined;
    void reserved.then((given) => (ticket = given));
    await settle();
    expect(ticket).toBeUndefined();
    for (const handle of handles) if (handle !== undefined && !(handle instanceof Promise)) handle.release();
    await settle();
    expect(ticket?.kind).toBe('ticket');
  });

  it('gets the room that a write to SSD makes, without anything dropped', async () => {
    const sim = await SimCache.start({ ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB });
    for (let index = 0; index < 17; index += 1) expect(await sim.put(`k${index}`, payloadOf(index, chunk))).toBe('stored');
    expect(sim.cache.control.stats().droppedDirtyChunks).toBe(0);
    expect(sim.cache.chunkCount).toBe(17);
  });

  it('is found again after a burst of four times RAM, all of it', async () => {
    const sim = await SimCache.start({ ramBytes: 2 * MiB, maxChunkBytes: 256 * KiB });
    const count = (4 * 2 * MiB) / chunk;
    for (let index = 0; index < count; index += 1) expect(await sim.put(`burst${index}`, payloadOf(index, chunk))).toBe('stored');
    await sim.quiet(5000);
    expect(sim.tier('ram').dirtyBytes).toBe(0);
    let found = 0;
    for (let index = 0; index < count; index += 1) if (isPayload(await sim.get(`burst${index}`), index, chunk)) found += 1;
    expect(found / count).toBeGreaterThanOrEqual(0.95);
    await sim.quiet(1000);
    sim.checkQuiet();
  });

  it('is found again after a burst from many clients at once, while the device is slow', async () => {
    const sim = await SimCache.start({ ramBytes: 2 * MiB, maxChunkBytes: 256 * KiB });
    const count = (4 * 2 * MiB) / chunk;
    let next = 0;
    const client = async (): Promise<void> => {
      for (let index = next++; index < count; index = next++) {
        const ticket = await sim.reserve(`burst${index}`, chunk);
        if (ticket.kind === 'ticket') sim.commit(ticket, payloadOf(index, chunk));
      }
    };
    const clients = Promise.all(Array.from({ length: 8 }, client));
    let done = false;
    void clients.then(() => (done = true));
    while (!done) {
      await sim.clock.advance(5);
      await sim.step();
    }
    await sim.quiet(5000);
    let found = 0;
    for (let index = 0; index < count; index += 1) if (isPayload(await sim.get(`burst${index}`), index, chunk)) found += 1;
    expect(found / count).toBeGreaterThanOrEqual(0.95);
  });

  it('is shed where nothing may be dropped, and counted', async () => {
    const sim = await SimCache.start({ ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB, admission: 'off', ssdBytes: [] });
    for (let index = 0; index < 16; index += 1) await sim.put(`k${index}`, payloadOf(index, chunk));
    const handles = Array.from({ length: 16 }, (_, index) => sim.open(`k${index}`)).filter((handle) => handle !== undefined);
    expect(await sim.put('late', payloadOf(1, chunk))).toBe('shed');
    expect(sim.cache.control.stats().rejectedPuts.shed).toBe(1);
    for (const handle of handles) if (!(handle instanceof Promise)) handle.release();
    expect(await sim.put('late', payloadOf(1, chunk))).toBe('stored');
    sim.checkQuiet();
  });

  it('that waits keeps its key, although the buffer it came in is used again', async () => {
    const sim = await SimCache.start({ ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB });
    for (let index = 0; index < 16; index += 1) await sim.put(`k${index}`, payloadOf(index, chunk));
    const key = new TextEncoder().encode('late');
    const reserved = sim.with('late', (namespace) => sim.cache.reserve({ namespace, key, sizeBytes: chunk })) as Promise<PutTicket>;
    key.fill(0x78);
    sim.commit(await sim.run(reserved), payloadOf(1, chunk));
    expect(isPayload(await sim.get('late'), 1, chunk)).toBe(true);
    expect(sim.peek('xxxx')).toBeUndefined();
  });

  it('that waits for room while its key is invalidated commits to nothing', async () => {
    const sim = await SimCache.start({ ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB });
    for (let index = 0; index < 16; index += 1) await sim.put(`k${index}`, payloadOf(index, chunk));
    const reserved = sim.reserve('late', chunk) as Promise<PutTicket>;
    await sim.invalidate({ keys: ['late'] });
    expect(sim.cache.holdings().waiting).toBe(1);
    expect(sim.commit(await sim.run(reserved), payloadOf(1, chunk))).toBe('dropped');
    expect(await sim.get('late')).toBeUndefined();
    sim.check();
  });

  it('that is too large is refused at once, with the limit in the message', async () => {
    const sim = await SimCache.start({ ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB });
    expect(sim.reserve('big', 256 * KiB + 1)).toMatchObject({
      kind: 'rejected',
      reason: 'too-large',
      message: expect.stringContaining('262144') as string,
    });
  });

  it('of the same bytes is a touch: no write, no new generation, and RAM for what was on SSD only', async () => {
    const sim = await SimCache.start();
    await sim.put('a', payloadOf(1, chunk));
    await sim.quiet(2000);
    const before = sim.peek('a');
    expect(await sim.put('a', payloadOf(1, chunk))).toBe('duplicate');
    await sim.quiet(2000);
    expect(sim.peek('a')?.ref).toEqual(before?.ref);
    expect(sim.io.finished.write).toBe(1);
    await sim.run(sim.cache.control.evict('ram', { all: true }));
    expect(sim.tiersOf('a')).toEqual(['ssd']);
    expect(await sim.put('a', payloadOf(1, chunk))).toBe('duplicate');
    expect(sim.tiersOf('a')).toEqual(['ram', 'ssd']);
    await sim.quiet(2000);
    expect(sim.io.finished.write).toBe(1);
    expect(sim.cache.control.stats()).toMatchObject({ puts: 3, duplicatePuts: 2 });
    sim.checkQuiet();
  });

  it('with a condition changes nothing where it does not hold', async () => {
    const sim = await SimCache.start();
    expect(await sim.put('a', payloadOf(1, 100), { onlyIf: 'present' })).toBe('condition');
    expect(await sim.put('a', payloadOf(1, 100), { onlyIf: 'absent' })).toBe('stored');
    expect(await sim.put('a', payloadOf(2, 100), { onlyIf: 'absent' })).toBe('condition');
    expect(await sim.put('a', payloadOf(3, 100), { onlyIf: 'present' })).toBe('stored');
    expect(isPayload(await sim.get('a'), 3, 100)).toBe(true);
    sim.checkQuiet();
  });

  it('that ends after a later one of the same key wins: the order is that of the commits', async () => {
    const sim = await SimCache.start();
    const first = sim.reserve('a', 100) as PutTicket;
    const second = sim.reserve('a', 100) as PutTicket;
    sim.commit(second, payloadOf(2, 100));
    sim.commit(first, payloadOf(1, 100));
    expect(isPayload(await sim.get('a'), 1, 100)).toBe(true);
    sim.check();
  });
});

describe('A drain', () => {
  it('rejects puts, those that wait too, and answers probes with no', async () => {
    const sim = await SimCache.start({ ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB });
    for (let index = 0; index < 16; index += 1) await sim.put(`k${index}`, payloadOf(index, chunk));
    const waiting = sim.reserve('late', chunk) as Promise<unknown>;
    sim.cache.beginDrain();
    await settle();
    expect(await waiting).toMatchObject({ kind: 'rejected' });
    expect(sim.reserve('later', chunk)).toMatchObject({ kind: 'rejected', reason: 'draining' });
    expect(sim.probe('k3', 1)).toBeUndefined();
    expect(sim.cache.holdings()).toMatchObject({ waiting: 0, openTickets: 0 });
  });

  it('writes the hottest chain first, its prefix first', async () => {
    const sim = await SimCache.start({ limits: { writesAtOnce: 1 } });
    const refs: Record<string, { entry: number; generation: number }> = {};
    for (const name of ['cold0', 'cold1', 'hot0', 'hot1', 'hot2']) {
      const parent = refs[`${name.slice(0, -1)}${Number(name.at(-1)) - 1}`];
      await sim.put(name, payloadOf(name.length, chunk), parent === undefined ? {} : { parent });
      refs[name] = sim.peek(name)?.ref as { entry: number; generation: number };
    }
    await sim.get('cold1');
    await sim.get('hot2');
    const written: string[] = [];
    const closing = sim.cache.close(sim.clock.monotonicMs() + 10_000);
    let done = false;
    void closing.then(() => (done = true));
    await settle();
    while (!done) {
      for (const job of sim.io.jobs) if (job.kind === 'write' && !written.includes(job.path)) written.push(job.path);
      if (!(await sim.step())) await sim.clock.advance(10);
    }
    expect(await closing).toBe(0);
    const generations = written.map((path) => Number.parseInt(path.slice(-19, -3), 16));
    expect(generations).toEqual(['hot0', 'hot1', 'hot2', 'cold0', 'cold1'].map((name) => refs[name]?.generation));
  });

  it('ends at its deadline and tells what was lost, also where the device does not answer', async () => {
    const sim = await SimCache.start();
    for (let index = 0; index < 4; index += 1) await sim.put(`k${index}`, payloadOf(index, chunk));
    const closing = sim.cache.close(sim.clock.monotonicMs() + 5000);
    let lost = -1;
    void closing.then((bytes) => (lost = bytes));
    await sim.clock.advance(4900);
    expect(lost).toBe(-1);
    await sim.clock.advance(200);
    expect(lost).toBe(4 * chunk);
  });

  it('keeps the hottest where SSD is smaller than what is dirty', async () => {
    const sim = await SimCache.start({ admission: 'demote', ssdBytes: [5 * (chunk + 4 * KiB)] });
    for (let index = 0; index < 12; index += 1) await sim.put(`k${index}`, payloadOf(index, chunk));
    await sim.run(sim.cache.close(sim.clock.monotonicMs() + 60_000));
    sim.crash();
    await sim.restart();
    await sim.drainIo();
    const left = Array.from({ length: 12 }, (_, index) => (sim.peek(`k${index}`) === undefined ? '' : index)).filter(
      (index) => index !== '',
    );
    expect(left).toEqual([7, 8, 9, 10, 11]);
  });

  it('in time loses nothing: a restart finds all of it', async () => {
    const sim = await SimCache.start({ admission: 'demote' });
    for (let index = 0; index < 12; index += 1) await sim.put(`k${index}`, payloadOf(index, chunk));
    expect(await sim.run(sim.cache.close(sim.clock.monotonicMs() + 60_000))).toBe(0);
    sim.crash();
    await sim.restart();
    for (let index = 0; index < 12; index += 1) expect(isPayload(await sim.get(`k${index}`), index, chunk)).toBe(true);
  });
});

describe('Eviction from RAM', () => {
  const options = { ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB, admission: 'off', ssdBytes: [] } as const;

  it('begins where the index is full, although the memory is not: tiny values do not grow it without a bound', async () => {
    const sim = await SimCache.start({ limits: { maxChunks: 100 }, admission: 'demote' });
    for (let index = 0; index < 300; index += 1) expect(await sim.put(`tiny${index}`, payloadOf(index, 8))).toBe('stored');
    expect(sim.cache.chunkCount).toBe(100);
    expect(sim.peek('tiny299')).toBeDefined();
    expect(sim.peek('tiny199')).toBeUndefined();
    expect(sim.cache.control.stats().droppedDirtyChunks).toBe(200);
    await sim.run(sim.cache.control.evict('ram', { all: true }));
    for (let index = 300; index < 350; index += 1) await sim.put(`tiny${index}`, payloadOf(index, 8));
    expect(sim.cache.chunkCount).toBe(100);
    await sim.quiet(1000);
    sim.checkQuiet();
  });

  it('takes a chain from its tail, in whatever order its chunks were used', async () => {
    const sim = await SimCache.start(options);
    for (let index = 0; index < 6; index += 1) {
      const parent = sim.peek(`chain${index - 1}`)?.ref;
      await sim.put(`chain${index}`, payloadOf(index, chunk), parent === undefined ? {} : { parent });
    }
    for (const index of [5, 0, 3, 1, 4, 2]) await sim.get(`chain${index}`);
    const lost: number[] = [];
    for (let filler = 0; lost.length < 6 && filler < 100; filler += 1) {
      await sim.put(`filler${filler}`, payloadOf(filler, chunk));
      for (let index = 0; index < 6; index += 1) if (!lost.includes(index) && sim.peek(`chain${index}`) === undefined) lost.push(index);
    }
    // Whatever the uses, no chunk outlives the one before it.
    for (const [position, index] of lost.entries()) expect(lost.slice(0, position).every((earlier) => earlier > index)).toBe(true);
    expect(lost.toSorted((a, b) => a - b)).toEqual([0, 1, 2, 3, 4, 5]);
  });

  it('follows a change of sizes and back: 64 KiB, 1 MiB, 64 KiB', async () => {
    const sim = await SimCache.start({ ...options, ramBytes: 16 * MiB, maxChunkBytes: 4 * MiB });
    const store = async (name: string, sizeBytes: number, count: number): Promise<number> => {
      for (let index = 0; index < count; index += 1) expect(await sim.put(`${name}${index}`, payloadOf(index, sizeBytes))).toBe('stored');
      return Array.from({ length: count }, (_, index) => sim.peek(`${name}${index}`)).filter((found) => found !== undefined).length;
    };
    expect(await store('small', chunk, 300)).toBeGreaterThanOrEqual(224);
    expect(await store('large', MiB, 24)).toBeGreaterThanOrEqual(14);
    expect(await store('again', chunk, 300)).toBeGreaterThanOrEqual(224);
    expect(await store('larger', MiB, 24)).toBeGreaterThanOrEqual(14);
    sim.checkQuiet();
  });

  it('gives a class that uses a tenth of the memory about a tenth of it', async () => {
    const sim = await SimCache.start({ ...options, ramBytes: 16 * MiB, maxChunkBytes: 4 * MiB });
    for (let round = 0; round < 60; round += 1) {
      await sim.put(`large${round}`, payloadOf(round, MiB));
      for (let small = 0; small < 2; small += 1) await sim.put(`small${round}-${small}`, payloadOf(small, chunk));
    }
    const { chunks } = sim.cache.control.chunks({}, { limit: 10_000 });
    const bytes = (sizeBytes: number): number => chunks.filter((info) => info.sizeBytes === sizeBytes).length * sizeBytes;
    const share = bytes(chunk) / (bytes(chunk) + bytes(MiB));
    expect(share).toBeGreaterThan(0.04);
    expect(share).toBeLessThan(0.3);
    sim.checkQuiet();
  });
});
