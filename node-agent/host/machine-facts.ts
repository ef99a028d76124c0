/**
 * Facts of the machine that defaults follow from: memory and cores by machine and cgroup (v1 and v2), free shared memory, free
 * disk. What cannot be read is absent, never a failure: a container may hide any of it.
 *
 * Sources: Linux kernel Documentation/admin-guide/cgroup-v2.rst (memory.max, cpu.max, cpuset.cpus.effective),
 * admin-guide/cgroup-v1/{memory,cpusets}.rst and scheduler/sched-bwc.rst (cpu.cfs_quota_us), proc(5).
 */
import { fstatSync, mkdirSync, readdirSync, readFileSync, renameSync, statfsSync, statSync, writeFileSync } from 'node:fs';
import { availableParallelism, totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import type { DiskFacts, MachineFacts } from '#config/derive.ts';
import type { FactsQuery } from '#config/load-config.ts';
import { addressOf, cString, libc, LOCK_EX, LOCK_NB, O_CLOEXEC, O_RDWR } from './libc.ts';

/** v1 says "no limit" with the largest multiple of a page below 2^63. */
const NO_LIMIT_BYTES = 2 ** 60;
const BUDGETS_FILE = 'ssd-budgets.json';

/** Where to look; tests give a folder of their own and numbers of their own. */
export interface HostView {
  /** Prefix of /proc and /sys. */
  readonly root: string;
  readonly platform: string;
  readonly memoryBytes: number;
  readonly cores: number;
  /** Bytes of arenas in a folder whose owner is gone. */
  readonly orphanBytes: (folder: string) => number;
  /** Sizes of the file system that holds a path, and a name equal for equal file systems; undefined where the path is absent. */
  readonly disk: (path: string) => { readonly fileSystem: string; readonly freeBytes: number; readonly totalBytes: number } | undefined;
}

function realHost(): HostView {
  return {
    root: '/',
    platform: process.platform,
    memoryBytes: totalmem(),
    cores: availableParallelism(),
    orphanBytes,
    disk(path) {
      try {
        const stat = statfsSync(path);
        return { fileSystem: String(statSync(path).dev), freeBytes: stat.bavail * stat.bsize, totalBytes: stat.blocks * stat.bsize };
      } catch {
        return undefined; // absent or forbidden: the caller looks at the folder above
      }
    },
  };
}

/** Reads everything that derive.ts needs. Folders that do not exist yet are judged by the nearest folder above. */
export function readMachineFacts(query: FactsQuery, host: HostView = realHost()): MachineFacts {
  const groups = cgroupFolders(host.root);
  const shm = nearestDisk(host, query.shmDir);
  const remembered = readBudgets(query.dataDir);
  return {
    platform: host.platform,
    memoryBytes: host.memoryBytes,
    cgroupMemoryBytes: memoryLimit(groups),
    cores: host.cores,
    cgroupCores: coreLimit(groups),
    // What a killed agent left is removed at start, before the first arena is made.
    shmFreeBytes: shm.freeBytes + host.orphanBytes(query.shmDir),
    shmTotalBytes: shm.totalBytes,
    disks: query.ssdDirs.map((path): DiskFacts => {
      const disk = nearestDisk(host, path);
      return { path, ...disk, rememberedBytes: remembered[path] };
    }),
  };
}

/**
 * Keeps the capacities that were derived, so that a restart gives the folders the same again although they now fill the disk.
 * Call once the folders exist. A failure to write is told by the exception; nothing is lost but the memory of the size.
 */
export function rememberSsdBudgets(dataDir: string, folders: readonly { readonly path: string; readonly sizeBytes: number }[]): void {
  mkdirSync(dataDir, { recursive: true, mode: 0o700 });
  const path = join(dataDir, BUDGETS_FILE);
  const text = JSON.stringify(Object.fromEntries(folders.map((folder) => [folder.path, folder.sizeBytes])));
  writeFileSync(`${path}.tmp`, text, { mode: 0o600 });
  renameSync(`${path}.tmp`, path);
}

function readBudgets(dataDir: string): Readonly<Record<string, number>> {
  const text = readText(join(dataDir, BUDGETS_FILE));
  if (text === undefined) return {};
  try {
    const parsed: unknown = JSON.parse(text);
    if (typeof parsed !== 'object' || parsed === null) return {};
    const entries = Object.entries(parsed).filter((entry): entry is [string, number] => Number.isSafeInteger(entry[1]) && entry[1] > 0);
    return Object.fromEntries(entries);
  } catch {
    return {}; // damaged: sizes are derived afresh, which is what an absent file means
  }
}

function nearestDisk(
  host: HostView,
  path: string,
): { readonly fileSystem: string; readonly freeBytes: number; readonly totalBytes: number } {
  for (let folder = path; ; folder = dirname(folder)) {
    const disk = host.disk(folder);
    if (disk !== undefined) return disk;
    if (dirname(folder) === folder) return { fileSystem: folder, freeBytes: 0, totalBytes: 0 };
  }
}

/** Names of arenas, see shared-memory.ts; a test compares. */
const arenaName = /^kvtier-[0-9a-f]{12}-[a-z0-9-]+\.arena$/;

/**
 * Bytes of arenas in a folder whose owner is gone: an owner holds a lock while it lives. A file that cannot be opened or locked is
 * somebody's and not counted.
 */
export function orphanBytes(folder: string): number {
  if (process.platform !== 'linux') return 0;
  let bytes = 0;
  for (const name of listFolder(folder).filter((candidate) => arenaName.test(candidate))) {
    const path = cString(join(folder, name));
    const fd = libc.open(addressOf(path), O_RDWR | O_CLOEXEC, 0);
    if (fd < 0) continue;
    if (libc.flock(fd, LOCK_EX | LOCK_NB) === 0) bytes += fstatSync(fd).blocks * 512;
    libc.close(fd);
  }
  return bytes;
}

function listFolder(path: string): readonly string[] {
  try {
    return readdirSync(path);
  } catch {
    return []; // absent: nothing is left there
  }
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return undefined; // absent, or hidden by the container
  }
}

