/**
 * What the index has of a chunk where there is an HBM tier: its slot, and its hits of late. A column of its own, in segments that are
 * allocated when the first of their rows needs one: a cache without the tier pays nothing, one with it 9 bytes a chunk.
 */
const SEGMENT_ROWS_LOG2 = 14;
const SEGMENT_ROWS = 1 << SEGMENT_ROWS_LOG2;
const SEGMENT_MASK = SEGMENT_ROWS - 1;
/** Unit of `since`: 2^32 of them are 13 years. */
const SINCE_MS = 100;

interface Segment {
  /** Slot + 1; 0: not in HBM. */
  readonly slots: Int32Array;
  readonly hits: Uint8Array;
  readonly since: Uint32Array;
}

export class HbmColumn {
  readonly #segments: (Segment | undefined)[] = [];

  /** -1: not in HBM. */
  slot(row: number): number {
    const segment = this.#segments[row >>> SEGMENT_ROWS_LOG2];
    return segment === undefined ? -1 : segment.slots[row & SEGMENT_MASK]! - 1;
  }

  setSlot(row: number, slot: number): void {
    this.#segment(row).slots[row & SEGMENT_MASK] = slot + 1;
  }

  /**
   * Counts a hit, and answers how many there were within the window that the first of them began. With two wanted hits that is exact; of more
   * of them, those that lie on both sides of a window's end are not seen together.
   */
  hit(row: number, nowMs: number, windowMs: number): number {
    const segment = this.#segment(row);
    const at = row & SEGMENT_MASK;
    const now = Math.floor(nowMs / SINCE_MS);
    const count = segment.hits[at]!;
    if (count === 0 || (now - segment.since[at]!) * SINCE_MS > windowMs) {
      segment.hits[at] = 1;
      segment.since[at] = now;
      return 1;
    }
    const hits = Math.min(255, count + 1);
    segment.hits[at] = hits;
    return hits;
  }

  /** The row is another chunk's from now on, or the hits have had their effect. */
  forgetHits(row: number): void {
    const segment = this.#segments[row >>> SEGMENT_ROWS_LOG2];
    if (segment !== undefined) segment.hits[row & SEGMENT_MASK] = 0;
  }

  #segment(row: number): Segment {
    let segment = this.#segments[row >>> SEGMENT_ROWS_LOG2];
    if (segment === undefined) {
      segment = { slots: new Int32Array(SEGMENT_ROWS), hits: new Uint8Array(SEGMENT_ROWS), since: new Uint32Array(SEGMENT_ROWS) };
      this.#segments[row >>> SEGMENT_ROWS_LOG2] = segment;
    }
    return segment;
  }
}
