/**
 * How late the event loop of the real agent gets with a thousand copies in flight between HBM and RAM, on the emulated driver: two
 * clients have small values brought from HBM, which RAM forgets again, and two connections stream values of 1 MiB in and out as LMCache's client
 * does, which are promoted and push others out. Beside it an idle agent with the same tiers, while others burn what all that burns.
 */
import { startAgent } from '#testsupport/agent.ts';
import type { RunningAgent } from '#testsupport/agent.ts';
import { cpuMs, until } from '#testsupport/agent-probes.ts';
import { privateEmulator } from '#testsupport/cuda-emulator.ts';
import type { PrivateEmulator } from '#testsupport/cuda-emulator.ts';
import { BlockingLoad } from './blocking-client.ts';
import { lagBesideBurners, lagMs } from './lag-probe.ts';
import type { Load } from './lag-probe.ts';
import { LoadClient, payload, stamp } from './load-client.ts';
import { randomBelow, seededRng } from './random.ts';
import { median } from './stats.ts';

const MiB = 1024 ** 2;
const SMALL_BYTES = 16 * 1024;
const SLICE = 1024;
const STREAMED_KEYS = 16;
const STREAMED_AT_ONCE = 32;
const STREAMS = 2;
const PREFETCHERS = 2;

export interface AgentRun {
  readonly rounds: number;
  readonly phaseMs: number;
  /** Small values that one request has brought to RAM; two requests are under way at any time. */
  readonly prefetchedAtOnce: number;
  readonly smallKeys: number;
  /** Less than the small values, so that many GETs find theirs in HBM only; more than all that are on their way to RAM at once. */
  readonly ramMib: number;
  readonly seed: number;
}

export interface LoadedRound extends Load {
  readonly lagMs: number;
  readonly idleLagMs: number;
  /** Median of what the agent said while the load ran. */
  readonly inFlight: number;
  readonly copiesPerSecond: number;
  readonly gigabytesPerSecond: number;
  /** What was promoted to HBM, and what left it, in the round. */
  readonly promotions: number;
  readonly evictions: number;
}

const keyOf = (index: number): string => `small-${index}`;

async function startWith(emulator: PrivateEmulator, run: AgentRun): Promise<RunningAgent> {
  // A little more than the small values: the streamed ones push others out.
  const poolMib = Math.ceil((run.smallKeys * SMALL_BYTES) / MiB) + STREAMED_KEYS / 2;
  // As long as a copy of a few MiB takes on a card; two streams of a direction make some 2,500 copies a second of it.
  emulator.control.start(`devices=1,capacity=${poolMib + 64}M,check=0,poison=0,latency_us=500,jitter_us=500`);
  const flags = ['--ram', `${run.ramMib}MiB`, '--ssd', 'off', '--hbm', `${poolMib}MiB`, '--hbm-driver', 'emulated'];
  return await startAgent({
    flags: [...flags, '--hbm-promote-hits', '1', '--resp-max-connections', '2048', '--log-level', 'warn'],
    env: emulator.control.environment,
  });
}

/** Stores the small values and has each brought to the device, a slice at a time, so that RAM may forget the one before. */
async function fillDevice(agent: RunningAgent, keys: number): Promise<void> {
  const client = await LoadClient.connect(agent.resp);
  const value = payload(SMALL_BYTES);
  for (let from = 0; from < keys; from += SLICE) {
    const slice = Array.from({ length: Math.min(SLICE, keys - from) }, (_, index) => from + index);
    for (const index of slice) {
      stamp(value, index);
      await client.set(keyOf(index), value);
    }
    const brought = await fetch(`${agent.url}/v1/prefetch`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ keys: slice.map(keyOf), tier: 'hbm' }),
    });
    if (!brought.ok) throw new Error(`Cannot bring chunks to the device: ${await brought.text()}`);
  }
  client.close();
}

