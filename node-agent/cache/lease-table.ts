/**
 * Leases: bounded read protection given by a lookup. All have one duration; they end within a thirtieth of it after they expire,
 * from buckets of that width, so that renewing one costs nothing.
 *
 * A lookup of 512 chunks takes 512 of them, so a lease is a row of typed arrays in three lists (of its chunk, of its owner, of its bucket)
 * and in a hash table by chunk and owner: no object of its own, nothing for the garbage collector to walk. Rows are reused, never given back.
 *
 * Invariants: a chunk's lease count (in the index) equals its leases alive here; the leased bytes of a tier are at most its limit;
 * one owner has at most one lease on a chunk (asking again renews it). A lease on a chunk that was removed is dead: its generation
 * tells, and its bytes are given back at removal.
 */
import { assert } from '#core/assert.ts';
import { RowLists } from './row-lists.ts';

/** A chunk that so many clients hold is held well enough; further ones get no lease of their own. Below the index's 16 bits. */
const MAX_OWNERS = 1024;
/** What a lease on a smaller chunk counts: leases cost memory of their own. */
const LEAST_BYTES = 256;
const FIRST_ROWS = 256;

const tierNames = ['hbm', 'ram', 'ssd'] as const;
type Tier = (typeof tierNames)[number];
const tierNumbers = { hbm: 0, ram: 1, ssd: 2 } as const;

export class LeaseTable {
  readonly #durationMs: number;
  readonly #limit: (tier: Tier) => number;
  readonly #onEnd: (entry: number) => void;
  readonly #bucketMs: number;

  #entries = new Int32Array(FIRST_ROWS);
  #owners = new Float64Array(FIRST_ROWS);
  #sizes = new Float64Array(FIRST_ROWS);
  #expiries = new Float64Array(FIRST_ROWS);
  #tiers = new Uint8Array(FIRST_ROWS);
  #rowCount = 0;
  readonly #free: number[] = [];
  /** Row + 1 by chunk and owner; open addressing, at most half full. */
  #slots = new Int32Array(2 * FIRST_ROWS);
  /** By chunk: how many leases it has, and row + 1 of the first of them; the others follow by #nextOf. */
  #counts = new Uint16Array(FIRST_ROWS);
  #firsts = new Int32Array(FIRST_ROWS);
  #nextOf = new Int32Array(FIRST_ROWS);
  #previousOf = new Int32Array(FIRST_ROWS);

  readonly #ofOwner = new RowLists();
  /** Bucket number -> leases that were to expire in it when they were put there. */
  readonly #ofBucket = new RowLists();
  readonly #bytes = { hbm: 0, ram: 0, ssd: 0 };
  #count = 0;

  /** `limit` gives the bytes that leases may cover in a tier; `onEnd` runs for the chunk of each lease that ends, for whatever reason. */
  constructor(options: { durationMs: number; limit: (tier: Tier) => number; onEnd: (entry: number) => void }) {
    this.#durationMs = options.durationMs;
    this.#bucketMs = Math.max(1, options.durationMs / 30);
    this.#limit = options.limit;
    this.#onEnd = options.onEnd;
  }

  get count(): number {
    return this.#count;
  }

  bytes(tier: Tier): number {
    return this.#bytes[tier];
  }

