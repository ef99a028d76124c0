import { readFileSync } from 'node:fs';
import { beforeEach, describe, expect, it } from 'vitest';
import { InvariantError } from '#core/assert.ts';
import { GiB } from '#core/bytes.ts';
import { errorTable, KvtierError, type ErrorCode } from '#core/errors.ts';
import { exitCodeOf, exitTable } from '#cli/exit-codes.ts';
import { formatAgentFile, localUrl, parseAgentFile } from '#cli/agent-file.ts';
import { cliPage } from '#cli/reference-page.ts';
import { commands } from '#cli/run-cli.ts';
import { columns, formatShare, renderTable } from '#cli/table.ts';
import { createApiHarness, putSampleChunks } from '#testsupport/api-harness.ts';
import { stringContaining, stringMatching } from '#testsupport/matchers.ts';
import { createCliHarness, type CliHarness } from '#testsupport/cli-harness.ts';
import { simNamespace } from '#testsupport/sim-cache-control.ts';

let cli: CliHarness;
let sample: ReturnType<typeof putSampleChunks>;
beforeEach(() => {
  cli = createCliHarness();
  sample = putSampleChunks(cli.api.control);
});

describe('kvtier', () => {
  it('prints help and exits 64 without a command', async () => {
    const { exit, out, err } = await cli.run();
    expect([exit, out]).toEqual([64, '']);
    for (const command of commands) expect(err).toContain(command.name);
  });

  it('prints help of every command, with every flag, uncoloured where nobody looks', async () => {
    for (const command of commands) {
      const { exit, out } = await cli.run(command.name, '--help');
      expect(exit).toBe(0);
      expect(out).toContain(`kvtier ${command.name}`);
      for (const [flag, arg] of Object.entries(command.args))
        if (arg.type !== 'positional') expect(out, command.name).toContain(`--${flag}`);
      for (const knob of command.knobs) expect(out, command.name).toContain(`--${knob.flag}`);
      expect(out).not.toContain('\u001b');
    }
    expect((await cli.run('help', 'serve')).out).toBe((await cli.run('serve', '-h')).out);
    expect((await cli.run('--help')).exit).toBe(0);
    expect(cli.served).toHaveLength(0);
  });

  it('refuses unknown commands, flags before the command, and names of Object.prototype', async () => {
    expect(await cli.run('sats')).toEqual({
      exit: 64,
      out: '',
      err: 'kvtier: Unknown command "sats"; did you mean stats?\nSee kvtier --help\n',
    });
    expect((await cli.run('--json', 'stats')).err).toContain('stands before the command');
    for (const name of ['constructor', 'toString', '__proto__', '\u001b[2J']) {
      const { exit, err } = await cli.run(name);
      expect(exit).toBe(64);
      expect(err).not.toContain('\u001b');
    }
  });

  it('refuses unknown flags, missing values, repetition and stray arguments on every command', async () => {
    for (const command of commands) {
      expect((await cli.run(command.name, '--nonsense')).exit, command.name).toBe(64);
      if (command.maxPositionals === 0) expect((await cli.run(command.name, 'stray')).exit, command.name).toBe(64);
    }
    expect((await cli.run('invalidate', '--model', 'm', '--dry-rum')).err).toContain('did you mean --dry-run?');
    expect((await cli.run('stats', '--json', '--json')).err).toContain('given twice');
    for (const name of ['--__proto__', '--constructor', '--toString=1', '-_', '-j'])
      expect((await cli.run('ls', name, 'x')).err, name).toContain('Unknown flag');
    expect((await cli.run('stats', '--url')).err).toContain('--url needs a value');
    expect((await cli.run('ls', '--model', '--json')).err).toContain('--model needs a value');
    expect((await cli.run('stats', '--json=yes')).err).toContain('takes no value');
    expect(cli.asked).toEqual([]);
  });

  it('never catches a bug', async () => {
    await expect(async () => {
      cli.probes = {
        limits: () => {
          throw new InvariantError('broken');
        },
      };
      await cli.run('doctor');
    }).rejects.toThrow(InvariantError);
  });
});

describe('kvtier version', () => {
  it('prints the version for people and programs', async () => {
    expect(await cli.run('version')).toEqual({ exit: 0, out: 'kvtier 0.1.0\n', err: '' });
    expect((await cli.run('--version')).out).toBe('kvtier 0.1.0\n');
    expect(JSON.parse((await cli.run('version', '--json')).out)).toEqual({ version: '0.1.0' });
  });
});

