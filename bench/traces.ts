/**
 * `bun run bench:traces [FILE...]`: hit ratio by eviction policy and capacity, and what store admission writes to SSD, for any trace in
 * the Mooncake format; without files for the fixtures and three made shapes. Says whether the default policy meets its goal.
 */
import { writeFileSync } from 'node:fs';
import { chats, scans, sharedPrompts } from '#testsupport/shaped-traces.ts';
import { DEFAULT_POLICY, headOf, MAX_LOSS, meetsGoal, MIN_RELATIVE_MEAN, policyTable, shares } from '#testsupport/policy-table.ts';
import type { CompactTrace, PolicyTable } from '#testsupport/policy-table.ts';
import { admissionModes, RAM_SHARE, replayAdmission, SSD_SHARE } from './lib/admission-replay.ts';
import type { AdmissionResult } from './lib/admission-replay.ts';
import { describeCommit, describeMachine, loadAverage } from './lib/machine.ts';
import type { BenchCase, BenchReport } from './lib/report.ts';
import { readTraceFile, TraceError } from './lib/trace-file.ts';

const USAGE = 'usage is bun run bench:traces [--smoke] [--json FILE] [--seed N] [FILE...]';
/** The cache core takes about a millisecond for a block that it writes. */
const ADMISSION_BLOCKS = 15_000;
const SMOKE_BLOCKS = 1500;
const fixtures = ['synthetic_trace.jsonl', 'lmcache_agent_256.jsonl'].map(
  (name) => new URL(`../test/fixtures/traces/${name}`, import.meta.url).pathname,
);

interface Arguments {
  readonly smoke: boolean;
  readonly jsonPath: string | undefined;
  readonly seed: number;
  readonly files: readonly string[];
}

function parseArguments(argv: readonly string[]): Arguments {
  let smoke = false;
  let jsonPath: string | undefined;
  let seed = 1;
  const files: string[] = [];
  for (let at = 0; at < argv.length; at += 1) {
    const word = argv[at] ?? '';
    const value = argv[at + 1];
    if (word === '--smoke') smoke = true;
    else if (word === '--json' && value !== undefined) {
      jsonPath = value;
      at += 1;
    } else if (word === '--seed' && value !== undefined && /^\d{1,9}$/.test(value)) {
      seed = Number(value);
      at += 1;
    } else if (!word.startsWith('-') && word !== '') files.push(word);
    else {
      console.error(`Cannot use ${word}: ${USAGE}`);
      process.exit(64);
    }
  }
  return { smoke, jsonPath, seed, files };
}

async function* traces(options: Arguments): AsyncGenerator<CompactTrace> {
  for (const path of options.files.length > 0 ? options.files : fixtures) yield await readTraceFile(path);
  if (options.files.length > 0) return;
  yield sharedPrompts(6000, options.seed);
  yield scans(5000, options.seed + 1);
  yield chats(5000, options.seed + 2);
}

function percent(ratio: number): string {
  return (ratio * 100).toFixed(2).padStart(7);
}

function printPolicies(trace: CompactTrace, table: PolicyTable): void {
  const blocks = trace.requestedBlockCount.toLocaleString('en-US');
  const unique = trace.uniqueBlockCount.toLocaleString('en-US');
  console.log(`\n${trace.name}: ${trace.requests.length.toLocaleString('en-US')} requests, ${blocks} blocks, ${unique} unique`);
  console.log(`hit ratio in %   ${shares.map((share) => `${share * 100} %`.padStart(7)).join(' ')}    mean`);
  for (const { policy, hitRatios, mean } of table.rows) {
    const name = policy === DEFAULT_POLICY ? `${policy} (default)` : policy;
    console.log(`${name.padEnd(18)}${hitRatios.map(percent).join(' ')} ${percent(mean)}`);
  }
  const verdict = meetsGoal(table) ? 'met' : 'MISSED';
  console.log(
    `goal ${verdict}: mean ${(table.relativeMean * 100).toFixed(1)} % of the best's (${table.bestRival}; at least ${MIN_RELATIVE_MEAN * 100} %), ` +
      `loses ${(Math.max(0, table.worstLoss) * 100).toFixed(2)} points at worst (at most ${MAX_LOSS * 100})`,
  );
}

