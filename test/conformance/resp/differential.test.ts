/** The same bytes to redis-server and to us: the same bytes must come back, but for what documented-differences.ts lists. */
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { encodeCommand } from '#testsupport/naive-resp.ts';
import { arrayElements, RawRespClient } from '#testsupport/raw-resp.ts';
import { NO_REDIS_SERVER, redisServerVersion, startRedisServer, type RedisServer } from '#testsupport/redis-server.ts';
import { startRespSubject, type RespSubject } from '#testsupport/resp-subject.ts';

const keys = [
  'a',
  'b',
  'key:1',
  'key:2',
  '',
  'bin\0\r\n\xff',
  'a@b',
  'm@01000100@0@ab',
  'm@01000100@0@ac',
  'm@01000100@0@ab@alice',
  'm@1@0@ab@half',
  'k'.repeat(2048),
] as const;
const key = fc.constantFrom(...keys);
const smallValue = fc.constantFrom('', '0', 'x', 'a\r\nb', '$-1\r\n', '\0\xff', 'v'.repeat(100));
const value = fc.oneof(
  { weight: 6, arbitrary: smallValue },
  // Around the size from which values are streamed, and beyond one read of a socket. Spelled out by `encode` only, so that a
  // counterexample stays readable.
  { weight: 1, arbitrary: fc.constantFrom('<16383 bytes>', '<16384 bytes>', '<16385 bytes>', '<70000 bytes>', '<300000 bytes>') },
);
const anyCase = (name: string): fc.Arbitrary<string> => fc.constantFrom(name, name.toLowerCase(), name[0] + name.slice(1).toLowerCase());
const named = (name: string, ...rest: fc.Arbitrary<string | string[]>[]): fc.Arbitrary<string[]> =>
  fc.tuple(anyCase(name), ...rest).map((parts) => parts.flat());
const many = (item: fc.Arbitrary<string>): fc.Arbitrary<string[]> => fc.array(item, { minLength: 1, maxLength: 6 });
const pattern = fc.constantFrom(
  '*',
  'key:*',
  'key:?',
  '?',
  '[ab]',
  '[^a]',
  '[b-a]',
  'a\\@b',
  'm@*@ab',
  'nothing',
  '',
  '*[12]',
  '[',
  'key:[',
  '\\',
);

/** No time that comes while the test runs: the two servers are not asked in the same millisecond. */
const time = fc.constantFrom(
  '100',
  '7200',
  '5000000',
  '0',
  '-1',
  'x',
  '',
  '01',
  '+1',
  '-0',
  '9223372036854775807',
  '9223372036854775808',
  '1.5',
  ' 1',
);
const point = fc.constantFrom(
  '4000000000',
  '4000000001',
  '99000000000',
  '1',
  '0',
  '-5',
  '-9223372036854775808',
  '9223372036854775808',
  'never',
);
const rules = fc.constantFrom<string[]>(
  [],
  ['NX'],
  ['xx'],
  ['NX', 'XX'],
  ['NX', 'NX'],
  ['BAD'],
  ['NX', 'GT'],
  ['GT', 'LT'],
  ['XX', 'LT', 'GT'],
);
/** With points in time only: a relative time is later than itself a moment ago. */
const order = fc.oneof(rules, fc.constantFrom<string[]>(['GT'], ['lt'], ['XX', 'GT'], ['LT', 'XX'], ['GT', 'GT']));
const setTimes = fc
  .tuple(
    fc.constantFrom([], ['NX'], ['XX']),
    fc.oneof(
      fc.constantFrom(
        ['KEEPTTL'],
        ['keepttl', 'KEEPTTL'],
        ['EX'],
        ['EX', '10', 'PX', '10'],
        ['KEEPTTL', 'EX', '10'],
        ['PXAT', '1', 'KEEPTTL'],
      ),
      fc.tuple(fc.constantFrom('EX', 'px'), time),
      fc.tuple(fc.constantFrom('EX', 'PX'), fc.constantFrom('100'), fc.constantFrom('EX', 'PX'), fc.constantFrom('200')),
      // The same points in both units; seconds beyond the year 5138 are a documented difference.
      fc.tuple(fc.constant('EXAT'), fc.constantFrom('4000000000', '4000000001', 'x', '-1', '0', '9223372036854775808')),
      fc.tuple(fc.constant('PXAT'), fc.constantFrom('4000000000000', '4000000000001', 'x', '-1', '0', '9223372036854775808')),
    ),
    fc.constantFrom([], ['NX'], ['XX']),
  )
  .map((parts) => parts.flat());