describe('kvtier serve', () => {
  it('hands the whole configuration to the agent and returns its exit code', async () => {
    expect((await cli.run('serve', '--ram', '1GiB', '--no-ram-hugepages')).exit).toBe(0);
    expect(cli.served[0]?.config.ram.sizeBytes).toBe(2 ** 30);
  });

  it('exits 78 with all problems, and does not start', async () => {
    const { exit, err } = await cli.run('serve', '--ram', '1XB', '--http', '0.0.0.0:7600');
    expect(exit).toBe(78);
    expect(err).toContain("--ram is '1XB'");
    expect(err).toContain('without a token');
    expect(cli.served).toHaveLength(0);
  });
});

describe('kvtier config', () => {
  it('prints effective values, their origin, and no secret', async () => {
    cli.env['KVTIER_TOKEN'] = 'very-secret';
    const { exit, out } = await cli.run('config', 'print', '--ram', '1GiB');
    expect(exit).toBe(0);
    expect(out).toMatch(/^ram\.size +1 GiB +--ram$/m);
    expect(out).toMatch(/^token +\*{8} +KVTIER_TOKEN$/m);
    expect(out).toMatch(/^ssd\.size +20 GiB +derived +the default of 20 GiB$/m);
    const json = await cli.run('config', '--json');
    expect((JSON.parse(json.out) as { settings: { key: string }[] }).settings.map((row) => row.key)).toContain('ram.size');
    expect(out + json.out).not.toContain('very-secret');
    expect((await cli.run('config', 'set')).exit).toBe(64);
  });
});

describe('an agent that holds its shared memory', () => {
  it('does not make config, doctor and verify refuse the very settings it runs with; serve refuses them', async () => {
    cli.facts = { shmFreeBytes: GiB, shmTotalBytes: 4 * GiB };
    cli.down = true;
    cli.offline.steps = [{ checkedFiles: 0, totalFiles: 0, checkedBytes: 0, mismatches: [], done: true }];
    for (const argv of [['config'], ['doctor'], ['verify', '--offline']]) {
      const { out, err } = await cli.run(...argv, '--ram', '3GiB');
      expect(out + err, argv.join(' ')).not.toContain('does not fit');
    }
    expect((await cli.run('serve', '--ram', '3GiB')).err).toContain('does not fit /dev/shm');
    cli.files.delete('/srv/.kvtier/agent.json');
    expect((await cli.run('config', '--ram', '3GiB')).exit).toBe(78);
  });
});

describe('finding the agent', () => {
  it('takes --url over KVTIER_URL over agent.json of the data folder', async () => {
    cli.files.set(
      '/other/agent.json',
      formatAgentFile({
        ...parseAgentFile(cli.files.get('/srv/.kvtier/agent.json') ?? '', ''),
        doors: { http: { host: '::', port: 7777 } },
      }),
    );
    await cli.run('stats');
    await cli.run('stats', '--data-dir', '/other');
    cli.env['KVTIER_URL'] = 'http://127.0.0.1:7800';
    await cli.run('stats');
    await cli.run('stats', '--url', 'http://127.0.0.1:7900/');
    expect(cli.asked).toEqual([
      'http://127.0.0.1:7600/v1/stats',
      'http://[::1]:7777/v1/stats',
      'http://127.0.0.1:7800/v1/stats',
      'http://127.0.0.1:7900/v1/stats',
    ]);
  });

  it('exits 66 where none is known, 74 where it does not answer, 65 where agent.json is damaged, 64 for no URL', async () => {
    cli.down = true;
    const down = await cli.run('stats');
    expect([down.exit, down.err]).toEqual([74, stringContaining('address from /srv/.kvtier/agent.json; is the agent running?')]);
    for (const text of [
      '',
      '{',
      'null',
      '[]',
      '{"doors":{}}',
      '{"version":"1","pid":1,"startedAt":"","dataDir":"","doors":{"http":{"host":"","port":0}}}',
    ]) {
      cli.files.set('/srv/.kvtier/agent.json', text);
      expect((await cli.run('stats')).exit, text).toBe(65);
    }
    cli.files.delete('/srv/.kvtier/agent.json');
    expect(await cli.run('stats')).toMatchObject({ exit: 66, err: stringContaining('Start one with `kvtier serve`') });
    expect((await cli.run('stats', '--url', 'ftp://x')).exit).toBe(64);
  });

  it('reaches a door on every interface by loopback', () => {
    expect(localUrl({ host: '0.0.0.0', port: 1 })).toBe('http://127.0.0.1:1');
    expect(localUrl({ host: '::', port: 1 })).toBe('http://[::1]:1');
    expect(localUrl({ host: '10.0.0.1', port: 1 })).toBe('http://10.0.0.1:1');
  });

  it('presents the admin token, else the read token, from flag, variable, file or configuration file', async () => {
    cli = createCliHarness(createApiHarness({ tokens: { admin: 'adm', read: 'rd' } }));
    expect(await cli.run('stats')).toMatchObject({ exit: 77, out: '' });
    expect((await cli.run('stats', '--token', 'wrong')).exit).toBe(77);
    expect((await cli.run('stats', '--token', 'adm')).exit).toBe(0);
    expect((await cli.run('stats', '--read-token', 'rd')).exit).toBe(0);
    expect((await cli.run('invalidate', '--model', 'm', '--read-token', 'rd')).exit).toBe(77);
    cli.files.set('/srv/tok', 'adm\n');
    expect((await cli.run('stats', '--token-file', 'tok')).exit).toBe(0);
    cli.files.set('/srv/c.toml', 'tokenFile = "tok"');
    expect((await cli.run('stats', '--config', 'c.toml')).exit).toBe(0);
    cli.env['KVTIER_TOKEN'] = 'adm';
    expect((await cli.run('stats')).exit).toBe(0);
  });

  it('prints errors as JSON on standard error for programs', async () => {
    cli.down = true;
    const { err, out } = await cli.run('stats', '--json');
    expect(out).toBe('');
    expect(JSON.parse(err)).toEqual({
      error: { code: 'IO_FAILED', message: stringContaining('Connection refused'), retryable: true },
    });
  });
});

