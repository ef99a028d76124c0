/**
 * `bun run simulate [PROFILE] [--seed N] [--steps N] [--runs N] [--trace LINES]`: runs of the simulation outside of the test runner. A
 * seed that failed anywhere fails here again, with the same profile and steps. What is misspelt is refused: another run would pass for
 * the one that was asked for.
 */
import { parseArgs } from 'node:util';
import { SimWorld } from '#testsupport/sim-world.ts';
import { profiles, weatherOf } from './profiles.ts';
import type { ProfileName } from './profiles.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { seed: { type: 'string' }, steps: { type: 'string' }, runs: { type: 'string' }, trace: { type: 'string' } },
});
const flag = (name: keyof typeof values, otherwise: number): number => {
  const text = values[name];
  if (text === undefined) return otherwise;
  if (!/^\d+$/.test(text)) throw new Error(`Cannot simulate with --${name} ${text}: want a whole number`);
  return Number(text);
};
const [name = 'kills', ...rest] = positionals;
if (!(name in profiles) || rest.length > 0)
  throw new Error(`Cannot simulate ${positionals.join(' ')}: want one of ${Object.keys(profiles).join(', ')}`);
const profile = name as ProfileName;
const seed = flag('seed', 1);
const steps = flag('steps', 2000);
const runs = flag('runs', 1);
const traceLines = flag('trace', 60);
for (let run = 0; run < runs; run += 1) {
  const started = performance.now();
  try {
    const report = await SimWorld.run({ ...weatherOf(profile, seed + run), seed: seed + run, steps, traceLines });
    console.log(JSON.stringify({ profile, ...report, usPerStep: Math.round(((performance.now() - started) / steps) * 1000) }));
  } catch (problem) {
    console.log(problem instanceof Error ? problem.message : problem);
    process.exitCode = 1;
  }
}
