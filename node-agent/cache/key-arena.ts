/**
 * Room for the key bytes of the chunk index, in words, without fragmentation.
 *
 * A page of 16 KiB holds blocks of one word count only. The blocks of a word count are dense: when one is freed, the last one
 * of that word count moves into the hole, and a page that runs empty serves any other word count. So at most one page per word
 * count (513 of them, 8 MiB in all, and in practice one or two) is partly empty, whatever the order of insertion and removal.
 *
 * A block is one header word and the packed words of the key (key-hash.ts). Header: row of the owner << 2 | zero bytes of padding
 * in the last word. The header is what lets a block move: the arena answers with the owner, whose reference the index changes.
 *
 * Invariants (checkInvariants): a page is free or belongs to exactly one word count; the blocks of a word count fill its pages
 * without a gap; every header names a row once.
 */
import { assert } from '#core/assert.ts';

/** Position of a block's header, in words from the start of the arena. Changes when the block moves. */
export type KeyRef = number;

const PAGE_WORDS_LOG2 = 12;
const PAGE_WORDS = 1 << PAGE_WORDS_LOG2;
/** 1 MiB: allocated at once, never given back; small enough to be zeroed in well under a millisecond. */
const SEGMENT_WORDS_LOG2 = 18;
const SEGMENT_WORDS = 1 << SEGMENT_WORDS_LOG2;
const SEGMENT_MASK = SEGMENT_WORDS - 1;
const PAGES_PER_SEGMENT = SEGMENT_WORDS / PAGE_WORDS;
/** A KeyRef has 32 bits: 16 GiB of keys, 250 million of 64 bytes. */
const SEGMENT_LIMIT = 2 ** 32 / SEGMENT_WORDS;
/** A header keeps 30 bits of the row. */
export const ROW_LIMIT = 2 ** 30;
/** 2 KiB, the documented limit of the doors. */
export const KEY_LIMIT_BYTES = 2048;
export const KEY_LIMIT_WORDS = KEY_LIMIT_BYTES / 4;

assert(new Uint8Array(new Uint32Array([1]).buffer)[0] === 1, 'KeyArena packs keys little-endian; this host is big-endian');

/** The blocks of one word count. */
interface SizeClass {
  readonly blockWords: number;
  readonly blocksPerPage: number;
  readonly pages: number[];
  blockCount: number;
}

/** Packed key in a scratch buffer: `wordCount` words from `start`, the last `padBytes` bytes of which are padding. */
export interface PackedKey {
  readonly words: Uint32Array;
  readonly start: number;
  readonly lengthBytes: number;
}

export class KeyArena {
  readonly #segments: Uint32Array[] = [];
  readonly #classes: (SizeClass | undefined)[] = Array.from({ length: KEY_LIMIT_WORDS + 1 }, () => undefined);
  /** Words a key (not block) of each page has. Pages in the free list keep their last value. */
  #pageKeyWords = new Uint16Array(PAGES_PER_SEGMENT);
  readonly #freePages: number[] = [];

