/**
 * What one client shares with the agent: regions of its own, and one piece of memory that the agent made for it (RESERVE). A region is
 * unmapped when its client is done with it and no job is.
 *
 * Invariants: a region that is used by a job is mapped; a region that was given up takes no new job; the bytes that all clients have
 * been made memory of are at most what is allowed.
 */
import { assert } from '#core/assert.ts';
import type { Region, RegionOutcome, Regions } from '#ports/local-door.ts';
import { Reservations } from './reservations.ts';

/** At most so many of one connection. */
const MAX_REGIONS = 64;

/** Address space that all regions together may take: a quarter of what a process has. */
const MAX_MAPPED_BYTES = 2 ** 45;

/** Bytes that the agent makes for clients, and maps for them, over all of them. */
export interface MemoryBudget {
  readonly perClientBytes: number;
  readonly totalBytes: number;
  usedBytes: number;
  mappedBytes: number;
}

export class SharedRegion {
  readonly region: Region;
  /** Of the memory that the agent made; undefined for a client's own. */
  readonly reservations: Reservations | undefined;
  #users = 0;
  #given = false;
  #onFree: () => void = () => {};

  constructor(region: Region, reservations?: Reservations) {
    this.region = region;
    this.reservations = reservations;
  }

  get users(): number {
    return this.#users;
  }

  /** False where the span leaves the region, or is empty. */
  covers({ offset, length }: { readonly offset: number; readonly length: number }): boolean {
    return length > 0 && offset + length <= this.region.sizeBytes;
  }

  use(): void {
    assert(!this.#given, 'a region that was given up is not used');
    this.#users += 1;
  }

  done(): void {
    this.#users -= 1;
    if (this.#given && this.#users === 0) this.#free();
  }

  /** Unmaps as soon as no job uses it, and says so. */
  giveUp(onFree: () => void): void {
    assert(!this.#given, 'a region is given up once');
    this.#given = true;
    this.#onFree = onFree;
    if (this.#users === 0) this.#free();
  }

  #free(): void {
    this.region.close();
    this.#onFree();
  }
}

export class NativeMemory {
  readonly #regions: Regions;
  readonly #budget: MemoryBudget;
  readonly #attached = new Map<number, SharedRegion>();
  #nextId = 1;
  #reserved: { readonly id: number; readonly shared: SharedRegion } | undefined;

  constructor(regions: Regions, budget: MemoryBudget) {
    this.#regions = regions;
    this.#budget = budget;
  }

  get regionCount(): number {
    return this.#attached.size;
  }

  get(id: number): SharedRegion | undefined {
    return this.#attached.get(id);
  }

  get isFull(): boolean {
    return this.#attached.size >= MAX_REGIONS;
  }

  /** Takes the outcome of an attach in. */
  add(outcome: RegionOutcome): { readonly id: number; readonly region: Region } | { readonly problem: string } {
    if ('problem' in outcome) return outcome;
    if (this.#budget.mappedBytes + outcome.sizeBytes > MAX_MAPPED_BYTES) {
      outcome.close();
      return { problem: 'too much is mapped for other regions' };
    }
    this.#budget.mappedBytes += outcome.sizeBytes;
    const id = this.#nextId++;
    this.#attached.set(id, new SharedRegion(outcome));
    return { id, region: outcome };
  }

  /** False where there is no such region; the memory that the agent made stays as long as its client. */
  detach(id: number, onFree: () => void): boolean {
    const shared = this.#attached.get(id);
    if (shared === undefined || shared === this.#reserved?.shared) return false;
    this.#attached.delete(id);
    shared.giveUp(() => {
      this.#budget.mappedBytes -= shared.region.sizeBytes;
      onFree();
    });
    return true;
  }

  /** The memory made for this client, on first use. `isNew`: its descriptor has to be sent. */
  reserved(): { readonly id: number; readonly shared: SharedRegion; readonly isNew: boolean } | { readonly problem: string } {
    if (this.#reserved !== undefined) return { ...this.#reserved, isNew: false };
    const budget = this.#budget;
    const { perClientBytes } = budget;
    if (budget.usedBytes + perClientBytes > budget.totalBytes)
      return { problem: 'the memory for reservations is used up by other clients' };
    const outcome = this.#regions.create(perClientBytes);
    if ('problem' in outcome) return outcome;
    budget.usedBytes += perClientBytes;
    const shared = new SharedRegion(outcome, new Reservations(perClientBytes));
    const id = this.#nextId++;
    this.#attached.set(id, shared);
    this.#reserved = { id, shared };
    return { id, shared, isNew: true };
  }

  get reservations(): SharedRegion | undefined {
    return this.#reserved?.shared;
  }

  /** The client is gone. What jobs use goes when they end. */
  close(): void {
    for (const shared of this.#attached.values()) {
      const isReserved = shared === this.#reserved?.shared;
      shared.giveUp(() => {
        if (isReserved) this.#budget.usedBytes -= this.#budget.perClientBytes;
        else this.#budget.mappedBytes -= shared.region.sizeBytes;
      });
    }
    this.#attached.clear();
    this.#reserved = undefined;
  }

  checkInvariants(): void {
    assert(this.#attached.size <= MAX_REGIONS + 1, 'regions are bounded');
    this.#reserved?.shared.reservations?.checkInvariants();
    assert(this.#budget.usedBytes <= this.#budget.totalBytes, 'the memory for reservations is bounded');
    assert(this.#budget.mappedBytes >= 0 && this.#budget.mappedBytes <= MAX_MAPPED_BYTES, 'what is mapped is bounded');
  }
}
