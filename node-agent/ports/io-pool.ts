/**
 * Threads that move bytes between raw addresses, sockets and files. The caller names memory by address and length; no payload
 * crosses the JavaScript heap. Every job has a deadline or a bounded size, and every queue a limit.
 *
 * Ownership: from submit until the promise settles, the pool may read or write the named memory; the caller keeps it alive and
 * unused. The pool makes its own `dup()` of a socket descriptor and closes it; the caller keeps the original.
 */
import type { Address, Fd } from '#core/brand.ts';

/** A failed system call: `errno` of errno.h, and the step that failed. */
export interface IoFailure {
  readonly ok: false;
  readonly errno: number;
  readonly step: string;
  /**
   * Only with ETIMEDOUT, where the operation has not answered within its deadline: it goes on behind, and the memory of the job stays
   * its own until this settles, with whether it was done after all. It may never settle.
   */
  readonly late?: Promise<boolean>;
}

/** `step` of a read that met the end of its file too early: wrong bytes, not a device that fails. */
export const SHORT_FILE = 'read: file too short';

export interface ReceiveJob {
  /** Non-blocking TCP socket; must not be read by anyone else until the job settles. */
  readonly fd: Fd;
  readonly address: Address;
  /** Bytes to receive from the socket to `address`. */
  readonly sizeBytes: number;
  /** Bytes of this payload already placed before `address`; the checksum covers them too. */
  readonly placedBytes: number;
  /** Bytes that follow the payload on the wire (CRLF) and are received with it; at most 16. */
  readonly tailBytes: number;
  /** Gives up with ETIMEDOUT when no byte arrived for this long. */
  readonly stallMs: number;
  /** Gives up with ETIMEDOUT when the whole takes longer, whatever arrives meanwhile; without it, it may take for ever. */
  readonly deadlineMs?: number;
}

export interface ReceiveDone {
  readonly ok: true;
  /** Checksum of the whole payload (placed and received), see core/checksum.ts. */
  readonly checksum: bigint;
  /** The `tailBytes` bytes behind the payload. */
  readonly tail: Uint8Array;
}

export interface SendJob {
  readonly fd: Fd;
  /** Sent before the payload, in the same system call; at most 64 bytes. */
  readonly header: Uint8Array;
  readonly address: Address;
  readonly sizeBytes: number;
  /** Sent after the payload; at most 16 bytes. */
  readonly trailer: Uint8Array;
  /** Bytes of header, payload and trailer, in this order, that have left already. */
  readonly sentBytes: number;
  readonly stallMs: number;
  /** As in ReceiveJob. */
  readonly deadlineMs?: number;
}

export interface SendDone {
  readonly ok: true;
}

/** Socket work. Never blocks on a peer: a stalled transfer costs no thread. */
export interface SocketIo {
  receive(job: ReceiveJob): Promise<ReceiveDone | IoFailure>;
  send(job: SendJob): Promise<SendDone | IoFailure>;
  /**
   * Moves what the socket has, or takes, at this moment, on the calling thread: for payloads so small that handing them over costs
   * more than copying them. Answers bytes (0: nothing now), or a failure. Received bytes beyond the payload go to `tail`.
   */
  receiveNow(job: {
    readonly fd: Fd;
    readonly address: Address;
    readonly sizeBytes: number;
    readonly tail: Uint8Array;
  }): number | IoFailure;
  sendNow(job: Omit<SendJob, 'stallMs' | 'deadlineMs'>): number | IoFailure;
  /** Transfers under way or queued. */
  readonly activeCount: number;
}

export type IoPriority = 'demand' | 'prefetch' | 'write' | 'background';

export interface WriteChunkJob {
  /** Written under this name, synced if `sync`, then renamed to `path`. Both in one file system. */
  readonly tempPath: string;
  readonly path: string;
  /** Exactly 4096 bytes. */
  readonly header: Uint8Array;
  readonly address: Address;
  /** Payload bytes; the file is padded with zeroes to a multiple of 4096. */
  readonly sizeBytes: number;
  /** Ask for O_DIRECT; `address` may have any alignment, unaligned memory goes through a bounce buffer. */
  readonly direct: boolean;
  readonly sync: boolean;
}

export interface WriteChunkDone {
  readonly ok: true;
  /** False where the file system refused O_DIRECT and the write went through the page cache. */
  readonly direct: boolean;
  readonly elapsedMs: number;
}

export interface ReadChunkJob {
  readonly path: string;
  readonly address: Address;
  readonly sizeBytes: number;
  /** Room behind `address`, at least sizeBytes. */
  readonly capacityBytes: number;
  readonly direct: boolean;
  readonly priority: IoPriority;
  /**
   * The memory is a part of a client's (ports/local-door.ts): `address` lies `offset` bytes into the file of `fd`. Not one byte behind
   * `sizeBytes` is written, and memory that the client has taken away fails the job with EFAULT.
   */
  readonly region?: { readonly fd: Fd; readonly offset: number };
}

export interface ReadChunkDone {
  readonly ok: true;
  readonly direct: boolean;
  /** The first 4096 bytes of the file. */
  readonly header: Uint8Array;
  /** Checksum of the payload as it was read. The caller compares. */
  readonly checksum: bigint;
  readonly elapsedMs: number;
}

export interface StatFs {
  readonly ok: true;
  readonly totalBytes: number;
  readonly freeBytes: number;
}

/**
 * Work on chunk files and folders. Jobs run in order of priority: demand, prefetch, write, background; writes and background
 * use at most half of the workers.
 */
export interface FileIo {
  writeChunk(job: WriteChunkJob): Promise<WriteChunkDone | IoFailure>;
  readChunk(job: ReadChunkJob): Promise<ReadChunkDone | IoFailure>;
  /** The first 4096 bytes of each file; an entry is a failure where the file is shorter or unreadable. */
  readHeaders(paths: readonly string[]): Promise<readonly (Uint8Array | IoFailure)[]>;
  /** Checksum of `sizeBytes` of payload of a file, read through a bounce buffer of 4 MiB; for `verify`. */
  checksumFile(
    path: string,
    sizeBytes: number,
  ): Promise<{ readonly ok: true; readonly header: Uint8Array; readonly checksum: bigint } | IoFailure>;
  unlink(path: string): Promise<{ readonly ok: true } | IoFailure>;
  rename(from: string, to: string): Promise<{ readonly ok: true } | IoFailure>;
  /** Names in a folder, with the size of each file. */
  list(path: string): Promise<{ readonly ok: true; readonly names: readonly string[] } | IoFailure>;
  statFs(path: string): Promise<StatFs | IoFailure>;
  /** Jobs that wait and whose path begins so fail with ETIMEDOUT; those that run go on. For a device that does not answer. */
  abandon(pathStart: string): void;
  /** Jobs waiting, by priority. */
  queueDepth(): Readonly<Record<IoPriority, number>>;
}

export interface IoPool {
  readonly sockets: SocketIo;
  readonly files: FileIo;
  /** Maps and backs pages of an arena by touching them, off the main thread. */
  populate(address: Address, sizeBytes: number): Promise<{ readonly ok: true } | IoFailure>;
  close(): Promise<void>;
}
