/**
 * The catalog as the cache sees it: follows the index in batches, is read once at start, and answers nothing while serving.
 * Losing rows is allowed: a row that is missing is rebuilt from the file's header at the next start.
 */
import type { LmBlock } from '#core/lm-block.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';
import type { Selector } from '#core/selector.ts';

/** A chunk with its replicas, as stored; also what recovery reads back. Sizes in bytes, times in wall-clock ms. */
export interface CatalogChunk {
  /** Generation of the put; unique. Primary key. */
  readonly generation: number;
  readonly namespace: NamespaceDescriptor;
  /** The chunk's own key bytes inside the namespace. */
  readonly key: Uint8Array;
  readonly sizeBytes: number;
  /** xxHash3 chain, as a signed or unsigned 64-bit value. */
  readonly checksum: bigint;
  readonly createdAtMs: number;
  /** 0: never. */
  readonly expiresAtMs: number;
  readonly lastUsedAtMs: number;
  readonly hitCount: number;
  /** Generation of the parent chunk, where known. */
  readonly parentGeneration: number | undefined;
  readonly tokenCount: number | undefined;
  /** The redis:// metadata twin; undefined where there is none. */
  readonly redisMetadata: Uint8Array | undefined;
  /** What lm:// keeps with an object; undefined where no such client stored it. */
  readonly lmBlock: LmBlock | undefined;
  readonly replicas: readonly CatalogReplica[];
}

export interface CatalogReplica {
  readonly tier: 'hbm' | 'ram' | 'ssd';
  /** Id of the SSD folder; '' for RAM and HBM. */
  readonly folder: string;
  /** True where the bytes are not on SSD too. */
  readonly dirty: boolean;
}

export interface CatalogInvalidation {
  readonly id: string;
  readonly atMs: number;
  readonly generation: number;
  readonly selector: Selector;
  readonly reason: string;
  /** Who: 'admin', 'resp', 'epoch'. Never a token. */
  readonly actor: string;
  readonly matchedChunks: number;
  readonly removedBytes: number;
}

export type CatalogChange =
  | { readonly kind: 'put'; readonly chunk: CatalogChunk }
  | { readonly kind: 'remove'; readonly generation: number }
  | { readonly kind: 'replicas'; readonly generation: number; readonly replicas: readonly CatalogReplica[] }
  | { readonly kind: 'touch'; readonly generation: number; readonly lastUsedAtMs: number; readonly hitCount: number }
  | { readonly kind: 'parent'; readonly generation: number; readonly parentGeneration: number | undefined }
  | { readonly kind: 'expiry'; readonly generation: number; readonly expiresAtMs: number }
  | { readonly kind: 'invalidation'; readonly invalidation: CatalogInvalidation };

export interface CatalogLoad {
  /** Chunks with an SSD replica, coldest first. RAM-only rows of a former process are dropped by load. */
  readonly chunks: AsyncIterable<readonly CatalogChunk[]>;
}

export interface CatalogStats {
  readonly state: 'ok' | 'degraded' | 'off';
  /** Why it is not 'ok'; '' otherwise. */
  readonly reason: string;
  readonly queuedChanges: number;
  readonly droppedChanges: number;
  readonly walBytes: number;
}

export interface CatalogStore {
  /** Opens, migrates and reads. A corrupt file is set aside and replaced; a newer schema throws CATALOG_SCHEMA_NEWER. */
  open(): Promise<CatalogLoad>;
  /** Never blocks, never throws: a full queue drops the change and counts it. */
  enqueue(change: CatalogChange): void;
  /** Resolves when everything enqueued before is committed (or was dropped). */
  flush(): Promise<void>;
  listInvalidations(options: { readonly beforeId?: string; readonly limit: number }): Promise<readonly CatalogInvalidation[]>;
  stats(): CatalogStats;
  close(): Promise<void>;
}
