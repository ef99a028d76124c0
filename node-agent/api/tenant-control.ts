/**
 * The cache as one tenant may see and order it: CacheControl, narrowed. What is not about the tenant's own chunks is refused, what
 * is not kept by tenant is 0. A method that CacheControl gains does not compile until somebody decides here what a tenant gets.
 */
import type {
  CacheControl,
  CacheStats,
  ChunkFilter,
  ChunkInfo,
  InvalidateAnswer,
  LookupAnswer,
  NamespaceStats,
  PrefetchOptions,
  TierStats,
  VerifyProgress,
} from '#cache/control.ts';
import { KvtierError } from '#core/errors.ts';
import type { Selector } from '#core/selector.ts';

type Invalidations = Awaited<ReturnType<CacheControl['invalidations']>>;

/** Rows of the audit log read at one time, and how often for one page: the log itself is bounded, see the catalog. */
const AUDIT_ROWS = 1000;
const AUDIT_READS = 100;

/** The selector that matches what `selector` does, among the tenant's; undefined where it names another tenant. */
export function narrowed(selector: Selector, tenant: string): Selector | undefined {
  const { all: _, ...rest } = selector;
  return rest.tenant === undefined || rest.tenant === tenant ? { ...rest, tenant } : undefined;
}

export class TenantControl implements CacheControl {
  readonly #control: CacheControl;
  readonly #tenant: string;

  constructor(control: CacheControl, tenant: string) {
    this.#control = control;
    this.#tenant = tenant;
  }

  stats(): CacheStats {
    const stats = this.#control.stats();
    const own = this.namespaces();
    const none = { hbm: 0, ram: 0, ssd: 0 };
    const nothing = { chunks: 0, bytes: 0 };
    return {
      tiers: stats.tiers.map((tier) => this.#ownTier(tier, own)),
      probes: 0,
      probeHits: 0,
      lookups: 0,
      hits: none,
      misses: 0,
      puts: 0,
      putBytes: 0,
      duplicatePuts: 0,
      rejectedPuts: { tooLarge: 0, shed: 0, draining: 0, quota: 0, quotaSlot: 0 },
      droppedDirtyChunks: 0,
      evictions: none,
      demotions: 0,
      promotions: 0,
      deletes: 0,
      invalidatedChunks: 0,
      expiredChunks: 0,
      sizeGuardMisses: 0,
      refusedLookups: 0,
      storeAdmission: { mode: stats.storeAdmission.mode, admittedChunks: 0, skippedChunks: 0, shedChunks: 0, writeBudgetBytesPerSecond: 0 },
      leases: 0,
      pins: { chunks: 0, lost: 0, ram: { soft: nothing, hard: nothing }, ssd: { soft: nothing, hard: nothing } },
      quotas: { tenants: this.quotas().length, evictions: { ram: 0, ssd: 0 } },
      io: {
        readBytes: 0,
        writtenBytes: 0,
        readErrors: 0,
        writeErrors: 0,
        checksumMismatches: 0,
        quarantinedFiles: 0,
        queueDepth: 0,
        readLatencyMs: { p50: 0, p99: 0 },
        writeLatencyMs: { p50: 0, p99: 0 },
      },
      catalog: { state: stats.catalog.state, reason: '', queuedChanges: 0, droppedChanges: 0, walBytes: 0 },
      recovery: { done: stats.recovery.done, adoptedFiles: 0, droppedFiles: 0, loadedRows: 0, keptChunks: 0 },
    };
  }

  #ownTier({ tier, state }: TierStats, own: readonly NamespaceStats[]): TierStats {
    const usedBytes = own.reduce((sum, { bytes }) => sum + (bytes[tier] ?? 0), 0);
    return { tier, state, reasons: [], capacityBytes: 0, usedBytes, dirtyBytes: 0, chunkCount: 0, leasedBytes: 0 };
  }

  namespaces(): readonly NamespaceStats[] {
    return this.#control.namespaces().filter(({ descriptor }) => descriptor.tenant === this.#tenant);
  }

