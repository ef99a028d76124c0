/**
 * The bytes of the slot table: docs/formats/slot-table.md has the offset tables; `header` and `unit` below repeat them. Little-endian,
 * written with typed arrays, which are little-endian on every machine that kvtier runs on.
 */
import type { BlockHash } from '#core/checksum.ts';
import type { LmBlock } from '#core/lm-block.ts';
import type { KeyGrammar, NamespaceDescriptor } from '#core/namespace.ts';
import type { TableViews } from './table-views.ts';

/** A table of another version is not read: the tier starts empty. */
export const SLOT_TABLE_VERSION = 1;
export const TABLE_HEADER_BYTES = 4096;
export const UNIT_BYTES = 256;
/** The same, in elements of the views. */
export const HEADER_WORDS = TABLE_HEADER_BYTES / 4;
export const UNIT_WORDS = UNIT_BYTES / 4;
export const HEADER_DOUBLES = TABLE_HEADER_BYTES / 8;
export const UNIT_DOUBLES = UNIT_BYTES / 8;
/** `kvtierT` and a line feed, as two words. */
export const MAGIC_LOW = 0x6974_766b;
export const MAGIC_HIGH = 0x0a54_7265;
/** Seeds of the checksums; the magic as a number, then one more for each kind of record. */
export const HEADER_SEED = 0x6b76_7469_6572_540an;
export const CHUNK_SEED = HEADER_SEED + 1n;
export const NAMESPACE_SEED = HEADER_SEED + 2n;

export const STATE_FREE = 0;
export const STATE_CHUNK = 1;
export const STATE_NAMESPACE = 2;
export const STATE_CONTINUATION = 3;

/** Byte offsets in the header. What lies before `checksum` and from `bootId` on is written once and covered by it. */
export const header = {
  version: 8,
  unitBytes: 12,
  unitCount: 16,
  pageBytes: 20,
  tierBytes: 24,
  arenaBytes: 32,
  checksum: 40,
  epoch: 48,
  journalSequence: 56,
  backedBytes: 64,
  usedUnits: 72,
  bootId: 128,
  bootIdBytes: 64,
} as const;

/** Byte offsets in a unit. */
export const unit = {
  state: 0,
  next: 4,
  checksum: 8,
  /** From here on a chunk's checksum counts, up to the end of what is used before `lastUsed`. */
  generation: 16,
  createdAt: 24,
  expiresAt: 32,
  parentGeneration: 40,
  payloadChecksum: 48,
  sizeBytes: 56,
  namespace: 60,
  namespaceStamp: 64,
  firstPage: 68,
  pages: 72,
  slots: 76,
  classBytes: 80,
  ordinal: 84,
  keyBytes: 88,
  metadataBytes: 90,
  flags: 92,
  chunkText: 96,
  /** A hint for the order of eviction, changed by every read, and therefore not covered. */
  lastUsed: 248,
  namespaceBytes: 16,
  namespaceText: 24,
  continuationText: 16,
} as const;

export const CHUNK_TEXT_BYTES = unit.lastUsed - unit.chunkText;
export const NAMESPACE_TEXT_BYTES = unit.lastUsed - unit.namespaceText;
export const CONTINUATION_TEXT_BYTES = UNIT_BYTES - unit.continuationText;
/** The doors take keys of 2 KiB, so a namespace's texts hold some 6 KiB at most; JSON may escape each byte to six. */
export const MAX_NAMESPACE_BYTES = 64 * 1024;
/** In the flags of a chunk: the text ends with an lm block. */
export const FLAG_LM_BLOCK = 1;
export const LM_BLOCK_BYTES = 24;
/** Longest key, as at the doors. */
export const MAX_KEY_BYTES = 2048;
/** Longest redis:// twin. */
export const MAX_METADATA_BYTES = 512;

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const textFields = ['tenant', 'model', 'rank', 'group', 'dtype', 'layer', 'keyPrefix', 'keyTail'] as const;
const grammars: readonly string[] = ['object-key', 'cache-engine-key', 'opaque', 'native'] satisfies readonly KeyGrammar[];

