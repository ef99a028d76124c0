import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Journal } from '#catalog/journal.ts';
import { encodeBody, RECORD_FRAME_BYTES } from '#catalog/journal-record.ts';
import type { JournalRecord } from '#catalog/journal-record.ts';
import { hash, journalRecords, withStarts } from '#testsupport/journal-records.ts';
import { SimFileSystem, SimStop } from '#testsupport/sim-file-system.ts';

const PATH = '/data/journal';

type Step =
  | { readonly kind: 'append'; readonly records: readonly JournalRecord[] }
  | { readonly kind: 'sync' }
  | { readonly kind: 'compact'; readonly keep: number };

const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof(
    {
      weight: 4,
      arbitrary: fc.record({ kind: fc.constant('append' as const), records: fc.array(journalRecords, { minLength: 1, maxLength: 4 }) }),
    },
    { weight: 3, arbitrary: fc.constant({ kind: 'sync' as const }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('compact' as const), keep: fc.nat({ max: 5 }) }) },
  ),
  { minLength: 1, maxLength: 14 },
);

/** What a reader may find after the crash: histories, and in each how many records are surely there. */
interface History {
  readonly records: JournalRecord[];
  durable: number;
}

async function runUntilStop(
  fileSystem: SimFileSystem,
  plan: readonly Step[],
  stopAfter: number,
): Promise<{ histories: History[]; acknowledged: number }> {
  const { journal } = Journal.open(fileSystem, PATH, hash);
  let current: History = { records: [], durable: 0 };
  let pending: History | undefined;
  let starts = 0;
  fileSystem.stopAfter(stopAfter);
  try {
    for (const step of plan) {
      if (step.kind === 'append') {
        const records = withStarts(step.records, starts);
        starts += records.filter((record) => record.kind === 'start').length;
        current.records.push(...records);
        journal.appendAll(records);
      } else if (step.kind === 'sync') {
        await journal.sync();
        current.durable = current.records.length;
      } else {
        const last = current.records.findLast((record) => record.kind === 'start');
        if (last === undefined) continue;
        const live = [last, ...current.records.slice(-step.keep).filter((record) => record.kind !== 'start')];
        pending = { records: [...live], durable: live.length };
        journal.compact(live);
        current = pending;
        pending = undefined;
      }
    }
  } catch (error) {
    if (!(error instanceof SimStop)) throw error;
  }
  return { histories: pending === undefined ? [current] : [current, pending], acknowledged: journal.sequence };
}

function explains(history: History, found: readonly JournalRecord[]): boolean {
  if (found.length < history.durable || found.length > history.records.length) return false;
  return found.every((record, index) => Bun.deepEquals(record, history.records[index], true));
}

describe('Journal after a crash', () => {
  test('keeps what was synced and shows the old or the new file, or says damaged, when power fails at any operation', async () => {
    const cut = fc.record({ keep: fc.double({ min: 0, max: 1, noNaN: true }), names: fc.nat({ max: 3 }) });
    await fc.assert(
      fc.asyncProperty(steps, fc.integer({ min: 1, max: 60 }), cut, async (plan, stopAfter, { keep, names }) => {
        const fileSystem = new SimFileSystem();
        fileSystem.mkdir('/data');
        const { histories } = await runUntilStop(fileSystem, plan, stopAfter);
        fileSystem.powerCut({
          content: (_path, durable, cached) => cached.subarray(0, durable.length + Math.round((cached.length - durable.length) * keep)),
          names: () => names,
        });
        const { journal, replay } = Journal.open(fileSystem, PATH, hash);
        journal.checkInvariants();
        if (replay.state === 'damaged') expect(keep).toBeGreaterThan(0);
        else
          expect(
            histories.some((history) =>
              explains(
                history,
                replay.records.map((entry) => entry.record),
              ),
            ),
          ).toBe(true);
      }),
      { numRuns: 150 },
    );
  });

  test('loses nothing and is never damaged when the process is killed at any operation', async () => {
    await fc.assert(
      fc.asyncProperty(steps, fc.integer({ min: 1, max: 60 }), async (plan, stopAfter) => {
        const fileSystem = new SimFileSystem();
        fileSystem.mkdir('/data');
        const { histories, acknowledged } = await runUntilStop(fileSystem, plan, stopAfter);
        fileSystem.restart();
        const { replay } = Journal.open(fileSystem, PATH, hash, { minimumSequence: acknowledged });
        expect(replay.state).not.toBe('damaged');
        expect(
          histories.some((history) =>
            explains(
              history,
              replay.records.map((entry) => entry.record),
            ),
          ),
        ).toBe(true);
      }),
      { numRuns: 100 },
    );
  });

  test('is sound when a kill stops the copy of a record into the page cache at a page, unless the record is over a page', () => {
    let tears = 0;
    fc.assert(
      fc.property(fc.array(journalRecords, { minLength: 120, maxLength: 160, size: 'max' }), (drawn) => {
        const fileSystem = new SimFileSystem();
        fileSystem.mkdir('/data');
        const { journal } = Journal.open(fileSystem, PATH, hash);
        for (const record of withStarts(drawn)) {
          const before = journal.sizeBytes;
          journal.append(record);
          const page = Math.ceil((before + 1) / 4096) * 4096;
          if (page >= journal.sizeBytes || encodeBody(record).length + RECORD_FRAME_BYTES > 4096) continue;
          tears += 1;
          const torn = new SimFileSystem();
          torn.mkdir('/data');
          torn.plant(PATH, (fileSystem.readFile(PATH) ?? new Uint8Array()).subarray(0, page));
          expect(Journal.open(torn, PATH, hash).replay.problem).toBe('');
        }
      }),
      { numRuns: 20 },
    );
    expect(tears).toBeGreaterThan(20);
  });

  test('asks for the files to be dropped again when the process ends anywhere between a damaged journal and its first start', () => {
    for (let stopAfter = 1; stopAfter <= 20; stopAfter += 1) {
      const fileSystem = new SimFileSystem();
      fileSystem.mkdir('/data');
      fileSystem.plant(PATH, new Uint8Array([1, 2, 3]));
      fileSystem.stopAfter(stopAfter);
      let started = false;
      try {
        const { journal } = Journal.open(fileSystem, PATH, hash);
        journal.append({ kind: 'folderDropped', folderId: 'a', generation: 1 });
        journal.append({ kind: 'start', epoch: 1, atMs: 0, bootId: '' });
        started = true;
      } catch (error) {
        if (!(error instanceof SimStop)) throw error;
      }
      fileSystem.restart();
      expect(Journal.open(fileSystem, PATH, hash).replay.state === 'ok').toBe(started);
    }
  });
});
