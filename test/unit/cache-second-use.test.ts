/** Store admission `second-use`: SSD gets what is used again, by chain. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { KiB, MiB } from '#core/bytes.ts';
import { payloadOf, SimCache } from '#testsupport/sim-cache.ts';
import type { SimCacheOptions } from '#testsupport/sim-cache.ts';

const chunk = 64 * KiB;

function start(options: SimCacheOptions = {}): Promise<SimCache> {
  return SimCache.start({ admission: 'second-use', ...options, limits: { ssdIdleAfterMs: 1000, writesAtOnce: 1, ...options.limits } });
}

/** Stores `key` behind `parent`. */
async function put(sim: SimCache, key: string, parent?: string): Promise<void> {
  const ref = parent === undefined ? undefined : sim.peek(parent)?.ref;
  await sim.put(key, payloadOf(key.length, chunk), ref === undefined ? {} : { parent: ref });
}

async function putChain(sim: SimCache, name: string, length: number): Promise<string[]> {
  const keys = Array.from({ length }, (_, at) => `${name}${at}`);
  for (const [at, key] of keys.entries()) await put(sim, key, keys[at - 1]);
  return keys;
}

describe('Store admission `second-use`', () => {
  it('never writes what nobody used: not when it is idle, not when RAM is full, not at the stop', async () => {
    const sim = await start({ ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB });
    for (let n = 0; n < 60; n += 1) await put(sim, `k${n}`);
    await sim.quiet(10_000);
    expect(sim.chunkFiles()).toEqual([]);
    expect(sim.cache.control.stats().storeAdmission.skippedChunks).toBeGreaterThan(30);
    await sim.run(sim.cache.close(sim.clock.monotonicMs() + 10_000));
    expect(sim.chunkFiles()).toEqual([]);
  });

  it('lets a put have the room of what was never used at once, without waiting for a write', async () => {
    const sim = await start({ ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB });
    for (let n = 0; n < 40; n += 1) {
      const reserved = sim.reserve(`k${n}`, chunk);
      expect(reserved instanceof Promise).toBe(false);
      if (!(reserved instanceof Promise) && reserved.kind === 'ticket') sim.commit(reserved, payloadOf(n, chunk));
    }
    expect(sim.cache.control.stats().droppedDirtyChunks).toBe(0);
  });

  it('writes a chunk and its ancestors after a hit on it, prefix first, and nothing behind it', async () => {
    const sim = await start();
    const keys = await putChain(sim, 'c', 5);
    await sim.get('c2');
    await sim.clock.advance(900);
    expect(sim.io.jobs).toEqual([]);
    await sim.clock.advance(200);
    const written: string[] = [];
    for (let guard = 0; guard < 1000 && (await sim.step()); guard += 1) {
      for (const key of keys) if (!written.includes(key) && sim.tiersOf(key).includes('ssd')) written.push(key);
    }
    expect(written).toEqual(['c0', 'c1', 'c2']);
    await sim.quiet(5000);
    expect(keys.map((key) => sim.tiersOf(key).includes('ssd'))).toEqual([true, true, true, false, false]);
    sim.checkQuiet();
  });

  it('does not take a probe for a use', async () => {
    const sim = await start();
    await put(sim, 'k');
    expect(sim.probe('k', 1)?.tier).toBe('ram');
    await sim.quiet(5000);
    expect(sim.tiersOf('k')).toEqual(['ram']);
  });

  it('writes what is stored again while it is there', async () => {
    const sim = await start();
    await putChain(sim, 'c', 2);
    await put(sim, 'c1', 'c0');
    await sim.quiet(3000);
    expect(sim.chunkFiles()).toHaveLength(2);
  });

  it('writes what is stored again after it was dropped, and its ancestors', async () => {
    const sim = await start({ ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB });
    await putChain(sim, 'c', 3);
    for (let n = 0; n < 40; n += 1) await put(sim, `other${n}`);
    expect(sim.peek('c0')).toBeUndefined();
    await put(sim, 'c0');
    await put(sim, 'new', 'c0');
    await put(sim, 'c1', 'c0');
    await sim.quiet(3000);
    expect(['c0', 'new', 'c1'].map((key) => sim.tiersOf(key).includes('ssd'))).toEqual([true, false, true]);
  });

  it('forgets what was deleted: stored again, it is new', async () => {
    const sim = await start();
    await put(sim, 'k');
    sim.delete('k');
    await put(sim, 'k');
    await sim.quiet(3000);
    expect(sim.chunkFiles()).toEqual([]);
  });

  it('admits a parent that is linked to an admitted chunk later', async () => {
    const sim = await start();
    await put(sim, 'parent');
    await put(sim, 'child');
    await sim.get('child');
    const [parent, child] = [sim.peek('parent')?.ref, sim.peek('child')?.ref];
    if (parent !== undefined && child !== undefined) sim.cache.link(parent, child);
    await sim.quiet(3000);
    expect(sim.tiersOf('parent')).toContain('ssd');
    sim.check();
  });

  it('writes admitted chunks at once when a put waits for their room', async () => {
    const sim = await start({ ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB, limits: { ssdIdleAfterMs: 1e9 } });
    for (let n = 0; n < 30; n += 1) {
      expect(await sim.put(`k${n}`, payloadOf(n, chunk))).toBe('stored');
      await sim.get(`k${n}`);
    }
    expect(sim.cache.control.stats().droppedDirtyChunks).toBe(0);
    expect(sim.tier('ssd').chunkCount).toBeGreaterThan(10);
  });

  it('keeps an admitted chunk that the stop finds unwritten', async () => {
    const sim = await start({ limits: { ssdIdleAfterMs: 1e9 } });
    await put(sim, 'used');
    await put(sim, 'new');
    await sim.get('used');
    await sim.run(sim.cache.close(sim.clock.monotonicMs() + 10_000));
    expect(sim.chunkFiles()).toHaveLength(1);
  });

  it('has on SSD exactly the chunks that were used, and their ancestors, whatever the order of events', async () => {
    const event = fc.record({ kind: fc.constantFrom('put', 'get', 'probe', 'delete', 'wait'), node: fc.nat({ max: 14 }) });
    await fc.assert(
      fc.asyncProperty(fc.array(event, { maxLength: 60 }), async (events) => {
        const sim = await start({ ramBytes: 4 * MiB });
        // Chunks are nodes of a tree: node n hangs on floor((n - 1) / 2). Nothing is evicted, so a use is a hit or a second store.
        const parents = new Map<number, number>();
        const used = new Set<number>();
        const use = (node: number): void => {
          for (let at: number | undefined = node; at !== undefined && !used.has(at); at = parents.get(at)) used.add(at);
        };
        for (const { kind, node } of events) {
          const key = `n${node}`;
          const isThere = sim.peek(key) !== undefined;
          if (kind === 'put') {
            const parent = node === 0 ? undefined : (node - 1) >> 1;
            const parentIsThere = parent !== undefined && sim.peek(`n${parent}`) !== undefined;
            await put(sim, key, parent === undefined ? undefined : `n${parent}`);
            if (parentIsThere) parents.set(node, parent);
            if (isThere) use(node);
            else if (!parentIsThere) parents.delete(node);
            if (used.has(node) && parentIsThere) use(parent);
          } else if (kind === 'get') {
            if ((await sim.get(key)) !== undefined) use(node);
          } else if (kind === 'probe') sim.probe(key);
          else if (kind === 'wait') await sim.quiet(500);
          else if (sim.delete(key)) {
            used.delete(node);
            parents.delete(node);
            for (const [child, parent] of parents) if (parent === node) parents.delete(child);
          }
          sim.check();
        }
        await sim.quiet(4000);
        for (let node = 0; node <= 14; node += 1) expect(sim.tiersOf(`n${node}`).includes('ssd'), `n${node}`).toBe(used.has(node));
        sim.checkQuiet();
      }),
      { numRuns: 40 },
    );
  });
});