/** Folders of this process's cgroups, innermost first, by hierarchy. */
interface CgroupFolders {
  readonly unified: readonly string[];
  readonly memory: readonly string[];
  readonly cpu: readonly string[];
  readonly cpuset: readonly string[];
}

/**
 * Follows /proc/self/cgroup. In a container with its own cgroup namespace the path is `/`; without one, the path is the host's
 * and may not exist below the mount: then the mount itself is the container's group.
 */
function cgroupFolders(root: string): CgroupFolders {
  const mount = join(root, 'sys/fs/cgroup');
  const lines = (readText(join(root, 'proc/self/cgroup')) ?? '').split('\n');
  const byController = new Map<string, string>();
  let unifiedPath = '/';
  for (const line of lines) {
    const match = /^\d+:([^:]*):(.*)$/.exec(line);
    if (match === null) continue;
    const [, controllers = '', path = '/'] = match;
    if (controllers === '') unifiedPath = path;
    for (const controller of controllers.split(',')) if (controller !== '') byController.set(controller, path);
  }
  const v1 = (controller: string, folders: readonly string[]): string[] =>
    folders.flatMap((folder) => upwards(join(mount, folder), byController.get(controller) ?? '/'));
  return {
    unified: [...upwards(mount, unifiedPath), ...upwards(join(mount, 'unified'), unifiedPath)],
    memory: v1('memory', ['memory']),
    cpu: v1('cpu', ['cpu', 'cpu,cpuacct']),
    cpuset: v1('cpuset', ['cpuset']),
  };
}

/** The group and all groups above it, up to the mount. `..` in a path from outside the namespace is dropped. */
function upwards(mount: string, path: string): string[] {
  const parts = path.split('/').filter((part) => part !== '' && part !== '.' && part !== '..');
  const folders: string[] = [];
  for (let depth = parts.length; depth >= 0; depth -= 1) folders.push(join(mount, ...parts.slice(0, depth)));
  return folders;
}

function lowest(values: readonly (number | undefined)[]): number | undefined {
  const present = values.filter((value): value is number => value !== undefined && Number.isFinite(value) && value > 0);
  return present.length === 0 ? undefined : Math.min(...present);
}

function readNumber(path: string): number | undefined {
  const text = readText(path);
  return text !== undefined && /^\d+$/.test(text) ? Number(text) : undefined;
}

function memoryLimit(groups: CgroupFolders): number | undefined {
  const limit = lowest([
    ...groups.unified.map((folder) => readNumber(join(folder, 'memory.max'))),
    ...groups.memory.map((folder) => readNumber(join(folder, 'memory.limit_in_bytes'))),
  ]);
  return limit === undefined || limit >= NO_LIMIT_BYTES ? undefined : limit;
}

function coreLimit(groups: CgroupFolders): number | undefined {
  return lowest([
    ...groups.unified.map((folder) => parseQuota(readText(join(folder, 'cpu.max')))),
    ...groups.unified.map((folder) => countCpus(readText(join(folder, 'cpuset.cpus.effective')))),
    ...groups.cpu.map((folder) => {
      const quota = readNumber(join(folder, 'cpu.cfs_quota_us'));
      const period = readNumber(join(folder, 'cpu.cfs_period_us'));
      return quota === undefined || period === undefined || period === 0 ? undefined : quota / period;
    }),
    ...groups.cpuset.map((folder) => countCpus(readText(join(folder, 'cpuset.effective_cpus')) ?? readText(join(folder, 'cpuset.cpus')))),
  ]);
}

/** `150000 100000` is 1.5 cores; `max 100000` is no limit. */
function parseQuota(text: string | undefined): number | undefined {
  const match = /^(\d+) (\d+)$/.exec(text ?? '');
  return match === null || Number(match[2]) === 0 ? undefined : Number(match[1]) / Number(match[2]);
}

/** `0-3,8` is 5. Undefined for an empty or malformed list. */
function countCpus(text: string | undefined): number | undefined {
  if (text === undefined || text === '') return undefined;
  let total = 0;
  for (const part of text.split(',')) {
    const match = /^(\d+)(?:-(\d+))?$/.exec(part);
    if (match === null) return undefined;
    const first = Number(match[1]);
    const last = Number(match[2] ?? match[1]);
    if (last < first) return undefined;
    total += last - first + 1;
  }
  return total;
}

/** Changes with each boot of the machine; '' where the kernel does not tell. */
export function readBootId(): string {
  return readText('/proc/sys/kernel/random/boot_id')?.trim() ?? '';
}
