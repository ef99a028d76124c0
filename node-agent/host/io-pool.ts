/**
 * The real IoPool: socket workers that wait in epoll (socket-worker.ts) and file workers that block in the kernel
 * (file-worker.ts), all threads of this process. See docs/adr/0001-io-pool.md.
 *
 * Invariants: a job's promise settles exactly once; a file worker runs at most one job; writes and background jobs occupy at most
 * half of the file workers, so a demand read always finds one soon; jobs of one priority start in the order of their arrival.
 */
import { assert } from '#core/assert.ts';
import type { Address, Fd } from '#core/brand.ts';
import type {
  FileIo,
  IoFailure,
  IoPool,
  IoPriority,
  ReadChunkDone,
  ReadChunkJob,
  ReceiveDone,
  ReceiveJob,
  SendDone,
  SendJob,
  SocketIo,
  StatFs,
  WriteChunkDone,
  WriteChunkJob,
} from '#ports/io-pool.ts';
import type { FileRequest, TimedFileResponse } from './file-requests.ts';
import { JobRing, KIND_ARENA, KIND_RECEIVE, KIND_SEND, KIND_STOP, emptyJobRecord } from './io-jobs.ts';
import type { SocketCompletion, SocketJobRecord } from './io-jobs.ts';
import { receiveNow, sendNow } from './socket-now.ts';
import { ECANCELED, EFD_CLOEXEC, EFD_NONBLOCK, addressOf, errno, libc } from './libc.ts';

const priorities: readonly IoPriority[] = ['demand', 'prefetch', 'write', 'background'];
const nothing = new Uint8Array(0);

interface SocketWaiter {
  readonly tailBytes: number;
  resolve(outcome: { ok: true; checksum: bigint; tail: Uint8Array } | IoFailure): void;
}

/** One socket worker thread with its ring. */
class SocketThread {
  readonly #worker: Worker;
  readonly #ring = new JobRing();
  readonly #wakeFd: number;
  readonly #wake = new BigUint64Array([1n]);
  readonly #waiters = new Map<number, SocketWaiter>();
  readonly #overflow: { job: SocketJobRecord; header: Uint8Array; trailer: Uint8Array }[] = [];
  readonly ready: Promise<void>;
  readonly #stopped: Promise<void>;

  constructor(onCrash: (reason: string) => void) {
    this.#wakeFd = libc.eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    this.#worker = new Worker(new URL('./socket-worker.ts', import.meta.url).href);
    const ready = Promise.withResolvers<void>();
    const stopped = Promise.withResolvers<void>();
    this.ready = ready.promise;
    this.#stopped = stopped.promise;
    this.#worker.onmessage = (event: MessageEvent<SocketCompletion | 'ready' | 'stopped'>): void => {
      if (event.data === 'ready') ready.resolve();
      else if (event.data === 'stopped') stopped.resolve();
      else this.#complete(event.data);
    };
    this.#worker.onerror = (event): void => onCrash(`socket worker: ${event.message}`);
    this.#worker.postMessage({ ring: this.#ring.buffer, wakeFd: this.#wakeFd });
  }

  get activeCount(): number {
    return this.#waiters.size;
  }

  submit(job: SocketJobRecord, header: Uint8Array, trailer: Uint8Array, waiter?: SocketWaiter): void {
    if (waiter !== undefined) this.#waiters.set(job.id, waiter);
    if (this.#overflow.length > 0 || !this.#ring.push(job, header, trailer)) this.#overflow.push({ job: { ...job }, header, trailer });
    libc.write(this.#wakeFd, addressOf(this.#wake), 8);
  }

  #complete([id, reason, checksum, tail]: SocketCompletion): void {
    while (this.#overflow.length > 0) {
      const next = this.#overflow[0];
      assert(next !== undefined, 'overflow is not empty');
      if (!this.#ring.push(next.job, next.header, next.trailer)) break;
      this.#overflow.shift();
    }
    const waiter = this.#waiters.get(id);
    assert(waiter !== undefined, `socket job ${id} completed twice or never began`);
    this.#waiters.delete(id);
    if (reason !== 0) return waiter.resolve({ ok: false, errno: reason, step: 'transfer' });
    const bytes = new Uint8Array(waiter.tailBytes);
    let rest = tail;
    for (let index = 0; index < bytes.length; index += 1) {
      bytes[index] = rest % 256;
      rest = Math.floor(rest / 256);
    }
    waiter.resolve({ ok: true, checksum, tail: bytes });
  }

  async stop(): Promise<void> {
    this.submit({ ...emptyJobRecord(), kind: KIND_STOP }, nothing, nothing);
    await this.#stopped;
    this.#worker.terminate();
    libc.close(this.#wakeFd);
  }
}

class HostSocketIo implements SocketIo {
  readonly #threads: readonly SocketThread[];
  #nextId = 1;

  constructor(threads: readonly SocketThread[]) {
    this.#threads = threads;
  }

  get activeCount(): number {
    return this.#threads.reduce((sum, thread) => sum + thread.activeCount, 0);
  }

  receive(job: ReceiveJob): Promise<ReceiveDone | IoFailure> {
    return this.#submit(job.fd, nothing, nothing, {
      ...emptyJobRecord(),
      kind: KIND_RECEIVE,
      address: job.address,
      sizeBytes: job.sizeBytes,
      placedBytes: job.placedBytes,
      tailBytes: job.tailBytes,
      stallMs: job.stallMs,
    });
  }

  send(job: SendJob): Promise<SendDone | IoFailure> {
    return this.#submit(job.fd, job.header, job.trailer, {
      ...emptyJobRecord(),
      kind: KIND_SEND,
      address: job.address,
      sizeBytes: job.sizeBytes,
      placedBytes: job.sentBytes,
      stallMs: job.stallMs,
    });
  }

  readonly receiveNow = receiveNow;
  readonly sendNow = sendNow;

  #submit(fd: Fd, header: Uint8Array, trailer: Uint8Array, job: SocketJobRecord): Promise<(ReceiveDone & SendDone) | IoFailure> {
    const duplicate = libc.dup(fd);
    if (duplicate < 0) return Promise.resolve({ ok: false, errno: errno(), step: 'dup' });
    let least = this.#threads[0];
    for (const thread of this.#threads) if (least === undefined || thread.activeCount < least.activeCount) least = thread;
    assert(least !== undefined, 'the pool has a socket worker');
    const { promise, resolve } = Promise.withResolvers<(ReceiveDone & SendDone) | IoFailure>();
    job.id = this.#nextId++;
    job.fd = duplicate;
    least.submit(job, header, trailer, { tailBytes: job.tailBytes, resolve });
    return promise;
  }
}

