/**
 * Room in memory that one client shares with the agent: first fit, in whole blocks of 4 KiB.
 *
 * Invariants: spans that are given out do not overlap and lie in the memory; one that is in use is not given back; free spans are sorted, apart from one another, and with those
 * given out they are the whole memory.
 */
import { assert } from '#core/assert.ts';
import { BLOCK_BYTES, roundUp } from '#core/bytes.ts';

interface Span {
  readonly offset: number;
  readonly length: number;
}

export class Reservations {
  readonly #sizeBytes: number;
  /** Offset -> bytes, ascending. */
  #free: { offset: number; sizeBytes: number }[];
  readonly #taken = new Map<number, { readonly blockBytes: number; readonly sizeBytes: number; inUse: boolean }>();

  constructor(sizeBytes: number) {
    this.#sizeBytes = sizeBytes;
    this.#free = [{ offset: 0, sizeBytes }];
  }

  get count(): number {
    return this.#taken.size;
  }

  /** Offset of room for so many bytes, at least one; -1: none. */
  take(sizeBytes: number): number {
    const blockBytes = roundUp(sizeBytes, BLOCK_BYTES);
    const at = this.#free.findIndex((span) => span.sizeBytes >= blockBytes);
    const span = this.#free[at];
    if (span === undefined || sizeBytes <= 0) return -1;
    const { offset } = span;
    span.offset += blockBytes;
    span.sizeBytes -= blockBytes;
    if (span.sizeBytes === 0) this.#free.splice(at, 1);
    this.#taken.set(offset, { blockBytes, sizeBytes, inUse: false });
    return offset;
  }

  /** Spans that are read from now on, until `finish`; or the first that was not given out, or is in use already: then none is. */
  begin(spans: readonly Span[]): Span | undefined {
    const begun: { inUse: boolean }[] = [];
    for (const span of spans) {
      const taken = this.#taken.get(span.offset);
      if (taken === undefined || taken.inUse || span.length < 1 || span.length > taken.sizeBytes) {
        for (const other of begun) other.inUse = false;
        return span;
      }
      taken.inUse = true;
      begun.push(taken);
    }
    return undefined;
  }

  /** Gives back what `begin` was answered. */
  finish(spans: readonly Span[]): void {
    for (const { offset } of spans) {
      const taken = this.#taken.get(offset);
      assert(taken?.inUse === true, 'a span that was begun is in use until it is finished');
      taken.inUse = false;
      this.giveBack(offset);
    }
  }

  /** False where nothing was taken there, or it is in use. */
  giveBack(offset: number): boolean {
    const taken = this.#taken.get(offset);
    if (taken === undefined || taken.inUse) return false;
    this.#taken.delete(offset);
    const at = this.#free.findIndex((span) => span.offset > offset);
    this.#free.splice(at < 0 ? this.#free.length : at, 0, { offset, sizeBytes: taken.blockBytes });
    const joined: { offset: number; sizeBytes: number }[] = [];
    for (const span of this.#free) {
      const last = joined.at(-1);
      if (last !== undefined && last.offset + last.sizeBytes === span.offset) last.sizeBytes += span.sizeBytes;
      else joined.push({ ...span });
    }
    this.#free = joined;
    return true;
  }

  checkInvariants(): void {
    let bytes = 0;
    let end = -1;
    for (const span of this.#free) {
      assert(span.offset > end && span.sizeBytes > 0, 'free spans are sorted and apart');
      end = span.offset + span.sizeBytes;
      bytes += span.sizeBytes;
    }
    for (const taken of this.#taken.values()) bytes += taken.blockBytes;
    assert(bytes === this.#sizeBytes && end <= this.#sizeBytes, 'free and taken are the whole memory');
  }
}
