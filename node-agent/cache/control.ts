/**
 * What operators may ask of the cache: the interface behind the REST API and, through it, the CLI. Doors for data use
 * `CacheDoor` (door.ts). All methods run on the main thread; those that return a promise wait for I/O.
 */
import type { CatalogInvalidation, CatalogStats } from '#ports/catalog-store.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';
import type { PinMode } from '#core/pin-mode.ts';
import type { Selector } from '#core/selector.ts';

export type { PinMode } from '#core/pin-mode.ts';
export type TierName = 'hbm' | 'ram' | 'ssd';

export interface TierStats {
  readonly tier: TierName;
  /** 'starting' while memory is populated; 'degraded' while part of it is lost or read-only. */
  readonly state: 'ok' | 'starting' | 'degraded' | 'off';
  /** Why it is not 'ok', in a sentence each. */
  readonly reasons: readonly string[];
  readonly capacityBytes: number;
  /** Payload bytes of chunks, and for SSD headers, padding and files not yet unlinked. */
  readonly usedBytes: number;
  /** Bytes that only this tier holds and that a crash would lose; 0 for ssd. */
  readonly dirtyBytes: number;
  readonly chunkCount: number;
  readonly leasedBytes: number;
  readonly folders?: readonly FolderStats[];
}

export interface FolderStats {
  readonly path: string;
  readonly id: string;
  readonly state: 'ok' | 'read-only' | 'stalled' | 'off';
  readonly reason: string;
  readonly capacityBytes: number;
  readonly usedBytes: number;
  readonly chunkCount: number;
  /** False where the file system refuses O_DIRECT. */
  readonly direct: boolean;
  readonly readBytesPerSecond: number;
  readonly writeBytesPerSecond: number;
}

export interface IoStats {
  readonly readBytes: number;
  readonly writtenBytes: number;
  readonly readErrors: number;
  readonly writeErrors: number;
  readonly checksumMismatches: number;
  readonly quarantinedFiles: number;
  readonly queueDepth: number;
  readonly readLatencyMs: { readonly p50: number; readonly p99: number };
  readonly writeLatencyMs: { readonly p50: number; readonly p99: number };
}

/** Chunks that moved to and from a device, since the start. */
export interface DeviceMoves {
  /** Copies from RAM that were attached. */
  readonly promotions: number;
  /** Chunks that only it had, and that left it for RAM. */
  readonly demotions: number;
  /** Copies to RAM; a demotion begins with one. */
  readonly loads: number;
  /** Copies to RAM whose bytes were wrong. */
  readonly checksumMismatches: number;
}

/** One device of the HBM tier. */
export interface DeviceStats {
  readonly ordinal: number;
  readonly name: string;
  readonly uuid: string;
  readonly pciBusId: string;
  readonly state: 'ok' | 'degraded' | 'off';
  readonly reason: string;
  readonly capacityBytes: number;
  /** Slots in use, with the rounding to their class. */
  readonly slotBytes: number;
  /** Room beside these that only their tenant groups can use. */
  readonly freeInUsedPiecesBytes: number;
  readonly pieces: { readonly total: number; readonly used: number };
  readonly classes: readonly { readonly classBytes: number; readonly slotCount: number; readonly usedSlotCount: number }[];
  readonly moves: DeviceMoves;
  readonly copies: {
    readonly toDeviceBytes: number;
    readonly toHostBytes: number;
    readonly toDeviceCopies: number;
    readonly toHostCopies: number;
    readonly toDeviceMs: number;
    readonly toHostMs: number;
    readonly errors: number;
    readonly inFlight: number;
    readonly latencyMs: { readonly p50: number; readonly p99: number };
  };
}

/** What moved in and out of HBM, over all devices. */
export interface HbmStats extends DeviceMoves {
  readonly exports: number;
  readonly devices: readonly DeviceStats[];
}

