/** Settings of the real process: which source wins, and what is refused before anything is touched. */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startAgent } from '#testsupport/agent.ts';
import { tier } from '#testsupport/agent-chunks.ts';
import { until } from '#testsupport/agent-probes.ts';
import { cleanEnvironment, runCli } from '#testsupport/cli-process.ts';

const root = new URL('../../..', import.meta.url).pathname;
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'kvtier-config-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function configFile(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

test('a flag wins over its variable, a variable over the file, the file over the default, in the process that serves', async () => {
  const path = configFile(
    'all.toml',
    '[ram]\nsize = "48MiB"\n[ssd]\nsize = "80MiB"\nadmission = "through"\n[lease]\nduration = "7s"\n[http]\nmaxBody = "2KiB"\n',
  );
  const env = { KVTIER_RAM: '32MiB', KVTIER_SSD: '96MiB', KVTIER_SSD_ADMISSION: 'demote' };
  // startAgent gives --ssd only where no flag of ours does; here the flag is ours.
  const agent = await startAgent({ flags: ['--config', path, '--ram', '20MiB', '--ssd', '112MiB'], env });
  const stats = await agent.client.stats();
  expect([tier(stats, 'ram').capacityBytes, tier(stats, 'ssd').capacityBytes, stats.storeAdmission.mode]).toEqual([
    20 * 2 ** 20,
    112 * 2 ** 20,
    'demote',
  ]);
  await expect(agent.client.lookup(['k'.repeat(2000), 'l'.repeat(2000)])).rejects.toMatchObject({ code: 'PAYLOAD_TOO_LARGE' });
  const printed = await runCli(['config', 'print', '--json', '--data-dir', agent.dataDir, '--config', path, '--ram', '20MiB'], { env });
  const rows = (JSON.parse(printed.stdout) as { settings: { key: string; value: string; origin: string; source: string }[] }).settings;
  const row = (key: string) =>
    rows.filter((candidate) => candidate.key === key).map(({ value, origin, source }) => [value, origin, source])[0];
  expect(row('ram.size')).toEqual(['20 MiB', 'flag', '--ram']);
  expect(row('ssd.size')).toEqual(['96 MiB', 'variable', 'KVTIER_SSD']);
  expect(row('lease.duration')).toEqual(['7 s', 'file', `lease.duration in ${path}`]);
  expect(row('put.wait')).toEqual(['1 s', 'default', '']);
  expect(row('ram.maxChunk')?.slice(0, 2)).toEqual(['5 MiB', 'derived']);
  expect(agent.output()).toContain('by --ram');
  expect(agent.http.port).toBeGreaterThan(0);
  expect(agent.resp.port).not.toBe(agent.http.port);
  expect(await agent.stop(), agent.output()).toBe(0);
});

