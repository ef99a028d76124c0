/** One non-blocking transfer step on the calling thread; for payloads that are cheaper to copy than to hand over. */
import type { Address, Fd } from '#core/brand.ts';
import type { IoFailure, SendJob } from '#ports/io-pool.ts';
import { EAGAIN, ECONNRESET, EINTR, addressOf, asPointer, errno, libc } from './libc.ts';
import { MessageVector, sendParts } from './message-vector.ts';

const vector = new MessageVector();
const iov = new BigUint64Array(4);
const iovAddress = addressOf(iov);

function outcome(moved: number, step: string): number | IoFailure {
  if (moved >= 0) return moved;
  const reason = errno();
  return reason === EAGAIN || reason === EINTR ? 0 : { ok: false, errno: reason, step };
}

export function sendNow(job: Omit<SendJob, 'stallMs'>): number | IoFailure {
  const parts = [
    [Number(addressOf(job.header)), job.header.length],
    [job.address, job.sizeBytes],
    // There is no address of nothing.
    [job.trailer.length === 0 ? 0 : Number(addressOf(job.trailer)), job.trailer.length],
  ] as const;
  return outcome(sendParts(job.fd, vector, parts, { skipBytes: job.sentBytes, budgetBytes: Number.MAX_SAFE_INTEGER }), 'send');
}

export function receiveNow(job: {
  readonly fd: Fd;
  readonly address: Address;
  readonly sizeBytes: number;
  readonly tail: Uint8Array;
}): number | IoFailure {
  iov[0] = BigInt(job.address);
  iov[1] = BigInt(job.sizeBytes);
  const hasTail = job.tail.length > 0;
  if (hasTail) {
    iov[2] = BigInt(Number(addressOf(job.tail)));
    iov[3] = BigInt(job.tail.length);
  }
  const moved = libc.readv(job.fd, asPointer(Number(iovAddress)), hasTail ? 2 : 1);
  return moved === 0 ? { ok: false, errno: ECONNRESET, step: 'receive' } : outcome(moved, 'receive');
}
