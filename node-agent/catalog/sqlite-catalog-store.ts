/**
 * CatalogStore on SQLite in a worker of its own. The main thread only coalesces changes and posts them; it never waits for a disk.
 *
 * Invariants:
 * - one batch is under way at a time, and it is sent again until it is committed or cannot ever be;
 * - what waits is bounded by the queue; beyond that changes are dropped and counted. A dropped row is rebuilt from its file's header
 *   at the next start, a dropped removal leaves a row without a file, which recovery drops;
 * - the WAL stays below `walLimitBytes` and one batch: above the limit nothing is written until a checkpoint has emptied it.
 *
 * Trouble (a lock of another process, a full disk, a reader that holds the WAL, a lost worker) makes the state `degraded` with its
 * reason after `graceMs`; the store goes on trying, with a pause that doubles up to `maxPauseMs`.
 */
import type { Clock } from '#core/clock.ts';
import { KvtierError } from '#core/errors.ts';
import type { Logger } from '#core/logger.ts';
import type { CatalogChange, CatalogChunk, CatalogInvalidation, CatalogLoad, CatalogStats, CatalogStore } from '#ports/catalog-store.ts';
import { CatalogLink } from './catalog-link.ts';
import type { StartCatalogPeer } from './catalog-link.ts';
import { CatalogFailure } from './catalog-protocol.ts';
import type { CatalogBatch, OpenOptions } from './catalog-protocol.ts';
import { CatalogQueue } from './catalog-queue.ts';
import { readPage } from './chunk-page.ts';
import type { ChunkPage } from './chunk-page.ts';

export interface SqliteCatalogLimits {
  /** Generations and invalidations that may wait. */
  readonly maxChanges: number;
  /** Heap bytes that may wait, as estimated. */
  readonly maxBytes: number;
  /** A change waits at most this long for others before it is sent. */
  readonly batchDelayMs: number;
  /** Changes in one transaction: some 20 ms of the worker, and a bound on how far the WAL overshoots its limit. */
  readonly batchChanges: number;
  /** Uses that come without another change are written this often. */
  readonly touchIntervalMs: number;
  readonly walLimitBytes: number;
  readonly loadPageRows: number;
  /** How long SQLite itself waits for a lock, in the worker. */
  readonly busyTimeoutMs: number;
  /** How long `open` and `close` wait for a lock of another process. */
  readonly patienceMs: number;
  /** Trouble shorter than this is not worth a state. */
  readonly graceMs: number;
  readonly minPauseMs: number;
  readonly maxPauseMs: number;
  /** Rows of the audit log. */
  readonly invalidationLimit: number;
}

export const DEFAULT_CATALOG_LIMITS: SqliteCatalogLimits = {
  maxChanges: 200_000,
  maxBytes: 64 * 1024 * 1024,
  batchDelayMs: 50,
  batchChanges: 2000,
  touchIntervalMs: 5000,
  walLimitBytes: 64 * 1024 * 1024,
  loadPageRows: 10_000,
  busyTimeoutMs: 50,
  patienceMs: 3000,
  graceMs: 2000,
  minPauseMs: 100,
  maxPauseMs: 5000,
  invalidationLimit: 100_000,
};

export interface SqliteCatalogOptions extends Partial<SqliteCatalogLimits> {
  readonly path: string;
  /** Folder of the migrations' SQL. */
  readonly migrationsDir: string;
  readonly clock: Clock;
  readonly logger: Logger;
  /** A worker unless said otherwise. */
  readonly startPeer?: StartCatalogPeer;
}

/** The catalog of a node agent; does nothing until `open`. */
export function createSqliteCatalogStore(options: SqliteCatalogOptions): CatalogStore {
  return new SqliteCatalogStore(options);
}

/** Trouble under way: since when, why, how long the next pause is. */
interface Trouble {
  readonly sinceMs: number;
  reason: string;
  pauseMs: number;
  /** Told in the log. */
  told: boolean;
}

