/**
 * Tenants with what they hold, counted as it changes, and their quotas as plain limits. A tenant's row lives while a namespace of it
 * does, while somebody holds it, or while it has a quota.
 *
 * Usage is payload: what clients stored, without headers, padding or the rounding of slots, as `/v1/tenants` prints it. What is under way
 * counts from the moment at which it has room: a put from its ticket, a load from its slot, a write to SSD from its begin.
 *
 * Invariants (checkInvariants): a row is found by its name; it has a reference or a quota; counters are not negative; a limit is a
 * number exactly if the quota names the tier.
 */
import { assert } from '#core/assert.ts';
import type { TenantList } from './tenant-order.ts';

/** Undefined: no limit in this tier. At least one is given. */
export interface Quota {
  readonly ramBytes: number | undefined;
  readonly ssdBytes: number | undefined;
}

export interface TenantRow {
  readonly name: string;
  /** Namespaces, loads and writes that rely on the row. */
  references: number;
  chunkCount: number;
  hbmBytes: number;
  ramBytes: number;
  ssdBytes: number;
  /** Slots that puts and loads under way hold. */
  reservedRamBytes: number;
  /** Writes to SSD under way. */
  writingSsdBytes: number;
  quota: Quota | undefined;
  /** Infinity without a quota, so that the question whether it is exceeded is one comparison for everybody. */
  ramLimit: number;
  ssdLimit: number;
  /** The tenant's own chunks, coldest first; kept only while it has a quota. */
  readonly ram: TenantList;
  readonly ssd: TenantList;
}

export class TenantTable {
  readonly #rows = new Map<string, TenantRow>();
  #quotaCount = 0;

  get quotaCount(): number {
    return this.#quotaCount;
  }

  find(name: string): TenantRow | undefined {
    return this.#rows.get(name);
  }

  /** The row of this name, new or known, with one more reference. */
  retain(name: string): TenantRow {
    const row = this.#rows.get(name) ?? this.#make(name);
    row.references += 1;
    return row;
  }

  release(row: TenantRow): void {
    row.references -= 1;
    this.#settle(row);
  }

  /** Undefined takes the quota away. The row may end with it. */
  setQuota(name: string, quota: Quota | undefined): TenantRow {
    const row = this.#rows.get(name) ?? this.#make(name);
    if ((row.quota === undefined) !== (quota === undefined)) this.#quotaCount += quota === undefined ? -1 : 1;
    row.quota = quota;
    row.ramLimit = quota?.ramBytes ?? Number.POSITIVE_INFINITY;
    row.ssdLimit = quota?.ssdBytes ?? Number.POSITIVE_INFINITY;
    this.#settle(row);
    return row;
  }

  rows(): IterableIterator<TenantRow> {
    return this.#rows.values();
  }

  #make(name: string): TenantRow {
    const row: TenantRow = {
      name,
      references: 0,
      chunkCount: 0,
      hbmBytes: 0,
      ramBytes: 0,
      ssdBytes: 0,
      reservedRamBytes: 0,
      writingSsdBytes: 0,
      quota: undefined,
      ramLimit: Number.POSITIVE_INFINITY,
      ssdLimit: Number.POSITIVE_INFINITY,
      ram: { coldest: 0, hottest: 0, size: 0 },
      ssd: { coldest: 0, hottest: 0, size: 0 },
    };
    this.#rows.set(name, row);
    return row;
  }

  #settle(row: TenantRow): void {
    if (row.references > 0 || row.quota !== undefined) return;
    const { chunkCount, hbmBytes, ramBytes, ssdBytes, reservedRamBytes, writingSsdBytes } = row;
    const left = chunkCount + hbmBytes + ramBytes + ssdBytes + reservedRamBytes + writingSsdBytes;
    assert(left === 0, `a tenant is forgotten when nothing of it is left, not with ${left} of something`);
    this.#rows.delete(row.name);
  }

  checkInvariants(): void {
    let quotas = 0;
    for (const [name, row] of this.#rows) {
      assert(row.name === name, 'a tenant is found by its own name');
      assert(row.references > 0 || row.quota !== undefined, 'a tenant has a reference or a quota');
      const { chunkCount, hbmBytes, ramBytes, ssdBytes, reservedRamBytes, writingSsdBytes } = row;
      const least = Math.min(chunkCount, hbmBytes, ramBytes, ssdBytes, reservedRamBytes, writingSsdBytes);
      assert(least >= 0, 'counters of a tenant are not negative');
      assert(row.ramLimit === (row.quota?.ramBytes ?? Number.POSITIVE_INFINITY), 'a limit in ram is that of the quota');
      assert(row.ssdLimit === (row.quota?.ssdBytes ?? Number.POSITIVE_INFINITY), 'a limit in ssd is that of the quota');
      if (row.quota === undefined) assert(row.ram.size + row.ssd.size === 0, 'without a quota no order is kept');
      else quotas += 1;
    }
    assert(quotas === this.#quotaCount, 'quotas are counted');
  }
}