export interface CacheStats {
  readonly tiers: readonly TierStats[];
  /** Undefined: there is no HBM tier. */
  readonly hbm?: HbmStats;
  /** Keys asked about (EXISTS, lookup). */
  readonly probes: number;
  readonly probeHits: number;
  /** Keys asked for bytes; each is exactly one hit or miss. */
  readonly lookups: number;
  readonly hits: { readonly hbm: number; readonly ram: number; readonly ssd: number };
  readonly misses: number;
  readonly puts: number;
  readonly putBytes: number;
  readonly duplicatePuts: number;
  readonly rejectedPuts: {
    readonly tooLarge: number;
    readonly shed: number;
    readonly draining: number;
    readonly quota: number;
    readonly quotaSlot: number;
  };
  readonly droppedDirtyChunks: number;
  readonly evictions: { readonly hbm: number; readonly ram: number; readonly ssd: number };
  readonly demotions: number;
  readonly promotions: number;
  readonly deletes: number;
  readonly invalidatedChunks: number;
  /** Chunks that ended by themselves, as their expiry said. */
  readonly expiredChunks: number;
  readonly sizeGuardMisses: number;
  /** Misses of chunks that are there: RAM had no room for them in time, or their device does not answer. */
  readonly refusedLookups: number;
  readonly storeAdmission: {
    readonly mode: string;
    readonly admittedChunks: number;
    readonly skippedChunks: number;
    readonly shedChunks: number;
    readonly writeBudgetBytesPerSecond: number;
  };
  readonly leases: number;
  readonly pins: PinStats;
  /** Tenants with a quota, and replicas that one gave up for its own. They are evictions too. */
  readonly quotas: { readonly tenants: number; readonly evictions: { readonly ram: number; readonly ssd: number } };
  readonly io: IoStats;
  readonly catalog: CatalogStats;
  readonly recovery: {
    readonly done: boolean;
    readonly adoptedFiles: number;
    readonly droppedFiles: number;
    readonly loadedRows: number;
    readonly keptChunks: number;
  };
}

/** Chunks, and their payload bytes. */
export interface PinSum {
  readonly chunks: number;
  readonly bytes: number;
}

export interface PinStats {
  readonly chunks: number;
  /** Pins that could not be kept: a tier became smaller, or a value larger. */
  readonly lost: number;
  readonly ram: Readonly<Record<PinMode, PinSum>>;
  readonly ssd: Readonly<Record<PinMode, PinSum>>;
}

export interface PinOptions {
  /** Brings what is pinned into HBM as well, as far as that has room. A pin keeps it there longer than others, and holds no memory of a device. */
  readonly tier?: 'hbm' | undefined;
}

export interface PinAnswer {
  readonly mode: PinMode;
  /** Pinned chunks of the selector that HBM has at the end; only where that was asked for. */
  readonly inHbm?: PinSum;
  /** By this order. */
  readonly pinned: PinSum;
  /** Of these, chunks whose RAM copy is held as well. */
  readonly heldInRam: number;
  readonly alreadyPinned: PinSum;
  /** The quarter of RAM or of SSD that pins may take is used up; the number of pins is; not on SSD and could not be written. */
  readonly refused: Readonly<Record<'ram' | 'ssd' | 'count' | 'unwritten', PinSum>>;
  /** Keys that were named and are not there, and chunks that went meanwhile. */
  readonly notFound: number;
}

export interface UnpinAnswer {
  readonly unpinned: PinSum;
  readonly notPinned: number;
  readonly notFound: number;
}

/** What a tenant may hold; undefined: no limit in this tier. */
export interface TenantQuota {
  readonly ramBytes: number | undefined;
  readonly ssdBytes: number | undefined;
}

export interface NamespaceStats {
  readonly label: string;
  readonly descriptor: NamespaceDescriptor;
  readonly chunkCount: number;
  /** `hbm` where there is such a tier. */
  readonly bytes: { readonly hbm?: number; readonly ram: number; readonly ssd: number };
}

/** One chunk for people and programs. `id` is `entry-generation`: opaque, stale after removal. */
export interface ChunkInfo {
  readonly id: string;
  readonly key: string;
  readonly namespace: string;
  readonly model: string;
  readonly tenant: string;
  readonly sizeBytes: number;
  readonly checksum: string;
  readonly generation: number;
  readonly createdAtMs: number;
  readonly lastUsedAtMs: number;
  /** Undefined: never. */
  readonly expiresAtMs: number | undefined;
  readonly hitCount: number;
  readonly parentId: string | undefined;
  readonly tiers: readonly TierName[];
  readonly dirty: boolean;
  readonly leased: boolean;
  readonly pinned: PinMode | undefined;
}

