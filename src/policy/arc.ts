/**
 * Adaptive replacement: what was used once and what was used again are two lists, and what left each is remembered for a while. A
 * chunk that comes back soon after it left the once-used says that they had too little room; one that left the others, too much.
 * `target`, the bytes that the once-used may hold, follows, so that no share has to be chosen.
 *
 * What is changed for prefix chains: where the once-used are within their target, ARC evicts the coldest of the others; here the
 * coldest of both, so that an ancestor does not leave before what hangs on it. For an ancestor is touched after its descendants: one
 * that was used again and is colder than all that was used once has no descendant left among the latter. So this is LeafLru where
 * the target is the whole tier, and guards what is used again the more, the smaller it is. Chains that come back in pieces are
 * judged chunk by chunk, and may lose an inner chunk first: a handful in a tier, which test/unit/trace-replay bounds.
 *
 * Two settings (`arcSettings`): `arc` remembers as much as the tier holds and begins at a target of 0, as published. `adaptive`
 * remembers half as much again, begins at a quarter of the tier, and settles where nothing fits: so it notices working sets that are
 * larger than the tier, and does not pin what was used twice before it knows whether that pays (docs/adr/0007-adaptive-eviction.md).
 *
 * Source: Megiddo and Modha, "ARC: A Self-Tuning, Low Overhead Replacement Cache", FAST 2003, with bytes for pages, and without the
 * tie-break for a page that is about to be a ghost hit: who is evicted is decided before it is known who comes.
 *
 * Every operation is O(1), trimming amortized over the removals before it. An entry costs 16 bytes; what is remembered is bounded
 * by the bytes of the tier, and by MAX_GHOSTS rows a list, 16 MiB.
 *
 * Invariants (checkInvariants): those of EntryLists and GhostQueue; the target is not negative; what is remembered with the once-used
 * is within the history at every insert.
 */
import { assert } from '#core/assert.ts';
import { EntryLists } from './entry-lists.ts';
import type { ListNumber } from './entry-lists.ts';
import type { EntryFacts, EvictionPolicy } from './eviction-policy.ts';
import { firstEvictable } from './first-evictable.ts';
import { GhostQueue } from './ghost-queue.ts';

const ONCE = 0;
const AGAIN = 1;
/** A million chunks of 2 MiB are 2 TiB. */
const MAX_GHOSTS = 2 ** 20;

export interface ArcSettings {
  /** Bytes remembered for each list, together with what the once-used hold, in multiples of the tier's. */
  readonly history: number;
  /** Share of the tier that the once-used may hold before anything is known. */
  readonly start: number;
  /**
   * Below this share of the tier the target says that what is used again does not fit into all of it: then what comes back of that
   * begins among the once-used, so that the rest stays and is hit, where a circle would push out every chunk just before its use.
   */
  readonly settleBelow: number;
}

export const arcSettings = {
  arc: { history: 1, start: 0, settleBelow: 0 },
  adaptive: { history: 1.5, start: 0.25, settleBelow: 0.02 },
} as const satisfies Readonly<Record<string, ArcSettings>>;

export class Arc implements EvictionPolicy {
  readonly #facts: EntryFacts;
  readonly #settings: ArcSettings;
  readonly #lists: EntryLists;
  readonly #leftOnce = new GhostQueue(MAX_GHOSTS);
  readonly #leftAgain = new GhostQueue(MAX_GHOSTS);
  /** Bytes that the once-used may hold before they give way; undefined until something comes back: the start's share. */
  #target: number | undefined;

  constructor(facts: EntryFacts, settings: ArcSettings) {
    this.#facts = facts;
    this.#settings = settings;
    this.#lists = new EntryLists(facts);
  }

  get size(): number {
    return this.#lists.size;
  }

  insert(entry: number, sizeBytes: number): void {
    const tierBytes = this.#lists.totalBytes + sizeBytes;
    this.#lists.insert(this.#learn(this.#facts.identityOf(entry), { sizeBytes, tierBytes }), entry);
    const historyBytes = tierBytes * this.#settings.history;
    this.#leftOnce.trim(Math.max(0, historyBytes - this.#lists.bytes(ONCE)));
    this.#leftAgain.trim(Math.max(0, historyBytes - this.#leftOnce.bytes));
  }

  touch(entry: number): void {
    this.#lists.move(AGAIN, entry);
  }

  refresh(entry: number): void {
    this.#lists.renew(entry);
  }

  remove(entry: number): void {
    const left = this.#lists.listOf(entry) === AGAIN ? this.#leftAgain : this.#leftOnce;
    left.push(this.#facts.identityOf(entry), this.#facts.sizeOf(entry));
    this.#lists.remove(entry);
  }

  has(entry: number): boolean {
    return this.#lists.has(entry);
  }

  victim(isEvictable: (entry: number) => boolean, scanLimit = this.size): number {
    return firstEvictable(this, isEvictable, scanLimit);
  }

  /** The order of eviction if nothing is used and nothing comes meanwhile. */
  forEachColdest(visit: (entry: number) => boolean): void {
    const lists = this.#lists;
    const target = this.#targetBytes();
    let onceBytes = lists.bytes(ONCE);
    let once = lists.coldest(ONCE);
    let again = lists.coldest(AGAIN);
    while (once >= 0 || again >= 0) {
      const takesOnce = again < 0 || (once >= 0 && (onceBytes > target || lists.stampOf(once) < lists.stampOf(again)));
      const entry = takesOnce ? once : again;
      // Read before the visit: what comes next must not depend on what the visitor does with this one.
      if (takesOnce) {
        onceBytes -= this.#facts.sizeOf(once);
        once = lists.hotterThan(once);
      } else again = lists.hotterThan(again);
      if (!visit(entry)) return;
    }
  }

  /** The number of the use or store that moved the entry last: how recent it is, in whichever list. */
  temperature(entry: number): number {
    return this.#lists.stampOf(entry);
  }

  memoryBytes(): number {
    return this.#lists.memoryBytes() + this.#leftOnce.memoryBytes() + this.#leftAgain.memoryBytes();
  }

  checkInvariants(): void {
    this.#lists.checkInvariants();
    this.#leftOnce.checkInvariants();
    this.#leftAgain.checkInvariants();
    assert(this.#target === undefined || this.#target >= 0, `Arc has a target of ${this.#target} bytes`);
  }

  #targetBytes(): number {
    return this.#target ?? this.#lists.totalBytes * this.#settings.start;
  }

  /** Moves the target where a chunk comes back that is remembered; the list for it. */
  #learn(identity: number, { sizeBytes, tierBytes }: { readonly sizeBytes: number; readonly tierBytes: number }): ListNumber {
    const onceBytes = Math.max(1, this.#leftOnce.bytes);
    const againBytes = Math.max(1, this.#leftAgain.bytes);
    if (this.#leftOnce.take(identity) >= 0) {
      this.#target = Math.min(tierBytes, this.#targetBytes() + Math.max(1, againBytes / onceBytes) * sizeBytes);
      return AGAIN;
    }
    if (this.#leftAgain.take(identity) >= 0) {
      this.#target = Math.max(0, this.#targetBytes() - Math.max(1, onceBytes / againBytes) * sizeBytes);
      return this.#target < this.#settings.settleBelow * tierBytes ? ONCE : AGAIN;
    }
    return ONCE;
  }
}
