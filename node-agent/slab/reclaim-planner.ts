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
 * there are. Searches 2 to 4 look at everything; when they fail too (everything is leased, or waits to be written), the thorough
 * part is left out of as many of the next calls as it cost samples, so that calls in a row cost a sample or two each.
 */
import type { SlotIndex } from '#core/brand.ts';
import { type ArenaPages, PAGE_ABSENT, PAGE_FREE, type PageMap } from './page-map.ts';
import { SegmentScan } from './segment-scan.ts';
import { judgeSlab, type ReclaimRequest, type SlabView } from './slab-view.ts';

const JUDGE_LIMIT = 4096;
const NONE = -1;
const UNTOUCHABLE = Number.POSITIVE_INFINITY;

export class ReclaimPlanner {
  readonly #pages: PageMap;
  readonly #slabs: SlabView;
  readonly #scan: SegmentScan;
  /** Calls that are to be content with a sample of places. */
  readonly #rationedCalls = { wide: 0, narrow: 0 };
  /** Slots and places that this call looked at. */
  #judged = 0;
  /** Where the next sample of places goes on; reduced modulo their number. */
  #cursor = 0;
  /** Places in the arenas before each arena. */
  #placesBefore = new Int32Array(64);
  /** Used slots in the place judged last, as far as it was judged. */
  #placeUsed = 0;

  constructor(pages: PageMap, slabs: SlabView) {
    this.#pages = pages;
    this.#slabs = slabs;
    this.#scan = new SegmentScan(pages, slabs);
  }

  /** The slots to free, or undefined. Requires that the class has no room now. */
  plan(request: ReclaimRequest): SlotIndex[] | undefined {
    const kind = request.narrow ? 'narrow' : 'wide';
    const isRationed = this.#rationedCalls[kind] > 0;
    if (isRationed) this.#rationedCalls[kind] -= 1;
    this.#judged = 0;
    const place = this.#findPlace(request, isRationed);
    if (place !== undefined || isRationed) return place;
    const elsewhere = this.#findElsewhere(request);
    if (elsewhere === undefined) this.#rationedCalls[kind] = Math.floor(this.#judged / JUDGE_LIMIT);
    return elsewhere;
  }

  #findPlace(request: ReclaimRequest, isRationed: boolean): SlotIndex[] | undefined {
    const need = request.shape.pages;
    const { arenas } = this.#pages;
    if (this.#placesBefore.length < arenas.length) this.#placesBefore = new Int32Array(arenas.length * 2);
    let places = 0;
    for (let index = 0; index < arenas.length; index += 1) {
      this.#placesBefore[index] = places;
      places += Math.floor((arenas[index] as ArenaPages).pageCount / need);
    }
    if (places === 0) return undefined;
    const stride = spreadingStride(places);
    let best = NONE;
    let bestHeat = UNTOUCHABLE;
    let bestUsed = 0;
    this.#cursor %= places;
    for (let tried = 0; tried < places && (this.#judged < JUDGE_LIMIT || (best === NONE && !isRationed)); tried += 1) {
      this.#cursor = (this.#cursor + stride) % places;
      const first = this.#placeStart(this.#cursor, need);
      const heat = this.#judgePlace(request, first, bestHeat);
      this.#judged += 1 + this.#placeUsed;
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
        if (scanned !== done) {
          this.#scan.scan(request, done);
          this.#judged += this.#scan.judgedCount;
        }
        scanned = done;
        const plan = search === 4 ? this.#scan.findSpan(request) : this.#scan.findRun(search === 2 ? shape.pages : shape.minPages);
        if (plan !== undefined) return plan;
      }
    }
    return undefined;
  }

  /** First page of a place, counted over all arenas. */
  #placeStart(place: number, need: number): number {
    const { arenas } = this.#pages;
    let low = 0;
    let high = arenas.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >>> 1;
      if ((this.#placesBefore[middle] as number) <= place) low = middle;
      else high = middle - 1;
    }
    return (arenas[low] as ArenaPages).firstPage + (place - (this.#placesBefore[low] as number)) * need;
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
