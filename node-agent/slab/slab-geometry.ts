/**
 * The arithmetic of slabs: which class a size belongs to, and how many slots and pages a slab of a class has. Pure.
 *
 * The promise behind the numbers (DESIGN section 5): a tier filled with one size from 32 KiB to 1/16 of the tier holds at least
 * 87.5 % payload. What is lost: rounding to the class (4096 / class at worst), the end of each slab (`slabShape`), the end of
 * each arena (less than one slot of at most 1/16 of it, since shorter slabs fill what a whole one does not).
 */
import { BLOCK_BYTES, KiB, roundUp } from '#core/bytes.ts';

/** Sizes below this live in small-object slabs; from here on every slot is aligned to 4 KiB for O_DIRECT and DMA. */
export const LARGE_MIN_BYTES = 16 * KiB;
/** Alignment of small slots: one cache line, so that two objects never share one. */
export const SMALL_ALIGN_BYTES = 64;
/** No slab of a class may waste more than this part of its pages while a better shape exists. */
export const WASTE_LIMIT = 1 / 8;

/** Slots and pages of a slab; 0 pages where no arena is long enough for one slot. */
export interface SlabShape {
  /** The shape to use while there is room for it: the shortest slab whose end wastes little. */
  slots: number;
  pages: number;
  /** The shortest slab that wastes at most WASTE_LIMIT (or `pages` where none does); for gaps that the full shape does not fit. */
  minPages: number;
}

/** Where a slot lies: its slab's pages, numbered over all arenas, and its place in the slab. */
export interface SlotPlace {
  firstPage: number;
  pages: number;
  slots: number;
  classBytes: number;
  ordinal: number;
}

/** Exact class: size rounded up to 4 KiB; below 16 KiB the geometric class. */
export function fineClassBytes(sizeBytes: number): number {
  return sizeBytes < LARGE_MIN_BYTES ? coarseClassBytes(sizeBytes) : roundUp(sizeBytes, BLOCK_BYTES);
}

/**
 * Geometric class: eight steps an octave, so that at most 1/9 of a slot is waste; alignment (64 bytes, 4 KiB from 16 KiB on)
 * costs more below 512 bytes and between 16 and 32 KiB.
 */
export function coarseClassBytes(sizeBytes: number): number {
  if (sizeBytes <= SMALL_ALIGN_BYTES) return SMALL_ALIGN_BYTES;
  const octave = 2 ** (31 - Math.clz32(sizeBytes));
  return roundUp(sizeBytes, Math.max(sizeBytes < LARGE_MIN_BYTES ? SMALL_ALIGN_BYTES : BLOCK_BYTES, octave / 8));
}

/**
 * Writes the shape of a slab of `classBytes` into `shape`. The end of a slab may waste what the class rounding left of 12.5 %,
 * less 1/64 for the end of the arena, between 1/256 and 1/32. Waste is below one page and below one slot, so the search ends
 * after at most 256 steps.
 */
export function slabShape(classBytes: number, options: { pageBytes: number; maxPages: number }, shape: SlabShape): void {
  const { pageBytes, maxPages } = options;
  const rounding = classBytes < LARGE_MIN_BYTES ? 0 : BLOCK_BYTES / classBytes;
  const allowed = Math.min(1 / 32, Math.max(1 / 256, WASTE_LIMIT - rounding - 1 / 64));
  shape.slots = 0;
  shape.pages = 0;
  shape.minPages = 0;
  let bestWaste = 1;
  for (let wanted = 1; ;) {
    const pages = Math.ceil((wanted * classBytes) / pageBytes);
    if (pages > maxPages) break;
    const slots = Math.floor((pages * pageBytes) / classBytes);
    const waste = 1 - (slots * classBytes) / (pages * pageBytes);
    if (shape.minPages === 0 && waste <= WASTE_LIMIT) shape.minPages = pages;
    if (waste < bestWaste) {
      bestWaste = waste;
      shape.slots = slots;
      shape.pages = pages;
    }
    if (waste <= allowed) break;
    wanted = slots + 1;
  }
  if (shape.minPages === 0) shape.minPages = shape.pages;
}

/** Most slots of `classBytes` that a slab in a run of `runPages` pages has without wasting more than WASTE_LIMIT; 0 if none. */
export function slotsInRun(classBytes: number, runPages: number, pageBytes: number): number {
  let slots = Math.floor((runPages * pageBytes) / classBytes);
  while (slots > 0) {
    const pages = Math.ceil((slots * classBytes) / pageBytes);
    if (slots * classBytes >= pages * pageBytes * (1 - WASTE_LIMIT)) return slots;
    slots = Math.floor(((pages - 1) * pageBytes) / classBytes);
  }
  return 0;
}