function encode(args: readonly string[]): string {
  return encodeCommand(
    args.map((arg) => {
      const sizeBytes = Number(/^<(\d+) bytes>$/.exec(arg)?.[1] ?? -1);
      return sizeBytes < 0 ? arg : 'abcdefg\r\n'.repeat(sizeBytes / 9 + 1).slice(0, sizeBytes);
    }),
  );
}

/** Replies of these are compared as sets. */
const unordered = new Set(['KEYS']);

const command: fc.Arbitrary<string[]> = fc.oneof(
  { weight: 4, arbitrary: named('SET', key, value) },
  { weight: 4, arbitrary: named('GET', key) },
  { weight: 2, arbitrary: named('SET', key, value, fc.constantFrom(['NX'], ['xx'], ['NX', 'NX'], ['NX', 'XX'], ['BAD'], ['EX'])) },
  { weight: 3, arbitrary: named('SET', key, value, setTimes) },
  { weight: 2, arbitrary: fc.oneof(named('SETEX', key, time, value), named('PSETEX', key, time, value)) },
  { weight: 4, arbitrary: fc.oneof(named('TTL', key), named('PTTL', key), named('EXPIRETIME', key), named('PEXPIRETIME', key)) },
  { weight: 3, arbitrary: fc.oneof(named('EXPIRE', key, time, rules), named('PEXPIRE', key, time, rules)) },
  { weight: 3, arbitrary: fc.oneof(named('EXPIREAT', key, point, order), named('PEXPIREAT', key, point, order)) },
  { weight: 2, arbitrary: named('PERSIST', key) },
  { weight: 2, arbitrary: named('MGET', many(key)) },
  {
    weight: 2,
    arbitrary: named(
      'MSET',
      fc.array(fc.tuple(key, value), { minLength: 1, maxLength: 4 }).map((pairs) => pairs.flat()),
    ),
  },
  { weight: 2, arbitrary: named('EXISTS', many(key)) },
  { weight: 2, arbitrary: fc.oneof(named('DEL', many(key)), named('UNLINK', many(key))) },
  { weight: 2, arbitrary: fc.oneof(named('STRLEN', key), named('TYPE', key), named('TOUCH', many(key))) },
  { weight: 1, arbitrary: fc.oneof(named('DBSIZE'), named('KEYS', pattern)) },
  {
    weight: 1,
    arbitrary: fc.oneof(
      named('PING'),
      named('PING', smallValue),
      named('ECHO', smallValue),
      named('SELECT', fc.constantFrom('0', 'x', '99', '-1')),
    ),
  },
  { weight: 1, arbitrary: fc.oneof(named('FLUSHALL'), named('FLUSHDB', fc.constantFrom('ASYNC', 'sync', 'x'))) },
  // Wrong numbers of arguments, and commands that nobody knows.
  {
    weight: 1,
    arbitrary: fc
      .tuple(
        fc.constantFrom(
          'GET',
          'SET',
          'mget',
          'MSET',
          'EXISTS',
          'DEL',
          'UNLINK',
          'STRLEN',
          'TYPE',
          'TOUCH',
          'DBSIZE',
          'ECHO',
          'PING',
          'KEYS',
          'SETEX',
          'psetex',
          'TTL',
          'EXPIRE',
          'PEXPIREAT',
          'persist',
          'PEXPIRETIME',
          'NoSuch',
          '',
        ),
        fc.constantFrom([], ['x'], ['x', 'y'], ['x', 'y', 'z']),
      )
      .filter(([name, rest]) => !(name === 'KEYS' && rest.length === 1))
      .map(([name, rest]) => [name, ...rest]),
  },
);

