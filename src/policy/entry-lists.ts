/**
 * Two doubly linked lists that share one set of entries: what the policies with more than one queue are made of. An entry is in one
 * list or in none. Pure and O(1); an entry costs 16 bytes, in segments that are allocated as entry numbers grow.
 *
 * Stamps number the moves to a hot end, over both lists; within a list they fall from the hottest to the coldest entry.
 *
 * Invariants (checkInvariants): each list is one line whose links agree both ways and whose stamps fall; its count and bytes are
 * sums over it; every entry that is marked as being in a list is on its line.
 */
import { assert } from '#core/assert.ts';
import type { EntryFacts } from './eviction-policy.ts';

export type ListNumber = 0 | 1;

const SEGMENT_ENTRIES_LOG2 = 14;
const SEGMENT_ENTRIES = 1 << SEGMENT_ENTRIES_LOG2;
const SEGMENT_MASK = SEGMENT_ENTRIES - 1;
/**
 * The record: words 0 (hotter neighbour + 1) and 1 (colder neighbour + 1), 0 for none; then a double, the stamp, negative in list 1,
 * 0 where the entry is in none. Doubles count exactly to 2^53: stamps last 285 years at a million a second.
 */
const ENTRY_BYTES = 16;
const WORDS = ENTRY_BYTES / 4;
const DOUBLES = ENTRY_BYTES / 8;

interface Segment {
  readonly links: Uint32Array;
  readonly marks: Float64Array;
}

export class EntryLists {
  readonly #facts: EntryFacts;
  readonly #segments: (Segment | undefined)[] = [];
  /** Hottest and coldest entry + 1 of each list; 0 where it is empty. */
  readonly #hottest = new Uint32Array(2);
  readonly #coldest = new Uint32Array(2);
  readonly #counts = new Uint32Array(2);
  readonly #bytes = new Float64Array(2);
  #stamp = 0;

  constructor(facts: EntryFacts) {
    this.#facts = facts;
  }

  /** The stamp given last. */
  get lastStamp(): number {
    return this.#stamp;
  }

  get size(): number {
    return this.#counts[0]! + this.#counts[1]!;
  }

  get totalBytes(): number {
    return this.#bytes[0]! + this.#bytes[1]!;
  }

  bytes(list: ListNumber): number {
    return this.#bytes[list]!;
  }

  has(entry: number): boolean {
    return this.#mark(entry) !== 0;
  }

