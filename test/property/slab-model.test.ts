import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Address, SlotIndex } from '#core/brand.ts';
import { KiB, MiB } from '#core/bytes.ts';
import { SlabAllocator } from '#slab/slab-allocator.ts';

const PAGE = 16 * KiB;
const arenas = [
  { address: 2 ** 40, sizeBytes: 64 * PAGE },
  { address: 2 ** 40 + 64 * PAGE, sizeBytes: 40 * PAGE },
] as const;

type Step =
  | { readonly kind: 'allocate'; readonly sizeBytes: number }
  | { readonly kind: 'free'; readonly pick: number }
  | { readonly kind: 'back'; readonly arena: number; readonly pick: number; readonly pages: number }
  | { readonly kind: 'reclaim'; readonly sizeBytes: number; readonly locks: number };

const sizes = fc.oneof(
  fc.integer({ min: 0, max: 512 * KiB }),
  fc.integer({ min: 0, max: 20 * KiB }),
  fc.constantFrom(0, 64, 16 * KiB - 1, 16 * KiB, 16 * KiB + 1, 36 * KiB, 48 * KiB, 64 * KiB, 256 * KiB, 512 * KiB, 513 * KiB),
);
const steps: fc.Arbitrary<Step> = fc.oneof(
  { weight: 8, arbitrary: fc.record({ kind: fc.constant('allocate' as const), sizeBytes: sizes }) },
  { weight: 5, arbitrary: fc.record({ kind: fc.constant('free' as const), pick: fc.nat() }) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('back' as const),
      arena: fc.nat({ max: 1 }),
      pick: fc.nat(),
      pages: fc.integer({ min: 1, max: 30 }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('reclaim' as const), sizeBytes: sizes, locks: fc.integer({ min: 2, max: 9 }) }) },
);

/** The naive model: which pages are backed, and the interval of every slot in use. */
class Model {
  readonly allocator = new SlabAllocator({ pageBytes: PAGE, maxSlotBytes: 512 * KiB });
  readonly backed = arenas.map((arena) => new Array<boolean>(arena.sizeBytes / PAGE).fill(false));
  readonly used = new Map<SlotIndex, { readonly address: number; readonly endAddress: number; readonly sizeBytes: number }>();
  readonly generations = new Map<SlotIndex, number>();

  constructor() {
    for (const arena of arenas) this.allocator.addArena(arena.address as Address, arena.sizeBytes);
  }

  run(step: Step): void {
    if (step.kind === 'allocate') this.allocate(step.sizeBytes);
    else if (step.kind === 'free') this.free(step.pick);
    else if (step.kind === 'back') this.back(step);
    else this.reclaim(step);
    this.check();
  }

  allocate(sizeBytes: number): boolean {
    const slot = this.allocator.allocate(sizeBytes);
    if (slot === -1) return false;
    expect(sizeBytes).toBeLessThanOrEqual(512 * KiB);
    expect(this.used.has(slot)).toBe(false);
    const capacityBytes = this.allocator.slotCapacityBytes(slot);
    expect(capacityBytes).toBeGreaterThanOrEqual(sizeBytes);
    expect(this.allocator.slotGeneration(slot)).toBeGreaterThan(this.generations.get(slot) ?? 0);
    this.generations.set(slot, this.allocator.slotGeneration(slot));
    const address = this.allocator.slotAddress(slot);
    expect(address % (sizeBytes >= 16 * KiB ? 4096 : 64)).toBe(0);
    this.used.set(slot, { address, endAddress: address + capacityBytes, sizeBytes });
    return true;
  }

  free(pick: number): void {
    if (this.used.size === 0) return;
    const slot = [...this.used.keys()][pick % this.used.size] as SlotIndex;
    this.used.delete(slot);
    this.allocator.free(slot);
  }

  /** Backs the longest stretch of absent pages from a drawn absent page on, up to the drawn length. */
  back(step: { readonly arena: number; readonly pick: number; readonly pages: number }): void {
    const backed = this.backed[step.arena] as boolean[];
    const absent = backed.flatMap((isBacked, page) => (isBacked ? [] : [page]));
    if (absent.length === 0) return;
    const first = absent[step.pick % absent.length] as number;
    let behind = first;
    while (behind < backed.length && backed[behind] === false && behind < first + step.pages) backed[behind++] = true;
    this.allocator.makeAvailable(step.arena, first * PAGE, (behind - first) * PAGE);
  }

  reclaim(step: { readonly sizeBytes: number; readonly locks: number }): void {
    const heat = (slot: SlotIndex): number => (slot * 7919) % 101;
    const isLocked = (slot: SlotIndex): boolean => slot % step.locks === 0;
    const plan = this.allocator.planReclaim(step.sizeBytes, heat, isLocked);
    this.check();
    if (plan === undefined) return;
    expect(new Set(plan).size).toBe(plan.length);
    for (const slot of plan) {
      expect(this.used.has(slot)).toBe(true);
      expect(isLocked(slot)).toBe(false);
      this.used.delete(slot);
      this.allocator.free(slot);
    }
    expect(this.allocate(step.sizeBytes)).toBe(true);
  }