export interface ChunkFilter {
  readonly model?: string;
  readonly tenant?: string;
  readonly namespace?: string;
  readonly tier?: TierName;
  readonly keyPrefix?: string;
  readonly olderThan?: number;
}

/** Whose keys are meant: those of `tenant` (`@name`), by default those stored without a tenant token. */
export interface KeyOwner {
  readonly tenant?: string | undefined;
}

export interface PrefetchOptions extends KeyOwner {
  /** Where they are wanted; RAM by default. */
  readonly tier?: 'hbm' | 'ram' | undefined;
}

export interface PrefetchAnswer {
  readonly promoted: number;
  /** In the tier that was asked for, RAM or HBM. */
  readonly alreadyInRam: number;
  readonly missing: number;
  readonly refused: number;
}

export interface LookupAnswer {
  readonly key: string;
  /** Undefined: a miss. */
  readonly tier: TierName | undefined;
  readonly sizeBytes: number | undefined;
  /** Why it is a miss: 'absent', 'size-guard', 'gap' (an earlier key of the chain is missing). '' for a hit. */
  readonly reason: string;
}

export interface InvalidateAnswer {
  readonly id: string;
  readonly matchedChunks: number;
  readonly removedBytes: number;
  readonly generation: number;
  readonly dryRun: boolean;
}

export interface VerifyProgress {
  readonly checkedFiles: number;
  readonly totalFiles: number;
  readonly checkedBytes: number;
  readonly mismatches: readonly { readonly path: string; readonly key: string; readonly problem: string }[];
  readonly done: boolean;
}

export interface CacheControl {
  stats(): CacheStats;
  namespaces(): readonly NamespaceStats[];
  /** A page of chunks in index order. `cursor` is opaque; undefined on the last page. */
  chunks(
    filter: ChunkFilter,
    page: { readonly cursor?: string; readonly limit: number },
  ): { readonly chunks: readonly ChunkInfo[]; readonly cursor: string | undefined };
  chunk(id: string): ChunkInfo | undefined;
  /** Answers for whole keys in prefix order, without lease, touch or counting. */
  lookup(keys: readonly string[], options?: KeyOwner): readonly LookupAnswer[];
  /** Brings chunks into RAM below demand, or with `tier: 'hbm'` into HBM too; resolves when each is there or was refused. */
  prefetch(keys: readonly string[], options?: PrefetchOptions): Promise<PrefetchAnswer>;
  /** Writes matching dirty chunks to SSD now; resolves when they are durable. */
  persist(
    selector: Selector,
  ): Promise<{ readonly persisted: number; readonly alreadyOnSsd: number; readonly failed: number; readonly bytes: number }>;
  /** Frees a tier of matching chunks without forgetting those that a lower tier can take. */
  evict(tier: TierName, selector: Selector): Promise<{ readonly evicted: number; readonly bytes: number; readonly skipped: number }>;
  /** Pins what matches now. Durable when it resolves; see pins.ts for what a pin is worth. */
  pin(selector: Selector, mode: PinMode, options?: PinOptions): Promise<PinAnswer>;
  unpin(selector: Selector): Promise<UnpinAnswer>;
  /** Tenants that have a quota. */
  quotas(): readonly ({ readonly tenant: string } & TenantQuota)[];
  /** Durable when it resolves; what is beyond is given up in slices after that. Undefined takes the quota away. */
  setQuota(tenant: string, quota: TenantQuota | undefined): Promise<void>;
  /** Final once it resolves: no later read returns a matching chunk, whatever the tier, race or crash. */
  invalidate(
    selector: Selector,
    options: { readonly dryRun: boolean; readonly reason: string; readonly actor: string },
  ): Promise<InvalidateAnswer>;
  invalidations(page: { readonly beforeId?: string; readonly limit: number }): Promise<readonly CatalogInvalidation[]>;
  /** Moves a model to a new epoch and invalidates what was stored before. */
  bumpEpoch(
    model: string,
    options: { readonly reason: string; readonly actor: string },
  ): Promise<{ readonly model: string; readonly epoch: number } & InvalidateAnswer>;
  epochs(): readonly { readonly model: string; readonly epoch: number }[];
  /** Reads every SSD file and compares checksums; yields progress, quarantines mismatches. */
  verify(): AsyncIterable<VerifyProgress>;
}
