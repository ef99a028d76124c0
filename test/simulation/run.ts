/** `bun run simulate [--seed N] [--steps N] [--runs N]`: runs of the simulation outside of the test runner. */
import { MiB } from '#core/bytes.ts';
import type { SimWorldOptions } from '#testsupport/sim-world.ts';
import { SimWorld } from '#testsupport/sim-world.ts';

const profiles = {
  kills: { kills: 2, resets: 5, delays: 3 },
  tenants: { kills: 2, resets: 5, delays: 3, tenants: ['red', 'blue'], clientCount: 6, keyCount: 12 },
  faults: { kills: 3, resets: 5, delays: 5, faults: 10, ramBytes: 1 * MiB, ssdBytes: [2 * MiB, 1 * MiB] },
  power: { powerCuts: 4, resets: 5, delays: 3 },
} satisfies Record<string, Omit<SimWorldOptions, 'seed' | 'steps'>>;
const flag = (name: string, otherwise: number): number => {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? otherwise : Number(process.argv[at + 1]);
};
const seed = flag('seed', 1);
const steps = flag('steps', 5000);
for (let run = 0; run < flag('runs', 1); run += 1) {
  const profile = (process.argv.find((arg) => arg in profiles) ?? 'kills') as keyof typeof profiles;
  const started = performance.now();
  try {
    const report = await SimWorld.run({ ...profiles[profile], seed: seed + run, steps, traceLines: flag('trace', 60) });
    console.log(JSON.stringify({ ...report, usPerStep: Math.round(((performance.now() - started) / steps) * 1000) }));
  } catch (problem) {
    console.log(problem instanceof Error ? problem.message : problem);
    process.exitCode = 1;
  }
}