  /** Stores a key for `row`. The reference is valid until `free` answers that this row's block moved. */
  allocate(row: number, key: PackedKey): KeyRef {
    const wordCount = (key.lengthBytes + 3) >>> 2;
    const sizeClass = this.#classOf(wordCount);
    const { blocksPerPage, blockCount } = sizeClass;
    const pageIndex = Math.floor(blockCount / blocksPerPage);
    if (pageIndex === sizeClass.pages.length) sizeClass.pages.push(this.#takePage(wordCount));
    const ref = refOf(sizeClass, blockCount);
    sizeClass.blockCount += 1;
    const segment = this.#segments[ref >>> SEGMENT_WORDS_LOG2]!;
    const at = ref & SEGMENT_MASK;
    segment[at] = (row << 2) | (wordCount * 4 - key.lengthBytes);
    for (let i = 0; i < wordCount; i += 1) segment[at + 1 + i] = key.words[key.start + i]!;
    return ref;
  }

  /**
   * Frees the block at `ref`. Answers the row whose block now lies at `ref`, or -1 where none moved. The caller changes that
   * row's reference before it uses the arena again.
   */
  free(ref: KeyRef): number {
    const wordCount = this.#pageKeyWords[ref >>> PAGE_WORDS_LOG2]!;
    const sizeClass = this.#classOf(wordCount);
    const last = refOf(sizeClass, sizeClass.blockCount - 1);
    sizeClass.blockCount -= 1;
    let moved = -1;
    if (last !== ref) {
      const from = this.#segments[last >>> SEGMENT_WORDS_LOG2]!;
      const to = this.#segments[ref >>> SEGMENT_WORDS_LOG2]!;
      const fromAt = last & SEGMENT_MASK;
      const toAt = ref & SEGMENT_MASK;
      for (let i = 0; i < sizeClass.blockWords; i += 1) to[toAt + i] = from[fromAt + i]!;
      moved = to[toAt]! >>> 2;
    }
    if (sizeClass.blockCount % sizeClass.blocksPerPage === 0) this.#freePages.push(sizeClass.pages.pop()!);
    return moved;
  }

  /** Header word of the block at `ref`, see above. */
  header(ref: KeyRef): number {
    return this.#segments[ref >>> SEGMENT_WORDS_LOG2]![ref & SEGMENT_MASK]!;
  }

  /** True where the block at `ref` holds exactly this packed key of `lengthBytes` bytes. */
  equals(ref: KeyRef, words: Uint32Array, start: number, lengthBytes: number): boolean {
    const wordCount = (lengthBytes + 3) >>> 2;
    if (this.#pageKeyWords[ref >>> PAGE_WORDS_LOG2] !== wordCount) return false;
    const segment = this.#segments[ref >>> SEGMENT_WORDS_LOG2]!;
    const at = ref & SEGMENT_MASK;
    if ((segment[at]! & 3) !== wordCount * 4 - lengthBytes) return false;
    for (let i = 0; i < wordCount; i += 1) {
      if (segment[at + 1 + i] !== words[start + i]) return false;
    }
    return true;
  }

  lengthBytes(ref: KeyRef): number {
    return this.#pageKeyWords[ref >>> PAGE_WORDS_LOG2]! * 4 - (this.#segments[ref >>> SEGMENT_WORDS_LOG2]![ref & SEGMENT_MASK]! & 3);
  }

  /** The key's bytes in place; valid until the next `allocate` or `free`. */
  view(ref: KeyRef): Uint8Array {
    const segment = this.#segments[ref >>> SEGMENT_WORDS_LOG2]!;
    return new Uint8Array(segment.buffer, ((ref & SEGMENT_MASK) + 1) * 4, this.lengthBytes(ref));
  }

  memoryBytes(): number {
    return this.#segments.length * SEGMENT_WORDS * 4 + this.#pageKeyWords.byteLength + (this.#pageCount + KEY_LIMIT_WORDS) * 8;
  }

  /** Pages in use, for tests of fragmentation. */
  get usedPageCount(): number {
    return this.#pageCount - this.#freePages.length;
  }

  /** Visits every block: reference and owning row. */
  forEach(visit: (ref: KeyRef, row: number) => void): void {
    for (const sizeClass of this.#classes) {
      if (sizeClass === undefined) continue;
      for (let block = 0; block < sizeClass.blockCount; block += 1) {
        const ref = refOf(sizeClass, block);
        visit(ref, this.#segments[ref >>> SEGMENT_WORDS_LOG2]![ref & SEGMENT_MASK]! >>> 2);
      }
    }
  }

  checkInvariants(): void {
    const owner = new Map<number, number>();
    for (const page of this.#freePages) {
      assert(!owner.has(page), `KeyArena page ${page} is in the free list twice`);
      owner.set(page, -1);
    }
    this.#classes.forEach((sizeClass, wordCount) => {
      if (sizeClass === undefined) return;
      const wanted = Math.ceil(sizeClass.blockCount / sizeClass.blocksPerPage);
      assert(sizeClass.pages.length === wanted, `KeyArena word count ${wordCount} has ${sizeClass.pages.length} pages, wants ${wanted}`);
      for (const page of sizeClass.pages) {
        assert(!owner.has(page), `KeyArena page ${page} of word count ${wordCount} has another owner`);
        owner.set(page, wordCount);
        assert(this.#pageKeyWords[page] === wordCount, `KeyArena page ${page} does not know its word count ${wordCount}`);
      }
    });
    assert(owner.size === this.#pageCount, `KeyArena accounts for ${owner.size} of ${this.#pageCount} pages`);
    const rows = new Set<number>();
    this.forEach((ref, row) => {
      assert(!rows.has(row), `KeyArena has two blocks of row ${row}, one at ${ref}`);
      rows.add(row);
    });
  }

  get #pageCount(): number {
    return this.#segments.length * PAGES_PER_SEGMENT;
  }

  #classOf(wordCount: number): SizeClass {
    const found = this.#classes[wordCount];
    if (found !== undefined) return found;
    const blockWords = wordCount + 1;
    const made: SizeClass = { blockWords, blocksPerPage: Math.floor(PAGE_WORDS / blockWords), pages: [], blockCount: 0 };
    this.#classes[wordCount] = made;
    return made;
  }

  #takePage(keyWords: number): number {
    let page = this.#freePages.pop();
    if (page === undefined) {
      this.#addSegment();
      page = this.#freePages.pop()!;
    }
    this.#pageKeyWords[page] = keyWords;
    return page;
  }

  #addSegment(): void {
    const first = this.#pageCount;
    assert(
      this.#segments.length < SEGMENT_LIMIT,
      `Cannot grow KeyArena: ${this.#segments.length} MiB in use, the limit is ${SEGMENT_LIMIT} MiB`,
    );
    this.#segments.push(new Uint32Array(SEGMENT_WORDS));
    if (this.#pageKeyWords.length < this.#pageCount) {
      const grown = new Uint16Array(this.#pageKeyWords.length * 2);
      grown.set(this.#pageKeyWords);
      this.#pageKeyWords = grown;
    }
    for (let page = first + PAGES_PER_SEGMENT - 1; page >= first; page -= 1) this.#freePages.push(page);
  }
}

function refOf(sizeClass: SizeClass, block: number): KeyRef {
  const pageIndex = Math.floor(block / sizeClass.blocksPerPage);
  const offset = (block - pageIndex * sizeClass.blocksPerPage) * sizeClass.blockWords;
  return sizeClass.pages[pageIndex]! * PAGE_WORDS + offset;
}
