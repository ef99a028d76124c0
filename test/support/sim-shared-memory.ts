/** Arenas in ordinary buffers under addresses that mean nothing to the machine: what is not an arena cannot be touched. */
import type { Address, Fd } from '#core/brand.ts';
import type { Arena, SharedMemory } from '#ports/shared-memory.ts';

const FIRST_ADDRESS = 2 ** 40;
/** A gap between arenas, so that a transfer that leaves its arena is seen. */
const GAP_BYTES = 2 ** 20;

export class SimSharedMemory implements SharedMemory {
  /** Bytes that all arenas together may back; `allocate` says no beyond it. */
  capacityBytes: number;
  #backedBytes = 0;
  #nextAddress = FIRST_ADDRESS;
  readonly #arenas: { address: number; bytes: Uint8Array }[] = [];

  constructor(capacityBytes = Number.MAX_SAFE_INTEGER) {
    this.capacityBytes = capacityBytes;
  }

  create(name: string, sizeBytes: number): Arena {
    const bytes = new Uint8Array(sizeBytes);
    const address = this.#nextAddress;
    this.#nextAddress += Math.ceil(sizeBytes / GAP_BYTES) * GAP_BYTES + GAP_BYTES;
    const own = { address, bytes };
    this.#arenas.push(own);
    return {
      path: `/sim-shm/${name}`,
      fd: -1 as Fd,
      address: address as Address,
      sizeBytes,
      allocate: (_offsetBytes, lengthBytes) => {
        if (this.#backedBytes + lengthBytes > this.capacityBytes) return false;
        this.#backedBytes += lengthBytes;
        return true;
      },
      view: (offsetBytes, lengthBytes) => bytes.subarray(offsetBytes, offsetBytes + lengthBytes),
      close: () => void this.#arenas.splice(this.#arenas.indexOf(own), 1),
    };
  }

  freeBytes(): number {
    return this.capacityBytes - this.#backedBytes;
  }

  removeOrphans(): number {
    return 0;
  }

  /** The bytes at an address, as an I/O thread sees them. Throws where they are not wholly in one arena. */
  at(address: number, sizeBytes: number): Uint8Array {
    if (sizeBytes === 0) return new Uint8Array(0);
    for (const arena of this.#arenas) {
      const offset = address - arena.address;
      if (offset >= 0 && offset + sizeBytes <= arena.bytes.length) return arena.bytes.subarray(offset, offset + sizeBytes);
    }
    throw new RangeError(`SIGSEGV: ${sizeBytes} bytes at ${address}`);
  }
}
