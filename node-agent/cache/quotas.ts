/**
 * Quotas: what a tenant may hold in each tier. A tenant that would exceed its quota gives up its own coldest chunks, never another's; one
 * that stays below it competes with everybody by the tier's order. What it may not hold is refused (a put), served as a miss (a load into
 * RAM) or left to RAM (a write to SSD).
 *
 * RAM: clean chunks go at once. Where only chunks are left that SSD has still to take, the put waits as it does for a full tier (at most
 * `put.wait`), the write-behind writes this tenant's coldest first, and after that they are dropped.
 *
 * A quota below what is held is reached in slices of TRIM_CHUNKS, so that it does not stop the process; meanwhile the tenant is `over`.
 *
 * Invariants (checkInvariants): a tenant holds at most its quota, what is under way included, unless it is `over`; a chunk is LIMITED
 * exactly if its tenant has a quota, and then it is in the tenant's list of each tier that has it; who is over has a quota.
 */
import { assert } from '#core/assert.ts';
import type { EntryIndex } from '#core/brand.ts';
import { badRequest } from '#core/errors.ts';
import type { QuotaRecord } from '#catalog/journal-record.ts';
import type { CacheState } from './cache-state.ts';
import { LIMITED } from './flags.ts';
import type { Quota, TenantRow } from './tenant-table.ts';
import { TenantOrder } from './tenant-order.ts';

/** What may go is for those to say who know readers, leases and writes; set when the cache is wired. */
export interface QuotaPorts {
  mayLeaveRam(entry: EntryIndex, want: Omit<OwnWant, 'sizeBytes'>): boolean;
  leaveRam(entry: EntryIndex): void;
  mayLeaveSsd(entry: EntryIndex): boolean;
  leaveSsd(entry: EntryIndex): void;
  /** Somebody waits for this tenant's dirty chunks to be written. */
  writeSoon(): void;
  /** Tenants for which somebody waits. */
  rowsThatWait(): readonly TenantRow[];
}

/** What a tenant's own chunks may be asked to give. */
export interface OwnWant {
  readonly sizeBytes: number;
  /** Also chunks that SSD has not taken yet. */
  readonly dropDirty: boolean;
  /** Rows that must not be forgotten for this one: the chain that it continues. */
  readonly spare: ReadonlySet<number> | undefined;
}

/** Tenants with a quota: each costs a look four times a second and a record in every compaction. */
export const MAX_QUOTAS = 10_000;
/** Chunks of a tenant that are looked at for a victim. */
const SCAN_LIMIT = 4096;
/** Chunks evicted for one put or write before it counts as impossible for now. */
const EVICTIONS_PER_CALL = 4096;
/** Chunks given up in one turn when a quota was lowered: about a millisecond. */
const TRIM_CHUNKS = 256;

export class Quotas {
  readonly #state: CacheState;
  readonly #ram = new TenantOrder();
  readonly #ssd = new TenantOrder();
  #ports: QuotaPorts | undefined;
  /** Hold more than they may: their quota was lowered, or a start found it so. */
  readonly #over = new Set<TenantRow>();
  #trimming = false;
  #stopped = false;

