/** TLS on HTTP and RESP with the clients that people have: redis-cli, ioredis, node's sockets, fetch, curl, our own command line. */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect as connectPlain } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect, type TLSSocket } from 'node:tls';
import { Redis } from 'ioredis';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import { until } from '#testsupport/agent-probes.ts';
import { ByteClient, command, pattern, same } from '#testsupport/byte-client.ts';
import { cleanEnvironment, runCli } from '#testsupport/cli-process.ts';

const admin = 'admin-token-tls';
const MiB = 1024 * 1024;
let folder: string;
let ca: string;
let agent: RunningAgent;
const path = (name: string): string => join(folder, name);

function certificate(name: string): void {
  const subject = ['-subj', '/CN=kvtier', '-addext', 'subjectAltName=IP:127.0.0.1,DNS:localhost'];
  const files = ['-keyout', path(`${name}.key`), '-out', path(`${name}.pem`)];
  execFileSync(
    'openssl',
    ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2', ...subject, ...files],
    { stdio: 'ignore' },
  );
}

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'kvtier-tls-'));
  certificate('agent');
  certificate('other');
  ca = readFileSync(path('agent.pem'), 'utf8');
  agent = await startAgent({
    token: admin,
    flags: [
      '--tls-cert',
      path('agent.pem'),
      '--tls-key',
      path('agent.key'),
      '--ram',
      '256MiB',
      '--ram-max-chunk',
      '64MiB',
      '--resp-stall',
      '2s',
    ],
  });
});
afterAll(async () => {
  expect(await agent.stop(), agent.output()).toBe(0);
  rmSync(folder, { recursive: true });
});

function secure(): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: agent.resp.host, port: agent.resp.port, ca, servername: 'localhost' }, () => resolve(socket));
    socket.once('error', reject);
  });
}

async function client(): Promise<ByteClient> {
  const opened = new ByteClient(await secure());
  expect(await opened.send('AUTH', admin)).toBe('+OK');
  return opened;
}

