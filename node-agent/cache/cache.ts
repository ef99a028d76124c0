/**
 * The cache: one index, one thread, synchronous between awaits. This file is the doors' side (CacheDoor) and the life cycle; what
 * operators ask is in cache-control.ts, and the work is in the parts it wires: puts, ram-space, ssd-writer, ssd-reader,
 * invalidator, recovery.
 */
import { assert } from '#core/assert.ts';
import type { EntryIndex, NamespaceId, SlotIndex } from '#core/brand.ts';
import type { LmBlock } from '#core/lm-block.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';
import { CacheControlPart } from './cache-control.ts';
import { CacheState } from './cache-state.ts';
import type { CacheParts } from './cache-state.ts';
import { BATCH_KEYS } from './chunk-index.ts';
import type {
  CacheDoor,
  ChunkListener,
  ChunkRef,
  CommitOptions,
  CommitOutcome,
  DeviceRead,
  LeaseOwner,
  OpenInto,
  ProbeAll,
  ProbeOutcome,
  ProbeVisitor,
  PutRejected,
  PutRequest,
  PutTicket,
  ReadHandle,
  RefusalReason,
  ScanPage,
  TierOfBytes,
  TenantUsage,
} from './door.ts';
import type { Expiry } from './expiry.ts';
import { IN_HBM, PINNED, UNVERIFIED } from './flags.ts';
import { HbmSide } from './hbm-side.ts';
import { Invalidator } from './invalidator.ts';
import { Puts } from './puts.ts';
import { RamSpace } from './ram-space.ts';
import { RamVerifier } from './ram-verifier.ts';
import { Recovery } from './recovery.ts';
import { SsdReader } from './ssd-reader.ts';
import { SsdWriter } from './ssd-writer.ts';
import type { RegionSpan } from '#ports/local-door.ts';
import type { SsdFolder } from '#tiers/ssd/ssd-folder.ts';

const HOUSEKEEPING_MS = 250;
/** Free space and folders are looked at this often, in housekeeping turns. */
const POLL_EVERY_TURNS = 8;

export class Cache implements CacheDoor {
  readonly control: CacheControlPart;
  readonly recovery: Recovery;
  readonly #state: CacheState;
  readonly #space: RamSpace;
  readonly #puts: Puts;
  readonly #writer: SsdWriter;
  readonly #reader: SsdReader;
  readonly #invalidator: Invalidator;
  readonly #verifier: RamVerifier;
  /** Undefined: there is no HBM tier. */
  readonly #hbm: HbmSide | undefined;
  #cancelHousekeeping: (() => void) | undefined;
  #adoption: Promise<void> = Promise.resolve();
  #turn = 0;
  readonly #batchRows = new Int32Array(BATCH_KEYS);
  #polling = false;

