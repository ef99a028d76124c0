/** Quotas: who gives way for whom, in RAM and on SSD, now, over a restart, and where the quota is lowered. */
import { describe, expect, it } from 'vitest';
import type { PutTicket } from '#cache/door.ts';
import { KiB, MiB } from '#core/bytes.ts';
import { settle } from '#testsupport/sim-clock.ts';
import { isPayload, payloadOf, SimCache } from '#testsupport/sim-cache.ts';

const chunk = 64 * KiB;
const HASH = 'a1b2c3d4e5f60718a1b2c3d4e5f6';

/** The n-th key of a tenant. */
function keyOf(tenant: string, n: number): string {
  return `model@00000001@0@${HASH}${n.toString(16).padStart(4, '0')}@${tenant}`;
}

function setQuota(sim: SimCache, tenant: string, quota: { ramBytes?: number; ssdBytes?: number } | undefined): Promise<void> {
  return sim.run(
    sim.cache.control.setQuota(tenant, quota === undefined ? undefined : { ramBytes: quota.ramBytes, ssdBytes: quota.ssdBytes }),
  );
}

function bytesOf(sim: SimCache, tenant: string): { ram: number; ssd: number } {
  const sum = { ram: 0, ssd: 0 };
  for (const { descriptor, bytes } of sim.cache.control.namespaces()) {
    if (descriptor.tenant !== tenant) continue;
    sum.ram += bytes.ram;
    sum.ssd += bytes.ssd;
  }
  return sum;
}

async function fill(sim: SimCache, tenant: string, count: number): Promise<void> {
  for (let n = 0; n < count; n += 1) expect(await sim.put(keyOf(tenant, n), payloadOf(n, chunk))).toBe('stored');
}

function there(sim: SimCache, tenant: string, count: number): number[] {
  return Array.from({ length: count }, (_, n) => n).filter((n) => sim.tiersOf(keyOf(tenant, n)).includes('ram'));
}