  constructor(state: CacheState) {
    this.#state = state;
    for (const { tenant, ramBytes, ssdBytes } of state.tombstones.replayedQuotas.values())
      state.namespaces.tenants.setQuota(tenant, { ramBytes, ssdBytes });
    state.tombstones.alsoKept.push(() => this.#records());
  }

  connect(ports: QuotaPorts): void {
    this.#ports = ports;
  }

  get #port(): QuotaPorts {
    assert(this.#ports !== undefined, 'quotas are connected');
    return this.#ports;
  }

  // --- hooks of CacheState --------------------------------------------------------------------------------------------------------

  /** A LIMITED chunk came into a tier. */
  attached(entry: EntryIndex, tier: 'ram' | 'ssd'): void {
    const row = this.#rowOf(entry);
    (tier === 'ram' ? this.#ram : this.#ssd).insert(row[tier], entry);
  }

  detached(entry: EntryIndex, tier: 'ram' | 'ssd'): void {
    const row = this.#rowOf(entry);
    (tier === 'ram' ? this.#ram : this.#ssd).remove(row[tier], entry);
  }

  touched(entry: EntryIndex, tier: 'ram' | 'ssd'): void {
    (tier === 'ram' ? this.#ram : this.#ssd).touch(this.#rowOf(entry)[tier], entry);
  }

  #rowOf(entry: EntryIndex): TenantRow {
    return this.#state.namespaces.tenantOf(this.#state.index.namespaceOf(entry));
  }

  /** A chunk was found at the start: its tenant may hold more than it may since. */
  recovered(entry: EntryIndex): void {
    if (!this.#state.has(entry, LIMITED)) return;
    const row = this.#rowOf(entry);
    if (exceeds(row)) this.#over.add(row);
  }

  // --- room -----------------------------------------------------------------------------------------------------------------------

  /** False: the tenant is at its quota, and whatever gives way for `sizeBytes` more is its own. One comparison. */
  hasRamRoom(row: TenantRow, sizeBytes: number): boolean {
    return row.ramBytes + row.reservedRamBytes + sizeBytes <= row.ramLimit;
  }

  hasSsdRoom(row: TenantRow, sizeBytes: number): boolean {
    return row.ssdBytes + row.writingSsdBytes + sizeBytes <= row.ssdLimit;
  }

  /** Makes room for `sizeBytes` more within the tenant's quota, out of its own chunks, coldest first. True: there is room now. */
  makeRamRoom(row: TenantRow, want: OwnWant): boolean {
    for (let evictions = 0; !this.hasRamRoom(row, want.sizeBytes); evictions += 1) {
      if (evictions === EVICTIONS_PER_CALL || want.sizeBytes > row.ramLimit || !this.#evictFromRam(row, want)) return false;
    }
    return true;
  }

  /** As makeRamRoom on SSD; a file under way counts. */
  makeSsdRoom(row: TenantRow, sizeBytes: number): boolean {
    for (let evictions = 0; !this.hasSsdRoom(row, sizeBytes); evictions += 1) {
      if (evictions === EVICTIONS_PER_CALL || sizeBytes > row.ssdLimit || !this.#evictFromSsd(row)) return false;
    }
    return true;
  }

  /** False where nothing that the tenant has in RAM may go now. */
  mayGiveWay(row: TenantRow, want: OwnWant): boolean {
    this.#state.leases.expire(this.#state.clock.monotonicMs());
    return this.#ramVictim(row, want) >= 0;
  }

  /** True where the tenant has room but for the chain that the put continues. */
  onlySpareIsLeft(row: TenantRow, sizeBytes: number, spare: ReadonlySet<number> | undefined): boolean {
    if (spare === undefined || spare.size === 0 || sizeBytes > row.ramLimit) return false;
    const victim = (spared: ReadonlySet<number> | undefined): number => this.#ramVictim(row, { dropDirty: false, spare: spared });
    return victim(spare) < 0 && victim(undefined) >= 0;
  }

  #ramVictim(row: TenantRow, want: Omit<OwnWant, 'sizeBytes'>): EntryIndex | -1 {
    return this.victim(row, 'ram', (entry) => this.#port.mayLeaveRam(entry, want));
  }

  #evictFromRam(row: TenantRow, want: Omit<OwnWant, 'sizeBytes'>): boolean {
    const victim = this.#ramVictim(row, want);
    if (victim < 0) return false;
    this.#state.counters.quotaEvictionsRam += 1;
    this.#port.leaveRam(victim as EntryIndex);
    return true;
  }

  #evictFromSsd(row: TenantRow): boolean {
    const victim = this.victim(row, 'ssd', (entry) => this.#port.mayLeaveSsd(entry));
    if (victim < 0) return false;
    this.#state.counters.quotaEvictionsSsd += 1;
    this.#port.leaveSsd(victim as EntryIndex);
    return true;
  }

  /** The tenant's own coldest chunk in a tier that may go; soft-pinned ones after all others, or not at all. -1 for none. */
  // oxlint-disable-next-line max-params -- three positional and an options object, as STYLE allows
  victim(
    row: TenantRow,
    tier: 'ram' | 'ssd',
    isEvictable: (entry: EntryIndex) => boolean,
    { soft, scanLimit }: { readonly soft: boolean; readonly scanLimit: number } = { soft: true, scanLimit: SCAN_LIMIT },
  ): EntryIndex | -1 {
    const { pins } = this.#state;
    const order = tier === 'ram' ? this.#ram : this.#ssd;
    const list = row[tier];
    const mayGo = isEvictable as (entry: number) => boolean;
    this.#state.settleTouches();
    if (pins.count === 0) return order.victim(list, mayGo, scanLimit) as EntryIndex | -1;
    const view = {
      victim: (passes: (entry: number) => boolean) => order.victim(list, passes, scanLimit),
      reheat: (entry: number) => order.touch(list, entry),
    };
    return pins.victim(view, mayGo, { tier, soft });
  }

  /** The coldest dirty chunk of a tenant for which somebody waits, or that is over; -1 for none. */
  dirtyVictim(mayWrite: (entry: EntryIndex) => boolean): EntryIndex | -1 {
    const waiting = this.#port.rowsThatWait();
    if (waiting.length === 0 && this.#over.size === 0) return -1;
    for (const row of new Set([...waiting, ...this.#over])) {
      const entry = this.#ram.victim(row.ram, (candidate) => mayWrite(candidate as EntryIndex), SCAN_LIMIT);
      if (entry >= 0) return entry as EntryIndex;
    }
    return -1;
  }

  /** For shutdown: nothing is trimmed any more. */
  stop(): void {
    this.#stopped = true;
  }

  // --- quotas themselves ----------------------------------------------------------------------------------------------------------

  /** Durable when it resolves; counts from before that. Undefined takes the quota away. */
  async set(tenant: string, quota: Quota | undefined): Promise<void> {
    const { tombstones, namespaces } = this.#state;
    if (quota !== undefined && namespaces.tenants.find(tenant)?.quota === undefined && namespaces.tenants.quotaCount >= MAX_QUOTAS)
      throw badRequest(`Cannot give another tenant a quota: ${MAX_QUOTAS} have one, which is the limit`);
    tombstones.append([{ kind: 'quota', tenant, ramBytes: quota?.ramBytes, ssdBytes: quota?.ssdBytes }]);
    this.#apply(tenant, quota);
    await tombstones.sync();
  }

  #apply(tenant: string, quota: Quota | undefined): void {
    const { tenants } = this.#state.namespaces;
    const known = tenants.find(tenant);
    if (quota === undefined) {
      if (known === undefined) return;
      this.#over.delete(known);
      const unmark = (entry: number): void => this.#state.clear(entry as EntryIndex, LIMITED);
      this.#ram.drain(known.ram, unmark);
      this.#ssd.drain(known.ssd, unmark);
      this.#forEachStray(known, unmark);
      tenants.setQuota(tenant, undefined);
      this.#state.onRoom();
      return;
    }
    const isNew = known?.quota === undefined;
    const row = tenants.setQuota(tenant, quota);
    if (isNew && row.chunkCount > 0) this.#collect(row);
    if (exceeds(row)) this.#over.add(row);
    this.trim();
    this.#state.onRoom();
  }

  /** Chunks that only HBM has: they are in no order of the tenant's, and come into one when they come back to RAM. */
  #forEachStray(row: TenantRow, visit: (entry: EntryIndex) => void): void {
    for (const entry of this.#state.hbm?.strays ?? []) if (this.#rowOf(entry) === row) visit(entry);
  }

  /** A walk over both tiers from the coldest on: 10 ms for 10^5 chunks, once for a tenant that had no quota (docs/bench/quotas.md). */
  #collect(row: TenantRow): void {
    const state = this.#state;
    state.ramOrder.forEachColdest((entry) => {
      if (this.#rowOf(entry as EntryIndex) !== row) return true;
      this.#ram.insert(row.ram, entry);
      state.set(entry as EntryIndex, LIMITED);
      return true;
    });
    state.ssdOrder.forEachColdest((entry) => {
      if (this.#rowOf(entry as EntryIndex) !== row) return true;
      this.#ssd.insert(row.ssd, entry);
      state.set(entry as EntryIndex, LIMITED);
      return true;
    });
    this.#forEachStray(row, (entry) => state.set(entry, LIMITED));
  }

  /** A slice for those that are over; goes on by itself while it gets anywhere, and housekeeping begins it anew. */
  trim(): void {
    if (this.#over.size === 0 || this.#trimming || this.#stopped) return;
    if (this.#trimSlice()) {
      this.#trimming = true;
      this.#state.clock.schedule(0, () => {
        this.#trimming = false;
        this.trim();
      });
    } else if (this.#over.size > 0) this.#port.writeSoon();
  }

  /** True where the slice was used up. */
  #trimSlice(): boolean {
    let left = TRIM_CHUNKS;
    for (const row of this.#over) {
      while (
        left > 0 &&
        row.ramBytes + row.reservedRamBytes > row.ramLimit &&
        this.#evictFromRam(row, { dropDirty: false, spare: undefined })
      )
        left -= 1;
      while (left > 0 && row.ssdBytes + row.writingSsdBytes > row.ssdLimit && this.#evictFromSsd(row)) left -= 1;
      if (!exceeds(row)) this.#over.delete(row);
      if (left === 0) return true;
    }
    return false;
  }

  #records(): QuotaRecord[] {
    const records: QuotaRecord[] = [];
    for (const { name, quota } of this.#state.namespaces.tenants.rows())
      if (quota !== undefined) records.push({ kind: 'quota', tenant: name, ...quota });
    return records;
  }

  checkInvariants(): void {
    const state = this.#state;
    const { index } = state;
    const inRam = new Set<number>();
    const onSsd = new Set<number>();
    for (const row of state.namespaces.tenants.rows()) {
      this.#ram.check(row.ram, (entry) => void inRam.add(entry));
      this.#ssd.check(row.ssd, (entry) => void onSsd.add(entry));
      assert(!this.#over.has(row) || row.quota !== undefined, 'who is over has a quota');
      assert(!exceeds(row) || this.#over.has(row), 'a tenant holds at most its quota unless it is being trimmed');
    }
    index.forEach((entry) => {
      const limited = this.#rowOf(entry).quota !== undefined;
      assert(state.has(entry, LIMITED) === limited, `chunk ${entry} is marked exactly if its tenant has a quota`);
      assert(inRam.delete(entry) === (limited && index.ramSlot(entry) >= 0), `chunk ${entry} is in its tenant's order of RAM`);
      assert(onSsd.delete(entry) === (limited && index.ssdFolder(entry) >= 0), `chunk ${entry} is in its tenant's order of SSD`);
    });
    assert(inRam.size + onSsd.size === 0, "tenants' orders hold chunks only");
  }
}

function exceeds(row: TenantRow): boolean {
  return row.ramBytes + row.reservedRamBytes > row.ramLimit || row.ssdBytes + row.writingSsdBytes > row.ssdLimit;
}
