/**
 * Writes the head of a GGUF file, version 3: metadata and the table of tensors, whose bytes follow at multiples of 32.
 *
 *   u32 'GGUF' | u32 3 | u64 tensors | u64 entries | entries x {string key, u32 type, value} |
 *   tensors x {string name, u32 dimensions, u64 x dimensions, u32 type, u64 offset} | zeros up to a multiple of 32 | tensor bytes
 *
 * A string is u64 bytes and UTF-8; an array is u32 type, u64 count and the values. Numbers are little-endian; a tensor's first dimension
 * is the one that is contiguous, and its offset counts from the first tensor's bytes. Source: ggml's docs/gguf.md.
 */
import { assert } from '#core/assert.ts';

export const GGUF_ALIGNMENT = 32;
const MAGIC = 0x46554747;
const VERSION = 3;

/** Types of metadata values. */
const U32 = 4;
const I32 = 5;
const F32 = 6;
const BOOL = 7;
const STRING = 8;
const ARRAY = 9;

export type GgufValue =
  | { readonly type: 'u32' | 'f32'; readonly value: number }
  | { readonly type: 'bool'; readonly value: boolean }
  | { readonly type: 'string'; readonly value: string }
  | { readonly type: 'strings'; readonly value: readonly string[] }
  | { readonly type: 'f32s' | 'i32s'; readonly value: readonly number[] };

/** f32: plain numbers. q8_0: blocks of 32 values, each an f16 scale and 32 signed bytes. */
export type TensorType = 'f32' | 'q8_0';
const tensorTypes: Readonly<Record<TensorType, { readonly id: number; readonly blockValues: number; readonly blockBytes: number }>> = {
  f32: { id: 0, blockValues: 1, blockBytes: 4 },
  q8_0: { id: 8, blockValues: 32, blockBytes: 34 },
};

export interface Tensor {
  readonly name: string;
  /** The contiguous dimension first. */
  readonly shape: readonly number[];
  readonly type: TensorType;
}

export interface GgufHead {
  /** Everything before the first tensor's bytes. */
  readonly bytes: Uint8Array;
  /** Where each tensor begins, from the start of the file, and how long it is without padding. */
  readonly places: readonly { readonly offset: number; readonly sizeBytes: number }[];
  readonly fileBytes: number;
}

export function valueCount(tensor: Tensor): number {
  return tensor.shape.reduce((product, size) => product * size, 1);
}

/** Requires rows that are whole blocks. */
export function tensorBytes(tensor: Tensor): number {
  const { blockValues, blockBytes } = tensorTypes[tensor.type];
  assert(
    (tensor.shape[0] ?? 0) % blockValues === 0,
    `Tensor ${tensor.name} has rows of ${tensor.shape[0]}, wanted whole blocks of ${blockValues}`,
  );
  return (valueCount(tensor) / blockValues) * blockBytes;
}

const aligned = (offset: number): number => Math.ceil(offset / GGUF_ALIGNMENT) * GGUF_ALIGNMENT;

/** Grows as it is written to. */
class Bytes {
  #buffer = new Uint8Array(64 * 1024);
  #view = new DataView(this.#buffer.buffer);
  length = 0;
  readonly #encoder = new TextEncoder();

  /** Makes room at the end and gives its offset: call it first, since the memory may move. */
  #room(sizeBytes: number): number {
    const at = this.length;
    this.length += sizeBytes;
    if (this.length > this.#buffer.length) {
      const grown = new Uint8Array(Math.max(this.length, this.#buffer.length * 2));
      grown.set(this.#buffer);
      this.#buffer = grown;
      this.#view = new DataView(grown.buffer);
    }
    return at;
  }

  u8(value: number): void {
    const at = this.#room(1);
    this.#view.setUint8(at, value);
  }
  u32(value: number): void {
    const at = this.#room(4);
    this.#view.setUint32(at, value, true);
  }
  i32(value: number): void {
    const at = this.#room(4);
    this.#view.setInt32(at, value, true);
  }
  f32(value: number): void {
    const at = this.#room(4);
    this.#view.setFloat32(at, value, true);
  }
  u64(value: number): void {
    const at = this.#room(8);
    this.#view.setBigUint64(at, BigInt(value), true);
  }
  string(value: string): void {
    const bytes = this.#encoder.encode(value);
    this.u64(bytes.length);
    const at = this.#room(bytes.length);
    this.#buffer.set(bytes, at);
  }
  array(elementType: number, count: number): void {
    this.u32(ARRAY);
    this.u32(elementType);
    this.u64(count);
  }
  finish(): Uint8Array {
    this.#room(aligned(this.length) - this.length);
    return this.#buffer.slice(0, this.length);
  }
}

export function encodeGgufHead(metadata: Readonly<Record<string, GgufValue>>, tensors: readonly Tensor[]): GgufHead {
  const bytes = new Bytes();
  bytes.u32(MAGIC);
  bytes.u32(VERSION);
  bytes.u64(tensors.length);
  bytes.u64(Object.keys(metadata).length);
  for (const [key, value] of Object.entries(metadata)) {
    bytes.string(key);
    encodeValue(bytes, value);
  }
  const relative: number[] = [];
  let offset = 0;
  for (const tensor of tensors) {
    relative.push(offset);
    bytes.string(tensor.name);
    bytes.u32(tensor.shape.length);
    for (const size of tensor.shape) bytes.u64(size);
    bytes.u32(tensorTypes[tensor.type].id);
    bytes.u64(offset);
    offset = aligned(offset + tensorBytes(tensor));
  }
  const head = bytes.finish();
  const places = tensors.map((tensor, index) => ({ offset: head.length + (relative[index] ?? 0), sizeBytes: tensorBytes(tensor) }));
  return { bytes: head, places, fileBytes: head.length + offset };
}

function encodeValue(bytes: Bytes, value: GgufValue): void {
  switch (value.type) {
    case 'u32':
      bytes.u32(U32);
      bytes.u32(value.value);
      return;
    case 'f32':
      bytes.u32(F32);
      bytes.f32(value.value);
      return;
    case 'bool':
      bytes.u32(BOOL);
      bytes.u8(value.value ? 1 : 0);
      return;
    case 'string':
      bytes.u32(STRING);
      bytes.string(value.value);
      return;
    case 'strings':
      bytes.array(STRING, value.value.length);
      for (const text of value.value) bytes.string(text);
      return;
    case 'f32s':
      bytes.array(F32, value.value.length);
      for (const number of value.value) bytes.f32(number);
      return;
    case 'i32s':
      bytes.array(I32, value.value.length);
      for (const number of value.value) bytes.i32(number);
  }
}
