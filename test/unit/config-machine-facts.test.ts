import { mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { GiB } from '#core/bytes.ts';
import { orphanBytes, readMachineFacts, rememberSsdBudgets, type HostView } from '#host/machine-facts.ts';
import { HostSharedMemory } from '#host/shared-memory.ts';
import type { MachineFacts } from '#config/derive.ts';

let root = '';
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'kvtier-facts-'));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

function put(path: string, text: string): void {
  const full = join(root, path);
  mkdirSync(dirname(full), { recursive: true });
  writeFileSync(full, text);
}

interface FactsOptions {
  readonly disk?: HostView['disk'];
  readonly ssdDirs?: readonly string[];
  readonly shmDir?: string;
  readonly orphanBytes?: HostView['orphanBytes'];
}

function facts(options: FactsOptions = {}): MachineFacts {
  const disk: HostView['disk'] = options.disk ?? (() => ({ fileSystem: 'f', freeBytes: 5, totalBytes: 9 }));
  return readMachineFacts(
    { dataDir: join(root, 'data'), shmDir: options.shmDir ?? '/dev/shm', ssdDirs: options.ssdDirs ?? ['/x'] },
    { root, platform: 'linux', memoryBytes: 64 * GiB, cores: 16, orphanBytes: options.orphanBytes ?? (() => 0), disk },
  );
}