/** Cuts `text` at the given fractions, so that commands and values are torn apart. */
function cut(text: string, fractions: readonly number[]): string[] {
  const at = [...new Set(fractions.map((fraction) => Math.floor(fraction * text.length)))].sort((a, b) => a - b);
  return [0, ...at].map((start, index) => text.slice(start, at[index] ?? text.length)).filter((piece) => piece !== '');
}

/** What the milliseconds between the two servers may make of a time, in the unit of the command. */
const tolerances: Readonly<Record<string, number>> = { PTTL: 2000, TTL: 2, EXPIRETIME: 2, PEXPIRETIME: 2000 };

/** What we answered, or what redis did where it is the same but for the time between the two. */
function near(args: readonly string[], expected: string | undefined, seen: string | undefined): string | undefined {
  const tolerance = tolerances[(args[0] ?? '').toUpperCase()] ?? 0;
  const [theirs, ours] = [expected, seen].map((reply) => Number(/^:(\d{3,})\r\n$/.exec(reply ?? '')?.[1] ?? Number.NaN));
  return tolerance > 0 && Math.abs((theirs ?? 0) - (ours ?? 0)) <= tolerance ? expected : seen;
}

function comparable(args: readonly string[], reply: string | undefined): string | string[] | undefined {
  if (reply !== undefined && reply.length > 10_000) {
    // A failure should be readable; 64 bits tell two replies apart.
    return `${reply.slice(0, 40)}... ${reply.length} characters, hash ${Bun.hash(reply)}`;
  }
  if (reply === undefined || !unordered.has((args[0] ?? '').toUpperCase()) || !reply.startsWith('*')) return reply;
  return arrayElements(reply).sort();
}

