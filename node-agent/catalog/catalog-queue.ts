/**
 * Changes on their way to the catalog, coalesced by generation and bounded. Pure: no clock, no worker.
 *
 * Invariants:
 * - applying the batches in order leaves the same rows as applying the accepted changes one by one;
 * - a generation waits at most once, as whole row, as removal or as patch, and leaves in the order in which it came;
 * - `size` counts waiting generations and invalidations, and is at most `maxChanges`; `sizeBytes` is at most `maxBytes`;
 * - a removal replaces whatever waits for its generation, and what comes behind it for that generation (but a new put) is void.
 *
 * Touches alone wait in a lane of their own, since they are many and of little worth: a batch takes them only when asked to.
 */
import { assert } from '#core/assert.ts';
import { formatLmBlock } from '#core/lm-block.ts';
import { namespaceIdentity } from '#core/namespace.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';
import type { CatalogChange, CatalogChunk, CatalogInvalidation, CatalogReplica } from '#ports/catalog-store.ts';
import type { CatalogBatch, PatchRow, PutRow } from './catalog-protocol.ts';

export interface CatalogQueueLimits {
  readonly maxChanges: number;
  /** Estimated heap bytes of what waits. */
  readonly maxBytes: number;
}

type Use = NonNullable<PatchRow['use']>;

interface Pending {
  chunk: CatalogChunk | undefined;
  removed: boolean;
  use: Use | undefined;
  parent: { readonly generation: number | undefined } | undefined;
  expiry: { readonly atMs: number } | undefined;
  replicas: readonly CatalogReplica[] | undefined;
  bytes: number;
}

/** What a whole row and a removal take away of what waits for its generation. */
const NO_PATCH = { use: undefined, parent: undefined, expiry: undefined, replicas: undefined };

/** A Map entry with its object: about 200 bytes in JavaScriptCore. A row adds its own object, its key and its metadata. */
const ENTRY_BYTES = 200;
const ROW_BYTES = 300;
const TOUCH_BYTES = 100;
/** An object and an array of four numbers. */
const LM_BLOCK_BYTES = 120;

export class CatalogQueue {
  readonly #limits: CatalogQueueLimits;
  readonly #pending = new Map<number, Pending>();
  readonly #touches = new Map<number, Use>();
  #invalidations: CatalogInvalidation[] = [];
  #sizeBytes = 0;

  constructor(limits: CatalogQueueLimits) {
    this.#limits = limits;
  }

