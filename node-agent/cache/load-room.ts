/**
 * Room in RAM for a chunk that comes from a slower tier or from a device.
 *
 * Invariant: a room counts for its tenant from the moment at which it is given until it is used or given back.
 */
import type { SlotIndex } from '#core/brand.ts';
import type { IoPriority } from '#ports/io-pool.ts';
import type { CacheState } from './cache-state.ts';
import type { RamSpace } from './ram-space.ts';
import type { TenantRow } from './tenant-table.ts';

/** A slot, and who it counts for. */
export interface Room {
  readonly slot: SlotIndex;
  readonly tenant: TenantRow;
  readonly sizeBytes: number;
}

export class LoadRooms {
  readonly #state: CacheState;
  readonly #space: RamSpace;

  constructor(state: CacheState, space: RamSpace) {
    this.#state = state;
    this.#space = space;
  }

  /** A slot, counted for the tenant from now on; -1: none in RAM, or none within the tenant's quota. */
  async take(tenant: TenantRow, sizeBytes: number, priority: IoPriority): Promise<SlotIndex | -1> {
    const isDemand = priority === 'demand';
    // A demand read does not queue behind puts: somebody's prompt waits for it.
    const slot = this.#space.allocate(tenant, { sizeBytes }, { overtake: isDemand });
    if (typeof slot === 'number') return slot;
    const later = isDemand ? await this.#space.allocateOrWait(tenant, { sizeBytes }, this.#state.limits.putWaitMs) : slot;
    return typeof later === 'number' ? later : -1;
  }

  giveBack(room: Room): void {
    this.#space.giveBack(room);
  }

  /** The device may still write into the slot, if it ever answers: nobody else gets it before. */
  giveBackAfter(room: Room, late: Promise<boolean>): void {
    const { tenants } = this.#state.namespaces;
    tenants.retain(room.tenant.name);
    void late.finally(() => {
      this.giveBack(room);
      tenants.release(room.tenant);
    });
  }
}
