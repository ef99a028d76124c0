/**
 * CatalogStore in memory, for simulations: what is committed lives in a SimCatalogRowDisk, which a second store opens after a
 * "crash" of the first. Passes the contract suite of the real one (catalog-contract.ts).
 */
import type { CatalogChange, CatalogChunk, CatalogInvalidation, CatalogLoad, CatalogStats, CatalogStore } from '#ports/catalog-store.ts';

/** What survives a process: committed rows. May be emptied by a test, as a deleted catalog.db. */
export class SimCatalogRowDisk {
  readonly chunks = new Map<number, CatalogChunk>();
  readonly invalidations = new Map<string, CatalogInvalidation>();

  clear(): void {
    this.chunks.clear();
    this.invalidations.clear();
  }
}

export class SimCatalogStore implements CatalogStore {
  readonly #disk: SimCatalogRowDisk;
  #queue: CatalogChange[] = [];
  #state: CatalogStats['state'] = 'off';
  #dropped = 0;
  /** Beyond this many waiting changes new ones are dropped; 0 drops all. */
  maxChanges = Number.MAX_SAFE_INTEGER;
  /** While set, nothing is committed and `flush` does not settle: a catalog that another process has locked. */
  #lockReason = '';
  #drained: (() => void)[] = [];
  /** Rows in a page of the load. */
  pageRows = 1000;

  constructor(disk = new SimCatalogRowDisk()) {
    this.#disk = disk;
  }

  open(): Promise<CatalogLoad> {
    this.#state = 'ok';
    for (const [generation, chunk] of this.#disk.chunks) {
      const replicas = chunk.replicas.filter((replica) => replica.tier === 'ssd').map((replica) => ({ ...replica, dirty: false }));
      if (replicas.length === 0) this.#disk.chunks.delete(generation);
      else this.#disk.chunks.set(generation, { ...chunk, replicas });
    }
    const sorted = [...this.#disk.chunks.values()].sort((a, b) => a.lastUsedAtMs - b.lastUsedAtMs || a.generation - b.generation);
    const { pageRows } = this;
    async function* pages(): AsyncGenerator<readonly CatalogChunk[]> {
      for (let at = 0; at < sorted.length; at += pageRows) yield sorted.slice(at, at + pageRows);
    }
    return Promise.resolve({ chunks: pages() });
  }

  enqueue(change: CatalogChange): void {
    if (this.#queue.length >= this.maxChanges || this.#state === 'off') this.#dropped += 1;
    else this.#queue.push(change);
  }

  /** Commits the first `count` waiting changes (all, by default): the step of a simulation. */
  commit(count = this.#queue.length): void {
    if (this.#lockReason !== '') return;
    for (const change of this.#queue.splice(0, count)) this.#apply(change);
    if (this.#queue.length > 0) return;
    for (const resolve of this.#drained.splice(0)) resolve();
  }

  lock(reason: string): void {
    this.#lockReason = reason;
  }

  unlock(): void {
    this.#lockReason = '';
    if (this.#drained.length > 0) this.commit();
  }

  flush(): Promise<void> {
    if (this.#lockReason === '') this.commit();
    if (this.#queue.length === 0) return Promise.resolve();
    return new Promise((resolve) => void this.#drained.push(resolve));
  }

  listInvalidations(options: { readonly beforeId?: string; readonly limit: number }): Promise<readonly CatalogInvalidation[]> {
    const all = new Map(this.#disk.invalidations);
    for (const change of this.#queue) if (change.kind === 'invalidation') all.set(change.invalidation.id, change.invalidation);
    const sorted = [...all.values()].sort((a, b) => b.generation - a.generation || (a.id < b.id ? 1 : -1));
    const from = options.beforeId === undefined ? 0 : sorted.findIndex((row) => row.id === options.beforeId) + 1;
    return Promise.resolve(options.beforeId !== undefined && from === 0 ? [] : sorted.slice(from, from + options.limit));
  }

  stats(): CatalogStats {
    const state = this.#state === 'ok' && this.#lockReason !== '' ? 'degraded' : this.#state;
    return { state, reason: this.#lockReason, queuedChanges: this.#queue.length, droppedChanges: this.#dropped, walBytes: 0 };
  }

  async close(): Promise<void> {
    if (this.#lockReason === '') await this.flush();
    this.#dropped += this.#queue.length;
    this.#queue = [];
    this.#state = 'off';
    for (const resolve of this.#drained.splice(0)) resolve();
  }

  #apply(change: CatalogChange): void {
    const { chunks, invalidations } = this.#disk;
    if (change.kind === 'put') chunks.set(change.chunk.generation, change.chunk);
    else if (change.kind === 'remove') chunks.delete(change.generation);
    else if (change.kind === 'invalidation') invalidations.set(change.invalidation.id, change.invalidation);
    else {
      const chunk = chunks.get(change.generation);
      const { kind: _kind, ...fields } = change;
      if (chunk !== undefined) chunks.set(change.generation, { ...chunk, ...fields });
    }
  }
}
