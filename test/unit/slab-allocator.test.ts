import { describe, expect, test } from 'vitest';
import { InvariantError } from '#core/assert.ts';
import type { Address, SlotIndex } from '#core/brand.ts';
import { GiB, KiB, MiB } from '#core/bytes.ts';
import { choosePageBytes, SlabAllocator } from '#slab/slab-allocator.ts';
import { slabShape } from '#slab/slab-geometry.ts';
import { slabTier } from '#testsupport/slab-tier.ts';

const base = 2 ** 40;

function fill(allocator: SlabAllocator, sizeBytes: number): SlotIndex[] {
  const slots: SlotIndex[] = [];
  for (let slot = allocator.allocate(sizeBytes); slot !== -1; slot = allocator.allocate(sizeBytes)) slots.push(slot);
  return slots;
}

function oneArena(pages: number): SlabAllocator {
  const allocator = new SlabAllocator({ pageBytes: 64 * KiB, maxSlotBytes: 16 * MiB });
  allocator.addArena(base as Address, pages * 64 * KiB);
  return allocator;
}

describe('SlabAllocator', () => {
  test('gives out nothing of an arena that is absent, and each part as soon as it is made available', () => {
    const allocator = oneArena(16);
    expect(allocator.allocate(64 * KiB)).toBe(-1);
    allocator.makeAvailable(0, 128 * KiB, 64 * KiB);
    const slot = allocator.allocate(64 * KiB) as SlotIndex;
    expect(allocator.slotAddress(slot)).toBe(base + 128 * KiB);
    expect(allocator.allocate(64 * KiB)).toBe(-1);
    allocator.checkInvariants();
  });

  test('joins parts that were made available one after the other, in any order', () => {
    const allocator = oneArena(16);
    for (const page of [3, 1, 2, 0]) allocator.makeAvailable(0, page * 64 * KiB, 64 * KiB);
    allocator.checkInvariants();
    const slot = allocator.allocate(256 * KiB) as SlotIndex;
    expect(allocator.slotAddress(slot)).toBe(base);
  });

  test('never joins pages of two arenas, even where their addresses touch', () => {
    const allocator = slabTier(2 * MiB, { arenaBytes: MiB, maxSlotBytes: 2 * MiB, pageBytes: 64 * KiB });
    expect(allocator.canEverFit(2 * MiB)).toBe(false);
    expect(allocator.allocate(2 * MiB)).toBe(-1);
    expect(allocator.canEverFit(MiB)).toBe(true);
    expect(fill(allocator, MiB)).toHaveLength(2);
    allocator.checkInvariants();
  });

  test('returns a slab to the arena when its last slot is freed, and its class ends with it', () => {
    const allocator = slabTier(64 * MiB);
    const slots = Array.from({ length: 3 }, () => allocator.allocate(48 * KiB) as SlotIndex);
    expect(allocator.stats().classes).toEqual([{ classBytes: 48 * KiB, slabCount: 1, slotCount: 4, usedSlotCount: 3 }]);
    for (const slot of slots) {
      expect(allocator.stats().freePageBytes).toBe(64 * MiB - 192 * KiB);
      allocator.free(slot);
    }
    expect(allocator.stats()).toMatchObject({ freePageBytes: 64 * MiB, slabCount: 0, usedSlotCount: 0, classes: [] });
  });

  test('joins the pages of a freed slab with free neighbours on both sides', () => {
    const allocator = oneArena(3);
    allocator.makeAvailable(0, 0, 192 * KiB);
    const slots = fill(allocator, 64 * KiB);
    for (const index of [0, 2, 1]) allocator.free(slots[index] as SlotIndex);
    allocator.checkInvariants();
    expect(allocator.allocate(192 * KiB)).not.toBe(-1);
  });

  test('puts every slot from 16 KiB on at a multiple of 4 KiB, and smaller ones at a multiple of 64 bytes', () => {
    const allocator = slabTier(64 * MiB);
    for (const sizeBytes of [16 * KiB, 20 * KiB + 1, 33 * KiB, 100_000, 2 * MiB + 1]) {
      for (let count = 0; count < 5; count += 1) expect(allocator.slotAddress(allocator.allocate(sizeBytes) as SlotIndex) % 4096).toBe(0);
    }
    for (const sizeBytes of [0, 1, 65, 1000, 5000, 16 * KiB - 1]) {
      for (let count = 0; count < 5; count += 1) expect(allocator.slotAddress(allocator.allocate(sizeBytes) as SlotIndex) % 64).toBe(0);
    }
    allocator.checkInvariants();
  });

  test('rounds sizes from 16 KiB on up to 4 KiB exactly while few classes are live', () => {
    const allocator = slabTier(GiB);
    expect([16 * KiB, 16 * KiB + 1, 2 * MiB + 1].map((size) => allocator.slotClassBytes(size))).toEqual([
      16 * KiB,
      20 * KiB,
      2 * MiB + 4 * KiB,
    ]);
  });

  test('wastes at most an eighth on small objects of 512 bytes and more', () => {
    const allocator = slabTier(64 * MiB);
    let worst = 1;
    for (let size = 512; size < 16 * KiB; size += 1) worst = Math.min(worst, size / allocator.slotClassBytes(size));
    expect(worst).toBeGreaterThanOrEqual(0.875);
  });

  test('keeps the number of classes bounded when very many sizes arrive, at no more than an eighth of waste', () => {
    const allocator = slabTier(4 * GiB);
    for (let step = 0; step < 4000; step += 1) {
      const sizeBytes = 32 * KiB + step * 4096;
      const slot = allocator.allocate(sizeBytes);
      if (slot !== -1) expect(sizeBytes / allocator.slotCapacityBytes(slot)).toBeGreaterThanOrEqual(0.875);
    }
    expect(allocator.stats().classes.length).toBeGreaterThanOrEqual(256);
    expect(allocator.stats().classes.length).toBeLessThanOrEqual(400);
    allocator.checkInvariants();
  });

  test('keeps an exact class that is live exact, however many classes there are', () => {
    const allocator = slabTier(4 * GiB);
    for (let step = 0; step < 300; step += 1) allocator.allocate(32 * KiB + step * 4096);
    expect(allocator.slotClassBytes(108 * KiB)).toBe(108 * KiB);
    expect(allocator.slotClassBytes(2 * MiB - 4096)).toBe(2 * MiB);
    expect(allocator.slotClassBytes(100 * MiB + 4096)).toBe(104 * MiB);
  });

  test('rejects a size over the limit without touching anything', () => {
    const allocator = slabTier(64 * MiB);
    expect(allocator.canEverFit(16 * MiB)).toBe(true);
    expect(allocator.canEverFit(16 * MiB + 1)).toBe(false);
    expect(allocator.allocate(16 * MiB + 1)).toBe(-1);
    expect(
      allocator.planReclaim(
        16 * MiB + 1,
        () => 0,
        () => false,
      ),
    ).toBeUndefined();
    expect(allocator.stats().slabCount).toBe(0);
  });

  test('lends a slot of a slightly larger class when the exact class has no room, never of a much larger one', () => {
    const allocator = slabTier(64 * MiB);
    const slots = fill(allocator, MiB);
    const fours = slots.filter((_, index) => index % 2 === 0);
    for (const slot of fours) allocator.free(slot);
    fill(allocator, 72 * KiB);
    expect(allocator.allocate(72 * KiB)).toBe(-1);
    allocator.forEachUsedSlot((slot) => {
      if (allocator.slotCapacityBytes(slot) === 72 * KiB && fours.length > 0) {
        fours.length = 0;
        allocator.free(slot);
      }
    });
    const borrowed = allocator.allocate(66 * KiB) as SlotIndex;
    expect(allocator.slotCapacityBytes(borrowed)).toBe(72 * KiB);
    allocator.free(borrowed);
    expect(allocator.allocate(60 * KiB)).toBe(-1);
    allocator.checkInvariants();
  });

  test('grows the generation of a slot number each time it is given out, in another slab too', () => {
    const allocator = oneArena(1);
    allocator.makeAvailable(0, 0, 64 * KiB);
    const generations: number[] = [];
    for (const sizeBytes of [64 * KiB, 32 * KiB, 64 * KiB]) {
      const slot = allocator.allocate(sizeBytes) as SlotIndex;
      expect(slot).toBe(0);
      generations.push(allocator.slotGeneration(slot));
      allocator.free(slot);
      expect(allocator.slotGeneration(slot)).toBe(generations.at(-1));
    }
    expect(generations).toEqual([1, 2, 3]);
  });

  test("treats a double free, a free slot's address and an unknown slot as bugs", () => {
    const allocator = slabTier(64 * MiB);
    const [kept, freed] = [allocator.allocate(32 * KiB) as SlotIndex, allocator.allocate(32 * KiB) as SlotIndex];
    allocator.free(freed);
    expect(() => allocator.free(freed)).toThrow(InvariantError);
    expect(() => allocator.slotAddress(freed)).toThrow(InvariantError);
    expect(() => allocator.slotCapacityBytes(99 as SlotIndex)).toThrow(InvariantError);
    allocator.free(kept);
    expect(() => allocator.free(kept)).toThrow(InvariantError);
    expect(() => allocator.allocate(-1)).toThrow(InvariantError);
    expect(() => allocator.allocate(Number.NaN)).toThrow(InvariantError);
  });

  test('treats pages that are made available twice or outside of their arena as bugs', () => {
    const allocator = oneArena(4);
    allocator.makeAvailable(0, 0, 64 * KiB);
    expect(() => allocator.makeAvailable(0, 0, 128 * KiB)).toThrow(InvariantError);
    expect(() => allocator.makeAvailable(0, 192 * KiB, 128 * KiB)).toThrow(InvariantError);
    expect(() => allocator.makeAvailable(0, 4096, 64 * KiB)).toThrow(InvariantError);
    expect(() => allocator.makeAvailable(1, 0, 64 * KiB)).toThrow(InvariantError);
    expect(() => allocator.addArena((base + 64) as Address, MiB)).toThrow(InvariantError);
    allocator.checkInvariants();
  });

  test('leaves out the end of an arena that is no whole page, and arenas below a page', () => {
    const allocator = new SlabAllocator({ pageBytes: 64 * KiB, maxSlotBytes: MiB });
    allocator.addArena(base as Address, 128 * KiB + 100);
    allocator.makeAvailable(0, 0, 64 * KiB);
    allocator.makeAvailable(0, 64 * KiB, 64 * KiB + 100);
    allocator.addArena((base + MiB) as Address, 5000);
    allocator.makeAvailable(1, 0, 5000);
    allocator.addArena((base + 2 * MiB) as Address, 64 * KiB);
    allocator.makeAvailable(2, 0, 64 * KiB);
    expect(allocator.stats()).toMatchObject({ capacityBytes: 192 * KiB, freePageBytes: 192 * KiB, absentBytes: 0 });
    const slots = fill(allocator, 64 * KiB);
    expect(slots).toHaveLength(3);
    allocator.checkInvariants();
    expect(
      allocator.planReclaim(
        128 * KiB,
        () => 1,
        () => false,
      ),
    ).toHaveLength(2);
  });

  test('accounts for every byte of its capacity in its stats', () => {
    const allocator = new SlabAllocator({ pageBytes: 64 * KiB, maxSlotBytes: MiB });
    allocator.addArena(base as Address, 8 * MiB + 100);
    allocator.makeAvailable(0, 0, 6 * MiB);
    for (const sizeBytes of [36 * KiB, 36 * KiB, 68 * KiB, 100, 1000]) allocator.allocate(sizeBytes);
    const stats = allocator.stats();
    expect(stats.capacityBytes).toBe(8 * MiB);
    expect(stats.absentBytes).toBe(2 * MiB);
    expect(stats.usedSlotBytes).toBe(36 * KiB * 2 + 68 * KiB + 128 + 1024);
    const { absentBytes, freePageBytes, usedSlotBytes, freeSlotBytes, wasteBytes } = stats;
    expect(absentBytes + freePageBytes + usedSlotBytes + freeSlotBytes + wasteBytes).toBe(stats.capacityBytes);
    expect(wasteBytes).toBeGreaterThan(0);
  });
});