describe('A tenant at its quota in RAM', () => {
  it('gives up its own least recently used chunk for a put, although colder ones of others are there', async () => {
    const sim = await SimCache.start({ ramBytes: 4 * MiB, ssdBytes: [] });
    await fill(sim, 'old', 8);
    await setQuota(sim, 'ann', { ramBytes: 4 * chunk });
    await fill(sim, 'ann', 4);
    await sim.get(keyOf('ann', 0));
    expect(await sim.put(keyOf('ann', 9), payloadOf(9, chunk))).toBe('stored');
    expect(there(sim, 'ann', 10)).toEqual([0, 2, 3, 9]);
    expect(there(sim, 'old', 8)).toHaveLength(8);
    expect(sim.cache.control.stats().quotas).toEqual({ tenants: 1, evictions: { ram: 1, ssd: 0 } });
    sim.check();
  });

  it('is refused what is larger than the quota, at once, with a message that names no tenant', async () => {
    const sim = await SimCache.start({ ramBytes: 4 * MiB, ssdBytes: [] });
    await setQuota(sim, 'secret-salt', { ramBytes: chunk - 1 });
    const refused = sim.reserve(keyOf('secret-salt', 1), chunk);
    expect(refused).toMatchObject({ kind: 'rejected', reason: 'quota' });
    expect((refused as { message: string }).message).toBe(
      "Cannot store 64 KiB: the tenant's quota in ram is 64.0 KiB".replace('64.0', '64'),
    );
    expect(JSON.stringify(refused)).not.toContain('secret-salt');
    expect(sim.cache.control.stats().rejectedPuts.quota).toBe(1);
    expect(await sim.put(keyOf('other', 1), payloadOf(1, chunk))).toBe('stored');
  });

  it('is refused after put.wait where all of its chunks are in use, while others store', async () => {
    const sim = await SimCache.start({ ramBytes: 4 * MiB, ssdBytes: [] });
    await setQuota(sim, 'ann', { ramBytes: 2 * chunk });
    await fill(sim, 'ann', 2);
    const handles = [0, 1].map((n) => sim.open(keyOf('ann', n)));
    const reserved = sim.reserve(keyOf('ann', 2), chunk) as Promise<PutTicket>;
    expect(await sim.put(keyOf('bob', 0), payloadOf(1, chunk))).toBe('stored');
    await sim.clock.advance(2000);
    expect(await reserved).toMatchObject({ kind: 'rejected', reason: 'quota' });
    for (const handle of handles) (handle as { release(): void }).release();
    expect(await sim.put(keyOf('ann', 2), payloadOf(2, chunk))).toBe('stored');
    expect(sim.cache.holdings()).toMatchObject({ openTickets: 0, waiting: 0 });
  });

  it('goes on the moment that one of its readers lets go', async () => {
    const sim = await SimCache.start({ ramBytes: 4 * MiB, ssdBytes: [] });
    await setQuota(sim, 'ann', { ramBytes: chunk });
    await fill(sim, 'ann', 1);
    const handle = sim.open(keyOf('ann', 0)) as { release(): void };
    let ticket: PutTicket | undefined;
    void (sim.reserve(keyOf('ann', 1), chunk) as Promise<PutTicket>).then((given) => (ticket = given));
    await settle();
    expect(ticket).toBeUndefined();
    handle.release();
    await settle();
    expect(ticket?.kind).toBe('ticket');
    sim.check();
  });

  it('loses nothing that SSD has still to take: the writes that it waits for are its own', async () => {
    const sim = await SimCache.start({ ramBytes: 4 * MiB, limits: { ssdIdleAfterMs: 1_000_000 } });
    await fill(sim, 'bob', 8);
    await setQuota(sim, 'ann', { ramBytes: 2 * chunk });
    await fill(sim, 'ann', 10);
    expect(sim.cache.control.stats().droppedDirtyChunks).toBe(0);
    expect(bytesOf(sim, 'bob')).toEqual({ ram: 8 * chunk, ssd: 0 });
    for (let n = 0; n < 10; n += 1) expect(isPayload(await sim.get(keyOf('ann', n)), n, chunk), String(n)).toBe(true);
    expect(bytesOf(sim, 'ann').ram).toBeLessThanOrEqual(2 * chunk);
    sim.check();
  });

  it('writes nothing that admission keeps from SSD, while it waits for its own readers', async () => {
    const sim = await SimCache.start({ ramBytes: 4 * MiB, admission: 'second-use' });
    await setQuota(sim, 'ann', { ramBytes: 2 * chunk });
    await fill(sim, 'ann', 2);
    for (const n of [0, 1]) sim.probe(keyOf('ann', n), 1);
    const reserved = sim.reserve(keyOf('ann', 2), chunk) as Promise<PutTicket>;
    await sim.quiet(500);
    expect(sim.cache.control.stats().storeAdmission.admittedChunks).toBe(0);
    await sim.quiet(2000);
    expect(await reserved).toMatchObject({ kind: 'rejected', reason: 'quota' });
  });

  it('counts puts under way: no two of them take the same room', async () => {
    const sim = await SimCache.start({ ramBytes: 4 * MiB, ssdBytes: [] });
    await setQuota(sim, 'ann', { ramBytes: 2 * chunk });
    const tickets = [0, 1].map((n) => sim.reserve(keyOf('ann', n), chunk) as PutTicket);
    expect(tickets.map(({ kind }) => kind)).toEqual(['ticket', 'ticket']);
    const third = sim.reserve(keyOf('ann', 2), chunk) as Promise<PutTicket>;
    await sim.clock.advance(500);
    sim.cache.abort(tickets[0] as PutTicket);
    expect((await third).kind).toBe('ticket');
    sim.check();
    sim.cache.abort(await third);
    sim.cache.abort(tickets[1] as PutTicket);
    sim.checkQuiet();
  });

  it('reads what is on SSD within it: a promotion makes its own room, and is a miss where it cannot', async () => {
    const sim = await SimCache.start({ ramBytes: 4 * MiB });
    await fill(sim, 'ann', 3);
    await fill(sim, 'bob', 3);
    await sim.quiet(3000);
    await sim.run(sim.cache.control.evict('ram', { tenant: 'ann' }));
    await setQuota(sim, 'ann', { ramBytes: chunk });
    for (const n of [0, 1, 2]) expect(isPayload(await sim.get(keyOf('ann', n)), n, chunk)).toBe(true);
    expect(there(sim, 'ann', 3)).toEqual([2]);
    const handle = (await sim.open(keyOf('ann', 2))) as { release(): void };
    expect(await sim.get(keyOf('ann', 0))).toBeUndefined();
    handle.release();
    expect(isPayload(await sim.get(keyOf('ann', 0)), 0, chunk)).toBe(true);
    expect(there(sim, 'bob', 3)).toHaveLength(3);
    sim.checkQuiet();
  });

  it('keeps the prefix of the chain that a put continues: the put is acknowledged and not kept', async () => {
    const sim = await SimCache.start({ ramBytes: 4 * MiB, ssdBytes: [] });
    await setQuota(sim, 'ann', { ramBytes: 2 * chunk });
    await fill(sim, 'ann', 2);
    const spare = new Set([0, 1].map((n) => sim.peek(keyOf('ann', n))?.ref.entry ?? -1));
    const refused = sim.with(keyOf('ann', 2), (namespace, key) => sim.cache.reserve({ namespace, key, sizeBytes: chunk, spare }));
    expect(refused).toMatchObject({ kind: 'rejected', reason: 'own-chain' });
    expect(there(sim, 'ann', 2)).toEqual([0, 1]);
  });

  it('competes with everybody below it', async () => {
    const sim = await SimCache.start({ ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB, ssdBytes: [] });
    await setQuota(sim, 'ann', { ramBytes: 1 * MiB });
    await fill(sim, 'ann', 4);
    await fill(sim, 'bob', 16);
    expect(there(sim, 'ann', 4)).toEqual([]);
  });
});

