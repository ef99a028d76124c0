/** Loads, leases and the bad days of the SSD tier. */
import { describe, expect, it } from 'vitest';
import { KiB, MiB } from '#core/bytes.ts';
import { settle } from '#testsupport/sim-clock.ts';
import { isPayload, payloadOf, SimCache } from '#testsupport/sim-cache.ts';
import type { SimCacheOptions } from '#testsupport/sim-cache.ts';

const chunk = 64 * KiB;
const EIO = 5;
const ENOSPC = 28;

/** A cache whose chunks k0, k1, ... are on SSD only. */
async function onSsd(count: number, options: SimCacheOptions = {}): Promise<SimCache> {
  const sim = await SimCache.start(options);
  for (let index = 0; index < count; index += 1) await sim.put(`k${index}`, payloadOf(index, chunk));
  await sim.run(sim.cache.control.evict('ram', { all: true }));
  await sim.quiet(1000);
  return sim;
}

function stats(sim: SimCache): ReturnType<SimCache['cache']['control']['stats']> {
  return sim.cache.control.stats();
}

describe('A load from SSD', () => {
  it('is one read however many wait for it', async () => {
    const sim = await onSsd(1);
    const opened = Array.from({ length: 5 }, () => Promise.resolve(sim.open('k0')));
    await settle();
    expect(sim.io.jobs.filter((job) => job.kind === 'read')).toHaveLength(1);
    const handles = await sim.run(Promise.all(opened));
    expect(handles.every((handle) => isPayload(handle?.view(), 0, chunk) && handle?.tier === 'ssd')).toBe(true);
    for (const handle of handles) handle?.release();
    expect(sim.io.finished.read).toBe(1);
    expect(stats(sim)).toMatchObject({ lookups: 5, hits: { ssd: 5 }, misses: 0, promotions: 1 });
    sim.checkQuiet();
  });

  it('of a value that is overwritten meanwhile gives the new value or a miss, and its slot back', async () => {
    const sim = await onSsd(1);
    const opened = Promise.resolve(sim.open('k0'));
    await settle();
    await sim.put('k0', payloadOf(77, chunk));
    const handle = await sim.run(opened);
    expect(handle === undefined || isPayload(handle.view(), 77, chunk)).toBe(true);
    handle?.release();
    await sim.quiet(3000);
    sim.checkQuiet();
  });

  it('that finds no room among what is leased is a miss that is counted, and a hit once the leases end', async () => {
    const large = 256 * KiB;
    const sim = await SimCache.start({ ramBytes: 1 * MiB, maxChunkBytes: large });
    await sim.put('large', payloadOf(99, large));
    await sim.run(sim.cache.control.evict('ram', { all: true }));
    for (let index = 0; index < 15; index += 1) await sim.put(`k${index}`, payloadOf(index, chunk));
    await sim.quiet(3000);
    expect(sim.tier('ram').dirtyBytes).toBe(0);
    // No two neighbours give way, and the large one needs four.
    for (let index = 0; index < 15; index += 2) sim.probe(`k${index}`, 1);
    expect(await sim.get('large')).toBeUndefined();
    expect(stats(sim)).toMatchObject({ lookups: 1, misses: 1, refusedLookups: 1, droppedDirtyChunks: 0, evictions: { ssd: 0 } });
    expect(sim.cache.control.lookup(['large'])[0]?.tier).toBe('ssd');
    expect(await sim.get('absent')).toBeUndefined();
    await sim.quiet(32_000, 1000);
    expect(isPayload(await sim.get('large'), 99, large)).toBe(true);
    expect(stats(sim)).toMatchObject({ misses: 2, refusedLookups: 1 });
    sim.checkQuiet();
  });

  it('that joined a read-ahead which found no room waits for room itself', async () => {
    const sim = await onSsd(1, { ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB });
    for (let index = 0; index < 15; index += 1) await sim.put(`filler${index}`, payloadOf(index, chunk));
    const held = Array.from({ length: 15 }, (_, index) => sim.open(`filler${index}`));
    const waiting = Promise.resolve(sim.reserve('late', 256 * KiB));
    sim.probe('k0', 1);
    const opened = Promise.resolve(sim.open('k0'));
    await sim.clock.advance(500);
    for (const handle of held) if (handle !== undefined && !(handle instanceof Promise)) handle.release();
    const handle = await sim.run(opened);
    expect(isPayload(handle?.view(), 0, chunk)).toBe(true);
    handle?.release();
    const ticket = await sim.run(waiting);
    if (ticket.kind === 'ticket') sim.cache.abort(ticket);
    await sim.quiet(3000);
    sim.checkQuiet();
  });

  it('begins with the probe, within the bytes that read-ahead may hold', async () => {
    const sim = await onSsd(8, { limits: { readAheadBytes: 3 * chunk } });
    for (let index = 0; index < 8; index += 1) expect(sim.probe(`k${index}`, 1)?.tier).toBe('ssd');
    await settle();
    expect(sim.io.jobs.map((job) => job.priority)).toEqual(['prefetch', 'prefetch', 'prefetch']);
    await sim.drainIo();
    expect(sim.tiersOf('k2')).toEqual(['ram', 'ssd']);
    expect(sim.tiersOf('k3')).toEqual(['ssd']);
    // The hit belongs to the tier that the probe found.
    const handle = sim.open('k0', 1);
    expect(handle instanceof Promise ? '' : handle?.tier).toBe('ssd');
    if (handle !== undefined && !(handle instanceof Promise)) handle.release();
  });

  it('of wrong bytes is a miss, sets the file aside, and never serves it again, nor after a restart', async () => {
    const sim = await onSsd(2);
    const path = sim.chunkFiles()[0] as string;
    const bytes = (sim.disk.file(path) as Uint8Array).slice();
    bytes[5000] = (bytes[5000] as number) ^ 1;
    sim.disk.put(path, bytes);
    const found = [await sim.get('k0'), await sim.get('k1')];
    expect(found.filter((payload) => payload === undefined)).toHaveLength(1);
    expect(stats(sim).io).toMatchObject({ checksumMismatches: 1, quarantinedFiles: 1 });
    expect(sim.disk.filesBelow('/ssd0/kv/quarantine')).toHaveLength(1);
    const reads = sim.io.finished.read;
    expect([await sim.get('k0'), await sim.get('k1')].filter((payload) => payload === undefined)).toHaveLength(1);
    expect(sim.io.finished.read).toBe(reads);
    await sim.quiet(1000);
    sim.checkQuiet();
    sim.crash();
    sim.catalogDisk.clear();
    await sim.restart();
    await sim.drainIo();
    expect(sim.cache.chunkCount).toBe(1);
  });

  it('follows the header and not a row of the catalog that names another key', async () => {
    const sim = await onSsd(2);
    await sim.quiet(1000);
    sim.life.catalog.commit();
    sim.crash();
    const { chunks } = sim.catalogDisk;
    const [first, second] = [...chunks.values()];
    if (first === undefined || second === undefined) throw new Error('two rows');
    chunks.set(first.generation, { ...first, key: second.key });
    chunks.set(second.generation, { ...second, key: first.key });
    await sim.restart();
    await sim.drainIo();
    for (const index of [0, 1]) {
      const payload = await sim.get(`k${index}`);
      expect(payload === undefined || isPayload(payload, index, chunk)).toBe(true);
    }
    expect(stats(sim).io.checksumMismatches).toBe(2);
  });

  it('keeps a limited number of wrong files', async () => {
    const sim = await onSsd(40, { ramBytes: 16 * MiB });
    for (const path of sim.chunkFiles()) sim.disk.put(path, (sim.disk.file(path) as Uint8Array).slice(0, 5000));
    for (let index = 0; index < 40; index += 1) expect(await sim.get(`k${index}`)).toBeUndefined();
    expect(sim.disk.filesBelow('/ssd0/kv/quarantine')).toHaveLength(16);
    expect(stats(sim).io).toMatchObject({ checksumMismatches: 40, quarantinedFiles: 16 });
    await sim.quiet(3000);
    sim.checkQuiet();
    expect(sim.tier('ssd').usedBytes).toBe(0);
  });
});

