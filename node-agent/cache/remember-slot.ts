/** What shared memory is told of a chunk in RAM: see SlotTable. */
import type { EntryIndex, SlotIndex } from '#core/brand.ts';
import type { CacheState } from './cache-state.ts';
import { HAS_METADATA } from './flags.ts';

export function rememberSlot(state: CacheState, entry: EntryIndex): void {
  const { index, namespaces, metadata, lmBlocks } = state;
  const slot = index.ramSlot(entry) as SlotIndex;
  if (slot < 0) return;
  const namespace = index.namespaceOf(entry);
  const isDescribed = state.has(entry, HAS_METADATA);
  state.ram.remember(slot, {
    namespace,
    descriptor: namespaces.descriptor(namespace),
    key: index.keyOf(entry),
    metadata: isDescribed ? metadata.get(entry) : undefined,
    lmBlock: isDescribed ? lmBlocks.get(entry) : undefined,
    generation: index.generation(entry),
    sizeBytes: index.sizeBytes(entry),
    checksum: index.checksum(entry),
    createdAtMs: index.createdAtMs(entry),
    expiresAtMs: index.expiresAtMs(entry),
    parentGeneration: index.parentGeneration(entry),
    lastUsedAtMs: index.lastUsedAtMs(entry),
  });
}
