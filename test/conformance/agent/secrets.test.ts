/** No salt and no token in anything that the agent prints or serves: everything is asked for and searched, errors included. */
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { restRoutes } from '#protocol/rest/routes.ts';
import { tenantDigest } from '#telemetry/tenant-digest.ts';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import { ByteClient } from '#testsupport/byte-client.ts';
import { runCli } from '#testsupport/cli-process.ts';

const admin = 'Zq-admin-token-5581';
const reader = 'Zq-read-token-9023';
const acme = 'Zq-acme-token-1177';
const tokens = [admin, reader, acme];
/** Of those without a token, with a blank and signs that end other words; and of users inside of a tenant. */
const salts = ["pepper corn's #9", 'cayenne', 'saffron.user'];
const hash = (id: number): string => id.toString(16).padStart(64, '0');
const keyOf = (id: number, salt: string): string => `org/alpha@01000100@0@${hash(id)}@${salt}`;
const keys = salts.map((salt, id) => keyOf(id + 1, salt));

let agent: RunningAgent;
const printed: string[] = [];
const flags = ['--read-token', reader, '--tenant-tokens', `acme=${acme}`, '--log-level', 'debug', '--log-format', 'json'];
const noticed: string[] = [];

async function fill(client: ByteClient): Promise<void> {
  for (const key of keys) {
    for (const args of [
      ['SET', key, 'x'.repeat(5000)],
      ['EXISTS', key],
      ['GET', key],
      ['TOUCH', key],
      ['SET', key, 'y', 'BAD'],
    ])
      await client.send(...args);
    await client.send('GET', `${key}x`);
  }
}

/** Every route with every token, with bodies and queries that name the salt, right and wrong. */
async function serveAll(salt: string, key: string): Promise<void> {
  const id =
    /"id":"(\d+-\d+)"/.exec(await (await call('GET', `/v1/chunks?tenant=${encodeURIComponent(salt)}`, admin)).text())?.[1] ?? '0-0';
  const bodies: Readonly<Record<string, unknown>> = {
    lookup: { keys: ['absent'] },
    prefetch: { keys: [key] },
    persist: { selector: { keys: [key] } },
    pin: { selector: { tenant: salt }, mode: 'soft' },
    unpin: { selector: { keys: [key] } },
    setQuota: { ramBytes: 1e9, ssdBytes: 1e9 },
    evict: { tier: 'ram', selector: { tenant: salt } },
    invalidate: { selector: { keyPrefix: key.slice(0, -2), tenant: salt }, reason: `by ${key.replace(`@${salt}`, '')}` },
  };
  for (const [name, route] of Object.entries(restRoutes)) {
    for (const token of [admin, reader, acme, 'wrong', undefined]) {
      const path = route.path.replace('{id}', id).replace('{model}', 'untouched').replace('{tenant}', encodeURIComponent(salt));
      const answer = await call(route.method, path, token, bodies[name] ?? {});
      printed.push(`${name} ${answer.status} ${JSON.stringify([...answer.headers])} ${await answer.text()}`);
    }
  }
  for (const path of [
    `/v1/chunks?tenant=${encodeURIComponent(salt)}`,
    `/v1/chunks?keyPrefix=${encodeURIComponent(key)}`,
    '/v1/namespaces?limit=1',
    '/v1/tenants?limit=1',
  ])
    printed.push(await (await call('GET', path, admin)).text());
}

function call(method: string, path: string, token: string | undefined, body: unknown = {}): Promise<Response> {
  return fetch(agent.url + path, {
    method,
    headers: { 'content-type': 'application/json', ...(token === undefined ? {} : { authorization: `Bearer ${token}` }) },
    ...(method === 'GET' ? {} : { body: JSON.stringify(body) }),
  });
}

