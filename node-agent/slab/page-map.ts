/**
 * Pages of arenas: which are absent, free, or owned by a slab; free pages are kept as runs.
 *
 * Invariants (`checkInvariants`):
 * - a page is absent, free or owned by exactly one slab; a run never crosses the end of its arena;
 * - no two free runs touch: neighbours are joined at once;
 * - the first and the last page of a run know its length, and each run is in exactly the bin of its length;
 * - freePages = sum of the runs, absentPages = pages not made available yet.
 *
 * Pages of all arenas are numbered in one space with one guard page (absent for ever) behind each arena, so that looking at a
 * neighbour needs no bounds check. Boundary tags and segregated lists of runs: Knuth, TAOCP 1, 2.5; Masmano et al., TLSF (2004).
 */
import { assert } from '#core/assert.ts';
import { BLOCK_BYTES } from '#core/bytes.ts';

export const PAGE_ABSENT = -2;
export const PAGE_FREE = -1;
const NONE = -1;
/** One bin for each length below 64 pages, then 16 bins an octave: 64 + 16 * 25 covers 2^31 pages. */
const EXACT_BINS = 64;
const BIN_COUNT = EXACT_BINS + 16 * 25;
/** Runs of one bin looked at for an aligned place before the first fitting one is taken. */
const ALIGNED_TRIES = 32;

export interface ArenaPages {
  readonly address: number;
  /** Number of its first page in the common space. */
  readonly firstPage: number;
  readonly pageCount: number;
  /** As it was added; may end in a part of a page. */
  readonly sizeBytes: number;
}

export class PageMap {
  readonly pageBytes: number;
  readonly arenas: ArenaPages[] = [];
  /** PAGE_ABSENT, PAGE_FREE or the slab that owns the page. Replaced when an arena is added. */
  owner = new Int32Array(0);
  /** Pages of the run, at its first and last page only. */
  #runPages = new Int32Array(0);
  #runNext = new Int32Array(0);
  #runPrevious = new Int32Array(0);
  readonly #binHead = new Int32Array(BIN_COUNT).fill(NONE);
  /** No bin above this one holds a run. */
  #topBin = 0;
  #pageCount = 0;
  #freePages = 0;
  #absentPages = 0;
  #largestArenaPages = 0;

  constructor(pageBytes: number) {
    assert(pageBytes % BLOCK_BYTES === 0 && pageBytes > 0, `Page size ${pageBytes} must be a multiple of ${BLOCK_BYTES} bytes`);
    this.pageBytes = pageBytes;
  }

  /** Pages of all arenas, absent ones included. */
  get totalPages(): number {
    return this.#pageCount - this.arenas.length;
  }

  get freePages(): number {
    return this.#freePages;
  }

  get absentPages(): number {
    return this.#absentPages;
  }

  /** Pages of the longest arena: no slab can be longer. */
  get largestArenaPages(): number {
    return this.#largestArenaPages;
  }

