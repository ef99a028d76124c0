/**
 * Touches by chain: a chunk becomes the hottest of its tiers and its ancestors hotter still, so that a chain loses its tail before its
 * head whatever the order in which its chunks are used.
 *
 * The move waits: chunks that are touched from a prefix on, as clients do it, are moved together once. Whoever looks at the orders, or
 * removes a chunk, settles first.
 */
import type { EntryIndex } from '#core/brand.ts';
import type { EvictionPolicy } from '#policy/eviction-policy.ts';
import type { ChunkIndex } from './chunk-index.ts';
import { IN_HBM, LIMITED } from './flags.ts';

/**
 * What moves a chunk to the hot end. 'used': a request asked for it, which counts in both tiers. 'loaded': it came from SSD for the
 * request that asks for it now, so that the use is one of the SSD copy, and what RAM had was the coming. 'stored': it came, or its
 * chain was put in order; nobody used it.
 */
export type TouchReason = 'used' | 'loaded' | 'stored';

/** A longer chain is cut: 2^13 chunks of 256 tokens are two million. Bounds what one touch and one link may cost, some 50 us. */
export const MAX_CHAIN = 1 << 13;

interface Parts {
  readonly index: ChunkIndex;
  readonly ram: EvictionPolicy;
  readonly ssd: EvictionPolicy;
  /** Undefined: there is no HBM tier. */
  readonly hbm: EvictionPolicy | undefined;
  /** Runs for each chunk that moves and whose tenant has a quota. */
  readonly onLimited: (entry: EntryIndex, tier: 'ram' | 'ssd') => void;
}

export class ChainTouches {
  readonly #parts: Parts;
  /** The chunk touched last, whose chain is not moved yet: the next touch may be of its child. */
  #touched: { readonly entry: EntryIndex; readonly generation: number; readonly why: TouchReason } | undefined;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  touch(entry: EntryIndex, why: TouchReason): void {
    const { index } = this.#parts;
    const former = this.#touched;
    if (former !== undefined && !(former.why === why && this.#isSame(former) && index.parent(entry) === former.entry)) this.settle();
    this.#touched = { entry, generation: index.generation(entry), why };
  }

  /** Moves the chain that waits. */
  settle(): void {
    const touched = this.#touched;
    this.#touched = undefined;
    if (touched === undefined || !this.#isSame(touched)) return;
    this.#moveChain(touched.entry, touched.why, 'both');
  }

  /** A 'stored' touch in SSD's order alone: for a chunk that just came to SSD without having been used. */
  storedOnSsd(entry: EntryIndex): void {
    this.settle();
    this.#moveChain(entry, 'stored', 'ssd');
  }

  #moveChain(entry: EntryIndex, why: TouchReason, orders: 'both' | 'ssd'): void {
    const { index, hbm } = this.#parts;
    let current: EntryIndex | -1 = entry;
    for (let depth = 0; current >= 0 && depth < MAX_CHAIN; depth += 1) {
      if (orders === 'both' && index.ramSlot(current as EntryIndex) >= 0) this.#move('ram', current as EntryIndex, why === 'used');
      if (index.ssdFolder(current as EntryIndex) >= 0) this.#move('ssd', current as EntryIndex, why !== 'stored');
      if (hbm !== undefined && orders === 'both' && (index.flags(current as EntryIndex) & IN_HBM) !== 0) {
        if (why === 'stored') hbm.refresh(current);
        else hbm.touch(current);
      }
      current = index.parent(current as EntryIndex);
    }
  }

  #move(tier: 'ram' | 'ssd', entry: EntryIndex, used: boolean): void {
    const { index, onLimited } = this.#parts;
    const order = this.#parts[tier];
    if (used) order.touch(entry);
    else order.refresh(entry);
    if ((index.flags(entry) & LIMITED) !== 0) onLimited(entry, tier);
  }

  #isSame(ref: { readonly entry: EntryIndex; readonly generation: number }): boolean {
    return this.#parts.index.isLive(ref.entry) && this.#parts.index.generation(ref.entry) === ref.generation;
  }
}
