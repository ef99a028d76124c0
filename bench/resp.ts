/**
 * `bun run bench:resp [--client threads|redis-benchmark]`: SET and GET of large values over RESP, the agent beside redis-server.
 *
 * Both sides run in one call, are warmed up alike, and take turns, nine rounds, medians. Each side gets its own server process on loopback, the same
 * number of keys and the same client: `threads` is a blocking socket a thread, as LMCache's native client has them;
 * `redis-benchmark` is redis' own, one thread for all connections, which at 16 MiB allocates each reply anew and is slower than
 * either server. A case whose peer is missing is an error, not a skip.
 */
import { spawnSync } from 'node:child_process';
import { alternate, median } from './lib/stats.ts';
import { fill, throughput, warmUp } from './lib/blocking-client.ts';
import type { BlockingTarget } from './lib/blocking-client.ts';
import { parseFlags } from './lib/flags.ts';
import { compare, publish } from './lib/report.ts';
import type { BenchCase } from './lib/report.ts';
import { startAgent } from '#testsupport/agent.ts';
import { startRedisServer } from '#testsupport/redis-server.ts';

const MiB = 1024 ** 2;
const { client, rest } = takeClient(process.argv.slice(2));
const flags = parseFlags('bench:resp', rest);
const rounds = flags.smoke ? 1 : 9;
/** Bytes moved by one measurement: long enough that the start of the client does not count. */
const bytesPerRun = flags.smoke ? 64 * MiB : 1024 * MiB;
const keyspaceBytes = 256 * MiB;

type ClientKind = 'threads' | 'redis-benchmark';
interface Shape {
  readonly sizeBytes: number;
  readonly connections: number;
}

function takeClient(argv: readonly string[]): { readonly client: ClientKind; readonly rest: readonly string[] } {
  const at = argv.indexOf('--client');
  const client = at < 0 ? 'threads' : argv[at + 1];
  if (client !== 'threads' && client !== 'redis-benchmark') throw new Error(`--client is threads or redis-benchmark, not ${client}`);
  return { client, rest: at < 0 ? argv : argv.toSpliced(at, 2) };
}

function targetOf(port: number, { sizeBytes }: Shape): BlockingTarget {
  return { port, sizeBytes, keys: Math.max(1, Math.floor(keyspaceBytes / sizeBytes)) };
}

/** GB/s (10^9) of one run, every key present where it reads. */
function measure(port: number, test: 'SET' | 'GET', shape: Shape): number | Promise<number> {
  if (client === 'redis-benchmark') return runRedisBenchmark(port, test, shape);
  const requests = Math.max(8, Math.round(bytesPerRun / shape.sizeBytes));
  return throughput(targetOf(port, shape), shape.connections, { command: test, requests, seed: flags.seed, sequential: false });
}

function runRedisBenchmark(port: number, test: 'SET' | 'GET', shape: Shape): number {
  const requests = Math.max(8, Math.round(bytesPerRun / shape.sizeBytes));
  const keys = Math.max(1, Math.floor(keyspaceBytes / shape.sizeBytes));
  const args = [
    '-h',
    '127.0.0.1',
    '-p',
    String(port),
    '-t',
    test.toLowerCase(),
    '-d',
    String(shape.sizeBytes),
    '-c',
    String(shape.connections),
    '-n',
    String(requests),
    '-r',
    String(keys),
    '--csv',
  ];
  const result = spawnSync('redis-benchmark', args, { encoding: 'utf8' });
  if (result.status !== 0) throw new Error(`redis-benchmark failed: ${result.stderr || String(result.error)}`);
  const match = new RegExp(`"${test}[^"]*","([\\d.]+)"`).exec(result.stdout);
  if (match === null) throw new Error(`redis-benchmark printed no rate:\n${result.stdout}`);
  return (Number(match[1]) * shape.sizeBytes) / 1e9;
}

const redis = await startRedisServer();
const agent = await startAgent({ flags: ['--ram', '1GiB', '--ssd', 'off', '--log-level', 'warn'] });
const cases: BenchCase[] = [];
try {
  if (!flags.smoke) await warmUp([agent.resp.port, redis.port], flags.seed);
  for (const sizeBytes of [1 * MiB, 4 * MiB, 16 * MiB]) {
    for (const connections of [1, 4]) {
      for (const test of ['SET', 'GET'] as const) {
        const shape = { sizeBytes, connections };
        // Every key exists on both sides before anything counts.
        if (test === 'GET')
          for (const port of [agent.resp.port, redis.port]) {
            if (client === 'redis-benchmark') runRedisBenchmark(port, 'SET', shape);
            else await fill(targetOf(port, shape));
          }
        // A shape that is new to a runtime that compiles as it goes: one run of each side does not count.
        if (!flags.smoke) for (const port of [agent.resp.port, redis.port]) await measure(port, test, shape);
        const { ours, peer } = await alternate(rounds, {
          ours: () => measure(agent.resp.port, test, shape),
          peer: () => measure(redis.port, test, shape),
        });
        cases.push(
          compare({
            case: `${test} ${sizeBytes / MiB} MiB, ${connections} conn, ${client}`,
            unit: 'GB/s',
            better: 'higher',
            ours: median(ours),
            peer: median(peer),
            peerName: `redis-server ${redis.version}`,
          }),
        );
      }
    }
  }
} finally {
  await agent.stop();
  await redis.stop();
}
publish('bench:resp', flags, cases);
