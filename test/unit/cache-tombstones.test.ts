/** Tombstones: what must not come back, in memory, in the journal and in a compacted journal. */
import { describe, expect, it } from 'vitest';
import { Tombstones } from '#cache/tombstones.ts';
import { Journal } from '#catalog/journal.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';
import type { Selector } from '#core/selector.ts';
import { simHash } from '#testsupport/sim-cache.ts';
import { SimFileSystem } from '#testsupport/sim-file-system.ts';

const namespace: NamespaceDescriptor = {
  grammar: 'opaque',
  tenant: 'default',
  model: '',
  rank: '',
  group: '',
  dtype: '',
  layer: '',
  tags: {},
  keyPrefix: '',
  keyTail: '',
};
const encoder = new TextEncoder();

function open(fileSystem: SimFileSystem, compactionBytes = 1): Tombstones {
  const { journal, replay } = Journal.open(fileSystem, '/journal', simHash, { compactionBytes });
  const tombstones = new Tombstones(
    journal,
    replay.records.map((entry) => entry.record),
  );
  tombstones.begin({ kind: 'start', epoch: replay.highestEpoch + 1, atMs: 0, bootId: 'boot' });
  return tombstones;
}

function invalidate(tombstones: Tombstones, selector: Selector, generation: number): Promise<void> {
  return tombstones.invalidate({
    kind: 'invalidate',
    id: `inv-${generation}`,
    generation,
    selector,
    reason: '',
    actor: 'admin',
    atMs: 0,
    matchedChunks: 0,
    removedBytes: 0,
  });
}

function isDead(tombstones: Tombstones, key: string, generation: number): boolean {
  return tombstones.isDead({ namespace, key, createdAtMs: 0 }, { key: encoder.encode(key), generation, folderId: 'f' });
}