function policyCases(trace: CompactTrace, table: PolicyTable): BenchCase[] {
  const own = table.rows.find((row) => row.policy === DEFAULT_POLICY)?.hitRatios ?? [];
  const cells = shares.map((share, at) => {
    const [ours, peer] = [own[at] ?? 0, table.bestOfCell[at] ?? 0];
    // Where the best hits nothing, nobody can be better.
    const ratio = peer === 0 ? 1 : ours / peer;
    return { case: `${trace.name}, hit ratio at ${share * 100} %`, unit: '', ours, peer, peerName: 'best rival', ratio };
  });
  const best = Math.max(...table.rows.filter(({ policy }) => policy === table.bestRival).map(({ mean }) => mean));
  const ours = own.reduce((sum, ratio) => sum + ratio, 0) / shares.length;
  return [...cells, { case: `${trace.name}, mean`, unit: '', ours, peer: best, peerName: table.bestRival, ratio: table.relativeMean }];
}

function printAdmission(trace: CompactTrace, results: readonly AdmissionResult[], isWhole: boolean): void {
  const what = isWhole ? 'the whole trace' : `its first ${trace.requests.length.toLocaleString('en-US')} requests`;
  console.log(`store admission, RAM ${RAM_SHARE * 100} % and SSD ${SSD_SHARE * 100} % of the unique bytes, ${what} through the cache core`);
  const requested = Math.max(1, trace.uniqueBlockCount);
  for (const { mode, hitRatio, writtenBlocks } of results) {
    const blocks = writtenBlocks.toLocaleString('en-US').padStart(9);
    console.log(
      `${mode.padEnd(18)}${percent(hitRatio)} % hit ${blocks} blocks written,${percent(writtenBlocks / requested)} % of the unique bytes`,
    );
  }
}

function admissionCases(trace: CompactTrace, results: readonly AdmissionResult[]): BenchCase[] {
  const idle = Math.max(1, results.find(({ mode }) => mode === 'idle')?.writtenBlocks ?? 1);
  return results.map(({ mode, writtenBlocks }) => {
    const name = `${trace.name}, blocks written under ${mode}`;
    return { case: name, unit: 'blocks', ours: writtenBlocks, peer: idle, peerName: 'idle', ratio: idle / Math.max(1, writtenBlocks) };
  });
}

async function benchTraces(options: Arguments): Promise<void> {
  const busy = loadAverage();
  console.log(`bench:traces${options.smoke ? ' (smoke)' : ''}: ${describeMachine()}, Bun ${Bun.version}, commit ${describeCommit()}`);
  const cases: BenchCase[] = [];
  for await (const whole of traces(options)) {
    const trace = options.smoke ? headOf(whole, SMOKE_BLOCKS) : whole;
    const table = policyTable(trace);
    printPolicies(trace, table);
    cases.push(...policyCases(trace, table));
    const head = headOf(trace, options.smoke ? SMOKE_BLOCKS : ADMISSION_BLOCKS);
    const results: AdmissionResult[] = [];
    for (const mode of admissionModes) results.push(await replayAdmission(head, mode));
    printAdmission(head, results, head === trace);
    cases.push(...admissionCases(head, results));
  }
  if (options.jsonPath === undefined) return;
  const report: BenchReport = {
    name: 'bench:traces',
    commit: describeCommit(),
    bun: Bun.version,
    machine: describeMachine(),
    loadAverage: busy,
    seed: options.seed,
    smoke: options.smoke,
    cases,
  };
  writeFileSync(options.jsonPath, `${JSON.stringify(report, undefined, 2)}\n`);
}

try {
  await benchTraces(parseArguments(process.argv.slice(2)));
} catch (problem) {
  if (!(problem instanceof TraceError)) throw problem;
  console.error(problem.message);
  process.exit(65);
}
