/**
 * What gives way in RAM so that one more chunk has a slot.
 *
 * Order of giving way: the coldest chunks that SSD has too, or that no tier may take; with `dropDirty` the coldest dirty ones; of each, those
 * with a soft pin last. Leased chunks, those being read or written and those that a hard pin holds never give way.
 *
 * A tenant at its quota (`own`) takes from itself alone: slots of its own chunks, and of slabs those that hold nobody else's.
 */
import { assert } from '#core/assert.ts';
import type { EntryIndex, SlotIndex } from '#core/brand.ts';
import type { CacheState } from './cache-state.ts';
import { DECLINED, IN_HBM, PINNED_HARD, PINNED_SOFT, UNFIT } from './flags.ts';
import type { TenantRow } from './tenant-table.ts';

/** What an allocation is for and may cost. */
export interface RoomWant {
  readonly sizeBytes: number;
  /** Also a row of the index for a chunk that is new. */
  readonly withRow: boolean;
  /** Chunks that must not be forgotten for it; eviction to SSD is fine. */
  readonly spare: ReadonlySet<number> | undefined;
  /** Also chunks that SSD has not taken yet. */
  readonly dropDirty: boolean;
}

interface Want extends Omit<RoomWant, 'withRow'> {
  /** Also soft-pinned ones. */
  readonly soft?: boolean;
  /** Only chunks of this tenant, which has a quota. */
  readonly own?: TenantRow | undefined;
}

/**
 * Why there is no slot. 'full': nothing in RAM may go; 'index': no row of the index; 'quota': of the tenant's own nothing may go, or not
 * enough; 'slot': the tenant is at its quota, and nothing of its own would leave a slot of this size.
 */
export type NoRoom = 'full' | 'index' | 'quota' | 'slot';

/** Entries looked at for a victim before the search gives up; the coldest are looked at first. */
const SCAN_LIMIT = 4096;
/** The same for a tenant's own chunks, where nobody else's may go instead. */
const OWN_SCAN_LIMIT = 65_536;
/** Chunks evicted for one allocation before it counts as impossible for now. */
const EVICTIONS_PER_CALL = 4096;

export class RamEvictor {
  readonly #state: CacheState;

  constructor(state: CacheState) {
    this.#state = state;
  }

  /** A slot, free or made free. The caller counts it for its tenant before anybody else runs. */
  allocate(want: RoomWant): SlotIndex | NoRoom {
    const free = this.#state.ram.allocate(want.sizeBytes);
    const slot = free >= 0 ? free : this.#makeSlot(want);
    if (slot < 0) return 'full';
    return want.withRow && !this.#rowForOneMore(undefined) ? this.#notUsed(slot as SlotIndex, 'index') : (slot as SlotIndex);
  }

  /**
   * As `allocate` for a tenant that is at its quota: at the cost of its own chunks alone, and it is within the quota afterwards.
   * `mayUseFree`: also a slot that nobody has to give up.
   */
  allocateOwn(row: TenantRow, want: RoomWant, { mayUseFree }: { readonly mayUseFree: boolean }): SlotIndex | NoRoom {
    const { quotas, ram } = this.#state;
    if (want.sizeBytes > row.ramLimit || (!quotas.hasRamRoom(row, want.sizeBytes) && !quotas.mayGiveWay(row, want))) return 'quota';
    const free = mayUseFree ? ram.allocate(want.sizeBytes) : -1;
    const slot = free >= 0 ? free : this.#makeSlot({ ...want, own: row });
    if (slot < 0) return 'slot';
    if (want.withRow && !this.#rowForOneMore(row)) return this.#notUsed(slot as SlotIndex, 'index');
    return quotas.makeRamRoom(row, want) ? (slot as SlotIndex) : this.#notUsed(slot as SlotIndex, 'quota');
  }

  /** Nobody who waits is told: what is free now was so before, or comes from an eviction, which told. */
  #notUsed(slot: SlotIndex, why: NoRoom): NoRoom {
    this.#state.ram.release(slot);
    return why;
  }

  #makeSlot(want: Want): SlotIndex | -1 {
    // What is over need not wait for the next housekeeping.
    this.#state.leases.expire(this.#state.clock.monotonicMs());
    for (let evictions = 0; evictions < EVICTIONS_PER_CALL; evictions += 1) {
      if (!this.#evictOne(want)) return -1;
      const slot = this.#state.ram.allocate(want.sizeBytes);
      if (slot >= 0) return slot;
    }
    return -1;
  }

  /** True where room could be had at once, but only by forgetting what `spare` names: waiting would not help. */
  onlySpareIsLeft(sizeBytes: number, spare: ReadonlySet<number> | undefined): boolean {
    if (spare === undefined || spare.size === 0) return false;
    const victim = (want: Want): number => this.#victim(want, (entry) => this.#mayEvict(entry, want));
    const want = { sizeBytes, dropDirty: false, soft: true };
    return victim({ ...want, spare }) === -1 && victim({ ...want, spare: undefined }) >= 0;
  }

