/** Host memory that can be taken away under a copy: a mapping of its own. */
import { dlopen } from 'bun:ffi';

const { mmap, mprotect, munmap } = dlopen('libc.so.6', {
  mmap: { args: ['u64', 'u64', 'i32', 'i32', 'i32', 'i64'], returns: 'u64' },
  mprotect: { args: ['u64', 'u64', 'i32'], returns: 'i32' },
  munmap: { args: ['u64', 'u64'], returns: 'i32' },
}).symbols;

const PROT_READ_WRITE = 3;
const MAP_PRIVATE_ANONYMOUS = 0x22;

export interface Mapping {
  readonly at: number;
  /** The pages cannot be read any more, and nobody else gets the addresses: what unmapping is to a copy, without a race for the hole. */
  takeAway(): void;
  unmap(): void;
}

export function mapped(bytes: number): Mapping {
  const at = Number(mmap(0, bytes, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0));
  return {
    at,
    takeAway() {
      mprotect(at, bytes, 0);
    },
    unmap() {
      munmap(at, bytes);
    },
  };
}
