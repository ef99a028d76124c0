/** The whole agent in every weather. A failure prints its seed, its step and its last events; docs/testing.md says how to replay it. */
import { describe, expect, it } from 'vitest';
import { KiB, MiB } from '#core/bytes.ts';
import { SimWorld } from '#testsupport/sim-world.ts';
import type { SimWorldOptions } from '#testsupport/sim-world.ts';

/** Times as many seeds as the fast lane takes. */
const factor = Number(process.env['KVTIER_TEST_SEEDS'] ?? 1);

/** Seeds that stay the same, and as many that nobody has tried before. */
async function runSeeds(name: string, count: number, options: (seed: number) => Omit<SimWorldOptions, 'seed'>): Promise<void> {
  const fixed = Array.from({ length: count * factor }, (_, index) => index + 1);
  const fresh = Array.from(crypto.getRandomValues(new Uint32Array(count * factor)));
  console.log(`${name}: fresh seeds ${fresh.join(' ')}`);
  for (const seed of [...fixed, ...fresh]) await SimWorld.run({ ...options(seed), seed });
}

describe('The agent, whatever happens to it', () => {
  it('does the same again for the same seed', async () => {
    for (const seed of [1, 2]) {
      const options: SimWorldOptions = { seed, steps: 2000, kills: 3, resets: 5 };
      const first = await SimWorld.run(options);
      expect(await SimWorld.run(options)).toEqual(first);
      expect((await SimWorld.run({ ...options, seed: seed + 100 })).eventHash).not.toBe(first.eventHash);
    }
  });

  it('explains every answer while connections are reset and the process is killed', async () => {
    await runSeeds('kills', 2, () => ({ steps: 2000, kills: 3, resets: 5, delays: 3 }));
  });

  it('explains every answer in a RAM tier that is always full, and keeps what is leased', async () => {
    await runSeeds('full', 2, () => ({ steps: 2000, ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB, kills: 1, resets: 3, delays: 3 }));
  });

  it('explains every answer with two small folders that evict all the time', async () => {
    await runSeeds('small', 2, (seed) => ({
      steps: 2000,
      ramBytes: 1 * MiB,
      maxChunkBytes: 256 * KiB,
      ssdBytes: [600 * KiB, 400 * KiB],
      kills: 1,
      resets: 3,
      admission: (['demote', 'through', 'idle', 'off'] as const)[seed % 4] ?? 'idle',
    }));
  });

  it('shows no tenant anything of another', async () => {
    await runSeeds('tenants', 2, () => ({ steps: 2000, tenants: ['red', 'blue'], clientCount: 6, keyCount: 12, kills: 2, resets: 3 }));
  });

  it('explains every answer while devices fail and lie, files rot and disks are full', async () => {
    await runSeeds('faults', 2, () => ({ steps: 2000, ramBytes: 1 * MiB, ssdBytes: [2 * MiB, 1 * MiB], kills: 3, delays: 5, faults: 10 }));
  });

  it('serves nothing that was invalidated after power cuts, and nothing torn', async () => {
    await runSeeds('power', 2, () => ({ steps: 2000, powerCuts: 4, resets: 3, delays: 3 }));
  });
});
