/**
 * Runs seed after seed of one kind of weather until something is found, or so many steps are done. Prints one line of JSON. The runner
 * of the mutants starts it in a copy of the sources that has a bug.
 */
import { SimFailure, SimWorld } from '#testsupport/sim-world.ts';
import { weatherOf } from './profiles.ts';
import type { ProfileName } from './profiles.ts';

const [name = 'kills', limit = '200000', firstSeed = '1'] = process.argv.slice(2);
const RUN_STEPS = 2500;

export interface Hunt {
  readonly found: boolean;
  /** Over all seeds. */
  readonly steps: number;
  readonly seed: number;
  readonly what: string;
}

async function hunt(): Promise<Hunt> {
  let steps = 0;
  for (let seed = Number(firstSeed); steps < Number(limit); seed += 1) {
    try {
      await SimWorld.run({ ...weatherOf(name as ProfileName, seed), seed, steps: RUN_STEPS });
      steps += RUN_STEPS;
    } catch (problem) {
      if (!(problem instanceof SimFailure)) throw problem;
      const { cause } = problem;
      return { found: true, steps: steps + problem.step, seed, what: cause instanceof Error ? cause.message : String(cause) };
    }
  }
  return { found: false, steps, seed: 0, what: '' };
}

// A world that has failed is left as it is, and what was under way in it may throw after that.
for (const event of ['unhandledRejection', 'uncaughtException'] as const) process.on(event, () => {});
console.log(JSON.stringify(await hunt()));
