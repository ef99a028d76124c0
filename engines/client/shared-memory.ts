/**
 * Memory that a client shares with the agent, mapped here: an anonymous file of its own (attached by descriptor, gone with the processes
 * that hold it), a named one (attached by path), or what the agent has sent a descriptor of.
 */
import {
  FIXED_SIZE_SEALS,
  F_ADD_SEALS,
  MADV_POPULATE_WRITE,
  MAP_SHARED,
  MFD_ALLOW_SEALING,
  MFD_CLOEXEC,
  O_CLOEXEC,
  O_CREAT,
  O_EXCL,
  O_RDWR,
  PROT_READ,
  PROT_WRITE,
  addressOf,
  cString,
  errno,
  libc,
  viewOf,
} from './libc.ts';

export class SharedMemory {
  /** Of the first byte; valid until `close`. */
  readonly address: number;
  readonly sizeBytes: number;
  /** Open until `close`. */
  readonly fd: number;
  /** Of a named file; undefined: it is attached by descriptor. */
  readonly path: string | undefined;
  #closed = false;

  /** Takes the descriptor over, also where it throws. */
  constructor(fd: number, { sizeBytes, path, writable = true }: { sizeBytes: number; path?: string | undefined; writable?: boolean }) {
    const mapped = libc.mmap(null, sizeBytes, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
    const address = Number(mapped);
    // MAP_FAILED is the highest address, which as a number is not -1.
    if (mapped === null || !Number.isSafeInteger(address)) {
      const reason = errno();
      libc.close(fd);
      throw new Error(`Cannot map ${sizeBytes} bytes of shared memory: errno ${reason}`);
    }
    this.address = address;
    this.fd = fd;
    this.sizeBytes = sizeBytes;
    this.path = path;
  }

  /**
   * Anonymous memory of a size that cannot change, which the agent copies fastest. `populate` (default): its pages are made now, and
   * count as this process's; where memory is short this throws, and nobody is killed at the first touch.
   */
  static create(sizeBytes: number, { populate = true }: { readonly populate?: boolean } = {}): SharedMemory {
    const fd = libc.memfd_create(addressOf(cString('kvtier-client')), MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || libc.ftruncate(fd, sizeBytes) !== 0 || libc.fcntl(fd, F_ADD_SEALS, FIXED_SIZE_SEALS) !== 0) {
      const reason = errno();
      if (fd >= 0) libc.close(fd);
      throw new Error(`Cannot make ${sizeBytes} bytes of shared memory: errno ${reason}`);
    }
    const memory = new SharedMemory(fd, { sizeBytes });
    if (populate) memory.#populate();
    return memory;
  }

  /** A new file under a folder in memory that the agent allows (socket.regionRoots); `close` removes it. */
  static createFile(path: string, sizeBytes: number): SharedMemory {
    const name = cString(path);
    const fd = libc.open(addressOf(name), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600);
    if (fd < 0) throw new Error(`Cannot create ${path}: errno ${errno()}`);
    if (libc.ftruncate(fd, sizeBytes) !== 0) {
      const reason = errno();
      libc.close(fd);
      libc.unlink(addressOf(name));
      throw new Error(`Cannot give ${path} ${sizeBytes} bytes: errno ${reason}`);
    }
    return new SharedMemory(fd, { sizeBytes, path });
  }

  #populate(): void {
    // EINVAL before Linux 5.14: pages are then made one by one on first touch.
    if (libc.madvise(this.address, this.sizeBytes, MADV_POPULATE_WRITE) === 0 || errno() === 22) return;
    const reason = errno();
    this.close();
    throw new Error(`Cannot have ${this.sizeBytes} bytes of shared memory: errno ${reason}`);
  }

  /** At most 4 GiB; valid until `close`. */
  view(offset = 0, sizeBytes: number = this.sizeBytes - offset): Uint8Array {
    if (this.#closed) throw new Error('Cannot look at shared memory that was closed');
    if (offset < 0 || sizeBytes < 0 || offset + sizeBytes > this.sizeBytes)
      throw new RangeError(`Cannot look at [${offset}, +${sizeBytes}) of ${this.sizeBytes} bytes of shared memory`);
    return sizeBytes === 0 ? new Uint8Array(0) : viewOf(this.address + offset, sizeBytes);
  }

  /** Unmaps; views and the address are void. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    libc.munmap(this.address, this.sizeBytes);
    libc.close(this.fd);
    if (this.path !== undefined) libc.unlink(addressOf(cString(this.path)));
  }
}
