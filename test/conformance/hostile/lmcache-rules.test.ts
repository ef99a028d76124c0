/**
 * What LMCache's RESP client relies on, from the wire: replies of exact lengths, the size guard, the redis:// twins. Its own client is
 * run in test/e2e/lmcache; the rules are in docs/formats/wire-resp.md.
 */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import { ByteClient, command, pattern, same, setHead } from '#testsupport/byte-client.ts';

const text = (bytes: Uint8Array): string => new TextDecoder('latin1').decode(bytes);
let prefix = 0;
/** A fresh `model@rank@group` for each test: the guard remembers them. */
let objectKey: (hash: string) => string;
beforeEach(() => {
  prefix += 1;
  const model = `model-${prefix}`;
  objectKey = (hash) => `${model}@01000100@0@${hash}`;
});

let agent: RunningAgent;
let open: ByteClient[] = [];
beforeAll(async () => {
  agent = await startAgent({ flags: ['--ram', '64MiB', '--ssd', '256MiB'] });
});
afterEach(() => {
  for (const client of open) client.destroy();
  open = [];
});
afterAll(async () => {
  expect(await agent.stop(), agent.output()).toBe(0);
});

/** One LMCache: the user name makes it another client, the address being the same. */
async function lmcache(user: string, to: RunningAgent = agent): Promise<ByteClient> {
  const client = await ByteClient.connect(to.resp);
  open.push(client);
  expect(await client.send('AUTH', `${user}-${prefix}`, 'p')).toBe('+OK');
  return client;
}

describe('replies are read by counting bytes', () => {
  test('SET is answered with five bytes, EXISTS and DEL with four, whatever happened', async () => {
    const client = await lmcache('a');
    const value = pattern(100_000, 1);
    const exact = async (bytes: Uint8Array | string, reply: string): Promise<void> => {
      client.write(bytes);
      expect(text(await client.bytes(reply.length))).toBe(reply);
      expect(client.availableBytes).toBe(0);
    };
    await exact(command('EXISTS', objectKey('aa')), ':0\r\n');
    await exact(command('DEL', objectKey('aa')), ':0\r\n');
    await exact(command('GET', objectKey('aa')), '$-1\r\n');
    await exact(command('SET', objectKey('aa'), value), '+OK\r\n');
    await exact(command('SET', objectKey('aa'), value), '+OK\r\n');
    await exact(command('EXISTS', objectKey('aa')), ':1\r\n');
    // Above the largest chunk (a quarter of 64 MiB), and a key that nobody takes.
    client.write(setHead(objectKey('bb'), 17 * 1024 ** 2));
    await exact(new Uint8Array(17 * 1024 ** 2 + 2).fill(13, -2, -1).fill(10, -1), '-NO\r\n');
    await exact(command('SET', 'k'.repeat(2049), 'v'), '-NO\r\n');
    await exact(command('SET', 'k'.repeat(2049), value), '-NO\r\n');
    await exact(command('EXISTS', 'k'.repeat(2049)), '-E\r\n');
    await exact(command('DEL', 'k'.repeat(2049)), '-E\r\n');
    await exact(command('SET', objectKey('aa'), value, 'BAD'), '-NO\r\n');
    await exact(command('DEL', objectKey('aa')), ':1\r\n');
  });

  test('an argument that is too long is answered in the same lengths', async () => {
    const client = await lmcache('a');
    for (const [args, reply] of [
      [['EXISTS', 'k'.repeat(70_000)], '-E\r\n'],
      [['DEL', 'k'.repeat(70_000)], '-E\r\n'],
      [['SET', 'k'.repeat(70_000), 'v'], '-NO\r\n'],
    ] as const) {
      client.write(command(...args));
      expect(text(await client.bytes(reply.length))).toBe(reply);
      expect(client.availableBytes).toBe(0);
    }
  });

  test('a connection leaves the profile for good with the first thing that LMCache never sends', async () => {
    for (const other of [['PING'], ['SET', 'opaque', 'v'], ['EXISTS', 'opaque'], ['STRLEN', objectKey('aa')], ['HELLO', '2']]) {
      const client = await lmcache('a');
      await client.send(...other);
      expect(await client.send('SET', objectKey('aa'), 'v', 'BAD'), other.join(' ')).toBe('-ERR syntax error');
    }
  });
});

