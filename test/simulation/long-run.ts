/**
 * `bun run simulate:long [--total STEPS] [--steps STEPS] [--seed N] [--processes N]`: so many steps of the simulation, 10^6 unless said
 * otherwise, spread evenly over all kinds of weather and over processes, one a core. Each run has a seed of its own, counted up from
 * `--seed` (a fresh one unless given, and printed). Ends with a line of JSON that says what it took, and with `N passed, N failed` runs.
 *
 * A run that fails is printed as `bun run simulate` prints it: profile, seed and steps bring it back.
 */
import { availableParallelism } from 'node:os';
import { SimWorld } from '#testsupport/sim-world.ts';
import { profiles, weatherOf } from './profiles.ts';
import type { ProfileName } from './profiles.ts';

const flag = (name: string, otherwise: number): number => {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? otherwise : Number(process.argv[at + 1]);
};
const total = flag('total', 1_000_000);
/** Of one run: long enough for several lives of the agent, short enough to look at. */
const steps = flag('steps', 5000);
const seed = flag('seed', crypto.getRandomValues(new Uint32Array(1))[0] ?? 1);
const processes = flag('processes', availableParallelism());
/** Set in the processes that do the work: they take every `processes`-th run, from this one on. */
const share = flag('share', -1);

const names = Object.keys(profiles) as ProfileName[];
const runCount = Math.ceil(total / steps);

interface Sum {
  runs: number;
  failed: number;
  steps: number;
  commands: number;
  reads: number;
  hits: number;
  lives: number;
}

const nothing = (): Sum => ({ runs: 0, failed: 0, steps: 0, commands: 0, reads: 0, hits: 0, lives: 0 });

async function work(): Promise<Sum> {
  const sum = nothing();
  // A world that has failed is left as it is, and what was under way in it may throw after that.
  for (const event of ['unhandledRejection', 'uncaughtException'] as const) process.on(event, () => {});
  for (let run = share; run < runCount; run += processes) {
    const profile = names[run % names.length] as ProfileName;
    sum.runs += 1;
    try {
      const report = await SimWorld.run({ ...weatherOf(profile, (seed + run) >>> 0), seed: (seed + run) >>> 0, steps });
      sum.steps += report.steps;
      sum.commands += report.commands;
      sum.reads += report.reads;
      sum.hits += report.hits;
      sum.lives += report.lives;
    } catch (problem) {
      sum.failed += 1;
      console.error(
        `${profile} --seed ${(seed + run) >>> 0} --steps ${steps}: ${problem instanceof Error ? problem.message : String(problem)}`,
      );
    }
  }
  return sum;
}

async function divide(): Promise<void> {
  console.log(`${runCount} runs of ${steps} steps, seeds from ${seed}, ${processes} processes`);
  const startedAt = performance.now();
  const children = Array.from({ length: processes }, (_, index) => {
    const own = ['--total', total, '--steps', steps, '--seed', seed, '--processes', processes, '--share', index].map(String);
    return Bun.spawn([process.execPath, import.meta.filename, ...own], { stdin: 'ignore', stdout: 'pipe', stderr: 'inherit' });
  });
  const sum = nothing();
  let cpuUs = 0;
  for (const child of children) {
    const [output, code] = await Promise.all([new Response(child.stdout).text(), child.exited]);
    cpuUs += Number(child.resourceUsage()?.cpuTime.total ?? 0);
    if (code !== 0) throw new Error(`A process of the simulation ended with ${code}`);
    const part = JSON.parse(output) as Sum;
    for (const key of Object.keys(sum) as (keyof Sum)[]) sum[key] += part[key];
  }
  const wallS = Math.round((performance.now() - startedAt) / 1000);
  console.log(JSON.stringify({ seed, processes, wallS, cpuS: Math.round(cpuUs / 1e6), ...sum }));
  console.log(`${sum.runs - sum.failed} passed, ${sum.failed} failed`);
  process.exitCode = sum.failed === 0 && sum.runs === runCount ? 0 : 1;
}

if (share < 0) await divide();
else console.log(JSON.stringify(await work()));
