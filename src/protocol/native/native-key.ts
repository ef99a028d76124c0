/**
 * How a chunk of the native door is spelled for people, REST and the other doors:
 * `kvtier:1@model@layout@rank@group@key`, and `@salt` behind it where the client named one. Everything before the key makes the
 * namespace, so that equal keys of two layouts are two chunks.
 */
import { DEFAULT_TENANT } from '#core/namespace.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';

/** First field of the spelling; no model of LMCache's grammars is followed by a model name and a layout. */
export const NATIVE_SIGIL = 'kvtier:1';
/** Bytes of a key, at most: hashes in hex, with room for what an adapter puts behind them. */
export const MAX_NATIVE_KEY_BYTES = 512;

const fieldShape = /^[^@\p{Cc}]*$/u;
/** A digest of all that makes KV bytes readable by one engine build and not by another. */
const layoutShape = /^[0-9a-f]{16,64}$/;
const keyShape = /^[\x21-\x3f\x41-\x7e]{1,512}$/;
const saltShape = /^[^@\p{Cc}]{1,256}$/u;
const MAX_MODEL_CHARACTERS = 512;
const MAX_FIELD_CHARACTERS = 64;

export interface NativeNamespace {
  /** As the engine calls it, weights revision included where the client knows it. */
  readonly model: string;
  /** 16 to 64 hex digits. */
  readonly layout: string;
  /** Which part of the model's KV: a tensor-parallel rank, say. May be empty. */
  readonly rank: string;
  /** KV cache group or layer set. May be empty. */
  readonly group: string;
  /** cache_salt; empty: none. */
  readonly salt: string;
}

/** The descriptor, or a sentence about what is wrong with a field. `tenant`: of the connection's token, if it has one. */
export function nativeDescriptor(given: NativeNamespace, tenant: string | undefined): NamespaceDescriptor | string {
  const { model, layout, rank, group, salt } = given;
  if (model === '' || model.length > MAX_MODEL_CHARACTERS || !fieldShape.test(model))
    return `model must have 1 to ${MAX_MODEL_CHARACTERS} characters, none of them @ or a control character`;
  if (!layoutShape.test(layout)) return 'layout must be 16 to 64 lower-case hex digits';
  for (const [name, text] of [
    ['rank', rank],
    ['group', group],
  ] as const) {
    if (text.length > MAX_FIELD_CHARACTERS || !fieldShape.test(text))
      return `${name} must have at most ${MAX_FIELD_CHARACTERS} characters, none of them @ or a control character`;
  }
  if (salt !== '' && !saltShape.test(salt)) return 'salt must have at most 256 characters, none of them @ or a control character';
  return {
    grammar: 'native',
    tenant: tenant ?? (salt === '' ? DEFAULT_TENANT : salt),
    model,
    rank,
    group,
    dtype: '',
    layer: '',
    tags: { layout },
    keyPrefix: `${NATIVE_SIGIL}@${model}@${layout}@${rank}@${group}@`,
    keyTail: salt === '' ? '' : `@${salt}`,
  };
}

/** True for bytes that may name a chunk: printable ASCII without `@`, so that every key can be typed, listed and invalidated. */
export function isNativeKey(key: Uint8Array): boolean {
  if (key.length === 0 || key.length > MAX_NATIVE_KEY_BYTES) return false;
  for (let index = 0; index < key.length; index += 1) {
    const byte = key[index] as number;
    if (byte < 0x21 || byte > 0x7e || byte === 0x40) return false;
  }
  return true;
}

/** The namespace fields and the number of the key's field, if the fields of a spelling are the native door's. */
export function readNativeKey(fields: readonly string[]): { readonly hashIndex: number; readonly native: NativeNamespace } | undefined {
  if (fields[0] !== NATIVE_SIGIL || fields.length < 6 || fields.length > 7) return undefined;
  const [, model = '', layout = '', rank = '', group = '', key = '', salt] = fields;
  if (salt === '' || !keyShape.test(key)) return undefined;
  const native = { model, layout, rank, group, salt: salt ?? '' };
  return typeof nativeDescriptor(native, undefined) === 'string' ? undefined : { hashIndex: 5, native };
}
