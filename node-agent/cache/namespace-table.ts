/**
 * Namespaces by dense number, with a count of references: every chunk and every open ticket holds one. A client may use one
 * namespace a key, so a number whose count drops to zero is forgotten and given out again.
 *
 * Ownership: `intern` and `retain` take a reference, `release` gives it back; an id is valid while its holder has one.
 *
 * Invariants (checkInvariants): an id is live or in the free list, once; the map of identities names the live ids only and each by
 * its own identity; a live id has at least one reference; chunks never outnumber references; counters are not negative; a tenant's
 * counters are the sums of its namespaces'.
 */
import { assert } from '#core/assert.ts';
import type { NamespaceId } from '#core/brand.ts';
import { namespaceIdentity } from '#core/namespace.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';
import { namespaceLabel } from '#core/selector.ts';
import { TenantTable } from './tenant-table.ts';
import type { TenantRow } from './tenant-table.ts';

const encoder = new TextEncoder();
/** `ignoreBOM` keeps a leading U+FEFF, which would otherwise be lost from the key. */
const decoder = new TextDecoder('utf-8', { ignoreBOM: true });

/** What the cache keeps a namespace. Counters belong to the cache, which changes them through the `add` methods. */
interface Row {
  readonly descriptor: NamespaceDescriptor;
  readonly identity: string;
  readonly label: string;
  /** Counts along with the namespace; several namespaces share it. */
  readonly tenant: TenantRow;
  readonly prefixBytes: Uint8Array;
  readonly tailBytes: Uint8Array;
  /** How long its chunks live where a put says nothing; 0: for ever. */
  readonly defaultTtlMs: number;
  references: number;
  chunkCount: number;
  hbmBytes: number;
  ramBytes: number;
  ssdBytes: number;
}

export interface NamespaceUsage {
  readonly chunkCount: number;
  readonly hbmBytes: number;
  readonly ramBytes: number;
  readonly ssdBytes: number;
}

/** The client's spelling of a key. Bytes that are not UTF-8 are replaced: for people and selectors, not for lookups. */
export function wholeKeyOf(descriptor: NamespaceDescriptor, key: Uint8Array): string {
  return descriptor.keyPrefix + decoder.decode(key) + descriptor.keyTail;
}

export class NamespaceTable {
  readonly tenants = new TenantTable();
  readonly #rows: (Row | undefined)[] = [];
  readonly #freeIds: number[] = [];
  readonly #byIdentity = new Map<string, NamespaceId>();
  readonly #ttlOf: (descriptor: NamespaceDescriptor) => number;

  /** `ttlOf` gives the default life of a namespace's chunks in ms, 0 for none; asked once, when the namespace comes up. */
  constructor(options: { readonly ttlOf?: (descriptor: NamespaceDescriptor) => number } = {}) {
    this.#ttlOf = options.ttlOf ?? (() => 0);
  }

  /** Live namespaces. */
  get count(): number {
    return this.#byIdentity.size;
  }

  /** The id of this namespace, new or known, with one more reference. */
  intern(descriptor: NamespaceDescriptor): NamespaceId {
    const identity = namespaceIdentity(descriptor);
    const known = this.#byIdentity.get(identity);
    if (known !== undefined) {
      this.retain(known);
      return known;
    }
    const id = (this.#freeIds.pop() ?? this.#rows.length) as NamespaceId;
    this.#rows[id] = {
      descriptor,
      identity,
      label: namespaceLabel(descriptor),
      tenant: this.tenants.retain(descriptor.tenant),
      prefixBytes: encoder.encode(descriptor.keyPrefix),
      tailBytes: encoder.encode(descriptor.keyTail),
      defaultTtlMs: this.#ttlOf(descriptor),
      references: 1,
      chunkCount: 0,
      hbmBytes: 0,
      ramBytes: 0,
      ssdBytes: 0,
    };
    this.#byIdentity.set(identity, id);
    return id;
  }

  /** The id of a known namespace without a reference, valid until the next release; undefined: nothing of it is cached. */
  find(descriptor: NamespaceDescriptor): NamespaceId | undefined {
    return this.#byIdentity.get(namespaceIdentity(descriptor));
  }

  retain(id: NamespaceId): void {
    this.#row(id).references += 1;
  }

  /** Gives a reference back. With the last one the id ends; its counters must be zero by then. */
  release(id: NamespaceId): void {
    const row = this.#row(id);
    row.references -= 1;
    if (row.references > 0) return;
    const { chunkCount, hbmBytes, ramBytes, ssdBytes } = row;
    if (chunkCount !== 0 || hbmBytes !== 0 || ramBytes !== 0 || ssdBytes !== 0) {
      assert(
        false,
        `Cannot forget namespace ${id}: it counts ${chunkCount} chunks, ${hbmBytes} bytes in hbm, ${ramBytes} in ram, ${ssdBytes} in ssd`,
      );
    }
    this.#byIdentity.delete(row.identity);
    this.tenants.release(row.tenant);
    this.#rows[id] = undefined;
    this.#freeIds.push(id);
  }

  isLive(id: number): boolean {
    return this.#rows[id] !== undefined;
  }

  referenceCount(id: NamespaceId): number {
    return this.#row(id).references;
  }

  descriptor(id: NamespaceId): NamespaceDescriptor {
    return this.#row(id).descriptor;
  }