interface FileJob {
  readonly request: FileRequest;
  readonly priority: IoPriority;
  readonly resolve: (response: TimedFileResponse) => void;
}

interface FileThread {
  readonly worker: Worker;
  current: FileJob | undefined;
}

class HostFileIo implements FileIo {
  readonly #threads: FileThread[] = [];
  readonly #queues: Record<IoPriority, FileJob[]> = { demand: [], prefetch: [], write: [], background: [] };
  #slowRunning = 0;
  readonly #slowLimit: number;
  #closed = false;

  constructor(threadCount: number, onCrash: (reason: string) => void) {
    this.#slowLimit = Math.max(1, Math.floor(threadCount / 2));
    for (let index = 0; index < threadCount; index += 1) {
      const worker = new Worker(new URL('./file-worker.ts', import.meta.url).href);
      const thread: FileThread = { worker, current: undefined };
      worker.onmessage = (event: MessageEvent<TimedFileResponse>): void => this.#complete(thread, event.data);
      worker.onerror = (event): void => onCrash(`file worker: ${event.message}`);
      this.#threads.push(thread);
    }
  }

  /** Tells every worker of an arena; call before the first job on its memory. Nobody answers: an answer could be taken for a job's. */
  registerArena(address: Address, sizeBytes: number): void {
    for (const thread of this.#threads) thread.worker.postMessage({ kind: 'arena', address, sizeBytes } satisfies FileRequest);
  }

  submit(request: FileRequest, priority: IoPriority): Promise<TimedFileResponse> {
    if (this.#closed) return Promise.resolve({ ok: false, errno: ECANCELED, step: 'pool closed', elapsedMs: 0 });
    const { promise, resolve } = Promise.withResolvers<TimedFileResponse>();
    this.#queues[priority].push({ request, priority, resolve });
    this.#dispatch();
    return promise;
  }

  #dispatch(): void {
    for (const thread of this.#threads) {
      if (thread.current !== undefined) continue;
      const job = this.#take();
      if (job === undefined) return;
      thread.current = job;
      if (isSlow(job.priority)) this.#slowRunning += 1;
      thread.worker.postMessage(job.request);
    }
  }

  #take(): FileJob | undefined {
    for (const priority of priorities) {
      if (isSlow(priority) && this.#slowRunning >= this.#slowLimit) continue;
      const job = this.#queues[priority].shift();
      if (job !== undefined) return job;
    }
    return undefined;
  }

  #complete(thread: FileThread, response: TimedFileResponse): void {
    const job = thread.current;
    assert(job !== undefined, 'a file worker answers the job that it was given');
    thread.current = undefined;
    if (isSlow(job.priority)) this.#slowRunning -= 1;
    this.#dispatch();
    job.resolve(response);
  }

  async writeChunk(job: WriteChunkJob): Promise<WriteChunkDone | IoFailure> {
    const response = await this.submit({ kind: 'write', ...job }, 'write');
    return response.ok ? { ok: true, direct: response.direct === true, elapsedMs: response.elapsedMs } : failure(response);
  }

  async readChunk(job: ReadChunkJob): Promise<ReadChunkDone | IoFailure> {
    const { priority, ...rest } = job;
    const response = await this.submit({ kind: 'read', ...rest }, priority);
    if (!response.ok) return failure(response);
    assert(response.header !== undefined && response.checksum !== undefined, 'a read answers header and checksum');
    return {
      ok: true,
      direct: response.direct === true,
      header: response.header,
      checksum: response.checksum,
      elapsedMs: response.elapsedMs,
    };
  }

