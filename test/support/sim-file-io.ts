/**
 * FileIo on a SimDisk and SimSharedMemory. A job is a list of steps, each an effect that others can see (a temporary file, half of
 * its bytes, the rename, bytes in memory); the test decides whose step comes next, so that every interleaving and every point of
 * a crash can happen. Folders are listed at once.
 */
import type { Address } from '#core/brand.ts';
import type { BlockHash } from '#core/checksum.ts';
import { checksum } from '#core/checksum.ts';
import { BLOCK_BYTES, roundUp } from '#core/bytes.ts';
import { SHORT_FILE } from '#ports/io-pool.ts';
import type { FileIo, IoFailure, IoPriority, ReadChunkDone, ReadChunkJob, StatFs, WriteChunkDone, WriteChunkJob } from '#ports/io-pool.ts';
import type { RegionIo, RegionSpan } from '#ports/local-door.ts';
import type { SimClock, SimRng } from './sim-clock.ts';
import type { SimDisk } from './sim-disk.ts';
import { SimWatch } from './sim-hangs.ts';
import type { SimHangs } from './sim-hangs.ts';
import { SimMemoryFault } from './sim-shared-memory.ts';
import type { SimSharedMemory } from './sim-shared-memory.ts';

export const EIO = 5;
const ENOENT = 2;
const EFAULT = 14;
const ENOSPC = 28;
const ETIMEDOUT = 110;

export type SimJobKind = 'write' | 'read' | 'headers' | 'checksum' | 'unlink' | 'rename' | 'copyOut' | 'copyIn';

export interface SimJob {
  readonly kind: SimJobKind;
  readonly path: string;
  readonly priority: IoPriority;
  /** Steps done. 0: not begun. */
  done: number;
  /** Steps left, the last of which delivers the outcome. */
  readonly steps: (() => IoFailure | undefined)[];
  readonly fail: (failure: IoFailure) => void;
  /** It hangs, and its deadline counts from here. */
  runsSinceMs?: number;
  /** Set once the caller was told that the job passed its deadline. */
  late?: PromiseWithResolvers<boolean>;
  lie?: SimLie;
}

/** What a device does that says that all is well. */
export type SimLie = 'torn' | 'flip' | 'misdirected';

export interface SimFault {
  readonly kind: SimJobKind;
  readonly errno: number;
  /** The job succeeds, and this happened to its bytes; `errno` does not count. Writes and reads only. */
  readonly lie?: SimLie;
  /** Start of the path; '' for any. */
  readonly path?: string;
  /** Jobs that fail; default 1. */
  times?: number;
}

export class SimFileIo implements FileIo, RegionIo {
  readonly jobs: SimJob[] = [];
  readonly faults: SimFault[] = [];
  /** Jobs finished so far by kind. */
  readonly finished: Record<SimJobKind, number> = {
    write: 0,
    read: 0,
    headers: 0,
    checksum: 0,
    unlink: 0,
    rename: 0,
    copyOut: 0,
    copyIn: 0,
  };
  /** Jobs whose path begins so begin and never end: a device that does not answer. `unstick` lets them go on. */
  readonly stuck = new Set<string>();
  /** Whether the file systems take O_DIRECT. */
  direct = true;
  /** What statFs and list fail with, by start of the path. */
  readonly brokenFolders = new Map<string, number>();
  readonly #disk: SimDisk;
  readonly #memory: SimSharedMemory;
  readonly #clock: SimClock;
  readonly #hash: BlockHash;
  /** Where devices hang and come back by themselves. */
  readonly #watch: SimWatch | undefined;
  #dead = false;

  constructor(parts: {
    disk: SimDisk;
    memory: SimSharedMemory;
    clock: SimClock;
    hash: BlockHash;
    hangs?: { hangs: SimHangs; rng: SimRng };
  }) {
    this.#disk = parts.disk;
    this.#memory = parts.memory;
    this.#clock = parts.clock;
    this.#hash = parts.hash;
    this.#watch = parts.hangs && new SimWatch({ ...parts.hangs, clock: parts.clock, jobs: this.jobs });
  }

  /** A device hangs from now on: who waits for it is told in time. */
  watch(): void {
    this.#watch?.look();
  }

  get activeCount(): number {
    return this.jobs.length;
  }

