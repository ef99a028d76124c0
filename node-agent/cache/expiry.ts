/**
 * When chunks end by themselves. What has expired is never served: every lookup asks (`find`, `isOver`), a sweep takes the room back, and at a
 * start the journal and the headers say what is over. Nothing holds an expiry up, neither a lease nor a read-ahead; a reader that holds the bytes
 * keeps them until it is done.
 *
 * What is durable:
 * - the expiry that came with a put is in the header of its file and in the catalog's row;
 * - one that comes later and is sooner is in the journal before it is acknowledged, by generation; from then on every change is;
 * - a later one goes to the catalog and to the header, if that is not written yet: a crash may take it back to what it was before.
 * - what is in RAM has its latest expiry in shared memory, which a process that is killed leaves behind.
 * So what the journal says of a generation counts, and else row and header, which are never later than what was acknowledged.
 *
 * The clock (expiry-clock.ts) must not be behind after a crash of what it was when somebody saw that a chunk is over. So before a chunk
 * counts as expired the journal gets the time, where it knows an earlier one; and where it is a minute behind, with each lifetime that is
 * given, and while there are expiries at all.
 *
 * Invariants (checkInvariants): the journal's clock is at least the expiry of every chunk that was removed by this file, unless it
 * could not be written; two housekeeping turns after a chunk expired it is gone.
 */
import { assert } from '#core/assert.ts';
import type { EntryIndex, NamespaceId } from '#core/brand.ts';
import type { Clock } from '#core/clock.ts';
import { KvtierError } from '#core/errors.ts';
import type { Logger } from '#core/logger.ts';
import type { CatalogStore } from '#ports/catalog-store.ts';
import type { CacheCounters } from './cache-counters.ts';
import type { ChunkIndex } from './chunk-index.ts';
import type { ExpirySpec } from './door.ts';
import { boundedExpiry } from './expiry-bounds.ts';
import { ExpiryClock } from './expiry-clock.ts';
import type { NamespaceTable } from './namespace-table.ts';
import type { Tombstones } from './tombstones.ts';

/** The state of the cache as far as expiries need it. */
export interface ExpiryHost {
  readonly index: ChunkIndex;
  readonly namespaces: NamespaceTable;
  readonly tombstones: Tombstones;
  readonly catalog: CatalogStore;
  readonly clock: Clock;
  readonly counters: CacheCounters;
  readonly logger: Logger;
  remove(entry: EntryIndex): void;
  /** Tells shared memory what is in the chunk's slot now. */
  remember(entry: EntryIndex): void;
}

/** Removed before the event loop gets a turn: about 2 ms. */
const SLICE_CHUNKS = 512;
/** How far behind the journal's clock may be while nothing expires. */
const CLOCK_STEP_MS = 60_000;
export class Expiry {
  readonly #host: ExpiryHost;
  readonly #clock: ExpiryClock;
  #sweeping = false;
  #stopped = false;
  #lastRemovedMs = 0;
  /** Generations that a start found to be over: RAM, row and header of one chunk count once. Empty after adoption. */
  readonly #overAtStart = new Set<number>();
  /** The journal did not take the clock; it is told once. */
  #unwritten = false;

  constructor(host: ExpiryHost) {
    this.#host = host;
    this.#clock = new ExpiryClock(host.clock, host.tombstones.clockMs);
  }

  /** The time that expiries are judged by. */
  nowMs(): number {
    return this.#clock.nowMs();
  }

  /** True where the chunk must not be served any more. One comparison for a chunk without expiry. */
  isOver(entry: EntryIndex): boolean {
    const atMs = this.#host.index.expiresAtMs(entry);
    return atMs !== 0 && atMs <= this.#clock.nowMs();
  }

  /** The chunk of a key as anybody may see it, or -1; one that has expired is removed here. */
  find(namespace: NamespaceId, key: Uint8Array): EntryIndex | -1 {
    const entry = this.#host.index.find(namespace, key);
    if (entry < 0 || !this.isOver(entry as EntryIndex)) return entry;
    this.remove(entry as EntryIndex);
    return -1;
  }

  /** Takes an expired chunk out of everything. */
  remove(entry: EntryIndex): void {
    const { index, counters } = this.#host;
    const atMs = index.expiresAtMs(entry);
    this.#lastRemovedMs = Math.max(this.#lastRemovedMs, atMs);
    this.#noteClock(atMs);
    counters.expiredChunks += 1;
    this.#host.remove(entry);
  }

