/**
 * Reads LMCache's two key grammars and the native door's spelling; whatever is none of them is opaque and cached all the same.
 *
 *   object-key        [prefix@]model@kvRank@group@hash[@salt]        (0.4.x: model@kvRank@hash)
 *   cache-engine-key  [vllm@]model@worldSize@workerId@hash@dtype[@layer][@tag%value ...], for redis:// followed by
 *                     `kv_bytes` or `metadata` without a separator
 *   native            kvtier:1@model@layout@rank@group@key[@salt]       (native/native-key.ts)
 *
 * Sources: LMCache's `_object_key_to_string` and `CacheEngineKey.to_string`; docs/formats/wire-resp.md says what we accept.
 */
import { DEFAULT_TENANT, namespaceIdentity, type NamespaceDescriptor } from '#core/namespace.ts';
import { nativeDescriptor, readNativeKey } from './native/native-key.ts';

/** Longest key in bytes, documented at the doors. */
export const MAX_KEY_BYTES = 2048;

export type KeyPart = 'whole' | 'kv_bytes' | 'metadata';

export interface ParsedKey {
  /** The same object for every key of the namespace, for as long as the parser remembers it. */
  readonly descriptor: NamespaceDescriptor;
  /** The chunk hash as text, or the whole key if opaque: a view of the bytes that were parsed. */
  readonly key: Uint8Array;
  /**
   * Which half of a redis:// twin was meant. Both halves are one entry: `descriptor.keyTail` ends in `kv_bytes` for both, which
   * keeps them apart from a key without suffix, and `keyPrefix + key + keyTail` is the spelling of the `kv_bytes` half.
   */
  readonly part: KeyPart;
}

export type ParseKeyResult = ParsedKey | 'too-long';

const AT = 0x40;
const MINUS = 0x2d;
const SUFFIX_BYTES = 8;
const KV_BYTES = 'kv_bytes';
const METADATA = 'metadata';

/** Names in LMCache's dtype tables. */
const knownDtypes: ReadonlySet<string> = new Set([
  'half',
  'float',
  'double',
  'bfloat16',
  'float16',
  'float32',
  'float64',
  'int8',
  'uint8',
  'int16',
  'int32',
  'int64',
  'bool',
  'fp8_e4m3fn',
  'fp8_e5m2',
  'float8_e4m3fn',
  'float8_e5m2',
]);
/**
 * Names that a later release may add: a numeric family, its width, and qualifiers (`float8_e8m0fnu`, `nvfp4`, `int4_x2`). No dtype
 * may be spelled in hex digits alone (so not `bf16`): what a key means must never depend on the value of its hash.
 */
const dtypeShape = /^(?:nv|mx)?(?:b?float|fp|q?u?int|complex|bits)\d{1,3}(?:_[a-z0-9]+){0,4}$/;

const rankShape = /^[0-9a-f]{8}$/;
const groupShape = /^[0-9a-f]{1,8}$/;
const decimalShape = /^\d{1,10}$/;
const objectHashShape = /^[0-9a-fA-F]+$/;
/** Python prints a negative builtin hash with its sign. */
const engineHashShape = /^-?[0-9a-fA-F]+$/;
/** LMCache refuses these in a salt; a key that has them was not written by it. */
const saltShape = /^[^/\\]{1,128}$/u;
/** Where these occur outside the hash the key is opaque: identities and logs stay free of them. */
// oxlint-disable-next-line no-control-regex
const controlCharacter = /[\u0000-\u001f\u007f]/;

// ignoreBOM: a decoder that swallows a leading BOM would not give the client's spelling back.
const strictUtf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const utf8 = new TextEncoder();

/** What the grammar says of one key. `hashIndex` is the number of the hash's field; `tenant` is the bare salt, '' without one. */
interface Reading {
  readonly hashIndex: number;
  readonly descriptor: Omit<NamespaceDescriptor, 'keyPrefix' | 'keyTail'>;
}

