/**
 * ReclaimPlanner chooses the slabs to empty so that a starving class gets a slab: the cheapest run of neighbouring slabs and free
 * pages without a locked slot. Four searches, the next only where the one before found nothing:
 *
 * 1. one place on the class's grid, no slab of the class itself touched. Places on a grid are what lets a class fill a tier: runs
 *    chosen anywhere would park its slabs at random distances with gaps too short for one more;
 * 2. a run anywhere that is long enough (locked slots or absent pages leave no grid place);
 * 3. a run long enough for the shortest slab that is not wasteful;
 * 4. up to MAX_SPAN neighbouring grid places whose own off-grid slabs are given up for more slots than they have.
 *
 * A whole slab of the class on its grid is never touched, so that repeated plans converge. The segments of a scan live in typed
 * arrays that are reused; a scan looks at whole arenas until SCAN_SLOTS used slots were judged and a plan was found, and the next
 * scan starts with the arena behind, so that the cost of a plan is bounded however many small chunks there are.
 */
import { assert } from '#core/assert.ts';
import type { SlotIndex } from '#core/brand.ts';
import { type ArenaPages, PAGE_ABSENT, PAGE_FREE, type PageMap } from './page-map.ts';
import type { SlabShape } from './slab-geometry.ts';

const NONE = -1;
/** Used slots judged before a scan is content with what it found: about a millisecond of callbacks. */
const SCAN_SLOTS = 65_536;
const MAX_SPAN = 32;

/** What the planner reads of the allocator's slabs. */
export interface SlabView {
  firstPage(slab: number): number;
  pages(slab: number): number;
  classBytes(slab: number): number;
  slots(slab: number): number;
  firstUsedSlot(slab: number): number;
  nextUsedSlot(slot: number): number;
}

export interface ReclaimRequest {
  readonly classBytes: number;
  readonly shape: Readonly<SlabShape>;
  readonly slotHeat: (slot: SlotIndex) => number;
  readonly isLocked: (slot: SlotIndex) => boolean;
}

export class ReclaimPlanner {
  readonly #pages: PageMap;
  readonly #slabs: SlabView;

  // Segments of the scanned arenas, in page order: a free run, a slab, or a stretch that must not be touched (heat Infinity).
  #first = new Int32Array(256);
  #length = new Int32Array(256);
  #slab = new Int32Array(256);
  #used = new Int32Array(256);
  /** Slots that the class itself has in the segment. */
  #own = new Int32Array(256);
  #heat = new Float64Array(256);
  #count = 0;
  /** Scanned arenas and where the segments of each begin. */
  readonly #arenas: ArenaPages[] = [];
  readonly #arenaSegments: number[] = [];
  #startArena = 0;

  // Best run of segments so far.
  #bestFirst = NONE;
  #bestLast = NONE;
  #bestHeat = 0;
  #bestUsed = 0;

  constructor(pages: PageMap, slabs: SlabView) {
    this.#pages = pages;
    this.#slabs = slabs;
  }

