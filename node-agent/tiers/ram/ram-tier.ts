/**
 * The RAM tier: arenas of shared memory cut into slots, each with a count of those who rely on it.
 *
 * Invariants: a slot that is handed out lies in memory that was backed before (fallocate; touching a page that the file system
 * cannot back is a SIGBUS); a slot goes back to the allocator when its count reaches zero and not before; the count of a slot is
 * one for its owner (a chunk or a put under way) plus one for each reader and lease. The tier decides nothing about eviction.
 */
import { assert } from '#core/assert.ts';
import { GiB, MiB, formatBytes } from '#core/bytes.ts';
import type { Address, SlotIndex } from '#core/brand.ts';
import type { Logger } from '#core/logger.ts';
import type { IoFailure } from '#ports/io-pool.ts';
import type { Arena, SharedMemory } from '#ports/shared-memory.ts';
import { SlabAllocator, choosePageBytes } from '#slab/slab-allocator.ts';

export interface RamTierOptions {
  readonly sharedMemory: SharedMemory;
  readonly capacityBytes: number;
  readonly maxChunkBytes: number;
  /** Maps backed pages, off the main thread. */
  readonly populate: (address: Address, sizeBytes: number) => Promise<{ readonly ok: true } | IoFailure>;
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

  constructor(options: RamTierOptions) {
    this.#options = options;
    this.maxChunkBytes = options.maxChunkBytes;
    this.#slab = new SlabAllocator({ pageBytes: choosePageBytes(options.capacityBytes), maxSlotBytes: options.maxChunkBytes });
  }

  /** Backs the first step now and the rest in the background. Throws SHARED_MEMORY_UNAVAILABLE where nothing can be backed. */
  start(): void {
    const first = this.#plan();
    let backed = 0;
    for (const step of first) {
      if (backed >= FIRST_STEP_BYTES || !this.#grow(step)) break;
      backed += step.length;
    }
    assert(this.#backedBytes > 0 || this.#reasons.length > 0, 'a tier that backs nothing says why');
    this.#growth = this.#growRest(first.filter((step) => !step.done));
  }

  #plan(): GrowthStep[] {
    const steps: GrowthStep[] = [];
    for (let start = 0, index = 0; start < this.#options.capacityBytes; index += 1) {
      const sizeBytes = Math.min(MAX_ARENA_BYTES, this.#options.capacityBytes - start);
      const arena = this.#options.sharedMemory.create(`ram-${index}`, sizeBytes);
      this.#arenas.push(arena);
      this.#options.onArena(arena.address, sizeBytes);
      const arenaIndex = this.#slab.addArena(arena.address, sizeBytes);
      for (let offset = 0; offset < sizeBytes; offset += GROWTH_STEP_BYTES) {
        steps.push({ arena, arenaIndex, offset, length: Math.min(GROWTH_STEP_BYTES, sizeBytes - offset), done: false });
      }
      start += sizeBytes;
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

  /** A slot with a count of one, or -1 where no free slot fits. */
  allocate(sizeBytes: number): SlotIndex | -1 {
    const slot = this.#slab.allocate(sizeBytes);
    if (slot < 0) return -1;
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
    this.#slab.free(slot);
    return true;
  }

  useCount(slot: SlotIndex): number {
    return this.#counts[slot] ?? 0;
  }

  address(slot: SlotIndex): Address {
    return this.#slab.slotAddress(slot);
  }

  slotCapacityBytes(slot: SlotIndex): number {
    return this.#slab.slotCapacityBytes(slot);
  }

  /** Size class that a payload of this size takes; equal classes can take each other's slots. */
  classBytes(sizeBytes: number): number {
    return this.#slab.slotClassBytes(sizeBytes);
  }

  /** See SlabAllocator.planReclaim. */
  planReclaim(sizeBytes: number, heat: (slot: SlotIndex) => number, isLocked: (slot: SlotIndex) => boolean): SlotIndex[] | undefined {
    return this.#slab.planReclaim(sizeBytes, heat, isLocked);
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
    for (const count of this.#counts) if (count > 0) counted += 1;
    assert(used === counted, `${used} used slots, ${counted} counts`);
  }

  /** Number of slots in use, for leak tests. */
  usedSlots(): number {
    let used = 0;
    this.#slab.forEachUsedSlot(() => void (used += 1));
    return used;
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#growth;
    for (const arena of this.#arenas) arena.close();
  }
}

interface GrowthStep {
  readonly arena: Arena;
  readonly arenaIndex: number;
  readonly offset: number;
  readonly length: number;
  done: boolean;
}
