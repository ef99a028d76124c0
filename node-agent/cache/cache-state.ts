/**
 * The state that the parts of the cache share, and the only code that attaches and detaches replicas, so that the index, the
 * eviction orders, the tiers' counts and the byte counters cannot drift apart.
 *
 * Invariants (state-invariants.ts): a chunk has at least one replica; it is in a tier's eviction order exactly if it has a replica there;
 * a RAM slot belongs to one chunk; dirty means in RAM and not on SSD; dirtyBytes and the namespaces' counters are sums over the
 * chunks; a chunk's lease count equals its leases alive; and those of pins and quotas. What shared memory says of a slot (`remember`) is
 * wiped before its chunk leaves it.
 */
import { assert } from '#core/assert.ts';
import type { EntryIndex, Generation, NamespaceId, SlotIndex } from '#core/brand.ts';
import type { BlockHash } from '#core/checksum.ts';
import type { Clock } from '#core/clock.ts';
import type { LmBlock } from '#core/lm-block.ts';
import type { Logger } from '#core/logger.ts';
import type { Selector } from '#core/selector.ts';
import type { EvictionPolicy } from '#policy/eviction-policy.ts';
import type { CatalogStore } from '#ports/catalog-store.ts';
import type { RamTier } from '#tiers/ram/ram-tier.ts';
import type { SsdTier } from '#tiers/ssd/ssd-tier.ts';
import { ChunkWatchers } from './chunk-watchers.ts';
import { CacheCounters } from './cache-counters.ts';
import { catalogRow, replicasOf } from './catalog-row.ts';
import { ChainTouches, MAX_CHAIN } from './chain-touches.ts';
import type { TouchReason } from './chain-touches.ts';
import type { ChunkIndex } from './chunk-index.ts';
import { Expiry } from './expiry.ts';
import {
  DECLINED,
  DIRTY,
  HAS_METADATA,
  HELD_IN_RAM,
  IN_HBM,
  LIMITED,
  PINNED,
  PROBED_BELOW,
  QUEUED,
  UNLINKING,
  UNVERIFIED,
  WRITING,
} from './flags.ts';
import { HbmReplicas } from './hbm-replicas.ts';
import type { HbmParts } from './hbm-replicas.ts';
import { ROW_LIMIT } from './key-arena.ts';
import { LeaseTable } from './lease-table.ts';
import type { NamespaceTable } from './namespace-table.ts';
import { Pins } from './pins.ts';
import { Quotas } from './quotas.ts';
import { rememberSlot } from './remember-slot.ts';
import { SecondUse } from './second-use.ts';
import { checkStateInvariants } from './state-invariants.ts';
import type { Tombstones } from './tombstones.ts';

export type SsdAdmission = 'idle' | 'demote' | 'through' | 'second-use' | 'off';

export interface CacheLimits {
  readonly ssdAdmission: SsdAdmission;
  readonly ssdIdleAfterMs: number;
  /** 0: no limit. */
  readonly ssdWriteBytesPerSecond: number;
  /** Bytes that may wait for a write under 'through'. */
  readonly ssdQueueBytes: number;
  readonly leaseMs: number;
  readonly putWaitMs: number;
  readonly readAheadBytes: number;
  /** Writes to SSD at one time. */
  readonly writesAtOnce: number;
  /** Chunks that the index may hold; by default what is plausible for the tiers, see `maxChunks`. */
  readonly maxChunks?: number;
  /** Rows that a scan looks at before the event loop gets a turn; 4096, about 2 ms, unless a test says otherwise. */
  readonly scanRows?: number;
}

export interface CacheParts {
  readonly index: ChunkIndex;
  readonly namespaces: NamespaceTable;
  readonly ram: RamTier;
  readonly ssd: SsdTier;
  readonly ramOrder: EvictionPolicy;
  readonly ssdOrder: EvictionPolicy;
  /** Undefined: there is no HBM tier. */
  readonly hbm?: HbmParts | undefined;
  readonly catalog: CatalogStore;
  readonly tombstones: Tombstones;
  readonly clock: Clock;
  readonly hash: BlockHash;
  readonly logger: Logger;
  readonly limits: CacheLimits;
}

