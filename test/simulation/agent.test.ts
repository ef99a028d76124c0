/** The whole agent in every weather. A failure prints its seed, its step and its last events; docs/testing.md says how to replay it. */
import { describe, expect, it } from 'vitest';
import { SimWorld } from '#testsupport/sim-world.ts';
import type { SimWorldOptions } from '#testsupport/sim-world.ts';
import { weatherOf } from './profiles.ts';
import type { ProfileName } from './profiles.ts';

/** Times as many seeds as the fast lane takes. */
const factor = Number(process.env['KVTIER_TEST_SEEDS'] ?? 1);

/** Steps of a run here, and of `bun run simulate` where nothing else is asked for. */
const STEPS = 2000;

/** Seeds that stay the same, and as many that nobody has tried before. */
async function runSeeds(profile: ProfileName): Promise<void> {
  const fixed = Array.from({ length: 2 * factor }, (_, index) => index + 1);
  const fresh = Array.from(crypto.getRandomValues(new Uint32Array(2 * factor)));
  console.log(`${profile}: fresh seeds ${fresh.join(' ')}`);
  for (const seed of [...fixed, ...fresh]) await SimWorld.run({ ...weatherOf(profile, seed), steps: STEPS, seed });
}

describe('The agent, whatever happens to it', () => {
  it.each(['kills', 'stuck'] as const)('does the same again for the same seed: %s', async (profile) => {
    const options: SimWorldOptions = { ...weatherOf(profile, 1), seed: 1, steps: 1500 };
    const first = await SimWorld.run(options);
    expect(await SimWorld.run(options)).toEqual(first);
    expect((await SimWorld.run({ ...options, seed: 2 })).eventHash).not.toBe(first.eventHash);
  });

  it('explains every answer while connections are reset and the process is killed', async () => {
    await runSeeds('kills');
  });

  it('misses what it acknowledged only for a reason that it counts, over kills too', async () => {
    await runSeeds('counted');
  });

  it('explains every answer in a RAM tier that is always full, and keeps what is leased', async () => {
    await runSeeds('full');
  });

  it('explains every answer with two small folders that evict all the time, whatever is admitted to them and whatever leaves them first', async () => {
    await runSeeds('small');
  });

  it('shows no tenant anything of another', async () => {
    await runSeeds('tenants');
  });

  it('explains every answer while devices fail and lie, files rot and disks are full', async () => {
    await runSeeds('faults');
  });

  it('acknowledges nothing that the journal did not take', async () => {
    await runSeeds('journal');
  });

  it('sends no byte on a descriptor that is another connection by now', async () => {
    await runSeeds('resets');
  });

  it('gives each object back with its own block, and nothing older, to clients of both doors', async () => {
    await runSeeds('doors');
  });

  it('touches no memory of a native client but for the spans of its jobs, and keeps nothing of one that is gone', async () => {
    await runSeeds('native');
  });

  it('serves what a process that was killed has left in RAM, unless it is damaged or dead', async () => {
    await runSeeds('keep');
  });

  it('serves nothing that was invalidated after power cuts, and nothing torn', async () => {
    await runSeeds('power');
  });

  it('explains every answer out of three tiers while copies fail and devices are lost', async () => {
    await runSeeds('hbm');
  });

  it('keeps what is leased, and is clean in the end, while chunks wander between three tiers', async () => {
    await runSeeds('wander');
  });

  it('serves nothing that is over, and keeps nothing for ever, while the wall clock jumps', async () => {
    await runSeeds('clocks');
  });

  it('loses nothing, takes nothing for damaged and stops in time while devices do not answer', async () => {
    await runSeeds('stuck');
  });
});
