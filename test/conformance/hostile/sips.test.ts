/** After a large value a connection is read in sips: whatever comes next is understood as ever. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import { until } from '#testsupport/agent-probes.ts';
import { ByteClient, command, concat, pattern, same, setHead } from '#testsupport/byte-client.ts';

const MiB = 1024 ** 2;
let agent: RunningAgent;
beforeAll(async () => {
  agent = await startAgent({ flags: ['--ram', '128MiB', '--ssd', 'off'] });
});
afterAll(async () => {
  // One connection still sips: the agent ends all the same.
  const client = await ByteClient.connect(agent.resp);
  expect(await client.send('SET', 'last', pattern(MiB, 1))).toBe('+OK');
  expect(await agent.stop(), agent.output()).toBe(0);
  await client.closed;
});

const connections = async (): Promise<number> => (await agent.client.stats()).doors.find((row) => row.door === 'resp')?.connections ?? -1;

test('commands that follow a large SET in one write are answered in order', async () => {
  const client = await ByteClient.connect(agent.resp);
  const large = pattern(2 * MiB, 7);
  const small = Array.from({ length: 300 }, (_, index) => command('SET', `after-${index}`, `value-${index}`));
  client.write(
    concat([
      command('SET', 'large', large),
      ...small,
      command('SET', 'large', large),
      command('GET', 'after-299'),
      command('GET', 'large'),
    ]),
  );
  for (let index = 0; index < 302; index += 1) expect(await client.reply(), String(index)).toBe('+OK');
  expect(new TextDecoder().decode((await client.reply()) as Uint8Array)).toBe('value-299');
  expect(same((await client.reply()) as Uint8Array, large)).toBe(true);
  client.destroy();
});

test('the head of the next SET may come byte by byte', async () => {
  const client = await ByteClient.connect(agent.resp);
  for (const sizeBytes of [MiB, MiB + 1, 3 * MiB]) {
    const value = pattern(sizeBytes, sizeBytes);
    expect(await client.send('SET', 'first', value)).toBe('+OK');
    for (const letter of setHead('second', sizeBytes)) await client.written(letter);
    client.write(value);
    client.write('\r\n');
    expect(await client.reply()).toBe('+OK');
    expect(same((await client.send('GET', 'second')) as Uint8Array, value)).toBe(true);
  }
  client.destroy();
});

test('a client that leaves after a large SET is gone, however it leaves', async () => {
  const before = await connections();
  const clients = await Promise.all(Array.from({ length: 9 }, () => ByteClient.connect(agent.resp)));
  for (const [index, client] of clients.entries()) expect(await client.send('SET', `leaver-${index}`, pattern(MiB, index))).toBe('+OK');
  expect(await connections()).toBe(before + 9);
  for (const [index, client] of clients.entries()) {
    if (index % 3 === 0) client.destroy();
    else if (index % 3 === 1) client.reset();
    else expect(await client.send('QUIT')).toBe('+OK');
  }
  await until('all are gone', async () => (await connections()) === before);
});

test('a protocol error in a sip is answered and ends the connection', async () => {
  const client = await ByteClient.connect(agent.resp);
  expect(await client.send('SET', 'large', pattern(MiB, 3))).toBe('+OK');
  client.write('*2\r\n:1\r\n');
  expect(new TextDecoder().decode(await client.rest())).toBe("-ERR Protocol error: expected '$', got ':'\r\n");
});
