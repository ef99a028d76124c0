/**
 * Keys (as 32-bit hashes) that were seen of late, in bounded memory: two Bloom filters, a young and an old one. When the young one has
 * taken its share of keys it becomes the old one, and the former old one is emptied. So between `keysPerGeneration` and twice as
 * many of the last keys are remembered, and nothing for ever.
 *
 * 16 bits and 4 probes a key: at most 0.24 % of the keys that were never added are taken for known in each filter when it is full,
 * and as many again for a hash of 32 bits that two keys share (10^6 / 2^32 = 0.02 %).
 *
 * Source: Bloom, "Space/time trade-offs in hash coding with allowable errors", CACM 1970; double hashing as in Kirsch and
 * Mitzenmacher, "Less hashing, same performance", ESA 2006.
 */
import { assert } from '#core/assert.ts';

const BITS_PER_KEY = 16;
const PROBES = 4;

export class RecentKeys {
  readonly #keysPerGeneration: number;
  /** Bits of a filter, a power of two. */
  readonly #bits: number;
  #young: Uint32Array;
  #old: Uint32Array;
  #youngCount = 0;

  /** `keysPerGeneration` is a power of two, at least 2. */
  constructor(keysPerGeneration: number) {
    assert(keysPerGeneration >= 2 && Number.isInteger(Math.log2(keysPerGeneration)), `${keysPerGeneration} keys are no power of two`);
    this.#keysPerGeneration = keysPerGeneration;
    this.#bits = keysPerGeneration * BITS_PER_KEY;
    this.#young = new Uint32Array(this.#bits / 32);
    this.#old = new Uint32Array(this.#bits / 32);
  }

  add(hash: number): void {
    if (this.#isIn(this.#young, hash)) return;
    if (this.#youngCount === this.#keysPerGeneration) {
      const emptied = this.#old.fill(0);
      this.#old = this.#young;
      this.#young = emptied;
      this.#youngCount = 0;
    }
    const step = stepOf(hash);
    for (let probe = 0, at = hash; probe < PROBES; probe += 1, at += step) {
      const bit = at & (this.#bits - 1);
      this.#young[bit >>> 5] = this.#young[bit >>> 5]! | (1 << (bit & 31));
    }
    this.#youngCount += 1;
  }

  /** True for each of the last `keysPerGeneration` keys; true for few others. */
  has(hash: number): boolean {
    return this.#isIn(this.#young, hash) || this.#isIn(this.#old, hash);
  }

  memoryBytes(): number {
    return this.#young.byteLength + this.#old.byteLength;
  }

  #isIn(filter: Uint32Array, hash: number): boolean {
    const step = stepOf(hash);
    for (let probe = 0, at = hash; probe < PROBES; probe += 1, at += step) {
      const bit = at & (this.#bits - 1);
      if ((filter[bit >>> 5]! & (1 << (bit & 31))) === 0) return false;
    }
    return true;
  }
}

/** The second hash: the first, mixed; odd, so that the probes of a key are different bits. */
function stepOf(hash: number): number {
  const mixed = Math.imul(hash ^ (hash >>> 16), 0x21f0_aaad);
  return ((mixed ^ (mixed >>> 15)) >>> 0) | 1;
}
