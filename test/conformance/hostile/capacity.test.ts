/** Too much, too fast, and of changing sizes: full is a normal state. */
import { expect, test } from 'vitest';
import { startAgent } from '#testsupport/agent.ts';
import { until } from '#testsupport/agent-probes.ts';
import { ByteClient, pattern, same } from '#testsupport/byte-client.ts';

const MiB = 1024 ** 2;

test('a client that stores four times the RAM tier in one burst finds at least 95 % of it again', async () => {
  const agent = await startAgent({ flags: ['--ram', '64MiB', '--ssd', '512MiB'] });
  const sockets = await Promise.all(Array.from({ length: 4 }, () => ByteClient.connect(agent.resp)));
  const count = 256;
  // Made before, so that the burst is one.
  const values = Array.from({ length: count }, (_, index) => pattern(MiB, index));
  await Promise.all(
    sockets.map(async (socket, lane) => {
      for (let index = lane; index < count; index += sockets.length) {
        expect(await socket.send('SET', `burst-${index}`, values[index] as Uint8Array)).toBe('+OK');
      }
    }),
  );
  const [client] = sockets as [ByteClient];
  let found = 0;
  for (let index = 0; index < count; index += 1) {
    const value = await client.send('GET', `burst-${index}`);
    if (value === undefined) continue;
    expect(same(value as Uint8Array, values[index] as Uint8Array), `burst-${index}`).toBe(true);
    found += 1;
  }
  const stats = await agent.client.stats();
  console.log(`found ${found} of ${count}; dropped before they were on SSD: ${stats.droppedDirtyChunks}`);
  expect(found).toBeGreaterThanOrEqual(count * 0.95);
  expect(stats.rejectedPuts).toEqual({ tooLarge: 0, shed: 0, draining: 0, quota: 0, quotaSlot: 0 });
  for (const socket of sockets) socket.destroy();
  expect(await agent.stop(), agent.output()).toBe(0);
});

test('a tier that is full of 2 MiB chunks takes 32 MiB chunks, and 2 MiB chunks again, without a restart', async () => {
  const agent = await startAgent({ flags: ['--ram', '256MiB', '--ram-max-chunk', '64MiB', '--ssd', 'off', '--ram-policy', 'leaf-lru'] });
  await until('the tier is grown', async () => (await agent.client.stats()).tiers[0]?.state === 'ok');
  const client = await ByteClient.connect(agent.resp);
  for (const [round, sizeBytes] of [2 * MiB, 32 * MiB, 2 * MiB, 64 * MiB, 100_000, 32 * MiB, 2 * MiB].entries()) {
    const count = Math.min(600, Math.ceil((1.25 * 256 * MiB) / sizeBytes));
    for (let index = 0; index < count; index += 1)
      expect(await client.send('SET', `c-${round}-${index}`, pattern(sizeBytes, index)), `round ${round}`).toBe('+OK');
    // By leaf LRU what came last is there (the default keeps what was used twice), and where it was enough to fill the tier it has at least 7/8 of it.
    let kept = 0;
    for (let index = count - 1; index >= 0; index -= 1) {
      const value = await client.send('GET', `c-${round}-${index}`);
      if (value === undefined) continue;
      expect(same(value as Uint8Array, pattern(sizeBytes, index))).toBe(true);
      kept += 1;
    }
    const enough = count * sizeBytes >= 256 * MiB;
    // A 64 MiB chunk is a quarter of the tier: beyond the sixteenth for which the share is promised.
    const wanted = !enough
      ? count
      : sizeBytes > 16 * MiB
        ? Math.floor((256 * MiB) / sizeBytes) - 1
        : Math.floor((0.875 * 256 * MiB) / sizeBytes);
    expect(kept, `round ${round} of ${sizeBytes}`).toBeGreaterThanOrEqual(wanted);
  }
  expect((await agent.client.stats()).rejectedPuts).toEqual({ tooLarge: 0, shed: 0, draining: 0, quota: 0, quotaSlot: 0 });
  client.destroy();
  expect(await agent.stop(), agent.output()).toBe(0);
});

test('an MSET of more than the tier holds is refused after one wait for room, not one for each of its values', async () => {
  const agent = await startAgent({ flags: ['--ram', '64MiB', '--ssd', 'off', '--put-wait', '2s'] });
  await until('the tier is grown', async () => (await agent.client.stats()).tiers[0]?.state === 'ok');
  const [greedy, other] = [await ByteClient.connect(agent.resp), await ByteClient.connect(agent.resp)];
  await greedy.send('PING');
  const pairs = Array.from({ length: 80 }, (_, index) => [`k-${index}`, pattern(MiB, index)]).flat();
  const startedAt = performance.now();
  expect(await greedy.send('MSET', ...pairs)).toMatch(/^-OOM Cannot store/);
  // Sixteen values found no room: one wait of two seconds, where each would make 32.
  expect(performance.now() - startedAt).toBeLessThan(16_000);
  expect((await agent.client.stats()).rejectedPuts.shed).toBe(1);
  expect(await other.send('SET', 'other', pattern(MiB, 1))).toBe('+OK');
  for (const client of [greedy, other]) client.destroy();
  expect(await agent.stop(), agent.output()).toBe(0);
});
