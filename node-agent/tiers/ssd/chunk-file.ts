/**
 * The 4 KiB header of a chunk file, and the names of chunk files. docs/formats/chunk-file.md has the offset table; `at` below
 * repeats it. Little-endian throughout.
 *
 * A header is written once and never changed. It alone is enough to adopt a file without a catalog row: namespace, key,
 * generation, size and checksum of the payload are all in it.
 */
import { assert } from '#core/assert.ts';
import type { BlockHash } from '#core/checksum.ts';
import type { LmBlock } from '#core/lm-block.ts';
import type { KeyGrammar, NamespaceDescriptor } from '#core/namespace.ts';

export const CHUNK_HEADER_BYTES = 4096;
/** A file of another version is not read: its chunk is forgotten. */
export const CHUNK_FORMAT_VERSION = 1;
/** Longest key, as at the doors. */
export const MAX_KEY_BYTES = 2048;
/** Longest redis:// metadata twin. */
export const MAX_REDIS_METADATA_BYTES = 512;

/** `kvtierC` and a line feed: a transfer that translates line ends breaks the magic. */
const MAGIC = Uint8Array.of(0x6b, 0x76, 0x74, 0x69, 0x65, 0x72, 0x43, 0x0a);
/** Seed of the header's own checksum, so that it is not the checksum of the same bytes as a payload. The magic as a number. */
const CHECKSUM_SEED = 0x6b76_7469_6572_430an;
const FLAG_REDIS_METADATA = 1;
const FLAG_LM = 2;

const at = {
  version: 8,
  headerBytes: 12,
  flags: 16,
  variableEnd: 20,
  generation: 24,
  sizeBytes: 32,
  checksum: 40,
  createdAtMs: 48,
  expiresAtMs: 56,
  parentGeneration: 64,
  tokenCount: 72,
  grammar: 76,
  reserved: 77,
  tagCount: 78,
  lmFmt: 80,
  lmDtype: 84,
  lmShape: 88,
  keyBytes: 104,
  redisMetadataBytes: 106,
  textBytes: 108,
  reservedEnd: 124,
  variable: 128,
  headerChecksum: CHUNK_HEADER_BYTES - 8,
} as const;

/** Texts of a namespace in the order of the file. */
const textFields = ['tenant', 'model', 'rank', 'group', 'dtype', 'layer', 'keyPrefix', 'keyTail'] as const;
type TextField = (typeof textFields)[number];
/** A grammar's number in the file is its place here; append only. */
const grammars: readonly KeyGrammar[] = ['object-key', 'cache-engine-key', 'opaque', 'native'];

export interface ChunkFileHeader {
  /** Of the put; 1 or more. Also the file's name. */
  readonly generation: number;
  /** Payload bytes behind the header, padding not counted. */
  readonly sizeBytes: number;
  /** Of the payload, see core/checksum.ts; taken modulo 2^64, read back unsigned. */
  readonly checksum: bigint;
  readonly createdAtMs: number;
  /** 0: never. */
  readonly expiresAtMs: number;
  /** 0: none, or not known when the file was written. */
  readonly parentGeneration: number;
  /** 0: unknown. */
  readonly tokenCount: number;
  readonly namespace: NamespaceDescriptor;
  /** The chunk's own key bytes inside the namespace. */
  readonly key: Uint8Array;
  readonly redisMetadata?: Uint8Array;
  readonly lm?: LmBlock;
}

/** Why a chunk has no header: it stays in RAM only. Neither can be helped by a retry. */
export type EncodeProblem = 'too-large' | 'ill-formed-text';
export type EncodeOutcome =
  | { readonly ok: true; readonly bytes: Uint8Array<ArrayBuffer> }
  | { readonly ok: false; readonly problem: EncodeProblem };

/** 'version' is a whole file of another kvtier; the others are damage, or no chunk file at all. */
export type DecodeProblem = 'magic' | 'version' | 'checksum' | 'malformed';
export type DecodeOutcome =
  | { readonly ok: true; readonly header: ChunkFileHeader }
  | { readonly ok: false; readonly problem: DecodeProblem };

