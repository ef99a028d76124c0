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
  /** Unmaps and removes the file. */
  close(): void;
}

export interface SharedMemory {
  /** Creates an arena of `sizeBytes`, sparse, mode 0600, locked while this process lives. */
  create(name: string, sizeBytes: number): Arena;
  /** Free bytes of the file system behind it. */
  freeBytes(): number;
  /** Removes arenas whose owner is gone (nobody holds their lock); returns how many bytes. */
  removeOrphans(): number;
}
