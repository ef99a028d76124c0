/**
 * Invalidation and deletion. Once acknowledged, no later read on any door returns a matching chunk: not one whose put began
 * before, not one whose write is queued or whose file is renamed but not catalogued, and not after kill -9 at any point.
 *
 * How: open tickets that match are doomed at once; the selector counts for files that adoption finds from the first moment; chunks
 * are removed in slices, so that a million of them do not stop the process; the record is synced; only then comes the answer.
 */
import type { EntryIndex, NamespaceId } from '#core/brand.ts';
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
  /** Runs after an invalidation is durable: the folders' marks follow. */
  onDurable: () => void = () => {};

  constructor(state: CacheState, puts: Puts) {
    this.#state = state;
    this.#puts = puts;
  }

  /** True where there was a value. Throws where the journal cannot be written; then nothing was deleted. */
  delete(namespace: NamespaceId, key: Uint8Array): boolean {
    const state = this.#state;
    const { index, namespaces, tombstones } = state;
    const entry = index.find(namespace, key);
    const descriptor = namespaces.descriptor(namespace);
    const onSsd = entry >= 0 && index.ssdFolder(entry as EntryIndex) >= 0;
    if (onSsd || tombstones.mayHaveFile(() => tombstones.keyId(descriptor, key))) tombstones.forget(descriptor, key, state.nextGeneration());
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
      cursor = index.scan(cursor, SLICE_CHUNKS, (entry) => {
        if (index.generation(entry) <= generation && matcher(entry)) found.push(entry);
      });
      for (const entry of found) visit(entry);
      if (cursor !== 0) await new Promise<void>((resolve) => void this.#state.clock.schedule(0, resolve));
    } while (cursor !== 0);
  }

  /** A predicate over chunks; judges what it can once per namespace. */
  #matcher(selector: Selector): (entry: EntryIndex) => boolean {
    const state = this.#state;
    const { index, namespaces } = state;
    const perNamespace = new Map<NamespaceId, boolean>();
    const { keys, keyPrefix, createdBefore, ...rest } = selector;
    const keySet = keys === undefined ? undefined : new Set(keys);
    const needsKey = keys !== undefined || keyPrefix !== undefined;
    const chain = selector.chainFrom === undefined ? undefined : this.#chainFrom(selector.chainFrom);
    return (entry) => {
      const namespace = index.namespaceOf(entry);
      let fits = perNamespace.get(namespace);
      if (fits === undefined) {
        fits = matchesStable(rest, { namespace: namespaces.descriptor(namespace), key: '', createdAtMs: 0 });
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
      return matchesVolatile(selector, { lastUsedAtMs: index.lastUsedAtMs(entry), tiers: this.tiers(entry), inChain: chain?.has(entry) ?? true });
    };
  }

  tiers(entry: EntryIndex): TierName[] {
    const { index } = this.#state;
    const tiers: TierName[] = [];
    if (index.ramSlot(entry) >= 0) tiers.push('ram');
    if (index.ssdFolder(entry) >= 0) tiers.push('ssd');
    return tiers;
  }

  /** A chunk and its known descendants. One pass that follows each chunk's ancestors, with an answer kept for all on the way. */
  #chainFrom(wholeKey: string): Set<number> {
    const state = this.#state;
    const { index } = state;
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
        if (state.wholeKey(current as EntryIndex) === wholeKey) {
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
    const end = state.tombstones.beginInvalidation(selector, generation);
    try {
      this.#doomTickets(selector);
      const resolved = isVolatile(selector) ? new ResolvedKeys(state, generation) : undefined;
      await this.forEachMatch(selector, generation, (entry) => {
        matchedChunks += 1;
        removedBytes += state.index.sizeBytes(entry);
        resolved?.add(entry);
        state.remove(entry);
      });
      resolved?.flush();
      const record = {
        kind: 'invalidate' as const, id, generation, selector, reason: options.reason, actor: options.actor, atMs: state.clock.nowMs(), matchedChunks, removedBytes,
      };
      await state.tombstones.invalidate(record);
      state.counters.invalidatedChunks += matchedChunks;
      const { kind: _, ...row } = record;
      state.catalog.enqueue({ kind: 'invalidation', invalidation: row satisfies CatalogInvalidation });
      this.onDurable();
      return { id, matchedChunks, removedBytes, generation, dryRun: false };
    } finally {
      end();
    }
  }

  /** Puts that began before: they will commit to nothing. Volatile fields are judged as for a chunk used this moment, in no tier. */
  #doomTickets(selector: Selector): void {
    const { namespaces, clock } = this.#state;
    const now = clock.nowMs();
    for (const ticket of this.#puts.open) {
      const key = namespaces.wholeKey(ticket.namespace, ticket.key);
      const facts = { namespace: namespaces.descriptor(ticket.namespace), key, createdAtMs: ticket.startedAtMs };
      const inChain = selector.chainFrom === undefined || selector.chainFrom === key;
      if (matchesStable(selector, facts) && matchesVolatile(selector, { lastUsedAtMs: now, tiers: [], inChain })) ticket.doomed = true;
    }
  }
}

/** Collects the keys of a volatile selector and journals them in batches, one namespace at a time. */
class ResolvedKeys {
  readonly #state: CacheState;
  readonly #generation: number;
  readonly #keys = new Map<NamespaceId, Uint8Array[]>();

  constructor(state: CacheState, generation: number) {
    this.#state = state;
    this.#generation = generation;
  }

  /** Before the chunk is removed: its namespace may go with it. */
  add(entry: EntryIndex): void {
    const { index, namespaces, tombstones } = this.#state;
    const namespace = index.namespaceOf(entry);
    const mayHaveFile = index.ssdFolder(entry) >= 0 || tombstones.mayHaveFile(() => this.#state.keyId(entry));
    if (!mayHaveFile) return;
    let keys = this.#keys.get(namespace);
    if (keys === undefined) {
      namespaces.retain(namespace);
      this.#keys.set(namespace, (keys = []));
    }
    keys.push(index.keyOf(entry).slice());
    if (keys.length >= FORGET_BATCH) this.#write(namespace, keys.splice(0));
  }

  #write(namespace: NamespaceId, keys: readonly Uint8Array[]): void {
    if (keys.length > 0) this.#state.tombstones.forgetMany(this.#state.namespaces.descriptor(namespace), keys, this.#generation);
  }

  flush(): void {
    for (const [namespace, keys] of this.#keys) {
      this.#write(namespace, keys);
      this.#state.namespaces.release(namespace);
    }
    this.#keys.clear();
  }
}
