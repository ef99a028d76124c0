/**
 * Writes to SSD of tenants that are at their quota: they take room that is free, or that files of their own leave, never another's. A file
 * that goes frees its room only when its unlink is done, so such a write waits here meanwhile, and comes before all others then.
 *
 * Invariants: a chunk waits once; files are given up for it again only when the unlinks that were begun for it are done and did not
 * suffice.
 */
import type { EntryIndex } from '#core/brand.ts';
import type { CacheState } from './cache-state.ts';
import type { TenantRow } from './tenant-table.ts';

interface Waiting {
  readonly generation: number;
  /** Unlinks under way. */
  pending: number;
}

/** What may go is for the writer to say. */
export interface OwnRoomPorts {
  makesRoom(entry: EntryIndex): boolean;
  evict(entry: EntryIndex, onUnlinked: () => void): void;
}

/** Files given up in one call before it counts as impossible for now. */
const EVICTIONS_PER_CALL = 4096;

export class SsdOwnRoom {
  readonly #state: CacheState;
  readonly #ports: OwnRoomPorts;
  readonly #waiting = new Map<EntryIndex, Waiting>();

  constructor(state: CacheState, ports: OwnRoomPorts) {
    this.#state = state;
    this.#ports = ports;
  }

  /** True while the chunk waits, and still when `next` has named it. */
  covers(entry: EntryIndex): boolean {
    return this.#waiting.size > 0 && this.#state.index.generation(entry) === this.#waiting.get(entry)?.generation;
  }

  /** A chunk whose own files are gone, so that it may be tried again; -1 for none. */
  next(mayWrite: (entry: EntryIndex) => boolean): EntryIndex | -1 {
    for (const [entry, { generation, pending }] of this.#waiting) {
      if (pending > 0) continue;
      if (this.#state.isSame({ entry, generation }) && mayWrite(entry)) return entry;
      this.#waiting.delete(entry);
    }
    return -1;
  }

  settle(entry: EntryIndex): void {
    this.#waiting.delete(entry);
  }

  /** Gives up files of the chunk's tenant for it, and has it wait until they are gone. False: not enough may go. */
  wait(entry: EntryIndex, row: TenantRow): boolean {
    const waiting: Waiting = { generation: this.#state.index.generation(entry), pending: 0 };
    this.#waiting.set(entry, waiting);
    if (this.giveUp(entry, row, waiting)) return true;
    this.#waiting.delete(entry);
    return false;
  }

  /** Gives up the coldest files of the tenant until one folder has room for this chunk's when they are gone. `unlinks` counts them while they go. */
  giveUp(entry: EntryIndex, row: TenantRow, unlinks: { pending: number }): boolean {
    const { index, ssd, quotas, counters } = this.#state;
    const sizeBytes = index.sizeBytes(entry);
    const fileBytes = ssd.fileBytes(sizeBytes);
    if (sizeBytes > row.ssdLimit || !ssd.canEverFit(fileBytes)) return false;
    const freed = new Map<number, number>();
    for (let evictions = 0; evictions < EVICTIONS_PER_CALL; evictions += 1) {
      const victim = quotas.victim(row, 'ssd', (candidate) => this.#ports.makesRoom(candidate));
      if (victim < 0) return unlinks.pending > 0 && quotas.makeSsdRoom(row, sizeBytes);
      const folder = index.ssdFolder(victim as EntryIndex);
      const sum = (freed.get(folder) ?? 0) + ssd.fileBytes(index.sizeBytes(victim as EntryIndex));
      freed.set(folder, sum);
      unlinks.pending += 1;
      counters.quotaEvictionsSsd += 1;
      this.#ports.evict(victim as EntryIndex, () => (unlinks.pending -= 1));
      if ((ssd.folders[folder]?.availableBytes ?? 0) + sum >= fileBytes) return quotas.makeSsdRoom(row, sizeBytes);
    }
    return false;
  }
}