describe.skipIf(redisServerVersion() === undefined)(`RESP door beside redis-server (skipped where ${NO_REDIS_SERVER})`, () => {
  let redis: RedisServer;
  let subject: RespSubject;

  beforeAll(async () => {
    redis = await startRedisServer();
    subject = await startRespSubject();
  });
  afterAll(async () => {
    await redis?.stop();
    await subject?.stop();
  });

  async function pair(): Promise<[RawRespClient, RawRespClient]> {
    return Promise.all([RawRespClient.connect(redis), RawRespClient.connect(subject)]);
  }

  /** Runs `use` on a fresh and empty pair of servers. */
  async function onEmptyPair(version: 2 | 3, use: (theirs: RawRespClient, ours: RawRespClient) => Promise<void>): Promise<void> {
    const clients = await pair();
    try {
      for (const client of clients) {
        await client.exchange([encodeCommand(['FLUSHALL'])], 1);
        if (version === 3) await client.exchange([encodeCommand(['HELLO', '3'])], 1);
      }
      await use(...clients);
    } finally {
      for (const client of clients) client.close();
    }
  }

  async function sameReplies(version: 2 | 3, commands: readonly string[][], fractions: readonly number[] | undefined): Promise<void> {
    await onEmptyPair(version, async (theirs, ours) => {
      if (fractions === undefined) {
        for (const args of commands) {
          const [expected, seen] = await Promise.all([theirs, ours].map((client) => client.exchange([encode(args)], 1)));
          expect(comparable(args, near(args, expected?.replies[0], seen?.replies[0]))).toEqual(comparable(args, expected?.replies[0]));
        }
        return;
      }
      const pieces = cut(commands.map(encode).join(''), fractions);
      const [expected, seen] = await Promise.all([theirs, ours].map((client) => client.exchange(pieces, commands.length)));
      expect(commands.map((args, index) => comparable(args, near(args, expected?.replies[index], seen?.replies[index])))).toEqual(
        commands.map((args, index) => comparable(args, expected?.replies[index])),
      );
    });
  }

  const version = fc.constantFrom<2 | 3>(2, 3);
  const commands = fc.array(command, { minLength: 1, maxLength: 25, size: 'max' });

  test('answers random commands one by one with the bytes of redis', async () => {
    await fc.assert(
      fc.asyncProperty(version, commands, (v, list) => sameReplies(v, list, undefined)),
      { numRuns: 60 },
    );
  });

  test('answers random pipelines, torn apart anywhere, with the bytes of redis', async () => {
    const fractions = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 6 });
    await fc.assert(fc.asyncProperty(version, commands, fractions, sameReplies), { numRuns: 60 });
  });

  test.each([
    [['GET', 'k']],
    [['MGET', 'k', 'other']],
    [['EXISTS', 'k', 'other']],
    [['STRLEN', 'k']],
    [['TYPE', 'k']],
    [['TOUCH', 'k']],
    [['TTL', 'k']],
    [['PEXPIRETIME', 'k']],
    [['PERSIST', 'k']],
    [['EXPIRE', 'k', '100']],
    [['PEXPIREAT', 'k', '1']],
    [['KEYS', '*']],
    [['SCAN', '0']],
    [['DEL', 'k']],
    [['SET', 'k', 'new', 'XX']],
    [
      ['SET', 'k', 'new', 'NX'],
      ['TTL', 'k'],
    ],
    [
      ['SET', 'k', 'v', 'KEEPTTL'],
      ['TTL', 'k'],
    ],
  ])('answers %j about a key whose time has passed with the bytes of redis', async (...asked) => {
    await onEmptyPair(2, async (theirs, ours) => {
      for (const past of [
        ['SET', 'k', 'v', 'PXAT', '1'],
        ['SET', 'k', 'v', 'EXAT', '1', 'XX'],
      ]) {
        const lists = [['SET', 'k', 'v'], ['SET', 'other', 'v'], past, ...asked, ['GET', 'k']];
        const pieces = [lists.map(encode).join('')];
        const [expected, seen] = await Promise.all([theirs, ours].map((client) => client.exchange(pieces, lists.length)));
        expect(seen?.replies).toEqual(expected?.replies);
      }
    });
  });

  test('lets NX, XX, GT and LT pass exactly what redis lets pass', async () => {
    await onEmptyPair(2, async (theirs, ours) => {
      const lists: string[][] = [];
      for (const before of [undefined, '4000000001000', 'absent']) {
        for (const rule of [[], ['NX'], ['XX'], ['GT'], ['LT'], ['XX', 'GT'], ['XX', 'LT']]) {
          for (const at of ['4000000000', '4000000001', '4000000002', '1']) {
            lists.push(['SET', 'k', 'v', ...(before === '4000000001000' ? ['PXAT', before] : [])]);
            if (before === 'absent') lists.push(['DEL', 'k']);
            lists.push(['EXPIREAT', 'k', at, ...rule], ['PEXPIRETIME', 'k'], ['PERSIST', 'k'], ['TTL', 'k']);
          }
        }
      }
      const pieces = [lists.map(encode).join('')];
      const [expected, seen] = await Promise.all([theirs, ours].map((client) => client.exchange(pieces, lists.length)));
      expect(lists.map((list, index) => [...list, seen?.replies[index]])).toEqual(
        lists.map((list, index) => [...list, expected?.replies[index]]),
      );
    });
  });

  test.each(['SETEX', 'PSETEX', 'SET'])(
    'takes values of %s with an expiry that are streamed, and what is wrong behind them',
    async (name) => {
      await onEmptyPair(2, async (theirs, ours) => {
        const lists = ['16384', '16385', '300000'].flatMap((size) =>
          ['100000', '0', 'x'].flatMap((ttl) => {
            const bytes = `<${size} bytes>`;
            const set = name === 'SET' ? [name, 'k', bytes, 'PX', ttl] : [name, 'k', ttl, bytes];
            return [set, ['EXISTS', 'k', ttl], ['STRLEN', 'k'], ['GET', 'k'], ['DEL', 'k']];
          }),
        );
        const pieces = [lists.map(encode).join('')];
        const [expected, seen] = await Promise.all([theirs, ours].map((client) => client.exchange(pieces, lists.length)));
        expect(lists.map((list, index) => comparable(list, seen?.replies[index]))).toEqual(
          lists.map((list, index) => comparable(list, expected?.replies[index])),
        );
      });
    },
  );

  test('gives every key once to a SCAN from cursor 0 to cursor 0, whatever COUNT and MATCH', async () => {
    const scanAll = async (client: RawRespClient, options: readonly string[]): Promise<string[]> => {
      const found = new Set<string>();
      let cursor = '0';
      do {
        const { replies } = await client.exchange([encodeCommand(['SCAN', cursor, ...options])], 1);
        const [next = '', page = ''] = arrayElements(replies[0] ?? '');
        if (!next.startsWith('$')) return replies;
        cursor = next.split('\r\n')[1] ?? '0';
        for (const item of arrayElements(page)) found.add(item);
      } while (cursor !== '0');
      return [...found].sort();
    };
    await onEmptyPair(2, async (theirs, ours) => {
      for (const client of [theirs, ours]) {
        await client.exchange([encodeCommand(['MSET', ...Array.from({ length: 300 }, (_, index) => [`k:${index}`, 'v']).flat()])], 1);
      }
      for (const options of [
        [],
        ['COUNT', '7'],
        ['MATCH', 'k:1?'],
        ['count', '1000', 'match', '*9'],
        ['TYPE', 'string'],
        ['MATCH', 'k:[0-4]*', 'COUNT', '3'],
      ]) {
        expect(await scanAll(ours, options)).toEqual(await scanAll(theirs, options));
      }
      for (const bad of [['x'], ['0', 'COUNT', '0'], ['0', 'COUNT'], ['0', 'COUNT', 'x'], ['0', 'FOO', 'x'], []]) {
        const [expected, seen] = await Promise.all([theirs, ours].map((client) => client.exchange([encodeCommand(['SCAN', ...bad])], 1)));
        expect(seen?.replies).toEqual(expected?.replies);
      }
    });
  });

  test.each([
    'PING\r\n',
    'ping\n',
    '\r\n\r\nPING\r\n',
    '  PING  hello \r\n',
    'ECHO "a\\x41\\n"\r\n',
    "SET q 'it\\'s'\r\nGET q\r\n",
    'SET e ""\r\nSTRLEN e\r\nGET e\r\n',
    'NOSUCH a b\r\n',
    '*0\r\nPING\r\n',
    '*-1\r\nPING\r\n',
    '*1\r\n$4\r\nPING\r\nPING\r\n*1\r\n$4\r\nping\r\n',
    'GET\r\n',
    '$5\r\n',
  ])('answers the inline or unusual input %j with the bytes of redis', async (input) => {
    await onEmptyPair(2, async (theirs, ours) => {
      const end = encodeCommand(['QUIT']);
      const [expected, seen] = await Promise.all([theirs, ours].map((client) => client.untilClosed([input + end])));
      expect(seen).toEqual(expected);
    });
  });

  test.each([
    '*1\r\n*1\r\n',
    '*1\r\nPING\r\n',
    '*x\r\n',
    '*+1\r\n',
    '*01\r\n',
    '*2147483648\r\n',
    '*9223372036854775808\r\n',
    '*1\r\n$-1\r\n',
    '*1\r\n$+4\r\nPING\r\n',
    '*1\r\n$04\r\nPING\r\n',
    '*1\r\n$x\r\n',
    '*1\r\n$536870913\r\n',
    '*1\r\n$9223372036854775808\r\n',
    '*3\r\n$3\r\nSET\r\n$1\r\na\r\n$99999999999999999999\r\n',
    'SET a "b\r\n',
    "SET a 'b\r\n",
    'SET a "b"c\r\n',
    'PING\r\n*1\r\n$-1\r\nPING\r\n',
    '*2\r\n$3\r\nGET\r\n$1\r\na\r\n*1\r\n!',
  ])('answers the protocol error %j with the bytes of redis, and closes', async (input) => {
    await onEmptyPair(2, async (theirs, ours) => {
      // A line that redis still waits for is ended, so that it answers.
      const [expected, seen] = await Promise.all([theirs, ours].map((client) => client.untilClosed([`${input}\r\n`])));
      expect(seen).toEqual(expected);
    });
  });

  test('answers a line of 66,000 bytes with the error of redis, and closes', async () => {
    await onEmptyPair(2, async (theirs, ours) => {
      const [expected, seen] = await Promise.all([theirs, ours].map((client) => client.untilClosed(['x'.repeat(66_000)])));
      expect(seen).toEqual(expected);
    });
  });
});
