/** `bun run simulate [--seed N] [--steps N] [--runs N]`: runs of the simulation outside of the test runner. */
import { SimWorld } from '#testsupport/sim-world.ts';

const flag = (name: string, otherwise: number): number => {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? otherwise : Number(process.argv[at + 1]);
};
const seed = flag('seed', 1);
const steps = flag('steps', 5000);
for (let run = 0; run < flag('runs', 1); run += 1) {
  const started = performance.now();
  try {
    const report = await SimWorld.run({ seed: seed + run, steps, kills: 2, resets: 5, traceLines: flag('trace', 60) });
    console.log(JSON.stringify({ ...report, usPerStep: Math.round(((performance.now() - started) / steps) * 1000) }));
  } catch (problem) {
    console.log(problem instanceof Error ? problem.message : problem);
    process.exitCode = 1;
  }
}
