/**
 * The limit of open files, and how near it is. At the limit accept(2) fails with EMFILE and the socket stays readable, so that an event
 * loop which waits for it spins (tried on Bun 1.4: a whole core): doors must stop listening before.
 * Source: getrlimit(2), accept(2).
 */
import { addressOf, libc } from './libc.ts';

/** asm-generic/resource.h; the same on x86-64 and aarch64. */
const RLIMIT_NOFILE = 7;

export interface DescriptorLimit {
  readonly soft: number;
  readonly hard: number;
}

export function descriptorLimit(): DescriptorLimit {
  const limits = new BigUint64Array(2);
  if (libc.getrlimit(RLIMIT_NOFILE, addressOf(limits)) !== 0) return { soft: 1024, hard: 1024 };
  return { soft: toNumber(limits[0]), hard: toNumber(limits[1]) };
}

/** Raises the soft limit to `wanted`, or to the hard one where that is less; never lowers it. Answers what holds now. */
export function raiseDescriptorLimit(wanted: number): DescriptorLimit {
  const before = descriptorLimit();
  const soft = Math.min(wanted, before.hard);
  if (soft <= before.soft) return before;
  libc.setrlimit(RLIMIT_NOFILE, addressOf(BigUint64Array.of(BigInt(soft), BigInt(before.hard))));
  return descriptorLimit();
}

/** The number that the next descriptor gets, which is at least how many are open; -1 where none is left. */
export function lowestFreeDescriptor(): number {
  const fd = libc.dup(0);
  if (fd >= 0) libc.close(fd);
  return fd;
}

/** RLIM_INFINITY is 2^64 - 1. */
function toNumber(value: bigint | undefined): number {
  return value === undefined || value > BigInt(Number.MAX_SAFE_INTEGER) ? Number.MAX_SAFE_INTEGER : Number(value);
}