  get size(): number {
    return this.#pending.size + this.#touches.size + this.#invalidations.length;
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** Waiting changes other than touches. */
  get urgentSize(): number {
    return this.#pending.size + this.#invalidations.length;
  }

  /** Oldest first. */
  get invalidations(): readonly CatalogInvalidation[] {
    return this.#invalidations;
  }

  /** False where the queue is full and the change is lost. */
  add(change: CatalogChange): boolean {
    switch (change.kind) {
      case 'invalidation':
        return this.#addInvalidation(change.invalidation);
      case 'touch':
        return this.#addTouch(change.generation, { lastUsedAtMs: change.lastUsedAtMs, hitCount: change.hitCount });
      case 'put':
        return this.#update(change.chunk.generation, (entry) => {
          Object.assign(entry, { chunk: change.chunk, removed: false, ...NO_PATCH });
        });
      case 'remove':
        return this.#update(change.generation, (entry) => {
          Object.assign(entry, { chunk: undefined, removed: true, ...NO_PATCH });
        });
      case 'replicas':
        return this.#update(change.generation, (entry) => {
          if (!entry.removed) entry.replicas = change.replicas;
        });
      case 'parent':
        return this.#update(change.generation, (entry) => {
          if (!entry.removed) entry.parent = { generation: change.parentGeneration };
        });
      case 'expiry':
        return this.#update(change.generation, (entry) => {
          if (!entry.removed) entry.expiry = { atMs: change.expiresAtMs };
        });
    }
  }

  /** The oldest changes as one transaction, at most `limit` of them; undefined where nothing waits (but touches, unless asked for). */
  take(limit: number, options: { readonly touches: boolean; readonly nowMs: number }): CatalogBatch | undefined {
    const builder = new BatchBuilder();
    const spare = (): boolean => builder.changeCount < limit;
    if (options.touches) {
      for (const [generation, use] of this.#touches) {
        if (!spare()) break;
        this.#touches.delete(generation);
        this.#sizeBytes -= TOUCH_BYTES;
        builder.patch({ generation, use });
      }
    }
    for (const [generation, entry] of this.#pending) {
      if (!spare()) break;
      this.#pending.delete(generation);
      this.#sizeBytes -= entry.bytes;
      if (entry.removed) builder.remove(generation);
      else if (entry.chunk !== undefined) builder.put(merged(entry.chunk, entry));
      else builder.patch(patchOf(generation, entry));
    }
    while (spare() && this.#invalidations.length > 0) {
      const taken = this.#invalidations.splice(0, limit - builder.changeCount);
      for (const invalidation of taken) {
        this.#sizeBytes -= invalidationBytes(invalidation);
        builder.invalidation(invalidation);
      }
    }
    return builder.changeCount === 0 ? undefined : builder.batch(options.nowMs);
  }

  /** Throws InvariantError where the counts are off. For tests. */
  checkInvariants(): void {
    let bytes = this.#touches.size * TOUCH_BYTES;
    for (const entry of this.#pending.values()) bytes += entry.bytes;
    for (const invalidation of this.#invalidations) bytes += invalidationBytes(invalidation);
    assert(bytes === this.#sizeBytes, `CatalogQueue: ${this.#sizeBytes} bytes counted, ${bytes} there`);
    assert(this.#sizeBytes <= this.#limits.maxBytes && this.size <= this.#limits.maxChanges, 'CatalogQueue: over its limits');
    for (const [generation, entry] of this.#pending) {
      assert(!this.#touches.has(generation), `CatalogQueue: generation ${generation} waits twice`);
      assert(entry.bytes === entryBytes(entry), `CatalogQueue: generation ${generation} is counted with ${entry.bytes} bytes`);
      assert(
        !entry.removed || (entry.chunk ?? entry.use ?? entry.parent ?? entry.expiry ?? entry.replicas) === undefined,
        'CatalogQueue: a removal with data',
      );
    }
  }

  #addInvalidation(invalidation: CatalogInvalidation): boolean {
    const bytes = invalidationBytes(invalidation);
    if (!this.#fits(1, bytes)) return false;
    this.#sizeBytes += bytes;
    this.#invalidations.push(invalidation);
    return true;
  }

  #addTouch(generation: number, use: Use): boolean {
    const entry = this.#pending.get(generation);
    if (entry !== undefined) {
      if (!entry.removed) entry.use = use;
      return true;
    }
    if (!this.#touches.has(generation)) {
      if (!this.#fits(1, TOUCH_BYTES)) return false;
      this.#sizeBytes += TOUCH_BYTES;
    }
    this.#touches.set(generation, use);
    return true;
  }

  /** Changes the entry of a generation, or begins one, if it then still fits. */
  #update(generation: number, change: (entry: Pending) => void): boolean {
    const before = this.#pending.get(generation);
    const touch = this.#touches.get(generation);
    const entry: Pending = before === undefined ? { chunk: undefined, removed: false, ...NO_PATCH, use: touch, bytes: 0 } : { ...before };
    change(entry);
    entry.bytes = entryBytes(entry);
    const formerBytes = (before?.bytes ?? 0) + (touch === undefined ? 0 : TOUCH_BYTES);
    const isNew = before === undefined && touch === undefined;
    if (!this.#fits(isNew ? 1 : 0, entry.bytes - formerBytes)) return false;
    this.#touches.delete(generation);
    this.#pending.set(generation, entry);
    this.#sizeBytes += entry.bytes - formerBytes;
    return true;
  }

  #fits(changes: number, bytes: number): boolean {
    const { maxChanges, maxBytes } = this.#limits;
    return (changes <= 0 || this.size + changes <= maxChanges) && (bytes <= 0 || this.#sizeBytes + bytes <= maxBytes);
  }
}

/** As the table has it: no expiry is NULL. */
function orNull(expiresAtMs: number): number | null {
  return expiresAtMs === 0 ? null : expiresAtMs;
}

function entryBytes(entry: Pending): number {
  const { chunk } = entry;
  const described = chunk?.lmBlock === undefined ? 0 : LM_BLOCK_BYTES;
  const row = chunk === undefined ? 0 : ROW_BYTES + chunk.key.length + (chunk.redisMetadata?.length ?? 0) + described;
  return ENTRY_BYTES + row;
}

function invalidationBytes(invalidation: CatalogInvalidation): number {
  const keys = invalidation.selector.keys ?? [];
  let bytes = ENTRY_BYTES + ROW_BYTES + 2 * invalidation.reason.length;
  for (const key of keys) bytes += 40 + 2 * key.length;
  return bytes;
}

function merged(chunk: CatalogChunk, entry: Pending): CatalogChunk {
  const { use, parent, expiry, replicas } = entry;
  if ((use ?? parent ?? expiry ?? replicas) === undefined) return chunk;
  return {
    ...chunk,
    ...use,
    ...(parent === undefined ? {} : { parentGeneration: parent.generation }),
    ...(expiry === undefined ? {} : { expiresAtMs: expiry.atMs }),
    ...(replicas === undefined ? {} : { replicas }),
  };
}

function patchOf(generation: number, entry: Pending): PatchRow {
  const { use, parent, expiry, replicas } = entry;
  return {
    generation,
    ...(use === undefined ? {} : { use }),
    ...(parent === undefined ? {} : { parent: { generation: parent.generation ?? null } }),
    ...(expiry === undefined ? {} : { expiry: { atMs: orNull(expiry.atMs) } }),
    ...(replicas === undefined ? {} : { replicas }),
  };
}

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** A key as SQLite shall hold it: text for people where its bytes allow, else a copy of the bytes. */
export function keyColumn(key: Uint8Array): string | Uint8Array {
  // NUL is UTF-8, but a shell shows the text up to it only.
  if (key.includes(0)) return key.slice();
  try {
    return decoder.decode(key);
  } catch {
    // Not UTF-8: an outcome, not an error.
    return key.slice();
  }
}

class BatchBuilder {
  readonly #namespaces = new Map<string, number>();
  readonly #descriptors: NamespaceDescriptor[] = [];
  readonly #puts: PutRow[] = [];
  readonly #patches: PatchRow[] = [];
  readonly #removes: number[] = [];
  readonly #invalidations: CatalogInvalidation[] = [];

  get changeCount(): number {
    return this.#puts.length + this.#patches.length + this.#removes.length + this.#invalidations.length;
  }

  put(chunk: CatalogChunk): void {
    const { key, checksum, namespace, parentGeneration, tokenCount, redisMetadata, lmBlock, expiresAtMs, ...rest } = chunk;
    this.#puts.push({
      ...rest,
      key: keyColumn(key),
      checksum: BigInt.asUintN(64, checksum).toString(16).padStart(16, '0'),
      namespace: this.#namespace(namespace),
      expiresAtMs: orNull(expiresAtMs),
      parentGeneration: parentGeneration ?? null,
      tokenCount: tokenCount ?? null,
      // A copy: a view would drag its whole buffer through the clone.
      redisMetadata: redisMetadata?.slice() ?? null,
      lmBlock: lmBlock === undefined ? null : formatLmBlock(lmBlock),
    });
  }

  patch(row: PatchRow): void {
    this.#patches.push(row);
  }

  remove(generation: number): void {
    this.#removes.push(generation);
  }

  invalidation(invalidation: CatalogInvalidation): void {
    this.#invalidations.push(invalidation);
  }

  batch(nowMs: number): CatalogBatch {
    return {
      namespaces: this.#descriptors,
      puts: this.#puts,
      patches: this.#patches,
      removes: this.#removes,
      invalidations: this.#invalidations,
      changeCount: this.changeCount,
      nowMs,
    };
  }

  #namespace(descriptor: NamespaceDescriptor): number {
    const identity = namespaceIdentity(descriptor);
    const known = this.#namespaces.get(identity);
    if (known !== undefined) return known;
    const index = this.#descriptors.push(descriptor) - 1;
    this.#namespaces.set(identity, index);
    return index;
  }
}
