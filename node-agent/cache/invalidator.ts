/**
 * Invalidation and deletion. Once acknowledged, no later read on any door returns a matching chunk: not one whose put began
 * before, not one whose write is queued or whose file is renamed but not catalogued, and not after kill -9 at any point.
 *
 * How: open tickets that match are doomed at once; the selector counts for files that adoption finds from the first moment; chunks
 * are removed in slices, so that a million of them do not stop the process; the record is synced; only then comes the answer.
 */
import type { EntryIndex, NamespaceId } from '#core/brand.ts';
import { KvtierError } from '#core/errors.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';
import { isVolatile, matchesStable, matchesVolatile } from '#core/selector.ts';
import type { Selector } from '#core/selector.ts';
import type { CatalogInvalidation } from '#ports/catalog-store.ts';
import type { CacheState } from './cache-state.ts';
import type { InvalidateAnswer, TierName } from './control.ts';
import type { Puts } from './puts.ts';

/** Chunks looked at before the event loop gets a turn: about 2 ms. */
const SLICE_CHUNKS = 4096;
/** Keys in one journal record of a resolved selector. */
const FORGET_BATCH = 1000;

export class Invalidator {
  readonly #state: CacheState;
  readonly #puts: Puts;
  #nextNumber = 1;
  /** Begun in this life, dry runs not counted. */
  begunCount = 0;
  /** Runs after an invalidation is durable: the folders' marks follow. */
  onDurable: () => void = () => {};
  /** Resolves with true when every file on SSD is a chunk, with false where that will not be any more. */
  allKnown: () => Promise<boolean> = () => Promise.resolve(true);

  constructor(state: CacheState, puts: Puts) {
    this.#state = state;
    this.#puts = puts;
  }

  /** True where there was a value. Throws where the journal cannot be written; then nothing was deleted. */
  delete(namespace: NamespaceId, key: Uint8Array): boolean {
    const state = this.#state;
    const { index, namespaces, tombstones } = state;
    const entry = state.expiry.find(namespace, key);
    const descriptor = namespaces.descriptor(namespace);
    const onSsd = entry >= 0 && index.ssdFolder(entry as EntryIndex) >= 0;
    if (onSsd || tombstones.mayHaveFile(() => tombstones.keyId(descriptor, key)))
      tombstones.forget(descriptor, key, state.nextGeneration());
    if (entry < 0) return false;
    state.counters.deletes += 1;
    state.remove(entry as EntryIndex);
    return true;
  }

  /** Visits the chunks that match, in slices; `visit` may remove the chunk. Chunks put after `generation` are left alone. */
  async forEachMatch(selector: Selector, generation: number, visit: (entry: EntryIndex) => void): Promise<void> {
    const { index } = this.#state;
    const matcher = this.#matcher(selector);
    let cursor = 0;
    do {
      const found: EntryIndex[] = [];
      cursor = index.scan(cursor, this.#state.limits.scanRows ?? SLICE_CHUNKS, (entry) => {
        if (this.#state.putGeneration(entry) <= generation && matcher(entry)) found.push(entry);
      });
      for (const entry of found) visit(entry);
      if (cursor !== 0) await new Promise<void>((resolve) => void this.#state.clock.schedule(0, resolve));
    } while (cursor !== 0);
  }

  /** A predicate over chunks; judges what it can once per namespace. */
  #matcher(selector: Selector): (entry: EntryIndex) => boolean {
    const state = this.#state;
    const { index, namespaces } = state;
    // By descriptor: a namespace's number may be another's after a turn of the event loop.
    const perNamespace = new Map<NamespaceDescriptor, boolean>();
    const { keys, keyPrefix, createdBefore, ...rest } = selector;
    const keySet = keys === undefined ? undefined : new Set(keys);
    const needsKey = keys !== undefined || keyPrefix !== undefined;
    const chain = selector.chainFrom === undefined ? undefined : this.#chainFrom(selector.chainFrom);
    return (entry) => {
      const namespace = namespaces.descriptor(index.namespaceOf(entry));
      let fits = perNamespace.get(namespace);
      if (fits === undefined) {
        fits = matchesStable(rest, { namespace, key: '', createdAtMs: 0 });
        perNamespace.set(namespace, fits);
      }
      if (!fits) return false;
      if (createdBefore !== undefined && !(index.createdAtMs(entry) < createdBefore)) return false;
      if (needsKey) {
        const key = state.wholeKey(entry);
        if (keySet !== undefined && !keySet.has(key)) return false;
        if (keyPrefix !== undefined && !key.startsWith(keyPrefix)) return false;
      }
      if (!isVolatile(selector)) return true;
      return matchesVolatile(selector, {
        lastUsedAtMs: index.lastUsedAtMs(entry),
        tiers: this.tiers(entry),
        inChain: chain?.has(entry) ?? true,
      });
    };
  }

