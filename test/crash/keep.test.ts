/** Agents that are killed and leave their RAM tier in shared memory: the next one serves all of it, and nothing that is dead. */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import { makeKeys, startLoad, sweep } from '#testsupport/kill-load.ts';
import { KillOracle } from '#testsupport/kill-oracle.ts';
import { SeededRandom } from '#testsupport/kill-values.ts';

/** KVTIER_TEST_SEED repeats a run's choices (the machine's own timing cannot be repeated); KVTIER_TEST_KILLS makes it longer. */
const seed = Number(process.env['KVTIER_TEST_SEED'] ?? Date.now() % 1_000_000_007);
const kills = Number(process.env['KVTIER_TEST_KILLS'] ?? 30);

const keys = makeKeys(160, 16);
const dataDir = mkdtempSync(join(tmpdir(), 'kvtier-keep-'));
const shmDir = mkdtempSync('/dev/shm/kvtier-keep-');
let running: RunningAgent | undefined;
afterAll(async () => {
  await running?.kill9();
  rmSync(dataDir, { recursive: true, force: true });
  rmSync(shmDir, { recursive: true, force: true });
});

/** Room for everything that the keys can hold, so that what is missing was lost. */
const flags = [
  '--ram',
  '512MiB',
  '--shm-dir',
  shmDir,
  '--ram-keep',
  'on',
  '--resp-profile',
  'redis',
  '--resp-size-guard',
  'off',
  '--log-level',
  'warn',
];

function wait(delayMs: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, delayMs));
}

test(`killed ${kills} times under load without an SSD tier, the agent loses nothing that was acknowledged and serves nothing that is dead`, async () => {
  console.log(`seed ${seed}`);
  const random = new SeededRandom(seed);
  const oracle = new KillOracle(keys.names.length);
  const readyMs: number[] = [];
  let kept = 0;
  for (let round = 0; round <= kills; round += 1) {
    const startedAt = performance.now();
    running = await startAgent({ dataDir, flags: [...flags, '--ssd', 'off'] });
    readyMs.push(performance.now() - startedAt);
    const where = `seed ${seed}, round ${round}`;
    const wanted = new Map<number, number>();
    for (let key = 0; key < keys.values; key += 1) {
      const version = oracle.kept(key);
      if (version !== undefined) wanted.set(key, version);
    }
    const found = await sweep(running, { oracle, keys });
    expect(oracle.violations, where).toEqual([]);
    for (const [key, version] of wanted) expect(found.get(key), `${where}: key ${keys.names[key]}`).toBe(version);
    kept += wanted.size;
    if (round === kills) break;
    const load = startLoad({ agent: running, oracle, keys, seed: random.below(2 ** 31), writers: 4, invalidationPauseMs: 80 });
    await wait(80 + random.next() * 500);
    await running.kill9();
    await load.stop();
    oracle.died();
    expect(oracle.violations, where).toEqual([]);
  }
  readyMs.sort((a, b) => a - b);
  console.log(
    JSON.stringify({
      kills,
      kept,
      acknowledged: oracle.acknowledged,
      reads: oracle.reads,
      hits: oracle.hits,
      readyMs: readyMs[readyMs.length >> 1],
      slowestMs: readyMs.at(-1),
    }),
  );
  expect(kept).toBeGreaterThan(kills * 10);
  expect(await running?.stop()).toBe(0);
});

test('an agent that stops in order leaves its RAM tier too, and one that keeps nothing removes it', async () => {
  const own = mkdtempSync(join(tmpdir(), 'kvtier-keep-stop-'));
  const oracle = new KillOracle(keys.names.length);
  const start = (keep: string): Promise<RunningAgent> =>
    startAgent({
      dataDir: own,
      flags: flags.map((flag) => (flag === 'on' ? keep : flag)).concat('--ssd', '256MiB', '--ssd-admission', 'demote'),
    });
  const arenas = (): string[] => readdirSync(shmDir).filter((name) => name.endsWith('.arena'));
  const others = arenas();
  try {
    running = await start('on');
    const load = startLoad({ agent: running, oracle, keys, seed, writers: 4, invalidationPauseMs: undefined });
    await wait(400);
    await load.stop();
    const before = await sweep(running, { oracle, keys });
    expect(await running.stop()).toBe(0);
    const left = arenas().filter((name) => !others.includes(name));
    expect(left.length).toBeGreaterThan(0);
    oracle.died();
    running = await start('on');
    expect((await running.client.stats()).recovery.keptChunks).toBeGreaterThan(0);
    const after = await sweep(running, { oracle, keys });
    // What has an end may have met it meanwhile; nothing else is missing, and nothing is there that was not.
    for (const [key, version] of before) if (!oracle.mayExpire(key, version)) expect(after.get(key), keys.names[key]).toBe(version);
    for (const [key, version] of after) expect(before.get(key), keys.names[key]).toBe(version);
    const { hits } = await running.client.stats();
    expect(hits.ram).toBeGreaterThan(0);
    expect(hits.ssd).toBe(0);
    expect(await running.stop()).toBe(0);
    running = await start('off');
    expect((await running.client.stats()).recovery.keptChunks).toBe(0);
    expect(await running.stop()).toBe(0);
    running = undefined;
    expect(oracle.violations).toEqual([]);
    expect(arenas().filter((name) => left.includes(name))).toEqual([]);
  } finally {
    rmSync(own, { recursive: true, force: true });
  }
});