  /** Jobs that can make a step. */
  get readyCount(): number {
    return this.jobs.reduce((sum, job) => sum + (this.#isStuck(job) ? 0 : 1), 0);
  }

  /** One step of a job (of a random one, unless named). False where there is none. */
  step(rng: SimRng, named?: SimJob): boolean {
    const ready = this.jobs.filter((other) => !this.#isStuck(other));
    const job = named ?? ready[rng.below(ready.length)];
    if (job === undefined) return false;
    const effect = job.steps[job.done];
    job.done += 1;
    if (job.done === job.steps.length) this.jobs.splice(this.jobs.indexOf(job), 1);
    const fault = job.done === 1 ? this.#takeFault(job) : undefined;
    const failure = fault ?? run(effect);
    if (failure === undefined) {
      if (job.done < job.steps.length) return true;
      this.finished[job.kind] += 1;
      job.late?.resolve(true);
      return true;
    }
    const at = this.jobs.indexOf(job);
    if (at >= 0) this.jobs.splice(at, 1);
    job.late?.resolve(false);
    job.fail(failure);
    return true;
  }

  #takeFault(job: SimJob): IoFailure | undefined {
    const at = this.faults.findIndex((fault) => fault.kind === job.kind && job.path.startsWith(fault.path ?? ''));
    const fault = this.faults[at];
    if (fault === undefined) return undefined;
    fault.times = (fault.times ?? 1) - 1;
    if (fault.times <= 0) this.faults.splice(at, 1);
    if (fault.lie !== undefined) {
      job.lie = fault.lie;
      return undefined;
    }
    return { ok: false, errno: fault.errno, step: job.kind };
  }

  #isStuck(job: SimJob): boolean {
    if (this.#watch?.mayStep(job) === false) return true;
    for (const start of this.stuck) if (job.path.startsWith(start)) return true;
    return false;
  }

  /** As the pool does after the deadline: whoever waits for a stuck job that runs is told; at most `threads` run. Answers how many. */
  passDeadline(threads = Number.POSITIVE_INFINITY): number {
    const late = this.jobs.filter((job) => this.#isStuck(job) && job.late === undefined).slice(0, threads);
    for (const job of late) {
      job.late = Promise.withResolvers<boolean>();
      job.fail({ ok: false, errno: ETIMEDOUT, step: job.kind, late: job.late.promise });
    }
    return late.length;
  }

  /** The device answers again. */
  unstick(): void {
    this.stuck.clear();
  }

  abandon(pathStart: string): void {
    const waits = (job: SimJob): boolean => job.done === 0 && job.late === undefined && job.runsSinceMs === undefined;
    for (const job of this.jobs.filter((other) => waits(other) && other.path.startsWith(pathStart))) {
      this.jobs.splice(this.jobs.indexOf(job), 1);
      job.fail({ ok: false, errno: ETIMEDOUT, step: `${job.kind} not begun` });
    }
  }

  /** The process is killed: each job under way gets some of its steps, nobody hears of any, and no new job begins. */
  kill(rng: SimRng): void {
    this.#dead = true;
    for (const job of this.jobs.splice(0)) {
      // The last step is the message that nobody receives any more.
      const steps = rng.below(job.steps.length - job.done);
      for (let step = 0; step < steps; step += 1) {
        if (run(job.steps[job.done]) !== undefined) break;
        job.done += 1;
      }
    }
  }

  #submit<T>(
    kind: SimJobKind,
    path: string,
    options: { priority: IoPriority; steps: (() => IoFailure | undefined)[]; outcome: () => T; onJob?: (job: SimJob) => void },
  ): Promise<T | IoFailure> {
    if (this.#dead) return new Promise(() => {});
    return new Promise((resolve) => {
      const job: SimJob = {
        kind,
        path,
        priority: options.priority,
        done: 0,
        fail: resolve,
        steps: [
          ...options.steps,
          (): undefined => {
            resolve(options.outcome());
            return undefined;
          },
        ],
      };
      this.jobs.push(job);
      options.onJob?.(job);
    });
  }

  writeChunk(job: WriteChunkJob): Promise<WriteChunkDone | IoFailure> {
    const startedMs = this.#clock.monotonicMs();
    const fileBytes = BLOCK_BYTES + roundUp(job.sizeBytes, BLOCK_BYTES);
    const put = (share: number): IoFailure | undefined => {
      const bytes = new Uint8Array(fileBytes);
      bytes.set(job.header);
      const placed = Math.floor(job.sizeBytes * share);
      bytes.set(this.#memory.at(job.address, job.sizeBytes).subarray(0, placed), BLOCK_BYTES);
      this.#disk.unlink(job.tempPath);
      if (this.#disk.freeBytes(job.path) < fileBytes) return { ok: false, errno: ENOSPC, step: 'write' };
      return this.#disk.put(job.tempPath, bytes.subarray(0, share === 1 ? fileBytes : BLOCK_BYTES + placed))
        ? undefined
        : { ok: false, errno: ENOENT, step: 'open' };
    };
    let own: SimJob | undefined;
    const rename = (): IoFailure | undefined => {
      if (own?.lie !== undefined) this.#lieOfWrite(own.lie, job.tempPath);
      if (!this.#disk.move(job.tempPath, job.path)) return { ok: false, errno: ENOENT, step: 'rename' };
      if (job.sync) this.#disk.synced(job.path);
      return undefined;
    };
    return this.#submit('write', job.path, {
      priority: 'write',
      onJob: (submitted) => void (own = submitted),
      steps: [() => put(0.5), () => put(1), rename],
      outcome: () => ({ ok: true, direct: job.direct && this.direct, elapsedMs: Math.max(1, this.#clock.monotonicMs() - startedMs) }),
    });
  }

  /** The device took the write and did something else. */
  #lieOfWrite(lie: SimLie, path: string): void {
    const bytes = this.#disk.file(path)?.slice();
    if (bytes === undefined) return;
    const middle = BLOCK_BYTES * Math.floor(bytes.length / BLOCK_BYTES / 2);
    if (lie === 'flip') bytes[middle] = (bytes[middle] ?? 0) ^ 1;
    else if (lie === 'torn') bytes.fill(0, middle);
    else {
      const other = this.#otherFile(path);
      if (other !== undefined) this.#disk.put(other, bytes.slice());
      bytes.fill(0);
    }
    this.#disk.put(path, bytes);
  }

  #otherFile(path: string): string | undefined {
    const folder = path.split('/').slice(0, 3).join('/');
    return this.#disk.filesBelow(folder).findLast((file) => file.endsWith('.kv') && file !== path);
  }

  readChunk(job: ReadChunkJob): Promise<ReadChunkDone | IoFailure> {
    const startedMs = this.#clock.monotonicMs();
    let header = new Uint8Array(0);
    let sum = 0n;
    let own: SimJob | undefined;
    const read = (): IoFailure | undefined => {
      const wrong = own?.lie === 'misdirected' ? this.#otherFile(job.path) : undefined;
      let bytes = this.#disk.file(wrong ?? job.path);
      if (bytes === undefined) return { ok: false, errno: ENOENT, step: 'open' };
      if (own?.lie === 'flip' || own?.lie === 'torn') {
        bytes = bytes.slice();
        const at = Math.min(bytes.length - 1, BLOCK_BYTES + Math.floor(job.sizeBytes / 2));
        bytes[at] = (bytes[at] ?? 0) ^ 4;
      }
      if (bytes.length < BLOCK_BYTES + job.sizeBytes) return { ok: false, errno: EIO, step: SHORT_FILE };
      header = bytes.slice(0, BLOCK_BYTES);
      const target = this.#memory.at(job.address, job.sizeBytes);
      target.set(bytes.subarray(BLOCK_BYTES, BLOCK_BYTES + job.sizeBytes));
      sum = checksum(target, this.#hash);
      return undefined;
    };
    // A client sees its memory change before it is told.
    const half = (): IoFailure | undefined => {
      const bytes = this.#disk.file(job.path)?.subarray(BLOCK_BYTES, BLOCK_BYTES + (job.sizeBytes >> 1));
      if (bytes !== undefined) this.#memory.at(job.address, job.sizeBytes).set(bytes);
      return undefined;
    };
    return this.#submit('read', job.path, {
      priority: job.priority,
      onJob: (submitted) => void (own = submitted),
      steps: job.region === undefined ? [read] : [half, read],
      outcome: () => ({
        ok: true,
        direct: job.direct && this.direct,
        header,
        checksum: sum,
        elapsedMs: Math.max(1, this.#clock.monotonicMs() - startedMs),
      }),
    });
  }

  copyOut(from: { readonly address: Address }, { region, offset, sizeBytes }: RegionSpan): Promise<{ readonly ok: true } | IoFailure> {
    const copy = (share: number) => (): undefined => {
      const bytes = Math.ceil(sizeBytes * share);
      this.#memory.at(region.address + offset, sizeBytes).set(this.#memory.at(from.address, bytes));
      return undefined;
    };
    return this.#submit('copyOut', '', { priority: 'demand', steps: [copy(0.5), copy(1)], outcome: () => ({ ok: true as const }) });
  }

  copyIn(
    { region, offset, sizeBytes }: RegionSpan,
    to: { readonly address: Address },
  ): Promise<{ readonly ok: true; readonly checksum: bigint } | IoFailure> {
    let sum = 0n;
    const copy = (share: number) => (): undefined => {
      const target = this.#memory.at(to.address, sizeBytes);
      target.set(this.#memory.at(region.address + offset, sizeBytes).subarray(0, Math.ceil(sizeBytes * share)));
      sum = checksum(target, this.#hash);
      return undefined;
    };
    return this.#submit('copyIn', '', {
      priority: 'demand',
      steps: [copy(0.5), copy(1)],
      outcome: () => ({ ok: true as const, checksum: sum }),
    });
  }

  async readHeaders(paths: readonly string[]): Promise<readonly (Uint8Array | IoFailure)[]> {
    let headers: (Uint8Array | IoFailure)[] = [];
    const read = (): undefined => {
      headers = paths.map((path) => {
        const bytes = this.#disk.file(path);
        if (bytes === undefined) return { ok: false, errno: ENOENT, step: 'open' };
        return bytes.length < BLOCK_BYTES ? { ok: false, errno: EIO, step: SHORT_FILE } : bytes.slice(0, BLOCK_BYTES);
      });
      return undefined;
    };
    const outcome = await this.#submit('headers', paths[0] ?? '', { priority: 'background', steps: [read], outcome: () => headers });
    return 'ok' in outcome ? paths.map(() => outcome) : outcome;
  }

  checksumFile(
    path: string,
    sizeBytes: number,
  ): Promise<{ readonly ok: true; readonly header: Uint8Array; readonly checksum: bigint } | IoFailure> {
    let header = new Uint8Array(0);
    let sum = 0n;
    const read = (): IoFailure | undefined => {
      const bytes = this.#disk.file(path);
      if (bytes === undefined) return { ok: false, errno: ENOENT, step: 'open' };
      if (bytes.length < BLOCK_BYTES + sizeBytes) return { ok: false, errno: EIO, step: SHORT_FILE };
      header = bytes.slice(0, BLOCK_BYTES);
      sum = checksum(bytes.subarray(BLOCK_BYTES, BLOCK_BYTES + sizeBytes), this.#hash);
      return undefined;
    };
    return this.#submit('checksum', path, {
      priority: 'background',
      steps: [read],
      outcome: () => ({ ok: true as const, header, checksum: sum }),
    });
  }

  unlink(path: string): Promise<{ readonly ok: true } | IoFailure> {
    const unlink = (): IoFailure | undefined => (this.#disk.unlink(path) ? undefined : { ok: false, errno: ENOENT, step: 'unlink' });
    return this.#submit('unlink', path, { priority: 'write', steps: [unlink], outcome: () => ({ ok: true as const }) });
  }

  rename(from: string, to: string): Promise<{ readonly ok: true } | IoFailure> {
    const rename = (): IoFailure | undefined => (this.#disk.move(from, to) ? undefined : { ok: false, errno: ENOENT, step: 'rename' });
    return this.#submit('rename', from, { priority: 'write', steps: [rename], outcome: () => ({ ok: true as const }) });
  }

  #broken(path: string, step: string): IoFailure | undefined {
    for (const [start, errno] of this.brokenFolders) if (path.startsWith(start)) return { ok: false, errno, step };
    return undefined;
  }

  list(path: string): Promise<{ readonly ok: true; readonly names: readonly string[] } | IoFailure> {
    const names = this.#disk.names(path);
    return Promise.resolve(
      this.#broken(path, 'list') ?? (names === undefined ? { ok: false, errno: ENOENT, step: 'list' } : { ok: true, names }),
    );
  }

  statFs(path: string): Promise<StatFs | IoFailure> {
    const broken = this.#broken(path, 'statfs');
    if (broken !== undefined) return Promise.resolve(broken);
    if (!this.#disk.exists(path)) return Promise.resolve({ ok: false, errno: ENOENT, step: 'statfs' });
    return Promise.resolve({ ok: true, ...this.#disk.statFs(path) });
  }

  queueDepth(): Readonly<Record<IoPriority, number>> {
    const depth = { demand: 0, prefetch: 0, write: 0, background: 0 };
    for (const job of this.jobs) if (job.done === 0 && job.late === undefined) depth[job.priority] += 1;
    return depth;
  }
}

/** Memory that a client has cut away fails the call, and nothing else. */
function run(effect: (() => IoFailure | undefined) | undefined): IoFailure | undefined {
  try {
    return effect?.();
  } catch (problem) {
    if (problem instanceof SimMemoryFault) return { ok: false, errno: EFAULT, step: 'region' };
    throw problem;
  }
}
