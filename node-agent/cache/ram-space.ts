/**
 * Room in RAM: allocation, eviction, and the puts and loads that wait for it.
 *
 * A waiter holds nothing. Order of giving way: free slots; the coldest chunks that SSD has too, or that no tier may take; after
 * `put.wait` the coldest dirty chunks; of each, those with a soft pin last; then the request is shed. Leased chunks, those being read
 * or written and those that a hard pin holds never give way.
 *
 * Invariants: waiters are served in the order of their arrival; at most MAX_WAITERS wait; a slot given out here has an owner (the
 * ticket or load that asked) until it is attached or released.
 */
import { assert } from '#core/assert.ts';
import type { EntryIndex, SlotIndex } from '#core/brand.ts';
import { Fifo } from '#core/fifo.ts';
import type { CacheState } from './cache-state.ts';
import { DECLINED, IN_HBM, PINNED_HARD, PINNED_SOFT, UNFIT } from './flags.ts';

/** What an allocation may cost: `spare` names chunks that must not be forgotten for it (eviction to SSD is fine). */
interface Want {
  readonly sizeBytes: number;
  readonly dropDirty: boolean;
  readonly spare: ReadonlySet<number> | undefined;
  /** Also soft-pinned ones. */
  readonly soft?: boolean;
}

interface Waiter {
  readonly sizeBytes: number;
  readonly deadlineMs: number;
  readonly spare: ReadonlySet<number> | undefined;
  resolve(slot: SlotIndex | -1): void;
}

const MAX_WAITERS = 4096;
/** Entries looked at for a victim before the search gives up; the coldest are looked at first. */
const SCAN_LIMIT = 4096;
/** Chunks evicted for one allocation before it counts as impossible for now. */
const EVICTIONS_PER_CALL = 4096;

export class RamSpace {
  readonly #state: CacheState;
  readonly #waiters = new Fifo<Waiter>();
  #waiting = 0;
  #pumping = false;
  #cancelTimer: (() => void) | undefined;
  /** Asks the write-behind to make chunks evictable. */
  onPressure: () => void = () => {};

  constructor(state: CacheState) {
    this.#state = state;
    state.onRoom = () => this.#schedulePump();
  }

  get waitingCount(): number {
    return this.#waiting;
  }

