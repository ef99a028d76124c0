/**
 * Encodes and decodes bodies of the native door by their shape (native-schema.ts). A body that is cut, has bytes left over, or whose
 * counts promise more than it holds is refused before anything of that size is allocated.
 */
import { FRAME_HEADER_BYTES } from './native-schema.ts';
import type { FieldType, Shape } from './native-schema.ts';

export interface Span {
  readonly offset: number;
  readonly length: number;
}

interface FieldValues {
  u8: number;
  u16: number;
  u32: number;
  u64: number;
  text: string;
  /** A view of the body it was decoded from. */
  blob: Uint8Array;
  keys: readonly Uint8Array[];
  spans: readonly Span[];
  u8s: Uint8Array;
  u32s: readonly number[] | Uint32Array;
}

export type Values<S extends Shape> = { readonly [Name in keyof S]: FieldValues[S[Name]] };

/** The body cannot be what it should be; the message names the field. */
export class MalformedBody extends Error {}

const utf8 = new TextEncoder();
const strictUtf8 = new TextDecoder('utf-8', { fatal: true });
const LIMIT = Number.MAX_SAFE_INTEGER;

class Reader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #maxCount: number;
  #at = 0;
  field = '';

  constructor(bytes: Uint8Array, maxCount: number) {
    this.#bytes = bytes;
    this.#maxCount = maxCount;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  get left(): number {
    return this.#bytes.length - this.#at;
  }

  #take(bytes: number): number {
    if (bytes > this.left) throw new MalformedBody(`${this.field}: ${bytes} bytes are named, ${this.left} are left`);
    const at = this.#at;
    this.#at += bytes;
    return at;
  }

  u8(): number {
    return this.#view.getUint8(this.#take(1));
  }

  u16(): number {
    return this.#view.getUint16(this.#take(2), true);
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  u64(): number {
    const at = this.#take(8);
    const value = this.#view.getUint32(at, true) + this.#view.getUint32(at + 4, true) * 2 ** 32;
    if (value > LIMIT) throw new MalformedBody(`${this.field}: ${value} is beyond 2^53`);
    return value;
  }

  bytes(count: number): Uint8Array {
    const at = this.#take(count);
    return this.#bytes.subarray(at, at + count);
  }

  text(): string {
    const bytes = this.bytes(this.u16());
    try {
      return strictUtf8.decode(bytes);
    } catch (problem) {
      if (problem instanceof TypeError) throw new MalformedBody(`${this.field}: is no UTF-8`);
      throw problem;
    }
  }

  /** A count of things that take at least `leastBytes` each. */
  #count(leastBytes: number): number {
    const count = this.u32();
    if (count > this.#maxCount) throw new MalformedBody(`${this.field}: ${count} are named, at most ${this.#maxCount} are allowed`);
    if (count * leastBytes > this.left) throw new MalformedBody(`${this.field}: ${count} are named, ${this.left} bytes are left`);
    return count;
  }

  keys(): readonly Uint8Array[] {
    const count = this.#count(0);
    const keyBytes = this.u16();
    if (count * (keyBytes === 0 ? 2 : keyBytes) > this.left)
      throw new MalformedBody(`${this.field}: ${count} are named, ${this.left} bytes are left`);
    const keys: Uint8Array[] = [];
    for (let index = 0; index < count; index += 1) keys.push(this.bytes(keyBytes === 0 ? this.u16() : keyBytes));
    return keys;
  }

  spans(): readonly Span[] {
    const count = this.#count(12);
    const spans: Span[] = [];
    for (let index = 0; index < count; index += 1) spans.push({ offset: this.u64(), length: this.u32() });
    return spans;
  }

  u8s(): Uint8Array {
    return this.bytes(this.#count(1));
  }

  u32s(): readonly number[] {
    const count = this.#count(4);
    const values: number[] = [];
    for (let index = 0; index < count; index += 1) values.push(this.u32());
    return values;
  }

  read(type: FieldType): unknown {
    return type === 'blob' ? this.bytes(this.u32()) : this[type]();
  }
}

/** Throws MalformedBody. Blobs, keys and u8s are views of `body`. `maxCount`: of the elements of one list. */
export function decodeBody<S extends Shape>(shape: S, body: Uint8Array, maxCount = 0xffff_ffff): Values<S> {
  const reader = new Reader(body, maxCount);
  const values: Record<string, unknown> = {};
  for (const [name, type] of Object.entries(shape)) {
    reader.field = name;
    values[name] = reader.read(type);
  }
  if (reader.left > 0) throw new MalformedBody(`${reader.left} bytes are left over`);
  return values as Values<S>;
}

function fitting(value: number, most: number): number {
  if (!Number.isInteger(value) || value < 0 || value > most) throw new RangeError(`${value} is no integer from 0 to ${most}`);
  return value;
}

class Writer {
  #bytes: Uint8Array;
  #view: DataView;
  #at: number;

  constructor(headroom: number) {
    this.#bytes = new Uint8Array(256);
    this.#view = new DataView(this.#bytes.buffer);
    this.#at = headroom;
  }

  /** Where so many bytes go. It may put other memory in the place of #bytes and #view: look at these afterwards. */
  #room(bytes: number): number {
    const at = this.#at;
    if (at + bytes > this.#bytes.length) {
      const grown = new Uint8Array(Math.max(at + bytes, 2 * this.#bytes.length));
      grown.set(this.#bytes);
      this.#bytes = grown;
      this.#view = new DataView(grown.buffer);
    }
    this.#at = at + bytes;
    return at;
  }

  // `#room` may put other memory in the place of #bytes and #view, so that it comes before them.

  u8(value: number): void {
    const at = this.#room(1);
    this.#view.setUint8(at, fitting(value, 0xff));
  }

  u16(value: number): void {
    const at = this.#room(2);
    this.#view.setUint16(at, fitting(value, 0xffff), true);
  }

  u32(value: number): void {
    const at = this.#room(4);
    this.#view.setUint32(at, fitting(value, 0xffff_ffff), true);
  }

  u64(value: number): void {
    fitting(value, LIMIT);
    const at = this.#room(8);
    this.#view.setUint32(at, value % 2 ** 32, true);
    this.#view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
  }

  bytes(bytes: Uint8Array): void {
    const at = this.#room(bytes.length);
    this.#bytes.set(bytes, at);
  }

  write(type: FieldType, value: unknown): void {
    switch (type) {
      case 'text': {
        const bytes = utf8.encode(value as string);
        this.u16(bytes.length);
        this.bytes(bytes);
        return;
      }
      case 'blob':
        this.u32((value as Uint8Array).length);
        this.bytes(value as Uint8Array);
        return;
      case 'keys':
        this.#keys(value as readonly Uint8Array[]);
        return;
      case 'spans':
        this.u32((value as readonly Span[]).length);
        for (const { offset, length } of value as readonly Span[]) {
          this.u64(offset);
          this.u32(length);
        }
        return;
      case 'u8s':
        this.u32((value as Uint8Array).length);
        this.bytes(value as Uint8Array);
        return;
      case 'u32s':
        this.#u32s(value as readonly number[] | Uint32Array);
        return;
      default:
        this[type](value as number);
    }
  }

  #u32s(values: readonly number[] | Uint32Array): void {
    this.u32(values.length);
    let at = this.#room(4 * values.length);
    for (const value of values) {
      this.#view.setUint32(at, fitting(value, 0xffff_ffff), true);
      at += 4;
    }
  }

  #keys(keys: readonly Uint8Array[]): void {
    const first = keys[0]?.length ?? 0;
    const alike = first > 0 && keys.every((key) => key.length === first);
    this.u32(keys.length);
    this.u16(alike ? first : 0);
    for (const key of keys) {
      if (!alike) this.u16(key.length);
      this.bytes(key);
    }
  }

  finish(header: { readonly op: number; readonly status: number; readonly tag: number }): Uint8Array {
    const end = this.#at;
    this.#at = 0;
    this.u32(end - FRAME_HEADER_BYTES);
    this.u16(header.op);
    this.u16(header.status);
    this.u64(header.tag);
    return this.#bytes.subarray(0, end);
  }
}

/** A whole frame. Throws RangeError for what a field cannot hold. */
export function encodeFrame<S extends Shape>(
  header: { readonly op: number; readonly status?: number; readonly tag: number },
  shape: S,
  values: Values<S>,
): Uint8Array {
  const writer = new Writer(FRAME_HEADER_BYTES);
  for (const [name, type] of Object.entries(shape)) writer.write(type, values[name]);
  return writer.finish({ op: header.op, status: header.status ?? 0, tag: header.tag });
}

/** The body of every error. */
export const errorShape = { message: 'text' } as const satisfies Shape;
