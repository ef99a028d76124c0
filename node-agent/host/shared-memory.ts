/**
 * Arenas as files under /dev/shm. An arena's owner is alive while it holds a flock on the file; process ids mean nothing across
 * containers. Names: kvtier-<tag>-<name>.arena.
 *
 * The tag of memory that is kept over a restart is that of its data directory, so that nobody else finds it and there is never more than
 * one generation of it; a link kvtier-<tag>.owner leads back to the directory. What nobody locks is garbage, unless that link leads to a
 * data directory that still is the one the tag was made of. Memory that is not kept has a random tag and no link.
 */
import {
  existsSync,
  fstatSync,
  mkdirSync,
  readdirSync,
  readlinkSync,
  realpathSync,
  statfsSync,
  statSync,
  symlinkSync,
  unlinkSync,
} from 'node:fs';
import { createHash } from 'node:crypto';
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
  O_RDONLY,
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

export const arenaName = /^kvtier-([0-9a-f]{12})-[a-z0-9-]+\.arena$/;
const ownerName = /^kvtier-([0-9a-f]{12})\.owner$/;
/** A process that was killed holds its locks until the kernel is done with it. */
const LOCK_TRIES = 100;
const LOCK_PAUSE_MS = 10;

function unavailable(action: string, path: string): KvtierError {
  return new KvtierError('SHARED_MEMORY_UNAVAILABLE', `${action} ${path}: ${errnoName(errno())}`, { context: { path } });
}

class HostArena implements Arena {
  readonly path: string;
  readonly fd: Fd;
  readonly address: Address;
  readonly sizeBytes: number;
  readonly #onRemoved: () => void;
  #closed = false;
  #readOnly = -1;
  /**
   * All of it, at most the 4 GiB that an ArrayBuffer of Bun holds. To the collector an ArrayBuffer is memory of its size that it is
   * responsible for: with one for each value that is looked at it would collect after every hundred MiB (garbage-watch.ts).
   */
  #bytes: Uint8Array | undefined;