const encoder = new TextEncoder();
/** A byte order mark is text like any other; ill-formed UTF-8 throws. */
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/**
 * The 4096 bytes of a header. 'too-large': namespace, key and metadata together do not fit (key and metadata at most
 * MAX_KEY_BYTES and MAX_REDIS_METADATA_BYTES); 'ill-formed-text': a text of the namespace is not Unicode and would come back
 * as another. Such a chunk is never written: it stays in RAM only and is dropped when it is evicted.
 */
export function encodeChunkHeader(header: ChunkFileHeader, hash: BlockHash): EncodeOutcome {
  const { namespace, key, redisMetadata, lm } = header;
  const tags = Object.entries(namespace.tags);
  const texts = [...textFields.map((field) => namespace[field]), ...tags.flat()];
  if (!texts.every((text) => text.isWellFormed())) return { ok: false, problem: 'ill-formed-text' };
  const encoded = texts.map((text) => encoder.encode(text));
  const variableEnd =
    at.variable + key.length + (redisMetadata?.length ?? 0) + tags.length * 4 + encoded.reduce((sum, text) => sum + text.length, 0);
  const isTooLarge =
    variableEnd > at.headerChecksum || key.length > MAX_KEY_BYTES || (redisMetadata?.length ?? 0) > MAX_REDIS_METADATA_BYTES;
  if (isTooLarge) return { ok: false, problem: 'too-large' };

  const bytes = new Uint8Array(CHUNK_HEADER_BYTES);
  const view = new DataView(bytes.buffer);
  bytes.set(MAGIC);
  view.setUint32(at.version, CHUNK_FORMAT_VERSION, true);
  view.setUint32(at.headerBytes, CHUNK_HEADER_BYTES, true);
  view.setUint32(at.flags, (redisMetadata === undefined ? 0 : FLAG_REDIS_METADATA) | (lm === undefined ? 0 : FLAG_LM), true);
  view.setUint32(at.variableEnd, variableEnd, true);
  writeNumbers(view, header);
  view.setUint8(at.grammar, grammars.indexOf(namespace.grammar));
  view.setUint16(at.tagCount, tags.length, true);
  if (lm !== undefined) writeLm(view, lm);
  view.setUint16(at.keyBytes, key.length, true);
  view.setUint16(at.redisMetadataBytes, redisMetadata?.length ?? 0, true);

  let offset = at.variable as number;
  const append = (part: Uint8Array): void => {
    bytes.set(part, offset);
    offset += part.length;
  };
  append(key);
  if (redisMetadata !== undefined) append(redisMetadata);
  encoded.forEach((text, index) => {
    if (index < textFields.length) {
      view.setUint16(at.textBytes + index * 2, text.length, true);
    } else {
      view.setUint16(offset, text.length, true);
      offset += 2;
    }
    append(text);
  });
  view.setBigUint64(at.headerChecksum, BigInt.asUintN(64, hash(bytes.subarray(0, at.headerChecksum), CHECKSUM_SEED)), true);
  return { ok: true, bytes };
}

/**
 * Reads a header from exactly 4096 bytes. Never throws and reads nothing outside of them. Only what `encodeChunkHeader`
 * writes is accepted: unknown flags, non-zero padding, lengths that do not add up are 'malformed'. Key and metadata are copies.
 */
export function decodeChunkHeader(bytes: Uint8Array, hash: BlockHash): DecodeOutcome {
  if (bytes.length < MAGIC.length || !MAGIC.every((byte, index) => bytes[index] === byte)) return { ok: false, problem: 'magic' };
  if (bytes.length !== CHUNK_HEADER_BYTES) return { ok: false, problem: 'malformed' };
  const view = new DataView(bytes.buffer, bytes.byteOffset, CHUNK_HEADER_BYTES);
  if (view.getUint32(at.version, true) !== CHUNK_FORMAT_VERSION) return { ok: false, problem: 'version' };
  const computed = BigInt.asUintN(64, hash(bytes.subarray(0, at.headerChecksum), CHECKSUM_SEED));
  if (view.getBigUint64(at.headerChecksum, true) !== computed) return { ok: false, problem: 'checksum' };
  const header = readFields(bytes, view);
  return header === undefined ? { ok: false, problem: 'malformed' } : { ok: true, header };
}

