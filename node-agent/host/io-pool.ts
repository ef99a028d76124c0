/**
 * The real IoPool: socket workers that wait in epoll (socket-worker.ts) and file workers that block in the kernel
 * (file-worker.ts), all threads of this process. See docs/adr/0001-io-pool.md.
 *
 * A thread whose job has passed its deadline sits in the kernel and cannot be had back: it is stuck, its job fails, and a spare
 * thread takes its place. There are at most as many spares as threads. A stuck thread that comes back replaces a spare.
 *
 * Invariants: a job's promise settles exactly once; a file worker has one job, or copies that were handed over together; writes and background jobs occupy at most
 * half of the file workers, so a demand read always finds one soon; jobs of one priority start in the order of their arrival; at
 * most `threadCount` threads are not stuck, and at most twice as many exist; a stuck job is counted nowhere but among the stuck.
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
import type { RegionIo, RegionSpan } from '#ports/local-door.ts';
import type { ArenaRequest, CopyRequest, FileRequest, TimedFileResponse } from './file-requests.ts';
import { JobRing, KIND_ARENA, KIND_RECEIVE, KIND_SEND, KIND_STOP, emptyJobRecord } from './io-jobs.ts';
import type { SocketCompletion, SocketJobRecord } from './io-jobs.ts';
import { receiveNow, sendNow } from './socket-now.ts';
import { ECANCELED, EFD_CLOEXEC, EFD_NONBLOCK, ETIMEDOUT, addressOf, errno, libc } from './libc.ts';

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
      deadlineMs: job.deadlineMs ?? Number.POSITIVE_INFINITY,
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
      deadlineMs: job.deadlineMs ?? Number.POSITIVE_INFINITY,
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
  readonly resolve: (response: TimedFileResponse & { readonly late?: Promise<boolean> }) => void;
  /** Of running, not of waiting. */
  readonly deadlineMs: number;
}

interface FileThread {
  readonly worker: Worker;
  /** One job, or copies that were handed over together. */
  current: readonly FileJob[] | undefined;
  startedAtMs: number;
  /** Set while `current` is past its deadline: tells how it ended, if it ever does. */
  late: PromiseWithResolvers<boolean> | undefined;
}

type FileOutcome = TimedFileResponse & { readonly late?: Promise<boolean> };

/** A device that moves less than this is as good as stuck. */
const SLOWEST_BYTES_PER_MS = 16 * 1024;
/** For each file of a job that reads many headers. */
const HEADER_MS = 50;
const WATCH_MS = 250;
const DEFAULT_DEADLINE_MS = 10_000;
/**
 * Copies handed over in one message, at most: a message each way takes a thread some 100 us in which it copies nothing, as long as 1 MiB.
 * Who waits behind a bundle waits for 2 ms.
 */
const BUNDLE_BYTES = 16 * 1024 * 1024;

/** The time that a job may run; without end for what is no device's business. */
function deadlineOf(request: FileRequest, baseMs: number): number {
  switch (request.kind) {
    case 'populate':
    case 'fdatasync':
      return Number.POSITIVE_INFINITY;
    case 'headers':
      return baseMs + request.paths.length * HEADER_MS;
    case 'write':
    case 'read':
    case 'readInto':
    case 'copyOut':
    case 'copyIn':
    case 'checksum':
      return baseMs + request.sizeBytes / SLOWEST_BYTES_PER_MS;
    default:
      return baseMs;
  }
}

function pathOf(request: FileRequest): string {
  if ('path' in request) return request.path;
  return request.kind === 'rename' ? request.from : request.kind === 'headers' ? (request.paths[0] ?? '') : '';
}

class HostFileIo implements FileIo, RegionIo {
  readonly #threads: FileThread[] = [];
  readonly #queues: Record<IoPriority, FileJob[]> = { demand: [], prefetch: [], write: [], background: [] };
  #slowRunning = 0;
  readonly #slowLimit: number;
  readonly #threadCount: number;
  readonly #deadlineMs: number;
  readonly #onCrash: (reason: string) => void;
  readonly #arenas: { readonly address: Address; readonly sizeBytes: number }[] = [];
  readonly #watch: ReturnType<typeof setInterval>;
  #closed = false;

