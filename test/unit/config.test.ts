import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { GiB, KiB, MiB } from '#core/bytes.ts';
import { configSchema, knobs, otherVariables } from '#config/knobs.ts';
import { loadConfig } from '#config/load-config.ts';
import { referencePage } from '#config/reference-page.ts';
import { isServiceLink } from '#config/sources.ts';
import { ttlOf } from '#config/ttl-rules.ts';
import { load, machine, problemOf, problemsOf } from '#testsupport/load-config.ts';

const DEFAULT_NAMESPACE = {
  grammar: 'object-key',
  rank: '',
  group: '',
  dtype: '',
  layer: '',
  tags: {},
  keyPrefix: '',
  keyTail: '',
} as const;

describe('defaults', () => {
  it('need no configuration at all', () => {
    const { config } = load();
    expect(config.dataDir).toBe('/srv/.kvtier');
    expect(config.http).toEqual({ listen: { host: '127.0.0.1', port: 7600 }, maxBodyBytes: MiB });
    expect(config.resp).toEqual({
      listen: { host: '127.0.0.1', port: 7601 },
      profile: 'auto',
      maxConnections: 1024,
      minBytesPerSecond: 2 ** 20,
      sizeGuard: 'auto',
      idleMs: undefined,
      stallMs: 30_000,
    });
    expect(config.lm).toEqual({ listen: { host: '127.0.0.1', port: 7602 } });
    expect(config.ram).toEqual({
      sizeBytes: 4 * GiB,
      maxChunkBytes: 128 * MiB,
      shmDir: '/dev/shm',
      hugepages: false,
      keep: true,
      policy: 'adaptive',
    });
    expect(config.ssd).toEqual({
      sizeBytes: 20 * GiB,
      folders: [{ path: '/srv/.kvtier/ssd', sizeBytes: 20 * GiB }],
      policy: 'adaptive',
      admission: 'idle',
      idleAfterMs: 2000,
      ioDeadlineMs: 10_000,
      writeBudgetBytesPerSecond: 0,
      freeSpaceFloorBytes: GiB,
      direct: 'auto',
      queueBytes: GiB,
    });
    expect(config.lease.durationMs).toBe(30_000);
    expect(config.put.waitMs).toBe(1000);
    expect(config.shutdown.drainMs).toBe(25_000);
    expect(config.tokens).toEqual({ admin: undefined, read: undefined, tenants: new Map() });
  });

  it('leave lm:// off where a token is wanted, since it would be a way around it, unless somebody asks for it', () => {
    const guarded = load({ argv: ['--token', 't'] });
    expect(guarded.config.lm.listen).toBeUndefined();
    expect([guarded.origin('lm.listen'), guarded.because('lm.listen')]).toEqual([
      'derived',
      'off, since a token is wanted and lm:// has none',
    ]);
    // A tenant's token is never without an admin's: there is no third way to have lm:// by itself beside a token.
    expect(load({ argv: ['--token', 't', '--tenant-tokens', 'acme=a'] }).config.lm.listen).toBeUndefined();
    expect(load({ argv: ['--token', 't', '--lm', 'auto'], env: { KVTIER_TENANT_TOKENS: 'acme=a' } }).config.lm.listen).toBeUndefined();
    expect(problemsOf({ argv: ['--tenant-tokens', 'acme=a'] }).join()).toContain('there is no admin token');
    expect(load({ argv: ['--token', 't', '--lm', '127.0.0.1:7602'] }).config.lm.listen).toEqual({ host: '127.0.0.1', port: 7602 });
    expect(load({ env: { KVTIER_LM: 'off' } }).config.lm.listen).toBeUndefined();
  });

  it('have a default text that the schema agrees with wherever it is a literal', () => {
    const defaults: Record<string, unknown> = configSchema.parse({});
    for (const knob of knobs) {
      const literal = /^`([^`]*)`$/.exec(knob.defaultText)?.[1];
      if (literal === undefined || literal.includes('<')) continue;
      const parsed: Record<string, unknown> = configSchema.parse({ [knob.key]: literal });
      expect(parsed[knob.key], knob.key).toEqual(defaults[knob.key]);
    }
  });
});

describe('precedence', () => {
  const files = { '/srv/kvtier.toml': '[ram]\nsize = "3GiB"\n' };

  it('is flag over variable over file over default, and says which it was', () => {
    const file = load({ argv: ['--config', 'kvtier.toml'], files });
    expect([file.config.ram.sizeBytes, file.origin('ram.size')]).toEqual([3 * GiB, 'file']);
    const variable = load({ argv: ['--config', 'kvtier.toml'], files, env: { KVTIER_RAM: '2GiB' } });
    expect([variable.config.ram.sizeBytes, variable.origin('ram.size')]).toEqual([2 * GiB, 'variable']);
    const flag = load({ argv: ['--config=kvtier.toml', '--ram=1GiB'], files, env: { KVTIER_RAM: '2GiB' } });
    expect([flag.config.ram.sizeBytes, flag.origin('ram.size')]).toEqual([GiB, 'flag']);
    expect(load().origin('ram.size')).toBe('derived');
    expect(load().origin('resp.stall')).toBe('default');
  });

  it('takes the file from the variable', () => {
    expect(load({ env: { KVTIER_CONFIG: '/srv/kvtier.toml' }, files }).config.configFile).toBe('/srv/kvtier.toml');
  });

  it('holds for a token and its file as one', () => {
    const tokens = { '/srv/t': 'from-file\n', '/srv/k.toml': 'token = "from-toml"\n' };
    expect(load({ env: { KVTIER_TOKEN_FILE: 't' }, argv: ['--token', 'by-flag'], files: tokens }).config.tokens.admin).toBe('by-flag');
    expect(load({ env: { KVTIER_TOKEN_FILE: 't', KVTIER_CONFIG: 'k.toml' }, files: tokens }).config.tokens.admin).toBe('from-file');
  });
});

describe('sources', () => {
  it('give every knob a unique flag and variable', () => {
    expect(new Set(knobs.map((knob) => knob.flag)).size).toBe(knobs.length);
    expect(new Set(knobs.map((knob) => knob.variable)).size).toBe(knobs.length);
  });

  it('describe every knob in one sentence', () => {
    for (const knob of knobs) expect(knob.description, knob.key).toMatch(/^[A-Z][^\n]*\.$/);
  });

  it('reach every knob by flag, variable and file', () => {
    const sample: Record<string, string> = {
      size: '64MiB',
      rate: '5MiB',
      duration: '5s',
      count: '7',
      boolean: 'true',
      address: '127.0.0.1:9000',
      path: '/p',
      mode: '0660',
      text: 'users',
      folders: '/f',
      shares: '1GiB',
      devices: '0',
      secret: 's',
      tenants: 'acme=s',
      rules: 'llama-*=24h',
      url: 'http://h/',
    };
    for (const knob of knobs) {
      if (knob.key === 'config') continue;
      const value = knob.shape === 'choice' ? (knob.hint.split('|')[0] ?? '') : (sample[knob.shape] ?? '');
      const files: Record<string, string> = { '/p': 'secret\n', '/srv/c.toml': '' };
      const also = knob.key.startsWith('readToken') || knob.shape === 'tenants' ? ['--token', 'admin'] : [];
      if (knob.key.startsWith('hbm.') && knob.key !== 'hbm.size') also.push('--hbm', '1GiB');
      if (knob.key.startsWith('tls.')) also.push(knob.key === 'tls.cert' ? '--tls-key' : '--tls-cert', '/p');
      const parts = knob.key.split('.');
      files['/srv/c.toml'] = parts.length === 1 ? `${knob.key} = "${value}"\n` : `[${parts[0] ?? ''}]\n${parts[1] ?? ''} = "${value}"\n`;
      const roomy = { disk: { totalBytes: 2 ** 49 } };
      const adjust = knob.key === 'ssd.queueBytes' || knob.key === 'ram.maxChunk' ? ['--ram', '256MiB', '--ram-max-chunk', '64MiB'] : [];
      const base = { ...roomy, files };
      const argv = [...also, ...adjust.filter((_, index) => knob.key !== 'ram.maxChunk' || index < 2)];
      expect(
        load({ ...base, argv: [...argv, `--${knob.flag}`, ...(knob.shape === 'boolean' ? [] : [value])] }).origin(knob.key),
        knob.key,
      ).toBe('flag');
      expect(load({ ...base, argv, env: { [knob.variable]: value } }).origin(knob.key), knob.key).toBe('variable');
      expect(load({ ...base, argv: [...argv, '--config', 'c.toml'] }).origin(knob.key), knob.key).toBe('file');
    }
  });

  it('read typed TOML values', () => {
    const { config } = load({
      argv: ['--config', 'c.toml'],
      files: {
        '/srv/c.toml':
          '[ram]\nsize = 1073741824\nhugepages = true\n[lease]\nduration = 5000\n[ssd]\ndir = ["/a:1GiB", "/b:2GiB"]\n[http]\nlisten = "[::1]:0"\n',
      },
    });
    expect(config.ram).toMatchObject({ sizeBytes: GiB, hugepages: true });
    expect(config.lease.durationMs).toBe(5000);
    expect(config.ssd.folders).toEqual([
      { path: '/a', sizeBytes: GiB },
      { path: '/b', sizeBytes: 2 * GiB },
    ]);
    expect(config.http.listen).toEqual({ host: '::1', port: 0 });
  });

  it('give a namespace the time of the first rule that fits it, else the default', () => {
    const rules = 'meta-llama/*@acme=1h,*@@acme*=3h,meta-llama/*=off,*@b*b=90s,=2h,a=b*=30s';
    const { config, describe: show } = load({ argv: ['--ttl-default', '7d'], env: { KVTIER_TTL_RULES: rules } });
    const ttl = (model: string, tenant = 'default'): number => ttlOf(config.ttl, { ...DEFAULT_NAMESPACE, model, tenant });
    expect(ttl('meta-llama/8B', 'acme')).toBe(3_600_000);
    expect(ttl('meta-llama/8B')).toBe(0);
    expect(ttl('meta-llama/8B', '@acme/salt')).toBe(3 * 3_600_000);
    expect(ttl('qwen', 'bob')).toBe(90_000);
    expect(ttl('qwen', 'bobo')).toBe(7 * 86_400_000);
    expect(ttl('')).toBe(7_200_000);
    expect(ttl('a=bc')).toBe(30_000);
    expect(show().find((row) => row.key === 'ttl.rules')?.value).toBe(
      'meta-llama/*@acme=1 h, *@@acme*=3 h, meta-llama/*=off, *@b*b=1.5 min, =2 h, a=b*=30 s',
    );
    expect(load({}).config.ttl).toEqual({ defaultMs: 0, rules: [] });
    const named = load({
      argv: [
        '--token',
        't',
        '--tenant-tokens',
        'acme=a',
        '--ttl-rules',
        'x@acme=1h',
        '--ttl-rules',
        'x@salt@acme=2h',
        '--ttl-rules',
        'x@bob=3h',
      ],
    });
    expect(named.config.ttl.rules.map(({ tenant }) => tenant)).toEqual(['@acme', 'acme', 'bob']);
    const listed = load({ argv: ['--config', 'c.toml'], files: { '/srv/c.toml': '[ttl]\nrules = ["x=1h", "y=off"]\n' } }).config.ttl.rules;
    expect(listed).toEqual([
      { model: 'x', tenant: '*', ttlMs: 3_600_000 },
      { model: 'y', tenant: '*', ttlMs: 0 },
    ]);
    for (const bad of ['llama', 'x=', 'x=never', 'x=1ms', 'x=11000d', 'x=1h,', 'x=-1h'])
      expect(problemOf({ argv: ['--ttl-rules', bad] }), bad).toContain('--ttl-rules');
    expect(problemOf({ argv: ['--ttl-default', '1ms'] })).toContain('--ttl-default');
  });

  it('turn booleans on and off by flag', () => {
    expect(load({ argv: ['--ram-hugepages'] }).config.ram.hugepages).toBe(true);
    expect(load({ argv: ['--no-ram-hugepages'], env: { KVTIER_RAM_HUGEPAGES: 'true' } }).config.ram.hugepages).toBe(false);
    expect(load({ argv: ['--ram-hugepages=false'] }).config.ram.hugepages).toBe(false);
    expect(problemOf({ argv: ['--no-ram-hugepages=true'] })).toContain("takes no value, 'true'");
    expect(problemOf({ argv: ['--no-ram'] })).toContain('Unknown flag --no-ram');
  });

  it('refuse unknown names and suggest the near one', () => {
    expect(problemsOf({ argv: ['--ramm', '1GiB'] })).toEqual(['Unknown flag --ramm; did you mean --ram?']);
    expect(problemOf({ env: { KVTIER_RSP: 'off' } })).toBe('Unknown variable KVTIER_RSP; did you mean KVTIER_RESP?');
    expect(problemOf({ argv: ['--config', 'c.toml'], files: { '/srv/c.toml': '[ssd]\nadmision = "idle"' } })).toBe(
      'Unknown key ssd.admision in c.toml; did you mean ssd.admission?',
    );
    expect(problemOf({ argv: ['--config', 'c.toml'], files: { '/srv/c.toml': '[gpu]\nsize = 1' } })).toContain('Unknown key gpu in c.toml');
    expect(problemOf({ argv: ['serve'] })).toContain("Unexpected argument 'serve'");
    expect(problemOf({ argv: ['-h'] })).toContain("Unexpected argument '-h'");
  });

  it('refuse what is given twice, without a value, or empty', () => {
    expect(problemOf({ argv: ['--ram', '1GiB', '--ram', '2GiB'] })).toBe("--ram is given twice: '1GiB' and '2GiB'");
    expect(problemOf({ argv: ['--token', 'secret-1', '--token', 'secret-2'] })).toBe('--token is given twice');
    expect(problemOf({ argv: ['--ram'] })).toContain('--ram needs a value');
    expect(problemsOf({ argv: ['--ram', '--ssd', 'off'] })).toHaveLength(1);
    expect(problemOf({ env: { KVTIER_TOKEN: '' } })).toContain('KVTIER_TOKEN is set but empty');
  });

  it('pass over what Kubernetes sets for a Service called kvtier, the address of the CLI, and variables of the tests', () => {
    const env = {
      KVTIER_SERVICE_HOST: '10.0.0.1',
      KVTIER_SERVICE_PORT: '7600',
      KVTIER_SERVICE_PORT_HTTP: '7600',
      KVTIER_PORT: 'tcp://10.0.0.1:7600',
      KVTIER_PORT_7600_TCP: 'tcp://10.0.0.1:7600',
      KVTIER_PORT_7600_TCP_ADDR: '10.0.0.1',
      KVTIER_AGENT_PORT_7601_TCP_PROTO: 'tcp',
      KVTIER_URL: 'http://h',
      KVTIER_E2E_VENV: '/v',
      KVTIER_TEST_RESP: 'redis',
    };
    expect(problemsOf({ env })).toEqual([]);
    for (const knob of knobs) expect(isServiceLink(knob.variable), knob.variable).toBe(false);
    for (const name of otherVariables) expect(isServiceLink(name)).toBe(false);
  });

  it('refuse a file that is absent, unreadable or no TOML', () => {
    expect(problemOf({ argv: ['--config', 'gone.toml'] })).toBe('Cannot read gone.toml: there is no such file');
    expect(problemOf({ argv: ['--config', 'c.toml'], files: { '/srv/c.toml': 'ram = {' } })).toContain('Cannot read c.toml as TOML');
    expect(problemOf({ argv: ['--config', 'c.toml'], files: { '/srv/c.toml': 'config = "d.toml"' } })).toContain(
      'cannot name another file',
    );
    expect(() =>
      loadConfig({
        argv: ['--config', 'c'],
        env: {},
        cwd: '/srv',
        facts: (query) => machine(query, {}),
        readFile: () => {
          throw new Error('EACCES');
        },
      }),
    ).toThrow('Cannot read c: EACCES');
  });

  it('never take a table for a value or a value for a table', () => {
    const file = (text: string): string => problemOf({ argv: ['--config', 'c.toml'], files: { '/srv/c.toml': text } });
    expect(file('ram = "1GiB"')).toContain('Unknown key ram in c.toml');
    expect(file('[dataDir]\nx = 1')).toContain('dataDir in c.toml');
    expect(file('dataDir = 1979-05-27')).toContain('dataDir in c.toml');
    expect(file('[ram]\nsize = ["1GiB"]')).toContain('ram.size in c.toml');
  });
});

describe('impossible combinations', () => {
  it('list all problems at once, with the values', () => {
    const problems = problemsOf({ argv: ['--ram', '12XB', '--nope', '--resp', 'x'], env: { KVTIER_LEASE_DURATION: 'soon' } });
    expect(problems).toEqual([
      'Unknown flag --nope',
      "--resp is 'x': an address such as 127.0.0.1:7600, localhost:0 or [::1]:7600, or off is wanted",
      "--ram is '12XB': a size such as 64GiB, or auto is wanted",
      "KVTIER_LEASE_DURATION is 'soon': a duration such as 30s is wanted",
    ]);
  });

  it.each(['0.0.0.0:7600', '[::]:7600', '10.0.0.5:7600', 'node7:7600', '[2001:db8::1]:7600', '[::ffff:10.0.0.1]:7600'])(
    '%s is refused for either door without a token',
    (address) => {
      expect(problemOf({ argv: ['--http', address, '--resp', 'off'] })).toContain('opens HTTP beyond this machine without a token');
      expect(problemOf({ argv: ['--resp', address, '--http', '127.0.0.1:0'] })).toContain('opens RESP beyond this machine without a token');
      expect(problemsOf({ argv: ['--resp', address, '--http', '127.0.0.1:0', '--token', 't'] })).toEqual([]);
    },
  );

  it.each(['127.0.0.1:7700', 'localhost:7700', '127.8.8.8:7700', '[::1]:7700', '[0:0:0:0:0:0:0:1]:7700', '[::ffff:127.0.0.1]:7700'])(
    '%s is loopback and needs no token',
    (address) => {
      expect(problemsOf({ argv: ['--http', address] })).toEqual([]);
    },
  );

  it('a read token alone, or equal to the admin token', () => {
    expect(problemOf({ argv: ['--read-token', 'r'] })).toContain('without an admin token');
    expect(problemOf({ argv: ['--read-token', 'hush', '--token', 'hush'] })).toBe(
      'The read token equals the admin token: give the two different values',
    );
    expect(load({ argv: ['--read-token', 'r', '--token', 't'] }).config.tokens).toEqual({ admin: 't', read: 'r', tenants: new Map() });
  });

  it('a token and a token file in one place', () => {
    expect(problemOf({ argv: ['--token', 't', '--token-file', 'f'], files: { '/srv/f': 'x' } })).toBe(
      '--token and --token-file are both given: drop one',
    );
  });

  it('token files that are absent or hold no token', () => {
    expect(problemOf({ argv: ['--token-file', 'gone'] })).toContain('Cannot read gone');
    expect(problemOf({ argv: ['--token-file', 'f'], files: { '/srv/f': '\n' } })).toContain('first line');
    expect(problemOf({ argv: ['--token-file', 'f'], files: { '/srv/f': 'two words\n' } })).not.toContain('two words');
  });

  it('two doors on one address', () => {
    expect(problemOf({ argv: ['--resp', '127.0.0.1:7600'] })).toContain(
      'cannot both listen on port 7600: http.listen 127.0.0.1:7600, --resp 127.0.0.1:7600',
    );
    expect(problemOf({ argv: ['--resp', 'localhost:7600'] })).toContain('cannot both listen');
    expect(problemOf({ argv: ['--resp', '0.0.0.0:7600', '--token', 't'] })).toContain('cannot both listen');
    expect(problemsOf({ argv: ['--resp', '127.0.0.2:7600'] })).toEqual([]);
    expect(problemsOf({ argv: ['--resp', '127.0.0.1:0', '--http', '127.0.0.1:0'] })).toEqual([]);
  });

  it('the lm door beyond this machine, with or without a token, unless that is allowed in so many words', () => {
    for (const address of ['0.0.0.0:7602', '[::]:0', '10.0.0.5:7602']) {
      for (const more of [[], ['--token', 't']]) {
        expect(problemOf({ argv: ['--lm', address, ...more] })).toContain('knows no authentication');
        expect(problemsOf({ argv: ['--lm', address, '--lm-allow-unauthenticated', ...more] })).toEqual([]);
      }
    }
    // What lets lm:// out lets nothing else out.
    expect(problemOf({ argv: ['--resp', '10.0.0.5:7601', '--lm-allow-unauthenticated'] })).toContain('opens RESP beyond this machine');
  });

  it('any two doors on one port', () => {
    expect(problemOf({ argv: ['--lm', '127.0.0.1:7600'] })).toContain(
      'HTTP and lm cannot both listen on port 7600: http.listen 127.0.0.1:7600, --lm 127.0.0.1:7600',
    );
    expect(problemOf({ argv: ['--lm', 'localhost:7601'] })).toContain('RESP and lm cannot both listen on port 7601');
    expect(problemOf({ argv: ['--resp', '127.0.0.1:7602'] })).toContain('RESP and lm cannot both listen on port 7602');
    expect(problemsOf({ argv: ['--resp', '127.0.0.1:7602', '--lm', 'off'] })).toEqual([]);
    expect(problemsOf({ argv: ['--resp', '127.0.0.1:7602', '--token', 't'] })).toEqual([]);
  });

  it('SSD folders twice, nested, or with the tier off', () => {
    expect(problemOf({ argv: ['--ssd-dir', '/a', '--ssd-dir', '/b/../a'] })).toBe('SSD folder /a is named twice');
    expect(problemOf({ argv: ['--ssd-dir', '/a', '--ssd-dir', '/a/b'] })).toBe('SSD folder /a/b lies inside SSD folder /a');
    expect(problemsOf({ argv: ['--ssd-dir', '/a', '--ssd-dir', '/ab'] })).toEqual([]);
    expect(problemOf({ argv: ['--ssd', 'off', '--ssd-dir', '/a'] })).toContain('contradict');
  });

  it('SSD sizes that do not add up', () => {
    expect(problemOf({ argv: ['--ssd', '3GiB', '--ssd-dir', '/a:1GiB', '--ssd-dir', '/b:1GiB'] })).toContain('sum to 2 GiB');
    expect(problemOf({ argv: ['--ssd', '1GiB', '--ssd-dir', '/a:1GiB', '--ssd-dir', '/b'] })).toContain('leaves no room');
    expect(problemOf({ argv: ['--ssd', '1TiB'] })).toContain('is to hold 1 TiB, its disk holds 900 GiB in all');
    expect(problemOf({ argv: ['--ssd-free-space-floor', '900GiB'] })).toContain('lets nothing be written');
    expect(problemOf({ argv: ['--ssd-dir', '/a:12'] })).toContain('/a is given 12 B');
  });

  it('a RAM tier beyond memory, the cgroup or shared memory, with the numbers', () => {
    expect(problemOf({ argv: ['--ram', '65GiB'] })).toBe('--ram 65 GiB is more than the memory there is (64 GiB of the machine)');
    expect(problemOf({ argv: ['--ram', '2GiB'], facts: { cgroupMemoryBytes: GiB } })).toContain('(1 GiB by the cgroup)');
    const small = problemOf({ argv: ['--ram', '1GiB'], facts: { shmFreeBytes: 64 * MiB, shmTotalBytes: 64 * MiB } });
    expect(small).toContain('--ram 1 GiB does not fit /dev/shm: 64 MiB of 64 MiB are free');
    expect(problemOf({ facts: { shmFreeBytes: 8 * MiB } })).toContain('half of the free /dev/shm (8 MiB) leaves 4 MiB, at least 16 MiB');
    expect(problemOf({ facts: { shmFreeBytes: 0, platform: 'darwin' } })).toContain('this is darwin');
  });

  it('a largest chunk above a quarter of the tier if explicit; the default is lowered', () => {
    expect(problemOf({ argv: ['--ram', '256MiB', '--ram-max-chunk', '65MiB'] })).toContain('at most 64 MiB is allowed');
    const { config, because } = load({ argv: ['--ram', '256MiB'] });
    expect(config.ram.maxChunkBytes).toBe(64 * MiB);
    expect(because('ram.maxChunk')).toBe('a quarter of the RAM tier (256 MiB)');
  });

  it('queues that do not fit the RAM tier they live in', () => {
    expect(problemOf({ argv: ['--ssd-queue-bytes', '3GiB'] })).toContain('more than half of the RAM tier (4 GiB)');
    expect(problemOf({ argv: ['--ssd-queue-bytes', '64MiB'] })).toContain('less than the largest chunk (128 MiB)');
    expect(problemOf({ argv: ['--read-ahead-bytes', '3GiB'] })).toContain('more than half');
    expect(load({ argv: ['--read-ahead-bytes', '0'] }).config.readAhead.bytes).toBe(0);
  });

  it.each([
    ['--io-workers', '1'],
    ['--io-workers', '65'],
    ['--io-workers', '2.5'],
    ['--io-workers', '0x8'],
    ['--lease-duration', '0'],
    ['--ram', '1MiB'],
    ['--ram', '-1'],
    ['--ram', '1e3'],
    ['--resp-max-connections', '0'],
    ['--http-max-body', '1GiB'],
    ['--ssd-admission', 'third-use'],
    ['--ram-policy', 'lru'],
    ['--ssd-policy', 'slru '],
    ['--log-level', 'loud'],
    ['--invalidate-webhook', 'ftp://h/'],
    ['--invalidate-webhook', 'http://'],
    ['--http', ':7600'],
    ['--http', '127.0.0.1'],
    ['--http', '127.0.0.1:70000'],
    ['--http', '::1:7600'],
    ['--http', '[::g]:7600'],
    ['--http', '256.0.0.1:7600'],
    ['--http', '127.1:7600'],
    ['--http', 'off'],
    ['--http', 'a_b:1'],
    ['--ram-hugepages=yes', ''],
    ['--token', 'two words'],
    ['--token', 'é'],
  ])('%s %s is refused', (flag, value) => {
    expect(problemsOf({ argv: value === '' ? [flag] : [flag, value] }).length).toBeGreaterThan(0);
  });
});

describe('derived values', () => {
  it('take RAM as the least of 4 GiB, a quarter of memory and half of free shared memory, and say which', () => {
    const quarter = load({ facts: { memoryBytes: 8 * GiB } });
    expect([quarter.config.ram.sizeBytes, quarter.because('ram.size')]).toEqual([2 * GiB, 'a quarter of memory (8 GiB of the machine)']);
    const group = load({ facts: { cgroupMemoryBytes: 4 * GiB } });
    expect([group.config.ram.sizeBytes, group.because('ram.size')]).toEqual([GiB, 'a quarter of memory (4 GiB by the cgroup)']);
    const shm = load({ facts: { shmFreeBytes: 64 * MiB } });
    expect([shm.config.ram.sizeBytes, shm.because('ram.size')]).toEqual([32 * MiB, 'half of the free /dev/shm (64 MiB)']);
    expect(load({ facts: { cgroupMemoryBytes: 128 * GiB } }).because('ram.size')).toContain('64 GiB of the machine');
  });

  it('take SSD as the lesser of 20 GiB and half of the free disk', () => {
    const half = load({ disk: { freeBytes: 10 * GiB } });
    expect([half.config.ssd.sizeBytes, half.because('ssd.size')]).toEqual([5 * GiB, 'half of the free disk (10 GiB)']);
    expect(load({ argv: ['--ssd', 'off'] }).config.ssd).toMatchObject({ sizeBytes: 0, folders: [] });
  });

  it('keep the SSD size of an earlier start, whose files are no longer free space', () => {
    const again = load({ disk: { freeBytes: 5 * GiB, rememberedBytes: 5 * GiB } });
    expect([again.config.ssd.sizeBytes, again.because('ssd.size')]).toEqual([5 * GiB, 'as at an earlier start, whose files are in it']);
    expect(load({ disk: { freeBytes: 5 * GiB, totalBytes: 6 * GiB, rememberedBytes: 500 * GiB } }).config.ssd.sizeBytes).toBe(2.5 * GiB);
  });

  it('share one disk between the folders on it', () => {
    const { config } = load({ argv: ['--ssd-dir', '/a', '--ssd-dir', '/b'], disk: { freeBytes: 16 * GiB } });
    expect(config.ssd.folders.map((folder) => folder.sizeBytes)).toEqual([4 * GiB, 4 * GiB]);
    const shares = load({ argv: ['--ssd', '10GiB', '--ssd-dir', '/a:4GiB', '--ssd-dir', '/b', '--ssd-dir', '/c'] }).config.ssd;
    expect(shares.folders.map((folder) => folder.sizeBytes)).toEqual([4 * GiB, 3 * GiB, 3 * GiB]);
    expect(load({ argv: ['--ssd-dir', '/a:1GiB', '--ssd-dir', '/b:2GiB'] }).config.ssd.sizeBytes).toBe(3 * GiB);
  });

  it('take workers from the lesser of machine and cgroup', () => {
    expect(load().config.io.workers).toBe(16);
    const limited = load({ facts: { cgroupCores: 2.5 } });
    expect([limited.config.io.workers, limited.because('io.workers')]).toEqual([8, 'two per core, 8 to 32 (2.5 cores by the cgroup)']);
    expect(load({ facts: { cgroupCores: 0.2 } }).config.io.workers).toBe(8);
  });

  it('lower the free-space floor on a small disk', () => {
    const { config } = load({ disk: { totalBytes: 100 * MiB, freeBytes: 90 * MiB } });
    expect(config.ssd.freeSpaceFloorBytes).toBe(10 * MiB);
  });

  it('keep every default valid on a machine of 16 MiB of RAM tier', () => {
    const { config } = load({ argv: ['--ram', '16MiB'] });
    expect(config.ram.maxChunkBytes).toBe(4 * MiB);
    expect(config.ssd.queueBytes).toBe(4 * MiB);
    expect(config.readAhead.bytes).toBe(2 * MiB);
    expect(config.ram.maxChunkBytes % (4 * KiB)).toBe(0);
  });
});

describe('config print', () => {
  it('shows every knob with value, origin and source, and no secret anywhere', () => {
    const loaded = load({
      argv: ['--token', 'tok-admin-1', '--invalidate-webhook', 'http://user:pass@host:8080/clear-cache?key=abc'],
      env: { KVTIER_READ_TOKEN: 'tok-read-2', KVTIER_RAM: '1GiB' },
    });
    const rows = loaded.describe();
    expect(rows.map((row) => row.key)).toEqual(knobs.map((knob) => knob.key));
    expect(rows.find((row) => row.key === 'ram.size')).toEqual({
      key: 'ram.size',
      value: '1 GiB',
      origin: 'variable',
      source: 'KVTIER_RAM',
      because: '',
    });
    expect(rows.find((row) => row.key === 'invalidate.webhook')?.value).toBe('http://********@host:8080/clear-cache?********');
    const text = JSON.stringify(rows);
    for (const hidden of ['tok-admin-1', 'tok-read-2', 'user', 'pass', 'abc']) expect(text).not.toContain(hidden);
  });

  it.each([
    [['--token', 'half', 'SECRET']],
    [['--token', 'half', 'SECRET', 'SECRET']],
    [['-token', 'SECRET']],
    [['-token=SECRET']],
    [['--tokn', 'half', 'SECRET']],
    [['--tenant-tokens', 'a=half', 'b=SECRET']],
    [['--invalidate-webhook', 'http://user:SECRET@host:99999/']],
    [['--invalidate-webhook', 'ftp://host/?key=SECRET']],
  ])('quotes nothing that may be a part of a secret: %j', (argv) => {
    expect(problemsOf({ argv }).length).toBeGreaterThan(0);
    expect(problemsOf({ argv }).join('\n')).not.toContain('SECRET');
  });

  it('quotes no token that stands where a tenant was meant', () => {
    for (const source of ['tenants.reveal = "SECRET"', '[tenants]\nreveal = "SECRET"']) {
      const said = problemsOf({ argv: ['--config', 'c.toml'], files: { '/srv/c.toml': source } }).join('\n');
      expect(said).toContain('true or false is wanted');
      expect(said).not.toContain('SECRET');
    }
  });

  it('quotes nothing of a file that is no TOML', () => {
    for (const text of [
      'token = "SECRET',
      'token = SECRET',
      'token = "a"\ntoken = "SECRET"',
      'token = "SECRET" x',
      'SECRET',
      'token SECRET',
      'token = "\\qSECRET"',
    ])
      for (const source of [text, `[tenants.acme]\n${text}`]) {
        const said = problemsOf({ argv: ['--config', 'c.toml'], files: { '/srv/c.toml': source } }).join('\n');
        expect(said).toContain('Cannot read c.toml as TOML: line ');
        expect(said).not.toContain('SECRET');
      }
  });

  it('never puts a refused secret into a message', () => {
    expect(problemsOf({ argv: ['--token', 'two secret words'] }).join()).not.toContain('secret words');
    expect(problemsOf({ env: { KVTIER_READ_TOKEN: 'né-secret' } }).join()).not.toContain('né-secret');
  });
});

describe('docs/configuration.md', () => {
  it('is what the schema generates: run `bun node-agent/config/write-docs.ts`', () => {
    expect(readFileSync('docs/configuration.md', 'utf8')).toBe(referencePage());
  });
});
