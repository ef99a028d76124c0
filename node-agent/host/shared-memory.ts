/**
 * Arenas as files under /dev/shm. An arena's owner is alive while it holds a flock on the file; process ids mean nothing across
 * containers. Names: kvtier-<tag>-<n>.arena, the tag being this process' random one.
 */
import { mkdirSync, readdirSync, statfsSync, statSync, unlinkSync } from 'node:fs';
import { assert } from '#core/assert.ts';
import type { Address, Fd } from '#core/brand.ts';
import { KvtierError, errnoName } from '#core/errors.ts';
import type { Arena, SharedMemory } from '#ports/shared-memory.ts';
import {
  LOCK_EX,
  LOCK_NB,
  MADV_DONTDUMP,
  MADV_HUGEPAGE,
  MAP_NORESERVE,
  MAP_SHARED,
  O_CLOEXEC,
  O_CREAT,
  O_EXCL,
  O_RDWR,
  PROT_READ,
  PROT_WRITE,
  addressOf,
  asPointer,
  cString,
  errno,
  libc,
  viewOf,
} from './libc.ts';

const arenaName = /^kvtier-[0-9a-f]{12}-[a-z0-9-]+\.arena$/;

function unavailable(action: string, path: string): KvtierError {
  return new KvtierError('SHARED_MEMORY_UNAVAILABLE', `${action} ${path}: ${errnoName(errno())}`, { context: { path } });
}

class HostArena implements Arena {
  readonly path: string;
  readonly fd: Fd;
  readonly address: Address;
  readonly sizeBytes: number;
  #closed = false;

  constructor(path: string, sizeBytes: number, hugepages: boolean) {
    this.path = path;
    this.sizeBytes = sizeBytes;
    const fd = libc.open(addressOf(cString(path)), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600);
    if (fd < 0) throw unavailable('Cannot create arena', path);
    this.fd = fd as Fd;
    if (libc.flock(fd, LOCK_EX | LOCK_NB) !== 0) throw unavailable('Cannot lock arena', path);
    if (libc.ftruncate(fd, sizeBytes) !== 0) throw unavailable('Cannot size arena', path);
    const address = Number(libc.mmap(null, sizeBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0));
    if (address <= 0 || !Number.isSafeInteger(address)) throw unavailable('Cannot map arena', path);
    this.address = address as Address;
    // Core dumps stay small and free of cached KV; a kernel that refuses only makes them larger.
    libc.madvise(asPointer(address), sizeBytes, MADV_DONTDUMP);
    if (hugepages) libc.madvise(asPointer(address), sizeBytes, MADV_HUGEPAGE);
  }

  allocate(offsetBytes: number, lengthBytes: number): boolean {
    assert(!this.#closed, `arena ${this.path} is open`);
    return libc.fallocate(this.fd, 0, offsetBytes, lengthBytes) === 0;
  }

  view(offsetBytes: number, lengthBytes: number): Uint8Array {
    assert(offsetBytes >= 0 && offsetBytes + lengthBytes <= this.sizeBytes, `view [${offsetBytes}, +${lengthBytes}) lies in the arena`);
    return viewOf(this.address + offsetBytes, lengthBytes);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    libc.munmap(asPointer(this.address), this.sizeBytes);
    libc.unlink(addressOf(cString(this.path)));
    libc.close(this.fd);
  }
}

export class HostSharedMemory implements SharedMemory {
  readonly #directory: string;
  readonly #tag: string;
  readonly #hugepages: boolean;

  constructor(directory: string, options: { hugepages?: boolean } = {}) {
    this.#directory = directory;
    this.#hugepages = options.hugepages ?? false;
    this.#tag = Array.from(crypto.getRandomValues(new Uint8Array(6)), (byte) => byte.toString(16).padStart(2, '0')).join('');
    try {
      mkdirSync(directory, { recursive: true, mode: 0o700 });
    } catch (problem) {
      throw new KvtierError('SHARED_MEMORY_UNAVAILABLE', `Cannot use ${directory} for shared memory: ${String(problem)}`, {
        cause: problem,
      });
    }
  }

  create(name: string, sizeBytes: number): Arena {
    return new HostArena(`${this.#directory}/kvtier-${this.#tag}-${name}.arena`, sizeBytes, this.#hugepages);
  }

  freeBytes(): number {
    const stats = statfsSync(this.#directory);
    return stats.bavail * stats.bsize;
  }

  removeOrphans(): number {
    let removedBytes = 0;
    for (const name of readdirSync(this.#directory)) {
      if (!arenaName.test(name)) continue;
      const path = `${this.#directory}/${name}`;
      const fd = libc.open(addressOf(cString(path)), O_RDWR | O_CLOEXEC, 0);
      if (fd < 0) continue; // another user's: not ours to remove
      if (libc.flock(fd, LOCK_EX | LOCK_NB) === 0) {
        removedBytes += statSync(path).blocks * 512;
        unlinkSync(path);
      }
      libc.close(fd);
    }
    return removedBytes;
  }
}