/** A full tier of 1 MiB in which the slabs hold the chunks of `ann`, at its quota, and of `bob` in turn. */
async function mixed(sim: SimCache): Promise<void> {
  for (let n = 0; n < 8; n += 1)
    for (const tenant of ['ann', 'bob']) expect(await sim.put(keyOf(tenant, n), payloadOf(n, chunk))).toBe('stored');
  await setQuota(sim, 'ann', { ramBytes: 8 * chunk });
}

const other = 96 * KiB;

describe('A tenant at its quota that stores chunks of another size', () => {
  const tier = { ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB, ssdBytes: [] };

  it('takes no slot from others: without a slab of its own it is refused after put.wait, and that is counted', async () => {
    const sim = await SimCache.start(tier);
    await mixed(sim);
    const before = sim.cache.control.stats();
    const refused = sim.reserve(keyOf('ann', 100), other) as Promise<PutTicket>;
    expect(refused).toBeInstanceOf(Promise);
    // Nobody waits behind it; the coldest of all is one of ann's.
    const ticket = sim.reserve(keyOf('bob', 100), chunk) as PutTicket;
    expect(ticket.kind).toBe('ticket');
    await sim.clock.advance(2000);
    expect(await refused).toMatchObject({ kind: 'rejected', reason: 'quota-slot' });
    expect(((await refused) as unknown as { message: string }).message).toBe(
      "Cannot store 96 KiB: the tenant's quota in ram is 512 KiB, and none of its own chunks would leave a slot of this size",
    );
    expect(there(sim, 'bob', 8)).toHaveLength(8);
    expect(there(sim, 'ann', 8)).toHaveLength(7);
    sim.cache.abort(ticket);
    const { rejectedPuts, quotas } = sim.cache.control.stats();
    expect({ rejectedPuts, quotas }).toEqual({ rejectedPuts: { ...before.rejectedPuts, quotaSlot: 1 }, quotas: before.quotas });
    sim.check();
  });

  it('gives up whole slabs of its own', async () => {
    const sim = await SimCache.start(tier);
    await fill(sim, 'ann', 8);
    await fill(sim, 'bob', 8);
    await setQuota(sim, 'ann', { ramBytes: 8 * chunk });
    for (let n = 100; n < 120; n += 1) {
      expect(await sim.put(keyOf('ann', n), payloadOf(n, other)), String(n)).toBe('stored');
      expect(there(sim, 'bob', 8)).toHaveLength(8);
      // What two small ones leave beside a large one is not its own any more.
      await setQuota(sim, 'ann', { ramBytes: bytesOf(sim, 'ann').ram });
      sim.check();
    }
    expect(there(sim, 'ann', 200).filter((n) => n >= 100)).toHaveLength(4);
    expect(sim.cache.control.stats().rejectedPuts.quotaSlot).toBe(0);
  });

  it('does not come below its quota by being refused', async () => {
    const sim = await SimCache.start(tier);
    await mixed(sim);
    for (let n = 100; n < 120; n += 1) await sim.put(keyOf('ann', n), payloadOf(n, other));
    expect(there(sim, 'bob', 8)).toHaveLength(8);
    expect(bytesOf(sim, 'ann').ram).toBe(8 * chunk);
  });

  it('takes no slot from others for a load either: the read is a miss', async () => {
    const sim = await SimCache.start({ ...tier, ssdBytes: [16 * MiB] });
    await sim.put(keyOf('ann', 100), payloadOf(100, other));
    await sim.run(sim.cache.control.persist({ all: true }));
    await sim.run(sim.cache.control.evict('ram', { all: true }));
    await mixed(sim);
    await sim.quiet(3000);
    expect(await sim.get(keyOf('ann', 100))).toBeUndefined();
    expect(there(sim, 'bob', 8)).toHaveLength(8);
    await setQuota(sim, 'ann', { ramBytes: 1 * MiB });
    expect(isPayload(await sim.get(keyOf('ann', 100)), 100, other)).toBe(true);
    sim.checkQuiet();
  });

  it('takes none either where it gave up a chunk of its chain for the next', async () => {
    const sim = await SimCache.start(tier);
    await mixed(sim);
    const spare = new Set(Array.from({ length: 8 }, (_, n) => sim.peek(keyOf('ann', n))?.ref.entry ?? -1));
    const reserve = (onlyOwn: boolean): PutTicket | Promise<PutTicket> =>
      sim.with(keyOf('ann', 100), (namespace, key) => sim.cache.reserve({ namespace, key, sizeBytes: other, spare, onlyOwn })) as PutTicket;
    expect(reserve(false)).toMatchObject({ kind: 'rejected', reason: 'own-chain', atQuota: true });
    for (const n of [7, 5]) {
      const ref = sim.peek(keyOf('ann', n))?.ref;
      expect(ref !== undefined && sim.cache.giveUp(ref)).toBe(true);
    }
    const refused = reserve(true);
    await sim.clock.advance(2000);
    expect(await refused).toMatchObject({ kind: 'rejected', reason: 'quota-slot' });
    expect(there(sim, 'bob', 8)).toHaveLength(8);
  });

  it('waits in line with everybody once its quota is gone', async () => {
    const sim = await SimCache.start(tier);
    await mixed(sim);
    const reserved = sim.reserve(keyOf('ann', 100), other) as Promise<PutTicket>;
    await settle();
    await setQuota(sim, 'ann', undefined);
    const ticket = await sim.run(reserved);
    expect(ticket.kind).toBe('ticket');
    sim.cache.abort(ticket);
    sim.check();
  });
});

