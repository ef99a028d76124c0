import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { encodeCommand } from '#testsupport/naive-resp.ts';
import { RawRespClient } from '#testsupport/raw-resp.ts';
import { NO_REDIS_SERVER, redisServerVersion, startRedisServer, type RedisServer } from '#testsupport/redis-server.ts';
import { respSubjectKind, startRespSubject, type RespSubject } from '#testsupport/resp-subject.ts';
import { documentedDifferences, type Difference } from './documented-differences.ts';

const testable = documentedDifferences.filter((difference) => difference.input !== undefined);

/** What `server` answers to `input` on an empty store; a connection that stays open is ended with QUIT. */
async function answer(server: { host: string; port: number }, { input = '', noQuit }: Difference): Promise<string> {
  const client = await RawRespClient.connect(server);
  try {
    await client.exchange([encodeCommand(['FLUSHALL'])], 1);
    const { replies } = await client.untilClosed([noQuit === true ? input : input + encodeCommand(['QUIT'])]);
    // A connection that a protocol error ended has no OK of QUIT.
    return replies.at(-1) === '+OK\r\n' ? replies.slice(0, -1).join('') : replies.join('');
  } finally {
    client.close();
  }
}

describe('documented differences from redis', () => {
  test('are the rows of the table in docs/formats/wire-resp.md, one entry each', () => {
    const page = readFileSync(new URL('../../../docs/formats/wire-resp.md', import.meta.url), 'utf8');
    const rows = (page.split('## Differences from redis')[1] ?? '')
      .split('\n')
      .filter((line) => line.startsWith('|'))
      .slice(2);
    expect(documentedDifferences.map(({ subject }) => subject)).toEqual(rows.map((row) => row.split('|')[1]?.trim()));
    for (const { input, untested } of documentedDifferences) expect((input === undefined) === (untested !== undefined)).toBe(true);
  });

  describe.skipIf(redisServerVersion() === undefined)(`on the side of redis (skipped where ${NO_REDIS_SERVER})`, () => {
    let redis: RedisServer;
    beforeAll(async () => {
      redis = await startRedisServer();
    });
    afterAll(() => redis?.stop());

    test.each(testable.filter(({ redis: expected }) => expected !== undefined))('hold for $subject', async (difference) => {
      expect(await answer(redis, difference)).toMatch(difference.redis ?? /^$/);
    });
  });

  describe.skipIf(respSubjectKind === 'redis')('on our side (skipped where redis is compared with itself)', () => {
    let subject: RespSubject;
    beforeAll(async () => {
      subject = await startRespSubject();
    });
    afterAll(() => subject?.stop());

    test.each(testable)('hold for $subject', async (difference) => {
      expect(await answer(subject, difference)).toMatch(difference.kvtier);
    });
  });
});
