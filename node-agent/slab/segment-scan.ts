/**
 * SegmentScan reads arenas as a row of segments (free runs, slabs, stretches that must not be touched) and finds the cheapest run
 * of segments to empty. It is the thorough part of reclaim planning: it looks at every slab of an arena. Segments live in typed
 * arrays that are reused from scan to scan.
 */
import type { SlotIndex } from '#core/brand.ts';
import { type ArenaPages, PAGE_ABSENT, PAGE_FREE, type PageMap } from './page-map.ts';
import { judgeSlab, type ReclaimRequest, type SlabView } from './slab-view.ts';

const NONE = -1;
const UNTOUCHABLE = Number.POSITIVE_INFINITY;
/** Used slots judged before a batch of arenas ends. */
const BATCH_SLOTS = 65_536;
/** Neighbouring grid places that may be rearranged at once. */
const MAX_SPAN = 32;

export class SegmentScan {
  readonly #pages: PageMap;
  readonly #slabs: SlabView;

  // Segments of the scanned arenas, in page order.
  #first = new Int32Array(256);
  #length = new Int32Array(256);
  #slab = new Int32Array(256);
  #used = new Int32Array(256);
  /** Slots that the class itself has in the segment. */
  #own = new Int32Array(256);
  /** Sum over the used slots, or UNTOUCHABLE. */
  #heat = new Float64Array(256);
  #count = 0;
  /** Scanned arenas and where the segments of each begin; one more entry for the end. */
  readonly #arenas: ArenaPages[] = [];
  readonly #arenaSegments: number[] = [];

  // Best run of segments so far.
  #bestFirst = NONE;
  #bestLast = NONE;
  #bestHeat = 0;
  #bestUsed = 0;

  constructor(pages: PageMap, slabs: SlabView) {
    this.#pages = pages;
    this.#slabs = slabs;
  }

  /** Segments and slots that the last scan looked at. */
  judgedCount = 0;

  /** Arenas of the last scan. */
  get arenaCount(): number {
    return this.#arenas.length;
  }

  /** Reads arenas from `firstArena` on, until enough slots were judged or there are no more. */
  scan(request: ReclaimRequest, firstArena: number): void {
    const { arenas } = this.#pages;
    this.#count = 0;
    this.#arenas.length = 0;
    this.#arenaSegments.length = 0;
    let judged = 0;
    for (let index = firstArena; index < arenas.length && judged < BATCH_SLOTS; index += 1) {
      const arena = arenas[index] as ArenaPages;
      this.#arenas.push(arena);
      this.#arenaSegments.push(this.#count);
      judged += this.#scanArena(request, arena);
    }
    this.#arenaSegments.push(this.#count);
    this.judgedCount = judged + this.#count;
  }

  /** Slots of the cheapest run of at least `pages` pages without a slab of the class itself. */
  findRun(pages: number): SlotIndex[] | undefined {
    this.#bestFirst = NONE;
    for (let index = 0; index < this.#arenas.length; index += 1) this.#searchRuns(index, pages);
    return this.#collect();
  }

  /**
   * Slots of the cheapest span of up to MAX_SPAN neighbouring places on the class's grid that gives the class more slots than its
   * own slabs in the span have; whole slabs on the grid are not touched.
   */
  findSpan(request: ReclaimRequest): SlotIndex[] | undefined {
    this.#bestFirst = NONE;
    for (let index = 0; index < this.#arenas.length; index += 1) this.#searchSpans(request, index);
    return this.#collect();
  }

  #scanArena(request: ReclaimRequest, arena: ArenaPages): number {
    const { owner } = this.#pages;
    const end = arena.firstPage + arena.pageCount;
    let judged = 0;
    for (let page = arena.firstPage; page < end;) {
      const slab = owner[page] as number;
      const segment = this.#addSegment(page, slab);
      if (slab === PAGE_FREE) {
        this.#length[segment] = this.#pages.runPagesAt(page);
      } else if (slab === PAGE_ABSENT) {
        let behind = page + 1;
        while (behind < end && owner[behind] === PAGE_ABSENT) behind += 1;
        this.#length[segment] = behind - page;
        this.#heat[segment] = UNTOUCHABLE;
      } else {
        this.#length[segment] = this.#slabs.pages(slab);
        judged += this.#scanSlab(request, segment, arena);
      }
      page += this.#length[segment];
    }
    return judged;
  }

  /** Returns how many slots were judged. */
  #scanSlab(request: ReclaimRequest, segment: number, arena: ArenaPages): number {
    const slab = this.#slab[segment] as number;
    const { pages } = request.shape;
    if (this.#slabs.classBytes(slab) === request.classBytes) {
      this.#own[segment] = this.#slabs.slots(slab);
      if (this.#length[segment] === pages && ((this.#first[segment] as number) - arena.firstPage) % pages === 0) {
        this.#heat[segment] = UNTOUCHABLE;
        return 0;
      }
    }
    this.#used[segment] = this.#slabs.used(slab);
    this.#heat[segment] = judgeSlab(this.#slabs, slab, request, UNTOUCHABLE);
    return this.#used[segment];
  }

  /** Every run of segments of at least `pages` pages that would be too short without its first. */
  #searchRuns(index: number, pages: number): void {
    const begin = this.#arenaSegments[index] as number;
    const end = this.#arenaSegments[index + 1] as number;
    let left = begin;
    let length = 0;
    let heat = 0;
    let used = 0;
    for (let right = begin; right < end; right += 1) {
      if (this.#heat[right] === UNTOUCHABLE || (this.#own[right] as number) > 0) {
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

  /** From every place on the grid the shortest span that gains slots. */
  #searchSpans({ shape }: ReclaimRequest, index: number): void {
    const arena = this.#arenas[index] as ArenaPages;
    const places = Math.floor(arena.pageCount / shape.pages);
    const end = this.#arenaSegments[index + 1] as number;
    let begin = this.#arenaSegments[index] as number;
    for (let from = 0; from < places; from += 1) {
      while (this.#end(begin) <= arena.firstPage + from * shape.pages) begin += 1;
      if (this.#heat[begin] === UNTOUCHABLE) continue;
      let segment = begin;
      let heat = 0;
      let used = 0;
      let own = 0;
      for (let place = from; place < places && place < from + MAX_SPAN && heat !== UNTOUCHABLE; place += 1) {
        const behind = arena.firstPage + (place + 1) * shape.pages;
        for (; segment < end && (this.#first[segment] as number) < behind; segment += 1) {
          heat += this.#heat[segment] as number;
          used += this.#used[segment] as number;
          own += this.#own[segment] as number;
        }
        if (shape.slots * (place - from + 1) <= own) continue;
        this.#consider(begin, segment - 1, heat, used);
        break;
      }
    }
  }

  #consider(first: number, last: number, heat: number, used: number): void {
    if (heat === UNTOUCHABLE) return;
    if (this.#bestFirst !== NONE && (heat > this.#bestHeat || (heat === this.#bestHeat && used >= this.#bestUsed))) return;
    this.#bestFirst = first;
    this.#bestLast = last;
    this.#bestHeat = heat;
    this.#bestUsed = used;
  }

  #collect(): SlotIndex[] | undefined {
    if (this.#bestFirst === NONE) return undefined;
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