describe('A tenant that comes to its quota', () => {
  it('while its puts wait in line takes no more from others than its quota has room for', async () => {
    const sim = await SimCache.start({ ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB, ssdBytes: [] });
    await fill(sim, 'bob', 16);
    const handles = Array.from({ length: 16 }, (_, n) => sim.open(keyOf('bob', n)) as { release(): void });
    await setQuota(sim, 'ann', { ramBytes: 2 * chunk });
    const reserved = Array.from({ length: 6 }, (_, n) => sim.reserve(keyOf('ann', n), chunk) as Promise<PutTicket>);
    for (const handle of handles) handle.release();
    await settle();
    expect(there(sim, 'bob', 16)).toHaveLength(14);
    await sim.clock.advance(2000);
    const outcomes = await Promise.all(reserved);
    expect(outcomes.map((outcome) => (outcome as unknown as { reason?: string }).reason ?? outcome.kind)).toEqual([
      'ticket',
      'ticket',
      'quota',
      'quota',
      'quota',
      'quota',
    ]);
    expect(there(sim, 'bob', 16)).toHaveLength(14);
    for (const ticket of outcomes.slice(0, 2)) sim.cache.abort(ticket);
    sim.checkQuiet();
  });

  it('gives up its own row where the index is full', async () => {
    const sim = await SimCache.start({ ramBytes: 4 * MiB, ssdBytes: [], limits: { maxChunks: 8 } });
    await fill(sim, 'bob', 4);
    await fill(sim, 'ann', 4);
    await setQuota(sim, 'ann', { ramBytes: 4 * chunk + 1 });
    for (let n = 10; n < 14; n += 1) expect(await sim.put(keyOf('ann', n), payloadOf(n, chunk))).toBe('stored');
    expect(there(sim, 'bob', 4)).toHaveLength(4);
    sim.check();
  });
});

