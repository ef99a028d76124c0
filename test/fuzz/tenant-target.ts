/** Tenants, their tokens and what lives how long: settings that hold secrets. Whatever stands there, no message and no listing holds a token. */
import fc from 'fast-check';
import type { MachineFacts } from '#config/derive.ts';
import { loadConfig } from '#config/load-config.ts';
import { MAX_TENANTS } from '#config/tenant-tokens.ts';
import { GiB } from '#core/bytes.ts';
import { KvtierError } from '#core/errors.ts';
import { demand, type Check, type FuzzTarget } from './harness.ts';

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Recognizable, and no name of a tenant: those have no capitals. */
const token = fc.string({ unit: fc.constantFrom(...'ABCDEFGH'), minLength: 12, maxLength: 16 }).map((text) => `TOK${text}`);
const TOKEN = /TOK[A-H]{12,16}/g;
const name = fc.oneof(
  fc.constantFrom('a', 'b', 'acme', 'team-1', 'x.y_z'),
  fc.constantFrom('default', 'reveal', 'tokens', 'A', '@a', '__proto__', ''),
);
const credential = fc.oneof(
  token.map((secret) => `token = "${secret}"`),
  token.map((secret) => `token = '${secret}'`),
  fc.constantFrom('tokenFile = "t"', 'tokenFile = "missing"', 'tokenFile = 1', 'token = 1'),
);
const table = fc
  .tuple(name, fc.array(credential, { minLength: 1, maxLength: 2 }))
  .map(([tenant, lines]) => `[tenants.${/^[\w-]+$/.test(tenant) ? tenant : JSON.stringify(tenant)}]\n${lines.join('\n')}`);
const pairs = fc.array(fc.tuple(name, token), { minLength: 1, maxLength: 4 }).map((all) => all.map((each) => each.join('=')).join(' '));
const rule = fc
  .tuple(fc.constantFrom('*', 'llama-*', '*@a', 'm@@acme', ''), fc.constantFrom('7d', 'off', '0', '1ms', '9999d', '-1s'))
  .map((all) => all.join('='));
const top = fc.oneof(
  token.map((secret) => `token = "${secret}"`),
  token.map((secret) => `readToken = "${secret}"`),
  pairs.map((text) => `tenants.tokens = "${text}"`),
  fc.array(rule, { maxLength: 3 }).map((rules) => `ttl.rules = ${JSON.stringify(rules)}`),
  fc.constantFrom('tenants.reveal = true', 'tenants = 1', 'tenants = []', 'tokenFile = "t"'),
);
const file = fc.tuple(fc.array(top, { maxLength: 2 }), fc.array(table, { maxLength: 3 })).map((parts) => parts.flat().join('\n'));

/** variables ETX file. */
const settings = fc
  .tuple(
    fc.array(
      fc.oneof(
        pairs.map((text) => `KVTIER_TENANT_TOKENS=${text}`),
        token.map((secret) => `KVTIER_TOKEN=${secret}`),
        rule.map((text) => `KVTIER_TTL_RULES=${text}`),
      ),
      { maxLength: 2 },
    ),
    file,
  )
  .map(([variables, text]) => encoder.encode(`${variables.join('\0')}\x03${text}`));

const facts: MachineFacts = {
  platform: 'linux',
  memoryBytes: 64 * GiB,
  cgroupMemoryBytes: undefined,
  cores: 4,
  cgroupCores: undefined,
  shmFreeBytes: 32 * GiB,
  shmTotalBytes: 32 * GiB,
  disks: [],
};

const check: Check = (input) => {
  const [variables = '', text = ''] = decoder.decode(input).split('\x03');
  const env = Object.fromEntries(
    variables.split('\0').flatMap((entry) => {
      const equals = entry.indexOf('=');
      return equals < 0 ? [] : [[entry.slice(0, equals), entry.slice(equals + 1)]];
    }),
  );
  const secrets = `${variables} ${text}`.match(TOKEN) ?? [];
  const hidesAll = (shown: string, what: string): void => {
    for (const secret of secrets) demand(!shown.includes(secret), `${what} shows ${secret}: ${shown}`);
  };
  const readFile = (path: string): string | undefined =>
    path.endsWith('/c') ? text : path.endsWith('/t') ? 'TOKABCDEFGHABCD\nrest' : undefined;
  try {
    const loaded = loadConfig({ argv: ['--config', 'c', '--ssd', 'off'], env, readFile, cwd: '/w', facts: () => facts });
    const { tokens, ttl } = loaded.config;
    demand(tokens.tenants.size <= MAX_TENANTS, 'tenants are bounded');
    const all = [...tokens.tenants.values(), tokens.admin, tokens.read].filter((each) => each !== undefined);
    demand(
      all.every((each) => /^[\x21-\x7e]{1,1024}$/.test(each)),
      'tokens are words',
    );
    demand(new Set(all).size === all.length, 'a token stands for one caller');
    demand(
      [...tokens.tenants.keys()].every(
        (each) => /^[a-z0-9][a-z0-9._-]{0,63}$/.test(each) && !['default', 'reveal', 'tokens'].includes(each),
      ),
      'names are names',
    );
    demand(
      ttl.rules.every(({ ttlMs }) => ttlMs === 0 || (ttlMs >= 1000 && ttlMs <= 3650 * 86_400_000)),
      'a rule gives a time that can be kept',
    );
    const rows = loaded.describe().filter(({ key }) => key !== 'ttl.rules');
    hidesAll(JSON.stringify(rows), 'a listing');
  } catch (problem) {
    if (!(problem instanceof KvtierError) || problem.code !== 'CONFIG_INVALID') throw problem;
    // Text in the place of another setting is shown, whatever it is.
    const lines = problem.message
      .split('\n')
      .filter((line) => /^ {2}- (Cannot read c as|tenants|token|readToken|KVTIER_(TENANT_)?TOKEN)/.test(line));
    hidesAll(lines.join('\n'), 'a message');
  }
};

export const tenants: FuzzTarget = { name: 'tenants', corpus: settings, begin: () => check };
