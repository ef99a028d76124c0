import { describe, expect, test } from 'vitest';
import { InvariantError } from '#core/assert.ts';
import { KvtierError } from '#core/errors.ts';
import { Journal } from '#catalog/journal.ts';
import { encodeHead, encodeRecords, scanJournal } from '#catalog/journal-file.ts';
import { decodeBody, encodeBody, MAX_RECORD_BYTES, splitForget } from '#catalog/journal-record.ts';
import type { JournalRecord, NamespaceParts } from '#catalog/journal-record.ts';
import { hash } from '#testsupport/journal-records.ts';
import { SimFileSystem } from '#testsupport/sim-file-system.ts';

const PATH = '/data/journal';
const namespace: NamespaceParts = { grammar: 'opaque', tenant: 'default', keyPrefix: '', keyTail: '' };
const start: JournalRecord = { kind: 'start', epoch: 1, atMs: 1_700_000_000_000, bootId: 'boot' };
const forget = (generation: number, size = 8): JournalRecord => ({
  kind: 'forget',
  namespace,
  key: new Uint8Array(size).fill(7),
  generation,
});

function simFileSystem(): SimFileSystem {
  const fileSystem = new SimFileSystem();
  fileSystem.mkdir('/data');
  return fileSystem;
}

function reopen(fileSystem: SimFileSystem, minimumSequence = 0): ReturnType<typeof Journal.open> {
  return Journal.open(fileSystem, PATH, hash, { minimumSequence });
}