  /** Soft pins give way where nothing else does, and where waiting for dirty chunks to be written would not help either. */
  #evictOne(want: Want): boolean {
    if (this.#evictCold(want)) return true;
    const { pins } = this.#state;
    if (pins.usage.ram.soft.chunks === 0) return false;
    if (!want.dropDirty && this.#victim(want, (entry) => this.#mayEvict(entry, { ...want, dropDirty: true })) >= 0) return false;
    return this.#evictCold({ ...want, soft: true });
  }

  #victim({ own, soft = false }: Want, isEvictable: (entry: EntryIndex) => boolean, scanLimit = SCAN_LIMIT): EntryIndex | -1 {
    const { pins, quotas } = this.#state;
    if (own !== undefined) return quotas.victim(own, 'ram', isEvictable, { soft, scanLimit });
    return pins.victimIn('ram', isEvictable as (entry: number) => boolean, scanLimit, { soft });
  }

  /** Evicts for a class: its own coldest chunk, or where another class holds colder ones, a slab of those. False: nothing may go. */
  #evictCold(want: Want): boolean {
    const evictable = (entry: EntryIndex): boolean => this.#mayEvict(entry, want);
    const coldest = this.#victim(want, evictable);
    if (coldest === -1) return false;
    if (this.#leavesSlot(coldest, want)) {
      this.#giveUp(coldest, want);
      return true;
    }
    if (this.#evictSlab(want)) return true;
    const limit = want.own === undefined ? SCAN_LIMIT : OWN_SCAN_LIMIT;
    const same = this.#victim(want, (entry) => this.#leavesSlot(entry, want) && evictable(entry), limit);
    if (same < 0) return false;
    this.#giveUp(same as EntryIndex, want);
    return true;
  }

  /** Whoever takes from itself alone must know that one eviction is enough: a slot may be of a larger class than its chunk. */
  #leavesSlot(entry: EntryIndex, { sizeBytes, own }: Want): boolean {
    const { index, ram } = this.#state;
    if (own !== undefined) return ram.serves(index.ramSlot(entry) as SlotIndex, sizeBytes);
    return ram.classBytes(index.sizeBytes(entry)) === ram.classBytes(sizeBytes);
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
        return owner < 0 || this.#isOthers(owner as EntryIndex, want.own) || !this.#mayEvict(owner as EntryIndex, want);
      },
      { narrow: want.own !== undefined },
    );
    if (plan === undefined || plan.length === 0) return false;
    for (const slot of plan) {
      const owner = this.#state.ownerOf(slot);
      assert(owner >= 0, `slot ${slot} of a reclaim plan has an owner`);
      this.#giveUp(owner as EntryIndex, want);
    }
    return true;
  }

  #isOthers(entry: EntryIndex, own: TenantRow | undefined): boolean {
    const { namespaces, index } = this.#state;
    return own !== undefined && namespaces.tenantOf(index.namespaceOf(entry)) !== own;
  }

  #giveUp(entry: EntryIndex, want: Want): void {
    assert(!this.#isOthers(entry, want.own), `chunk ${entry} gives way to its own tenant, which is at its quota`);
    if (want.own !== undefined) this.#state.counters.quotaEvictionsRam += 1;
    this.evict(entry);
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
  #rowForOneMore(own: TenantRow | undefined): boolean {
    const state = this.#state;
    const { index, counters } = state;
    while (index.entryCount >= state.maxChunks) {
      const mayGo = (entry: EntryIndex): boolean => !state.has(entry, PINNED_HARD);
      const onSsd = this.#coldest('ssd', (entry) => mayGo(entry) && index.ramSlot(entry) < 0 && index.leaseCount(entry) === 0, own);
      const victim = onSsd >= 0 ? onSsd : this.#coldest('ram', (entry) => mayGo(entry) && state.ramIsFree(entry), own);
      if (victim < 0 && !this.#dropStray(own)) return false;
      if (victim < 0) continue;
      if (onSsd >= 0) counters.evictionsSsd += 1;
      else {
        counters.evictionsRam += 1;
        if (index.ssdFolder(victim as EntryIndex) >= 0) counters.evictionsSsd += 1;
        else this.#countDropped(victim as EntryIndex);
      }
      if (own !== undefined && onSsd >= 0) counters.quotaEvictionsSsd += 1;
      else if (own !== undefined) counters.quotaEvictionsRam += 1;
      state.drop(victim as EntryIndex);
    }
    return true;
  }

  #coldest(tier: 'ram' | 'ssd', isEvictable: (entry: EntryIndex) => boolean, own: TenantRow | undefined): EntryIndex | -1 {
    const { pins, quotas } = this.#state;
    if (own !== undefined) return quotas.victim(own, tier, isEvictable, { soft: true, scanLimit: SCAN_LIMIT });
    return pins.victimIn(tier, isEvictable as (entry: number) => boolean, SCAN_LIMIT);
  }

  /** Only HBM has what is left: the coldest of it goes. */
  #dropStray(own: TenantRow | undefined): boolean {
    const state = this.#state;
    const { hbm, index } = state;
    const mayGo = (entry: EntryIndex): boolean =>
      hbm?.strays.has(entry) === true && index.leaseCount(entry) === 0 && !state.has(entry, PINNED_HARD) && !this.#isOthers(entry, own);
    const stray = hbm?.order.victim((entry) => mayGo(entry as EntryIndex), SCAN_LIMIT) ?? -1;
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
    this.#countDropped(entry);
    state.drop(entry);
  }

  /** RAM alone has it, and it goes, whether SSD would take it or not. With admission `off` that is what an eviction is. */
  #countDropped(entry: EntryIndex): void {
    const { counters, limits } = this.#state;
    if (!this.#state.isAdmitted(entry)) counters.skippedChunks += 1;
    else if (limits.ssdAdmission !== 'off') counters.droppedDirtyChunks += 1;
  }
}
