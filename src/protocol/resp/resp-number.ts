/**
 * Reads the number behind `*` or `$` up to CRLF, digit by digit, so that no line is ever buffered and it may be cut anywhere.
 * Accepts what redis' string2ll accepts: no plus sign, no leading zero, no `-0`, no space. More than 18 digits are malformed: they
 * are beyond every limit, and a sum of 18 is still compared rightly.
 * Invariant: between reads `value` is what the digits so far say; after MALFORMED only begin() may follow.
 */
export const NEEDS_MORE = 0;
export const COMPLETE = 1;
export const MALFORMED = 2;

const CR = 13;
const LF = 10;
const MAX_DIGITS = 18;

export class RespNumber {
  /** Magnitude; the sign is apart. */
  value = 0;
  negative = false;
  /** Position behind the last byte that read() used. */
  position = 0;
  #digits = 0;
  #crSeen = false;

  begin(): void {
    this.value = 0;
    this.negative = false;
    this.#digits = 0;
    this.#crSeen = false;
  }

  /** NEEDS_MORE where the chunk ended first. */
  read(chunk: Uint8Array, start: number): typeof NEEDS_MORE | typeof COMPLETE | typeof MALFORMED {
    const end = chunk.length;
    let position = start;
    let value = this.value;
    let digits = this.#digits;
    while (position < end) {
      const byte = chunk[position++] ?? 0;
      if (byte >= 0x30 && byte <= 0x39 && !this.#crSeen) {
        if (digits > 0 && value === 0) return MALFORMED;
        if (this.negative && byte === 0x30 && digits === 0) return MALFORMED;
        value = value * 10 + (byte - 0x30);
        digits += 1;
        if (digits > MAX_DIGITS) return MALFORMED;
      } else if (byte === CR && !this.#crSeen && digits > 0) {
        this.#crSeen = true;
      } else if (byte === LF && this.#crSeen) {
        this.position = position;
        this.value = value;
        return COMPLETE;
      } else if (byte === 0x2d && digits === 0 && !this.negative && !this.#crSeen) {
        this.negative = true;
      } else {
        return MALFORMED;
      }
    }
    this.position = position;
    this.value = value;
    this.#digits = digits;
    return NEEDS_MORE;
  }
}
