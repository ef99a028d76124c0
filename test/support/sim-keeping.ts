/**
 * What must be there: a cache may forget, but only for a reason that it counts. A value that was acknowledged, has no end and was touched by
 * nothing since is found by every read, unless a counter of what was forgotten has moved since it was sent, or that of refused reads
 * since the read began. It outlives a kill where nothing was dirty, and is found once all files are known.
 *
 * Judged where devices do as they are told: what is damaged is a miss too, and counted elsewhere.
 */
import type { CacheStats } from '#cache/control.ts';
import type { SimKey, SimSpan, SimValue } from './sim-oracle.ts';

/** What the cache of the moment counts; undefined where none serves. */
export interface SimCounts {
  /** Chunks that it gave up, and puts that it acknowledged and did not keep. */
  readonly forgotten: number;
  /** Reads that it refused although it has the chunk. */
  readonly refused: number;
  /** Files of former lives are all known. */
  readonly knowsAll: boolean;
}

export function countsOf(stats: CacheStats): SimCounts {
  return {
    forgotten: stats.droppedDirtyChunks + stats.evictions.hbm + stats.evictions.ssd + stats.storeAdmission.skippedChunks,
    refused: stats.refusedLookups,
    knowsAll: stats.recovery.done,
  };
}

/** A value that must be there as long as nothing is forgotten beyond this. */
interface Kept {
  forgotten: number;
  life: number;
}

export class SimKeeping {
  readonly #counts: () => SimCounts | undefined;
  readonly #kept = new Map<SimValue, Kept>();
  /** Changes under way that may take something away; each says of a key whether it is touched. */
  readonly #open = new Set<(key: SimKey) => boolean>();
  /** A read by its span -> the counters when it began. */
  readonly #before = new WeakMap<SimSpan, SimCounts>();
  #life = 1;

  constructor(counts: () => SimCounts | undefined) {
    this.#counts = counts;
  }

  beginRead(span: SimSpan): void {
    const counts = this.#counts();
    if (counts !== undefined) this.#before.set(span, counts);
  }

  /** Before a value is sent: the counters of now are those it is kept by. */
  beginSet(value: SimValue): void {
    const counts = this.#counts();
    this.#drop(value.key);
    // Of two that overlap nobody knows which is the last.
    const isAlone = value.key.values.every(({ state, end }) => state === 'refused' || end < value.begin);
    if (counts !== undefined && isAlone && value.ttlMs === undefined)
      this.#kept.set(value, { forgotten: counts.forgotten, life: this.#life });
  }

  /** Something that may take values of these keys away, or of all; call the answer once it is over, and not at all where nobody knows. */
  beginChange(keys?: readonly SimKey[]): () => void {
    const touches = (key: SimKey): boolean => keys?.includes(key) ?? true;
    this.#open.add(touches);
    const forget = (): void => {
      for (const value of this.#kept.keys()) if (touches(value.key)) this.#kept.delete(value);
    };
    forget();
    return () => {
      this.#open.delete(touches);
      forget();
    };
  }

  #drop(key: SimKey): void {
    for (const value of this.#kept.keys()) if (value.key === key) this.#kept.delete(value);
  }

  /** The process ends: what it had nowhere but in memory is gone. `isClean`: nothing was. */
  endOfProcess(isClean: boolean): void {
    const counts = this.#counts();
    const open = [...this.#open];
    this.#open.clear();
    for (const [value, kept] of this.#kept) {
      const isTouched = open.some((touches) => touches(value.key));
      if (!isClean || isTouched || counts === undefined || value.state !== 'stored' || kept.forgotten !== counts.forgotten)
        this.#kept.delete(value);
      else kept.forgotten = 0;
    }
    this.#life += 1;
  }

  /** A read or a probe of the key found nothing. Throws where it should have found something. */
  judgeMiss(key: SimKey, span: SimSpan, what: string): void {
    const [before, counts] = [this.#before.get(span), this.#counts()];
    if (before === undefined || counts === undefined) return;
    for (const touches of this.#open) if (touches(key)) return;
    const value = key.values.at(-1);
    const kept = value === undefined ? undefined : this.#kept.get(value);
    if (value === undefined || kept === undefined || value.state !== 'stored' || value.end > span.begin) return;
    if (kept.life < this.#life && !before.knowsAll) return;
    if (kept.forgotten !== counts.forgotten || before.refused !== counts.refused) return;
    throw new Error(`${what} ${key.label} missed value ${value.id} (sent at ${value.begin}, over at ${value.end}), and nothing counts it`);
  }
}