  /** Adds a range whose pages are all absent; a remainder below one page is never used. Returns the arena's index. */
  addArena(address: number, sizeBytes: number): number {
    assert(Number.isSafeInteger(address + sizeBytes) && address >= 0, `Arena at ${address} must end below 2^53`);
    assert(address % BLOCK_BYTES === 0, `Arena at ${address} must be aligned to ${BLOCK_BYTES} bytes`);
    const pageCount = Math.floor(sizeBytes / this.pageBytes);
    const firstPage = this.#pageCount;
    this.#pageCount += pageCount + 1;
    this.owner = grow(this.owner, this.#pageCount).fill(PAGE_ABSENT, firstPage, this.#pageCount);
    this.#runPages = grow(this.#runPages, this.#pageCount);
    this.#runNext = grow(this.#runNext, this.#pageCount);
    this.#runPrevious = grow(this.#runPrevious, this.#pageCount);
    this.#absentPages += pageCount;
    this.#largestArenaPages = Math.max(this.#largestArenaPages, pageCount);
    this.arenas.push({ address, firstPage, pageCount, sizeBytes });
    return this.arenas.length - 1;
  }

  /** Turns absent pages into free ones. Offset and length are multiples of the page size, or end where the arena ends. */
  makeAvailable(arenaIndex: number, offsetBytes: number, lengthBytes: number): void {
    const arena = this.arenas[arenaIndex];
    assert(arena !== undefined, `Arena ${arenaIndex} does not exist`);
    const action = `Cannot make ${lengthBytes} bytes at ${offsetBytes} available`;
    const endBytes = offsetBytes + lengthBytes;
    assert(offsetBytes >= 0 && lengthBytes > 0 && endBytes <= arena.sizeBytes, `${action}: the arena has ${arena.sizeBytes} bytes`);
    assert(
      offsetBytes % this.pageBytes === 0 && (lengthBytes % this.pageBytes === 0 || endBytes === arena.sizeBytes),
      `${action}: not a multiple of the page size ${this.pageBytes}`,
    );
    const first = arena.firstPage + offsetBytes / this.pageBytes;
    const pages = Math.floor(lengthBytes / this.pageBytes);
    if (pages === 0) return;
    for (let page = first; page < first + pages; page += 1) {
      assert(this.owner[page] === PAGE_ABSENT, `${action}: page ${page - arena.firstPage} is not absent`);
    }
    this.#absentPages -= pages;
    this.#addRun(first, pages);
  }

  /** Index of the arena that holds a page. */
  arenaOf(page: number): number {
    let low = 0;
    let high = this.arenas.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >>> 1;
      if ((this.arenas[middle] as ArenaPages).firstPage <= page) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  addressOf(page: number): number {
    const arena = this.arenas[this.arenaOf(page)] as ArenaPages;
    return arena.address + (page - arena.firstPage) * this.pageBytes;
  }

  /** Length of the free run that starts at `page`. */
  runPagesAt(page: number): number {
    return this.#runPages[page] as number;
  }

  /**
   * First page of a place for `pages` contiguous free pages, or -1. It takes the smallest run with a place on the grid of
   * multiples of `pages`; else the smallest run that fits. The grid is what keeps slabs of one class from parking at random
   * distances, which would waste a quarter of the arena (Renyi's parking constant is 0.7476). Nothing is changed.
   */
  find(pages: number): number {
    const lowest = binOf(pages);
    let unaligned = NONE;
    for (let bin = lowest; bin <= this.#topBin; bin += 1) {
      let tries = 0;
      for (let run = this.#binHead[bin] as number; run !== NONE; run = this.#runNext[run] as number) {
        const length = this.#runPages[run] as number;
        if (length < pages) continue;
        const onGrid = this.#firstOnGrid(run, pages);
        if (onGrid + pages <= run + length) return onGrid;
        if (unaligned === NONE) unaligned = run;
        tries += 1;
        if (tries >= ALIGNED_TRIES) break;
      }
    }
    return unaligned;
  }

  /** First page of a longest free run, or -1; from 64 pages on the longest but for 1/16, which no slab shape minds. */
  findLongest(): number {
    while (this.#topBin > 0 && this.#binHead[this.#topBin] === NONE) this.#topBin -= 1;
    return this.#binHead[this.#topBin] as number;
  }

  /** True where these pages are free, and therefore of one run. */
  isFree(first: number, pages: number): boolean {
    if (!(first >= 0 && first + pages <= this.owner.length)) return false;
    for (let page = first; page < first + pages; page += 1) if (this.owner[page] !== PAGE_FREE) return false;
    return true;
  }

  /** Gives `pages` free pages from `first` on, all of one run, to a slab. */
  take(first: number, pages: number, slab: number): void {
    const run = this.#runStart(first);
    const length = this.#runPages[run] as number;
    assert(first + pages <= run + length, `Cannot take ${pages} pages at ${first}: the run at ${run} has ${length}`);
    this.#unlink(run);
    this.#freePages -= pages;
    this.owner.fill(slab, first, first + pages);
    if (first > run) this.#link(run, first - run);
    if (first + pages < run + length) this.#link(first + pages, run + length - first - pages);
  }

  /** Takes pages back from a slab and joins them with free neighbours. */
  release(first: number, pages: number): void {
    this.#addRun(first, pages);
  }

  checkInvariants(): void {
    let free = 0;
    let absent = 0;
    let runs = 0;
    for (const arena of this.arenas) {
      const end = arena.firstPage + arena.pageCount;
      assert(this.owner[end] === PAGE_ABSENT, `Guard page ${end} is in use`);
      for (let page = arena.firstPage; page < end;) {
        if (this.owner[page] !== PAGE_FREE) {
          if (this.owner[page] === PAGE_ABSENT) absent += 1;
          page += 1;
          continue;
        }
        const length = this.#runPages[page] as number;
        assert(length > 0 && page + length <= end, `Run at ${page} of ${length} pages leaves its arena`);
        assert(this.#runPages[page + length - 1] === length, `Last page of the run at ${page} does not know its length`);
        for (let inside = page; inside < page + length; inside += 1)
          assert(this.owner[inside] === PAGE_FREE, `Run page ${inside} has an owner`);
        assert(this.owner[page + length] !== PAGE_FREE, `Run at ${page} is not joined with its neighbour`);
        assert(this.#isBinned(page, length), `Run at ${page} is not in its bin`);
        free += length;
        runs += 1;
        page += length;
      }
    }
    assert(
      this.#binHead.subarray(this.#topBin + 1).every((head) => head === NONE),
      `A bin above ${this.#topBin} holds a run`,
    );
    let binned = 0;
    for (let bin = 0; bin < this.#binHead.length; bin += 1)
      for (let run = this.#binHead[bin] as number; run !== NONE; run = this.#runNext[run] as number) binned += 1;
    assert(binned === runs, `Bins hold ${binned} runs, the pages ${runs}`);
    assert(
      free === this.#freePages && absent === this.#absentPages,
      `Counted ${free} free and ${absent} absent pages, kept ${this.#freePages} and ${this.#absentPages}`,
    );
  }

  #isBinned(first: number, length: number): boolean {
    for (let run = this.#binHead[binOf(length)] as number; run !== NONE; run = this.#runNext[run] as number) if (run === first) return true;
    return false;
  }

  /** First page at or behind `run` that is a multiple of `pages` from the start of its arena. */
  #firstOnGrid(run: number, pages: number): number {
    if (pages === 1) return run;
    const { firstPage } = this.arenas[this.arenaOf(run)] as ArenaPages;
    return firstPage + Math.ceil((run - firstPage) / pages) * pages;
  }

  /** Start of the free run that holds `page`. Callers take from the start of a run or from a grid place inside it. */
  #runStart(page: number): number {
    let start = page;
    while (start > 0 && this.owner[start - 1] === PAGE_FREE) start -= 1;
    return start;
  }

  #addRun(first: number, pages: number): void {
    this.owner.fill(PAGE_FREE, first, first + pages);
    this.#freePages += pages;
    let start = first;
    let length = pages;
    if (first > 0 && this.owner[first - 1] === PAGE_FREE) {
      const before = this.#runPages[first - 1] as number;
      start -= before;
      length += before;
      this.#unlink(start);
    }
    const behind = first + pages;
    if (this.owner[behind] === PAGE_FREE) {
      length += this.#runPages[behind] as number;
      this.#unlink(behind);
    }
    this.#link(start, length);
  }

  /** Tags a maximal run and puts it into its bin. */
  #link(start: number, length: number): void {
    this.#runPages[start] = length;
    this.#runPages[start + length - 1] = length;
    const bin = binOf(length);
    if (bin > this.#topBin) this.#topBin = bin;
    const head = this.#binHead[bin] as number;
    this.#runPrevious[start] = NONE;
    this.#runNext[start] = head;
    if (head !== NONE) this.#runPrevious[head] = start;
    this.#binHead[bin] = start;
  }

  #unlink(run: number): void {
    const previous = this.#runPrevious[run] as number;
    const next = this.#runNext[run] as number;
    if (next !== NONE) this.#runPrevious[next] = previous;
    if (previous !== NONE) this.#runNext[previous] = next;
    else this.#binHead[binOf(this.#runPages[run] as number)] = next;
  }
}

/** Larger lengths never have a smaller bin, and all lengths of a higher bin are larger than all of a lower one. */
function binOf(pages: number): number {
  if (pages < EXACT_BINS) return pages;
  const octave = 31 - Math.clz32(pages);
  return EXACT_BINS + (octave - 6) * 16 + ((pages >>> (octave - 4)) & 15);
}

/** The array, or a copy with room for `length` elements and twice as many as before. */
function grow(array: Int32Array<ArrayBuffer>, length: number): Int32Array<ArrayBuffer> {
  if (array.length >= length) return array;
  const grown = new Int32Array(Math.max(length, array.length * 2));
  grown.set(array);
  return grown;
}
