/**
 * What happens to valid bytes on their way to becoming hostile: flips, insertions, deletions, splices, repeats, edited lengths and
 * numbers at the edges. Pure: the same random numbers give the same bytes.
 */
import type { SeededRandom } from '#testsupport/kill-values.ts';

/** A mutated input is never longer: splices and repeats of mutated inputs would grow without bound, and time with them. */
export const MAX_INPUT_BYTES = 16 * 1024;

const encoder = new TextEncoder();
/** Where parsers of text go wrong. */
const edgeTexts = [
  ...['0', '-0', '00', '-1', '1', '+1', '127', '128', '255', '256', '511', '512', '2048', '2049', '4095', '4096', '4097'],
  ...['65535', '65536', '2147483647', '2147483648', '-2147483648', '4294967295', '4294967296', '9007199254740991', '9007199254740992'],
  ...['9223372036854775807', '9223372036854775808', '18446744073709551616', '999999999999999999', '1000000000000000000', '1e309', '1e-7'],
  ...[
    'NaN',
    'Infinity',
    '0x10',
    '1.5',
    'true',
    'null',
    '__proto__',
    'constructor',
    '',
    '\r\n',
    '\n',
    '\0',
    '\ufeff',
    '\u2028',
    '\u{1f4a5}',
  ],
].map((text) => encoder.encode(text));
/** Where parsers of binary go wrong, as one, two, four or eight bytes. */
const edgeNumbers = [0n, 1n, 0x7fn, 0x80n, 0xffn, 0x7fffn, 0x8000n, 0xffffn, 0x7fff_ffffn, 0x8000_0000n, 0xffff_ffffn, 2n ** 53n - 1n];
const widerNumbers = [2n ** 53n, 2n ** 63n - 1n, 2n ** 63n, 2n ** 64n - 1n, 0x7ff0_0000_0000_0000n, 0x7ff8_0000_0000_0000n, 1n << 32n];

type Mutator = (bytes: Uint8Array, random: SeededRandom, other: Uint8Array) => Uint8Array;

function replaced(bytes: Uint8Array, range: readonly [start: number, end: number], by: Uint8Array): Uint8Array {
  const [start, end] = range;
  const out = new Uint8Array(bytes.length - (end - start) + by.length);
  out.set(bytes.subarray(0, start));
  out.set(by, start);
  out.set(bytes.subarray(end), start + by.length);
  return out;
}

/** Structure is at the head more often than in the middle: half of all places are among the first bytes. */
const HEAD_BYTES = 160;

/** A place in `[0, limit)`; 0 where there is none. */
function place(limit: number, random: SeededRandom): number {
  return random.below(random.below(2) === 0 ? Math.min(limit, HEAD_BYTES) : limit);
}

/** A run inside the bytes, short more often than long. */
function run(bytes: Uint8Array, random: SeededRandom): readonly [number, number] {
  const start = place(bytes.length + 1, random);
  const length = Math.min(bytes.length - start, Math.floor(random.logarithmic(1, Math.max(1, bytes.length))));
  return [start, start + length];
}

function bytesOf(value: bigint, options: { readonly width: number; readonly littleEndian: boolean }): Uint8Array {
  const out = new Uint8Array(options.width);
  for (let index = 0; index < options.width; index += 1) {
    const place = options.littleEndian ? index : options.width - 1 - index;
    out[place] = Number((value >> BigInt(8 * index)) & 0xffn);
  }
  return out;
}

