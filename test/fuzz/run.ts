/**
 * `bun run fuzz [TARGET ...] [--inputs N] [--seed S] [--index I]`: the long lane, a million inputs for each target unless told
 * otherwise. `--index` runs one input of a seed again. Prints the seed; the last line is `N passed, N failed`.
 */
import { parseArgs } from 'node:util';
import { fuzz } from './harness.ts';
import { targets } from './targets.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { inputs: { type: 'string', default: '1000000' }, seed: { type: 'string' }, index: { type: 'string' } },
});
const seed = values.seed === undefined ? Math.floor(Math.random() * 2 ** 32) : Number(values.seed);
const inputs = Number(values.inputs);
const index = values.index === undefined ? {} : { index: Number(values.index) };
const unknown = positionals.filter((name) => !targets.some((target) => target.name === name));
if (unknown.length > 0 || [seed, inputs, ...Object.values(index)].some((number) => !Number.isSafeInteger(number) || number < 0)) {
  console.error(`Cannot fuzz ${unknown.join(', ')}: want some of ${targets.map((target) => target.name).join(', ')}, and whole numbers`);
  process.exit(64);
}
const chosen = targets.filter((target) => positionals.length === 0 || positionals.includes(target.name));
let [passed, failed] = [0, 0];
console.log(`seed ${seed}, ${inputs} inputs each`);
for (const target of chosen) {
  try {
    const report = await fuzz(target, { seed, inputs, ...index });
    const rate = Math.round(report.inputs / report.seconds);
    console.log(
      `ok   ${target.name}: ${report.inputs} inputs (${report.valid} valid) in ${report.seconds.toFixed(1)} s, ${rate}/s; ` +
        `slowest ${report.slowestMs.toFixed(1)} ms (${report.slowestIndex}); heap ${(report.heapGrowthBytes / 1024).toFixed(0)} KiB`,
    );
    passed += 1;
  } catch (problem) {
    console.error(`FAIL ${problem instanceof Error ? problem.message : String(problem)}`);
    failed += 1;
  }
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