export class CacheState {
  readonly index: ChunkIndex;
  readonly namespaces: NamespaceTable;
  readonly ram: RamTier;
  readonly ssd: SsdTier;
  readonly #ramOrder: EvictionPolicy;
  readonly #ssdOrder: EvictionPolicy;
  readonly #touches: ChainTouches;
  readonly catalog: CatalogStore;
  readonly tombstones: Tombstones;
  readonly clock: Clock;
  readonly hash: BlockHash;
  readonly logger: Logger;
  readonly limits: CacheLimits;
  readonly counters = new CacheCounters();
  readonly leases: LeaseTable;
  readonly expiry: Expiry;
  readonly pins: Pins;
  readonly quotas: Quotas;
  /** Under `second-use` admission alone. */
  readonly secondUse: SecondUse | undefined;
  /** Undefined: there is no HBM tier. */
  readonly hbm: HbmReplicas | undefined;
  /** The redis:// twins. */
  readonly metadata = new Map<number, Uint8Array>();
  readonly watchers = new ChunkWatchers(this);
  /** What clients of lm:// want back. */
  readonly lmBlocks = new Map<number, LmBlock>();
  /** Chunk that owns a RAM slot, or -1. */
  #slotOwner = new Int32Array(4096).fill(-1);
  dirtyBytes = 0;
  ramBytes = 0;
  ssdBytes = 0;
  draining = false;
  #generationEpoch = 0;
  #generationCounter = 0;
  /** Runs when RAM may have become free or evictable. */
  onRoom: () => void = () => {};
  /** Runs when a chunk became dirty. */
  onDirty: (entry: EntryIndex) => void = () => {};

