/**
 * ReclaimPlanner chooses the slabs to empty so that a starving class gets a slab: the cheapest run of neighbouring slabs and free
 * pages without a locked slot. Four searches, the next only where the one before found nothing:
 *
 * 1. one place on the class's grid (multiples of its slab size in each arena), no slab of the class itself touched. The grid is
 *    what lets a class fill a tier: runs chosen anywhere would park its slabs at random, with gaps too short for one more;
 * 2. a run anywhere that is long enough (locked slots or absent pages leave no place on the grid);
 * 3. a run long enough for the shortest slab that is not wasteful;
 * 4. a few neighbouring places whose own off-grid slabs are given up for more slots than they have.
 *
 * A whole slab of the class on its grid is never touched, and each plan of search 4 gains slots, so that repeated plans converge.
 *
 * Search 1 is the usual one. It judges places in an order that spreads them evenly over the tier, and stops when it has a plan
 * and has judged JUDGE_LIMIT slots: up to there (4 GiB of 1 MiB chunks) the plan is the coldest of all places, beyond it the
 * coldest of a sample of hundreds; the next plan continues behind it. Cost stays below a millisecond or so however many chunks
 * there are. Searches 2 to 4 look at everything.
 */
import type { SlotIndex } from '#core/brand.ts';
import { PAGE_ABSENT, PAGE_FREE, type PageMap } from './page-map.ts';
import { SegmentScan } from './segment-scan.ts';
import { judgeSlab, type ReclaimRequest, type SlabView } from './slab-view.ts';

const JUDGE_LIMIT = 4096;
const NONE = -1;
const UNTOUCHABLE = Number.POSITIVE_INFINITY;

export class ReclaimPlanner {
  readonly #pages: PageMap;
  readonly #slabs: SlabView;
  readonly #scan: SegmentScan;
  /** Where the next sample of places goes on; reduced modulo their number. */
  #cursor = 0;
  /** Used slots in the place judged last, as far as it was judged. */
  #placeUsed = 0;

  constructor(pages: PageMap, slabs: SlabView) {
    this.#pages = pages;
    this.#slabs = slabs;
    this.#scan = new SegmentScan(pages, slabs);
  }

  /** The slots to free, or undefined. Requires that the class has no room now. */
  plan(request: ReclaimRequest): SlotIndex[] | undefined {
    return this.#findPlace(request) ?? this.#findElsewhere(request);
  }

  #findPlace(request: ReclaimRequest): SlotIndex[] | undefined {
    const need = request.shape.pages;
    const { arenas } = this.#pages;
    let places = 0;
    for (const arena of arenas) places += Math.floor(arena.pageCount / need);
    if (places === 0) return undefined;
    const stride = spreadingStride(places);
    let best = NONE;
    let bestHeat = UNTOUCHABLE;
    let bestUsed = 0;
    let judged = 0;
    this.#cursor %= places;
    for (let tried = 0; tried < places && (judged < JUDGE_LIMIT || best === NONE); tried += 1) {
      this.#cursor = (this.#cursor + stride) % places;
      const first = this.#placeStart(this.#cursor, need);
      const heat = this.#judgePlace(request, first, bestHeat);
      judged += 1 + this.#placeUsed;
      if (heat === UNTOUCHABLE || heat > bestHeat || (heat === bestHeat && this.#placeUsed >= bestUsed)) continue;
      best = first;
      bestHeat = heat;
      bestUsed = this.#placeUsed;
    }
    return best === NONE ? undefined : this.#collectPlace(best, need);
  }

  #findElsewhere(request: ReclaimRequest): SlotIndex[] | undefined {
    const { shape } = request;
    let scanned = NONE;
    for (let search = 2; search <= 4; search += 1) {
      if (search === 3 && shape.minPages >= shape.pages) continue;
      for (let done = 0; done < this.#pages.arenas.length; done += this.#scan.arenaCount) {
        // A batch that covers all arenas is scanned once for all searches.
        if (scanned !== done) this.#scan.scan(request, done);
        scanned = done;
        const plan = search === 4 ? this.#scan.findSpan(request) : this.#scan.findRun(search === 2 ? shape.pages : shape.minPages);
        if (plan !== undefined) return plan;
      }
    }
    return undefined;
  }

  /** First page of a place, counted over all arenas. */
  #placeStart(place: number, need: number): number {
    let left = place;
    for (const arena of this.#pages.arenas) {
      const places = Math.floor(arena.pageCount / need);
      if (left < places) return arena.firstPage + left * need;
      left -= places;
    }
    return NONE;
  }

  /** Heat of everything that overlaps a place; UNTOUCHABLE where that is not allowed or costs more than `limit`. */
  #judgePlace(request: ReclaimRequest, first: number, limit: number): number {
    const { owner } = this.#pages;
    const behind = first + request.shape.pages;
    let heat = 0;
    this.#placeUsed = 0;
    for (let page = first; page < behind;) {
      const slab = owner[page] as number;
      if (slab === PAGE_ABSENT) return UNTOUCHABLE;
      if (slab === PAGE_FREE) {
        page += 1;
        continue;
      }
      if (this.#slabs.classBytes(slab) === request.classBytes) return UNTOUCHABLE;
      this.#placeUsed += this.#slabs.used(slab);
      heat += judgeSlab(this.#slabs, slab, request, limit - heat);
      if (heat > limit) return UNTOUCHABLE;
      page = this.#slabs.firstPage(slab) + this.#slabs.pages(slab);
    }
    return heat;
  }

  #collectPlace(first: number, need: number): SlotIndex[] {
    const { owner } = this.#pages;
    const plan: SlotIndex[] = [];
    for (let page = first; page < first + need;) {
      const slab = owner[page] as number;
      if (slab === PAGE_FREE) {
        page += 1;
        continue;
      }
      for (let slot = this.#slabs.firstUsedSlot(slab); slot !== NONE; slot = this.#slabs.nextUsedSlot(slot)) plan.push(slot as SlotIndex);
      page = this.#slabs.firstPage(slab) + this.#slabs.pages(slab);
    }
    return plan;
  }
}

/** A stride near count / golden ratio without a common factor: its multiples visit every place once, evenly spread all the way. */
function spreadingStride(count: number): number {
  let stride = Math.max(1, Math.round(count * 0.618_033_988_75));
  while (greatestCommonDivisor(stride, count) !== 1) stride += 1;
  return stride;
}

function greatestCommonDivisor(a: number, b: number): number {
  while (b !== 0) [a, b] = [b, a % b];
  return a;
}