describe('RESP', () => {
  test.each([0, 1, 16 * 1024, 64 * 1024 + 1, MiB - 1, MiB, 5 * MiB + 3, 64 * MiB])(
    'a value of %d bytes goes in and comes back',
    async (size) => {
      const own = await client();
      const value = pattern(size, size % 251);
      expect(await own.send('SET', `size-${size}`, value)).toBe('+OK');
      expect(same((await own.send('GET', `size-${size}`)) as Uint8Array, value)).toBe(true);
      // From SSD, where the checksum that was counted while it arrived is compared.
      for (const [route, order] of [
        ['persist', {}],
        ['evict', { tier: 'ram' }],
      ] as const)
        expect((await ask(`/v1/${route}`, { selector: { keys: [`size-${size}`] }, ...order })).status).toBe(200);
      expect(same((await own.send('GET', `size-${size}`)) as Uint8Array, value)).toBe(true);
      expect((await fetchJson<{ io: { checksumMismatches: number } }>('/v1/stats')).io.checksumMismatches).toBe(0);
      own.destroy();
    },
  );

  test('values, small commands and refusals in one stream, cut anywhere, are answered in order', async () => {
    const own = await client();
    const values = [70_000, 3, 900_000, 17_000, 2 * MiB + 7].map((size, index) => pattern(size, index));
    const parts: Uint8Array[] = [];
    for (const [index, value] of values.entries()) {
      parts.push(
        command('SET', `cut-${index}`, value),
        command('EXISTS', `cut-${index}`),
        command('SET', 'k'.repeat(3000), value),
        command('GET', `cut-${index}`),
      );
    }
    const stream = Buffer.concat(parts);
    for (let at = 0, step = 1; at < stream.length; at += step, step = (step * 7 + 13) % 90_001)
      own.write(new Uint8Array(stream.subarray(at, at + step)));
    for (const value of values) {
      expect(await own.reply()).toBe('+OK');
      expect(await own.reply()).toBe(':1');
      expect(await own.reply()).toMatch(/^-ERR key is too long/);
      expect(same((await own.reply()) as Uint8Array, value)).toBe(true);
    }
    own.destroy();
  });

  test('MSET and MGET of large values on many connections at once mix nothing up', async () => {
    await Promise.all(
      Array.from({ length: 6 }, async (_, id) => {
        const own = await client();
        const values = [pattern(700_000 + id, id), pattern(100, id + 10), pattern(1_300_000 + id, id + 20)];
        expect(await own.send('MSET', ...values.flatMap((value, index) => [`m-${id}-${index}`, value]))).toBe('+OK');
        const got = (await own.send('MGET', ...values.map((_value, index) => `m-${id}-${index}`))) as readonly Uint8Array[];
        expect(got.map((value, index) => same(value, values[index] as Uint8Array))).toEqual([true, true, true]);
        own.destroy();
      }),
    );
  });

  test('a peer that does not read holds up nobody, and is closed when it stalls; its value stays whole', async () => {
    const own = await client();
    const value = pattern(48 * MiB, 3);
    expect(await own.send('SET', 'slow', value)).toBe('+OK');
    const lazy = await client();
    lazy.socket.pause();
    lazy.write(command('GET', 'slow'));
    expect(await own.send('PING')).toBe('+PONG');
    await until('the stalled peer is closed', async () => (await doorConnections()) === 1);
    expect(same((await own.send('GET', 'slow')) as Uint8Array, value)).toBe(true);
    lazy.destroy();
    own.destroy();
  });

  test('a value that stops half way, or whose peer leaves, is given up and its room comes back', async () => {
    const own = await client();
    const before = await ramUse();
    const quiet = await client();
    quiet.write(command('SET', 'half', pattern(20 * MiB, 1)).subarray(0, 7 * MiB));
    const gone = await client();
    await gone.written(command('SET', 'gone', pattern(20 * MiB, 2)).subarray(0, 9 * MiB));
    gone.destroy();
    await until('both are closed', async () => (await doorConnections()) === 1);
    expect(await own.send('EXISTS', 'half', 'gone')).toBe(':0');
    expect(await ramUse()).toBe(before);
    // Full room again: three values of the largest size fit.
    for (let id = 0; id < 3; id += 1) expect(await own.send('SET', `room-${id}`, pattern(50 * MiB, id))).toBe('+OK');
    own.destroy();
  });

  test('what speaks no TLS is closed and harms nobody', async () => {
    for (const bytes of ['PING\r\n', '*1\r\n$4\r\nPING\r\n', 'GET / HTTP/1.1\r\n\r\n', '\u0016\u0003\u0001', '\u0000'.repeat(4000)]) {
      const socket = connectPlain(agent.resp.port, agent.resp.host);
      let answer = '';
      socket.on('data', (data: Buffer) => void (answer += data.toString('latin1')));
      socket.on('error', () => undefined);
      const closed = new Promise((resolve) => void socket.on('close', resolve));
      socket.end(bytes, 'latin1');
      await closed;
      expect(answer).not.toContain('PONG');
      expect(answer).not.toContain('NOAUTH');
    }
    const own = await client();
    expect(await own.send('PING')).toBe('+PONG');
    own.destroy();
  });

  test('redis-cli and ioredis', async () => {
    const args = [
      '--tls',
      '--cacert',
      path('agent.pem'),
      '-h',
      '127.0.0.1',
      '-p',
      String(agent.resp.port),
      '-a',
      admin,
      '--no-auth-warning',
    ];
    const cli = spawnSync('redis-cli', [...args, 'SET', 'by-cli', 'x'.repeat(100_000)], { encoding: 'utf8' });
    expect(cli.stdout + cli.stderr).toBe('OK\n');
    const redis = new Redis({ host: '127.0.0.1', port: agent.resp.port, password: admin, tls: { ca }, lazyConnect: true });
    await redis.connect();
    expect(await redis.get('by-cli')).toBe('x'.repeat(100_000));
    const value = Buffer.from(pattern(3 * MiB, 9));
    await redis.set('by-ioredis', value);
    expect((await redis.getBuffer('by-ioredis'))?.equals(value)).toBe(true);
    redis.disconnect();
  });
});

interface FetchTls {
  readonly tls: { readonly ca: string };
}

function ask(route: string, body?: unknown): Promise<Response> {
  const init: RequestInit & FetchTls = {
    headers: { authorization: `Bearer ${admin}`, 'content-type': 'application/json' },
    tls: { ca },
    ...(body === undefined ? {} : { method: 'POST', body: JSON.stringify(body) }),
  };
  return fetch(`https://127.0.0.1:${agent.http.port}${route}`, init);
}

