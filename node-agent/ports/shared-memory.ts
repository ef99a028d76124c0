/** Shared-memory arenas: mapped files that local clients may open too. */
import type { Address, Fd } from '#core/brand.ts';

export interface Arena {
  readonly path: string;
  readonly fd: Fd;
  /** Page aligned; valid until `close`. */
  readonly address: Address;
  readonly sizeBytes: number;
  /** Backs [offset, offset+length) with memory; false where the file system is full. Must precede any touch of those pages. */
  allocate(offsetBytes: number, lengthBytes: number): boolean;
  /** A view of at most 4 GiB; valid until `close`. */
  view(offsetBytes: number, lengthBytes: number): Uint8Array;
  /** A descriptor for those who may look and not write; the arena's own, until `close`. Throws SHARED_MEMORY_UNAVAILABLE. */
  readOnlyFd(): Fd;
  /** Unmaps and gives up the lock. The file goes, unless `keep` leaves it for the next process. */
  close(options?: { readonly keep: boolean }): void;
}

export interface SharedMemory {
  /** Creates an arena of `sizeBytes`, sparse, mode 0600, locked while this process lives. What a former process left under the name goes. */
  create(name: string, sizeBytes: number): Arena;
  /** Maps and locks the arena that a former process left under the name, contents and all; undefined where there is none or another holds it. */
  open(name: string): Arena | undefined;
  /** Free bytes of the file system behind it. */
  freeBytes(): number;
  /** Removes arenas whose owner is gone (nobody holds their lock) and that nobody will resume; returns how many bytes. */
  removeOrphans(): number;
}