const mutators: readonly Mutator[] = [
  // One bit.
  (bytes, random) => {
    const out = bytes.slice();
    const at = place(out.length, random);
    if (out.length > 0) out[at] = (out[at] ?? 0) ^ (1 << random.below(8));
    return out;
  },
  // One byte, any.
  (bytes, random) => {
    const out = bytes.slice();
    if (out.length > 0) out[place(out.length, random)] = random.below(256);
    return out;
  },
  // Bytes that were not there.
  (bytes, random) => {
    const at = place(bytes.length + 1, random);
    const by = Uint8Array.from({ length: 1 + random.below(4) }, () => random.below(256));
    return replaced(bytes, [at, at], by);
  },
  // A run goes.
  (bytes, random) => replaced(bytes, run(bytes, random), new Uint8Array(0)),
  // The end goes.
  (bytes, random) => bytes.slice(0, place(bytes.length + 1, random)),
  // The head of this, the tail of another.
  (bytes, random, other) =>
    replaced(bytes, [place(bytes.length + 1, random), bytes.length], other.subarray(random.below(other.length + 1))),
  // A run of another in the middle.
  (bytes, random, other) => replaced(bytes, run(bytes, random), other.slice(...run(other, random))),
  // A run again and again.
  (bytes, random) => {
    const [start, end] = run(bytes, random);
    const piece = bytes.slice(start, end);
    const times = 1 + random.below(8);
    const by = new Uint8Array(Math.min(piece.length * times, MAX_INPUT_BYTES));
    for (let at = 0; at < by.length; at += piece.length) by.set(piece.subarray(0, by.length - at), at);
    return replaced(bytes, [end, end], by);
  },
  // Two runs change places.
  (bytes, random) => {
    const [start, end] = run(bytes, random);
    const moved = replaced(bytes, [start, end], new Uint8Array(0));
    const at = place(moved.length + 1, random);
    return replaced(moved, [at, at], bytes.slice(start, end));
  },
  // A number in digits becomes one at an edge.
  (bytes, random) => {
    const start = findDigits(bytes, place(bytes.length + 1, random));
    let end = start;
    while (end < bytes.length && isDigit(bytes[end])) end += 1;
    return replaced(bytes, [start, end], random.pick(edgeTexts));
  },
  // A word of edge text anywhere.
  (bytes, random) => replaced(bytes, run(bytes, random), random.pick(edgeTexts)),
  // A binary field becomes a number at an edge.
  (bytes, random) => {
    const width = random.pick([1, 2, 4, 8] as const);
    if (bytes.length < width) return bytes;
    const value = random.pick(random.below(3) === 0 ? widerNumbers : edgeNumbers);
    const at = place(bytes.length - width + 1, random);
    return replaced(bytes, [at, at + width], bytesOf(value, { width, littleEndian: random.below(4) !== 0 }));
  },
  // A binary length says a little more or less: of what is there, or of itself.
  (bytes, random) => {
    const width = random.pick([1, 2, 4] as const);
    if (bytes.length < width) return bytes;
    const at = place(bytes.length - width + 1, random);
    let value = 0n;
    for (let index = 0; index < width; index += 1) value |= BigInt(bytes[at + index] ?? 0) << BigInt(8 * index);
    const changed = random.below(2) === 0 ? value + BigInt(random.below(9) - 4) : BigInt(bytes.length - at + random.below(5) - 2);
    return replaced(bytes, [at, at + width], bytesOf(BigInt.asUintN(8 * width, changed), { width, littleEndian: true }));
  },
];

function isDigit(byte: number | undefined): boolean {
  return byte !== undefined && byte >= 0x30 && byte <= 0x39;
}

/** The next digit from `from` on, or the end. */
function findDigits(bytes: Uint8Array, from: number): number {
  let at = from;
  while (at < bytes.length && !isDigit(bytes[at])) at += 1;
  return at;
}

/** `bytes` after one to four mutations; `pick` gives another valid input to splice with. Never more than MAX_INPUT_BYTES of growth. */
export function mutate(bytes: Uint8Array, random: SeededRandom, pick: () => Uint8Array): Uint8Array {
  let out = bytes;
  const times = 1 + random.below(4);
  const limit = Math.max(MAX_INPUT_BYTES, bytes.length);
  for (let time = 0; time < times; time += 1) {
    out = random.pick(mutators)(out, random, pick());
    if (out.length > limit) out = out.slice(0, limit);
  }
  return out;
}
