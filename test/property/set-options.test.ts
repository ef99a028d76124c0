import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { parseLong, parseSetOptions } from '#servers/resp/set-options.ts';

const bytes = (text: string): Uint8Array => Uint8Array.from(text, (character) => character.charCodeAt(0) & 0xff);

/** Numbers around the ends of 64 bits, and spellings that are none. */
const spelling = fc.oneof(
  fc.bigInt({ min: -(2n ** 65n), max: 2n ** 65n }).map(String),
  fc.integer({ min: -3, max: 3 }).chain((off) => fc.constantFrom(2n ** 63n, -(2n ** 63n), 0n).map((end) => String(end + BigInt(off)))),
  fc.string({ unit: fc.constantFrom(...'0123456789-+ .eExn'), maxLength: 25 }),
  fc.string({ maxLength: 80 }),
);

function model(text: string): bigint | undefined {
  if (!/^-?\d+$/.test(text)) return undefined;
  const value = BigInt(text);
  return String(value) === text && BigInt.asIntN(64, value) === value ? value : undefined;
}

describe('options of SET', () => {
  test('take a number exactly if it is the one spelling of a signed 64-bit number', () => {
    fc.assert(
      fc.property(spelling, (text) => {
        expect(parseLong(bytes(text))).toBe(model(text));
      }),
      { numRuns: 2000 },
    );
  });

  test('are options or a refusal, whatever stands there', () => {
    const word = fc.oneof(fc.constantFrom('NX', 'xx', 'EX', 'px', 'EXAT', 'PXAT', 'KEEPTTL', 'GET'), spelling);
    fc.assert(
      fc.property(fc.array(word, { maxLength: 6 }), fc.nat(), (words, nowMs) => {
        const parsed = parseSetOptions(['SET', 'k', 'v', ...words].map(bytes), () => nowMs);
        if (typeof parsed === 'string') {
          expect(parsed).toMatch(/^ERR (syntax error|value is not an integer or out of range|invalid expire time in 'set' command)$/);
          return;
        }
        const { expiry } = parsed;
        const times = words.filter((each) => /^(ex|px|exat|pxat)$/i.test(each)).length;
        expect(expiry === undefined || expiry === 'keep').toBe(times === 0);
        if (expiry === undefined || expiry === 'keep') return;
        const time = 'atMs' in expiry ? expiry.atMs : expiry.ttlMs;
        expect(time > 0 && Number.isFinite(time)).toBe(true);
      }),
      { numRuns: 2000 },
    );
  });
});