describe('size guard', () => {
  test('a client that stored one length is not given another: EXISTS :0 and GET $-1', async () => {
    const [a, b] = [await lmcache('a'), await lmcache('b')];
    expect(await a.send('SET', objectKey('01'), pattern(100_000, 1))).toBe('+OK');
    expect(await b.send('SET', objectKey('02'), pattern(200_000, 2))).toBe('+OK');
    const before = await agent.client.stats();
    expect(await a.send('EXISTS', objectKey('02'))).toBe(':0');
    expect(await a.send('GET', objectKey('02'))).toBeUndefined();
    expect(await b.send('EXISTS', objectKey('01'))).toBe(':0');
    expect(await b.send('GET', objectKey('01'))).toBeUndefined();
    expect(await a.send('MGET', objectKey('01'), objectKey('02'))).toEqual([pattern(100_000, 1), undefined]);
    expect((await agent.client.stats()).sizeGuardMisses - before.sizeGuardMisses).toBe(5);
    // The chunks are there all the same.
    expect(same((await b.send('GET', objectKey('02'))) as Uint8Array, pattern(200_000, 2))).toBe(true);
  });

  test('a client without a history gets what was stored in the last hour, if that has one length', async () => {
    const [a, b] = [await lmcache('a'), await lmcache('b')];
    expect(await a.send('SET', objectKey('01'), pattern(100_000, 1))).toBe('+OK');
    expect(await b.send('EXISTS', objectKey('01'))).toBe(':1');
    expect(same((await b.send('GET', objectKey('01'))) as Uint8Array, pattern(100_000, 1))).toBe(true);
    // Now it has a history: the length that it received.
    expect(await a.send('SET', objectKey('02'), pattern(50_000, 2))).toBe('+OK');
    expect(await b.send('EXISTS', objectKey('02'))).toBe(':0');
  });

  test('a prefix of which a client stored several lengths is not guarded for it', async () => {
    const [a, b] = [await lmcache('a'), await lmcache('b')];
    expect(await a.send('SET', objectKey('01'), pattern(100_000, 1))).toBe('+OK');
    expect(await a.send('SET', objectKey('02'), pattern(150_000, 2))).toBe('+OK');
    expect(await b.send('SET', objectKey('03'), pattern(200_000, 3))).toBe('+OK');
    expect(await a.send('EXISTS', objectKey('03'))).toBe(':1');
    expect(await b.send('EXISTS', objectKey('01'))).toBe(':0');
  });

  test('other ranks, groups and models have lengths of their own', async () => {
    const client = await lmcache('a');
    expect(await client.send('SET', `m${prefix}@01000100@0@aa`, pattern(100_000, 1))).toBe('+OK');
    expect(await client.send('SET', `m${prefix}@02010201@0@aa`, pattern(50_000, 2))).toBe('+OK');
    expect(await client.send('SET', `m${prefix}@01000100@1@aa`, pattern(25_000, 3))).toBe('+OK');
    for (const key of ['01000100@0', '02010201@0', '01000100@1']) expect(await client.send('EXISTS', `m${prefix}@${key}@aa`)).toBe(':1');
  });

  test('an overwrite with another length is what a GET gives', async () => {
    const client = await lmcache('a');
    expect(await client.send('SET', objectKey('01'), pattern(100_000, 1))).toBe('+OK');
    expect(await client.send('SET', objectKey('01'), pattern(70_000, 2))).toBe('+OK');
    expect(same((await client.send('GET', objectKey('01'))) as Uint8Array, pattern(70_000, 2))).toBe(true);
  });

  test('opaque keys and cache-engine keys are never guarded', async () => {
    const [a, b] = [await lmcache('a'), await lmcache('b')];
    for (const key of [(n: number): string => `opaque-${prefix}-${n}`, (n: number): string => `m${prefix}@1@0@0${n}@half`]) {
      expect(await a.send('SET', key(1), pattern(100_000, 1))).toBe('+OK');
      expect(await b.send('SET', key(2), pattern(50_000, 2))).toBe('+OK');
      expect(await a.send('EXISTS', key(2))).toBe(':1');
      expect(same((await a.send('GET', key(2))) as Uint8Array, pattern(50_000, 2))).toBe(true);
    }
  });

  test('a connection outside of the profile is not guarded', async () => {
    const [a, b] = [await lmcache('a'), await lmcache('b')];
    expect(await a.send('SET', objectKey('01'), pattern(100_000, 1))).toBe('+OK');
    expect(await b.send('SET', objectKey('02'), pattern(50_000, 2))).toBe('+OK');
    await a.send('PING');
    expect(same((await a.send('GET', objectKey('02'))) as Uint8Array, pattern(50_000, 2))).toBe(true);
  });
});

