/** The running checksum of core/checksum.ts over raw addresses. */
import { RunningChecksum } from '#core/checksum.ts';
import { viewOf } from './libc.ts';

/** The collector takes 5 ms in a worker: once in so many jobs it costs nothing, and their garbage is a few MiB. */
const JOBS_PER_COLLECTION = 256;

/**
 * Views of registered arenas by address, so that hashing a block makes no ArrayBuffer; others get a view of their own.
 *
 * To the collector such a view is memory of its size that it is responsible for, and it waits until as much again has been allocated:
 * a thread with a view of 1 GiB would keep some KiB of garbage of each job, for good. So `jobDone` collects.
 */
export class MemoryViews {
  #jobs = 0;

  readonly #arenas: { address: number; sizeBytes: number; bytes: Uint8Array }[] = [];

  register(address: number, sizeBytes: number): void {
    this.#arenas.push({ address, sizeBytes, bytes: viewOf(address, sizeBytes) });
  }

  /** After each job of the thread. */
  jobDone(): void {
    this.#jobs += 1;
    if (this.#jobs % JOBS_PER_COLLECTION === 0) Bun.gc(true);
  }

  view(address: number, sizeBytes: number): Uint8Array {
    for (const arena of this.#arenas) {
      const offset = address - arena.address;
      if (offset >= 0 && offset + sizeBytes <= arena.sizeBytes) return arena.bytes.subarray(offset, offset + sizeBytes);
    }
    return viewOf(address, sizeBytes);
  }
}

/** The running checksum of a payload at `address`. */
export function checksumOf(views: MemoryViews, address: number, sizeBytes: number): RunningChecksum {
  return new RunningChecksum(
    sizeBytes,
    (block, seed) => Bun.hash.xxHash3(block, seed),
    (offset, blockBytes) => views.view(address + offset, blockBytes),
  );
}
