/** One non-blocking transfer step on the calling thread; for payloads that are cheaper to copy than to hand over. */
import type { Address, Fd } from '#core/brand.ts';
import type { IoFailure, SendJob } from '#ports/io-pool.ts';
import { IoVector } from './io-vector.ts';
import { EAGAIN, ECONNRESET, EINTR, addressOf, errno, libc } from './libc.ts';
import { MessageVector } from './message-vector.ts';

const vector = new MessageVector();
const iov = new IoVector(2);

function outcome(moved: number, step: string): number | IoFailure {
  if (moved >= 0) return moved;
  const reason = errno();
  return reason === EAGAIN || reason === EINTR ? 0 : { ok: false, errno: reason, step };
}

export function sendNow(job: Omit<SendJob, 'stallMs'>): number | IoFailure {
  vector.begin(job.sentBytes, Number.MAX_SAFE_INTEGER);
  vector.add(Number(addressOf(job.header)), job.header.length);
  vector.add(job.address, job.sizeBytes);
  // There is no address of nothing.
  if (job.trailer.length > 0) vector.add(Number(addressOf(job.trailer)), job.trailer.length);
  return outcome(vector.send(job.fd), 'send');
}

export function receiveNow(job: {
  readonly fd: Fd;
  readonly address: Address;
  readonly sizeBytes: number;
  readonly tail: Uint8Array;
}): number | IoFailure {
  iov.set(0, job.address, job.sizeBytes);
  const hasTail = job.tail.length > 0;
  if (hasTail) iov.set(1, Number(addressOf(job.tail)), job.tail.length);
  const moved = libc.readv(job.fd, iov.pointer, hasTail ? 2 : 1);
  if (moved === 0) return { ok: false, errno: ECONNRESET, step: 'receive' };
  const received = outcome(moved, 'receive');
  // Whoever asks again at once may be keeping the peer from the processor that both were put on.
  if (received === 0) libc.sched_yield();
  return received;
}
