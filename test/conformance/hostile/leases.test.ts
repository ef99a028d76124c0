/**
 * EXISTS answered yes: the chunk is there for the GET that follows, but nobody can lease the tier away. By leaf LRU, where only the lease
 * keeps a chunk through a flood; the default order would keep what was used.
 */
import { afterEach, expect, test } from 'vitest';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import { until } from '#testsupport/agent-probes.ts';
import { ByteClient, pattern, same } from '#testsupport/byte-client.ts';

const MiB = 1024 ** 2;
let agent: RunningAgent;
afterEach(async () => {
  expect(await agent.stop(), agent.output()).toBe(0);
});

async function start(leaseDuration: string): Promise<ByteClient> {
  agent = await startAgent({
    flags: ['--ram', '64MiB', '--ssd', 'off', '--lease-duration', leaseDuration, '--put-wait', '100ms', '--ram-policy', 'leaf-lru'],
  });
  await until('the tier is grown', async () => (await agent.client.stats()).tiers[0]?.state === 'ok');
  return await ByteClient.connect(agent.resp);
}

/** Stores twice what the tier holds. */
async function flood(client: ByteClient, name: string): Promise<void> {
  for (let index = 0; index < 128; index += 1) expect(await client.send('SET', `${name}-${index}`, pattern(MiB, index))).toBe('+OK');
}

test('a chunk that EXISTS found outlives a flood of stores, and the GET gives it; after the GET it may go', async () => {
  const client = await start('60s');
  await client.send('SET', 'asked', pattern(MiB, 1));
  await client.send('SET', 'not-asked', pattern(MiB, 2));
  expect(await client.send('EXISTS', 'asked')).toBe(':1');
  await flood(client, 'first');
  expect(await client.send('EXISTS', 'not-asked')).toBe(':0');
  expect((await agent.client.stats()).leases).toBe(1);
  expect(same((await client.send('GET', 'asked')) as Uint8Array, pattern(MiB, 1))).toBe(true);
  expect((await agent.client.stats()).leases).toBe(0);
  await flood(client, 'second');
  expect(await client.send('GET', 'asked')).toBeUndefined();
  client.destroy();
});

test('a lease ends by itself', async () => {
  const client = await start('500ms');
  await client.send('SET', 'asked', pattern(MiB, 1));
  expect(await client.send('EXISTS', 'asked')).toBe(':1');
  expect((await agent.client.stats()).tiers[0]?.leasedBytes).toBe(MiB);
  await until('the lease ended', async () => (await agent.client.stats()).leases === 0, 5000);
  await flood(client, 'flood');
  expect(await client.send('GET', 'asked')).toBeUndefined();
  client.destroy();
});

test('leases cover at most half of the tier: beyond it EXISTS still answers, and stores still find room', async () => {
  const client = await start('60s');
  for (let index = 0; index < 48; index += 1) await client.send('SET', `asked-${index}`, pattern(MiB, index));
  for (let index = 0; index < 48; index += 1) expect(await client.send('EXISTS', `asked-${index}`)).toBe(':1');
  const { tiers, leases } = await agent.client.stats();
  expect([leases, tiers[0]?.leasedBytes]).toEqual([32, 32 * MiB]);
  await flood(client, 'flood');
  // Those with a lease are all there; those beyond the half were evictable.
  for (let index = 0; index < 32; index += 1)
    expect(same((await client.send('GET', `asked-${index}`)) as Uint8Array, pattern(MiB, index))).toBe(true);
  let kept = 0;
  for (let index = 32; index < 48; index += 1) if ((await client.send('GET', `asked-${index}`)) !== undefined) kept += 1;
  expect(kept).toBe(0);
  client.destroy();
});

test('asking again, for one client or on many sockets of it, takes no second lease', async () => {
  const client = await start('60s');
  const twin = await ByteClient.connect(agent.resp);
  await client.send('SET', 'asked', pattern(MiB, 1));
  for (let round = 0; round < 20; round += 1)
    for (const socket of [client, twin]) expect(await socket.send('EXISTS', 'asked', 'asked')).toBe(':2');
  expect((await agent.client.stats()).leases).toBe(1);
  expect(await client.send('AUTH', 'another', 'client')).toBe('+OK');
  await client.send('EXISTS', 'asked');
  expect((await agent.client.stats()).leases).toBe(2);
  // A deletion does not wait for leases.
  expect(await client.send('DEL', 'asked')).toBe(':1');
  const { leases, tiers } = await agent.client.stats();
  expect([leases, tiers[0]?.leasedBytes]).toEqual([0, 0]);
  client.destroy();
  twin.destroy();
});
