/**
 * `bun run simulate [PROFILE] [--seed N] [--steps N] [--runs N] [--trace LINES]`: runs of the simulation outside of the test runner. A
 * seed that failed anywhere fails here again, with the same profile and steps.
 */
import { SimWorld } from '#testsupport/sim-world.ts';
import { profiles } from './profiles.ts';
import type { ProfileName } from './profiles.ts';

const flag = (name: string, otherwise: number): number => {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? otherwise : Number(process.argv[at + 1]);
};
const profile = (process.argv.find((arg) => arg in profiles) ?? 'kills') as ProfileName;
const seed = flag('seed', 1);
const steps = flag('steps', 2000);
for (let run = 0; run < flag('runs', 1); run += 1) {
  const started = performance.now();
  try {
    const report = await SimWorld.run({ ...profiles[profile], seed: seed + run, steps, traceLines: flag('trace', 60) });
    console.log(JSON.stringify({ profile, ...report, usPerStep: Math.round(((performance.now() - started) / steps) * 1000) }));
  } catch (problem) {
    console.log(problem instanceof Error ? problem.message : problem);
    process.exitCode = 1;
  }
}
