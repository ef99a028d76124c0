/** Who may do what over RESP: wrong passwords, commands before AUTH, a read token that wants to write. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import { ByteClient, pattern, same, setHead } from '#testsupport/byte-client.ts';

const admin = 'admin-token-0123456789';
const reader = 'read-token-0123456789';
const key = 'm@01000100@0@ab';
const value = pattern(300_000, 1);
const text = (bytes: Uint8Array): string => new TextDecoder('latin1').decode(bytes);

let agent: RunningAgent;
beforeAll(async () => {
  agent = await startAgent({ token: admin, flags: ['--ram', '64MiB', '--ssd', 'off', '--read-token', reader] });
  const client = await ByteClient.connect(agent.resp);
  expect(await client.send('AUTH', admin)).toBe('+OK');
  expect(await client.send('SET', key, value)).toBe('+OK');
  client.destroy();
});
afterAll(async () => {
  expect(await agent.stop(), agent.output()).toBe(0);
});

describe('before AUTH', () => {
  test('every command but AUTH, HELLO and QUIT is refused in redis words on a redis connection, and does nothing', async () => {
    const client = await ByteClient.connect(agent.resp);
    const commands = [
      ['PING'],
      ['GET', key],
      ['SET', key, 'x'],
      ['MGET', key],
      ['MSET', key, 'x'],
      ['EXISTS', key],
      ['DEL', key],
      ['UNLINK', key],
      ['STRLEN', key],
      ['TYPE', key],
      ['TOUCH', key],
      ['SCAN', '0'],
      ['KEYS', '*'],
      ['DBSIZE'],
      ['INFO'],
      ['CONFIG', 'GET', '*'],
      ['CLIENT', 'ID'],
      ['COMMAND'],
      ['SELECT', '0'],
      ['ECHO', 'x'],
      ['FLUSHDB'],
      ['FLUSHALL'],
    ];
    for (const args of commands) expect(await client.send(...args), args.join(' ')).toBe('-NOAUTH Authentication required.');
    expect(await client.send('SET', key, value)).toBe('-NOAUTH Authentication required.');
    expect(await client.send('HELLO', '3')).toMatch(/^-NOAUTH /);
    expect(await client.send('QUIT')).toBe('+OK');
    await client.closed;
  });

  test('a connection that may be LMCache gets the lengths that LMCache reads', async () => {
    const client = await ByteClient.connect(agent.resp);
    client.write(setHead(key, value.length));
    client.write(value);
    client.write('\r\n');
    expect(text(await client.bytes(5))).toBe('-NO\r\n');
    expect(await client.send('EXISTS', key)).toBe('-E');
    expect(await client.send('DEL', key)).toBe('-E');
    expect(await client.send('AUTH', 'lmcache', admin)).toBe('+OK');
    expect(await client.send('EXISTS', key)).toBe(':1');
    client.destroy();
  });

  test('a first command with a key that LMCache does not write gets the error in words', async () => {
    for (const args of [
      ['SET', 'opaque', 'x'],
      ['EXISTS', 'opaque'],
      ['EXISTS', key, 'opaque'],
      ['DEL', 'opaque'],
    ]) {
      const client = await ByteClient.connect(agent.resp);
      expect(await client.send(...args), args.join(' ')).toBe('-NOAUTH Authentication required.');
      client.destroy();
    }
  });

  test('values of 100 MiB are drained, not stored: no password, no room', async () => {
    const client = await ByteClient.connect(agent.resp);
    client.write(setHead('opaque', 100 * 1024 ** 2));
    const piece = pattern(1024 ** 2, 2);
    for (let index = 0; index < 100; index += 1) await client.written(piece);
    client.write('\r\n');
    expect(await client.reply()).toBe('-NOAUTH Authentication required.');
    expect((await agent.client.stats()).tiers[0]?.chunkCount).toBe(1);
    client.destroy();
  });
});

test('wrong passwords are refused, of any length, and leave the connection as it was', async () => {
  const client = await ByteClient.connect(agent.resp);
  for (const password of ['', 'x', admin.slice(0, -1), `${admin}x`, admin.toUpperCase(), `${admin}\u0000`, 'p'.repeat(60_000)]) {
    expect(await client.send('AUTH', password), password.slice(0, 30)).toMatch(/^-WRONGPASS /);
    expect(await client.send('AUTH', 'default', password)).toMatch(/^-WRONGPASS /);
    expect(await client.send('GET', key)).toBe('-NOAUTH Authentication required.');
  }
  expect(await client.send('AUTH', 'u'.repeat(129), admin)).toMatch(/^-ERR user name is too long/);
  expect(await client.send('GET', key)).toBe('-NOAUTH Authentication required.');
  expect(await client.send('HELLO', '3', 'AUTH', 'default', 'wrong')).toMatch(/^-WRONGPASS /);
  expect(await client.send('AUTH', admin)).toBe('+OK');
  // A failed attempt does not take away what was granted, nor grant more.
  expect(await client.send('AUTH', 'wrong')).toMatch(/^-WRONGPASS /);
  expect(same((await client.send('GET', key)) as Uint8Array, value)).toBe(true);
  client.destroy();
});

describe('with the read token', () => {
  test('reads are served and writes are refused with NOPERM', async () => {
    const client = await ByteClient.connect(agent.resp);
    expect(await client.send('AUTH', reader)).toBe('+OK');
    expect(await client.send('PING')).toBe('+PONG');
    expect(same((await client.send('GET', key)) as Uint8Array, value)).toBe(true);
    for (const args of [['SET', key, 'x'], ['MSET', key, 'x'], ['DEL', key], ['UNLINK', key], ['FLUSHDB'], ['FLUSHALL']]) {
      expect(await client.send(...args), args[0]).toMatch(/^-NOPERM /);
    }
    expect(await client.send('SET', 'large', value)).toMatch(/^-NOPERM /);
    expect(same((await client.send('GET', key)) as Uint8Array, value)).toBe(true);
    expect(await client.send('DBSIZE')).toBe(':1');
    client.destroy();
  });

  test('a first write with a key that LMCache does not write is refused in words', async () => {
    for (const args of [
      ['SET', 'opaque', 'x'],
      ['DEL', 'opaque'],
    ]) {
      const client = await ByteClient.connect(agent.resp);
      expect(await client.send('AUTH', reader)).toBe('+OK');
      expect(await client.send(...args), args[0]).toMatch(/^-NOPERM /);
      client.destroy();
    }
  });

  test('in the lmcache profile: five bytes after SET, four after DEL, the connection in sync', async () => {
    const client = await ByteClient.connect(agent.resp);
    expect(await client.send('AUTH', reader)).toBe('+OK');
    for (const body of [value, pattern(100, 2)]) {
      client.write(setHead(key, body.length));
      client.write(body);
      client.write('\r\n');
      expect(text(await client.bytes(5))).toBe('-NO\r\n');
    }
    expect(await client.send('DEL', key)).toBe('-E');
    expect(await client.send('EXISTS', key)).toBe(':1');
    expect(same((await client.send('GET', key)) as Uint8Array, value)).toBe(true);
    expect(client.availableBytes).toBe(0);
    client.destroy();
  });
});

test('without a token every AUTH is welcome, and HELLO says who serves', async () => {
  const open = await startAgent({ flags: ['--ram', '32MiB', '--ssd', 'off'] });
  const client = await ByteClient.connect(open.resp);
  expect(await client.send('AUTH', 'anything')).toBe('+OK');
  expect(await client.send('AUTH', 'tenantA', 'secret')).toBe('+OK');
  expect(await client.send('HELLO', '3')).toContain(':3');
  client.destroy();
  expect(await open.stop(), open.output()).toBe(0);
});