  /** 'new': the caller counts it. 'renewed': there was one. Undefined where the tier's leases, or the chunk's, are used up. */
  take(
    chunk: { readonly entry: number; readonly sizeBytes: number; readonly tier: Tier },
    owner: number,
    nowMs: number,
  ): 'new' | 'renewed' | undefined {
    const { entry, tier } = chunk;
    const known = this.#find(entry, owner);
    if (known >= 0) {
      this.#expiries[known] = nowMs + this.#durationMs;
      return 'renewed';
    }
    if (this.countOf(entry) >= MAX_OWNERS) return undefined;
    const sizeBytes = Math.max(chunk.sizeBytes, LEAST_BYTES);
    if (this.#bytes[tier] + sizeBytes > this.#limit(tier)) return undefined;
    const row = this.#takeRow();
    this.#entries[row] = entry;
    this.#owners[row] = owner;
    this.#sizes[row] = sizeBytes;
    this.#expiries[row] = nowMs + this.#durationMs;
    this.#tiers[row] = tierNumbers[tier];
    this.#place(row);
    this.#link(row, entry);
    this.#ofOwner.append(owner, row);
    this.#ofBucket.append(this.#bucketOf(row), row);
    this.#bytes[tier] += sizeBytes;
    this.#count += 1;
    return 'new';
  }

  /** Ends the lease of this owner; false where there is none. */
  release(entry: number, owner: number): boolean {
    const row = this.#find(entry, owner);
    if (row >= 0) this.#end(row);
    return row >= 0;
  }

  // What ends a lease may end others, so that each of the following begins anew with what is left.

  /** Ends all leases of one owner. True where there were any. */
  releaseOwner(owner: number): boolean {
    let ended = false;
    for (let row = this.#ofOwner.first(owner); row >= 0; row = this.#ofOwner.first(owner)) {
      this.#end(row);
      ended = true;
    }
    return ended;
  }

  /** Ends all leases of a chunk that is being removed. */
  releaseEntry(entry: number): void {
    while (this.countOf(entry) > 0) this.#end(this.#firsts[entry]! - 1);
  }

  /** Ends the leases that were given for the copy in this tier, which is lost. */
  releaseTier(entry: number, tier: Tier): void {
    for (let row = this.#firstOf(entry, tier); row >= 0; row = this.#firstOf(entry, tier)) this.#end(row);
  }

  /** Ends what has expired. True where something ended. */
  expire(nowMs: number): boolean {
    const current = Math.floor(nowMs / this.#bucketMs);
    let ended = false;
    for (const bucket of this.#ofBucket.names().filter((name) => name < current)) {
      for (let row = this.#ofBucket.first(bucket); row >= 0; row = this.#ofBucket.first(bucket)) {
        if (this.#expiries[row]! > nowMs) {
          this.#ofBucket.remove(row);
          this.#ofBucket.append(this.#bucketOf(row), row);
        } else {
          this.#end(row);
          ended = true;
        }
      }
    }
    return ended;
  }

  /** True where a lease was given for the copy in this tier. */
  covers(entry: number, tier: Tier): boolean {
    return this.#firstOf(entry, tier) >= 0;
  }

  /** Leases alive on a chunk. */
  countOf(entry: number): number {
    return entry < this.#counts.length ? this.#counts[entry]! : 0;
  }

  #firstOf(entry: number, tier: Tier): number {
    if (this.countOf(entry) === 0) return -1;
    let row = this.#firsts[entry]! - 1;
    while (row >= 0 && this.#tiers[row] !== tierNumbers[tier]) row = this.#nextOf[row]! - 1;
    return row;
  }

  #bucketOf(row: number): number {
    return Math.floor(this.#expiries[row]! / this.#bucketMs);
  }

  #link(row: number, entry: number): void {
    if (entry >= this.#counts.length) {
      const length = 2 ** Math.ceil(Math.log2(entry + 1));
      this.#counts = resized(this.#counts, new Uint16Array(length));
      this.#firsts = resized(this.#firsts, new Int32Array(length));
    }
    const first = this.#firsts[entry]!;
    this.#nextOf[row] = first;
    this.#previousOf[row] = 0;
    if (first !== 0) this.#previousOf[first - 1] = row + 1;
    this.#firsts[entry] = row + 1;
    this.#counts[entry] = this.#counts[entry]! + 1;
  }

  #unlink(row: number, entry: number): void {
    const [previous, next] = [this.#previousOf[row]!, this.#nextOf[row]!];
    if (previous === 0) this.#firsts[entry] = next;
    else this.#nextOf[previous - 1] = next;
    if (next !== 0) this.#previousOf[next - 1] = previous;
    this.#counts[entry] = this.#counts[entry]! - 1;
  }

  #end(row: number): void {
    const entry = this.#entries[row]!;
    const tier = tierNames[this.#tiers[row]!];
    assert(tier !== undefined && this.#find(entry, this.#owners[row]!) === row, `lease ${row} ends once`);
    this.#displace(row);
    this.#unlink(row, entry);
    this.#ofOwner.remove(row);
    this.#ofBucket.remove(row);
    this.#bytes[tier] -= this.#sizes[row]!;
    this.#count -= 1;
    this.#free.push(row);
    this.#onEnd(entry);
  }

  #takeRow(): number {
    const row = this.#free.pop() ?? this.#rowCount++;
    if (row === this.#entries.length) this.#grow();
    return row;
  }

  #grow(): void {
    const rows = 2 * this.#entries.length;
    this.#entries = resized(this.#entries, new Int32Array(rows));
    this.#owners = resized(this.#owners, new Float64Array(rows));
    this.#sizes = resized(this.#sizes, new Float64Array(rows));
    this.#expiries = resized(this.#expiries, new Float64Array(rows));
    this.#tiers = resized(this.#tiers, new Uint8Array(rows));
    this.#nextOf = resized(this.#nextOf, new Int32Array(rows));
    this.#previousOf = resized(this.#previousOf, new Int32Array(rows));
    const former = this.#slots;
    this.#slots = new Int32Array(2 * former.length);
    for (const rowPlusOne of former) if (rowPlusOne !== 0) this.#place(rowPlusOne - 1);
  }

  // --- the hash table

  #home(entry: number, owner: number): number {
    let hash = Math.imul(entry, 0x9e3779b1) ^ Math.imul(owner | 0, 0x85ebca6b);
    hash ^= hash >>> 15;
    return hash & (this.#slots.length - 1);
  }

  #find(entry: number, owner: number): number {
    // Most chunks have none.
    if (this.countOf(entry) === 0) return -1;
    const mask = this.#slots.length - 1;
    for (let at = this.#home(entry, owner); ; at = (at + 1) & mask) {
      const row = this.#slots[at]! - 1;
      if (row < 0 || (this.#entries[row] === entry && this.#owners[row] === owner)) return row;
    }
  }

  #place(row: number): void {
    const mask = this.#slots.length - 1;
    let at = this.#home(this.#entries[row]!, this.#owners[row]!);
    while (this.#slots[at] !== 0) at = (at + 1) & mask;
    this.#slots[at] = row + 1;
  }

  /** Later rows move back into the hole, unless their home lies behind it: nothing marks what was there. */
  #displace(row: number): void {
    const slots = this.#slots;
    const mask = slots.length - 1;
    let hole = this.#home(this.#entries[row]!, this.#owners[row]!);
    while (slots[hole] !== row + 1) hole = (hole + 1) & mask;
    for (let next = (hole + 1) & mask; slots[next] !== 0; next = (next + 1) & mask) {
      const home = this.#home(this.#entries[slots[next]! - 1]!, this.#owners[slots[next]! - 1]!);
      if (((next - home) & mask) < ((next - hole) & mask)) continue;
      slots[hole] = slots[next]!;
      hole = next;
    }
    slots[hole] = 0;
  }

  /** Leases alive of an owner, by counting them. */
  countOfOwner(owner: number): number {
    return this.#ofOwner.count(owner);
  }

  checkInvariants(): void {
    const bytes = { hbm: 0, ram: 0, ssd: 0 };
    let count = 0;
    for (const rowPlusOne of this.#slots) {
      if (rowPlusOne === 0) continue;
      const row = rowPlusOne - 1;
      const tier = tierNames[this.#tiers[row]!];
      assert(
        tier !== undefined && this.#find(this.#entries[row]!, this.#owners[row]!) === row,
        `lease ${row} is found by its chunk and owner`,
      );
      bytes[tier] += this.#sizes[row]!;
      count += 1;
    }
    const agree = bytes.hbm === this.#bytes.hbm && bytes.ram === this.#bytes.ram && bytes.ssd === this.#bytes.ssd;
    assert(agree, 'leased bytes agree');
    assert(count === this.#count && this.#rowCount - this.#free.length === count, 'lease count agrees');
    let held = 0;
    for (const [entry, leases] of this.#counts.entries()) {
      let listed = 0;
      for (let row = this.#firsts[entry]! - 1; row >= 0; row = this.#nextOf[row]! - 1) listed += this.#entries[row] === entry ? 1 : 0;
      assert(listed === leases, `chunk ${entry} has ${leases} leases in its list`);
      held += leases;
    }
    assert(held === count, 'chunks have the leases of the table');
    for (const lists of [this.#ofOwner, this.#ofBucket]) assert(lists.checkInvariants() === count, 'each list has every lease');
  }
}

function resized<T extends { set(from: T): void }>(from: T, to: T): T {
  to.set(from);
  return to;
}
