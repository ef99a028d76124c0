/**
 * A cache in memory that answers operators as the real one must: the twin of CacheControl for tests of the REST API, the client
 * and the CLI. Chunks are put in by hand; there are no bytes, no files and no races.
 *
 * Invariants: ids are unique and never reused; a chunk is in at least one tier; a parent's child counts it.
 */
import type {
  CacheControl,
  CacheStats,
  ChunkFilter,
  ChunkInfo,
  InvalidateAnswer,
  LookupAnswer,
  NamespaceStats,
  PinAnswer,
  PinOptions,
  TenantQuota,
  TierName,
  TierStats,
  UnpinAnswer,
  VerifyProgress,
} from '#cache/control.ts';
import { assert } from '#core/assert.ts';
import { namespaceIdentity, type NamespaceDescriptor } from '#core/namespace.ts';
import type { PinMode } from '#core/pin-mode.ts';
import { matchesStable, matchesVolatile, namespaceLabel, type Selector } from '#core/selector.ts';
import type { CatalogInvalidation } from '#ports/catalog-store.ts';

export interface SimChunk {
  readonly key: string;
  readonly namespace: NamespaceDescriptor;
  readonly sizeBytes: number;
  readonly tiers: readonly TierName[];
  readonly parentKey?: string;
  readonly createdAtMs?: number;
  readonly lastUsedAtMs?: number;
  readonly expiresAtMs?: number;
  readonly leased?: boolean;
}

interface Entry {
  readonly index: number;
  readonly generation: number;
  readonly key: string;
  readonly namespace: NamespaceDescriptor;
  readonly sizeBytes: number;
  readonly parent: Entry | undefined;
  readonly createdAtMs: number;
  readonly lastUsedAtMs: number;
  readonly expiresAtMs: number | undefined;
  readonly leased: boolean;
  readonly tiers: Set<TierName>;
  pinned: PinMode | undefined;
}

const order: readonly TierName[] = ['hbm', 'ram', 'ssd'];

/** A namespace of LMCache's object keys: `model@rank@group@hash[@salt]`. */
export function simNamespace(fields: { readonly model: string; readonly tenant?: string; readonly rank?: string }): NamespaceDescriptor {
  const { model, tenant = 'default', rank = '00000001' } = fields;
  return {
    grammar: 'object-key',
    tenant,
    model,
    rank,
    group: '0',
    dtype: '',
    layer: '',
    tags: {},
    keyPrefix: `${model}@${rank}@0@`,
    keyTail: tenant === 'default' ? '' : `@${tenant}`,
  };
}

export class SimCacheControl implements CacheControl {
  /** In index order. */
  readonly #entries = new Map<number, Entry>();
  readonly #log: CatalogInvalidation[] = [];
  readonly #epochs = new Map<string, number>();
  readonly #quotas = new Map<string, TenantQuota>();
  #nextIndex = 0;
  #generation = 4_294_967_296;
  #invalidatedChunks = 0;
  /** Keys whose file is corrupt: verify reports them. */
  readonly corruptKeys = new Set<string>();
  /** Overrides of counters, for tests that look at printing. */
  overrides: Partial<CacheStats> = {};
  /** Thrown by the next call of the named method. */
  readonly failNext = new Map<keyof CacheControl, Error>();
  /** Iterations of verify that ended, by their end or by a reader that went away. */
  endedVerifies = 0;
  /** Awaited by verify before every step but the first. */
  verifyGate: () => Promise<void> = () => Promise.resolve();

  readonly #nowMs: () => number;

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  put(chunk: SimChunk): string {
    assert(chunk.tiers.length > 0, 'A chunk is in at least one tier');
    const parent = chunk.parentKey === undefined ? undefined : this.#byKey(chunk.parentKey);
    const entry: Entry = {
      index: this.#nextIndex,
      generation: ++this.#generation,
      key: chunk.key,
      namespace: chunk.namespace,
      sizeBytes: chunk.sizeBytes,
      parent,
      createdAtMs: chunk.createdAtMs ?? this.#nowMs(),
      lastUsedAtMs: chunk.lastUsedAtMs ?? this.#nowMs(),
      expiresAtMs: chunk.expiresAtMs,
      leased: chunk.leased ?? false,
      tiers: new Set(chunk.tiers),
      pinned: undefined,
    };
    this.#nextIndex += 1;
    this.#entries.set(entry.index, entry);
    return idOf(entry);
  }

