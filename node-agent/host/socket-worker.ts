/**
 * A thread that moves payloads between sockets and memory. It waits in one epoll for all of its transfers and for new jobs, so a
 * peer that stalls costs a table entry and no thread. One turn moves at most SLICE_BYTES for each ready transfer.
 *
 * Invariants: a transfer's descriptor is a duplicate owned by this thread; it is taken out of the epoll set before it is closed
 * (the original keeps the connection open, so closing alone would leave it in the set); memory of a job is touched only between
 * its arrival in the ring and its completion message.
 */
import type { RunningChecksum } from '#core/checksum.ts';
import { Epoll } from './epoll.ts';
import { MemoryViews, checksumOf } from './memory-checksum.ts';
import { MessageVector, sendParts } from './message-vector.ts';
import { EAGAIN, ECONNRESET, EINTR, EPOLLIN, EPOLLOUT, ETIMEDOUT, addressOf, asPointer, errno, libc } from './libc.ts';
import { JobRing, KIND_ARENA, KIND_RECEIVE, KIND_STOP, MAX_HEADER_BYTES, MAX_TRAILER_BYTES, emptyJobRecord } from './io-jobs.ts';
import type { SocketCompletion } from './io-jobs.ts';

declare const self: Worker;

/** Bounds one turn of one transfer: 4 MiB take under 2 ms, so that others wait no longer for theirs. */
const SLICE_BYTES = 4 * 1024 * 1024;
/**
 * Looks at a socket that has just moved bytes before it is parked: the peer is usually copying at this moment, and half a microsecond a
 * look is less than a sleep and a wake-up.
 */
const LOOKS = 64;
/** Job ids begin at 1. */
const WAKE_ID = 0;
const NICE = 5;

interface Transfer {
  readonly id: number;
  readonly fd: number;
  readonly receiving: boolean;
  readonly address: number;
  readonly sizeBytes: number;
  readonly stallMs: number;
  /** When the whole must be done, by performance.now(). */
  readonly endAtMs: number;
  readonly tailBytes: number;
  /** Receive: payload bytes present, then tail bytes. Send: bytes of header, payload and trailer sent. */
  doneBytes: number;
  progressAtMs: number;
  waiting: boolean;
  readonly hasher: RunningChecksum | undefined;
  /** Send: header then trailer, back to back. Receive: the tail. */
  readonly small: Uint8Array;
  readonly headerBytes: number;
  readonly trailerBytes: number;
}

class SocketWorker {
  readonly #ring: JobRing;
  readonly #wakeFd: number;
  readonly #epoll = new Epoll();
  readonly #views = new MemoryViews();
  readonly #transfers = new Map<number, Transfer>();
  readonly #ready: Transfer[] = [];
  readonly #iov = new BigUint64Array(6);
  readonly #iovAddress: number;
  readonly #message = new MessageVector();
  readonly #wakeCount = new Uint8Array(8);
  #stopping = false;

  constructor(ring: JobRing, wakeFd: number) {
    this.#ring = ring;
    this.#wakeFd = wakeFd;
    this.#iovAddress = Number(addressOf(this.#iov));
    libc.setpriority(0, 0, NICE);
    this.#epoll.add(wakeFd, EPOLLIN, WAKE_ID);
  }

  run(): void {
    while (!this.#stopping || this.#transfers.size > 0) {
      this.#takeJobs();
      const turn = this.#ready.splice(0);
      for (const transfer of turn) this.#step(transfer);
      this.#wait(this.#ready.length > 0 ? 0 : this.#transfers.size > 0 ? 1000 : this.#stopping ? 0 : -1);
    }
    this.#epoll.close();
  }

  #takeJobs(): void {
    const job = emptyJobRecord();
    const header = new Uint8Array(MAX_HEADER_BYTES);
    const trailer = new Uint8Array(MAX_TRAILER_BYTES);
    while (this.#ring.pop(job, header, trailer)) {
      if (job.kind === KIND_STOP) this.#stopping = true;
      else if (job.kind === KIND_ARENA) this.#views.register(job.address, job.sizeBytes);
      else {
        const receiving = job.kind === KIND_RECEIVE;
        const small = receiving ? new Uint8Array(MAX_TRAILER_BYTES) : new Uint8Array(job.headerBytes + job.trailerBytes);
        if (!receiving) {
          small.set(header.subarray(0, job.headerBytes));
          small.set(trailer.subarray(0, job.trailerBytes), job.headerBytes);
        }
        const transfer: Transfer = {
          id: job.id,
          fd: job.fd,
          receiving,
          address: job.address,
          sizeBytes: job.sizeBytes,
          stallMs: job.stallMs,
          endAtMs: performance.now() + job.deadlineMs,
          tailBytes: job.tailBytes,
          doneBytes: job.placedBytes,
          progressAtMs: performance.now(),
          waiting: false,
          hasher: receiving ? checksumOf(this.#views, job.address, job.sizeBytes) : undefined,
          small,
          headerBytes: job.headerBytes,
          trailerBytes: job.trailerBytes,
        };
        transfer.hasher?.advance(transfer.doneBytes);
        this.#transfers.set(transfer.id, transfer);
        this.#ready.push(transfer);
      }
    }
  }

