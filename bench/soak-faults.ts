/**
 * `bun run soak:faults [--minutes M] [--lives N] [--seed S] [--faults WORD] [--json FILE]`: the real process at full load while its files, disks, peers
 * and its own process are ill-treated (lib/faults.ts). Every value tells its key and version, and an oracle that knows when each
 * operation began and ended judges every read (test/support/kill-oracle.ts).
 *
 * Fails (exit code 1) on a wrong byte, on anything served that was deleted or invalidated, on a process that ends by itself, on memory,
 * descriptors or threads that grow, and on slots that do not come home.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import { brimChunks, until } from '#testsupport/agent-probes.ts';
import { canMount, Cleanup } from '#testsupport/bad-days.ts';
import { makeKeys, startLoad, sweep } from '#testsupport/kill-load.ts';
import { KillOracle } from '#testsupport/kill-oracle.ts';
import { SeededRandom } from '#testsupport/kill-values.ts';
import { faultNames, inject, wait, type FaultName, type FaultPlace } from './lib/faults.ts';
import { LifeWatch, resourcesOf, type Resources } from './lib/life-watch.ts';
import { describeCommit, describeMachine, loadAverage } from './lib/machine.ts';

const MiB = 1024 ** 2;
const { values: flags } = parseArgs({
  options: {
    minutes: { type: 'string', default: '30' },
    lives: { type: 'string', default: '5' },
    seed: { type: 'string', default: String(Math.floor(Math.random() * 2 ** 31)) },
    json: { type: 'string' },
    faults: { type: 'string', default: '' },
  },
});
const [minutes, lives, seed] = [Number(flags.minutes), Number(flags.lives), Number(flags.seed)];
if (!(minutes > 0) || !Number.isInteger(lives) || lives < 1 || !Number.isSafeInteger(seed)) {
  console.error('Cannot use the flags: usage is bun run soak:faults [--minutes M] [--lives N] [--seed S] [--faults WORD] [--json FILE]');
  process.exit(64);
}

const RAM_BYTES = 256 * MiB;
/** Large ones, and small ones: a lost slot of a few KiB holds a page, which only small chunks miss. */
const BRIM_SIZES = [2 * MiB, 64 * 1024];
/** Of what brimChunks stores, which is twice as much as it is told: a little more than fits. */
const FILL = 0.55;
const KEYS = 600;
const WRITERS = 6;
/** bench:soak allows 150 MiB over 50 GiB; faults retain some more: quarantine, stuck writes, a catalog that is rebuilt. */
const GROWTH_LIMIT_BYTES = 150 * MiB;
/** Between the warm part of a life and its last quarter: what a leak would be. Only lives of a minute or more tell. */
const TREND_LIMIT_BYTES = 64 * MiB;
const TREND_SECONDS = 60;
/**
 * The same of the floors, which garbage that waits for its collection does not blur. The last life has half of the time: of 30 minutes
 * seven lie between its two parts, in which a leak of 1 KiB an operation is 40 MiB at 100 operations a second.
 */
const FLOOR_LIMIT_BYTES = 32 * MiB;
/** Files that are read at the moment, epoll, a worker that is replaced. */
const SLACK = { descriptors: 12, threads: 4 };

interface Life {
  readonly seconds: number;
  readonly ended: 'killed' | 'stopped';
  readonly ready: Resources;
  readonly quiet: Resources | undefined;
  readonly earlyBytes: number;
  readonly lateBytes: number;
  readonly peakBytes: number;
  readonly floor: { readonly earlyBytes: number; readonly lateBytes: number };
  readonly classes: LifeWatch['classes'];
  /** Of the main thread's JavaScript heap, in the second and the last quarter: what of the growth is ours to see. */
  readonly heap: { readonly earlyBytes: number; readonly lateBytes: number };
  readonly operations: number;
}

const cleanup = new Cleanup();
const random = new SeededRandom(seed);
const problems: string[] = [];
/** Those whose name has the word of `--faults`, to find out which one it was; `none` for load alone. */
const chosen = faultNames.filter((name) => name.includes(flags.faults));
const counts = Object.fromEntries(faultNames.map((name) => [name, 0])) as Record<FaultName, number>;
const oracle = new KillOracle(KEYS + 40);
const keys = makeKeys(KEYS, 20);

// On the file system of the working directory: a /tmp in memory would be no SSD.
const dataDir = mkdtempSync(join(process.cwd(), '.soak-faults-'));
cleanup.add(() => rmSync(dataDir, { recursive: true, force: true }));
const smallDisk = canMount ? cleanup.mount(192 * MiB) : undefined;
const folders = [join(dataDir, 'ssd-a'), join(dataDir, 'ssd-b'), ...(smallDisk === undefined ? [] : [join(smallDisk, 'ssd')])];
const doomed = join(dataDir, 'doomed');
mkdirSync(doomed);

