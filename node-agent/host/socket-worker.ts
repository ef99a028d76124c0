/**
 * A thread that moves payloads between sockets and memory. It waits in one epoll for all of its transfers and for new jobs, so a
 * peer that stalls costs a table entry and no thread. One turn moves at most SLICE_BYTES for each ready transfer.
 *
 * A job leaves next to no garbage: its collection would be on the path of some transfer (memory-checksum.ts). So transfers are used
 * again, and addresses are written as they are and not as BigInts.
 *
 * Invariants: a transfer's descriptor is a duplicate owned by this thread; it is taken out of the epoll set before it is closed
 * (the original keeps the connection open, so closing alone would leave it in the set); memory of a job is touched only between
 * its arrival in the ring and its completion message; a transfer is in the list of ready ones at most once, and never when it is free.
 */
import { assert } from '#core/assert.ts';
import { RunningChecksum } from '#core/checksum.ts';
import { Epoll } from './epoll.ts';
import { IoVector } from './io-vector.ts';
import { MemoryViews } from './memory-checksum.ts';
import { MessageVector } from './message-vector.ts';
import { EAGAIN, ECONNRESET, EINTR, EPOLLIN, EPOLLOUT, ETIMEDOUT, addressOf, errno, libc } from './libc.ts';
import { JobRing, KIND_ARENA, KIND_RECEIVE, KIND_STOP, MAX_HEADER_BYTES, MAX_TRAILER_BYTES, emptyJobRecord } from './io-jobs.ts';
import type { SocketCompletion, SocketJobRecord } from './io-jobs.ts';

declare const self: Worker;

/** Bounds one turn of one transfer: 4 MiB take under 2 ms, so that others wait no longer for theirs. */
const SLICE_BYTES = 4 * 1024 * 1024;
/**
 * Looks at a socket that has just moved bytes before it is parked: the peer is usually copying at this moment, and half a microsecond a
 * look is less than a sleep and a wake-up.
 */
const LOOKS = 64;
/** In the epoll set, a transfer is its place and one more. */
const WAKE_ID = 0;
const NICE = 5;

/** Used again for one job after the other. */
class Transfer {
  /** Among the transfers of the thread, for good. */
  readonly place: number;
  /** Send: header then trailer, back to back. Receive: the tail. */
  readonly small = new Uint8Array(MAX_HEADER_BYTES + MAX_TRAILER_BYTES);
  readonly smallAddress = Number(addressOf(this.small));
  readonly #checksum: RunningChecksum;
  id = 0;
  /** -1: free. */
  fd = -1;
  receiving = false;
  address = 0;
  sizeBytes = 0;
  headerBytes = 0;
  trailerBytes = 0;
  tailBytes = 0;
  stallMs = 0;
  /** When the whole must be done, by performance.now(). */
  endAtMs = 0;
  /** Receive: payload bytes present, then tail bytes. Send: bytes of header, payload and trailer sent. */
  doneBytes = 0;
  progressAtMs = 0;
  waiting = false;

  constructor(place: number, views: MemoryViews) {
    this.place = place;
    this.#checksum = new RunningChecksum(
      0,
      (block, seed) => {
        views.blockDone();
        return Bun.hash.xxHash3(block, seed);
      },
      (offset, blockBytes) => views.view(this.address + offset, blockBytes),
    );
  }

  begin(job: SocketJobRecord, small: Uint8Array): void {
    const now = performance.now();
    this.small.set(small);
    this.id = job.id;
    this.fd = job.fd;
    this.receiving = job.kind === KIND_RECEIVE;
    this.address = job.address;
    this.sizeBytes = job.sizeBytes;
    this.headerBytes = job.headerBytes;
    this.trailerBytes = job.trailerBytes;
    this.tailBytes = job.tailBytes;
    this.stallMs = job.stallMs;
    this.endAtMs = now + job.deadlineMs;
    this.doneBytes = job.placedBytes;
    this.progressAtMs = now;
    this.waiting = false;
    this.#checksum.restart(job.sizeBytes);
    this.hash();
  }

  get totalBytes(): number {
    return this.headerBytes + this.sizeBytes + this.trailerBytes + this.tailBytes;
  }

  /** Takes what has landed into the checksum. */
  hash(): void {
    if (this.receiving) this.#checksum.advance(Math.min(this.doneBytes, this.sizeBytes));
  }

  /** Of the whole payload, when it is there; 0 of what was sent. */
  checksum(): bigint {
    return this.receiving ? this.#checksum.finish() : 0n;
  }

  /** The bytes behind the payload as one number, little-endian. */
  tail(): number {
    let tail = 0;
    for (let index = this.tailBytes - 1; index >= 0; index -= 1) tail = tail * 256 + (this.small[index] ?? 0);
    return tail;
  }
}