describe('Journal.open', () => {
  test('says new for a missing file and until the first start is written, ok from then on', () => {
    const fileSystem = simFileSystem();
    const fresh = { state: 'new', records: [], problem: '', highestEpoch: 0 };
    expect(reopen(fileSystem).replay).toEqual(fresh);
    const { journal, replay } = reopen(fileSystem);
    expect(replay).toEqual(fresh);
    journal.append(forget(1));
    expect(reopen(fileSystem).replay).toEqual(fresh);
    journal.append(start);
    const records = [forget(1), start].map((record, index) => ({ sequence: index + 1, record }));
    expect(reopen(fileSystem).replay).toEqual({ state: 'ok', records, problem: '', highestEpoch: 1 });
  });

  test('refuses a start whose epoch has been, also in a damaged journal before this one', () => {
    const fileSystem = simFileSystem();
    const { journal } = reopen(fileSystem);
    journal.append({ ...start, epoch: 6 });
    expect(() => journal.append({ ...start, epoch: 6 })).toThrow(InvariantError);
    fileSystem.plant(PATH, new Uint8Array([...(fileSystem.readFile(PATH) ?? []), 0]));
    const again = reopen(fileSystem);
    expect(again.replay.highestEpoch).toBe(6);
    expect(() => again.journal.append({ ...start, epoch: 5 })).toThrow(InvariantError);
    again.journal.append({ ...start, epoch: 7 });
  });

  test('begins behind the mark of the caller when the file is missing', () => {
    const { journal } = reopen(simFileSystem(), 41);
    expect(journal.append(start)).toBe(42);
  });

  test('sets a damaged file aside, goes on above its last good sequence and tells the highest epoch it saw', () => {
    const fileSystem = simFileSystem();
    const { journal } = reopen(fileSystem);
    journal.appendAll([{ ...start, epoch: 6 }, forget(1), forget(2)]);
    const file = fileSystem.readFile(PATH) ?? new Uint8Array();
    fileSystem.plant(PATH, file.subarray(0, file.length - 1));
    const again = reopen(fileSystem);
    expect(again.replay).toMatchObject({ state: 'damaged', records: [], highestEpoch: 6 });
    expect(again.replay.problem).toContain('are left');
    expect(again.journal.append({ ...start, epoch: 7 })).toBe(3);
    expect(fileSystem.readFile('/data/journal.damaged-1')?.length).toBe(file.length - 1);
    expect(reopen(fileSystem).replay.state).toBe('ok');
  });

  test('keeps the newest three damaged files', () => {
    const fileSystem = simFileSystem();
    for (let round = 1; round <= 5; round += 1) {
      fileSystem.plant(PATH, new Uint8Array([round]));
      expect(reopen(fileSystem).replay.state).toBe('damaged');
    }
    expect(fileSystem.list('/data')).toEqual(['journal', 'journal.damaged-3', 'journal.damaged-4', 'journal.damaged-5']);
    expect(fileSystem.readFile('/data/journal.damaged-5')).toEqual(new Uint8Array([5]));
  });

  test('takes a file that cannot be read for EIO as damaged and passes on a refusal', () => {
    const fileSystem = simFileSystem();
    reopen(fileSystem);
    fileSystem.failNext('readFile', 5);
    expect(reopen(fileSystem).replay.state).toBe('damaged');
    fileSystem.failNext('readFile', 13);
    expect(() => reopen(fileSystem)).toThrow(KvtierError);
  });

  test.each([
    ['empty', () => new Uint8Array()],
    ['of another magic', (file: Uint8Array) => file.with(0, 0x4b)],
    ['of zeroes behind the head', (file: Uint8Array) => new Uint8Array([...file, ...new Uint8Array(5000)])],
    ['followed by one byte', (file: Uint8Array) => new Uint8Array([...file, 1])],
  ])('takes a file %s as damaged', (_name, spoil) => {
    const fileSystem = simFileSystem();
    reopen(fileSystem).journal.append(start);
    fileSystem.plant(PATH, spoil(fileSystem.readFile(PATH) ?? new Uint8Array()));
    expect(reopen(fileSystem).replay.state).toBe('damaged');
  });

  test('takes an unknown format version, record version and record type as damaged although their checksums are right', () => {
    const head = encodeHead(0, hash);
    const withChecksum = (bytes: Uint8Array, seed: bigint): Uint8Array => {
      new DataView(bytes.buffer).setBigUint64(bytes.length - 8, hash(bytes.subarray(0, -8), seed), true);
      return bytes;
    };
    const newerHead = head.bytes.slice();
    newerHead[8] = 2;
    expect(scanJournal(withChecksum(newerHead, 0n), hash).problem).toContain('format version 2');
    for (const [offset, problem] of [
      [4, 'record type'],
      [6, 'record version'],
    ] as const) {
      const record = encodeRecords([start], head.tail, hash).bytes.slice();
      record[offset] = 200;
      const file = new Uint8Array([...head.bytes, ...withChecksum(record, head.tail.checksum)]);
      expect(scanJournal(file, hash).problem).toContain(problem);
    }
  });

  test('takes a body that is not exactly what it should be as damaged although the checksum is right', () => {
    const head = encodeHead(0, hash);
    const frame = (type: number, body: Uint8Array): Uint8Array => {
      const record = new Uint8Array(body.length + 24);
      const view = new DataView(record.buffer);
      view.setUint32(0, body.length, true);
      view.setUint16(4, type, true);
      view.setUint16(6, 1, true);
      view.setBigUint64(8, 1n, true);
      record.set(body, 16);
      view.setBigUint64(record.length - 8, hash(record.subarray(0, -8), head.tail.checksum), true);
      return new Uint8Array([...head.bytes, ...record]);
    };
    const body = encodeBody(start);
    const epochBody = encodeBody({ kind: 'epoch', model: 'm', epoch: 1, generation: 2 });
    const invalidate = encodeBody({
      kind: 'invalidate',
      id: 'a',
      generation: 1,
      selector: { all: true },
      reason: '',
      actor: '',
      atMs: 0,
      matchedChunks: 0,
      removedBytes: 0,
    });
    const nan = new Uint8Array(new Float64Array([Number.NaN]).buffer);
    expect(scanJournal(frame(2, body), hash).problem).toBeUndefined();
    const wrong: [string, number, Uint8Array][] = [
      ['1 bytes follow the last field', 2, new Uint8Array([...body, 0])],
      ['bytes wanted', 2, body.subarray(0, -1)],
      ['beyond 2^53', 2, body.with(6, 0x20)],
      ['not finite', 8, nan],
      ['not UTF-8', 7, epochBody.with(epochBody.length - 1, 0xff)],
      ['selector bits 0', 3, invalidate.with(invalidate.length - 4, 0)],
      ['selector bits 4097', 3, invalidate.with(invalidate.length - 3, 0x10)],
      ['pad record is not empty', 1, new Uint8Array([0, 1])],
      ['record type 0', 0, new Uint8Array()],
      ['announces', 1, new Uint8Array(MAX_RECORD_BYTES - 23)],
    ];
    for (const [problem, type, bytes] of wrong) expect(scanJournal(frame(type, bytes), hash).problem).toContain(problem);
    expect(scanJournal(frame(1, new Uint8Array(MAX_RECORD_BYTES - 24)), hash).problem).toBeUndefined();
  });

  test.each([1, 10, 23])('takes the last %i bytes of a page as filler, all of them and zero', (fillerBytes) => {
    const head = encodeHead(0, hash);
    const overhead = encodeBody(forget(1, 0)).length + 24;
    const first = encodeRecords([forget(1, 4096 - fillerBytes - 32 - overhead)], head.tail, hash);
    expect(first.tail.sizeBytes).toBe(4096 - fillerBytes);
    const second = encodeRecords([forget(2)], first.tail, hash);
    const file = new Uint8Array([...head.bytes, ...first.bytes, ...second.bytes]);
    expect(scanJournal(file, hash)).toMatchObject({ problem: undefined, tail: { sequence: 2 } });
    expect(scanJournal(file.with(4095, 1), hash).problem).toContain('filler is not zero');
    expect(scanJournal(file.subarray(0, 4096), hash)).toMatchObject({ problem: undefined, tail: { sequence: 1, sizeBytes: 4096 } });
    if (fillerBytes > 1) expect(scanJournal(file.subarray(0, 4095), hash).problem).toContain('ends in filler');
    const third = encodeRecords([forget(2)], scanJournal(file.subarray(0, 4096), hash).tail, hash);
    expect(scanJournal(new Uint8Array([...file.subarray(0, 4096), ...third.bytes]), hash).tail.sequence).toBe(2);
  });

  test('takes a gap in the sequence as damaged although the checksum is right', () => {
    const head = encodeHead(0, hash);
    const record = encodeRecords([start], { ...head.tail, sequence: 1 }, hash).bytes;
    expect(scanJournal(new Uint8Array([...head.bytes, ...record]), hash).problem).toBe('At byte 32: sequence 2 follows 0');
  });
});

