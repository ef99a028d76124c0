/** sendmsg over a few pieces of memory, from any thread: each thread has a MessageVector of its own. */
import { MSG_NOSIGNAL, addressOf, asPointer, libc } from './libc.ts';

const MAX_PARTS = 3;

/** struct msghdr (name, namelen, iov, iovlen, control, controllen, flags) and its iovec array; 64-bit layouts of x86-64 and aarch64. */
export class MessageVector {
  readonly #iov = new BigUint64Array(MAX_PARTS * 2);
  readonly #header = new BigUint64Array(7);
  readonly #headerAddress: number;

  constructor() {
    this.#headerAddress = Number(addressOf(this.#header));
    this.#header[2] = BigInt(Number(addressOf(this.#iov)));
  }

  set(index: number, address: number, sizeBytes: number): void {
    this.#iov[index * 2] = BigInt(address);
    this.#iov[index * 2 + 1] = BigInt(sizeBytes);
  }

  /** Bytes that the kernel took, or -1 with the reason in errno. */
  send(fd: number, count: number): number {
    this.#header[3] = BigInt(count);
    return libc.sendmsg(fd, asPointer(this.#headerAddress), MSG_NOSIGNAL);
  }
}

type Part = readonly [address: number, sizeBytes: number];

/** Sends pieces in order, from `skipBytes` on, at most `budgetBytes` in this call. */
export function sendParts(
  fd: number,
  vector: MessageVector,
  parts: readonly Part[],
  range: { readonly skipBytes: number; readonly budgetBytes: number },
): number {
  let skip = range.skipBytes;
  let budget = range.budgetBytes;
  let count = 0;
  for (const [address, sizeBytes] of parts) {
    if (skip >= sizeBytes) {
      skip -= sizeBytes;
      continue;
    }
    const take = Math.min(sizeBytes - skip, budget);
    vector.set(count, address + skip, take);
    count += 1;
    budget -= take;
    if (budget <= 0) break;
    skip = 0;
  }
  return vector.send(fd, count);
}
