/**
 * Store admission `second-use`: a chunk is written to SSD only once it has been used again. Half of what engines store is never
 * asked for a second time (reference on workloads, section 5), and every write of it wears the device and stands in the way of reads.
 *
 * A use is a hit, a second store of what is here, or a store of what was dropped of late: of those, two-generation filters remember
 * between 2^19 and 2^20 in 2 MiB. A key that is taken for one of them is written once too early.
 *
 * Admission is by chain: a chunk that is admitted admits its ancestors, prefix first, since without them it could never be served.
 *
 * Invariant (checkInvariants): the parent of an admitted chunk is admitted.
 */
import { assert } from '#core/assert.ts';
import type { EntryIndex } from '#core/brand.ts';
import { RecentKeys } from '#policy/recent-keys.ts';
import type { ChunkIndex } from './chunk-index.ts';
import { ADMITTED } from './flags.ts';

const DROPPED_KEYS = 2 ** 19;

export class SecondUse {
  readonly #index: ChunkIndex;
  readonly #onAdmitted: (entry: EntryIndex) => void;
  readonly #dropped: RecentKeys;
  /** The way up from a chunk, reused. */
  readonly #path: EntryIndex[] = [];

  /** `onAdmitted` runs for each chunk of a chain that was not admitted so far, prefix first. */
  constructor(index: ChunkIndex, onAdmitted: (entry: EntryIndex) => void, droppedKeys = DROPPED_KEYS) {
    this.#index = index;
    this.#onAdmitted = onAdmitted;
    this.#dropped = new RecentKeys(droppedKeys);
  }

  isAdmitted(entry: EntryIndex): boolean {
    return (this.#index.flags(entry) & ADMITTED) !== 0;
  }

  /** Somebody asked for the chunk, or stored it again. */
  used(entry: EntryIndex): void {
    if (!this.isAdmitted(entry)) this.#admit(entry);
  }

  /** The chunk was stored and linked to its parent. */
  stored(entry: EntryIndex): void {
    if (this.#dropped.has(this.#index.hashOf(entry))) this.used(entry);
  }

  /** The chunk has another parent. */
  linked(child: EntryIndex): void {
    const parent = this.#index.parent(child);
    if (parent >= 0 && this.isAdmitted(child)) this.used(parent as EntryIndex);
  }

  /** The chunk goes for want of room; it must still be in the index. */
  dropped(entry: EntryIndex): void {
    this.#dropped.add(this.#index.hashOf(entry));
  }

  checkInvariants(): void {
    this.#index.forEach((entry) => {
      const parent = this.#index.parent(entry);
      assert(parent < 0 || !this.isAdmitted(entry) || this.isAdmitted(parent as EntryIndex), `the parent of admitted chunk ${entry} is`);
    });
  }

  #admit(entry: EntryIndex): void {
    const path = this.#path;
    for (let current: EntryIndex | -1 = entry; current >= 0 && !this.isAdmitted(current as EntryIndex);) {
      path.push(current as EntryIndex);
      current = this.#index.parent(current as EntryIndex);
    }
    for (let next = path.pop(); next !== undefined; next = path.pop()) {
      this.#index.setFlags(next, this.#index.flags(next) | ADMITTED);
      this.#onAdmitted(next);
    }
  }
}
