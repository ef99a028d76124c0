import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { matchesWildcard } from '#core/wildcard.ts';

/** As naively as can be: a star is nothing, or one character and itself. */
function matches(pattern: string, text: string): boolean {
  if (pattern === '') return text === '';
  if (pattern[0] === '*') return matches(pattern.slice(1), text) || (text !== '' && matches(pattern, text.slice(1)));
  return text !== '' && pattern[0] === text[0] && matches(pattern.slice(1), text.slice(1));
}

describe('matchesWildcard', () => {
  test('answers like the naive matcher', () => {
    const few = (letters: string, maxLength: number): fc.Arbitrary<string> => fc.string({ unit: fc.constantFrom(...letters), maxLength });
    fc.assert(
      fc.property(few('ab*', 8), few('ab', 10), (pattern, text) => {
        expect(matchesWildcard(pattern, text)).toBe(matches(pattern, text));
      }),
      { numRuns: 2000 },
    );
  });

  test('takes no longer than pattern times text for a text that nearly fits', () => {
    expect(matchesWildcard(`${'*a'.repeat(500)}b`, 'a'.repeat(5000))).toBe(false);
  });
});
