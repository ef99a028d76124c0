/**
 * `bun run bench:restart`: how long a start takes with 100,000 chunk files, 1,000 of which the catalog does not know.
 *
 * The files are made by an agent, with values of 1 KiB, and stopped cleanly; then the rows of 1,000 chunks are taken out of catalog.db,
 * and the agent is started again: from the start of the process to agent.json, which is written when the doors are open. Adoption of the
 * unknown files goes on behind that. Five restarts, each with 1,000 rows taken out, medians. The page cache is warm.
 */
import { Database } from 'bun:sqlite';
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { LoadClient, payload, stamp } from './lib/load-client.ts';
import { parseFlags } from './lib/flags.ts';
import { compare, publish } from './lib/report.ts';
import { median } from './lib/stats.ts';
import { startAgent } from '#testsupport/agent.ts';
import type { RunningAgent } from '#testsupport/agent.ts';
import { until } from '#testsupport/agent-probes.ts';

const flags = parseFlags('bench:restart');
const fileCount = flags.smoke ? 2000 : 100_000;
const unknownCount = flags.smoke ? 20 : 1000;
const rounds = flags.smoke ? 1 : 5;
const valueBytes = 1024;
const PIPELINE = 500;
const TARGET_READY_MS = 3000;
/** Behind the doors, so nobody waits for it; the bound only tells when it got much slower. */
const TARGET_ADOPTED_MS = 10_000;
const PATIENCE_MS = 600_000;

const dataDir = mkdtempSync(join(process.cwd(), '.bench-restart-'));
const agentFlags = ['--ram', '1GiB', '--ssd', '8GiB', '--ssd-admission', 'through', '--log-level', 'warn', '--shutdown-drain', '120s'];

/** `model@rank@group@hash`: what LMCache stores. */
function keyOf(index: number): string {
  const hash = (BigInt(index + 1) * 0x9e37_79b9_7f4a_7c15n) & 0xffff_ffff_ffff_ffffn;
  return `meta-llama/Llama-3.1-8B@01000100@0@${hash.toString(16).padStart(16, '0').repeat(4)}`;
}

async function store(agent: RunningAgent): Promise<void> {
  const client = await LoadClient.connect(agent.resp);
  const value = payload(valueBytes);
  const encoder = new TextEncoder();
  for (let start = 0; start < fileCount; start += PIPELINE) {
    const count = Math.min(PIPELINE, fileCount - start);
    const parts: Uint8Array[] = [];
    for (let index = start; index < start + count; index += 1) {
      const key = keyOf(index);
      stamp(value, index);
      parts.push(
        encoder.encode(`*3\r\n$3\r\nSET\r\n$${key.length}\r\n${key}\r\n$${valueBytes}\r\n`),
        value.slice(),
        encoder.encode('\r\n'),
      );
    }
    await client.pipeline(Buffer.concat(parts), count);
  }
  client.close();
}

async function makeFiles(): Promise<void> {
  const agent = await startAgent({ dataDir, flags: agentFlags });
  await store(agent);
  await agent.client.persist({ all: true });
  await until(
    'every chunk is on SSD and in the catalog',
    async () => {
      const { tiers, catalog } = await agent.client.stats();
      const ssd = tiers.find((tier) => tier.tier === 'ssd');
      return ssd?.chunkCount === fileCount && catalog.queuedChanges === 0;
    },
    PATIENCE_MS,
  );
  if ((await agent.stop()) !== 0) throw new Error(`The agent did not stop cleanly:\n${agent.output()}`);
}

/** Takes the rows of some chunks out of the catalog, as if it had been killed before they were written. */
function forgetRows(round: number): void {
  const database = new Database(join(dataDir, 'catalog.db'));
  database.run('PRAGMA foreign_keys = ON');
  const step = Math.floor(fileCount / unknownCount);
  const removed = database.run(
    'DELETE FROM chunk WHERE generation IN (SELECT generation FROM (SELECT generation, row_number() OVER (ORDER BY generation) AS n FROM chunk) WHERE n % ? = ?)',
    [step, round],
  );
  database.close();
  if (removed.changes < unknownCount) throw new Error(`Only ${removed.changes} rows were there to be removed`);
}

interface Start {
  readonly readyMs: number;
  readonly saidReadyMs: number;
  readonly adoptedMs: number;
}

async function restart(): Promise<Start> {
  const startedAt = performance.now();
  const agent = await startAgent({ dataDir, flags: agentFlags });
  const readyMs = performance.now() - startedAt;
  await until('adoption is done', async () => (await agent.client.stats()).recovery.done, PATIENCE_MS);
  const adoptedMs = performance.now() - startedAt;
  const { recovery, tiers } = await agent.client.stats();
  const chunks = tiers.find((tier) => tier.tier === 'ssd')?.chunkCount;
  if (chunks !== fileCount || recovery.adoptedFiles < unknownCount || recovery.droppedFiles > 0) {
    throw new Error(`The restart brought back ${chunks} of ${fileCount} chunks: ${JSON.stringify(recovery)}`);
  }
  const saidReadyMs = Number(/ready in ([\d,]+) ms/.exec(agent.output())?.[1]?.replaceAll(',', ''));
  if ((await agent.stop()) !== 0) throw new Error(`The agent did not stop cleanly:\n${agent.output()}`);
  return { readyMs, saidReadyMs, adoptedMs };
}

try {
  await makeFiles();
  const starts: Start[] = [];
  for (let round = 0; round < rounds; round += 1) {
    forgetRows(round);
    starts.push(await restart());
  }
  const files = `${fileCount.toLocaleString('en-US')} files, ${unknownCount.toLocaleString('en-US')} without a row`;
  const time = { unit: 'ms', better: 'lower', peerName: 'target' } as const;
  publish('bench:restart', flags, [
    compare({
      ...time,
      case: `process start to open doors, ${files}`,
      ours: median(starts.map((start) => start.readyMs)),
      peer: TARGET_READY_MS,
    }),
    compare({
      ...time,
      case: '"ready in" as the agent says it',
      ours: median(starts.map((start) => start.saidReadyMs)),
      peer: TARGET_READY_MS,
    }),
    compare({
      ...time,
      case: 'process start to the last file adopted',
      ours: median(starts.map((start) => start.adoptedMs)),
      peer: TARGET_ADOPTED_MS,
    }),
  ]);
} finally {
  rmSync(dataDir, { recursive: true, force: true });
}
process.exit(0);
