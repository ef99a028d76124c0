/**
 * The RAM tier: arenas of shared memory cut into slots, each with a count of those who rely on it.
 *
 * Invariants: a slot that is handed out lies in memory that was backed before (fallocate; touching a page that the file system
 * cannot back is a SIGBUS); a slot goes back to the allocator when its count reaches zero and not before; the count of a slot is
 * one for its owner (a chunk or a put under way) plus one for each reader and lease. The tier decides nothing about eviction. A slot
 * that goes back to the allocator has no record in the slot table.
 */
import { assert } from '#core/assert.ts';
import { GiB, MiB, formatBytes } from '#core/bytes.ts';
import type { Address, Fd, NamespaceId, SlotIndex } from '#core/brand.ts';
import type { BlockHash } from '#core/checksum.ts';
import type { Logger } from '#core/logger.ts';
import type { IoFailure } from '#ports/io-pool.ts';
import type { Arena, SharedMemory } from '#ports/shared-memory.ts';
import { SlabAllocator, choosePageBytes } from '#slab/slab-allocator.ts';
import type { SlotPlace } from '#slab/slab-geometry.ts';
import { SlotTable } from './slot-table.ts';
import type { ChunkFacts, TableMark } from './slot-table.ts';
import type { FoundChunk } from './slot-table-reader.ts';

export interface RamTierOptions {
  readonly sharedMemory: SharedMemory;
  readonly capacityBytes: number;
  readonly maxChunkBytes: number;
  /** Maps backed pages, off the main thread. */
  readonly populate: (address: Address, sizeBytes: number) => Promise<{ readonly ok: true } | IoFailure>;
  /** Leaves the tier to the next process, and takes over what the last one left. Undefined: it ends with this one. */
  readonly keep?: { readonly hash: BlockHash; readonly bootId: string } | undefined;
  /** Checksum of mapped memory, off the main thread; undefined where it could not be had. Wanted with `keep`. */
  readonly checksumMemory?: (address: Address, sizeBytes: number) => Promise<bigint | undefined>;
  /** Called for each arena before any of its memory is used. */
  readonly onArena: (address: Address, sizeBytes: number) => void;
  /** More memory came in: puts that wait may go on. */
  readonly onGrowth: () => void;
  readonly logger: Logger;
}

/** An ArrayBuffer in Bun holds at most 4 GiB; smaller arenas fail in smaller pieces. */
const MAX_ARENA_BYTES = GiB;
/** Backing a step of this size takes about 20 ms, so that the main thread stays responsive while the tier grows. */
const GROWTH_STEP_BYTES = 16 * MiB;
/** Backed before the agent says that it is ready; the rest follows in the background. */
const FIRST_STEP_BYTES = 64 * MiB;

export class RamTier {
  readonly maxChunkBytes: number;
  readonly #options: RamTierOptions;
  readonly #slab: SlabAllocator;
  readonly #arenas: Arena[] = [];
  #counts = new Uint32Array(4096);
  #backedBytes = 0;
  #growing = true;
  #closed = false;
  #growth: Promise<void> = Promise.resolve();
  readonly #reasons: string[] = [];
  #table: SlotTable | undefined;
  /** A former process left this memory, and its records are not read yet. */
  #isKept = false;
  readonly #place: SlotPlace = { firstPage: 0, pages: 0, slots: 0, classBytes: 0, ordinal: 0 };

  constructor(options: RamTierOptions) {
    this.#options = options;
    this.maxChunkBytes = options.maxChunkBytes;
    this.#slab = new SlabAllocator({ pageBytes: choosePageBytes(options.capacityBytes), maxSlotBytes: options.maxChunkBytes });
  }