  #step(transfer: Transfer): void {
    const total = transfer.receiving
      ? transfer.sizeBytes + transfer.tailBytes
      : transfer.headerBytes + transfer.sizeBytes + transfer.trailerBytes;
    let budget = SLICE_BYTES;
    let looks = 0;
    while (transfer.doneBytes < total) {
      if (budget <= 0) {
        if (!transfer.waiting) this.#ready.push(transfer);
        return;
      }
      const moved = transfer.receiving ? this.#receive(transfer, budget) : this.#send(transfer, budget);
      if (moved > 0) {
        transfer.doneBytes += moved;
        budget -= moved;
        looks = 0;
        transfer.hasher?.advance(Math.min(transfer.doneBytes, transfer.sizeBytes));
        if (budget <= 0) transfer.progressAtMs = performance.now();
        continue;
      }
      const reason = moved === 0 ? ECONNRESET : errno();
      if (reason === EINTR) continue;
      if (reason === EAGAIN && budget < SLICE_BYTES && looks < LOOKS) {
        looks += 1;
        continue;
      }
      if (reason !== EAGAIN) return this.#finish(transfer, reason);
      transfer.progressAtMs = budget < SLICE_BYTES ? performance.now() : transfer.progressAtMs;
      if (!transfer.waiting) {
        transfer.waiting = true;
        this.#epoll.add(transfer.fd, transfer.receiving ? EPOLLIN : EPOLLOUT, transfer.id);
      }
      return;
    }
    this.#finish(transfer, 0);
  }

  #receive(transfer: Transfer, budget: number): number {
    const payloadLeft = Math.max(0, transfer.sizeBytes - transfer.doneBytes);
    const take = Math.min(payloadLeft, budget);
    let count = 0;
    if (take > 0) {
      this.#iov[0] = BigInt(transfer.address + transfer.doneBytes);
      this.#iov[1] = BigInt(take);
      count = 1;
    }
    if (take === payloadLeft && transfer.tailBytes > 0) {
      const tailDone = Math.max(0, transfer.doneBytes - transfer.sizeBytes);
      this.#iov[count * 2] = BigInt(Number(addressOf(transfer.small)) + tailDone);
      this.#iov[count * 2 + 1] = BigInt(transfer.tailBytes - tailDone);
      count += 1;
    }
    return libc.readv(transfer.fd, asPointer(this.#iovAddress), count);
  }

  #send(transfer: Transfer, budget: number): number {
    const small = Number(addressOf(transfer.small));
    const parts = [
      [small, transfer.headerBytes],
      [transfer.address, transfer.sizeBytes],
      [small + transfer.headerBytes, transfer.trailerBytes],
    ] as const;
    return sendParts(transfer.fd, this.#message, parts, { skipBytes: transfer.doneBytes, budgetBytes: budget });
  }

  #finish(transfer: Transfer, reason: number): void {
    if (transfer.waiting) this.#epoll.delete(transfer.fd);
    libc.close(transfer.fd);
    this.#transfers.delete(transfer.id);
    const checksum = reason === 0 && transfer.hasher !== undefined ? transfer.hasher.finish() : 0n;
    let tail = 0;
    for (let index = transfer.tailBytes - 1; index >= 0; index -= 1) tail = tail * 256 + (transfer.small[index] ?? 0);
    self.postMessage([transfer.id, reason, checksum, tail] satisfies SocketCompletion);
    this.#views.jobDone();
  }

  #wait(timeoutMs: number): void {
    this.#epoll.wait(timeoutMs, (id) => {
      if (id === WAKE_ID) {
        libc.read(this.#wakeFd, addressOf(this.#wakeCount), 8);
        return;
      }
      const transfer = this.#transfers.get(id);
      if (transfer !== undefined) this.#ready.push(transfer);
    });
    this.#expireStalled();
  }

  #lastSweepMs = 0;

  #expireStalled(): void {
    const now = performance.now();
    if (now - this.#lastSweepMs < 500) return;
    this.#lastSweepMs = now;
    for (const transfer of this.#transfers.values()) {
      if (!transfer.waiting) continue;
      const place = this.#ready.indexOf(transfer);
      const isLate = now > transfer.endAtMs;
      // What has just become ready makes progress; but who trickles is always ready when somebody looks.
      if (place >= 0 && !isLate) continue;
      if (place >= 0) this.#ready.splice(place, 1);
      if (isLate || now - transfer.progressAtMs > transfer.stallMs) this.#finish(transfer, ETIMEDOUT);
    }
  }
}

self.onmessage = (event: MessageEvent<{ ring: SharedArrayBuffer; wakeFd: number }>): void => {
  self.onmessage = null;
  self.postMessage('ready');
  new SocketWorker(new JobRing(event.data.ring), event.data.wakeFd).run();
  self.postMessage('stopped');
};
