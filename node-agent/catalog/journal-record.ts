/**
 * The records of the journal and their bytes. Every layout here stands in docs/formats/journal.md, to the byte; a change of a
 * body bumps `RECORD_VERSION`, and an older kvtier then reads the journal as damaged and drops its SSD contents.
 *
 * Decoding trusts nothing: lengths are checked against what is left before anything is allocated, strings must be well-formed
 * UTF-8, numbers must be exact in a double, unknown bits and trailing bytes are errors. The checksum is journal.ts's business.
 */
import { unreachable } from '#core/assert.ts';
import { badRequest } from '#core/errors.ts';
import type { KeyGrammar, NamespaceDescriptor } from '#core/namespace.ts';
import type { PinMode } from '#core/pin-mode.ts';
import type { Selector } from '#core/selector.ts';
import { ByteReader, ByteWriter, MalformedBytes } from './journal-bytes.ts';

/** The four parts of a namespace that make its identity (core/namespace.ts); the rest follows from them. */
export type NamespaceParts = Pick<NamespaceDescriptor, 'grammar' | 'tenant' | 'keyPrefix' | 'keyTail'>;

/** A process began. `epoch` is one more than the epoch before; generations are `epoch * 2^32 + counter`. */
export interface StartRecord {
  readonly kind: 'start';
  readonly epoch: number;
  readonly atMs: number;
  readonly bootId: string;
}

/** Files that match `selector` with a generation of at most `generation` are dead. A volatile selector is for the audit log only. */
export interface InvalidateRecord {
  readonly kind: 'invalidate';
  readonly id: string;
  readonly generation: number;
  readonly selector: Selector;
  readonly reason: string;
  readonly actor: string;
  readonly atMs: number;
  readonly matchedChunks: number;
  readonly removedBytes: number;
}

/** Files of this key with a generation of at most `generation` are dead: a deletion or an overwrite. */
export interface ForgetRecord {
  readonly kind: 'forget';
  readonly namespace: NamespaceParts;
  readonly key: Uint8Array;
  readonly generation: number;
}

/** As `forget`, for many keys of one namespace. Split by `splitForget` where the keys do not fit one record. */
export interface ForgetManyRecord {
  readonly kind: 'forgetMany';
  readonly namespace: NamespaceParts;
  readonly keys: readonly Uint8Array[];
  readonly generation: number;
}

/** Everything in this folder with a generation of at most `generation` is dead: it was away while others went on. */
export interface FolderDroppedRecord {
  readonly kind: 'folderDropped';
  readonly folderId: string;
  readonly generation: number;
}

/** `model` is at `epoch` from `generation` on. */
export interface EpochRecord {
  readonly kind: 'epoch';
  readonly model: string;
  readonly epoch: number;
  readonly generation: number;
}

/**
 * The chunk of this generation expires then, whatever its file's header and its catalog row say; 0: never. The last record of a
 * generation counts.
 */
export interface ExpireRecord {
  readonly kind: 'expire';
  readonly generation: number;
  readonly expiresAtMs: number;
}

/** The wall clock has been there: from then on it counts as being there at least, also after it was set back. */
export interface ClockRecord {
  readonly kind: 'clock';
  readonly atMs: number;
}

/** What a tenant may hold in each tier; replaces what was said of it before. Neither limit: it has no quota any more. */
export interface QuotaRecord {
  readonly kind: 'quota';
  readonly tenant: string;
  readonly ramBytes: number | undefined;
  readonly ssdBytes: number | undefined;
}

/**
 * The chunks of these generations are pinned in this mode; 'none': not any more. A generation names one value of one key for the life
 * of the data directory, so what is removed needs no record, and what replaces it gets one of its own.
 */
export interface PinRecord {
  readonly kind: 'pin';
  readonly mode: PinMode | 'none';
  readonly generations: readonly number[];
}

/** The process ended in order. */
export interface CleanStopRecord {
  readonly kind: 'cleanStop';
  readonly atMs: number;
}

export type JournalRecord =
  | StartRecord
  | InvalidateRecord
  | ForgetRecord
  | ForgetManyRecord
  | FolderDroppedRecord
  | EpochRecord
  | CleanStopRecord
  | ExpireRecord
  | ClockRecord
  | QuotaRecord
  | PinRecord;

/** A record is at most 1 MiB, frame included: one hash block, and a bound on what a damaged length can ask for. */
export const MAX_RECORD_BYTES = 1024 * 1024;
/** u32 body length, u16 type, u16 version, u64 sequence before the body; u64 checksum behind it. */
export const RECORD_HEAD_BYTES = 16;
export const RECORD_FRAME_BYTES = RECORD_HEAD_BYTES + 8;
export const RECORD_VERSION = 1;
/** Fills a page so that the next record does not straddle two; its body is zeroes. */
export const PAD_TYPE = 1;