  /** A slot at once, or -1. Evicts clean chunks, never dirty ones that SSD may still take. Does not overtake those who wait. */
  allocate(sizeBytes: number, options: { overtake?: boolean; spare?: ReadonlySet<number> | undefined } = {}): SlotIndex | -1 {
    if (this.#waiting > 0 && options.overtake !== true) return -1;
    return this.#allocate({ sizeBytes, dropDirty: false, spare: options.spare });
  }

  /** True where room could be had at once, but only by forgetting what `spare` names: waiting would not help. */
  onlySpareIsLeft(sizeBytes: number, spare: ReadonlySet<number> | undefined): boolean {
    if (spare === undefined || spare.size === 0) return false;
    const victim = (want: Want): number => this.#victim(want, (entry) => this.#mayEvict(entry, want));
    const want = { sizeBytes, dropDirty: false, soft: true };
    return victim({ ...want, spare }) === -1 && victim({ ...want, spare: undefined }) >= 0;
  }

  /** A slot, after at most `waitMs`; -1: shed. */
  async allocateOrWait(sizeBytes: number, waitMs: number, spare?: ReadonlySet<number>): Promise<SlotIndex | -1> {
    const { clock } = this.#state;
    if (this.#waiting >= MAX_WAITERS) return -1;
    const { promise, resolve } = Promise.withResolvers<SlotIndex | -1>();
    this.#waiters.push({ sizeBytes, deadlineMs: clock.monotonicMs() + waitMs, spare, resolve });
    this.#waiting += 1;
    this.onPressure();
    this.#armTimer();
    this.#schedulePump();
    return await promise;
  }

  #allocate(want: Want): SlotIndex | -1 {
    const { ram } = this.#state;
    const slot = ram.allocate(want.sizeBytes);
    if (slot >= 0) return slot;
    // What is over need not wait for the next housekeeping.
    this.#state.leases.expire(this.#state.clock.monotonicMs());
    for (let evictions = 0; evictions < EVICTIONS_PER_CALL; evictions += 1) {
      if (!this.#evictOne(want)) return -1;
      const next = ram.allocate(want.sizeBytes);
      if (next >= 0) return next;
    }
    return -1;
  }

  /** Soft pins give way where nothing else does, and where waiting for dirty chunks to be written would not help either. */
  #evictOne(want: Want): boolean {
    if (this.#evictCold(want)) return true;
    const { pins } = this.#state;
    if (pins.usage.ram.soft.chunks === 0) return false;
    if (!want.dropDirty && this.#victim(want, (entry) => this.#mayEvict(entry, { ...want, dropDirty: true })) >= 0) return false;
    return this.#evictCold({ ...want, soft: true });
  }

  #victim(want: Want, isEvictable: (entry: EntryIndex) => boolean): EntryIndex | -1 {
    return this.#state.pins.victimIn('ram', isEvictable as (entry: number) => boolean, SCAN_LIMIT, { soft: want.soft === true });
  }

  /** Evicts for a class: its own coldest chunk, or where another class holds colder ones, a slab of those. False: nothing may go. */
  #evictCold(want: Want): boolean {
    const { index, ram } = this.#state;
    const wantedClass = ram.classBytes(want.sizeBytes);
    const evictable = (entry: EntryIndex): boolean => this.#mayEvict(entry, want);
    const coldest = this.#victim(want, evictable);
    if (coldest === -1) return false;
    if (ram.classBytes(index.sizeBytes(coldest)) === wantedClass) {
      this.evict(coldest);
      return true;
    }
    if (this.#evictSlab(want)) return true;
    const same = this.#victim(want, (entry) => ram.classBytes(index.sizeBytes(entry)) === wantedClass && evictable(entry));
    if (same < 0) return false;
    this.evict(same as EntryIndex);
    return true;
  }

  #evictSlab(want: Want): boolean {
    const { ram, ramOrder } = this.#state;
    const plan = ram.planReclaim(
      want.sizeBytes,
      (slot) => {
        const owner = this.#state.ownerOf(slot);
        return owner < 0 ? 0 : ramOrder.temperature(owner);
      },
      (slot) => {
        const owner = this.#state.ownerOf(slot);
        return owner < 0 || !this.#mayEvict(owner as EntryIndex, want);
      },
    );
    if (plan === undefined || plan.length === 0) return false;
    for (const slot of plan) {
      const owner = this.#state.ownerOf(slot);
      assert(owner >= 0, `slot ${slot} of a reclaim plan has an owner`);
      this.evict(owner as EntryIndex);
    }
    return true;
  }

  #mayEvict(entry: EntryIndex, want: Want): boolean {
    const state = this.#state;
    if (!state.ramIsFree(entry) || (want.soft !== true && state.has(entry, PINNED_SOFT))) return false;
    if (want.spare?.has(entry) === true && state.index.ssdFolder(entry) < 0 && !state.has(entry, IN_HBM)) return false;
    // What SSD declined it will not take while the put waits either.
    return !state.isDirty(entry) || want.dropDirty || state.has(entry, DECLINED) || !this.ssdMayTake(entry);
  }

  /** For quotas: as for any put, but that soft pins are looked after there. */
  mayLeave(entry: EntryIndex, want: { readonly dropDirty: boolean; readonly spare: ReadonlySet<number> | undefined }): boolean {
    return this.#mayEvict(entry, { ...want, sizeBytes: 0, soft: true });
  }

  /** True where a dirty chunk can still be written, so that waiting is better than dropping it. */
  ssdMayTake(entry: EntryIndex): boolean {
    const state = this.#state;
    if (state.limits.ssdAdmission === 'off' || state.has(entry, UNFIT) || !state.isAdmitted(entry)) return false;
    return state.ssd.canEverFit(state.ssd.fileBytes(state.index.sizeBytes(entry)));
  }

