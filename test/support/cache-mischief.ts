/** What goes wrong in a model run, and what operators ask for: random, out of the simulation's own seed. */
import type { ChunkInfo } from '#cache/control.ts';
import { KiB } from '#core/bytes.ts';
import { KvtierError } from '#core/errors.ts';
import type { Selector } from '#core/selector.ts';
import type { CatalogChunk } from '#ports/catalog-store.ts';
import { scanJournal } from '#catalog/journal-file.ts';
import { simHash } from './sim-cache.ts';
import type { SimCache } from './sim-cache.ts';

/** A selector that may match some of the model's keys; `pickKey` gives one of these. */
export function randomSelector(sim: SimCache, pickKey: () => string): Selector {
  const { rng, clock } = sim;
  const kind = rng.weighted({
    model: 2,
    modelPrefix: 1,
    tenant: 1,
    keys: 4,
    keyPrefix: 2,
    createdBefore: 2,
    olderThan: 2,
    tier: 1,
    chainFrom: 2,
    namespace: 1,
  });
  const name = pickKey();
  if (kind === 'model') return { model: rng.pick(['model-a', 'model-b']) };
  if (kind === 'modelPrefix') return { modelPrefix: 'model-' };
  if (kind === 'tenant') return { tenant: rng.pick(['default', 'salt']) };
  if (kind === 'keys') return { keys: [name, pickKey()] };
  if (kind === 'keyPrefix') return { keyPrefix: name.slice(0, -1) };
  if (kind === 'createdBefore') return { createdBefore: clock.nowMs() - rng.below(5000) };
  if (kind === 'olderThan') return { olderThan: clock.nowMs() - rng.below(5000) };
  if (kind === 'tier') return { tier: rng.pick(['ram', 'ssd'] as const), model: 'model-a' };
  if (kind === 'chainFrom') return { chainFrom: name };
  return { namespace: 'opaque' };
}

/** The volatile fields of a selector, judged by what the list of chunks says. */
export function matchesLive(selector: Selector, chunk: ChunkInfo, byId: ReadonlyMap<string, ChunkInfo>): boolean {
  if (selector.olderThan !== undefined && !(chunk.lastUsedAtMs < selector.olderThan)) return false;
  if (selector.tier !== undefined && !chunk.tiers.includes(selector.tier)) return false;
  if (selector.chainFrom === undefined) return true;
  for (
    let current: ChunkInfo | undefined = chunk;
    current !== undefined;
    current = current.parentId === undefined ? undefined : byId.get(current.parentId)
  ) {
    if (current.key === selector.chainFrom) return true;
  }
  return false;
}

const jobFaults = ['write', 'read', 'unlink', 'rename', 'headers'] as const;
const fileFaults = ['flip', 'truncate', 'delete'] as const;

/** A job that will fail, a file that rots, a journal that takes nothing, a disk that is full or a catalog that is locked. Says which. */
export function injectFault(sim: SimCache): string {
  const { rng, io, disk } = sim;
  const kind = rng.pick([...jobFaults, ...fileFaults, 'journal', 'space', 'lock'] as const);
  if (kind === 'journal') disk.data.failNext(rng.pick(['append', 'sync'] as const), 5, { path: '/data/journal' });
  else if (kind === 'space') disk.deviceBytes.set('ssd0', rng.chance(0.5) ? 2 ** 40 : 200 * KiB);
  else if (kind === 'lock') {
    if (rng.chance(0.5)) sim.life.catalog.lock('locked');
    else sim.life.catalog.unlock();
  } else if (kind === 'flip' || kind === 'truncate' || kind === 'delete') damageFile(sim, kind);
  else io.faults.push({ kind, errno: rng.pick([5, 5, 5, 24, 28]) });
  return kind;
}

function damageFile(sim: SimCache, kind: (typeof fileFaults)[number]): void {
  const { rng, disk } = sim;
  const files = sim.chunkFiles();
  if (files.length === 0) return;
  const path = rng.pick(files);
  const bytes = disk.file(path) ?? new Uint8Array(1);
  if (kind === 'delete') disk.unlink(path);
  else if (kind === 'truncate') disk.put(path, bytes.slice(0, rng.below(bytes.length)));
  else {
    const flipped = bytes.slice();
    const at = rng.below(flipped.length);
    flipped[at] = (flipped[at] ?? 0) ^ (1 << rng.below(8));
    disk.put(path, flipped);
  }
}

/** The journal up to about there. Not between two records: that is a power cut, which may bring back what was not synced. */
function cutInside(journal: Uint8Array, length: number): Uint8Array {
  let cut = length;
  while (cut > 0 && scanJournal(journal.slice(0, cut), simHash).problem === undefined) cut -= 1;
  return journal.slice(0, cut);
}

/** What a machine may lose besides the process. */
export class CrashMischief {
  #backup = new Map<number, CatalogChunk>();

  /** Between the crash and the restart. Says what it did. */
  damage(sim: SimCache): string {
    const { rng, catalogDisk, disk } = sim;
    const damage = rng.weighted({ none: 6, catalogLost: 2, catalogOld: 1, journalLost: 0.5, journalCut: 0.5, folderLost: 0.3 });
    const { chunks } = catalogDisk;
    if (damage === 'catalogLost') catalogDisk.clear();
    if (damage === 'catalogOld') {
      // A catalog.db out of a backup: rows of chunks that are gone, none of those that came since.
      chunks.clear();
      for (const [generation, row] of this.#backup) chunks.set(generation, row);
    }
    this.#backup = new Map(chunks);
    if (damage === 'journalLost') disk.remove('/data/journal');
    if (damage === 'journalCut') {
      const journal = disk.readFile('/data/journal');
      if (journal !== undefined) disk.data.plant('/data/journal', cutInside(journal, rng.below(journal.length)));
    }
    if (damage === 'folderLost') disk.unlink('/ssd0/kv');
    return damage;
  }
}

/** A pin, an unpin or a quota, as some operator wants it. What the journal cannot take is refused, and that is an answer. */
export async function keepSomething(sim: SimCache, selector: Selector): Promise<void> {
  const { rng } = sim;
  const { control } = sim.cache;
  const order = rng.weighted({ soft: 2, hard: 3, unpin: 1, quota: 2, noQuota: 1 });
  try {
    if (order === 'soft' || order === 'hard') await control.pin(selector, order);
    else if (order === 'unpin') await control.unpin(selector);
    else if (order === 'noQuota') await control.setQuota('salt', undefined);
    else await control.setQuota('salt', { ramBytes: rng.below(200 * KiB), ssdBytes: rng.chance(0.5) ? rng.below(200 * KiB) : undefined });
  } catch (problem) {
    if (!(problem instanceof KvtierError)) throw problem;
  }
}

/** So that nothing is left that must stay in RAM, or may not go to SSD. */
export async function endKeeping(sim: SimCache): Promise<void> {
  for (;;) {
    try {
      await sim.run(sim.cache.control.unpin({ all: true }));
      await sim.run(sim.cache.control.setQuota('salt', undefined));
      return;
    } catch (problem) {
      if (!(problem instanceof KvtierError)) throw problem;
      // A journal that has failed is rewritten by housekeeping.
      await sim.quiet(3000, 500);
    }
  }
}

export async function drainIterable(iterable: AsyncIterable<unknown>): Promise<void> {
  for await (const step of iterable) void step;
}
