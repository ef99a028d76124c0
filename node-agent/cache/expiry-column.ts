/**
 * When each row of the index expires: a column of its own, in segments that are allocated when the first of their rows gets an expiry,
 * so that a cache without expiries pays nothing and one with them 8 bytes a chunk. Each segment knows a lower bound of its expiries,
 * which is all that the sweep needs: it reads the segments in which something may be due, and no others. No heap, no wheel, no
 * object a chunk, and changing an expiry costs two stores.
 *
 * Invariants (checkInvariants): a segment's bound is not above any expiry in it; `count` is the number of rows with an expiry.
 */
import { assert } from '#core/assert.ts';

const SEGMENT_ROWS_LOG2 = 14;
const SEGMENT_ROWS = 1 << SEGMENT_ROWS_LOG2;
const SEGMENT_MASK = SEGMENT_ROWS - 1;

interface Segment {
  /** Wall-clock milliseconds; 0: never. */
  readonly atMs: Float64Array;
  /** Nothing in the segment expires before this; infinity: nothing does at all. */
  earliestMs: number;
}

export class ExpiryColumn {
  readonly #segments: (Segment | undefined)[] = [];
  #count = 0;

  /** Rows with an expiry. */
  get count(): number {
    return this.#count;
  }

  /** 0: never. */
  get(row: number): number {
    const segment = this.#segments[row >>> SEGMENT_ROWS_LOG2];
    return segment === undefined ? 0 : segment.atMs[row & SEGMENT_MASK]!;
  }

  /** 0: never. */
  set(row: number, atMs: number): void {
    if (!(atMs >= 0 && atMs < Number.POSITIVE_INFINITY)) assert(false, `Cannot set the expiry of row ${row} to ${atMs}`);
    let segment = this.#segments[row >>> SEGMENT_ROWS_LOG2];
    if (segment === undefined) {
      if (atMs === 0) return;
      segment = { atMs: new Float64Array(SEGMENT_ROWS), earliestMs: Number.POSITIVE_INFINITY };
      this.#segments[row >>> SEGMENT_ROWS_LOG2] = segment;
    }
    const local = row & SEGMENT_MASK;
    if (segment.atMs[local] !== 0) this.#count -= 1;
    segment.atMs[local] = atMs;
    if (atMs === 0) return;
    this.#count += 1;
    if (atMs < segment.earliestMs) segment.earliestMs = atMs;
  }

  /**
   * Up to `limit` rows that expire at or before `nowMs`, from one segment: the first one that has any. Empty: nothing is due. A call
   * reads at most one segment of 16,384 rows whose bound was due, about 20 us, besides the bounds of the others.
   */
  due(nowMs: number, limit: number): number[] {
    const rows: number[] = [];
    for (let number = 0; number < this.#segments.length; number += 1) {
      const segment = this.#segments[number];
      if (segment === undefined || segment.earliestMs > nowMs) continue;
      this.#collect(segment, number << SEGMENT_ROWS_LOG2, { nowMs, limit, rows });
      if (rows.length > 0) return rows;
    }
    return rows;
  }

  /** Also makes the bound exact, for all that stays. */
  #collect(segment: Segment, firstRow: number, want: { readonly nowMs: number; readonly limit: number; readonly rows: number[] }): void {
    let earliestMs = Number.POSITIVE_INFINITY;
    for (let local = 0; local < SEGMENT_ROWS; local += 1) {
      const atMs = segment.atMs[local]!;
      if (atMs === 0) continue;
      if (atMs <= want.nowMs && want.rows.length < want.limit) want.rows.push(firstRow + local);
      // Rows that are handed out count too: the caller may leave one where it is.
      if (atMs < earliestMs) earliestMs = atMs;
    }
    segment.earliestMs = earliestMs;
  }

  memoryBytes(): number {
    let bytes = 0;
    for (const segment of this.#segments) bytes += segment?.atMs.byteLength ?? 0;
    return bytes;
  }

  checkInvariants(): void {
    let count = 0;
    for (const segment of this.#segments) {
      if (segment === undefined) continue;
      // By index: an iterator over a typed array costs ten times as much, and simulations look after every step.
      for (let at = 0; at < segment.atMs.length; at += 1) {
        const atMs = segment.atMs[at] as number;
        if (atMs === 0) continue;
        count += 1;
        assert(atMs >= segment.earliestMs, `ExpiryColumn: ${atMs} is before its segment's bound of ${segment.earliestMs}`);
      }
    }
    assert(count === this.#count, `ExpiryColumn counts ${this.#count} expiries, has ${count}`);
  }
}
