/**
 * Ten thousand inputs for each target, half of them of a fixed seed and half of a fresh one. `bun run fuzz` does a million.
 * A failure prints the command that gives its input again.
 */
import { describe, expect, test } from 'vitest';
import { fuzz, FuzzFailure, type FuzzTarget } from './harness.ts';
import { targets } from './targets.ts';

const INPUTS = 10_000;
const freshSeed = Math.floor(Math.random() * 2 ** 32);
console.log(`fuzz: fresh seed ${freshSeed}`);

describe('hostile and valid input', () => {
  for (const target of targets) {
    test(`${target.name} takes it or refuses it, in bounded time and memory`, async () => {
      for (const seed of [1, freshSeed]) {
        const report = await fuzz(target, { seed, inputs: INPUTS / 2 });
        expect(report.inputs).toBe(INPUTS / 2);
        expect(report.valid).toBeGreaterThan(INPUTS / 40);
      }
    });
  }
});

describe('the harness', () => {
  const target = (check: (input: Uint8Array, index: number) => void): FuzzTarget => {
    const like = targets[0];
    if (like === undefined) throw new Error('there are targets');
    let count = 0;
    return { ...like, name: 'like', begin: () => (input) => check(input, (count += 1)) };
  };

  test('gives the same input for the same seed and index, alone or among the others', async () => {
    const all: Uint8Array[] = [];
    await fuzz(
      target((input) => void all.push(input)),
      { seed: 7, inputs: 5000 },
    );
    for (const index of [0, 1, 2047, 2048, 4999]) {
      const alone: Uint8Array[] = [];
      await fuzz(
        target((input) => void alone.push(input)),
        { seed: 7, inputs: 5000, index },
      );
      expect(alone.at(-1)).toEqual(all[index]);
    }
  });

  test('fails with the command that replays where a check throws, is slow or keeps memory', async () => {
    const thrown = fuzz(
      target((_, index) => {
        if (index === 300) throw new Error('found');
      }),
      { seed: 9, inputs: 1000 },
    );
    await expect(thrown).rejects.toThrow(/found[^]*bun run fuzz like --seed 9 --index 299/);
    const slow = target(() => {
      const until = performance.now() + 3;
      while (performance.now() < until);
    });
    await expect(fuzz(slow, { seed: 9, inputs: 10, inputLimitMs: 1 })).rejects.toThrow(FuzzFailure);
    const kept: Uint8Array[] = [];
    const leaky = target(() => void kept.push(new Uint8Array(1000).fill(1)));
    await expect(fuzz(leaky, { seed: 9, inputs: 8000, heapLimitBytes: 2 ** 20 })).rejects.toThrow(/keeps \d+ bytes/);
  });
});
