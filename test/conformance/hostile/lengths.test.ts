/** Announced lengths that lie: too long, too many, never delivered. A clear error or a closed connection, and no memory for it. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import { privateBytes, until } from '#testsupport/agent-probes.ts';
import { ByteClient, pattern, same, setHead } from '#testsupport/byte-client.ts';

const MiB = 1024 ** 2;
const objectKey = (hash: string): string => `meta-llama/Llama-3@01000100@0@${hash}`;
const text = (bytes: Uint8Array): string => new TextDecoder('latin1').decode(bytes);

let agent: RunningAgent;
beforeAll(async () => {
  agent = await startAgent({ flags: ['--ram', '64MiB', '--ssd', 'off', '--ram-max-chunk', '16MiB', '--resp-stall', '1s'] });
});
afterAll(async () => {
  expect(await agent.stop(), agent.output()).toBe(0);
});

describe('a length that is none', () => {
  const cases: readonly (readonly [string, string, string])[] = [
    ['2^63 bytes', setHead('k', '9223372036854775808'), 'invalid bulk length'],
    ['2^63 - 1 bytes', setHead('k', '9223372036854775807'), 'invalid bulk length'],
    ['2^64 bytes, which wrap to 0', setHead('k', '18446744073709551616'), 'invalid bulk length'],
    ['-1 bytes', setHead('k', '-1'), 'invalid bulk length'],
    ['-2^63 bytes', setHead('k', '-9223372036854775808'), 'invalid bulk length'],
    ['1e3 bytes', setHead('k', '1e3'), 'invalid bulk length'],
    ['0x10 bytes', setHead('k', '0x10'), 'invalid bulk length'],
    ['no digit', setHead('k', ''), 'invalid bulk length'],
    ['a NUL among the digits', setHead('k', '1\u00000'), 'invalid bulk length'],
    ['512 MiB and a byte', setHead('k', 512 * MiB + 1), 'invalid bulk length'],
    ['1 GiB', setHead('k', 1024 * MiB), 'invalid bulk length'],
    ['1 GiB of a key', `*2\r\n$3\r\nGET\r\n$${1024 * MiB}\r\n`, 'invalid bulk length'],
    ['16,385 arguments', '*16385\r\n', 'invalid multibulk length'],
    ['2^63 arguments', '*9223372036854775808\r\n', 'invalid multibulk length'],
    ['arguments in words', '*three\r\n', 'invalid multibulk length'],
  ];
  test.each(cases)('%s: an error, and the connection is closed', async (_, bytes, message) => {
    const client = await ByteClient.connect(agent.resp);
    client.write(bytes);
    expect(text(await client.rest())).toBe(`-ERR Protocol error: ${message}\r\n`);
  });

  test('16,384 arguments are taken', async () => {
    const client = await ByteClient.connect(agent.resp);
    expect(await client.send('EXISTS', ...Array.from({ length: 16_383 }, (_, index) => `none-${index}`))).toBe(':0');
    client.destroy();
  });

  test('a batch of closed connections leaves the agent as it was', async () => {
    const before = (await agent.client.stats()).doors.find((door) => door.door === 'resp');
    for (let round = 0; round < 20; round += 1) {
      const clients = await Promise.all(cases.slice(0, 8).map(() => ByteClient.connect(agent.resp)));
      clients.forEach((client, index) => client.write(cases[index]?.[1] ?? ''));
      await Promise.all(clients.map((client) => client.closed));
    }
    await until('connections are gone', async () => {
      const door = (await agent.client.stats()).doors.find((row) => row.door === 'resp');
      return door?.connections === before?.connections && door?.errors === (before?.errors ?? 0) + 160;
    });
  });
});

describe('a value that is announced and does not come', () => {
  test('100 MiB, above the largest chunk: nothing is reserved for it, and the connection is closed for its stall', async () => {
    const before = privateBytes(agent.pid);
    const clients = await Promise.all(Array.from({ length: 8 }, () => ByteClient.connect(agent.resp)));
    for (const client of clients) {
      client.write(setHead('stalled', 100 * MiB));
      client.write(pattern(64 * 1024, 1));
    }
    const bystander = await ByteClient.connect(agent.resp);
    // Four chunks of a quarter each fill the tier: they fit beside the stalled ones.
    for (let index = 0; index < 3; index += 1) expect(await bystander.send('SET', `beside-${index}`, pattern(16 * MiB, index))).toBe('+OK');
    expect(privateBytes(agent.pid) - before).toBeLessThan(64 * MiB);
    await Promise.all(clients.map((client) => client.closed));
    expect(await bystander.send('EXISTS', 'stalled')).toBe(':0');
    bystander.destroy();
  });

  test('8 MiB: its room is given back when the stall is over', async () => {
    const stalled = await Promise.all(Array.from({ length: 6 }, () => ByteClient.connect(agent.resp)));
    for (const client of stalled) client.write(setHead('half', 8 * MiB));
    for (const client of stalled) client.write(pattern(4 * MiB, 7));
    await Promise.all(stalled.map((client) => client.closed));
    const bystander = await ByteClient.connect(agent.resp);
    expect(await bystander.send('EXISTS', 'half')).toBe(':0');
    for (let index = 0; index < 8; index += 1) expect(await bystander.send('SET', `after-${index}`, pattern(8 * MiB, index))).toBe('+OK');
    bystander.destroy();
  });
});

describe('a value between the largest chunk and 512 MiB', () => {
  const sizeBytes = 300 * MiB;
  const piece = pattern(MiB, 3);

  /** Sends a value of `sizeBytes` and watches the agent's memory on the way; answers its growth. */
  async function pour(client: ByteClient, key: string): Promise<number> {
    const before = privateBytes(agent.pid);
    let peak = before;
    client.write(setHead(key, sizeBytes));
    for (let sent = 0; sent < sizeBytes; sent += piece.length) {
      await client.written(piece);
      if (sent % (16 * MiB) === 0) peak = Math.max(peak, privateBytes(agent.pid));
    }
    client.write('\r\n');
    return peak - before;
  }

  test('redis profile: drained without a buffer, answered with an error, in sync', async () => {
    const client = await ByteClient.connect(agent.resp);
    await client.send('PING');
    const growth = await pour(client, 'too-large');
    expect(await client.reply()).toMatch(/^-ERR .*largest chunk is 16777216 bytes/);
    expect(growth, `grew by ${growth} bytes`).toBeLessThan(100 * MiB);
    expect(await client.send('EXISTS', 'too-large')).toBe(':0');
    const value = pattern(3 * MiB, 9);
    expect(await client.send('SET', 'next', value)).toBe('+OK');
    expect(same((await client.send('GET', 'next')) as Uint8Array, value)).toBe(true);
    client.destroy();
  });

  test('lmcache profile: answered -NO, exactly five bytes, in sync', async () => {
    const client = await ByteClient.connect(agent.resp);
    const growth = await pour(client, objectKey('aa'));
    expect(text(await client.bytes(5))).toBe('-NO\r\n');
    expect(growth, `grew by ${growth} bytes`).toBeLessThan(100 * MiB);
    client.write(`*2\r\n$6\r\nEXISTS\r\n$${objectKey('aa').length}\r\n${objectKey('aa')}\r\n`);
    expect(text(await client.bytes(4))).toBe(':0\r\n');
    const value = pattern(3 * MiB, 11);
    expect(await client.send('SET', objectKey('bb'), value)).toBe('+OK');
    expect(same((await client.send('GET', objectKey('bb'))) as Uint8Array, value)).toBe(true);
    expect(client.availableBytes).toBe(0);
    client.destroy();
  });

  test('it is counted as rejected, and as nothing else', async () => {
    const stats = await agent.client.stats();
    expect(stats.rejectedPuts).toMatchObject({ tooLarge: 10, shed: 0, draining: 0 });
  });
});
