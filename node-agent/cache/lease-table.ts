/**
 * Leases: bounded read protection given by a lookup. All have one duration; they end within a thirtieth of it after they expire,
 * from buckets of that width, so that renewing one costs nothing.
 *
 * Invariants: a chunk's lease count (in the index) equals its leases alive here; the leased bytes of a tier are at most its limit;
 * one owner has at most one lease on a chunk (asking again renews it). A lease on a chunk that was removed is dead: its generation
 * tells, and its bytes are given back at removal.
 */
import { assert } from '#core/assert.ts';
import type { LeaseId } from '#core/brand.ts';

/** A chunk that so many clients hold is held well enough; further ones get no lease of their own. Below the index's 16 bits. */
const MAX_OWNERS = 1024;
/** What a lease on a smaller chunk counts: leases cost memory of their own. */
const LEAST_BYTES = 256;

export interface Lease {
  readonly id: LeaseId;
  readonly entry: number;
  readonly owner: number;
  readonly tier: 'hbm' | 'ram' | 'ssd';
  readonly sizeBytes: number;
  expiresAtMs: number;
  alive: boolean;
  bucket: number;
}

export class LeaseTable {
  readonly #durationMs: number;
  readonly #limit: (tier: 'hbm' | 'ram' | 'ssd') => number;
  readonly #onEnd: (lease: Lease) => void;
  readonly #bucketMs: number;
  /** Bucket number -> leases that were to expire in it when they were put there. One record a lease. */
  readonly #buckets = new Map<number, Set<Lease>>();
  /** entry -> owner -> lease */
  readonly #byEntry = new Map<number, Map<number, Lease>>();
  readonly #byOwner = new Map<number, Set<Lease>>();
  readonly #bytes = { hbm: 0, ram: 0, ssd: 0 };
  #nextId = 1;
  #count = 0;

  /** `limit` gives the bytes that leases may cover in a tier; `onEnd` runs when a lease ends for whatever reason. */
  constructor(options: { durationMs: number; limit: (tier: 'hbm' | 'ram' | 'ssd') => number; onEnd: (lease: Lease) => void }) {
    this.#durationMs = options.durationMs;
    this.#bucketMs = Math.max(1, options.durationMs / 30);
    this.#limit = options.limit;
    this.#onEnd = options.onEnd;
  }

  get count(): number {
    return this.#count;
  }

  bytes(tier: 'hbm' | 'ram' | 'ssd'): number {
    return this.#bytes[tier];
  }

