/** The running checksum of core/checksum.ts over raw addresses. */
import { fullGC } from 'bun:jsc';
import { RunningChecksum } from '#core/checksum.ts';
import { viewOf } from './libc.ts';

/**
 * A block that is hashed leaves a view and a number, some 150 bytes; a job of a file worker some KiB. A collection takes half a
 * millisecond in a worker: once in so many it costs nothing, and their garbage is a few MiB.
 */
const BLOCKS_PER_COLLECTION = 32 * 1024;
const JOBS_PER_COLLECTION = 1024;

/**
 * Views of registered arenas by address, so that hashing a block makes no ArrayBuffer; others get a view of their own.
 *
 * To the collector such a view is memory of its size that it is responsible for, and it waits until as much again has been allocated:
 * a thread with a view of 1 GiB would keep the garbage of each job, for good. So threads that have views leave little, and say when it
 * is time to collect: `blockDone`, `jobDone`.
 */
export class MemoryViews {
  #garbage = 0;

  readonly #arenas: { address: number; sizeBytes: number; bytes: Uint8Array }[] = [];

  register(address: number, sizeBytes: number): void {
    this.#arenas.push({ address, sizeBytes, bytes: viewOf(address, sizeBytes) });
  }

  /** After each block, and each other thing that leaves no more than a block does. */
  blockDone(): void {
    this.#leave(1);
  }

  /** After each job that leaves objects, strings and messages behind. */
  jobDone(): void {
    this.#leave(BLOCKS_PER_COLLECTION / JOBS_PER_COLLECTION);
  }

  /** Collects at the next call where nothing was left for so long. */
  #leave(blocks: number): void {
    this.#garbage += blocks;
    if (this.#garbage < BLOCKS_PER_COLLECTION) return;
    this.#garbage = 0;
    fullGC();
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
