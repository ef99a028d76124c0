/** What an allocator says of itself. */
export interface SlabClassStats {
  readonly classBytes: number;
  readonly slabCount: number;
  readonly slotCount: number;
  readonly usedSlotCount: number;
}

export interface SlabStats {
  /** All pages, absent ones included. */
  readonly capacityBytes: number;
  readonly absentBytes: number;
  readonly freePageBytes: number;
  /** Capacity of the used slots, rounding to the class included. */
  readonly usedSlotBytes: number;
  /** Room in slabs that have other slots in use. */
  readonly freeSlotBytes: number;
  /** Ends of slabs that hold no slot. */
  readonly wasteBytes: number;
  readonly usedSlotCount: number;
  readonly slabCount: number;
  readonly classes: readonly SlabClassStats[];
}