/** Six four-byte integers. */
export function encodeLmBlock({ fmt, dtype, shape }: LmBlock): Uint8Array {
  return new Uint8Array(Int32Array.of(fmt, dtype, ...shape).buffer);
}

export function decodeLmBlock(bytes: Uint8Array): LmBlock {
  const view = new DataView(bytes.buffer, bytes.byteOffset, LM_BLOCK_BYTES);
  const number = (index: number): number => view.getInt32(index * 4, true);
  return { fmt: number(0), dtype: number(1), shape: [number(2), number(3), number(4), number(5)] };
}

/** Undefined where a text is not Unicode and would come back as another, or is over the limit: chunks of the namespace are not kept. */
export function encodeNamespace(namespace: NamespaceDescriptor): Uint8Array | undefined {
  const tags = Object.entries(namespace.tags);
  const texts = textFields.map((field) => namespace[field]);
  if (![...texts, ...tags.flat()].every((text) => text.isWellFormed())) return undefined;
  const bytes = encoder.encode(JSON.stringify([namespace.grammar, ...texts, tags]));
  return bytes.length > MAX_NAMESPACE_BYTES ? undefined : bytes;
}

/** Undefined for whatever `encodeNamespace` does not write. */
export function decodeNamespace(bytes: Uint8Array): NamespaceDescriptor | undefined {
  let parts: unknown;
  try {
    parts = JSON.parse(decoder.decode(bytes));
  } catch (problem) {
    // Not UTF-8 or not JSON: no namespace, and its chunks are forgotten.
    if (problem instanceof SyntaxError || problem instanceof TypeError) return undefined;
    throw problem;
  }
  if (!Array.isArray(parts) || parts.length !== textFields.length + 2) return undefined;
  const [grammar, ...rest] = parts as readonly unknown[];
  const tags = rest.pop();
  if (typeof grammar !== 'string' || !grammars.includes(grammar) || !rest.every((text) => typeof text === 'string')) return undefined;
  if (!isTags(tags)) return undefined;
  const texts = Object.fromEntries(textFields.map((field, index) => [field, rest[index]])) as Record<(typeof textFields)[number], string>;
  return { grammar: grammar as KeyGrammar, ...texts, tags: Object.fromEntries(tags) };
}

function isTags(tags: unknown): tags is [string, string][] {
  return (
    Array.isArray(tags) && tags.every((tag) => Array.isArray(tag) && tag.length === 2 && tag.every((text) => typeof text === 'string'))
  );
}

/** Of a chunk's or namespace's text and numbers, over its continuations. */
export function recordChecksum(
  views: TableViews,
  hash: BlockHash,
  record: { readonly head: number; readonly state: number; readonly textBytes: number },
): bigint {
  const { bytes, u32 } = views;
  const isChunk = record.state === STATE_CHUNK;
  const base = TABLE_HEADER_BYTES + record.head * UNIT_BYTES;
  const textStart = isChunk ? unit.chunkText : unit.namespaceText;
  const headBytes = Math.min(record.textBytes, isChunk ? CHUNK_TEXT_BYTES : NAMESPACE_TEXT_BYTES);
  let sum = hash(bytes.subarray(base + unit.generation, base + textStart + headBytes), isChunk ? CHUNK_SEED : NAMESPACE_SEED);
  let left = record.textBytes - headBytes;
  for (let next = u32[(base + unit.next) / 4] as number; left > 0 && next !== 0; left -= CONTINUATION_TEXT_BYTES) {
    const start = TABLE_HEADER_BYTES + (next - 1) * UNIT_BYTES;
    sum = hash(bytes.subarray(start + unit.continuationText, start + unit.continuationText + Math.min(left, CONTINUATION_TEXT_BYTES)), sum);
    next = u32[(start + unit.next) / 4] as number;
  }
  return sum;
}