  constructor(parts: CacheParts, options: { epoch: number; markFolders: (journalSequence: number) => void }) {
    const state = new CacheState(parts);
    state.beginEpoch(options.epoch);
    this.#state = state;
    this.#space = new RamSpace(state);
    this.#puts = new Puts(state, this.#space);
    this.#writer = new SsdWriter(state);
    this.#verifier = new RamVerifier(state);
    this.#writer.verify = (entry) => this.#verifier.verify(entry);
    this.#reader = new SsdReader(state, this.#space);
    this.#invalidator = new Invalidator(state, this.#puts);
    this.#invalidator.onDurable = () => options.markFolders(state.tombstones.sequence);
    this.recovery = new Recovery(state);
    this.#invalidator.allKnown = async () => {
      await this.#adoption;
      return this.recovery.progress.done;
    };
    this.#space.onPressure = () => this.#writer.pressure();
    this.#space.onQuotaPressure = () => this.#writer.pump();
    this.#writer.isLoading = (entry) => this.#reader.isLoading(entry);
    if (state.hbm !== undefined) this.#hbm = new HbmSide(state, state.hbm, this.#space);
    this.#connectQuotas();
    this.control = new CacheControlPart({
      state,
      space: this.#space,
      writer: this.#writer,
      reader: this.#reader,
      invalidator: this.#invalidator,
      recovery: this.recovery,
      hbm: this.#hbm,
    });
  }

  #connectQuotas(): void {
    const state = this.#state;
    const space = this.#space;
    const writer = this.#writer;
    state.quotas.connect({
      mayLeaveRam: (entry, want) => space.evictor.mayLeave(entry, want),
      leaveRam: (entry) => space.evictor.evict(entry),
      mayLeaveSsd: (entry) => writer.mayLeave(entry),
      leaveSsd: (entry) => writer.evictFromSsd(entry),
      writeSoon: () => writer.pump(),
      rowsThatWait: () => space.rowsThatWait(),
    });
    state.pins.persist = (entry) => writer.persist(entry);
  }

  /** Loads what is known of the SSD tier; the cache may serve when it resolves. Adoption of the rest goes on behind it. */
  async start(): Promise<void> {
    await this.recovery.load();
    this.#writer.start();
    this.#adoption = this.recovery.adopt();
    this.#housekeeping();
  }

  #housekeeping(): void {
    this.#cancelHousekeeping = this.#state.clock.schedule(HOUSEKEEPING_MS, () => {
      const state = this.#state;
      if (state.leases.expire(state.clock.monotonicMs())) state.onRoom();
      state.expiry.sweep();
      state.quotas.trim();
      state.pins.housekeep();
      this.#hbm?.placement.housekeep();
      this.#turn += 1;
      if (this.#turn % POLL_EVERY_TURNS === 0) this.#poll();
      this.#housekeeping();
    });
  }

  #poll(): void {
    if (this.#polling) return;
    this.#polling = true;
    void this.#state.ssd
      .poll()
      .then(() => this.#writer.shrink())
      .finally(() => void (this.#polling = false));
    this.#state.tombstones.payOwed();
    this.#state.tombstones.compactIfNeeded();
  }

  /** The RAM tier has more memory: whoever waits may go on. */
  ramGrew(): void {
    this.#state.onRoom();
  }

  /** A folder went off: its replicas are dropped, and stay dropped if it comes back at a later start. */
  folderLost(folder: SsdFolder): void {
    const state = this.#state;
    const { index } = state;
    state.logger.error(`SSD folder ${folder.path} is off: ${folder.reason}`, { chunks: folder.chunkCount });
    state.tombstones.dropFolder(folder.id, state.nextGeneration());
    const lost: EntryIndex[] = [];
    index.forEach((entry) => {
      if (index.ssdFolder(entry) === folder.index) lost.push(entry);
    });
    for (const entry of lost) {
      state.detachSsd(entry, { keepFile: true });
      if (index.ramSlot(entry) >= 0 || state.isInHbm(entry)) state.catalogReplicas(entry);
      else state.remove(entry);
    }
  }

  /** A device of the HBM tier is lost: what only it had is gone. */
  deviceLost(device: number): void {
    this.#hbm?.placement.deviceLost(device);
  }

  openDevice(ref: ChunkRef): DeviceRead | undefined {
    return this.#hbm?.exports.open(ref);
  }

  internNamespace(descriptor: NamespaceDescriptor): NamespaceId {
    return this.#state.namespaces.intern(descriptor);
  }

  releaseNamespace(namespace: NamespaceId): void {
    this.#state.namespaces.release(namespace);
  }

  reserve(request: PutRequest): PutTicket | PutRejected | Promise<PutTicket | PutRejected> {
    return this.#puts.reserve(request);
  }

  commit(ticket: PutTicket, checksum: bigint, options: CommitOptions = {}): CommitOutcome {
    return this.#puts.commit(ticket, checksum, options);
  }

  abort(ticket: PutTicket): void {
    this.#puts.abort(ticket);
  }

  #find(namespace: NamespaceId, key: Uint8Array): EntryIndex | undefined {
    const entry = this.#state.expiry.find(namespace, key);
    return entry < 0 ? undefined : (entry as EntryIndex);
  }

  #outcome(entry: EntryIndex): ProbeOutcome {
    const { index } = this.#state;
    return {
      ref: { entry, generation: index.generation(entry) },
      sizeBytes: index.sizeBytes(entry),
      tier: this.#tierOf(entry),
    };
  }

  #tierOf(entry: EntryIndex): TierOfBytes {
    if (this.#state.index.ramSlot(entry) >= 0) return 'ram';
    return this.#state.has(entry, IN_HBM) ? 'hbm' : 'ssd';
  }

  peek(namespace: NamespaceId, key: Uint8Array): ProbeOutcome | undefined {
    const entry = this.#find(namespace, key);
    return entry === undefined ? undefined : this.#outcome(entry);
  }

  countRefusedProbe(reason: RefusalReason): void {
    this.#state.counters.probes += 1;
    if (reason === 'size-guard') this.#state.counters.sizeGuardMisses += 1;
  }

  countRefusedLookup(reason: RefusalReason): void {
    this.#state.counters.lookups += 1;
    this.#state.counters.misses += 1;
    if (reason === 'size-guard') this.#state.counters.sizeGuardMisses += 1;
  }

  watch(listener: ChunkListener): () => void {
    return this.#state.watchers.add(listener);
  }

  probe(namespace: NamespaceId, key: Uint8Array, owner: LeaseOwner | undefined): ProbeOutcome | undefined {
    const state = this.#state;
    const entry = state.draining ? undefined : this.#find(namespace, key);
    const tier = this.#probed(entry, owner, state.clock.monotonicMs());
    if (tier === undefined || entry === undefined) return undefined;
    if (tier === 'ssd') this.#reader.readAhead(entry);
    return this.#outcome(entry);
  }

  /** Counts a probe; undefined where the answer is no. */
  #probed(entry: EntryIndex | undefined, owner: LeaseOwner | undefined, nowMs: number): TierOfBytes | undefined {
    const state = this.#state;
    state.counters.probes += 1;
    if (entry === undefined) return undefined;
    const tier = this.#tierOf(entry);
    // Yes would be a promise that the read cannot keep: the device does not answer.
    if (tier === 'ssd' && state.ssd.isStalled(state.index.ssdFolder(entry))) return undefined;
    state.counters.probeHits += 1;
    state.touch(entry, 'used');
    if (owner !== undefined && state.leases.take({ entry, sizeBytes: state.index.sizeBytes(entry), tier }, owner, nowMs) === 'new')
      state.index.setLeaseCount(entry, state.index.leaseCount(entry) + 1);
    if (tier !== 'ram') state.noteProbed(entry, tier);
    return tier;
  }

  probeAll({ namespace, keys, owner, prefix, peek }: ProbeAll, visit: ProbeVisitor): number {
    const { index, expiry, clock, draining } = this.#state;
    const nowMs = clock.monotonicMs();
    const rows = this.#batchRows;
    for (let base = 0; base < keys.length;) {
      const count = index.findBatch(namespace, keys, base, rows);
      for (let i = 0; i < count; i += 1) {
        const entry = this.#stillThere(rows[i]!, expiry);
        let tier: TierOfBytes | undefined;
        if (peek) tier = entry === undefined ? undefined : this.#tierOf(entry);
        else tier = this.#probed(draining ? undefined : entry, owner, nowMs);
        if (tier !== undefined && entry !== undefined) visit(base + i, tier, index.sizeBytes(entry));
        else if (prefix) return base + i;
      }
      base += count;
    }
    return keys.length;
  }

  /** A row of a batch. What has expired is removed, so that the row of a key that comes twice may be free. */
  #stillThere(row: number, expiry: Expiry): EntryIndex | undefined {
    const entry = row as EntryIndex;
    if (row < 0 || !this.#state.index.isLive(entry)) return undefined;
    if (!expiry.isOver(entry)) return entry;
    expiry.remove(entry);
    return undefined;
  }

  open(namespace: NamespaceId, key: Uint8Array, owner: LeaseOwner | undefined): ReadHandle | undefined | Promise<ReadHandle | undefined> {
    const state = this.#state;
    state.counters.lookups += 1;
    const entry = this.#find(namespace, key);
    if (entry === undefined) return this.#miss();
    if (state.index.ramSlot(entry) < 0) return state.has(entry, IN_HBM) ? this.#openFromHbm(entry, owner) : this.#openFromSsd(entry, owner);
    if (state.has(entry, UNVERIFIED)) return this.#openUnverified(entry, owner);
    return this.#handle(entry, state.takeProbedTier(entry), owner);
  }

  endLease(ref: ChunkRef, owner: LeaseOwner): boolean {
    const state = this.#state;
    const ended = state.isSame(ref) && state.leases.release(ref.entry, owner);
    if (ended) state.onRoom();
    return ended;
  }

  endLeases(owner: LeaseOwner): void {
    if (this.#state.leases.releaseOwner(owner)) this.#state.onRoom();
  }

  openInto(
    namespace: NamespaceId,
    key: Uint8Array,
    client: { readonly owner: LeaseOwner; readonly span: RegionSpan },
  ): OpenInto | Promise<OpenInto> {
    const state = this.#state;
    const entry = this.#find(namespace, key);
    if (entry !== undefined && state.index.sizeBytes(entry) !== client.span.sizeBytes) {
      state.counters.lookups += 1;
      this.#miss();
      return 'size';
    }
    if (entry !== undefined && state.index.ramSlot(entry) < 0 && !state.has(entry, IN_HBM)) return this.#loadInto(entry, client);
    const opened = this.open(namespace, key, client.owner);
    return opened instanceof Promise ? opened.then((handle) => handle ?? 'missing') : (opened ?? 'missing');
  }

  async #loadInto(entry: EntryIndex, { owner, span }: { readonly owner: LeaseOwner; readonly span: RegionSpan }): Promise<OpenInto> {
    const state = this.#state;
    const ref = { entry, generation: state.index.generation(entry) };
    state.counters.lookups += 1;
    const { into, outcome } = await this.#reader.loadInto(entry, span);
    const isHere = outcome === 'loaded' && state.isSame(ref) && !state.expiry.isOver(entry);
    if (!isHere || (!into && state.index.ramSlot(entry) < 0)) {
      if (outcome === 'refused' && state.isSame(ref) && !state.expiry.isOver(entry)) this.#refuse();
      else this.#miss();
      return outcome === 'fault' ? 'fault' : 'missing';
    }
    state.takeProbedTier(entry);
    if (!into) return this.#handle(entry, 'ssd', owner);
    state.counters.hitsSsd += 1;
    state.use(entry);
    state.touch(entry, 'used');
    if (state.leases.release(entry, owner)) state.onRoom();
    return 'loaded';
  }

  #miss(): undefined {
    this.#state.counters.misses += 1;
    return undefined;
  }

  /** A miss of what is there: nobody gave way in RAM in time, or its device does not answer. */
  #refuse(): undefined {
    this.#state.counters.refusedLookups += 1;
    return this.#miss();
  }

  /** What a former process left in RAM is served once its checksum was found right; else SSD has it, or nobody. */
  async #openUnverified(entry: EntryIndex, owner: LeaseOwner | undefined): Promise<ReadHandle | undefined> {
    const state = this.#state;
    const ref = { entry, generation: state.index.generation(entry) };
    await this.#verifier.verify(entry);
    if (!state.isSame(ref) || state.expiry.isOver(entry)) return this.#miss();
    // Also where the same bytes were put meanwhile: these are right.
    if (state.index.ramSlot(entry) >= 0 && !state.has(entry, UNVERIFIED)) return this.#handle(entry, state.takeProbedTier(entry), owner);
    return state.index.ssdFolder(entry) >= 0 ? await this.#openFromSsd(entry, owner) : this.#refuse();
  }

  /** By a copy into RAM; where the device cannot, SSD has it, or nobody. */
  async #openFromHbm(entry: EntryIndex, owner: LeaseOwner | undefined): Promise<ReadHandle | undefined> {
    const state = this.#state;
    const ref = { entry, generation: state.index.generation(entry) };
    const outcome = await this.#hbm?.reader.load(entry, 'demand');
    if (!state.isSame(ref) || state.expiry.isOver(entry)) return this.#miss();
    if (state.index.ramSlot(entry) < 0) {
      return outcome !== 'loaded' && state.index.ssdFolder(entry) >= 0 ? await this.#openFromSsd(entry, owner) : this.#refuse();
    }
    state.takeProbedTier(entry);
    return this.#handle(entry, 'hbm', owner);
  }

  async #openFromSsd(entry: EntryIndex, owner: LeaseOwner | undefined): Promise<ReadHandle | undefined> {
    const state = this.#state;
    const ref = { entry, generation: state.index.generation(entry) };
    const outcome = await this.#reader.load(entry, 'demand');
    if (!state.isSame(ref) || state.expiry.isOver(entry)) return this.#miss();
    if (outcome !== 'loaded' || state.index.ramSlot(entry) < 0) return this.#refuse();
    state.takeProbedTier(entry);
    return this.#handle(entry, 'ssd', owner);
  }

  #handle(entry: EntryIndex, tier: TierOfBytes, owner: LeaseOwner | undefined): ReadHandle {
    const state = this.#state;
    const { ram, index } = state;
    const slot = index.ramSlot(entry) as SlotIndex;
    const sizeBytes = index.sizeBytes(entry);
    if (tier === 'ram') state.counters.hitsRam += 1;
    else if (tier === 'ssd') state.counters.hitsSsd += 1;
    else state.counters.hitsHbm += 1;
    ram.retain(slot);
    state.use(entry);
    state.touch(entry, tier === 'ram' ? 'used' : 'loaded');
    if (owner !== undefined) state.leases.release(entry, owner);
    let open = true;
    return {
      address: ram.address(slot),
      sizeBytes,
      tier,
      view: () => ram.view(slot, sizeBytes),
      release: () => {
        assert(open, 'a read handle is released once');
        open = false;
        ram.release(slot);
        state.onRoom();
      },
    };
  }

  delete(namespace: NamespaceId, key: Uint8Array): boolean {
    return this.#invalidator.delete(namespace, key);
  }

  setMetadata(ref: ChunkRef, metadata: Uint8Array): boolean {
    const state = this.#state;
    const { index } = state;
    if (!state.isSame(ref)) return false;
    const entry = ref.entry as EntryIndex;
    const known = state.metadata.get(entry);
    if (known !== undefined && known.length === metadata.length && known.every((byte, offset) => byte === metadata[offset])) return true;
    if (index.ramSlot(entry) < 0 && index.ssdFolder(entry) >= 0 && known !== undefined) {
      // Its file holds the old twin and cannot be rewritten without its bytes: forgotten rather than paired with the wrong twin.
      this.#invalidator.delete(index.namespaceOf(entry), index.keyOf(entry).slice());
      return false;
    }
    state.setMetadata(entry, metadata);
    state.outdateFile(entry);
    return true;
  }

  expiryNowMs(): number {
    return this.#state.expiry.nowMs();
  }

  get expiringCount(): number {
    return this.#state.index.expiringCount;
  }

  expiresAtMs(ref: ChunkRef): number | undefined {
    const { index, expiry } = this.#state;
    const entry = ref.entry as EntryIndex;
    return this.#state.isSame(ref) && !expiry.isOver(entry) ? index.expiresAtMs(entry) : undefined;
  }

  setExpiry(ref: ChunkRef, atMs: number): boolean {
    const { index, expiry } = this.#state;
    if (this.expiresAtMs(ref) === undefined) return false;
    const entry = ref.entry as EntryIndex;
    if (atMs !== 0 && atMs <= expiry.nowMs()) return this.#invalidator.delete(index.namespaceOf(entry), index.keyOf(entry).slice());
    expiry.change(entry, atMs === 0 ? 0 : expiry.resolve({ atMs }, index.namespaceOf(entry), entry));
    return true;
  }

  metadata(ref: ChunkRef): Uint8Array | undefined {
    return this.#state.isSame(ref) ? this.#state.metadata.get(ref.entry) : undefined;
  }

  lmBlock(ref: ChunkRef): LmBlock | undefined {
    return this.#state.isSame(ref) ? this.#state.lmBlocks.get(ref.entry) : undefined;
  }

  link(parent: ChunkRef, child: ChunkRef): void {
    const state = this.#state;
    if (!state.isSame(parent) || !state.isSame(child) || parent.entry === child.entry) return;
    if (state.index.parent(child.entry as EntryIndex) === parent.entry) return;
    if (!state.setParent(child.entry as EntryIndex, parent.entry as EntryIndex)) return;
    state.remember(child.entry as EntryIndex);
    state.catalog.enqueue({ kind: 'parent', generation: child.generation, parentGeneration: parent.generation });
  }

  isCurrent(ref: ChunkRef): boolean {
    return this.#state.isSame(ref);
  }

  giveUp(ref: ChunkRef): boolean {
    const entry = ref.entry as EntryIndex;
    if (!this.#state.isSame(ref) || !this.#state.ramIsFree(entry) || this.#state.has(entry, PINNED)) return false;
    this.#space.evictor.evict(entry);
    return true;
  }

  touchChain(chain: readonly ChunkRef[]): void {
    // Each chunk brings its ancestors along, so of chunks that are linked already the last alone is touched.
    const state = this.#state;
    let covered: EntryIndex | -1 = -1;
    for (let index = chain.length - 1; index >= 0; index -= 1) {
      const ref = chain[index];
      if (ref === undefined || !state.isSame(ref)) continue;
      const entry = ref.entry as EntryIndex;
      if (entry !== covered) state.touch(entry, 'stored');
      covered = state.index.parent(entry);
    }
  }

  scan(cursor: number, { limit, tenant }: ScanPage, visit: (key: Uint8Array, ref: ChunkRef) => void): number {
    const { index, namespaces, expiry } = this.#state;
    return index.scan(cursor, limit, (entry) => {
      if (tenant !== undefined && namespaces.descriptor(index.namespaceOf(entry)).tenant !== tenant) return;
      if (expiry.isOver(entry)) return;
      visit(namespaces.wholeKeyBytes(index.namespaceOf(entry), index.keyOf(entry)), { entry, generation: index.generation(entry) });
    });
  }

  /** Why no deletion, overwrite of a file or invalidation is taken now; undefined while all is well. */
  get journalProblem(): string | undefined {
    return this.#state.tombstones.problem;
  }

  get chunkCount(): number {
    return this.#state.index.entryCount;
  }

  usageOf(tenant: string): TenantUsage {
    return this.#state.namespaces.usageOf(tenant);
  }

  get invalidationCount(): number {
    return this.#invalidator.begunCount;
  }

  async flushAll(actor: string, tenant?: string): Promise<void> {
    const selector = tenant === undefined ? ({ all: true } as const) : { tenant };
    await this.#invalidator.invalidate(selector, { dryRun: false, reason: 'flush', actor });
  }

  /** From now on probes answer no and puts are rejected; transfers under way may end. */
  beginDrain(): void {
    this.#state.draining = true;
    this.#space.stop();
    this.#state.quotas.stop();
    this.#state.pins.stop();
    this.recovery.stop();
  }

  /** Writes what is dirty until the deadline (monotonic ms), closes the catalog and the journal. Resolves with the bytes lost. */
  async close(deadlineMs: number): Promise<number> {
    this.beginDrain();
    this.#cancelHousekeeping?.();
    this.#state.expiry.stop();
    this.#writer.stop();
    await this.#hbm?.drain((entry) => this.#writer.persist(entry), deadlineMs);
    const lostBytes = (await this.#writer.drain(deadlineMs)) + (this.#state.hbm?.strayBytes ?? 0);
    // Adoption ends with the batch of headers that it reads; a device that does not answer is not waited for.
    await Promise.race([this.#adoption, this.#until(deadlineMs)]);
    await this.#state.catalog.close();
    await this.#state.tombstones.close(this.#state.clock.nowMs());
    return lostBytes;
  }

  #until(deadlineMs: number): Promise<void> {
    const { clock } = this.#state;
    return new Promise((resolve) => void clock.schedule(Math.max(0, deadlineMs - clock.monotonicMs()), resolve));
  }

  /** For tests: everything that must hold between two steps. */
  checkInvariants(): void {
    this.#state.checkInvariants();
    this.#hbm?.placement.checkInvariants();
  }

  /** For leak tests: what one client holds. */
  leasesOf(owner: LeaseOwner): number {
    return this.#state.leases.countOfOwner(owner);
  }

  /** For leak tests: slots in use, puts under way, puts that wait. */
  holdings(): { usedSlots: number; openTickets: number; waiting: number; leases: number } {
    return {
      usedSlots: this.#state.ram.usedSlots(),
      openTickets: this.#puts.openCount,
      waiting: this.#space.waitingCount,
      leases: this.#state.leases.count,
    };
  }
}
