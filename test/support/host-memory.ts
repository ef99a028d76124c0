/** Page-aligned memory outside of the JavaScript heap, as arenas are: for tests and benchmarks that hand addresses to a device. */
import type { Address } from '#core/brand.ts';
import { libc, mapAnonymous, viewOf, asPointer } from '#host/libc.ts';

const PAGE_BYTES = 4096;

export class HostMemory implements Disposable {
  readonly address: Address;
  readonly sizeBytes: number;
  readonly bytes: Uint8Array;

  constructor(sizeBytes: number) {
    this.sizeBytes = Math.ceil(sizeBytes / PAGE_BYTES) * PAGE_BYTES;
    this.address = mapAnonymous(this.sizeBytes) as Address;
    this.bytes = viewOf(this.address, this.sizeBytes);
  }

  /** Other bytes each time. */
  fillRandom(): this {
    for (let at = 0; at < this.sizeBytes; at += 65_536) crypto.getRandomValues(this.bytes.subarray(at, at + 65_536));
    return this;
  }

  at(offset: number): Address {
    return (this.address + offset) as Address;
  }

  [Symbol.dispose](): void {
    libc.munmap(asPointer(this.address), this.sizeBytes);
  }
}