beforeAll(async () => {
  agent = await startAgent({ token: admin, flags: [...flags, '--ssd', '64MiB'] });
  for (const token of [admin, acme]) {
    const client = await ByteClient.connect(agent.resp);
    await client.send('AUTH', token);
    await fill(client);
    printed.push(Buffer.from((await client.send('INFO')) as Uint8Array).toString());
    client.destroy();
  }
  for (const what of ['namespaces', 'tenants', 'chunks']) printed.push(await (await call('GET', `/v1/${what}?limit=1`, admin)).text());
  await agent.client.persist({ all: true });
  await agent.client.evict({ tier: 'ram', selector: { all: true } });
  // One file goes and one is damaged, so that log and verification name keys.
  const files = readdirSync(join(agent.dataDir, 'ssd'), { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.kv'));
  expect(files).toHaveLength(keys.length * 2);
  for (const [index, name] of files.toSorted((a, b) => (a.slice(-20) < b.slice(-20) ? -1 : 1)).entries()) {
    const path = join(agent.dataDir, 'ssd', name);
    if (index > 0) writeFileSync(path, readFileSync(path).fill(7, 4100, 4110));
    else rmSync(path);
  }
  const client = await ByteClient.connect(agent.resp);
  await client.send('AUTH', admin);
  await client.send('GET', keys[0] ?? '');
  client.destroy();
  for (const [index, salt] of salts.entries()) await serveAll(salt, keys[index] ?? '');
  for (const args of [
    ['stats'],
    ['ls'],
    ['ls', 'namespaces'],
    ['ls', 'tenants'],
    ['ls', 'invalidations'],
    ['lookup', 'absent'],
    ['config', 'print'],
    ['verify'],
  ]) {
    const result = await runCli([...args, '--data-dir', agent.dataDir], {
      env: { KVTIER_TOKEN: admin, KVTIER_TENANT_TOKENS: `acme=${acme}` },
    });
    noticed.push(`${args.join(' ')}: ${result.code}`);
    printed.push(result.stdout, result.stderr);
  }
});
afterAll(async () => {
  if (agent.process.exitCode === null) await agent.stop();
});

test('what was printed and served is worth searching', () => {
  const all = printed.join('\n') + agent.output();
  for (const salt of salts) expect(all).toContain(tenantDigest(salt));
  expect(all).toContain('@acme');
  expect(agent.output()).toContain('"key":"org/alpha@01000100@0@');
  expect(all).toMatch(/"mismatches":\[\{/);
  expect(noticed).toEqual([
    'stats: 0',
    'ls: 0',
    'ls namespaces: 0',
    'ls tenants: 0',
    'ls invalidations: 0',
    'lookup absent: 1',
    'config print: 0',
    'verify: 0',
  ]);
});

test('no answer, no page and no line names a salt', () => {
  for (const text of [...printed, agent.output()]) for (const salt of salts) expect(text).not.toContain(salt);
  // Cursors are base64.
  const decoded = printed.flatMap((text) =>
    [...text.matchAll(/"cursor":"([\w-]+)"/g)].map(([, cursor]) => Buffer.from(cursor ?? '', 'base64url').toString()),
  );
  expect(decoded.length).toBeGreaterThan(0);
  for (const text of decoded) for (const salt of salts) expect(text).not.toContain(salt);
});

test('no answer, no page and no line names a token', () => {
  for (const text of [...printed, agent.output()]) for (const token of tokens) expect(text).not.toContain(token);
});

test('with tenants.reveal the same places show the salts, and no token', async () => {
  await agent.stop();
  printed.length = 0;
  agent = await startAgent({ token: admin, flags: [...flags, '--tenants-reveal', '--ssd', '64MiB'] });
  const client = await ByteClient.connect(agent.resp);
  await client.send('AUTH', admin);
  await fill(client);
  for (const text of [
    await agent.client.stats(),
    await agent.client.chunks(),
    await agent.client.namespaces(),
    await agent.client.tenants(),
  ])
    for (const salt of salts) expect(JSON.stringify(text)).toContain(JSON.stringify(salt).slice(1, -1));
  expect(await agent.client.metrics()).toContain('cayenne');
  await serveAll(salts[0] ?? '', keys[0] ?? '');
  for (const text of [...printed, agent.output()]) for (const token of tokens) expect(text).not.toContain(token);
  client.destroy();
});

test('what a listing shows can be asked for and taken away again', async () => {
  const client = await ByteClient.connect(agent.resp);
  await client.send('AUTH', admin);
  await agent.stop();
  agent = await startAgent({ token: admin, flags: [...flags, '--ssd', '64MiB'] });
  const again = await ByteClient.connect(agent.resp);
  await again.send('AUTH', admin);
  await fill(again);
  const { chunks } = await agent.client.chunks();
  expect(chunks).toHaveLength(salts.length);
  expect((await agent.client.lookup(chunks.map(({ key }) => key))).hitCount).toBe(chunks.length);
  const [first, second, third] = chunks;
  expect(await agent.client.invalidate({ selector: { keys: [first?.key ?? ''] } })).toMatchObject({ matchedChunks: 1 });
  expect(await agent.client.invalidate({ selector: { tenant: second?.tenant ?? '' } })).toMatchObject({ matchedChunks: 1 });
  expect(await agent.client.invalidate({ selector: { namespace: third?.namespace ?? '' } })).toMatchObject({ matchedChunks: 1 });
  await expect(agent.client.invalidate({ selector: { tenant: second?.tenant ?? '' } })).rejects.toMatchObject({ code: 'NOT_FOUND' });
  again.destroy();
  client.destroy();
});
