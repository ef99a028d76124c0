/**
 * Write-behind: which dirty chunks go to SSD, and when.
 *
 * - `through`: in the order of their commits, at once.
 * - `idle`: in the order of their commits (a client stores prefix first) once they are `idleAfter` old and no demand read waits; and
 *   the coldest at once when dirty chunks fill much of RAM or a put waits for room.
 * - `demote`: only the latter.
 * - `second-use`: what was used again (second-use.ts), in the order in which that became known, prefix first, once it has been so for
 *   `idleAfter` and no demand read waits; at once when such chunks are half of RAM's or a put waits for room.
 * - `off`: never.
 *
 * Invariants: at most `writesAtOnce` writes run; a chunk is written at most once at a time; its memory is retained until the write
 * is over; a write that ends after its chunk was removed or replaced leaves no file behind (its key stays tracked until the file
 * is gone).
 */
import type { EntryIndex, SlotIndex } from '#core/brand.ts';
import { Fifo } from '#core/fifo.ts';
import type { ChunkFileHeader } from '#tiers/ssd/chunk-file.ts';
import type { SsdFolder } from '#tiers/ssd/ssd-folder.ts';
import type { CacheState } from './cache-state.ts';
import { SsdOwnRoom } from './ssd-own-room.ts';
import type { TenantRow } from './tenant-table.ts';
import { DECLINED, PINNED_HARD, QUEUED, UNFIT, UNLINKING, UNVERIFIED, WRITING } from './flags.ts';

interface Queued {
  readonly entry: EntryIndex;
  readonly generation: number;
  readonly atMs: number;
}

/** Above this share of RAM being dirty, the coldest are written without waiting for a quiet moment. */
const DIRTY_SHARE = 0.5;
/** `demote` keeps this share of RAM clean and cold, so that a put finds room without waiting for a write. */
const CLEAN_RESERVE = 1 / 16;
const TICK_MS = 100;
/** Stale records that the queue may hold before it is swept. */
const QUEUE_SLACK = 4096;
/** Evicted ahead of need on SSD: room for this many writes. */
const SSD_ROOM_WRITES = 4;

export class SsdWriter {
  readonly #state: CacheState;
  /** Dirty chunks in the order of their commits; stale records are skipped. */
  readonly #queue = new Fifo<Queued>();
  #running = 0;
  #pressure = false;
  #cancelTick: (() => void) | undefined;
  #tokens = 0;
  #tokensAtMs = 0;
  /** Also before `start`: what recovery finds is not written while it looks. */
  #stopped = true;
  #idleWaiters: (() => void)[] = [];
  /** Written by `drain`: they stay on SSD. */
  readonly #drained = new Set<EntryIndex>();
  #drainedUntilMs = Number.POSITIVE_INFINITY;
  readonly #ownRoom: SsdOwnRoom;
  /** Runs after each write, whatever its outcome. */
  onWritten: () => void = () => {};

