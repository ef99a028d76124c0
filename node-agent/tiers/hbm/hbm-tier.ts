/**
 * The HBM tier: a pool on each device, cut into slots, each with a count of those who rely on it. Bytes move by DMA between slots and
 * the host; the tier decides nothing about what is in it.
 *
 * Invariants (checkInvariants): a slot goes back to its pool when its count reaches zero and not before; the count is one for its owner,
 * plus one for each copy under way and each export; a copy whose end is not known keeps its count (`late`). After a device is lost no
 * slot is given out there and no copy begins; slots that are still held stay counted until their holders let go.
 */
import { assert } from '#core/assert.ts';
import type { Address, DevicePtr, SlotIndex } from '#core/brand.ts';
import type { Logger } from '#core/logger.ts';
import type { Device, DeviceCopy, DeviceFailure } from '#ports/device-memory.ts';
import { CopyCounters } from './copy-counters.ts';
import { HbmPool } from './hbm-pool.ts';
import type { Piece, PoolUse } from './hbm-pool.ts';

export interface HbmDeviceOptions {
  readonly device: Device;
  readonly capacityBytes: number;
}

export interface HbmTierOptions {
  readonly devices: readonly HbmDeviceOptions[];
  readonly maxChunkBytes: number;
  readonly pieceBytes?: number | undefined;
  /** A device is found lost; runs once a device, before whoever waits for a copy hears of it. */
  readonly onLost: (deviceIndex: number) => void;
  readonly logger: Logger;
}

/** Where a slot is, for somebody who opens the piece in another process. */
export interface SlotExport {
  readonly deviceUuid: string;
  readonly handle: Uint8Array;
  readonly offsetBytes: number;
}

export interface HbmDeviceUse {
  readonly ordinal: number;
  readonly name: string;
  readonly uuid: string;
  readonly pciBusId: string;
  readonly state: 'ok' | 'degraded' | 'off';
  readonly reason: string;
  readonly use: PoolUse;
  readonly copies: CopyCounters;
}

export type CopyOutcome = { readonly ok: true } | DeviceFailure;

export class HbmTier {
  readonly maxChunkBytes: number;
  readonly #options: HbmTierOptions;
  readonly #pools: HbmPool[] = [];
  readonly #copies: CopyCounters[] = [];
  #lost: boolean[] = [];
  #closed = false;
  // Slots, numbered over all pools. A number is given again once its slot is free.
  readonly #slotPools: number[] = [];
  readonly #pieces: (Piece | undefined)[] = [];
  #slabSlots = new Int32Array(1024);
  #counts = new Uint32Array(1024);
  readonly #freeNumbers: number[] = [];
  /** Round robin over the devices. */
  #nextPool = 0;

  /** Allocates the pools; a device that has less than it was to give is used with what it has. */
  constructor(options: HbmTierOptions) {
    this.#options = options;
    this.maxChunkBytes = options.maxChunkBytes;
    for (const [index, { device, capacityBytes }] of options.devices.entries()) {
      const pool = new HbmPool({ device, capacityBytes, maxChunkBytes: options.maxChunkBytes, pieceBytes: options.pieceBytes });
      this.#pools.push(pool);
      this.#copies.push(new CopyCounters());
      this.#lost.push(device.lost !== undefined);
      if (pool.reason !== '') options.logger.warn(`HBM of ${device.facts.name}: ${pool.reason}`, { uuid: device.facts.uuid });
      device.onLost = (failure) => this.#deviceLost(index, failure);
    }
  }

  #deviceLost(index: number, failure: DeviceFailure): void {
    if (this.#closed || this.#lost[index] === true) return;
    this.#lost[index] = true;
    const { facts } = this.#pool(index).device;
    this.#options.logger.error(`HBM of ${facts.name} is off: ${failure.message}`, { uuid: facts.uuid, code: failure.code });
    this.#options.onLost(index);
  }

