/**
 * Replies of the RESP door, in RESP2 or RESP3. Small replies of one connection are appended to one growable buffer; a large value
 * is only announced here (`bulkHeader`) and sent from its own memory.
 */
import { assert } from '#core/assert.ts';

export type RespVersion = 2 | 3;

const utf8 = new TextEncoder();

function ascii(text: string): Uint8Array {
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}

/** Shared constants; never written to. */
export const RESP_OK = ascii('+OK\r\n');
export const RESP_ZERO = ascii(':0\r\n');
export const RESP_ONE = ascii(':1\r\n');
export const RESP_NULL_BULK = ascii('$-1\r\n');
export const RESP_NULL = ascii('_\r\n');
export const RESP_CRLF = ascii('\r\n');
/** Rejected SET for clients that read exactly five bytes (lmcache profile). */
export const RESP_SET_REJECTED = ascii('-NO\r\n');
/** Failed EXISTS or DEL for clients that read exactly four bytes (lmcache profile). */
export const RESP_FAILED = ascii('-E\r\n');

/** `$<n>\r\n`: what precedes a value of `sizeBytes` that is sent from its own memory, followed by RESP_CRLF. */
export function bulkHeader(sizeBytes: number): Uint8Array {
  assert(Number.isSafeInteger(sizeBytes) && sizeBytes >= 0, `Bulk length ${sizeBytes} is no size`);
  return ascii(`$${sizeBytes}\r\n`);
}

/** `-<text>\r\n`; CR and LF inside the text become spaces, for they would end the reply. */
export function errorReply(text: string): Uint8Array {
  return utf8.encode(`-${oneLine(text)}\r\n`);
}

function oneLine(text: string): string {
  return text.replace(/[\r\n]/g, ' ');
}

/** Client bytes for an error message: printable ASCII as it is, CR, LF and NUL a space, the rest `?`; cut at `maxBytes`. */
export function printable(bytes: Uint8Array, maxBytes = 128): string {
  let text = '';
  for (let index = 0; index < bytes.length && index < maxBytes; index += 1) {
    const byte = bytes[index] ?? 0;
    if (byte >= 0x20 && byte < 0x7f) text += String.fromCharCode(byte);
    else text += byte === 10 || byte === 13 || byte === 0 ? ' ' : '?';
  }
  return text;
}

/**
 * Appends replies to one buffer. `take()` hands the bytes over and starts anew; `bytes` looks at them in place.
 * Invariant: `length` never exceeds the buffer. Not bounded here: the caller flushes when `length` passes its own limit.
 */
export class RespReplyBuilder {
  /** Set by HELLO. */
  version: RespVersion;
  #buffer: Uint8Array;
  #length = 0;

  constructor(options: { readonly version?: RespVersion; readonly capacityBytes?: number } = {}) {
    this.version = options.version ?? 2;
    this.#buffer = new Uint8Array(options.capacityBytes ?? 512);
  }

  get length(): number {
    return this.#length;
  }

  /** View of what was appended; valid until the next append, take or clear. */
  get bytes(): Uint8Array {
    return this.#buffer.subarray(0, this.#length);
  }

  /** A copy of what was appended, owned by the caller; the builder is empty afterwards. */
  take(): Uint8Array {
    const taken = this.#buffer.slice(0, this.#length);
    this.clear();
    return taken;
  }

  /** Forgets what was appended. A buffer that one large reply blew up is let go. */
  clear(): void {
    this.#length = 0;
    if (this.#buffer.length > 64 * 1024) this.#buffer = new Uint8Array(512);
  }

  raw(bytes: Uint8Array): this {
    this.#reserve(bytes.length);
    this.#buffer.set(bytes, this.#length);
    this.#length += bytes.length;
    return this;
  }

  ok(): this {
    return this.raw(RESP_OK);
  }

  /** `text` has no CR or LF. */
  simple(text: string): this {
    return this.#line('+', text);
  }

  /** `text` begins with the error's code: `ERR unknown command`. */
  error(text: string): this {
    return this.#line('-', oneLine(text));
  }

  integer(value: number | bigint): this {
    return this.#line(':', String(value));
  }

  bulkHeader(sizeBytes: number): this {
    return this.#count('$', sizeBytes);
  }

  bulk(value: Uint8Array): this {
    return this.bulkHeader(value.length).raw(value).raw(RESP_CRLF);
  }

  bulkText(text: string): this {
    return this.bulk(utf8.encode(text));
  }

  /** `$-1`, in RESP3 `_`. */
  nullBulk(): this {
    return this.raw(this.version === 3 ? RESP_NULL : RESP_NULL_BULK);
  }

  array(count: number): this {
    return this.#count('*', count);
  }

  /** Header of `pairCount` pairs: RESP3 `%n`, RESP2 an array of twice as many. */
  map(pairCount: number): this {
    return this.version === 3 ? this.#count('%', pairCount) : this.#count('*', 2 * pairCount);
  }

  /** RESP3 `~n`, RESP2 an array. */
  set(count: number): this {
    return this.#count(this.version === 3 ? '~' : '*', count);
  }

  /** RESP3 `#t`, RESP2 `:1`. */
  boolean(value: boolean): this {
    if (this.version === 2) return this.integer(value ? 1 : 0);
    return this.#line('#', value ? 't' : 'f');
  }

  /** RESP3 `,3.14`, RESP2 a bulk string. */
  double(value: number): this {
    const text = Number.isFinite(value) ? String(value) : Number.isNaN(value) ? 'nan' : value > 0 ? 'inf' : '-inf';
    return this.version === 3 ? this.#line(',', text) : this.bulkText(text);
  }

  /** RESP3 `=n txt:...`, RESP2 a bulk string. */
  verbatim(text: string, format: 'txt' | 'mkd' = 'txt'): this {
    if (this.version === 2) return this.bulkText(text);
    const body = utf8.encode(text);
    return this.#count('=', body.length + 4)
      .raw(ascii(`${format}:`))
      .raw(body)
      .raw(RESP_CRLF);
  }

  checkInvariants(): void {
    assert(this.#length <= this.#buffer.length, 'reply longer than its buffer');
  }

  #count(mark: string, count: number): this {
    assert(Number.isSafeInteger(count) && count >= 0, `Cannot announce ${count} after ${mark}`);
    return this.#line(mark, String(count));
  }

  #line(mark: string, text: string): this {
    // A UTF-16 unit is at most three bytes of UTF-8.
    this.#reserve(3 + 3 * text.length);
    const buffer = this.#buffer;
    buffer[this.#length++] = mark.charCodeAt(0);
    if (text.length <= 24 && isAscii(text)) {
      for (let index = 0; index < text.length; index += 1) buffer[this.#length++] = text.charCodeAt(index);
    } else {
      this.#length += utf8.encodeInto(text, buffer.subarray(this.#length)).written;
    }
    buffer[this.#length++] = 13;
    buffer[this.#length++] = 10;
    return this;
  }

  #reserve(byteCount: number): void {
    const needed = this.#length + byteCount;
    if (needed <= this.#buffer.length) return;
    const grown = new Uint8Array(Math.max(needed, 2 * this.#buffer.length));
    grown.set(this.#buffer.subarray(0, this.#length));
    this.#buffer = grown;
  }
}

function isAscii(text: string): boolean {
  for (let index = 0; index < text.length; index += 1) if (text.charCodeAt(index) > 0x7f) return false;
  return true;
}