  constructor(state: CacheState) {
    this.#state = state;
    state.onDirty = (entry) => this.#enqueue(entry);
    this.#ownRoom = new SsdOwnRoom(state, {
      makesRoom: (entry) => this.#makesRoom(entry),
      evict: (entry, onUnlinked) => this.evictFromSsd(entry, onUnlinked),
    });
    this.#tokensAtMs = state.clock.monotonicMs();
  }

  get runningCount(): number {
    return this.#running;
  }

  get queuedCount(): number {
    return this.#queue.length;
  }

  start(): void {
    this.#stopped = false;
    const tick = (): void => {
      if (this.#stopped) return;
      this.pump();
      this.#cancelTick = this.#state.clock.schedule(TICK_MS, tick);
    };
    tick();
  }

  stop(): void {
    this.#stopped = true;
    this.#cancelTick?.();
  }

  /** A put waits: write the coldest now. */
  pressure(): void {
    this.#pressure = true;
    this.pump();
  }

  #enqueue(entry: EntryIndex): void {
    const { clock, limits } = this.#state;
    if (limits.ssdAdmission === 'off' || this.#state.has(entry, QUEUED)) return;
    if (limits.ssdAdmission === 'through' && this.#state.dirtyBytes > limits.ssdQueueBytes) {
      // The device cannot keep up: the suffix that arrives now is left to RAM, and written when RAM needs the room.
      this.#state.counters.shedChunks += 1;
      return;
    }
    // Under 'demote' chunks are found by their coldness alone.
    if (limits.ssdAdmission === 'demote' || !this.#state.isAdmitted(entry)) return;
    this.#push(entry, clock.monotonicMs());
    if (limits.ssdAdmission === 'through') this.pump();
  }

  /** Each chunk has one record that counts, so where records are twice the chunks, half of them are stale. */
  #push(entry: EntryIndex, atMs: number): void {
    const state = this.#state;
    state.set(entry, QUEUED);
    this.#queue.push({ entry, generation: state.index.generation(entry), atMs });
    if (this.#queue.length < QUEUE_SLACK + 2 * state.ramOrder.size) return;
    for (let left = this.#queue.length; left > 0; left -= 1) {
      const record = this.#queue.shift();
      if (record === undefined || !state.isSame(record)) continue;
      if (state.isDirty(record.entry)) this.#queue.push(record);
      else state.clear(record.entry, QUEUED);
    }
  }

  /** Starts as many writes as are allowed now. */
  pump(): void {
    const { limits, ssd } = this.#state;
    if (this.#stopped || limits.ssdAdmission === 'off' || !ssd.writable) return;
    while (this.#running < limits.writesAtOnce) {
      if (!this.#hasBudget()) return;
      const next = this.#nextOfQuotas() ?? this.#next();
      if (next < 0) {
        this.#pressure = false;
        return;
      }
      if (!this.#begin(next as EntryIndex)) return;
    }
  }

  /** What has waited for room of its tenant's own, and what a tenant waits for. */
  #nextOfQuotas(): EntryIndex | undefined {
    const waited = this.#ownRoom.next((entry) => this.#isWritable(entry));
    if (waited >= 0) return waited as EntryIndex;
    const awaited = this.#state.quotas.dirtyVictim((entry) => this.#mayWrite(entry) && this.#state.isAdmitted(entry));
    return awaited >= 0 ? (awaited as EntryIndex) : undefined;
  }

  #next(): EntryIndex | -1 {
    if (!this.#underPressure()) return this.#nextQueued();
    // What is not admitted is dirty too, and usually the coldest; all that is admitted and dirty is in the queue.
    return this.#state.limits.ssdAdmission === 'second-use' ? this.#nextQueued({ atOnce: true }) : this.#coldestDirty();
  }

  #underPressure(): boolean {
    const { dirtyBytes, limits, ram, ramBytes, ramOrder } = this.#state;
    if (limits.ssdAdmission === 'second-use') {
      // The queue is all that is dirty and admitted, in chunks of the mean size.
      const queuedBytes = (this.#queue.length / Math.max(1, ramOrder.size)) * ramBytes;
      return this.#pressure || queuedBytes > ram.backedBytes * DIRTY_SHARE;
    }
    if (this.#pressure) return dirtyBytes > 0;
    const limit = limits.ssdAdmission === 'idle' ? DIRTY_SHARE : 1 - CLEAN_RESERVE;
    return dirtyBytes > ram.backedBytes * limit;
  }

  #coldestDirty(): EntryIndex | -1 {
    return this.#state.ramOrder.victim((entry) => this.#mayWrite(entry as EntryIndex), 65_536) as EntryIndex | -1;
  }

  #nextQueued({ atOnce } = { atOnce: this.#state.limits.ssdAdmission === 'through' }): EntryIndex | -1 {
    const { limits, clock, ssd } = this.#state;
    if (atOnce || !ssd.demandWaits()) {
      const ageMs = atOnce ? 0 : limits.ssdIdleAfterMs;
      for (let head = this.#queue.peek(); head !== undefined && clock.monotonicMs() - head.atMs >= ageMs; head = this.#queue.peek()) {
        this.#queue.shift();
        if (!this.#state.isSame(head)) continue;
        this.#state.clear(head.entry, QUEUED);
        if (this.#mayWrite(head.entry)) return head.entry;
        if (this.#state.has(head.entry, DECLINED)) this.#state.counters.skippedChunks += 1;
      }
    }
    return -1;
  }

  #mayWrite(entry: EntryIndex): boolean {
    return this.#isWritable(entry) && !this.#ownRoom.covers(entry);
  }

  #isWritable(entry: EntryIndex): boolean {
    const state = this.#state;
    return state.isDirty(entry) && !state.has(entry, WRITING | UNFIT | DECLINED | UNLINKING) && !state.expiry.isOver(entry);
  }

  #hasBudget(): boolean {
    const { limits, clock } = this.#state;
    const rate = limits.ssdWriteBytesPerSecond;
    if (rate === 0) return true;
    const now = clock.monotonicMs();
    this.#tokens = Math.min(rate, this.#tokens + ((now - this.#tokensAtMs) * rate) / 1000);
    this.#tokensAtMs = now;
    return this.#tokens > 0;
  }

  /** False where SSD has no room now; eviction was started and `pump` runs again when it is done. */
  #begin(entry: EntryIndex): boolean {
    const state = this.#state;
    const fileBytes = state.ssd.fileBytes(state.index.sizeBytes(entry));
    const row = this.#rowOf(entry);
    const isAtQuota = this.#isAtQuota(entry);
    const folder = state.ssd.folderWithRoom(fileBytes);
    if (isAtQuota && folder === undefined) return this.#ownRoom.wait(entry, row) || this.#decline(entry);
    this.#ownRoom.settle(entry);
    if (isAtQuota && !state.quotas.makeSsdRoom(row, state.index.sizeBytes(entry))) return this.#decline(entry);
    if (folder === undefined) {
      if (state.ssd.canEverFit(fileBytes)) this.makeRoom(fileBytes * SSD_ROOM_WRITES);
      // Nothing can be evicted for it (all leased, or no folder is that large): leave it to RAM.
      if (state.ssd.pendingUnlinks === 0) return this.#decline(entry);
      this.#requeue(entry);
      return false;
    }
    this.#tokens -= fileBytes;
    state.counters.admittedChunks += 1;
    void this.#write(entry, folder);
    if (!isAtQuota && folder.availableBytes < fileBytes * SSD_ROOM_WRITES) this.makeRoom(fileBytes * SSD_ROOM_WRITES);
    return true;
  }

  /** Left to RAM. */
  #decline(entry: EntryIndex): true {
    this.#ownRoom.settle(entry);
    this.#state.set(entry, DECLINED);
    this.#state.counters.skippedChunks += 1;
    return true;
  }

  #rowOf(entry: EntryIndex): TenantRow {
    const { index, namespaces } = this.#state;
    return namespaces.tenantOf(index.namespaceOf(entry));
  }

  /** What gives way for this chunk is its tenant's own. */
  #isAtQuota(entry: EntryIndex): boolean {
    const { index, quotas } = this.#state;
    return this.#ownRoom.covers(entry) || !quotas.hasSsdRoom(this.#rowOf(entry), index.sizeBytes(entry));
  }

  #requeue(entry: EntryIndex): void {
    if (this.#state.limits.ssdAdmission === 'demote' || this.#state.has(entry, QUEUED)) return;
    this.#push(entry, 0);
  }

  /** Evicts the coldest from SSD until `bytes` will be free when the unlinks are done. Their RAM copies stay, declined. */
  makeRoom(bytes: number): void {
    const state = this.#state;
    const { index, ssd } = state;
    let missing = bytes - ssd.folders.reduce((sum, folder) => Math.max(sum, folder.availableBytes), 0) - ssd.unlinkingBytes;
    while (missing > 0) {
      const victim = state.pins.victimIn('ssd', (entry) => this.#makesRoom(entry as EntryIndex), 4096);
      if (victim === -1) return;
      const fileBytes = ssd.fileBytes(index.sizeBytes(victim));
      missing -= fileBytes;
      this.evictFromSsd(victim);
    }
  }

  /** Gives back what a folder holds beyond its budget, or what others need of the free space that it has to leave. */
  shrink(): void {
    const { index, ssd } = this.#state;
    for (const folder of ssd.folders) {
      if (folder.state === 'off' || folder.state === 'stalled') continue;
      let excess = folder.usedBytes - folder.effectiveCapacityBytes - ssd.unlinkingBytes;
      while (excess > 0) {
        const victim = this.#state.pins.victimIn(
          'ssd',
          (entry) => index.ssdFolder(entry as EntryIndex) === folder.index && this.#mayLeaveSsd(entry as EntryIndex),
          65_536,
        );
        if (victim === -1) break;
        excess -= ssd.fileBytes(index.sizeBytes(victim));
        this.evictFromSsd(victim);
      }
    }
  }

  /** Takes a chunk off SSD; it must not be leased or loading. */
  evictFromSsd(entry: EntryIndex, onUnlinked?: () => void): void {
    const state = this.#state;
    state.counters.evictionsSsd += 1;
    state.detachSsd(entry, {
      declined: true,
      onUnlinked: () => {
        onUnlinked?.();
        this.pump();
      },
    });
    if (state.index.ramSlot(entry) >= 0 || state.isInHbm(entry)) state.catalogReplicas(entry);
    else state.drop(entry);
  }

  /** Loads under way hold the chunk through this hook. */
  isLoading: (entry: EntryIndex) => boolean = () => false;
  /** False where what a former process left in RAM is not what it should be; the chunk is out of RAM then. */
  verify: (entry: EntryIndex) => Promise<boolean> = () => Promise.resolve(true);

  #mayLeaveSsd(entry: EntryIndex): boolean {
    return this.#state.index.leaseCount(entry) === 0 && !this.#state.has(entry, PINNED_HARD) && !this.isLoading(entry);
  }

  /** For quotas: what a stop has just written stays, too. */
  mayLeave(entry: EntryIndex): boolean {
    return !this.#drained.has(entry) && this.#mayLeaveSsd(entry);
  }

  /** In a folder that takes no writes nothing is won by an eviction. */
  #makesRoom(entry: EntryIndex): boolean {
    const { index, ssd } = this.#state;
    return ssd.folders[index.ssdFolder(entry)]?.state === 'ok' && !this.#drained.has(entry) && this.#mayLeaveSsd(entry);
  }

  async #write(entry: EntryIndex, folder: SsdFolder, sync = false): Promise<boolean> {
    const state = this.#state;
    const { index, ram, ssd } = state;
    const slot = index.ramSlot(entry) as SlotIndex;
    const ref = { entry, generation: index.generation(entry) };
    const keyId = state.keyId(entry);
    const sizeBytes = index.sizeBytes(entry);
    const finished = state.tombstones.trackUnlink(keyId, ref.generation);
    // Counted for the tenant until it is attached, and the row stays meanwhile.
    const { tenants } = state.namespaces;
    const tenant = tenants.retain(state.namespaces.tenantOf(index.namespaceOf(entry)).name);
    tenant.writingSsdBytes += sizeBytes;
    ram.retain(slot);
    state.set(entry, WRITING);
    this.#running += 1;
    const header = this.#header(entry);
    const isWrong = state.has(entry, UNVERIFIED) && !(await this.verify(entry));
    const outcome = isWrong
      ? ({ ok: false, reason: 'failed' } as const)
      : await ssd.write(folder, header, { address: ram.address(slot), sync });
    this.#running -= 1;
    tenant.writingSsdBytes -= sizeBytes;
    tenants.release(tenant);
    const alive = state.isSame(ref);
    if (alive) state.clear(entry, WRITING);
    if (outcome.ok) {
      if (alive && folder.state !== 'off') {
        state.attachSsd(entry, folder.index);
        // The file came last but is not the hottest: its ancestors are, as they are in RAM.
        state.touchSsdChain(entry);
        state.catalogReplicas(entry);
        finished();
      } else {
        ssd.unlink(folder.index, ref.generation, { sizeBytes, done: finished });
        if (alive) this.#requeue(entry);
      }
    } else if (outcome.late !== undefined) {
      this.#leaveBehind(ref, { folder, slot, sizeBytes, finished, late: outcome.late });
      for (const wake of this.#idleWaiters.splice(0)) wake();
      return false;
    } else {
      finished();
      if (alive && outcome.reason === 'unfit') state.set(entry, UNFIT);
      else if (alive && this.#mayWrite(entry)) this.#requeue(entry);
    }
    if (ram.release(slot)) state.onRoom();
    state.onRoom();
    this.onWritten();
    // A device that fails is not asked again in the same breath; the next tick does.
    if (outcome.ok) this.pump();
    for (const wake of this.#idleWaiters.splice(0)) wake();
    return outcome.ok;
  }

  /**
   * A write that the device does not answer. Its memory stays retained, its key tracked, and the chunk is not written elsewhere, until it
   * is known how it ended; a file that comes so late is removed, since the chunk may have changed meanwhile.
   */
  #leaveBehind(
    ref: { readonly entry: EntryIndex; readonly generation: number },
    write: {
      readonly folder: SsdFolder;
      readonly slot: SlotIndex;
      readonly sizeBytes: number;
      readonly finished: () => void;
      readonly late: Promise<boolean>;
    },
  ): void {
    const state = this.#state;
    const { folder, slot, sizeBytes, finished } = write;
    if (state.isSame(ref)) state.set(ref.entry, UNFIT);
    const again = (): void => {
      finished();
      if (state.index.isLive(ref.entry)) state.clear(ref.entry, UNFIT);
      if (state.isSame(ref) && this.#mayWrite(ref.entry)) this.#requeue(ref.entry);
    };
    void write.late.then((done) => {
      if (done) state.ssd.unlink(folder.index, ref.generation, { sizeBytes, done: again });
      else again();
      if (state.ram.release(slot)) state.onRoom();
      state.onRoom();
    });
  }

  #header(entry: EntryIndex): ChunkFileHeader {
    const { index, namespaces, metadata, lmBlocks } = this.#state;
    const parent = index.parent(entry);
    const twin = metadata.get(entry);
    const lm = lmBlocks.get(entry);
    return {
      generation: index.generation(entry),
      sizeBytes: index.sizeBytes(entry),
      checksum: index.checksum(entry),
      createdAtMs: index.createdAtMs(entry),
      expiresAtMs: index.expiresAtMs(entry),
      parentGeneration: parent < 0 ? 0 : index.generation(parent as EntryIndex),
      tokenCount: 0,
      namespace: namespaces.descriptor(index.namespaceOf(entry)),
      key: index.keyOf(entry).slice(),
      ...(twin === undefined ? {} : { redisMetadata: twin }),
      ...(lm === undefined ? {} : { lm }),
    };
  }

  /** Writes one chunk now, whatever the admission mode, and syncs it. True when it is on SSD. */
  async persist(entry: EntryIndex): Promise<boolean> {
    const state = this.#state;
    const ref = { entry, generation: state.index.generation(entry) };
    const unlinks = { pending: 0 };
    let onlyOwn = false;
    for (let attempt = 0; attempt < 1000 && state.clock.monotonicMs() < this.#drainedUntilMs; attempt += 1) {
      if (!state.isSame(ref)) return false;
      if (!state.isDirty(entry)) return state.index.ssdFolder(entry) >= 0;
      if (state.has(entry, UNFIT) || !state.ssd.writable) return false;
      if (state.isWriting(entry) || this.#running >= state.limits.writesAtOnce) {
        await this.#nextWrite();
        continue;
      }
      onlyOwn ||= this.#isAtQuota(entry);
      const fileBytes = state.ssd.fileBytes(state.index.sizeBytes(entry));
      const mayBegin = !state.has(entry, UNLINKING) && unlinks.pending === 0;
      const folder = mayBegin ? state.ssd.folderWithRoom(fileBytes) : undefined;
      if (folder === undefined) {
        if (!state.ssd.canEverFit(fileBytes)) return false;
        if (mayBegin && onlyOwn && !this.#ownRoom.giveUp(entry, this.#rowOf(entry), unlinks)) return false;
        if (mayBegin && !onlyOwn) this.makeRoom(fileBytes);
        if (state.ssd.pendingUnlinks === 0) return false;
        await new Promise<void>((resolve) => void state.clock.schedule(5, resolve));
        continue;
      }
      if (onlyOwn && !state.quotas.makeSsdRoom(this.#rowOf(entry), state.index.sizeBytes(entry))) return false;
      this.#ownRoom.settle(entry);
      if (!(await this.#write(entry, folder, true))) return false;
    }
    return false;
  }

  #nextWrite(): Promise<void> {
    if (this.#running === 0) return Promise.resolve();
    return new Promise((resolve) => this.#idleWaiters.push(resolve));
  }

  /**
   * Writes dirty chunks, hottest chain first and prefix first, until none is left, SSD would have to give up hotter ones, or
   * `deadlineMs` (monotonic) has passed, also where a write is still under way then. Resolves with the bytes that are still only in RAM.
   */
  async drain(deadlineMs: number): Promise<number> {
    const state = this.#state;
    const expired = Promise.withResolvers<void>();
    const cancel = state.clock.schedule(Math.max(0, deadlineMs - state.clock.monotonicMs()), expired.resolve);
    this.#drainedUntilMs = deadlineMs;
    const entries: EntryIndex[] = [];
    state.ramOrder.forEachColdest((entry) => {
      if (state.isDirty(entry as EntryIndex) && state.isAdmitted(entry as EntryIndex)) entries.push(entry as EntryIndex);
      return true;
    });
    // Taken from the hot end. The order has a chain's prefix hotter than its suffix, so hottest first is prefix first.
    const mayWrite = state.limits.ssdAdmission !== 'off' && state.ssd.writable;
    const work = mayWrite
      ? Promise.all(Array.from({ length: state.limits.writesAtOnce }, () => this.#drainSome(entries)))
      : Promise.resolve();
    await Promise.race([work.then(() => this.#allWritten()), expired.promise]);
    cancel();
    return state.dirtyBytes;
  }

  async #drainSome(entries: EntryIndex[]): Promise<void> {
    const state = this.#state;
    for (let entry = entries.pop(); entry !== undefined && state.clock.monotonicMs() < this.#drainedUntilMs; entry = entries.pop()) {
      if (!state.index.isLive(entry) || !state.isDirty(entry)) continue;
      state.clear(entry, DECLINED);
      // Not to be evicted by the colder ones that follow, or these would be all that is left.
      if (await this.persist(entry)) this.#drained.add(entry);
    }
  }

  async #allWritten(): Promise<void> {
    while (this.#running > 0) await this.#nextWrite();
  }
}
