/** The statistics say what clients did, to the one. */
import { afterEach, expect, test } from 'vitest';
import type { Stats } from '#protocol/rest/stats.ts';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import { until } from '#testsupport/agent-probes.ts';
import { ByteClient, command, concat, pattern } from '#testsupport/byte-client.ts';

const MiB = 1024 ** 2;
let agent: RunningAgent;
afterEach(async () => {
  expect(await agent.stop(), agent.output()).toBe(0);
});

interface Expected {
  probes: number;
  probeHits: number;
  lookups: number;
  hits: { hbm: number; ram: number; ssd: number };
  misses: number;
  puts: number;
  putBytes: number;
  duplicatePuts: number;
  deletes: number;
  sizeGuardMisses: number;
  invalidatedChunks: number;
}

const nothing: Expected = {
  probes: 0,
  probeHits: 0,
  lookups: 0,
  hits: { hbm: 0, ram: 0, ssd: 0 },
  misses: 0,
  puts: 0,
  putBytes: 0,
  duplicatePuts: 0,
  deletes: 0,
  sizeGuardMisses: 0,
  invalidatedChunks: 0,
};

function countersOf(stats: Stats): Expected {
  const { probes, probeHits, lookups, hits, misses, puts, putBytes, duplicatePuts, deletes, sizeGuardMisses, invalidatedChunks } = stats;
  return { probes, probeHits, lookups, hits, misses, puts, putBytes, duplicatePuts, deletes, sizeGuardMisses, invalidatedChunks };
}

test('a stream of a thousand random commands is counted exactly', async () => {
  agent = await startAgent({ flags: ['--ram', '64MiB', '--ssd', 'off'] });
  const client = await ByteClient.connect(agent.resp);
  await client.send('PING');
  const expected: Expected = structuredClone(nothing);
  const model = new Map<string, string>();
  let state = 12_345;
  const below = (bound: number): number => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff;
    return (state >>> 8) % bound;
  };
  let commands = 1;
  for (let step = 0; step < 1000; step += 1) {
    const key = `k-${below(40)}`;
    const kind = below(6);
    commands += 1;
    if (kind <= 1) {
      // Small, streamed, and now and then the same again.
      const [sizeBytes, id] = [[10, 5000, 70_000][below(3)] ?? 0, below(2)];
      await client.send('SET', key, pattern(sizeBytes, id));
      const stored = `${sizeBytes} ${id}`;
      expected.puts += 1;
      expected.putBytes += sizeBytes;
      if (model.get(key) === stored) expected.duplicatePuts += 1;
      model.set(key, stored);
    } else if (kind === 2) {
      await client.send('GET', key);
      expected.lookups += 1;
      if (model.has(key)) expected.hits.ram += 1;
      else expected.misses += 1;
    } else if (kind === 3) {
      const keys = [key, `k-${below(40)}`, key];
      await client.send('EXISTS', ...keys);
      expected.probes += 3;
      expected.probeHits += keys.filter((each) => model.has(each)).length;
    } else if (kind === 4) {
      const keys = [key, `k-${below(40)}`, 'never'];
      await client.send('MGET', ...keys);
      expected.lookups += 3;
      const hits = keys.filter((each) => model.has(each)).length;
      expected.hits.ram += hits;
      expected.misses += 3 - hits;
    } else {
      await client.send('DEL', key, 'never');
      if (model.delete(key)) expected.deletes += 1;
    }
  }
  // What only looks at keys, or is refused, counts as neither.
  for (const args of [
    ['TYPE', 'k-1'],
    ['STRLEN', 'k-1'],
    ['TOUCH', 'k-1'],
    ['SCAN', '0'],
    ['KEYS', '*'],
    ['DBSIZE'],
    ['GET'],
    ['SET', 'k'],
    ['NONE', 'k-1'],
  ]) {
    await client.send(...args);
    commands += 1;
  }
  const stats = await agent.client.stats();
  expect(countersOf(stats)).toEqual(expected);
  expect(stats.lookups).toBe(stats.hits.ram + stats.hits.ssd + stats.misses);
  expect(stats.tiers[0]).toMatchObject({
    chunkCount: model.size,
    usedBytes: [...model.values()].reduce((sum, stored) => sum + Number(stored.split(' ')[0]), 0),
  });
  expect(stats.doors.find((door) => door.door === 'resp')).toMatchObject({
    requests: commands,
    errors: 0,
    connections: 1,
    acceptedConnections: 1,
  });
  client.destroy();
});

