/** The cache core against an oracle, on a simulated machine: seeds decide on everything. A failure prints its seed and its last steps. */
import { describe, it } from 'vitest';
import { KiB, MiB } from '#core/bytes.ts';
import { policyNames } from '#policy/create-policy.ts';
import { CacheModel } from '#testsupport/cache-model.ts';
import type { ModelOptions } from '#testsupport/cache-model.ts';

/** Times as many seeds as the fast lane takes. */
const factor = Number(process.env['KVTIER_TEST_SEEDS'] ?? 1);

async function runSeeds(count: number, options: (seed: number) => ModelOptions): Promise<void> {
  for (let seed = 1; seed <= count * factor; seed += 1) await CacheModel.run({ checkEvery: 4, ...options(seed), seed });
}

describe('Cache, whatever happens to it', () => {
  it('explains every read without crashes, in a RAM tier that is always full', async () => {
    await runSeeds(30, () => ({ steps: 250, ramBytes: 256 * KiB, maxChunkBytes: 64 * KiB }));
  });

  it('explains every read over crashes at any point, lost catalogs and lost journals', async () => {
    await runSeeds(70, () => ({ steps: 250, ramBytes: 256 * KiB, maxChunkBytes: 64 * KiB, crashes: 0.02 }));
  });

  it('explains every read with two small folders that evict all the time', async () => {
    await runSeeds(40, (seed) => ({
      steps: 250,
      ramBytes: 256 * KiB,
      maxChunkBytes: 64 * KiB,
      ssdBytes: [300 * KiB, 200 * KiB],
      crashes: 0.01,
      keyCount: 30,
      admission: (['demote', 'through', 'idle', 'second-use', 'off'] as const)[seed % 5] ?? 'idle',
      ramPolicy: policyNames[seed % policyNames.length] ?? 'adaptive',
      ssdPolicy: policyNames[(seed >> 2) % policyNames.length] ?? 'adaptive',
    }));
  });

  it('explains every read over crashes that leave the RAM tier in shared memory', async () => {
    await runSeeds(60, (seed) => ({
      steps: 250,
      ramBytes: seed % 2 === 0 ? 256 * KiB : MiB,
      maxChunkBytes: 64 * KiB,
      ssdBytes: seed % 3 === 0 ? [300 * KiB, 200 * KiB] : [64 * MiB],
      crashes: 0.03,
      keyCount: seed % 3 === 0 ? 30 : 12,
      admission: (['demote', 'through', 'idle', 'off'] as const)[seed % 4] ?? 'idle',
      keep: true,
    }));
  });

  it('explains every read over such crashes while devices fail, and journals and catalogs are lost', async () => {
    await runSeeds(30, () => ({ steps: 250, ramBytes: 512 * KiB, ssdBytes: [MiB, MiB], crashes: 0.03, faults: true, keep: true }));
  });

  it('explains every read of chunks that expire, over crashes and clocks that jump', async () => {
    await runSeeds(60, (seed) => ({
      steps: 300,
      ramBytes: 256 * KiB,
      maxChunkBytes: 64 * KiB,
      crashes: 0.02,
      expiries: true,
      keep: seed % 2 === 1,
      ...(seed % 3 === 0 ? { ssdBytes: [300 * KiB, 200 * KiB], keyCount: 30 } : {}),
    }));
  });

  it('explains every read of chunks that expire while devices fail and the journal cannot be written', async () => {
    await runSeeds(30, () => ({
      steps: 250,
      ramBytes: 512 * KiB,
      ssdBytes: [1 * MiB, 1 * MiB],
      crashes: 0.02,
      faults: true,
      expiries: true,
    }));
  });

  it('explains every read while scans of invalidations stand still between two rows', async () => {
    await runSeeds(30, () => ({ steps: 250, ramBytes: 512 * KiB, crashes: 0.01, keyCount: 20, limits: { scanRows: 2 } }));
  });

  it('explains every read while pins and quotas come and go', async () => {
    await runSeeds(40, () => ({ steps: 250, ramBytes: 256 * KiB, maxChunkBytes: 64 * KiB, crashes: 0.02, keeping: true }));
  });

  it('explains every read while devices fail, files rot and the journal cannot be written', async () => {
    await runSeeds(50, (seed) => ({
      steps: 250,
      ramBytes: 512 * KiB,
      ssdBytes: [1 * MiB, 1 * MiB],
      crashes: 0.02,
      faults: true,
      keeping: seed % 2 === 0,
    }));
  });
});