  /** Takes or renews; undefined where the tier's leases are used up. `isNew` tells the caller to count it. */
  take(
    chunk: { entry: number; sizeBytes: number; tier: 'hbm' | 'ram' | 'ssd' },
    owner: number,
    nowMs: number,
  ): { lease: Lease; isNew: boolean } | undefined {
    const known = this.#byEntry.get(chunk.entry)?.get(owner);
    if (known !== undefined) {
      known.expiresAtMs = nowMs + this.#durationMs;
      return { lease: known, isNew: false };
    }
    let owners = this.#byEntry.get(chunk.entry);
    if (owners !== undefined && owners.size >= MAX_OWNERS) return undefined;
    const sizeBytes = Math.max(chunk.sizeBytes, LEAST_BYTES);
    if (this.#bytes[chunk.tier] + sizeBytes > this.#limit(chunk.tier)) return undefined;
    const lease: Lease = {
      id: this.#nextId++ as LeaseId,
      entry: chunk.entry,
      tier: chunk.tier,
      sizeBytes,
      owner,
      expiresAtMs: nowMs + this.#durationMs,
      alive: true,
      bucket: -1,
    };
    if (owners === undefined) this.#byEntry.set(chunk.entry, (owners = new Map<number, Lease>()));
    owners.set(owner, lease);
    const held = this.#byOwner.get(owner);
    if (held === undefined) this.#byOwner.set(owner, new Set([lease]));
    else held.add(lease);
    this.#bytes[chunk.tier] += sizeBytes;
    this.#count += 1;
    this.#file(lease);
    return { lease, isNew: true };
  }

  /** Ends the lease of this owner; false where there is none. */
  release(entry: number, owner: number): boolean {
    const lease = this.#byEntry.get(entry)?.get(owner);
    if (lease !== undefined) this.#end(lease);
    return lease !== undefined;
  }

  /** Ends all leases of one owner. True where there were any. */
  releaseOwner(owner: number): boolean {
    const held = [...(this.#byOwner.get(owner) ?? [])];
    for (const lease of held) this.#end(lease);
    return held.length > 0;
  }

  /** Ends all leases of a chunk that is being removed. */
  releaseEntry(entry: number): void {
    for (const lease of [...(this.#byEntry.get(entry)?.values() ?? [])]) this.#end(lease);
  }

  /** Ends the leases that were given for the copy in this tier, which is lost. */
  releaseTier(entry: number, tier: 'hbm' | 'ram' | 'ssd'): void {
    for (const lease of [...(this.#byEntry.get(entry)?.values() ?? [])]) if (lease.tier === tier) this.#end(lease);
  }

  /** Ends what has expired. True where something ended. */
  expire(nowMs: number): boolean {
    const current = Math.floor(nowMs / this.#bucketMs);
    let ended = false;
    const due = [...this.#buckets.keys()].filter((bucket) => bucket < current);
    for (const bucket of due) {
      const leases = this.#buckets.get(bucket) ?? new Set();
      this.#buckets.delete(bucket);
      for (const lease of leases) {
        if (lease.expiresAtMs > nowMs) this.#file(lease);
        else {
          this.#end(lease);
          ended = true;
        }
      }
    }
    return ended;
  }

  #file(lease: Lease): void {
    const bucket = Math.floor(lease.expiresAtMs / this.#bucketMs);
    const leases = this.#buckets.get(bucket);
    lease.bucket = bucket;
    if (leases === undefined) this.#buckets.set(bucket, new Set([lease]));
    else leases.add(lease);
  }

  #end(lease: Lease): void {
    assert(lease.alive, `lease ${lease.id} ends once`);
    lease.alive = false;
    const filed = this.#buckets.get(lease.bucket);
    filed?.delete(lease);
    if (filed?.size === 0) this.#buckets.delete(lease.bucket);
    const owners = this.#byEntry.get(lease.entry);
    owners?.delete(lease.owner);
    if (owners?.size === 0) this.#byEntry.delete(lease.entry);
    const held = this.#byOwner.get(lease.owner);
    held?.delete(lease);
    if (held?.size === 0) this.#byOwner.delete(lease.owner);
    this.#bytes[lease.tier] -= lease.sizeBytes;
    this.#count -= 1;
    this.#onEnd(lease);
  }

  /** True where a lease was given for the copy in this tier. */
  covers(entry: number, tier: 'hbm' | 'ram' | 'ssd'): boolean {
    for (const lease of this.#byEntry.get(entry)?.values() ?? []) if (lease.tier === tier) return true;
    return false;
  }

  /** Leases alive by entry, for invariant checks. */
  countOf(entry: number): number {
    return this.#byEntry.get(entry)?.size ?? 0;
  }

  countOfOwner(owner: number): number {
    return this.#byOwner.get(owner)?.size ?? 0;
  }

  checkInvariants(): void {
    const bytes = { hbm: 0, ram: 0, ssd: 0 };
    let count = 0;
    for (const owners of this.#byEntry.values()) {
      for (const lease of owners.values()) {
        assert(lease.alive, `lease ${lease.id} in the table is alive`);
        bytes[lease.tier] += lease.sizeBytes;
        count += 1;
      }
    }
    let held = 0;
    for (const leases of this.#byOwner.values()) held += leases.size;
    assert(held === count, 'owners hold the leases of the table');
    const agree = bytes.hbm === this.#bytes.hbm && bytes.ram === this.#bytes.ram && bytes.ssd === this.#bytes.ssd;
    assert(agree, 'leased bytes agree');
    assert(count === this.#count, 'lease count agrees');
  }
}
