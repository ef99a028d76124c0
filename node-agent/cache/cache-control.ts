/** The operators' side of the cache: statistics, pages of chunks, and orders. Implements CacheControl (control.ts). */
import type { EntryIndex } from '#core/brand.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';
import type { PinMode } from '#core/pin-mode.ts';
import type { Selector } from '#core/selector.ts';
import type { CatalogInvalidation } from '#ports/catalog-store.ts';
import type { CacheState } from './cache-state.ts';
import type {
  CacheControl,
  CacheStats,
  ChunkFilter,
  ChunkInfo,
  FolderStats,
  HbmStats,
  InvalidateAnswer,
  KeyOwner,
  LookupAnswer,
  NamespaceStats,
  PinAnswer,
  PinOptions,
  PinSum,
  PrefetchAnswer,
  PrefetchOptions,
  TenantQuota,
  TierName,
  TierStats,
  UnpinAnswer,
  VerifyProgress,
} from './control.ts';
import { hbmStats, hbmTierStats } from './hbm-stats.ts';
import type { HbmSide } from './hbm-side.ts';
import type { Invalidator } from './invalidator.ts';
import { wholeKeyOf } from './namespace-table.ts';
import type { LoadOutcome } from './load-table.ts';
import { PinOrders } from './pin-orders.ts';
import type { RamSpace } from './ram-space.ts';
import type { Recovery } from './recovery.ts';
import type { SsdReader } from './ssd-reader.ts';
import type { SsdWriter } from './ssd-writer.ts';

interface ControlParts {
  readonly state: CacheState;
  readonly space: RamSpace;
  readonly writer: SsdWriter;
  readonly reader: SsdReader;
  readonly invalidator: Invalidator;
  readonly recovery: Recovery;
  readonly hbm: HbmSide | undefined;
}

/** Of one request; as many bytes as read-ahead may have bring fewer of large chunks. */
const PREFETCHES_AT_ONCE = 1024;
/** Begun in one turn of the event loop: a copy from a device costs some 10 us to begin. */
const PREFETCHES_A_TURN = 32;

/** Turns a key in the client's spelling into namespace and key bytes; the grammar's business (protocol/lmcache-key.ts). */
export type ParseKey = (key: string, tenant?: string) => { readonly descriptor: NamespaceDescriptor; readonly key: Uint8Array } | undefined;

const VERIFY_REPORT_EVERY = 64;
/** Rows looked at for one page, so that a filter that matches nothing costs a bounded time per request. */
const PAGE_SCAN_ROWS = 65_536;

export class CacheControlPart implements CacheControl {
  readonly #state: CacheState;
  readonly #parts: ControlParts;
  readonly #pinOrders: PinOrders;
  /** Settles once the epochs asked for so far are moved. */
  #bumps: Promise<void> = Promise.resolve();
  /** Set by the composition root. */
  parseKey: ParseKey = () => undefined;
  /** Conditions of the whole agent that a tier suffers from; set by the composition root. */
  tierReasons: (tier: TierName) => readonly string[] = () => [];

