/**
 * The shared-memory queue by which the main thread hands socket transfers to a socket worker: one producer, one consumer,
 * fixed-size records, so that a job costs no allocation and the worker can wait in epoll instead of an event loop.
 *
 * Layout: Int32 head (consumer) and tail (producer) in a block of 64 bytes, then RING_RECORDS records of RECORD_BYTES: 12 float64
 * fields, then 64 header bytes and 16 trailer bytes. Numbers are exact: addresses and sizes fit 2^53.
 */
export const RING_RECORDS = 1024;
export const RECORD_BYTES = 192;
const CONTROL_BYTES = 64;
const FIELDS = 12;
const HEADER_OFFSET = FIELDS * 8;
const TRAILER_OFFSET = HEADER_OFFSET + 64;
export const MAX_HEADER_BYTES = 64;
export const MAX_TRAILER_BYTES = 16;

export const KIND_RECEIVE = 1;
export const KIND_SEND = 2;
/** Names an arena, so that the worker can look at its memory without making a view for each block. */
export const KIND_ARENA = 3;
export const KIND_STOP = 4;

export interface SocketJobRecord {
  kind: number;
  id: number;
  fd: number;
  address: number;
  sizeBytes: number;
  placedBytes: number;
  tailBytes: number;
  stallMs: number;
  /** Infinity: none. */
  deadlineMs: number;
  headerBytes: number;
  trailerBytes: number;
}

export class JobRing {
  readonly buffer: SharedArrayBuffer;
  readonly #control: Int32Array;
  readonly #numbers: Float64Array;
  readonly #bytes: Uint8Array;

  constructor(buffer: SharedArrayBuffer = new SharedArrayBuffer(CONTROL_BYTES + RING_RECORDS * RECORD_BYTES)) {
    this.buffer = buffer;
    this.#control = new Int32Array(buffer, 0, 2);
    this.#numbers = new Float64Array(buffer);
    this.#bytes = new Uint8Array(buffer);
  }

  /** False where the ring is full: the caller queues and tries again after a completion. Producer only. */
  push(job: SocketJobRecord, header: Uint8Array, trailer: Uint8Array): boolean {
    const tail = Atomics.load(this.#control, 1);
    if (tail - Atomics.load(this.#control, 0) >= RING_RECORDS) return false;
    const offset = CONTROL_BYTES + (tail & (RING_RECORDS - 1)) * RECORD_BYTES;
    const base = offset / 8;
    const n = this.#numbers;
    n[base] = job.kind;
    n[base + 1] = job.id;
    n[base + 2] = job.fd;
    n[base + 3] = job.address;
    n[base + 4] = job.sizeBytes;
    n[base + 5] = job.placedBytes;
    n[base + 6] = job.tailBytes;
    n[base + 7] = job.stallMs;
    n[base + 8] = header.length;
    n[base + 9] = trailer.length;
    n[base + 10] = job.deadlineMs;
    this.#bytes.set(header, offset + HEADER_OFFSET);
    this.#bytes.set(trailer, offset + TRAILER_OFFSET);
    Atomics.store(this.#control, 1, (tail + 1) | 0);
    return true;
  }

  /** Fills `into`, and `small` with the header and behind it the trailer; false where the ring is empty. Consumer only. */
  pop(into: SocketJobRecord, small: Uint8Array): boolean {
    const head = Atomics.load(this.#control, 0);
    if (head === Atomics.load(this.#control, 1)) return false;
    const offset = CONTROL_BYTES + (head & (RING_RECORDS - 1)) * RECORD_BYTES;
    const base = offset / 8;
    const n = this.#numbers;
    into.kind = n[base] ?? 0;
    into.id = n[base + 1] ?? 0;
    into.fd = n[base + 2] ?? -1;
    into.address = n[base + 3] ?? 0;
    into.sizeBytes = n[base + 4] ?? 0;
    into.placedBytes = n[base + 5] ?? 0;
    into.tailBytes = n[base + 6] ?? 0;
    into.stallMs = n[base + 7] ?? 0;
    into.headerBytes = n[base + 8] ?? 0;
    into.trailerBytes = n[base + 9] ?? 0;
    into.deadlineMs = n[base + 10] ?? 0;
    // Byte by byte: a view of each would be garbage of each job.
    for (let at = 0; at < into.headerBytes; at += 1) small[at] = this.#bytes[offset + HEADER_OFFSET + at] ?? 0;
    for (let at = 0; at < into.trailerBytes; at += 1) small[into.headerBytes + at] = this.#bytes[offset + TRAILER_OFFSET + at] ?? 0;
    Atomics.store(this.#control, 0, (head + 1) | 0);
    return true;
  }
}

export function emptyJobRecord(): SocketJobRecord {
  const places = { kind: 0, id: 0, fd: -1, address: 0, sizeBytes: 0, placedBytes: 0, tailBytes: 0 };
  return { ...places, stallMs: 0, deadlineMs: Number.POSITIVE_INFINITY, headerBytes: 0, trailerBytes: 0 };
}

/** What a socket worker posts back: job id, 0 or errno, checksum, and the tail bytes as one number (little-endian, at most 6 bytes). */
export type SocketCompletion = readonly [id: number, errno: number, checksum: bigint, tail: number];