class SqliteCatalogStore implements CatalogStore {
  readonly #options: SqliteCatalogOptions;
  readonly #limits: SqliteCatalogLimits;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #link: CatalogLink;
  readonly #queue: CatalogQueue;
  #state: 'new' | 'open' | 'closing' | 'closed' = 'new';
  /** The worker has the file open. */
  #isOpen = false;
  /** What the next open forgets: of a former process what only its RAM had; all where we started without having read it. */
  #forget: OpenOptions['forget'] = 'ram';
  #underWay: CatalogBatch | undefined;
  #pumping = false;
  #timer: (() => void) | undefined;
  #timerForTouches = false;
  #nextTouchMs = 0;
  #trouble: Trouble | undefined;
  #droppedChanges = 0;
  #drained: (() => void)[] = [];

  constructor(options: SqliteCatalogOptions) {
    this.#options = options;
    this.#limits = { ...DEFAULT_CATALOG_LIMITS, ...options };
    this.#clock = options.clock;
    this.#logger = options.logger;
    this.#link = new CatalogLink(
      (path) => this.#logger.warn('The catalog was corrupt; it is rebuilt from the chunk files', { setAside: path }),
      options.startPeer,
    );
    this.#queue = new CatalogQueue(this.#limits);
  }

  async open(): Promise<CatalogLoad> {
    const giveUpMs = this.#clock.monotonicMs() + this.#limits.patienceMs;
    this.#state = 'open';
    this.#nextTouchMs = this.#clock.monotonicMs() + this.#limits.touchIntervalMs;
    for (;;) {
      try {
        await this.#openLink();
        this.#wake(0);
        return { chunks: this.#load() };
      } catch (error) {
        const failure = this.#failed(error);
        if (failure.kind === 'newer') {
          this.#state = 'closed';
          this.#link.end();
          throw new KvtierError('CATALOG_SCHEMA_NEWER', failure.message, { context: { path: this.#options.path }, cause: error });
        }
        if (failure.kind === 'bug' || this.#clock.monotonicMs() >= giveUpMs) break;
        await this.#pause();
      }
    }
    this.#forget = 'all';
    this.#tell();
    this.#wake(this.#trouble?.pauseMs ?? this.#limits.maxPauseMs);
    return { chunks: noChunks() };
  }

  enqueue(change: CatalogChange): void {
    if (this.#state === 'closed' || !this.#queue.add(change)) {
      this.#droppedChanges += 1;
      return;
    }
    const delayMs = this.#queue.urgentSize >= this.#limits.batchChanges ? 0 : this.#limits.batchDelayMs;
    if (this.#timer === undefined && !this.#pumping && this.#state !== 'new')
      this.#wake(change.kind === 'touch' ? this.#untilTouchMs() : delayMs);
    else if (this.#touchTimer && change.kind !== 'touch') this.#wake(delayMs);
  }

  flush(): Promise<void> {
    if (this.#queue.size === 0 && this.#underWay === undefined) return Promise.resolve();
    return new Promise((resolve) => {
      this.#drained.push(resolve);
      if (!this.#pumping && this.#trouble === undefined) this.#wake(0);
    });
  }

  async listInvalidations(options: { readonly beforeId?: string; readonly limit: number }): Promise<readonly CatalogInvalidation[]> {
    const { beforeId, limit } = options;
    // What waits is newer than what is written, so a page is: waiting ones from `beforeId` on, then rows.
    const waiting = [...(this.#underWay?.invalidations ?? []), ...this.#queue.invalidations].reverse();
    const from = beforeId === undefined ? 0 : waiting.findIndex((row) => row.id === beforeId) + 1;
    const first = beforeId === undefined || from > 0 ? waiting.slice(from, from + limit) : [];
    if (first.length === limit) return first;
    if (!this.#isOpen) throw this.#unavailable('it is not open');
    try {
      const rowsBefore = from > 0 ? undefined : beforeId;
      // What is committed meanwhile comes back twice; ask for as many more, so that a page is short only at the end.
      const rows = (await this.#link.call('invalidations', { beforeId: rowsBefore, limit: limit + waiting.length })) ?? [];
      const seen = new Set(waiting.map((row) => row.id));
      return [...first, ...rows.filter((row) => !seen.has(row.id))].slice(0, limit);
    } catch (error) {
      throw this.#unavailable(error instanceof Error ? error.message : String(error), error);
    }
  }

  stats(): CatalogStats {
    const trouble = this.#trouble;
    const degraded = trouble !== undefined && this.#clock.monotonicMs() - trouble.sinceMs >= this.#limits.graceMs;
    const state = this.#state === 'new' || this.#state === 'closed' ? 'off' : degraded ? 'degraded' : 'ok';
    return {
      state,
      reason: degraded ? trouble.reason : '',
      queuedChanges: this.#queue.size + (this.#underWay?.changeCount ?? 0),
      droppedChanges: this.#droppedChanges,
      walBytes: this.#link.walBytes,
    };
  }

  async close(): Promise<void> {
    if (this.#state !== 'open') return;
    this.#state = 'closing';
    const patience = Promise.withResolvers<void>();
    const cancel = this.#clock.schedule(this.#limits.patienceMs, patience.resolve);
    this.#trouble = undefined;
    this.#wake(0);
    await Promise.race([this.flush(), patience.promise]);
    this.#state = 'closed';
    this.#timer?.();
    this.#timer = undefined;
    this.#droppedChanges += this.#queue.size + (this.#underWay?.changeCount ?? 0);
    if (this.#isOpen) await Promise.race([this.#link.call('close', null).catch(() => undefined), patience.promise]);
    cancel();
    this.#isOpen = false;
    this.#link.end();
    this.#settleDrained();
  }

  async #openLink(): Promise<void> {
    const { path, migrationsDir } = this.#options;
    const { busyTimeoutMs, invalidationLimit } = this.#limits;
    await this.#link.call('open', {
      path,
      migrationsDir,
      busyTimeoutMs,
      invalidationLimit,
      forget: this.#forget,
      nowMs: this.#clock.nowMs(),
    });
    this.#isOpen = true;
    this.#forget = 'nothing';
    this.#recovered();
  }

  async *#load(): AsyncGenerator<readonly CatalogChunk[]> {
    const ask = { limit: this.#limits.loadPageRows };
    let next: Promise<ChunkPage> | undefined = this.#link.call('page', ask);
    try {
      while (next !== undefined) {
        const page: ChunkPage = await next;
        // Reads ahead by one page: the worker reads while the cache takes in what it got.
        next = page.last ? undefined : this.#link.call('page', ask);
        next?.catch(() => undefined);
        if (page.skippedRows > 0) this.#logger.warn('Catalog rows of unknown form were skipped', { rows: page.skippedRows });
        if (page.count > 0) yield readPage(page);
      }
    } catch (error) {
      // Rows that are missing are adopted from their files, so a load that breaks off is a slower start and no more.
      this.#logger.warn('The catalog could not be read to its end', { reason: this.#failed(error).message });
    } finally {
      if (next !== undefined && this.#link.isAlive) await this.#link.call('endLoad', null).catch(() => undefined);
    }
  }

  /** True where the timer is set for touches only. */
  get #touchTimer(): boolean {
    return this.#timer !== undefined && this.#timerForTouches;
  }

  #untilTouchMs(): number {
    return Math.max(0, this.#nextTouchMs - this.#clock.monotonicMs());
  }

  /** Runs the pump after a delay, instead of whenever it was due. */
  #wake(delayMs: number): void {
    this.#timer?.();
    if (this.#state === 'closed') return;
    this.#timerForTouches = this.#queue.urgentSize === 0 && this.#trouble === undefined;
    this.#timer = this.#clock.schedule(delayMs, () => {
      this.#timer = undefined;
      void this.#pump();
    });
  }

  /** Sends batches until nothing is due. Never throws. */
  async #pump(): Promise<void> {
    if (this.#pumping || this.#state === 'closed' || this.#state === 'new') return;
    this.#pumping = true;
    try {
      while (await this.#step()) {
        if ((this.#state as string) === 'closed') return;
      }
    } finally {
      this.#pumping = false;
    }
    if (this.#queue.size === 0 && this.#underWay === undefined) this.#settleDrained();
    else if (this.#trouble !== undefined) this.#wake(this.#trouble.pauseMs);
    else if (this.#drained.length > 0) this.#wake(0);
    else this.#wake(this.#queue.urgentSize > 0 ? this.#limits.batchDelayMs : this.#untilTouchMs());
  }

  /** One call of the worker; false where there is nothing to send now, or trouble. */
  async #step(): Promise<boolean> {
    try {
      if (!this.#isOpen || !this.#link.isAlive) {
        this.#isOpen = false;
        await this.#openLink();
      }
      if (this.#link.walBytes > this.#limits.walLimitBytes && !(await this.#emptyWal())) return false;
      const batch = (this.#underWay ??= this.#take());
      if (batch === undefined) return false;
      await this.#link.call('apply', batch);
      this.#underWay = undefined;
      this.#recovered();
      return this.#drained.length > 0 || this.#queue.urgentSize >= this.#limits.batchChanges;
    } catch (error) {
      const failure = this.#failed(error);
      if (failure.kind === 'bug' && this.#underWay !== undefined && this.#isOpen) {
        // Sent again it would fail again, for ever.
        this.#logger.error('A catalog batch was dropped', { changes: this.#underWay.changeCount, reason: failure.message });
        this.#droppedChanges += this.#underWay.changeCount;
        this.#underWay = undefined;
        this.#recovered();
        return true;
      }
      return false;
    }
  }

  #take(): CatalogBatch | undefined {
    const touches = this.#drained.length > 0 || this.#untilTouchMs() === 0;
    if (touches) this.#nextTouchMs = this.#clock.monotonicMs() + this.#limits.touchIntervalMs;
    return this.#queue.take(this.#limits.batchChanges, { touches, nowMs: this.#clock.nowMs() });
  }

  /** False where a reader holds the WAL. */
  async #emptyWal(): Promise<boolean> {
    await this.#link.call('checkpoint', null);
    if (this.#link.walBytes <= this.#limits.walLimitBytes) return true;
    this.#failed(new CatalogFailure('busy', `a long reader holds the WAL (${this.#link.walBytes} bytes)`));
    return false;
  }

  /** Notes trouble and returns it. */
  #failed(error: unknown): CatalogFailure {
    const failure = error instanceof CatalogFailure ? error : new CatalogFailure('bug', String(error), error);
    const trouble = this.#trouble;
    const reason = reasonOf(failure);
    if (trouble === undefined)
      this.#trouble = { sinceMs: this.#clock.monotonicMs(), reason, pauseMs: this.#limits.minPauseMs, told: false };
    else {
      trouble.reason = reason;
      trouble.pauseMs = Math.min(trouble.pauseMs * 2, this.#limits.maxPauseMs);
      if (this.#clock.monotonicMs() - trouble.sinceMs >= this.#limits.graceMs) this.#tell();
    }
    return failure;
  }

  #tell(): void {
    if (this.#trouble === undefined || this.#trouble.told) return;
    this.#trouble.told = true;
    this.#logger.warn('The catalog is degraded; serving goes on without it', { reason: this.#trouble.reason });
  }

  #recovered(): void {
    if (this.#trouble?.told === true) this.#logger.info('The catalog works again', { droppedChanges: this.#droppedChanges });
    this.#trouble = undefined;
  }

  #settleDrained(): void {
    for (const resolve of this.#drained.splice(0)) resolve();
  }

  #pause(): Promise<void> {
    return new Promise((resolve) => void this.#clock.schedule(this.#trouble?.pauseMs ?? this.#limits.minPauseMs, resolve));
  }

  #unavailable(reason: string, cause?: unknown): KvtierError {
    return new KvtierError('IO_FAILED', `Cannot read invalidations from the catalog: ${reason}`, {
      context: { path: this.#options.path },
      cause,
    });
  }
}

function reasonOf(failure: CatalogFailure): string {
  switch (failure.kind) {
    case 'busy':
      return failure.message.startsWith('a long reader') ? failure.message : `another process holds a lock on it (${failure.message})`;
    case 'full':
      return `no space is left for it (${failure.message})`;
    case 'gone':
      return `its worker ended (${failure.message})`;
    case 'io':
    case 'newer':
    case 'bug':
      return failure.message;
  }
}

async function* noChunks(): AsyncGenerator<readonly CatalogChunk[]> {
  // Nothing: every file is adopted by its header.
}
