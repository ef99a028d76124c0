/** Peers that stop in the middle, in both directions, at once: others do not feel it, and nothing is lost when they are gone. */
import { expect, test } from 'vitest';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import { brimChunks, cpuMs, openDescriptors, until } from '#testsupport/agent-probes.ts';
import { ByteClient, command, concat, pattern, same, setHead } from '#testsupport/byte-client.ts';

const MiB = 1024 ** 2;
const ramBytes = 512 * MiB;
const peers = 64;
const flags = ['--ram', '512MiB', '--ssd', 'off', '--put-wait', '100ms'];

/** p99 in ms of alternating SETs and GETs, every value compared. */
async function latency(client: ByteClient, sizeBytes: number, rounds: number): Promise<number> {
  const samples: number[] = [];
  const value = pattern(sizeBytes, 5);
  for (let round = 0; round < rounds; round += 1) {
    const key = `probe-${round % 16}`;
    for (const [name, ...rest] of [
      ['SET', key, value],
      ['GET', key],
    ] as const) {
      const startedAt = performance.now();
      const reply = await client.send(name, ...rest);
      samples.push(performance.now() - startedAt);
      if (name === 'SET') expect(reply).toBe('+OK');
      else expect(same(reply as Uint8Array, value)).toBe(true);
    }
  }
  return samples.toSorted((a, b) => a - b)[Math.floor(samples.length * 0.99)] ?? Number.NaN;
}

/** 64 SETs of 2 MiB of which half came, and 64 times four GETs of 4 MiB that nobody reads: the kernel alone may hold one or two. */
async function stallEverywhere(agent: RunningAgent): Promise<ByteClient[]> {
  const writers = await Promise.all(Array.from({ length: peers }, () => ByteClient.connect(agent.resp)));
  const readers = await Promise.all(Array.from({ length: peers }, () => ByteClient.connect(agent.resp)));
  const half = pattern(MiB, 6);
  for (const [index, writer] of writers.entries()) {
    writer.write(setHead(`stalled-${index}`, 2 * MiB));
    writer.write(half);
  }
  for (const [index, reader] of readers.entries()) {
    reader.socket.pause();
    reader.write(concat([0, 1, 2, 3].map((ahead) => command('GET', `large-${(index + ahead) % 8}`))));
  }
  await until('every transfer is under way', async () => {
    const door = (await agent.client.stats()).doors.find((row) => row.door === 'resp');
    return (door?.connections ?? 0) >= 2 * peers && (door?.requests ?? 0) >= peers;
  });
  // Until the buffers of the kernel are full, transfers run: that is load, not a stall.
  let spentMs = cpuMs(agent.pid);
  await until('every transfer has stalled', async () => {
    await new Promise((resolve) => setTimeout(resolve, 100));
    const before = spentMs;
    spentMs = cpuMs(agent.pid);
    return spentMs - before <= 20;
  });
  return [...writers, ...readers];
}

async function storeLarge(client: ByteClient): Promise<void> {
  for (let index = 0; index < 8; index += 1) expect(await client.send('SET', `large-${index}`, pattern(4 * MiB, index))).toBe('+OK');
}

// The smaller is moved by the main thread, the larger by the pool that holds the stalled transfers too.
test.each([
  [64 * 1024, 250],
  [2 * MiB, 80],
])(
  '64 SETs that stall and 64 GETs that are never read leave the p99 of another client within 2x, values of %d bytes',
  async (sizeBytes, rounds) => {
    const agent = await startAgent({ flags });
    const client = await ByteClient.connect(agent.resp);
    await storeLarge(client);
    await latency(client, sizeBytes, rounds);
    // By turns, the best of each side: a neighbour on the machine meets one round, stalled peers would meet all of theirs.
    const without: number[] = [];
    const beside: number[] = [];
    const best = (values: readonly number[]): number => Math.min(...values);
    // Half a millisecond is a turn of the scheduler, whatever the ratio.
    const fine = (): boolean => best(beside) < 2 * best(without) + 0.5;
    // At a load of 18 on two cores one side alone gives a p99 of 9 to 38 ms: turns go on until both sides have met a quiet one.
    const startedAt = performance.now();
    for (let turn = 0; turn < 2 || (performance.now() - startedAt < 40_000 && !fine()); turn += 1) {
      without.push(await latency(client, sizeBytes, rounds));
      const stalled = await stallEverywhere(agent);
      beside.push(await latency(client, sizeBytes, rounds));
      for (const peer of stalled) peer.destroy();
      await until(
        'the stalled peers are gone',
        async () => (await agent.client.stats()).doors.find((row) => row.door === 'resp')?.connections === 1,
      );
    }
    console.log(
      `p99 of SET and GET of ${sizeBytes / 1024} KiB: ${best(without).toFixed(2)} ms without, ${best(beside).toFixed(2)} ms beside 128 stalled peers`,
    );
    expect(fine(), `${best(without)} ms without, ${best(beside)} ms beside`).toBe(true);
    client.destroy();
    expect(await agent.stop(), agent.output()).toBe(0);
  },
);