  stats(): CacheStats {
    this.#maybeFail('stats');
    const none = { hbm: 0, ram: 0, ssd: 0 };
    const latency = { p50: Number.NaN, p99: Number.NaN };
    return {
      tiers: [this.#tierStats('ram', 1 << 30), this.#tierStats('ssd', 2 ** 34)],
      probes: 0,
      probeHits: 0,
      lookups: 0,
      hits: none,
      misses: 0,
      puts: this.#nextIndex,
      putBytes: 0,
      duplicatePuts: 0,
      rejectedPuts: { tooLarge: 0, shed: 0, draining: 0, quota: 0, quotaSlot: 0 },
      droppedDirtyChunks: 0,
      evictions: none,
      demotions: 0,
      promotions: 0,
      deletes: 0,
      invalidatedChunks: this.#invalidatedChunks,
      expiredChunks: 0,
      sizeGuardMisses: 0,
      refusedLookups: 0,
      storeAdmission: { mode: 'idle', admittedChunks: 0, skippedChunks: 0, shedChunks: 0, writeBudgetBytesPerSecond: 0 },
      leases: this.#list().filter(({ leased }) => leased).length,
      pins: {
        chunks: this.#list().filter(({ pinned }) => pinned !== undefined).length,
        lost: 0,
        ram: { soft: this.#pinSum('ram', 'soft'), hard: this.#pinSum('ram', 'hard') },
        ssd: { soft: this.#pinSum('ssd', 'soft'), hard: this.#pinSum('ssd', 'hard') },
      },
      quotas: { tenants: this.#quotas.size, evictions: { ram: 0, ssd: 0 } },
      io: {
        readBytes: 0,
        writtenBytes: 0,
        readErrors: 0,
        writeErrors: 0,
        checksumMismatches: 0,
        quarantinedFiles: 0,
        queueDepth: 0,
        readLatencyMs: latency,
        writeLatencyMs: latency,
      },
      catalog: { state: 'ok', reason: '', queuedChanges: 0, droppedChanges: 0, walBytes: 0 },
      recovery: { done: true, adoptedFiles: 0, droppedFiles: 0, loadedRows: 0, keptChunks: 0 },
      ...this.overrides,
    };
  }

  namespaces(): readonly NamespaceStats[] {
    const byIdentity = new Map<string, Entry[]>();
    for (const entry of this.#list()) {
      const identity = namespaceIdentity(entry.namespace);
      byIdentity.set(identity, [...(byIdentity.get(identity) ?? []), entry]);
    }
    return [...byIdentity.values()].map((entries) => {
      const descriptor = entries[0]?.namespace ?? simNamespace({ model: '' });
      return {
        label: namespaceLabel(descriptor),
        descriptor,
        chunkCount: entries.length,
        bytes: { ram: bytesIn('ram', entries), ssd: bytesIn('ssd', entries) },
      };
    });
  }

  chunks(filter: ChunkFilter, page: { readonly cursor?: string; readonly limit: number }): ReturnType<CacheControl['chunks']> {
    if (page.cursor !== undefined && !/^\d{1,15}$/.test(page.cursor)) return { chunks: [], cursor: undefined };
    const after = page.cursor === undefined ? -1 : Number(page.cursor);
    const rest = this.#matching(filter).filter(({ index }) => index > after);
    const shown = rest.slice(0, page.limit);
    const last = shown.at(-1);
    return {
      chunks: shown.map((entry) => this.#info(entry)),
      cursor: rest.length > page.limit && last !== undefined ? String(last.index) : undefined,
    };
  }

  chunk(id: string): ChunkInfo | undefined {
    const entry = this.#list().find((candidate) => idOf(candidate) === id);
    return entry === undefined ? undefined : this.#info(entry);
  }

  lookup(keys: readonly string[]): readonly LookupAnswer[] {
    let gap = false;
    return keys.map((key) => {
      const entry = this.#byKey(key);
      if (entry !== undefined && !gap) return { key, tier: topTier(entry), sizeBytes: entry.sizeBytes, reason: '' };
      gap = true;
      return { key, tier: undefined, sizeBytes: undefined, reason: entry === undefined ? 'absent' : 'gap' };
    });
  }

  async prefetch(keys: readonly string[]): ReturnType<CacheControl['prefetch']> {
    await this.#step('prefetch');
    const answer = { promoted: 0, alreadyInRam: 0, missing: 0, refused: 0 };
    for (const key of keys) {
      const entry = this.#byKey(key);
      if (entry === undefined) answer.missing += 1;
      else if (entry.tiers.has('ram')) answer.alreadyInRam += 1;
      else {
        entry.tiers.add('ram');
        answer.promoted += 1;
      }
    }
    return answer;
  }

  async persist(selector: Selector): ReturnType<CacheControl['persist']> {
    await this.#step('persist');
    const matching = this.#matching(selector);
    const dirty = matching.filter(({ tiers }) => !tiers.has('ssd'));
    for (const { tiers } of dirty) tiers.add('ssd');
    return {
      persisted: dirty.length,
      alreadyOnSsd: matching.length - dirty.length,
      failed: 0,
      bytes: dirty.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
    };
  }

  async evict(tier: 'hbm' | 'ram' | 'ssd', selector: Selector): ReturnType<CacheControl['evict']> {
    await this.#step('evict');
    const inTier = this.#matching(selector).filter(({ tiers }) => tiers.has(tier));
    const free = inTier.filter(({ leased }) => !leased);
    for (const entry of free) {
      entry.tiers.delete(tier);
      if (tier === 'ram') entry.tiers.add('ssd');
      if (entry.tiers.size === 0) this.#entries.delete(entry.index);
    }
    return { evicted: free.length, bytes: free.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0), skipped: inTier.length - free.length };
  }

  async pin(selector: Selector, mode: PinMode, { tier }: PinOptions = {}): Promise<PinAnswer> {
    await this.#step('pin');
    const matching = this.#matching(selector);
    const taken = matching.filter(({ pinned }) => pinned !== mode);
    const answer = { mode, pinned: sumOf(taken), heldInRam: 0, alreadyPinned: sumOf(matching.filter(({ pinned }) => pinned === mode)) };
    for (const entry of taken) {
      entry.pinned = mode;
      if (mode === 'hard') entry.tiers.add('ssd');
      if (mode === 'hard' && entry.tiers.has('ram')) answer.heldInRam += 1;
    }
    const none = { chunks: 0, bytes: 0 };
    if (tier !== undefined) for (const entry of matching) entry.tiers.add(tier);
    const inHbm = tier === undefined ? {} : { inHbm: sumOf(matching) };
    return {
      ...answer,
      ...inHbm,
      refused: { ram: none, ssd: none, count: none, unwritten: none },
      notFound: missingOf(selector, matching.length),
    };
  }

  async unpin(selector: Selector): Promise<UnpinAnswer> {
    await this.#step('unpin');
    const matching = this.#matching(selector);
    const pinned = matching.filter((entry) => entry.pinned !== undefined);
    for (const entry of pinned) entry.pinned = undefined;
    return { unpinned: sumOf(pinned), notPinned: matching.length - pinned.length, notFound: missingOf(selector, matching.length) };
  }

  quotas(): readonly ({ readonly tenant: string } & TenantQuota)[] {
    return [...this.#quotas].map(([tenant, quota]) => ({ tenant, ...quota }));
  }

  async setQuota(tenant: string, quota: TenantQuota | undefined): Promise<void> {
    await this.#step('setQuota');
    if (quota === undefined) this.#quotas.delete(tenant);
    else this.#quotas.set(tenant, quota);
  }

  async invalidate(
    selector: Selector,
    options: { readonly dryRun: boolean; readonly reason: string; readonly actor: string },
  ): Promise<InvalidateAnswer> {
    await this.#step('invalidate');
    const matching = this.#matching(selector);
    const removedBytes = matching.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
    const generation = options.dryRun ? this.#generation : ++this.#generation;
    const answer = { id: options.dryRun ? '' : `inv-${generation}`, matchedChunks: matching.length, removedBytes, generation };
    if (options.dryRun) return { ...answer, dryRun: true };
    for (const { index } of matching) this.#entries.delete(index);
    this.#invalidatedChunks += matching.length;
    this.#log.unshift({ ...answer, atMs: this.#nowMs(), selector, reason: options.reason, actor: options.actor });
    return { ...answer, dryRun: false };
  }

  async invalidations(page: { readonly beforeId?: string; readonly limit: number }): Promise<readonly CatalogInvalidation[]> {
    await this.#step('invalidations');
    const first = page.beforeId === undefined ? 0 : this.#log.findIndex(({ id }) => id === page.beforeId) + 1;
    if (page.beforeId !== undefined && first === 0) return [];
    return this.#log.slice(first, first + page.limit);
  }

  async bumpEpoch(model: string, options: { readonly reason: string; readonly actor: string }): ReturnType<CacheControl['bumpEpoch']> {
    const epoch = (this.#epochs.get(model) ?? 0) + 1;
    const answer = await this.invalidate({ model }, { dryRun: false, ...options });
    this.#epochs.set(model, epoch);
    return { model, epoch, ...answer };
  }

  epochs(): readonly { readonly model: string; readonly epoch: number }[] {
    return [...this.#epochs].map(([model, epoch]) => ({ model, epoch }));
  }

  async *verify(): AsyncGenerator<VerifyProgress, void, undefined> {
    this.#maybeFail('verify');
    try {
      const files = this.#list().filter(({ tiers }) => tiers.has('ssd'));
      const mismatches: { path: string; key: string; problem: string }[] = [];
      let checkedBytes = 0;
      for (const [position, { key, sizeBytes }] of files.entries()) {
        if (this.corruptKeys.has(key)) mismatches.push({ path: `chunks/${key}`, key, problem: 'checksum differs' });
        checkedBytes += sizeBytes;
        yield { checkedFiles: position + 1, totalFiles: files.length, checkedBytes, mismatches: [...mismatches], done: false };
        await this.verifyGate();
      }
      yield { checkedFiles: files.length, totalFiles: files.length, checkedBytes, mismatches, done: true };
    } finally {
      this.endedVerifies += 1;
    }
  }

  /** Throws InvariantError where the twin itself is wrong. */
  checkInvariants(): void {
    const ids = new Set(this.#list().map(idOf));
    assert(ids.size === this.#entries.size, `Ids repeat: ${ids.size} of ${this.#entries.size}`);
    for (const { key, tiers } of this.#list()) assert(tiers.size > 0, `Chunk ${key} is in no tier`);
  }

  #pinSum(tier: TierName, mode: PinMode): { readonly chunks: number; readonly bytes: number } {
    return sumOf(this.#list().filter(({ tiers, pinned }) => pinned === mode && tiers.has(tier)));
  }

  #list(): Entry[] {
    return [...this.#entries.values()];
  }

  #byKey(key: string): Entry | undefined {
    return this.#list().find((entry) => entry.key === key);
  }

  #matching(selector: Selector): Entry[] {
    return this.#list().filter((entry) => {
      const { key, namespace, createdAtMs, lastUsedAtMs, tiers } = entry;
      const inChain = selector.chainFrom !== undefined && isInChain(entry, selector.chainFrom);
      return (
        matchesStable(selector, { key, namespace, createdAtMs }) && matchesVolatile(selector, { lastUsedAtMs, tiers: [...tiers], inChain })
      );
    });
  }

  #tierStats(tier: 'ram' | 'ssd', capacityBytes: number): TierStats {
    const entries = this.#list().filter(({ tiers }) => tiers.has(tier));
    const dirty = tier === 'ram' ? entries.filter(({ tiers }) => !tiers.has('ssd')) : [];
    return {
      tier,
      state: 'ok',
      reasons: [],
      capacityBytes,
      usedBytes: bytesIn(tier, entries),
      dirtyBytes: bytesIn(tier, dirty),
      chunkCount: entries.length,
      leasedBytes: bytesIn(
        tier,
        entries.filter(({ leased }) => leased),
      ),
    };
  }

  #info(entry: Entry): ChunkInfo {
    const { key, namespace, sizeBytes, generation, createdAtMs, lastUsedAtMs, expiresAtMs, parent, tiers, leased, pinned } = entry;
    return {
      id: idOf(entry),
      key,
      namespace: namespaceLabel(namespace),
      model: namespace.model,
      tenant: namespace.tenant,
      sizeBytes,
      checksum: 'fedcba9876543210',
      generation,
      createdAtMs,
      lastUsedAtMs,
      expiresAtMs,
      hitCount: 0,
      parentId: parent !== undefined && this.#entries.has(parent.index) ? idOf(parent) : undefined,
      tiers: order.filter((tier) => tiers.has(tier)),
      dirty: !tiers.has('ssd'),
      leased,
      pinned,
    };
  }

  async #step(method: keyof CacheControl): Promise<void> {
    await Promise.resolve();
    this.#maybeFail(method);
  }

  #maybeFail(method: keyof CacheControl): void {
    const error = this.failNext.get(method);
    this.failNext.delete(method);
    if (error !== undefined) throw error;
  }
}

function idOf({ index, generation }: Entry): string {
  return `${index}-${generation}`;
}

function sumOf(entries: readonly Entry[]): { readonly chunks: number; readonly bytes: number } {
  return { chunks: entries.length, bytes: entries.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0) };
}

function missingOf({ keys }: Selector, found: number): number {
  return keys === undefined ? 0 : new Set(keys).size - found;
}

function topTier({ tiers }: Entry): TierName | undefined {
  return order.find((tier) => tiers.has(tier));
}

function bytesIn(tier: TierName, entries: readonly Entry[]): number {
  return entries.reduce((sum, { sizeBytes, tiers }) => sum + (tiers.has(tier) ? sizeBytes : 0), 0);
}

function isInChain(entry: Entry, key: string): boolean {
  for (let current: Entry | undefined = entry; current !== undefined; current = current.parent) if (current.key === key) return true;
  return false;
}