  constructor(parts: CacheParts) {
    this.index = parts.index;
    this.namespaces = parts.namespaces;
    this.ram = parts.ram;
    this.ssd = parts.ssd;
    this.#ramOrder = parts.ramOrder;
    this.#ssdOrder = parts.ssdOrder;
    this.#touches = new ChainTouches({
      index: parts.index,
      ram: parts.ramOrder,
      ssd: parts.ssdOrder,
      hbm: parts.hbm?.order,
      onLimited: (entry, tier) => this.quotas.touched(entry, tier),
    });
    if (parts.hbm !== undefined) this.hbm = new HbmReplicas(parts.hbm, parts.index, () => this.#touches.settle());
    this.catalog = parts.catalog;
    this.tombstones = parts.tombstones;
    this.clock = parts.clock;
    this.hash = parts.hash;
    this.logger = parts.logger;
    this.limits = parts.limits;
    if (parts.limits.ssdAdmission === 'second-use') {
      this.secondUse = new SecondUse(parts.index, (entry) => void (this.isDirty(entry) && this.onDirty(entry)));
    }
    this.expiry = new Expiry(this);
    parts.tombstones.forEachLive = (visit) => this.index.forEach((entry) => visit(this.index.generation(entry)));
    this.leases = new LeaseTable({
      durationMs: parts.limits.leaseMs,
      limit: (tier) => this.#leasableBytes(tier) / 2,
      onEnd: (entry) => {
        this.index.setLeaseCount(entry as EntryIndex, this.index.leaseCount(entry as EntryIndex) - 1);
        this.onRoom();
      },
    });
    this.pins = new Pins(this);
    this.quotas = new Quotas(this);
  }

  #leasableBytes(tier: 'hbm' | 'ram' | 'ssd'): number {
    if (tier === 'hbm') return this.hbm?.tier.capacityBytes ?? 0;
    return tier === 'ram' ? this.ram.backedBytes : this.ssd.capacityBytes;
  }

  /** Every generation of this run is above it, those of former runs are below. */
  get epochStart(): number {
    return this.#generationEpoch;
  }

  /** Generations of this run: epoch * 2^32 + counter, 2^32 of them. */
  beginEpoch(epoch: number): void {
    this.#generationEpoch = epoch * 2 ** 32;
  }

  nextGeneration(): Generation {
    this.#generationCounter += 1;
    assert(this.#generationEpoch > 0 && this.#generationCounter < 2 ** 32, 'generations are left in this run');
    return (this.#generationEpoch + this.#generationCounter) as Generation;
  }

  isSame(ref: { entry: number; generation: number }): boolean {
    return this.index.isLive(ref.entry) && this.index.generation(ref.entry as EntryIndex) === ref.generation;
  }

  has(entry: EntryIndex, flag: number): boolean {
    return (this.index.flags(entry) & flag) !== 0;
  }

  set(entry: EntryIndex, flag: number): void {
    this.index.setFlags(entry, this.index.flags(entry) | flag);
  }

  clear(entry: EntryIndex, flag: number): void {
    this.index.setFlags(entry, this.index.flags(entry) & ~flag);
  }

  /** A row without replicas: the caller attaches one before anybody else runs. Takes a reference on the namespace. */
  insert(chunk: {
    namespace: NamespaceId;
    key: Uint8Array;
    generation: number;
    sizeBytes: number;
    checksum: bigint;
    createdAtMs: number;
    /** 0: never. */
    expiresAtMs: number;
  }): EntryIndex {
    const entry = this.index.insert(chunk.namespace, chunk.key);
    this.namespaces.retain(chunk.namespace);
    this.namespaces.addChunks(chunk.namespace, 1);
    this.index.setGeneration(entry, chunk.generation);
    this.index.setSizeBytes(entry, chunk.sizeBytes);
    this.index.setChecksum(entry, chunk.checksum);
    this.index.setCreatedAtMs(entry, chunk.createdAtMs);
    this.index.setLastUsedAtMs(entry, chunk.createdAtMs);
    if (chunk.expiresAtMs !== 0) this.index.setExpiresAtMs(entry, chunk.expiresAtMs);
    if (this.namespaces.tenantOf(chunk.namespace).quota !== undefined) this.set(entry, LIMITED);
    if (this.pins.isRecovering) this.pins.recover(entry, chunk.generation);
    return entry;
  }

  attachRam(entry: EntryIndex, slot: SlotIndex, dirty: boolean): void {
    assert(this.index.ramSlot(entry) < 0, `chunk ${entry} has no RAM replica yet`);
    if (slot >= this.#slotOwner.length) {
      const grown = new Int32Array(Math.max(slot + 1, this.#slotOwner.length * 2)).fill(-1);
      grown.set(this.#slotOwner);
      this.#slotOwner = grown;
    }
    const sizeBytes = this.index.sizeBytes(entry);
    this.#slotOwner[slot] = entry;
    this.index.setRamSlot(entry, slot);
    this.#ramOrder.insert(entry, sizeBytes);
    this.ramBytes += sizeBytes;
    this.namespaces.addRamBytes(this.index.namespaceOf(entry), sizeBytes);
    if (dirty) this.becomeDirty(entry);
    if (this.has(entry, LIMITED | PINNED | IN_HBM)) this.#attached(entry, 'ram');
  }

  #attached(entry: EntryIndex, tier: 'ram' | 'ssd'): void {
    if (this.has(entry, LIMITED)) this.quotas.attached(entry, tier);
    if (this.has(entry, PINNED)) this.pins.attached(entry, tier);
    if (this.has(entry, IN_HBM)) this.hbm?.settle(entry);
  }

  #detached(entry: EntryIndex, tier: 'ram' | 'ssd'): void {
    if (this.has(entry, LIMITED)) this.quotas.detached(entry, tier);
    if (this.has(entry, PINNED)) this.pins.detached(entry, tier);
    if (this.has(entry, IN_HBM)) this.hbm?.settle(entry);
  }

  /**
   * Tells shared memory what is in the chunk's slot, so that the next process finds it: once all of it is decided and before anybody
   * hears of it, and again when something of it changes.
   */
  remember(entry: EntryIndex): void {
    if (this.ram.keeps) rememberSlot(this, entry);
  }

  /** RAM alone has it. */
  becomeDirty(entry: EntryIndex): void {
    assert(!this.has(entry, DIRTY), `chunk ${entry} becomes dirty once`);
    this.set(entry, DIRTY);
    this.dirtyBytes += this.index.sizeBytes(entry);
    this.onDirty(entry);
  }

  #clearDirty(entry: EntryIndex): void {
    if (!this.has(entry, DIRTY)) return;
    this.clear(entry, DIRTY);
    this.dirtyBytes -= this.index.sizeBytes(entry);
  }

  detachRam(entry: EntryIndex): void {
    const slot = this.index.ramSlot(entry) as SlotIndex;
    if (slot < 0) return;
    const sizeBytes = this.index.sizeBytes(entry);
    this.ram.forget(slot);
    if (this.has(entry, UNVERIFIED)) this.clear(entry, UNVERIFIED);
    this.#clearDirty(entry);
    this.#slotOwner[slot] = -1;
    this.index.setRamSlot(entry, -1);
    this.#ramOrder.remove(entry);
    this.ramBytes -= sizeBytes;
    this.namespaces.addRamBytes(this.index.namespaceOf(entry), -sizeBytes);
    if (this.has(entry, LIMITED | PINNED | IN_HBM)) this.#detached(entry, 'ram');
    if (this.ram.release(slot)) this.onRoom();
  }

  attachSsd(entry: EntryIndex, folder: number): void {
    assert(this.index.ssdFolder(entry) < 0, `chunk ${entry} has no SSD replica yet`);
    const sizeBytes = this.index.sizeBytes(entry);
    this.#clearDirty(entry);
    this.index.setSsdFolder(entry, folder);
    this.#ssdOrder.insert(entry, sizeBytes);
    this.ssdBytes += sizeBytes;
    this.namespaces.addSsdBytes(this.index.namespaceOf(entry), sizeBytes);
    if (this.has(entry, LIMITED | PINNED | IN_HBM)) this.#attached(entry, 'ssd');
  }

  /**
   * Forgets the SSD replica and unlinks its file in the background (`keepFile`: it is gone already, or quarantined). The chunk
   * stays if RAM has it, dirty again; with `declined` the write-behind leaves it alone until somebody uses it.
   */
  detachSsd(entry: EntryIndex, options: { declined?: boolean; keepFile?: boolean; onUnlinked?: () => void } = {}): void {
    const folder = this.index.ssdFolder(entry);
    if (folder < 0) return;
    const sizeBytes = this.index.sizeBytes(entry);
    this.index.setSsdFolder(entry, -1);
    this.#ssdOrder.remove(entry);
    this.ssdBytes -= sizeBytes;
    this.namespaces.addSsdBytes(this.index.namespaceOf(entry), -sizeBytes);
    if (options.keepFile === true) this.ssd.forgetFile(folder, sizeBytes);
    else {
      const generation = this.index.generation(entry);
      const done = this.tombstones.trackUnlink(this.keyId(entry), generation);
      this.set(entry, UNLINKING);
      this.ssd.unlink(folder, generation, {
        sizeBytes,
        done: () => {
          done();
          if (this.isSame({ entry, generation })) {
            this.clear(entry, UNLINKING);
            if (this.isDirty(entry)) this.onDirty(entry);
          }
          options.onUnlinked?.();
        },
      });
    }
    if (options.declined === true) this.set(entry, DECLINED);
    if (this.index.ramSlot(entry) >= 0) this.becomeDirty(entry);
    if (this.has(entry, LIMITED | PINNED | IN_HBM)) this.#detached(entry, 'ssd');
  }

  isInHbm(entry: EntryIndex): boolean {
    return this.has(entry, IN_HBM);
  }

  /** The slot is the chunk's from now on. */
  attachHbm(entry: EntryIndex, slot: SlotIndex): void {
    this.hbm?.attach(entry, slot);
    this.namespaces.addHbmBytes(this.index.namespaceOf(entry), this.index.sizeBytes(entry));
  }

  detachHbm(entry: EntryIndex): void {
    if (!this.has(entry, IN_HBM)) return;
    this.namespaces.addHbmBytes(this.index.namespaceOf(entry), -this.index.sizeBytes(entry));
    this.hbm?.detach(entry);
  }

  /** What HBM has is lost or wrong: the chunk lives on where another tier has it. */
  dropHbm(entry: EntryIndex): void {
    this.detachHbm(entry);
    if (this.index.ramSlot(entry) < 0 && this.index.ssdFolder(entry) < 0) this.remove(entry);
    else this.catalogReplicas(entry);
  }

  /** A file was lost or is wrong: the chunk lives on in RAM or HBM, where it is, and is to be written again; else it is gone. */
  dropReplica(entry: EntryIndex, options: { keepFile: boolean }): void {
    if (this.index.ssdFolder(entry) < 0) return;
    if (this.index.ramSlot(entry) < 0 && !this.has(entry, IN_HBM)) {
      if (options.keepFile) this.detachSsd(entry, options);
      this.remove(entry);
      return;
    }
    this.detachSsd(entry, options);
    this.catalogReplicas(entry);
  }

  /** Takes a chunk out of everything. Leases and readers keep their memory; nobody finds it any more. */
  remove(entry: EntryIndex): void {
    this.#touches.settle();
    this.watchers.tell('removed', entry);
    const namespace = this.index.namespaceOf(entry);
    this.catalog.enqueue({ kind: 'remove', generation: this.index.generation(entry) });
    this.leases.releaseEntry(entry);
    const folder = this.index.ssdFolder(entry);
    this.detachHbm(entry);
    this.detachRam(entry);
    if (folder >= 0) this.detachSsd(entry);
    if (this.has(entry, HAS_METADATA)) {
      this.metadata.delete(entry);
      this.lmBlocks.delete(entry);
    }
    if (this.has(entry, PINNED)) this.pins.removed(entry);
    this.hbm?.forget(entry);
    this.index.remove(entry);
    this.namespaces.addChunks(namespace, -1);
    this.namespaces.release(namespace);
  }

  /** As `remove`, for want of room: what comes again soon is used again. */
  drop(entry: EntryIndex): void {
    this.secondUse?.dropped(entry);
    this.remove(entry);
  }

  /** False where store admission keeps the chunk from SSD until it is used again. */
  isAdmitted(entry: EntryIndex): boolean {
    return this.secondUse === undefined || this.secondUse.isAdmitted(entry);
  }

  /**
   * The index is memory outside of the arenas, about 200 bytes a chunk, and a client that stores tiny values would fill a tier with
   * many millions of them. A million always fit, and as many as chunks of 4 KiB fill RAM and chunks of 256 KiB fill SSD.
   */
  get maxChunks(): number {
    return this.limits.maxChunks ?? Math.min(ROW_LIMIT, 2 ** 20 + this.ram.capacityBytes / 4096 + this.ssd.capacityBytes / (256 * 1024));
  }

  /** Moves what was touched last: for those who look at a tenant's own orders. */
  settleTouches(): void {
    this.#touches.settle();
  }

  /** The orders as of now: for those who look for victims. */
  get ramOrder(): EvictionPolicy {
    this.#touches.settle();
    return this.#ramOrder;
  }

  get ssdOrder(): EvictionPolicy {
    this.#touches.settle();
    return this.#ssdOrder;
  }

  /** Makes a chunk the hottest and its ancestors hotter still. */
  touch(entry: EntryIndex, why: TouchReason): void {
    this.#touches.touch(entry, why);
  }

  /** Sets the parent unless that would close a loop: inferred edges may be wrong, and a chain must end. */
  setParent(child: EntryIndex, parent: EntryIndex): boolean {
    let current: EntryIndex | -1 = parent;
    for (let depth = 0; current >= 0; depth += 1) {
      if (current === child || depth >= MAX_CHAIN) return false;
      current = this.index.parent(current as EntryIndex);
    }
    this.index.setParent(child, parent);
    this.secondUse?.linked(child);
    return true;
  }

  touchSsdChain(entry: EntryIndex): void {
    this.#touches.storedOnSsd(entry);
  }

  use(entry: EntryIndex): void {
    this.index.setLastUsedAtMs(entry, this.clock.nowMs());
    this.index.setHitCount(entry, this.index.hitCount(entry) + 1);
    if (this.index.ramSlot(entry) >= 0) this.ram.noteUse(this.index.ramSlot(entry) as SlotIndex, this.index.lastUsedAtMs(entry));
    this.secondUse?.used(entry);
    this.hbm?.onUsed(entry);
    if (this.has(entry, DECLINED)) {
      this.clear(entry, DECLINED);
      if (this.isDirty(entry)) this.onDirty(entry);
    }
    this.catalog.enqueue({
      kind: 'touch',
      generation: this.index.generation(entry),
      lastUsedAtMs: this.clock.nowMs(),
      hitCount: this.index.hitCount(entry),
    });
  }

  /**
   * Nobody reads, leases or writes it, so its RAM may be taken. Dirty or not is another question. A lease that was given for the SSD
   * copy does not hold the copy that a read brought to RAM: such leases may cover many times RAM, and the file is kept for them.
   */
  ramIsFree(entry: EntryIndex): boolean {
    const slot = this.index.ramSlot(entry) as SlotIndex;
    if (slot < 0 || this.ram.useCount(slot) !== 1 || this.has(entry, HELD_IN_RAM)) return false;
    if (this.index.leaseCount(entry) === 0) return true;
    return (this.index.ssdFolder(entry) >= 0 || this.has(entry, IN_HBM)) && !this.leases.covers(entry, 'ram');
  }

  isDirty(entry: EntryIndex): boolean {
    return this.has(entry, DIRTY);
  }

  isWriting(entry: EntryIndex): boolean {
    return this.has(entry, WRITING);
  }

  ownerOf(slot: SlotIndex): EntryIndex | -1 {
    return (this.#slotOwner[slot] ?? -1) as EntryIndex | -1;
  }

  /** Identity of a key over all namespaces, as one string; for tombstones. */
  keyId(entry: EntryIndex): string {
    return this.tombstones.keyId(this.namespaces.descriptor(this.index.namespaceOf(entry)), this.index.keyOf(entry));
  }

  wholeKey(entry: EntryIndex): string {
    return this.namespaces.wholeKey(this.index.namespaceOf(entry), this.index.keyOf(entry));
  }

  catalogPut(entry: EntryIndex): void {
    this.catalog.enqueue({ kind: 'put', chunk: catalogRow(this, entry) });
  }

  catalogReplicas(entry: EntryIndex): void {
    this.catalog.enqueue({ kind: 'replicas', generation: this.index.generation(entry), replicas: replicasOf(this, entry) });
  }

  /** Invalidations whose scans are under way, and for chunks renewed meanwhile the generation of their put. */
  #scans = 0;
  readonly #renewed = new Map<number, number>();

  /** As Tombstones.beginInvalidation; until the answer is called, `putGeneration` knows of renewals. */
  beginInvalidation(selector: Selector, generation: number): () => void {
    const end = this.tombstones.beginInvalidation(selector, generation);
    this.#scans += 1;
    return () => {
      end();
      this.#scans -= 1;
      if (this.#scans === 0) this.#renewed.clear();
    };
  }

  /** When the bytes were put: what an invalidation judges by. The generation names the file, and may be newer. */
  putGeneration(entry: EntryIndex): number {
    const generation = this.index.generation(entry);
    return this.#renewed.get(generation) ?? generation;
  }

  /** A new generation for the same bytes, so that a write under way for the old one leaves nothing. */
  renew(entry: EntryIndex): void {
    this.#touches.settle();
    const generation = this.nextGeneration();
    if (this.#scans > 0) this.#renewed.set(generation, this.putGeneration(entry));
    this.index.setGeneration(entry, generation);
    this.clear(entry, WRITING | QUEUED | UNLINKING);
    if (this.isDirty(entry)) this.onDirty(entry);
    if (this.has(entry, PINNED)) this.pins.renewed(entry);
  }

  /**
   * The file's header lacks the twin or the lm block: the chunk gets a new generation, and the file of the old one goes. Throws where
   * the journal cannot be written; nothing has changed then.
   */
  outdateFile(entry: EntryIndex): void {
    if (this.index.ramSlot(entry) < 0 || (this.index.ssdFolder(entry) < 0 && !this.isWriting(entry))) {
      // Not written yet; or on SSD alone and without a twin so far, and then the catalog keeps it.
      this.remember(entry);
      this.catalogPut(entry);
      return;
    }
    this.tombstones.forget(
      this.namespaces.descriptor(this.index.namespaceOf(entry)),
      this.index.keyOf(entry),
      this.index.generation(entry),
    );
    this.catalog.enqueue({ kind: 'remove', generation: this.index.generation(entry) });
    this.detachSsd(entry);
    this.renew(entry);
    this.remember(entry);
    this.catalogPut(entry);
  }

  /** Keeps the redis:// twin beside its chunk. */
  setMetadata(entry: EntryIndex, metadata: Uint8Array): void {
    this.metadata.set(entry, metadata.slice());
    this.set(entry, HAS_METADATA);
  }

  /** Keeps what lm:// wants back with a chunk. */
  setLmBlock(entry: EntryIndex, block: LmBlock): void {
    this.lmBlocks.set(entry, block);
    this.set(entry, HAS_METADATA);
  }

  /** Where the last probe found the chunk, once; 'ram' where there was none: the hit belongs to that tier. */
  takeProbedTier(entry: EntryIndex): 'hbm' | 'ram' | 'ssd' {
    if (!this.has(entry, PROBED_BELOW)) return 'ram';
    this.clear(entry, PROBED_BELOW);
    return this.hbm?.probed.delete(entry) === true ? 'hbm' : 'ssd';
  }

  /** A probe found the chunk below RAM. */
  noteProbed(entry: EntryIndex, tier: 'hbm' | 'ssd'): void {
    this.set(entry, PROBED_BELOW);
    if (tier === 'hbm') this.hbm?.probed.add(entry);
    else this.hbm?.probed.delete(entry);
  }

  checkInvariants(): void {
    checkStateInvariants(this);
  }
}