describe('kvtier stats', () => {
  it('prints tiers, counts, models and tenants for people, and the whole answer for programs', async () => {
    const { exit, out } = await cli.run('stats');
    expect(exit).toBe(0);
    expect(out).toContain('kvtier 0.1.0, ready, up 1.5 min');
    expect(out).toMatch(/^ram +ok +/m);
    expect(out).toContain('meta/llama-3');
    expect(out).not.toContain('salt-of-ann');
    const json = JSON.parse((await cli.run('stats', '--json')).out) as { version: string; tiers: unknown[] };
    expect([json.version, json.tiers.length]).toEqual(['0.1.0', 2]);
  });

  it('names what is degraded', async () => {
    cli.api.control.overrides = {
      catalog: { state: 'degraded', reason: 'locked\u001b[2J by another', queuedChanges: 0, droppedChanges: 0, walBytes: 0 },
    };
    const { out } = await cli.run('stats');
    expect(out).toContain('catalog degraded: locked\\u001b[2J by another');
  });
});

describe('kvtier ls', () => {
  it('lists chunks with size, tiers and age', async () => {
    const { exit, out } = await cli.run('ls');
    expect(exit).toBe(0);
    expect(out.trim().split('\n')).toHaveLength(5);
    expect(out).toMatch(/1000 B +ram .*meta\/llama-3@00000001@0@aa$/m);
    expect(out).toMatch(/ram\+ssd +0 +2 h ago/);
  });

  it('filters, and lists namespaces, tenants and invalidations', async () => {
    expect((await cli.run('ls', 'chunks', '--model', 'qwen')).out).not.toContain('llama');
    expect((await cli.run('ls', '--tier', 'ssd', '--older-than', '1h')).out.trim().split('\n')).toHaveLength(3);
    expect((await cli.run('ls', 'namespaces')).out).toContain('qwen');
    expect((await cli.run('ls', 'tenants')).out).toContain('t-');
    await cli.run('invalidate', '--model', 'qwen', '--reason', 'new weights');
    expect((await cli.run('ls', 'invalidations')).out).toMatch(/\{"model":"qwen"\} +new weights/);
    expect((await cli.run('ls', 'tenants', '--model', 'x')).exit).toBe(64);
    expect((await cli.run('ls', 'things')).err).toContain('one of chunks, namespaces, tenants, invalidations');
    expect((await cli.run('ls', '--tier', 'disk')).exit).toBe(64);
    expect((await cli.run('ls', '--limit', '0')).exit).toBe(64);
    expect((await cli.run('ls', '--limit', '1e1')).exit).toBe(64);
  });

  it('pages: a cursor to go on with, or all of it', async () => {
    const first = await cli.run('ls', '--limit', '3');
    const cursor = /--cursor (\S+),/.exec(first.err)?.[1] ?? '';
    const second = await cli.run('ls', '--limit', '3', '--cursor', cursor);
    expect(second.err).toBe('');
    expect(second.out.trim().split('\n')).toHaveLength(2);
    const all = JSON.parse((await cli.run('ls', '--limit', '1', '--all', '--json')).out) as { chunks: unknown[]; cursor: null };
    expect([all.chunks.length, all.cursor]).toEqual([4, null]);
  });

  it('keeps a hostile key on its line', async () => {
    cli.api.control.put({ key: 'evil\n\u001b[2Jkey', namespace: simNamespace({ model: 'evil' }), sizeBytes: 1, tiers: ['ram'] });
    const { out } = await cli.run('ls');
    expect(out).toContain('evil\\n\\u001b[2Jkey');
    expect(out).not.toContain('\u001b');
  });
});

