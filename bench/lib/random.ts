import type { Rng } from '#core/clock.ts';

/** Seeded generator for bench data (splitmix32): equal seeds give equal runs. Not for secrets. */
export function seededRng(seed: number): Rng {
  let state = seed | 0;
  return {
    nextUint32() {
      state = (state + 0x9e3779b9) | 0;
      let mixed = Math.imul(state ^ (state >>> 16), 0x21f0aaad);
      mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
      return (mixed ^ (mixed >>> 15)) >>> 0;
    },
  };
}

/** Uniform in [0, bound), for bounds far below 2^32. */
export function randomBelow(rng: Rng, bound: number): number {
  return Math.floor((rng.nextUint32() / 2 ** 32) * bound);
}

/** The numbers below `count` in random order. */
export function shuffledNumbers(rng: Rng, count: number): Uint32Array {
  const order = new Uint32Array(count);
  for (let at = 0; at < count; at += 1) {
    const other = randomBelow(rng, at + 1);
    order[at] = order[other]!;
    order[other] = at;
  }
  return order;
}
