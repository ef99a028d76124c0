/** The system calls that a client of the native door needs and Bun does not offer: shared mappings, and descriptors over sockets. */
import { dlopen, ptr, read, toArrayBuffer } from 'bun:ffi';
import type { Pointer } from 'bun:ffi';

export const { symbols: libc } = dlopen('libc.so.6', {
  __errno_location: { args: [], returns: 'ptr' },
  open: { args: ['ptr', 'i32', 'i32'], returns: 'i32' },
  close: { args: ['i32'], returns: 'i32' },
  unlink: { args: ['ptr'], returns: 'i32' },
  ftruncate: { args: ['i32', 'i64'], returns: 'i32' },
  fcntl: { args: ['i32', 'i32', 'i32'], returns: 'i32' },
  memfd_create: { args: ['ptr', 'u32'], returns: 'i32' },
  mmap: { args: ['ptr', 'u64', 'i32', 'i32', 'i32', 'i64'], returns: 'ptr' },
  munmap: { args: ['ptr', 'u64'], returns: 'i32' },
  madvise: { args: ['ptr', 'u64', 'i32'], returns: 'i32' },
  sendmsg: { args: ['i32', 'ptr', 'i32'], returns: 'i32' },
  recvmsg: { args: ['i32', 'ptr', 'i32'], returns: 'i32' },
});

const errnoAddress = libc.__errno_location() as Pointer;

/** As the last call of this thread left it. */
export function errno(): number {
  return read.i32(errnoAddress, 0);
}

/** The array must stay alive while the address is used. */
export function addressOf(bytes: Uint8Array | BigUint64Array): Pointer {
  return ptr(bytes);
}

export function cString(text: string): Uint8Array {
  return new TextEncoder().encode(`${text}\0`);
}

/** A view of mapped memory, at most 4 GiB; the mapping must outlive it. */
export function viewOf(address: number, sizeBytes: number): Uint8Array {
  return new Uint8Array(toArrayBuffer(address, 0, sizeBytes));
}

export const O_RDWR = 2;
export const O_CREAT = 0o100;
export const O_EXCL = 0o200;
export const O_CLOEXEC = 0o2000000;
export const PROT_READ = 1;
export const PROT_WRITE = 2;
export const MAP_SHARED = 1;
export const MADV_POPULATE_WRITE = 23;
export const MFD_CLOEXEC = 1;
export const MFD_ALLOW_SEALING = 2;
export const F_ADD_SEALS = 1033;
/** F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW. */
export const FIXED_SIZE_SEALS = 1 | 2 | 4;
export const SOL_SOCKET = 1;
export const SCM_RIGHTS = 1;
export const MSG_DONTWAIT = 0x40;
export const MSG_NOSIGNAL = 0x4000;
export const MSG_CMSG_CLOEXEC = 0x40000000;
export const EAGAIN = 11;
