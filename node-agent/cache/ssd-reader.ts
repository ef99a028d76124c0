/**
 * Loads from SSD into RAM: one read per chunk however many wait for it, verified before anybody sees a byte; read-ahead below
 * demand within a byte bound.
 *
 * Invariants: a chunk has at most one load; a chunk that is loading is not evicted from SSD; a load that ends after its chunk was
 * removed or replaced gives its slot back; read-ahead bytes are the sum over read-ahead loads under way.
 */
import type { EntryIndex, SlotIndex } from '#core/brand.ts';
import type { IoPriority } from '#ports/io-pool.ts';
import type { CacheState } from './cache-state.ts';
import type { RamSpace } from './ram-space.ts';

/** 'loaded': in RAM now. 'gone': removed meanwhile, missing, or wrong bytes. 'refused': no room, or the device failed. */
export type LoadOutcome = 'loaded' | 'gone' | 'refused';

interface Load {
  readonly generation: number;
  readonly promise: Promise<LoadOutcome>;
}

export class SsdReader {
  readonly #state: CacheState;
  readonly #space: RamSpace;
  readonly #loads = new Map<number, Load>();
  #readAheadBytes = 0;

  constructor(state: CacheState, space: RamSpace) {
    this.#state = state;
    this.#space = space;
  }

  isLoading(entry: EntryIndex): boolean {
    return this.#loads.has(entry);
  }

  get loadingCount(): number {
    return this.#loads.size;
  }

  /** Brings a chunk that is on SSD into RAM, or joins the load that does so already. */
  load(entry: EntryIndex, priority: IoPriority): Promise<LoadOutcome> {
    const { index } = this.#state;
    const generation = index.generation(entry);
    const known = this.#loads.get(entry);
    if (known !== undefined && known.generation === generation) return known.promise;
    const promise = this.#run(entry, generation, priority);
    const load = { generation, promise };
    this.#loads.set(entry, load);
    const forget = (): void => {
      if (this.#loads.get(entry) === load) this.#loads.delete(entry);
    };
    void promise.then(forget, forget);
    return promise;
  }

  /** Starts a load that nobody waits for yet, if the bound allows. */
  readAhead(entry: EntryIndex): void {
    const sizeBytes = this.#state.index.sizeBytes(entry);
    if (this.#loads.has(entry) || this.#readAheadBytes + sizeBytes > this.#state.limits.readAheadBytes) return;
    this.#readAheadBytes += sizeBytes;
    const done = (): void => void (this.#readAheadBytes -= sizeBytes);
    void this.load(entry, 'prefetch').then(done, done);
  }

  async #run(entry: EntryIndex, generation: number, priority: IoPriority): Promise<LoadOutcome> {
    const state = this.#state;
    const { index, ram, ssd } = state;
    const ref = { entry, generation };
    const sizeBytes = index.sizeBytes(entry);
    const checksum = index.checksum(entry);
    const slot = await this.#room(sizeBytes, priority);
    if (slot === -1) return 'refused';
    const folder = index.isLive(entry) && state.isSame(ref) ? index.ssdFolder(entry) : -1;
    if (folder < 0 || index.ramSlot(entry) >= 0) {
      this.#giveBack(slot);
      return state.isSame(ref) && index.ramSlot(entry) >= 0 ? 'loaded' : 'gone';
    }
    const outcome = await ssd.read({
      folder, generation, address: ram.address(slot), sizeBytes, capacityBytes: ram.slotCapacityBytes(slot), checksum, priority,
    });
    if (!state.isSame(ref) || index.ssdFolder(entry) < 0) {
      this.#giveBack(slot);
      return 'gone';
    }
    if (!outcome.ok) {
      this.#giveBack(slot);
      if (outcome.reason === 'failed') return 'refused';
      // Missing or wrong: the chunk is forgotten, so that nobody asks for it again.
      state.detachSsd(entry, { keepFile: true });
      state.removeIfBare(entry);
      return 'gone';
    }
    if (index.ramSlot(entry) >= 0) {
      this.#giveBack(slot);
      return 'loaded';
    }
    const { redisMetadata } = outcome.header;
    if (redisMetadata !== undefined && !state.metadata.has(entry)) state.setMetadata(entry, redisMetadata);
    state.attachRam(entry, slot, false);
    state.touch(entry);
    state.counters.promotions += 1;
    state.catalogReplicas(entry);
    return 'loaded';
  }

  async #room(sizeBytes: number, priority: IoPriority): Promise<SlotIndex | -1> {
    const { limits } = this.#state;
    // A demand read does not queue behind puts: somebody's prompt waits for it.
    const slot = this.#space.allocate(sizeBytes, { overtake: priority === 'demand' });
    if (slot >= 0 || priority !== 'demand') return slot;
    return await this.#space.allocateOrWait(sizeBytes, limits.putWaitMs);
  }

  #giveBack(slot: SlotIndex): void {
    if (this.#state.ram.release(slot)) this.#state.onRoom();
  }
}
