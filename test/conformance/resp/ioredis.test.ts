/** A client library as people use it: connection set-up, buffers, pipelines, streams, many connections. */
import { Redis } from 'ioredis';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { startRespSubject, type RespSubject } from '#testsupport/resp-subject.ts';

let subject: RespSubject;
const open: Redis[] = [];
/** A connection that fails stays failed: a test must not pass on its second try. */
const once = { lazyConnect: true, maxRetriesPerRequest: 0, retryStrategy: () => null };

beforeAll(async () => {
  subject = await startRespSubject();
});
afterEach(() => {
  for (const client of open.splice(0)) client.disconnect();
});
afterAll(() => subject?.stop());

async function client(connectionName = ''): Promise<Redis> {
  const redis = new Redis(subject.port, subject.host, { ...once, db: 0, enableReadyCheck: true, connectionName });
  open.push(redis);
  await redis.connect();
  await redis.flushall();
  return redis;
}

/** Bytes that no two positions of share a pattern by chance: a shifted or repeated piece shows. */
function payload(sizeBytes: number, seed: number): Buffer {
  const words = new Uint32Array(Math.ceil(sizeBytes / 4));
  let state = seed | 1;
  for (let index = 0; index < words.length; index += 1) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    words[index] = state;
  }
  return Buffer.from(words.buffer, 0, sizeBytes);
}

describe('ioredis', () => {
  test('connects with its ready check, a client name and a database', async () => {
    const redis = await client('suite');
    expect(redis.status).toBe('ready');
    expect(await redis.client('GETNAME')).toBe('suite');
    expect(await redis.ping()).toBe('PONG');
  });

  test('stores and loads text, and answers null for what is absent', async () => {
    const redis = await client();
    expect(await redis.set('greeting', 'h\u00e9llo')).toBe('OK');
    expect([await redis.get('greeting'), await redis.get('absent')]).toEqual(['h\u00e9llo', null]);
    expect([await redis.set('greeting', 'x', 'NX'), await redis.set('absent', 'x', 'XX')]).toEqual([null, null]);
    expect([await redis.strlen('greeting'), await redis.type('greeting'), await redis.touch('greeting', 'absent')]).toEqual([
      6,
      'string',
      1,
    ]);
  });

  test('gets back the bytes it stored, from nothing to 8 MiB', async () => {
    const redis = await client();
    for (const sizeBytes of [0, 1, 4095, 16_384, 16_385, 131_072, 1_048_577, 8 * 1_048_576]) {
      const sent = payload(sizeBytes, sizeBytes);
      await redis.set(`blob:${sizeBytes}`, sent);
      const received = await redis.getBuffer(`blob:${sizeBytes}`);
      expect(received !== null && received.equals(sent), `${sizeBytes} bytes`).toBe(true);
    }
  });

  test('replaces a value by a shorter and by a longer one', async () => {
    const redis = await client();
    for (const sizeBytes of [200_000, 10, 300_000, 20_000]) {
      await redis.set('k', payload(sizeBytes, 7));
      expect((await redis.getBuffer('k'))?.equals(payload(sizeBytes, 7))).toBe(true);
    }
  });

  test('keeps the order of a pipeline that mixes large and small values', async () => {
    const redis = await client();
    const pipeline = redis.pipeline();
    for (let index = 0; index < 40; index += 1) pipeline.set(`p:${index}`, payload(index % 3 === 0 ? 60_000 : 20, index));
    for (let index = 0; index < 40; index += 1) pipeline.getBuffer(`p:${index}`);
    const results = (await pipeline.exec()) ?? [];
    expect(results.map(([error]) => error).filter((error) => error !== null)).toEqual([]);
    for (let index = 0; index < 40; index += 1) {
      const received = results[40 + index]?.[1];
      expect(Buffer.isBuffer(received) && received.equals(payload(index % 3 === 0 ? 60_000 : 20, index)), `value ${index}`).toBe(true);
    }
  });

  test('stores and loads many keys at once, among them large ones', async () => {
    const redis = await client();
    const values = Array.from({ length: 12 }, (_, index) => payload(index % 2 === 0 ? 50_000 : 5, index + 1));
    await redis.mset(values.flatMap((value, index): [string, Buffer] => [`m:${index}`, value]).flat());
    const received = await redis.mgetBuffer(...values.map((_, index) => `m:${index}`), 'absent');
    expect(received.map((value, index) => (value === null ? null : value.equals(values[index] ?? Buffer.alloc(0))))).toEqual([
      ...values.map(() => true),
      null,
    ]);
    expect(await redis.exists('m:0', 'm:0', 'absent', 'm:1')).toBe(3);
    expect(await redis.del('m:0', 'absent', 'm:1')).toBe(2);
    expect(await redis.unlink('m:2')).toBe(1);
    expect(await redis.dbsize()).toBe(9);
  });

  test('walks all keys with scanStream', async () => {
    const redis = await client();
    await redis.mset(Object.fromEntries(Array.from({ length: 250 }, (_, index) => [`s:${index}`, 'v'])));
    const found = new Set<string>();
    for await (const page of redis.scanStream({ match: 's:*', count: 20 })) for (const key of page as string[]) found.add(key);
    expect(found.size).toBe(250);
    expect((await redis.keys('s:1?')).length).toBe(10);
  });

  test('speaks RESP3', async () => {
    const redis = await client();
    const reply = await redis.call('HELLO', '3');
    expect(JSON.stringify(reply)).toContain('proto');
    expect([await redis.set('k', 'v'), await redis.get('k'), await redis.get('absent')]).toEqual(['OK', 'v', null]);
  });

  test('never gives one connection the bytes of another', async () => {
    await client();
    const clients = await Promise.all(
      Array.from({ length: 8 }, async () => {
        const redis = new Redis(subject.port, subject.host, once);
        open.push(redis);
        await redis.connect();
        return redis;
      }),
    );
    await Promise.all(
      clients.map(async (redis, owner) => {
        for (let round = 0; round < 10; round += 1) {
          const sent = payload(200_000 + owner * 1000 + round, owner * 100 + round);
          await redis.set(`c:${owner}`, sent);
          const received = await redis.getBuffer(`c:${owner}`);
          expect(received?.equals(sent), `connection ${owner}, round ${round}`).toBe(true);
        }
      }),
    );
  });

  test('gets an error for an unknown command, and the connection stays usable', async () => {
    const redis = await client();
    await expect(redis.call('NOSUCHCOMMAND', 'x')).rejects.toThrow("ERR unknown command 'NOSUCHCOMMAND'");
    await expect(redis.call('GET')).rejects.toThrow('wrong number of arguments');
    expect(await redis.ping()).toBe('PONG');
  });
});
