/** Peers that never stop and never end: a byte now and then must not hold a slot for ever. */
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import { until } from '#testsupport/agent-probes.ts';
import { ByteClient, command, pattern, setHead } from '#testsupport/byte-client.ts';

const MiB = 1024 ** 2;
const flags = ['--ram', '64MiB', '--ssd', 'off', '--resp-stall', '1s', '--resp-min-rate', '16MiB'];

async function connections(agent: RunningAgent): Promise<number> {
  return (await agent.client.stats()).doors.find((row) => row.door === 'resp')?.connections ?? -1;
}

/** A byte every 100 ms, well within the stall time, until the peer closes; resolves with how long it took. */
async function trickle(client: ByteClient, bytes: Uint8Array): Promise<number> {
  const startedAt = performance.now();
  let at = 0;
  const timer = setInterval(() => client.write(bytes.subarray(at, (at += 1))), 100);
  await client.closed;
  clearInterval(timer);
  return performance.now() - startedAt;
}

test('a value that trickles is cut off after the stall time and its size at the least rate, and its slot is free', async () => {
  const agent = await startAgent({ flags });
  const client = await ByteClient.connect(agent.resp);
  client.write(setHead('slow', 8 * MiB));
  await client.written(pattern(7 * MiB, 1));
  expect(await trickle(client, pattern(MiB, 1))).toBeLessThan(15_000);
  await until('the connection is gone', async () => (await connections(agent)) === 0);
  // The tier holds 64 MiB: it takes its fill of others, so nothing is held.
  const other = await ByteClient.connect(agent.resp);
  for (let index = 0; index < 16; index += 1) expect(await other.send('SET', `k${index}`, pattern(4 * MiB, index))).toBe('+OK');
  expect(await other.send('EXISTS', 'slow')).toBe(':0');
  expect(await agent.stop()).toBe(0);
});

test('a peer that trickles keys between two values of an MSET does not keep the room of the first', async () => {
  const agent = await startAgent({ flags });
  const client = await ByteClient.connect(agent.resp);
  client.write('*5\r\n$4\r\nMSET\r\n$1\r\na\r\n');
  client.write(`$${4 * MiB}\r\n`);
  await client.written(pattern(4 * MiB, 1));
  client.write('\r\n$60000\r\n');
  expect(await trickle(client, new Uint8Array(60_000))).toBeLessThan(15_000);
  expect(await agent.stop()).toBe(0);
});

test('a reader that takes a little now and then does not hold the value that it reads', async () => {
  const agent = await startAgent({ flags });
  const client = await ByteClient.connect(agent.resp);
  expect(await client.send('SET', 'large', pattern(15 * MiB, 3))).toBe('+OK');
  client.socket.on('data', () => client.socket.pause());
  client.write(command('GET', 'large'));
  const timer = setInterval(() => client.socket.resume(), 500);
  await until('the connection is gone', async () => (await connections(agent)) === 0);
  clearInterval(timer);
  client.destroy();
  expect(await agent.stop()).toBe(0);
});

test('a slow value within the least rate arrives', async () => {
  const agent = await startAgent({ flags: ['--ram', '64MiB', '--ssd', 'off', '--resp-stall', '1s', '--resp-min-rate', '1MiB'] });
  const client = await ByteClient.connect(agent.resp);
  const value = pattern(4 * MiB, 4);
  client.write(setHead('slow', value.length));
  for (let at = 0; at < value.length; at += 256 * 1024) {
    await client.written(value.subarray(at, at + 256 * 1024));
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  client.write('\r\n');
  expect(await client.reply()).toBe('+OK');
  expect(await agent.stop()).toBe(0);
});

test('an accepted socket is asked whether its peer is still there', async () => {
  const agent = await startAgent({ flags });
  const client = await ByteClient.connect(agent.resp);
  expect(await client.send('PING')).toBe('+PONG');
  // /proc/net/tcp: the timer of a quiet connection with keep-alive is kind 2.
  const port = (client.socket.localPort ?? 0).toString(16).toUpperCase().padStart(4, '0');
  const rows = readFileSync('/proc/net/tcp', 'utf8')
    .split('\n')
    .map((line) => line.trim().split(/\s+/));
  const row = rows.find((fields) => fields[2]?.endsWith(`:${port}`) === true);
  expect(row?.[5]?.slice(0, 2)).toBe('02');
  client.destroy();
  expect(await agent.stop()).toBe(0);
});