describe('choosePageBytes', () => {
  test('keeps page tables small on huge tiers and rounding small on small ones', () => {
    expect([4 * MiB, 64 * MiB, GiB, 4 * GiB, 64 * GiB, 1024 * GiB].map(choosePageBytes)).toEqual([
      4 * KiB,
      64 * KiB,
      64 * KiB,
      64 * KiB,
      256 * KiB,
      2 * MiB,
    ]);
  });
});

describe('slabShape', () => {
  test('leaves at least 1 % above 87.5 % payload for the ends of arenas, for the worst size of every class and every page size', () => {
    const shape = { slots: 0, pages: 0, minPages: 0 };
    let worst = 1;
    let longestBytes = 0;
    for (let pageBytes = 4 * KiB; pageBytes <= 2 * MiB; pageBytes *= 2) {
      for (let classBytes = 36 * KiB; classBytes <= 8 * MiB; classBytes += 4 * KiB) {
        slabShape(classBytes, { pageBytes, maxPages: GiB / pageBytes }, shape);
        worst = Math.min(worst, (shape.slots * (classBytes - 4095)) / (shape.pages * pageBytes));
        longestBytes = Math.max(longestBytes, shape.pages * pageBytes);
      }
    }
    expect(worst).toBeGreaterThanOrEqual(0.885);
    expect(longestBytes).toBeLessThanOrEqual(72 * MiB);
  });

  test('is the best there is where no slab of little waste fits an arena, and empty where not one slot does', () => {
    const shape = { slots: 0, pages: 0, minPages: 0 };
    slabShape(36 * KiB, { pageBytes: 64 * KiB, maxPages: 2 }, shape);
    expect(shape).toEqual({ slots: 3, pages: 2, minPages: 2 });
    slabShape(36 * KiB, { pageBytes: 16 * KiB, maxPages: 2 }, shape);
    expect(shape).toEqual({ slots: 0, pages: 0, minPages: 0 });
  });
});
