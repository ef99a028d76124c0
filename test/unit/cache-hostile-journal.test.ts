/** A start on a journal with records that are whole and mad: it starts, and what any record has ended is not served. */
import { describe, expect, it } from 'vitest';
import { encodeRecords, scanJournal } from '#catalog/journal-file.ts';
import type { JournalRecord } from '#catalog/journal-record.ts';
import { KiB } from '#core/bytes.ts';
import { MAX_EPOCH } from '#core/epoch.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';
import { isPayload, payloadOf, SimCache, simHash } from '#testsupport/sim-cache.ts';

const chunk = 64 * KiB;
const MAX = Number.MAX_SAFE_INTEGER;
const opaque = { grammar: 'opaque', tenant: 'default', keyPrefix: '', keyTail: '' } as NamespaceDescriptor;
const key = (text: string): Uint8Array => new TextEncoder().encode(text);

/** Six chunks on SSD, the process ended, the records put behind its own, another process started. */
async function startedOn(records: (generationOf: (index: number) => number, sim: SimCache) => readonly JournalRecord[]): Promise<SimCache> {
  const sim = await SimCache.start();
  for (let index = 0; index < 6; index += 1) await sim.put(`k${index}`, payloadOf(index, chunk));
  await sim.quiet(5000);
  const generations = Array.from({ length: 6 }, (_, index) => sim.peek(`k${index}`)?.ref.generation ?? 0);
  sim.crash();
  const { tail } = scanJournal(sim.disk.readFile('/data/journal') ?? new Uint8Array(), simHash);
  const file = sim.disk.openAppend('/data/journal');
  file.append(
    encodeRecords(
      records((index) => generations[index] ?? 0, sim),
      tail,
      simHash,
    ).bytes,
  );
  file.close();
  await sim.restart();
  await sim.quiet(1000);
  return sim;
}

async function served(sim: SimCache): Promise<number[]> {
  const found: number[] = [];
  for (let index = 0; index < 6; index += 1) if (isPayload(await sim.get(`k${index}`), index, chunk)) found.push(index);
  return found;
}

/** It still works: lists, stores, ends, and starts again with what was there. */
async function goesOn(sim: SimCache, wanted: readonly number[]): Promise<void> {
  expect(await served(sim)).toEqual(wanted);
  for (const { expiresAtMs } of sim.cache.control.chunks({}, { limit: 100 }).chunks)
    expect(Number.isSafeInteger(expiresAtMs ?? 0)).toBe(true);
  expect(await sim.put('new', payloadOf(9, chunk))).toBe('stored');
  await sim.quiet(5000);
  sim.check();
  sim.crash();
  await sim.restart();
  await sim.quiet(1000);
  expect(await served(sim)).toEqual(wanted);
  sim.check();
}

