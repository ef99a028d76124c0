/**
 * The system calls that Bun does not offer: raw addresses, O_DIRECT, epoll, shared mappings. Each thread that imports this
 * module has its own handle and its own errno.
 *
 * Return values are Linux' own: -1 with the reason in `errno()`, which must be read before any other call. bun:ffi does not
 * touch errno between the call and the read (tried over 10^6 failing calls). Sizes fit int32 because no call moves more than
 * 4 MiB at a time. `open` is variadic in C; on x86-64 and aarch64 Linux an integer argument travels as in a plain call.
 */
import { dlopen, ptr, read, toArrayBuffer } from 'bun:ffi';
import type { Pointer } from 'bun:ffi';

const library = dlopen('libc.so.6', {
  __errno_location: { args: [], returns: 'ptr' },
  open: { args: ['ptr', 'i32', 'i32'], returns: 'i32' },
  close: { args: ['i32'], returns: 'i32' },
  dup: { args: ['i32'], returns: 'i32' },
  shutdown: { args: ['i32', 'i32'], returns: 'i32' },
  ftruncate: { args: ['i32', 'i64'], returns: 'i32' },
  fallocate: { args: ['i32', 'i32', 'i64', 'i64'], returns: 'i32' },
  flock: { args: ['i32', 'i32'], returns: 'i32' },
  fdatasync: { args: ['i32'], returns: 'i32' },
  fsync: { args: ['i32'], returns: 'i32' },
  mmap: { args: ['ptr', 'u64', 'i32', 'i32', 'i32', 'i64'], returns: 'ptr' },
  munmap: { args: ['ptr', 'u64'], returns: 'i32' },
  madvise: { args: ['ptr', 'u64', 'i32'], returns: 'i32' },
  preadv: { args: ['i32', 'ptr', 'i32', 'i64'], returns: 'i32' },
  pwritev: { args: ['i32', 'ptr', 'i32', 'i64'], returns: 'i32' },
  readv: { args: ['i32', 'ptr', 'i32'], returns: 'i32' },
  read: { args: ['i32', 'ptr', 'u64'], returns: 'i32' },
  write: { args: ['i32', 'ptr', 'u64'], returns: 'i32' },
  sendmsg: { args: ['i32', 'ptr', 'i32'], returns: 'i32' },
  recvmsg: { args: ['i32', 'ptr', 'i32'], returns: 'i32' },
  socket: { args: ['i32', 'i32', 'i32'], returns: 'i32' },
  bind: { args: ['i32', 'ptr', 'u32'], returns: 'i32' },
  listen: { args: ['i32', 'i32'], returns: 'i32' },
  connect: { args: ['i32', 'ptr', 'u32'], returns: 'i32' },
  accept4: { args: ['i32', 'ptr', 'ptr', 'i32'], returns: 'i32' },
  setsockopt: { args: ['i32', 'i32', 'i32', 'ptr', 'u32'], returns: 'i32' },
  getsockopt: { args: ['i32', 'i32', 'i32', 'ptr', 'ptr'], returns: 'i32' },
  memfd_create: { args: ['ptr', 'u32'], returns: 'i32' },
  fcntl: { args: ['i32', 'i32', 'i32'], returns: 'i32' },
  getsockname: { args: ['i32', 'ptr', 'ptr'], returns: 'i32' },
  memcpy: { args: ['ptr', 'ptr', 'u64'], returns: 'ptr' },
  memset: { args: ['ptr', 'i32', 'u64'], returns: 'ptr' },
  unlink: { args: ['ptr'], returns: 'i32' },
  rename: { args: ['ptr', 'ptr'], returns: 'i32' },
  eventfd: { args: ['u32', 'i32'], returns: 'i32' },
  epoll_create1: { args: ['i32'], returns: 'i32' },
  epoll_ctl: { args: ['i32', 'i32', 'i32', 'ptr'], returns: 'i32' },
  epoll_wait: { args: ['i32', 'ptr', 'i32', 'i32'], returns: 'i32' },
  getrlimit: { args: ['i32', 'ptr'], returns: 'i32' },
  setrlimit: { args: ['i32', 'ptr'], returns: 'i32' },
  setpriority: { args: ['i32', 'i32', 'i32'], returns: 'i32' },
  sched_yield: { args: [], returns: 'i32' },
});

export const libc = library.symbols;

const errnoAddress = libc.__errno_location() as Pointer;

