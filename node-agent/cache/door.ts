/**
 * The cache as the doors see it: two-phase puts, probes with leases, reads, deletions. All methods run on the main thread. Those
 * that answer without a promise changed their state before they returned; after every await the cache re-checks what it relied on.
 */
import type { Address, NamespaceId } from '#core/brand.ts';
import type { LmBlock } from '#core/lm-block.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';
import type { RegionSpan } from '#ports/local-door.ts';

/** Who holds leases: one client (address and user), over all of its sockets. Dense numbers given out by the door. */
export type LeaseOwner = number;

export interface PutRequest {
  readonly namespace: NamespaceId;
  readonly key: Uint8Array;
  readonly sizeBytes: number;
  /**
   * Rows that must not be forgotten to make room for this one: the chain that it continues. A suffix that pushes out its own prefix
   * is worth nothing, so where only those are left the put is rejected as 'own-chain'.
   */
  readonly spare?: ReadonlySet<number>;
  /** The tenant gave up a chunk of its own for this one, being at its quota: it takes from nobody else, although it has room now. */
  readonly onlyOwn?: boolean;
}

export type PutRejection = 'too-large' | 'shed' | 'draining' | 'own-chain' | 'quota' | 'quota-slot';

/** Room for one payload. Exactly one of commit and abort must follow; the memory is the holder's until then. */
export interface PutTicket {
  readonly kind: 'ticket';
  readonly address: Address;
  readonly sizeBytes: number;
  /** The payload's memory as a view, for what is looked at or copied on the main thread. Costs an object. */
  view(): Uint8Array;
}

export interface PutRejected {
  readonly kind: 'rejected';
  readonly reason: PutRejection;
  /** With 'own-chain': what is full is the tenant's quota. */
  readonly atQuota?: boolean;
  /** For people: names the action, what is and what is wanted. */
  readonly message: string;
}

/** How long a chunk lives: from now, until a point in time (wall clock), or as long as the one that it replaces. */
export type ExpirySpec = 'keep' | { readonly ttlMs: number } | { readonly atMs: number };

export interface CommitOptions {
  /** Left out: the default of the namespace, which is none unless configured. */
  readonly expiry?: ExpirySpec;
  /** Commit only if the key is absent (NX) or present (XX); else the ticket is aborted and the outcome is 'condition'. */
  readonly onlyIf?: 'absent' | 'present';
  /** The chunk before this one, where the door knows it. */
  readonly parent?: ChunkRef;
  /**
   * What a client of lm:// wants back with these bytes; kept with the chunk through every tier and restart. Without it a chunk that is
   * there with the same bytes keeps its own, and other bytes have none.
   */
  readonly lmBlock?: LmBlock;
}

/** 'stored' and 'duplicate' leave the value readable; 'dropped': acknowledged and already invalidated; 'failed': not acknowledged. */
export type CommitOutcome = 'stored' | 'duplicate' | 'dropped' | 'condition' | 'failed';

/** A chunk across awaits: the row is the same chunk only while its generation is. */
export interface ChunkRef {
  readonly entry: number;
  readonly generation: number;
}

/** 'size-guard': of a length that the client does not expect. 'undescribed': stored through another door, without what this client needs. */
export type RefusalReason = 'size-guard' | 'undescribed';

/** The tier that held the bytes when somebody asked: RAM where it has them, else HBM, else SSD. */
export type TierOfBytes = 'hbm' | 'ram' | 'ssd';

/** Bytes of a chunk in RAM that stay where they are, unchanged, until `release`. */
export interface ReadHandle {
  readonly address: Address;
  readonly sizeBytes: number;
  readonly tier: TierOfBytes;
  view(): Uint8Array;
  /** Must be called exactly once. */
  release(): void;
}

/** Where a chunk lies on a device, for another process of the same user and tenant that copies it for itself. */
export interface DeviceRead {
  readonly deviceUuid: string;
  /** 64 bytes that open the whole piece, for reading and writing. */
  readonly handle: Uint8Array;
  readonly offsetBytes: number;
  readonly sizeBytes: number;
  /** Must be called exactly once, after the copy. False: the chunk did not hold throughout, and what was copied may not be used. */
  release(): boolean;
}

export type OpenInto = ReadHandle | 'loaded' | 'missing' | 'size' | 'fault';

/** `key` is valid during the call. */
export type ChunkListener = (kind: 'stored' | 'removed', namespace: NamespaceDescriptor, key: Uint8Array) => void;

export interface ProbeOutcome {
  readonly ref: ChunkRef;
  readonly sizeBytes: number;
  readonly tier: TierOfBytes;
}

export interface ProbeAll {
  readonly namespace: NamespaceId;
  readonly keys: readonly Uint8Array[];
  readonly owner: LeaseOwner | undefined;
  readonly prefix: boolean;
  readonly peek: boolean;
}

/** `index` of the key in the list. */
export type ProbeVisitor = (index: number, tier: TierOfBytes, sizeBytes: number) => void;

export interface ScanPage {
  readonly limit: number;
  /** Undefined: of all tenants. */
  readonly tenant?: string | undefined;
}

export interface TenantUsage {
  readonly chunkCount: number;
  readonly hbmBytes: number;
  readonly ramBytes: number;
  readonly ssdBytes: number;
}

export interface CacheDoor {
  /** The id of a namespace and a reference to it; give it back with `releaseNamespace`. */
  internNamespace(descriptor: NamespaceDescriptor): NamespaceId;
  releaseNamespace(namespace: NamespaceId): void;

