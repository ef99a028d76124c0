/** redis-cli as people use it: the same scripts give the same output on redis-server and on us. */
import { spawn } from 'node:child_process';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { encodeCommand } from '#testsupport/naive-resp.ts';
import { hasRedisCli, redisServerVersion, startRedisServer, type RedisServer } from '#testsupport/redis-server.ts';
import { startRespSubject, type RespSubject } from '#testsupport/resp-subject.ts';

interface Address {
  readonly host: string;
  readonly port: number;
}

function run(program: string, args: readonly string[], input: string): Promise<{ code: number | null; output: string }> {
  return new Promise((resolve, reject) => {
    // redis-benchmark knocks at a door that is gone for ever.
    const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'], timeout: 40_000, killSignal: 'SIGKILL' });
    let output = '';
    child.stdout.on('data', (data: Buffer) => (output += data.toString('latin1')));
    child.stderr.on('data', (data: Buffer) => (output += data.toString('latin1')));
    child.once('error', reject);
    child.once('close', (code) => resolve({ code, output }));
    child.stdin.end(Buffer.from(input, 'latin1'));
  });
}

function redisCli(address: Address, args: readonly string[], input: string): Promise<{ code: number | null; output: string }> {
  return run('redis-cli', ['-h', address.host, '-p', String(address.port), ...args], input);
}

const script = `
FLUSHALL
PING
ECHO "two words"
SET a 1
SET a 2 NX
SET a 3 XX
GET a
GET nothing
SET "with space" "a\\x00b\\n"
STRLEN "with space"
MSET k1 v1 k2 v2 k3 v3
MGET k1 nothing k3
EXISTS k1 k1 nothing
TYPE k1
TYPE nothing
TOUCH k1 k2 nothing
DEL k1 nothing
UNLINK k2
DBSIZE
KEYS with*
SCAN 0 MATCH nothing* COUNT 1000
SELECT 0
CLIENT SETNAME me
CLIENT GETNAME
SET k1
SET k1 v1 BAD
NOSUCH a b
FLUSHDB
DBSIZE
`;

describe.skipIf(!hasRedisCli() || redisServerVersion() === undefined)(
  'redis-cli (skipped where redis-cli or redis-server is not installed)',
  () => {
    let redis: RedisServer;
    let subject: RespSubject;
    beforeAll(async () => {
      redis = await startRedisServer();
      subject = await startRespSubject();
    });
    afterAll(async () => {
      await subject?.stop();
      await redis?.stop();
    });

    test.each([
      ['RESP2', []],
      ['RESP2, formatted', ['--no-raw']],
      ['RESP3, formatted', ['-3', '--no-raw']],
      ['CSV', ['--csv']],
    ])('prints the same for a script in %s', async (_, args) => {
      const [expected, seen] = await Promise.all([redis, subject].map((address) => redisCli(address, args, script)));
      expect(seen).toEqual(expected);
      expect(expected?.code).toBe(0);
    });

    test('loads a stream of commands with --pipe and counts no error', async () => {
      const commands = ['FLUSHALL', ...Array.from({ length: 500 }, (_, index) => `SET pipe:${index} ${'v'.repeat(index * 50)}`)];
      const { output } = await redisCli(subject, ['--pipe'], commands.map((line) => encodeCommand(line.split(' '))).join(''));
      expect(output).toContain('errors: 0, replies: 501');
      expect((await redisCli(subject, [], 'DBSIZE\nSTRLEN pipe:499\n')).output).toBe('500\n24950\n');
    });

    test('takes a value from standard input with -x', async () => {
      const value = 'x'.repeat(100_000);
      expect((await redisCli(subject, ['-x', 'SET', 'stdin'], value)).output).toBe('OK\n');
      expect((await redisCli(subject, ['GET', 'stdin'], '')).output).toBe(`${value}\n`);
    });

    test.each([100, 60_000])('redis-benchmark sets and gets values of %i bytes in pipelines without an error', async (sizeBytes) => {
      const args = [
        '-h',
        subject.host,
        '-p',
        String(subject.port),
        '-t',
        'set,get,mset',
        '-n',
        '400',
        '-c',
        '5',
        '-P',
        '8',
        '-d',
        String(sizeBytes),
        '-r',
        '50',
        '--csv',
      ];
      const { code, output } = await run('redis-benchmark', args, '');
      expect(output).toContain('"SET"');
      expect(output).not.toMatch(/error/i);
      expect(code).toBe(0);
    });
  },
);
