/**
 * A journal whose checksums are right and whose records are a stranger's: extreme values, duplicates, generations out of order, kinds that
 * nobody knows. It is replayed, judged, compacted and replayed again. Whatever a record has ended stays so, by a naive reading of all of them.
 */
import fc from 'fast-check';
import { ExpiryClock } from '#cache/expiry-clock.ts';
import { MAX_EXPIRES_AT_MS } from '#cache/expiry-bounds.ts';
import { Tombstones } from '#cache/tombstones.ts';
import { encodeHead, encodeRecords } from '#catalog/journal-file.ts';
import { Journal } from '#catalog/journal.ts';
import type { JournalRecord } from '#catalog/journal-record.ts';
import { MAX_EPOCH } from '#core/epoch.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';
import type { Selector } from '#core/selector.ts';
import { hash, journalRecords } from '#testsupport/journal-records.ts';
import { SimClock } from '#testsupport/sim-clock.ts';
import { SimFileSystem } from '#testsupport/sim-file-system.ts';
import { mendJournal } from './file-targets.ts';
import { demand, demandEqual, type Check, type FuzzTarget } from './harness.ts';

const encoder = new TextEncoder();
const PATH = '/journal';
const EPOCH = 2 ** 32;
/** Of files and records, so that they meet; the first epoch's, and the ends of what a number holds. */
const generations = [0, 1, EPOCH, EPOCH + 1, EPOCH + 2, 2 * EPOCH, 2 ** 52, Number.MAX_SAFE_INTEGER - 1, Number.MAX_SAFE_INTEGER];
const times = [0, -1, 1, 1.5, 1_900_000_000_000, 8.64e15, 1e100, Number.MAX_VALUE, -Number.MAX_VALUE, Number.MIN_VALUE];
const keys = ['a', 'b', 'ab'];
const tenants = ['default', '@acme'];
const folders = ['f', 'g', ''];

function namespaceOf(tenant: string): NamespaceDescriptor {
  const nothing = { model: '', rank: '', group: '', dtype: '', layer: '', tags: {}, keyPrefix: '', keyTail: '' };
  return { grammar: 'opaque', tenant, ...nothing };
}

const generation = fc.constantFrom(...generations);
const time = fc.constantFrom(...times);
const tenant = fc.constantFrom(...tenants);
const key = fc.constantFrom(...keys).map((text) => encoder.encode(text));
const namespace = tenant.map(namespaceOf);
const selector: fc.Arbitrary<Selector> = fc.oneof(
  fc.record(
    { tenant, keyPrefix: fc.constantFrom('a', 'b'), keys: fc.array(fc.constantFrom(...keys), { maxLength: 2 }), createdBefore: time },
    { requiredKeys: ['keys'] },
  ),
  // Of whole keys and nothing else: these are looked up, and not searched.
  fc.array(fc.constantFrom(...keys), { minLength: 1, maxLength: 2 }).map((named) => ({ keys: named })),
  tenant.map((name) => ({ tenant: name })),
  fc.constant({ all: true as const }),
  fc.constant({ all: true as const, tier: 'ssd' as const }),
);
const sharp: fc.Arbitrary<JournalRecord> = fc.oneof(
  fc.record({ kind: fc.constant('forget' as const), namespace, key, generation }),
  fc.record({ kind: fc.constant('forgetMany' as const), namespace, keys: fc.array(key, { maxLength: 3 }), generation }),
  fc.record({ kind: fc.constant('folderDropped' as const), folderId: fc.constantFrom(...folders), generation }),
  fc.record({ kind: fc.constant('expire' as const), generation, expiresAtMs: time }),
  fc.record({ kind: fc.constant('clock' as const), atMs: time }),
  fc.record({ kind: fc.constant('epoch' as const), model: fc.constantFrom('m', ''), epoch: generation, generation }),
  fc.record({
    kind: fc.constant('invalidate' as const),
    ...{ id: fc.constant('i'), generation, selector, reason: fc.constant(''), actor: fc.constant('admin'), atMs: time },
    ...{ matchedChunks: generation, removedBytes: generation },
  }),
  fc.record({
    kind: fc.constant('quota' as const),
    tenant,
    ramBytes: fc.option(generation, { nil: undefined }),
    ssdBytes: fc.constant(undefined),
  }),
  fc.record({
    kind: fc.constant('pin' as const),
    mode: fc.constantFrom('none' as const, 'soft' as const, 'hard' as const),
    generations: fc.array(generation),
  }),
  fc.record({ kind: fc.constant('start' as const), epoch: fc.oneof(fc.nat(5), generation), atMs: time, bootId: fc.constant('') }),
);
/** Growing epochs or any; some records twice. */
const journals = fc
  .tuple(
    fc.array(fc.oneof({ arbitrary: sharp, weight: 6 }, { arbitrary: journalRecords, weight: 1 }), { maxLength: 12 }),
    fc.nat(1000),
    fc.boolean(),
  )
  .map(([records, sequence, twice]) => {
    const start: JournalRecord = { kind: 'start', epoch: 1, atMs: 0, bootId: '' };
    const all = [start, ...records, ...(twice ? records.filter(({ kind }) => kind !== 'start') : [])];
    const head = encodeHead(sequence, hash);
    return new Uint8Array(Buffer.concat([head.bytes, encodeRecords(all, head.tail, hash).bytes]));
  });

interface Found {
  readonly namespace: NamespaceDescriptor;
  readonly key: string;
  readonly generation: number;
  readonly folderId: string;
  readonly createdAtMs: number;
}

const files: readonly Found[] = tenants.flatMap((name) =>
  keys.flatMap((text) =>
    [1, EPOCH + 1, 2 * EPOCH, 2 ** 52].map((number, index) => ({
      ...{ namespace: namespaceOf(name), key: text, generation: number, createdAtMs: 1_700_000_000_000 },
      folderId: folders[index % folders.length] ?? '',
    })),
  ),
);