  constructor(options: { readonly threadCount: number; readonly deadlineMs: number; readonly onCrash: (reason: string) => void }) {
    this.#threadCount = options.threadCount;
    this.#slowLimit = Math.max(1, Math.floor(options.threadCount / 2));
    this.#deadlineMs = options.deadlineMs;
    this.#onCrash = options.onCrash;
    for (let index = 0; index < options.threadCount; index += 1) this.#addThread();
    this.#watch = setInterval(() => this.#lookForStuck(), Math.min(WATCH_MS, options.deadlineMs));
    this.#watch.unref();
  }

  #addThread(): void {
    const worker = new Worker(new URL('./file-worker.ts', import.meta.url).href);
    const thread: FileThread = { worker, current: undefined, startedAtMs: 0, late: undefined };
    worker.onmessage = (event: MessageEvent<readonly TimedFileResponse[]>): void => this.#complete(thread, event.data);
    worker.onerror = (event): void => this.#onCrash(`file worker: ${event.message}`);
    for (const arena of this.#arenas) worker.postMessage({ kind: 'arena', ...arena } satisfies ArenaRequest);
    this.#threads.push(thread);
  }

  /** Threads that sit in an operation past its deadline. */
  get stuckCount(): number {
    return this.#threads.reduce((sum, thread) => sum + (thread.late === undefined ? 0 : 1), 0);
  }

  #lookForStuck(): void {
    const nowMs = performance.now();
    for (const thread of [...this.#threads]) {
      const jobs = thread.current;
      const elapsedMs = nowMs - thread.startedAtMs;
      if (jobs === undefined || thread.late !== undefined || elapsedMs <= this.#deadlineTogether(jobs)) continue;
      const late = Promise.withResolvers<boolean>();
      thread.late = late;
      this.#noteSlow(jobs, -1);
      if (!this.#closed && this.#threads.length < 2 * this.#threadCount) this.#addThread();
      for (const job of jobs) job.resolve({ ok: false, errno: ETIMEDOUT, step: job.request.kind, elapsedMs, late: late.promise });
    }
    this.#dispatch();
  }

  #deadlineTogether(jobs: readonly FileJob[]): number {
    return jobs.reduce((sum, job) => sum + job.deadlineMs - this.#deadlineMs, this.#deadlineMs);
  }

  #noteSlow(jobs: readonly FileJob[], by: 1 | -1): void {
    if (jobs[0] !== undefined && isSlow(jobs[0].priority)) this.#slowRunning += by;
  }

  /** Tells every worker of an arena; call before the first job on its memory. Nobody answers: an answer could be taken for a job's. */
  registerArena(address: Address, sizeBytes: number): void {
    this.#arenas.push({ address, sizeBytes });
    for (const thread of this.#threads) thread.worker.postMessage({ kind: 'arena', address, sizeBytes } satisfies ArenaRequest);
  }

  abandon(pathStart: string): void {
    for (const priority of priorities) {
      const queue = this.#queues[priority];
      const [dropped, kept] = [queue.filter((job) => pathOf(job.request).startsWith(pathStart)), [] as FileJob[]];
      if (dropped.length === 0) continue;
      for (const job of queue.splice(0)) if (!pathOf(job.request).startsWith(pathStart)) kept.push(job);
      queue.push(...kept);
      for (const job of dropped) job.resolve({ ok: false, errno: ETIMEDOUT, step: `${job.request.kind} not begun`, elapsedMs: 0 });
    }
  }

  submit(request: FileRequest, priority: IoPriority): Promise<FileOutcome> {
    if (this.#closed) return Promise.resolve({ ok: false, errno: ECANCELED, step: 'pool closed', elapsedMs: 0 });
    const { promise, resolve } = Promise.withResolvers<FileOutcome>();
    this.#queues[priority].push({ request, priority, resolve, deadlineMs: deadlineOf(request, this.#deadlineMs) });
    this.#dispatch();
    return promise;
  }

  #dispatch(): void {
    for (const thread of this.#threads) {
      if (thread.current !== undefined) continue;
      const jobs = this.#take();
      if (jobs === undefined) return;
      thread.current = jobs;
      thread.startedAtMs = performance.now();
      this.#noteSlow(jobs, 1);
      thread.worker.postMessage(jobs.map((job) => job.request));
    }
  }

  #take(): readonly FileJob[] | undefined {
    for (const priority of priorities) {
      if (isSlow(priority) && this.#slowRunning >= this.#slowLimit) continue;
      const queue = this.#queues[priority];
      const job = queue.shift();
      if (job !== undefined) return isCopy(job.request) ? [job, ...this.#furtherCopies(queue, job.request.sizeBytes)] : [job];
    }
    return undefined;
  }

  /** Copies that follow in the queue, so many that what is left is enough for the other threads that are idle. */
  #furtherCopies(queue: FileJob[], sizeBytes: number): readonly FileJob[] {
    const idleCount = this.#threads.reduce((sum, thread) => sum + (thread.current === undefined ? 1 : 0), 0);
    const share = Math.floor((queue.length + 1) / Math.max(1, idleCount));
    let count = 0;
    let bytes = sizeBytes;
    for (const { request } of queue) {
      if (count + 1 >= share || !isCopy(request) || bytes + request.sizeBytes > BUNDLE_BYTES) break;
      bytes += request.sizeBytes;
      count += 1;
    }
    return queue.splice(0, count);
  }

  #complete(thread: FileThread, responses: readonly TimedFileResponse[]): void {
    const jobs = thread.current;
    assert(jobs?.length === responses.length, 'a file worker answers the jobs that it was given');
    thread.current = undefined;
    if (thread.late !== undefined) {
      return this.#cameBack(
        thread,
        responses.every((response) => response.ok),
      );
    }
    this.#noteSlow(jobs, -1);
    this.#dispatch();
    for (const [index, job] of jobs.entries()) job.resolve(responses[index]!);
  }

