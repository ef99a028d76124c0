/**
 * Loads from SSD into RAM: one read per chunk however many wait for it, verified before anybody sees a byte; read-ahead below
 * demand within a byte bound.
 *
 * Invariants: a chunk has at most one load; a chunk that is loading is not evicted from SSD; a load that ends after its chunk was
 * removed or replaced gives its slot back; read-ahead bytes are the sum over read-ahead loads under way.
 */
import type { EntryIndex, SlotIndex } from '#core/brand.ts';
import { namespaceIdentity } from '#core/namespace.ts';
import type { IoPriority } from '#ports/io-pool.ts';
import type { ChunkFileHeader } from '#tiers/ssd/chunk-file.ts';
import type { CacheState } from './cache-state.ts';
import type { RamSpace } from './ram-space.ts';

/** 'loaded': in RAM now. 'gone': removed meanwhile, missing, or wrong bytes. 'refused': no room, or the device failed. */
export type LoadOutcome = 'loaded' | 'gone' | 'refused';

interface Load {
  readonly generation: number;
  readonly priority: IoPriority;
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
    if (known !== undefined && known.generation === generation) return this.#join(known, entry, priority);
    const promise = this.#run(entry, generation, priority);
    const load = { generation, priority, promise };
    this.#loads.set(entry, load);
    const forget = (): void => {
      if (this.#loads.get(entry) === load) this.#loads.delete(entry);
    };
    void promise.finally(forget);
    return promise;
  }

  /** A read-ahead gives up where RAM is full; whoever waits for the chunk in earnest then waits for room too. */
  async #join(load: Load, entry: EntryIndex, priority: IoPriority): Promise<LoadOutcome> {
    const outcome = await load.promise;
    if (outcome !== 'refused' || priority !== 'demand' || load.priority === 'demand') return outcome;
    return this.#state.isSame({ entry, generation: load.generation }) ? await this.load(entry, priority) : 'gone';
  }

  /** Starts a load that nobody waits for yet, if the bound allows. */
  readAhead(entry: EntryIndex): void {
    const sizeBytes = this.#state.index.sizeBytes(entry);
    if (this.#loads.has(entry) || this.#readAheadBytes + sizeBytes > this.#state.limits.readAheadBytes) return;
    this.#readAheadBytes += sizeBytes;
    void this.load(entry, 'prefetch').finally(() => void (this.#readAheadBytes -= sizeBytes));
  }

  async #run(entry: EntryIndex, generation: number, priority: IoPriority): Promise<LoadOutcome> {
    const state = this.#state;
    const { index, ram, ssd } = state;
    const ref = { entry, generation };
    const sizeBytes = index.sizeBytes(entry);
    const checksum = index.checksum(entry);
    // Nothing in RAM gives way for a device that does not answer.
    if (state.ssd.isStalled(index.ssdFolder(entry))) return 'refused';
    const slot = await this.#room(sizeBytes, priority);
    if (slot === -1) return 'refused';
    const folder = state.isSame(ref) ? index.ssdFolder(entry) : -1;
    if (folder < 0 || index.ramSlot(entry) >= 0) {
      this.#giveBack(slot);
      return this.#whereItIs(ref);
    }
    const outcome = await ssd.read({
      folder,
      generation,
      address: ram.address(slot),
      sizeBytes,
      capacityBytes: ram.slotCapacityBytes(slot),
      checksum,
      priority,
    });
    if (!outcome.ok && outcome.late !== undefined) {
      // The device may still write into the slot, if it ever answers: nobody else gets it before.
      void outcome.late.finally(() => this.#giveBack(slot));
      return this.#whereItIs(ref) === 'loaded' ? 'loaded' : 'refused';
    }
    if (!state.isSame(ref) || index.ssdFolder(entry) !== folder) {
      this.#giveBack(slot);
      return this.#whereItIs(ref);
    }
    if (!outcome.ok) {
      this.#giveBack(slot);
      return this.#failed(entry, outcome);
    }
    if (!this.#isFileOf(entry, outcome.header)) {
      // The catalog's row was wrong, not the file, whose own chunk is not known: neither may be believed.
      this.#giveBack(slot);
      return this.#failed(entry, { reason: 'corrupt', problem: 'header names another key', fileStays: true });
    }
    if (index.ramSlot(entry) >= 0) {
      this.#giveBack(slot);
      return 'loaded';
    }
    if (state.expiry.isOver(entry)) {
      this.#giveBack(slot);
      state.expiry.remove(entry);
      return 'gone';
    }
    const { redisMetadata, lm } = outcome.header;
    if (redisMetadata !== undefined && !state.metadata.has(entry)) state.setMetadata(entry, redisMetadata);
    // An lm block is never newer than its file: where a catalog row says otherwise, the file is right.
    if (lm === undefined) state.lmBlocks.delete(entry);
    else state.setLmBlock(entry, lm);
    state.attachRam(entry, slot, false);
    state.touch(entry);
    state.counters.promotions += 1;
    state.catalogReplicas(entry);
    return 'loaded';
  }

  #whereItIs(ref: { entry: EntryIndex; generation: number }): LoadOutcome {
    return this.#state.isSame(ref) && this.#state.index.ramSlot(ref.entry) >= 0 ? 'loaded' : 'gone';
  }

  #isFileOf(entry: EntryIndex, header: ChunkFileHeader): boolean {
    const { index, namespaces } = this.#state;
    return (
      index.keyEquals(entry, header.key) &&
      namespaceIdentity(header.namespace) === namespaceIdentity(namespaces.descriptor(index.namespaceOf(entry)))
    );
  }

  /** A file that cannot be read now will not be read by the next attempt: its chunk is forgotten, so that nobody asks again. */
  #failed(entry: EntryIndex, failure: { readonly reason: string; readonly problem: string; readonly fileStays: boolean }): LoadOutcome {
    const state = this.#state;
    if (failure.reason === 'failed') return 'refused';
    if (failure.reason === 'missing') {
      state.ssd.readErrors += 1;
      state.logger.warn(`The file of ${state.wholeKey(entry)} is gone: ${failure.problem}`, {});
    }
    state.dropReplica(entry, { keepFile: !failure.fileStays });
    return state.index.ramSlot(entry) >= 0 ? 'loaded' : 'gone';
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