  /** Reserves room; waits up to `put.wait` where RAM is full of what may not be dropped yet. Nothing is held while it waits. */
  reserve(request: PutRequest): PutTicket | PutRejected | Promise<PutTicket | PutRejected>;
  /** Makes the payload visible under its key. `checksum` is that of core/checksum.ts over all bytes. */
  commit(ticket: PutTicket, checksum: bigint, options?: CommitOptions): CommitOutcome;
  abort(ticket: PutTicket): void;

  /** Answers whether the chunk could be read now, without touching or counting. */
  peek(namespace: NamespaceId, key: Uint8Array): ProbeOutcome | undefined;
  /** EXISTS: counts, touches, takes a lease for `owner` where leases are left, starts read-ahead from SSD. */
  probe(namespace: NamespaceId, key: Uint8Array, owner: LeaseOwner | undefined): ProbeOutcome | undefined;
  /**
   * As `probe` of each key, or `peek`, in order and faster, without read-ahead: whoever asks gives memory of his own to read into. `visit`
   * hears of those that are there, before the next is looked at. Returns how many keys were looked at: with `prefix` none behind the first
   * that is missing.
   */
  probeAll(probe: ProbeAll, visit: ProbeVisitor): number;
  /** Ends a lease that a probe took; false where there is none. */
  endLease(ref: ChunkRef, owner: LeaseOwner): boolean;
  /** Ends all leases of a client that is gone. */
  endLeases(owner: LeaseOwner): void;
  /** A probe that the door answers with no although the chunk may be here. */
  countRefusedProbe(reason: RefusalReason): void;
  /** GET: counts one lookup, as hit or miss; ends a lease of `owner`. Undefined is a miss. */
  open(namespace: NamespaceId, key: Uint8Array, owner: LeaseOwner | undefined): ReadHandle | undefined | Promise<ReadHandle | undefined>;
  /**
   * As `open`, for a client with memory of its own: what only SSD has is read straight into `span`, whose length must be the chunk's. A
   * handle: the bytes are in RAM, and the caller copies them. 'size': of another length, a miss. 'fault': the span is no memory any more.
   * Resolves when nothing writes into the span any more.
   */
  openInto(
    namespace: NamespaceId,
    key: Uint8Array,
    client: { readonly owner: LeaseOwner; readonly span: RegionSpan },
  ): OpenInto | Promise<OpenInto>;
  /** For a client on the same device who copies for himself; undefined where the chunk is not in HBM. Counts nothing. */
  openDevice(ref: ChunkRef): DeviceRead | undefined;
  /** A lookup that the door answers as a miss although the chunk may be here. */
  countRefusedLookup(reason: RefusalReason): void;
  /** True where there was a value. Throws KvtierError where the deletion cannot be made durable; then nothing is deleted. */
  delete(namespace: NamespaceId, key: Uint8Array): boolean;

  /** The time that expiries are judged by, in wall-clock milliseconds; never goes back. */
  expiryNowMs(): number;
  /** When the chunk expires; 0: never, undefined: it is gone. */
  expiresAtMs(ref: ChunkRef): number | undefined;
  /**
   * Gives a chunk another expiry; 0: never, and a time that has passed deletes it. False where it is gone. Throws KvtierError where
   * the journal cannot be written; then nothing has changed.
   */
  setExpiry(ref: ChunkRef, atMs: number): boolean;
  /** Chunks that have an expiry. */
  readonly expiringCount: number;

  /** The redis:// metadata twin of a chunk; lives and dies with it. False where there is no chunk. */
  setMetadata(ref: ChunkRef, metadata: Uint8Array): boolean;
  metadata(ref: ChunkRef): Uint8Array | undefined;

  /** What was kept with `CommitOptions.lmBlock`. Undefined: nobody said how these bytes are to be read, or the chunk has gone. */
  lmBlock(ref: ChunkRef): LmBlock | undefined;

  /** Orders eviction: `parent` comes before `child` in a prefix chain. Never decides what is correct. */
  link(parent: ChunkRef, child: ChunkRef): void;
  /** True while the row holds the chunk that the ref was taken of. */
  isCurrent(ref: ChunkRef): boolean;
  /** Drops a chunk from RAM, to make room for one that matters more. False where somebody uses or leases it. */
  giveUp(ref: ChunkRef): boolean;
  /** Touches chunks given in prefix order, suffix first, each with the ancestors that are known. */
  touchChain(chain: readonly ChunkRef[]): void;

  /**
   * Pages over all keys, or over those of one tenant; `cursor` 0 begins and ends. A key that stays for the whole scan is visited
   * exactly once. `limit` bounds the rows that are looked at, those of other tenants included.
   */
  scan(cursor: number, page: ScanPage, visit: (key: Uint8Array, ref: ChunkRef) => void): number;
  readonly chunkCount: number;
  /** What one tenant has; walks over all namespaces. */
  usageOf(tenant: string): TenantUsage;
  /** Everything, or all that is `tenant`'s, at once and for good. Resolves when it is durable. */
  flushAll(actor: string, tenant?: string): Promise<void>;
  /**
   * Tells of every chunk that becomes readable ('stored') or leaves the cache ('removed'; a value that is replaced does both). Called in the
   * middle of a change: the listener looks at nothing and keeps no view. Ends with the function that is answered.
   */
  watch(listener: ChunkListener): () => void;
  /** Invalidations and flushes that have begun in this life: what a door keeps beside the cache from before one of them may be dead. */
  readonly invalidationCount: number;
}
