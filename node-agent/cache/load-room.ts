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
    const { limits, quotas } = this.#state;
    const isDemand = priority === 'demand';
    const waitMs = limits.putWaitMs;
    if (!quotas.makeRamRoom(tenant, sizeBytes) && !(isDemand && (await quotas.waitForRam(tenant, sizeBytes, { waitMs })))) return -1;
    // A demand read does not queue behind puts: somebody's prompt waits for it.
    let slot = this.#space.allocate(sizeBytes, { overtake: isDemand });
    if (slot < 0 && isDemand) slot = await this.#space.allocateOrWait(sizeBytes, waitMs);
    if (slot === -1) return -1;
    if (!quotas.makeRamRoom(tenant, sizeBytes, { dropDirty: isDemand })) {
      if (this.#state.ram.release(slot)) this.#state.onRoom();
      return -1;
    }
    tenant.reservedRamBytes += sizeBytes;
    return slot;
  }

  giveBack({ slot, tenant, sizeBytes }: Room): void {
    tenant.reservedRamBytes -= sizeBytes;
    if (this.#state.ram.release(slot)) this.#state.onRoom();
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
