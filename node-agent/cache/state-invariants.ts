/** What must hold of the cache's state as a whole, see cache-state.ts. Walks everything: for tests. */
import { assert } from '#core/assert.ts';
import type { EntryIndex, SlotIndex } from '#core/brand.ts';
import type { CacheState } from './cache-state.ts';
import { HAS_METADATA } from './flags.ts';

export function checkStateInvariants(state: CacheState): void {
  const { index, ram, ramOrder, ssdOrder, leases, hbm } = state;
  index.checkInvariants();
  state.namespaces.checkInvariants();
  ram.checkInvariants();
  ramOrder.checkInvariants();
  ssdOrder.checkInvariants();
  leases.checkInvariants();
  state.secondUse?.checkInvariants();
  state.expiry.checkInvariants();
  state.pins.checkInvariants();
  state.quotas.checkInvariants();
  hbm?.checkInvariants();
  let dirtyBytes = 0;
  let ramBytes = 0;
  let ssdBytes = 0;
  index.forEach((entry) => {
    const slot = index.ramSlot(entry) as SlotIndex;
    const folder = index.ssdFolder(entry);
    const sizeBytes = index.sizeBytes(entry);
    assert(slot >= 0 || folder >= 0 || state.isInHbm(entry), `chunk ${entry} has a replica`);
    assert(ramOrder.has(entry) === slot >= 0, `chunk ${entry} is in RAM's order exactly if it is in RAM`);
    assert(ssdOrder.has(entry) === folder >= 0, `chunk ${entry} is in SSD's order exactly if it is on SSD`);
    assert(state.isDirty(entry) === (slot >= 0 && folder < 0), `chunk ${entry} is dirty exactly if it is in RAM and not on SSD`);
    if (slot >= 0) {
      assert(state.ownerOf(slot) === entry, `slot ${slot} belongs to chunk ${entry}`);
      assert(ram.useCount(slot) > 0, `slot ${slot} of chunk ${entry} is counted`);
      ramBytes += sizeBytes;
    }
    if (folder >= 0) ssdBytes += sizeBytes;
    if (state.isDirty(entry)) dirtyBytes += sizeBytes;
    assert(index.leaseCount(entry) === leases.countOf(entry), `chunk ${entry} has as many leases as the table says`);
  });
  for (const entry of [...state.metadata.keys(), ...state.lmBlocks.keys()]) {
    const knows = index.isLive(entry) && state.has(entry as EntryIndex, HAS_METADATA);
    assert(knows, `metadata of row ${entry} belongs to a chunk that knows of it`);
  }
  assert(
    dirtyBytes === state.dirtyBytes && ramBytes === state.ramBytes && ssdBytes === state.ssdBytes,
    'byte counters are sums over the chunks',
  );
}
