/**
 * `bun run bench:hbm`: what copies to and from a GPU cost this side, on the emulated driver. Nothing here says anything about a card.
 *
 * - Cost: processor time of the main thread for one copy, from `copy` to its settled promise, without what the emulator takes to end it;
 *   with one copy at a time, and with up to a thousand in flight. Beside it the driver's calls that any program needs for a copy.
 * - Poll: processor time of one look that finds nothing, with up to a thousand in flight; what waiting for a thousand takes.
 * - Readiness: a thousand in flight over forty streams that end in random order: how soon each settles, and that each does.
 * - Doors: lag of the agent's event loop with a thousand copies in flight and RESP traffic beside them, against an idle agent.
 */
import { agentLag } from './lib/hbm-agent.ts';
import { awaitedCost, copyCost, pollCost, waitShare } from './lib/hbm-costs.ts';
import { HbmRig } from './lib/hbm-rig.ts';
import { readiness } from './lib/hbm-readiness.ts';
import { parseFlags } from './lib/flags.ts';
import { compare, publish } from './lib/report.ts';
import type { BenchCase } from './lib/report.ts';
import { median, quantile } from './lib/stats.ts';

const TARGET_COPY_US = 15;
const TARGET_LAG_MS = 5;
const AWAITED_US = 200;
/** Ours: a look each millisecond where nothing has been done for a while, and the timer's grain. */
const TARGET_DELAY_MS = 2;
/** A ratio needs something above zero. */
const LEAST = 0.001;

const flags = parseFlags('bench:hbm');
const few = flags.smoke ? 0.05 : 1;
const some = (count: number): number => Math.ceil(count * few);

async function costs(): Promise<BenchCase[]> {
  await using rig = await HbmRig.open(1, 'manual=1,latency_us=0,jitter_us=0');
  const cases: BenchCase[] = [];
  for (const [inFlight, shape] of [
    [1, 'calls'],
    [64, 'calls'],
    [1000, 'calls'],
    [64, 'list'],
  ] as const) {
    const { oursUs, driverUs } = await copyCost(rig, { inFlight, shape, copies: some(40_000) });
    const name = shape === 'list' ? `a list of ${inFlight} in one call` : inFlight === 1 ? 'one at a time' : `${inFlight} in flight`;
    const roof = { name: "the emulated driver's calls alone", percent: (100 * driverUs) / oursUs };
    cases.push(
      compare({
        case: `main-thread time of a copy, ${name}`,
        unit: 'us',
        better: 'lower',
        ours: oursUs,
        peer: TARGET_COPY_US,
        peerName: 'target',
        roof,
      }),
    );
  }
  for (const inFlight of [1, 10, 100, 1000]) {
    const { oursUs, driverUs } = pollCost(rig, inFlight, some(20_000));
    cases.push(
      compare({
        case: `one poll, ${inFlight} in flight, none done`,
        unit: 'us',
        better: 'lower',
        ours: oursUs,
        peer: driverUs,
        peerName: "the emulated driver's calls alone",
      }),
    );
  }
  const { ours, timer } = await waitShare(rig, 1000, some(5000));
  const name = 'main thread while 1,000 copies wait';
  return [...cases, compare({ case: name, unit: '%', better: 'lower', ours, peer: timer, peerName: 'a timer of 1 ms' })];
}

/** One copy after the other, each as long as one of 8 MiB on PCIe 5.0 x16, on a loop that has nothing else to do. */
async function awaited(): Promise<BenchCase[]> {
  await using rig = await HbmRig.open(1, `latency_us=${AWAITED_US},jitter_us=0`);
  await awaitedCost(rig, some(1000)); // for the compiler
  const { copyUs, turnUs, emptyTurnUs } = await awaitedCost(rig, some(4000));
  const lower = { unit: 'us', better: 'lower' } as const;
  return [
    compare({ ...lower, case: 'one turn of an idle loop with a look in it', ours: turnUs, peer: emptyTurnUs, peerName: 'a turn without' }),
    compare({
      ...lower,
      case: `main thread while an idle loop awaits one copy of ${AWAITED_US} us`,
      ours: copyUs,
      peer: AWAITED_US,
      peerName: 'the copy itself',
    }),
  ];
}

async function order(): Promise<BenchCase[]> {
  await using rig = await HbmRig.open(8, 'latency_us=500,jitter_us=4000');
  const run = { inFlight: 1000, seed: flags.seed };
  await readiness(rig, { ...run, copies: some(10_000) }); // for the compiler
  const { delaysMs, overtakenMs, passedOver } = await readiness(rig, { ...run, copies: some(40_000) });
  const target = { better: 'lower', peerName: 'target' } as const;
  const name = '1,000 in flight, random order';
  const once = (100 * passedOver.filter((looks) => looks <= 1).length) / passedOver.length;
  return [
    compare({ ...target, case: `${name}: ready to settled, p50`, unit: 'ms', ours: quantile(delaysMs, 0.5), peer: TARGET_DELAY_MS }),
    compare({ ...target, case: `${name}: ready to settled, p99`, unit: 'ms', ours: quantile(delaysMs, 0.99), peer: TARGET_DELAY_MS }),
    compare({
      ...target,
      case: `${name}: overtaken by, p99`,
      unit: 'ms',
      ours: Math.max(LEAST, quantile(overtakenMs, 0.99)),
      peer: TARGET_DELAY_MS,
    }),
    compare({ ...target, case: `${name}: found by the next look`, unit: '%', better: 'higher', ours: once, peer: 99 }),
  ];
}

async function doors(): Promise<BenchCase[]> {
  const rounds = await agentLag({
    rounds: flags.smoke ? 1 : 3,
    // Longer than the window of the agent's samples, so that nothing of the phase before is in it.
    phaseMs: flags.smoke ? 1500 : 12_000,
    prefetchedAtOnce: flags.smoke ? 64 : 1000,
    smallKeys: flags.smoke ? 5120 : 12_288,
    ramMib: flags.smoke ? 64 : 64,
    seed: flags.seed,
  });
  const of = (pick: (round: (typeof rounds)[number]) => number): number => median(rounds.map(pick));
  const count = (value: number): string => Math.round(value).toLocaleString('en-US');
  const lag = of((round) => round.lagMs);
  const idle = of((round) => round.idleLagMs);
  const load = [
    `${count(of((round) => round.inFlight))} copies in flight`,
    `${count(of((round) => round.copiesPerSecond))} a second`,
    `${count(of((round) => round.promotions))} promotions and ${count(of((round) => round.evictions))} evictions a round`,
    `${of((round) => round.gigabytesPerSecond).toFixed(1)} GB/s of 1 MiB over RESP`,
    `${of((round) => round.agentCores + round.clientCores).toFixed(1)} cores`,
  ];
  return [
    compare({
      case: `event-loop lag p99: ${load.join(', ')}`,
      unit: 'ms',
      better: 'lower',
      ours: Math.max(LEAST, lag),
      peer: Math.max(LEAST, idle),
      peerName: 'idle agent beside equal load',
    }),
    compare({
      case: 'lag above the idle loop',
      unit: 'ms',
      better: 'lower',
      ours: Math.max(LEAST, lag - idle),
      peer: TARGET_LAG_MS,
      peerName: 'target',
    }),
  ];
}

publish('bench:hbm', flags, [...(await costs()), ...(await awaited()), ...(await order()), ...(await doors())]);
process.exit(0);
