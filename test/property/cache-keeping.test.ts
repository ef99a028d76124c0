/** Pins and quotas against a naive oracle, on a simulated machine: seeds decide on everything. A failure prints its seed and its last steps. */
import { describe, expect, it } from 'vitest';
import { KeepingModel } from '#testsupport/keeping-model.ts';
import type { KeepingOptions } from '#testsupport/keeping-model.ts';

/** Times as many seeds as the fast lane takes. */
const factor = Number(process.env['KVTIER_TEST_SEEDS'] ?? 1);

async function runSeeds(
  count: number,
  options: Omit<KeepingOptions, 'seed'>,
): Promise<{ rejected: number; softLosses: number; putsAtQuota: number }> {
  const sum = { rejected: 0, softLosses: 0, putsAtQuota: 0 };
  for (let seed = 1; seed <= count * factor; seed += 1) {
    const model = await KeepingModel.run({ ...options, seed });
    sum.rejected += model.rejected;
    sum.softLosses += model.softLosses;
    sum.putsAtQuota += model.putsAtQuota;
  }
  return sum;
}

describe('Pins and quotas, whatever is asked', () => {
  it('hold in tiers that are always full', async () => {
    const { rejected, putsAtQuota } = await runSeeds(25, { steps: 250 });
    expect(rejected).toBeGreaterThan(0);
    expect(putsAtQuota).toBeGreaterThan(100);
  });

  it('hold over crashes at any point, with and without the catalog', async () => {
    await runSeeds(25, { steps: 200, crashes: 0.02 });
  });

  it('cost a tenant without a quota nothing where there is room for all', async () => {
    await runSeeds(15, { steps: 250, roomy: true });
  });

  it('let everything else go before what has a soft pin', async () => {
    expect((await runSeeds(25, { steps: 250, ramOnly: true })).softLosses).toBeGreaterThan(0);
  });
});
