/** What crosses between the main thread and the catalog's worker: plain values that the structured clone copies cheaply. */
import type { NamespaceDescriptor } from '#core/namespace.ts';
import type { CatalogInvalidation, CatalogReplica } from '#ports/catalog-store.ts';
import type { ChunkPage } from './chunk-page.ts';

/** A chunk to write whole. `key` is text where the bytes are UTF-8 without NUL, else a copy of them. */
export interface PutRow {
  readonly generation: number;
  /** Index into the batch's `namespaces`. */
  readonly namespace: number;
  readonly key: string | Uint8Array;
  readonly sizeBytes: number;
  readonly checksum: string;
  readonly createdAtMs: number;
  /** Null: never. */
  readonly expiresAtMs: number | null;
  readonly lastUsedAtMs: number;
  readonly hitCount: number;
  readonly parentGeneration: number | null;
  readonly tokenCount: number | null;
  readonly redisMetadata: Uint8Array | null;
  /** As core/lm-block.ts formats it. */
  readonly lmBlock: string | null;
  readonly replicas: readonly CatalogReplica[];
}

/** Fields of a row that may or may not be there; what is undefined stays. */
export interface PatchRow {
  readonly generation: number;
  readonly use?: { readonly lastUsedAtMs: number; readonly hitCount: number };
  readonly parent?: { readonly generation: number | null };
  readonly expiry?: { readonly atMs: number | null };
  readonly replicas?: readonly CatalogReplica[];
}

/** One transaction. Order inside: removes, puts, patches, invalidations; a generation is in one of the first three only. */
export interface CatalogBatch {
  readonly namespaces: readonly NamespaceDescriptor[];
  readonly puts: readonly PutRow[];
  readonly patches: readonly PatchRow[];
  readonly removes: readonly number[];
  readonly invalidations: readonly CatalogInvalidation[];
  /** Coalesced changes in it. */
  readonly changeCount: number;
  /** Wall clock, for `first_seen_at`. */
  readonly nowMs: number;
}

export interface OpenOptions {
  readonly path: string;
  readonly migrationsDir: string;
  readonly busyTimeoutMs: number;
  readonly invalidationLimit: number;
  /**
   * Rows to delete at once: `ram`, those that only the RAM of a former process had; `all`, every chunk, since this process has
   * lived without reading them; `nothing`, when the same process opens again.
   */
  readonly forget: 'ram' | 'all' | 'nothing';
  /** Wall clock, for `created_at`. */
  readonly nowMs: number;
}

/** What the worker can be asked, with what it answers. */
export interface CatalogCalls {
  open: { readonly ask: OpenOptions; readonly answer: null };
  /** Reads the next chunks with an SSD replica, coldest first; `last` where there are no more. */
  page: { readonly ask: { readonly limit: number }; readonly answer: ChunkPage };
  endLoad: { readonly ask: null; readonly answer: null };
  apply: { readonly ask: CatalogBatch; readonly answer: null };
  /** Empties the WAL if no reader holds it; `walBytes` of the reply tells. */
  checkpoint: { readonly ask: null; readonly answer: null };
  invalidations: {
    readonly ask: { readonly beforeId: string | undefined; readonly limit: number };
    /** Undefined where `beforeId` is unknown. */
    readonly answer: readonly CatalogInvalidation[] | undefined;
  };
  close: { readonly ask: null; readonly answer: null };
}

export type CatalogCall = keyof CatalogCalls;

/**
 * Why a call failed. `busy`: another process holds a lock. `full`: no space. `io`: the file system refused. `newer`: the schema
 * is newer than ours. `gone`: the worker ended. `bug`: the statement itself is at fault and a retry cannot help.
 */
export type CatalogFailureKind = 'busy' | 'full' | 'io' | 'newer' | 'gone' | 'bug';

export interface CatalogRequest<Call extends CatalogCall = CatalogCall> {
  readonly id: number;
  readonly call: Call;
  readonly ask: CatalogCalls[Call]['ask'];
}

export type CatalogReply = {
  readonly id: number;
  readonly walBytes: number;
  /** Corrupt files that were set aside since the last reply. */
  readonly setAside: readonly string[];
} & ({ readonly ok: true; readonly answer: unknown } | { readonly ok: false; readonly kind: CatalogFailureKind; readonly message: string });

/** A call that failed; internal to the catalog. */
export class CatalogFailure extends Error {
  override readonly name = 'CatalogFailure';
  readonly kind: CatalogFailureKind;

  constructor(kind: CatalogFailureKind, message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.kind = kind;
  }
}