  /** The slots to free, or undefined. Requires that the class has no room now. */
  plan(request: ReclaimRequest): SlotIndex[] | undefined {
    const { shape } = request;
    const arenaCount = this.#pages.arenas.length;
    let scanned = NONE;
    for (let search = 1; search <= 4; search += 1) {
      if (search === 3 && shape.minPages >= shape.pages) continue;
      for (let done = 0; done < arenaCount; done += this.#arenas.length) {
        // A batch that covers all arenas is scanned once for all searches.
        if (scanned !== done) this.#scan(request, done);
        scanned = done;
        this.#bestFirst = NONE;
        for (let index = 0; index < this.#arenas.length; index += 1) {
          if (search === 2 || search === 3) this.#searchRuns(index, search === 2 ? shape.pages : shape.minPages);
          else this.#searchGrid(index, shape, search === 1 ? 1 : MAX_SPAN);
        }
        if (this.#bestFirst === NONE) continue;
        this.#startArena = (this.#startArena + done + this.#arenas.length) % arenaCount;
        return this.#collect();
      }
    }
    return undefined;
  }

  /** Writes the segments of arenas from the `skip`-th behind the start on, until enough slots were judged. */
  #scan(request: ReclaimRequest, skip: number): void {
    const { arenas } = this.#pages;
    this.#count = 0;
    this.#arenas.length = 0;
    this.#arenaSegments.length = 0;
    let judged = 0;
    for (let index = skip; index < arenas.length && judged < SCAN_SLOTS; index += 1) {
      const arena = arenas[(this.#startArena + index) % arenas.length] as ArenaPages;
      this.#arenas.push(arena);
      this.#arenaSegments.push(this.#count);
      judged += this.#scanArena(request, arena);
    }
    this.#arenaSegments.push(this.#count);
  }

  #scanArena(request: ReclaimRequest, arena: ArenaPages): number {
    const { owner } = this.#pages;
    const end = arena.firstPage + arena.pageCount;
    let judged = 0;
    for (let page = arena.firstPage; page < end; ) {
      const slab = owner[page] as number;
      const segment = this.#addSegment(page, slab);
      if (slab === PAGE_FREE) {
        this.#length[segment] = this.#pages.runPagesAt(page);
      } else if (slab === PAGE_ABSENT) {
        let behind = page + 1;
        while (behind < end && owner[behind] === PAGE_ABSENT) behind += 1;
        this.#length[segment] = behind - page;
        this.#heat[segment] = Number.POSITIVE_INFINITY;
      } else {
        this.#length[segment] = this.#slabs.pages(slab);
        judged += this.#judgeSlab(request, segment, arena);
      }
      page += this.#length[segment] as number;
    }
    return judged;
  }

  /** Heat, used slots and own slots of a slab; returns how many slots were judged. */
  #judgeSlab({ classBytes, shape, slotHeat, isLocked }: ReclaimRequest, segment: number, arena: ArenaPages): number {
    const slab = this.#slab[segment] as number;
    if (this.#slabs.classBytes(slab) === classBytes) {
      this.#own[segment] = this.#slabs.slots(slab);
      const onGrid = ((this.#first[segment] as number) - arena.firstPage) % shape.pages === 0;
      if (onGrid && this.#length[segment] === shape.pages) {
        this.#heat[segment] = Number.POSITIVE_INFINITY;
        return 0;
      }
    }
    let used = 0;
    let heat = 0;
    for (let slot = this.#slabs.firstUsedSlot(slab); slot !== NONE; slot = this.#slabs.nextUsedSlot(slot)) {
      used += 1;
      if (isLocked(slot as SlotIndex)) {
        heat = Number.POSITIVE_INFINITY;
        break;
      }
      const cost = slotHeat(slot as SlotIndex);
      assert(cost >= 0, `Heat ${cost} of slot ${slot} must be 0 or more`);
      heat += cost;
    }
    this.#used[segment] = used;
    this.#heat[segment] = heat;
    return used;
  }

  /**
   * Every place on the grid, and every span of up to `maxSpan` neighbouring ones: the shortest span from each place that gains
   * slots. With a span of 1 own slabs are not touched.
   */
  #searchGrid(index: number, shape: Readonly<SlabShape>, maxSpan: number): void {
    const arena = this.#arenas[index] as ArenaPages;
    const places = Math.floor(arena.pageCount / shape.pages);
    let segment = this.#arenaSegments[index] as number;
    for (let place = 0; place < places; ) {
      const begin = arena.firstPage + place * shape.pages;
      while (this.#end(segment) <= begin) segment += 1;
      if (this.#end(segment) >= begin + shape.pages) {
        // One segment covers this place and perhaps many behind it: judge it once.
        if (this.#own[segment] === 0) this.#consider(segment, segment, this.#heat[segment] as number, this.#used[segment] as number);
        place = Math.max(place + 1, Math.floor((this.#end(segment) - arena.firstPage) / shape.pages));
        continue;
      }
      this.#searchSpan(segment, { arena, shape, place, lastPlace: Math.min(places, place + maxSpan) - 1, mayTouchOwn: maxSpan > 1 });
      place += 1;
    }
  }

  #searchSpan(
    firstSegment: number,
    span: { arena: ArenaPages; shape: Readonly<SlabShape>; place: number; lastPlace: number; mayTouchOwn: boolean },
  ): void {
    let segment = firstSegment;
    let heat = 0;
    let used = 0;
    let own = 0;
    for (let place = span.place; place <= span.lastPlace; place += 1) {
      const end = span.arena.firstPage + (place + 1) * span.shape.pages;
      for (; segment < this.#count && (this.#first[segment] as number) < end; segment += 1) {
        heat += this.#heat[segment] as number;
        used += this.#used[segment] as number;
        own += this.#own[segment] as number;
        if (heat === Number.POSITIVE_INFINITY || (own > 0 && !span.mayTouchOwn)) return;
      }
      if (span.shape.slots * (place - span.place + 1) > own) {
        this.#consider(firstSegment, segment - 1, heat, used);
        return;
      }
    }
  }

  /** Every run of segments of at least `pages` pages that would be too short without its first; no own slabs. */
  #searchRuns(index: number, pages: number): void {
    const begin = this.#arenaSegments[index] as number;
    const end = this.#arenaSegments[index + 1] as number;
    let left = begin;
    let length = 0;
    let heat = 0;
    let used = 0;
    for (let right = begin; right < end; right += 1) {
      if (this.#heat[right] === Number.POSITIVE_INFINITY || (this.#own[right] as number) > 0) {
        left = right + 1;
        length = 0;
        heat = 0;
        used = 0;
        continue;
      }
      length += this.#length[right] as number;
      heat += this.#heat[right] as number;
      used += this.#used[right] as number;
      while (length - (this.#length[left] as number) >= pages) {
        length -= this.#length[left] as number;
        heat -= this.#heat[left] as number;
        used -= this.#used[left] as number;
        left += 1;
      }
      if (length >= pages) this.#consider(left, right, heat, used);
    }
  }

  #consider(first: number, last: number, heat: number, used: number): void {
    if (heat === Number.POSITIVE_INFINITY) return;
    if (this.#bestFirst !== NONE && (heat > this.#bestHeat || (heat === this.#bestHeat && used >= this.#bestUsed))) return;
    this.#bestFirst = first;
    this.#bestLast = last;
    this.#bestHeat = heat;
    this.#bestUsed = used;
  }

  #collect(): SlotIndex[] {
    const plan: SlotIndex[] = [];
    for (let segment = this.#bestFirst; segment <= this.#bestLast; segment += 1) {
      const slab = this.#slab[segment] as number;
      if (slab < 0) continue;
      for (let slot = this.#slabs.firstUsedSlot(slab); slot !== NONE; slot = this.#slabs.nextUsedSlot(slot)) plan.push(slot as SlotIndex);
    }
    return plan;
  }

  #end(segment: number): number {
    return (this.#first[segment] as number) + (this.#length[segment] as number);
  }

  #addSegment(first: number, slab: number): number {
    const segment = this.#count;
    this.#count += 1;
    if (segment >= this.#first.length) this.#grow();
    this.#first[segment] = first;
    this.#slab[segment] = slab;
    this.#used[segment] = 0;
    this.#own[segment] = 0;
    this.#heat[segment] = 0;
    return segment;
  }

  #grow(): void {
    const length = this.#first.length * 2;
    const ints = (array: Int32Array<ArrayBuffer>): Int32Array<ArrayBuffer> => {
      const grown = new Int32Array(length);
      grown.set(array);
      return grown;
    };
    this.#first = ints(this.#first);
    this.#length = ints(this.#length);
    this.#slab = ints(this.#slab);
    this.#used = ints(this.#used);
    this.#own = ints(this.#own);
    const heat = new Float64Array(length);
    heat.set(this.#heat);
    this.#heat = heat;
  }
}
