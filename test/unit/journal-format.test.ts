import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { encodeHead, encodeRecords, scanJournal } from '#catalog/journal-file.ts';
import type { JournalRecord } from '#catalog/journal-record.ts';
import { hash } from '#testsupport/journal-records.ts';

const namespace = { grammar: 'object-key', tenant: 't', keyPrefix: 'm@', keyTail: '' } as const;
/** The records whose bytes stand in docs/formats/journal.md. */
const records: readonly JournalRecord[] = [
  { kind: 'start', epoch: 3, atMs: 1_700_000_000_000, bootId: 'b' },
  {
    kind: 'invalidate',
    id: 'i1',
    generation: 2 ** 32 + 1,
    selector: { model: 'm', keys: ['k'], olderThan: 1.5, tier: 'ssd' },
    reason: 'r',
    actor: 'admin',
    atMs: 1,
    matchedChunks: 2,
    removedBytes: 4096,
  },
  { kind: 'forget', namespace, key: new Uint8Array([1, 255]), generation: 5 },
  { kind: 'forgetMany', namespace, keys: [new Uint8Array([1]), new Uint8Array()], generation: 6 },
  { kind: 'folderDropped', folderId: 'f', generation: 7 },
  { kind: 'epoch', model: 'm', epoch: 1, generation: 8 },
  { kind: 'cleanStop', atMs: 2 },
  { kind: 'expire', generation: 9, expiresAtMs: 1_700_000_060_000 },
  { kind: 'clock', atMs: 1_700_000_000_001 },
  { kind: 'quota', tenant: 't', ramBytes: 4096, ssdBytes: undefined },
  { kind: 'pin', mode: 'hard', generations: [2 ** 32 + 1, 9] },
];

const page = readFileSync(new URL('../../docs/formats/journal.md', import.meta.url), 'utf8');
const block = /```vectors\n([^`]*)```/.exec(page)?.[1] ?? '';
const vectors = block
  .trim()
  .split('\n')
  .map((line) => line.split(/\s+/) as [string, string]);

describe('The journal format', () => {
  test('has the bytes that its page shows', () => {
    const head = encodeHead(41, hash);
    const written: [string, string][] = [['head', Buffer.from(head.bytes).toString('hex')]];
    let tail = head.tail;
    for (const record of records) {
      const encoded = encodeRecords([record], tail, hash);
      written.push([record.kind, Buffer.from(encoded.bytes).toString('hex')]);
      tail = encoded.tail;
    }
    expect(written).toEqual(vectors);
  });

  test('reads the bytes that its page shows', () => {
    const file = new Uint8Array(Buffer.from(vectors.map(([, hex]) => hex).join(''), 'hex'));
    const scan = scanJournal(file, hash);
    expect(scan.problem).toBeUndefined();
    expect(scan.entries).toEqual(records.map((record, index) => ({ sequence: 42 + index, record })));
  });

  test('has a row in its page for every record type', () => {
    for (const kind of new Set(records.map((record) => record.kind))) expect(page).toMatch(new RegExp(`\\| \\d+ \\| ${kind} \\|`));
  });
});