/** A namespace met lately, by the bytes around the hash. */
interface Remembered {
  readonly descriptor: NamespaceDescriptor;
  readonly prefix: Uint8Array;
  /** Bytes between the hash and the suffix. */
  readonly tail: Uint8Array;
  readonly twin: boolean;
  readonly signed: boolean;
}

/**
 * Parses keys of one tenant. Keys of a namespace that is among the last few take no string work: the bytes around the hash are
 * compared and the descriptor is reused, so that callers can intern namespaces by object identity.
 * Invariants: at most REMEMBERED_COUNT namespaces are remembered by bytes and `maxNamespaces` by identity; a remembered answer is
 * what a fresh parse would give.
 */
export class KeyParser {
  static readonly REMEMBERED_COUNT = 8;
  readonly #tenant: string | undefined;
  readonly #maxNamespaces: number;
  readonly #opaque: NamespaceDescriptor;
  /** Most recent first. */
  readonly #remembered: Remembered[] = [];
  readonly #byIdentity = new Map<string, NamespaceDescriptor>();

  /**
   * `tenant`: that of the connection's token, if it has one (`@name`): all its keys are of this tenant, and salts live inside it.
   * `maxNamespaces`: descriptors kept for reuse; beyond it all are forgotten and made anew.
   */
  constructor(options: { readonly tenant?: string; readonly maxNamespaces?: number } = {}) {
    this.#tenant = options.tenant;
    this.#maxNamespaces = options.maxNamespaces ?? 4096;
    this.#opaque = {
      grammar: 'opaque',
      tenant: options.tenant ?? DEFAULT_TENANT,
      model: '',
      rank: '',
      group: '',
      dtype: '',
      layer: '',
      tags: {},
      keyPrefix: '',
      keyTail: '',
    };
  }

  /** `bytes` must stay unchanged while the answer's `key` is in use. */
  parse(bytes: Uint8Array): ParseKeyResult {
    if (bytes.length > MAX_KEY_BYTES) return 'too-long';
    const remembered = this.#remembered;
    for (let index = 0; index < remembered.length; index += 1) {
      const candidate = remembered[index];
      const parsed = candidate === undefined ? undefined : match(candidate, bytes);
      if (parsed === undefined || candidate === undefined) continue;
      if (index > 0) {
        remembered.splice(index, 1);
        remembered.unshift(candidate);
      }
      return parsed;
    }
    return this.#parseSlowly(bytes);
  }

  #parseSlowly(bytes: Uint8Array): ParsedKey {
    const opaque: ParsedKey = { descriptor: this.#opaque, key: bytes, part: 'whole' };
    if (bytes.indexOf(AT) < 0) return opaque;
    const text = decodeClean(bytes);
    if (text === undefined) return opaque;
    const native = this.#readNative(text, bytes);
    if (native !== undefined) return native;
    const suffix = suffixOf(bytes);
    const objectKey = readObjectKey(text.split('@'), 0);
    // A salt may end in `metadata`; only cache-engine keys carry the suffix, so an object key is looked for first.
    const twin = objectKey === undefined && suffix !== 'whole' ? readCacheEngineKey(text.slice(0, -SUFFIX_BYTES).split('@')) : undefined;
    const reading = objectKey ?? twin ?? readCacheEngineKey(text.split('@')) ?? readObjectKey(text.split('@'), 1);
    if (reading === undefined) return opaque;

    const body = twin === undefined ? bytes : bytes.subarray(0, bytes.length - SUFFIX_BYTES);
    const start = fieldStart(body, reading.hashIndex);
    const next = body.indexOf(AT, start);
    const end = next < 0 ? body.length : next;
    const prefix = body.slice(0, start);
    const tail = body.slice(end);
    const descriptor = this.#intern({
      ...reading.descriptor,
      tenant: this.#tenantOf(reading.descriptor.tenant),
      keyPrefix: strictUtf8.decode(prefix),
      keyTail: strictUtf8.decode(tail) + (twin === undefined ? '' : KV_BYTES),
    });
    this.#remember({ descriptor, prefix, tail, twin: twin !== undefined, signed: descriptor.grammar === 'cache-engine-key' });
    return { descriptor, key: bytes.subarray(start, end), part: twin === undefined ? 'whole' : suffix };
  }

  /** Not remembered by its bytes: the native door names its namespaces itself, and here only people spell such keys. */
  #readNative(text: string, bytes: Uint8Array): ParsedKey | undefined {
    const reading = readNativeKey(text.split('@'));
    const descriptor = reading === undefined ? undefined : nativeDescriptor(reading.native, this.#tenant);
    if (reading === undefined || descriptor === undefined || typeof descriptor === 'string') return undefined;
    const start = fieldStart(bytes, reading.hashIndex);
    const next = bytes.indexOf(AT, start);
    return { descriptor: this.#intern(descriptor), key: bytes.subarray(start, next < 0 ? bytes.length : next), part: 'whole' };
  }

  #tenantOf(salt: string): string {
    return this.#tenant ?? (salt === '' ? DEFAULT_TENANT : salt);
  }

  #intern(descriptor: NamespaceDescriptor): NamespaceDescriptor {
    const identity = namespaceIdentity(descriptor);
    const known = this.#byIdentity.get(identity);
    if (known !== undefined) return known;
    if (this.#byIdentity.size >= this.#maxNamespaces) this.#byIdentity.clear();
    this.#byIdentity.set(identity, descriptor);
    return descriptor;
  }

  #remember(entry: Remembered): void {
    this.#remembered.unshift(entry);
    if (this.#remembered.length > KeyParser.REMEMBERED_COUNT) this.#remembered.pop();
  }
}