describe('readMachineFacts', () => {
  it('finds no limit where there is no cgroup at all', () => {
    expect(facts()).toMatchObject({ memoryBytes: 64 * GiB, cgroupMemoryBytes: undefined, cores: 16, cgroupCores: undefined });
  });

  it('reads cgroup v2 at the root of a container', () => {
    put('proc/self/cgroup', '0::/\n');
    put('sys/fs/cgroup/memory.max', `${8 * GiB}\n`);
    put('sys/fs/cgroup/cpu.max', '150000 100000\n');
    expect(facts()).toMatchObject({ cgroupMemoryBytes: 8 * GiB, cgroupCores: 1.5 });
  });

  it('takes the lowest limit on the way up in cgroup v2', () => {
    put('proc/self/cgroup', '0::/kubepods.slice/pod1\n');
    put('sys/fs/cgroup/kubepods.slice/memory.max', `${4 * GiB}\n`);
    put('sys/fs/cgroup/kubepods.slice/pod1/memory.max', 'max\n');
    put('sys/fs/cgroup/kubepods.slice/pod1/cpu.max', 'max 100000\n');
    put('sys/fs/cgroup/kubepods.slice/pod1/cpuset.cpus.effective', '0-3,8,10-11\n');
    expect(facts()).toMatchObject({ cgroupMemoryBytes: 4 * GiB, cgroupCores: 7 });
  });

  it('falls back to the mount where the path is that of the host', () => {
    put('proc/self/cgroup', '0::/../../system.slice/docker-1.scope\n');
    put('sys/fs/cgroup/memory.max', `${2 * GiB}\n`);
    put('sys/fs/memory.max', '4096\n');
    expect(facts().cgroupMemoryBytes, 'nothing outside the mount is read').toBe(2 * GiB);
  });

  it('reads cgroup v1, whose largest number means no limit', () => {
    put('proc/self/cgroup', '5:memory:/docker/a\n4:cpu,cpuacct:/docker/a\n3:cpuset:/docker/a\n');
    put('sys/fs/cgroup/memory/memory.limit_in_bytes', '9223372036854771712\n');
    expect(facts().cgroupMemoryBytes).toBeUndefined();
    put('sys/fs/cgroup/memory/docker/a/memory.limit_in_bytes', `${3 * GiB}\n`);
    put('sys/fs/cgroup/cpu,cpuacct/docker/a/cpu.cfs_quota_us', '250000\n');
    put('sys/fs/cgroup/cpu,cpuacct/docker/a/cpu.cfs_period_us', '100000\n');
    put('sys/fs/cgroup/cpuset/docker/a/cpuset.cpus', '0-7\n');
    expect(facts()).toMatchObject({ cgroupMemoryBytes: 3 * GiB, cgroupCores: 2.5 });
  });

  it('takes -1 of v1 for no quota', () => {
    put('proc/self/cgroup', '4:cpu,cpuacct:/\n');
    put('sys/fs/cgroup/cpu/cpu.cfs_quota_us', '-1\n');
    put('sys/fs/cgroup/cpu/cpu.cfs_period_us', '100000\n');
    expect(facts().cgroupCores).toBeUndefined();
  });

  it.each(['', 'max', 'garbage', '-5', '1e9', '\0\0'])('treats a limit of %j as none', (text) => {
    put('proc/self/cgroup', '0::/\n');
    put('sys/fs/cgroup/memory.max', text);
    put('sys/fs/cgroup/cpu.max', text);
    put('sys/fs/cgroup/cpuset.cpus.effective', text === 'max' ? '3-1' : text);
    put('sys/fs/cgroup/memory/memory.limit_in_bytes', text);
    expect(facts()).toMatchObject({ cgroupMemoryBytes: undefined, cgroupCores: undefined });
  });

  it('judges a folder that does not exist by the nearest one above it', () => {
    const disk: HostView['disk'] = (path) => (path === '/mnt' ? { fileSystem: 'nvme', freeBytes: 3, totalBytes: 7 } : undefined);
    expect(facts({ disk, ssdDirs: ['/mnt/a/b'] }).disks).toEqual([
      { path: '/mnt/a/b', fileSystem: 'nvme', freeBytes: 3, totalBytes: 7, rememberedBytes: undefined },
    ]);
    expect(facts({ disk, ssdDirs: ['/gone'] }).disks[0]).toMatchObject({ freeBytes: 0, totalBytes: 0 });
    expect(facts({ disk }).shmFreeBytes).toBe(0);
    expect(facts({ disk, shmDir: '/mnt/not-yet' }).shmFreeBytes, 'a folder that will be made').toBe(3);
  });

  it('gives back the capacities that an earlier start remembered, and nothing from a damaged file', () => {
    rememberSsdBudgets(join(root, 'data'), [{ path: '/x', sizeBytes: 123 }]);
    expect(statSync(join(root, 'data/ssd-budgets.json')).mode & 0o777).toBe(0o600);
    expect(facts().disks[0]?.rememberedBytes).toBe(123);
    for (const text of ['', '{', 'null', '[1]', '{"/x":"5"}', '{"/x":-1}', '{"/x":1e400}']) {
      put('data/ssd-budgets.json', text);
      expect(facts().disks[0]?.rememberedBytes, text).toBeUndefined();
    }
  });

  it('counts what a killed agent left in shared memory as free, and what a living one holds not', () => {
    const arena = new HostSharedMemory(root).create('1', 1 << 20);
    arena.allocate(0, 1 << 20);
    expect(orphanBytes(root)).toBe(0);
    writeFileSync(join(root, basename(arena.path).replace('-1.', '-2.')), new Uint8Array(1 << 20));
    expect(orphanBytes(root)).toBe(1 << 20);
    // What other agents left on this machine is no part of the claim.
    expect(facts({ orphanBytes }).shmFreeBytes).toBe(5 + orphanBytes('/dev/shm'));
    expect(facts({ orphanBytes, shmDir: root }).shmFreeBytes).toBe(5 + (1 << 20));
    arena.close();
    expect(orphanBytes(join(root, 'absent'))).toBe(0);
  });

  it('reads the machine it runs on', () => {
    const real = readMachineFacts({ dataDir: root, shmDir: root, ssdDirs: [join(root, 'a/b')] });
    expect(real.memoryBytes).toBeGreaterThan(0);
    expect(real.cores).toBeGreaterThan(0);
    expect(real.disks[0]?.totalBytes).toBeGreaterThan(0);
    expect(real.shmTotalBytes).toBe(real.disks[0]?.totalBytes);
  });
});