  #pool(index: number): HbmPool {
    const pool = this.#pools[index];
    if (pool === undefined) assert(false, `there is no device ${index}`);
    return pool;
  }

  get deviceCount(): number {
    return this.#pools.length;
  }

  /** Of the devices that are of use. */
  get capacityBytes(): number {
    return this.#pools.reduce((sum, pool, index) => sum + (this.#lost[index] === true ? 0 : pool.capacityBytes), 0);
  }

  get isOn(): boolean {
    return !this.#closed && this.#pools.some((pool, index) => this.#lost[index] !== true && pool.pieces.length > 0);
  }

  canEverFit(sizeBytes: number): boolean {
    return this.#pools.some((pool, index) => this.#lost[index] !== true && pool.canEverFit(sizeBytes));
  }

  /** A slot with a count of one, or -1 where no free one fits. `group`: whose piece it must be. */
  allocate(sizeBytes: number, group: string): SlotIndex | -1 {
    if (this.#closed) return -1;
    const count = this.#pools.length;
    for (let tried = 0; tried < count; tried += 1) {
      const index = (this.#nextPool + tried) % count;
      if (this.#lost[index] === true) continue;
      const found = this.#pool(index).allocate(sizeBytes, group);
      if (found === undefined) continue;
      this.#nextPool = (index + 1) % count;
      return this.#own(index, found.piece, found.slot);
    }
    return -1;
  }

  #own(pool: number, piece: Piece, slabSlot: SlotIndex): SlotIndex {
    const slot = this.#freeNumbers.pop() ?? this.#pieces.length;
    if (slot >= this.#counts.length) {
      const slabSlots = new Int32Array(this.#counts.length * 2);
      const counts = new Uint32Array(this.#counts.length * 2);
      slabSlots.set(this.#slabSlots);
      counts.set(this.#counts);
      this.#slabSlots = slabSlots;
      this.#counts = counts;
    }
    this.#slotPools[slot] = pool;
    this.#pieces[slot] = piece;
    this.#slabSlots[slot] = slabSlot;
    this.#counts[slot] = 1;
    return slot as SlotIndex;
  }

  #pieceOf(slot: SlotIndex): Piece {
    const piece = this.#pieces[slot];
    if (piece === undefined) assert(false, `HBM slot ${slot} is in use`);
    return piece;
  }

  retain(slot: SlotIndex): void {
    this.#pieceOf(slot);
    this.#counts[slot] = (this.#counts[slot] as number) + 1;
  }

  /** True where this was the last count and the slot is free again. */
  release(slot: SlotIndex): boolean {
    const piece = this.#pieceOf(slot);
    const count = this.#counts[slot] as number;
    this.#counts[slot] = count - 1;
    if (count > 1) return false;
    this.#pool(this.deviceOf(slot)).free(piece, this.#slabSlots[slot] as SlotIndex);
    this.#pieces[slot] = undefined;
    this.#freeNumbers.push(slot);
    return true;
  }

  useCount(slot: SlotIndex): number {
    return this.#counts[slot] ?? 0;
  }

  deviceOf(slot: SlotIndex): number {
    return this.#slotPools[slot] as number;
  }

  /** Names the piece that a slot lies in, over all devices; for those who empty one piece for another group. */
  pieceOf(slot: SlotIndex): number {
    return this.deviceOf(slot) * 65_536 + this.#pieceOf(slot).index;
  }

  groupOf(slot: SlotIndex): string | undefined {
    return this.#pieceOf(slot).group;
  }

  pointer(slot: SlotIndex): DevicePtr {
    return this.#pieceOf(slot).slab.slotAddress(this.#slabSlots[slot] as SlotIndex) as number as DevicePtr;
  }

  /** Size class that a payload of this size takes in the piece of a slot; equal classes can take each other's slots. */
  isOfClass(slot: SlotIndex, sizeBytes: number): boolean {
    const { slab } = this.#pieceOf(slot);
    return slab.slotCapacityBytes(this.#slabSlots[slot] as SlotIndex) === slab.slotClassBytes(sizeBytes);
  }

  /** Host memory into a slot. The slot is held until the device is done with it; the host's memory must be, see `late`. */
  copyIn(slot: SlotIndex, from: Address, sizeBytes: number): Promise<CopyOutcome> {
    return this.#copy(slot, { direction: 'to-device', from, to: this.pointer(slot), sizeBytes });
  }

  /** A slot into host memory. */
  copyOut(slot: SlotIndex, to: Address, sizeBytes: number): Promise<CopyOutcome> {
    return this.#copy(slot, { direction: 'to-host', from: this.pointer(slot), to, sizeBytes });
  }

  async #copy(slot: SlotIndex, copy: DeviceCopy): Promise<CopyOutcome> {
    if (copy.sizeBytes === 0) return { ok: true };
    const index = this.deviceOf(slot);
    const counters = this.#copies[index] as CopyCounters;
    this.retain(slot);
    counters.inFlight += 1;
    const outcome = await this.#pool(index).device.copy([copy]);
    counters.inFlight -= 1;
    counters.note(copy, outcome);
    if (!outcome.ok && outcome.late !== undefined) void outcome.late.then(() => this.release(slot));
    else this.release(slot);
    return outcome.ok ? { ok: true } : outcome;
  }

  get copiesInFlight(): number {
    return this.#copies.reduce((sum, { inFlight }) => sum + inFlight, 0);
  }

  /** What another process of the same user needs to read the slot; the caller retains the slot as long as that may happen. */
  exportSlot(slot: SlotIndex): SlotExport | DeviceFailure {
    const pool = this.#pool(this.deviceOf(slot));
    const piece = this.#pieceOf(slot);
    const handle = pool.handleOf(piece);
    if (!(handle instanceof Uint8Array)) return handle;
    return { deviceUuid: pool.device.facts.uuid, handle, offsetBytes: this.pointer(slot) - piece.pointer };
  }

  isLost(deviceIndex: number): boolean {
    return this.#lost[deviceIndex] === true;
  }

  /** Why the tier is not all that it was to be, a sentence each. */
  get reasons(): readonly string[] {
    return this.devices().flatMap(({ reason }) => (reason === '' ? [] : [reason]));
  }

  devices(): HbmDeviceUse[] {
    return this.#pools.map((pool, index) => {
      const { ordinal, name, uuid, pciBusId } = pool.device.facts;
      const isLost = this.#lost[index] === true;
      const why = isLost ? `lost: ${pool.device.lost?.message ?? 'the device does not answer'}` : pool.reason;
      return {
        ordinal,
        name,
        uuid,
        pciBusId,
        state: isLost || pool.pieces.length === 0 ? 'off' : pool.reason === '' ? 'ok' : 'degraded',
        reason: why === '' ? '' : `${name} (${uuid}): ${why}`,
        use: pool.use(),
        copies: this.#copies[index] as CopyCounters,
      };
    });
  }

  /** For leak tests. */
  usedSlots(): number {
    return this.#pieces.reduce((sum, piece) => sum + (piece === undefined ? 0 : 1), 0);
  }

  checkInvariants(): void {
    for (const pool of this.#pools) pool.checkInvariants();
    let used = 0;
    const places = new Set<string>();
    for (let slot = 0; slot < this.#pieces.length; slot += 1) {
      const piece = this.#pieces[slot];
      const count = this.#counts[slot] as number;
      assert((piece !== undefined) === count > 0, `HBM slot ${slot} is counted exactly while it is in use`);
      if (piece === undefined) continue;
      used += 1;
      places.add(`${this.#slotPools[slot]}/${piece.index}/${this.#slabSlots[slot]}`);
    }
    assert(places.size === used, 'no two HBM slots are the same memory');
    const inPieces = this.#pools.reduce((sum, pool) => sum + pool.pieces.reduce((own, piece) => own + piece.usedSlots, 0), 0);
    assert(inPieces === used, `${used} HBM slots in use, ${inPieces} in the pieces`);
    assert(this.#freeNumbers.length + used === this.#pieces.length, 'a number of an HBM slot is in use or free');
  }

  /** Gives the memory of all devices back. No copy begins after it; those under way are waited for by the device. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const pool of this.#pools) await pool.device.close();
  }
}
