/**
 * Each cell of the native door in test/support/access-matrix.ts on the real agent, as access-matrix.test.ts does for RESP and REST: a caller
 * asks twice, while the object is not there and while it is. What differs reached the object.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { nativeOperations } from '#protocol/native/native-schema.ts';
import type { OperationName } from '#protocol/native/native-schema.ts';
import { callers, operationRows } from '#testsupport/access-matrix.ts';
import type { Caller, Cell } from '#testsupport/access-matrix.ts';
import { startAgent } from '#testsupport/agent.ts';
import type { RunningAgent } from '#testsupport/agent.ts';
import { NativeGuest, Refused, keysOf, spansOf, storeChunks } from '#testsupport/native-guest.ts';

const tokens = { admin: 'native-admin', read: 'native-read', a: 'native-tenant-a', b: 'native-tenant-b' };
type Tenant = 'a' | 'b';
const tenants = ['a', 'b'] as const;
const encoder = new TextEncoder();
const decoder = new TextDecoder();
const nothing = new Uint8Array(0);
const MiB = 1024 * 1024;
const SIZE_BYTES = 5000;
/** One object, which both tenants spell alike. */
const keys = keysOf('object', 1);

let agent: RunningAgent;
const owners = {} as Record<Tenant, { guest: NativeGuest; shared: Awaited<ReturnType<NativeGuest['share']>>; namespace: number }>;

beforeAll(async () => {
  const flags = ['--read-token', tokens.read, '--tenant-tokens', `a=${tokens.a} b=${tokens.b}`, '--ssd-admission', 'demote'];
  agent = await startAgent({ token: tokens.admin, flags });
  for (const tenant of tenants) {
    const guest = await NativeGuest.greet(agent.socket, { token: tokens[tenant] });
    owners[tenant] = { guest, shared: await guest.share(MiB), namespace: await guest.namespace() };
  }
});
afterAll(async () => {
  for (const { guest } of Object.values(owners)) guest.close();
  expect(await agent.stop(), agent.output()).toBe(0);
});

function tokenOf(caller: Caller, owner: Tenant): string {
  if (caller === 'none') return '';
  if (caller === 'wrong') return `${tokens.admin}x`;
  if (caller === 'own') return tokens[owner];
  return caller === 'other' ? tokens[owner === 'a' ? 'b' : 'a'] : tokens[caller];
}

async function store(tenant: Tenant, seed: number): Promise<void> {
  const { guest, shared, namespace } = owners[tenant];
  await storeChunks(guest, shared, { namespace, keys, sizeBytes: SIZE_BYTES, seed });
}

/** Digest and place of what the owner has. */
async function found(tenant: Tenant): Promise<string> {
  const { guest, shared, namespace } = owners[tenant];
  shared.memory.view().fill(0);
  const { tiers } = await guest.ask('LOOKUP', { namespace, flags: 2, keys });
  const request = { namespace, region: shared.region, deadlineMs: 0, keys, spans: spansOf(1, SIZE_BYTES) };
  const { outcomes } = await guest.ask('LOAD', request);
  const { chunks } = await agent.client.chunks({ tenant: `@${tenant}` });
  return JSON.stringify([tiers[0], outcomes[0], Bun.hash(shared.memory.view(0, SIZE_BYTES)).toString(), chunks.length]);
}