describe('Leases', () => {
  it('cover at most half of RAM; beyond that a probe answers and takes none', async () => {
    const sim = await SimCache.start({ ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB });
    for (let index = 0; index < 16; index += 1) await sim.put(`k${index}`, payloadOf(index, chunk));
    for (let index = 0; index < 16; index += 1) expect(sim.probe(`k${index}`, 1)).toBeDefined();
    expect(stats(sim).leases).toBe(8);
    expect(sim.tier('ram').leasedBytes).toBe(512 * KiB);
    // Asking again renews; it takes nothing more.
    for (let index = 0; index < 16; index += 1) sim.probe(`k${index}`, 1);
    expect(stats(sim).leases).toBe(8);
    sim.check();
  });

  it('keep a chunk from eviction until they end, and no longer', async () => {
    const sim = await SimCache.start({ ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB, admission: 'off', ssdBytes: [] });
    await sim.put('leased', payloadOf(1, chunk));
    sim.probe('leased', 1);
    const churn = async (): Promise<void> => {
      for (let index = 0; index < 40; index += 1) await sim.put(`filler${index}`, payloadOf(index, chunk));
    };
    await churn();
    expect(isPayload(await sim.get('leased'), 1, chunk)).toBe(true);
    await sim.quiet(32_000, 1000);
    expect(stats(sim).leases).toBe(0);
    await churn();
    expect(sim.peek('leased')).toBeUndefined();
  });

  it('end with the read of their owner, not with that of another', async () => {
    const sim = await SimCache.start();
    await sim.put('a', payloadOf(1, chunk));
    sim.probe('a', 1);
    sim.probe('a', 2);
    await sim.get('a', 3);
    expect(stats(sim).leases).toBe(2);
    await sim.get('a', 1);
    expect(stats(sim).leases).toBe(1);
    sim.delete('a');
    expect(stats(sim).leases).toBe(0);
    sim.checkQuiet();
  });

  it('on SSD chunks keep the files, but not the RAM that read-ahead brings them to', async () => {
    const sim = await onSsd(40, { ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB, limits: { readAheadBytes: 64 * MiB } });
    for (let index = 0; index < 40; index += 1) {
      sim.probe(`k${index}`, 1);
      await sim.drainIo();
    }
    expect(stats(sim).leases).toBe(40);
    for (let index = 0; index < 20; index += 1) expect(await sim.put(`new${index}`, payloadOf(index, chunk))).toBe('stored');
    expect(stats(sim).rejectedPuts.shed).toBe(0);
    for (let index = 0; index < 40; index += 1) expect(isPayload(await sim.get(`k${index}`, 1), index, chunk)).toBe(true);
    sim.check();
  });

  it('of more clients than a row can count take none', async () => {
    const sim = await SimCache.start();
    await sim.put('a', payloadOf(1, 1));
    for (let owner = 1; owner < 3000; owner += 1) expect(sim.probe('a', owner)).toBeDefined();
    expect(stats(sim).leases).toBe(1024);
    sim.check();
  });
});

