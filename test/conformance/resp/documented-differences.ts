/** Every row of "Differences from redis" in docs/formats/wire-resp.md; a test holds the two lists together and tries each entry. */
import { encodeCommand } from '#testsupport/naive-resp.ts';

export interface Difference {
  /** The first column of the table. */
  readonly subject: string;
  /** Sent at once after FLUSHALL, followed by QUIT unless `noQuit`. Undefined: `untested` says why. */
  readonly input: string | undefined;
  readonly noQuit?: true;
  /** All that comes back, without the OK of QUIT. */
  readonly redis: RegExp | undefined;
  readonly kvtier: RegExp;
  readonly untested?: string;
}

const twin = 'm@1@0@abcd@half';
const anything = /^/;

function commands(...list: string[][]): string {
  return list.map(encodeCommand).join('');
}

export const documentedDifferences: readonly Difference[] = [
  { subject: 'lifetime', input: undefined, redis: undefined, kvtier: anything, untested: 'eviction has suites of its own' },
  { subject: 'databases', input: commands(['SELECT', '1']), redis: /^\+OK\r\n$/, kvtier: /^-ERR DB index is out of range\r\n$/ },
  {
    subject: 'data types, transactions, scripts, pub/sub',
    input: commands(['LPUSH', 'list', 'x'], ['MULTI'], ['DISCARD'], ['EVAL', 'return 1', '0'], ['PUBLISH', 'c', 'm']),
    redis: /^:1\r\n\+OK\r\n\+OK\r\n:1\r\n:0\r\n$/,
    kvtier: /^(-ERR unknown command '(LPUSH|MULTI|DISCARD|EVAL|PUBLISH)'[^\r]*\r\n){5}$/,
  },
  {
    subject: 'key length',
    input: commands(['SET', 'k'.repeat(2049), 'v'], ['PING']),
    redis: /^\+OK\r\n\+PONG\r\n$/,
    kvtier: /^-ERR key is too long[^\r]*\r\n\+PONG\r\n$/,
  },
  {
    subject: 'argument that is no value',
    input: commands(['ECHO', 'e'.repeat(65_537)], ['PING']),
    redis: /^\$65537\r\ne+\r\n\+PONG\r\n$/,
    kvtier: /^-ERR argument is too long[^\r]*\r\n\+PONG\r\n$/,
  },
  {
    subject: 'number of arguments',
    input: commands(['EXISTS', ...Array.from({ length: 16_384 }, () => 'k')]),
    redis: /^:0\r\n$/,
    kvtier: /^-ERR Protocol error: invalid multibulk length\r\n$/,
  },
  {
    subject: 'CRLF behind a bulk string',
    input: '*1\r\n$4\r\nPINGXX',
    redis: /^\+PONG\r\n$/,
    kvtier: /^-ERR Protocol error: expected CRLF after bulk string\r\n$/,
  },
  {
    subject: 'length without an end',
    input: `*${'1'.repeat(66_000)}`,
    noQuit: true,
    redis: /^-ERR Protocol error: too big mbulk count string\r\n$/,
    kvtier: /^-ERR Protocol error: invalid multibulk length\r\n$/,
  },
  { subject: 'NUL in an inline command', input: 'PING \0\r\n', redis: undefined, kvtier: /^\$1\r\n\0\r\n$/ },
  {
    subject: 'HTTP words',
    input: 'POST / HTTP/1.1\r\nHost: x\r\n\r\nFLUSHALL\r\n',
    redis: /^$/,
    kvtier: /^-ERR Protocol error: HTTP request on a RESP port\r\n$/,
  },
  { subject: 'error text', input: commands(['\xff']), redis: /^-ERR unknown command '\xff'/, kvtier: /^-ERR unknown command '\?'/ },
  { subject: 'MSET', input: undefined, redis: undefined, kvtier: anything, untested: 'a race; kvtier promises less' },
  {
    subject: 'options of SET',
    input: commands(['SET', 'a', 'b', 'GET']),
    redis: /^\$-1\r\n$/,
    kvtier: /^-ERR syntax error\r\n$/,
  },
  {
    subject: 'far expiries',
    input: commands(['SET', 'a', 'b', 'PXAT', '9223372036854775807'], ['PEXPIRETIME', 'a']),
    redis: /^\+OK\r\n:9223372036854775807\r\n$/,
    kvtier: /^\+OK\r\n:100000000000000\r\n$/,
  },
  {
    subject: 'clock that is set back',
    input: undefined,
    redis: undefined,
    kvtier: anything,
    untested: 'test/unit/cache-expiry.test.ts has a clock that it can set',
  },
  {
    subject: 'AUTH without a password configured',
    input: commands(['AUTH', 'x'], ['AUTH', 'user', 'x']),
    redis: /^-ERR AUTH[^\r]*\r\n-WRONGPASS[^\r]*\r\n$/,
    kvtier: /^(\+OK\r\n){2}$/,
  },
  {
    subject: 'order of SCAN and KEYS',
    input: undefined,
    redis: undefined,
    kvtier: anything,
    untested: 'compared as sets in differential.test.ts',
  },
  {
    subject: "parts of LMCache's redis:// keys",
    input: commands(
      ['SET', `${twin}metadata`, 'm'],
      ['EXISTS', `${twin}metadata`],
      ['SET', `${twin}kv_bytes`, 'v'],
      ['SET', `${twin}metadata`, 'm'],
      ['GET', `${twin}metadata`],
      ['GET', `${twin}kv_bytes`],
      ['GET', twin],
      ['DEL', `${twin}metadata`],
      ['EXISTS', `${twin}kv_bytes`],
    ),
    redis: /^\+OK\r\n:1\r\n(\+OK\r\n){2}\$1\r\nm\r\n\$1\r\nv\r\n\$-1\r\n:1\r\n:1\r\n$/,
    kvtier: /^\+OK\r\n:0\r\n(\+OK\r\n){2}\$1\r\nm\r\n\$1\r\nv\r\n\$-1\r\n:1\r\n:0\r\n$/,
  },
  { subject: 'CLIENT, COMMAND, CONFIG, INFO', input: commands(['CLIENT', 'TRACKINGINFO']), redis: /^\*6\r\n/, kvtier: /^-ERR / },
];
