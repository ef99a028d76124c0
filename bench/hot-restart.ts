/**
 * `bun run bench:hot-restart`: an agent with 1 GiB in RAM and no SSD tier is killed under load, over and over, and started again: from the start
 * of the process to open doors, and how much of what was acknowledged a second before the kill is served.
 *
 * Clients overwrite chunks of 4 MiB without a pause; after each start every chunk is read and compared byte by byte. A chunk counts where its last
 * put was acknowledged a second or more before the kill and nothing was put over it since. Stale is a version older than one acknowledged.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseFlags } from './lib/flags.ts';
import { compare, publish } from './lib/report.ts';
import { median } from './lib/stats.ts';
import { startAgent } from '#testsupport/agent.ts';
import type { RunningAgent } from '#testsupport/agent.ts';
import { until } from '#testsupport/agent-probes.ts';
import { makeValue, readValue, SeededRandom } from '#testsupport/kill-values.ts';
import { ConnectionLost, ValueClient } from '#testsupport/value-client.ts';

const flags = parseFlags('bench:hot-restart');
const MiB = 2 ** 20;
const chunkBytes = flags.smoke ? MiB / 4 : 4 * MiB;
/** Less than the tier, so that nothing is evicted and whatever is missing was lost. */
const chunkCount = 240;
const ram = flags.smoke ? '128MiB' : '1GiB';
const kills = flags.smoke ? 2 : 30;
const CLIENTS = 4;
const LOAD_MS = flags.smoke ? 1500 : 2500;
const TARGET_READY_MS = 1000;
const TARGET_SERVED = 0.99;

/** Of its own: an older kvtier that starts beside it takes memory that nobody locks for garbage. */
const shmDir = mkdtempSync('/dev/shm/kvtier-bench-hot-');
const dataDir = mkdtempSync(join(tmpdir(), 'kvtier-bench-hot-'));
const agentFlags = [
  '--ram',
  ram,
  '--shm-dir',
  shmDir,
  '--ram-keep',
  'on',
  '--ssd',
  'off',
  '--log-level',
  'warn',
  '--resp-profile',
  'redis',
  '--resp-size-guard',
  'off',
];

interface Chunk {
  /** Of the last put that was begun. */
  version: number;
  /** Of the last put that was acknowledged, and when. */
  acknowledged: number;
  atMs: number;
}

const chunks: Chunk[] = Array.from({ length: chunkCount }, () => ({ version: 0, acknowledged: 0, atMs: 0 }));
const random = new SeededRandom(flags.seed);
let nextVersion = 1;

function keyOf(index: number): string {
  return `bench@000000ff@0@${(0x10000 + index).toString(16).padStart(16, '0')}`;
}

async function put(client: ValueClient, index: number): Promise<void> {
  const chunk = chunks[index];
  if (chunk === undefined) return;
  const version = nextVersion++;
  chunk.version = version;
  await client.command('SET', keyOf(index), makeValue(index, version, chunkBytes));
  chunk.acknowledged = version;
  chunk.atMs = performance.now();
}

/**
 * Each client has chunks of its own, so that puts of one chunk never overlap. Half of the chunks stay as they are: on a fast machine
 * the load would leave none that is a second old.
 */
async function load(agent: RunningAgent, own: number, until: () => boolean): Promise<void> {
  try {
    const client = await ValueClient.connect(agent.resp);
    while (!until()) await put(client, random.below(Math.max(1, Math.floor(chunkCount / CLIENTS / 2))) * CLIENTS + own);
    client.close();
  } catch (problem) {
    if (!(problem instanceof ConnectionLost)) throw problem;
  }
}

const sum = { wanted: 0, served: 0, wrong: 0, stale: 0 };

async function readAll(agent: RunningAgent, killedAtMs: number): Promise<void> {
  const client = await ValueClient.connect(agent.resp);
  for (const [index, chunk] of chunks.entries()) {
    const bytes = await client.get(keyOf(index));
    const found = bytes === undefined ? undefined : readValue(index, bytes);
    if (typeof found === 'string') sum.wrong += 1;
    else if (found !== undefined && found < chunk.acknowledged) sum.stale += 1;
    if (chunk.version !== chunk.acknowledged || chunk.atMs > killedAtMs - 1000 || chunk.acknowledged === 0) continue;
    sum.wanted += 1;
    if (found === chunk.acknowledged) sum.served += 1;
  }
  client.close();
}

const starts: { processMs: number; readyMs: number }[] = [];
try {
  let agent = await startAgent({ dataDir, flags: agentFlags });
  const filler = await ValueClient.connect(agent.resp);
  for (let index = 0; index < chunkCount; index += 1) await put(filler, index);
  filler.close();
  for (let round = 0; round < kills; round += 1) {
    let stopped = false;
    const clients = Array.from({ length: CLIENTS }, (_, own) => load(agent, own, () => stopped));
    await Bun.sleep(LOAD_MS);
    const killedAtMs = performance.now();
    await agent.kill9();
    stopped = true;
    await Promise.all(clients);
    const startedAt = performance.now();
    agent = await startAgent({ dataDir, flags: agentFlags });
    await until('the start screen', () => Promise.resolve(agent.output().includes('ready in')));
    const readyMs = Number(/ready in ([\d,]+) ms/.exec(agent.output())?.[1]?.replaceAll(',', ''));
    starts.push({ processMs: performance.now() - startedAt, readyMs });
    await readAll(agent, killedAtMs);
  }
  await agent.kill9();
  console.log(`${JSON.stringify(sum)}, slowest start ${Math.max(...starts.map((start) => start.processMs)).toFixed(0)} ms`);
  if (sum.wrong + sum.stale > 0) throw new Error(`${sum.wrong} chunks were wrong and ${sum.stale} stale`);
  const time = { unit: 'ms', better: 'lower', peerName: 'target', peer: TARGET_READY_MS } as const;
  publish('bench:hot-restart', flags, [
    compare({
      ...time,
      case: `process start to open doors, ${ram} in RAM, after kill -9 under load`,
      ours: median(starts.map((start) => start.processMs)),
    }),
    compare({ ...time, case: '"ready in" as the agent says it', ours: median(starts.map((start) => start.readyMs)) }),
    compare({
      case: `served of what was acknowledged a second before, ${kills} kills`,
      unit: '%',
      better: 'higher',
      ours: (sum.served / sum.wanted) * 100,
      peer: TARGET_SERVED * 100,
      peerName: 'target',
    }),
  ]);
} finally {
  rmSync(dataDir, { recursive: true, force: true });
  rmSync(shmDir, { recursive: true, force: true });
}
process.exit(0);
