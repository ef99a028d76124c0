/**
 * `bun run bench:versus [--baseline CHECKOUT]`: this version of kvtier beside another one, in one run: what a change costs.
 *
 * Both agents run at once and take turns, which first alternating; the index is measured by each checkout's own bench/index.ts, by
 * turns too. Without a baseline the other side is this checkout: then every ratio should be 1, and how far off it is, is the noise.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import { ByteClient, command, concat } from '#testsupport/byte-client.ts';
import { fill, throughput, warmUp } from './lib/blocking-client.ts';
import type { BlockingTarget } from './lib/blocking-client.ts';
import { parseFlags } from './lib/flags.ts';
import { compare, publish } from './lib/report.ts';
import type { BenchCase, BenchReport } from './lib/report.ts';
import { alternate, median } from './lib/stats.ts';

const MiB = 1024 ** 2;
const here = new URL('..', import.meta.url).pathname;
const argv = process.argv.slice(2);
const at = argv.indexOf('--baseline');
const baseline = resolve(at < 0 ? here : (argv[at + 1] ?? here));
const flags = parseFlags('bench:versus', at < 0 ? argv : argv.toSpliced(at, 2));
const rounds = flags.smoke ? 1 : 11;
const indexRounds = flags.smoke ? 1 : 3;
const peerName = at < 0 ? 'itself' : 'baseline';
/** Chunks of one LMCache lookup of 16k tokens. */
const PROBES = 64;

interface Sides {
  readonly ours: RunningAgent;
  readonly peer: RunningAgent;
}

async function values(sides: Sides): Promise<BenchCase[]> {
  const cases: BenchCase[] = [];
  for (const sizeBytes of [MiB, 4 * MiB, 16 * MiB]) {
    for (const connections of [1, 4]) {
      for (const test of ['SET', 'GET'] as const) {
        const requests = Math.max(4, Math.round((flags.smoke ? 64 * MiB : 1024 * MiB) / sizeBytes));
        const keys = Math.floor((256 * MiB) / sizeBytes);
        const targetOf = (agent: RunningAgent): BlockingTarget => ({ port: agent.resp.port, sizeBytes, keys });
        const measure = (agent: RunningAgent): Promise<number> =>
          throughput(targetOf(agent), connections, { command: test, requests, seed: flags.seed, sequential: false });
        for (const agent of [sides.ours, sides.peer]) await fill(targetOf(agent));
        const samples = await alternate(rounds, { ours: () => measure(sides.ours), peer: () => measure(sides.peer) });
        const name = `${test} ${sizeBytes / MiB} MiB, ${connections} conn`;
        cases.push(
          compare({ case: name, unit: 'GB/s', better: 'higher', ours: median(samples.ours), peer: median(samples.peer), peerName }),
        );
      }
    }
  }
  return cases;
}

/** Microseconds for one lookup: EXISTS of a chain's keys in one write, all there. */
async function probes(sides: Sides): Promise<BenchCase> {
  const keys = Array.from({ length: PROBES }, (_, index) => `model@00000000@0@${index.toString(16).padStart(64, '0')}`);
  const lookup = concat(keys.map((key) => command('EXISTS', key)));
  const answerBytes = PROBES * ':1\r\n'.length;
  const prepare = async (agent: RunningAgent): Promise<() => Promise<number>> => {
    const client = await ByteClient.connect(agent.resp);
    for (const key of keys) await client.send('SET', key, 'x'.repeat(64 * 1024));
    return async () => {
      const lookups = flags.smoke ? 20 : 2000;
      const samples: number[] = [];
      for (let n = 0; n < lookups; n += 1) {
        const began = performance.now();
        client.write(lookup);
        await client.bytes(answerBytes);
        samples.push((performance.now() - began) * 1000);
      }
      return median(samples);
    };
  };
  const samples = await alternate(rounds, { ours: await prepare(sides.ours), peer: await prepare(sides.peer) });
  return compare({
    case: `EXISTS of ${PROBES} keys in one write`,
    unit: 'us',
    better: 'lower',
    ours: median(samples.ours),
    peer: median(samples.peer),
    peerName,
  });
}

/** Cases of bench/index.ts of one checkout, by name. */
function indexOf(checkout: string): Map<string, { readonly value: number; readonly unit: string }> {
  const folder = mkdtempSync(join(tmpdir(), 'kvtier-versus-'));
  const file = join(folder, 'index.json');
  const args = ['bench/index.ts', '--json', file, ...(flags.smoke ? ['--smoke'] : [])];
  const result = spawnSync(process.execPath, args, { cwd: checkout, encoding: 'utf8' });
  if (result.status !== 0) throw new Error(`bench/index.ts of ${checkout} failed: ${result.stderr}`);
  const report = JSON.parse(readFileSync(file, 'utf8')) as BenchReport;
  rmSync(folder, { recursive: true });
  return new Map(report.cases.map((row) => [row.case, { value: row.ours, unit: row.unit }]));
}

/** Times and bytes are better when less, rates when more. A longest of many says nothing of two runs. */
function index(): BenchCase[] {
  const ours: ReturnType<typeof indexOf>[] = [];
  const peer: ReturnType<typeof indexOf>[] = [];
  for (let round = 0; round < indexRounds; round += 1) {
    ours.push(indexOf(here));
    peer.push(indexOf(baseline));
  }
  const cases: BenchCase[] = [];
  for (const [name, { unit }] of ours[0] ?? []) {
    const own = median(ours.map((run) => run.get(name)?.value ?? Number.NaN));
    const other = median(peer.map((run) => run.get(name)?.value ?? Number.NaN));
    // A case that only one of the two has cannot be compared.
    if (Number.isNaN(own) || Number.isNaN(other) || name.startsWith('longest')) continue;
    const better = unit === 'a second' ? 'higher' : 'lower';
    cases.push(compare({ case: `index: ${name}`, unit, better, ours: own, peer: other, peerName }));
  }
  return cases;
}

const agentFlags = { flags: ['--ram', '1GiB', '--ssd', 'off', '--log-level', 'warn'] };
// As users run it: what outlives the process included.
const sides = {
  ours: await startAgent({ flags: [...agentFlags.flags, '--ram-keep', 'on'] }),
  peer: await startAgent({ ...agentFlags, checkout: baseline }),
};
const cases: BenchCase[] = [];
try {
  if (!flags.smoke) await warmUp([sides.ours.resp.port, sides.peer.resp.port], flags.seed);
  cases.push(...(await values(sides)), await probes(sides));
} finally {
  await sides.ours.stop();
  await sides.peer.stop();
}
cases.push(...index());
publish('bench:versus', flags, cases);
