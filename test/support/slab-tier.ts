/** A SlabAllocator over made-up addresses, divided into arenas as the RAM tier does it; no memory is behind it. */
import type { Address } from '#core/brand.ts';
import { GiB, MiB } from '#core/bytes.ts';
import { choosePageBytes, SlabAllocator } from '#slab/slab-allocator.ts';

/** All arenas available; neighbouring arenas touch in the address space, which must not join them. */
export function slabTier(
  tierBytes: number,
  options: { maxSlotBytes?: number; pageBytes?: number; arenaBytes?: number } = {},
): SlabAllocator {
  const pageBytes = options.pageBytes ?? choosePageBytes(tierBytes);
  const allocator = new SlabAllocator({ pageBytes, maxSlotBytes: options.maxSlotBytes ?? Math.min(128 * MiB, tierBytes / 4) });
  const arenaBytes = options.arenaBytes ?? GiB;
  for (let offset = 0; offset < tierBytes; offset += arenaBytes) {
    const sizeBytes = Math.min(arenaBytes, tierBytes - offset);
    const arena = allocator.addArena((2 ** 40 + offset) as Address, sizeBytes);
    allocator.makeAvailable(arena, 0, sizeBytes - (sizeBytes % pageBytes));
  }
  return allocator;
}