describe('A journal', () => {
  it('whose folder records come out of order: the newest counts', async () => {
    const started = await startedOn((generationOf, sim) => {
      const mark = new TextDecoder().decode(sim.disk.readFile('/ssd0/kv/kvtier-folder.json'));
      const folderId = /"id":"([0-9a-f]+)"/.exec(mark)?.[1] ?? '';
      return [
        { kind: 'folderDropped', folderId, generation: generationOf(3) },
        { kind: 'folderDropped', folderId, generation: 1 },
      ];
    });
    await goesOn(started, [4, 5]);
  });

  it('with forget and invalidate records out of order and twice, and of generations at the end of numbers', async () => {
    const sim = await startedOn((generationOf) => {
      const invalidate = {
        kind: 'invalidate',
        id: 'i',
        reason: '',
        actor: 'admin',
        atMs: 1e300,
        matchedChunks: MAX,
        removedBytes: MAX,
      } as const;
      return [
        { kind: 'forget', namespace: opaque, key: key('k0'), generation: MAX },
        { kind: 'forget', namespace: opaque, key: key('k0'), generation: 0 },
        { kind: 'forgetMany', namespace: opaque, keys: [key('k1'), key('k1')], generation: generationOf(1) },
        { kind: 'forgetMany', namespace: opaque, keys: [key('k1')], generation: 0 },
        { ...invalidate, selector: { keys: ['k2'] }, generation: MAX },
        { ...invalidate, selector: { keys: ['k2'] }, generation: 0 },
        { ...invalidate, selector: { all: true }, generation: 0 },
        { ...invalidate, selector: { keyPrefix: 'k3' }, generation: generationOf(3) },
        { ...invalidate, selector: { all: true }, generation: -0 },
      ];
    });
    await goesOn(sim, [4, 5]);
  });

  it.each([
    [-1, [1, 2, 3, 4, 5]],
    [-1e300, [1, 2, 3, 4, 5]],
    [Number.MIN_VALUE, [1, 2, 3, 4, 5]],
    [1e300, [0, 1, 2, 3, 4, 5]],
    [Number.MAX_VALUE, [0, 1, 2, 3, 4, 5]],
  ])('that says that a chunk ends at %d', async (expiresAtMs, wanted) => {
    const sim = await startedOn((generationOf) => [
      { kind: 'expire', generation: generationOf(0), expiresAtMs: 0 },
      { kind: 'expire', generation: generationOf(0), expiresAtMs },
      { kind: 'expire', generation: MAX, expiresAtMs },
    ]);
    await goesOn(sim, wanted);
  });

  it.each([-1e300, 1e300, Number.MAX_VALUE])('whose clock has been at %d: what has no end is there, and time is a number', async (atMs) => {
    const sim = await startedOn((generationOf) => [
      { kind: 'clock', atMs },
      { kind: 'clock', atMs: 0 },
      { kind: 'expire', generation: generationOf(0), expiresAtMs: 1 },
    ]);
    expect(Number.isSafeInteger(sim.cache.expiryNowMs())).toBe(true);
    await goesOn(sim, [1, 2, 3, 4, 5]);
  });

  it('with quotas and pins of everything and nothing', async () => {
    const sim = await startedOn((generationOf) => [
      { kind: 'quota', tenant: 'nobody', ramBytes: MAX, ssdBytes: 0 },
      { kind: 'quota', tenant: '', ramBytes: 0, ssdBytes: MAX },
      { kind: 'quota', tenant: 'default', ramBytes: MAX, ssdBytes: MAX },
      { kind: 'pin', mode: 'hard', generations: [0, MAX, generationOf(0), generationOf(0), 7] },
      { kind: 'pin', mode: 'soft', generations: [] },
      { kind: 'pin', mode: 'none', generations: [MAX, 3] },
    ]);
    await goesOn(sim, [0, 1, 2, 3, 4, 5]);
  });

  it.each([MAX_EPOCH + 1, 2 ** 31, MAX])(
    'of epoch %d leaves no generations: it is damaged, and nothing that was there is served',
    async (epoch) => {
      const sim = await startedOn(() => [{ kind: 'start', epoch, atMs: 0, bootId: '' }]);
      expect(sim.life.findings.join()).toContain('The journal is damaged');
      expect(await served(sim)).toEqual([]);
      expect(await sim.put('new', payloadOf(9, chunk))).toBe('stored');
      sim.check();
    },
  );
});

it('A folder whose mark is of an epoch that leaves no generations is as good as new', async () => {
  const sim = await SimCache.start();
  await sim.put('k0', payloadOf(0, chunk));
  await sim.quiet(5000);
  sim.crash();
  const path = '/ssd0/kv/kvtier-folder.json';
  const mark = JSON.parse(new TextDecoder().decode(sim.disk.readFile(path))) as { epoch: number };
  sim.disk.writeFileAtomic(path, new TextEncoder().encode(JSON.stringify({ ...mark, epoch: MAX })));
  await sim.restart();
  await sim.quiet(1000);
  expect(await served(sim)).toEqual([]);
  expect(await sim.put('new', payloadOf(9, chunk))).toBe('stored');
  sim.check();
});
