/** The lm door as its clients meet it: objects with their blocks through tiers and restarts, in step whatever comes. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import { until } from '#testsupport/agent-probes.ts';
import { ByteClient, concat, pattern, same } from '#testsupport/byte-client.ts';
import { LmClient, blockOf, engineKey, frame, putFrame, type LmObject } from '#testsupport/lm-client.ts';

const KiB = 1024;
const MiB = 1024 ** 2;
const sizes = [0, 1, 1000, 16 * KiB, 64 * KiB, 64 * KiB + 1, 300_000, MiB, MiB + 1, 5 * MiB + 3, 12 * MiB];
const objects: readonly LmObject[] = sizes.map((size, id) => ({ bytes: pattern(size, id + 1), block: blockOf(id) }));

function expectSame(found: LmObject | undefined, wanted: LmObject, what: string): void {
  expect(found?.block, what).toEqual(wanted.block);
  expect(found !== undefined && same(found.bytes, wanted.bytes), what).toBe(true);
}

async function storeAll(client: LmClient): Promise<void> {
  for (const [id, object] of objects.entries()) client.put(engineKey(id), object);
  await client.inStep();
}

async function expectAll(agent: RunningAgent): Promise<void> {
  const client = await LmClient.connect(agent.lm);
  for (const [id, object] of objects.entries()) {
    expect(await client.ask('EXIST', engineKey(id)), `${object.bytes.length} bytes`).toBe(true);
    expectSame(await client.get(engineKey(id)), object, `${object.bytes.length} bytes`);
  }
  await client.inStep();
  client.destroy();
}

const flags = ['--ram', '64MiB', '--ssd', '256MiB', '--ssd-idle-after', '10ms'];
const dataDir = mkdtempSync(join(tmpdir(), 'kvtier-lm-'));
let agent: RunningAgent;
beforeAll(async () => {
  agent = await startAgent({ flags, dataDir, lmPort: 0 });
});
afterAll(async () => {
  expect(await agent.stop(), agent.output()).toBe(0);
  rmSync(dataDir, { recursive: true, force: true });
});

describe('objects of every size', () => {
  test('come back with their bytes and blocks from RAM', async () => {
    const client = await LmClient.connect(agent.lm);
    await storeAll(client);
    client.destroy();
    await expectAll(agent);
  });

  test('and from SSD', async () => {
    await until('all are on SSD', async () => (await agent.client.stats()).tiers[0]?.dirtyBytes === 0);
    await agent.client.evict({ tier: 'ram', selector: { all: true } });
    expect((await agent.client.stats()).tiers[0]?.chunkCount).toBe(0);
    await expectAll(agent);
  });

  test.each(['SIGTERM', 'SIGKILL', 'SIGKILL and without the catalog'])('and after a restart by %s', async (how) => {
    await until('all are on SSD', async () => (await agent.client.stats()).tiers[0]?.dirtyBytes === 0);
    if (how === 'SIGTERM') expect(await agent.stop(), agent.output()).toBe(0);
    else await agent.kill9();
    if (how.endsWith('catalog')) for (const end of ['', '-wal', '-shm']) rmSync(join(dataDir, `catalog.db${end}`), { force: true });
    agent = await startAgent({ flags, dataDir, lmPort: 0 });
    await until('adoption is done', async () => (await agent.client.stats()).recovery.done);
    await expectAll(agent);
  });

  test('in one write with their questions, and torn apart anywhere, are answered in order', async () => {
    const stream = concat(
      [...objects.entries()].flatMap(([id, object]) => [
        putFrame(engineKey(id, 'torn'), object),
        frame('EXIST', engineKey(id, 'torn')),
        frame('GET', engineKey(id, 'torn')),
        frame('LIST', ''),
        frame('GET', engineKey(`beef${id}`, 'torn')),
        frame('HEALTH', ''),
      ]),
    );
    for (const step of [stream.length, 185, 65_537, 1_000_003]) {
      const client = await LmClient.connect(agent.lm);
      for (let at = 0; at < stream.length; at += step) {
        // A torn write is a packet of its own only where the other side had a chance to read.
        if (at % 3 === 0) await client.raw.written(stream.subarray(at, at + step));
        else client.raw.write(stream.subarray(at, at + step));
        if (step === 185 && at > 40 * 185) break;
      }
      if (step === 185) client.raw.write(stream.subarray(42 * 185));
      for (const [, object] of objects.entries()) {
        expect(await client.answer()).toBe(true);
        expectSame(await client.object(), object, `${object.bytes.length} bytes by ${step}`);
        expect(await client.answer(), 'LIST is not supported').toBe(false);
        expect(await client.object()).toBeUndefined();
        expect(await client.answer(), 'HEALTH').toBe(true);
      }
      await client.inStep();
      client.destroy();
    }
  });
});

test('a PUT is never answered, and its last value is the one that is read', async () => {
  const client = await LmClient.connect(agent.lm);
  for (let id = 0; id < 20; id += 1) client.put(engineKey('a1'), { bytes: pattern(1000 * id, id), block: blockOf(id) });
  expectSame(await client.get(engineKey('a1')), { bytes: pattern(19_000, 19), block: blockOf(19) }, 'the last');
  // The same bytes, described otherwise.
  client.put(engineKey('a1'), { bytes: pattern(19_000, 19), block: blockOf(3) });
  expectSame(await client.get(engineKey('a1')), { bytes: pattern(19_000, 19), block: blockOf(3) }, 'described anew');
  await client.inStep();
  client.destroy();
});

test('GET and EXIST look at no length, and HEALTH and LIST at no key', async () => {
  const client = await LmClient.connect(agent.lm);
  client.raw.write(concat([frame('EXIST', engineKey('a2'), { length: -7 }), frame('GET', engineKey('a2'), { length: 2 ** 31 - 1 })]));
  expect(await client.answer()).toBe(false);
  expect(await client.object()).toBeUndefined();
  for (const key of ['', '@', 'x'.repeat(150)])
    expect([await client.ask('HEALTH', key), await client.ask('LIST', key)]).toEqual([true, false]);
  client.destroy();
});

describe('beside the RESP door', () => {
  const bytes = pattern(100_000, 42);
  const other = pattern(100_000, 43);
  const object: LmObject = { bytes, block: blockOf(4) };

  async function both(): Promise<{ lm: LmClient; resp: ByteClient; end: () => void }> {
    const lm = await LmClient.connect(agent.lm);
    const resp = await ByteClient.connect(agent.resp);
    expect(await resp.send('PING')).toBe('+PONG');
    const end = (): void => {
      lm.destroy();
      resp.destroy();
    };
    return { lm, resp, end };
  }

  test('what came without a block is a miss, until somebody says what it is', async () => {
    const { lm, resp, end } = await both();
    const key = engineKey('b1');
    expect(await resp.send('SET', key, bytes)).toBe('+OK');
    const before = await agent.client.stats();
    expect(await lm.ask('EXIST', key)).toBe(false);
    expect(await lm.get(key)).toBeUndefined();
    const after = await agent.client.stats();
    expect([after.probes - before.probes, after.probeHits - before.probeHits]).toEqual([1, 0]);
    expect([after.lookups - before.lookups, after.misses - before.misses, after.hits.ram - before.hits.ram]).toEqual([1, 1, 0]);
    lm.put(key, object);
    expect(await lm.ask('EXIST', key)).toBe(true);
    expectSame(await lm.get(key), object, 'described');
    end();
  });

  test('what came with a block has the same bytes for both; other bytes lose it, the same bytes keep it', async () => {
    const { lm, resp, end } = await both();
    const key = engineKey('b2');
    lm.put(key, object);
    await lm.inStep();
    expect(same((await resp.send('GET', key)) as Uint8Array, bytes)).toBe(true);
    expect(await resp.send('SET', key, bytes)).toBe('+OK');
    expectSame(await lm.get(key), object, 'the same bytes again');
    expect(await resp.send('SET', key, other)).toBe('+OK');
    expect(await lm.ask('EXIST', key)).toBe(false);
    expect(await lm.get(key)).toBeUndefined();
    expect(same((await resp.send('GET', key)) as Uint8Array, other)).toBe(true);
    end();
  });

  test('the halves of a redis:// twin are neither read nor written through it', async () => {
    const { lm, resp, end } = await both();
    const key = engineKey('b3');
    expect(await resp.send('SET', `${key}kv_bytes`, bytes)).toBe('+OK');
    expect(await resp.send('SET', `${key}metadata`, new Uint8Array(28))).toBe('+OK');
    for (const name of [key, `${key}kv_bytes`, `${key}metadata`]) {
      expect(await lm.ask('EXIST', name), name).toBe(false);
      expect(await lm.get(name), name).toBeUndefined();
    }
    for (const name of [`${key}kv_bytes`, `${key}metadata`]) lm.put(name, { bytes: pattern(90_000, 9), block: blockOf(1) });
    await lm.inStep();
    expect(same((await resp.send('GET', `${key}kv_bytes`)) as Uint8Array, bytes)).toBe(true);
    expect(await resp.send('GET', `${key}metadata`)).toEqual(new Uint8Array(28));
    end();
  });

  test('DEL, and an invalidation, take an object away', async () => {
    const { lm, resp, end } = await both();
    for (const id of ['b4', 'b5']) lm.put(engineKey(id, 'gone'), object);
    await lm.inStep();
    expect(await resp.send('DEL', engineKey('b4', 'gone'))).toBe(':1');
    expect(await lm.get(engineKey('b4', 'gone'))).toBeUndefined();
    await agent.client.invalidate({ selector: { model: 'gone' }, reason: 'test' });
    expect(await lm.ask('EXIST', engineKey('b5', 'gone'))).toBe(false);
    end();
  });
});

describe('a key that is not one of LMCache’s, whole', () => {
  const object: LmObject = { bytes: pattern(200_000, 5), block: blockOf(5) };

  test.each([
    ['an object key with a salt, which would name a tenant', 'm@01000100@0@00aa@tenant'],
    ['an object key', 'm@01000100@0@00aa'],
    ['opaque', 'just-a-name'],
    ['empty', ''],
    ['spaces', '   '],
    ['controls', 'm@1@0@ab\u0007@bfloat16'],
    ['cut by its client, which counts letters', engineKey('ab'.repeat(8), 'é'.repeat((150 - engineKey('ab'.repeat(8), '').length) / 2))],
  ])('%s: its payload is read and forgotten, it is never found, and the connection stays in step', async (_, key) => {
    const client = await LmClient.connect(agent.lm);
    const before = (await agent.client.stats()).tiers[0]?.chunkCount;
    client.put(key, object);
    expect(await client.ask('EXIST', key)).toBe(false);
    expect(await client.get(key)).toBeUndefined();
    await client.inStep();
    expect((await agent.client.stats()).tiers[0]?.chunkCount).toBe(before);
    client.destroy();
  });

  test('bytes that are no UTF-8, likewise', async () => {
    const client = await LmClient.connect(agent.lm);
    const bad = frame('PUT', engineKey('c1'), { length: 100 });
    bad[36] = 0xff;
    client.raw.write(concat([bad, pattern(100, 1)]));
    const asked = frame('GET', engineKey('c1'));
    asked[36] = 0xff;
    client.raw.write(asked);
    expect(await client.object()).toBeUndefined();
    await client.inStep();
    client.destroy();
  });

  test('a key of 150 ASCII letters is whole', async () => {
    const client = await LmClient.connect(agent.lm);
    const key = engineKey('ab'.repeat(10), 'm'.repeat(150 - engineKey('ab'.repeat(10), '').length));
    expect(key.length).toBe(150);
    client.put(key, object);
    expectSame(await client.get(key), object, 'the longest key');
    client.destroy();
  });
});

test('statistics and agent.json know the door, lookups are hits or misses, probes are counted', async () => {
  const client = await LmClient.connect(agent.lm);
  const key = engineKey('d1', 'counted');
  client.put(key, { bytes: pattern(70_000, 8), block: blockOf(8) });
  await client.inStep();
  const before = await agent.client.stats();
  expect(await client.ask('EXIST', key)).toBe(true);
  expect(await client.ask('EXIST', 'nonsense')).toBe(false);
  await client.get(key);
  await client.get(engineKey('d2', 'counted'));
  await client.get('nonsense');
  const after = await agent.client.stats();
  expect(after.probes - before.probes).toBe(2);
  expect(after.probeHits - before.probeHits).toBe(1);
  expect(after.lookups - before.lookups).toBe(3);
  expect(after.hits.ram - before.hits.ram).toBe(1);
  expect(after.misses - before.misses).toBe(2);
  expect(after.sizeGuardMisses).toBe(before.sizeGuardMisses);
  const row = after.doors.find(({ door }) => door === 'lm');
  expect(row?.address).toBe(`127.0.0.1:${agent.lm.port}`);
  expect(row?.connections).toBeGreaterThanOrEqual(1);
  expect(row?.receivedBytes).toBeGreaterThan(70_000);
  expect(row?.sentBytes).toBeGreaterThan(70_000);
  expect(agent.output()).toContain(`127.0.0.1:${agent.lm.port}`);
  client.destroy();
});

test('chains follow the order in which a client asks and stores', async () => {
  const client = await LmClient.connect(agent.lm);
  const keys = Array.from({ length: 4 }, (_, index) => engineKey(index + 100, 'chained'));
  for (const key of keys) expect(await client.ask('EXIST', key)).toBe(false);
  for (const [id, key] of keys.entries()) client.put(key, { bytes: pattern(5000, id), block: blockOf(id) });
  await client.inStep();
  const chunks = (await agent.client.chunks({ model: 'chained' })).chunks;
  const idOf = new Map(chunks.map((chunk) => [chunk.key, chunk.id]));
  const parents = keys.map((key) => chunks.find((chunk) => chunk.key === key)?.parentId ?? null);
  expect(parents).toEqual([null, ...keys.slice(0, -1).map((key) => idOf.get(key) ?? null)]);
  client.destroy();
});

test('a lease that was taken through one door is not ended by a read through the other', async () => {
  const fresh = await startAgent({ flags: ['--ram', '32MiB', '--ssd', 'off'], lmPort: 0 });
  const lm = await LmClient.connect(fresh.lm);
  const resp = await ByteClient.connect(fresh.resp);
  const key = engineKey('e1');
  const leases = async (): Promise<number> => (await fresh.client.stats()).leases;
  lm.put(key, { bytes: pattern(1000, 1), block: blockOf(1) });
  expect(await resp.send('EXISTS', key)).toBe(':1');
  expect(await lm.ask('EXIST', key)).toBe(true);
  expect(await leases()).toBe(2);
  await lm.get(key);
  expect(await leases()).toBe(1);
  await resp.send('GET', key);
  expect(await leases()).toBe(0);
  lm.destroy();
  resp.destroy();
  expect(await fresh.stop(), fresh.output()).toBe(0);
});

test('objects that only RAM had come back with their blocks after kill -9, the latest block of each', async () => {
  const own = mkdtempSync(join(tmpdir(), 'kvtier-lm-ram-'));
  const kept = ['--ram', '64MiB', '--ram-keep', 'on', '--ssd', 'off'];
  const start = (): Promise<RunningAgent> => startAgent({ flags: kept, dataDir: own, lmPort: 0 });
  let running = await start();
  const client = await LmClient.connect(running.lm);
  await storeAll(client);
  const changed: LmObject = { bytes: pattern(50_000, 1), block: blockOf(11) };
  client.put(engineKey('f1'), { ...changed, block: blockOf(12) });
  client.put(engineKey('f1'), changed);
  await client.inStep();
  await running.kill9();
  running = await start();
  await expectAll(running);
  const again = await LmClient.connect(running.lm);
  expectSame(await again.get(engineKey('f1')), changed, 'described twice');
  again.destroy();
  expect(await running.stop(), running.output()).toBe(0);
  rmSync(own, { recursive: true, force: true });
});