describe('kvtier lookup', () => {
  it('exits 0 where every key is served, 1 where one is not', async () => {
    const hit = await cli.run('lookup', ...sample.keys);
    expect(hit.exit).toBe(0);
    expect(hit.out.trim().split('\n')).toHaveLength(4);
    const miss = await cli.run('lookup', sample.keys[0] ?? '', 'absent-key', '--json');
    expect(miss.exit).toBe(1);
    expect((JSON.parse(miss.out) as { hitCount: number }).hitCount).toBe(1);
    expect((await cli.run('lookup')).exit).toBe(64);
  });

  it('takes keys that start with a dash behind --', async () => {
    expect(await cli.run('lookup', '--', '--json')).toMatchObject({ exit: 1, out: stringMatching(/^miss .*--json$/m) });
  });
});

describe('kvtier invalidate', () => {
  it('counts on a dry run and changes nothing, then takes away', async () => {
    const dry = await cli.run('invalidate', '--model', 'meta/llama-3', '--dry-run');
    expect(dry).toMatchObject({ exit: 0, out: stringContaining('Would take away 3 chunks') });
    expect((await cli.run('lookup', ...sample.keys)).exit).toBe(0);
    expect((await cli.run('invalidate', '--model', 'meta/llama-3')).out).toContain('Took away 3 chunks');
    expect((await cli.run('lookup', ...sample.keys)).exit).toBe(1);
    expect((await cli.run('lookup', sample.otherKey)).exit).toBe(0);
  });

  it('ands its conditions, and takes keys as arguments', async () => {
    expect((await cli.run('invalidate', '--tenant', 'default', '--tier', 'ssd', '--older-than', '1h', '--dry-run')).out).toContain(
      '2 chunks',
    );
    expect((await cli.run('invalidate', sample.keys[0] ?? '', sample.otherKey)).out).toContain('2 chunks');
  });

  it('refuses nothing at all, --all with others, and --all without --yes', async () => {
    expect((await cli.run('invalidate')).exit).toBe(64);
    expect((await cli.run('invalidate', '--yes')).exit).toBe(64);
    expect((await cli.run('invalidate', '--all', '--model', 'm', '--yes')).err).toContain('--all stands alone');
    expect((await cli.run('invalidate', '--all')).err).toContain('repeat with --yes');
    expect(cli.asked).toEqual([]);
    expect((await cli.run('invalidate', '--all', '--dry-run')).out).toContain('4 chunks');
    expect((await cli.run('invalidate', '--all', '--yes', '--json')).out).toContain('"matchedChunks": 4');
  });
});

describe('kvtier pin, unpin and quota', () => {
  it('pins what a selector matches, tells what was refused, and unpins', async () => {
    expect(await cli.run('pin', sample.keys[0] ?? '', '--mode', 'hard')).toMatchObject({
      exit: 0,
      out: stringContaining('Pinned 1 chunks, 1000 B, 1 of them held in RAM too'),
    });
    expect((await cli.run('pin', '--model', 'meta/llama-3', '--mode', 'hard', '--json')).out).toContain(
      '"alreadyPinned": {\n    "chunks": 1',
    );
    expect((await cli.run('ls', 'chunks')).out).toContain('hard pin');
    expect((await cli.run('pin', sample.keys[0] ?? '', '--mode', 'soft', '--into-hbm')).out).toContain('1 chunks are in HBM, 1000 B');
    expect((await cli.run('unpin', '--all')).out).toContain('Unpinned 3 chunks');
  });

  it('refuses a pin without a mode or without a selector', async () => {
    expect((await cli.run('pin', 'k')).err).toContain('--mode');
    expect((await cli.run('pin', '--mode', 'soft')).exit).toBe(64);
    expect((await cli.run('pin', 'k', '--mode', 'firm')).exit).toBe(64);
    expect((await cli.run('unpin')).exit).toBe(64);
    expect(cli.asked).toEqual([]);
  });

  it('sets, lists and takes away quotas, in sizes for people', async () => {
    expect((await cli.run('quota', 'set', 'default', '--ram-bytes', '1.5GiB')).out).toMatch(/default +2.9 KiB +1.5 GiB +5.9 KiB +- +3/);
    expect((await cli.run('quota')).out).toContain('1.5 GiB');
    expect((await cli.run('quota', 'rm', 'default')).exit).toBe(0);
    expect((await cli.run('quota', 'rm', 'default')).exit).toBe(66);
    expect((await cli.run('quota', 'ls', '--json')).out).toContain('"tenants": []');
  });

  it('refuses quotas without a tenant, without a size, and with one that is none', async () => {
    for (const words of [
      ['set'],
      ['rm'],
      ['set', 'a'],
      ['set', 'a', '--ram-bytes', 'much'],
      ['ls', 'a'],
      ['rm', 'a', '--ssd-bytes', '1'],
      ['give'],
    ])
      expect((await cli.run('quota', ...words)).exit, words.join(' ')).toBe(64);
    expect(cli.asked).toEqual([]);
  });
});

