import { describe, expect, test } from 'vitest';
import type { SlotIndex } from '#core/brand.ts';
import { GiB, KiB, MiB } from '#core/bytes.ts';
import type { SlabAllocator } from '#slab/slab-allocator.ts';
import { slabTier } from '#testsupport/slab-tier.ts';

const never = (): boolean => false;

function fill(allocator: SlabAllocator, sizeBytes: number): SlotIndex[] {
  const slots: SlotIndex[] = [];
  for (let slot = allocator.allocate(sizeBytes); slot !== -1; slot = allocator.allocate(sizeBytes)) slots.push(slot);
  return slots.toSorted((a, b) => allocator.slotAddress(a) - allocator.slotAddress(b));
}

describe('SlabAllocator.planReclaim', () => {
  test('frees the neighbouring slabs that are coldest in total', () => {
    const allocator = slabTier(64 * MiB);
    const slots = fill(allocator, 2 * MiB);
    const heat = new Map(slots.map((slot, index) => [slot, index >= 16 && index < 24 ? 1 : 5]));
    const plan = allocator.planReclaim(16 * MiB, (slot) => heat.get(slot) ?? 0, never);
    expect(plan?.toSorted((a, b) => a - b)).toEqual(slots.slice(16, 24).toSorted((a, b) => a - b));
    for (const slot of plan ?? []) allocator.free(slot);
    const large = allocator.allocate(16 * MiB) as SlotIndex;
    expect(allocator.slotAddress(large)).toBe(2 ** 40 + 32 * MiB);
  });

  test('uses free pages between slabs rather than freeing more', () => {
    const allocator = slabTier(64 * MiB);
    const slots = fill(allocator, 2 * MiB);
    for (const index of [9, 10, 12, 14]) allocator.free(slots[index] as SlotIndex);
    const plan = allocator.planReclaim(16 * MiB, () => 1, never);
    expect(plan?.toSorted((a, b) => a - b)).toEqual([slots[8], slots[11], slots[13], slots[15]].toSorted((a, b) => a! - b!));
  });

  test('asks for nothing where there is room already', () => {
    const allocator = slabTier(64 * MiB);
    allocator.allocate(2 * MiB);
    expect(allocator.planReclaim(16 * MiB, () => 1, never)).toEqual([]);
  });

  test('asks for nothing where a slab of the class, or a slightly larger slot, has room', () => {
    const allocator = slabTier(64 * MiB);
    allocator.allocate(48 * KiB);
    fill(allocator, 2 * MiB);
    fill(allocator, 64 * KiB);
    expect(allocator.planReclaim(48 * KiB, () => 1, never)).toEqual([]);
    expect(allocator.planReclaim(44 * KiB, () => 1, never)).toEqual([]);
    expect(allocator.planReclaim(40 * KiB, () => 1, never)).not.toEqual([]);
  });

  test('never plans a locked slot: it goes off the grid rather, and gives up where no run is free of locks', () => {
    const allocator = slabTier(64 * MiB);
    const slots = fill(allocator, 2 * MiB);
    const locked = new Set([7, 8, 17, 24, 31].map((index) => slots[index] as SlotIndex));
    const plan = allocator.planReclaim(
      16 * MiB,
      () => 1,
      (slot) => locked.has(slot),
    );
    expect(plan).toHaveLength(8);
    expect(plan?.toSorted((a, b) => a - b)).toEqual(slots.slice(9, 17).toSorted((a, b) => a - b));
    for (const index of [3, 12, 16, 20]) locked.add(slots[index] as SlotIndex);
    expect(
      allocator.planReclaim(
        16 * MiB,
        () => 1,
        (slot) => locked.has(slot),
      ),
    ).toBeUndefined();
  });

  test('falls back to a shorter slab where locks leave no room for a whole one', () => {
    const allocator = slabTier(64 * MiB);
    const slots = fill(allocator, 64 * KiB);
    // Every third slab is free to go: no nine pages in a row for 36 KiB, whose shortest good slab has three.
    const locked = new Set(slots.filter((_, index) => index % 5 < 2));
    const plan = allocator.planReclaim(
      36 * KiB,
      () => 1,
      (slot) => locked.has(slot),
    );
    expect(plan).toHaveLength(3);
    for (const slot of plan ?? []) allocator.free(slot);
    expect(allocator.allocate(36 * KiB)).not.toBe(-1);
    allocator.checkInvariants();
  });

  test('treats infinite heat as a lock', () => {
    const allocator = slabTier(64 * MiB);
    fill(allocator, 2 * MiB);
    expect(allocator.planReclaim(16 * MiB, () => Number.POSITIVE_INFINITY, never)).toBeUndefined();
  });

  test('leaves a class that has the whole tier to free slots of its own', () => {
    const allocator = slabTier(64 * MiB);
    fill(allocator, 2 * MiB);
    expect(allocator.planReclaim(2 * MiB, () => 1, never)).toBeUndefined();
  });

  test('does not touch absent pages', () => {
    const allocator = slabTier(64 * MiB, { arenaBytes: 32 * MiB, maxSlotBytes: 32 * MiB });
    const arena = allocator.addArena((2 ** 41) as never, 32 * MiB);
    allocator.makeAvailable(arena, 16 * MiB, 16 * MiB);
    const slots = fill(allocator, 2 * MiB);
    const cold = new Set(slots.filter((slot) => allocator.slotAddress(slot) >= 2 ** 41));
    const plan = allocator.planReclaim(32 * MiB, (slot) => (cold.has(slot) ? 0 : 1), never);
    expect(plan).toHaveLength(16);
    expect(plan?.some((slot) => cold.has(slot))).toBe(false);
  });

  test('takes the coldest run off the grid, not more slots than it needs', () => {
    const allocator = slabTier(64 * MiB);
    const slots = fill(allocator, 2 * MiB);
    const locked = new Set([3, 8, 20, 31].map((index) => slots[index] as SlotIndex));
    const hot = new Set([9, 10, 11].map((index) => slots[index] as SlotIndex));
    const plan = allocator.planReclaim(
      16 * MiB,
      (slot) => (hot.has(slot) ? 9 : 1),
      (slot) => locked.has(slot),
    );
    expect(plan?.toSorted((a, b) => a - b)).toEqual(slots.slice(12, 20).toSorted((a, b) => a - b));
  });

  test('never gives up a slab of the class itself without a gain', () => {
    const allocator = slabTier(64 * MiB);
    const slots = fill(allocator, 2 * MiB);
    for (const slot of slots.slice(1, 7)) allocator.free(slot);
    expect(allocator.slotAddress(allocator.allocate(12 * MiB) as SlotIndex)).toBe(2 ** 40 + 2 * MiB);
    const locked = new Set(slots.slice(7));
    const plan = allocator.planReclaim(
      12 * MiB,
      () => 1,
      (slot) => locked.has(slot),
    );
    expect(plan).toBeUndefined();
  });

  test('looks at everything once when all is locked, and then at samples for some calls', () => {
    const allocator = slabTier(16 * GiB);
    const slots = fill(allocator, MiB);
    let judged = 0;
    const plan = (isLocked: boolean): SlotIndex[] | undefined => {
      judged = 0;
      return allocator.planReclaim(
        8 * MiB,
        () => 1,
        () => {
          judged += 1;
          return isLocked;
        },
      );
    };
    const counts = Array.from({ length: 12 }, () => {
      expect(plan(true)).toBeUndefined();
      return judged;
    });
    expect(counts[0]).toBeGreaterThanOrEqual(slots.length);
    expect(counts.filter((count) => count > 8192).length).toBeLessThanOrEqual(2);
    expect(plan(false)).toHaveLength(8);
    expect(judged).toBeLessThan(8192);
  });

  test('gives up a slab that stands across two places on the grid where both places can be had for it', () => {
    const allocator = slabTier(64 * MiB);
    const slots = fill(allocator, 2 * MiB);
    for (const slot of slots.slice(3, 9)) allocator.free(slot);
    const astride = allocator.allocate(12 * MiB) as SlotIndex;
    expect(allocator.slotAddress(astride)).toBe(2 ** 40 + 6 * MiB);
    const locked = new Set(slots.slice(12));
    const plan = allocator.planReclaim(
      12 * MiB,
      () => 1,
      (slot) => locked.has(slot),
    );
    expect(plan?.toSorted((a, b) => a - b)).toEqual([...slots.slice(0, 3), ...slots.slice(9, 12), astride].toSorted((a, b) => a - b));
    for (const slot of plan ?? []) allocator.free(slot);
    expect(allocator.allocate(12 * MiB)).not.toBe(-1);
    expect(allocator.allocate(12 * MiB)).not.toBe(-1);
  });

  test('ends with a full tier after locks had pushed slabs off the grid', () => {
    const allocator = slabTier(64 * MiB);
    const slots = fill(allocator, 2 * MiB);
    // Locks at 2 MiB and at 34 MiB push the first two slabs of 12 MiB off their grid.
    let locked = new Set([slots[0] as SlotIndex, slots[5] as SlotIndex]);
    const own = new Set<SlotIndex>();
    const place = (): SlotIndex[] | undefined => {
      const plan = allocator.planReclaim(
        12 * MiB,
        (slot) => (own.has(slot) ? 100 : 1),
        (slot) => locked.has(slot),
      );
      for (const slot of plan ?? []) {
        own.delete(slot);
        allocator.free(slot);
      }
      if (plan !== undefined) own.add(allocator.allocate(12 * MiB) as SlotIndex);
      return plan;
    };
    while (place() !== undefined) allocator.checkInvariants();
    locked = new Set();
    while (place() !== undefined) allocator.checkInvariants();
    expect(own.size).toBe(5);
  });
});
