/** Many large commands in one write, cut anywhere: each value arrives whole and in order. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import { ByteClient, command, concat, pattern, same, type Reply } from '#testsupport/byte-client.ts';

const MiB = 1024 ** 2;
let agent: RunningAgent;
beforeAll(async () => {
  agent = await startAgent({ flags: ['--ram', '256MiB', '--ssd', 'off'] });
});
afterAll(async () => {
  expect(await agent.stop(), agent.output()).toBe(0);
});

/** Around every threshold of the door: arguments, streamed values, copied replies, slices. */
const sizes = [
  0,
  1,
  16 * 1024 - 1,
  16 * 1024,
  16 * 1024 + 1,
  65_535,
  65_536,
  65_537,
  131_072,
  300_001,
  MiB - 1,
  MiB,
  MiB + 1,
  4 * MiB - 1,
  4 * MiB + 1,
  9 * MiB + 7,
];

function expectValue(reply: Reply, wanted: Uint8Array, what: string): void {
  expect(reply, what).toBeInstanceOf(Uint8Array);
  expect(same(reply as Uint8Array, wanted), what).toBe(true);
}

test('SETs and GETs of every size in one write are answered in order, each with its own bytes', async () => {
  for (let round = 0; round < 4; round += 1) {
    const client = await ByteClient.connect(agent.resp);
    const order = sizes.map((_, index) => (index * 7 + round * 3) % sizes.length);
    client.write(
      concat(
        order.flatMap((at) => [
          command('SET', `p-${at}`, pattern(sizes[at] ?? 0, at + round * 100)),
          command('GET', `p-${at}`),
          command('EXISTS', `p-${at}`),
        ]),
      ),
    );
    for (const at of order) {
      expect(await client.reply()).toBe('+OK');
      expectValue(await client.reply(), pattern(sizes[at] ?? 0, at + round * 100), `GET of ${sizes[at]}`);
      expect(await client.reply()).toBe(':1');
    }
    client.write(concat(order.map((at) => command('GET', `p-${at}`))));
    for (const at of order) expectValue(await client.reply(), pattern(sizes[at] ?? 0, at + round * 100), `GET again of ${sizes[at]}`);
    client.destroy();
  }
});

test('MSET and MGET of large and small values, one key twice', async () => {
  const client = await ByteClient.connect(agent.resp);
  const pairs = sizes.flatMap((size, at) => [`m-${at}`, pattern(size, at)]);
  expect(await client.send('MSET', 'm-0', pattern(MiB, 500), ...pairs, 'm-1', pattern(2 * MiB, 501))).toBe('+OK');
  const replies = (await client.send('MGET', ...sizes.map((_, at) => `m-${at}`), 'none', 'm-1')) as readonly Reply[];
  for (const [at, size] of sizes.entries()) if (at !== 1) expectValue(replies[at], pattern(size, at), `value ${at}`);
  expectValue(replies[1], pattern(2 * MiB, 501), 'the later value of a key that was named twice');
  expect(replies[sizes.length]).toBeUndefined();
  client.destroy();
});

test('the same under RESP3', async () => {
  const client = await ByteClient.connect(agent.resp);
  expect(await client.send('HELLO', '3')).toContain(':3');
  client.write(concat(sizes.flatMap((size, at) => [command('SET', `r-${at}`, pattern(size, at + 40)), command('GET', `r-${at}`)])));
  for (const [at, size] of sizes.entries()) {
    expect(await client.reply()).toBe('+OK');
    expectValue(await client.reply(), pattern(size, at + 40), `value of ${size}`);
  }
  client.write(command('GET', 'none'));
  expect(await client.line()).toBe('_');
  client.destroy();
});

test('a value that is cut into pieces at awkward places is taken whole', async () => {
  const client = await ByteClient.connect(agent.resp);
  const value = pattern(700_003, 9);
  const bytes = concat([command('SET', 'cut', value), command('GET', 'cut')]);
  // Head byte by byte, then primes, and the CRLF behind the value in two.
  const cuts = [
    ...Array.from({ length: 40 }, (_, at) => at),
    41,
    65_537,
    131_101,
    500_009,
    38 + value.length,
    39 + value.length,
    40 + value.length,
    41 + value.length,
    bytes.length,
  ];
  let from = 0;
  for (const cut of cuts.toSorted((a, b) => a - b)) {
    if (cut <= from) continue;
    await client.written(bytes.subarray(from, cut));
    // A turn for the other side, so that the pieces arrive as pieces.
    await new Promise((resolve) => setTimeout(resolve, 1));
    from = cut;
  }
  expect(await client.reply()).toBe('+OK');
  expectValue(await client.reply(), value, 'the cut value');
  client.destroy();
});

test('eight clients pipeline at once without mixing', async () => {
  const clients = await Promise.all(Array.from({ length: 8 }, () => ByteClient.connect(agent.resp)));
  await Promise.all(
    clients.map(async (client, id) => {
      for (let round = 0; round < 3; round += 1) {
        const values = [0, 1, 2].map((at) => pattern(MiB + id * 1000 + at, id * 100 + round * 10 + at));
        client.write(concat(values.flatMap((value, at) => [command('SET', `c-${id}-${at}`, value), command('GET', `c-${id}-${at}`)])));
        for (const value of values) {
          expect(await client.reply()).toBe('+OK');
          expectValue(await client.reply(), value, `client ${id} round ${round}`);
        }
      }
    }),
  );
  for (const client of clients) client.destroy();
});

test('a value with the wrong trailer is not stored', async () => {
  for (const sizeBytes of [100, 100_000, 3 * MiB]) {
    // XX, X and a line feed, a carriage return and X.
    for (const trailer of [
      [88, 88],
      [88, 10],
      [13, 88],
    ]) {
      const client = await ByteClient.connect(agent.resp);
      const bytes = command('SET', 'trailer', pattern(sizeBytes, 1));
      bytes.set(trailer, bytes.length - 2);
      client.write(bytes);
      expect(new TextDecoder().decode(await client.rest())).toBe('-ERR Protocol error: expected CRLF after bulk string\r\n');
    }
  }
  const client = await ByteClient.connect(agent.resp);
  expect(await client.send('EXISTS', 'trailer')).toBe(':0');
  client.destroy();
});