test('--resp-profile redis has neither short errors nor a guard; --resp-profile lmcache has them for everybody', async () => {
  const redis = await startAgent({ flags: ['--resp-profile', 'redis', '--ssd', 'off'] });
  const [a, b] = [await lmcache('a', redis), await lmcache('b', redis)];
  expect(await a.send('SET', objectKey('01'), pattern(100_000, 1))).toBe('+OK');
  expect(await b.send('SET', objectKey('02'), pattern(50_000, 2))).toBe('+OK');
  expect(await a.send('EXISTS', objectKey('02'))).toBe(':1');
  expect(await a.send('SET', objectKey('03'), 'v', 'BAD')).toBe('-ERR syntax error');
  expect(await redis.stop(), redis.output()).toBe(0);
  const always = await startAgent({ flags: ['--resp-profile', 'lmcache', '--ssd', 'off'] });
  const [c, d] = [await lmcache('c', always), await lmcache('d', always)];
  await c.send('PING');
  expect(await c.send('SET', objectKey('01'), pattern(100_000, 1))).toBe('+OK');
  expect(await d.send('SET', objectKey('02'), pattern(50_000, 2))).toBe('+OK');
  expect(await c.send('EXISTS', objectKey('02'))).toBe(':0');
  expect(await c.send('SET', objectKey('03'), 'v', 'BAD')).toBe('-NO');
  expect(await always.stop(), always.output()).toBe(0);
});

