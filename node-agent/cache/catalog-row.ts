/** A chunk as the catalog has it. */
import type { EntryIndex } from '#core/brand.ts';
import type { CatalogChunk } from '#ports/catalog-store.ts';
import type { CacheState } from './cache-state.ts';

export function catalogRow(state: CacheState, entry: EntryIndex): CatalogChunk {
  const parent = state.index.parent(entry);
  return {
    generation: state.index.generation(entry),
    namespace: state.namespaces.descriptor(state.index.namespaceOf(entry)),
    key: state.index.keyOf(entry).slice(),
    sizeBytes: state.index.sizeBytes(entry),
    checksum: state.index.checksum(entry),
    createdAtMs: state.index.createdAtMs(entry),
    expiresAtMs: state.index.expiresAtMs(entry),
    lastUsedAtMs: state.index.lastUsedAtMs(entry),
    hitCount: state.index.hitCount(entry),
    parentGeneration: parent < 0 ? undefined : state.index.generation(parent as EntryIndex),
    tokenCount: undefined,
    redisMetadata: state.metadata.get(entry),
    lmBlock: state.lmBlocks.get(entry),
    replicas: state.replicas(entry),
  };
}
