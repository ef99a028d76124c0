/**
 * Each cell of test/support/access-matrix.ts on the real agent: a caller asks twice, while the object is not there and while it is.
 * What differs in the answers, or in what its owner then finds, reached the object.
 */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { restRoutes, type RouteName } from '#protocol/rest/routes.ts';
import type { RespCommandName } from '#protocol/resp/command-name.ts';
import { callers, commandRows, matrixPage, routeRows, type Caller, type Cell } from '#testsupport/access-matrix.ts';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import { ByteClient, type Reply } from '#testsupport/byte-client.ts';

const tokens = { admin: 'matrix-admin', read: 'matrix-read', a: 'matrix-tenant-a', b: 'matrix-tenant-b' };
type Tenant = 'a' | 'b';
const keys: Readonly<Record<Tenant, string>> = { a: `m@01000100@0@${'a1'.repeat(32)}`, b: `m@01000100@0@${'b2'.repeat(32)}` };
const tenants = ['a', 'b'] as const;

let agent: RunningAgent;
const owners = {} as Record<Tenant, ByteClient>;
let root: ByteClient;
beforeAll(async () => {
  const flags = ['--read-token', tokens.read, '--tenant-tokens', `a=${tokens.a} b=${tokens.b}`, '--ssd-admission', 'demote'];
  agent = await startAgent({ token: tokens.admin, flags });
  for (const tenant of tenants) owners[tenant] = await opened(tokens[tenant]);
  root = await opened(tokens.admin);
});
afterAll(async () => {
  for (const client of [owners.a, owners.b, root]) client.destroy();
  expect(await agent.stop(), agent.output()).toBe(0);
});

function tokenOf(caller: Caller, owner: Tenant): string | undefined {
  if (caller === 'none') return undefined;
  if (caller === 'wrong') return `${tokens.admin}x`;
  if (caller === 'own') return tokens[owner];
  return caller === 'other' ? tokens[owner === 'a' ? 'b' : 'a'] : tokens[caller];
}

async function opened(token: string | undefined): Promise<ByteClient> {
  const client = await ByteClient.connect(agent.resp);
  if (token !== undefined) await client.send('AUTH', token);
  return client;
}

function plain(reply: Reply): unknown {
  if (reply instanceof Uint8Array) return Buffer.from(reply).toString();
  return Array.isArray(reply) ? reply.map(plain) : reply;
}

/** With an expiry, so that a change of it shows. */
async function store(tenant: Tenant): Promise<void> {
  expect(await owners[tenant].send('SET', keys[tenant], `value of ${tenant}`, 'EX', '5000')).toBe('+OK');
}

/** What the owner finds of its object. Looking changes no answer of anybody else. */
async function found(tenant: Tenant): Promise<string> {
  return JSON.stringify([
    plain(await owners[tenant].send('GET', keys[tenant])),
    plain(await owners[tenant].send('EXPIRETIME', keys[tenant])),
  ]);
}

interface Asked {
  readonly refused: boolean;
  /** Without what changes by itself. */
  readonly answer: string;
}

/** The last answers that differed: what a cell that is not as it should be is about. */
let difference = '';

async function cell(owner: Tenant, ask: (present: boolean) => Promise<Asked>): Promise<Cell> {
  const constant: Tenant = owner === 'a' ? 'b' : 'a';
  await root.send('FLUSHALL');
  await store(constant);
  const without = await ask(false);
  await store(constant);
  await store(owner);
  const before = await found(owner);
  const present = await ask(true);
  expect(present.refused).toBe(without.refused);
  const after = await found(owner);
  if (present.answer !== without.answer || after !== before) {
    difference = `without: ${without.answer}\nwith: ${present.answer}\nthe owner found ${before}, then ${after}`;
    return 'x';
  }
  return present.refused ? '-' : '.';
}

async function cellsOf(owner: Tenant, ask: (caller: Caller) => (present: boolean) => Promise<Asked>): Promise<string> {
  let cells = '';
  for (const caller of callers) cells += await cell(owner, ask(caller));
  return cells;
}

// --- RESP ---------------------------------------------------------------------------------------------------------------------