/** errno of this thread, as the last libc call left it. */
export function errno(): number {
  return read.i32(errnoAddress, 0);
}

/** A number as bun:ffi wants an address. The brand of core/brand.ts ends here. */
export function asPointer(address: number): Pointer {
  return address as Pointer;
}

/** NUL-terminated bytes for a path argument; keep the array alive across the call. */
export function cString(text: string): Uint8Array {
  return new TextEncoder().encode(`${text}\0`);
}

/** Address of a typed array's first byte. The array must stay alive, and must not be moved, while the address is used. */
export function addressOf(bytes: Uint8Array | Uint32Array | BigUint64Array): Pointer {
  return ptr(bytes);
}

/** A view of mapped memory, at most 4 GiB; the mapping must outlive it. */
export function viewOf(address: number, sizeBytes: number): Uint8Array {
  // bun:ffi refuses a view of nothing.
  return sizeBytes === 0 ? new Uint8Array(0) : new Uint8Array(toArrayBuffer(asPointer(address), 0, sizeBytes));
}

/** Memory for aligned I/O: page-aligned, zeroed, unmapped only by `munmap`. Throws when the kernel refuses. */
export function mapAnonymous(sizeBytes: number): number {
  const address = libc.mmap(null, sizeBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (address === null || Number(address) === -1 || Number(address) >= 2 ** 53)
    throw new Error(`Cannot map ${sizeBytes} bytes: errno ${errno()}`);
  return Number(address);
}

// asm-generic/fcntl.h; O_DIRECT differs by architecture (x86-64 0o40000, aarch64 0o200000).
export const O_RDONLY = 0;
export const O_WRONLY = 1;
export const O_RDWR = 2;
export const O_CREAT = 0o100;
export const O_EXCL = 0o200;
export const O_TRUNC = 0o1000;
export const O_APPEND = 0o2000;
export const O_CLOEXEC = 0o2000000;
export const O_NONBLOCK = 0o4000;
export const O_PATH = 0o10000000;
/** Not the same on every architecture: asm-generic 0o400000, arm64 0o100000. */
export const O_NOFOLLOW = process.arch === 'arm64' ? 0o100000 : 0o400000;
export const O_DIRECT = process.arch === 'arm64' ? 0o200000 : 0o40000;
export const PROT_READ = 1;
export const PROT_WRITE = 2;
export const MAP_SHARED = 1;
export const MAP_PRIVATE = 2;
export const MAP_ANONYMOUS = 0x20;
export const MAP_NORESERVE = 0x4000;
export const MADV_HUGEPAGE = 14;
export const MADV_DONTDUMP = 16;
export const MADV_POPULATE_WRITE = 23;
export const LOCK_EX = 2;
export const LOCK_NB = 4;
export const LOCK_UN = 8;
export const SHUT_RDWR = 2;
export const SO_PEERCRED = 17;
export const MFD_CLOEXEC = 1;
export const MFD_ALLOW_SEALING = 2;
export const F_GETFL = 3;
export const F_ADD_SEALS = 1033;
export const F_GET_SEALS = 1034;
export const F_SEAL_SEAL = 1;
export const F_SEAL_SHRINK = 2;
export const F_SEAL_GROW = 4;
export const AF_UNIX = 1;
export const AF_INET = 2;
export const SOCK_STREAM = 1;
export const SOCK_SEQPACKET = 5;
export const SOCK_NONBLOCK = 0o4000;
export const SOCK_CLOEXEC = 0o2000000;
export const SOL_SOCKET = 1;
export const SO_REUSEADDR = 2;
export const SCM_RIGHTS = 1;
export const MSG_CMSG_CLOEXEC = 0x40000000;
export const MSG_NOSIGNAL = 0x4000;
export const MSG_DONTWAIT = 0x40;
export const EPOLLIN = 1;
export const EPOLLOUT = 4;
export const EPOLL_CTL_ADD = 1;
export const EPOLL_CTL_DEL = 2;
export const EPOLL_CTL_MOD = 3;
export const EPOLL_CLOEXEC = 0o2000000;
export const EPOLLONESHOT = 0x40000000;
export const EFD_NONBLOCK = 0o4000;
export const EFD_CLOEXEC = 0o2000000;
export const EINTR = 4;
export const EIO = 5;
export const EFAULT = 14;
export const EAGAIN = 11;
export const EINVAL = 22;
export const ENOSPC = 28;
export const ETIMEDOUT = 110;
export const ECONNRESET = 104;
export const ECANCELED = 125;