function start(): Promise<RunningAgent> {
  const ssd = [...folders.map((path) => `${path}:128MiB`), `${join(doomed, 'ssd')}:128MiB`].flatMap((path) => ['--ssd-dir', path]);
  const limits = ['--ssd-io-deadline', '1s', '--resp-stall', '2s', '--resp-min-rate', '1MiB', '--lease-duration', '2s'];
  const tuning = ['--ssd-idle-after', '200ms', '--ssd-free-space-floor', '1MiB', '--log-level', 'error'];
  return startAgent({ dataDir, flags: ['--ram', '256MiB', ...ssd, ...limits, ...tuning] });
}

async function quietly(agent: RunningAgent): Promise<void> {
  await until(
    'nothing is under way',
    async () => {
      const stats = await agent.client.stats();
      const door = stats.doors.find((row) => row.door === 'resp');
      return door?.connections === 0 && stats.leases === 0 && stats.io.queueDepth === 0;
    },
    60_000,
  );
}

/** A folder that is gone stays off: not before much of the life is over, and then for certain where the life is long. */
const AWAY: FaultName = 'folder gone and back';
const AWAY_MS = 20_000;

/** Faults, one after another and sometimes two at once, until the time is over. */
async function illTreat(place: FaultPlace, untilMs: number): Promise<void> {
  const underWay = new Set<FaultName>();
  let owesAway = chosen.includes(AWAY) && untilMs - performance.now() > 3 * AWAY_MS;
  const pending = new Set<Promise<void>>();
  while (performance.now() < untilMs) {
    if (chosen.length === 0) {
      await wait(100);
      continue;
    }
    const ending = untilMs - performance.now() <= AWAY_MS;
    const name = ending && owesAway ? AWAY : random.pick(chosen);
    if (!underWay.has(name) && (ending || name !== AWAY) && pending.size < 3) {
      underWay.add(name);
      owesAway &&= name !== AWAY;
      const run = inject(name, place)
        .then((done) => void (counts[name] += done ? 1 : 0))
        .catch((problem: unknown) => void problems.push(`the fault '${name}' could not be made: ${String(problem)}`))
        .finally(() => {
          underWay.delete(name);
          pending.delete(run);
        });
      pending.add(run);
    }
    await wait(random.below(1200));
  }
  await Promise.all(pending);
}

async function live(kill: boolean, untilMs: number): Promise<Life> {
  const agent = await start();
  let expected = false;
  void agent.exited.then((code) => {
    if (!expected) problems.push(`the agent ended by itself with ${code}:\n${agent.output().slice(-4000)}`);
  });
  const ready = resourcesOf(agent.pid);
  const watch = new LifeWatch(agent);
  const load = startLoad({
    agent,
    oracle,
    keys,
    seed: random.below(2 ** 31),
    writers: WRITERS,
    invalidationPauseMs: 1500,
    reconnect: true,
  });
  const place = { agent: () => agent, dataDir, folders: folders.filter((path) => path.startsWith(dataDir)), smallDisk, doomed, random };
  await illTreat(place, untilMs);
  expected = true;
  let quiet: Resources | undefined;
  if (kill) await agent.kill9();
  await load.stop();
  watch.stop();
  const { sets, gets, deletes, probes } = load.counts;
  if (!kill) {
    await sweep(agent, { oracle, keys });
    await quietly(agent);
    quiet = resourcesOf(agent.pid);
    await brimIsFull(agent);
    const code = await agent.stop();
    if (code !== 0) problems.push(`the agent stopped with ${code}:\n${agent.output().slice(-4000)}`);
  }
  oracle.died();
  const [earlyBytes, lateBytes] = [watch.median('early', 'privateBytes'), watch.median('late', 'privateBytes')];
  const peakBytes = watch.peak('privateBytes');
  const floor = { earlyBytes: watch.floor('early', 'privateBytes'), lateBytes: watch.floor('late', 'privateBytes') };
  const heap = { earlyBytes: watch.median('early', 'heapBytes'), lateBytes: watch.median('late', 'heapBytes') };
  const operations = sets + gets + deletes + probes;
  const life: Life = {
    seconds: watch.seconds,
    ended: kill ? 'killed' : 'stopped',
    ready,
    quiet,
    earlyBytes,
    lateBytes,
    peakBytes,
    floor,
    classes: watch.classes,
    heap,
    operations,
  };
  judge(life);
  return life;
}

const brims: number[] = [];

async function brimsOf(agent: RunningAgent): Promise<number[]> {
  const counted: number[] = [];
  for (const sizeBytes of BRIM_SIZES) counted.push(await brimChunks(agent, { sizeBytes, ramBytes: FILL * RAM_BYTES }));
  return counted;
}

/** As many chunks fit into RAM as before anything happened: else a slot was lost. */
async function brimIsFull(agent: RunningAgent): Promise<void> {
  await agent.client.invalidate({ selector: { all: true } });
  const now = await brimsOf(agent);
  if (now.some((count, index) => count < (brims[index] ?? 0)))
    problems.push(
      `slots are lost: ${now.join(' and ')} chunks of ${BRIM_SIZES.join(' and ')} bytes fit into RAM, ${brims.join(' and ')} did before`,
    );
  await quietly(agent);
  const { tiers } = await agent.client.stats();
  const ram = tiers.find((tier) => tier.tier === 'ram');
  if (ram?.usedBytes !== 0 || ram.chunkCount !== 0) problems.push(`RAM holds ${ram?.usedBytes} bytes after everything was flushed`);
}