const typeNumbers = {
  start: 2,
  invalidate: 3,
  forget: 4,
  forgetMany: 5,
  folderDropped: 6,
  epoch: 7,
  cleanStop: 8,
  expire: 9,
  clock: 10,
  quota: 11,
  pin: 12,
} as const satisfies Record<JournalRecord['kind'], number>;

const grammarNumbers = { 'object-key': 0, 'cache-engine-key': 1, opaque: 2, native: 3 } as const satisfies Record<KeyGrammar, number>;
const grammars: readonly KeyGrammar[] = ['object-key', 'cache-engine-key', 'opaque', 'native'];
const tiers = ['hbm', 'ram', 'ssd'] as const;
const pinModes = ['none', 'soft', 'hard'] as const;
/** Generations in one `pin` record: 80 KB. */
export const PIN_RECORD_GENERATIONS = 10_000;

/** Order of the bits in a selector's bitmap, and of the values behind it. Append only. */
const selectorFields = [
  'all',
  'model',
  'modelPrefix',
  'tenant',
  'namespace',
  'keys',
  'keyPrefix',
  'chainFrom',
  'tag',
  'olderThan',
  'createdBefore',
  'tier',
] as const satisfies readonly (keyof Selector)[];

export function recordType(kind: JournalRecord['kind']): number {
  return typeNumbers[kind];
}

/** The body of a record. Throws BAD_REQUEST for ill-formed Unicode and an empty selector, PAYLOAD_TOO_LARGE over the limit. */
export function encodeBody(record: JournalRecord): Uint8Array {
  const writer = new ByteWriter(MAX_RECORD_BYTES - RECORD_FRAME_BYTES);
  switch (record.kind) {
    case 'start':
      writer.uint(record.epoch);
      writer.double(record.atMs);
      writer.text(record.bootId);
      break;
    case 'invalidate':
      writer.text(record.id);
      writer.uint(record.generation);
      writer.double(record.atMs);
      writer.uint(record.matchedChunks);
      writer.uint(record.removedBytes);
      writer.text(record.actor);
      writer.text(record.reason);
      writeSelector(writer, record.selector);
      break;
    case 'forget':
      writeNamespace(writer, record.namespace);
      writer.uint(record.generation);
      writer.bytes(record.key);
      break;
    case 'forgetMany':
      writeNamespace(writer, record.namespace);
      writer.uint(record.generation);
      writer.u32(record.keys.length);
      for (const key of record.keys) writer.bytes(key);
      break;
    case 'folderDropped':
      writer.uint(record.generation);
      writer.text(record.folderId);
      break;
    case 'epoch':
      writer.uint(record.epoch);
      writer.uint(record.generation);
      writer.text(record.model);
      break;
    case 'cleanStop':
    case 'clock':
      writer.double(record.atMs);
      break;
    case 'expire':
      writer.uint(record.generation);
      writer.double(record.expiresAtMs);
      break;
    case 'quota':
      writeQuota(writer, record);
      break;
    case 'pin':
      writer.u8(pinModes.indexOf(record.mode));
      writer.list(record.generations, (generation) => writer.uint(generation));
      break;
    default:
      unreachable(record);
  }
  return writer.take();
}

/** The record of a body. Throws MalformedBytes for anything but the exact bytes that `encodeBody` makes. */
export function decodeBody(type: number, version: number, body: Uint8Array): JournalRecord {
  if (version !== RECORD_VERSION) throw new MalformedBytes(`record version ${version} is unknown`);
  const reader = new ByteReader(body);
  const record = readRecord(type, reader);
  reader.end();
  return record;
}

function readRecord(type: number, reader: ByteReader): JournalRecord {
  switch (type) {
    case typeNumbers.start:
      return { kind: 'start', epoch: reader.uint(), atMs: reader.double(), bootId: reader.text() };
    case typeNumbers.invalidate: {
      const head = { id: reader.text(), generation: reader.uint(), atMs: reader.double() };
      const counts = { matchedChunks: reader.uint(), removedBytes: reader.uint() };
      const who = { actor: reader.text(), reason: reader.text() };
      return { kind: 'invalidate', ...head, ...counts, ...who, selector: readSelector(reader) };
    }
    case typeNumbers.forget:
      return { kind: 'forget', namespace: readNamespace(reader), generation: reader.uint(), key: reader.bytes() };
    case typeNumbers.forgetMany: {
      const namespace = readNamespace(reader);
      const generation = reader.uint();
      return { kind: 'forgetMany', namespace, generation, keys: reader.list(() => reader.bytes()) };
    }
    case typeNumbers.folderDropped:
      return { kind: 'folderDropped', generation: reader.uint(), folderId: reader.text() };
    case typeNumbers.epoch:
      return { kind: 'epoch', epoch: reader.uint(), generation: reader.uint(), model: reader.text() };
    case typeNumbers.cleanStop:
      return { kind: 'cleanStop', atMs: reader.double() };
    case typeNumbers.expire:
      return { kind: 'expire', generation: reader.uint(), expiresAtMs: reader.double() };
    case typeNumbers.clock:
      return { kind: 'clock', atMs: reader.double() };
    case typeNumbers.quota:
      return readQuota(reader);
    case typeNumbers.pin: {
      const mode = pinModes[reader.u8()];
      if (mode === undefined) throw new MalformedBytes('pin mode is unknown');
      return { kind: 'pin', mode, generations: reader.list(() => reader.uint()) };
    }
    default:
      throw new MalformedBytes(`record type ${type} is unknown`);
  }
}

