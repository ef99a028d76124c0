/** Pins and quotas in the real agent: by REST and by the command line, over kill -9, and as clients of RESP see them. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import * as known from '#testsupport/agent-chunks.ts';
import type { ByteClient } from '#testsupport/byte-client.ts';
import { pattern } from '#testsupport/byte-client.ts';
import { runCli } from '#testsupport/cli-process.ts';
import { until } from '#testsupport/agent-probes.ts';

const MiB = 1024 * 1024;
const flags = ['--ram', '32MiB', '--ssd', '64MiB', '--ssd-idle-after', '100ms', '--tenants-reveal'];

let folder: string;
let agent: RunningAgent;
let client: ByteClient;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'kvtier-keeping-'));
  await start();
});
afterAll(async () => {
  client.destroy();
  expect(await agent.stop(), agent.output()).toBe(0);
  rmSync(folder, { recursive: true, force: true });
});

async function start(): Promise<void> {
  agent = await startAgent({ dataDir: join(folder, '.kvtier'), flags });
  client = await known.redisClient(agent);
}

async function kill(): Promise<void> {
  client.destroy();
  await agent.kill9();
  await start();
}

const key = (tenant: string, id: number): string => `org/alpha@01000100@0@${known.hashOf(id)}@${tenant}`;
const set = (tenant: string, id: number, sizeBytes = MiB): Promise<unknown> => client.send('SET', key(tenant, id), pattern(sizeBytes, id));
const get = async (tenant: string, id: number): Promise<number | undefined> => {
  const reply = await client.send('GET', key(tenant, id));
  return reply instanceof Uint8Array ? reply.length : undefined;
};

test('a tenant at its quota gives up its own chunks, and another tenant keeps all of them', async () => {
  for (let id = 0; id < 6; id += 1) expect(await set('bob', id)).toBe('+OK');
  const row = await agent.client.setQuota('ann', { ramBytes: 4 * MiB, ssdBytes: 3 * MiB });
  expect(row).toMatchObject({ tenant: 'ann', chunkCount: 0, quota: { ramBytes: 4 * MiB, ssdBytes: 3 * MiB } });
  for (let id = 0; id < 20; id += 1) expect(await set('ann', id)).toBe('+OK');
  const ann = await agent.client.quota('ann');
  expect(ann.bytes.ram).toBeLessThanOrEqual(4 * MiB);
  expect(await get('ann', 19)).toBe(MiB);
  for (let id = 0; id < 6; id += 1) expect(await get('bob', id)).toBe(MiB);
  await until(
    'SSD has what it may',
    async () =>
      (await agent.client.stats()).tiers.find(({ tier }) => tier === 'ram')?.dirtyBytes === 0 ||
      (await agent.client.quota('ann')).bytes.ssd === 3 * MiB,
  );
  expect((await agent.client.quota('ann')).bytes.ssd).toBeLessThanOrEqual(3 * MiB);
  expect((await agent.client.tenants()).tenants.map(({ tenant, quota }) => [tenant, quota?.ramBytes ?? null])).toEqual([
    ['ann', 4 * MiB],
    ['bob', null],
  ]);
});

test('a value over the quota is refused with OOM, by a text that names no tenant', async () => {
  const reply = String(await set('ann', 100, 5 * MiB));
  expect(reply).toBe("-OOM Cannot store 5 MiB: the tenant's quota in ram is 4 MiB");
  expect((await agent.client.stats()).rejectedPuts.quota).toBe(1);
  expect(await client.send('PING')).toBe('+PONG');
});

test('quotas and hard pins are there after kill -9, and what was taken back is not', async () => {
  await agent.client.setQuota('cid', { ramBytes: 1 });
  await agent.client.removeQuota('cid');
  const keys = [0, 1].map((id) => key('bob', id));
  expect(await agent.client.pin({ selector: { keys }, mode: 'hard' })).toMatchObject({
    pinned: { chunks: 2, bytes: 2 * MiB },
    notFound: 0,
  });
  expect(await agent.client.pin({ selector: { keys: [key('bob', 2)] }, mode: 'soft' })).toMatchObject({ pinned: { chunks: 1 } });
  expect(await agent.client.unpin({ keys: [key('bob', 1)] })).toMatchObject({ unpinned: { chunks: 1 } });
  await kill();
  await until('recovery is done', async () => (await agent.client.stats()).recovery.done);
  expect(await agent.client.quota('ann')).toMatchObject({ quota: { ramBytes: 4 * MiB, ssdBytes: 3 * MiB } });
  await expect(agent.client.quota('cid')).rejects.toMatchObject({ code: 'NOT_FOUND' });
  const pinned = (await known.listed(agent, { tenant: 'bob' })).filter((chunk) => chunk.pinned !== null);
  expect(pinned.map((chunk) => [chunk.key, chunk.pinned])).toContainEqual([key('bob', 0), 'hard']);
  expect(pinned.map((chunk) => chunk.key)).not.toContain(key('bob', 1));
  // Four times what both tiers hold, by somebody else.
  for (let id = 1000; id < 1150; id += 1) expect(await set('dan', id)).toBe('+OK');
  expect(await get('bob', 0)).toBe(MiB);
  expect(await get('bob', 1)).toBeUndefined();
}, 60_000);

test('a pin yields to DEL and to invalidation, over kill -9 too', async () => {
  await set('bob', 20);
  await set('bob', 21);
  await agent.client.pin({ selector: { keys: [key('bob', 20), key('bob', 21)] }, mode: 'hard' });
  expect(await client.send('DEL', key('bob', 20))).toBe(':1');
  expect(await agent.client.invalidate({ selector: { keys: [key('bob', 21)] } })).toMatchObject({ matchedChunks: 1 });
  await set('bob', 20, 2 * MiB);
  await agent.client.persist({ keys: [key('bob', 20)] });
  await kill();
  await until('recovery is done', async () => (await agent.client.stats()).recovery.done);
  const left = await known.listed(agent, { tenant: 'bob' });
  expect(left.find((chunk) => chunk.key === key('bob', 20))?.pinned).toBeNull();
  expect(left.find((chunk) => chunk.key === key('bob', 21))).toBeUndefined();
});

test('the command line sets, lists and takes away quotas, and pins and unpins', async () => {
  const kvtier = (...args: string[]) => runCli(args, { cwd: folder });
  expect(await kvtier('quota', 'set', 'eve', '--ram-bytes', '10MiB', '--ssd-bytes', '1GiB')).toMatchObject({ code: 0, stderr: '' });
  const listed = await kvtier('quota');
  expect([listed.code, listed.stdout]).toEqual([0, expect.stringMatching(/eve +0 B +10 MiB +0 B +1 GiB/)]);
  expect(JSON.parse((await kvtier('quota', 'ls', '--json')).stdout)).toMatchObject({ tenants: [{ tenant: 'ann' }, { tenant: 'eve' }] });
  expect(await kvtier('quota', 'rm', 'eve')).toMatchObject({ code: 0 });
  expect(await kvtier('quota', 'rm', 'eve')).toMatchObject({ code: 66, stderr: expect.stringContaining('it has none') });
  expect(await kvtier('quota', 'set', 'eve')).toMatchObject({ code: 64 });
  expect(await kvtier('quota', 'set', 'eve', '--ram-bytes', 'much')).toMatchObject({ code: 64 });
  await set('bob', 30);
  expect(await kvtier('pin', key('bob', 30))).toMatchObject({ code: 64, stderr: expect.stringContaining('--mode') });
  expect(await kvtier('pin', key('bob', 30), '--mode', 'hard')).toMatchObject({
    code: 0,
    stdout: expect.stringContaining('Pinned 1 chunks, 1 MiB'),
  });
  expect((await kvtier('ls', 'chunks', '--tenant', 'bob')).stdout).toMatch(/hard pin/);
  expect((await kvtier('stats')).stdout).toMatch(/^hard +\d/m);
  expect(await kvtier('unpin', '--all')).toMatchObject({ code: 0, stdout: expect.stringMatching(/^Unpinned \d+ chunks/) });
});