  /** Room for one more row in the index: the coldest chunk that SSD alone has goes, or the coldest of RAM. False: none may go. */
  rowForOneMore(): boolean {
    const state = this.#state;
    const { index, counters } = state;
    while (index.entryCount >= state.maxChunks) {
      const mayGo = (entry: number): boolean => !state.has(entry as EntryIndex, PINNED_HARD);
      const onSsd = state.pins.victimIn(
        'ssd',
        (entry) => mayGo(entry) && index.ramSlot(entry as EntryIndex) < 0 && index.leaseCount(entry as EntryIndex) === 0,
        SCAN_LIMIT,
      );
      const victim =
        onSsd >= 0 ? onSsd : state.pins.victimIn('ram', (entry) => mayGo(entry) && state.ramIsFree(entry as EntryIndex), SCAN_LIMIT);
      if (victim < 0 && !this.#dropStray()) return false;
      if (victim < 0) continue;
      if (onSsd >= 0) counters.evictionsSsd += 1;
      else counters.evictionsRam += 1;
      state.drop(victim as EntryIndex);
    }
    return true;
  }

  /** Only HBM has what is left: the coldest of it goes. */
  #dropStray(): boolean {
    const state = this.#state;
    const { hbm, index } = state;
    const mayGo = (entry: number): boolean => hbm?.strays.has(entry as EntryIndex) === true && index.leaseCount(entry as EntryIndex) === 0;
    const stray = hbm?.order.victim((entry) => mayGo(entry) && !state.has(entry as EntryIndex, PINNED_HARD), SCAN_LIMIT) ?? -1;
    if (stray < 0) return false;
    state.counters.evictionsHbm += 1;
    state.drop(stray as EntryIndex);
    return true;
  }

  /** Takes a chunk out of RAM; it must be free. Demoted where SSD has it, left to HBM where that has it, else dropped. */
  evict(entry: EntryIndex): void {
    const state = this.#state;
    assert(state.ramIsFree(entry), `chunk ${entry} may leave RAM`);
    state.counters.evictionsRam += 1;
    if (state.index.ssdFolder(entry) >= 0 || state.has(entry, IN_HBM)) {
      if (state.index.ssdFolder(entry) >= 0) state.counters.demotions += 1;
      state.detachRam(entry);
      state.catalogReplicas(entry);
      return;
    }
    if (this.ssdMayTake(entry)) state.counters.droppedDirtyChunks += 1;
    else if (!state.isAdmitted(entry)) state.counters.skippedChunks += 1;
    state.drop(entry);
  }

  #schedulePump(): void {
    if (this.#waiting === 0 || this.#pumping) return;
    this.#pumping = true;
    queueMicrotask(() => {
      this.#pumping = false;
      this.#pump();
    });
  }

  #pump(): void {
    const now = this.#state.clock.monotonicMs();
    for (;;) {
      const head = this.#waiters.peek();
      if (head === undefined) break;
      // Memory that is still being backed is worth waiting for: dropping would forget for nothing.
      const expired = head.deadlineMs <= now && !this.#state.ram.growing;
      const slot = this.#allocate({ sizeBytes: head.sizeBytes, dropDirty: expired, spare: head.spare });
      if (slot < 0 && !expired) {
        this.onPressure();
        break;
      }
      this.#waiters.shift();
      this.#waiting -= 1;
      head.resolve(slot);
    }
    this.#armTimer();
  }

  #armTimer(): void {
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    const head = this.#waiters.peek();
    if (head === undefined) return;
    const delayMs = Math.max(1, head.deadlineMs - this.#state.clock.monotonicMs());
    this.#cancelTimer = this.#state.clock.schedule(delayMs, () => this.#pump());
  }

  /** Everybody who waits is shed; for shutdown. */
  shedAll(): void {
    for (let waiter = this.#waiters.shift(); waiter !== undefined; waiter = this.#waiters.shift()) {
      this.#waiting -= 1;
      waiter.resolve(-1);
    }
    this.#cancelTimer?.();
  }
}