  /** The job was answered long ago; one thread more than there should be goes. */
  #cameBack(thread: FileThread, done: boolean): void {
    thread.late?.resolve(done);
    thread.late = undefined;
    if (this.#threads.length - this.stuckCount > this.#threadCount || this.#closed) {
      this.#threads.splice(this.#threads.indexOf(thread), 1);
      thread.worker.terminate();
    } else this.#dispatch();
  }

  async writeChunk(job: WriteChunkJob): Promise<WriteChunkDone | IoFailure> {
    const response = await this.submit({ kind: 'write', ...job }, 'write');
    return response.ok ? { ok: true, direct: response.direct === true, elapsedMs: response.elapsedMs } : failure(response);
  }

  async readChunk(job: ReadChunkJob): Promise<ReadChunkDone | IoFailure> {
    const { priority, region, ...rest } = job;
    const request: FileRequest =
      region === undefined
        ? { kind: 'read', ...rest }
        : { kind: 'readInto', path: job.path, regionFd: region.fd, regionOffset: region.offset, regionAddress: job.address, ...sizes(job) };
    const response = await this.submit(request, priority);
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

  async copyOut(from: { readonly address: Address }, to: RegionSpan): Promise<{ readonly ok: true } | IoFailure> {
    return done(await this.submit(copyRequest('copyOut', from, to), 'demand'));
  }

  async copyIn(from: RegionSpan, to: { readonly address: Address }): Promise<{ readonly ok: true; readonly checksum: bigint } | IoFailure> {
    const response = await this.submit(copyRequest('copyIn', to, from), 'demand');
    if (!response.ok) return failure(response);
    assert(response.checksum !== undefined, 'a copy into an arena answers a checksum');
    return { ok: true, checksum: response.checksum };
  }

  /** Drops what is queued (ECANCELED), waits for what runs unless it is stuck, ends the threads. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const priority of priorities) {
      for (const job of this.#queues[priority].splice(0)) job.resolve({ ok: false, errno: ECANCELED, step: 'pool closed', elapsedMs: 0 });
    }
    await Promise.all(
      this.#threads.map(async (thread) => {
        const jobs = thread.current;
        if (jobs !== undefined && thread.late === undefined) {
          await new Promise<void>((done) => {
            thread.current = jobs.map((job) => ({ ...job, resolve: (response) => (job.resolve(response), done()) }));
          });
        }
        thread.worker.terminate();
      }),
    );
    clearInterval(this.#watch);
  }
}

function sizes({ sizeBytes, direct }: ReadChunkJob): { readonly sizeBytes: number; readonly direct: boolean } {
  return { sizeBytes, direct };
}

function copyRequest(
  kind: 'copyOut' | 'copyIn',
  arena: { readonly address: Address },
  { region, offset, sizeBytes }: RegionSpan,
): FileRequest {
  return {
    kind,
    arenaAddress: arena.address,
    regionFd: region.fd,
    regionOffset: offset,
    regionAddress: region.address + offset,
    sizeBytes,
    sealed: region.sealed,
  };
}

function isCopy(request: FileRequest): request is CopyRequest {
  return request.kind === 'copyOut' || request.kind === 'copyIn';
}

function isSlow(priority: IoPriority): boolean {
  return priority === 'write' || priority === 'background';
}

function failure(response: { readonly errno: number; readonly step: string; readonly late?: Promise<boolean> }): IoFailure {
  const { errno: reason, step, late } = response;
  return late === undefined ? { ok: false, errno: reason, step } : { ok: false, errno: reason, step, late };
}

function done(response: FileOutcome): { readonly ok: true } | IoFailure {
  return response.ok ? { ok: true } : failure(response);
}

export interface HostIoPoolOptions {
  readonly socketWorkers: number;
  readonly fileWorkers: number;
  /** How long a file operation may run, besides what its bytes take; default: 10 s. */
  readonly fileDeadlineMs?: number;
  /** A worker threw: a bug of ours, fatal. */
  readonly onCrash: (reason: string) => void;
}