/** Parses one key without memory of others. */
export function parseKey(bytes: Uint8Array, options: { readonly tenant?: string } = {}): ParseKeyResult {
  return new KeyParser(options).parse(bytes);
}

/** True for keys that LMCache itself spells: what the lmcache profile of a connection goes by. */
export function isLmcacheKey(parsed: ParsedKey): boolean {
  return parsed.descriptor.grammar !== 'opaque' && parsed.descriptor.grammar !== 'native';
}

/** The bytes that the client sent: the inverse of parsing. */
export function spellKey(parsed: ParsedKey): Uint8Array {
  const { keyPrefix, keyTail } = parsed.descriptor;
  const tail = parsed.part === 'metadata' ? keyTail.slice(0, -SUFFIX_BYTES) + METADATA : keyTail;
  const before = utf8.encode(keyPrefix);
  const after = utf8.encode(tail);
  const spelled = new Uint8Array(before.length + parsed.key.length + after.length);
  spelled.set(before);
  spelled.set(parsed.key, before.length);
  spelled.set(after, before.length + parsed.key.length);
  return spelled;
}

function suffixOf(bytes: Uint8Array): KeyPart {
  if (endsWith(bytes, KV_BYTES)) return 'kv_bytes';
  return endsWith(bytes, METADATA) ? 'metadata' : 'whole';
}

function endsWith(bytes: Uint8Array, suffix: string): boolean {
  const start = bytes.length - suffix.length;
  if (start < 0) return false;
  for (let index = suffix.length - 1; index >= 0; index -= 1) {
    if (bytes[start + index] !== suffix.charCodeAt(index)) return false;
  }
  return true;
}

/** The answer for `bytes` if they are the remembered namespace around another hash. */
function match(candidate: Remembered, bytes: Uint8Array): ParsedKey | undefined {
  const { prefix, tail } = candidate;
  let end = bytes.length;
  let part: KeyPart = 'whole';
  if (candidate.twin) {
    part = suffixOf(bytes);
    if (part === 'whole') return undefined;
    end -= SUFFIX_BYTES;
  }
  const start = prefix.length;
  end -= tail.length;
  if (end <= start) return undefined;
  // From the back: namespaces of one model differ in the rank and group, not in its name.
  for (let index = start - 1; index >= 0; index -= 1) if (bytes[index] !== prefix[index]) return undefined;
  for (let index = tail.length - 1; index >= 0; index -= 1) if (bytes[end + index] !== tail[index]) return undefined;
  let index = start;
  if (candidate.signed && bytes[index] === MINUS && index + 1 < end) index += 1;
  for (; index < end; index += 1) if (!isHexDigit(bytes[index] ?? 0)) return undefined;
  return { descriptor: candidate.descriptor, key: bytes.subarray(start, end), part };
}

