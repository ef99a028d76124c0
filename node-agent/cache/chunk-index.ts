/**
 * The index of all chunks: (namespace, key bytes) -> row, and the row's columns. Open addressing over typed arrays, because a
 * Map of strings costs several times the memory and makes the garbage collector walk a million objects.
 *
 * A row is a record of 72 bytes, most of it on one or two cache lines, in segments of 16,384 rows: growth allocates 1.2 MiB and
 * copies nothing. Keys lie in KeyArena, hashes in HashTable. At 10^6 chunks with 64-byte keys that is 72 + 69 + 17 = 158 bytes a
 * chunk, and with the links of two LeafLru (16 each) 190. Expiries are a column of their own (8 bytes, where there are any).
 *
 * Rows are reused after `remove`. Whoever keeps an EntryIndex across an await keeps the generation too and compares.
 * Getters answer for any row that was ever used; `generation` of a free row is 0, which no live chunk has. Setters want a live row.
 *
 * Invariants (checkInvariants): a row is live or in the free list, once; a live row is found by its own key and by no other;
 * the hash table, the key arena and the live rows count the same and name each other; a free row has generation 0.
 */
import { assert } from '#core/assert.ts';
import type { EntryIndex, NamespaceId } from '#core/brand.ts';
import type { Rng } from '#core/clock.ts';
import type { EntryFacts } from '#policy/eviction-policy.ts';
import { ExpiryColumn } from './expiry-column.ts';
import { HashTable } from './hash-table.ts';
import { KEY_LIMIT_BYTES, KEY_LIMIT_WORDS, KeyArena, ROW_LIMIT } from './key-arena.ts';
import { drawHashSeed, packAndHash, wordCountOf } from './key-hash.ts';
import type { HashSeed } from './key-hash.ts';

const SEGMENT_ROWS_LOG2 = 14;
const SEGMENT_ROWS = 1 << SEGMENT_ROWS_LOG2;
const SEGMENT_MASK = SEGMENT_ROWS - 1;

/**
 * The record, 72 bytes. Word offsets (4 bytes): 0 namespace + 1 (0: free), 1 key reference (free: next free row + 1), 2 size,
 * 3 ram slot + 1, 4-5 generation, 6-7 last use, 8 hits, 9 parent + 1, 10-11 parent generation, 12-13 checksum, 14-15 created at;
 * then 16-bit fields: 32 ssd folder + 1, 33 flags, 34 leases, 35 readers. Zero is "none" everywhere, so a fresh segment is valid.
 */
const ROW_BYTES = 72;
const W32 = ROW_BYTES / 4;
const W64 = ROW_BYTES / 8;
const W16 = ROW_BYTES / 2;
const NAMESPACE = 0;
const KEY_REF = 1;
const SIZE = 2;
const RAM_SLOT = 3;
const GENERATION = 2;
const LAST_USED = 3;
const HITS = 8;
const PARENT = 9;
const PARENT_GENERATION = 5;
const CHECKSUM = 6;
const CREATED = 7;
const SSD_FOLDER = 32;
const FLAGS = 33;
const LEASES = 34;
const READERS = 35;

/** Keys of a batch are hashed first and then looked up together, so that their cache misses overlap. */
export const BATCH_KEYS = 16;
/** Free rows that one `scan` call passes over before it answers with a cursor, so that a call is bounded in a sparse index. */
const SCAN_FREE_ROWS = 16_384;

/** One ArrayBuffer seen in four widths. */
interface Segment {
  readonly u32: Uint32Array;
  readonly f64: Float64Array;
  readonly u16: Uint16Array;
  readonly u64: BigUint64Array;
}

export class ChunkIndex {
  readonly #seed: HashSeed;
  readonly #segments: Segment[] = [];
  readonly #table = new HashTable();
  readonly #arena = new KeyArena();
  readonly #expiries = new ExpiryColumn();
  readonly #words = new Uint32Array(BATCH_KEYS * KEY_LIMIT_WORDS);
  readonly #hashes = new Uint32Array(BATCH_KEYS);
  readonly #rows = new Int32Array(BATCH_KEYS);
  readonly #refs = new Uint32Array(BATCH_KEYS);
  readonly #headers = new Uint32Array(BATCH_KEYS);
  /** Rows ever used; those below are live or in the free list. */
  #rowCount = 0;
  #liveCount = 0;
  /** Head of the free list + 1. */
  #freeHead = 0;