describe('A tenant at its quota on SSD', () => {
  it('takes no room from others where a folder is full: a write waits for the unlink of its own file', async () => {
    const sim = await SimCache.start({ ramBytes: 4 * MiB, maxChunkBytes: 256 * KiB, ssdBytes: [1 * MiB] });
    const fileBytes = chunk + 4096;
    const fits = Math.floor((1 * MiB) / fileBytes);
    await fill(sim, 'bob', fits - 4);
    await sim.quiet(3000);
    await fill(sim, 'ann', 4);
    await sim.run(sim.cache.control.persist({ all: true }));
    const own = bytesOf(sim, 'ann').ssd;
    const others = bytesOf(sim, 'bob').ssd;
    await setQuota(sim, 'ann', { ssdBytes: own });
    for (let n = 10; n < 20; n += 1) {
      await sim.put(keyOf('ann', n), payloadOf(n, chunk));
      if (n % 2 === 0) await sim.run(sim.cache.control.persist({ tenant: 'ann' }));
      else await sim.quiet(3000);
      expect(bytesOf(sim, 'bob').ssd, String(n)).toBe(others);
      expect(bytesOf(sim, 'ann').ssd, String(n)).toBe(own);
      expect(sim.tiersOf(keyOf('ann', n)), String(n)).toContain('ssd');
      sim.check();
    }
  });

  it('gives up its own coldest files for a write, and nobody else does', async () => {
    const sim = await SimCache.start({ ramBytes: 4 * MiB });
    await fill(sim, 'bob', 4);
    await sim.quiet(3000);
    await setQuota(sim, 'ann', { ssdBytes: 2 * chunk });
    for (let n = 0; n < 6; n += 1) {
      await sim.put(keyOf('ann', n), payloadOf(n, chunk));
      await sim.quiet(3000);
      expect(bytesOf(sim, 'ann').ssd).toBeLessThanOrEqual(2 * chunk);
      sim.check();
    }
    expect(bytesOf(sim, 'bob').ssd).toBe(4 * chunk);
    expect(bytesOf(sim, 'ann')).toEqual({ ram: 6 * chunk, ssd: 2 * chunk });
    expect(sim.tiersOf(keyOf('ann', 5))).toContain('ssd');
    expect(sim.cache.control.stats().quotas.evictions.ssd).toBe(4);
  });

  it('leaves to RAM what is larger than the quota', async () => {
    const sim = await SimCache.start({ ramBytes: 4 * MiB });
    await setQuota(sim, 'ann', { ssdBytes: chunk - 1 });
    await fill(sim, 'ann', 1);
    await sim.quiet(3000);
    expect(sim.tiersOf(keyOf('ann', 0))).toEqual(['ram']);
    expect(await sim.run(sim.cache.control.persist({ all: true }))).toMatchObject({ persisted: 0, failed: 1 });
  });

  it('counts writes under way', async () => {
    const sim = await SimCache.start({ ramBytes: 4 * MiB, limits: { writesAtOnce: 4 } });
    await setQuota(sim, 'ann', { ssdBytes: chunk });
    await fill(sim, 'ann', 3);
    await sim.clock.advance(2000);
    sim.check();
    await sim.quiet(3000);
    expect(bytesOf(sim, 'ann').ssd).toBe(chunk);
  });
});

