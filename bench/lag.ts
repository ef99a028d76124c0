/**
 * `bun run bench:lag`: how late the agent's event loop gets while 16 MiB values stream through it, and what its heap does.
 *
 * - Lag: p99 of the agent's own 10 ms timer (kvtier_event_loop_lag_seconds) under SETs and GETs of 16 MiB on four connections, beside
 *   the p99 of an idle agent on the same machine while other processes burn as much processor time as agent and client did. The
 *   difference is what the agent does to itself. Rounds alternate.
 * - Heap: kvtier_process_heap_bytes over 2,000 SETs of 16 MiB, the least in their last quarter less the least in their first.
 */
import { LoadClient, payload, stamp } from './lib/load-client.ts';
import { parseFlags } from './lib/flags.ts';
import { lagBesideBurners, lagMs, metric } from './lib/lag-probe.ts';
import type { Load } from './lib/lag-probe.ts';
import { compare, publish } from './lib/report.ts';
import { median } from './lib/stats.ts';
import { startAgent } from '#testsupport/agent.ts';
import type { RunningAgent } from '#testsupport/agent.ts';
import { cpuMs } from '#testsupport/agent-probes.ts';

const MiB = 1024 ** 2;
const flags = parseFlags('bench:lag');
const sizeBytes = 16 * MiB;
const connections = 4;
const rounds = flags.smoke ? 1 : 3;
/** Longer than the window of the agent's samples, so that nothing of the phase before is in it. */
const phaseMs = flags.smoke ? 1500 : 12_000;
const heapSets = flags.smoke ? 200 : 2000;
const keys = 32;
const TARGET_LAG_MS = 5;
const TARGET_HEAP_MIB = 20;

/** Runs SETs and GETs on every connection until `isOver`; answers how many SETs there were. */
async function stream(agent: RunningAgent, isOver: (sets: number) => boolean, withGets: boolean): Promise<number> {
  let sets = 0;
  await Promise.all(
    Array.from({ length: connections }, async () => {
      const client = await LoadClient.connect(agent.resp);
      const value = payload(sizeBytes);
      for (let index = sets++; !isOver(index); index = sets++) {
        stamp(value, index);
        await client.set(`lag-${index % keys}`, value);
        if (withGets) await client.get(`lag-${index % keys}`);
      }
      client.close();
    }),
  );
  return sets;
}

interface Loaded extends Load {
  readonly lagMs: number;
  readonly gigabytesPerSecond: number;
}

async function underLoad(agent: RunningAgent): Promise<Loaded> {
  const startedAt = performance.now();
  const before = { agent: cpuMs(agent.pid), client: cpuMs(process.pid) };
  const sets = await stream(agent, () => performance.now() - startedAt > phaseMs, true);
  const elapsedMs = performance.now() - startedAt;
  return {
    lagMs: await lagMs(agent),
    agentCores: (cpuMs(agent.pid) - before.agent) / elapsedMs,
    clientCores: (cpuMs(process.pid) - before.client) / elapsedMs,
    gigabytesPerSecond: (2 * sets * sizeBytes) / elapsedMs / 1e6,
  };
}

/**
 * Least heap in the first and in the last quarter of a run of SETs: between two collections it goes up and down by what is garbage,
 * the floor under that is what is kept.
 */
async function heapFloors(agent: RunningAgent): Promise<{ readonly first: number; readonly last: number }> {
  const floors = { first: Number.POSITIVE_INFINITY, last: Number.POSITIVE_INFINITY };
  let done = 0;
  let over = false;
  const looking = (async (): Promise<void> => {
    while (!over) {
      const share = done / heapSets;
      const bytes = await metric(agent, 'kvtier_process_heap_bytes');
      if (share <= 0.25) floors.first = Math.min(floors.first, bytes / MiB);
      if (share >= 0.75) floors.last = Math.min(floors.last, bytes / MiB);
      await Bun.sleep(20);
    }
  })();
  await stream(agent, (sets) => (done = sets) >= heapSets, false);
  over = true;
  await looking;
  return { first: floors.first, last: Math.min(floors.last, (await metric(agent, 'kvtier_process_heap_bytes')) / MiB) };
}

const agentFlags = ['--ram', '1GiB', '--ssd', 'off', '--log-level', 'warn'];
const busy = await startAgent({ flags: agentFlags });
const idle = await startAgent({ flags: agentFlags });
try {
  await stream(busy, (sets) => sets >= keys, true);
  const loads: Loaded[] = [];
  const idleLags: number[] = [];
  for (let round = 0; round < rounds; round += 1) {
    const load = await underLoad(busy);
    loads.push(load);
    idleLags.push(await lagBesideBurners(idle, load, phaseMs));
  }
  const heap = await heapFloors(busy);
  const loaded = median(loads.map((load) => load.lagMs));
  const alone = median(idleLags);
  const cores = median(loads.map((load) => load.agentCores + load.clientCores));
  const rate = median(loads.map((load) => load.gigabytesPerSecond));
  // A ratio needs something above zero: a tenth of a millisecond, a tenth of a MiB.
  publish('bench:lag', flags, [
    compare({
      case: `event-loop lag p99, SET and GET of 16 MiB at ${rate.toFixed(1)} GB/s, ${cores.toFixed(1)} cores`,
      unit: 'ms',
      better: 'lower',
      ours: Math.max(0.1, loaded),
      peer: Math.max(0.1, alone),
      peerName: 'idle agent beside equal load',
    }),
    compare({
      case: 'lag above the idle loop',
      unit: 'ms',
      better: 'lower',
      ours: Math.max(0.1, loaded - alone),
      peer: TARGET_LAG_MS,
      peerName: 'target',
    }),
    compare({
      case: `heap growth over ${heapSets.toLocaleString('en-US')} SETs of 16 MiB (from ${heap.first.toFixed(1)} MiB)`,
      unit: 'MiB',
      better: 'lower',
      ours: Math.max(0.1, heap.last - heap.first),
      peer: TARGET_HEAP_MIB,
      peerName: 'target',
    }),
  ]);
} finally {
  await busy.stop();
  await idle.stop();
}
process.exit(0);