  /** `rng` gives the seed of the hash: unpredictable in production, fixed in a simulation. */
  constructor(rng: Rng) {
    this.#seed = drawHashSeed(rng);
  }

  /** What eviction policies ask about a live row. Its size and key stay as they are while it is in a tier. */
  readonly policyFacts: EntryFacts = {
    sizeOf: (entry) => this.sizeBytes(entry as EntryIndex),
    identityOf: (entry) => this.hashOf(entry as EntryIndex),
  };

  /** Live rows. */
  get entryCount(): number {
    return this.#liveCount;
  }

  /** Rows there is memory for. Every EntryIndex is below it. */
  get entryCapacity(): number {
    return this.#segments.length * SEGMENT_ROWS;
  }

  /** The chunk of this key, or -1. `key` is at most 2048 bytes. */
  find(namespace: NamespaceId, key: Uint8Array): EntryIndex | -1 {
    checkKey(key);
    const hash = packAndHash(this.#seed, namespace, key, this.#words, 0);
    return this.#probe(hash, namespace, 0, key.length) as EntryIndex | -1;
  }

  /**
   * Writes the rows of `keys` to `out` in order, stops at the first key that is absent, and returns how many were found.
   * `out` holds at least as many numbers as there are keys; what lies behind the count is not meaningful.
   */
  findMany(namespace: NamespaceId, keys: readonly Uint8Array[], out: Int32Array): number {
    if (out.length < keys.length) assert(false, `Cannot look up ${keys.length} keys: the output holds ${out.length}`);
    for (let base = 0; base < keys.length; base += BATCH_KEYS) {
      const count = Math.min(BATCH_KEYS, keys.length - base);
      this.#gather(namespace, keys, base, count);
      let start = 0;
      for (let i = 0; i < count; i += 1) {
        const length = keys[base + i]!.length;
        const row = this.#confirm(i, namespace, start, length);
        if (row < 0) return base + i;
        out[base + i] = row;
        start += wordCountOf(length);
      }
    }
    return keys.length;
  }

  /** Writes the rows of up to BATCH_KEYS keys from `base` on to `out`, -1 for those that are absent; returns how many keys these are. */
  findBatch(namespace: NamespaceId, keys: readonly Uint8Array[], base: number, out: Int32Array): number {
    const count = Math.min(BATCH_KEYS, keys.length - base);
    this.#gather(namespace, keys, base, count);
    let start = 0;
    for (let i = 0; i < count; i += 1) {
      const { length } = keys[base + i]!;
      out[i] = this.#confirm(i, namespace, start, length);
      start += wordCountOf(length);
    }
    return count;
  }

  /** A new row for a key that is absent. All its columns are 0 or "none"; the caller sets the generation at once. */
  insert(namespace: NamespaceId, key: Uint8Array): EntryIndex {
    checkKey(key);
    const hash = packAndHash(this.#seed, namespace, key, this.#words, 0);
    const present = this.#probe(hash, namespace, 0, key.length);
    if (present >= 0) assert(false, `Cannot insert a key: row ${present} holds it already`);
    const row = this.#takeRow();
    const { u32 } = this.#segments[row >>> SEGMENT_ROWS_LOG2]!;
    const at = (row & SEGMENT_MASK) * W32;
    u32[at + NAMESPACE] = namespace + 1;
    u32[at + KEY_REF] = this.#arena.allocate(row, { words: this.#words, start: 0, lengthBytes: key.length });
    this.#table.insert(hash, row);
    this.#liveCount += 1;
    return row as EntryIndex;
  }

  /** Forgets a live row. The row may be given out again by the next insert; links to it as a parent end here. */
  remove(entry: EntryIndex): void {
    if (!this.isLive(entry)) assert(false, `Cannot remove row ${entry}: it is free`);
    const segment = this.#segments[entry >>> SEGMENT_ROWS_LOG2]!;
    const local = entry & SEGMENT_MASK;
    const { u32 } = segment;
    const at = local * W32;
    const ref = u32[at + KEY_REF]!;
    const namespace = (u32[at + NAMESPACE]! - 1) as NamespaceId;
    this.#table.remove(packAndHash(this.#seed, namespace, this.#arena.view(ref), this.#words, 0), entry);
    const moved = this.#arena.free(ref);
    if (moved >= 0) this.#segments[moved >>> SEGMENT_ROWS_LOG2]!.u32[(moved & SEGMENT_MASK) * W32 + KEY_REF] = ref;
    u32.fill(0, at, at + W32);
    this.#expiries.set(entry, 0);
    u32[at + KEY_REF] = this.#freeHead;
    this.#freeHead = entry + 1;
    this.#liveCount -= 1;
  }

  isLive(entry: number): boolean {
    if (entry < 0 || entry >= this.#rowCount) return false;
    return this.#segments[entry >>> SEGMENT_ROWS_LOG2]!.u32[(entry & SEGMENT_MASK) * W32 + NAMESPACE] !== 0;
  }

  /** Visits every live row in row order. `visit` may remove the row it is given, and no other; it may not insert. */
  forEach(visit: (entry: EntryIndex) => void): void {
    const end = this.#rowCount;
    for (let row = 0; row < end; row += 1) {
      if (this.isLive(row)) visit(row as EntryIndex);
    }
  }

  /**
   * Visits at most `limit` live rows from row `cursor` on and returns the cursor to go on from, 0 at the end. A row that is live
   * during the whole scan is visited exactly once, whatever is inserted and removed between the calls; one that comes or goes
   * meanwhile may be visited or not. In a sparse index a call may visit fewer rows than `limit`, or none, and still not be the last.
   */
  scan(cursor: number, limit: number, visit: (entry: EntryIndex) => void): number {
    let visited = 0;
    let free = 0;
    for (let row = cursor; row < this.#rowCount; row += 1) {
      if (visited === limit || free === SCAN_FREE_ROWS) return row;
      if (this.isLive(row)) {
        visited += 1;
        visit(row as EntryIndex);
      } else free += 1;
    }
    return 0;
  }

  namespaceOf(entry: EntryIndex): NamespaceId {
    return (this.#u32(entry)[(entry & SEGMENT_MASK) * W32 + NAMESPACE]! - 1) as NamespaceId;
  }

  /** The key bytes in place, valid until the next insert or remove: `slice()` what must live longer. */
  keyOf(entry: EntryIndex): Uint8Array {
    if (!this.isLive(entry)) assert(false, `Cannot read the key of row ${entry}: it is free`);
    return this.#arena.view(this.#u32(entry)[(entry & SEGMENT_MASK) * W32 + KEY_REF]!);
  }

  /** The keyed hash of namespace and key, below 2^32: the same for the same chunk as long as the process lives. */
  hashOf(entry: EntryIndex): number {
    return packAndHash(this.#seed, this.namespaceOf(entry), this.keyOf(entry), this.#words, 0);
  }

  keyEquals(entry: EntryIndex, key: Uint8Array): boolean {
    const own = this.keyOf(entry);
    if (own.length !== key.length) return false;
    for (let i = 0; i < own.length; i += 1) if (own[i] !== key[i]) return false;
    return true;
  }

  sizeBytes(entry: EntryIndex): number {
    return this.#u32(entry)[(entry & SEGMENT_MASK) * W32 + SIZE]!;
  }

  /** Below 2^32. */
  setSizeBytes(entry: EntryIndex, sizeBytes: number): void {
    if (!(sizeBytes >= 0 && sizeBytes < 2 ** 32))
      assert(false, `Cannot set the size of row ${entry} to ${sizeBytes}: it must be below 4 GiB`);
    this.#liveU32(entry)[(entry & SEGMENT_MASK) * W32 + SIZE] = sizeBytes;
  }

  /** Unsigned 64 bits. */
  checksum(entry: EntryIndex): bigint {
    return this.#segments[entry >>> SEGMENT_ROWS_LOG2]!.u64[(entry & SEGMENT_MASK) * W64 + CHECKSUM]!;
  }

  /** Signed or unsigned; read back unsigned. */
  setChecksum(entry: EntryIndex, checksum: bigint): void {
    this.#live(entry).u64[(entry & SEGMENT_MASK) * W64 + CHECKSUM] = checksum;
  }

  /** 0 where the row is free. */
  generation(entry: EntryIndex): number {
    return this.#f64(entry)[(entry & SEGMENT_MASK) * W64 + GENERATION]!;
  }

  /** Positive; unique to one put. */
  setGeneration(entry: EntryIndex, generation: number): void {
    if (!(generation > 0)) assert(false, `Cannot set the generation of row ${entry} to ${generation}: it must be positive`);
    this.#live(entry).f64[(entry & SEGMENT_MASK) * W64 + GENERATION] = generation;
  }

  /** -1 where the chunk has no replica in RAM. */
  ramSlot(entry: EntryIndex): number {
    return this.#u32(entry)[(entry & SEGMENT_MASK) * W32 + RAM_SLOT]! - 1;
  }

  setRamSlot(entry: EntryIndex, slot: number): void {
    this.#liveU32(entry)[(entry & SEGMENT_MASK) * W32 + RAM_SLOT] = slot + 1;
  }

  /** Number of the SSD folder that holds the file, -1 where none does. */
  ssdFolder(entry: EntryIndex): number {
    return this.#u16(entry)[(entry & SEGMENT_MASK) * W16 + SSD_FOLDER]! - 1;
  }

  setSsdFolder(entry: EntryIndex, folder: number): void {
    this.#setU16(entry, SSD_FOLDER, folder + 1);
  }

  flags(entry: EntryIndex): number {
    return this.#u16(entry)[(entry & SEGMENT_MASK) * W16 + FLAGS]!;
  }

  setFlags(entry: EntryIndex, flags: number): void {
    this.#setU16(entry, FLAGS, flags);
  }

  createdAtMs(entry: EntryIndex): number {
    return this.#f64(entry)[(entry & SEGMENT_MASK) * W64 + CREATED]!;
  }

  setCreatedAtMs(entry: EntryIndex, atMs: number): void {
    this.#live(entry).f64[(entry & SEGMENT_MASK) * W64 + CREATED] = atMs;
  }

  /** Wall-clock milliseconds from which the chunk must not be served; 0: never. */
  expiresAtMs(entry: EntryIndex): number {
    return this.#expiries.get(entry);
  }

  setExpiresAtMs(entry: EntryIndex, atMs: number): void {
    if (!this.isLive(entry)) assert(false, `Cannot change row ${entry}: it is free`);
    this.#expiries.set(entry, atMs);
  }

  /** Rows with an expiry. */
  get expiringCount(): number {
    return this.#expiries.count;
  }

  /** Up to `limit` rows that expire at or before `nowMs`; empty where nothing is due. */
  due(nowMs: number, limit: number): readonly EntryIndex[] {
    return this.#expiries.due(nowMs, limit) as EntryIndex[];
  }

  lastUsedAtMs(entry: EntryIndex): number {
    return this.#f64(entry)[(entry & SEGMENT_MASK) * W64 + LAST_USED]!;
  }

  setLastUsedAtMs(entry: EntryIndex, atMs: number): void {
    this.#live(entry).f64[(entry & SEGMENT_MASK) * W64 + LAST_USED] = atMs;
  }

  hitCount(entry: EntryIndex): number {
    return this.#u32(entry)[(entry & SEGMENT_MASK) * W32 + HITS]!;
  }

  /** Stays at 2^32 - 1 beyond it. */
  setHitCount(entry: EntryIndex, hitCount: number): void {
    this.#liveU32(entry)[(entry & SEGMENT_MASK) * W32 + HITS] = Math.min(hitCount, 2 ** 32 - 1);
  }

  /** The parent's row while it holds the very chunk that was linked, else -1. */
  parent(entry: EntryIndex): EntryIndex | -1 {
    const parent = this.#u32(entry)[(entry & SEGMENT_MASK) * W32 + PARENT]! - 1;
    if (parent < 0 || !this.isLive(parent)) return -1;
    return this.generation(parent as EntryIndex) === this.parentGeneration(entry) ? (parent as EntryIndex) : -1;
  }

  /** Generation of the linked parent, also where its row is gone; 0 where there is no link. */
  parentGeneration(entry: EntryIndex): number {
    return this.#f64(entry)[(entry & SEGMENT_MASK) * W64 + PARENT_GENERATION]!;
  }

  /** Links to `parent` as it is now; -1 unlinks. Without a row, `generation` alone is remembered (a parent not loaded yet). */
  setParent(entry: EntryIndex, parent: EntryIndex | -1, generation = parent < 0 ? 0 : this.generation(parent as EntryIndex)): void {
    const segment = this.#live(entry);
    segment.u32[(entry & SEGMENT_MASK) * W32 + PARENT] = parent + 1;
    segment.f64[(entry & SEGMENT_MASK) * W64 + PARENT_GENERATION] = generation;
  }

  leaseCount(entry: EntryIndex): number {
    return this.#u16(entry)[(entry & SEGMENT_MASK) * W16 + LEASES]!;
  }

  setLeaseCount(entry: EntryIndex, leaseCount: number): void {
    this.#setU16(entry, LEASES, leaseCount);
  }

  readerCount(entry: EntryIndex): number {
    return this.#u16(entry)[(entry & SEGMENT_MASK) * W16 + READERS]!;
  }

  setReaderCount(entry: EntryIndex, readerCount: number): void {
    this.#setU16(entry, READERS, readerCount);
  }

  /** Bytes of rows, keys and hash table. */
  memoryBytes(): number {
    const scratch = this.#words.byteLength + this.#hashes.byteLength + this.#rows.byteLength;
    const parts = this.#table.memoryBytes() + this.#arena.memoryBytes() + this.#expiries.memoryBytes();
    return this.#segments.length * SEGMENT_ROWS * ROW_BYTES + parts + scratch;
  }

  /** Pages of 16 KiB that hold keys, for tests of fragmentation. */
  get keyPageCount(): number {
    return this.#arena.usedPageCount;
  }

  checkInvariants(): void {
    this.#table.checkInvariants();
    this.#arena.checkInvariants();
    this.#expiries.checkInvariants();
    let live = 0;
    this.forEach((entry) => {
      live += 1;
      const found = this.find(this.namespaceOf(entry), this.keyOf(entry));
      assert(found === entry, `ChunkIndex finds row ${found} by the key of row ${entry}`);
    });
    assert(live === this.#liveCount, `ChunkIndex counts ${this.#liveCount} live rows, has ${live}`);
    let free = 0;
    for (let next = this.#freeHead; next !== 0; free += 1) {
      const row = next - 1;
      assert(row < this.#rowCount && free < this.#rowCount, `ChunkIndex free list is broken at row ${row}`);
      const blank = this.generation(row as EntryIndex) === 0 && this.expiresAtMs(row as EntryIndex) === 0;
      assert(!this.isLive(row) && blank, `ChunkIndex row ${row} is in the free list and not blank`);
      next = this.#u32(row)[(row & SEGMENT_MASK) * W32 + KEY_REF]!;
    }
    assert(live + free === this.#rowCount, `ChunkIndex has ${live} live and ${free} free of ${this.#rowCount} rows`);
    let blocks = 0;
    this.#arena.forEach((ref, row) => {
      blocks += 1;
      const own = this.isLive(row) && this.#u32(row)[(row & SEGMENT_MASK) * W32 + KEY_REF] === ref;
      assert(own, `ChunkIndex row ${row} does not refer to its key block ${ref}`);
    });
    assert(blocks === live, `ChunkIndex has ${blocks} key blocks for ${live} live rows`);
    let slots = 0;
    this.#table.forEach((_hash, row) => {
      slots += 1;
      assert(this.isLive(row), `ChunkIndex hash table names free row ${row}`);
    });
    assert(slots === live, `ChunkIndex has ${slots} hash table slots for ${live} live rows`);
  }

  /**
   * Hashes `count` keys from `base`, notes the first row whose hash is equal, then the key references of these rows, then the
   * headers of these keys: each step is a loop of independent loads, so that its cache misses overlap instead of queueing.
   */
  #gather(namespace: NamespaceId, keys: readonly Uint8Array[], base: number, count: number): void {
    let start = 0;
    for (let i = 0; i < count; i += 1) {
      const key = keys[base + i]!;
      checkKey(key);
      this.#hashes[i] = packAndHash(this.#seed, namespace, key, this.#words, start);
      start += wordCountOf(key.length);
    }
    for (let i = 0; i < count; i += 1) {
      const hash = this.#hashes[i]!;
      const shard = this.#table.shardOf(hash);
      const mask = shard.length - 1;
      let at = (hash << 1) & mask;
      while (shard[at + 1] !== 0 && shard[at] !== hash) at = (at + 2) & mask;
      this.#rows[i] = shard[at + 1]! - 1;
    }
    for (let i = 0; i < count; i += 1) {
      const row = this.#rows[i]!;
      if (row >= 0) this.#refs[i] = this.#segments[row >>> SEGMENT_ROWS_LOG2]!.u32[(row & SEGMENT_MASK) * W32 + KEY_REF]!;
    }
    for (let i = 0; i < count; i += 1) {
      if (this.#rows[i]! >= 0) this.#headers[i] = this.#arena.header(this.#refs[i]!);
    }
  }

  /** The row of the i-th key of the batch: the noted one where its key is equal, else by a full probe (two keys of one hash). */
  #confirm(i: number, namespace: NamespaceId, start: number, lengthBytes: number): number {
    const row = this.#rows[i]!;
    if (row < 0) return row;
    if (this.#headers[i]! >>> 2 !== row) assert(false, `ChunkIndex row ${row} refers to the key of row ${this.#headers[i]! >>> 2}`);
    if (this.#holds(row, namespace, start, lengthBytes)) return row;
    return this.#probe(this.#hashes[i]!, namespace, start, lengthBytes);
  }

  #probe(hash: number, namespace: NamespaceId, start: number, lengthBytes: number): number {
    const shard = this.#table.shardOf(hash);
    const mask = shard.length - 1;
    for (let at = (hash << 1) & mask; ; at = (at + 2) & mask) {
      const rowPlusOne = shard[at + 1]!;
      if (rowPlusOne === 0) return -1;
      if (shard[at] === hash && this.#holds(rowPlusOne - 1, namespace, start, lengthBytes)) return rowPlusOne - 1;
    }
  }

  #holds(row: number, namespace: NamespaceId, start: number, lengthBytes: number): boolean {
    const { u32 } = this.#segments[row >>> SEGMENT_ROWS_LOG2]!;
    const at = (row & SEGMENT_MASK) * W32;
    if (u32[at + NAMESPACE] !== namespace + 1) return false;
    return this.#arena.equals(u32[at + KEY_REF]!, this.#words, start, lengthBytes);
  }

  #takeRow(): number {
    if (this.#freeHead !== 0) {
      const row = this.#freeHead - 1;
      const at = (row & SEGMENT_MASK) * W32;
      const { u32 } = this.#segments[row >>> SEGMENT_ROWS_LOG2]!;
      this.#freeHead = u32[at + KEY_REF]!;
      return row;
    }
    const row = this.#rowCount;
    if (row === this.entryCapacity) {
      assert(row < ROW_LIMIT, `Cannot add a chunk: the index has ${row} rows, the limit is ${ROW_LIMIT}`);
      const buffer = new ArrayBuffer(SEGMENT_ROWS * ROW_BYTES);
      this.#segments.push({
        u32: new Uint32Array(buffer),
        f64: new Float64Array(buffer),
        u16: new Uint16Array(buffer),
        u64: new BigUint64Array(buffer),
      });
    }
    this.#rowCount = row + 1;
    return row;
  }

  #u32(entry: number): Uint32Array {
    return this.#segments[entry >>> SEGMENT_ROWS_LOG2]!.u32;
  }

  #u16(entry: number): Uint16Array {
    return this.#segments[entry >>> SEGMENT_ROWS_LOG2]!.u16;
  }

  #f64(entry: number): Float64Array {
    return this.#segments[entry >>> SEGMENT_ROWS_LOG2]!.f64;
  }

  #live(entry: number): Segment {
    if (!this.isLive(entry)) assert(false, `Cannot change row ${entry}: it is free`);
    return this.#segments[entry >>> SEGMENT_ROWS_LOG2]!;
  }

  #liveU32(entry: number): Uint32Array {
    return this.#live(entry).u32;
  }

  #setU16(entry: number, field: number, value: number): void {
    if (!(value >= 0 && value <= 0xffff)) assert(false, `Cannot set 16-bit field ${field} of row ${entry} to ${value}`);
    this.#live(entry).u16[(entry & SEGMENT_MASK) * W16 + field] = value;
  }
}

function checkKey(key: Uint8Array): void {
  if (key.length > KEY_LIMIT_BYTES) {
    assert(false, `Cannot use a key of ${key.length} bytes: the limit is ${KEY_LIMIT_BYTES}, and the doors must refuse it`);
  }
}