export class HostIoPool implements IoPool {
  readonly sockets: SocketIo;
  readonly files: HostFileIo;
  readonly regions: RegionIo;
  readonly #socketThreads: readonly SocketThread[];

  constructor(socketThreads: readonly SocketThread[], files: HostFileIo) {
    this.#socketThreads = socketThreads;
    this.sockets = new HostSocketIo(socketThreads);
    this.files = files;
    this.regions = files;
  }

  /** Resolves when every thread runs. */
  static async start(options: HostIoPoolOptions): Promise<HostIoPool> {
    const socketThreads = Array.from({ length: options.socketWorkers }, () => new SocketThread(options.onCrash));
    const { fileWorkers: threadCount, fileDeadlineMs: deadlineMs = DEFAULT_DEADLINE_MS, onCrash } = options;
    const files = new HostFileIo({ threadCount, deadlineMs, onCrash });
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

  /** Checksum of a payload that lies in mapped memory; undefined where the thread that looked is gone. */
  async checksumMemory(address: Address, sizeBytes: number): Promise<bigint | undefined> {
    const response = await this.files.submit({ kind: 'memory', address, sizeBytes }, 'demand');
    return response.ok ? response.checksum : undefined;
  }

  /** fdatasync off the main thread. */
  async syncFile(fd: Fd): Promise<{ readonly ok: true } | IoFailure> {
    return done(await this.files.submit({ kind: 'fdatasync', fd }, 'demand'));
  }

  async close(): Promise<void> {
    await Promise.all([...this.#socketThreads.map((thread) => thread.stop()), this.files.close()]);
  }
}