  /** What a put asks for, as a point in time; 0: never. `entry` is the chunk that it replaces, or -1. */
  resolve(spec: ExpirySpec | undefined, namespace: NamespaceId, entry: EntryIndex | -1): number {
    const { index, namespaces } = this.#host;
    if (spec === 'keep' && entry >= 0) return index.expiresAtMs(entry as EntryIndex);
    if (spec === undefined || spec === 'keep') {
      const ttlMs = namespaces.defaultTtlMs(namespace);
      return ttlMs === 0 ? 0 : boundedExpiry(this.#givenAtMs() + ttlMs);
    }
    return boundedExpiry('atMs' in spec ? spec.atMs : this.#givenAtMs() + spec.ttlMs);
  }

  /**
   * Now, for a lifetime that begins. The journal learns of it first where it is far behind: else a crash before the next sweep, of a
   * clock that was ahead, would give the chunk all that time on top.
   */
  #givenAtMs(): number {
    const nowMs = this.nowMs();
    if (nowMs >= this.#host.tombstones.clockMs + CLOCK_STEP_MS) this.#noteClock(nowMs);
    return nowMs;
  }

  /** Gives a chunk another expiry (0: never). Throws KvtierError where that cannot be made durable; then nothing has changed. */
  change(entry: EntryIndex, atMs: number): void {
    const { index, tombstones, catalog } = this.#host;
    const before = index.expiresAtMs(entry);
    if (before === atMs) return;
    // Where it began as a lifetime.
    if (atMs !== 0) this.#givenAtMs();
    const generation = index.generation(entry);
    const sooner = atMs !== 0 && (before === 0 || atMs < before);
    if (sooner || tombstones.journaledExpiry(generation) !== undefined) tombstones.expire(generation, atMs);
    index.setExpiresAtMs(entry, atMs);
    this.#host.remember(entry);
    catalog.enqueue({ kind: 'expiry', generation, expiresAtMs: atMs });
  }

  /** The expiry of a file that a start has found, where its row or header says `expiresAtMs`; -1: it is over. */
  ofFile(found: { readonly generation: number; readonly expiresAtMs: number }): number {
    const atMs = this.#host.tombstones.journaledExpiry(found.generation) ?? found.expiresAtMs;
    if (atMs === 0 || atMs > this.nowMs()) return atMs;
    this.#noteClock(atMs);
    if (!this.#overAtStart.has(found.generation)) this.#host.counters.expiredChunks += 1;
    this.#overAtStart.add(found.generation);
    return -1;
  }

  /** Housekeeping: removes what is due, in slices, and keeps the journal's clock near. */
  sweep(): void {
    const { index, tombstones } = this.#host;
    if (!tombstones.adopting) this.#overAtStart.clear();
    if (index.expiringCount === 0 || this.#sweeping) return;
    const nowMs = this.nowMs();
    if (nowMs >= tombstones.clockMs + CLOCK_STEP_MS) this.#noteClock(nowMs);
    this.#sweepSlice();
  }

  stop(): void {
    this.#stopped = true;
  }

  #sweepSlice(): void {
    if (this.#stopped) return;
    const due = this.#host.index.due(this.nowMs(), SLICE_CHUNKS);
    for (const entry of due) this.remove(entry);
    this.#sweeping = due.length > 0;
    if (this.#sweeping) this.#host.clock.schedule(0, () => this.#sweepSlice());
  }

  /** Before anybody learns that something expired at `atMs`: the journal's clock is not behind. */
  #noteClock(atMs: number): void {
    const { tombstones, logger } = this.#host;
    if (atMs <= tombstones.clockMs) return;
    try {
      tombstones.noteClock(this.nowMs());
      this.#unwritten = false;
    } catch (problem) {
      // What is lost: after a crash, with a clock that was set back meanwhile, it may be back until its file is gone. Tried again at the next expiry.
      if (!(problem instanceof KvtierError)) throw problem;
      if (!this.#unwritten && problem.code !== 'SHUTTING_DOWN') {
        logger.warn('Cannot write to the journal what time it is: an expired chunk may be back after a crash', { code: problem.code });
      }
      this.#unwritten = true;
    }
  }

  checkInvariants(): void {
    const { tombstones } = this.#host;
    assert(this.#unwritten || tombstones.clockMs >= this.#lastRemovedMs, 'the journal knows that it is later than what has expired');
  }
}
