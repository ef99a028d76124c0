/**
 * Copies from HBM into RAM: one for a chunk however many wait for it, its checksum compared before anybody sees a byte.
 *
 * Invariants: a copy that ends after its chunk was removed or replaced gives its slot back; a slot that a device may still write into
 * belongs to nobody else.
 */
import type { EntryIndex } from '#core/brand.ts';
import { KiB } from '#core/bytes.ts';
import { checksum } from '#core/checksum.ts';
import type { IoPriority } from '#ports/io-pool.ts';
import type { CacheState } from './cache-state.ts';
import type { HbmReplicas, MovesCount } from './hbm-replicas.ts';
import { LoadRooms } from './load-room.ts';
import type { Room } from './load-room.ts';
import { LoadTable } from './load-table.ts';
import type { LoadOutcome } from './load-table.ts';
import type { RamSpace } from './ram-space.ts';

/** Some 10 us of hashing: less than handing it over. */
const HERE_BYTES = 64 * KiB;

export class HbmReader {
  readonly #state: CacheState;
  readonly #hbm: HbmReplicas;
  readonly #rooms: LoadRooms;
  readonly #loads: LoadTable;

  constructor(state: CacheState, hbm: HbmReplicas, space: RamSpace) {
    this.#state = state;
    this.#hbm = hbm;
    this.#rooms = new LoadRooms(state, space);
    this.#loads = new LoadTable(state.index, (entry, generation, priority) => this.#run({ entry, generation }, priority));
  }

  isLoading(entry: EntryIndex): boolean {
    return this.#loads.has(entry);
  }

  get loadingCount(): number {
    return this.#loads.size;
  }

  /** Brings a chunk that is in HBM into RAM too. 'gone' also where its bytes in HBM were wrong: another tier may have it still. */
  load(entry: EntryIndex, priority: IoPriority): Promise<LoadOutcome> {
    return this.#loads.load(entry, priority);
  }

  async #run(ref: { readonly entry: EntryIndex; readonly generation: number }, priority: IoPriority): Promise<LoadOutcome> {
    const { index, namespaces } = this.#state;
    const tenant = namespaces.tenants.retain(namespaces.tenantOf(index.namespaceOf(ref.entry)).name);
    const sizeBytes = index.sizeBytes(ref.entry);
    try {
      const slot = await this.#rooms.take(tenant, sizeBytes, priority);
      return slot === -1 ? 'refused' : await this.#read(ref, { slot, tenant, sizeBytes });
    } finally {
      namespaces.tenants.release(tenant);
    }
  }

  #whereItIs(ref: { readonly entry: EntryIndex; readonly generation: number }): LoadOutcome {
    return this.#state.isSame(ref) && this.#state.index.ramSlot(ref.entry) >= 0 ? 'loaded' : 'gone';
  }

  async #read(ref: { readonly entry: EntryIndex; readonly generation: number }, room: Room): Promise<LoadOutcome> {
    const state = this.#state;
    const { index, ram } = state;
    const { entry } = ref;
    const from = state.isSame(ref) ? this.#hbm.slotOf(entry) : -1;
    if (from === -1 || index.ramSlot(entry) >= 0) {
      this.#rooms.giveBack(room);
      return this.#whereItIs(ref);
    }
    const moves = this.#hbm.movesOf(from);
    const copied = await this.#hbm.tier.copyOut(from, ram.address(room.slot), room.sizeBytes);
    if (!copied.ok) {
      if (copied.late === undefined) this.#rooms.giveBack(room);
      else this.#rooms.giveBackAfter(room, copied.late);
      return this.#whereItIs(ref) === 'loaded' ? 'loaded' : state.isSame(ref) ? 'refused' : 'gone';
    }
    const sum = await this.#checksum(room);
    if (!state.isSame(ref) || index.ramSlot(entry) >= 0) {
      this.#rooms.giveBack(room);
      return this.#whereItIs(ref);
    }
    if (sum !== index.checksum(entry)) {
      this.#rooms.giveBack(room);
      if (sum === undefined) return 'refused';
      if (this.#hbm.slotOf(entry) === from) this.#dropWrong(entry, moves);
      return 'gone';
    }
    if (state.expiry.isOver(entry)) {
      this.#rooms.giveBack(room);
      state.expiry.remove(entry);
      return 'gone';
    }
    room.tenant.reservedRamBytes -= room.sizeBytes;
    state.attachRam(entry, room.slot, index.ssdFolder(entry) < 0);
    state.remember(entry);
    state.touch(entry, 'stored');
    state.catalogReplicas(entry);
    moves.loads += 1;
    return 'loaded';
  }

  async #checksum({ slot, sizeBytes }: Room): Promise<bigint | undefined> {
    const { ram, hash } = this.#state;
    return sizeBytes <= HERE_BYTES ? checksum(ram.view(slot, sizeBytes), hash) : await ram.checksum(slot, sizeBytes);
  }

  /** What HBM has is not what was put: nobody reads it again. The chunk lives on where another tier has it. */
  #dropWrong(entry: EntryIndex, moves: MovesCount): void {
    const state = this.#state;
    moves.checksumMismatches += 1;
    state.logger.warn('A chunk in HBM has wrong bytes: dropped there', { generation: state.index.generation(entry) });
    state.dropHbm(entry);
  }
}
