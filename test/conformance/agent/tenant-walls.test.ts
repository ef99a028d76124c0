/** Ways around a tenant's token: the door that asks for none, reads from SSD that somebody else orders, and tokens that are nearly right. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { KvtierClient } from '#client/kvtier-client.ts';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import { until } from '#testsupport/agent-probes.ts';
import { ByteClient, concat, pattern } from '#testsupport/byte-client.ts';
import { LmClient, blockOf, engineKey } from '#testsupport/lm-client.ts';

const tokens = { admin: 'Walls-admin-6c02', read: 'Walls-read-8f11', acme: 'Walls-acme-3a97', bolt: 'Walls-bolt-51de' };
const flags = ['--read-token', tokens.read, '--tenant-tokens', `acme=${tokens.acme} bolt=${tokens.bolt}`, '--log-level', 'debug'];

let agent: RunningAgent;
beforeAll(async () => {
  agent = await startAgent({ token: tokens.admin, flags, lmPort: 0 });
});
afterAll(async () => {
  expect(await agent.stop(), agent.output()).toBe(0);
});

async function as(token: string): Promise<ByteClient> {
  const client = await ByteClient.connect(agent.resp);
  expect(await client.send('AUTH', token)).toBe('+OK');
  return client;
}

const rest = (token: string): KvtierClient => new KvtierClient({ baseUrl: agent.url, token });

async function tiersOf(tenant: string): Promise<readonly (readonly string[])[]> {
  return (await agent.client.chunks({ tenant })).chunks.map(({ tiers }) => tiers.toSorted());
}

describe('lm://', () => {
  test('finds nothing of a tenant with a token, changes nothing of it, and gives it nothing', async () => {
    const acme = await as(tokens.acme);
    const lm = await LmClient.connect(agent.lm);
    for (const key of [engineKey('c1'), `${engineKey('c2')}@acme`, '@acme', `@acme@${engineKey('c3')}`]) {
      expect(await acme.send('SET', key, pattern(5000, 1)), key).toBe('+OK');
      expect(await lm.ask('EXIST', key), key).toBe(false);
      expect(await lm.get(key), key).toBeUndefined();
      lm.put(key, { bytes: pattern(7000, 2), block: blockOf(1) });
      await lm.inStep();
      expect(await acme.send('STRLEN', key), key).toBe(':5000');
      expect(await acme.send('DEL', key)).toBe(':1');
      expect(await acme.send('EXISTS', key), key).toBe(':0');
    }
    for (const { tenant } of (await agent.client.chunks()).chunks) expect(tenant.startsWith('@')).toBe(false);
    acme.destroy();
    lm.destroy();
  });
});

test("a prefetch of another's keys reads nothing from SSD, and says what it says of keys that nobody has", async () => {
  const [acme, bolt] = await Promise.all([as(tokens.acme), as(tokens.bolt)]);
  await agent.client.invalidate({ selector: { all: true } });
  const keys = ['p1', 'p2', 'p3'];
  for (const key of keys) await bolt.send('SET', key, pattern(50_000, 3));
  await rest(tokens.bolt).persist({ keyPrefix: 'p' });
  await agent.client.evict({ tier: 'ram', selector: { all: true } });
  const ids = (await agent.client.chunks({ tenant: '@bolt' })).chunks.map(({ id }) => id);
  const before = (await agent.client.stats()).io.readBytes;
  const nobody = await rest(tokens.acme).prefetch(['q1', 'q2', 'q3']);
  expect(await rest(tokens.acme).prefetch(keys)).toEqual(nobody);
  expect(await rest(tokens.acme).prefetch(ids)).toEqual(nobody);
  expect(await acme.send('EXISTS', ...keys)).toBe(':0');
  expect(await acme.send('MGET', ...keys)).toEqual([undefined, undefined, undefined]);
  expect((await agent.client.stats()).io.readBytes).toBe(before);
  expect(await tiersOf('@bolt')).toEqual([['ssd'], ['ssd'], ['ssd']]);
  // And it is the token that makes the difference.
  await rest(tokens.bolt).prefetch(keys);
  await until('they are in RAM', async () => (await tiersOf('@bolt')).every((tiers) => tiers.includes('ram')));
  acme.destroy();
  bolt.destroy();
});

test('statistics of a tenant hold no number that another one moves', async () => {
  const bolt = await as(tokens.bolt);
  await bolt.send('SET', 'mine', pattern(1000, 4));
  const acme = rest(tokens.acme);
  const told = async (): Promise<string> => JSON.stringify({ ...(await acme.stats()), uptimeSeconds: 0 });
  const before = await told();
  for (let id = 0; id < 50; id += 1) {
    await bolt.send('SET', `s${id}`, pattern(20_000, id));
    await bolt.send('GET', `s${id}`);
    await bolt.send('GET', `absent${id}`);
    await bolt.send('EXISTS', `s${id}`);
  }
  await rest(tokens.bolt).persist({ all: true });
  await rest(tokens.bolt).evict({ tier: 'ram', selector: { all: true } });
  await bolt.send('GET', 's7');
  await rest(tokens.bolt).invalidate({ selector: { keyPrefix: 's' } });
  expect(await told()).toBe(before);
  expect((await fetch(`${agent.url}/metrics`, { headers: { authorization: `Bearer ${tokens.acme}` } })).status).toBe(403);
  bolt.destroy();
});

test('a token that is nearly right is nobody, and stands in no answer and no line of the log', async () => {
  const said: string[] = [];
  const wrong = Object.values(tokens).flatMap((token) => [
    `${token}x`,
    `x${token}`,
    token.toUpperCase(),
    `${token.slice(0, -1)}X`,
    `${token} `,
  ]);
  for (const token of wrong) {
    const client = await ByteClient.connect(agent.resp);
    for (const words of [
      ['AUTH', token],
      ['AUTH', 'user', token],
      ['AUTH', token, 'user'],
      ['AUTH', 'a', 'b', token],
      ['HELLO', '3', 'AUTH', 'user', token],
      ['HELLO', '3', 'AUTH', token],
      ['SET', token, token],
      [token, token],
    ]) {
      const reply = Bun.inspect(await client.send(...words));
      expect(reply, words[0]).toMatch(/^"-/);
      if (words[0] !== token && words[2] !== 'AUTH') said.push(reply);
    }
    expect(await client.send('PING')).toMatch(/^-NOAUTH /);
    client.destroy();
    for (const authorization of [`Bearer ${token}`, token, `Basic ${btoa(`user:${token}`)}`, `Bearer ${token} ${tokens.admin}x`]) {
      if (authorization.endsWith(' ') && authorization.startsWith('Bearer')) continue; // white space at the end of a header is none of it
      const answer = await fetch(`${agent.url}/v1/stats`, { headers: { authorization } });
      expect(answer.status, authorization).toBe(401);
      said.push(JSON.stringify([...answer.headers]), await answer.text());
    }
    const asked = await fetch(`${agent.url}/v1/${token}?token=${token}`, { headers: { authorization: `Bearer ${tokens.acme}` } });
    expect(asked.status).toBe(404);
  }
  for (const text of [...said, agent.output()])
    for (const token of [...wrong.map((each) => each.trim()), ...Object.values(tokens)]) expect(text).not.toContain(token);
});

test('bytes of a token in two packets, and two tokens in one, are what they are together', async () => {
  const client = await ByteClient.connect(agent.resp);
  const whole = new TextEncoder().encode(`AUTH ${tokens.acme}\r\n`);
  await client.written(whole.subarray(0, 12));
  client.write(
    concat([
      whole.subarray(12),
      new TextEncoder().encode(`SET mine a\r\nAUTH ${tokens.bolt}\r\nEXISTS mine\r\nAUTH ${tokens.bolt}x\r\nEXISTS mine\r\n`),
    ]),
  );
  const replies = [];
  for (let index = 0; index < 6; index += 1) replies.push(await client.reply());
  expect(replies.slice(0, 3)).toEqual(['+OK', '+OK', '+OK']);
  expect(replies[4]).toMatch(/^-WRONGPASS/);
  expect(replies[5]).toBe(replies[3]);
  client.destroy();
});