describe('Journal.append', () => {
  test('leaves the file as it was when the disk is full in the middle of a record, and goes on when there is room', () => {
    const fileSystem = simFileSystem();
    const { journal } = reopen(fileSystem);
    journal.append(start);
    const sizeBytes = journal.sizeBytes;
    fileSystem.capacityBytes = sizeBytes + 30;
    expect(() => journal.append(forget(1))).toThrow(expect.objectContaining({ code: 'NO_SPACE' }));
    expect(fileSystem.sizeBytes(PATH)).toBe(sizeBytes);
    journal.checkInvariants();
    fileSystem.capacityBytes = Number.MAX_SAFE_INTEGER;
    journal.append(forget(2));
    expect(reopen(fileSystem).replay.records.map((entry) => entry.record)).toEqual([start, forget(2)]);
  });

  test('refuses everything after a half-written record that cannot be cut off, until it is compacted', async () => {
    const fileSystem = simFileSystem();
    const { journal } = reopen(fileSystem);
    fileSystem.failNext('append', 5, { partialBytes: 3 });
    fileSystem.failNext('truncate', 5);
    expect(() => journal.append(forget(1))).toThrow(expect.objectContaining({ code: 'IO_FAILED' }));
    expect(() => journal.append(forget(2))).toThrow(journal.failure?.message ?? 'no failure');
    await expect(journal.sync()).resolves.toBeUndefined();
    journal.compact([start]);
    expect(journal.failure).toBeUndefined();
    journal.append(forget(3));
    journal.checkInvariants();
    expect(reopen(fileSystem).replay.records.map((entry) => entry.record)).toEqual([start, forget(3)]);
  });

  test('refuses a record over 1 MiB, text with a lone surrogate and an empty selector, and writes nothing', () => {
    const fileSystem = simFileSystem();
    const { journal } = reopen(fileSystem);
    const invalidate = {
      kind: 'invalidate',
      id: 'a',
      generation: 1,
      reason: '',
      actor: '',
      atMs: 0,
      matchedChunks: 0,
      removedBytes: 0,
    } as const;
    expect(() => journal.append(forget(1, MAX_RECORD_BYTES))).toThrow(expect.objectContaining({ code: 'PAYLOAD_TOO_LARGE' }));
    expect(() => journal.append({ ...invalidate, selector: { model: '\ud800' } })).toThrow(
      expect.objectContaining({ code: 'BAD_REQUEST' }),
    );
    expect(() => journal.append({ ...invalidate, selector: {} })).toThrow(expect.objectContaining({ code: 'BAD_REQUEST' }));
    expect(journal.sequence).toBe(0);
    journal.checkInvariants();
  });

  test('takes the largest record there can be', () => {
    const fileSystem = simFileSystem();
    const { journal } = reopen(fileSystem);
    const overhead = encodeBody(forget(1, 0)).length + 24;
    journal.append(start);
    journal.append(forget(1, MAX_RECORD_BYTES - overhead));
    expect(() => journal.append(forget(2, MAX_RECORD_BYTES - overhead + 1))).toThrow(KvtierError);
    expect(reopen(fileSystem).replay.records.length).toBe(2);
  });

  test('splits many keys into records that all fit, and loses none', () => {
    const keys = Array.from({ length: 9000 }, (_, index) => new Uint8Array(150).fill(index % 251));
    const records = splitForget(namespace, keys, 5);
    expect(records.length).toBeGreaterThan(4);
    expect(records.flatMap((record) => record.keys)).toEqual(keys);
    const fileSystem = simFileSystem();
    reopen(fileSystem).journal.appendAll([start, ...records]);
    expect(reopen(fileSystem).replay.records.map((entry) => entry.record)).toEqual([start, ...records]);
    expect(splitForget(namespace, [], 5)).toEqual([]);
  });

  test('keeps a key that begins with a byte order mark as it is', () => {
    const record: JournalRecord = { kind: 'epoch', model: '\ufeffmodel', epoch: 1, generation: 2 };
    expect(decodeBody(7, 1, encodeBody(record))).toEqual(record);
  });
});