describe('Eviction from SSD', () => {
  it('takes the coldest, spares what is leased, and counts space only when the file is gone', async () => {
    const sim = await SimCache.start({ ramBytes: 2 * MiB, ssdBytes: [8 * (chunk + 4 * KiB)], admission: 'through' });
    for (let index = 0; index < 6; index += 1) {
      await sim.put(`k${index}`, payloadOf(index, chunk));
      await sim.drainIo();
    }
    await sim.run(sim.cache.control.evict('ram', { all: true }));
    sim.probe('k0', 1);
    await sim.drainIo();
    for (let index = 6; index < 20; index += 1) {
      await sim.put(`k${index}`, payloadOf(index, chunk));
      expect(sim.tier('ssd').usedBytes).toBeLessThanOrEqual(8 * (chunk + 4 * KiB));
      await sim.drainIo();
    }
    expect(sim.tiersOf('k0')).toContain('ssd');
    expect(sim.peek('k1')).toBeUndefined();
    expect(sim.tiersOf('k19')).toContain('ssd');
    await sim.quiet(1000);
    sim.checkQuiet();
  });

  it('counts a file until it is gone', async () => {
    const sim = await onSsd(2);
    const fileBytes = chunk + 4 * KiB;
    expect(sim.tier('ssd').usedBytes).toBe(2 * fileBytes);
    await sim.cache.control.evict('ssd', { keys: ['k0'] });
    sim.delete('k1');
    expect(sim.tier('ssd')).toMatchObject({ usedBytes: 2 * fileBytes, chunkCount: 0 });
    await sim.drainIo();
    expect(sim.tier('ssd').usedBytes).toBe(0);
  });

  it('does not let the unlink of a former file take the file that was written since', async () => {
    const sim = await SimCache.start();
    await sim.put('a', payloadOf(1, chunk));
    await sim.run(sim.cache.control.persist({ all: true }));
    await sim.cache.control.evict('ssd', { all: true });
    expect(sim.io.jobs.map((job) => job.kind)).toEqual(['unlink']);
    const persisted = sim.cache.control.persist({ all: true });
    // Writes first, as far as there are any; the unlink last.
    for (let turn = 0; turn < 20; turn += 1) {
      await settle();
      sim.io.step(sim.rng, sim.io.jobs.find((job) => job.kind === 'write') ?? sim.io.jobs[0]);
      await sim.clock.advance(5);
    }
    expect(await sim.run(persisted)).toMatchObject({ persisted: 1 });
    await sim.run(sim.cache.control.evict('ram', { all: true }));
    expect(isPayload(await sim.get('a'), 1, chunk)).toBe(true);
    sim.checkQuiet();
  });

  it('does not begin a write by itself either while the former file is being unlinked', async () => {
    const sim = await SimCache.start();
    await sim.put('a', payloadOf(1, chunk));
    await sim.run(sim.cache.control.persist({ all: true }));
    await sim.cache.control.evict('ssd', { all: true });
    const handle = sim.open('a');
    if (handle !== undefined && !(handle instanceof Promise)) handle.release();
    await sim.clock.advance(5000);
    expect(sim.io.jobs.map((job) => job.kind)).toEqual(['unlink']);
    await sim.quiet(2000);
    expect(sim.tiersOf('a')).toEqual(['ram', 'ssd']);
    sim.checkQuiet();
  });

  it('leaves what it took to RAM until somebody uses it, and then writes it again', async () => {
    const sim = await SimCache.start();
    await sim.put('a', payloadOf(1, chunk));
    await sim.quiet(2000);
    await sim.run(sim.cache.control.evict('ssd', { all: true }));
    await sim.quiet(5000);
    expect(sim.tier('ram').dirtyBytes).toBe(chunk);
    await sim.get('a');
    await sim.quiet(5000);
    expect(sim.tier('ram').dirtyBytes).toBe(0);
  });

  it('does not make a put wait for chunks that SSD has declined', async () => {
    const sim = await SimCache.start({ ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB });
    for (let index = 0; index < 16; index += 1) await sim.put(`k${index}`, payloadOf(index, chunk));
    await sim.run(sim.cache.control.persist({ all: true }));
    await sim.run(sim.cache.control.evict('ssd', { all: true }));
    expect(sim.reserve('late', chunk)).toMatchObject({ kind: 'ticket' });
  });
});

