import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { NativeClient } from '#engines/client/native-client.ts';
import type { Namespace, NativeClientOptions } from '#engines/client/native-client.ts';
import { SharedMemory } from '#engines/client/shared-memory.ts';
import { loadOutcomes, storeOutcomes, tierNumbers } from '#protocol/native/native-schema.ts';
import { startAgent } from '#testsupport/agent.ts';
import type { RunningAgent } from '#testsupport/agent.ts';
import { pattern, same } from '#testsupport/byte-client.ts';

const encoder = new TextEncoder();
const MiB = 1024 * 1024;
let agent: RunningAgent;
let count = 0;

beforeAll(async () => {
  agent = await startAgent();
});
afterAll(() => agent.stop());

const keysOf = (prefix: string, howMany: number): Uint8Array[] =>
  Array.from({ length: howMany }, (_, index) => encoder.encode(`${prefix}-${index}`));

const spansOf = (howMany: number, sizeBytes: number): { offset: number; length: number }[] =>
  Array.from({ length: howMany }, (_, index) => ({ offset: index * sizeBytes, length: sizeBytes }));

interface Desk extends Disposable {
  readonly client: NativeClient;
  readonly namespace: Namespace;
  readonly memory: SharedMemory;
}

function desk(memory: SharedMemory, options: Partial<NativeClientOptions> = {}): Desk {
  // Patience for a machine that is busy with other tests.
  const client = new NativeClient({ path: agent.socket, connectPatienceMs: 5000, ...options });
  const namespace = client.namespace({ model: `m${count++}`, layout: '0123456789abcdef', rank: '0', group: '', salt: '' });
  return {
    client,
    namespace,
    memory,
    [Symbol.dispose]: () => {
      client.close();
      memory.close();
    },
  };
}

describe.each([
  ['an anonymous file, attached by descriptor', (sizeBytes: number) => SharedMemory.create(sizeBytes)],
  [
    'a file in /dev/shm, attached by path',
    (sizeBytes: number) => SharedMemory.createFile(`/dev/shm/kvtier-test-${process.pid}`, sizeBytes),
  ],
])('NativeClient with %s', (_, create) => {
  test('loads what it has stored, chunk by chunk, and misses the rest', async () => {
    using place = desk(create(8 * MiB));
    const { client, namespace, memory } = place;
    const region = client.share(memory);
    const keys = keysOf('chunk', 4);
    const spans = spansOf(4, MiB);
    for (const [index, { offset, length }] of spans.entries()) memory.view(offset, length).set(pattern(length, index + 1));
    const stored = await client.store({ namespace, region, keys, spans });
    expect([...stored.outcomes]).toEqual([0, 0, 0, 0]);
    const found = await client.lookup(namespace, [...keys, encoder.encode('other')]);
    expect([...found.tiers]).toEqual(Array<number>(4).fill(tierNumbers.ram));
    expect(found.sizes).toEqual([MiB, MiB, MiB, MiB]);
    const into = spans.map(({ offset, length }) => ({ offset: offset + 4 * MiB, length }));
    const loaded = await client.load({ namespace, region, keys: [...keys.slice(0, 3), encoder.encode('other')], spans: into });
    expect([...loaded.outcomes]).toEqual([0, 0, 0, loadOutcomes.missing]);
    expect(await loaded.settled).toBe(true);
    for (let index = 0; index < 3; index += 1)
      expect(same(memory.view((4 + index) * MiB, MiB), pattern(MiB, index + 1)), `chunk ${index}`).toBe(true);
    expect(await client.letGo(namespace, keys)).toBe(1); // the other leases ended with their loads
    expect(await client.unshare(region)).toBe(true);
  });
});

test('an agent that is away is a miss within milliseconds, and is used again when it is back', async () => {
  const first = await startAgent({ dataDir: `${agent.dataDir}/other`, flags: ['--ram', '16MiB'] });
  using place = desk(SharedMemory.create(MiB), { path: first.socket });
  const { client, namespace, memory } = place;
  const region = client.share(memory);
  const keys = keysOf('away', 1);
  const spans = [{ offset: 0, length: MiB }];
  expect([...(await client.store({ namespace, region, keys, spans })).outcomes]).toEqual([storeOutcomes.stored]);
  const before = client.agent?.instance;
  await first.kill9();
  await expect.poll(() => client.isConnected).toBe(false);
  for (let round = 0; round < 20; round += 1) {
    const startedAt = performance.now();
    expect((await client.lookup(namespace, keys)).tiers.length).toBe(0);
    expect([...(await client.load({ namespace, region, keys, spans })).outcomes]).toEqual([loadOutcomes.failed]);
    expect(performance.now() - startedAt).toBeLessThan(500);
  }
  const second = await startAgent({ dataDir: first.dataDir, flags: ['--ram', '16MiB'] });
  try {
    await expect.poll(() => client.connect(), { timeout: 5000 }).toBe(true);
    expect(client.agent?.instance).not.toBe(before);
    // Region and namespace are those of before; the bytes are new, or were written behind in time.
    expect([storeOutcomes.stored, storeOutcomes.duplicate] as number[]).toContain(
      (await client.store({ namespace, region, keys, spans })).outcomes[0],
    );
    expect([...(await client.load({ namespace, region, keys, spans })).outcomes]).toEqual([loadOutcomes.loaded]);
  } finally {
    await second.stop();
  }
});