function writeNumbers(view: DataView, header: ChunkFileHeader): void {
  const whole = (name: 'generation' | 'sizeBytes' | 'parentGeneration', least: number): void => {
    assert(Number.isSafeInteger(header[name]) && header[name] >= least, `Cannot write a chunk header: ${name} is ${header[name]}`);
    view.setBigUint64(at[name], BigInt(header[name]), true);
  };
  whole('generation', 1);
  whole('sizeBytes', 0);
  whole('parentGeneration', 0);
  for (const name of ['createdAtMs', 'expiresAtMs'] as const) {
    assert(isTime(header[name]), `Cannot write a chunk header: ${name} is ${header[name]}`);
    view.setFloat64(at[name], header[name], true);
  }
  assert(isUint32(header.tokenCount), `Cannot write a chunk header: tokenCount is ${header.tokenCount}`);
  view.setUint32(at.tokenCount, header.tokenCount, true);
  view.setBigUint64(at.checksum, BigInt.asUintN(64, header.checksum), true);
}

function writeLm(view: DataView, lm: LmBlock): void {
  [lm.fmt, lm.dtype, ...lm.shape].forEach((value, index) => {
    assert(Number.isInteger(value) && value === (value | 0), `Cannot write a chunk header: lm value ${index} is ${value}`);
    view.setInt32(at.lmFmt + index * 4, value, true);
  });
}

/** Undefined where any field is impossible. Requires a right magic, version and checksum. */
function readFields(bytes: Uint8Array, view: DataView): ChunkFileHeader | undefined {
  const flags = view.getUint32(at.flags, true);
  const generation = readWhole(view, at.generation);
  const sizeBytes = readWhole(view, at.sizeBytes);
  const parentGeneration = readWhole(view, at.parentGeneration);
  const createdAtMs = view.getFloat64(at.createdAtMs, true);
  const expiresAtMs = view.getFloat64(at.expiresAtMs, true);
  if (view.getUint32(at.headerBytes, true) !== CHUNK_HEADER_BYTES || (flags & ~(FLAG_REDIS_METADATA | FLAG_LM)) !== 0) return undefined;
  if (view.getUint8(at.reserved) !== 0 || view.getUint32(at.reservedEnd, true) !== 0) return undefined;
  if (generation === undefined || generation === 0 || sizeBytes === undefined || parentGeneration === undefined) return undefined;
  if (!isTime(createdAtMs) || !isTime(expiresAtMs)) return undefined;
  const lm = readLm(view);
  if ((flags & FLAG_LM) === 0 && (lm.fmt !== 0 || lm.dtype !== 0 || lm.shape.some((extent) => extent !== 0))) return undefined;
  const variable = readVariable(bytes, view, (flags & FLAG_REDIS_METADATA) !== 0);
  if (variable === undefined) return undefined;
  return {
    generation,
    sizeBytes,
    checksum: view.getBigUint64(at.checksum, true),
    createdAtMs,
    expiresAtMs,
    parentGeneration,
    tokenCount: view.getUint32(at.tokenCount, true),
    ...variable,
    ...((flags & FLAG_LM) === 0 ? {} : { lm }),
  };
}

type Variable = Pick<ChunkFileHeader, 'namespace' | 'key' | 'redisMetadata'>;

