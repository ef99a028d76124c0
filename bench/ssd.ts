/**
 * `bun run bench:ssd`: 8 MiB chunks at depth 8 through the SSD tier (header, checksum, rename and all), beside fio with O_DIRECT on
 * the same file system. No sockets, no cache: the tier and the I/O pool as the agent starts them.
 *
 * Rounds alternate, five of them, medians. fio gets 8 jobs of synchronous 8 MiB I/O each on a file of its own (psync), which is what
 * the tier's threads do; files are laid out before anything counts. `peer` is therefore the device as a plain program sees it.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { alternate, median } from './lib/stats.ts';
import { parseFlags } from './lib/flags.ts';
import { compare, publish } from './lib/report.ts';
import type { BenchCase } from './lib/report.ts';
import { noopLogger } from '#core/logger.ts';
import type { Address } from '#core/brand.ts';
import { checksum } from '#core/checksum.ts';
import type { BlockHash } from '#core/checksum.ts';
import { hostClock } from '#host/clock.ts';
import { HostFileSystem } from '#host/file-system.ts';
import { HostIoPool } from '#host/io-pool.ts';
import { HostSharedMemory } from '#host/shared-memory.ts';
import type { ChunkFileHeader } from '#tiers/ssd/chunk-file.ts';
import { SsdTier } from '#tiers/ssd/ssd-tier.ts';

const MiB = 1024 ** 2;
const flags = parseFlags('bench:ssd');
const rounds = flags.smoke ? 1 : 5;
const chunkBytes = 8 * MiB;
const depth = 8;
const chunksPerRun = flags.smoke ? 16 : 192;
const hash: BlockHash = (block, seed) => Bun.hash.xxHash3(block, seed);

/** On the file system of the working directory, where the agent's default folder lies too. */
const root = mkdtempSync(join(process.cwd(), '.bench-ssd-'));
const tierFolder = join(root, 'tier');
const fioFolder = join(root, 'fio');
mkdirSync(fioFolder);

/** Bytes per second as fio reports them for one direction. */
function fio(mode: 'read' | 'write'): number {
  const args = [
    '--name=peer',
    `--directory=${fioFolder}`,
    `--rw=${mode}`,
    '--bs=8M',
    '--direct=1',
    '--ioengine=psync',
    `--numjobs=${depth}`,
    `--size=${(chunksPerRun / depth) * chunkBytes}`,
    '--group_reporting',
    '--output-format=json',
    '--overwrite=1',
    '--end_fsync=0',
    '--refill_buffers=1',
  ];
  const result = spawnSync('fio', args, { encoding: 'utf8' });
  if (result.status !== 0) throw new Error(`fio failed: ${result.stderr || String(result.error)}`);
  const report = JSON.parse(result.stdout.slice(result.stdout.indexOf('{'))) as {
    jobs: { read: { bw_bytes: number }; write: { bw_bytes: number } }[];
  };
  const job = report.jobs[0];
  if (job === undefined) throw new Error('fio reported no job');
  return job[mode].bw_bytes;
}

const pool = await HostIoPool.start({
  socketWorkers: 1,
  fileWorkers: depth * 2,
  onCrash: (reason) => {
    throw new Error(reason);
  },
});
const memory = new HostSharedMemory('/dev/shm');
const arena = memory.create('bench-ssd', depth * chunkBytes);
if (!arena.allocate(0, arena.sizeBytes)) throw new Error('/dev/shm is full');
pool.registerArena(arena.address, arena.sizeBytes);
crypto.getRandomValues(arena.view(0, 65_536));
for (let offset = 65_536; offset < arena.sizeBytes; offset += 65_536) arena.view(offset, 65_536).set(arena.view(0, 65_536));
const tier = new SsdTier({
  files: pool.files,
  fileSystem: new HostFileSystem((fd) => pool.syncFile(fd)),
  hash,
  clock: hostClock,
  logger: noopLogger,
  direct: 'on',
  onFolderLost: () => {},
});
mkdirSync(tierFolder);
const folder = tier.addFolder({ path: tierFolder, id: '0123456789abcdef', capacityBytes: Number.MAX_SAFE_INTEGER, floorBytes: 0 });
tier.prepareFolder(folder);