  constructor(parts: ControlParts) {
    this.#parts = parts;
    this.#state = parts.state;
    this.#pinOrders = new PinOrders({
      state: parts.state,
      matches: (selector) => this.#matches(selector),
      persist: (entry) => parts.writer.persist(entry),
      bring: (entry) => parts.hbm?.reader.load(entry, 'prefetch') ?? Promise.resolve(),
    });
  }

  stats(): CacheStats {
    const { counters: c, limits, leases, catalog, namespaces, pins, ssd } = this.#state;
    return {
      tiers: [...this.#hbmTier(), this.#ramStats(), ...this.#ssdStats()],
      ...this.#hbmStats(),
      probes: c.probes,
      probeHits: c.probeHits,
      lookups: c.lookups,
      hits: { hbm: c.hitsHbm, ram: c.hitsRam, ssd: c.hitsSsd },
      misses: c.misses,
      puts: c.puts,
      putBytes: c.putBytes,
      duplicatePuts: c.duplicatePuts,
      rejectedPuts: {
        tooLarge: c.rejectedTooLarge,
        shed: c.rejectedShed,
        draining: c.rejectedDraining,
        quota: c.rejectedQuota,
        quotaSlot: c.rejectedQuotaSlot,
      },
      droppedDirtyChunks: c.droppedDirtyChunks,
      evictions: { hbm: c.evictionsHbm, ram: c.evictionsRam, ssd: c.evictionsSsd },
      demotions: c.demotions,
      promotions: c.promotions,
      deletes: c.deletes,
      invalidatedChunks: c.invalidatedChunks,
      expiredChunks: c.expiredChunks,
      sizeGuardMisses: c.sizeGuardMisses,
      refusedLookups: c.refusedLookups,
      storeAdmission: {
        mode: limits.ssdAdmission,
        admittedChunks: c.admittedChunks,
        skippedChunks: c.skippedChunks,
        shedChunks: c.shedChunks,
        writeBudgetBytesPerSecond: limits.ssdWriteBytesPerSecond,
      },
      leases: leases.count,
      pins: { chunks: pins.count, lost: c.lostPins, ...structuredClone(pins.usage) },
      quotas: { tenants: namespaces.tenants.quotaCount, evictions: { ram: c.quotaEvictionsRam, ssd: c.quotaEvictionsSsd } },
      io: {
        readBytes: ssd.readBytes,
        writtenBytes: ssd.writtenBytes,
        readErrors: ssd.readErrors,
        writeErrors: ssd.writeErrors,
        checksumMismatches: ssd.checksumMismatches,
        quarantinedFiles: ssd.quarantinedFiles,
        queueDepth: ssd.queueDepth(),
        readLatencyMs: { p50: ssd.readLatency.percentile(0.5), p99: ssd.readLatency.percentile(0.99) },
        writeLatencyMs: { p50: ssd.writeLatency.percentile(0.5), p99: ssd.writeLatency.percentile(0.99) },
      },
      catalog: catalog.stats(),
      recovery: { ...this.#parts.recovery.progress },
    };
  }

  #hbmTier(): TierStats[] {
    const { hbm, leases } = this.#state;
    return hbm === undefined ? [] : [hbmTierStats(hbm, leases.bytes('hbm'), this.tierReasons('hbm'))];
  }

  #hbmStats(): { hbm?: HbmStats } {
    const { hbm } = this.#state;
    return hbm === undefined ? {} : { hbm: hbmStats(hbm, this.#parts.hbm?.exports.count ?? 0) };
  }

  #ramStats(): TierStats {
    const { ram, ramBytes, dirtyBytes, ramOrder, leases } = this.#state;
    const reasons = [...ram.reasons, ...this.tierReasons('ram')];
    return {
      tier: 'ram',
      state: ram.growing ? 'starting' : reasons.length > 0 ? 'degraded' : 'ok',
      reasons,
      capacityBytes: ram.capacityBytes,
      usedBytes: ramBytes,
      dirtyBytes,
      chunkCount: ramOrder.size,
      leasedBytes: leases.bytes('ram'),
    };
  }

  #ssdStats(): TierStats[] {
    const { ssd, ssdOrder, leases } = this.#state;
    if (ssd.folders.length === 0) return [];
    const folders = ssd.folders.map((folder): FolderStats => ({
      path: folder.path,
      id: folder.id,
      state: folder.state,
      reason: folder.reason,
      capacityBytes: folder.capacityBytes,
      usedBytes: folder.usedBytes,
      chunkCount: folder.chunkCount,
      direct: folder.direct ?? true,
      readBytesPerSecond: folder.read.bytesPerSecond,
      writeBytesPerSecond: folder.write.bytesPerSecond,
    }));
    const reasons = folders.filter((folder) => folder.reason !== '').map((folder) => `${folder.path}: ${folder.reason}`);
    for (const folder of ssd.folders)
      if (folder.direct === false && folder.state !== 'off' && ssd.wantsDirect)
        reasons.push(`${folder.path}: no O_DIRECT here, reads and writes go through the page cache`);
    reasons.push(...this.tierReasons('ssd'));
    const alive = folders.some((folder) => folder.state !== 'off');
    return [
      {
        tier: 'ssd',
        state: !alive ? 'off' : folders.some((folder) => folder.state !== 'ok') ? 'degraded' : 'ok',
        reasons,
        capacityBytes: ssd.capacityBytes,
        usedBytes: ssd.usedBytes,
        dirtyBytes: 0,
        chunkCount: ssdOrder.size,
        leasedBytes: leases.bytes('ssd'),
        folders,
      },
    ];
  }

  namespaces(): readonly NamespaceStats[] {
    const { namespaces, hbm } = this.#state;
    const rows: NamespaceStats[] = [];
    namespaces.forEach((id) => {
      const usage = namespaces.usage(id);
      if (usage.chunkCount === 0) return;
      rows.push({
        label: namespaces.label(id),
        descriptor: namespaces.descriptor(id),
        chunkCount: usage.chunkCount,
        bytes: { ...(hbm === undefined ? {} : { hbm: usage.hbmBytes }), ram: usage.ramBytes, ssd: usage.ssdBytes },
      });
    });
    return rows;
  }

  chunks(
    filter: ChunkFilter,
    page: { readonly cursor?: string; readonly limit: number },
  ): { readonly chunks: readonly ChunkInfo[]; readonly cursor: string | undefined } {
    const { index } = this.#state;
    const chunks: ChunkInfo[] = [];
    let cursor = page.cursor === undefined ? 0 : Number(page.cursor);
    if (!Number.isSafeInteger(cursor) || cursor < 0) return { chunks, cursor: undefined };
    for (let scanned = 0; scanned < PAGE_SCAN_ROWS;) {
      const step = page.limit - chunks.length;
      cursor = index.scan(cursor, step, (entry) => {
        scanned += 1;
        if (this.#passes(entry, filter)) chunks.push(this.#info(entry));
      });
      if (cursor === 0) return { chunks, cursor: undefined };
      if (chunks.length >= page.limit) break;
      if (scanned === 0) scanned += step;
    }
    return { chunks, cursor: String(cursor) };
  }

  #passes(entry: EntryIndex, filter: ChunkFilter): boolean {
    const { index, namespaces, expiry } = this.#state;
    if (expiry.isOver(entry)) return false;
    const namespace = index.namespaceOf(entry);
    const descriptor = namespaces.descriptor(namespace);
    if (filter.model !== undefined && descriptor.model !== filter.model) return false;
    if (filter.tenant !== undefined && descriptor.tenant !== filter.tenant) return false;
    if (filter.namespace !== undefined && namespaces.label(namespace) !== filter.namespace) return false;
    if (filter.tier !== undefined && !this.#parts.invalidator.tiers(entry).includes(filter.tier)) return false;
    if (filter.olderThan !== undefined && !(index.lastUsedAtMs(entry) < filter.olderThan)) return false;
    return filter.keyPrefix === undefined || this.#state.wholeKey(entry).startsWith(filter.keyPrefix);
  }

  #info(entry: EntryIndex): ChunkInfo {
    const state = this.#state;
    const { index, namespaces } = state;
    const namespace = index.namespaceOf(entry);
    const parent = index.parent(entry);
    return {
      id: `${entry}-${index.generation(entry)}`,
      key: state.wholeKey(entry),
      namespace: namespaces.label(namespace),
      model: namespaces.descriptor(namespace).model,
      tenant: namespaces.descriptor(namespace).tenant,
      sizeBytes: index.sizeBytes(entry),
      checksum: index.checksum(entry).toString(16).padStart(16, '0'),
      generation: index.generation(entry),
      createdAtMs: index.createdAtMs(entry),
      lastUsedAtMs: index.lastUsedAtMs(entry),
      expiresAtMs: index.expiresAtMs(entry) === 0 ? undefined : index.expiresAtMs(entry),
      hitCount: index.hitCount(entry),
      parentId: parent < 0 ? undefined : `${parent}-${index.generation(parent as EntryIndex)}`,
      tiers: this.#parts.invalidator.tiers(entry),
      dirty: state.isDirty(entry) || state.hbm?.strays.has(entry) === true,
      leased: index.leaseCount(entry) > 0,
      pinned: state.pins.modeOf(entry),
    };
  }

  chunk(id: string): ChunkInfo | undefined {
    const match = /^(\d{1,10})-(\d{1,16})$/.exec(id);
    if (match === null) return undefined;
    const ref = { entry: Number(match[1]), generation: Number(match[2]) };
    const entry = ref.entry as EntryIndex;
    return this.#state.isSame(ref) && !this.#state.expiry.isOver(entry) ? this.#info(entry) : undefined;
  }

  #findKey(key: string, { tenant }: KeyOwner): EntryIndex | undefined {
    const parsed = this.parseKey(key, tenant);
    const namespace = parsed === undefined ? undefined : this.#state.namespaces.find(parsed.descriptor);
    if (parsed === undefined || namespace === undefined) return undefined;
    const entry = this.#state.expiry.find(namespace, parsed.key);
    return entry < 0 ? undefined : (entry as EntryIndex);
  }

  lookup(keys: readonly string[], owner: KeyOwner = {}): readonly LookupAnswer[] {
    const { index } = this.#state;
    let gap = false;
    return keys.map((key): LookupAnswer => {
      const entry = this.#findKey(key, owner);
      if (entry === undefined || gap) {
        const reason = entry === undefined ? 'absent' : 'gap';
        gap = true;
        return { key, tier: undefined, sizeBytes: undefined, reason };
      }
      return {
        key,
        tier: index.ramSlot(entry) >= 0 ? 'ram' : this.#state.isInHbm(entry) ? 'hbm' : 'ssd',
        sizeBytes: index.sizeBytes(entry),
        reason: '',
      };
    });
  }

  async prefetch(keys: readonly string[], options: PrefetchOptions = {}): Promise<PrefetchAnswer> {
    const answer = { promoted: 0, alreadyInRam: 0, missing: 0, refused: 0 };
    const { tier = 'ram' } = options;
    const { index, limits } = this.#state;
    let at = 0;
    let bytesUnderWay = 0;
    const run = async (): Promise<void> => {
      for (let key = keys[at]; key !== undefined; key = keys[at]) {
        const entry = this.#findKey(key, options);
        const sizeBytes = entry === undefined ? 0 : index.sizeBytes(entry);
        // Those that are under way go on with it.
        if (bytesUnderWay > 0 && bytesUnderWay + sizeBytes > limits.readAheadBytes) return;
        at += 1;
        if (entry === undefined) answer.missing += 1;
        else if (this.#parts.invalidator.tiers(entry).includes(tier)) answer.alreadyInRam += 1;
        else {
          bytesUnderWay += sizeBytes;
          const outcome = await this.#bring(entry, tier);
          bytesUnderWay -= sizeBytes;
          answer[outcome === 'loaded' ? 'promoted' : outcome === 'gone' ? 'missing' : 'refused'] += 1;
        }
      }
    };
    // Promotions to HBM have few copies at once, and one that finds none left is refused.
    const count = tier === 'hbm' ? 1 : Math.min(keys.length, PREFETCHES_AT_ONCE);
    const running: Promise<void>[] = [];
    for (let index = 0; index < count && at < keys.length; index += 1) {
      running.push(run());
      if (running.length % PREFETCHES_A_TURN === 0) await this.#turn();
    }
    await Promise.all(running);
    return answer;
  }

  /** Lets everybody else have a turn. */
  #turn(): Promise<void> {
    return new Promise((resolve) => void this.#state.clock.schedule(0, resolve));
  }

  async #bring(entry: EntryIndex, tier: 'hbm' | 'ram'): Promise<LoadOutcome> {
    const state = this.#state;
    const { hbm, reader } = this.#parts;
    const ref = { entry, generation: state.index.generation(entry) };
    if (state.index.ramSlot(entry) < 0) {
      const outcome = state.isInHbm(entry) ? await hbm?.reader.load(entry, 'prefetch') : await reader.load(entry, 'prefetch');
      if (outcome !== 'loaded' || tier === 'ram') return outcome ?? 'refused';
    }
    if (!state.isSame(ref)) return 'gone';
    const outcome = (await hbm?.placement.promoteNow(entry)) ?? 'refused';
    return outcome === 'promoted' ? 'loaded' : outcome;
  }

  /** Whole keys in the spelling that the index gives: an entry of two names (redis:// twins) is meant by either. */
  #spelled(selector: Selector): Selector {
    const spell = (key: string): string => {
      const parsed = this.parseKey(key);
      return parsed === undefined ? key : wholeKeyOf(parsed.descriptor, parsed.key);
    };
    const { keys, chainFrom, ...rest } = selector;
    return {
      ...rest,
      ...(keys === undefined ? {} : { keys: keys.map(spell) }),
      ...(chainFrom === undefined ? {} : { chainFrom: spell(chainFrom) }),
    };
  }

  async #matches(selector: Selector): Promise<{ entry: EntryIndex; generation: number }[]> {
    const found: { entry: EntryIndex; generation: number }[] = [];
    const { index } = this.#state;
    await this.#parts.invalidator.forEachMatch(this.#spelled(selector), Number.MAX_SAFE_INTEGER, (entry) =>
      found.push({ entry, generation: index.generation(entry) }),
    );
    return found;
  }

  async persist(selector: Selector): Promise<{ persisted: number; alreadyOnSsd: number; failed: number; bytes: number }> {
    const state = this.#state;
    const answer = { persisted: 0, alreadyOnSsd: 0, failed: 0, bytes: 0 };
    const found = await this.#matches(selector);
    const wasDirty = new Set<EntryIndex>();
    let next = 0;
    const worker = async (): Promise<void> => {
      for (let ref = found[next++]; ref !== undefined; ref = found[next++]) {
        if (state.hbm?.strays.has(ref.entry) === true && state.isSame(ref)) await this.#parts.hbm?.reader.load(ref.entry, 'prefetch');
        if (!state.isSame(ref) || !state.isDirty(ref.entry)) continue;
        wasDirty.add(ref.entry);
        await this.#parts.writer.persist(ref.entry);
      }
    };
    await Promise.all(Array.from({ length: state.limits.writesAtOnce }, worker));
    // Counted at the end: a tier that is smaller than what was asked for has dropped the first of it for the last.
    for (const ref of found) {
      if (!state.isSame(ref)) continue;
      if (state.index.ssdFolder(ref.entry) < 0) answer.failed += 1;
      else if (!wasDirty.has(ref.entry)) answer.alreadyOnSsd += 1;
      else {
        answer.persisted += 1;
        answer.bytes += state.index.sizeBytes(ref.entry);
      }
    }
    return answer;
  }

  async evict(tier: TierName, selector: Selector): Promise<{ evicted: number; bytes: number; skipped: number }> {
    const state = this.#state;
    const answer = { evicted: 0, bytes: 0, skipped: 0 };
    for (const ref of await this.#matches(selector)) {
      if (!state.isSame(ref)) continue;
      const { entry } = ref;
      const sizeBytes = state.index.sizeBytes(entry);
      if (!this.#parts.invalidator.tiers(entry).includes(tier)) continue;
      const done = await this.#evictFrom(tier, ref);
      if (done) {
        answer.evicted += 1;
        answer.bytes += sizeBytes;
      } else answer.skipped += 1;
    }
    return answer;
  }

  async #evictFrom(tier: TierName, ref: { entry: EntryIndex; generation: number }): Promise<boolean> {
    if (tier === 'hbm') return (await this.#parts.hbm?.placement.evict(ref)) === true;
    return tier === 'ram' ? await this.#evictFromRam(ref) : this.#evictFromSsd(ref.entry);
  }

  async #evictFromRam(ref: { entry: EntryIndex; generation: number }): Promise<boolean> {
    const state = this.#state;
    if (state.isDirty(ref.entry) && !(this.#parts.space.evictor.ssdMayTake(ref.entry) && (await this.#parts.writer.persist(ref.entry))))
      return false;
    // Dirty again: its file went while this waited. Nothing is forgotten to free a tier by order.
    if (!state.isSame(ref) || !state.ramIsFree(ref.entry) || state.isDirty(ref.entry)) return false;
    this.#parts.space.evictor.evict(ref.entry);
    return true;
  }

  #evictFromSsd(entry: EntryIndex): boolean {
    if (!this.#parts.writer.mayLeave(entry)) return false;
    this.#parts.writer.evictFromSsd(entry);
    return true;
  }

  async pin(selector: Selector, mode: PinMode, { tier }: PinOptions = {}): Promise<PinAnswer> {
    const answer = await this.#pinOrders.pin(selector, mode);
    return tier === undefined ? answer : { ...answer, inHbm: await this.#bringPinned(selector, mode) };
  }

  /** Not more than the pools have altogether: beyond that each chunk would push another pinned one out. Counted at the end. */
  async #bringPinned(selector: Selector, mode: PinMode): Promise<PinSum> {
    const state = this.#state;
    const { hbm, index } = state;
    const isPinned = (ref: { readonly entry: EntryIndex; readonly generation: number }): boolean =>
      state.isSame(ref) && state.pins.modeOf(ref.entry) === mode;
    const found = (await this.#matches(selector)).filter(isPinned);
    let leftBytes = hbm?.tier.capacityBytes ?? 0;
    for (const ref of found) {
      if (!isPinned(ref) || index.sizeBytes(ref.entry) > leftBytes) continue;
      const outcome = state.isInHbm(ref.entry) ? 'loaded' : await this.#bring(ref.entry, 'hbm');
      if (outcome === 'loaded' && state.isSame(ref)) leftBytes -= index.sizeBytes(ref.entry);
    }
    const there = found.filter((ref) => isPinned(ref) && state.isInHbm(ref.entry));
    return { chunks: there.length, bytes: there.reduce((sum, { entry }) => sum + index.sizeBytes(entry), 0) };
  }

  unpin(selector: Selector): Promise<UnpinAnswer> {
    return this.#pinOrders.unpin(selector);
  }

  quotas(): readonly ({ readonly tenant: string } & TenantQuota)[] {
    return [...this.#state.namespaces.tenants.rows()].flatMap(({ name, quota }) =>
      quota === undefined ? [] : [{ tenant: name, ...quota }],
    );
  }

  setQuota(tenant: string, quota: TenantQuota | undefined): Promise<void> {
    return this.#state.quotas.set(tenant, quota);
  }

  invalidate(
    selector: Selector,
    options: { readonly dryRun: boolean; readonly reason: string; readonly actor: string },
  ): Promise<InvalidateAnswer> {
    return this.#parts.invalidator.invalidate(this.#spelled(selector), options);
  }

  invalidations(page: { readonly beforeId?: string; readonly limit: number }): Promise<readonly CatalogInvalidation[]> {
    return this.#state.catalog.listInvalidations(page);
  }

  /** One at a time: each number is given once, and the journal has them in order. */
  bumpEpoch(
    model: string,
    options: { readonly reason: string; readonly actor: string },
  ): Promise<{ readonly model: string; readonly epoch: number } & InvalidateAnswer> {
    const bump = this.#bumps.then(() => this.#bumpEpoch(model, options));
    this.#bumps = bump.then(
      () => undefined,
      () => undefined,
    );
    return bump;
  }

  async #bumpEpoch(
    model: string,
    options: { readonly reason: string; readonly actor: string },
  ): Promise<{ readonly model: string; readonly epoch: number } & InvalidateAnswer> {
    const { tombstones } = this.#state;
    const answer = await this.#parts.invalidator.invalidate({ model }, { dryRun: false, ...options });
    // Counted behind the wait: of two at one time each gets a number of its own.
    const epoch = (tombstones.epochs.get(model)?.epoch ?? 0) + 1;
    await tombstones.setEpoch({ kind: 'epoch', model, epoch, generation: answer.generation });
    return { model, epoch, ...answer };
  }

  epochs(): readonly { readonly model: string; readonly epoch: number }[] {
    return [...this.#state.tombstones.epochs.values()].map(({ model, epoch }) => ({ model, epoch }));
  }

  async *verify(): AsyncIterable<VerifyProgress> {
    const state = this.#state;
    const { index, ssd } = state;
    const refs: { entry: EntryIndex; generation: number }[] = [];
    index.forEach((entry) => {
      if (index.ssdFolder(entry) >= 0) refs.push({ entry, generation: index.generation(entry) });
    });
    const mismatches: { path: string; key: string; problem: string }[] = [];
    let checkedBytes = 0;
    for (const [position, ref] of refs.entries()) {
      if (position % VERIFY_REPORT_EVERY === 0)
        yield { checkedFiles: position, totalFiles: refs.length, checkedBytes, mismatches: [...mismatches], done: false };
      const folderIndex = state.isSame(ref) ? index.ssdFolder(ref.entry) : -1;
      const folder = ssd.folders[folderIndex];
      if (folder === undefined) continue;
      const sizeBytes = index.sizeBytes(ref.entry);
      const wrong = await ssd.verifyFile(folderIndex, { generation: ref.generation, sizeBytes, checksum: index.checksum(ref.entry) });
      checkedBytes += sizeBytes;
      if (wrong === undefined || !state.isSame(ref) || index.ssdFolder(ref.entry) !== folderIndex) continue;
      mismatches.push({ path: ssd.path(folder, ref.generation), key: state.wholeKey(ref.entry), problem: wrong.problem });
      // A device that does not answer, or a process without descriptors, says nothing of the file.
      if (wrong.reason === 'failed') continue;
      const gone = wrong.reason === 'corrupt' ? await ssd.quarantine(folder, ref.generation, wrong.problem) : wrong.reason === 'missing';
      // Missing or wrong, the file is no replica any more; RAM's copy is good and will be written again.
      if (state.isSame(ref) && index.ssdFolder(ref.entry) === folderIndex) state.dropReplica(ref.entry, { keepFile: gone });
    }
    yield { checkedFiles: refs.length, totalFiles: refs.length, checkedBytes, mismatches, done: true };
  }
}
