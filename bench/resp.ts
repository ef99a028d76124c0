/**
 * `bun run bench:resp`: SET and GET of large values over RESP, the agent beside redis-server, both driven by redis-benchmark.
 *
 * Both sides run in one call and take turns, five rounds, medians. Each side gets its own server process on loopback and the same
 * number of keys; the client is redis' own, one thread. A case whose peer is missing is an error, not a skip.
 */
import { spawnSync } from 'node:child_process';
import { alternate, median } from './lib/stats.ts';
import { parseFlags } from './lib/flags.ts';
import { compare, publish } from './lib/report.ts';
import type { BenchCase } from './lib/report.ts';
import { startAgent } from '#testsupport/agent.ts';
import { startRedisServer } from '#testsupport/redis-server.ts';

const MiB = 1024 ** 2;
const flags = parseFlags('bench:resp');
const rounds = flags.smoke ? 1 : 5;
/** Bytes moved by one measurement: long enough that the start of the client does not count. */
const bytesPerRun = flags.smoke ? 64 * MiB : 1024 * MiB;
const keyspaceBytes = 256 * MiB;

/** GB/s (10^9) of one redis-benchmark run. */
function run(port: number, test: 'SET' | 'GET', shape: { sizeBytes: number; connections: number }): number {
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
  for (const sizeBytes of [1 * MiB, 4 * MiB, 16 * MiB]) {
    for (const connections of [1, 4]) {
      for (const test of ['SET', 'GET'] as const) {
        const shape = { sizeBytes, connections };
        // Every key exists on both sides before anything counts.
        if (test === 'GET') for (const port of [agent.resp.port, redis.port]) run(port, 'SET', shape);
        const { ours, peer } = await alternate(rounds, {
          ours: () => run(agent.resp.port, test, shape),
          peer: () => run(redis.port, test, shape),
        });
        cases.push(
          compare({
            case: `${test} ${sizeBytes / MiB} MiB, ${connections} conn`,
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
