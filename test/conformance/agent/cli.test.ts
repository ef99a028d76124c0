/** The command line as processes of their own against a running agent: what is printed, what is JSON, and the exit codes of docs/cli.md. */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import packageJson from '#package.json' with { type: 'json' };
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import * as known from '#testsupport/agent-chunks.ts';
import type { ByteClient } from '#testsupport/byte-client.ts';
import { runCli, type CliResult, type CliStart } from '#testsupport/cli-process.ts';

const admin = 'admin-token-of-cli';
const reader = 'read-token-of-cli';
const alpha = [1, 2, 3].map((id) => known.objectChunk(id, { model: 'org/alpha', tenant: 'ann' }));
const opaque = ['one', 'two'].map((key) => known.opaqueChunk(key));
const all = [...alpha, ...opaque];

let folder: string;
let agent: RunningAgent;
let client: ByteClient;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'kvtier-cli-'));
  agent = await startAgent({
    dataDir: join(folder, '.kvtier'),
    token: admin,
    flags: ['--read-token', reader, '--ssd-admission', 'demote', '--tenants-reveal'],
  });
  client = await known.redisClient(agent, admin);
  await known.store(client, all);
});
afterAll(async () => {
  client.destroy();
  if (agent.process.exitCode === null) expect(await agent.stop(), agent.output()).toBe(0);
  rmSync(folder, { recursive: true, force: true });
});

/** With the admin token, in the folder whose `.kvtier` is the data directory. */
const kvtier = (args: readonly string[], options: CliStart = {}): Promise<CliResult> =>
  runCli(args, { cwd: folder, ...options, env: { KVTIER_TOKEN: admin, ...options.env } });

test('the agent is found in ./.kvtier, by --data-dir, KVTIER_DATA_DIR, --config, --url and KVTIER_URL, and --url wins', async () => {
  const elsewhere = { cwd: tmpdir() };
  const dataDir = join(folder, '.kvtier');
  const config = join(folder, 'kvtier.toml');
  writeFileSync(config, `dataDir = "${dataDir}"\ntoken = "${admin}"\n`);
  const dead = 'http://127.0.0.1:1';
  const runs = await Promise.all([
    kvtier(['ls', 'tenants', '--json']),
    kvtier(['ls', 'tenants', '--json', '--data-dir', dataDir], elsewhere),
    kvtier(['ls', 'tenants', '--json'], { ...elsewhere, env: { KVTIER_DATA_DIR: dataDir } }),
    runCli(['ls', 'tenants', '--json', '--config', config], elsewhere),
    kvtier(['ls', 'tenants', '--json', '--url', agent.url], elsewhere),
    kvtier(['ls', 'tenants', '--json'], { ...elsewhere, env: { KVTIER_URL: agent.url } }),
    kvtier(['ls', 'tenants', '--json', '--url', agent.url], { env: { KVTIER_URL: dead } }),
  ]);
  for (const [index, run] of runs.entries()) {
    expect([index, run.code, run.stderr]).toEqual([index, 0, '']);
    expect(
      (JSON.parse(run.stdout) as { tenants: { tenant: string }[] }).tenants.map(({ tenant }) => tenant),
      String(index),
    ).toEqual(['ann', 'default']);
  }
  const [nowhere, silent] = await Promise.all([
    kvtier(['stats', '--json', '--data-dir', join(folder, 'none')]),
    kvtier(['stats', '--json', '--url', dead]),
  ]);
  expect([nowhere.code, JSON.parse(nowhere.stderr)]).toMatchObject([66, { error: { code: 'NOT_FOUND' } }]);
  expect([silent.code, JSON.parse(silent.stderr)]).toMatchObject([74, { error: { code: 'IO_FAILED', retryable: true } }]);
  expect(silent.stderr).toContain('is the agent running?');
});