describe('Tombstones', () => {
  it('judges by generation although a scan that began earlier was acknowledged later', async () => {
    const fileSystem = new SimFileSystem();
    const tombstones = open(fileSystem);
    await invalidate(tombstones, { keys: ['b'] }, 12);
    await invalidate(tombstones, { keys: ['a'] }, 10);
    for (const life of [tombstones, open(fileSystem)]) {
      expect(isDead(life, 'b', 11)).toBe(true);
      expect(isDead(life, 'b', 13)).toBe(false);
      expect(isDead(life, 'a', 10)).toBe(true);
      expect(isDead(life, 'a', 11)).toBe(false);
    }
  });

  it('keeps the newest generation of a key, whatever the order of the records', () => {
    const fileSystem = new SimFileSystem();
    const tombstones = open(fileSystem);
    tombstones.forget(namespace, encoder.encode('k'), 20);
    tombstones.forgetMany(namespace, [encoder.encode('k')], 15);
    for (const life of [tombstones, open(fileSystem)])
      expect([20, 21].map((generation) => isDead(life, 'k', generation))).toEqual([true, false]);
  });

  it('compacts while files are being written and unlinked, and keeps what these may need', async () => {
    const fileSystem = new SimFileSystem();
    const tombstones = open(fileSystem);
    tombstones.adoptionDone();
    const done = tombstones.trackUnlink(tombstones.keyId(namespace, encoder.encode('k')), 5);
    tombstones.forget(namespace, encoder.encode('k'), 6);
    await invalidate(tombstones, { keys: ['old'] }, 4);
    await invalidate(tombstones, { keys: ['needed'] }, 7);
    for (let generation = 10; generation < 1010; generation += 1) await invalidate(tombstones, { keys: ['later'] }, generation);
    expect(tombstones.compactIfNeeded()).toBe(true);
    const next = open(fileSystem);
    expect(isDead(next, 'k', 5)).toBe(true);
    expect(isDead(next, 'needed', 5)).toBe(true);
    expect(isDead(next, 'old', 3)).toBe(false);
    done();
    expect(tombstones.pendingCount).toBe(0);
  });

  it('keeps a record while any file of its key is under way, through the end of adoption and a compaction', () => {
    const fileSystem = new SimFileSystem();
    const tombstones = open(fileSystem);
    const id = tombstones.keyId(namespace, encoder.encode('k'));
    const [first, second] = [tombstones.trackUnlink(id, 5), tombstones.trackUnlink(id, 6)];
    tombstones.forget(namespace, encoder.encode('k'), 6);
    tombstones.adoptionDone();
    first();
    tombstones.compactIfNeeded();
    expect(isDead(open(fileSystem), 'k', 6)).toBe(true);
    second();
    expect(tombstones.pendingCount).toBe(0);
  });

  it('compacts during adoption and keeps every invalidation', async () => {
    const fileSystem = new SimFileSystem();
    const tombstones = open(fileSystem);
    for (let generation = 1; generation < 1500; generation += 1) await invalidate(tombstones, { keys: [`k${generation}`] }, generation);
    expect(tombstones.compactIfNeeded()).toBe(true);
    expect(isDead(open(fileSystem), 'k1', 1)).toBe(true);
  });

  it('keeps what a file is judged by for one more compaction after its unlink, which a power cut may undo', async () => {
    const fileSystem = new SimFileSystem();
    const tombstones = open(fileSystem);
    tombstones.adoptionDone();
    await invalidate(tombstones, { keys: ['gone'] }, 5);
    tombstones.trackUnlink(tombstones.keyId(namespace, encoder.encode('gone')), 4)();
    for (let generation = 6; generation < 1500; generation += 1) await invalidate(tombstones, { keys: [`k${generation}`] }, generation);
    expect(tombstones.compactIfNeeded()).toBe(true);
    expect(isDead(open(fileSystem), 'gone', 4)).toBe(true);
    for (let generation = 1500; generation < 3000; generation += 1) await invalidate(tombstones, { keys: [`k${generation}`] }, generation);
    expect(tombstones.compactIfNeeded()).toBe(true);
    expect(isDead(open(fileSystem), 'gone', 4)).toBe(false);
  });

  it('stays small although a key is overwritten on SSD a thousand times', () => {
    const fileSystem = new SimFileSystem();
    const tombstones = open(fileSystem, 10_000);
    tombstones.adoptionDone();
    for (let generation = 1; generation < 5000; generation += 1) {
      const done = tombstones.trackUnlink(tombstones.keyId(namespace, encoder.encode('k')), generation);
      tombstones.forget(namespace, encoder.encode('k'), generation);
      done();
      tombstones.compactIfNeeded();
    }
    expect(fileSystem.sizeBytes('/journal')).toBeLessThan(20_000);
  });

  it('judge a hundred thousand files by a thousand invalidations in no time worth speaking of', async () => {
    const fileSystem = new SimFileSystem();
    const tombstones = open(fileSystem, 2 ** 30);
    for (let generation = 1000; generation < 2000; generation += 1) {
      await invalidate(
        tombstones,
        generation % 2 === 0 ? { keys: [`k${generation}`] } : { keyPrefix: 'never', model: `m${generation % 5}` },
        generation,
      );
    }
    const startedMs = performance.now();
    let dead = 0;
    for (let file = 0; file < 100_000; file += 1) if (isDead(tombstones, `k${file}`, 5)) dead += 1;
    expect(dead).toBe(500);
    expect(performance.now() - startedMs).toBeLessThan(2000);
  });

  it('heals a journal that has failed by writing it anew', async () => {
    const fileSystem = new SimFileSystem();
    const tombstones = open(fileSystem, 2 ** 30);
    tombstones.forget(namespace, encoder.encode('k'), 3);
    fileSystem.failNext('sync', 5);
    await expect(invalidate(tombstones, { keys: ['a'] }, 4)).rejects.toThrow();
    expect(() => tombstones.forget(namespace, encoder.encode('l'), 5)).toThrow();
    fileSystem.failNext('create', 28);
    expect(tombstones.compactIfNeeded()).toBe(false);
    expect(tombstones.compactIfNeeded()).toBe(true);
    tombstones.forget(namespace, encoder.encode('l'), 5);
    const next = open(fileSystem);
    expect(isDead(next, 'k', 3)).toBe(true);
    expect(isDead(next, 'a', 4)).toBe(true);
    expect(isDead(next, 'l', 5)).toBe(true);
  });

  it('keep the last expiry of what lives, of what has a file under way and, during adoption, of all; and the largest clock', () => {
    const fileSystem = new SimFileSystem();
    const tombstones = open(fileSystem);
    tombstones.forEachLive = (visit) => [1, 2, 50].forEach(visit);
    tombstones.expire(1, 1000);
    tombstones.expire(1, 2000);
    tombstones.expire(2, 0);
    tombstones.expire(3, 3000);
    tombstones.expire(4, 4000);
    tombstones.noteClock(500);
    tombstones.noteClock(400);
    const told = (life: Tombstones): (number | undefined)[] => [1, 2, 3, 4, 50].map((generation) => life.journaledExpiry(generation));
    expect(told(tombstones)).toEqual([2000, 0, 3000, 4000, undefined]);
    const compacted = (): Tombstones => {
      for (let generation = 1000; !tombstones.compactIfNeeded(); generation += 1) tombstones.expire(generation, 1);
      return open(fileSystem);
    };
    expect(told(compacted())).toEqual([2000, 0, 3000, 4000, undefined]);
    tombstones.adoptionDone();
    const done = tombstones.trackUnlink('k', 3);
    const next = compacted();
    expect(told(next)).toEqual([2000, 0, 3000, undefined, undefined]);
    expect(next.clockMs).toBe(500);
    done();
    expect(told(compacted())).toEqual([2000, 0, undefined, undefined, undefined]);
  });

  it('take no expiry and no clock that the journal did not take', () => {
    const fileSystem = new SimFileSystem();
    const tombstones = open(fileSystem);
    tombstones.expire(1, 1000);
    tombstones.noteClock(10);
    fileSystem.failNext('append', 28);
    expect(() => tombstones.expire(1, 500)).toThrow();
    fileSystem.failNext('append', 28);
    expect(() => tombstones.noteClock(20)).toThrow();
    for (const life of [tombstones, open(fileSystem)]) expect([life.journaledExpiry(1), life.clockMs]).toEqual([1000, 10]);
  });

  it('must journal every deletion while a file exists whose header cannot be read', () => {
    const tombstones = open(new SimFileSystem());
    tombstones.adoptionDone();
    expect(tombstones.mayHaveFile(() => 'any')).toBe(false);
    const gone = tombstones.trackUnknown(9);
    expect(tombstones.mayHaveFile(() => 'any')).toBe(true);
    gone();
    expect(tombstones.mayHaveFile(() => 'any')).toBe(false);
  });
});