function judge(life: Life): void {
  const growth = life.peakBytes - life.ready.privateBytes;
  if (growth > GROWTH_LIMIT_BYTES)
    problems.push(`memory grew by ${Math.round(growth / MiB)} MiB in a life of ${Math.round(life.seconds)} s`);
  const trend = life.lateBytes - life.earlyBytes;
  if (life.seconds >= TREND_SECONDS && trend > TREND_LIMIT_BYTES)
    problems.push(
      `memory still grew by ${Math.round(trend / MiB)} MiB from the warm part to the end of a life of ${Math.round(life.seconds)} s`,
    );
  const lifted = life.floor.lateBytes - life.floor.earlyBytes;
  if (life.seconds >= TREND_SECONDS && lifted > FLOOR_LIMIT_BYTES)
    problems.push(
      `what memory falls back to rose by ${Math.round(lifted / MiB)} MiB, ${Math.round((2 * lifted) / life.operations)} bytes an operation, ` +
        `from the warm part to the end of a life of ${Math.round(life.seconds)} s`,
    );
  for (const field of ['descriptors', 'threads'] as const) {
    const more = (life.quiet?.[field] ?? 0) - life.ready[field];
    if (more > SLACK[field]) problems.push(`${more} ${field} more at the quiet end of a life than at its beginning`);
  }
}

let startedAtMs = performance.now();
const history: Life[] = [];
try {
  const fresh = await start();
  brims.push(...(await brimsOf(fresh)));
  await fresh.stop();
  startedAtMs = performance.now();
  for (let life = 1; life <= lives; life += 1) {
    // The last one has half of the time, since a slow leak shows in a long life only.
    const share = life < lives ? life / (2 * (lives - 1)) : 1;
    history.push(await live(life < lives, startedAtMs + minutes * 60_000 * share));
    console.log(`life ${life} of ${lives}: ${JSON.stringify(history.at(-1))}`);
  }
} catch (problem) {
  problems.push(problem instanceof Error ? (problem.stack ?? problem.message) : String(problem));
} finally {
  await cleanup.run();
}
problems.push(...oracle.violations);
// In minutes every fault comes; in seconds chance decides.
const missing = chosen.filter((name) => counts[name] === 0 && !(name === 'disk full' && smallDisk === undefined));
if (minutes >= 5 && missing.length > 0) problems.push(`never made: ${missing.join(', ')}`);
const report = {
  name: 'soak:faults',
  commit: describeCommit(),
  bun: Bun.version,
  machine: describeMachine(),
  loadAverage: loadAverage(),
  seed,
  minutes: (performance.now() - startedAtMs) / 60_000,
  kills: history.filter((life) => life.ended === 'killed').length,
  reads: oracle.reads,
  hits: oracle.hits,
  acknowledged: oracle.acknowledged,
  faults: counts,
  notMade: faultNames.filter((name) => counts[name] === 0),
  lives: history,
  problems,
};
if (flags.json !== undefined) writeFileSync(flags.json, `${JSON.stringify(report, undefined, 2)}\n`);
console.log(`soak:faults: ${report.machine}, Bun ${report.bun}, commit ${report.commit}, seed ${seed}, load ${report.loadAverage}`);
console.log(
  `${report.minutes.toFixed(1)} min, ${report.kills} kills, ${report.reads} reads, ${report.hits} hits, ${report.acknowledged} changes`,
);
for (const name of faultNames) console.log(`  ${String(counts[name]).padStart(5)}  ${name}`);
for (const [index, life] of history.entries()) {
  const mib = [life.ready.privateBytes, life.earlyBytes, life.lateBytes, life.peakBytes].map((bytes) => Math.round(bytes / MiB));
  const floors = [life.floor.earlyBytes, life.floor.lateBytes].map((bytes) => Math.round(bytes / MiB));
  const quiet = life.quiet === undefined ? 'killed' : `${life.quiet.descriptors} descriptors, ${life.quiet.threads} threads`;
  console.log(
    `  life ${index + 1}: ${Math.round(life.seconds)} s, ${life.operations} operations, ` +
      `MiB ready ${mib[0]}, warm ${mib[1]}, late ${mib[2]}, peak ${mib[3]}, floor ${floors.join(' -> ')}; ` +
      `${life.ready.descriptors} descriptors, ${life.ready.threads} threads at the start, ${quiet} at the end`,
  );
}
for (const problem of problems.slice(0, 20)) console.log(`PROBLEM ${problem}`);
console.log(problems.length === 0 ? 'passed' : `failed: ${problems.length} problems`);
process.exit(problems.length === 0 ? 0 : 1);
