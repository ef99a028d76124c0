/**
 * Defaults that follow from the machine. Pure: the facts come in (host/machine-facts.ts reads them), and every value comes out
 * with the sentence that says where it came from.
 */
import { GiB, MiB, formatBytes } from '#core/bytes.ts';
import { DEFAULT_MAX_CHUNK_BYTES, MIN_FOLDER_BYTES } from './knobs.ts';

export interface DiskFacts {
  /** The SSD folder, whether it exists yet or not. */
  readonly path: string;
  /** Equal for folders on one file system. */
  readonly fileSystem: string;
  readonly freeBytes: number;
  readonly totalBytes: number;
  /**
   * Capacity that an earlier start derived for this folder. Without it the tier would shrink at every restart, since its own
   * files are no longer free space.
   */
  readonly rememberedBytes: number | undefined;
}

export interface MachineFacts {
  /** process.platform. */
  readonly platform: string;
  readonly memoryBytes: number;
  /** Limit of the innermost and every enclosing cgroup; undefined where there is none. */
  readonly cgroupMemoryBytes: number | undefined;
  readonly cores: number;
  /** CPU quota or cpuset in cores, may be a fraction; undefined where there is none. */
  readonly cgroupCores: number | undefined;
  readonly shmFreeBytes: number;
  readonly shmTotalBytes: number;
  readonly disks: readonly DiskFacts[];
}

export interface Derived<Value = number> {
  readonly value: Value;
  /** Lower-case clause for people: `a quarter of memory (5.9 GiB by the cgroup)`. */
  readonly because: string;
}

const RAM_CEILING_BYTES = 4 * GiB;
const SSD_CEILING_BYTES = 20 * GiB;
const FLOOR_CEILING_BYTES = GiB;
const QUEUE_CEILING_BYTES = GiB;
const READ_AHEAD_CEILING_BYTES = 512 * MiB;

/** The lesser of machine and cgroup. */
export function effectiveMemory(facts: MachineFacts): Derived {
  const limit = facts.cgroupMemoryBytes;
  if (limit !== undefined && limit < facts.memoryBytes) return { value: limit, because: `${formatBytes(limit)} by the cgroup` };
  return { value: facts.memoryBytes, because: `${formatBytes(facts.memoryBytes)} of the machine` };
}

/** The lesser of machine and cgroup, in whole cores, at least one. */
export function effectiveCores(facts: MachineFacts): Derived {
  const limit = facts.cgroupCores;
  if (limit !== undefined && limit < facts.cores) {
    return { value: Math.max(1, Math.ceil(limit)), because: `${Math.round(limit * 10) / 10} cores by the cgroup` };
  }
  return { value: Math.max(1, facts.cores), because: `${facts.cores} cores of the machine` };
}

function least(candidates: readonly Derived[]): Derived {
  return candidates.reduce((best, candidate) => (candidate.value < best.value ? candidate : best));
}

function wholeMiB(bytes: number): number {
  return Math.floor(bytes / MiB) * MiB;
}

/** min(4 GiB, a quarter of memory, half of the free shared memory), in whole MiB. */
export function deriveRam(facts: MachineFacts, shmDir: string): Derived {
  const memory = effectiveMemory(facts);
  const chosen = least([
    { value: RAM_CEILING_BYTES, because: `the default of ${formatBytes(RAM_CEILING_BYTES)}; memory is ${memory.because}` },
    { value: memory.value / 4, because: `a quarter of memory (${memory.because})` },
    { value: facts.shmFreeBytes / 2, because: `half of the free ${shmDir} (${formatBytes(facts.shmFreeBytes)})` },
  ]);
  return { value: wholeMiB(chosen.value), because: chosen.because };
}

/** Capacity of one folder that names none, `sharing` such folders being on its file system: min(20 GiB, half of the free disk). */
export function deriveFolder(disk: DiskFacts, sharing: number): Derived {
  const half = disk.freeBytes / 2 / sharing;
  const shared = sharing === 1 ? '' : `, shared by ${sharing} folders`;
  const fresh = least([
    { value: SSD_CEILING_BYTES, because: `the default of ${formatBytes(SSD_CEILING_BYTES)}` },
    { value: half, because: `half of the free disk (${formatBytes(disk.freeBytes)}${shared})` },
  ]);
  const remembered = disk.rememberedBytes;
  if (remembered !== undefined && remembered > fresh.value && remembered <= disk.totalBytes) {
    return { value: remembered, because: 'as at an earlier start, whose files are in it' };
  }
  return { value: Math.max(MIN_FOLDER_BYTES, wholeMiB(fresh.value)), because: fresh.because };
}

/** The default of 128 MiB, at most a quarter of the RAM tier (whole 4 KiB blocks). */
export function deriveMaxChunk(ramBytes: number): Derived {
  const quarter = Math.floor(ramBytes / 4 / 4096) * 4096;
  if (quarter < DEFAULT_MAX_CHUNK_BYTES) return { value: quarter, because: `a quarter of the RAM tier (${formatBytes(ramBytes)})` };
  return { value: DEFAULT_MAX_CHUNK_BYTES, because: `the default of ${formatBytes(DEFAULT_MAX_CHUNK_BYTES)}` };
}

/** min(1 GiB, a quarter of the RAM tier). */
export function deriveQueue(ramBytes: number): Derived {
  return least([
    { value: QUEUE_CEILING_BYTES, because: `the default of ${formatBytes(QUEUE_CEILING_BYTES)}` },
    { value: Math.floor(ramBytes / 4), because: `a quarter of the RAM tier (${formatBytes(ramBytes)})` },
  ]);
}

/** min(512 MiB, an eighth of the RAM tier). */
export function deriveReadAhead(ramBytes: number): Derived {
  return least([
    { value: READ_AHEAD_CEILING_BYTES, because: `the default of ${formatBytes(READ_AHEAD_CEILING_BYTES)}` },
    { value: Math.floor(ramBytes / 8), because: `an eighth of the RAM tier (${formatBytes(ramBytes)})` },
  ]);
}

/** min(1 GiB, a tenth of the smallest disk). */
export function deriveFloor(disks: readonly DiskFacts[]): Derived {
  const candidates: Derived[] = [{ value: FLOOR_CEILING_BYTES, because: `the default of ${formatBytes(FLOOR_CEILING_BYTES)}` }];
  for (const disk of disks) {
    candidates.push({
      value: Math.floor(disk.totalBytes / 10),
      because: `a tenth of the disk of ${disk.path} (${formatBytes(disk.totalBytes)})`,
    });
  }
  return least(candidates);
}

/** Two per core: half of them may sit in a write while the other half reads. 8 to 32. */
export function deriveWorkers(facts: MachineFacts): Derived {
  const cores = effectiveCores(facts);
  return { value: Math.min(32, Math.max(8, 2 * cores.value)), because: `two per core, 8 to 32 (${cores.because})` };
}