  /** Takes over the descriptor, which is locked. */
  constructor(
    path: string,
    fd: number,
    options: { readonly sizeBytes: number; readonly hugepages: boolean; readonly onRemoved: () => void },
  ) {
    const { sizeBytes, hugepages } = options;
    this.#onRemoved = options.onRemoved;
    this.path = path;
    this.fd = fd as Fd;
    this.sizeBytes = sizeBytes;
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
    assert(!this.#closed, `arena ${this.path} is open`);
    assert(offsetBytes >= 0 && offsetBytes + lengthBytes <= this.sizeBytes, `view [${offsetBytes}, +${lengthBytes}) lies in the arena`);
    if (this.#bytes === undefined) {
      this.#bytes = viewOf(this.address, this.sizeBytes);
      viewed += this.sizeBytes;
    }
    return this.#bytes.subarray(offsetBytes, offsetBytes + lengthBytes);
  }

  readOnlyFd(): Fd {
    assert(!this.#closed, `arena ${this.path} is open`);
    if (this.#readOnly < 0) this.#readOnly = libc.open(addressOf(cString(`/proc/self/fd/${this.fd}`)), O_RDONLY | O_CLOEXEC, 0);
    if (this.#readOnly < 0) throw unavailable('Cannot share arena', this.path);
    return this.#readOnly as Fd;
  }

  close(options: { readonly keep: boolean } = { keep: false }): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#bytes !== undefined) viewed -= this.sizeBytes;
    this.#bytes = undefined;
    libc.munmap(asPointer(this.address), this.sizeBytes);
    if (!options.keep) libc.unlink(addressOf(cString(this.path)));
    libc.close(this.fd);
    if (this.#readOnly >= 0) libc.close(this.#readOnly);
    if (!options.keep) this.#onRemoved();
  }
}

let viewed = 0;

/** Bytes of this thread's open arenas that it looks at: memory that its collector takes for its own. */
export function viewedBytes(): number {
  return viewed;
}

export class HostSharedMemory implements SharedMemory {
  readonly #directory: string;
  readonly #tag: string;
  readonly #hugepages: boolean;
  /** The tag of memory that is kept for the data directory, whether or not this process keeps any. */
  readonly #dataTag: string | undefined;

  /**
   * `dataDir` exists and is locked by the caller. `keeps`: arenas may be kept for the next process on it; otherwise they are not, and what
   * was kept is garbage.
   */
  constructor(directory: string, options: { hugepages?: boolean; dataDir?: string; keeps?: boolean } = {}) {
    this.#directory = directory;
    this.#hugepages = options.hugepages ?? false;
    const dataDir = options.dataDir === undefined ? undefined : realpathSync(options.dataDir);
    this.#dataTag = tagOf(dataDir);
    const keeps = options.keeps === true && dataDir !== undefined;
    this.#tag = keeps && this.#dataTag !== undefined ? this.#dataTag : randomTag();
    try {
      mkdirSync(directory, { recursive: true, mode: 0o700 });
      if (keeps) this.#linkOwner(dataDir);
    } catch (problem) {
      throw new KvtierError('SHARED_MEMORY_UNAVAILABLE', `Cannot use ${directory} for shared memory: ${String(problem)}`, {
        cause: problem,
      });
    }
  }

  #linkOwner(dataDir: string): void {
    const path = this.#ownerPath(this.#tag);
    if (ownerOf(path) === dataDir) return;
    remove(path);
    symlinkSync(dataDir, path);
  }

  #ownerPath(tag: string): string {
    return `${this.#directory}/kvtier-${tag}.owner`;
  }

  #path(name: string): string {
    return `${this.#directory}/kvtier-${this.#tag}-${name}.arena`;
  }

  create(name: string, sizeBytes: number): Arena {
    const path = this.#path(name);
    const left = this.#lockedFile(path);
    if (left >= 0) {
      remove(path);
      libc.close(left);
    }
    const fd = libc.open(addressOf(cString(path)), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600);
    if (fd < 0) throw unavailable('Cannot create arena', path);
    if (libc.flock(fd, LOCK_EX | LOCK_NB) !== 0) throw unavailable('Cannot lock arena', path);
    if (libc.ftruncate(fd, sizeBytes) !== 0) throw unavailable('Cannot size arena', path);
    return this.#map(path, fd, sizeBytes);
  }

  #map(path: string, fd: number, sizeBytes: number): Arena {
    return new HostArena(path, fd, { sizeBytes, hugepages: this.#hugepages, onRemoved: () => this.#removeUnusedLink() });
  }

  /** The last arena took the link along that says whose they were. */
  #removeUnusedLink(): void {
    const isUsed = readdirSync(this.#directory).some((name) => arenaName.exec(name)?.[1] === this.#tag);
    if (!isUsed) remove(this.#ownerPath(this.#tag));
  }

  open(name: string): Arena | undefined {
    const path = this.#path(name);
    const fd = this.#lockedFile(path);
    if (fd < 0) return undefined;
    const { size } = fstatSync(fd);
    if (size > 0) return this.#map(path, fd, size);
    libc.close(fd);
    return undefined;
  }

  /** A descriptor with the lock, or -1 where there is no such file, or another process holds it. */
  #lockedFile(path: string): number {
    const fd = libc.open(addressOf(cString(path)), O_RDWR | O_CLOEXEC, 0);
    if (fd < 0) return -1;
    for (let tries = 0; tries < LOCK_TRIES; tries += 1) {
      if (libc.flock(fd, LOCK_EX | LOCK_NB) === 0) return fd;
      Bun.sleepSync(LOCK_PAUSE_MS);
    }
    libc.close(fd);
    return -1;
  }

  freeBytes(): number {
    const stats = statfsSync(this.#directory);
    return stats.bavail * stats.bsize;
  }

  removeOrphans(): number {
    let removedBytes = 0;
    const living = new Set<string>([this.#tag]);
    const names = readdirSync(this.#directory);
    for (const name of names) {
      const tag = arenaName.exec(name)?.[1];
      if (tag === undefined || tag === this.#tag || this.#isKept(tag)) continue;
      const path = `${this.#directory}/${name}`;
      const fd = libc.open(addressOf(cString(path)), O_RDWR | O_CLOEXEC, 0);
      if (fd < 0) continue; // another user's: not ours to remove
      if (libc.flock(fd, LOCK_EX | LOCK_NB) === 0) {
        removedBytes += statSync(path).blocks * 512;
        unlinkSync(path);
      } else living.add(tag);
      libc.close(fd);
    }
    for (const name of names) {
      const tag = ownerName.exec(name)?.[1];
      if (tag !== undefined && !living.has(tag) && !this.#isKept(tag)) remove(`${this.#directory}/${name}`);
    }
    return removedBytes;
  }

  /** Somebody may resume it: the directory that its tag was made of is there, and has been an agent's. */
  #isKept(tag: string): boolean {
    if (tag === this.#dataTag) return false;
    const dataDir = ownerOf(this.#ownerPath(tag));
    return dataDir !== undefined && tagOf(dataDir) === tag && existsSync(`${dataDir}/journal`);
  }
}

function randomTag(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(6)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** By path and inode: a copy, or another directory in its place, has another one. Undefined where there is no such directory. */
function tagOf(dataDir: string | undefined): string | undefined {
  const stats = dataDir === undefined ? undefined : statSync(dataDir, { throwIfNoEntry: false });
  if (dataDir === undefined || stats === undefined) return undefined;
  return createHash('sha256').update(`${dataDir}\0${stats.dev}\0${stats.ino}`).digest('hex').slice(0, 12);
}

function ownerOf(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch (problem) {
    // No such link, or not a link: nobody says whose memory it is.
    if (problem instanceof Error) return undefined;
    throw problem;
  }
}

/** Another user's file stays. */
function remove(path: string): void {
  libc.unlink(addressOf(cString(path)));
}