  chunks(filter: ChunkFilter, page: Parameters<CacheControl['chunks']>[1]): ReturnType<CacheControl['chunks']> {
    if (filter.tenant !== undefined && filter.tenant !== this.#tenant) return { chunks: [], cursor: undefined };
    return this.#control.chunks({ ...filter, tenant: this.#tenant }, page);
  }

  chunk(id: string): ChunkInfo | undefined {
    const found = this.#control.chunk(id);
    return found?.tenant === this.#tenant ? found : undefined;
  }

  lookup(keys: readonly string[]): readonly LookupAnswer[] {
    return this.#control.lookup(keys, { tenant: this.#tenant });
  }

  prefetch(keys: readonly string[], { tier }: PrefetchOptions = {}): ReturnType<CacheControl['prefetch']> {
    return this.#control.prefetch(keys, { tenant: this.#tenant, tier });
  }

  async persist(selector: Selector): ReturnType<CacheControl['persist']> {
    const own = narrowed(selector, this.#tenant);
    return own === undefined ? { persisted: 0, alreadyOnSsd: 0, failed: 0, bytes: 0 } : await this.#control.persist(own);
  }

  async evict(tier: 'hbm' | 'ram' | 'ssd', selector: Selector): ReturnType<CacheControl['evict']> {
    const own = narrowed(selector, this.#tenant);
    return own === undefined ? { evicted: 0, bytes: 0, skipped: 0 } : await this.#control.evict(tier, own);
  }

  /** The quarter of a tier that pins may take is everybody's: one tenant could use it up. */
  async pin(): ReturnType<CacheControl['pin']> {
    throw this.#refusal('pin chunks');
  }

  async unpin(): ReturnType<CacheControl['unpin']> {
    throw this.#refusal('end pins');
  }

  /** Its own: whoever is refused for a quota may know it. */
  quotas(): ReturnType<CacheControl['quotas']> {
    return this.#control.quotas().filter(({ tenant }) => tenant === this.#tenant);
  }

  async setQuota(): ReturnType<CacheControl['setQuota']> {
    throw this.#refusal('change a quota');
  }

  /** The audit log tells who it was. */
  async invalidate(selector: Selector, options: Parameters<CacheControl['invalidate']>[1]): Promise<InvalidateAnswer> {
    const own = narrowed(selector, this.#tenant);
    if (own === undefined) return { id: '', matchedChunks: 0, removedBytes: 0, generation: 0, dryRun: options.dryRun };
    return await this.#control.invalidate(own, { ...options, actor: this.#tenant });
  }

  /** Those that the tenant asked for. */
  async invalidations({ beforeId, limit }: Parameters<CacheControl['invalidations']>[0]): Promise<Invalidations> {
    const own: Invalidations[number][] = [];
    let after = beforeId;
    for (let reads = 0; reads < AUDIT_READS && own.length < limit; reads += 1) {
      const rows = await this.#control.invalidations({ limit: AUDIT_ROWS, ...(after === undefined ? {} : { beforeId: after }) });
      own.push(...rows.filter(({ actor }) => actor === this.#tenant));
      after = rows.at(-1)?.id;
      if (rows.length < AUDIT_ROWS) break;
    }
    return own.slice(0, limit);
  }

  async bumpEpoch(): ReturnType<CacheControl['bumpEpoch']> {
    throw this.#refusal('move the epoch of a model');
  }

  epochs(): ReturnType<CacheControl['epochs']> {
    const models = new Set(this.namespaces().map(({ descriptor }) => descriptor.model));
    return this.#control.epochs().filter(({ model }) => models.has(model));
  }

  verify(): AsyncIterable<VerifyProgress> {
    throw this.#refusal('verify the SSD tier');
  }

  #refusal(what: string): KvtierError {
    return new KvtierError('FORBIDDEN', `Cannot ${what} with a tenant's token: it is about more than one tenant`);
  }
}
