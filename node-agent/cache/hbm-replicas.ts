/**
 * Which chunks are in HBM, and where. Changed by CacheState alone (`attachHbm`, `detachHbm`, and `settle` whenever another replica comes or
 * goes), so that the orders and sums cannot drift apart.
 *
 * A stray is a chunk that only HBM has: a crash would lose it. It is brought back to RAM and written when there is room.
 *
 * Invariants (checkInvariants): a chunk is flagged IN_HBM exactly if the column has a slot for it, which is in use and its own; it is in the
 * order exactly then; strays are those that neither RAM nor SSD has; bytes are sums.
 */
import { assert } from '#core/assert.ts';
import type { EntryIndex, SlotIndex } from '#core/brand.ts';
import type { EvictionPolicy } from '#policy/eviction-policy.ts';
import type { HbmTier } from '#tiers/hbm/hbm-tier.ts';
import type { ChunkIndex } from './chunk-index.ts';
import type { DeviceMoves } from './control.ts';
import { IN_HBM } from './flags.ts';
import { HbmColumn } from './hbm-column.ts';

export interface HbmLimits {
  /** Hits within the window that bring a chunk to HBM. */
  readonly promoteHits: number;
  readonly promoteWindowMs: number;
  /** Copies to HBM at one time. */
  readonly copiesAtOnce: number;
}

export interface HbmParts {
  readonly tier: HbmTier;
  readonly order: EvictionPolicy;
  readonly limits: HbmLimits;
}

/** As they are counted. */
export type MovesCount = { -readonly [Kind in keyof DeviceMoves]: DeviceMoves[Kind] };

export class HbmReplicas {
  readonly tier: HbmTier;
  readonly limits: HbmLimits;
  readonly column = new HbmColumn();
  readonly #index: ChunkIndex;
  readonly #order: EvictionPolicy;
  readonly #settleTouches: () => void;
  #slotOwner = new Int32Array(1024).fill(-1);
  /** By device, since the start; they stay when a device is lost. */
  readonly moves: readonly MovesCount[];
  readonly strays = new Set<EntryIndex>();
  strayBytes = 0;
  bytes = 0;
  /** The last probe found it in HBM: the hit that follows belongs there. */
  readonly probed = new Set<number>();
  /** A chunk was used; set by the placement. */
  onUsed: (entry: EntryIndex) => void = () => {};
  /** A slot is its chunk's no more; whoever holds it by an export is told. */
  onDetached: (slot: SlotIndex) => void = () => {};

  constructor(parts: HbmParts, index: ChunkIndex, settleTouches: () => void) {
    this.tier = parts.tier;
    this.limits = parts.limits;
    const none = (): MovesCount => ({ promotions: 0, demotions: 0, loads: 0, checksumMismatches: 0 });
    this.moves = Array.from({ length: parts.tier.deviceCount }, none);
    this.#order = parts.order;
    this.#index = index;
    this.#settleTouches = settleTouches;
  }

  /** As of now: for those who look for victims. */
  get order(): EvictionPolicy {
    this.#settleTouches();
    return this.#order;
  }

  get chunkCount(): number {
    return this.#order.size;
  }

  has(entry: EntryIndex): boolean {
    return (this.#index.flags(entry) & IN_HBM) !== 0;
  }

  /** -1: not in HBM. */
  slotOf(entry: EntryIndex): SlotIndex | -1 {
    return this.column.slot(entry) as SlotIndex | -1;
  }

  /** Of the device that a slot is on. Ask while the slot is held: its number is given again. */
  movesOf(slot: SlotIndex): MovesCount {
    const moves = this.moves[this.tier.deviceOf(slot)];
    if (moves === undefined) assert(false, `HBM slot ${slot} is on a device`);
    return moves;
  }

  /** Chunk that owns a slot, or -1. */
  ownerOf(slot: SlotIndex): EntryIndex | -1 {
    return (this.#slotOwner[slot] ?? -1) as EntryIndex | -1;
  }

  isStray(entry: EntryIndex): boolean {
    return this.has(entry) && this.#index.ramSlot(entry) < 0 && this.#index.ssdFolder(entry) < 0;
  }

  attach(entry: EntryIndex, slot: SlotIndex): void {
    assert(!this.has(entry), `chunk ${entry} has no HBM replica yet`);
    if (slot >= this.#slotOwner.length) {
      const grown = new Int32Array(Math.max(slot + 1, this.#slotOwner.length * 2)).fill(-1);
      grown.set(this.#slotOwner);
      this.#slotOwner = grown;
    }
    this.#slotOwner[slot] = entry;
    this.column.setSlot(entry, slot);
    this.#index.setFlags(entry, this.#index.flags(entry) | IN_HBM);
    this.#order.insert(entry, this.#index.sizeBytes(entry));
    this.bytes += this.#index.sizeBytes(entry);
    this.settle(entry);
  }

  detach(entry: EntryIndex): void {
    const slot = this.slotOf(entry) as SlotIndex;
    assert(slot >= 0, `chunk ${entry} has an HBM replica`);
    this.#slotOwner[slot] = -1;
    this.column.setSlot(entry, -1);
    this.#index.setFlags(entry, this.#index.flags(entry) & ~IN_HBM);
    this.#order.remove(entry);
    this.bytes -= this.#index.sizeBytes(entry);
    this.settle(entry);
    this.onDetached(slot);
    this.tier.release(slot);
  }

  /** A replica of the chunk came or went. */
  settle(entry: EntryIndex): void {
    if (this.isStray(entry) === this.strays.has(entry)) return;
    const sizeBytes = this.#index.sizeBytes(entry);
    if (this.strays.delete(entry)) this.strayBytes -= sizeBytes;
    else {
      this.strays.add(entry);
      this.strayBytes += sizeBytes;
    }
  }

  /** The row is free. */
  forget(entry: EntryIndex): void {
    this.column.forgetHits(entry);
    this.probed.delete(entry);
  }

  checkInvariants(): void {
    this.tier.checkInvariants();
    this.order.checkInvariants();
    let bytes = 0;
    let count = 0;
    let strayBytes = 0;
    this.#index.forEach((entry) => {
      const slot = this.slotOf(entry);
      assert(this.has(entry) === slot >= 0, `chunk ${entry} is flagged exactly if it has an HBM slot`);
      assert(this.#order.has(entry) === slot >= 0, `chunk ${entry} is in HBM's order exactly if it is in HBM`);
      assert(this.isStray(entry) === this.strays.has(entry), `chunk ${entry} is listed as a stray exactly if only HBM has it`);
      if (slot < 0) return;
      assert(this.ownerOf(slot as SlotIndex) === entry, `HBM slot ${slot} belongs to chunk ${entry}`);
      assert(this.tier.useCount(slot as SlotIndex) > 0, `HBM slot ${slot} of chunk ${entry} is counted`);
      assert(!this.tier.isLost(this.tier.deviceOf(slot as SlotIndex)), `HBM slot ${slot} of chunk ${entry} is on a device that is of use`);
      count += 1;
      bytes += this.#index.sizeBytes(entry);
      if (this.strays.has(entry)) strayBytes += this.#index.sizeBytes(entry);
    });
    assert(bytes === this.bytes && strayBytes === this.strayBytes, 'bytes in HBM are sums over the chunks');
    assert(count === this.#order.size, 'every entry of the order of HBM is a chunk');
    for (const entry of this.probed) assert(this.#index.isLive(entry), `row ${entry}, which a probe found in HBM, is a chunk`);
  }
}
