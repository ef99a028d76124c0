/**
 * An iovec array that is filled again and again: what a system call scatters to or gathers from. Filling it leaves no garbage, unlike
 * a BigInt for each address; what a worker leaves for its collector it pays for on the path of a transfer.
 *
 * Layout (struct iovec, 64-bit, little-endian; x86-64 and aarch64): 8 bytes address, 8 bytes size, for each piece.
 */
import { addressOf, asPointer } from './libc.ts';
import type { Pointer } from 'bun:ffi';

const HALF = 2 ** 32;

export class IoVector {
  readonly #words: Uint32Array;
  /** Of the first entry, for the life of the object. */
  readonly pointer: Pointer;

  constructor(capacity: number) {
    this.#words = new Uint32Array(capacity * 4);
    this.pointer = asPointer(Number(addressOf(this.#words)));
  }

  /** Requires: both are whole, not negative and below 2^53. */
  set(index: number, address: number, sizeBytes: number): void {
    const at = index * 4;
    const words = this.#words;
    words[at] = address;
    words[at + 1] = address / HALF;
    words[at + 2] = sizeBytes;
    words[at + 3] = sizeBytes / HALF;
  }
}