function readVariable(bytes: Uint8Array, view: DataView, hasRedisMetadata: boolean): Variable | undefined {
  const end = view.getUint32(at.variableEnd, true);
  const keyBytes = view.getUint16(at.keyBytes, true);
  const redisMetadataBytes = view.getUint16(at.redisMetadataBytes, true);
  const grammar = grammars[view.getUint8(at.grammar)];
  if (end < at.variable || end > at.headerChecksum || grammar === undefined) return undefined;
  if (keyBytes > MAX_KEY_BYTES || redisMetadataBytes > (hasRedisMetadata ? MAX_REDIS_METADATA_BYTES : 0)) return undefined;
  for (let offset = end; offset < at.headerChecksum; offset += 1) if (bytes[offset] !== 0) return undefined;

  const cursor = new Cursor(bytes, view, end);
  const key = cursor.take(keyBytes);
  const redisMetadata = cursor.take(redisMetadataBytes);
  const texts = {} as Record<TextField, string>;
  textFields.forEach((field, index) => {
    texts[field] = cursor.takeText(view.getUint16(at.textBytes + index * 2, true));
  });
  const tags = new Map<string, string>();
  const tagCount = view.getUint16(at.tagCount, true);
  for (let tag = 0; tag < tagCount && !cursor.failed; tag += 1)
    tags.set(cursor.takeText(cursor.takeUint16()), cursor.takeText(cursor.takeUint16()));
  if (cursor.failed || cursor.offset !== end || tags.size !== tagCount) return undefined;
  // fromEntries defines own properties: a tag named __proto__ stays a tag.
  const namespace: NamespaceDescriptor = { grammar, ...texts, tags: Object.fromEntries(tags) };
  return { namespace, key: key.slice(), ...(hasRedisMetadata ? { redisMetadata: redisMetadata.slice() } : {}) };
}

/** Walks the variable part. Reading past its end, or ill-formed UTF-8, sets `failed`; what is read then is empty. */
class Cursor {
  offset: number = at.variable;
  failed = false;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #end: number;

  constructor(bytes: Uint8Array, view: DataView, end: number) {
    this.#bytes = bytes;
    this.#view = view;
    this.#end = end;
  }

  take(length: number): Uint8Array {
    if (this.failed || length > this.#end - this.offset) {
      this.failed = true;
      return new Uint8Array(0);
    }
    this.offset += length;
    return this.#bytes.subarray(this.offset - length, this.offset);
  }

  takeUint16(): number {
    return this.take(2).length === 2 ? this.#view.getUint16(this.offset - 2, true) : 0;
  }

  takeText(length: number): string {
    const text = this.take(length);
    try {
      return decoder.decode(text);
    } catch {
      // Ill-formed text is damage like any other here: the whole header is refused, and the caller counts that.
      this.failed = true;
      return '';
    }
  }
}

function readLm(view: DataView): LmBlock {
  const value = (index: number): number => view.getInt32(at.lmFmt + index * 4, true);
  return { fmt: value(0), dtype: value(1), shape: [value(2), value(3), value(4), value(5)] };
}

function readWhole(view: DataView, offset: number): number | undefined {
  const value = view.getBigUint64(offset, true);
  return value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : undefined;
}

function isTime(value: number): boolean {
  return Number.isFinite(value) && value >= 0 && !Object.is(value, -0);
}

function isUint32(value: number): boolean {
  return Number.isInteger(value) && value >= 0 && value <= 0xffff_ffff;
}

/** `0000000100000002.kv`: the generation in 16 hex digits. */
export function chunkFileName(generation: number): string {
  assert(Number.isSafeInteger(generation) && generation > 0, `No file is named after generation ${generation}`);
  return `${generation.toString(16).padStart(16, '0')}.kv`;
}

/** Folder of a chunk file: the low byte of its generation, so that files of one burst spread over all 256. */
export function chunkShard(generation: number): string {
  return (generation % 256).toString(16).padStart(2, '0');
}

/** The generation, or undefined where `chunkFileName` would not give this name. */
export function parseChunkFileName(name: string): number | undefined {
  if (!/^[0-9a-f]{16}\.kv$/.test(name)) return undefined;
  const generation = Number.parseInt(name.slice(0, 16), 16);
  return generation > 0 && Number.isSafeInteger(generation) ? generation : undefined;
}
