/** Tenants with tokens of their own on the real agent: each sees its keys alone, over RESP and REST, and salts are no tenants. */
import { writeFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { KvtierClient } from '#client/kvtier-client.ts';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import { ByteClient } from '#testsupport/byte-client.ts';

const admin = 'admin-token-41d2';
const tokens = { acme: 'acme-token-7f30', bolt: 'bolt-token-c9aa' };
const hash = 'ab'.repeat(32);
const key = `org/alpha@01000100@0@${hash}`;

let folder: string;
let agent: RunningAgent;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'kvtier-tenants-'));
  writeFileSync(join(folder, 'bolt'), `${tokens.bolt}\n`);
  writeFileSync(
    join(folder, 'kvtier.toml'),
    `[tenants.acme]\ntoken = "${tokens.acme}"\n\n[tenants.bolt]\ntokenFile = "${join(folder, 'bolt')}"\n`,
  );
  agent = await startAgent({ token: admin, flags: ['--config', join(folder, 'kvtier.toml'), '--ssd', '64MiB'] });
});
afterAll(async () => {
  expect(await agent.stop(), agent.output()).toBe(0);
  rmSync(folder, { recursive: true });
});

async function as(token: string, user?: string): Promise<ByteClient> {
  const client = await ByteClient.connect(agent.resp);
  expect(await client.send('AUTH', ...(user === undefined ? [] : [user]), token)).toBe('+OK');
  return client;
}

const rest = (token: string): KvtierClient => new KvtierClient({ baseUrl: agent.url, token });

beforeEach(async () => {
  await agent.client.invalidate({ selector: { all: true } });
});

describe('over RESP', () => {
  test('the same key is another value for each tenant and for those without one', async () => {
    const clients = await Promise.all([as(tokens.acme), as(tokens.bolt, 'somebody'), as(admin)]);
    for (const [index, client] of clients.entries()) expect(await client.send('SET', key, `value-${index}`, 'NX')).toBe('+OK');
    for (const [index, client] of clients.entries())
      expect(Buffer.from((await client.send('GET', key)) as Uint8Array).toString()).toBe(`value-${index}`);
    const [acme] = clients;
    expect(await acme.send('DEL', key)).toBe(':1');
    expect(await acme.send('EXISTS', key)).toBe(':0');
    expect(await clients[1].send('EXISTS', key)).toBe(':1');
    for (const client of clients) client.destroy();
  });

  test('a salt spelled like a tenant is not that tenant, whoever presents it', async () => {
    const salted = (salt: string): string => `${key}@${salt}`;
    const [acme, root] = await Promise.all([as(tokens.acme), as(admin)]);
    await acme.send('SET', key, 'of acme');
    await acme.send('SET', salted('user1'), 'of acme, salted');
    for (const spelled of [salted('acme'), salted('@acme'), '@acme', key, salted('user1'), `acme/${key}`])
      expect(await root.send('GET', spelled), spelled).toBeUndefined();
    await root.send('SET', salted('acme'), 'of the salt');
    expect(await acme.send('GET', salted('acme'))).toBeUndefined();
    expect(await rest(admin).invalidate({ selector: { tenant: 'salt@acme' } })).toMatchObject({ matchedChunks: 1 });
    expect(await acme.send('EXISTS', key, salted('user1'))).toBe(':2');
    expect(await rest(admin).invalidate({ selector: { tenant: 'acme' } })).toMatchObject({ matchedChunks: 2 });
    acme.destroy();
    root.destroy();
  });

  test('KEYS, SCAN, DBSIZE and INFO tell of the own keys alone, and FLUSHALL takes them alone', async () => {
    const [acme, bolt, root] = await Promise.all([as(tokens.acme), as(tokens.bolt), as(admin)]);
    for (let id = 0; id < 40; id += 1) await bolt.send('SET', `bolt-${id}`, 'x');
    for (let id = 0; id < 3; id += 1) await acme.send('SET', `acme-${id}`, 'y');
    const text = (reply: unknown): string[] => (reply as readonly Uint8Array[]).map((item) => Buffer.from(item).toString());
    expect(text(await acme.send('KEYS', '*')).toSorted()).toEqual(['acme-0', 'acme-1', 'acme-2']);
    expect(await acme.send('DBSIZE')).toBe(':3');
    const [cursor, keys] = (await acme.send('SCAN', '0')) as [Uint8Array, readonly Uint8Array[]];
    expect([Buffer.from(cursor).toString(), text(keys).toSorted()]).toEqual(['0', ['acme-0', 'acme-1', 'acme-2']]);
    const info = Buffer.from((await acme.send('INFO')) as Uint8Array).toString();
    expect(info).toContain('keys=3,');
    expect(info).toContain('connected_clients:1\r\n');
    expect(info).toContain('used_memory:3\r\n');
    expect(info).not.toMatch(/keyspace_hits|process_id|evicted/);
    expect(await acme.send('FLUSHALL')).toBe('+OK');
    expect(await acme.send('DBSIZE')).toBe(':0');
    expect(await bolt.send('DBSIZE')).toBe(':40');
    expect(await root.send('DBSIZE')).toBe(':40');
    for (const client of [acme, bolt, root]) client.destroy();
  });

  test('another AUTH on the connection is another tenant from then on, a failed one changes nothing', async () => {
    const client = await as(tokens.acme);
    await client.send('SET', 'k', 'of acme');
    expect(await client.send('AUTH', 'wrong')).toMatch(/^-WRONGPASS/);
    expect(await client.send('EXISTS', 'k')).toBe(':1');
    const reply = client.reply.bind(client);
    client.write(`HELLO 2 AUTH any ${tokens.bolt}\r\nEXISTS k\r\n`);
    await reply();
    expect(await reply()).toBe(':0');
    client.destroy();
  });
});