async function fetchJson<T>(route: string): Promise<T> {
  return (await (await ask(route)).json()) as T;
}

async function doorConnections(): Promise<number> {
  const { doors } = await fetchJson<{ doors: { door: string; connections: number }[] }>('/v1/stats');
  return doors.find(({ door }) => door === 'resp')?.connections ?? -1;
}

async function ramUse(): Promise<number> {
  return (
    (await fetchJson<{ tiers: { tier: string; usedBytes: number }[] }>('/v1/stats')).tiers.find(({ tier }) => tier === 'ram')?.usedBytes ??
    -1
  );
}

describe('HTTP', () => {
  test('fetch, curl and the command line, each with the certificate to trust; without it they refuse', async () => {
    expect((await ask('/readyz')).status).toBe(200);
    const url = `https://127.0.0.1:${agent.http.port}/v1/stats`;
    const curl = (...args: string[]): string =>
      spawnSync('curl', ['-sS', ...args, '-H', `authorization: Bearer ${admin}`, url], { encoding: 'utf8' }).stdout;
    expect(JSON.parse(curl('--cacert', path('agent.pem')))).toMatchObject({ scope: 'agent' });
    expect(curl()).toBe('');
    expect(spawnSync('curl', ['-sS', url.replace('https', 'http')], { encoding: 'utf8' }).stdout).not.toContain('scope');
    const env = { KVTIER_TOKEN: admin };
    const trusted = await runCli(['stats', '--json', '--data-dir', agent.dataDir], {
      env: { ...env, NODE_EXTRA_CA_CERTS: path('agent.pem') },
    });
    expect([trusted.code, trusted.stderr]).toEqual([0, '']);
    expect((await runCli(['stats', '--data-dir', agent.dataDir], { env })).code).not.toBe(0);
    const health = spawnSync(process.execPath, ['deploy/healthcheck.mjs'], {
      env: cleanEnvironment({ KVTIER_DATA_DIR: agent.dataDir }),
      encoding: 'utf8',
    });
    expect([health.stdout, health.status]).toEqual(['readyz: 200\n', 0]);
  });
});

describe('the files', () => {
  const start = (flags: readonly string[], extra: Readonly<Record<string, string>> = {}): { code: number | null; text: string } => {
    const args = [
      'node-agent/main.ts',
      'serve',
      '--data-dir',
      path('data'),
      '--http',
      '127.0.0.1:0',
      '--resp',
      'off',
      '--ssd',
      'off',
      '--ram',
      '16MiB',
      ...flags,
    ];
    const done = spawnSync(process.execPath, args, { env: cleanEnvironment(extra), encoding: 'utf8', timeout: 20_000 });
    return { code: done.status, text: done.stdout + done.stderr };
  };

  test('one without the other, unreadable, no PEM, or of another pair: exit code 78 and a sentence that names it', () => {
    writeFileSync(path('garbage'), 'no PEM at all: hunter2');
    const cases: readonly (readonly [readonly string[], RegExp])[] = [
      [['--tls-cert', path('agent.pem')], /--tls-cert is given without --tls-key/],
      [['--tls-key', path('agent.key')], /--tls-key is given without --tls-cert/],
      [['--tls-cert', path('absent'), '--tls-key', path('agent.key')], /Cannot read --tls-cert .*absent: ENOENT/],
      [['--tls-cert', path('garbage'), '--tls-key', path('agent.key')], /--tls-cert .*garbage: a certificate in PEM is wanted/],
      [['--tls-cert', path('agent.pem'), '--tls-key', path('garbage')], /--tls-key .*garbage: a private key in PEM/],
      [['--tls-cert', path('agent.pem'), '--tls-key', path('other.key')], /other\.key is not the key of the certificate/],
    ];
    for (const [flags, message] of cases) {
      const { code, text } = start(flags);
      expect(text).toMatch(message);
      expect(text).not.toContain('hunter2');
      expect(code).toBe(78);
    }
    expect(start([], { KVTIER_TLS_CERT: path('absent'), KVTIER_TLS_KEY: path('absent') }).text).toMatch(/Cannot read --tls-cert/);
  });

  test('the log names no line of the key', () => {
    for (const line of readFileSync(path('agent.key'), 'utf8')
      .split('\n')
      .filter((text) => text.length > 20))
      expect(agent.output()).not.toContain(line);
  });
});
