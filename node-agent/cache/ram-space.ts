/**
 * Room in RAM for puts and loads, and those of them that wait for it. What gives way is RamEvictor's.
 *
 * A waiter holds nothing. Whoever is below its quota, or has none, waits in one line; after `put.wait` dirty chunks give way to it too, and
 * then it is shed. A tenant at its quota takes slots that are free and those of its own chunks, never another's, so it waits beside that
 * line: whoever comes to its quota or below it while it waits changes over.
 *
 * Invariants: the line is served in the order of arrival; at most MAX_WAITERS wait in it, and as many beside it; a slot given out here
 * counts for its tenant (`reservedRamBytes`) at once, and has an owner (the ticket or load that asked) until it is attached or released.
 */
import type { SlotIndex } from '#core/brand.ts';
import { Fifo } from '#core/fifo.ts';
import type { CacheState } from './cache-state.ts';
import { RamEvictor } from './ram-evictor.ts';
import type { NoRoom, RoomWant } from './ram-evictor.ts';
import type { TenantRow } from './tenant-table.ts';

interface Waiter {
  readonly row: TenantRow;
  readonly request: RoomRequest;
  readonly deadlineMs: number;
  resolve(slot: SlotIndex | NoRoom): void;
}

export interface RoomRequest {
  readonly sizeBytes: number;
  /** A new chunk, which needs a row in the index too. */
  readonly withRow?: boolean;
  /** Rows of the index that must not be forgotten for it: the chain that a put continues. */
  readonly spare?: ReadonlySet<number> | undefined;
  /** As at its quota, wherever the tenant is. */
  readonly onlyOwn?: boolean;
}

const MAX_WAITERS = 4096;

export class RamSpace {
  readonly evictor: RamEvictor;
  readonly #state: CacheState;
  readonly #line = new Fifo<Waiter>();
  #inLine = 0;
  #atQuota: Waiter[] = [];
  #pumping = false;
  #stopped = false;
  #cancelTimer: (() => void) | undefined;
  /** Asks the write-behind to make chunks evictable. */
  onPressure: () => void = () => {};
  /** Asks it for those of tenants that wait at their quota. */
  onQuotaPressure: () => void = () => {};

  constructor(state: CacheState) {
    this.#state = state;
    this.evictor = new RamEvictor(state);
    state.onRoom = () => this.#schedulePump();
  }

  get waitingCount(): number {
    return this.#inLine + this.#atQuota.length;
  }

  /** Tenants at their quota for which somebody waits. */
  rowsThatWait(): readonly TenantRow[] {
    return this.#atQuota.map(({ row }) => row);
  }

  /** A slot at once. Evicts clean chunks, never dirty ones that SSD may still take. Does not overtake those who wait in line. */
  allocate(row: TenantRow, request: RoomRequest, { overtake = false } = {}): SlotIndex | NoRoom {
    const mayUseFree = this.#inLine === 0 || overtake;
    const want = wantOf(request, false);
    if (this.#isAtQuota(row, request)) return this.#counted(row, want, this.evictor.allocateOwn(row, want, { mayUseFree }));
    return mayUseFree ? this.#counted(row, want, this.evictor.allocate(want)) : 'full';
  }

  #isAtQuota(row: TenantRow, { sizeBytes, onlyOwn }: RoomRequest): boolean {
    return onlyOwn === true || !this.#state.quotas.hasRamRoom(row, sizeBytes);
  }

