/**
 * `bun run bench:ssd`: 8 MiB chunks at depth 8 through the SSD tier (header, checksum, rename and all), beside fio with O_DIRECT on
 * the same file system. No sockets, no cache: the tier and the I/O pool as the agent starts them on this machine.
 *
 * Both sides do the same job: writes go into new files, one a chunk, reads come from laid-out ones. Rounds alternate, five of them,
 * medians. fio runs with the engine that was fastest in a first round, for each direction; the case names it. The roof of the writes
 * is fio overwriting a file that is laid out, which no store of immutable chunks can do: block allocation is in the difference.
 * That nothing came out of the page cache is checked by what the kernel says it read from the device.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { createFio } from './lib/fio.ts';
import { alternate, median } from './lib/stats.ts';
import { parseFlags } from './lib/flags.ts';
import { compare, publish } from './lib/report.ts';
import type { BenchCase } from './lib/report.ts';
import { noopLogger } from '#core/logger.ts';
import type { Address } from '#core/brand.ts';
import { checksum } from '#core/checksum.ts';
import type { BlockHash } from '#core/checksum.ts';
import { deriveWorkers } from '#config/derive.ts';
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

const { run: fio, fastest } = createFio({ folder: fioFolder, chunkBytes, chunks: chunksPerRun, depth });

/**
 * Bytes that this process, with all its threads, has read from devices: what the page cache answers is not in it. Children
 * that have ended are in it, so only differences without a child between them mean anything.
 */
function deviceReadBytes(): number {
  return Number(/^read_bytes: (\d+)$/m.exec(readFileSync('/proc/self/io', 'utf8'))?.[1] ?? 0);
}

// As agent.ts does it.
const cores = availableParallelism();
const workers = deriveWorkers({
  platform: process.platform,
  memoryBytes: 0,
  cgroupMemoryBytes: undefined,
  cores,
  cgroupCores: undefined,
  shmFreeBytes: 0,
  shmTotalBytes: 0,
  disks: [],
}).value;
const socketWorkers = Math.max(1, Math.floor(workers / 8));
const pool = await HostIoPool.start({
  socketWorkers,
  fileWorkers: workers - socketWorkers,
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

const bytesRead = { asked: 0, fromDevice: 0 };

async function readChunks(): Promise<number> {
  const before = deviceReadBytes();
  const rate = await run(written.length, async (index, lane) => {
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
  bytesRead.asked += written.length * chunkBytes;
  bytesRead.fromDevice += deviceReadBytes() - before;
  return rate;
}

const cases: BenchCase[] = [];
try {
  const engine = { read: fastest('read'), fresh: fastest('write new files'), over: fastest('overwrite') };
  await writeChunks();
  const writes = await alternate(rounds, { ours: writeChunks, peer: () => fio('write new files', engine.fresh) });
  const roof = median(Array.from({ length: rounds }, () => fio('overwrite', engine.over)));
  const reads = await alternate(rounds, { ours: readChunks, peer: () => fio('read', engine.read) });
  if (folder.direct !== true || bytesRead.fromDevice < bytesRead.asked) {
    throw new Error(`O_DIRECT is not in effect: ${bytesRead.asked} bytes were asked for, ${bytesRead.fromDevice} came from the device`);
  }
  const unit = { unit: 'GB/s', better: 'higher' } as const;
  const ours = { write: median(writes.ours), read: median(reads.ours) };
  cases.push(
    compare({
      ...unit,
      case: `write 8 MiB into new files, depth ${depth}, ${workers - socketWorkers} file workers`,
      ours: ours.write / 1e9,
      peer: median(writes.peer) / 1e9,
      peerName: `fio ${engine.fresh.name}, O_DIRECT`,
      roof: { name: `fio ${engine.over.name} overwriting (${(roof / 1e9).toFixed(2)} GB/s)`, percent: (100 * ours.write) / roof },
    }),
    compare({
      ...unit,
      case: `read 8 MiB, depth ${depth}, ${workers - socketWorkers} file workers, checksum verified`,
      ours: ours.read / 1e9,
      peer: median(reads.peer) / 1e9,
      peerName: `fio ${engine.read.name}, O_DIRECT`,
    }),
  );
} finally {
  await pool.close();
  arena.close();
  rmSync(root, { recursive: true, force: true });
}
publish('bench:ssd', flags, cases);
process.exit(0);
