/**
 * Segmented LRU: what came once waits in probation, what was used again is protected, up to a share of the tier's bytes. What the
 * protected segment cannot hold goes back to the hot end of probation, so that nothing that was used leaves before what was not.
 *
 * Chain order: ancestors are touched after what hangs on them, so an ancestor is protected wherever a descendant is, and hotter
 * than it within a segment; a chain loses its tail before its head, as in LeafLru.
 *
 * To be used where prompts that are never seen again dominate and the tier is small. A large protected share pins conversations
 * that are over: 20 % is the share that lost nowhere (reference on workloads, section 4.2; 80 % loses up to 9 points).
 *
 * Source: Karedla, Love and Wherry, "Caching strategies to improve disk system performance", Computer 27(3), 1994.
 *
 * Every operation is O(1), demotions amortized over the promotions before them. An entry costs 16 bytes; no ghosts.
 *
 * Invariants (checkInvariants): those of EntryLists; the protected segment holds no more than its share of the tier's bytes.
 */
import { assert } from '#core/assert.ts';
import { EntryLists } from './entry-lists.ts';
import type { EntryFacts, EvictionPolicy } from './eviction-policy.ts';
import { firstEvictable } from './first-evictable.ts';

const PROBATION = 0;
const PROTECTED = 1;
const PROTECTED_SHARE = 0.2;

export class Slru implements EvictionPolicy {
  readonly #lists: EntryLists;
  readonly #share: number;

  constructor(facts: EntryFacts, protectedShare = PROTECTED_SHARE) {
    this.#lists = new EntryLists(facts);
    this.#share = protectedShare;
  }

  get size(): number {
    return this.#lists.size;
  }

  insert(entry: number, _sizeBytes: number): void {
    this.#lists.insert(PROBATION, entry);
  }

  touch(entry: number): void {
    this.#lists.move(PROTECTED, entry);
    this.#demote();
  }

  refresh(entry: number): void {
    this.#lists.renew(entry);
  }

  remove(entry: number): void {
    this.#lists.remove(entry);
    this.#demote();
  }

  has(entry: number): boolean {
    return this.#lists.has(entry);
  }

  victim(isEvictable: (entry: number) => boolean, scanLimit = this.size): number {
    return firstEvictable(this, isEvictable, scanLimit);
  }

  forEachColdest(visit: (entry: number) => boolean): void {
    const lists = this.#lists;
    for (let entry = lists.coldest(PROBATION); entry >= 0; entry = lists.hotterThan(entry)) if (!visit(entry)) return;
    for (let entry = lists.coldest(PROTECTED); entry >= 0; entry = lists.hotterThan(entry)) if (!visit(entry)) return;
  }

  /** The stamp; above all of probation for what is protected. */
  temperature(entry: number): number {
    if (!this.#lists.has(entry)) return 0;
    const stamp = this.#lists.stampOf(entry);
    return this.#lists.listOf(entry) === PROTECTED ? this.#lists.lastStamp + stamp : stamp;
  }

  memoryBytes(): number {
    return this.#lists.memoryBytes();
  }

  checkInvariants(): void {
    this.#lists.checkInvariants();
    const bytes = this.#lists.bytes(PROTECTED);
    const limit = this.#lists.totalBytes * this.#share;
    assert(bytes <= limit, `Slru protects ${bytes} bytes, more than its share ${limit}`);
  }

  #demote(): void {
    const limit = this.#lists.totalBytes * this.#share;
    while (this.#lists.bytes(PROTECTED) > limit) this.#lists.move(PROBATION, this.#lists.coldest(PROTECTED));
  }
}