/** Spelled out, and not by the code's own matcher. Files here have no model and no tags. */
function isNamed(selector: Selector, file: Found): boolean {
  const { all, model, modelPrefix, namespace: label, tag, olderThan, tier, chainFrom } = selector;
  if (olderThan !== undefined || tier !== undefined || chainFrom !== undefined) return false;
  if (all === true) return true;
  if ((model !== undefined && model !== '') || modelPrefix !== undefined || tag !== undefined) return false;
  if (label !== undefined && label !== (file.namespace.tenant === 'default' ? 'opaque' : `opaque@${file.namespace.tenant}`)) return false;
  if (selector.tenant !== undefined && selector.tenant !== file.namespace.tenant) return false;
  if (selector.keyPrefix !== undefined && !file.key.startsWith(selector.keyPrefix)) return false;
  if (selector.keys !== undefined && !selector.keys.includes(file.key)) return false;
  return selector.createdBefore === undefined || file.createdAtMs < selector.createdBefore;
}

function isEnded(records: readonly JournalRecord[], file: Found): boolean {
  const isOwn = (
    named: { readonly grammar: string; readonly tenant: string; readonly keyPrefix: string; readonly keyTail: string },
    bytes: Uint8Array,
  ): boolean =>
    [named.grammar, named.tenant, named.keyPrefix, named.keyTail].join('\n') === ['opaque', file.namespace.tenant, '', ''].join('\n') &&
    Buffer.from(bytes).toString('latin1') === file.key;
  return records.some((record) => {
    if (!('generation' in record) || record.generation < file.generation) return false;
    if (record.kind === 'forget') return isOwn(record.namespace, record.key);
    if (record.kind === 'forgetMany') return record.keys.some((bytes) => isOwn(record.namespace, bytes));
    if (record.kind === 'folderDropped') return record.folderId === file.folderId;
    return record.kind === 'invalidate' && isNamed(record.selector, file);
  });
}

interface Life {
  readonly tombstones: Tombstones;
  readonly records: readonly JournalRecord[];
  /** There is no epoch left: the next life takes the journal for damaged, and forgets. */
  readonly isLast: boolean;
}

/** Undefined where the journal is taken for damaged: then nothing is served of what was there. */
function live(fileSystem: SimFileSystem): Life | undefined {
  const { journal, replay } = Journal.open(fileSystem, PATH, hash, { compactionBytes: 1 });
  if (replay.state !== 'ok') return undefined;
  const records = replay.records.map((entry) => entry.record);
  const tombstones = new Tombstones(journal, records);
  tombstones.begin({ kind: 'start', epoch: replay.highestEpoch + 1, atMs: 0, bootId: '' });
  const isLast = replay.highestEpoch >= MAX_EPOCH;
  if (!isLast) journal.checkInvariants();
  return { tombstones, records, isLast };
}

function judge({ tombstones }: Life): readonly boolean[] {
  return files.map((file) =>
    tombstones.isDead(file, { key: encoder.encode(file.key), generation: file.generation, folderId: file.folderId }),
  );
}

/** What a start makes of times: numbers that every clock, column and reply can hold. */
function checkTimes({ tombstones }: Life): void {
  const clock = new ExpiryClock(new SimClock(), tombstones.clockMs);
  demand(Number.isSafeInteger(clock.nowMs()) && clock.nowMs() >= 0, `it is ${clock.nowMs()}`);
  for (const number of generations) {
    const atMs = tombstones.journaledExpiry(number) ?? 0;
    demand(Number.isInteger(atMs) && atMs >= 0 && atMs <= MAX_EXPIRES_AT_MS, `a chunk ends at ${atMs}`);
  }
}

const check: Check = (input) => {
  const fileSystem = new SimFileSystem();
  fileSystem.writeFileAtomic(PATH, input);
  const first = live(fileSystem);
  if (first === undefined) return;
  const wanted = files.map((file) => isEnded(first.records, file));
  demandEqual(judge(first), wanted, 'what is dead');
  checkTimes(first);
  const clocks = first.records.map((record) => (record.kind === 'clock' ? Math.min(record.atMs, MAX_EXPIRES_AT_MS) : 0));
  demandEqual(first.tombstones.clockMs, Math.max(0, ...clocks), 'the largest clock');
  const { clockMs } = first.tombstones;
  const expiries = generations.map((number) => first.tombstones.journaledExpiry(number));
  first.tombstones.compactIfNeeded();

  const second = live(fileSystem);
  demand((second === undefined) === first.isLast, 'a compacted journal is whole');
  if (second === undefined) return;
  demandEqual(judge(second), wanted, 'what is dead after a compaction');
  demand(second.tombstones.clockMs >= clockMs, 'the clock does not go back');
  demandEqual(
    generations.map((number) => second.tombstones.journaledExpiry(number)),
    expiries,
    'expiries after a compaction',
  );
  // A file that is still there when adoption ends is judged the same at the next start, whatever was compacted meanwhile.
  const { tombstones } = second;
  for (const file of files) tombstones.trackUnlink(tombstones.keyId(file.namespace, encoder.encode(file.key)), file.generation);
  tombstones.adoptionDone();
  tombstones.compactIfNeeded();
  const third = live(fileSystem);
  demand((third === undefined) === second.isLast, 'a journal that was compacted while files were under way is whole');
  if (third === undefined) return;
  demandEqual(judge(third), wanted, 'what is dead after adoption and a compaction');
};

export const journalReplay: FuzzTarget = { name: 'journal-replay', corpus: journals, mend: mendJournal, begin: () => check };