describe('A device', () => {
  it('that is full makes its folder read-only, and is written again once there is room', async () => {
    const sim = await SimCache.start({ ssdBytes: [64 * MiB] });
    sim.disk.deviceBytes.set('ssd0', 300 * KiB);
    for (let index = 0; index < 8; index += 1) await sim.put(`k${index}`, payloadOf(index, chunk));
    await sim.quiet(1500);
    expect(sim.tier('ssd')).toMatchObject({ state: 'degraded', folders: [{ state: 'read-only' }] });
    for (let index = 0; index < 8; index += 1) expect(isPayload(await sim.get(`k${index}`), index, chunk)).toBe(true);
    sim.check();
    sim.disk.deviceBytes.set('ssd0', 64 * MiB);
    await sim.quiet(10_000, 500);
    expect(sim.tier('ssd')).toMatchObject({ state: 'ok', folders: [{ state: 'ok', reason: '' }] });
    expect(sim.tier('ram').dirtyBytes).toBe(0);
    sim.checkQuiet();
  });

  it('that others fill keeps its free-space floor: the coldest chunks make room', async () => {
    const sim = await SimCache.start({ ssdBytes: [64 * MiB], floorBytes: 500 * KiB });
    sim.disk.deviceBytes.set('ssd0', 2 * MiB);
    for (let index = 0; index < 60; index += 1) await sim.put(`k${index}`, payloadOf(index, chunk));
    await sim.quiet(10_000, 500);
    expect(sim.disk.freeBytes('/ssd0')).toBeGreaterThanOrEqual(500 * KiB);
    expect(sim.tier('ssd').state).toBe('ok');
    sim.checkQuiet();
  });

  it('with one bad block costs one chunk, however often it is asked for', async () => {
    const sim = await onSsd(3);
    const bad = sim.chunkFiles()[0] as string;
    sim.io.faults.push({ kind: 'read', errno: EIO, path: bad, times: 100 });
    for (let round = 0; round < 5; round += 1) for (let index = 0; index < 3; index += 1) await sim.get(`k${index}`);
    expect(sim.tier('ssd').state).toBe('ok');
    expect(sim.cache.chunkCount).toBe(2);
    await sim.quiet(3000);
    sim.checkQuiet();
  });

  it('that reads nothing any more is off after three files', async () => {
    const sim = await onSsd(5);
    sim.io.faults.push({ kind: 'read', errno: EIO, times: 100 });
    for (let index = 0; index < 5; index += 1) expect(await sim.get(`k${index}`)).toBeUndefined();
    expect(sim.tier('ssd').state).toBe('off');
    expect(sim.cache.chunkCount).toBe(0);
    sim.check();
  });

  it('that has no descriptors for a moment is not blamed', async () => {
    const sim = await onSsd(1);
    sim.io.faults.push({ kind: 'read', errno: 24, times: 5 });
    for (let round = 0; round < 5; round += 1) expect(await sim.get('k0')).toBeUndefined();
    expect(isPayload(await sim.get('k0'), 0, chunk)).toBe(true);
  });

  it('that will not unlink is asked again, keeps the space, and does not stop eviction', async () => {
    const sim = await SimCache.start({ ramBytes: 2 * MiB, ssdBytes: [8 * (chunk + 4 * KiB)], admission: 'through' });
    sim.io.faults.push({ kind: 'unlink', errno: EIO, times: 3 });
    for (let index = 0; index < 30; index += 1) {
      await sim.put(`k${index}`, payloadOf(index, chunk));
      await sim.drainIo();
    }
    expect(sim.tiersOf('k29')).toContain('ssd');
    await sim.quiet(10_000, 500);
    sim.checkQuiet();
    expect(sim.chunkFiles().length).toBeLessThanOrEqual(8);
  });

  it('that fails writes now and then loses none of them', async () => {
    const sim = await SimCache.start();
    for (let index = 0; index < 8; index += 1) await sim.put(`k${index}`, payloadOf(index, chunk));
    sim.io.faults.push({ kind: 'write', errno: EIO, times: 2 });
    await sim.quiet(6000);
    expect(sim.tier('ram').dirtyBytes).toBe(0);
    sim.checkQuiet();
  });
});

