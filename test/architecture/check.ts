/**
 * `bun run check [STEP ...]`: format, lint, types, unused code, architecture, each to its end, so that one run shows everything.
 * Exits with 1 when a step failed. Tools run on this Bun: their first lines ask for a node that may be absent.
 */
import { root } from './repository.ts';

interface Step {
  readonly name: string;
  readonly command: readonly string[];
}

const tool = (path: string, ...rest: readonly string[]): readonly string[] => [process.execPath, `node_modules/${path}`, ...rest];
const steps: readonly Step[] = [
  { name: 'format', command: tool('oxfmt/bin/oxfmt', '--check') },
  { name: 'lint', command: tool('oxlint/bin/oxlint') },
  { name: 'types', command: tool('typescript/bin/tsc', '--noEmit', '-p', 'tsconfig.json') },
  { name: 'types:src', command: tool('typescript/bin/tsc', '--noEmit', '-p', 'src/tsconfig.json') },
  { name: 'unused', command: tool('knip/bin/knip.js') },
  { name: 'architecture', command: tool('vitest/vitest.mjs', 'run', '--project=architecture') },
];

const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !steps.some((step) => step.name === name));
if (unknown.length > 0) {
  console.error(`Cannot check ${unknown.join(', ')}: want ${steps.map((step) => step.name).join(', ')}`);
  process.exit(64);
}

const failed: string[] = [];
for (const step of steps.filter((candidate) => wanted.length === 0 || wanted.includes(candidate.name))) {
  console.log(`\n== ${step.name}`);
  const started = performance.now();
  const run = Bun.spawnSync([...step.command], { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] });
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  console.log(`== ${step.name} ${run.exitCode === 0 ? 'passed' : `failed with ${run.exitCode}`} in ${seconds} s`);
  if (run.exitCode !== 0) failed.push(step.name);
}
console.log(failed.length === 0 ? '\nEverything passed.' : `\nFailed: ${failed.join(', ')}`);
process.exitCode = failed.length === 0 ? 0 : 1;
