/**
 * Shared memory at addresses that mean nothing to the machine: what is not an arena cannot be touched. The files outlive a process, as
 * under /dev/shm: `endProcess` unmaps, `boot` forgets.
 */
import type { Address, Fd } from '#core/brand.ts';
import type { Arena, SharedMemory } from '#ports/shared-memory.ts';

const FIRST_ADDRESS = 2 ** 40;
/** A gap between arenas, so that a transfer that leaves its arena is seen. */
const GAP_BYTES = 2 ** 20;

interface SimFile {
  readonly bytes: Uint8Array;
  /** Backed from the beginning. */
  backedBytes: number;
}

/** Memory of another process that this one maps: bytes from `liveBytes` on were cut away by its owner. */
export interface SimForeignMemory {
  readonly bytes: Uint8Array;
  liveBytes: number;
}

/** What a system call makes of memory that was cut away: EFAULT. */
export class SimMemoryFault extends Error {
  override readonly name = 'SimMemoryFault';
}

export class SimSharedMemory implements SharedMemory {
  /** Bytes that all arenas together may back; `allocate` says no beyond it. */
  capacityBytes: number;
  #nextAddress = FIRST_ADDRESS;
  readonly #files = new Map<string, SimFile>();
  /** Runs before each call that changes or looks up a file: the place to end a process in the middle of a start. */
  onCall: (() => void) | undefined;
  /** Mapped by the process that runs. */
  readonly #arenas: { readonly name: string; readonly address: number; readonly bytes: Uint8Array }[] = [];

  /** By address. */
  readonly #foreign = new Map<number, SimForeignMemory>();

  constructor(capacityBytes = Number.MAX_SAFE_INTEGER) {
    this.capacityBytes = capacityBytes;
  }

  create(name: string, sizeBytes: number): Arena {
    this.onCall?.();
    const file = { bytes: new Uint8Array(sizeBytes), backedBytes: 0 };
    this.#files.set(name, file);
    return this.#map(name, file);
  }

  open(name: string): Arena | undefined {
    this.onCall?.();
    const file = this.#files.get(name);
    return file === undefined || this.#arenas.some((arena) => arena.name === name) ? undefined : this.#map(name, file);
  }

  #map(name: string, file: SimFile): Arena {
    const { bytes } = file;
    const address = this.#nextAddress;
    this.#nextAddress += Math.ceil(bytes.length / GAP_BYTES) * GAP_BYTES + GAP_BYTES;
    const own = { name, address, bytes };
    this.#arenas.push(own);
    return {
      path: `/sim-shm/${name}`,
      fd: -1 as Fd,
      address: address as Address,
      sizeBytes: bytes.length,
      allocate: (offsetBytes, lengthBytes) => {
        this.onCall?.();
        const more = Math.max(0, offsetBytes + lengthBytes - file.backedBytes);
        if (this.#backedBytes() + more > this.capacityBytes) return false;
        file.backedBytes += more;
        return true;
      },
      readOnlyFd: () => -1 as Fd,
      view: (offsetBytes, lengthBytes) => bytes.subarray(offsetBytes, offsetBytes + lengthBytes),
      close: (options = { keep: false }) => {
        this.onCall?.();
        const at = this.#arenas.indexOf(own);
        if (at >= 0) this.#arenas.splice(at, 1);
        if (!options.keep) this.#files.delete(name);
      },
    };
  }

  /** Answers the address. */
  mapForeign(memory: SimForeignMemory): number {
    const address = this.#nextAddress;
    this.#nextAddress += Math.ceil(memory.bytes.length / GAP_BYTES) * GAP_BYTES + GAP_BYTES;
    this.#foreign.set(address, memory);
    return address;
  }

  unmapForeign(address: number): void {
    this.#foreign.delete(address);
  }

  #backedBytes(): number {
    let sum = 0;
    for (const file of this.#files.values()) sum += file.backedBytes;
    return sum;
  }

  freeBytes(): number {
    return this.capacityBytes - this.#backedBytes();
  }

  removeOrphans(): number {
    return 0;
  }

  /** The process is gone, its files stay. */
  endProcess(): void {
    this.#arenas.length = 0;
    this.#foreign.clear();
  }

  /** The machine was booted. */
  boot(): void {
    this.endProcess();
    this.#files.clear();
  }

  /** Contents of a file, to look at or to damage; undefined where there is none. */
  file(name: string): Uint8Array | undefined {
    return this.#files.get(name)?.bytes;
  }

  fileNames(): readonly string[] {
    return [...this.#files.keys()];
  }

  /** The bytes at an address, as an I/O thread sees them. Throws where they are not wholly in one arena, and SimMemoryFault as said there. */
  at(address: number, sizeBytes: number): Uint8Array {
    if (sizeBytes === 0) return new Uint8Array(0);
    for (const arena of this.#arenas) {
      const offset = address - arena.address;
      if (offset >= 0 && offset + sizeBytes <= arena.bytes.length) return arena.bytes.subarray(offset, offset + sizeBytes);
    }
    for (const [start, { bytes, liveBytes }] of this.#foreign) {
      const offset = address - start;
      if (offset < 0 || offset + sizeBytes > bytes.length) continue;
      if (offset + sizeBytes > liveBytes) throw new SimMemoryFault(`EFAULT: ${sizeBytes} bytes at ${offset} of ${liveBytes}`);
      return bytes.subarray(offset, offset + sizeBytes);
    }
    throw new RangeError(`SIGSEGV: ${sizeBytes} bytes at ${address}`);
  }
}