describe('An SSD folder', () => {
  it('that is removed is off; its chunks are misses, RAM goes on, and nothing of it returns with it', async () => {
    const sim = await onSsd(4);
    await sim.put('ram', payloadOf(9, chunk));
    await sim.quiet(2000);
    sim.disk.move('/ssd0/kv', '/ssd0/away');
    await sim.quiet(3000);
    expect(sim.tier('ssd')).toMatchObject({ state: 'off', chunkCount: 0 });
    expect(await sim.get('k0')).toBeUndefined();
    expect(isPayload(await sim.get('ram'), 9, chunk)).toBe(true);
    expect(await sim.put('k1', payloadOf(50, chunk))).toBe('stored');
    sim.check();
    sim.crash();
    sim.disk.move('/ssd0/away', '/ssd0/kv');
    await sim.restart();
    await sim.drainIo();
    expect(sim.cache.chunkCount).toBe(0);
  });

  it('that goes while a value is read from it is noticed before the value may be replaced', async () => {
    const sim = await onSsd(1);
    sim.disk.move('/ssd0/kv', '/ssd0/away');
    expect(await sim.get('k0')).toBeUndefined();
    expect(sim.tier('ssd').state).toBe('off');
    await sim.put('k0', payloadOf(50, chunk));
    sim.crash();
    sim.disk.move('/ssd0/away', '/ssd0/kv');
    await sim.restart();
    await sim.drainIo();
    expect(await sim.get('k0')).toBeUndefined();
  });

  it('lost as one of two costs its own chunks; what RAM has of them is written to the other', async () => {
    const sim = await SimCache.start({ ssdBytes: [4 * MiB, 4 * MiB] });
    for (let index = 0; index < 12; index += 1) await sim.put(`k${index}`, payloadOf(index, chunk));
    await sim.quiet(3000);
    const { folders } = sim.tier('ssd');
    expect(folders?.map((folder) => folder.chunkCount)).toEqual([6, 6]);
    sim.disk.unlink('/ssd0/kv');
    await sim.quiet(5000);
    expect(sim.tier('ssd')).toMatchObject({ state: 'degraded', folders: [{ state: 'off' }, { state: 'ok', chunkCount: 12 }] });
    expect(sim.tier('ram').dirtyBytes).toBe(0);
    sim.checkQuiet();
    sim.crash();
    await sim.restart();
    await sim.drainIo();
    for (let index = 0; index < 12; index += 1) expect(isPayload(await sim.get(`k${index}`), index, chunk)).toBe(true);
  });

  it('that cannot be listed at start is off, and what it holds does not come back later', async () => {
    const sim = await onSsd(2);
    sim.crash();
    const { SimFileIo } = await import('#testsupport/sim-file-io.ts');
    const list = SimFileIo.prototype.list;
    SimFileIo.prototype.list = function broken(path: string) {
      return path === '/ssd0/kv/07' ? Promise.resolve({ ok: false, errno: EIO, step: 'list' }) : list.call(this, path);
    };
    try {
      await sim.restart();
      await sim.drainIo();
    } finally {
      SimFileIo.prototype.list = list;
    }
    expect(sim.tier('ssd').state).toBe('off');
    await sim.put('k0', payloadOf(60, chunk));
    sim.crash();
    await sim.restart();
    await sim.drainIo();
    expect(await sim.get('k0')).toBeUndefined();
  });

  it('that cannot be prepared is off for the run, and the other works', async () => {
    const sim = new SimCache({ ssdBytes: [4 * MiB, 4 * MiB] });
    sim.disk.mkdir('/ssd0');
    sim.disk.put('/ssd0/kv', new Uint8Array(1));
    await sim.restart();
    expect(sim.tier('ssd')).toMatchObject({ state: 'degraded', folders: [{ state: 'off' }, { state: 'ok' }] });
    await sim.put('a', payloadOf(1, chunk));
    await sim.quiet(2000);
    expect(sim.tiersOf('a')).toEqual(['ram', 'ssd']);
  });

  it('is dropped where the journal is gone or shorter than the folder remembers', async () => {
    for (const damage of ['gone', 'short', 'garbled'] as const) {
      const sim = await onSsd(2);
      await sim.run(sim.invalidate({ keys: ['k0'] }));
      await sim.quiet(1000);
      sim.crash();
      const journal = sim.disk.readFile('/data/journal') as Uint8Array;
      if (damage === 'gone') sim.disk.remove('/data/journal');
      else if (damage === 'short') sim.disk.data.plant('/data/journal', journal.slice(0, 32));
      else {
        journal[journal.length - 10] = (journal[journal.length - 10] as number) ^ 1;
        sim.disk.data.plant('/data/journal', journal);
      }
      await sim.restart();
      await sim.quiet(1000);
      expect(sim.cache.chunkCount).toBe(0);
      expect(sim.chunkFiles()).toEqual([]);
      expect(sim.life.findings).toHaveLength(1);
      expect(sim.disk.names('/ssd0/kv')?.filter((name) => name.startsWith('dropped'))).toEqual([]);
    }
  });
});

