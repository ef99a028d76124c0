/**
 * The keyed hash of the chunk index: HalfSipHash-1-3 over 32-bit words, so that a client that does not know the seed cannot
 * craft keys that collide. Plain TypeScript because a call out of the JIT costs more than the hash of a 64-byte key.
 *
 * Source: Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012, and the 32-bit variant in the authors' reference
 * code. One compression and three finalization rounds are what hash tables commonly use; the output never leaves the process.
 */
import type { NamespaceId } from '#core/brand.ts';
import type { Rng } from '#core/clock.ts';

/** Two secret words, drawn once a process. */
export interface HashSeed {
  readonly k0: number;
  readonly k1: number;
}

export function drawHashSeed(rng: Rng): HashSeed {
  return { k0: rng.nextUint32() | 0, k1: rng.nextUint32() | 0 };
}

/** Words that a key of `lengthBytes` occupies when packed. */
export function wordCountOf(lengthBytes: number): number {
  return (lengthBytes + 3) >>> 2;
}

/**
 * Packs `key` into little-endian words at `words[start..]`, the last one padded with zero bytes, and returns the hash of
 * namespace and key as an unsigned 32-bit number. The packed words are what KeyArena stores and compares.
 *
 * The message is the namespace as one word and the key behind it. As in SipHash its last word carries the length and the bytes
 * beyond the last whole word, so that padding is injective. Four positional parameters: an options object costs as much as the hash.
 */
export function packAndHash(seed: HashSeed, namespace: NamespaceId, key: Uint8Array, words: Uint32Array, start: number): number {
  const length = key.length;
  const whole = length & ~3;
  let v0 = seed.k0;
  let v1 = seed.k1;
  let v2 = 0x6c796765 ^ v0;
  let v3 = 0x74656462 ^ v1;
  let word: number = namespace | 0;
  let at = start;
  let next = 0;
  for (;;) {
    v3 ^= word;
    v0 = (v0 + v1) | 0;
    v1 = ((v1 << 5) | (v1 >>> 27)) ^ v0;
    v0 = (v0 << 16) | (v0 >>> 16);
    v2 = (v2 + v3) | 0;
    v3 = ((v3 << 8) | (v3 >>> 24)) ^ v2;
    v0 = (v0 + v3) | 0;
    v3 = ((v3 << 7) | (v3 >>> 25)) ^ v0;
    v2 = (v2 + v1) | 0;
    v1 = ((v1 << 13) | (v1 >>> 19)) ^ v2;
    v2 = (v2 << 16) | (v2 >>> 16);
    v0 ^= word;
    if (next < whole) {
      word = key[next]! | (key[next + 1]! << 8) | (key[next + 2]! << 16) | (key[next + 3]! << 24);
      words[at] = word;
      at += 1;
      next += 4;
    } else if (next === whole) {
      let tail = 0;
      if (length > whole) {
        tail = key[whole]!;
        if (length > whole + 1) tail |= key[whole + 1]! << 8;
        if (length > whole + 2) tail |= key[whole + 2]! << 16;
        words[at] = tail;
      }
      word = tail | ((length + 4) << 24);
      next += 1;
    } else break;
  }
  v2 ^= 0xff;
  for (let round = 0; round < 3; round += 1) {
    v0 = (v0 + v1) | 0;
    v1 = ((v1 << 5) | (v1 >>> 27)) ^ v0;
    v0 = (v0 << 16) | (v0 >>> 16);
    v2 = (v2 + v3) | 0;
    v3 = ((v3 << 8) | (v3 >>> 24)) ^ v2;
    v0 = (v0 + v3) | 0;
    v3 = ((v3 << 7) | (v3 >>> 25)) ^ v0;
    v2 = (v2 + v1) | 0;
    v1 = ((v1 << 13) | (v1 >>> 19)) ^ v2;
    v2 = (v2 << 16) | (v2 >>> 16);
  }
  return (v1 ^ v3) >>> 0;
}