test('a hit belongs to the tier that held the bytes when they were asked about', async () => {
  agent = await startAgent({ flags: ['--ram', '64MiB', '--ssd', '256MiB'] });
  const client = await ByteClient.connect(agent.resp);
  const keys = Array.from({ length: 8 }, (_, index) => `k-${index}`);
  for (const [index, key] of keys.entries()) expect(await client.send('SET', key, pattern(MiB, index))).toBe('+OK');
  expect(await agent.client.persist({ keys })).toMatchObject({ persisted: 8, failed: 0 });
  expect((await agent.client.stats()).tiers[0]?.dirtyBytes).toBe(0);
  expect(await agent.client.evict({ selector: { keys }, tier: 'ram' })).toMatchObject({ evicted: 8 });
  // 0 and 1: asked for at once. 2 and 3: probed first, the read-ahead brings them to RAM, they were on SSD all the same. 0 again: RAM.
  await client.send('GET', 'k-0');
  client.write(concat([command('GET', 'k-1'), command('GET', 'k-1')]));
  await client.reply();
  await client.reply();
  for (const key of ['k-2', 'k-3']) expect(await client.send('EXISTS', key)).toBe(':1');
  await until('the read-ahead is done', async () => (await agent.client.stats()).promotions === 4);
  for (const key of ['k-2', 'k-3', 'k-2']) await client.send('GET', key);
  await client.send('GET', 'k-0');
  await client.send('GET', 'none');
  const stats = await agent.client.stats();
  expect(countersOf(stats)).toEqual({
    ...nothing,
    puts: 8,
    putBytes: 8 * MiB,
    probes: 2,
    probeHits: 2,
    lookups: 8,
    hits: { hbm: 0, ram: 3, ssd: 4 },
    misses: 1,
  });
  expect(stats.promotions).toBe(4);
  expect(stats.demotions).toBe(8);
  expect(stats.io.readBytes).toBe(4 * (MiB + 4096));
  expect(stats.io.writtenBytes).toBe(8 * (MiB + 4096));
  expect(await agent.client.invalidate({ selector: { keys: ['k-0', 'k-7', 'none'] } })).toMatchObject({
    matchedChunks: 2,
    removedBytes: 2 * MiB,
  });
  expect((await agent.client.stats()).invalidatedChunks).toBe(2);
  client.destroy();
});

test('the size guard is a miss that has a counter of its own', async () => {
  agent = await startAgent({ flags: ['--ram', '64MiB', '--ssd', 'off'] });
  const [a, b] = [await ByteClient.connect(agent.resp), await ByteClient.connect(agent.resp)];
  await a.send('AUTH', 'a', 'p');
  await b.send('AUTH', 'b', 'p');
  await a.send('SET', 'm@01000100@0@01', pattern(1000, 1));
  await b.send('SET', 'm@01000100@0@02', pattern(2000, 2));
  await a.send('EXISTS', 'm@01000100@0@02');
  await a.send('GET', 'm@01000100@0@02');
  expect(countersOf(await agent.client.stats())).toEqual({
    ...nothing,
    puts: 2,
    putBytes: 3000,
    probes: 1,
    lookups: 1,
    misses: 1,
    sizeGuardMisses: 2,
  });
  for (const client of [a, b]) client.destroy();
});
