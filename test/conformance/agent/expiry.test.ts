/** Expiries on the real agent: what REST, metrics, SQLite and the command line show of them, defaults of the configuration, and kill -9. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { afterAll, expect, test } from 'vitest';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import { until } from '#testsupport/agent-probes.ts';
import { runCli } from '#testsupport/cli-process.ts';
import { ValueClient } from '#testsupport/value-client.ts';

const HOUR = 3_600_000;
const FAR = 4_000_000_000_000;
const MODEL = 'org/alpha@000000ff@0@';
const dataDir = mkdtempSync(join(tmpdir(), 'kvtier-expiry-'));
let agent: RunningAgent | undefined;
afterAll(async () => {
  await agent?.kill9();
  rmSync(dataDir, { recursive: true, force: true });
});

async function begin(flags: readonly string[] = []): Promise<{ agent: RunningAgent; client: ValueClient }> {
  agent = await startAgent({ dataDir, flags: ['--ssd-idle-after', '1ms', '--resp-profile', 'redis', ...flags] });
  return { agent, client: await ValueClient.connect(agent.resp) };
}

async function expiryOf(key: string): Promise<number | null | undefined> {
  const { chunks } = (await agent?.client.chunks({ keyPrefix: key })) ?? { chunks: [] };
  return chunks.find((chunk) => chunk.key === key)?.expiresAtMs;
}

function clean(): Promise<void> {
  return until('nothing is dirty', async () => (await agent?.client.stats())?.tiers.every(({ dirtyBytes }) => dirtyBytes === 0) === true);
}

test('an expiry is shown by REST, the SQLite view and kvtier ls, counted by metrics, and holds over kill -9 without a catalog', async () => {
  let { client } = await begin();
  await client.command('SET', 'given', 'v', 'PXAT', String(FAR));
  await client.command('SET', 'forward', 'v', 'EX', '360000');
  await client.command('SET', 'never', 'v');
  await client.command('SET', 'soon', 'v', 'PX', '200');
  await clean();
  await client.command('PEXPIREAT', 'forward', String(Date.now() + HOUR));
  const forward = await client.command('PEXPIRETIME', 'forward');
  await until('the sweep has come', async () => (await agent?.client.stats())?.expiredChunks === 1);
  expect(await agent?.client.metrics()).toContain('kvtier_expired_chunks_total 1\n');
  expect([await expiryOf('given'), await expiryOf('forward'), await expiryOf('never'), await expiryOf('soon')]).toEqual([
    FAR,
    forward,
    null,
    undefined,
  ]);
  const listed = await runCli(['ls', '--url', agent?.url ?? '']);
  expect(listed.stdout).toMatch(/EXPIRES/);
  expect(listed.stdout).toMatch(/in (1 h|60 min|59\.\d min) .*forward/);
  expect(listed.stdout).toMatch(/ - .*never/);
  const database = new Database(join(dataDir, 'catalog.db'), { readonly: true });
  const rows = (): unknown => database.prepare('SELECT key, expires_at, expires_at_ms FROM cached_chunk ORDER BY key').raw().all();
  await until('the rows have followed', () => JSON.stringify(rows()).includes(String(forward)));
  expect(rows()).toEqual([
    ['forward', new Date(Number(forward)).toISOString().slice(0, 19).replace('T', ' '), forward],
    ['given', '2096-10-02 07:06:40', FAR],
    ['never', null, null],
  ]);
  database.close();

  for (const lost of [false, true]) {
    client.close();
    await agent?.kill9();
    if (lost) rmSync(join(dataDir, 'catalog.db'));
    ({ client } = await begin());
    await until('adoption is over', async () => (await agent?.client.stats())?.recovery.done === true);
    expect([await expiryOf('given'), await expiryOf('forward'), await expiryOf('never'), await expiryOf('soon')]).toEqual([
      FAR,
      forward,
      null,
      undefined,
    ]);
    expect(await client.command('GET', 'soon')).toBeUndefined();
  }
  client.close();
  await agent?.kill9();
});

test('a put without an expiry takes the default of its model and tenant, and INFO counts what expires', async () => {
  const { client } = await begin([
    '--ttl-default',
    '7d',
    '--ttl-rules',
    'org/alpha@salt=1h',
    '--ttl-rules',
    'org/*=2h',
    '--ttl-rules',
    '=off',
  ]);
  await client.command('FLUSHALL');
  await client.command('SET', `${MODEL}aa01@salt`, 'v');
  await client.command('SET', `${MODEL}aa02`, 'v');
  await client.command('SET', 'zeta@000000ff@0@aa03', 'v');
  await client.command('SET', 'opaque', 'v');
  await client.command('SET', `${MODEL}aa04`, 'v', 'EX', '100');
  const left = async (key: string): Promise<number> => Number(await client.command('TTL', key));
  const ttls = [
    await left(`${MODEL}aa01@salt`),
    await left(`${MODEL}aa02`),
    await left('zeta@000000ff@0@aa03'),
    await left('opaque'),
    await left(`${MODEL}aa04`),
  ];
  for (const [index, wanted] of [3600, 7200, 7 * 86_400, -1, 100].entries())
    expect(Math.abs((ttls[index] ?? 0) - wanted), String(index)).toBeLessThan(60);
  expect(String(await client.command('INFO', 'keyspace'))).toContain('keys=5,expires=4');
  await client.command('PERSIST', `${MODEL}aa02`);
  expect(await left(`${MODEL}aa02`)).toBe(-1);
  // The same bytes again are a put like any other.
  await client.command('SET', `${MODEL}aa02`, 'v');
  expect(await left(`${MODEL}aa02`)).toBeGreaterThan(7000);
  client.close();
});

test('a read token may look at an expiry and not change it', async () => {
  await agent?.kill9();
  agent = await startAgent({ dataDir, token: 'admin-token', flags: ['--read-token', 'read-token', '--resp-profile', 'redis'] });
  const admin = await ValueClient.connect(agent.resp);
  await admin.command('AUTH', 'admin-token');
  await admin.command('SET', 'k', 'v', 'EX', '100');
  const reader = await ValueClient.connect(agent.resp);
  await reader.command('AUTH', 'read-token');
  expect(await reader.command('TTL', 'k')).toBe(100);
  for (const refused of [
    ['EXPIRE', 'k', '1'],
    ['PEXPIRE', 'k', '1'],
    ['EXPIREAT', 'k', '1'],
    ['PEXPIREAT', 'k', '1'],
    ['PERSIST', 'k'],
    ['SETEX', 'k', '1', 'v'],
    ['PSETEX', 'k', '1', 'v'],
  ]) {
    await expect(reader.command(...refused), refused[0]).rejects.toThrow('NOPERM');
  }
  expect(await admin.command('TTL', 'k')).toBe(100);
  admin.close();
  reader.close();
});
