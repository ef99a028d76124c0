/**
 * The slot table: a file in shared memory that says what is in each slot of the RAM tier, so that the next process finds it.
 * docs/formats/slot-table.md has it to the byte and says why a process may be killed at any instruction.
 *
 * A record is written when its payload is whole and all that it says is decided, and wiped before anything else may happen to the
 * slot's memory or to the chunk: a record that can be read is true. Each has a checksum, so half a record is none. Writing one costs no
 * system call, but for one in 1024 units that the table grows by.
 *
 * Invariants (checkInvariants): a slot has at most one record; a unit is free, or of one chunk or namespace, alone or as a continuation;
 * a namespace's record exists exactly while a chunk's record names it; every record of a slot decodes.
 */
import { assert } from '#core/assert.ts';
import type { NamespaceId, SlotIndex } from '#core/brand.ts';
import type { BlockHash } from '#core/checksum.ts';
import type { LmBlock } from '#core/lm-block.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';
import type { Arena, SharedMemory } from '#ports/shared-memory.ts';
import type { SlotPlace } from '#slab/slab-geometry.ts';
import { headerProblem, tableUnits, writeHeader } from './slot-table-header.ts';
import type { TableGeometry } from './slot-table-header.ts';
import { SlotTableReader } from './slot-table-reader.ts';
import type { FoundChunk } from './slot-table-reader.ts';
import * as format from './slot-record.ts';
import { HEADER_DOUBLES, HEADER_WORDS, UNIT_DOUBLES, UNIT_WORDS, header, unit, UNIT_BYTES } from './slot-record.ts';
import { tableViews } from './table-views.ts';
import type { TableViews } from './table-views.ts';

/** A chunk in RAM as the cache knows it. */
export interface ChunkFacts {
  readonly namespace: NamespaceId;
  readonly descriptor: NamespaceDescriptor;
  readonly key: Uint8Array;
  readonly metadata: Uint8Array | undefined;
  readonly lmBlock: LmBlock | undefined;
  readonly generation: number;
  readonly sizeBytes: number;
  readonly checksum: bigint;
  readonly createdAtMs: number;
  /** 0: never. */
  readonly expiresAtMs: number;
  /** 0: none. */
  readonly parentGeneration: number;
  readonly lastUsedAtMs: number;
}

/** As the marks of SSD folders: which run wrote here last, and how far the journal was then. */
export interface TableMark {
  readonly epoch: number;
  readonly journalSequence: number;
}

const NONE = -1;
const GROWTH_UNITS = 1024;

export class SlotTable {
  readonly #arena: Arena;
  readonly #hash: BlockHash;
  readonly #views: TableViews;
  readonly #unitCount: number;
  #backedUnits: number;
  #usedUnits = 0;
  /** Free units below usedUnits: a stack. */
  #free = new Int32Array(1024);
  #freeCount = 0;
  #unitOfSlot = new Int32Array(4096).fill(NONE);
  /** By NamespaceId. */
  #unitOfNamespace = new Int32Array(64).fill(NONE);
  /** By unit of a namespace: chunks' records that name it, and its id. */
  readonly #namespaces = new Map<number, { references: number; id: number }>();
  #isFull = false;
  /** Chunks that got no record because the table or shared memory is full. */
  unkeptChunks = 0;