class SocketWorker {
  readonly #ring: JobRing;
  readonly #wakeFd: number;
  readonly #epoll = new Epoll();
  readonly #views = new MemoryViews();
  /** By place. */
  readonly #transfers: Transfer[] = [];
  readonly #free: Transfer[] = [];
  #ready: Transfer[] = [];
  /** What is ready of this turn; empty between turns. */
  #turn: Transfer[] = [];
  readonly #iov = new IoVector(2);
  readonly #message = new MessageVector();
  readonly #wakeCount = new Uint8Array(8);
  readonly #job = emptyJobRecord();
  readonly #small = new Uint8Array(MAX_HEADER_BYTES + MAX_TRAILER_BYTES);
  #stopping = false;

  constructor(ring: JobRing, wakeFd: number) {
    this.#ring = ring;
    this.#wakeFd = wakeFd;
    libc.setpriority(0, 0, NICE);
    this.#epoll.add(wakeFd, EPOLLIN, WAKE_ID);
  }

  get #activeCount(): number {
    return this.#transfers.length - this.#free.length;
  }

  run(): void {
    while (!this.#stopping || this.#activeCount > 0) {
      this.#takeJobs();
      const turn = this.#ready;
      this.#ready = this.#turn;
      for (const transfer of turn) this.#step(transfer);
      turn.length = 0;
      this.#turn = turn;
      this.#wait(this.#ready.length > 0 ? 0 : this.#activeCount > 0 ? 1000 : this.#stopping ? 0 : -1);
    }
    this.#epoll.close();
  }

  #takeJobs(): void {
    const job = this.#job;
    while (this.#ring.pop(job, this.#small)) {
      if (job.kind === KIND_STOP) this.#stopping = true;
      else if (job.kind === KIND_ARENA) this.#views.register(job.address, job.sizeBytes);
      else {
        const transfer = this.#free.pop() ?? this.#newTransfer();
        transfer.begin(job, this.#small);
        this.#ready.push(transfer);
      }
    }
  }

  #newTransfer(): Transfer {
    const transfer = new Transfer(this.#transfers.length, this.#views);
    this.#transfers.push(transfer);
    return transfer;
  }

  #step(transfer: Transfer): void {
    const total = transfer.totalBytes;
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
        transfer.hash();
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
        this.#epoll.add(transfer.fd, transfer.receiving ? EPOLLIN : EPOLLOUT, transfer.place + 1);
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
      this.#iov.set(0, transfer.address + transfer.doneBytes, take);
      count = 1;
    }
    if (take === payloadLeft && transfer.tailBytes > 0) {
      const tailDone = Math.max(0, transfer.doneBytes - transfer.sizeBytes);
      this.#iov.set(count, transfer.smallAddress + tailDone, transfer.tailBytes - tailDone);
      count += 1;
    }
    return libc.readv(transfer.fd, this.#iov.pointer, count);
  }

  #send(transfer: Transfer, budget: number): number {
    this.#message.begin(transfer.doneBytes, budget);
    this.#message.add(transfer.smallAddress, transfer.headerBytes);
    this.#message.add(transfer.address, transfer.sizeBytes);
    this.#message.add(transfer.smallAddress + transfer.headerBytes, transfer.trailerBytes);
    return this.#message.send(transfer.fd);
  }

  #finish(transfer: Transfer, reason: number): void {
    assert(transfer.fd >= 0, 'a transfer ends once');
    if (transfer.waiting) this.#epoll.delete(transfer.fd);
    libc.close(transfer.fd);
    transfer.fd = -1;
    const checksum = reason === 0 ? transfer.checksum() : 0n;
    self.postMessage([transfer.id, reason, checksum, transfer.tail()] satisfies SocketCompletion);
    this.#free.push(transfer);
    this.#views.blockDone();
  }

  #wait(timeoutMs: number): void {
    this.#epoll.wait(timeoutMs, this.#onReady);
    this.#expireStalled();
  }

  readonly #onReady = (id: number): void => {
    if (id === WAKE_ID) {
      libc.read(this.#wakeFd, addressOf(this.#wakeCount), 8);
      return;
    }
    const transfer = this.#transfers[id - 1];
    assert(transfer !== undefined && transfer.fd >= 0, 'what is in the epoll set is a transfer under way');
    this.#ready.push(transfer);
  };

  #lastSweepMs = 0;

  #expireStalled(): void {
    const now = performance.now();
    if (now - this.#lastSweepMs < 500) return;
    this.#lastSweepMs = now;
    for (const transfer of this.#transfers) {
      if (transfer.fd < 0 || !transfer.waiting) continue;
      const at = this.#ready.indexOf(transfer);
      const isLate = now > transfer.endAtMs;
      // What has just become ready makes progress; but who trickles is always ready when somebody looks.
      if (at >= 0 && !isLate) continue;
      if (at >= 0) this.#ready.splice(at, 1);
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