describe('Journal.sync', () => {
  test('makes everything before the call survive a power cut', async () => {
    const fileSystem = simFileSystem();
    const { journal } = reopen(fileSystem);
    journal.append(start);
    await journal.sync();
    journal.append(forget(9));
    fileSystem.powerCut();
    expect(reopen(fileSystem).replay.records.map((entry) => entry.record)).toEqual([start]);
  });

  test('lets callers of one turn share a sync, and a caller during it wait for the next', async () => {
    const fileSystem = simFileSystem();
    const { journal } = reopen(fileSystem);
    journal.append(start);
    const before = fileSystem.operationCount;
    const first = [journal.sync(), journal.sync(), journal.sync()];
    fileSystem.holdSyncs();
    await Promise.resolve();
    await Promise.resolve();
    journal.append(forget(1));
    const late = journal.sync();
    expect(journal.syncedSequence).toBe(0);
    fileSystem.releaseSyncs();
    await Promise.all([...first, late]);
    expect(journal.syncedSequence).toBe(2);
    expect(fileSystem.operationCount - before).toBe(3);
    fileSystem.powerCut();
    expect(reopen(fileSystem).replay.records.length).toBe(2);
  });

  test('fails all who share it, and the journal with them, until it is compacted', async () => {
    const fileSystem = simFileSystem();
    const { journal } = reopen(fileSystem);
    journal.append(start);
    fileSystem.failNext('sync', 5);
    const outcomes = await Promise.allSettled([journal.sync(), journal.sync()]);
    expect(outcomes.map((outcome) => outcome.status)).toEqual(['rejected', 'rejected']);
    await expect(journal.sync()).rejects.toBe(journal.failure);
    expect(() => journal.append(forget(1))).toThrow(KvtierError);
    journal.compact([start]);
    await journal.sync();
    expect(journal.syncedSequence).toBe(journal.sequence);
  });
});

describe('Journal.close', () => {
  test('waits for a sync under way, and closes once', async () => {
    const fileSystem = simFileSystem();
    const { journal } = reopen(fileSystem);
    journal.append(start);
    fileSystem.holdSyncs();
    const synced = journal.sync();
    await Promise.resolve();
    await Promise.resolve();
    const closed = Promise.all([journal.close(), journal.close()]);
    fileSystem.releaseSyncs();
    await Promise.all([synced, closed]);
    expect(fileSystem.failedSyncs).toBe(0);
    expect(() => journal.append(start)).toThrow(InvariantError);
  });
});

