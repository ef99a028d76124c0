import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { DEFAULT_COMPACTION_BYTES } from '#catalog/journal.ts';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import { makeKeys, startLoad, sweep } from '#testsupport/kill-load.ts';
import { KillOracle } from '#testsupport/kill-oracle.ts';
import { addOldFiles, tamper, tampers, type Damage, type Tamper } from '#testsupport/kill-tamper.ts';
import { SeededRandom } from '#testsupport/kill-values.ts';

/** KVTIER_TEST_SEED repeats a run's choices (the machine's own timing cannot be repeated); KVTIER_TEST_KILLS makes it longer. */
const seed = Number(process.env['KVTIER_TEST_SEED'] ?? Date.now() % 1_000_000_007);
const kills = Number(process.env['KVTIER_TEST_KILLS'] ?? 40);

const keys = makeKeys(200, 16);
const dataDir = mkdtempSync(join(tmpdir(), 'kvtier-kill-'));
let running: RunningAgent | undefined;
afterAll(async () => {
  await running?.kill9();
  rmSync(dataDir, { recursive: true, force: true });
});

const random = new SeededRandom(seed);
const oracle = new KillOracle(keys.names.length);
const totals = {
  kills: 0,
  restartMs: [] as number[],
  tampered: new Map<string, number>(),
  operations: 0,
  invalidations: 0,
  expiries: 0,
  expired: 0,
  deletes: 0,
  refused: 0,
  refusedReads: 0,
  quiet: 0,
  kept: 0,
  underAdoption: 0,
  compactions: 0,
  damaged: 0,
};

/** `load`: at any moment. `invalidation`: shortly after one was sent. `adoption`: soon after a start without a catalog. `quiet`: with nothing dirty. */
type Moment = 'load' | 'invalidation' | 'adoption' | 'quiet';
const moments: readonly Moment[] = [
  'load',
  'invalidation',
  'load',
  'adoption',
  'quiet',
  'invalidation',
  'adoption',
  'load',
  'invalidation',
  'quiet',
];
/** Answered in each life that is not killed under adoption. */
const LEAST_OPERATIONS = 120;
/** Read one after another before the first client comes. */
const OLD_FILES = 6000;
const modes = ['idle', 'idle', 'through', 'demote'] as const;

function start(round: number): Promise<RunningAgent> {
  const mode = moments[round % moments.length] === 'quiet' ? 'idle' : (modes[round % modes.length] ?? 'idle');
  return startAgent({
    dataDir,
    flags: [
      '--ram',
      '64MiB',
      '--ssd',
      '1GiB',
      '--ssd-idle-after',
      '100ms',
      '--ssd-admission',
      mode,
      '--resp-profile',
      'redis',
      '--resp-size-guard',
      'off',
      '--log-level',
      'warn',
    ],
  });
}

