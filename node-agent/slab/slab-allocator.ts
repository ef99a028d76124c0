/**
 * SlabAllocator divides address ranges into slots of size classes that follow the sizes which arrive. It never touches the memory and never evicts: it
 * answers -1 when full, and `planReclaim` says which slots to free for a class that starves.
 * Invariants (`checkInvariants`):
 * - a page is absent, free or owned by exactly one slab (PageMap checks runs and bins);
 * - slots lie in their slab, back to back, and never overlap; a slot is free or used, never both;
 * - used + free + not yet carved = slots of the slab; a slab without a used slot does not exist;
 * - a slab is in its class's list of partial slabs exactly if it has room;
 * - a class exists exactly while it has slabs; its counts are the sums over its slabs;
 * - a slot's generation grows each time it is given out.
 *
 * Slab allocation: Bonwick, "The Slab Allocator" (USENIX 1994). Per slot, slab and class there are typed arrays that grow, and no garbage is made.
 */
import { assert } from '#core/assert.ts';
import type { Address, SlotIndex } from '#core/brand.ts';
import { BLOCK_BYTES, KiB, MiB } from '#core/bytes.ts';
import { grownFloat, grownInt } from './grown.ts';
import type { SlabClassStats, SlabStats } from './slab-stats.ts';
import { PAGE_FREE, PageMap } from './page-map.ts';
import { ReclaimPlanner } from './reclaim-planner.ts';
import {
  coarseClassBytes,
  fineClassBytes,
  LARGE_MIN_BYTES,
  slabShape,
  type SlabShape,
  type SlotPlace,
  slotsInRun,
  WASTE_LIMIT,
} from './slab-geometry.ts';

const NONE = -1;
/** In `slotPrevious`: the slot is free (in its slab's free list), or belongs to no slab. */
const FREE = -2;
/**
 * Above this many live classes, or one for each 16 pages in a small tier, new sizes are rounded to one of eight steps an octave. With the geometric
 * classes themselves (8 * 25 octaves at most) the table never exceeds MAX_CLASSES.
 */
const FINE_CLASS_LIMIT = 256;
const MAX_CLASSES = 512;
/** Slot sizes stay below 2^31 so that class arithmetic may use 32-bit operations. */
const MAX_SLOT_BYTES = 2 ** 30;

/**
 * Page size for a tier: at most 262,144 pages up to 512 GiB (16 bytes of tables each), and at least 1024 from 4 MiB on, so that page rounding is below
 * 1.6 % of a chunk of tier / 16. Small pages make short slabs, and short slabs make cheap reclaim plans.
 */
export function choosePageBytes(tierBytes: number): number {
  let pageBytes = BLOCK_BYTES;
  while (pageBytes < 64 * KiB && pageBytes * 2048 <= tierBytes) pageBytes *= 2;
  while (pageBytes < 2 * MiB && pageBytes * 262_144 < tierBytes) pageBytes *= 2;
  return pageBytes;
}

export class SlabAllocator {
  readonly maxSlotBytes: number;
  readonly #pages: PageMap;
  readonly #planner: ReclaimPlanner;
  readonly #shape: SlabShape = { slots: 0, pages: 0, minPages: 0 };

  // Slots. A number belongs to one slab while the slab lives and is handed to another afterwards.
  #slotSlab = new Int32Array(1024);
  #slotOrdinal = new Int32Array(1024);
  #slotNext = new Int32Array(1024);
  #slotPrevious = new Int32Array(1024);
  #slotGeneration = new Float64Array(1024);
  #slotCount = 0;
  #unboundSlot = NONE;
  #usedSlots = 0;

  // Slabs. Carved slots have a number; the others get one when they are first needed.
  #slabClass = new Int32Array(64);
  #slabFirstPage = new Int32Array(64);
  #slabPages = new Int32Array(64);
  #slabSlots = new Int32Array(64);
  #slabUsed = new Int32Array(64);
  #slabCarved = new Int32Array(64);
  #slabFreeHead = new Int32Array(64);
  #slabUsedHead = new Int32Array(64);
  #slabNext = new Int32Array(64);
  #slabPrevious = new Int32Array(64);
  #slabAddress = new Float64Array(64);
  #slabCount = 0;
  #unusedSlab = NONE;