test('stats, ls and lookup print what REST answers, as JSON and as tables', async () => {
  const stats = await kvtier(['stats', '--json']);
  expect([stats.code, stats.stderr]).toEqual([0, '']);
  expect(JSON.parse(stats.stdout)).toMatchObject({ puts: all.length, putBytes: known.bytesOf(all), version: packageJson.version });
  const table = await kvtier(['stats']);
  expect(table.code).toBe(0);
  for (const word of ['ram', 'ssd', 'org/alpha', 'lookups', 'resp']) expect(table.stdout).toContain(word);

  const chunks = await kvtier(['ls', '--json', '--all', '--limit', '2']);
  expect((JSON.parse(chunks.stdout) as { chunks: { key: string }[]; cursor: null }).chunks.map(({ key }) => key).toSorted()).toEqual(
    known.keysOf(all),
  );
  const filtered = await kvtier([
    'ls',
    'chunks',
    '--json',
    '--model',
    'org/alpha',
    '--tenant',
    'ann',
    '--tier',
    'ram',
    '--key-prefix',
    'org/',
  ]);
  expect((JSON.parse(filtered.stdout) as { chunks: { key: string }[] }).chunks.map(({ key }) => key).toSorted()).toEqual(
    known.keysOf(alpha),
  );
  const page = await kvtier(['ls', '--limit', '4']);
  const cursor = /--cursor (\S+),/.exec(page.stderr)?.[1] ?? '';
  const next = await kvtier(['ls', '--json', '--cursor', cursor]);
  expect((JSON.parse(next.stdout) as { chunks: unknown[] }).chunks).toHaveLength(1);

  const found = await kvtier(['lookup', alpha[0]?.key ?? '', 'one']);
  expect([found.code, found.stdout]).toEqual([0, expect.stringContaining('ram') as string]);
  const gap = await kvtier(['lookup', '--json', 'one', 'absent', 'two']);
  expect([gap.code, (JSON.parse(gap.stdout) as { answers: { reason: string }[] }).answers.map(({ reason }) => reason)]).toEqual([
    1,
    ['', 'absent', 'gap'],
  ]);
});

test('invalidate wants --yes for everything, counts with --dry-run, and takes away with a reason in the log', async () => {
  const none = await kvtier(['invalidate']);
  const unconfirmed = await kvtier(['invalidate', '--all']);
  const misspelt = await kvtier(['invalidate', '--all', '--yes', '--dryrun']);
  const both = await kvtier(['invalidate', '--all', '--yes', '--model', 'org/alpha']);
  expect([none.code, unconfirmed.code, misspelt.code, both.code]).toEqual([64, 64, 64, 64]);
  expect(misspelt.stderr).toContain('did you mean --dry-run?');
  const dry = await kvtier(['invalidate', '--all', '--dry-run', '--json']);
  expect([dry.code, JSON.parse(dry.stdout)]).toMatchObject([0, { matchedChunks: all.length, dryRun: true }]);
  expect(await known.listedKeys(agent)).toEqual(known.keysOf(all));
  const keys = await kvtier(['invalidate', '--json', '--reason', 'two is wrong', 'two', 'absent']);
  expect([keys.code, JSON.parse(keys.stdout)]).toMatchObject([0, { matchedChunks: 1, removedBytes: opaque[1]?.bytes.length }]);
  const model = await kvtier(['invalidate', '--model-prefix', 'org/', '--tenant', 'ann']);
  expect([model.code, model.stdout]).toEqual([0, expect.stringMatching(/^Took away 3 chunks/) as string]);
  expect(await known.served(client, all)).toEqual(['one']);
  const log = await kvtier(['ls', 'invalidations', '--json', '--limit', '2']);
  expect((JSON.parse(log.stdout) as { invalidations: unknown[] }).invalidations).toMatchObject([
    { selector: { modelPrefix: 'org/', tenant: 'ann' }, matchedChunks: 3, actor: 'admin' },
    { selector: { keys: ['two', 'absent'] }, reason: 'two is wrong', matchedChunks: 1 },
  ]);
  const everything = await kvtier(['invalidate', '--all', '--yes']);
  expect([everything.code, await known.served(client, all)]).toEqual([0, []]);
});

test('tokens: none and a wrong one end with 77, the read token looks but takes nothing away', async () => {
  const [none, wrong, reads, denied] = await Promise.all([
    runCli(['stats', '--json'], { cwd: folder }),
    runCli(['stats', '--json', '--token', 'wrong'], { cwd: folder }),
    runCli(['stats', '--json'], { cwd: folder, env: { KVTIER_READ_TOKEN: reader } }),
    runCli(['invalidate', '--json', 'one', '--read-token', reader], { cwd: folder }),
  ]);
  expect([none.code, JSON.parse(none.stderr)]).toMatchObject([77, { error: { code: 'UNAUTHORIZED', retryable: false } }]);
  expect([wrong.code, JSON.parse(wrong.stderr)]).toMatchObject([77, { error: { code: 'UNAUTHORIZED' } }]);
  expect(reads.code).toBe(0);
  expect([denied.code, JSON.parse(denied.stderr)]).toMatchObject([77, { error: { code: 'FORBIDDEN' } }]);
});