describe('A quota', () => {
  it('below what is held is reached in slices, the coldest first, in both tiers', async () => {
    const sim = await SimCache.start({ ramBytes: 16 * MiB, maxChunkBytes: 256 * KiB });
    const small = 4096;
    for (let n = 0; n < 600; n += 1) await sim.put(keyOf('ann', n), payloadOf(n, small));
    for (let n = 0; n < 50; n += 1) await sim.put(keyOf('bob', n), payloadOf(n, small));
    await sim.quiet(3000);
    const answered = sim.cache.control.setQuota('ann', { ramBytes: 100 * small, ssdBytes: 200 * small });
    await settle();
    const first = bytesOf(sim, 'ann').ram / small;
    expect(first).toBeGreaterThan(100);
    expect(first).toBeLessThan(600);
    sim.check();
    await sim.run(answered);
    await sim.quiet(2000);
    expect(bytesOf(sim, 'ann')).toEqual({ ram: 100 * small, ssd: 200 * small });
    expect(there(sim, 'ann', 600)).toEqual(Array.from({ length: 100 }, (_, n) => n + 500));
    expect(bytesOf(sim, 'bob')).toEqual({ ram: 50 * small, ssd: 50 * small });
    sim.checkQuiet();
  });

  it('of nothing lets nothing in, and ends with its removal', async () => {
    const sim = await SimCache.start({ ramBytes: 4 * MiB });
    await fill(sim, 'ann', 3);
    await setQuota(sim, 'ann', { ramBytes: 0, ssdBytes: 0 });
    await sim.quiet(3000);
    expect(sim.cache.chunkCount).toBe(0);
    expect(await sim.put(keyOf('ann', 1), payloadOf(1, chunk))).toBe('quota');
    expect(sim.cache.control.quotas()).toEqual([{ tenant: 'ann', ramBytes: 0, ssdBytes: 0 }]);
    await setQuota(sim, 'ann', undefined);
    expect(sim.cache.control.quotas()).toEqual([]);
    await fill(sim, 'ann', 3);
    sim.check();
  });

  it('survives kill -9 and the loss of the catalog, and counts from the first chunk', async () => {
    const sim = await SimCache.start({ ramBytes: 4 * MiB });
    await setQuota(sim, 'ann', { ramBytes: 2 * chunk, ssdBytes: 3 * chunk });
    await setQuota(sim, 'bob', { ramBytes: 1 });
    await setQuota(sim, 'bob', undefined);
    await fill(sim, 'ann', 5);
    await sim.quiet(3000);
    for (const lost of [false, true]) {
      sim.crash();
      if (lost) sim.catalogDisk.clear();
      await sim.restart();
      await sim.quiet(1000);
      expect(sim.cache.control.quotas()).toEqual([{ tenant: 'ann', ramBytes: 2 * chunk, ssdBytes: 3 * chunk }]);
      expect(bytesOf(sim, 'ann').ssd).toBe(3 * chunk);
      sim.checkQuiet();
    }
    await fill(sim, 'ann', 5);
    expect(bytesOf(sim, 'ann').ram).toBe(2 * chunk);
  });

  it('lowered in the last moment before kill -9 is reached after the start', async () => {
    const sim = await SimCache.start({ ramBytes: 4 * MiB });
    await fill(sim, 'ann', 8);
    await sim.quiet(3000);
    const lowered = sim.cache.control.setQuota('ann', { ramBytes: undefined, ssdBytes: chunk });
    sim.crash();
    void lowered.catch(() => undefined);
    await sim.restart();
    await sim.quiet(2000);
    expect(bytesOf(sim, 'ann').ssd).toBe(chunk);
    sim.checkQuiet();
  });

  it('is still there after the journal was compacted', async () => {
    const sim = await SimCache.start({ ramBytes: 4 * MiB });
    await setQuota(sim, 'ann', { ramBytes: 2 * chunk });
    await fill(sim, 'bob', 2);
    await sim.run(sim.cache.control.pin({ keys: [keyOf('bob', 0)] }, 'hard'));
    await sim.run(sim.cache.control.pin({ keys: [keyOf('bob', 1)] }, 'soft'));
    await sim.run(sim.cache.control.persist({ all: true }));
    const journalBytes = (): number => sim.disk.readFile('/data/journal')?.length ?? 0;
    const before = journalBytes();
    for (let round = 0; round < 12; round += 1) {
      // 0.9 MB a record; the journal is rewritten above 8 MiB.
      await sim.invalidate({ keys: Array.from({ length: 900 }, (_, n) => `${round}-${n}-${'x'.repeat(1000)}`) });
    }
    expect(journalBytes()).toBeGreaterThan(8 * MiB);
    await sim.run(sim.cache.control.setQuota('cid', { ramBytes: undefined, ssdBytes: 1 }));
    await setQuota(sim, 'cid', undefined);
    await sim.quiet(3000);
    const rewritten = sim.log.length === 0 && journalBytes() !== before;
    expect(rewritten).toBe(true);
    sim.crash();
    await sim.restart();
    await sim.quiet(1000);
    expect(sim.cache.control.quotas()).toEqual([{ tenant: 'ann', ramBytes: 2 * chunk, ssdBytes: undefined }]);
    const { chunks } = sim.cache.control.chunks({ tenant: 'bob' }, { limit: 10 });
    expect(new Set(chunks.map(({ pinned }) => pinned))).toEqual(new Set(['hard', 'soft']));
  });

  it('that cannot be journaled is refused, and nothing of it holds', async () => {
    const sim = await SimCache.start({ ramBytes: 4 * MiB });
    sim.disk.data.failNext('append', 28, { path: '/data/journal' });
    await expect(sim.cache.control.setQuota('ann', { ramBytes: 0, ssdBytes: undefined })).rejects.toMatchObject({ code: 'NO_SPACE' });
    expect(sim.cache.control.quotas()).toEqual([]);
    expect(await sim.put(keyOf('ann', 1), payloadOf(1, chunk))).toBe('stored');
  });

  it('is acknowledged only once it is on the disk, and so are pins', async () => {
    const sim = await SimCache.start({ ramBytes: 4 * MiB });
    await fill(sim, 'bob', 1);
    await sim.quiet(3000);
    const orders: readonly (() => Promise<unknown>)[] = [
      () => sim.cache.control.setQuota('ann', { ramBytes: 1, ssdBytes: undefined }),
      () => sim.cache.control.setQuota('ann', undefined),
      () => sim.cache.control.pin({ all: true }, 'soft'),
      () => sim.cache.control.unpin({ all: true }),
    ];
    for (const [index, order] of orders.entries()) {
      // So that there is a pin to end.
      if (index === 3) await sim.run(sim.cache.control.pin({ all: true }, 'soft'));
      sim.disk.data.failNext('sync', 5, { path: '/data/journal' });
      await expect(sim.run(order())).rejects.toMatchObject({ code: 'IO_FAILED' });
      // The journal is rewritten by housekeeping, and takes records again.
      await sim.quiet(5000);
    }
  });
});