  // Classes.
  readonly #classByBytes = new Map<number, number>();
  readonly #classBytes = new Float64Array(MAX_CLASSES);
  readonly #classPartial = new Int32Array(MAX_CLASSES);
  readonly #classSlabs = new Int32Array(MAX_CLASSES);
  readonly #classSlots = new Float64Array(MAX_CLASSES);
  readonly #classUsed = new Float64Array(MAX_CLASSES);

  constructor(options: { readonly pageBytes: number; readonly maxSlotBytes: number }) {
    assert(
      Number.isSafeInteger(options.maxSlotBytes) && options.maxSlotBytes > 0 && options.maxSlotBytes <= MAX_SLOT_BYTES,
      `Largest slot of ${options.maxSlotBytes} bytes must be between 1 and ${MAX_SLOT_BYTES} bytes`,
    );
    this.maxSlotBytes = options.maxSlotBytes;
    this.#pages = new PageMap(options.pageBytes);
    this.#planner = new ReclaimPlanner(this.#pages, {
      firstPage: (slab) => this.#slabFirstPage[slab] as number,
      pages: (slab) => this.#slabPages[slab] as number,
      classBytes: (slab) => this.#classBytes[this.#slabClass[slab] as number] as number,
      slots: (slab) => this.#slabSlots[slab] as number,
      used: (slab) => this.#slabUsed[slab] as number,
      firstUsedSlot: (slab) => this.#slabUsedHead[slab] as number,
      nextUsedSlot: (slot) => this.#slotNext[slot] as number,
    });
  }

  /** Adds a 4 KiB aligned range of addresses, all of it absent. Returns the arena's index. */
  addArena(address: Address, sizeBytes: number): number {
    return this.#pages.addArena(address, sizeBytes);
  }

  /** Says that a part of an arena is backed by memory and may be given out; offset and length are multiples of the page size, or end with the arena. */
  makeAvailable(arena: number, offsetBytes: number, lengthBytes: number): void {
    this.#pages.makeAvailable(arena, offsetBytes, lengthBytes);
  }

  /** True where a slot for this size exists once everything else is freed. */
  canEverFit(sizeBytes: number): boolean {
    return sizeBytes <= this.maxSlotBytes && fineClassBytes(sizeBytes) <= this.#pages.largestArenaPages * this.#pages.pageBytes;
  }

  /** Class that a size maps to now. A size whose exact class is not live is rounded more coarsely while very many classes are. */
  slotClassBytes(sizeBytes: number): number {
    const fine = fineClassBytes(sizeBytes);
    if (sizeBytes < LARGE_MIN_BYTES || this.#classByBytes.has(fine)) return fine;
    const limit = Math.min(FINE_CLASS_LIMIT, Math.max(16, Math.floor(this.#pages.totalPages / 16)));
    if (this.#classByBytes.size < limit) return fine;
    const coarse = coarseClassBytes(sizeBytes);
    return coarse <= this.#pages.largestArenaPages * this.#pages.pageBytes ? coarse : fine;
  }

  /**
   * A slot of at least `sizeBytes`, or -1 where there is no room (or the size is over the limit). Contents are what was left there. The slot may be of a
   * larger class, by at most 1/7, when its own class has no room and cannot get any.
   */
  allocate(sizeBytes: number): SlotIndex | -1 {
    assert(Number.isSafeInteger(sizeBytes) && sizeBytes >= 0, `Cannot allocate ${sizeBytes} bytes: not a size`);
    if (sizeBytes > this.maxSlotBytes) return NONE;
    const slab = this.#slabWithRoom(sizeBytes);
    return slab === NONE ? NONE : this.#takeSlot(slab);
  }

  /** Gives a slot back. The last used slot of a slab takes the slab with it: its pages are free at once. */
  free(slot: SlotIndex): void {
    this.#assertUsed(slot, 'free');
    const slab = this.#slotSlab[slot] as number;
    const previous = this.#slotPrevious[slot] as number;
    const next = this.#slotNext[slot] as number;
    if (next !== NONE) this.#slotPrevious[next] = previous;
    if (previous !== NONE) this.#slotNext[previous] = next;
    else this.#slabUsedHead[slab] = next;
    const wasFull = this.#slabUsed[slab] === this.#slabSlots[slab];
    this.#slotPrevious[slot] = FREE;
    this.#slotNext[slot] = this.#slabFreeHead[slab] as number;
    this.#slabFreeHead[slab] = slot;
    this.#slabUsed[slab] = (this.#slabUsed[slab] as number) - 1;
    const sizeClass = this.#slabClass[slab] as number;
    this.#classUsed[sizeClass] = (this.#classUsed[sizeClass] as number) - 1;
    this.#usedSlots -= 1;
    if (wasFull) this.#pushPartial(slab);
    if (this.#slabUsed[slab] === 0) this.#releaseSlab(slab);
  }

  /** Address of a used slot; valid until it is freed. */
  slotAddress(slot: SlotIndex): Address {
    this.#assertUsed(slot, 'address');
    const slab = this.#slotSlab[slot] as number;
    const classBytes = this.#classBytes[this.#slabClass[slab] as number] as number;
    return ((this.#slabAddress[slab] as number) + (this.#slotOrdinal[slot] as number) * classBytes) as Address;
  }

  /** Bytes of a used slot, at least the size it was allocated for. */
  slotCapacityBytes(slot: SlotIndex): number {
    this.#assertUsed(slot, 'measure');
    return this.#classBytes[this.#slabClass[this.#slotSlab[slot] as number] as number] as number;
  }

  /** True where freeing this used slot makes the next `allocate(sizeBytes)` succeed. */
  serves(slot: SlotIndex, sizeBytes: number): boolean {
    const capacityBytes = this.slotCapacityBytes(slot);
    // Lent from a larger class, as long as its slab lives on.
    const mayBeLent = capacityBytes >= sizeBytes && capacityBytes <= sizeBytes / (1 - WASTE_LIMIT);
    return (
      capacityBytes === this.slotClassBytes(sizeBytes) || (mayBeLent && (this.#slabUsed[this.#slotSlab[slot] as number] as number) > 1)
    );
  }

  /** Times that this number was given out; may be asked of a free slot too. */
  slotGeneration(slot: SlotIndex): number {
    assert(slot >= 0 && slot < this.#slotCount, `Slot ${slot} does not exist`);
    return this.#slotGeneration[slot] as number;
  }

  /**
   * Slots whose freeing makes the next `allocate(sizeBytes)` succeed: the used slots of neighbouring slabs of other classes that, with free pages between,
   * make room for a slab of the class; empty where there is room already; undefined where locked slots or absent pages are in the way, or where the class
   * has the whole tier and must free a slot of its own. See ReclaimPlanner for the choice. `slotHeat` is what freeing a slot costs, 0 or more; `isLocked`
   * must be true of slots that are leased or being written. The plan holds until the next call that changes the allocator. In a tier of very many slots
   * undefined may also mean that a thorough search failed a few calls ago and is not repeated yet; `narrow` ones (most slots are locked for them alone)
   * count apart.
   */
  // oxlint-disable-next-line max-params -- three positional and an options object, as STYLE allows
  planReclaim(
    sizeBytes: number,
    slotHeat: (slot: SlotIndex) => number,
    isLocked: (slot: SlotIndex) => boolean,
    { narrow = false } = {},
  ): SlotIndex[] | undefined {
    if (!this.canEverFit(sizeBytes)) return undefined;
    if (this.#hasRoom(sizeBytes)) return [];
    const classBytes = this.slotClassBytes(sizeBytes);
    this.#computeShape(classBytes);
    return this.#planner.plan({ classBytes, shape: this.#shape, slotHeat, isLocked, narrow });
  }

  /** Where a used slot lies: all that `restoreSlot` needs, in another process too if its arenas and page size are the same. */
  placeOf(slot: SlotIndex, place: SlotPlace): void {
    this.#assertUsed(slot, 'locate');
    const slab = this.#slotSlab[slot] as number;
    place.firstPage = this.#slabFirstPage[slab] as number;
    place.pages = this.#slabPages[slab] as number;
    place.slots = this.#slabSlots[slab] as number;
    place.classBytes = this.#classBytes[this.#slabClass[slab] as number] as number;
    place.ordinal = this.#slotOrdinal[slot] as number;
  }

  /**
   * Takes the slot at a place that a former allocator gave out, before any other use. Places of one slab come in the order of their ordinals.
   * -1 where the place contradicts the arenas, the pages available, or what was restored before; nothing has changed then.
   */
  restoreSlot(place: Readonly<SlotPlace>): SlotIndex | -1 {
    const { firstPage, pages, slots, classBytes, ordinal } = place;
    let slab = this.#pages.owner[firstPage] ?? NONE;
    if (slab < 0) {
      const isShape =
        slots > 0 && pages > 0 && pages <= this.#pages.largestArenaPages && slots * classBytes <= pages * this.#pages.pageBytes;
      const isClass = classBytes > 0 && classBytes <= MAX_SLOT_BYTES && fineClassBytes(classBytes) === classBytes;
      const hasClass = this.#classByBytes.has(classBytes) || this.#classByBytes.size < MAX_CLASSES;
      if (!isShape || !isClass || !hasClass || ordinal >= slots || !this.#pages.isFree(firstPage, pages)) return NONE;
      this.#shape.slots = slots;
      this.#shape.pages = pages;
      slab = this.#beginSlab(classBytes, firstPage);
    } else {
      const isSame = this.#slabFirstPage[slab] === firstPage && this.#slabPages[slab] === pages && this.#slabSlots[slab] === slots;
      const carved = this.#slabCarved[slab] as number;
      if (!isSame || this.#classBytes[this.#slabClass[slab] as number] !== classBytes || ordinal < carved || ordinal >= slots) return NONE;
    }
    while ((this.#slabCarved[slab] as number) < ordinal) this.#carveFree(slab);
    const gap = this.#slabFreeHead[slab] as number;
    this.#slabFreeHead[slab] = NONE;
    const slot = this.#takeSlot(slab);
    this.#slabFreeHead[slab] = gap;
    return slot;
  }

  forEachUsedSlot(visit: (slot: SlotIndex) => void): void {
    for (let slab = 0; slab < this.#slabCount; slab += 1) {
      if (this.#slabClass[slab] === NONE) continue;
      for (let slot = this.#slabUsedHead[slab] as number; slot !== NONE;) {
        const next = this.#slotNext[slot] as number;
        visit(slot as SlotIndex);
        slot = next;
      }
    }
  }

  stats(): SlabStats {
    const { pageBytes, totalPages } = this.#pages;
    const classes: SlabClassStats[] = [];
    let usedSlotBytes = 0;
    let slotBytes = 0;
    let slabCount = 0;
    for (const [classBytes, index] of this.#classByBytes) {
      const slotCount = this.#classSlots[index] as number;
      const usedSlotCount = this.#classUsed[index] as number;
      classes.push({ classBytes, slabCount: this.#classSlabs[index] as number, slotCount, usedSlotCount });
      usedSlotBytes += usedSlotCount * classBytes;
      slotBytes += slotCount * classBytes;
      slabCount += this.#classSlabs[index] as number;
    }
    const absentBytes = this.#pages.absentPages * pageBytes;
    const freePageBytes = this.#pages.freePages * pageBytes;
    return {
      capacityBytes: totalPages * pageBytes,
      absentBytes,
      freePageBytes,
      usedSlotBytes,
      freeSlotBytes: slotBytes - usedSlotBytes,
      wasteBytes: totalPages * pageBytes - absentBytes - freePageBytes - slotBytes,
      usedSlotCount: this.#usedSlots,
      slabCount,
      classes: classes.toSorted((a, b) => a.classBytes - b.classBytes),
    };
  }

  /** Slab with a free slot for the size, made if need be; or -1. */
  #slabWithRoom(sizeBytes: number): number {
    const classBytes = this.slotClassBytes(sizeBytes);
    const sizeClass = this.#classByBytes.get(classBytes);
    if (sizeClass !== undefined) {
      const partial = this.#classPartial[sizeClass] as number;
      if (partial !== NONE) return partial;
    }
    const slab = this.#createSlab(classBytes);
    if (slab !== NONE) return slab;
    // A plan made while many classes were live asked for room for the coarse class; freeing it may have ended that state.
    const coarse = coarseClassBytes(sizeBytes);
    if (coarse !== classBytes) {
      const coarseSlab = this.#createSlab(coarse);
      if (coarseSlab !== NONE) return coarseSlab;
    }
    return this.#borrow(sizeBytes);
  }

  #hasRoom(sizeBytes: number): boolean {
    const classBytes = this.slotClassBytes(sizeBytes);
    const sizeClass = this.#classByBytes.get(classBytes);
    if (sizeClass !== undefined && this.#classPartial[sizeClass] !== NONE) return true;
    if (this.#place(classBytes) !== NONE || this.#place(coarseClassBytes(sizeBytes)) !== NONE) return true;
    return this.#borrow(sizeBytes) !== NONE;
  }

  /** A partial slab of the smallest larger class that wastes at most WASTE_LIMIT of its slot on this size, or -1. */
  #borrow(sizeBytes: number): number {
    let best = NONE;
    let bestBytes = sizeBytes / (1 - WASTE_LIMIT);
    for (const [classBytes, index] of this.#classByBytes) {
      if (classBytes < sizeBytes || classBytes > bestBytes || this.#classPartial[index] === NONE) continue;
      best = this.#classPartial[index] as number;
      bestBytes = classBytes;
    }
    return best;
  }

  #computeShape(classBytes: number): void {
    slabShape(classBytes, { pageBytes: this.#pages.pageBytes, maxPages: this.#pages.largestArenaPages }, this.#shape);
  }

  /** First page for a new slab of the class, with slots and pages in #shape; -1 where there is no room. */
  #place(classBytes: number): number {
    if (this.#pages.freePages === 0) return NONE;
    this.#computeShape(classBytes);
    if (this.#shape.pages === 0) return NONE;
    const place = this.#pages.find(this.#shape.pages);
    if (place !== NONE) return place;
    // No room for a whole slab: a shorter one in the longest gap.
    const gap = this.#pages.findLongest();
    if (gap === NONE) return NONE;
    const slots = slotsInRun(classBytes, this.#pages.runPagesAt(gap), this.#pages.pageBytes);
    if (slots === 0) return NONE;
    this.#shape.slots = slots;
    this.#shape.pages = Math.ceil((slots * classBytes) / this.#pages.pageBytes);
    return gap;
  }

  #createSlab(classBytes: number): number {
    const firstPage = this.#place(classBytes);
    return firstPage === NONE ? NONE : this.#beginSlab(classBytes, firstPage);
  }

  /** A slab of the shape in #shape at `firstPage`; its first slot must be taken at once. */
  #beginSlab(classBytes: number, firstPage: number): number {
    let slab = this.#unusedSlab;
    if (slab !== NONE) this.#unusedSlab = this.#slabNext[slab] as number;
    else {
      slab = this.#slabCount;
      this.#slabCount += 1;
      if (slab >= this.#slabClass.length) this.#growSlabs();
    }
    const sizeClass = this.#classByBytes.get(classBytes) ?? this.#createClass(classBytes);
    this.#pages.take(firstPage, this.#shape.pages, slab);
    this.#slabClass[slab] = sizeClass;
    this.#slabFirstPage[slab] = firstPage;
    this.#slabPages[slab] = this.#shape.pages;
    this.#slabSlots[slab] = this.#shape.slots;
    this.#slabUsed[slab] = 0;
    this.#slabCarved[slab] = 0;
    this.#slabFreeHead[slab] = NONE;
    this.#slabUsedHead[slab] = NONE;
    this.#slabAddress[slab] = this.#pages.addressOf(firstPage);
    this.#classSlabs[sizeClass] = (this.#classSlabs[sizeClass] as number) + 1;
    this.#classSlots[sizeClass] = (this.#classSlots[sizeClass] as number) + this.#shape.slots;
    this.#pushPartial(slab);
    return slab;
  }

  #releaseSlab(slab: number): void {
    this.#unlinkPartial(slab);
    for (let slot = this.#slabFreeHead[slab] as number; slot !== NONE;) {
      const next = this.#slotNext[slot] as number;
      this.#slotSlab[slot] = NONE;
      this.#slotNext[slot] = this.#unboundSlot;
      this.#unboundSlot = slot;
      slot = next;
    }
    this.#pages.release(this.#slabFirstPage[slab] as number, this.#slabPages[slab] as number);
    const sizeClass = this.#slabClass[slab] as number;
    this.#classSlabs[sizeClass] = (this.#classSlabs[sizeClass] as number) - 1;
    this.#classSlots[sizeClass] = (this.#classSlots[sizeClass] as number) - (this.#slabSlots[slab] as number);
    if (this.#classSlabs[sizeClass] === 0) this.#classByBytes.delete(this.#classBytes[sizeClass] as number);
    this.#slabClass[slab] = NONE;
    this.#slabNext[slab] = this.#unusedSlab;
    this.#unusedSlab = slab;
  }

  #takeSlot(slab: number): SlotIndex {
    let slot = this.#slabFreeHead[slab] as number;
    if (slot !== NONE) this.#slabFreeHead[slab] = this.#slotNext[slot] as number;
    else slot = this.#carveSlot(slab);
    const head = this.#slabUsedHead[slab] as number;
    this.#slotNext[slot] = head;
    this.#slotPrevious[slot] = NONE;
    if (head !== NONE) this.#slotPrevious[head] = slot;
    this.#slabUsedHead[slab] = slot;
    this.#slotGeneration[slot] = (this.#slotGeneration[slot] as number) + 1;
    this.#slabUsed[slab] = (this.#slabUsed[slab] as number) + 1;
    const sizeClass = this.#slabClass[slab] as number;
    this.#classUsed[sizeClass] = (this.#classUsed[sizeClass] as number) + 1;
    this.#usedSlots += 1;
    if (this.#slabUsed[slab] === this.#slabSlots[slab]) this.#unlinkPartial(slab);
    return slot as SlotIndex;
  }

  /** Gives the next place of a slab a slot number. */
  #carveSlot(slab: number): number {
    let slot = this.#unboundSlot;
    if (slot !== NONE) this.#unboundSlot = this.#slotNext[slot] as number;
    else {
      slot = this.#slotCount;
      this.#slotCount += 1;
      if (slot >= this.#slotSlab.length) this.#growSlots();
    }
    this.#slotSlab[slot] = slab;
    this.#slotOrdinal[slot] = this.#slabCarved[slab] as number;
    this.#slabCarved[slab] = (this.#slabCarved[slab] as number) + 1;
    return slot;
  }

  /** Gives the next place of a slab to its free list: it was free when a former process ended. */
  #carveFree(slab: number): void {
    const slot = this.#carveSlot(slab);
    this.#slotGeneration[slot] = Math.max(1, this.#slotGeneration[slot] as number);
    this.#slotPrevious[slot] = FREE;
    this.#slotNext[slot] = this.#slabFreeHead[slab] as number;
    this.#slabFreeHead[slab] = slot;
  }

  #createClass(classBytes: number): number {
    let index = 0;
    while (index < MAX_CLASSES && (this.#classSlabs[index] as number) > 0) index += 1;
    assert(index < MAX_CLASSES, `Cannot create a class of ${classBytes} bytes: ${MAX_CLASSES} classes are live`);
    this.#classByBytes.set(classBytes, index);
    this.#classBytes[index] = classBytes;
    this.#classPartial[index] = NONE;
    this.#classSlots[index] = 0;
    this.#classUsed[index] = 0;
    return index;
  }

  /** At the head: a slab that just got its first free slot is the fullest, and filling it first lets emptier ones run dry. */
  #pushPartial(slab: number): void {
    const sizeClass = this.#slabClass[slab] as number;
    const head = this.#classPartial[sizeClass] as number;
    this.#slabNext[slab] = head;
    this.#slabPrevious[slab] = NONE;
    if (head !== NONE) this.#slabPrevious[head] = slab;
    this.#classPartial[sizeClass] = slab;
  }

  #unlinkPartial(slab: number): void {
    const previous = this.#slabPrevious[slab] as number;
    const next = this.#slabNext[slab] as number;
    if (next !== NONE) this.#slabPrevious[next] = previous;
    if (previous !== NONE) this.#slabNext[previous] = next;
    else this.#classPartial[this.#slabClass[slab] as number] = next;
  }

  #isUsed(slot: number): boolean {
    return slot >= 0 && slot < this.#slotCount && this.#slotSlab[slot] !== NONE && this.#slotPrevious[slot] !== FREE;
  }

  #assertUsed(slot: number, action: string): void {
    assert(this.#isUsed(slot), `Cannot ${action} slot ${slot}: it is not in use`);
  }

  #growSlots(): void {
    const length = this.#slotSlab.length * 2;
    this.#slotSlab = grownInt(this.#slotSlab, length);
    this.#slotOrdinal = grownInt(this.#slotOrdinal, length);
    this.#slotNext = grownInt(this.#slotNext, length);
    this.#slotPrevious = grownInt(this.#slotPrevious, length);
    this.#slotGeneration = grownFloat(this.#slotGeneration, length);
  }

  #growSlabs(): void {
    const length = this.#slabClass.length * 2;
    this.#slabClass = grownInt(this.#slabClass, length);
    this.#slabFirstPage = grownInt(this.#slabFirstPage, length);
    this.#slabPages = grownInt(this.#slabPages, length);
    this.#slabSlots = grownInt(this.#slabSlots, length);
    this.#slabUsed = grownInt(this.#slabUsed, length);
    this.#slabCarved = grownInt(this.#slabCarved, length);
    this.#slabFreeHead = grownInt(this.#slabFreeHead, length);
    this.#slabUsedHead = grownInt(this.#slabUsedHead, length);
    this.#slabNext = grownInt(this.#slabNext, length);
    this.#slabPrevious = grownInt(this.#slabPrevious, length);
    this.#slabAddress = grownFloat(this.#slabAddress, length);
  }

  /** Throws InvariantError where the state contradicts the list at the head of this file. Walks everything. */
  checkInvariants(): void {
    this.#pages.checkInvariants();
    const seen = new Uint8Array(this.#slotCount);
    const sums = new Map<number, { slabs: number; slots: number; used: number }>();
    let ownedPages = 0;
    let used = 0;
    for (let slab = 0; slab < this.#slabCount; slab += 1) {
      const sizeClass = this.#slabClass[slab] as number;
      if (sizeClass === NONE) continue;
      this.#checkSlab(slab, seen);
      ownedPages += this.#slabPages[slab] as number;
      used += this.#slabUsed[slab] as number;
      const sum = sums.get(sizeClass) ?? { slabs: 0, slots: 0, used: 0 };
      sum.slabs += 1;
      sum.slots += this.#slabSlots[slab] as number;
      sum.used += this.#slabUsed[slab] as number;
      sums.set(sizeClass, sum);
    }
    for (let slot = this.#unboundSlot; slot !== NONE; slot = this.#slotNext[slot] as number) {
      assert(seen[slot] === 0 && this.#slotSlab[slot] === NONE, `Slot ${slot} is unbound and in a slab`);
      seen[slot] = 1;
    }
    assert(!seen.includes(0), `Slot ${seen.indexOf(0)} is in no list`);
    assert(used === this.#usedSlots, `Counted ${used} used slots, kept ${this.#usedSlots}`);
    const { freePages, absentPages, totalPages } = this.#pages;
    assert(ownedPages + freePages + absentPages === totalPages, `Pages do not add up: ${ownedPages} owned of ${totalPages}`);
    this.#checkClasses(sums);
  }

  #checkSlab(slab: number, seen: Uint8Array): void {
    const firstPage = this.#slabFirstPage[slab] as number;
    const pages = this.#slabPages[slab] as number;
    const slots = this.#slabSlots[slab] as number;
    const classBytes = this.#classBytes[this.#slabClass[slab] as number] as number;
    for (let page = firstPage; page < firstPage + pages; page += 1) {
      assert(this.#pages.owner[page] === slab, `Page ${page} of slab ${slab} belongs to ${this.#pages.owner[page]} (${PAGE_FREE} is free)`);
    }
    assert(
      slots * classBytes <= pages * this.#pages.pageBytes,
      `Slab ${slab}: ${slots} slots of ${classBytes} bytes leave its ${pages} pages`,
    );
    assert(this.#slabAddress[slab] === this.#pages.addressOf(firstPage), `Slab ${slab} does not start at its first page`);
    const ordinals = new Uint8Array(slots);
    const check = (slot: number, isUsed: boolean): void => {
      const ordinal = this.#slotOrdinal[slot] as number;
      assert(seen[slot] === 0, `Slot ${slot} is in two lists`);
      assert(this.#slotSlab[slot] === slab, `Slot ${slot} does not know its slab ${slab}`);
      assert(
        ordinal < (this.#slabCarved[slab] as number) && ordinals[ordinal] === 0,
        `Place ${ordinal} of slab ${slab} is given twice or not carved`,
      );
      assert(this.#isUsed(slot) === isUsed, `Slot ${slot} is in the wrong list of slab ${slab}`);
      assert((this.#slotGeneration[slot] as number) > 0, `Slot ${slot} was carved but never given out`);
      seen[slot] = 1;
      ordinals[ordinal] = 1;
    };
    let used = 0;
    let free = 0;
    for (let slot = this.#slabUsedHead[slab] as number; slot !== NONE; slot = this.#slotNext[slot] as number, used += 1) check(slot, true);
    for (let slot = this.#slabFreeHead[slab] as number; slot !== NONE; slot = this.#slotNext[slot] as number, free += 1) check(slot, false);
    assert(used === this.#slabUsed[slab] && used > 0, `Slab ${slab} lists ${used} used slots, keeps ${this.#slabUsed[slab]}`);
    assert(used + free === this.#slabCarved[slab], `Slab ${slab} lists ${used + free} slots, carved ${this.#slabCarved[slab]}`);
    assert(this.#slabCarved[slab] <= slots, `Slab ${slab} carved more than its ${slots} slots`);
  }

  #checkClasses(sums: ReadonlyMap<number, { slabs: number; slots: number; used: number }>): void {
    assert(sums.size === this.#classByBytes.size, `${sums.size} classes have slabs, ${this.#classByBytes.size} exist`);
    for (const [classBytes, index] of this.#classByBytes) {
      const sum = sums.get(index);
      assert(sum !== undefined && this.#classBytes[index] === classBytes, `Class of ${classBytes} bytes has no slabs`);
      assert(
        sum.slabs === this.#classSlabs[index] && sum.slots === this.#classSlots[index] && sum.used === this.#classUsed[index],
        `Counts of the class of ${classBytes} bytes are wrong`,
      );
      const partial = new Set<number>();
      for (let slab = this.#classPartial[index] as number; slab !== NONE; slab = this.#slabNext[slab] as number) partial.add(slab);
      for (let slab = 0; slab < this.#slabCount; slab += 1) {
        if (this.#slabClass[slab] !== index) continue;
        const hasRoom = (this.#slabUsed[slab] as number) < (this.#slabSlots[slab] as number);
        assert(partial.delete(slab) === hasRoom, `Slab ${slab} is wrongly ${hasRoom ? 'missing from' : 'among'} the partial slabs`);
      }
      assert(partial.size === 0, `Class of ${classBytes} bytes lists slabs that are not its own`);
    }
  }
}