test('config print masks tokens and names where each value came from; version and doctor print JSON', async () => {
  const [config, version, doctor] = await Promise.all([
    kvtier(['config', 'print', '--json', '--ram', '48MiB', '--invalidate-webhook', 'http://user:hunter2@127.0.0.1/clear?key=hunter2']),
    runCli(['version', '--json']),
    kvtier(['doctor', '--json', '--ram', '64MiB']),
  ]);
  expect(config.code, config.stderr).toBe(0);
  expect(config.stdout).not.toContain(admin);
  expect(config.stdout).not.toContain('hunter2');
  const rows = new Map(
    (JSON.parse(config.stdout) as { settings: { key: string; value: string; source: string }[] }).settings.map((row) => [row.key, row]),
  );
  expect(rows.get('token')).toMatchObject({ value: '********', source: 'KVTIER_TOKEN' });
  expect(rows.get('ram.size')).toMatchObject({ value: '48 MiB', source: '--ram' });
  expect(JSON.parse(version.stdout)).toEqual({ version: packageJson.version });
  const { findings } = JSON.parse(doctor.stdout) as { findings: { cause: string; severity: string; message: string }[] };
  expect(doctor.code).toBe(findings.some(({ severity }) => severity === 'problem') ? 1 : 0);
  expect(findings.find(({ cause }) => cause === 'agent')).toMatchObject({
    severity: 'ok',
    message: expect.stringContaining(agent.url) as string,
  });
  for (const cause of ['shared-memory', 'data-dir', 'ssd', 'o-direct', 'open-files', 'driver', 'port'])
    expect(findings.map((row) => row.cause)).toContain(cause);
});

test('doctor names a model whose chunks nobody finds while those of others are found', async () => {
  await known.store(client, opaque);
  expect(await known.served(client, opaque)).toHaveLength(2);
  await known.store(
    client,
    Array.from({ length: 60 }, (_, id) => known.objectChunk(id, { model: 'lonely' })),
  );
  const doctor = await kvtier(['doctor', '--json', '--ram', '64MiB']);
  const { findings } = JSON.parse(doctor.stdout) as { findings: { cause: string; severity: string; message: string; advice: string }[] };
  expect(findings.find(({ cause }) => cause === 'disjoint-hashes')).toMatchObject({
    severity: 'warning',
    message: expect.stringContaining('of lonely') as string,
    advice: expect.stringContaining('PYTHONHASHSEED') as string,
  });
  expect(findings.find(({ cause }) => cause === 'hit-rate')?.severity).toBe('ok');
});

test('unknown commands and flags, and missing values, end with 64 and say what was meant; help ends with 0', async () => {
  const [command, flag, value, ls, help] = await Promise.all([
    kvtier(['stat']),
    kvtier(['stats', '--jsn']),
    kvtier(['ls', '--model']),
    kvtier(['ls', 'chnks']),
    kvtier(['--help']),
  ]);
  expect([command.code, flag.code, value.code, ls.code, help.code]).toEqual([64, 64, 64, 64, 0]);
  expect(command.stderr).toContain('did you mean stats?');
  expect(flag.stderr).toContain('did you mean --json?');
  for (const name of ['serve', 'stats', 'ls', 'lookup', 'invalidate', 'verify', 'doctor', 'config', 'version'])
    expect(help.stdout).toContain(name);
});

test('after a stop there is no agent.json, and commands say that no agent is known', async () => {
  expect(await agent.stop(), agent.output()).toBe(0);
  const gone = await kvtier(['stats']);
  expect(gone.code).toBe(66);
  expect(gone.stdout).toBe('');
  expect(gone.stderr.split('\n')).toHaveLength(2);
  expect(existsSync(join(folder, '.kvtier/agent.json'))).toBe(false);
});