/**
 * `forgetMany` records that together hold all keys, each within a quarter of the record limit, so that other fields never push
 * one over it. Empty for no keys.
 */
export function splitForget(namespace: NamespaceParts, keys: readonly Uint8Array[], generation: number): ForgetManyRecord[] {
  const records: ForgetManyRecord[] = [];
  let group: Uint8Array[] = [];
  let groupBytes = 0;
  for (const key of keys) {
    if (group.length > 0 && groupBytes + key.length + 4 > MAX_RECORD_BYTES / 4) {
      records.push({ kind: 'forgetMany', namespace, keys: group, generation });
      group = [];
      groupBytes = 0;
    }
    group.push(key);
    groupBytes += key.length + 4;
  }
  if (group.length > 0) records.push({ kind: 'forgetMany', namespace, keys: group, generation });
  return records;
}

function writeQuota(writer: ByteWriter, { tenant, ramBytes, ssdBytes }: QuotaRecord): void {
  writer.text(tenant);
  writer.u8((ramBytes === undefined ? 0 : 1) | (ssdBytes === undefined ? 0 : 2));
  if (ramBytes !== undefined) writer.uint(ramBytes);
  if (ssdBytes !== undefined) writer.uint(ssdBytes);
}

function readQuota(reader: ByteReader): QuotaRecord {
  const tenant = reader.text();
  const bits = reader.u8();
  if (bits > 3) throw new MalformedBytes(`quota bits ${bits} are unknown`);
  const ramBytes = (bits & 1) === 0 ? undefined : reader.uint();
  return { kind: 'quota', tenant, ramBytes, ssdBytes: (bits & 2) === 0 ? undefined : reader.uint() };
}

function writeNamespace(writer: ByteWriter, namespace: NamespaceParts): void {
  writer.u8(grammarNumbers[namespace.grammar]);
  writer.text(namespace.tenant);
  writer.text(namespace.keyPrefix);
  writer.text(namespace.keyTail);
}

function readNamespace(reader: ByteReader): NamespaceParts {
  const grammar = grammars[reader.u8()];
  if (grammar === undefined) throw new MalformedBytes('key grammar is unknown');
  return { grammar, tenant: reader.text(), keyPrefix: reader.text(), keyTail: reader.text() };
}

function writeSelector(writer: ByteWriter, selector: Selector): void {
  let bits = 0;
  selectorFields.forEach((field, bit) => {
    if (selector[field] !== undefined) bits |= 1 << bit;
  });
  if (bits === 0) throw badRequest('Cannot journal an invalidation with an empty selector');
  writer.u32(bits);
  for (const field of selectorFields) {
    const value = selector[field];
    if (value === undefined || value === true) continue;
    if (typeof value === 'number') writer.double(value);
    else if (typeof value !== 'string') writer.list(value, (key) => writer.text(key));
    else if (field === 'tier') writer.u8(tiers.indexOf(value as (typeof tiers)[number]));
    else writer.text(value);
  }
}

function readSelector(reader: ByteReader): Selector {
  const bits = reader.u32();
  if (bits === 0 || bits >= 1 << selectorFields.length) throw new MalformedBytes(`selector bits ${bits} are empty or unknown`);
  const selector: { -readonly [Field in keyof Selector]: Selector[Field] } = {};
  selectorFields.forEach((field, bit) => {
    if ((bits & (1 << bit)) === 0) return;
    if (field === 'all') selector.all = true;
    else if (field === 'keys') selector.keys = reader.list(() => reader.text());
    else if (field === 'olderThan' || field === 'createdBefore') selector[field] = reader.double();
    else if (field === 'tier') selector.tier = readTier(reader);
    else selector[field] = reader.text();
  });
  return selector;
}

function readTier(reader: ByteReader): (typeof tiers)[number] {
  const tier = tiers[reader.u8()];
  if (tier === undefined) throw new MalformedBytes('tier is unknown');
  return tier;
}