const sums = Array.from({ length: depth }, (_, lane) => checksum(arena.view(lane * chunkBytes, chunkBytes), hash));
let nextGeneration = 2 ** 32;
let written: { generation: number; lane: number }[] = [];

/** Runs `work` for every chunk, `depth` at a time; bytes per second. */
async function run(count: number, work: (index: number, lane: number) => Promise<void>): Promise<number> {
  let next = 0;
  const startedAt = performance.now();
  const worker = async (lane: number): Promise<void> => {
    for (let index = next++; index < count; index = next++) await work(index, lane);
  };
  await Promise.all(Array.from({ length: depth }, (_, lane) => worker(lane)));
  return (count * chunkBytes * 1000) / (performance.now() - startedAt);
}

function headerOf(generation: number, sum: bigint): ChunkFileHeader {
  return {
    generation,
    sizeBytes: chunkBytes,
    checksum: sum,
    createdAtMs: 0,
    expiresAtMs: 0,
    parentGeneration: 0,
    tokenCount: 0,
    namespace: {
      grammar: 'opaque',
      tenant: 'default',
      model: '',
      rank: '',
      group: '',
      dtype: '',
      layer: '',
      tags: {},
      keyPrefix: '',
      keyTail: '',
    },
    key: new TextEncoder().encode(`bench-${generation}`),
  };
}

/** New files each time; those of the run before are unlinked before the clock starts. */
async function writeChunks(): Promise<number> {
  await Promise.all(
    written.map(({ generation }) => new Promise<void>((resolve) => tier.unlink(0, generation, { sizeBytes: chunkBytes, done: resolve }))),
  );
  written = [];
  return await run(chunksPerRun, async (_, lane) => {
    const generation = nextGeneration++;
    const outcome = await tier.write(folder, headerOf(generation, sums[lane] ?? 0n), {
      address: (arena.address + lane * chunkBytes) as Address,
    });
    if (!outcome.ok) throw new Error(`the tier refused a write: ${outcome.reason}`);
    written.push({ generation, lane });
  });
}

async function readChunks(): Promise<number> {
  return await run(written.length, async (index, lane) => {
    const chunk = written[index];
    if (chunk === undefined) return;
    const outcome = await tier.read({
      folder: 0,
      generation: chunk.generation,
      address: (arena.address + lane * chunkBytes) as Address,
      sizeBytes: chunkBytes,
      capacityBytes: chunkBytes,
      checksum: sums[chunk.lane] ?? 0n,
      priority: 'demand',
    });
    if (!outcome.ok) throw new Error(`the tier could not read: ${outcome.problem}`);
  });
}

const cases: BenchCase[] = [];
try {
  // Layout and first touches on both sides.
  await writeChunks();
  fio('write');
  const writes = await alternate(rounds, { ours: writeChunks, peer: () => fio('write') });
  const reads = await alternate(rounds, { ours: readChunks, peer: () => fio('read') });
  for (const [name, sides] of [
    ['write', writes],
    ['read', reads],
  ] as const) {
    cases.push(
      compare({
        case: `${name} 8 MiB, depth ${depth}${folder.direct === true ? '' : ' (no O_DIRECT here)'}`,
        unit: 'GB/s',
        better: 'higher',
        ours: median(sides.ours) / 1e9,
        peer: median(sides.peer) / 1e9,
        peerName: 'fio psync x 8, O_DIRECT',
      }),
    );
  }
} finally {
  await pool.close();
  arena.close();
  rmSync(root, { recursive: true, force: true });
}
publish('bench:ssd', flags, cases);
process.exit(0);
