/**
 * What a former process left in RAM, at a start: judged as files are, taken in before the catalog's rows, and joined with the files of
 * the same chunks. Payloads are not looked at here: ram-verifier.ts does it at the first touch.
 *
 * Ensures: a slot that was left belongs to a chunk afterwards or is free; the order of eviction is that of the last uses, with the prefix
 * of a chain hotter than what follows it.
 */
import type { EntryIndex, SlotIndex } from '#core/brand.ts';
import type { FoundChunk } from '#tiers/ram/slot-table-reader.ts';
import type { SsdFolder } from '#tiers/ssd/ssd-folder.ts';
import type { CacheState } from './cache-state.ts';
import { UNVERIFIED } from './flags.ts';

/** Steps up a chain that ordering may take, for each chunk: chains that share a long prefix would take their product. */
const TOUCHES_A_CHUNK = 4;

/** What a chunk's record or header says of its parent, which may be known later. */
export interface ParentLink {
  readonly entry: EntryIndex;
  readonly generation: number;
  readonly parentGeneration: number;
}

/** The chunks by generation; appends what they say of their parents. */
export function restoreRam(state: CacheState, parents: ParentLink[]): Map<number, EntryIndex> {
  const entries = new Map<number, EntryIndex>();
  const left = state.ram.restore().toSorted((a, b) => a.lastUsedAtMs - b.lastUsedAtMs || b.generation - a.generation);
  for (const found of left) {
    const entry = take(state, found);
    if (entry === undefined) {
      state.ram.forget(found.slot);
      state.ram.release(found.slot);
      continue;
    }
    entries.set(found.generation, entry);
    if (found.parentGeneration > 0) parents.push({ entry, generation: found.generation, parentGeneration: found.parentGeneration });
  }
  return entries;
}

/** A file that was found on disk becomes the chunk's SSD replica. */
export function takeFile(state: CacheState, entry: EntryIndex, folder: SsdFolder): void {
  folder.adopt(state.ssd.fileBytes(state.index.sizeBytes(entry)));
  folder.chunkCount += 1;
  state.attachSsd(entry, folder.index);
}

function take(state: CacheState, found: FoundChunk & { readonly slot: SlotIndex }): EntryIndex | undefined {
  const { index, namespaces, tombstones, ram } = state;
  const namespace = namespaces.intern(found.namespace);
  try {
    const known = index.find(namespace, found.key);
    const facts = { namespace: found.namespace, key: namespaces.wholeKey(namespace, found.key), createdAtMs: found.createdAtMs };
    const expiresAtMs = state.expiry.ofFile(found);
    const isDead =
      expiresAtMs < 0 ||
      found.generation >= state.epochStart ||
      !ram.canEverFit(found.sizeBytes) ||
      index.entryCount >= state.maxChunks ||
      (known >= 0 && index.generation(known as EntryIndex) > found.generation) ||
      tombstones.isDead(facts, { key: found.key, generation: found.generation, folderId: '' });
    if (isDead) return undefined;
    if (known >= 0) state.remove(known as EntryIndex);
    const entry = state.insert({ ...found, namespace, expiresAtMs });
    ram.nameNamespace(found.namespaceUnit, namespace);
    index.setLastUsedAtMs(entry, found.lastUsedAtMs);
    if (found.metadata !== undefined) state.setMetadata(entry, found.metadata);
    if (found.lmBlock !== undefined) state.setLmBlock(entry, found.lmBlock);
    state.set(entry, UNVERIFIED);
    state.attachRam(entry, found.slot, false);
    state.quotas.recovered(entry);
    return entry;
  } finally {
    namespaces.release(namespace);
  }
}

/** Once the catalog's rows are known: files without a row that are chunks in RAM, then what is dirty, the order of eviction, the rows. */
export function settleRam(
  state: CacheState,
  kept: readonly (readonly [generation: number, entry: EntryIndex])[],
  folders: ReadonlyMap<string, { readonly folder: SsdFolder; readonly names: Set<number> }>,
): void {
  const { index } = state;
  const alive = kept.filter(([generation, entry]) => state.isSame({ entry, generation }));
  for (const [, entry] of alive) {
    if (index.ssdFolder(entry) < 0) joinFile(state, entry, folders);
    if (index.ssdFolder(entry) < 0) state.becomeDirty(entry);
  }
  orderChains(
    state,
    alive.map(([, entry]) => entry),
  );
  for (const [, entry] of alive) state.catalogPut(entry);
}

/** A write may have ended without its row. A file that is dead, its folder having been lost for a while, keeps its name to itself. */
function joinFile(
  state: CacheState,
  entry: EntryIndex,
  folders: ReadonlyMap<string, { readonly folder: SsdFolder; readonly names: Set<number> }>,
): void {
  const { index, namespaces, tombstones } = state;
  const generation = index.generation(entry);
  for (const { folder, names } of folders.values()) {
    if (!names.has(generation)) continue;
    const namespace = namespaces.descriptor(index.namespaceOf(entry));
    const facts = { namespace, key: state.wholeKey(entry), createdAtMs: index.createdAtMs(entry) };
    if (tombstones.isDead(facts, { key: index.keyOf(entry), generation, folderId: folder.id })) {
      state.renew(entry);
      state.remember(entry);
    } else {
      names.delete(generation);
      takeFile(state, entry, folder);
    }
    return;
  }
}

/** Parents are known: each chain as if it had been used when its last chunk was. */
function orderChains(state: CacheState, coldestFirst: readonly EntryIndex[]): void {
  const { index, ramOrder } = state;
  const hasChild = new Set<number>();
  for (const entry of coldestFirst) hasChild.add(index.parent(entry));
  let touches = coldestFirst.length * TOUCHES_A_CHUNK;
  for (const leaf of coldestFirst) {
    if (hasChild.has(leaf)) continue;
    for (let current: EntryIndex | -1 = leaf; current >= 0 && touches > 0; current = index.parent(current as EntryIndex), touches -= 1)
      if (index.ramSlot(current as EntryIndex) >= 0) ramOrder.refresh(current);
  }
}
