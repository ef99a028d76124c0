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
import type { TenantRow } from './tenant-table.ts';

/** 'loaded': in RAM now. 'gone': removed meanwhile, missing, or wrong bytes. 'refused': no room, or the device failed. */
export type LoadOutcome = 'loaded' | 'gone' | 'refused';

/** What is to be loaded, as it was when the load began. */
interface Want {
  readonly ref: { readonly entry: EntryIndex; readonly generation: number };
  readonly sizeBytes: number;
  readonly checksum: bigint;
  readonly priority: IoPriority;
}

/** A slot, and who it counts for. */
interface Room {
  readonly slot: SlotIndex;
  readonly tenant: TenantRow;
  readonly sizeBytes: number;
}

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
    const { index, namespaces, ssd } = this.#state;
    // Nothing in RAM gives way for a device that does not answer.
    if (ssd.isStalled(index.ssdFolder(entry))) return 'refused';
    // The namespace may go while the read is under way; its tenant counts the slot until then.
    const tenant = namespaces.tenants.retain(namespaces.tenantOf(index.namespaceOf(entry)).name);
    const want = { ref: { entry, generation }, sizeBytes: index.sizeBytes(entry), checksum: index.checksum(entry), priority };
    try {
      const slot = await this.#room(tenant, want.sizeBytes, priority);
      if (slot === -1) return 'refused';
      return await this.#read(want, { slot, tenant, sizeBytes: want.sizeBytes });
    } finally {
      namespaces.tenants.release(tenant);
    }
  }

  async #read(want: Want, room: Room): Promise<LoadOutcome> {
    const state = this.#state;
    const { index, ram, ssd } = state;
    const { ref, sizeBytes, checksum, priority } = want;
    const { entry } = ref;
    const { slot } = room;
    const folder = state.isSame(ref) ? index.ssdFolder(entry) : -1;
    if (folder < 0 || index.ramSlot(entry) >= 0) {
      this.#giveBack(room);
      return this.#whereItIs(ref);
    }
    const outcome = await ssd.read({
      folder,
      generation: ref.generation,
      address: ram.address(slot),
      sizeBytes,
      capacityBytes: ram.slotCapacityBytes(slot),
      checksum,
      priority,
    });
    if (!outcome.ok && outcome.late !== undefined) {
      // The device may still write into the slot, if it ever answers: nobody else gets it before.
      state.namespaces.tenants.retain(room.tenant.name);
      void outcome.late.finally(() => {
        this.#giveBack(room);
        state.namespaces.tenants.release(room.tenant);
      });
      return this.#whereItIs(ref) === 'loaded' ? 'loaded' : 'refused';
    }
    if (!state.isSame(ref) || index.ssdFolder(entry) !== folder) {
      this.#giveBack(room);
      return this.#whereItIs(ref);
    }
    if (!outcome.ok) {
      this.#giveBack(room);
      return this.#failed(entry, outcome);
    }
    if (!this.#isFileOf(entry, outcome.header)) {
      // The catalog's row was wrong, not the file, whose own chunk is not known: neither may be believed.
      this.#giveBack(room);
      return this.#failed(entry, { reason: 'corrupt', problem: 'header names another key', fileStays: true });
    }
    if (index.ramSlot(entry) >= 0) {
      this.#giveBack(room);
      return 'loaded';
    }
    if (state.expiry.isOver(entry)) {
      this.#giveBack(room);
      state.expiry.remove(entry);
      return 'gone';
    }
    const { redisMetadata, lm } = outcome.header;
    if (redisMetadata !== undefined && !state.metadata.has(entry)) state.setMetadata(entry, redisMetadata);
    // An lm block is never newer than its file: where a catalog row says otherwise, the file is right.
    if (lm === undefined) state.lmBlocks.delete(entry);
    else state.setLmBlock(entry, lm);
    room.tenant.reservedRamBytes -= sizeBytes;
    state.attachRam(entry, slot, false);
    state.remember(entry);
    state.touch(entry, 'stored');
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
      state.logger.warn(`The file of a chunk is gone: ${failure.problem}`, { key: state.wholeKey(entry) });
    }
    state.dropReplica(entry, { keepFile: !failure.fileStays });
    return state.index.ramSlot(entry) >= 0 ? 'loaded' : 'gone';
  }

  /** A slot, counted for the tenant from now on; -1: none in RAM, or none within the tenant's quota. */
  async #room(tenant: TenantRow, sizeBytes: number, priority: IoPriority): Promise<SlotIndex | -1> {
    const { limits, quotas } = this.#state;
    const isDemand = priority === 'demand';
    const waitMs = limits.putWaitMs;
    if (!quotas.makeRamRoom(tenant, sizeBytes) && !(isDemand && (await quotas.waitForRam(tenant, sizeBytes, { waitMs })))) return -1;
    // A demand read does not queue behind puts: somebody's prompt waits for it.
    let slot = this.#space.allocate(sizeBytes, { overtake: isDemand });
    if (slot < 0 && isDemand) slot = await this.#space.allocateOrWait(sizeBytes, waitMs);
    if (slot === -1) return -1;
    if (!quotas.makeRamRoom(tenant, sizeBytes, { dropDirty: isDemand })) {
      if (this.#state.ram.release(slot)) this.#state.onRoom();
      return -1;
    }
    tenant.reservedRamBytes += sizeBytes;
    return slot;
  }

  #giveBack({ slot, tenant, sizeBytes }: Room): void {
    tenant.reservedRamBytes -= sizeBytes;
    if (this.#state.ram.release(slot)) this.#state.onRoom();
  }
}