describe('A chunk that SSD cannot take', () => {
  it('because its key does not fit a header stays in RAM, and is dropped from there without waiting', async () => {
    const sim = await SimCache.start({ ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB });
    const key = `${'m'.repeat(2000)}@00000001@a1b2c3d4e5f60718a1b2c3d4e5f60718`;
    await sim.put(key, payloadOf(1, chunk));
    await sim.quiet(3000);
    expect(sim.tiersOf(key)).toEqual(['ram']);
    expect(sim.io.finished.write).toBe(0);
    expect(isPayload(await sim.get(key), 1, chunk)).toBe(true);
    await sim.quiet(3000);
    for (let index = 0; index < 15; index += 1) await sim.put(`k${index}`, payloadOf(index, chunk));
    expect(sim.reserve('more', chunk)).toMatchObject({ kind: 'ticket' });
    expect(sim.peek(key)).toBeUndefined();
  });

  it('because ram.maxChunk is smaller now is forgotten at start', async () => {
    const sim = new SimCache({ ramBytes: 4 * MiB, maxChunkBytes: 1 * MiB });
    await sim.restart();
    await sim.put('large', payloadOf(1, 512 * KiB));
    await sim.put('small', payloadOf(2, chunk));
    await sim.quiet(3000);
    sim.crash();
    const smaller = sim.withOptions({ ramBytes: 4 * MiB, maxChunkBytes: 256 * KiB });
    await smaller.restart();
    await smaller.quiet(2000);
    expect(smaller.probe('large', 1)).toBeUndefined();
    expect(isPayload(await smaller.get('small'), 2, chunk)).toBe(true);
    smaller.checkQuiet();
  });

  it('because ENOSPC comes on every write is still served, and waits', async () => {
    const sim = await SimCache.start();
    sim.io.faults.push({ kind: 'write', errno: ENOSPC, times: 1000 });
    await sim.put('a', payloadOf(1, chunk));
    await sim.quiet(10_000, 500);
    expect(isPayload(await sim.get('a'), 1, chunk)).toBe(true);
    sim.io.faults.length = 0;
    await sim.quiet(6000, 500);
    expect(sim.tier('ram').dirtyBytes).toBe(0);
    sim.checkQuiet();
  });

  it('because ENOSPC comes on every write is counted when it has to leave RAM', async () => {
    const sim = await SimCache.start({ ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB });
    sim.io.faults.push({ kind: 'write', errno: ENOSPC, times: 1000 });
    await sim.put('k0', payloadOf(0, chunk));
    await sim.quiet(3000);
    for (let index = 1; index < 20; index += 1) await sim.put(`k${index}`, payloadOf(index, chunk));
    const { length: lost } = Array.from({ length: 20 }, (_, index) => sim.peek(`k${index}`)).filter((found) => found === undefined);
    expect(lost).toBeGreaterThan(0);
    expect(stats(sim).droppedDirtyChunks).toBe(lost);
  });
});

describe('A file system without O_DIRECT', () => {
  it.each([
    ['auto', 'ok', 'no O_DIRECT here, reads and writes go through the page cache'],
    ['on', 'off', 'ssd.direct is on and the file system does not support O_DIRECT'],
    ['off', 'ok', undefined],
  ] as const)('under ssd.direct %s leaves each of two folders %s', async (direct, state, reason) => {
    const sim = await SimCache.start({ direct, ssdBytes: [8 * MiB, 8 * MiB] });
    sim.io.direct = false;
    for (let index = 0; index < 16; index += 1) await sim.put(`k${index}`, payloadOf(index, chunk));
    await sim.quiet(5000);
    const ssd = stats(sim).tiers.find((tier) => tier.tier === 'ssd');
    expect(ssd?.folders?.map((folder) => [folder.state, folder.direct])).toEqual([
      [state, false],
      [state, false],
    ]);
    expect(ssd?.reasons).toEqual(reason === undefined ? [] : ['/ssd0/kv', '/ssd1/kv'].map((path) => `${path}: ${reason}`));
    sim.check();
  });
});
