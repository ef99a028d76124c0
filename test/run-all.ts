/**
 * `bun run test:all [STAGE ...]`: everything there is to run on one machine, one stage after another, each to its end: the checks, the
 * fast lanes (`bun run test`), the slow lanes, every benchmark with `--smoke`, `check:gpu` on the emulated driver, every end-to-end program. Counts single tests.
 *
 * Invariants
 * - The last line is `N passed, N failed`; the exit code is 0 only where nothing failed and no stage was empty.
 * - Stages are found, not listed: lanes in support/lanes.ts, `bench:*` scripts in package.json, programs run.ts below test/e2e. Only
 *   `check:gpu` is named here, since it is told to do without a card.
 * - A stage that ends with an error, or beyond its time, without a failed test to show for it counts as one failure itself.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { lanes, type Lane } from '#testsupport/lanes.ts';
import { FAILURES_VARIABLE, countBench, countLastLine, countVitest, type Count } from '#testsupport/stage-counts.ts';

const root = resolve(import.meta.dirname, '..');
const minute = 60_000;
/** Everything together, so that a machine that gives a job an hour ends with a count and not in the middle. */
const deadline = performance.now() + 57 * minute;

interface Stage {
  readonly name: string;
  readonly command: readonly string[];
  readonly limitMs: number;
  /** The file that the command is told to write, judged by `count`. */
  readonly reportPath: string;
  /** How many tests ran, from the report and what was printed. Undefined: it does not say. */
  readonly count: (report: string, output: string) => Count | undefined;
}

const work = mkdtempSync(join(tmpdir(), 'kvtier-run-all-'));
/** Written by each run of vitest, over that of the one before. */
const failuresPath = join(work, 'failures.json');
const script = (name: string, ...rest: readonly string[]): readonly string[] => [process.execPath, 'run', name, ...rest];

function stages(): readonly Stage[] {
  const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    readonly scripts: Readonly<Record<string, string>>;
  };
  const checks = ['format', 'lint', 'types', 'types:src', 'unused'];
  const benches = Object.keys(scripts).filter((name) => name.startsWith('bench:'));
  const programs = [...new Bun.Glob('test/e2e/**/run.ts').scanSync({ cwd: root })].toSorted();
  return [
    ...checks.map((name) => stage(`check:${name}`, script('check', name), { limitMs: 5 * minute, count: () => undefined })),
    vitestStage(
      'test',
      lanes.filter((lane) => lane.fast),
      15 * minute,
    ),
    ...lanes.filter((lane) => !lane.fast).map((lane) => vitestStage(`test:${lane.name}`, [lane], 15 * minute)),
    ...benches.map((name) => benchStage(name)),
    benchStage('check:gpu', '--driver', 'emulated'),
    ...programs.map((path) => stage(path, [process.execPath, path], { limitMs: 25 * minute, count: countLastLine })),
  ];
}

function stage(name: string, command: readonly string[], options: Pick<Stage, 'limitMs' | 'count'>): Stage {
  return { name, command, reportPath: '', ...options };
}

function benchStage(name: string, ...flags: readonly string[]): Stage {
  const reportPath = join(work, `${name.replaceAll(':', '-')}.json`);
  const command = script(name, ...flags, '--smoke', '--json', reportPath);
  return { ...stage(name, command, { limitMs: 5 * minute, count: countBench }), reportPath };
}

function vitestStage(name: string, expected: readonly Lane[], limitMs: number): Stage {
  const reportPath = join(work, `${name.replaceAll(':', '-')}.json`);
  const reporters = ['default', 'json', join(root, 'test/support/failure-reporter.ts')].map((reporter) => `--reporter=${reporter}`);
  const command = script(name, ...reporters, `--outputFile.json=${reportPath}`);
  const failures = (): string => (existsSync(failuresPath) ? readFileSync(failuresPath, 'utf8') : '');
  return { name, command, limitMs, reportPath, count: (report) => countVitest(report, { root, expected, failures: failures() }) };
}

