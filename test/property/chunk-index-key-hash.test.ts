import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { packAndHash, wordCountOf } from '#cache/key-hash.ts';
import type { HashSeed } from '#cache/key-hash.ts';
import type { NamespaceId } from '#core/brand.ts';

/** HalfSipHash from the paper, on bytes, slow and plain. */
function halfSipHash(rounds: { readonly c: number; readonly d: number }, { k0, k1 }: HashSeed, message: readonly number[]): number {
  const v = [k0, k1, 0x6c796765 ^ k0, 0x74656462 ^ k1];
  const rotate = (value: number, by: number): number => (value << by) | (value >>> (32 - by));
  const mix = (a: number, b: number, by: number): void => {
    v[a] = (v[a]! + v[b]!) | 0;
    v[b] = rotate(v[b]!, by) ^ v[a];
  };
  const round = (): void => {
    mix(0, 1, 5);
    v[0] = rotate(v[0]!, 16);
    mix(2, 3, 8);
    mix(0, 3, 7);
    mix(2, 1, 13);
    v[2] = rotate(v[2]!, 16);
  };
  const padded = [...message, ...Array.from({ length: 3 - (message.length % 4) }, () => 0), message.length & 0xff];
  for (let at = 0; at < padded.length; at += 4) {
    const word = padded[at]! | (padded[at + 1]! << 8) | (padded[at + 2]! << 16) | (padded[at + 3]! << 24);
    v[3]! ^= word;
    for (let n = 0; n < rounds.c; n += 1) round();
    v[0]! ^= word;
  }
  v[2]! ^= 0xff;
  for (let n = 0; n < rounds.d; n += 1) round();
  return (v[1]! ^ v[3]!) >>> 0;
}

describe('packAndHash', () => {
  test('its model gives the first two published vectors of HalfSipHash-2-4', () => {
    const seed = { k0: 0x03020100, k1: 0x07060504 };
    expect(halfSipHash({ c: 2, d: 4 }, seed, [])).toBe(0x5b9f35a9);
    expect(halfSipHash({ c: 2, d: 4 }, seed, [0])).toBe(0xb85a4727);
  });

  test('is HalfSipHash-1-3 of the namespace and the key, and packs the key little-endian with zero padding', () => {
    const seeds = fc.record({ k0: fc.integer(), k1: fc.integer() });
    const namespaces = fc.integer({ min: 0, max: 2 ** 31 - 1 }) as fc.Arbitrary<NamespaceId>;
    fc.assert(
      fc.property(seeds, namespaces, fc.uint8Array({ maxLength: 80 }), fc.nat({ max: 5 }), (seed, namespace, key, start) => {
        const words = new Uint32Array(start + 21).fill(0xdeadbeef);
        const hash = packAndHash(seed, namespace, key, words, start);
        const prefix = [namespace & 0xff, (namespace >>> 8) & 0xff, (namespace >>> 16) & 0xff, namespace >>> 24];
        expect(hash).toBe(halfSipHash({ c: 1, d: 3 }, seed, [...prefix, ...key]));
        const packed = new Uint8Array(wordCountOf(key.length) * 4);
        packed.set(key);
        const end = start + wordCountOf(key.length);
        expect(Buffer.compare(new Uint8Array(words.slice(start, end).buffer), packed)).toBe(0);
        expect(words[end]).toBe(0xdeadbeef);
        if (start > 0) expect(words[start - 1]).toBe(0xdeadbeef);
      }),
      { numRuns: 200 },
    );
  });

  test('spreads hexadecimal keys evenly over shards and slots', () => {
    const words = new Uint32Array(16);
    const shards = new Uint32Array(256);
    const slots = new Uint32Array(256);
    for (let n = 0; n < 25_600; n += 1) {
      const key = new TextEncoder().encode(n.toString(16).padStart(64, '0'));
      const hash = packAndHash({ k0: 1, k1: 2 }, 0 as NamespaceId, key, words, 0);
      shards[hash >>> 24]! += 1;
      slots[hash & 255]! += 1;
    }
    // 100 expected in each, deviation 10: six of them are a chance of one in a million.
    for (const counts of [shards, slots]) {
      expect(Math.min(...counts)).toBeGreaterThan(40);
      expect(Math.max(...counts)).toBeLessThan(160);
    }
  });
});