  /** Backs the first step now and the rest in the background. Throws SHARED_MEMORY_UNAVAILABLE where nothing can be backed. */
  start(): void {
    this.#openTable();
    const first = this.#plan();
    // What a former process had backed is backed still: asking again costs little, and its chunks are there.
    const wanted = this.#isKept ? Math.max(FIRST_STEP_BYTES, this.#table?.backedBytes ?? 0) : FIRST_STEP_BYTES;
    let backed = 0;
    for (const step of first) {
      if (backed >= wanted || !this.#grow(step)) break;
      backed += step.length;
    }
    assert(this.#backedBytes > 0 || this.#reasons.length > 0, 'a tier that backs nothing says why');
    this.#growth = this.#growRest(first.filter((step) => !step.done));
  }

  #openTable(): void {
    const { keep, capacityBytes, sharedMemory, logger } = this.#options;
    if (keep === undefined) return;
    const geometry = {
      tierBytes: capacityBytes,
      arenaBytes: Math.min(MAX_ARENA_BYTES, capacityBytes),
      pageBytes: choosePageBytes(capacityBytes),
      bootId: keep.bootId,
    };
    const opened = SlotTable.open(sharedMemory, geometry, keep.hash);
    this.#table = opened?.table;
    this.#isKept = opened?.kept ?? false;
    if (opened !== undefined && opened.reason !== '') logger.warn(`The RAM tier starts empty: ${opened.reason}`, {});
  }

  /** The arenas that were kept, all of them or none. */
  #openKept(sizes: readonly number[]): readonly Arena[] | undefined {
    if (!this.#isKept) return undefined;
    const arenas: Arena[] = [];
    for (const [index, sizeBytes] of sizes.entries()) {
      const arena = this.#options.sharedMemory.open(`ram-${index}`);
      if (arena !== undefined) arenas.push(arena);
      if (arena?.sizeBytes === sizeBytes) continue;
      for (const opened of arenas) opened.close();
      this.#isKept = false;
      this.#table?.forgetAll();
      this.#options.logger.warn('The RAM tier starts empty: some of its memory is gone', {});
      return undefined;
    }
    return arenas;
  }

  #plan(): GrowthStep[] {
    const steps: GrowthStep[] = [];
    const sizes: number[] = [];
    for (let start = 0; start < this.#options.capacityBytes; start += MAX_ARENA_BYTES)
      sizes.push(Math.min(MAX_ARENA_BYTES, this.#options.capacityBytes - start));
    const kept = this.#openKept(sizes);
    if (!this.#isKept && this.#table !== undefined) this.#table.backedBytes = 0;
    for (const [index, sizeBytes] of sizes.entries()) {
      const arena = kept?.[index] ?? this.#options.sharedMemory.create(`ram-${index}`, sizeBytes);
      this.#arenas.push(arena);
      this.#options.onArena(arena.address, sizeBytes);
      const arenaIndex = this.#slab.addArena(arena.address, sizeBytes);
      for (let offset = 0; offset < sizeBytes; offset += GROWTH_STEP_BYTES) {
        steps.push({ arena, arenaIndex, offset, length: Math.min(GROWTH_STEP_BYTES, sizeBytes - offset), done: false });
      }
    }
    return steps;
  }

  #grow(step: GrowthStep): boolean {
    step.done = true;
    if (!step.arena.allocate(step.offset, step.length)) {
      if (this.#reasons.length === 0) {
        const wanted = formatBytes(this.#options.capacityBytes);
        this.#reasons.push(
          `Shared memory is full: ${formatBytes(this.#backedBytes)} of ${wanted} could be backed; enlarge it or lower ram.size`,
        );
        this.#options.logger.warn(this.#reasons[0] ?? '', {});
      }
      return false;
    }
    this.#slab.makeAvailable(step.arenaIndex, step.offset, step.length);
    this.#backedBytes += step.length;
    if (this.#table !== undefined && this.#table.backedBytes < this.#backedBytes) this.#table.backedBytes = this.#backedBytes;
    return true;
  }

  async #growRest(steps: readonly GrowthStep[]): Promise<void> {
    for (const step of steps) {
      // A turn of the event loop for everybody else; populate maps the pages in another thread.
      await this.#options.populate(step.arena.address, 4096);
      if (this.#closed || !this.#grow(step)) break;
      this.#options.onGrowth();
      await this.#options.populate((step.arena.address + step.offset) as Address, step.length);
    }
    this.#growing = false;
    this.#options.onGrowth();
  }

  /** Resolves when the whole tier is backed, or as much of it as can be. */
  grown(): Promise<void> {
    return this.#growth;
  }

  get growing(): boolean {
    return this.#growing;
  }

  get reasons(): readonly string[] {
    return this.#reasons;
  }

  /** What can be filled now; grows up to the configured size after start. */
  get backedBytes(): number {
    return this.#backedBytes;
  }

  get capacityBytes(): number {
    return this.#growing ? this.#options.capacityBytes : this.#backedBytes;
  }

  canEverFit(sizeBytes: number): boolean {
    return sizeBytes <= this.maxChunkBytes && this.#slab.canEverFit(sizeBytes);
  }

  // --- what the next process finds ------------------------------------------------------------------------------------------

  /** Of the process that left this memory; undefined where nobody did. */
  get keptMark(): TableMark | undefined {
    return this.#isKept ? this.#table?.mark : undefined;
  }

  /** As the marks of SSD folders: without it, what is in RAM is not believed at the next start. */
  setMark(mark: TableMark): void {
    this.#table?.setMark(mark);
  }

  /** Nothing that was left may be served. Before `restore`. */
  forgetKept(reason: string): void {
    if (!this.#isKept) return;
    this.#isKept = false;
    this.#table?.forgetAll();
    this.#options.logger.warn(`The RAM tier starts empty: ${reason}`, {});
  }

  /**
   * What was left, once, before any slot is given out: each slot with a count of one, its owner being whoever asks. The payloads are not
   * looked at: their checksums tell.
   */
  restore(): readonly (FoundChunk & { readonly slot: SlotIndex })[] {
    if (this.#table === undefined) return [];
    const isKept = this.#isKept;
    this.#isKept = false;
    return this.#table.restore((place) => {
      const slot = isKept ? this.#slab.restoreSlot(place) : -1;
      return slot < 0 ? -1 : this.#own(slot as SlotIndex);
    });
  }

  /** Links a restored record's namespace with the number that it has in this process. */
  nameNamespace(namespaceUnit: number, id: NamespaceId): void {
    this.#table?.nameNamespace(namespaceUnit, id);
  }

  get keeps(): boolean {
    return this.#table !== undefined;
  }

  /** Says what is in a slot, for the next process: when all of it is there, and again when something of it changes. */
  remember(slot: SlotIndex, chunk: ChunkFacts): void {
    if (this.#table === undefined) return;
    this.#slab.placeOf(slot, this.#place);
    this.#table.remember(slot, chunk, this.#place);
  }

  /** The slot's chunk is no more, or not what it was. Before anybody hears of it, and however long others still read the slot. */
  forget(slot: SlotIndex): void {
    this.#table?.erase(slot);
  }

  /** The chunk was used: a hint for the order of eviction after a restart. */
  noteUse(slot: SlotIndex, nowMs: number): void {
    this.#table?.touch(slot, nowMs);
  }

  /** Memory behind the slot table, beyond the tier's own. */
  get tableBytes(): number {
    return this.#table?.usedBytes ?? 0;
  }

  /** Checksum of a payload in place; undefined where it could not be computed. */
  async checksum(slot: SlotIndex, sizeBytes: number): Promise<bigint | undefined> {
    return await this.#options.checksumMemory?.(this.address(slot), sizeBytes);
  }

  /** A slot with a count of one, or -1 where no free slot fits. */
  allocate(sizeBytes: number): SlotIndex | -1 {
    const slot = this.#slab.allocate(sizeBytes);
    return slot < 0 ? -1 : this.#own(slot as SlotIndex);
  }

  #own(slot: SlotIndex): SlotIndex {
    if (slot >= this.#counts.length) {
      const grown = new Uint32Array(Math.max(slot + 1, this.#counts.length * 2));
      grown.set(this.#counts);
      this.#counts = grown;
    }
    assert(this.#counts[slot] === 0, `slot ${slot} is free`);
    this.#counts[slot] = 1;
    return slot;
  }

  retain(slot: SlotIndex): void {
    const count = this.#counts[slot] ?? 0;
    assert(count > 0 && count < 0xffff_ffff, `slot ${slot} can be retained: count ${count}`);
    this.#counts[slot] = count + 1;
  }

  /** True where this was the last count and the slot is free again. */
  release(slot: SlotIndex): boolean {
    const count = this.#counts[slot] ?? 0;
    assert(count > 0, `slot ${slot} is in use`);
    this.#counts[slot] = count - 1;
    if (count > 1) return false;
    this.#table?.erase(slot);
    this.#slab.free(slot);
    return true;
  }

  useCount(slot: SlotIndex): number {
    return this.#counts[slot] ?? 0;
  }

  address(slot: SlotIndex): Address {
    return this.#slab.slotAddress(slot);
  }

  /** Where memory of the tier lies in its arenas, for those who reach it by descriptor. */
  locate(address: Address): { readonly arena: number; readonly offset: number } {
    for (const [index, arena] of this.#arenas.entries()) {
      const offset = address - arena.address;
      if (offset >= 0 && offset < arena.sizeBytes) return { arena: index, offset };
    }
    throw new RangeError(`address ${address} lies in no arena`);
  }

  /** A descriptor of an arena that cannot be written through; the tier's own. */
  readOnlyDescriptor(arena: number): Fd {
    const shared = this.#arenas[arena];
    assert(shared !== undefined, `there is an arena ${arena}`);
    return shared.readOnlyFd();
  }

  slotCapacityBytes(slot: SlotIndex): number {
    return this.#slab.slotCapacityBytes(slot);
  }

  /** Size class that a payload of this size takes; equal classes can take each other's slots. */
  classBytes(sizeBytes: number): number {
    return this.#slab.slotClassBytes(sizeBytes);
  }

  /** See SlabAllocator.planReclaim. */
  // oxlint-disable-next-line max-params -- three positional and an options object, as STYLE allows
  planReclaim(
    sizeBytes: number,
    heat: (slot: SlotIndex) => number,
    isLocked: (slot: SlotIndex) => boolean,
    options: { readonly narrow: boolean },
  ): SlotIndex[] | undefined {
    return this.#slab.planReclaim(sizeBytes, heat, isLocked, options);
  }

  /** See SlabAllocator.serves. */
  serves(slot: SlotIndex, sizeBytes: number): boolean {
    return this.#slab.serves(slot, sizeBytes);
  }

  /** The payload's memory; valid while the slot is retained. For small values and tests: large ones move in the I/O pool. */
  view(slot: SlotIndex, sizeBytes: number): Uint8Array {
    const address = this.#slab.slotAddress(slot);
    for (const arena of this.#arenas) {
      const offset = address - arena.address;
      if (offset >= 0 && offset + sizeBytes <= arena.sizeBytes) return arena.view(offset, sizeBytes);
    }
    throw new RangeError(`slot ${slot} lies in no arena`);
  }

  checkInvariants(): void {
    this.#slab.checkInvariants();
    let used = 0;
    this.#slab.forEachUsedSlot((slot) => {
      used += 1;
      assert((this.#counts[slot] ?? 0) > 0, `used slot ${slot} has a count`);
    });
    let counted = 0;
    for (let slot = 0; slot < this.#counts.length; slot += 1) if ((this.#counts[slot] ?? 0) > 0) counted += 1;
    assert(used === counted, `${used} used slots, ${counted} counts`);
    this.#table?.checkInvariants((slot) => {
      const place = { firstPage: 0, pages: 0, slots: 0, classBytes: 0, ordinal: 0 };
      this.#slab.placeOf(slot, place);
      return place;
    });
  }

  /** Number of slots in use, for leak tests. */
  usedSlots(): number {
    let used = 0;
    this.#slab.forEachUsedSlot(() => void (used += 1));
    return used;
  }

  /**
   * `keep`: the next process may have it, where the tier was started with `keep` and holds something. Resolves with the bytes of memory that
   * stay for it.
   */
  async close(options: { readonly keep: boolean } = { keep: false }): Promise<number> {
    this.#closed = true;
    await this.#growth;
    const keep = options.keep && this.#table !== undefined && this.#table.recordCount > 0;
    // The table goes first and comes last: without it nobody takes the arenas for a tier.
    const keptBytes = keep ? this.#backedBytes + this.tableBytes : 0;
    this.#table?.close({ keep });
    for (const arena of this.#arenas) arena.close({ keep });
    return keptBytes;
  }
}

interface GrowthStep {
  readonly arena: Arena;
  readonly arenaIndex: number;
  readonly offset: number;
  readonly length: number;
  done: boolean;
}