  check(): void {
    this.allocator.checkInvariants();
    const intervals = [...this.used.values()].toSorted((a, b) => a.address - b.address);
    intervals.forEach((interval, index) => {
      if (index > 0) expect(interval.address).toBeGreaterThanOrEqual((intervals[index - 1] as { endAddress: number }).endAddress);
      expect(this.isBacked(interval.address, interval.endAddress)).toBe(true);
    });
    const seen: SlotIndex[] = [];
    this.allocator.forEachUsedSlot((slot) => seen.push(slot));
    expect(seen.toSorted((a, b) => a - b)).toEqual([...this.used.keys()].toSorted((a, b) => a - b));
    for (const [slot, interval] of this.used) expect(this.allocator.slotAddress(slot)).toBe(interval.address);
    const stats = this.allocator.stats();
    expect(stats.usedSlotBytes).toBe(intervals.reduce((sum, interval) => sum + interval.endAddress - interval.address, 0));
    expect(stats.absentBytes).toBe(this.backed.flat().filter((isBacked) => !isBacked).length * PAGE);
    if (this.used.size === 0) expect(stats.freePageBytes).toBe(stats.capacityBytes - stats.absentBytes);
  }

  isBacked(address: number, endAddress: number): boolean {
    const index = arenas.findIndex((arena) => address >= arena.address && address < arena.address + arena.sizeBytes);
    const arena = arenas[index];
    if (arena === undefined || endAddress > arena.address + arena.sizeBytes) return false;
    const pages = (this.backed[index] as boolean[]).slice(
      Math.floor((address - arena.address) / PAGE),
      Math.ceil((endAddress - arena.address) / PAGE),
    );
    return pages.every(Boolean);
  }

  /** Longest stretch of backed pages that no used slot touches and that lies in one arena. */
  largestFreeRun(): number {
    let largest = 0;
    arenas.forEach((arena, index) => {
      let run = 0;
      (this.backed[index] as boolean[]).forEach((isBacked, page) => {
        const begin = arena.address + page * PAGE;
        const isTouched = [...this.used.values()].some((slot) => slot.address < begin + PAGE && slot.endAddress > begin);
        run = isBacked && !isTouched ? run + PAGE : 0;
        largest = Math.max(largest, run);
      });
    });
    return largest;
  }
}

describe('SlabAllocator against a model of intervals', () => {
  test('keeps slots apart, inside backed pages, aligned and counted under any order of allocate, free, backing and reclaim', () => {
    fc.assert(
      fc.property(fc.array(steps, { maxLength: 120 }), (sequence) => {
        const model = new Model();
        model.back({ arena: 0, pick: 0, pages: 24 });
        for (const step of sequence) model.run(step);
        while (model.used.size > 0) model.free(0);
        model.check();
      }),
      { numRuns: 60 },
    );
  });

  test('refuses a size of whole pages only if no stretch of free pages holds it', () => {
    const pageSizes = fc.integer({ min: 2, max: 32 }).map((pages) => pages * PAGE);
    const step = fc.oneof(
      { weight: 3, arbitrary: fc.record({ kind: fc.constant('allocate' as const), sizeBytes: pageSizes }) },
      { weight: 2, arbitrary: fc.record({ kind: fc.constant('free' as const), pick: fc.nat() }) },
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 150 }), (sequence) => {
        const model = new Model();
        model.back({ arena: 0, pick: 0, pages: 64 });
        for (const current of sequence) {
          if (current.kind === 'free') model.free(current.pick);
          else {
            const room = model.largestFreeRun() >= current.sizeBytes;
            expect(model.allocate(current.sizeBytes)).toBe(room);
          }
        }
        model.check();
      }),
      { numRuns: 100 },
    );
  });

  test('plans the coldest place on the grid, as a search over all places finds it', () => {
    const chunkPages = fc.integer({ min: 1, max: 5 });
    const heatTables = fc.array(fc.integer({ min: 0, max: 50 }), { minLength: 104, maxLength: 104 });
    fc.assert(
      fc.property(
        chunkPages,
        fc.integer({ min: 6, max: 20 }),
        heatTables,
        fc.integer({ min: 2, max: 40 }),
        (small, large, heats, locks) => {
          const model = new Model();
          model.back({ arena: 0, pick: 0, pages: 64 });
          model.back({ arena: 1, pick: 0, pages: 40 });
          while (model.allocate(small * PAGE));
          const heat = (slot: SlotIndex): number => heats[slot] as number;
          const isLocked = (slot: SlotIndex): boolean => slot % locks === 1;
          const expected = coldestPlace(model, large * PAGE, { heat, isLocked });
          const plan = model.allocator.planReclaim(large * PAGE, heat, isLocked);
          if (expected === Number.POSITIVE_INFINITY) return;
          expect(plan?.reduce((sum, slot) => sum + heat(slot), 0)).toBe(expected);
        },
      ),
      { numRuns: 100 },
    );
  });
});

type Costs = { readonly heat: (slot: SlotIndex) => number; readonly isLocked: (slot: SlotIndex) => boolean };

/** Least heat of the slots that overlap a place; slots here are slabs of their own. */
function coldestPlace(model: Model, sizeBytes: number, { heat, isLocked }: Costs): number {
  let coldest = Number.POSITIVE_INFINITY;
  for (const arena of arenas) {
    for (let offset = 0; offset + sizeBytes <= arena.sizeBytes; offset += sizeBytes) {
      let cost = 0;
      for (const [slot, interval] of model.used) {
        if (interval.address >= arena.address + offset + sizeBytes || interval.endAddress <= arena.address + offset) continue;
        cost += isLocked(slot) ? Number.POSITIVE_INFINITY : heat(slot);
      }
      coldest = Math.min(coldest, cost);
    }
  }
  return coldest;
}

test('the model is not vacuous: sizes of every kind find room in it', () => {
  const model = new Model();
  model.back({ arena: 0, pick: 0, pages: 64 });
  for (const sizeBytes of [0, 100, 15 * KiB, 16 * KiB, 36 * KiB, 64 * KiB, 128 * KiB]) expect(model.allocate(sizeBytes)).toBe(true);
  expect(model.allocate(MiB)).toBe(false);
  model.check();
});