  tiers(entry: EntryIndex): TierName[] {
    const { index } = this.#state;
    const tiers: TierName[] = [];
    if (this.#state.isInHbm(entry)) tiers.push('hbm');
    if (index.ramSlot(entry) >= 0) tiers.push('ram');
    if (index.ssdFolder(entry) >= 0) tiers.push('ssd');
    return tiers;
  }

  /** A chunk and its known descendants. One pass that follows each chunk's ancestors, with an answer kept for all on the way. */
  #chainFrom(wholeKey: string): Set<number> {
    const state = this.#state;
    const { index } = state;
    const wholeBytes = wholeKey.includes('\ufffd') ? -1 : new TextEncoder().encode(wholeKey).length;
    // Most keys differ in length or namespace; text is made of the rest only.
    const isHead = (entry: EntryIndex): boolean => {
      const namespace = index.namespaceOf(entry);
      const outer = state.namespaces.prefixBytes(namespace).length + state.namespaces.tailBytes(namespace).length;
      if (!wholeKey.startsWith(state.namespaces.descriptor(namespace).keyPrefix)) return false;
      return (wholeBytes < 0 || outer + index.keyOf(entry).length === wholeBytes) && state.wholeKey(entry) === wholeKey;
    };
    const inChain = new Map<number, boolean>();
    const members = new Set<number>();
    index.forEach((entry) => {
      const path: EntryIndex[] = [];
      let current: EntryIndex | -1 = entry;
      let answer = false;
      while (current >= 0) {
        const known = inChain.get(current);
        if (known !== undefined) {
          answer = known;
          break;
        }
        path.push(current as EntryIndex);
        inChain.set(current, false);
        if (isHead(current as EntryIndex)) {
          answer = true;
          break;
        }
        current = index.parent(current as EntryIndex);
      }
      for (const member of path) {
        inChain.set(member, answer);
        if (answer) members.add(member);
      }
    });
    return members;
  }

  async invalidate(selector: Selector, options: { dryRun: boolean; reason: string; actor: string }): Promise<InvalidateAnswer> {
    const state = this.#state;
    // What is known of a file without a chunk is its header alone; the index must know it before volatile fields can be judged.
    if (!options.dryRun && isVolatile(selector) && !(await this.allKnown())) {
      throw new KvtierError('SHUTTING_DOWN', 'Cannot invalidate by what only the index knows: the agent is shutting down');
    }
    const generation = state.nextGeneration();
    const id = `inv-${generation.toString(36)}-${this.#nextNumber++}`;
    let matchedChunks = 0;
    let removedBytes = 0;
    if (options.dryRun) {
      await this.forEachMatch(selector, generation, (entry) => {
        matchedChunks += 1;
        removedBytes += state.index.sizeBytes(entry);
      });
      return { id, matchedChunks, removedBytes, generation, dryRun: true };
    }
    this.begunCount += 1;
    const end = state.beginInvalidation(selector, generation);
    const resolved = new ResolvedKeys(state);
    try {
      this.#doomTickets(selector);
      await this.forEachMatch(selector, generation, (entry) => {
        matchedChunks += 1;
        removedBytes += state.index.sizeBytes(entry);
        // The record alone does not tell of a chunk that a volatile selector found, nor of one that got a newer generation meanwhile.
        const newest = state.index.generation(entry);
        if (isVolatile(selector) || newest > generation) resolved.add(entry, Math.max(newest, generation));
        state.remove(entry);
      });
      resolved.flush();
      const record = {
        kind: 'invalidate' as const,
        id,
        generation,
        selector,
        reason: options.reason,
        actor: options.actor,
        atMs: state.clock.nowMs(),
        matchedChunks,
        removedBytes,
      };
      await state.tombstones.invalidate(record);
      state.counters.invalidatedChunks += matchedChunks;
      const { kind: _, ...row } = record;
      state.catalog.enqueue({ kind: 'invalidation', invalidation: row satisfies CatalogInvalidation });
      this.onDurable();
      return { id, matchedChunks, removedBytes, generation, dryRun: false };
    } finally {
      resolved.release();
      end();
    }
  }

  /** Puts that began before: they will commit to nothing. Volatile fields are judged as for a chunk used this moment, in no tier. */
  #doomTickets(selector: Selector): void {
    const { namespaces, clock } = this.#state;
    const now = clock.nowMs();
    for (const ticket of this.#puts.open()) {
      const key = namespaces.wholeKey(ticket.namespace, ticket.key);
      const facts = { namespace: namespaces.descriptor(ticket.namespace), key, createdAtMs: ticket.startedAtMs };
      const inChain = selector.chainFrom === undefined || selector.chainFrom === key;
      if (matchesStable(selector, facts) && matchesVolatile(selector, { lastUsedAtMs: now, tiers: [], inChain })) ticket.doomed = true;
    }
  }
}

/** Collects keys and journals them in batches, one namespace at a time; `release` ends it. */
class ResolvedKeys {
  readonly #state: CacheState;
  readonly #keys = new Map<NamespaceId, { keys: Uint8Array[]; generation: number }>();

  constructor(state: CacheState) {
    this.#state = state;
  }

  /** Before the chunk is removed: its namespace may go with it. */
  add(entry: EntryIndex, generation: number): void {
    const { index, namespaces, tombstones } = this.#state;
    const namespace = index.namespaceOf(entry);
    const mayHaveFile = index.ssdFolder(entry) >= 0 || tombstones.mayHaveFile(() => this.#state.keyId(entry));
    if (!mayHaveFile) return;
    let batch = this.#keys.get(namespace);
    if (batch === undefined) {
      namespaces.retain(namespace);
      this.#keys.set(namespace, (batch = { keys: [], generation }));
    }
    batch.keys.push(index.keyOf(entry).slice());
    batch.generation = Math.max(batch.generation, generation);
    if (batch.keys.length >= FORGET_BATCH) this.#write(namespace, batch);
  }

  #write(namespace: NamespaceId, batch: { keys: Uint8Array[]; generation: number }): void {
    const keys = batch.keys.splice(0);
    if (keys.length > 0) this.#state.tombstones.forgetMany(this.#state.namespaces.descriptor(namespace), keys, batch.generation);
  }

  flush(): void {
    for (const [namespace, batch] of this.#keys) this.#write(namespace, batch);
  }

  release(): void {
    for (const namespace of this.#keys.keys()) this.#state.namespaces.release(namespace);
    this.#keys.clear();
  }
}
