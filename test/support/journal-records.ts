/** Arbitrary journal records for property tests. */
import fc from 'fast-check';
import type { BlockHash } from '#core/checksum.ts';
import { MAX_EPOCH } from '#core/epoch.ts';
import type { JournalRecord, NamespaceParts } from '#catalog/journal-record.ts';
import type { Selector } from '#core/selector.ts';

export const hash: BlockHash = (block, seed) => Bun.hash.xxHash3(block, seed);

const text = (maxLength = 40): fc.Arbitrary<string> => fc.string({ unit: 'grapheme', maxLength });
const whole = fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER });
const time = fc.double({ noNaN: true, noDefaultInfinity: true });
const key = fc.uint8Array({ maxLength: 200 });

export const namespaceParts: fc.Arbitrary<NamespaceParts> = fc.record({
  grammar: fc.constantFrom('object-key' as const, 'cache-engine-key' as const, 'opaque' as const),
  tenant: text(),
  keyPrefix: text(),
  keyTail: text(),
});

export const selectors: fc.Arbitrary<Selector> = fc
  .record(
    {
      all: fc.constant(true as const),
      model: text(),
      modelPrefix: text(),
      tenant: text(),
      namespace: text(),
      keys: fc.array(text(), { maxLength: 5 }),
      keyPrefix: text(),
      chainFrom: text(),
      tag: text(),
      olderThan: time,
      createdBefore: time,
      tier: fc.constantFrom('hbm' as const, 'ram' as const, 'ssd' as const),
    },
    { requiredKeys: [] },
  )
  .filter((selector) => Object.keys(selector).length > 0);

export const journalRecords: fc.Arbitrary<JournalRecord> = fc.oneof(
  fc.record({ kind: fc.constant('start' as const), epoch: fc.nat(MAX_EPOCH), atMs: time, bootId: text() }),
  fc.record({
    kind: fc.constant('invalidate' as const),
    id: text(),
    generation: whole,
    selector: selectors,
    reason: text(),
    actor: text(),
    atMs: time,
    matchedChunks: whole,
    removedBytes: whole,
  }),
  fc.record({ kind: fc.constant('forget' as const), namespace: namespaceParts, key, generation: whole }),
  fc.record({
    kind: fc.constant('forgetMany' as const),
    namespace: namespaceParts,
    keys: fc.array(key, { maxLength: 60 }),
    generation: whole,
  }),
  fc.record({ kind: fc.constant('folderDropped' as const), folderId: text(), generation: whole }),
  fc.record({ kind: fc.constant('epoch' as const), model: text(), epoch: whole, generation: whole }),
  fc.record({ kind: fc.constant('cleanStop' as const), atMs: time }),
  fc.record({ kind: fc.constant('expire' as const), generation: whole, expiresAtMs: time }),
  fc.record({ kind: fc.constant('clock' as const), atMs: time }),
  fc.record({
    kind: fc.constant('quota' as const),
    tenant: text(),
    ramBytes: fc.option(whole, { nil: undefined }),
    ssdBytes: fc.option(whole, { nil: undefined }),
  }),
  fc.record({
    kind: fc.constant('pin' as const),
    mode: fc.constantFrom('none' as const, 'soft' as const, 'hard' as const),
    generations: fc.array(whole, { maxLength: 60 }),
  }),
);

/** The same records with start epochs that grow from 1, as a journal wants them; a start is put first. */
export function withStarts(records: readonly JournalRecord[], epoch = 0): JournalRecord[] {
  let next = epoch;
  const first: JournalRecord = { kind: 'start', epoch: 1, atMs: 0, bootId: '' };
  const all = epoch === 0 ? [first, ...records] : records;
  return all.map((record) => (record.kind === 'start' ? { ...record, epoch: (next += 1) } : record));
}
