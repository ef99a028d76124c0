/**
 * What left a tier of late: identities (32-bit hashes of keys) with their sizes, oldest first, bounded in rows by the constructor
 * and in bytes by whoever trims it. Two chunks with one identity are taken for each other, which misorders eviction and nothing else.
 *
 * A ring of rows and an open-addressing table into it; both double as they fill, up to `maxRows`. A row of the ring costs 16 bytes:
 * identity, size, and two slots of the table. `take` leaves a hole in the ring, which is passed or closed when room is wanted. Sizes
 * are kept as single-precision floats (24 bits of them), and counted as they are kept.
 *
 * Invariants (checkInvariants): each row that is not a hole is found in the table at its own place, and no other slot is used; count
 * and bytes are sums over the rows.
 */
import { assert } from '#core/assert.ts';

const FIRST_ROWS = 256;
/** Multiplier of Fibonacci hashing: identities may be dense numbers. */
const SPREAD = 0x9e37_79b1;

export class GhostQueue {
  readonly #maxRows: number;
  /** The ring, by sequence number modulo its length. A size of -1 is a hole. */
  #identities = new Uint32Array(FIRST_ROWS);
  #sizes = new Float32Array(FIRST_ROWS).fill(-1);
  /** Slots hold the ring's index + 1; 0 is empty. */
  #table = new Uint32Array(FIRST_ROWS * 2);
  /** Sequence numbers: the oldest row that may be there, and the next to be given. */
  #head = 0;
  #tail = 0;
  #count = 0;
  #bytes = 0;

  /** `maxRows` is rounded up to a power of two. */
  constructor(maxRows: number) {
    this.#maxRows = Math.max(FIRST_ROWS, 2 ** Math.ceil(Math.log2(maxRows)));
  }

  get count(): number {
    return this.#count;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Remembers an identity as the newest; one that is there already moves. */
  push(identity: number, sizeBytes: number): void {
    this.take(identity);
    if (this.#tail - this.#head === this.#identities.length) this.#makeRow();
    const at = this.#tail & (this.#identities.length - 1);
    this.#identities[at] = identity;
    this.#sizes[at] = sizeBytes;
    this.#place(at);
    this.#tail += 1;
    this.#count += 1;
    // As it was rounded.
    this.#bytes += this.#sizes[at] ?? 0;
  }

  /** Forgets an identity; the size that was remembered with it, or -1 where it was not there. */
  take(identity: number): number {
    const slot = this.#find(identity);
    if (slot < 0) return -1;
    const at = this.#table[slot]! - 1;
    const sizeBytes = this.#sizes[at]!;
    this.#clear(slot);
    this.#sizes[at] = -1;
    this.#count -= 1;
    this.#bytes -= sizeBytes;
    return sizeBytes;
  }

  /** Forgets the oldest until no more than `bytes` are left. */
  trim(bytes: number): void {
    while (this.#bytes > bytes && this.#count > 0) this.#dropOldest();
  }

  memoryBytes(): number {
    return this.#identities.byteLength + this.#sizes.byteLength + this.#table.byteLength;
  }

  checkInvariants(): void {
    let count = 0;
    let bytes = 0;
    for (let at = 0; at < this.#sizes.length; at += 1) {
      const sizeBytes = this.#sizes[at]!;
      if (sizeBytes < 0) continue;
      count += 1;
      bytes += sizeBytes;
      const slot = this.#find(this.#identities[at]!);
      assert(slot >= 0 && this.#table[slot] === at + 1, `Ghost row ${at} is not found by its identity`);
    }
    assert(count === this.#count, `Ghost queue has ${count} rows, its count is ${this.#count}`);
    assert(bytes === this.#bytes, `Ghost queue has ${bytes} bytes, its counter says ${this.#bytes}`);
    let used = 0;
    for (let slot = 0; slot < this.#table.length; slot += 1) if (this.#table[slot] !== 0) used += 1;
    assert(used === count, `Ghost table uses ${used} slots for ${count} rows`);
    assert(this.#identities.length <= this.#maxRows, `Ghost queue has ${this.#identities.length} rows, more than ${this.#maxRows}`);
  }

  #dropOldest(): void {
    this.#passHoles();
    const at = this.#head & (this.#identities.length - 1);
    this.#clear(this.#find(this.#identities[at]!));
    this.#count -= 1;
    this.#bytes -= this.#sizes[at]!;
    this.#sizes[at] = -1;
    this.#head += 1;
  }

  #passHoles(): void {
    while (this.#head < this.#tail && this.#sizes[this.#head & (this.#identities.length - 1)]! < 0) this.#head += 1;
  }

  /** The ring is full: holes are passed or closed, or it grows, or the oldest goes. */
  #makeRow(): void {
    const rows = this.#identities.length;
    this.#passHoles();
    if (this.#tail - this.#head < rows) return;
    if (this.#count * 2 <= rows) this.#rebuild(rows);
    else if (rows < this.#maxRows) this.#rebuild(rows * 2);
    else this.#dropOldest();
  }

  #rebuild(rows: number): void {
    const identities = new Uint32Array(rows);
    const sizes = new Float32Array(rows).fill(-1);
    let next = 0;
    for (let sequence = this.#head; sequence < this.#tail; sequence += 1) {
      const at = sequence & (this.#identities.length - 1);
      if (this.#sizes[at]! < 0) continue;
      identities[next] = this.#identities[at]!;
      sizes[next] = this.#sizes[at]!;
      next += 1;
    }
    this.#identities = identities;
    this.#sizes = sizes;
    this.#table = new Uint32Array(rows * 2);
    this.#head = 0;
    this.#tail = next;
    for (let at = 0; at < next; at += 1) this.#place(at);
  }

  #home(identity: number): number {
    const mixed = Math.imul(identity, SPREAD);
    return (mixed ^ (mixed >>> 15)) & (this.#table.length - 1);
  }

  #place(at: number): void {
    const mask = this.#table.length - 1;
    let slot = this.#home(this.#identities[at]!);
    while (this.#table[slot] !== 0) slot = (slot + 1) & mask;
    this.#table[slot] = at + 1;
  }

  #find(identity: number): number {
    const mask = this.#table.length - 1;
    for (let slot = this.#home(identity); this.#table[slot] !== 0; slot = (slot + 1) & mask) {
      if (this.#identities[this.#table[slot]! - 1] === identity >>> 0) return slot;
    }
    return -1;
  }

  /** Empties a slot; later ones move back unless their home lies between the hole and them. */
  #clear(slot: number): void {
    const mask = this.#table.length - 1;
    let hole = slot;
    for (let next = (hole + 1) & mask; this.#table[next] !== 0; next = (next + 1) & mask) {
      const home = this.#home(this.#identities[this.#table[next]! - 1]!);
      if (((next - home) & mask) < ((next - hole) & mask)) continue;
      this.#table[hole] = this.#table[next]!;
      hole = next;
    }
    this.#table[hole] = 0;
  }
}