describe('kvtier verify', () => {
  it('exits 0 where all files match and 1 where one does not, and names it', async () => {
    expect(await cli.run('verify')).toMatchObject({ exit: 0, out: stringContaining('all as they were written') });
    cli.api.control.corruptKeys.add(sample.keys[1] ?? '');
    const { exit, out } = await cli.run('verify');
    expect(exit).toBe(1);
    expect(out).toContain(sample.keys[1]);
    expect(out).toContain('1 do not match');
  });

  it('shows progress on standard error, none with --json', async () => {
    expect((await cli.run('verify')).err).toContain('2 of 2 files');
    cli.terminal = true;
    expect((await cli.run('verify')).err).toContain('\r');
    const json = await cli.run('verify', '--json');
    expect(json.err).toBe('');
    expect(JSON.parse(json.out)).toMatchObject({ totalFiles: 2, mismatches: [] });
  });

  it('reads the configured folders offline, and refuses while an agent answers', async () => {
    expect(await cli.run('verify', '--offline')).toMatchObject({ exit: 73, err: stringContaining('running agent') });
    cli.down = true;
    cli.offline.steps = [
      { checkedFiles: 1, totalFiles: 2, checkedBytes: 10, mismatches: [{ path: '/a/x', key: 'k', problem: 'checksum' }], done: false },
      { checkedFiles: 2, totalFiles: 2, checkedBytes: 20, mismatches: [{ path: '/a/x', key: 'k', problem: 'checksum' }], done: true },
    ];
    const { exit, out } = await cli.run('verify', '--offline', '--ssd-dir', '/a', '--ssd-dir', '/b', '--json');
    expect(exit).toBe(1);
    expect(cli.offline.folders).toEqual(['/a', '/b']);
    expect((JSON.parse(out) as { mismatches: unknown[] }).mismatches).toHaveLength(1);
    cli.files.delete('/srv/.kvtier/agent.json');
    expect((await cli.run('verify', '--offline')).exit).toBe(1);
    expect((await cli.run('verify', '--offline', '--ssd', 'off')).exit).toBe(64);
  });

  it('never calls a reading that broke off a success', async () => {
    cli.down = true;
    cli.offline.steps = [{ checkedFiles: 1, totalFiles: 2, checkedBytes: 10, mismatches: [], done: false }];
    expect(await cli.run('verify', '--offline')).toMatchObject({ exit: 74, err: stringContaining('before the last file') });
  });
});

describe('exit codes', () => {
  it('are never 0 or 1 for an error', () => {
    for (const code of Object.keys(errorTable) as ErrorCode[]) expect(exitCodeOf(new KvtierError(code, '')), code).toBeGreaterThan(1);
    expect(exitCodeOf(new Error('x'))).toBe(70);
  });

  it('list every error once', () => {
    const listed = exitTable().flatMap((row) => row.codes);
    expect([...listed].sort()).toEqual(Object.keys(errorTable).sort());
    expect(new Set(exitTable().map((row) => row.exit)).size).toBe(exitTable().length);
  });

  it('stand in docs/cli.md as generated: run `bun node-agent/cli/write-docs.ts`', () => {
    expect(readFileSync('docs/cli.md', 'utf8')).toBe(cliPage());
  });
});

describe('tables', () => {
  it('align columns and are empty without rows', () => {
    expect(
      renderTable(columns('A', '>N'), [
        ['x', '1'],
        ['long', '100'],
      ]),
    ).toBe('A       N\nx       1\nlong  100\n');
    expect(renderTable(columns('A'), [])).toBe('');
    expect(formatShare(1, 0)).toBe('-');
    expect(formatShare(1, 3)).toBe('33.3 %');
  });
});
