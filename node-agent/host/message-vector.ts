/** sendmsg over a few pieces of memory, from any thread: each thread has a MessageVector of its own. It leaves no garbage. */
import type { Pointer } from 'bun:ffi';
import { IoVector } from './io-vector.ts';
import { MSG_NOSIGNAL, addressOf, asPointer, libc } from './libc.ts';

const MAX_PARTS = 3;

/** struct msghdr (name, namelen, iov, iovlen, control, controllen, flags) and its iovec array; 64-bit layouts of x86-64 and aarch64. */
export class MessageVector {
  readonly #iov = new IoVector(MAX_PARTS);
  readonly #header = new Uint32Array(14);
  readonly #pointer: Pointer;
  #count = 0;
  #skipBytes = 0;
  #budgetBytes = 0;

  constructor() {
    this.#pointer = asPointer(Number(addressOf(this.#header)));
    const iov = Number(this.#iov.pointer);
    this.#header[4] = iov;
    this.#header[5] = iov / 2 ** 32;
  }

  /** Then `add` of each piece in order: of all together, `skipBytes` have left already, and at most `budgetBytes` leave now. */
  begin(skipBytes: number, budgetBytes: number): void {
    this.#count = 0;
    this.#skipBytes = skipBytes;
    this.#budgetBytes = budgetBytes;
  }

  add(address: number, sizeBytes: number): void {
    const skip = Math.min(this.#skipBytes, sizeBytes);
    const take = Math.min(sizeBytes - skip, this.#budgetBytes);
    this.#skipBytes -= skip;
    if (take === 0) return;
    this.#iov.set(this.#count, address + skip, take);
    this.#count += 1;
    this.#budgetBytes -= take;
  }

  /** Bytes that the kernel took, or -1 with the reason in errno. */
  send(fd: number): number {
    this.#header[6] = this.#count;
    return libc.sendmsg(fd, this.#pointer, MSG_NOSIGNAL);
  }
}