test.each(['closed by themselves', 'closed by the stall limit'])(
  'no slot, descriptor or chunk is lost to stalled peers, %s',
  async (how) => {
    const byLimit = how === 'closed by the stall limit';
    const fresh = await startAgent({ flags });
    await until('the tier is grown', async () => (await fresh.client.stats()).tiers[0]?.state === 'ok');
    const wanted = await brimChunks(fresh, { sizeBytes: 3 * MiB, ramBytes });
    await fresh.stop();

    const agent = await startAgent({ flags: [...flags, '--resp-stall', byLimit ? '1s' : '30s'] });
    await until('the tier is grown', async () => (await agent.client.stats()).tiers[0]?.state === 'ok');
    const client = await ByteClient.connect(agent.resp);
    await client.send('PING');
    const descriptors = openDescriptors(agent.pid);
    for (let round = 0; round < 2; round += 1) {
      await storeLarge(client);
      const { tiers, leases } = await agent.client.stats();
      const stalled = await stallEverywhere(agent);
      if (byLimit) for (const peer of stalled.slice(0, peers)) await peer.closed;
      for (const [index, peer] of byLimit ? [] : stalled.entries()) {
        if (index % 2 === 0) peer.reset();
        else peer.destroy();
      }
      // A reader that is paused does not see that it was closed.
      await until(
        'the stalled peers are gone',
        async () => (await agent.client.stats()).doors.find((row) => row.door === 'resp')?.connections === 1,
      );
      for (const peer of stalled) peer.destroy();
      const after = await agent.client.stats();
      expect(after.tiers[0]).toMatchObject({ chunkCount: tiers[0]?.chunkCount, usedBytes: tiers[0]?.usedBytes });
      expect(after.leases).toBe(leases);
      expect(await client.send('EXISTS', ...Array.from({ length: peers }, (_, index) => `stalled-${index}`))).toBe(':0');
    }
    client.destroy();
    // Two for the keep-alive of the statistics; 256 peers came and went.
    await until('their descriptors are closed', () => openDescriptors(agent.pid) <= descriptors + 2);
    expect(await brimChunks(agent, { sizeBytes: 3 * MiB, ramBytes })).toBe(wanted);
    expect((await agent.client.namespaces()).namespaces).toEqual([]);
    expect(await agent.stop(), agent.output()).toBe(0);
  },
);

test('a reader that takes a large MGET a little at a time gets every byte, while another client is served', async () => {
  const agent = await startAgent({ flags });
  const client = await ByteClient.connect(agent.resp);
  await storeLarge(client);
  const slow = await ByteClient.connect(agent.resp);
  slow.write(command('MGET', ...Array.from({ length: 24 }, (_, index) => `large-${index % 8}`), 'none'));
  expect(await slow.line()).toBe('*25');
  for (let index = 0; index < 24; index += 1) {
    slow.socket.pause();
    const other = pattern(100_000 + index, index);
    expect(await client.send('SET', 'other', other)).toBe('+OK');
    expect(same((await client.send('GET', 'other')) as Uint8Array, other)).toBe(true);
    slow.socket.resume();
    expect(same((await slow.reply()) as Uint8Array, pattern(4 * MiB, index % 8)), `value ${index}`).toBe(true);
  }
  expect(await slow.reply()).toBeUndefined();
  expect(await slow.send('PING')).toBe('+PONG');
  client.destroy();
  slow.destroy();
  expect(await agent.stop(), agent.output()).toBe(0);
});