  /**
   * The table that a former process left, or a new one. `kept` says which; `reason` why what was there is not used, '' where there was
   * nothing. Throws SHARED_MEMORY_UNAVAILABLE; undefined where not even the header can be backed.
   */
  static open(
    sharedMemory: SharedMemory,
    geometry: TableGeometry,
    hash: BlockHash,
  ): { readonly table: SlotTable; readonly kept: boolean; readonly reason: string } | undefined {
    const sizeBytes = format.TABLE_HEADER_BYTES + tableUnits(geometry.tierBytes) * UNIT_BYTES;
    const left = sharedMemory.open('table');
    let reason = '';
    if (left !== undefined) {
      reason = left.allocate(0, Math.min(left.sizeBytes, format.TABLE_HEADER_BYTES))
        ? headerProblem(left, geometry, hash)
        : 'shared memory is full';
      if (reason === '') {
        const table = new SlotTable(left, geometry, hash);
        if (table.#resume()) return { table, kept: true, reason };
        reason = 'its table is cut short';
      }
      left.close({ keep: false });
    }
    const arena = sharedMemory.create('table', sizeBytes);
    if (!arena.allocate(0, format.TABLE_HEADER_BYTES)) {
      arena.close({ keep: false });
      return undefined;
    }
    const table = new SlotTable(arena, geometry, hash);
    writeHeader(table.#views, geometry, hash);
    return { table, kept: false, reason };
  }

  /** Use `open`. */
  constructor(arena: Arena, geometry: TableGeometry, hash: BlockHash) {
    this.#arena = arena;
    this.#hash = hash;
    this.#views = tableViews(arena.view(0, arena.sizeBytes));
    this.#unitCount = tableUnits(geometry.tierBytes);
    this.#backedUnits = 0;
  }

  /** Takes over what a former process used. False where that cannot be. */
  #resume(): boolean {
    const used = this.#views.u32[header.usedUnits / 4] as number;
    if (used > this.#unitCount) return false;
    if (used > 0 && !this.#arena.allocate(format.TABLE_HEADER_BYTES, used * UNIT_BYTES)) return false;
    this.#usedUnits = used;
    this.#backedUnits = used;
    return true;
  }

  get mark(): TableMark {
    const { f64 } = this.#views;
    return { epoch: f64[header.epoch / 8] as number, journalSequence: f64[header.journalSequence / 8] as number };
  }

  setMark(mark: TableMark): void {
    const { f64 } = this.#views;
    f64[header.epoch / 8] = mark.epoch;
    f64[header.journalSequence / 8] = mark.journalSequence;
  }

  /** Bytes of the tier that are backed, from its beginning. */
  get backedBytes(): number {
    return this.#views.f64[header.backedBytes / 8] as number;
  }

  set backedBytes(bytes: number) {
    this.#views.f64[header.backedBytes / 8] = bytes;
  }

  get recordCount(): number {
    return this.#usedUnits - this.#freeCount;
  }

  /** Bytes of memory behind the table. */
  get usedBytes(): number {
    return format.TABLE_HEADER_BYTES + this.#backedUnits * UNIT_BYTES;
  }

  /** Forgets every record of a former process; before any is written. */
  forgetAll(): void {
    assert(this.#namespaces.size === 0, 'a table is emptied before it is used');
    this.#views.u32[header.usedUnits / 4] = 0;
    this.#usedUnits = 0;
    this.#freeCount = 0;
  }

  /**
   * Reads what a former process left, once, before any record is written. `bind` answers the slot of a place, or -1 where there is none:
   * then the record is wiped, as are all that do not decode. Places come ordered by page and ordinal.
   */
  restore(bind: (place: Readonly<SlotPlace>) => SlotIndex | -1): (FoundChunk & { readonly slot: SlotIndex })[] {
    const reader = new SlotTableReader(this.#views, this.#usedUnits, this.#hash);
    const restored: (FoundChunk & { readonly slot: SlotIndex })[] = [];
    for (const found of reader.chunks()) {
      const slot = reader.isClaimable(found) ? bind(found.place) : NONE;
      if (slot < 0) continue;
      reader.claim(found);
      this.#growSlots(slot);
      this.#unitOfSlot[slot] = found.unit;
      const space = this.#namespaces.get(found.namespaceUnit) ?? { references: 0, id: NONE };
      space.references += 1;
      this.#namespaces.set(found.namespaceUnit, space);
      restored.push({ ...found, slot: slot as SlotIndex });
    }
    for (let index = this.#usedUnits - 1; index >= 0; index -= 1) if (!reader.isClaimed(index)) this.#release(index);
    return restored;
  }

  /** Says by which number this process knows the namespace of a restored record. */
  nameNamespace(namespaceUnit: number, id: NamespaceId): void {
    const space = this.#namespaces.get(namespaceUnit);
    this.#growNamespaces(id);
    if (space === undefined || space.id !== NONE || this.#unitOfNamespace[id] !== NONE) return;
    space.id = id;
    this.#unitOfNamespace[id] = namespaceUnit;
  }

  has(slot: SlotIndex): boolean {
    return slot < this.#unitOfSlot.length && this.#unitOfSlot[slot] !== NONE;
  }

  /** Writes the record of a slot, anew where it has one. Where there is no room the chunk has none, and a restart forgets it. */
  remember(slot: SlotIndex, chunk: ChunkFacts, place: Readonly<SlotPlace>): void {
    this.erase(slot);
    const namespaceUnit = this.#namespaceUnit(chunk);
    const metadataBytes = chunk.metadata?.length ?? 0;
    const textBytes = chunk.key.length + metadataBytes + (chunk.lmBlock === undefined ? 0 : format.LM_BLOCK_BYTES);
    const head = namespaceUnit < 0 ? NONE : this.#takeWithTail(textBytes - format.CHUNK_TEXT_BYTES);
    if (head < 0) {
      if (namespaceUnit >= 0) this.#dropNamespaceIfUnused(namespaceUnit);
      this.unkeptChunks += 1;
      return;
    }
    const { u32, f64, u64, u16 } = this.#views;
    const word = HEADER_WORDS + head * UNIT_WORDS;
    const double = HEADER_DOUBLES + head * UNIT_DOUBLES;
    f64[double + unit.generation / 8] = chunk.generation;
    f64[double + unit.createdAt / 8] = chunk.createdAtMs;
    f64[double + unit.expiresAt / 8] = chunk.expiresAtMs;
    f64[double + unit.parentGeneration / 8] = chunk.parentGeneration;
    u64[double + unit.payloadChecksum / 8] = chunk.checksum;
    u32[word + unit.sizeBytes / 4] = chunk.sizeBytes;
    u32[word + unit.namespace / 4] = namespaceUnit;
    u32[word + unit.namespaceStamp / 4] = u32[HEADER_WORDS + namespaceUnit * UNIT_WORDS + unit.checksum / 4] as number;
    u32[word + unit.firstPage / 4] = place.firstPage;
    u32[word + unit.pages / 4] = place.pages;
    u32[word + unit.slots / 4] = place.slots;
    u32[word + unit.classBytes / 4] = place.classBytes;
    u32[word + unit.ordinal / 4] = place.ordinal;
    u16[word * 2 + unit.keyBytes / 2] = chunk.key.length;
    u16[word * 2 + unit.metadataBytes / 2] = metadataBytes;
    u32[word + unit.flags / 4] = chunk.lmBlock === undefined ? 0 : format.FLAG_LM_BLOCK;
    f64[double + unit.lastUsed / 8] = chunk.lastUsedAtMs;
    this.#writeText(head, chunk.key, -format.CHUNK_TEXT_BYTES);
    if (chunk.metadata !== undefined) this.#writeText(head, chunk.metadata, chunk.key.length - format.CHUNK_TEXT_BYTES);
    if (chunk.lmBlock !== undefined)
      this.#writeText(head, format.encodeLmBlock(chunk.lmBlock), chunk.key.length + metadataBytes - format.CHUNK_TEXT_BYTES);
    this.#seal(head, format.STATE_CHUNK, textBytes);
    const space = this.#namespaces.get(namespaceUnit);
    assert(space !== undefined, `namespace record ${namespaceUnit} exists`);
    space.references += 1;
    this.#growSlots(slot);
    this.#unitOfSlot[slot] = head;
  }

  /** From now on the slot says nothing. Before its memory is reused, and before anybody hears that its chunk is gone. */
  erase(slot: SlotIndex): void {
    const head = slot < this.#unitOfSlot.length ? (this.#unitOfSlot[slot] as number) : NONE;
    if (head === NONE) return;
    this.#unitOfSlot[slot] = NONE;
    const namespaceUnit = this.#views.u32[HEADER_WORDS + head * UNIT_WORDS + unit.namespace / 4] as number;
    this.#releaseChain(head);
    const space = this.#namespaces.get(namespaceUnit);
    assert(space !== undefined && space.references > 0, `namespace record ${namespaceUnit} is named by the record of slot ${slot}`);
    space.references -= 1;
    this.#dropNamespaceIfUnused(namespaceUnit);
  }

  /** Notes a use: one store. */
  touch(slot: SlotIndex, nowMs: number): void {
    const head = slot < this.#unitOfSlot.length ? (this.#unitOfSlot[slot] as number) : NONE;
    if (head !== NONE) this.#views.f64[HEADER_DOUBLES + head * UNIT_DOUBLES + unit.lastUsed / 8] = nowMs;
  }

  close(options: { readonly keep: boolean }): void {
    this.#arena.close(options);
  }

  #namespaceUnit(chunk: ChunkFacts): number {
    this.#growNamespaces(chunk.namespace);
    const known = this.#unitOfNamespace[chunk.namespace] as number;
    if (known !== NONE) return known;
    const text = format.encodeNamespace(chunk.descriptor);
    const head = text === undefined ? NONE : this.#takeWithTail(text.length - format.NAMESPACE_TEXT_BYTES);
    if (text === undefined || head < 0) return NONE;
    const word = HEADER_WORDS + head * UNIT_WORDS;
    this.#views.u32[word + unit.namespaceBytes / 4] = text.length;
    this.#views.u32[word + unit.namespaceBytes / 4 + 1] = 0;
    this.#writeText(head, text, -format.NAMESPACE_TEXT_BYTES);
    this.#seal(head, format.STATE_NAMESPACE, text.length);
    this.#namespaces.set(head, { references: 0, id: chunk.namespace });
    this.#unitOfNamespace[chunk.namespace] = head;
    return head;
  }

  #dropNamespaceIfUnused(namespaceUnit: number): void {
    const space = this.#namespaces.get(namespaceUnit);
    if (space === undefined || space.references > 0) return;
    if (space.id !== NONE) this.#unitOfNamespace[space.id] = NONE;
    this.#namespaces.delete(namespaceUnit);
    this.#releaseChain(namespaceUnit);
  }

  /** Checksum, then the state that makes the record count. */
  #seal(head: number, state: number, textBytes: number): void {
    const { u32, u64 } = this.#views;
    u64[HEADER_DOUBLES + head * UNIT_DOUBLES + unit.checksum / 8] = format.recordChecksum(this.#views, this.#hash, {
      head,
      state,
      textBytes,
    });
    Atomics.store(u32, HEADER_WORDS + head * UNIT_WORDS, state);
  }

  /** A unit and as many behind it as `tailBytes` of text need; -1 where there is no room. Their states say free and continuation. */
  #takeWithTail(tailBytes: number): number {
    const head = this.#take();
    if (head < 0) return NONE;
    const { u32 } = this.#views;
    u32[HEADER_WORDS + head * UNIT_WORDS + unit.next / 4] = 0;
    let last = head;
    for (let left = tailBytes; left > 0; left -= format.CONTINUATION_TEXT_BYTES) {
      const next = this.#take();
      if (next < 0) {
        this.#releaseChain(head);
        return NONE;
      }
      const word = HEADER_WORDS + next * UNIT_WORDS;
      u32[word] = format.STATE_CONTINUATION;
      u32[word + unit.next / 4] = 0;
      u32[HEADER_WORDS + last * UNIT_WORDS + unit.next / 4] = next + 1;
      last = next;
    }
    return head;
  }

  #take(): number {
    if (this.#freeCount > 0) {
      this.#freeCount -= 1;
      return this.#free[this.#freeCount] as number;
    }
    if (this.#usedUnits >= this.#backedUnits && !this.#grow()) return NONE;
    const next = this.#usedUnits;
    // A table that was emptied has old records in it: this one must not be seen when the count says that it is used.
    Atomics.store(this.#views.u32, HEADER_WORDS + next * UNIT_WORDS, format.STATE_FREE);
    this.#usedUnits = next + 1;
    Atomics.store(this.#views.u32, header.usedUnits / 4, next + 1);
    return next;
  }

  #grow(): boolean {
    if (this.#isFull) return false;
    const count = Math.min(GROWTH_UNITS, this.#unitCount - this.#backedUnits);
    if (count <= 0 || !this.#arena.allocate(format.TABLE_HEADER_BYTES + this.#backedUnits * UNIT_BYTES, count * UNIT_BYTES)) {
      // Asked once: shared memory that is full would cost every commit a system call.
      this.#isFull = true;
      return false;
    }
    this.#backedUnits += count;
    return true;
  }

  #releaseChain(head: number): void {
    const { u32 } = this.#views;
    for (let next = head + 1; next !== 0;) {
      const index = next - 1;
      next = u32[HEADER_WORDS + index * UNIT_WORDS + unit.next / 4] as number;
      this.#release(index);
    }
  }

  #release(index: number): void {
    Atomics.store(this.#views.u32, HEADER_WORDS + index * UNIT_WORDS, format.STATE_FREE);
    if (this.#freeCount === this.#free.length) this.#free = grown(this.#free, this.#free.length * 2, 0);
    this.#free[this.#freeCount] = index;
    this.#freeCount += 1;
  }

  /** Text into a record that has room for it. `at` counts from the end of the text in the head: what is below 0 goes there. */
  #writeText(head: number, text: Uint8Array, at: number): void {
    const { bytes, u32 } = this.#views;
    const headEnd = format.TABLE_HEADER_BYTES + head * UNIT_BYTES + unit.lastUsed;
    let done = Math.min(text.length, Math.max(0, -at));
    if (done > 0) bytes.set(done === text.length ? text : text.subarray(0, done), headEnd + at);
    let start = 0;
    for (let next = u32[HEADER_WORDS + head * UNIT_WORDS + unit.next / 4] as number; done < text.length;) {
      assert(next !== 0, `record ${head} has room for its text`);
      const inside = at + done - start;
      if (inside < format.CONTINUATION_TEXT_BYTES) {
        const count = Math.min(text.length - done, format.CONTINUATION_TEXT_BYTES - inside);
        bytes.set(text.subarray(done, done + count), format.TABLE_HEADER_BYTES + (next - 1) * UNIT_BYTES + unit.continuationText + inside);
        done += count;
      }
      start += format.CONTINUATION_TEXT_BYTES;
      next = u32[HEADER_WORDS + (next - 1) * UNIT_WORDS + unit.next / 4] as number;
    }
  }

  #growSlots(slot: number): void {
    if (slot >= this.#unitOfSlot.length) this.#unitOfSlot = grown(this.#unitOfSlot, Math.max(slot + 1, this.#unitOfSlot.length * 2), NONE);
  }

  #growNamespaces(id: number): void {
    if (id >= this.#unitOfNamespace.length)
      this.#unitOfNamespace = grown(this.#unitOfNamespace, Math.max(id + 1, this.#unitOfNamespace.length * 2), NONE);
  }

  /** `placeOf` as the allocator knows it. */
  checkInvariants(placeOf: (slot: SlotIndex) => SlotPlace): void {
    const reader = new SlotTableReader(this.#views, this.#usedUnits, this.#hash);
    const found = new Map<number, FoundChunk>();
    for (const chunk of reader.chunks()) {
      assert(reader.isClaimable(chunk), `record ${chunk.unit} shares no unit with another`);
      reader.claim(chunk);
      found.set(chunk.unit, chunk);
    }
    const references = new Map<number, number>();
    this.#unitOfSlot.forEach((head, slot) => {
      if (head === NONE) return;
      const chunk = found.get(head);
      assert(chunk !== undefined, `the record of slot ${slot} can be read`);
      found.delete(head);
      const wanted = placeOf(slot as SlotIndex);
      for (const key of ['firstPage', 'pages', 'slots', 'classBytes', 'ordinal'] as const)
        assert(chunk.place[key] === wanted[key], `the record of slot ${slot} says ${key} ${chunk.place[key]}, it is ${wanted[key]}`);
      references.set(chunk.namespaceUnit, (references.get(chunk.namespaceUnit) ?? 0) + 1);
    });
    assert(found.size === 0, `records ${[...found.keys()].join(', ')} belong to no slot`);
    for (const [index, space] of this.#namespaces)
      assert(space.references > 0 && space.references === references.get(index), `namespace record ${index} is counted`);
    assert(references.size === this.#namespaces.size, 'every namespace that is named has a record');
    const free = new Set(this.#free.subarray(0, this.#freeCount));
    assert(free.size === this.#freeCount, 'no unit is free twice');
    for (let index = 0; index < this.#usedUnits; index += 1)
      assert(free.has(index) !== reader.isClaimed(index), `unit ${index} is free or used`);
  }
}

function grown(array: Int32Array<ArrayBuffer>, length: number, fill: number): Int32Array<ArrayBuffer> {
  const next = new Int32Array(length).fill(fill);
  next.set(array);
  return next;
}
