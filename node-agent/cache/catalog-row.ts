/** A chunk as the catalog has it. */
import type { EntryIndex } from '#core/brand.ts';
import type { CatalogChunk, CatalogReplica } from '#ports/catalog-store.ts';
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
    replicas: replicasOf(state, entry),
  };
}

export function replicasOf(state: CacheState, entry: EntryIndex): CatalogReplica[] {
  const replicas: CatalogReplica[] = [];
  const folder = state.index.ssdFolder(entry);
  if (state.isInHbm(entry)) replicas.push({ tier: 'hbm', folder: '', dirty: state.hbm?.strays.has(entry) === true });
  if (state.index.ramSlot(entry) >= 0) replicas.push({ tier: 'ram', folder: '', dirty: state.isDirty(entry) });
  if (folder >= 0) replicas.push({ tier: 'ssd', folder: state.ssd.folders[folder]?.id ?? '', dirty: false });
  return replicas;
}
