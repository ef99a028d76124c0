/**
 * What is in HBM: chunks come when they are used often, or when somebody asks for it; the coldest go when there is no room.
 *
 * - Promotion copies from RAM. The RAM slot is retained and the HBM slot owned by the copy until it is over; then it is looked at again
 *   whether the chunk is still the same, and only then the replica is attached.
 * - What RAM or SSD has too is dropped from HBM. What only HBM has (a stray) is copied to RAM first, and forgotten where RAM has no room.
 * - A piece changes its tenant group only as a whole, and only where each of its chunks is colder than all of the group that wants it.
 * - Strays that SSD may take are brought back to RAM in housekeeping, so that a quiet agent holds nothing that a crash would lose.
 *
 * Invariants (checkInvariants): at most `copiesAtOnce` promotions run; a promotion's slot is in nobody else's hands until it is attached or
 * given back. Pinned chunks leave last; a pin holds no memory of a device.
 */
import { assert } from '#core/assert.ts';
import type { EntryIndex, SlotIndex } from '#core/brand.ts';
import type { CacheState } from './cache-state.ts';
import { DECLINED, PINNED, UNVERIFIED } from './flags.ts';
import type { HbmReader } from './hbm-reader.ts';
import type { HbmReplicas } from './hbm-replicas.ts';
import type { RamSpace } from './ram-space.ts';

/** 'promoted': in HBM now. 'gone': removed or replaced meanwhile. 'refused': no room, not in RAM, or the device failed. */
export type PromoteOutcome = 'promoted' | 'gone' | 'refused';

interface Promotion {
  readonly generation: number;
  readonly promise: Promise<PromoteOutcome>;
}

/** Entries looked at for a victim before the search gives up; the coldest are looked at first. */
const SCAN_LIMIT = 4096;
/**
 * Entries looked at in one search for room, over all of its evictions: some 2 ms of the main thread. Without it 64 evictions that each search
 * three times past what may not go take 70 ms.
 */
const LOOKS_PER_CALL = 4 * SCAN_LIMIT;
/** Chunks evicted for one promotion before it counts as impossible for now. */
const EVICTIONS_PER_CALL = 64;
/** Demotions that an order to bring a chunk to HBM waits for, one after the other. */
const PATIENCE = 8;
/** Strays brought back to RAM in one turn of housekeeping. */
const STRAYS_PER_TURN = 4;

export class HbmPlacement {
  readonly #state: CacheState;
  readonly #hbm: HbmReplicas;
  readonly #reader: HbmReader;
  readonly #space: RamSpace;
  readonly #promotions = new Map<number, Promotion>();
  readonly #demotions = new Map<number, Promise<void>>();
  #running = 0;
  #looksLeft = 0;
  /** Whether this search for room may still walk the whole order for a piece of another group: once in vain is enough. */
  #mayWalk = true;

  constructor(parts: { readonly state: CacheState; readonly hbm: HbmReplicas; readonly reader: HbmReader; readonly space: RamSpace }) {
    this.#state = parts.state;
    this.#hbm = parts.hbm;
    this.#reader = parts.reader;
    this.#space = parts.space;
    this.#hbm.onUsed = (entry) => this.#used(entry);
  }

  /** Copies to HBM that are under way. */
  get runningCount(): number {
    return this.#running;
  }