  async readHeaders(paths: readonly string[]): Promise<readonly (Uint8Array | IoFailure)[]> {
    const response = await this.submit({ kind: 'headers', paths }, 'background');
    if (!response.ok) return paths.map(() => failure(response));
    assert(response.headers?.length === paths.length, 'a headers job answers each path');
    return response.headers.map((header) =>
      header instanceof Uint8Array ? header : { ok: false, errno: header.errno, step: header.step },
    );
  }

  async checksumFile(
    path: string,
    sizeBytes: number,
  ): Promise<{ readonly ok: true; readonly header: Uint8Array; readonly checksum: bigint } | IoFailure> {
    const response = await this.submit({ kind: 'checksum', path, sizeBytes }, 'background');
    if (!response.ok) return failure(response);
    assert(response.header !== undefined && response.checksum !== undefined, 'a checksum job answers header and checksum');
    return { ok: true, header: response.header, checksum: response.checksum };
  }

  async unlink(path: string): Promise<{ readonly ok: true } | IoFailure> {
    return done(await this.submit({ kind: 'unlink', path }, 'write'));
  }

  async rename(from: string, to: string): Promise<{ readonly ok: true } | IoFailure> {
    return done(await this.submit({ kind: 'rename', from, to }, 'write'));
  }

  async list(path: string): Promise<{ readonly ok: true; readonly names: readonly string[] } | IoFailure> {
    const response = await this.submit({ kind: 'list', path }, 'prefetch');
    if (!response.ok) return failure(response);
    assert(response.names !== undefined, 'a list job answers names');
    return { ok: true, names: response.names };
  }

  async statFs(path: string): Promise<StatFs | IoFailure> {
    const response = await this.submit({ kind: 'statfs', path }, 'background');
    if (!response.ok) return failure(response);
    assert(response.totalBytes !== undefined && response.freeBytes !== undefined, 'a statfs job answers sizes');
    return { ok: true, totalBytes: response.totalBytes, freeBytes: response.freeBytes };
  }

  queueDepth(): Readonly<Record<IoPriority, number>> {
    const q = this.#queues;
    return { demand: q.demand.length, prefetch: q.prefetch.length, write: q.write.length, background: q.background.length };
  }

  /** Drops what is queued (ECANCELED), waits for what runs, ends the threads. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const priority of priorities) {
      for (const job of this.#queues[priority].splice(0)) job.resolve({ ok: false, errno: ECANCELED, step: 'pool closed', elapsedMs: 0 });
    }
    await Promise.all(
      this.#threads.map(async (thread) => {
        const job = thread.current;
        if (job !== undefined) {
          const { promise, resolve } = Promise.withResolvers<void>();
          thread.current = { ...job, resolve: (response) => (job.resolve(response), resolve()) };
          await promise;
        }
        thread.worker.terminate();
      }),
    );
  }
}

function isSlow(priority: IoPriority): boolean {
  return priority === 'write' || priority === 'background';
}

function failure(response: { readonly errno: number; readonly step: string }): IoFailure {
  return { ok: false, errno: response.errno, step: response.step };
}

function done(response: TimedFileResponse): { readonly ok: true } | IoFailure {
  return response.ok ? { ok: true } : failure(response);
}

export interface HostIoPoolOptions {
  readonly socketWorkers: number;
  readonly fileWorkers: number;
  /** A worker threw: a bug of ours, fatal. */
  readonly onCrash: (reason: string) => void;
}

export class HostIoPool implements IoPool {
  readonly sockets: SocketIo;
  readonly files: HostFileIo;
  readonly #socketThreads: readonly SocketThread[];

  constructor(socketThreads: readonly SocketThread[], files: HostFileIo) {
    this.#socketThreads = socketThreads;
    this.sockets = new HostSocketIo(socketThreads);
    this.files = files;
  }

  /** Resolves when every thread runs. */
  static async start(options: HostIoPoolOptions): Promise<HostIoPool> {
    const socketThreads = Array.from({ length: options.socketWorkers }, () => new SocketThread(options.onCrash));
    const files = new HostFileIo(options.fileWorkers, options.onCrash);
    await Promise.all(socketThreads.map((thread) => thread.ready));
    return new HostIoPool(socketThreads, files);
  }

  registerArena(address: Address, sizeBytes: number): void {
    for (const thread of this.#socketThreads)
      thread.submit({ ...emptyJobRecord(), kind: KIND_ARENA, address, sizeBytes }, nothing, nothing);
    this.files.registerArena(address, sizeBytes);
  }

  async populate(address: Address, sizeBytes: number): Promise<{ readonly ok: true } | IoFailure> {
    return done(await this.files.submit({ kind: 'populate', address, sizeBytes }, 'background'));
  }

  /** fdatasync off the main thread. */
  async syncFile(fd: Fd): Promise<{ readonly ok: true } | IoFailure> {
    return done(await this.files.submit({ kind: 'fdatasync', fd }, 'demand'));
  }

  async close(): Promise<void> {
    await Promise.all([...this.#socketThreads.map((thread) => thread.stop()), this.files.close()]);
  }
}
