/**
 * What a row of the catalog proves itself by: 32 bits over all that decides whose file it speaks of. SQLite finds a page that is broken, not a
 * value that is another: a row with a wrong key would hide the file of the right one, and what is overwritten then comes back with its header.
 * A row whose sum is wrong is not read; its file is adopted by its own header.
 *
 * Covered: namespace, key, generation, size, checksum, creation, expiry, parent, tokens, twin, lm block. Uses are hints. Expiry and parent change alone,
 * so they are one term of an exclusive or: whoever changes them needs the old ones and not the rest.
 *
 * MurmurHash3's 32-bit rounds (Appleby, public domain) in plain arithmetic: less than 0.2 us a row, where a call out of JavaScript costs more than
 * it hashes.
 */
import type { NamespaceDescriptor } from '#core/namespace.ts';

export interface SummedRow {
  readonly generation: number;
  readonly key: string | Uint8Array;
  readonly sizeBytes: number;
  readonly checksumHigh: number;
  readonly checksumLow: number;
  readonly createdAtMs: number;
  readonly tokenCount: number | null;
  readonly redisMetadata: Uint8Array | null;
  readonly lmBlock: string | null;
}

/** What of a row changes by itself; null: none. */
export interface ChangingFields {
  readonly expiresAtMs: number | null;
  readonly parentGeneration: number | null;
}

const double = new Float64Array(1);
const halves = new Uint32Array(double.buffer);

function round(sum: number, word: number): number {
  const mixed = Math.imul(word, 0xcc9e_2d51);
  const turned = sum ^ Math.imul((mixed << 15) | (mixed >>> 17), 0x1b87_3593);
  return (Math.imul((turned << 13) | (turned >>> 19), 5) + 0xe654_6b64) | 0;
}

function finish(sum: number): number {
  let mixed = Math.imul(sum ^ (sum >>> 16), 0x85eb_ca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2_ae35);
  return (mixed ^ (mixed >>> 16)) >>> 0;
}

/** -0 is 0 to SQLite. */
function withNumber(sum: number, value: number): number {
  double[0] = value + 0;
  return round(round(sum, halves[0] as number), halves[1] as number);
}

/** Two units of UTF-16 a round; the length tells apart what ends alike. */
function withText(sum: number, text: string): number {
  let next = round(sum, text.length);
  let at = 0;
  for (; at + 1 < text.length; at += 2) next = round(next, text.charCodeAt(at) | (text.charCodeAt(at + 1) << 16));
  return at < text.length ? round(next, text.charCodeAt(at)) : next;
}

/** Four bytes a round. Not the sum of a text of the same bytes. */
function withBytes(sum: number, bytes: Uint8Array): number {
  let next = round(sum, ~bytes.length);
  for (let at = 0; at < bytes.length; at += 4)
    next = round(next, (bytes[at] as number) | ((bytes[at + 1] ?? 0) << 8) | ((bytes[at + 2] ?? 0) << 16) | ((bytes[at + 3] ?? 0) << 24));
  return next;
}

/** Of all of a namespace: once for its many rows. */
export function namespaceSum(namespace: NamespaceDescriptor): number {
  const { grammar, tenant, model, rank, group, dtype, layer, keyPrefix, keyTail, tags } = namespace;
  let sum = 0;
  for (const text of [grammar, tenant, model, rank, group, dtype, layer, keyPrefix, keyTail]) sum = withText(sum, text);
  for (const [name, value] of Object.entries(tags)) sum = withText(withText(sum, name), value);
  return sum;
}

/** What the changing fields add to a sum, and take from it again. */
export function changingSum({ expiresAtMs, parentGeneration }: ChangingFields): number {
  return finish(withNumber(withNumber(1, expiresAtMs ?? 0), parentGeneration ?? -1));
}

/** `namespace`: its sum. */
export function rowSum(row: SummedRow & ChangingFields, namespace: number): number {
  let sum = withNumber(withNumber(withNumber(namespace, row.generation), row.sizeBytes), row.createdAtMs);
  sum = round(round(sum, row.checksumHigh), row.checksumLow);
  sum = typeof row.key === 'string' ? withText(sum, row.key) : withBytes(sum, row.key);
  sum = withNumber(sum, row.tokenCount ?? -1);
  if (row.redisMetadata !== null) sum = withBytes(sum, row.redisMetadata);
  if (row.lmBlock !== null) sum = withText(sum, row.lmBlock);
  return (finish(sum) ^ changingSum(row)) >>> 0;
}