  /** The list of an entry that is in one. */
  listOf(entry: number): ListNumber {
    return listOf(this.#segmentOf(entry), entry);
  }

  /** When the entry came to the hot end of its list; 0 where it is in none. */
  stampOf(entry: number): number {
    return Math.abs(this.#mark(entry));
  }

  /** The coldest entry of a list, or -1. */
  coldest(list: ListNumber): number {
    return this.#coldest[list]! - 1;
  }

  /** The neighbour of an entry towards the hot end of its list, or -1. */
  hotterThan(entry: number): number {
    return this.#segmentOf(entry).links[(entry & SEGMENT_MASK) * WORDS]! - 1;
  }

  /** A new entry, at the hot end of `list`; it must be in no list. */
  insert(list: ListNumber, entry: number): void {
    const segment = this.#makeSegment(entry);
    if (segment.marks[(entry & SEGMENT_MASK) * DOUBLES + 1] !== 0) assert(false, `Cannot insert entry ${entry}: it is in the tier`);
    const sizeBytes = this.#facts.sizeOf(entry);
    this.#counts[list] = this.#counts[list]! + 1;
    this.#bytes[list] = this.#bytes[list]! + sizeBytes;
    this.#push(list, segment, entry);
  }

  /** Takes an entry to the hot end of the list that it is in. */
  renew(entry: number): void {
    const segment = this.#segmentOf(entry);
    this.#renew(listOf(segment, entry), segment, entry);
  }

  #renew(list: ListNumber, segment: Segment, entry: number): void {
    if (this.#hottest[list] === entry + 1 && this.stampOf(entry) === this.#stamp) return;
    this.#unlink(list, segment, entry);
    this.#push(list, segment, entry);
  }

  /** Takes an entry to the hot end of `list`, from wherever it is. */
  move(list: ListNumber, entry: number): void {
    const segment = this.#segmentOf(entry);
    const former = listOf(segment, entry);
    if (former === list) {
      this.#renew(list, segment, entry);
      return;
    }
    const sizeBytes = this.#facts.sizeOf(entry);
    this.#unlink(former, segment, entry);
    this.#counts[former] = this.#counts[former]! - 1;
    this.#bytes[former] = this.#bytes[former]! - sizeBytes;
    this.#counts[list] = this.#counts[list]! + 1;
    this.#bytes[list] = this.#bytes[list]! + sizeBytes;
    this.#push(list, segment, entry);
  }

  remove(entry: number): void {
    const segment = this.#segmentOf(entry);
    const list = listOf(segment, entry);
    this.#unlink(list, segment, entry);
    this.#counts[list] = this.#counts[list]! - 1;
    this.#bytes[list] = this.#bytes[list]! - this.#facts.sizeOf(entry);
    const at = (entry & SEGMENT_MASK) * WORDS;
    segment.links[at] = 0;
    segment.links[at + 1] = 0;
    segment.marks[(entry & SEGMENT_MASK) * DOUBLES + 1] = 0;
  }

  memoryBytes(): number {
    let sum = 0;
    for (const segment of this.#segments) if (segment !== undefined) sum += segment.links.byteLength;
    return sum;
  }

  checkInvariants(): void {
    const listed = this.#checkList(0) + this.#checkList(1);
    let present = 0;
    for (const segment of this.#segments) {
      if (segment === undefined) continue;
      for (let at = 1; at < segment.marks.length; at += DOUBLES) if (segment.marks[at] !== 0) present += 1;
    }
    assert(present === listed, `EntryLists has ${present} entries marked present, its lists ${listed}`);
  }

  #checkList(list: ListNumber): number {
    const count = this.#counts[list]!;
    let listed = 0;
    let bytes = 0;
    let colder = 0;
    let stamp = 0;
    for (let entry = this.coldest(list); entry >= 0; entry = this.hotterThan(entry)) {
      listed += 1;
      assert(listed <= count, `List ${list} has more entries than its count ${count}`);
      assert(this.listOf(entry) === list, `Entry ${entry} stands in list ${list} and is marked as in the other`);
      const segment = this.#segmentOf(entry);
      assert(segment.links[(entry & SEGMENT_MASK) * WORDS + 1] === colder, `Entry ${entry} does not link back to ${colder - 1}`);
      assert(this.stampOf(entry) > stamp, `Entry ${entry} is not younger than its colder neighbour in list ${list}`);
      stamp = this.stampOf(entry);
      bytes += this.#facts.sizeOf(entry);
      colder = entry + 1;
    }
    assert(colder === this.#hottest[list], `List ${list} ends at ${colder - 1}, its hottest entry is ${this.#hottest[list]! - 1}`);
    assert(stamp <= this.#stamp, `A stamp of list ${list} is ahead of the count ${this.#stamp}`);
    assert(listed === count, `List ${list} has ${listed} entries, its count is ${count}`);
    assert(bytes === this.#bytes[list], `List ${list} has ${bytes} bytes, its counter says ${this.#bytes[list]}`);
    return listed;
  }

  #mark(entry: number): number {
    const segment = this.#segments[entry >>> SEGMENT_ENTRIES_LOG2];
    return segment === undefined ? 0 : segment.marks[(entry & SEGMENT_MASK) * DOUBLES + 1]!;
  }

  #push(list: ListNumber, segment: Segment, entry: number): void {
    const local = entry & SEGMENT_MASK;
    const former = this.#hottest[list]!;
    this.#stamp += 1;
    segment.links[local * WORDS] = 0;
    segment.links[local * WORDS + 1] = former;
    segment.marks[local * DOUBLES + 1] = list === 0 ? this.#stamp : -this.#stamp;
    if (former === 0) this.#coldest[list] = entry + 1;
    else this.#setLink(former - 1, 0, entry + 1);
    this.#hottest[list] = entry + 1;
  }

  #unlink(list: ListNumber, segment: Segment, entry: number): void {
    const at = (entry & SEGMENT_MASK) * WORDS;
    const hotter = segment.links[at]!;
    const colder = segment.links[at + 1]!;
    if (hotter === 0) this.#hottest[list] = colder;
    else this.#setLink(hotter - 1, 1, colder);
    if (colder === 0) this.#coldest[list] = hotter;
    else this.#setLink(colder - 1, 0, hotter);
  }

  #setLink(entry: number, side: 0 | 1, value: number): void {
    this.#segments[entry >>> SEGMENT_ENTRIES_LOG2]!.links[(entry & SEGMENT_MASK) * WORDS + side] = value;
  }

  /** The segment of an entry that is in a list. */
  #segmentOf(entry: number): Segment {
    const segment = this.#segments[entry >>> SEGMENT_ENTRIES_LOG2];
    if (segment === undefined || segment.marks[(entry & SEGMENT_MASK) * DOUBLES + 1] === 0) {
      assert(false, `Cannot use entry ${entry}: it is not in the tier`);
    }
    return segment;
  }

  #makeSegment(entry: number): Segment {
    const index = entry >>> SEGMENT_ENTRIES_LOG2;
    const known = this.#segments[index];
    if (known !== undefined) return known;
    while (this.#segments.length < index) this.#segments.push(undefined);
    const buffer = new ArrayBuffer(SEGMENT_ENTRIES * ENTRY_BYTES);
    const made: Segment = { links: new Uint32Array(buffer), marks: new Float64Array(buffer) };
    this.#segments[index] = made;
    return made;
  }
}

/** Of an entry that is in a list. */
function listOf(segment: Segment, entry: number): ListNumber {
  return segment.marks[(entry & SEGMENT_MASK) * DOUBLES + 1]! > 0 ? 0 : 1;
}
