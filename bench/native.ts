/**
 * `bun run bench:native`: the native door from Python, as engines use it (bench/lib/native_driver.py, engines/python).
 *
 * - load-ram, store-ram: 4 and 16 MiB chunks between a region and RAM, a job of 256 MiB, beside one thread's memcpy of as much in the same
 *   process; by a file under /dev/shm, and by a sealed memfd. LOAD beside GET of redis-server over loopback too.
 * - load-ssd: 8 MiB chunks that only SSD has, straight into a region, beside fio with O_DIRECT at the same depth on the same file system.
 * - lookup: round trip of 64 and 512 keys with a million chunks in the index.
 *
 * Rounds alternate, medians. The peer of a case is its goal: a ratio of 1 is the bar.
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { startAgent } from '#testsupport/agent.ts';
import type { RunningAgent } from '#testsupport/agent.ts';
import { startRedisServer } from '#testsupport/redis-server.ts';
import { parseFlags } from './lib/flags.ts';
import { createFio } from './lib/fio.ts';
import { compare, publish } from './lib/report.ts';
import type { BenchCase } from './lib/report.ts';
import { alternate, median } from './lib/stats.ts';

const MiB = 1024 ** 2;
const flags = parseFlags('bench:native');
const rounds = flags.smoke ? 1 : 9;
const jobBytes = (flags.smoke ? 32 : 256) * MiB;
const indexedChunks = flags.smoke ? 20_000 : 1_000_000;
const ssdChunks = flags.smoke ? 16 : 160;
/** Chunks of a job that are under way at once (native-jobs.ts). */
const SSD_DEPTH = 16;
const SSD_CHUNK_BYTES = 8 * MiB;

/** The Python process beside an agent. */
class Driver {
  readonly #child;
  readonly #lines: AsyncIterator<string>;

  constructor(agent: RunningAgent) {
    const script = new URL('./lib/native_driver.py', import.meta.url).pathname;
    this.#child = spawn('python3', [script, agent.socket], { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
  }

  async order(what: string, options: Readonly<Record<string, number | boolean>> = {}): Promise<number> {
    this.#child.stdin.write(`${JSON.stringify({ do: what, ...options })}\n`);
    const line = await this.#lines.next();
    if (line.done === true) throw new Error(`The Python side ended in ${what}`);
    return Number(JSON.parse(line.value));
  }

  stop(): void {
    this.#child.stdin.end();
  }
}

async function withAgent<T>(agentFlags: readonly string[], work: (agent: RunningAgent, driver: Driver) => Promise<T>): Promise<T> {
  const agent = await startAgent({ flags: [...agentFlags, '--log-level', 'warn'] });
  const driver = new Driver(agent);
  try {
    return await work(agent, driver);
  } finally {
    driver.stop();
    await agent.stop();
  }
}

const rate = { unit: 'GB/s', better: 'higher' } as const;

/** LOAD and STORE beside memcpy; `goals` are the shares of it that are wanted. */
async function memory(): Promise<BenchCase[]> {
  const cases: BenchCase[] = [];
  await withAgent(['--ram', `${flags.smoke ? 256 : 1536}MiB`, '--ssd', 'off'], async (_, driver) => {
    let base = 0;
    for (const [sealed, goals] of [
      [false, { load: 0.8, store: 0.7 }],
      [true, { load: 0.9, store: 0.9 }],
    ] as const) {
      for (const mib of [4, 16]) {
        const [chunk, count] = [mib * MiB, jobBytes / (mib * MiB)];
        const how = `${mib} MiB, ${sealed ? 'sealed memfd' : 'file in /dev/shm'}`;
        const job = { chunk, count, sealed };
        const memcpy = (): Promise<number> => driver.order('memcpy', { chunk, count });
        const store = (): Promise<number> => driver.order('store', { ...job, base: (base += 10_000) });
        await store();
        await memcpy();
        const stored = await alternate(rounds, { ours: store, peer: memcpy });
        const loaded = await alternate(rounds, { ours: () => driver.order('load', { ...job, base }), peer: memcpy });
        for (const [name, sides, goal] of [
          ['load-ram', loaded, goals.load],
          ['store-ram', stored, goals.store],
        ] as const) {
          const [ours, peer] = [median(sides.ours) / 1e9, median(sides.peer) / 1e9];
          const roof = { name: `one thread's memcpy (${peer.toFixed(1)} GB/s)`, percent: (100 * ours) / peer };
          cases.push(compare({ ...rate, case: `${name} ${how}`, ours, peer: goal * peer, peerName: `${goal} of memcpy`, roof }));
        }
      }
    }
    cases.push(...(await besideRedis(driver, base)));
  });
  return cases;
}

