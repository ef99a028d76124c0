/** Little-endian fields for the journal. The reader never allocates more than what is there. */
import { assert } from '#core/assert.ts';
import { badRequest, KvtierError } from '#core/errors.ts';

/** Bytes that are not what the format says. Internal to the journal: it becomes the state `damaged`. */
export class MalformedBytes extends Error {
  override readonly name = 'MalformedBytes';
}

const encoder = new TextEncoder();
/** `ignoreBOM` keeps a leading U+FEFF, which a key may well begin with. */
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const INITIAL_BYTES = 256;

export class ByteWriter {
  #buffer = new Uint8Array(INITIAL_BYTES);
  #view = new DataView(this.#buffer.buffer);
  #size = 0;
  readonly #limitBytes: number;

  /** Throws PAYLOAD_TOO_LARGE instead of growing beyond `limitBytes`. */
  constructor(limitBytes: number) {
    this.#limitBytes = limitBytes;
  }

  /** The bytes so far; the writer must not be used again. */
  take(): Uint8Array {
    return this.#buffer.subarray(0, this.#size);
  }

  u8(value: number): void {
    assert(Number.isInteger(value) && value >= 0 && value < 256, `Cannot write ${value} as u8`);
    const at = this.#grow(1);
    this.#view.setUint8(at, value);
  }

  u32(value: number): void {
    assert(Number.isInteger(value) && value >= 0 && value < 2 ** 32, `Cannot write ${value} as u32`);
    const at = this.#grow(4);
    this.#view.setUint32(at, value, true);
  }

  /** A count or generation as u64; exact in a double. */
  uint(value: number): void {
    assert(Number.isSafeInteger(value) && value >= 0, `Cannot write ${value} as u64: not an integer from 0 to 2^53`);
    const at = this.#grow(8);
    this.#view.setBigUint64(at, BigInt(value), true);
  }

  /** A time in ms as an IEEE double. */
  double(value: number): void {
    assert(Number.isFinite(value), `Cannot write ${value} as a time`);
    const at = this.#grow(8);
    this.#view.setFloat64(at, value, true);
  }

  bytes(value: Uint8Array): void {
    this.u32(value.length);
    const at = this.#grow(value.length);
    this.#buffer.set(value, at);
  }

  text(value: string): void {
    // A lone surrogate would come back as U+FFFD, and the replayed selector would match something else.
    if (!value.isWellFormed()) throw badRequest('Cannot journal text that is not well-formed Unicode');
    this.bytes(encoder.encode(value));
  }

  list<T>(values: readonly T[], write: (value: T) => void): void {
    this.u32(values.length);
    for (const value of values) write(value);
  }

  #grow(count: number): number {
    const at = this.#size;
    if (count > this.#limitBytes - at) {
      const context = { limitBytes: this.#limitBytes };
      throw new KvtierError('PAYLOAD_TOO_LARGE', `Cannot journal a record body over ${this.#limitBytes} bytes`, { context });
    }
    this.#size += count;
    if (this.#size > this.#buffer.length) {
      const buffer = new Uint8Array(Math.max(this.#buffer.length * 2, this.#size));
      buffer.set(this.#buffer);
      this.#buffer = buffer;
      this.#view = new DataView(buffer.buffer);
    }
    return at;
  }
}

export class ByteReader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  u8(): number {
    return this.#view.getUint8(this.#take(1));
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  uint(): number {
    const value = Number(this.#view.getBigUint64(this.#take(8), true));
    if (!Number.isSafeInteger(value)) throw new MalformedBytes('a number is beyond 2^53');
    return value;
  }

  double(): number {
    const value = this.#view.getFloat64(this.#take(8), true);
    if (!Number.isFinite(value)) throw new MalformedBytes('a time is not finite');
    return value;
  }

  /** A copy: the caller may keep it when the file's buffer is gone. */
  bytes(): Uint8Array {
    const size = this.u32();
    const at = this.#take(size);
    return this.#bytes.slice(at, at + size);
  }

  text(): string {
    const size = this.u32();
    const at = this.#take(size);
    try {
      return decoder.decode(this.#bytes.subarray(at, at + size));
    } catch (cause) {
      throw new MalformedBytes('text is not UTF-8', { cause });
    }
  }

  /** Items are read one by one, so a hostile count fails at the end of the bytes and reserves nothing. */
  list<T>(read: () => T): T[] {
    const count = this.u32();
    const values: T[] = [];
    for (let index = 0; index < count; index += 1) values.push(read());
    return values;
  }

  end(): void {
    if (this.#at !== this.#bytes.length) throw new MalformedBytes(`${this.#bytes.length - this.#at} bytes follow the last field`);
  }

  #take(count: number): number {
    const at = this.#at;
    if (count > this.#bytes.length - at) throw new MalformedBytes(`${count} bytes wanted, ${this.#bytes.length - at} left`);
    this.#at = at + count;
    return at;
  }
}