/** Has small values brought from the device to RAM, so many at once, until it is over; each request names others than the one before. */
async function bringSmall(agent: RunningAgent, run: AgentRun & { readonly isOver: () => boolean }): Promise<void> {
  const rng = seededRng(run.seed);
  while (!run.isOver()) {
    const from = randomBelow(rng, run.smallKeys - run.prefetchedAtOnce);
    const keys = Array.from({ length: run.prefetchedAtOnce }, (_, index) => keyOf(from + index));
    await agent.client.prefetch(keys);
  }
}

/** SETs and GETs of 1 MiB by turns until it is over; bytes moved. */
async function streamLarge(agent: RunningAgent, run: AgentRun & { readonly isOver: () => boolean }): Promise<number> {
  const target = { port: agent.resp.port, sizeBytes: MiB, keys: STREAMED_KEYS };
  const load = await BlockingLoad.connect(target, STREAMS);
  let requests = 0;
  for (let at = 0; !run.isOver(); at += 1) {
    const command = at % 2 === 0 ? 'GET' : 'SET';
    await load.run({ command, requests: STREAMED_AT_ONCE, seed: run.seed + at, sequential: command === 'SET', refill: true });
    requests += STREAMED_AT_ONCE;
  }
  await load.close();
  return requests * MiB;
}

interface Counted {
  readonly copies: number;
  readonly promotions: number;
  readonly evictions: number;
}

async function counted(agent: RunningAgent): Promise<Counted> {
  const { devices } = await agent.client.devices();
  const { hbm, evictions } = await agent.client.stats();
  const copies = devices.reduce((sum, device) => sum + device.copies.toDevice.copies + device.copies.toHost.copies, 0);
  return { copies, promotions: hbm?.promotions ?? 0, evictions: evictions.hbm };
}

async function underLoad(agent: RunningAgent, run: AgentRun): Promise<Omit<LoadedRound, 'idleLagMs'>> {
  const startedAt = performance.now();
  const isOver = (): boolean => performance.now() - startedAt > run.phaseMs;
  const before = { agent: cpuMs(agent.pid), client: cpuMs(process.pid), counts: await counted(agent) };
  const inFlight: number[] = [];
  const looking = (async (): Promise<void> => {
    while (!isOver()) {
      await Bun.sleep(100);
      const { devices } = await agent.client.devices();
      inFlight.push(devices[0]?.copies.inFlight ?? 0);
    }
  })();
  const [bytes] = await Promise.all([
    streamLarge(agent, { ...run, isOver }),
    looking,
    ...Array.from({ length: PREFETCHERS }, (_, index) => bringSmall(agent, { ...run, seed: run.seed + index, isOver })),
  ]);
  const elapsedMs = performance.now() - startedAt;
  const after = await counted(agent);
  return {
    lagMs: await lagMs(agent),
    agentCores: (cpuMs(agent.pid) - before.agent) / elapsedMs,
    clientCores: (cpuMs(process.pid) - before.client) / elapsedMs,
    inFlight: median(inFlight),
    copiesPerSecond: (1000 * (after.copies - before.counts.copies)) / elapsedMs,
    gigabytesPerSecond: bytes / elapsedMs / 1e6,
    promotions: after.promotions - before.counts.promotions,
    evictions: after.evictions - before.counts.evictions,
  };
}

/** Rounds of load and of idling beside as much, by turns, each on an agent of its own. */
export async function agentLag(run: AgentRun): Promise<readonly LoadedRound[]> {
  const emulators = [await privateEmulator(), await privateEmulator()] as const;
  const busy = await startWith(emulators[0], run);
  const idle = await startWith(emulators[1], run);
  try {
    for (const agent of [busy, idle])
      await until('RAM is registered', async () => (await agent.client.devices()).registration.state === 'done');
    await fillDevice(busy, run.smallKeys);
    const rounds: LoadedRound[] = [];
    for (let round = 0; round < run.rounds; round += 1) {
      const load = await underLoad(busy, { ...run, seed: run.seed + 1e4 * round });
      rounds.push({ ...load, idleLagMs: await lagBesideBurners(idle, load, run.phaseMs) });
    }
    return rounds;
  } finally {
    for (const agent of [busy, idle]) await agent.stop();
    for (const emulator of emulators) await emulator.dispose();
  }
}