function isHexDigit(byte: number): boolean {
  return (byte >= 0x30 && byte <= 0x39) || ((byte | 0x20) >= 0x61 && (byte | 0x20) <= 0x66);
}

/** Offset of the field with that number; requires it to exist. */
function fieldStart(bytes: Uint8Array, fieldIndex: number): number {
  let start = 0;
  for (let field = 0; field < fieldIndex; field += 1) start = bytes.indexOf(AT, start) + 1;
  return start;
}

/** Undefined for what cannot be LMCache's: bytes that are no UTF-8, or hold control characters. */
function decodeClean(bytes: Uint8Array): string | undefined {
  try {
    const text = strictUtf8.decode(bytes);
    return controlCharacter.test(text) ? undefined : text;
  } catch (error) {
    if (error instanceof TypeError) return undefined;
    throw error;
  }
}

/** `skip` 1: the valkey adapter's `key_prefix@` stands before the model. */
function readObjectKey(fields: readonly string[], skip: 0 | 1): Reading | undefined {
  const count = fields.length - skip;
  if (count < 3 || count > 5) return undefined;
  const model = fields[skip] ?? '';
  const rank = fields[skip + 1] ?? '';
  const group = count === 3 ? '' : (fields[skip + 2] ?? '');
  const hashIndex = skip + (count === 3 ? 2 : 3);
  const salt = fields[skip + 4];
  if (model === '' || !rankShape.test(rank) || !objectHashShape.test(fields[hashIndex] ?? '')) return undefined;
  if (count > 3 && !groupShape.test(group)) return undefined;
  if (salt !== undefined && !saltShape.test(salt)) return undefined;
  return { hashIndex, descriptor: { grammar: 'object-key', tenant: salt ?? '', model, rank, group, dtype: '', layer: '', tags: {} } };
}

/** Releases before about 0.3 led with their engine's name, and at first had no dtype. */
function readCacheEngineKey(fields: readonly string[]): Reading | undefined {
  return readEngineFields(fields, 0) ?? (fields[0] === 'vllm' ? readEngineFields(fields, 1) : undefined);
}

function readEngineFields(fields: readonly string[], at: 0 | 1): Reading | undefined {
  const model = fields[at] ?? '';
  const worldSize = fields[at + 1] ?? '';
  const workerId = fields[at + 2] ?? '';
  const hashIndex = at + 3;
  // Eight digits are a kv_rank: that key belongs to the other grammar, whose last field is a tenant.
  if (model === '' || rankShape.test(worldSize) || !decimalShape.test(worldSize) || !decimalShape.test(workerId)) return undefined;
  if (!engineHashShape.test(fields[hashIndex] ?? '')) return undefined;
  let next = hashIndex + 1;
  let dtype = '';
  const named = fields[next] ?? '';
  if (knownDtypes.has(named) || dtypeShape.test(named)) {
    dtype = named;
    next += 1;
  } else if (at === 0) return undefined;
  let layer = '';
  if (decimalShape.test(fields[next] ?? '')) {
    layer = fields[next] ?? '';
    next += 1;
  }
  const tags: [string, string][] = [];
  for (; next < fields.length; next += 1) {
    const field = fields[next] ?? '';
    const percent = field.indexOf('%');
    if (percent <= 0) return undefined;
    tags.push([field.slice(0, percent), field.slice(percent + 1)]);
  }
  // fromEntries defines own properties, so that a tag named __proto__ is only a tag.
  const descriptor = { grammar: 'cache-engine-key', tenant: '', model, rank: `${worldSize}/${workerId}`, group: '', dtype, layer } as const;
  return { hashIndex, descriptor: { ...descriptor, tags: Object.fromEntries(tags) } };
}
