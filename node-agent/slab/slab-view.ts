/** What reclaim planning reads of the allocator, and the one judgement that all its searches share. */
import { assert } from '#core/assert.ts';
import type { SlotIndex } from '#core/brand.ts';
import type { SlabShape } from './slab-geometry.ts';

export interface SlabView {
  firstPage(slab: number): number;
  pages(slab: number): number;
  classBytes(slab: number): number;
  slots(slab: number): number;
  used(slab: number): number;
  /** -1 ends the list. */
  firstUsedSlot(slab: number): number;
  nextUsedSlot(slot: number): number;
}

export interface ReclaimRequest {
  /** The class that starves, and the shape of its slabs. */
  readonly classBytes: number;
  readonly shape: Readonly<SlabShape>;
  /** What freeing a slot costs: 0 or more; Infinity forbids it. */
  readonly slotHeat: (slot: SlotIndex) => number;
  readonly isLocked: (slot: SlotIndex) => boolean;
  /** Most slots are locked, for this request alone. */
  readonly narrow: boolean;
}

/** Heat of all used slots of a slab together; Infinity where one is locked or the sum exceeds `limit`. */
export function judgeSlab(slabs: SlabView, slab: number, request: ReclaimRequest, limit: number): number {
  let heat = 0;
  for (let slot = slabs.firstUsedSlot(slab); slot >= 0; slot = slabs.nextUsedSlot(slot)) {
    if (request.isLocked(slot as SlotIndex)) return Number.POSITIVE_INFINITY;
    const cost = request.slotHeat(slot as SlotIndex);
    assert(cost >= 0, `Heat ${cost} of slot ${slot} must be 0 or more`);
    heat += cost;
    if (heat > limit) return Number.POSITIVE_INFINITY;
  }
  return heat;
}
