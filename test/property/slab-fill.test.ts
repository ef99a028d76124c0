import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { SlotIndex } from '#core/brand.ts';
import { GiB, KiB, MiB } from '#core/bytes.ts';
import type { SlabAllocator } from '#slab/slab-allocator.ts';
import { slabTier } from '#testsupport/slab-tier.ts';

/** Part of a tier that is payload when it holds nothing but `sizeBytes`. */
function payloadPart(tierBytes: number, sizeBytes: number): number {
  const allocator = slabTier(tierBytes);
  let count = 0;
  while (allocator.allocate(sizeBytes) !== -1) count += 1;
  return (count * sizeBytes) / tierBytes;
}

/** Sizes spread over octaves, with those that round worst: just above a class, and just above a whole part of the tier. */
function sizesOf(tierBytes: number, minBytes: number): fc.Arbitrary<number> {
  const max = Math.min(tierBytes / 16, 128 * MiB);
  const spread = fc.double({ min: Math.log2(minBytes), max: Math.log2(max), noNaN: true }).map((octave) => Math.floor(2 ** octave));
  const awkward = fc.tuple(spread, fc.constantFrom(0, 1, 4095)).map(([size, extra]) => Math.floor(size / 4096) * 4096 + extra);
  const parts = fc
    .tuple(fc.integer({ min: 16, max: 64 }), fc.constantFrom(-4096, -1, 0, 1))
    .map(([part, extra]) => Math.floor(tierBytes / part) + extra);
  return fc.oneof(spread, awkward, parts).map((size) => Math.min(max, Math.max(minBytes, size)));
}

describe('SlabAllocator filled with one size', () => {
  for (const [tierBytes, runs] of [
    [64 * MiB, 300],
    [256 * MiB, 150],
    [GiB, 60],
  ] as const) {
    test(`holds at least 87.5 % payload in a tier of ${tierBytes / MiB} MiB, for any size from 32 KiB to 1/16 of it`, () => {
      fc.assert(
        fc.property(sizesOf(tierBytes, 32 * KiB), (sizeBytes) => {
          expect(payloadPart(tierBytes, sizeBytes)).toBeGreaterThanOrEqual(0.875);
        }),
        { numRuns: runs },
      );
    });
  }

  // Large tiers take millions of small slots, hence few runs there and a lower bound on the drawn sizes.
  for (const [tierBytes, minBytes] of [
    [4 * GiB, 512 * KiB],
    [3 * GiB + 512 * MiB, 512 * KiB],
    [64 * GiB, 8 * MiB],
  ] as const) {
    test(`holds at least 87.5 % payload in a tier of ${tierBytes / MiB} MiB made of arenas`, () => {
      fc.assert(
        fc.property(sizesOf(tierBytes, minBytes), (sizeBytes) => {
          expect(payloadPart(tierBytes, sizeBytes)).toBeGreaterThanOrEqual(0.875);
        }),
        { numRuns: 60 },
      );
    });
  }

  test('holds at least 87.5 % payload at the size that rounds worst, 32 KiB and one byte, in tiers of 4 and 64 GiB', () => {
    for (const tierBytes of [4 * GiB, 64 * GiB]) expect(payloadPart(tierBytes, 32 * KiB + 1)).toBeGreaterThanOrEqual(0.875);
  });
});

/** What a cache does when the class has the whole tier: one old slot that serves the size. */
function oldSlotOfClass(allocator: SlabAllocator, sizeBytes: number, fresh: ReadonlySet<SlotIndex>): SlotIndex[] | undefined {
  let found: SlotIndex | undefined;
  allocator.forEachUsedSlot((slot) => {
    const capacityBytes = allocator.slotCapacityBytes(slot);
    if (!fresh.has(slot) && capacityBytes >= sizeBytes && capacityBytes * 0.875 <= sizeBytes) found ??= slot;
  });
  return found === undefined ? undefined : [found];
}

/** Allocates `sizeBytes`, executing plans, until the tier holds as much of it as promised. Returns plans and own slots lost. */
function refill(tierBytes: number, allocator: SlabAllocator, sizeBytes: number, heatOf: (slot: SlotIndex) => number) {
  const own = new Set<SlotIndex>();
  const budget = { plans: 0, lostOwn: 0 };
  while (own.size * sizeBytes < 0.875 * tierBytes) {
    let slot = allocator.allocate(sizeBytes);
    if (slot === -1) {
      const plan = allocator.planReclaim(sizeBytes, heatOf, () => false) ?? oldSlotOfClass(allocator, sizeBytes, own);
      expect(plan, `plan for ${sizeBytes} bytes at ${own.size} slots`).toBeDefined();
      for (const victim of plan ?? []) {
        if (own.delete(victim)) budget.lostOwn += 1;
        allocator.free(victim);
      }
      budget.plans += 1;
      slot = allocator.allocate(sizeBytes);
      expect(slot).not.toBe(-1);
    }
    own.add(slot as SlotIndex);
  }
  allocator.checkInvariants();
  return { ...budget, count: own.size };
}

describe('SlabAllocator whose mix of sizes changes', () => {
  test('takes each new size up to 87.5 % of the tier by executing plans, back and forth without a restart', () => {
    const tierBytes = 512 * MiB;
    const allocator = slabTier(tierBytes);
    let state = 1;
    const heat = new Map<SlotIndex, number>();
    const heatOf = (slot: SlotIndex): number => {
      const known = heat.get(slot);
      if (known !== undefined) return known;
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
      heat.set(slot, state);
      return state;
    };
    for (const sizeBytes of [2 * MiB, 32 * MiB, 3 * MiB, 20 * MiB, 48 * KiB, 32 * MiB, 2 * MiB, 20 * MiB, 3 * MiB, 48 * KiB, 2 * MiB]) {
      const { lostOwn } = refill(tierBytes, allocator, sizeBytes, heatOf);
      expect(lostOwn).toBe(0);
    }
  });

  test('takes any sequence of sizes up to 87.5 %, whatever the heat, losing few of the chunks just placed', () => {
    const tierBytes = 64 * MiB;
    const size = fc.double({ min: Math.log2(64 * KiB), max: Math.log2(4 * MiB), noNaN: true }).map((octave) => Math.floor(2 ** octave));
    fc.assert(
      fc.property(
        fc.array(size, { minLength: 2, maxLength: 6 }),
        fc.array(fc.integer({ min: 0, max: 1000 }), { minLength: 1, maxLength: 50 }),
        (sizes, heats) => {
          const allocator = slabTier(tierBytes);
          for (const sizeBytes of sizes) {
            const { lostOwn, count } = refill(tierBytes, allocator, sizeBytes, (slot) => heats[slot % heats.length] as number);
            expect(lostOwn).toBeLessThanOrEqual(count / 4 + 16);
          }
        },
      ),
      { numRuns: 25 },
    );
  });
});