function runCommand(name: RespCommandName, owner: Tenant, caller: Caller): () => Promise<Asked> {
  const token = tokenOf(caller, owner);
  return async () => {
    const client = await opened(token);
    const reply = plain(await client.send(name, ...(commandRows[name].args?.(keys[owner], token ?? '') ?? [])));
    client.destroy();
    // `-NO` and `-E` are refusals in the lengths that LMCache's client reads. The id of a connection, and what the agent counts for all, move by themselves.
    const answer = (JSON.stringify(reply) ?? 'nil').replace(/"id",":\d+"/, '');
    return { refused: /^"-(?:NOAUTH |NOPERM |WRONGPASS |NO"|E")/.test(answer), answer };
  };
}

describe.each(tenants)('RESP, object of tenant %s', (owner) => {
  test.each(Object.keys(commandRows) as RespCommandName[])('%s', async (name) => {
    expect(await cellsOf(owner, (caller) => runCommand(name, owner, caller)), difference).toBe(commandRows[name].cells);
  });
});

// --- REST ---------------------------------------------------------------------------------------------------------------------

async function call(
  route: { readonly method: string; readonly path: string },
  token: string | undefined,
  body?: unknown,
): Promise<{ status: number; text: string }> {
  const response = await fetch(agent.url + route.path, {
    method: route.method,
    headers: { 'content-type': 'application/json', ...(token === undefined ? {} : { authorization: `Bearer ${token}` }) },
    ...(route.method === 'GET' ? {} : { body: JSON.stringify(body ?? {}) }),
  });
  return { status: response.status, text: await response.text() };
}

async function prepare(name: RouteName, owner: Tenant, present: boolean): Promise<void> {
  const selector = { keys: [keys[owner]] };
  const orders = {
    pin: { route: restRoutes.pin, token: tokens.admin, body: { mode: 'soft', selector } },
    persist: { route: restRoutes.persist, token: tokens.admin, body: { selector } },
    quota: { route: { method: 'PUT', path: `/v1/tenants/@${owner}/quota` }, token: tokens.admin, body: { ramBytes: 1_000_000 } },
    invalidate: { route: restRoutes.invalidate, token: tokens[owner], body: { selector: { keys: ['absent'] } } },
  };
  const wanted = routeRows[name].prepare;
  if (wanted === undefined || (!present && wanted !== 'quota')) return;
  const { route, token, body } = orders[wanted];
  expect((await call(route, token, body)).status).toBe(200);
}

function runRoute(name: RouteName, owner: Tenant, caller: Caller): (present: boolean) => Promise<Asked> {
  return async (present) => {
    await prepare(name, owner, present);
    const all = JSON.parse((await call(restRoutes.chunks, tokens.admin)).text) as { chunks: { id: string; tenant: string }[] };
    const id = all.chunks.find(({ tenant }) => tenant === `@${owner}`)?.id ?? '0-0';
    const { method, path } = restRoutes[name];
    const filled = path.replace('{id}', id).replace('{model}', 'm').replace('{tenant}', `@${owner}`);
    const { status, text } = await call({ method, path: filled }, tokenOf(caller, owner), routeRows[name].body?.(keys[owner], `@${owner}`));
    expect(status).toBeLessThan(500);
    const volatile = /"(?:uptimeSeconds|generation|createdAtMs|lastUsedAtMs|expiresAtMs|atMs|id|parentId|epoch)":(?:"[^"]*"|[\d.]+|null)/g;
    return { refused: status === 401 || status === 403, answer: `${status} ${text.replace(volatile, '')}` };
  };
}

describe.each(tenants)('REST, object of tenant %s', (owner) => {
  test.each(Object.keys(routeRows) as RouteName[])('%s', async (name) => {
    expect(await cellsOf(owner, (caller) => runRoute(name, owner, caller)), difference).toBe(routeRows[name].cells);
    await call({ method: 'DELETE', path: `/v1/tenants/@${owner}/quota` }, tokens.admin);
  });
});

test('every route and every command has a row, and docs/security.md prints the table', () => {
  expect(Object.keys(routeRows).toSorted()).toEqual(Object.keys(restRoutes).toSorted());
  const source = readFileSync('src/protocol/resp/command-name.ts', 'utf8');
  const names = [...(/KNOWN_COMMANDS = \[(.*?)\]/s.exec(source)?.[1] ?? '').matchAll(/'([A-Z]+)'/g)].map(([, name]) => name ?? '');
  expect(names.length).toBeGreaterThan(20);
  expect(Object.keys(commandRows).toSorted()).toEqual(names.toSorted());
  expect(readFileSync('docs/security.md', 'utf8')).toContain(matrixPage());
});