describe('redis:// twins', () => {
  const twin = (): readonly [bytes: string, metadata: string] => [`m${prefix}@1@0@abcd@halfkv_bytes`, `m${prefix}@1@0@abcd@halfmetadata`];
  const value = pattern(150_000, 4);
  const meta = new TextEncoder().encode('{"shape":[2,32]}');

  test('both are read back, and either DEL removes both', async () => {
    const client = await lmcache('a');
    const [bytes, metadata] = twin();
    for (const doomed of [bytes, metadata]) {
      expect(await client.send('SET', bytes, value)).toBe('+OK');
      expect(await client.send('EXISTS', metadata)).toBe(':0');
      expect(await client.send('SET', metadata, meta)).toBe('+OK');
      expect(await client.send('EXISTS', bytes, metadata)).toBe(':2');
      expect(same((await client.send('GET', bytes)) as Uint8Array, value)).toBe(true);
      expect(await client.send('GET', metadata)).toEqual(meta);
      expect(await client.send('DEL', doomed)).toBe(':1');
      expect(await client.send('EXISTS', bytes, metadata)).toBe(':0');
      expect(await client.send('GET', metadata)).toBeUndefined();
    }
  });

  test('metadata that comes first waits for its value: EXISTS says yes only when both are there', async () => {
    const client = await lmcache('a');
    const [bytes, metadata] = twin();
    expect(await client.send('SET', metadata, meta)).toBe('+OK');
    expect(await client.send('EXISTS', metadata)).toBe(':0');
    expect(await client.send('GET', metadata)).toBeUndefined();
    expect(await client.send('SET', bytes, value)).toBe('+OK');
    expect(await client.send('EXISTS', metadata)).toBe(':1');
    expect(await client.send('GET', metadata)).toEqual(meta);
  });

  test('waiting metadata that was deleted does not come back with the value', async () => {
    const client = await lmcache('a');
    const [bytes, metadata] = twin();
    expect(await client.send('SET', metadata, meta)).toBe('+OK');
    await client.send('DEL', metadata);
    expect(await client.send('SET', bytes, value)).toBe('+OK');
    expect(await client.send('EXISTS', metadata)).toBe(':0');
  });

  test('an invalidation of the key and an overwrite of the value take the metadata along', async () => {
    const client = await lmcache('a');
    const [bytes, metadata] = twin();
    await client.send('SET', bytes, value);
    await client.send('SET', metadata, meta);
    expect((await agent.client.invalidate({ selector: { keys: [bytes] } })).matchedChunks).toBe(1);
    expect(await client.send('EXISTS', bytes, metadata)).toBe(':0');
    await client.send('SET', bytes, value);
    await client.send('SET', metadata, meta);
    await client.send('SET', bytes, pattern(150_000, 5));
    // The old metadata may describe another shape.
    expect(await client.send('GET', metadata)).toBeUndefined();
  });

  test('metadata above 512 bytes is refused, and large metadata too, without harm to the value', async () => {
    const client = await lmcache('a');
    const [bytes, metadata] = twin();
    await client.send('SET', bytes, value);
    for (const sizeBytes of [513, 100_000]) expect(await client.send('SET', metadata, pattern(sizeBytes, 1))).toBe('-NO');
    expect(await client.send('SET', metadata, pattern(512, 1))).toBe('+OK');
    expect(same((await client.send('GET', bytes)) as Uint8Array, value)).toBe(true);
  });

  test('a demoted entry keeps both', async () => {
    const client = await lmcache('a');
    const [bytes, metadata] = twin();
    await client.send('SET', bytes, value);
    await client.send('SET', metadata, meta);
    expect(await agent.client.persist({ keys: [bytes] })).toMatchObject({ failed: 0 });
    expect(await agent.client.evict({ selector: { keys: [bytes] }, tier: 'ram' })).toMatchObject({ evicted: 1 });
    expect((await agent.client.lookup([bytes])).answers[0]?.tier).toBe('ssd');
    expect(await client.send('GET', metadata)).toEqual(meta);
    expect(same((await client.send('GET', bytes)) as Uint8Array, value)).toBe(true);
  });

  test('an evicted entry loses both', async () => {
    const small = await startAgent({ flags: ['--ram', '32MiB', '--ssd', 'off'] });
    const client = await lmcache('a', small);
    const [bytes, metadata] = twin();
    await client.send('SET', bytes, value);
    await client.send('SET', metadata, meta);
    // More than the tier holds, of its own size and of another.
    for (let index = 0; index < 200; index += 1)
      expect(await client.send('SET', `filler-${index}`, pattern(150_000 + (index % 2), index))).toBe('+OK');
    for (let index = 0; index < 60; index += 1) expect(await client.send('SET', `filler-${index}`, pattern(1024 ** 2, index))).toBe('+OK');
    expect(await client.send('EXISTS', bytes, metadata)).toBe(':0');
    expect(await client.send('GET', metadata)).toBeUndefined();
    expect(await small.stop(), small.output()).toBe(0);
  });
});