/** The processes of the running stage are a group of their own, so that one that hangs takes its children with it. */
let runningGroup = 0;
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    killGroup();
    process.exit(signal === 'SIGINT' ? 130 : 143);
  });
}

function killGroup(): void {
  if (runningGroup === 0) return;
  try {
    process.kill(-runningGroup, 'SIGKILL');
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error;
  }
}

async function runStage(current: Stage): Promise<Count> {
  const limitMs = Math.min(current.limitMs, deadline - performance.now());
  if (limitMs <= 0) return { passed: 0, failed: 1, skipped: 0, notes: ['not started: the hour is over'] };
  rmSync(failuresPath, { force: true });
  const child = Bun.spawn([...current.command], {
    cwd: root,
    env: { ...process.env, [FAILURES_VARIABLE]: failuresPath },
    stdin: 'ignore',
    stdout: 'pipe',
    stderr: 'inherit',
    detached: true,
  });
  runningGroup = child.pid;
  let timedOut = false;
  const timer = setTimeout(() => {
    timedOut = true;
    killGroup();
  }, limitMs);
  let output = '';
  const decoder = new TextDecoder();
  for await (const bytes of child.stdout) {
    const text = decoder.decode(bytes, { stream: true });
    process.stdout.write(text);
    output += text;
  }
  const exitCode = await child.exited;
  clearTimeout(timer);
  killGroup();
  runningGroup = 0;
  const counted = current.count(existsSync(current.reportPath) ? readFileSync(current.reportPath, 'utf8') : '', output);
  const count = counted ?? { passed: exitCode === 0 ? 1 : 0, failed: 0, skipped: 0, notes: [] };
  const problem = timedOut ? `still running after ${Math.round(limitMs / 1000)} s` : exitCode === 0 ? undefined : `ended with ${exitCode}`;
  if (problem !== undefined && count.failed === 0) return { ...count, failed: 1, notes: [...count.notes, problem] };
  if (count.passed + count.failed === 0) return { ...count, failed: 1, notes: [...count.notes, 'ran no test'] };
  return count;
}

/** Empty where there is no git: then nothing can be said. */
function treeState(): string {
  const status = Bun.spawnSync(['git', 'status', '--porcelain'], { cwd: root, stderr: 'ignore' });
  return status.exitCode === 0 ? status.stdout.toString() : '';
}

const wanted = process.argv.slice(2);
const treeBefore = treeState();
const chosen = stages().filter((candidate) => wanted.length === 0 || wanted.some((name) => candidate.name.startsWith(name)));
const lines: string[] = [];
let [passed, failed, skipped] = [0, 0, 0];
if (chosen.length === 0) {
  lines.push(
    `Cannot run ${wanted.join(', ')}: want ${stages()
      .map((known) => known.name)
      .join(', ')}`,
  );
  failed = 1;
}
for (const current of chosen) {
  console.log(`\n=== ${current.name}`);
  const started = performance.now();
  const count = await runStage(current);
  const seconds = Math.round((performance.now() - started) / 1000);
  passed += count.passed;
  failed += count.failed;
  skipped += count.skipped;
  lines.push(
    `${count.failed === 0 ? 'ok  ' : 'FAIL'} ${current.name}: ${count.passed} passed, ${count.failed} failed, ${count.skipped} skipped, ${seconds} s`,
  );
  lines.push(...count.notes.map((note) => `       ${note.replaceAll('\n', '\n         ')}`));
}
if (wanted.length === 0) {
  const changed = treeState() !== treeBefore;
  passed += changed ? 0 : 1;
  failed += changed ? 1 : 0;
  lines.push(changed ? `FAIL the tree changed while the tests ran:\n${treeState()}` : 'ok   git status is what it was before');
}
rmSync(work, { recursive: true, force: true });
console.log(`\n=== summary\n${lines.join('\n')}\n${skipped} skipped`);
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