  #used(entry: EntryIndex): void {
    const { limits, column } = this.#hbm;
    if (this.#hbm.has(entry) || this.#state.draining) return;
    const hits = column.hit(entry, this.#state.clock.monotonicMs(), limits.promoteWindowMs);
    // Whoever pinned a chunk has said that it will be used.
    if (hits >= limits.promoteHits || this.#state.has(entry, PINNED)) void this.promote(entry);
  }

  /** Brings a chunk that is in RAM into HBM, or joins the promotion that does so already. */
  promote(entry: EntryIndex): Promise<PromoteOutcome> {
    if (this.#hbm.has(entry)) return Promise.resolve('promoted');
    const generation = this.#state.index.generation(entry);
    const known = this.#promotions.get(entry);
    if (known?.generation === generation) return known.promise;
    const promotion = { generation, promise: this.#promote({ entry, generation }) };
    this.#promotions.set(entry, promotion);
    void promotion.promise.finally(() => {
      if (this.#promotions.get(entry) === promotion) this.#promotions.delete(entry);
    });
    return promotion.promise;
  }

  async #promote(ref: { readonly entry: EntryIndex; readonly generation: number }): Promise<PromoteOutcome> {
    const state = this.#state;
    const { index, ram } = state;
    const { tier, limits, column } = this.#hbm;
    const { entry } = ref;
    const from = index.ramSlot(entry) as SlotIndex;
    const sizeBytes = index.sizeBytes(entry);
    if (from < 0 || state.has(entry, UNVERIFIED) || this.#running >= limits.copiesAtOnce || !tier.canEverFit(sizeBytes)) return 'refused';
    const to = this.#room(sizeBytes, this.#groupOf(entry));
    if (to === -1) return 'refused';
    this.#running += 1;
    ram.retain(from);
    const copied = await tier.copyIn(to, ram.address(from), sizeBytes);
    this.#running -= 1;
    // The device may still read it: the slot is nobody else's before it is known to be done.
    if (!copied.ok && copied.late !== undefined) void copied.late.finally(() => this.#releaseRam(from));
    else this.#releaseRam(from);
    const isSame = state.isSame(ref);
    if (!copied.ok || !isSame || this.#hbm.has(entry) || tier.isLost(tier.deviceOf(to)) || state.draining) {
      tier.release(to);
      return !isSame ? 'gone' : this.#hbm.has(entry) ? 'promoted' : 'refused';
    }
    column.forgetHits(entry);
    state.attachHbm(entry, to);
    this.#hbm.movesOf(to).promotions += 1;
    state.catalogReplicas(entry);
    return 'promoted';
  }

  #releaseRam(slot: SlotIndex): void {
    this.#state.ram.release(slot);
    // Free, or evictable again.
    this.#state.onRoom();
  }

  /** As `promote`, for somebody who waits: demotions that make room are waited for. */
  async promoteNow(entry: EntryIndex): Promise<PromoteOutcome> {
    const ref = { entry, generation: this.#state.index.generation(entry) };
    for (let attempt = 0; ; attempt += 1) {
      if (!this.#state.isSame(ref)) return 'gone';
      const outcome = await this.promote(entry);
      const under = [...this.#demotions.values(), ...[...this.#promotions.values()].map(({ promise }) => promise)];
      if (outcome !== 'refused' || attempt >= PATIENCE || under.length === 0) return outcome;
      await Promise.race(under);
    }
  }

  #groupOf(entry: EntryIndex): string {
    const { index, namespaces } = this.#state;
    return namespaces.descriptor(index.namespaceOf(entry)).tenant;
  }

  // --- room -----------------------------------------------------------------------------------------------------------------------

  #room(sizeBytes: number, group: string): SlotIndex | -1 {
    const { tier } = this.#hbm;
    this.#state.leases.expire(this.#state.clock.monotonicMs());
    this.#looksLeft = LOOKS_PER_CALL;
    this.#mayWalk = true;
    for (let evictions = 0; evictions < EVICTIONS_PER_CALL; evictions += 1) {
      const slot = tier.allocate(sizeBytes, group);
      if (slot >= 0) return slot;
      if (!this.#evictFor(sizeBytes, group)) break;
    }
    const slot = tier.allocate(sizeBytes, group);
    if (slot === -1) this.#demoteColdest(group);
    return slot;
  }

  /** The coldest of the group, of the same class first; or a piece of another group, all of whose chunks are colder still. */
  #evictFor(sizeBytes: number, group: string): boolean {
    const { tier, order } = this.#hbm;
    const isOurs = (entry: EntryIndex): boolean => tier.groupOf(this.#hbm.slotOf(entry) as SlotIndex) === group;
    const fits = (entry: EntryIndex): boolean => tier.isOfClass(this.#hbm.slotOf(entry) as SlotIndex, sizeBytes);
    const coldest = this.#victim((entry) => this.#mayDrop(entry));
    if (coldest < 0) return false;
    const sameClass = this.#victim((entry) => this.#mayDrop(entry) && isOurs(entry) && fits(entry));
    const own = sameClass >= 0 ? sameClass : this.#victim((entry) => this.#mayDrop(entry) && isOurs(entry));
    const isForeign = !isOurs(coldest as EntryIndex);
    if (isForeign && this.#mayWalk) {
      // It goes through all of the order; what was warm, or in use, a moment ago is so still.
      if (this.#evictPiece(coldest as EntryIndex, own < 0 ? Number.POSITIVE_INFINITY : order.temperature(own))) return true;
      this.#mayWalk = false;
    }
    if (own < 0) return false;
    this.drop(own as EntryIndex);
    return true;
  }

  #victim(isEvictable: (entry: EntryIndex) => boolean): EntryIndex | -1 {
    const { order } = this.#hbm;
    const state = this.#state;
    const search = (mayGo: (entry: EntryIndex) => boolean): EntryIndex | -1 => {
      const limit = Math.min(SCAN_LIMIT, this.#looksLeft);
      if (limit <= 0) return -1;
      const look = (entry: number): boolean => {
        this.#looksLeft -= 1;
        return mayGo(entry as EntryIndex);
      };
      return order.victim(look, limit) as EntryIndex | -1;
    };
    const found = search((entry) => !state.has(entry, PINNED) && isEvictable(entry));
    return found >= 0 || state.pins.count === 0 ? found : search(isEvictable);
  }

  /** Empties the piece that a chunk is in, where all of it may go and is colder than `limit`. */
  #evictPiece(coldest: EntryIndex, limit: number): boolean {
    const { tier, order } = this.#hbm;
    const piece = tier.pieceOf(this.#hbm.slotOf(coldest) as SlotIndex);
    const members: EntryIndex[] = [];
    let isCold = true;
    order.forEachColdest((entry) => {
      if (tier.pieceOf(this.#hbm.slotOf(entry as EntryIndex) as SlotIndex) !== piece) return true;
      members.push(entry as EntryIndex);
      isCold = order.temperature(entry) < limit && this.#mayDrop(entry as EntryIndex);
      return isCold;
    });
    if (!isCold) return false;
    for (const member of members) this.drop(member);
    return true;
  }

  /** Nobody copies, leases or exports it, and another tier has it. */
  #mayDrop(entry: EntryIndex): boolean {
    return this.#isFree(entry) && !this.#hbm.strays.has(entry);
  }

  #isFree(entry: EntryIndex): boolean {
    const state = this.#state;
    if (this.#hbm.tier.useCount(this.#hbm.slotOf(entry) as SlotIndex) !== 1) return false;
    if (state.index.leaseCount(entry) === 0) return true;
    // A lease that was given for another tier's copy holds that one.
    return !this.#hbm.strays.has(entry) && !state.leases.covers(entry, 'hbm');
  }

  /** Takes a chunk out of HBM that another tier has. */
  drop(entry: EntryIndex): void {
    const state = this.#state;
    state.counters.evictionsHbm += 1;
    state.detachHbm(entry);
    state.catalogReplicas(entry);
  }

  /** Only strays are left: the coldest goes to RAM, for the next who wants room. */
  #demoteColdest(group: string): void {
    if (this.#demotions.size > 0) return;
    this.#looksLeft = LOOKS_PER_CALL;
    const { tier } = this.#hbm;
    const ours = (entry: EntryIndex): boolean => tier.groupOf(this.#hbm.slotOf(entry) as SlotIndex) === group;
    const mayGo = (entry: EntryIndex): boolean => this.#hbm.strays.has(entry) && this.#isFree(entry);
    const own = this.#victim((entry) => mayGo(entry) && ours(entry));
    const victim = own >= 0 ? own : this.#victim(mayGo);
    if (victim >= 0) void this.demote(victim as EntryIndex);
  }

  /** A stray goes to RAM and leaves HBM; where RAM has no room for it, it is forgotten. */
  demote(entry: EntryIndex): Promise<void> {
    const known = this.#demotions.get(entry);
    if (known !== undefined) return known;
    const demotion = this.#demote({ entry, generation: this.#state.index.generation(entry) }).finally(() => this.#demotions.delete(entry));
    this.#demotions.set(entry, demotion);
    return demotion;
  }

  async #demote(ref: { readonly entry: EntryIndex; readonly generation: number }): Promise<void> {
    const state = this.#state;
    const outcome = await this.#reader.load(ref.entry, 'prefetch');
    if (!state.isSame(ref) || !this.#hbm.has(ref.entry) || !this.#isFree(ref.entry)) return;
    if (!this.#hbm.strays.has(ref.entry)) {
      this.#hbm.movesOf(this.#hbm.slotOf(ref.entry) as SlotIndex).demotions += 1;
      this.drop(ref.entry);
    } else if (outcome === 'refused') {
      state.counters.evictionsHbm += 1;
      state.counters.droppedDirtyChunks += 1;
      state.drop(ref.entry);
    }
  }

  /** By order: false where somebody uses it, or RAM has no room for what only HBM has. Nothing is forgotten. */
  async evict(ref: { readonly entry: EntryIndex; readonly generation: number }): Promise<boolean> {
    const state = this.#state;
    if (this.#hbm.strays.has(ref.entry)) await this.#reader.load(ref.entry, 'prefetch');
    if (!state.isSame(ref) || !this.#hbm.has(ref.entry) || !this.#mayDrop(ref.entry)) return false;
    this.drop(ref.entry);
    return true;
  }

  // --- strays, loss -----------------------------------------------------------------------------------------------------------------

  /** Brings strays that SSD may take back to RAM, whence they are written. */
  housekeep(): void {
    const state = this.#state;
    let begun = this.#reader.loadingCount;
    if (this.#hbm.strays.size === 0 || this.#space.waitingCount > 0 || state.draining) return;
    for (const entry of this.#hbm.strays) {
      if (begun >= STRAYS_PER_TURN) return;
      if (this.#reader.isLoading(entry) || state.has(entry, DECLINED) || !this.#space.evictor.ssdMayTake(entry)) continue;
      begun += 1;
      void this.#reader.load(entry, 'prefetch');
    }
  }

  /** Before a stop: strays are brought to RAM one after the other and written, until the deadline. Hottest first. */
  async drain(persist: (entry: EntryIndex) => Promise<boolean>, isOver: () => boolean): Promise<void> {
    const state = this.#state;
    const strays: { entry: EntryIndex; generation: number }[] = [];
    this.#hbm.order.forEachColdest((entry) => {
      if (this.#hbm.strays.has(entry as EntryIndex))
        strays.push({ entry: entry as EntryIndex, generation: state.index.generation(entry as EntryIndex) });
      return true;
    });
    for (let ref = strays.pop(); ref !== undefined && !isOver(); ref = strays.pop()) {
      if (!state.isSame(ref) || !this.#space.evictor.ssdMayTake(ref.entry)) continue;
      if ((await this.#reader.load(ref.entry, 'prefetch')) === 'loaded' && state.isSame(ref)) await persist(ref.entry);
    }
  }

  /** A device is lost: its replicas are dropped, and what only it had is gone. */
  deviceLost(device: number): void {
    const state = this.#state;
    const { tier } = this.#hbm;
    const lost: EntryIndex[] = [];
    this.#hbm.order.forEachColdest((entry) => {
      if (tier.deviceOf(this.#hbm.slotOf(entry as EntryIndex) as SlotIndex) === device) lost.push(entry as EntryIndex);
      return true;
    });
    for (const entry of lost) {
      state.leases.releaseTier(entry, 'hbm');
      state.dropHbm(entry);
    }
    state.onRoom();
  }

  checkInvariants(): void {
    assert(this.#running >= 0 && this.#running <= this.#hbm.limits.copiesAtOnce, 'promotions are bounded');
  }
}
