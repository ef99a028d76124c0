/**
 * Loads from SSD into RAM: one read per chunk however many wait for it, verified before anybody sees a byte; read-ahead below
 * demand within a byte bound.
 *
 * Invariants: a chunk has at most one load; a chunk that is loading is not evicted from SSD; a load that ends after its chunk was
 * removed or replaced gives its slot back; read-ahead bytes are the sum over read-ahead loads under way.
 */
import type { Address, EntryIndex } from '#core/brand.ts';
import { namespaceIdentity } from '#core/namespace.ts';
import type { IoPriority } from '#ports/io-pool.ts';
import type { RegionSpan } from '#ports/local-door.ts';
import type { ChunkFileHeader } from '#tiers/ssd/chunk-file.ts';
import type { CacheState } from './cache-state.ts';
import { LoadRooms } from './load-room.ts';
import type { Room } from './load-room.ts';
import { LoadTable } from './load-table.ts';
import type { LoadOutcome } from './load-table.ts';
import type { RamSpace } from './ram-space.ts';

/** What is to be loaded, as it was when the load began. */
interface Want {
  readonly ref: { readonly entry: EntryIndex; readonly generation: number };
  readonly sizeBytes: number;
  readonly checksum: bigint;
  readonly priority: IoPriority;
}

export class SsdReader {
  readonly #state: CacheState;
  readonly #rooms: LoadRooms;
  readonly #loads: LoadTable;
  /** Reads into clients' memory under way, by chunk. */
  readonly #direct = new Map<EntryIndex, number>();
  #readAheadBytes = 0;

  constructor(state: CacheState, space: RamSpace) {
    this.#state = state;
    this.#rooms = new LoadRooms(state, space);
    this.#loads = new LoadTable(state.index, (entry, generation, priority) => this.#run(entry, generation, priority));
  }

  isLoading(entry: EntryIndex): boolean {
    return this.#loads.has(entry) || this.#direct.has(entry);
  }

  get loadingCount(): number {
    return this.#loads.size;
  }

  /** Brings a chunk that is on SSD into RAM, or joins the load that does so already. */
  load(entry: EntryIndex, priority: IoPriority): Promise<LoadOutcome> {
    return this.#loads.load(entry, priority);
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
      const slot = await this.#rooms.take(tenant, want.sizeBytes, priority);
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
      this.#rooms.giveBack(room);
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
      this.#rooms.giveBackAfter(room, outcome.late);
      return this.#whereItIs(ref) === 'loaded' ? 'loaded' : 'refused';
    }
    if (!state.isSame(ref) || index.ssdFolder(entry) !== folder) {
      this.#rooms.giveBack(room);
      return this.#whereItIs(ref);
    }
    if (!outcome.ok) {
      this.#rooms.giveBack(room);
      return this.#failed(entry, outcome);
    }
    if (!this.#isFileOf(entry, outcome.header)) {
      this.#rooms.giveBack(room);
      return this.#isAnothers(entry);
    }
    if (index.ramSlot(entry) >= 0) {
      this.#rooms.giveBack(room);
      return 'loaded';
    }
    if (state.expiry.isOver(entry)) {
      this.#rooms.giveBack(room);
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

  /**
   * Reads a chunk straight into a client's memory; RAM stays as it is. Resolves when nothing writes there any more. A chunk that is on its
   * way into RAM already is waited for: 'loaded' by `into: false`.
   */
  async loadInto(entry: EntryIndex, span: RegionSpan): Promise<{ readonly into: boolean; readonly outcome: LoadOutcome | 'fault' }> {
    if (this.#loads.has(entry)) return { into: false, outcome: await this.load(entry, 'demand') };
    this.#direct.set(entry, (this.#direct.get(entry) ?? 0) + 1);
    try {
      return { into: true, outcome: await this.#readInto(entry, span) };
    } finally {
      const left = (this.#direct.get(entry) ?? 1) - 1;
      if (left === 0) this.#direct.delete(entry);
      else this.#direct.set(entry, left);
    }
  }

  async #readInto(entry: EntryIndex, { region, offset, sizeBytes }: RegionSpan): Promise<LoadOutcome | 'fault'> {
    const state = this.#state;
    const { index, ssd } = state;
    const folder = index.ssdFolder(entry);
    const ref = { entry, generation: index.generation(entry) };
    if (ssd.isStalled(folder)) return 'refused';
    const outcome = await ssd.read({
      folder,
      generation: ref.generation,
      address: (region.address + offset) as Address,
      sizeBytes,
      capacityBytes: sizeBytes,
      checksum: index.checksum(entry),
      priority: 'demand',
      region: { fd: region.fd, offset },
    });
    // A device that does not answer may still write: nobody is told that it is over before it is.
    if (!outcome.ok && outcome.late !== undefined) await outcome.late;
    if (!state.isSame(ref) || state.expiry.isOver(entry)) return 'gone';
    if (!outcome.ok) {
      if (outcome.reason === 'fault') return 'fault';
      if (outcome.late === undefined && index.ssdFolder(entry) === folder) this.#failed(entry, outcome);
      return 'refused';
    }
    if (this.#isFileOf(entry, outcome.header)) return 'loaded';
    if (index.ssdFolder(entry) === folder) this.#isAnothers(entry);
    return 'gone';
  }

  /** The catalog's row was wrong, not the file, whose own chunk is not known: neither may be believed. */
  #isAnothers(entry: EntryIndex): LoadOutcome {
    const { ssd, logger } = this.#state;
    ssd.checksumMismatches += 1;
    logger.warn('The file of a chunk is that of another key', { key: this.#state.wholeKey(entry) });
    return this.#failed(entry, { reason: 'corrupt', problem: 'header names another key', fileStays: true });
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
}
