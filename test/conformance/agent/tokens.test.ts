/** Who may do what over HTTP and RESP where tokens are set, and what an invalidation calls. On the real agent. */
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { KvtierClient } from '#client/kvtier-client.ts';
import { restRoutes } from '#protocol/rest/routes.ts';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import * as known from '#testsupport/agent-chunks.ts';
import { ByteClient } from '#testsupport/byte-client.ts';

const admin = 'admin-token-9c1e';
const reader = 'read-token-77b0';
const chunk = known.objectChunk(1, { model: 'org/alpha' });

interface Call {
  readonly method: string | undefined;
  readonly url: string | undefined;
  readonly authorization: string | undefined;
}

let hook: Server;
const calls: Call[] = [];
let hookStatus = 200;
let agent: RunningAgent;
beforeAll(async () => {
  hook = createServer((request, response) => {
    calls.push({ method: request.method, url: request.url, authorization: request.headers.authorization });
    response.writeHead(hookStatus).end('cleared');
  });
  await new Promise<void>((resolve) => void hook.listen(0, '127.0.0.1', resolve));
  const { port } = hook.address() as AddressInfo;
  agent = await startAgent({
    token: admin,
    flags: ['--ssd', '64MiB'],
    env: { KVTIER_READ_TOKEN: reader, KVTIER_INVALIDATE_WEBHOOK: `http://127.0.0.1:${port}/clear-cache?all=1` },
  });
  const client = await known.redisClient(agent, admin);
  await known.store(client, [chunk]);
  client.destroy();
});
afterAll(async () => {
  expect(await agent.stop(), agent.output()).toBe(0);
  hook.close();
});

test('every route answers 401 without a token and with a wrong one; the read token reads and is forbidden to change; public ones need none', async () => {
  const bodies: Readonly<Record<string, unknown>> = {
    lookup: { keys: [chunk.key] },
    prefetch: { keys: ['absent'] },
    persist: { selector: { keys: ['absent'] } },
    evict: { tier: 'ram', selector: { keys: ['absent'] } },
    invalidate: { selector: { keys: ['absent'] }, dryRun: true },
    setQuota: { ramBytes: 2 ** 40 },
    pin: { selector: { keys: ['absent'] }, mode: 'soft' },
    unpin: { selector: { keys: ['absent'] } },
    bumpEpoch: {},
    verify: {},
  };
  const statusOf = async (name: string, route: { method: string; path: string }, token: string | undefined): Promise<number> => {
    const path = route.path.replace('{id}', '0-0').replace('{model}', 'untouched').replace('{tenant}', 'default');
    const response = await fetch(agent.url + path, {
      method: route.method,
      headers: { 'content-type': 'application/json', ...(token === undefined ? {} : { authorization: `Bearer ${token}` }) },
      ...(route.method === 'POST' || route.method === 'PUT' ? { body: JSON.stringify(bodies[name]) } : {}),
    });
    const text = await response.text();
    if (response.status === 401 || response.status === 403) {
      expect(response.headers.get('content-type')).toContain('application/problem+json');
      expect(text).not.toContain(admin);
      expect(text).not.toContain(reader);
    }
    return response.status;
  };
  const open = new Set(['liveness', 'readiness']);
  const changes = new Set(['prefetch', 'persist', 'evict', 'invalidate', 'bumpEpoch', 'verify', 'pin', 'unpin', 'setQuota', 'removeQuota']);
  expect(Object.keys(restRoutes).length).toBeGreaterThanOrEqual(17);
  for (const [name, route] of Object.entries(restRoutes)) {
    const fine = name === 'chunk' ? 404 : 200;
    const statuses = [];
    for (const token of [undefined, 'wrong', `${admin}x`, admin.slice(0, -1), reader, admin])
      statuses.push(await statusOf(name, route, token));
    const denied = open.has(name) ? fine : 401;
    expect([name, ...statuses]).toEqual([name, denied, denied, denied, denied, changes.has(name) ? 403 : fine, fine]);
  }
});

test('over RESP the same two tokens: nothing before AUTH, reads with one, all with the other', async () => {
  const client = await ByteClient.connect(agent.resp);
  expect(await client.send('PING')).toMatch(/^-NOAUTH /);
  expect(await client.send('GET', chunk.key)).toMatch(/^-NOAUTH /);
  expect(await client.send('AUTH', 'wrong')).toMatch(/^-WRONGPASS /);
  expect(await client.send('AUTH', reader)).toBe('+OK');
  expect(await known.served(client, [chunk])).toEqual([chunk.key]);
  for (const args of [['SET', 'x', 'y'], ['DEL', chunk.key], ['FLUSHALL']])
    expect(await client.send(...args), args[0]).toMatch(/^-NOPERM /);
  expect(await client.send('AUTH', admin)).toBe('+OK');
  expect(await client.send('SET', 'x', 'y')).toBe('+OK');
  expect(await client.send('DEL', 'x')).toBe(':1');
  client.destroy();
});

test('the webhook is posted to after an invalidation and an epoch, not after a dry run or a refusal; its failure is told and stops nothing', async () => {
  calls.length = 0;
  const post = { method: 'POST', url: '/clear-cache?all=1', authorization: undefined };
  expect(await agent.client.invalidate({ selector: { keys: ['absent'] }, dryRun: true })).toMatchObject({ webhook: 'off' });
  await expect(agent.client.invalidate({ selector: {} })).rejects.toMatchObject({ code: 'BAD_REQUEST' });
  await expect(new KvtierClient({ baseUrl: agent.url, token: reader }).invalidate({ selector: { all: true } })).rejects.toMatchObject({
    code: 'FORBIDDEN',
  });
  expect(calls).toEqual([]);
  expect(await agent.client.invalidate({ selector: { keys: ['absent'] } })).toMatchObject({ webhook: 'ok' });
  expect(calls).toEqual([post]);
  expect(await agent.client.bumpEpoch('untouched')).toMatchObject({ webhook: 'ok' });
  expect(calls).toEqual([post, post]);
  hookStatus = 500;
  expect(await agent.client.invalidate({ selector: { keys: [chunk.key] } })).toMatchObject({ matchedChunks: 1, webhook: 'failed' });
  hook.closeAllConnections();
  await new Promise((resolve) => void hook.close(resolve));
  expect(await agent.client.invalidate({ selector: { all: true } })).toMatchObject({ webhook: 'failed' });
  expect((await agent.client.lookup([chunk.key])).hitCount).toBe(0);
  const metrics = await agent.client.metrics();
  expect(metrics).toContain('kvtier_webhook_calls_total{outcome="ok"}');
  expect(metrics).toMatch(/^kvtier_webhook_calls_total\{outcome="failed"\} 2$/m);
});

test('the log names no token and no salt', () => {
  for (const secret of [admin, reader]) expect(agent.output()).not.toContain(secret);
});