test('with every other door off HTTP is alone, on a free port where 0 is asked for, and agent.json says so', async () => {
  const dataDir = join(folder, 'http-only');
  const args = [
    'serve',
    '--data-dir',
    dataDir,
    '--http',
    '127.0.0.1:0',
    '--resp',
    'off',
    '--lm',
    'off',
    '--socket',
    'off',
    '--ram',
    '16MiB',
    '--ssd',
    'off',
  ];
  const child = spawn(process.execPath, [join(root, 'node-agent/main.ts'), ...args], {
    env: cleanEnvironment(),
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let printed = '';
  child.stdout.on('data', (data: Buffer) => void (printed += data.toString()));
  child.stderr.on('data', (data: Buffer) => void (printed += data.toString()));
  const exited = new Promise<number | null>((resolve) => void child.on('exit', resolve));
  const agentFile = join(dataDir, 'agent.json');
  await until('it is ready', () => existsSync(agentFile));
  const { doors } = JSON.parse(readFileSync(agentFile, 'utf8')) as { doors: Record<string, { host: string; port: number }> };
  expect(Object.keys(doors)).toEqual(['http']);
  const stats = await runCli(['stats', '--json', '--url', `http://127.0.0.1:${doors['http']?.port ?? 0}`]);
  const answer = JSON.parse(stats.stdout) as { doors: { door: string }[]; tiers: { tier: string }[] };
  expect([answer.doors.map(({ door }) => door), answer.tiers.map((row) => row.tier)]).toEqual([['http'], ['ram']]);
  child.kill('SIGTERM');
  expect(await exited, printed).toBe(0);
});

test('what is unknown, out of range or impossible is refused with 78 and its value, all of it at once, before anything is made', async () => {
  const file = configFile('bad.toml', '[ram]\nsise = "1GiB"\n');
  const cases: readonly {
    readonly args: readonly string[];
    readonly env?: Readonly<Record<string, string>>;
    readonly code?: number;
    readonly says: readonly (string | RegExp)[];
  }[] = [
    { args: ['--ramm', '1GiB'], code: 64, says: ['--ramm', 'did you mean --ram?'] },
    { args: [], env: { KVTIER_RAMM: '1GiB' }, says: ['Unknown variable KVTIER_RAMM', 'did you mean KVTIER_RAM?'] },
    { args: ['--config', file], says: ['Unknown key ram.sise', 'bad.toml', 'did you mean ram.size?'] },
    { args: ['--config', join(folder, 'absent.toml')], says: ['absent.toml', 'no such file'] },
    { args: ['--ram', '1GB2'], says: ['--ram', '1GB2'] },
    { args: ['--ram', '1MiB'], says: ['--ram', '1MiB', '16 MiB'] },
    { args: ['--ram', '900TiB'], says: ['--ram 900 TiB', 'memory'] },
    { args: [], env: { KVTIER_RAM: '' }, says: ['KVTIER_RAM is set but empty'] },
    { args: ['--ram', '64MiB', '--ram-max-chunk', '32MiB'], says: ['--ram-max-chunk 32 MiB', '16 MiB'] },
    { args: ['--ssd-admission', 'sometimes'], says: ['--ssd-admission', 'sometimes'] },
    { args: ['--http', '127.0.0.1:7700', '--resp', '127.0.0.1:7700'], says: ['7700'] },
    { args: ['--http', '0.0.0.0:0'], says: ['0.0.0.0:0', 'without a token'] },
    { args: ['--resp', '192.0.2.1:7601'], says: ['192.0.2.1:7601', 'without a token'] },
    { args: ['--read-token', 'secret-reader'], says: ['admin token'] },
    { args: ['--token', 'same-secret', '--read-token', 'same-secret'], says: ['equals'] },
    { args: ['--ssd-dir', `${folder}/a`, '--ssd-dir', `${folder}/a/b`], says: [`${folder}/a/b`] },
    { args: ['--ssd', '10MiB', '--ssd-dir', `${folder}/a:20MiB`], says: ['10 MiB', '20 MiB'] },
    { args: ['--ram', 'x', '--lease-duration', '5'], says: ["'x'", "'5'", '2 problems'] },
  ];
  const dataDir = join(folder, 'refused');
  for (let start = 0; start < cases.length; start += 4) {
    await Promise.all(
      cases.slice(start, start + 4).map(async ({ args, env, code = 78, says }) => {
        const name = [...args, JSON.stringify(env ?? {})].join(' ');
        const run = await runCli(['serve', '--data-dir', dataDir, ...args], env === undefined ? {} : { env });
        expect([run.code, run.stdout], `${name}\n${run.stderr}`).toEqual([code, '']);
        for (const text of says) expect(run.stderr, name).toMatch(typeof text === 'string' ? new RegExp(RegExp.escape(text)) : text);
        expect(run.stderr, name).not.toMatch(/same-secret|secret-reader|\bat .*\.ts:/);
      }),
    );
  }
  expect(existsSync(dataDir)).toBe(false);
});
