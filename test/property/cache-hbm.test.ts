/** Placement across HBM, RAM and SSD against the oracle of the cache model: every read is explained, and nothing is lost that is leased. */
import { describe, expect, it } from 'vitest';
import { KiB, MiB } from '#core/bytes.ts';
import { policyNames } from '#policy/create-policy.ts';
import { CacheModel } from '#testsupport/cache-model.ts';
import type { ModelOptions } from '#testsupport/cache-model.ts';

/** Times as many seeds as the fast lane takes. */
const factor = Number(process.env['KVTIER_TEST_SEEDS'] ?? 1);

async function runSeeds(count: number, options: (seed: number) => ModelOptions): Promise<Record<'hbm' | 'ram' | 'ssd', number>> {
  const hits = { hbm: 0, ram: 0, ssd: 0 };
  for (let seed = 1; seed <= count * factor; seed += 1) {
    const model = await CacheModel.run({ ...options(seed), seed });
    const own = model.sim.cache.control.stats().hits;
    for (const tier of ['hbm', 'ram', 'ssd'] as const) hits[tier] += own[tier];
  }
  return hits;
}

const small = { steps: 500, checkEvery: 4, ramBytes: 192 * KiB, maxChunkBytes: 64 * KiB, hbmPieceBytes: 128 * KiB } as const;

describe('Cache with HBM, whatever happens to it', () => {
  it('explains every read while promotions, demotions and exports meet invalidations and overwrites, and serves from all three tiers', async () => {
    const hits = await runSeeds(30, (seed) => ({
      ...small,
      hbmBytes: seed % 2 === 0 ? [256 * KiB] : [128 * KiB, 256 * KiB],
      hbmPolicy: policyNames[seed % policyNames.length] ?? 'adaptive',
      hbmLimits: { promoteHits: 1 + (seed % 2) },
    }));
    expect(Math.min(hits.hbm, hits.ram, hits.ssd)).toBeGreaterThan(0);
  });

  it('explains every read over crashes and lost devices, also of what only HBM had', async () => {
    await runSeeds(30, (seed) => ({
      ...small,
      hbmBytes: [256 * KiB, 256 * KiB],
      crashes: 0.01,
      admission: seed % 3 === 0 ? 'off' : 'idle',
    }));
  });

  it('explains every read with two small folders that evict all the time, so that HBM alone has chunks', async () => {
    await runSeeds(30, (seed) => ({
      ...small,
      hbmBytes: [256 * KiB],
      ssdBytes: [300 * KiB, 200 * KiB],
      crashes: 0.005,
      keyCount: 30,
      hbmLimits: { promoteHits: 1 },
      admission: (['demote', 'through', 'idle', 'second-use', 'off'] as const)[seed % 5] ?? 'idle',
    }));
  });

  it('explains every read of chunks that expire, are pinned and have quotas', async () => {
    await runSeeds(30, (seed) => ({
      ...small,
      hbmBytes: [512 * KiB],
      crashes: 0.01,
      expiries: seed % 2 === 0,
      keeping: seed % 2 === 1,
      keep: seed % 3 === 0,
    }));
  });

  it('explains every read while devices of all kinds fail', async () => {
    await runSeeds(20, () => ({
      ...small,
      ramBytes: 512 * KiB,
      hbmBytes: [256 * KiB, 256 * KiB],
      ssdBytes: [MiB, MiB],
      crashes: 0.01,
      faults: true,
    }));
  });
});