  #counted(row: TenantRow, { sizeBytes }: RoomRequest, slot: SlotIndex | NoRoom): SlotIndex | NoRoom {
    if (typeof slot === 'number') row.reservedRamBytes += sizeBytes;
    return slot;
  }

  /** A slot that nothing was stored in, and what it counts for. */
  giveBack({ slot, tenant, sizeBytes }: { readonly slot: SlotIndex; readonly tenant: TenantRow; readonly sizeBytes: number }): void {
    tenant.reservedRamBytes -= sizeBytes;
    if (this.#state.ram.release(slot)) this.#state.onRoom();
  }

  /** As `allocate`, after at most `waitMs`. The tenant's row must outlive it. */
  async allocateOrWait(row: TenantRow, request: RoomRequest, waitMs: number): Promise<SlotIndex | NoRoom> {
    const { clock } = this.#state;
    const isAtQuota = this.#isAtQuota(row, request);
    if (isAtQuota && (this.#stopped || request.sizeBytes > row.ramLimit || this.#atQuota.length >= MAX_WAITERS)) return 'quota';
    if (!isAtQuota && this.#inLine >= MAX_WAITERS) return 'full';
    const { promise, resolve } = Promise.withResolvers<SlotIndex | NoRoom>();
    this.#enqueue({ row, request, deadlineMs: clock.monotonicMs() + waitMs, resolve }, isAtQuota);
    if (isAtQuota) this.onQuotaPressure();
    else this.onPressure();
    this.#armTimer();
    this.#schedulePump();
    return await promise;
  }

  #enqueue(waiter: Waiter, isAtQuota: boolean): void {
    if (isAtQuota) return void this.#atQuota.push(waiter);
    this.#line.push(waiter);
    this.#inLine += 1;
  }

  #schedulePump(): void {
    if (this.waitingCount === 0 || this.#pumping) return;
    this.#pumping = true;
    queueMicrotask(() => {
      this.#pumping = false;
      this.#pump();
    });
  }

  #pump(): void {
    const now = this.#state.clock.monotonicMs();
    this.#pumpLine(now);
    this.#pumpAtQuota(now);
    this.#armTimer();
  }

  #pumpLine(now: number): void {
    const { ram } = this.#state;
    for (;;) {
      const head = this.#line.peek();
      if (head === undefined) return;
      const { row, request } = head;
      // Memory that is still being backed is worth waiting for: dropping would forget for nothing.
      const expired = head.deadlineMs <= now && !ram.growing;
      const isAtQuota = this.#isAtQuota(row, request);
      const slot = isAtQuota ? 'quota' : this.evictor.allocate(wantOf(request, expired));
      if (slot === 'full' && !expired) return this.onPressure();
      this.#line.shift();
      this.#inLine -= 1;
      if (isAtQuota) this.#enqueue(head, true);
      else head.resolve(this.#counted(row, request, slot));
    }
  }

  #pumpAtQuota(now: number): void {
    const stuck = new Set<TenantRow>();
    for (const waiter of this.#atQuota.splice(0)) {
      const { row, request } = waiter;
      const expired = waiter.deadlineMs <= now;
      if (!this.#isAtQuota(row, request)) {
        this.#enqueue(waiter, false);
        this.#schedulePump();
        continue;
      }
      const isStuck = stuck.has(row) && !expired;
      const mayUseFree = this.#inLine === 0;
      const slot = isStuck ? 'quota' : this.evictor.allocateOwn(row, wantOf(request, expired), { mayUseFree });
      if (typeof slot === 'number' || slot === 'index' || expired) waiter.resolve(this.#counted(row, request, slot));
      else {
        stuck.add(row);
        this.#enqueue(waiter, true);
      }
    }
  }

  #armTimer(): void {
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    const deadlines = this.#atQuota.map(({ deadlineMs }) => deadlineMs);
    const head = this.#line.peek();
    if (head !== undefined) deadlines.push(head.deadlineMs);
    if (deadlines.length === 0) return;
    const delayMs = Math.max(1, Math.min(...deadlines) - this.#state.clock.monotonicMs());
    this.#cancelTimer = this.#state.clock.schedule(delayMs, () => this.#pump());
  }

  /** Everybody who waits is shed, and nobody waits any more; for shutdown. */
  stop(): void {
    this.#stopped = true;
    for (let waiter = this.#line.shift(); waiter !== undefined; waiter = this.#line.shift()) waiter.resolve('full');
    this.#inLine = 0;
    for (const waiter of this.#atQuota.splice(0)) waiter.resolve('quota');
    this.#cancelTimer?.();
  }
}

function wantOf({ sizeBytes, withRow = false, spare }: RoomRequest, dropDirty: boolean): RoomWant {
  return { sizeBytes, withRow, spare, dropDirty };
}