describe('Journal.compact', () => {
  test('refuses to lose the last start', () => {
    const { journal } = reopen(simFileSystem());
    journal.append(start);
    expect(() => journal.compact([forget(1)])).toThrow(InvariantError);
  });

  test('keeps only the live records, under new numbers, durably', () => {
    const fileSystem = simFileSystem();
    const { journal } = reopen(fileSystem);
    journal.append(start);
    for (let generation = 1; generation <= 100; generation += 1) journal.append(forget(generation));
    const before = { sequence: journal.sequence, sizeBytes: journal.sizeBytes };
    journal.compact([start, forget(100)]);
    expect(journal.sequence).toBe(before.sequence + 2);
    expect(journal.sizeBytes).toBeLessThan(before.sizeBytes);
    journal.checkInvariants();
    fileSystem.powerCut();
    const { replay } = reopen(fileSystem, before.sequence + 2);
    expect(replay.records).toEqual([
      { sequence: before.sequence + 1, record: start },
      { sequence: before.sequence + 2, record: forget(100) },
    ]);
  });

  test('is due past the threshold and past twice the size after the last one', () => {
    const fileSystem = simFileSystem();
    const { journal } = Journal.open(fileSystem, PATH, hash, { compactionBytes: 1000 });
    journal.append(start);
    journal.append(forget(1, 800));
    expect(journal.needsCompaction).toBe(false);
    journal.append(forget(2, 900));
    expect(journal.needsCompaction).toBe(true);
    journal.compact([start, forget(1, 900), forget(2, 900)]);
    expect(journal.needsCompaction).toBe(false);
    journal.append(forget(3, 2100));
    expect(journal.needsCompaction).toBe(true);
  });

  test('lets a sync of the old file end before that file is closed, and counts its records as durable', async () => {
    const fileSystem = simFileSystem();
    const { journal } = reopen(fileSystem);
    journal.append(start);
    fileSystem.holdSyncs();
    const synced = journal.sync();
    await Promise.resolve();
    await Promise.resolve();
    journal.compact([start]);
    journal.append(forget(1));
    fileSystem.releaseSyncs();
    await synced;
    await journal.sync();
    expect(fileSystem.failedSyncs).toBe(0);
    fileSystem.powerCut();
    expect(reopen(fileSystem).replay.records.map((entry) => entry.record)).toEqual([start, forget(1)]);
  });

  test('goes on with the old file when the new one cannot be written', () => {
    const fileSystem = simFileSystem();
    const { journal } = reopen(fileSystem);
    journal.append(start);
    fileSystem.failNext('append', 28, { path: `${PATH}.tmp` });
    expect(() => journal.compact([start])).toThrow(expect.objectContaining({ code: 'NO_SPACE' }));
    journal.append(forget(1));
    journal.checkInvariants();
    expect(reopen(fileSystem).replay.records.map((entry) => entry.record)).toEqual([start, forget(1)]);
  });

  test('appends nothing when the new file is in place but its name is not durable, until a compaction succeeds', () => {
    const fileSystem = simFileSystem();
    const { journal } = reopen(fileSystem);
    journal.append(start);
    fileSystem.failNext('syncFolder', 5);
    expect(() => journal.compact([start])).toThrow(KvtierError);
    expect(() => journal.append(forget(1))).toThrow(KvtierError);
    expect(journal.sequence).toBe(2);
    journal.compact([start]);
    expect(journal.append(forget(2))).toBe(4);
    journal.checkInvariants();
    expect(reopen(fileSystem).replay.records.map((entry) => entry.record)).toEqual([start, forget(2)]);
  });
});

describe('Journal on a disk that does not answer', () => {
  const ETIMEDOUT = 110;

  test('appends nothing behind what may still be written, until it is rewritten', () => {
    const fileSystem = simFileSystem();
    const { journal } = reopen(fileSystem);
    journal.append(start);
    fileSystem.failNext('append', ETIMEDOUT, { partialBytes: 3 });
    expect(() => journal.append(forget(1))).toThrow('ETIMEDOUT');
    expect(journal.failure?.message).toContain('does not answer');
    expect(() => journal.append(forget(2))).toThrow('nothing is journaled until it is rewritten');
    journal.compact([start, forget(3)]);
    journal.append(forget(4));
    journal.checkInvariants();
    expect(reopen(fileSystem).replay.records.map(({ record }) => record)).toEqual([start, forget(3), forget(4)]);
  });

  test('appends nothing to a file that a compaction may still replace', () => {
    const fileSystem = simFileSystem();
    const { journal } = reopen(fileSystem);
    journal.append(start);
    fileSystem.failNext('append', ETIMEDOUT, { path: `${PATH}.tmp` });
    expect(() => journal.compact([start])).toThrow('ETIMEDOUT');
    expect(() => journal.append(forget(1))).toThrow('nothing is journaled until it is rewritten');
    journal.compact([start]);
    journal.append(forget(1));
    journal.checkInvariants();
  });
});
