import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Journal } from '#catalog/journal.ts';
import type { JournalReplay } from '#catalog/journal.ts';
import { encodeHead, encodeRecords, scanJournal } from '#catalog/journal-file.ts';
import { RECORD_FRAME_BYTES } from '#catalog/journal-record.ts';
import type { JournalRecord } from '#catalog/journal-record.ts';
import { hash, journalRecords, withStarts } from '#testsupport/journal-records.ts';
import { SimFileSystem } from '#testsupport/sim-file-system.ts';

const PATH = '/data/journal';

function fileOf(records: readonly JournalRecord[]): Uint8Array {
  const head = encodeHead(0, hash);
  const { bytes } = encodeRecords(records, head.tail, hash);
  const file = new Uint8Array(head.bytes.length + bytes.length);
  file.set(head.bytes);
  file.set(bytes, head.bytes.length);
  return file;
}

/** Groups of these sizes, and a last one with the rest. */
function regroup(records: readonly JournalRecord[], sizes: readonly number[]): JournalRecord[][] {
  let at = 0;
  const groups = sizes.map((size) => records.slice(at, (at += size)));
  return [...groups, records.slice(at)];
}

/** Offsets at which a record (or pad, or filler) ends: found by walking the frames, without the scanner. */
function boundariesOf(file: Uint8Array): Set<number> {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const boundaries = new Set<number>([32]);
  let at = 32;
  while (at < file.length) {
    const room = 4096 - (at % 4096);
    if (room < RECORD_FRAME_BYTES) at += room;
    else at += view.getUint32(at, true) + RECORD_FRAME_BYTES;
    boundaries.add(at);
  }
  return boundaries;
}

function openFile(file: Uint8Array, minimumSequence = 0): JournalReplay {
  const fileSystem = new SimFileSystem();
  fileSystem.mkdir('/data');
  fileSystem.plant(PATH, file);
  return Journal.open(fileSystem, PATH, hash, { minimumSequence }).replay;
}

describe('Journal', () => {
  test('gives back any records in order, however they were grouped, with growing sequence numbers', () => {
    const groups = fc.array(fc.array(journalRecords, { maxLength: 8 }), { maxLength: 12 });
    fc.assert(
      fc.property(groups, (drawn) => {
        const written = regroup(
          withStarts(drawn.flat()),
          drawn.map((group) => group.length),
        );
        const fileSystem = new SimFileSystem();
        fileSystem.mkdir('/data');
        const { journal } = Journal.open(fileSystem, PATH, hash);
        for (const group of written) {
          journal.appendAll(group);
          journal.checkInvariants();
        }
        const { replay } = Journal.open(fileSystem, PATH, hash);
        expect(replay.state).toBe('ok');
        expect(replay.records.map((entry) => entry.record)).toEqual(written.flat());
        const sequences = replay.records.map((entry) => entry.sequence);
        expect(sequences.every((sequence, index) => index === 0 || sequence > (sequences[index - 1] ?? 0))).toBe(true);
        expect(replay.records.at(-1)?.sequence ?? journal.sequence).toBe(journal.sequence);
      }),
      { numRuns: 60 },
    );
  });

  test('never lets a record of at most a page straddle two pages', () => {
    fc.assert(
      fc.property(fc.array(journalRecords, { minLength: 50, maxLength: 80, size: 'max' }), (records) => {
        const file = fileOf(records);
        const view = new DataView(file.buffer);
        let at = 32;
        while (at < file.length) {
          const room = 4096 - (at % 4096);
          if (room < RECORD_FRAME_BYTES) {
            at += room;
            continue;
          }
          const size = view.getUint32(at, true) + RECORD_FRAME_BYTES;
          if (size <= 4096) expect(size).toBeLessThanOrEqual(room);
          at += size;
        }
        expect(at).toBe(file.length);
      }),
      { numRuns: 30 },
    );
  });

  test('is damaged by a cut at any byte but the end of a record, and there too when the caller kept the mark', () => {
    const records = fc.array(journalRecords, { minLength: 1, maxLength: 10 });
    fc.assert(
      fc.property(records, (drawn) => {
        const written = withStarts(drawn);
        const file = fileOf(written);
        const boundaries = boundariesOf(file);
        const last = scanJournal(file, hash).tail.sequence;
        const step = Math.max(1, Math.floor(file.length / 400));
        const cuts = [...boundaries, ...Array.from({ length: Math.ceil(file.length / step) }, (_, index) => index * step)];
        for (const cut of cuts.filter((offset) => offset < file.length)) {
          const scan = scanJournal(file.subarray(0, cut), hash);
          expect(scan.problem === undefined).toBe(boundaries.has(cut));
          expect(scan.tail.sequence).toBeLessThan(last);
          expect(scan.entries.map((entry) => entry.record)).toEqual(written.slice(0, scan.entries.length));
        }
        const someBoundary = [...boundaries].at(-2) ?? 0;
        expect(openFile(file.subarray(0, someBoundary), last).state).toBe('damaged');
        expect(openFile(file, last).state).toBe('ok');
      }),
      { numRuns: 25 },
    );
  });

  test('is damaged by every single flipped bit', () => {
    fc.assert(
      fc.property(fc.array(journalRecords, { minLength: 1, maxLength: 6 }), fc.nat(), (written, salt) => {
        const file = fileOf(written);
        const bits = file.length * 8;
        const step = Math.max(1, Math.floor(bits / 2000));
        for (let bit = salt % step; bit < bits; bit += step) {
          const index = bit >> 3;
          file[index] = (file[index] ?? 0) ^ (1 << (bit & 7));
          expect(scanJournal(file, hash).problem).toBeDefined();
          file[index] = (file[index] ?? 0) ^ (1 << (bit & 7));
        }
        expect(scanJournal(file, hash).problem).toBeUndefined();
      }),
      { numRuns: 20 },
    );
  });

  test('is damaged when a record is left out, repeated or swapped with its neighbour', () => {
    fc.assert(
      fc.property(fc.array(journalRecords, { minLength: 3, maxLength: 3 }), fc.integer({ min: 0, max: 2 }), (written, which) => {
        const file = fileOf(written);
        const marks = [...boundariesOf(file)].sort((a, b) => a - b);
        const pieces = marks.slice(1).map((end, index) => file.subarray(marks[index] ?? 0, end));
        const head = file.subarray(0, 32);
        const concat = (parts: readonly Uint8Array[]): Uint8Array => new Uint8Array(Buffer.concat([head, ...parts]));
        const dropped = pieces.filter((_, index) => index !== Math.min(which, pieces.length - 2));
        const repeated = pieces.flatMap((piece, index) => (index === which ? [piece, piece] : [piece]));
        const swapped = [pieces[1], pieces[0], ...pieces.slice(2)].filter((piece) => piece !== undefined);
        for (const parts of [dropped, repeated, swapped]) expect(scanJournal(concat(parts), hash).problem).toBeDefined();
      }),
      { numRuns: 100 },
    );
  });

  test('never throws and never allocates on garbage, with or without a sound head', () => {
    const garbage = fc.uint8Array({ maxLength: 600 });
    fc.assert(
      fc.property(garbage, fc.boolean(), (bytes, withHead) => {
        const head = withHead ? encodeHead(0, hash).bytes : new Uint8Array();
        const file = new Uint8Array(Buffer.concat([head, bytes]));
        const scan = scanJournal(file, hash);
        expect(scan.problem === undefined).toBe(withHead && bytes.length === 0);
        expect(scan.entries).toEqual([]);
      }),
      { numRuns: 300 },
    );
  });
});