  /** The tenant's row; valid as long as the id. */
  tenantOf(id: NamespaceId): TenantRow {
    return this.#row(id).tenant;
  }

  /** As `namespaceLabel`, computed once. */
  label(id: NamespaceId): string {
    return this.#row(id).label;
  }

  /** `keyPrefix` in UTF-8. Not to be written to. */
  prefixBytes(id: NamespaceId): Uint8Array {
    return this.#row(id).prefixBytes;
  }

  /** `keyTail` in UTF-8. Not to be written to. */
  tailBytes(id: NamespaceId): Uint8Array {
    return this.#row(id).tailBytes;
  }

  /** How long its chunks live where a put says nothing; 0: for ever. */
  defaultTtlMs(id: NamespaceId): number {
    return this.#row(id).defaultTtlMs;
  }

  usage(id: NamespaceId): NamespaceUsage {
    return this.#row(id);
  }

  /** Sums over the namespaces of one tenant. */
  usageOf(tenant: string): NamespaceUsage {
    const sum = { chunkCount: 0, hbmBytes: 0, ramBytes: 0, ssdBytes: 0 };
    for (const row of this.#rows) {
      if (row === undefined || row.descriptor.tenant !== tenant) continue;
      sum.chunkCount += row.chunkCount;
      sum.hbmBytes += row.hbmBytes;
      sum.ramBytes += row.ramBytes;
      sum.ssdBytes += row.ssdBytes;
    }
    return sum;
  }

  addChunks(id: NamespaceId, delta: number): void {
    const row = this.#row(id);
    row.chunkCount += delta;
    row.tenant.chunkCount += delta;
  }

  addHbmBytes(id: NamespaceId, delta: number): void {
    const row = this.#row(id);
    row.hbmBytes += delta;
    row.tenant.hbmBytes += delta;
  }

  addRamBytes(id: NamespaceId, delta: number): void {
    const row = this.#row(id);
    row.ramBytes += delta;
    row.tenant.ramBytes += delta;
  }

  addSsdBytes(id: NamespaceId, delta: number): void {
    const row = this.#row(id);
    row.ssdBytes += delta;
    row.tenant.ssdBytes += delta;
  }

  /** The client's spelling of a key. Bytes that are not UTF-8 are replaced: for people and selectors, not for lookups. */
  wholeKey(id: NamespaceId, key: Uint8Array): string {
    return wholeKeyOf(this.#row(id).descriptor, key);
  }

  /** The client's spelling of a key, to the byte. */
  wholeKeyBytes(id: NamespaceId, key: Uint8Array): Uint8Array {
    const { prefixBytes, tailBytes } = this.#row(id);
    const whole = new Uint8Array(prefixBytes.length + key.length + tailBytes.length);
    whole.set(prefixBytes);
    whole.set(key, prefixBytes.length);
    whole.set(tailBytes, prefixBytes.length + key.length);
    return whole;
  }

  /** Visits live namespaces in order of their ids. The table must not change meanwhile. */
  forEach(visit: (id: NamespaceId) => void): void {
    for (let id = 0; id < this.#rows.length; id += 1) {
      if (this.#rows[id] !== undefined) visit(id as NamespaceId);
    }
  }

  checkInvariants(): void {
    this.tenants.checkInvariants();
    const left = new Map<TenantRow, { chunkCount: number; hbmBytes: number; ramBytes: number; ssdBytes: number }>();
    for (const tenant of this.tenants.rows()) left.set(tenant, { ...tenant });
    const free = new Set(this.#freeIds);
    assert(free.size === this.#freeIds.length, 'NamespaceTable has an id in the free list twice');
    let live = 0;
    this.#rows.forEach((row, id) => {
      assert((row === undefined) === free.has(id), `NamespaceTable id ${id} is neither live nor free, or both`);
      if (row === undefined) return;
      live += 1;
      assert(this.#byIdentity.get(row.identity) === id, `NamespaceTable id ${id} is not found by its identity`);
      assert(row.references > 0, `NamespaceTable id ${id} is live without a reference`);
      assert(row.chunkCount <= row.references, `NamespaceTable id ${id} counts ${row.chunkCount} chunks, ${row.references} references`);
      const least = Math.min(row.chunkCount, row.hbmBytes, row.ramBytes, row.ssdBytes);
      assert(least >= 0, `NamespaceTable id ${id} counts ${least} of something`);
      const tenant = left.get(row.tenant);
      if (tenant === undefined) assert(false, `NamespaceTable id ${id} counts for a tenant that is not in the table`);
      tenant.chunkCount -= row.chunkCount;
      tenant.hbmBytes -= row.hbmBytes;
      tenant.ramBytes -= row.ramBytes;
      tenant.ssdBytes -= row.ssdBytes;
    });
    for (const { chunkCount, hbmBytes, ramBytes, ssdBytes } of left.values()) {
      assert(chunkCount === 0 && hbmBytes === 0 && ramBytes === 0 && ssdBytes === 0, 'a tenant counts what its namespaces count');
    }
    assert(live === this.#byIdentity.size, `NamespaceTable has ${live} live ids and ${this.#byIdentity.size} identities`);
  }

  #row(id: NamespaceId): Row {
    const row = this.#rows[id];
    if (row === undefined) assert(false, `Cannot use namespace ${id}: it is not live`);
    return row;
  }
}
