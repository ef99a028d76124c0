/** Moving chunks by REST: persist, evict, prefetch. What is moved is not forgotten, and its bytes stay what they were. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import * as known from '#testsupport/agent-chunks.ts';
import { ByteClient } from '#testsupport/byte-client.ts';

const alpha = [1, 2, 3].map((id) => known.objectChunk(id, { model: 'org/alpha' }));
const beta = [4, 5].map((id) => known.objectChunk(id, { model: 'beta', tenant: 'ann' }));
const zeta = [6].map((id) => known.engineChunk(id, { model: 'zeta', tags: { lang: 'de' } }));
const all = [...alpha, ...beta, ...zeta];
// Nothing is written unless it is asked for or leaves RAM.
const flags = ['--ssd-admission', 'demote', '--lease-duration', '1h'];

let dataDir: string;
let agent: RunningAgent;
let client: ByteClient;
beforeAll(async () => {
  dataDir = mkdtempSync(join(tmpdir(), 'kvtier-tiers-'));
  agent = await startAgent({ dataDir, flags });
  client = await known.redisClient(agent);
  await known.store(client, all);
});
afterAll(async () => {
  client.destroy();
  expect(await agent.stop(), agent.output()).toBe(0);
  rmSync(dataDir, { recursive: true, force: true });
});

const tiersOf = async (chunks: readonly known.KnownChunk[]): Promise<(string | null)[]> =>
  (await agent.client.lookup(chunks.map(({ key }) => key))).answers.map((answer) => answer.tier);

test('persist writes the matching chunks that only RAM has, and tells of those that SSD has already', async () => {
  expect(await agent.client.persist({ model: 'org/alpha', keys: [alpha[0]?.key ?? ''] })).toEqual({
    persisted: 1,
    alreadyOnSsd: 0,
    failed: 0,
    bytes: alpha[0]?.bytes.length,
  });
  expect(await agent.client.persist({ model: 'org/alpha' })).toEqual({
    persisted: 2,
    alreadyOnSsd: 1,
    failed: 0,
    bytes: known.bytesOf(alpha.slice(1)),
  });
  const stats = await agent.client.stats();
  expect(known.tier(stats, 'ram')).toMatchObject({ chunkCount: all.length, dirtyBytes: known.bytesOf([...beta, ...zeta]) });
  expect(known.tier(stats, 'ssd').chunkCount).toBe(alpha.length);
  expect(stats.io.writtenBytes).toBeGreaterThanOrEqual(known.bytesOf(alpha));
  expect(await known.listedKeys(agent, { tier: 'ssd' })).toEqual(known.keysOf(alpha));
  expect((await known.listed(agent, { model: 'org/alpha' })).every((chunk) => !chunk.dirty && chunk.tiers.join() === 'ram,ssd')).toBe(true);
});

test('evict of RAM writes what only RAM has and forgets nothing', async () => {
  expect(await agent.client.evict({ tier: 'ram', selector: { all: true } })).toEqual({
    evicted: all.length,
    bytes: known.bytesOf(all),
    skipped: 0,
  });
  expect(await tiersOf(all)).toEqual(all.map(() => 'ssd'));
  const stats = await agent.client.stats();
  expect(known.tier(stats, 'ram')).toMatchObject({ chunkCount: 0, usedBytes: 0, dirtyBytes: 0 });
  expect([stats.evictions.ram, stats.demotions, stats.droppedDirtyChunks]).toEqual([all.length, all.length, 0]);
});

test('prefetch promotes what SSD has, and GET serves it from RAM, byte for byte; what is there or absent is told apart', async () => {
  const keys = alpha.map(({ key }) => key);
  expect(await agent.client.prefetch([...keys, 'absent'])).toEqual({ promoted: 3, alreadyInRam: 0, missing: 1, refused: 0 });
  expect(await agent.client.prefetch([...keys, 'absent'])).toEqual({ promoted: 0, alreadyInRam: 3, missing: 1, refused: 0 });
  expect(await tiersOf(alpha)).toEqual(['ram', 'ram', 'ram']);
  const before = await agent.client.stats();
  expect(before.promotions).toBe(3);
  expect(await known.served(client, alpha)).toEqual(keys);
  const after = await agent.client.stats();
  expect([after.hits.ram - before.hits.ram, after.hits.ssd - before.hits.ssd, after.io.readBytes]).toEqual([3, 0, before.io.readBytes]);
  expect(await known.served(client, beta)).toEqual(beta.map(({ key }) => key));
  expect((await agent.client.stats()).hits.ssd - after.hits.ssd).toBe(beta.length);
});

test('evict of SSD leaves what RAM has where it is, now dirty', async () => {
  expect(await agent.client.evict({ tier: 'ssd', selector: { model: 'org/alpha' } })).toMatchObject({ evicted: 3, skipped: 0 });
  expect((await known.listed(agent, { model: 'org/alpha' })).map(({ tiers, dirty }) => [tiers.join(), dirty])).toEqual([
    ['ram', true],
    ['ram', true],
    ['ram', true],
  ]);
  expect(await known.served(client, alpha)).toEqual(alpha.map(({ key }) => key));
  expect(await agent.client.persist({ all: true })).toMatchObject({ persisted: 3, alreadyOnSsd: 3, failed: 0 });
});

test('evict skips chunks under a lease in either tier', async () => {
  const leasing = await ByteClient.connect(agent.resp);
  expect(await leasing.send('EXISTS', alpha[0]?.key ?? '')).toBe(':1');
  expect((await known.listed(agent, { keyPrefix: alpha[0]?.key ?? '' }))[0]?.leased).toBe(true);
  expect(await agent.client.evict({ tier: 'ram', selector: { model: 'org/alpha' } })).toMatchObject({ evicted: 2, skipped: 1 });
  expect(await tiersOf(alpha)).toEqual(['ram', 'ssd', 'ssd']);
  expect(await agent.client.evict({ tier: 'ssd', selector: { keys: [alpha[0]?.key ?? ''] } })).toMatchObject({ evicted: 0, skipped: 1 });
  leasing.destroy();
});

test('what persist answered for is there after kill -9, byte for byte, and what it did not is gone or whole', async () => {
  const late = [7, 8].map((id) => known.objectChunk(id, { model: 'late' }));
  await known.store(client, late);
  expect(await agent.client.persist({ keys: [late[0]?.key ?? ''] })).toMatchObject({ persisted: 1, failed: 0 });
  await agent.kill9();
  agent = await startAgent({ dataDir, flags });
  client = await known.redisClient(agent);
  expect(await known.served(client, [...all, late[0] as known.KnownChunk])).toEqual([...all.map(({ key }) => key), late[0]?.key]);
  expect(await known.served(client, late.slice(1))).toEqual([]);
  expect((await agent.client.stats()).hits.ssd).toBe(all.length + 1);
});

test('evict of RAM skips what no lower tier takes, so that nothing is forgotten', async () => {
  const noSsd = await startAgent({ flags: ['--ssd', 'off'] });
  const other = await known.redisClient(noSsd);
  await known.store(other, alpha);
  expect(await noSsd.client.evict({ tier: 'ram', selector: { all: true } })).toEqual({ evicted: 0, bytes: 0, skipped: alpha.length });
  expect(await noSsd.client.persist({ all: true })).toEqual({ persisted: 0, alreadyOnSsd: 0, failed: alpha.length, bytes: 0 });
  expect(await noSsd.client.evict({ tier: 'ssd', selector: { all: true } })).toEqual({ evicted: 0, bytes: 0, skipped: 0 });
  expect(await known.served(other, alpha)).toEqual(alpha.map(({ key }) => key));
  expect((await noSsd.client.stats()).tiers.map(({ tier }) => tier)).toEqual(['ram']);
  other.destroy();
  expect(await noSsd.stop()).toBe(0);
});

test('persist counts as persisted what is on SSD when it answers, also where SSD is smaller than what was asked for', async () => {
  const tiny = await startAgent({ flags: ['--ssd', '1MiB', '--ssd-admission', 'demote'] });
  const other = await known.redisClient(tiny);
  const many = Array.from({ length: 60 }, (_, id) => known.objectChunk(id, { model: 'many' }));
  await known.store(other, many);
  const answer = await tiny.client.persist({ all: true });
  const onSsd = await known.listed(tiny, { tier: 'ssd' });
  expect(answer).toEqual({
    persisted: onSsd.length,
    alreadyOnSsd: 0,
    failed: many.length - onSsd.length,
    bytes: onSsd.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
  });
  expect(onSsd.length).toBeGreaterThan(0);
  expect(onSsd.length).toBeLessThan(many.length);
  expect(await known.served(other, many)).toHaveLength(many.length);
  other.destroy();
  expect(await tiny.stop(), tiny.output()).toBe(0);
});