async function besideRedis(driver: Driver, base: number): Promise<BenchCase[]> {
  const redis = await startRedisServer();
  const chunk = 16 * MiB;
  const count = jobBytes / chunk;
  await driver.order('redis_fill', { port: redis.port, chunk, count });
  const sides = await alternate(rounds, {
    ours: () => driver.order('load', { chunk, count, base, sealed: true }),
    peer: () => driver.order('redis_get', { chunk, count }),
  });
  await redis.stop();
  const [ours, peer] = [median(sides.ours) / 1e9, median(sides.peer) / 1e9];
  const roof = { name: `redis-server GET, one connection (${peer.toFixed(1)} GB/s)`, percent: (100 * ours) / peer };
  return [compare({ ...rate, case: 'load-ram 16 MiB', ours, peer: 2 * peer, peerName: '2x redis-server GET', roof })];
}

async function ssd(): Promise<BenchCase[]> {
  const root = mkdtempSync(join(process.cwd(), '.bench-native-'));
  const total = ssdChunks * SSD_CHUNK_BYTES;
  const agentFlags = ['--ram', '512MiB', '--ssd-dir', `${join(root, 'ssd')}:${4 * total}`, '--ssd-admission', 'through'];
  try {
    return await withAgent(agentFlags, async (agent, driver) => {
      const job = { chunk: SSD_CHUNK_BYTES, sealed: false };
      const batch = Math.min(16, ssdChunks);
      for (let base = 0; base < ssdChunks; base += batch) await driver.order('store', { ...job, count: batch, base });
      for (;;) {
        const { tiers } = await agent.client.stats();
        if (tiers.every((tier) => tier.dirtyBytes === 0)) break;
        await Bun.sleep(50);
      }
      const fio = createFio({ folder: join(root, 'fio'), chunkBytes: SSD_CHUNK_BYTES, chunks: ssdChunks, depth: SSD_DEPTH });
      const engine = fio.fastest('read');
      const sides = await alternate(rounds, {
        ours: async () => {
          await agent.client.evict({ selector: { all: true }, tier: 'ram' });
          const bytesPerSecond = await driver.order('load', { ...job, count: ssdChunks, base: 0 });
          return bytesPerSecond;
        },
        peer: () => fio.run('read', engine),
      });
      const { hits } = await agent.client.stats();
      if (hits.ssd < rounds * ssdChunks) throw new Error(`${hits.ssd} loads came from SSD, ${rounds * ssdChunks} were to`);
      const [ours, peer] = [median(sides.ours) / 1e9, median(sides.peer) / 1e9];
      const roof = { name: `fio ${engine.name}, depth ${SSD_DEPTH} (${peer.toFixed(2)} GB/s)`, percent: (100 * ours) / peer };
      return [compare({ ...rate, case: 'load-ssd 8 MiB, checksum verified', ours, peer: 0.9 * peer, peerName: '0.9 of fio', roof })];
    });
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}

async function lookups(): Promise<BenchCase[]> {
  return await withAgent(['--ram', '1GiB', '--ssd', 'off'], async (agent, driver) => {
    await driver.order('fill_index', { chunks: indexedChunks });
    const { tiers } = await agent.client.stats();
    const there = tiers[0]?.chunkCount ?? 0;
    if (there < indexedChunks) throw new Error(`${there} chunks are indexed, ${indexedChunks} were to be`);
    const cases: BenchCase[] = [];
    for (const [count, goalUs] of [
      [64, 60],
      [512, 300],
    ] as const) {
      const run = { count, chunks: indexedChunks, rounds: flags.smoke ? 300 : 3000 };
      await driver.order('lookup', run);
      const ours = median([await driver.order('lookup', run), await driver.order('lookup', run), await driver.order('lookup', run)]);
      const name = `lookup-${count}, p50 of a round trip, ${indexedChunks.toLocaleString('en-US')} chunks indexed`;
      cases.push(compare({ case: name, unit: 'us', better: 'lower', ours, peer: goalUs, peerName: 'target' }));
    }
    return cases;
  });
}

publish('bench:native', flags, [...(await memory()), ...(await ssd()), ...(await lookups())]);