/** What the caller is told, without what moves by itself. */
async function told(name: OperationName, guest: NativeGuest, owner: Tenant, present: boolean): Promise<unknown> {
  const namespace = name === 'HELLO' ? 0 : await guest.namespace();
  const keyed = { namespace, keys };
  const shared = await guest.share(MiB);
  const spans = spansOf(1, SIZE_BYTES);
  const changed = { namespace, flags: 0, ttlMs: 0, parent: nothing, keys };
  switch (name) {
    case 'HELLO':
    case 'NAMESPACE':
    case 'ATTACH':
      return true;
    case 'PING':
      return await guest.ask(name, { payload: encoder.encode('x') });
    case 'DETACH':
      return await guest.ask(name, { region: shared.region });
    case 'LOOKUP':
      return await guest.ask(name, { ...keyed, flags: 0 });
    case 'LOAD':
      return await guest.ask(name, { ...keyed, region: shared.region, deadlineMs: 0, spans });
    case 'STORE':
      shared.memory.view().fill(0xee);
      // 'stored' alike for who has it and who has not; the owner finds other bytes.
      return (await guest.ask(name, { ...changed, region: shared.region, spans })).outcomes.length;
    case 'LET_GO':
      await guest.ask('LOOKUP', { ...keyed, flags: 0 });
      return await guest.ask(name, keyed);
    case 'OPEN':
      return await guest.ask(name, { namespace, key: keys[0] as Uint8Array });
    case 'RELEASE':
      return await guest.ask(name, { leases: [1, 2, 3] });
    case 'RESERVE':
      return (await guest.ask(name, { sizes: [SIZE_BYTES] })).spans.length;
    case 'COMMIT': {
      const reserved = await guest.ask('RESERVE', { sizes: [SIZE_BYTES] });
      return (await guest.ask(name, { ...changed, spans: reserved.spans })).outcomes.length;
    }
    case 'ABORT':
      return await guest.ask(name, { spans: (await guest.ask('RESERVE', { sizes: [1] })).spans });
    case 'TOUCH':
      return await guest.ask(name, keyed);
    case 'PREFETCH':
      if (present) await agent.client.evict({ tier: 'ram', selector: { tenant: `@${owner}` } });
      return await guest.ask(name, keyed);
    case 'PIN':
      return await guest.ask(name, { ...keyed, mode: 1 });
    case 'INVALIDATE':
      await guest.ask(name, { selector: encoder.encode(JSON.stringify({ selector: { tenant: `@${owner}` } })) });
      return true;
    case 'EVENTS':
      await guest.ask(name, { kinds: 3 });
      if (present) await store(owner, 77);
      await guest.ask('PING', { payload: nothing });
      return guest.events.length;
    case 'STATS': {
      const stats = JSON.parse(decoder.decode((await guest.ask(name, {})).stats)) as { tiers: { usedBytes: number }[] };
      return stats.tiers.map(({ usedBytes }) => usedBytes);
    }
    case 'CONTINUE':
    case 'EVENT': {
      const answer = await guest.connection.call(name, {});
      if (!answer.ok) throw new Refused(name, answer.status, answer.message);
      return answer.reply;
    }
  }
}

/** The last answers that differed: what a cell that is not as it should be is about. */
let difference = '';

async function cell(name: OperationName, owner: Tenant, caller: Caller): Promise<Cell> {
  await agent.client.invalidate({ selector: { all: true } });
  await store(owner === 'a' ? 'b' : 'a', 1);
  const ask = async (present: boolean): Promise<string> => {
    let guest: NativeGuest | undefined;
    try {
      guest = await NativeGuest.greet(agent.socket, { token: tokenOf(caller, owner) });
      return JSON.stringify(await told(name, guest, owner, present));
    } catch (problem) {
      if (problem instanceof Refused && ['denied', 'unsupported'].includes(problem.status)) return 'refused';
      // What REST refuses to a tenant comes as the sentence that REST answers.
      throw problem;
    } finally {
      guest?.close();
    }
  };
  const without = await ask(false);
  await agent.client.invalidate({ selector: { all: true } });
  await store(owner === 'a' ? 'b' : 'a', 1);
  await store(owner, 2);
  const before = await found(owner);
  const present = await ask(true);
  const after = name === 'PREFETCH' || name === 'EVENTS' ? before : await found(owner);
  if (present !== without || after !== before) {
    difference = `without: ${without}\nwith: ${present}\nthe owner found ${before}, then ${after}`;
    return 'x';
  }
  return present === 'refused' ? '-' : '.';
}

describe.each(tenants)('native, object of tenant %s', (owner) => {
  test.each(Object.keys(nativeOperations) as OperationName[])('%s', async (name) => {
    let cells = '';
    for (const caller of callers) cells += await cell(name, owner, caller);
    expect(cells, difference).toBe(operationRows[name]);
  });
});

test('a salt is a tenant of its own without a token, and inside of a tenant with one', async () => {
  const { guest, shared } = owners.a;
  const salted = await guest.namespace({ salt: 'b' });
  await storeChunks(guest, shared, { namespace: salted, keys: keysOf('salted', 1), sizeBytes: 100 });
  const admin = await NativeGuest.greet(agent.socket, { token: tokens.admin });
  for (const [who, namespace] of [
    [owners.b.guest, await owners.b.guest.namespace({ salt: 'b' })],
    [admin, await admin.namespace({ salt: 'b' })],
    [guest, await guest.namespace()],
  ] as const)
    expect([...(await who.ask('LOOKUP', { namespace, flags: 0, keys: keysOf('salted', 1) })).tiers]).toEqual([0]);
  admin.close();
});
