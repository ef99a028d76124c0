/**
 * Processor time of the calling thread alone. A process has threads that do not hold up its event loop (the collector's, the compiler's,
 * those of an emulated device), and `process.cpuUsage` counts them too; the clock on the wall counts other programs.
 */
import { dlopen, ptr } from 'bun:ffi';

const { symbols: libc } = dlopen('libc.so.6', { clock_gettime: { args: ['i32', 'ptr'], returns: 'i32' } });
const CLOCK_THREAD_CPUTIME_ID = 3;
/** struct timespec: seconds, nanoseconds. */
const time = new BigInt64Array(new ArrayBuffer(16));
const address = ptr(time);

/** Microseconds since the thread began. A call costs about half of one. */
export function threadCpuUs(): number {
  if (libc.clock_gettime(CLOCK_THREAD_CPUTIME_ID, address) !== 0) throw new Error('This system has no clock of a thread');
  return Number(time[0]) * 1e6 + Number(time[1]) / 1000;
}
