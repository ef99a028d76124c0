/**
 * Splits an inline command (`PING`, `SET "a b" 'c'`) the way redis does (sdssplitargs): white space separates, double quotes know
 * \n \r \t \b \a \xHH and \<any>, single quotes only \', and a closing quote must be followed by white space or the end.
 */

const SPACE = 0x20;
const QUOTE = 0x22;
const APOSTROPHE = 0x27;
const BACKSLASH = 0x5c;

const escapes: Readonly<Record<number, number>> = { 0x6e: 10, 0x72: 13, 0x74: 9, 0x62: 8, 0x61: 7 };

/**
 * The arguments, copied out of `line`; undefined where quotes do not balance. An argument is never longer than what spells it,
 * so the result fits into as many bytes as the line.
 */
export function splitInlineArguments(line: Uint8Array): Uint8Array[] | undefined {
  const args: Uint8Array[] = [];
  const out = new Uint8Array(line.length);
  let written = 0;
  let position = 0;
  for (;;) {
    while (position < line.length && isSpace(line[position] ?? 0)) position += 1;
    if (position >= line.length) return args;
    const start = written;
    let quote = 0;
    for (;;) {
      if (position >= line.length) {
        if (quote !== 0) return undefined;
        break;
      }
      const byte = line[position] ?? 0;
      if (quote === 0) {
        if (isSpace(byte)) break;
        position += 1;
        if (byte === QUOTE || byte === APOSTROPHE) quote = byte;
        else out[written++] = byte;
      } else if (byte === quote) {
        position += 1;
        if (position < line.length && !isSpace(line[position] ?? 0)) return undefined;
        quote = 0;
        break;
      } else if (byte === BACKSLASH && position + 1 < line.length) {
        const taken = quote === QUOTE ? readEscape(line, position) : readApostrophe(line, position);
        out[written++] = taken & 0xff;
        position += taken >> 8;
      } else {
        out[written++] = byte;
        position += 1;
      }
    }
    args.push(out.subarray(start, written));
  }
}

/** Byte in the low 8 bits, how many bytes spelled it above them. */
function readEscape(line: Uint8Array, position: number): number {
  const next = line[position + 1] ?? 0;
  if (next === 0x78) {
    const high = hexDigit(line[position + 2] ?? 0);
    const low = hexDigit(line[position + 3] ?? 0);
    if (high >= 0 && low >= 0) return (4 << 8) | (high << 4) | low;
  }
  return (2 << 8) | (escapes[next] ?? next);
}

function readApostrophe(line: Uint8Array, position: number): number {
  return line[position + 1] === APOSTROPHE ? (2 << 8) | APOSTROPHE : (1 << 8) | BACKSLASH;
}

function hexDigit(byte: number): number {
  if (byte >= 0x30 && byte <= 0x39) return byte - 0x30;
  const folded = byte | 0x20;
  return folded >= 0x61 && folded <= 0x66 ? folded - 0x57 : -1;
}

function isSpace(byte: number): boolean {
  return byte === SPACE || (byte >= 9 && byte <= 13);
}