test('an admin names a tenant with a token by its bare name: its quota, and whose keys a lookup means', async () => {
  const [acme, root] = await Promise.all([as(tokens.acme), as(admin)]);
  await acme.send('SET', key, 'of acme');
  expect(await rest(admin).setQuota('acme', { ramBytes: 2 })).toMatchObject({ tenant: '@acme', quota: { ramBytes: 2 } });
  expect(await acme.send('SET', 'other', 'more than 2')).toMatch(/^-OOM .*the tenant's quota in ram is 2 B/);
  expect(await root.send('SET', `${key}@acme`, 'of the salt, more than 2')).toBe('+OK');
  await rest(admin).removeQuota('@acme');
  const hits = async (tenant: string, token: string): Promise<unknown> => {
    const headers = { 'content-type': 'application/json', authorization: `Bearer ${token}` };
    const body = JSON.stringify({ keys: [key], tenant });
    const response = await fetch(`${agent.url}/v1/lookup`, { method: 'POST', headers, body });
    return [response.status, ((await response.json()) as { hitCount: number }).hitCount];
  };
  await acme.send('SET', key, 'of acme');
  for (const tenant of ['acme', '@acme']) expect(await hits(tenant, admin), tenant).toEqual([200, 1]);
  // What is asked tells nobody which tenants there are.
  for (const tenant of ['bolt', '@bolt', 'nobody', '@nobody']) expect(await hits(tenant, admin), tenant).toEqual([200, 0]);
  for (const tenant of ['bolt', 'nobody']) expect(await hits(tenant, tokens.acme), tenant).toEqual([200, 1]);
  acme.destroy();
  root.destroy();
});

test('over REST: lists, numbers, lookups and orders are the own ones; what is about more is refused', async () => {
  const [acme, bolt] = await Promise.all([as(tokens.acme), as(tokens.bolt)]);
  await acme.send('SET', key, 'of acme');
  await bolt.send('SET', key, 'of bolt, longer');
  const own = rest(tokens.acme);
  const all = await agent.client.chunks();
  expect(all.chunks.map(({ tenant }) => tenant).toSorted()).toEqual(['@acme', '@bolt']);
  const other = all.chunks.find(({ tenant }) => tenant === '@bolt')?.id ?? '';
  expect((await own.chunks()).chunks.map(({ tenant }) => tenant)).toEqual(['@acme']);
  expect((await own.chunks({ tenant: '@bolt' })).chunks).toEqual([]);
  await expect(own.chunk(other)).rejects.toMatchObject({ code: 'NOT_FOUND' });
  expect((await own.lookup([key])).answers[0]?.sizeBytes).toBe('of acme'.length);
  expect(await own.stats()).toMatchObject({
    scope: '@acme',
    tenantCount: 1,
    tenants: [{ tenant: '@acme', chunkCount: 1 }],
    doors: [],
    puts: 0,
  });
  expect((await own.namespaces()).namespaces.map(({ tenant }) => tenant)).toEqual(['@acme']);
  expect((await own.tenants()).tenants.map(({ tenant }) => tenant)).toEqual(['@acme']);
  expect(await own.evict({ tier: 'ram', selector: { tenant: '@bolt' } })).toMatchObject({ evicted: 0, skipped: 0 });
  expect(await own.persist({ keys: [key] })).toMatchObject({ persisted: 1 });
  expect(await own.invalidate({ selector: { all: true } })).toMatchObject({ matchedChunks: 1, webhook: 'off' });
  expect(await own.invalidate({ selector: { tenant: '@bolt' } })).toMatchObject({ matchedChunks: 0, id: '' });
  expect(await bolt.send('EXISTS', key)).toBe(':1');
  expect((await own.invalidations()).invalidations.slice(0, 1).map(({ actor, selector }) => [actor, selector])).toEqual([
    ['@acme', { tenant: '@acme' }],
  ]);
  expect((await rest(tokens.bolt).invalidations()).invalidations).toEqual([]);
  await expect(own.metrics()).rejects.toMatchObject({ code: 'FORBIDDEN' });
  await expect(own.bumpEpoch('org/alpha')).rejects.toMatchObject({ code: 'FORBIDDEN' });
  acme.destroy();
  bolt.destroy();
});

test('what names another tenant in a roundabout way finds nothing of it and changes nothing of it', async () => {
  const [acme, bolt] = await Promise.all([as(tokens.acme), as(tokens.bolt)]);
  const mine = key.replace('ab', 'cd');
  const next = key.replace('ab', 'ef');
  await acme.send('SET', mine, 'of acme');
  // A chain of the other one, stored and asked for in order.
  for (const each of [key, next]) await bolt.send('SET', each, 'of bolt');
  expect(await bolt.send('EXISTS', key, next)).toBe(':2');
  const others = (await agent.client.chunks({ tenant: '@bolt' })).chunks;
  expect(others).toHaveLength(2);

  // Own and foreign keys in one command, and every cursor there may be, the other one's included.
  expect(await acme.send('EXISTS', mine, key, next)).toBe(':1');
  expect(await acme.send('TOUCH', key, next)).toBe(':0');
  expect(await acme.send('DEL', key, next)).toBe(':0');
  expect(JSON.stringify(await acme.send('MGET', key, next))).not.toContain('bolt');
  for (let cursor = 0; cursor < 40; cursor += 1) {
    const told = Bun.inspect(await acme.send('SCAN', String(cursor), 'COUNT', '1000', 'MATCH', '*'), { depth: 8 });
    for (const foreign of [key, next]) expect(told).not.toContain(foreign);
  }

  const own = rest(tokens.acme);
  for (const { id, key: shown } of others) {
    await expect(own.chunk(id)).rejects.toMatchObject({ code: 'NOT_FOUND' });
    expect((await own.lookup([shown, id])).answers.some(({ sizeBytes }) => (sizeBytes ?? 0) > 0)).toBe(false);
    expect((await own.chunks({ keyPrefix: shown })).chunks).toEqual([]);
    for (const selector of [{ chainFrom: shown }, { keys: [shown] }, { keyPrefix: shown }, { chainFrom: shown, tenant: '@bolt' }]) {
      expect(await own.invalidate({ selector, dryRun: true })).toMatchObject({ matchedChunks: 0 });
      expect(await own.invalidate({ selector })).toMatchObject({ matchedChunks: 0, removedBytes: 0 });
      expect(await own.evict({ tier: 'ram', selector })).toMatchObject({ evicted: 0, skipped: 0 });
      expect(await own.persist(selector)).toMatchObject({ persisted: 0, alreadyOnSsd: 0 });
      await expect(own.pin({ mode: 'hard', selector })).rejects.toMatchObject({ code: 'FORBIDDEN' });
      await expect(own.unpin(selector)).rejects.toMatchObject({ code: 'FORBIDDEN' });
    }
  }
  expect(await bolt.send('EXISTS', key, next)).toBe(':2');
  expect((await agent.client.chunks({ tenant: '@bolt' })).chunks.map(({ id }) => id).toSorted()).toEqual(
    others.map(({ id }) => id).toSorted(),
  );
  acme.destroy();
  bolt.destroy();
});