async function poll<Value>(what: string, ask: () => Promise<Value | undefined>): Promise<Value> {
  const giveUpMs = Date.now() + 30_000;
  for (;;) {
    const answer = await ask();
    if (answer !== undefined) return answer;
    if (Date.now() > giveUpMs) throw new Error(`Waited 30 s for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const untilAdopted = (agent: RunningAgent): Promise<number> =>
  poll('adoption', async () => {
    const { recovery } = await agent.client.stats();
    return recovery.done ? recovery.adoptedFiles : undefined;
  });

const untilClean = (agent: RunningAgent): Promise<unknown> =>
  poll('dirtyBytes 0', async () => {
    const stats = await agent.client.stats();
    return stats.tiers.every((tier) => tier.dirtyBytes === 0) ? stats : undefined;
  });

function check(where: string): void {
  expect(oracle.violations, `seed ${seed}, ${where}`).toEqual([]);
}

async function killDuringLoad(agent: RunningAgent, moment: Moment): Promise<void> {
  const invalidationPauseMs = moment === 'invalidation' ? 15 : moment === 'quiet' ? 150 : 50;
  const load = startLoad({ agent, oracle, keys, seed: random.below(2 ** 31), writers: 4, invalidationPauseMs });
  if (moment === 'adoption') {
    if (!(await agent.client.stats()).recovery.done) totals.underAdoption += 1;
    await wait(random.next() * 600);
  } else {
    // Time, for what happens by time; and operations, so that a slow machine kills no agent that has nothing to lose.
    const operations = load.answered(LEAST_OPERATIONS + random.below(LEAST_OPERATIONS));
    await Promise.all([operations, wait(100 + random.next() * 1200)]);
  }
  if (moment === 'invalidation') {
    // Half of them between request and answer, half as soon as the answer is there, while files are still being unlinked.
    const atAnswer = random.next() < 0.5;
    await new Promise<void>((resolve) => (atAnswer ? (load.onInvalidated = resolve) : (load.onInvalidation = resolve)));
    if (!atAnswer) await wait(random.next() * 12);
  }
  if (moment !== 'quiet') await agent.kill9();
  await load.stop();
  for (const count of ['sets', 'expiries', 'deletes', 'gets', 'probes', 'invalidations'] as const) totals.operations += load.counts[count];
  totals.invalidations += load.counts.invalidations;
  totals.expiries += load.counts.expiries;
  totals.deletes += load.counts.deletes;
  totals.refused += load.counts.refused;
}

function wait(delayMs: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, delayMs));
}

/** Sequence number before the first record of the journal: a compaction raises it. */
function firstSequence(): bigint {
  return readFileSync(join(dataDir, 'journal')).readBigUInt64LE(16);
}

/**
 * Makes the journal grow until the agent rewrites it, so that the next start has only what the agent thought it still needs. One that
 * is large already is left alone: it was rewritten in this life, and is next when it has doubled.
 */
async function compactJournal(agent: RunningAgent): Promise<void> {
  const path = join(dataDir, 'journal');
  if (statSync(path).size > DEFAULT_COMPACTION_BYTES) return;
  const before = firstSequence();
  const unknown = Array.from({ length: 480 }, (_, index) => `${index}:`.padEnd(1900, 'x'));
  while (statSync(path).size <= DEFAULT_COMPACTION_BYTES) await agent.client.invalidate({ selector: { keys: unknown } });
  await poll('compaction', () => Promise.resolve(firstSequence() === before ? undefined : true));
  totals.compactions += 1;
}

/**
 * Everything that was acknowledged is there, once nothing is dirty, unless a counter says that something was given up for room. A read may
 * have been refused: what clients have leased leaves no room in RAM for a large value. Then it is counted, and the value is on SSD.
 */
async function findAll(agent: RunningAgent, there: ReadonlyMap<number, number>): Promise<void> {
  const stats = await agent.client.stats();
  totals.expired += stats.expiredChunks;
  if (stats.droppedDirtyChunks + stats.evictions.ssd > 0) return;
  let refused = 0;
  for (let key = 0; key < keys.values; key += 1) {
    const wanted = oracle.required(key);
    const name = keys.names[key] ?? '';
    if (wanted === undefined || there.get(key) === wanted) continue;
    const where = `key ${name} before the kill; ${JSON.stringify(stats)}`;
    expect(there.get(key), where).toBe(stats.refusedLookups > refused ? undefined : wanted);
    expect((await agent.client.lookup([name])).answers[0]?.tier, where).toBe('ssd');
    refused += 1;
  }
  totals.refusedReads += refused;
}

async function killClean(agent: RunningAgent): Promise<Map<number, number>> {
  await untilClean(agent);
  const there = await sweep(agent, { oracle, keys });
  await findAll(agent, there);
  await compactJournal(agent);
  await untilClean(agent);
  await agent.kill9();
  totals.quiet += 1;
  return there;
}

/** Every start that need not keep everything finds some damage; adoption needs a start without a catalog. */
function chooseTamper(moment: Moment): Tamper | undefined {
  if (moment === 'adoption') return 'catalog deleted';
  return tampers[totals.damaged++ % tampers.length];
}

function damage(kind: Tamper): Damage {
  const done = tamper(dataDir, kind, random);
  totals.tampered.set(kind, (totals.tampered.get(kind) ?? 0) + 1);
  if (done.all) oracle.forgetEverything();
  for (const file of done.files) oracle.damaged(keys.names.indexOf(file.key), file.version);
  return done;
}

async function oneLife(round: number, survivors: Map<number, number> | undefined): Promise<Map<number, number> | undefined> {
  const moment = moments[round % moments.length] ?? 'load';
  const kind = round === 0 || survivors !== undefined ? undefined : chooseTamper(moment);
  const done = kind === undefined ? undefined : damage(kind);
  if (moment === 'adoption') addOldFiles(join(dataDir, 'ssd'), OLD_FILES);
  const startedAt = performance.now();
  const agent = await start(round);
  running = agent;
  totals.restartMs.push(performance.now() - startedAt);
  const where = `round ${round}, ${moment}, ${kind ?? 'untouched'}`;
  if (survivors !== undefined) {
    await untilAdopted(agent);
    const found = await sweep(agent, { oracle, keys });
    check(where);
    for (const [key, version] of survivors) {
      if (oracle.mayExpire(key, version)) continue;
      expect(found.get(key), `seed ${seed}, ${where}: key ${keys.names[key]} after a kill with nothing dirty`).toBe(version);
    }
    totals.kept += survivors.size;
  } else if (moment !== 'adoption') await sweep(agent, { oracle, keys });
  check(where);
  if (done !== undefined && done.files.length > 0) {
    await untilAdopted(agent);
    await sweep(agent, { oracle, keys });
    const left = (): readonly string[] => done.files.map(({ path }) => path).filter((path) => existsSync(path));
    await poll(`seed ${seed}, ${where}: damaged files are set aside: ${left().join(' ')}`, () =>
      Promise.resolve(left().length === 0 ? true : undefined),
    );
  }
  await killDuringLoad(agent, moment);
  const clean = moment === 'quiet' ? await killClean(agent) : undefined;
  running = undefined;
  totals.kills += 1;
  oracle.died();
  check(where);
  return clean;
}

test(`killed ${kills} times under load, the agent never serves a byte that was not put, nothing dead returns, and what was clean is kept`, async () => {
  console.log(`seed ${seed}`);
  let survivors: Map<number, number> | undefined;
  for (let round = 0; round < kills; round += 1) survivors = await oneLife(round, survivors);
  const restarts = totals.restartMs.sort((a, b) => a - b);
  console.log(
    JSON.stringify({
      ...totals,
      tampered: Object.fromEntries(totals.tampered),
      restartMs: { median: restarts[restarts.length >> 1], max: restarts.at(-1) },
      reads: oracle.reads,
      hits: oracle.hits,
      acknowledged: oracle.acknowledged,
    }),
  );
  expect(totals.kills).toBe(kills);
  expect(oracle.hits).toBeGreaterThan(kills * 20);
  if (totals.quiet > 0) expect(totals.expired).toBeGreaterThan(0);
});
