/** What people and engines write: settings, sizes and times, LMCache's keys, REST requests. */
import fc from 'fast-check';
import { formatAddress, parseAddress } from '#config/knob-types.ts';
import { knobs } from '#config/knobs.ts';
import { loadConfig } from '#config/load-config.ts';
import type { MachineFacts } from '#config/derive.ts';
import { GiB, parseBytes } from '#core/bytes.ts';
import { parseDuration } from '#core/duration.ts';
import { KvtierError } from '#core/errors.ts';
import { namespaceIdentity } from '#core/namespace.ts';
import { printable } from '#core/printable.ts';
import { KeyParser, MAX_KEY_BYTES, parseKey, spellKey } from '#protocol/lmcache-key.ts';
import { problemSchema } from '#protocol/rest/problem.ts';
import { restRoutes } from '#protocol/rest/routes.ts';
import { timePointMs } from '#protocol/rest/time-point.ts';
import { createApiHarness, putSampleChunks, type ApiHarness } from '#testsupport/api-harness.ts';
import { demand, demandEqual, type Check, type FuzzTarget } from './harness.ts';

const encoder = new TextEncoder();
const decoder = new TextDecoder();

const values = fc.oneof(
  fc.constantFrom(
    '1GiB',
    '64MiB',
    '30s',
    '250ms',
    'auto',
    'off',
    'on',
    'true',
    'false',
    '0',
    '1',
    '16',
    '127.0.0.1:0',
    '[::1]:7600',
    'idle',
  ),
  fc.constantFrom('/a', './b', '/a:1GiB', '/a:1GiB,/b', 'http://h/x?y=z', 'redis', 'json', 'debug', 't0ken', ''),
  fc.string({ maxLength: 12 }),
);
const flag = fc.tuple(fc.constantFrom(...knobs), values, fc.boolean()).map(([knob, value, inline]) => {
  if (knob.shape === 'boolean') return [`--${knob.flag}`];
  return inline ? [`--${knob.flag}=${value}`] : [`--${knob.flag}`, value];
});
const variable = fc.tuple(fc.constantFrom(...knobs), values).map(([knob, value]) => `${knob.variable}=${value}`);
const tomlValue = fc.oneof(
  values.map((value) => JSON.stringify(value)),
  fc.constantFrom('1', '-1', '1.5', 'true', '[]', '["/a", "/b:1GiB"]', '1979-05-27', '{ a = 1 }', 'inf', 'nan', '0x10', '"""\nx"""'),
);
const tomlLine = fc.tuple(fc.constantFrom(...knobs), tomlValue).map(([knob, value]) => `${knob.key} = ${value}`);

/** flags ETX variables ETX file; words apart by NUL. */
const settings = fc
  .tuple(fc.array(flag, { maxLength: 4 }), fc.array(variable, { maxLength: 3 }), fc.array(tomlLine, { maxLength: 5 }))
  .map(([flags, variables, lines]) => [flags.flat().join('\0'), variables.join('\0'), lines.join('\n')].join('\x03'))
  .map((all) => encoder.encode(all));

function machine(paths: readonly string[]): MachineFacts {
  return {
    platform: 'linux',
    memoryBytes: 64 * GiB,
    cgroupMemoryBytes: undefined,
    cores: 4,
    cgroupCores: undefined,
    shmFreeBytes: 32 * GiB,
    shmTotalBytes: 32 * GiB,
    disks: paths.map((path) => ({ path, fileSystem: 'one', freeBytes: 80 * GiB, totalBytes: 100 * GiB, rememberedBytes: undefined })),
  };
}

const checkConfig: Check = (input) => {
  const [flags = '', variables = '', file = ''] = decoder.decode(input).split('\x03');
  const env = Object.fromEntries(
    variables.split('\0').map((entry) => {
      const equals = entry.indexOf('=');
      return equals < 0 ? [entry, ''] : [entry.slice(0, equals), entry.slice(equals + 1)];
    }),
  );
  const argv = flags === '' ? [] : flags.split('\0');
  const readFile = (path: string): string | undefined => (path.endsWith('missing') ? undefined : file);
  try {
    const loaded = loadConfig({ argv: ['--config', 'c', ...argv], env, readFile, cwd: '/w', facts: (query) => machine(query.ssdDirs) });
    const { ram, ssd, io, resp } = loaded.config;
    demand(ram.maxChunkBytes <= ram.sizeBytes / 4, 'a chunk is at most a quarter of RAM');
    demand(ssd.queueBytes >= ram.maxChunkBytes, 'the queue takes the largest chunk');
    demand(
      ssd.folders.every((folder) => folder.path.startsWith('/') && folder.sizeBytes > 0),
      'folders are absolute and have room',
    );
    demand(io.workers >= 2 && resp.maxConnections >= 1 && Number.isSafeInteger(ssd.sizeBytes), 'counts are whole');
    demand(loaded.describe().length === knobs.length, 'every knob is described');
  } catch (problem) {
    if (!(problem instanceof KvtierError) || problem.code !== 'CONFIG_INVALID') throw problem;
    demand(problem.message.length <= 4096 + 4 * input.length * 8, `a message of ${problem.message.length} characters`);
  }
};

export const config: FuzzTarget = { name: 'config', corpus: settings, begin: () => checkConfig };

const scalar = fc.oneof(
  fc.tuple(fc.nat(99_999), fc.constantFrom('', 'B', ' KiB', 'MiB', 'gib', 'TB', 'ms', 's', 'm', 'h', 'd')).map((parts) => parts.join('')),
  fc.tuple(fc.oneof(fc.ipV4(), fc.domain()), fc.nat(65_535)).map((parts) => parts.join(':')),
  fc.tuple(fc.ipV6(), fc.nat(65_535)).map(([host, port]) => `[${host}]:${port}`),
  fc.date({ noInvalidDate: true }).map((date) => date.toISOString()),
);
const NOW_MS = 1_767_323_045_000;

const checkScalar: Check = (input) => {
  const text = decoder.decode(input);
  for (const value of [parseBytes(text), parseDuration(text), timePointMs(text, NOW_MS)]) {
    demand(value === undefined || (Number.isFinite(value) && value >= 0), `${text} is read as ${value}`);
  }
  const address = parseAddress(text);
  if (address !== undefined) demandEqual(parseAddress(formatAddress(address)), address, 'an address, printed and read');
  // oxlint-disable-next-line no-control-regex
  demand(!/[\u0000-\u001f\u007f-\u009f\u202a-\u202e]/.test(printable(text)), 'printable leaves nothing that steers a terminal');
};

export const scalars: FuzzTarget = { name: 'scalars', corpus: scalar.map((text) => encoder.encode(text)), begin: () => checkScalar };

const hex = (minLength: number, maxLength: number): fc.Arbitrary<string> =>
  fc.string({ unit: fc.constantFrom(...'0123456789abcdef'), minLength, maxLength });
const word = fc.string({ unit: fc.constantFrom(...'abZ09/-._#%é'), minLength: 1, maxLength: 12 });
const optional = (arbitrary: fc.Arbitrary<string>): fc.Arbitrary<string> => fc.oneof(fc.constant(''), arbitrary);
const objectKey = fc.tuple(word, hex(8, 8), hex(1, 2), hex(1, 64), optional(word)).map(([model, rank, group, hash, salt]) => {
  return `${model}@${rank}@${group}@${hash}${salt === '' ? '' : `@${salt.replaceAll('/', '-')}`}`;
});
const engineKey = fc
  .tuple(
    fc.constantFrom('', 'vllm@'),
    word,
    fc.nat(99),
    fc.nat(99),
    hex(1, 64),
    fc.constantFrom('bfloat16', 'half', 'fp8_e5m2', 'nvfp4'),
    optional(fc.nat(99).map((layer) => `@${layer}`)),
    optional(fc.constantFrom('@user%x', '@__proto__%1', '@a%b%c')),
    fc.constantFrom('', 'kv_bytes', 'metadata'),
  )
  .map(([engine, model, world, worker, ...rest]) => `${engine}${model}@${world}@${worker}@${rest[0]}@${rest.slice(1).join('')}`);

/** The same few surroundings again and again, so that what a parser remembers is met. */
const neighbours = fc
  .tuple(
    fc.constantFrom('m@01000100@0@', '\ufeffm@01000100@0@', 'm@1@0@', 'vllm@m@1@0@', 'p@m@01000100@0@', 'vllm@deadbeef@1@0@'),
    fc.oneof(hex(1, 16), fc.constantFrom('', '-', '-ab', 'ab-', 'bf16', 'x')),
    fc.constantFrom('', '@alice', '@half', '@halfmetadata', 'metadata', '@halfkv_bytes', '@bfloat16metadata'),
  )
  .map((parts) => parts.join(''));

/** One parser for all keys of a batch, beside a fresh one for each: what it remembers must not change an answer. */
function beginKeys(): Check {
  const shared = new KeyParser({ maxNamespaces: 64 });
  const ofTenant = new KeyParser({ tenant: 'a', maxNamespaces: 64 });
  return (input) => {
    const fresh = parseKey(input);
    demand((fresh === 'too-long') === input.length > MAX_KEY_BYTES, 'the limit of a key is exact');
    demandEqual(shared.parse(input), fresh, 'a key, by a parser that remembers others');
    demandEqual(ofTenant.parse(input), parseKey(input, { tenant: 'a' }), "a tenant's key, by a parser that remembers others");
    if (fresh === 'too-long') return;
    demandEqual(spellKey(fresh), new Uint8Array(input), 'a key, spelled again');
    const owned = parseKey(input, { tenant: 'a' });
    demand(owned !== 'too-long' && (owned.descriptor.tenant === 'a' || owned.descriptor.tenant.startsWith('a/')), 'a tenant owns its keys');
    demand(namespaceIdentity(fresh.descriptor) === namespaceIdentity({ ...fresh.descriptor }), 'identity follows from the fields');
  };
}

export const keys: FuzzTarget = {
  name: 'keys',
  corpus: fc.oneof(objectKey, engineKey, neighbours).map((key) => encoder.encode(key)),
  begin: beginKeys,
};

const routes = Object.values(restRoutes).filter((route) => !['/docs', '/openapi.json', '/metrics'].includes(route.path));
const name = fc.constantFrom('qwen', 'meta/llama-3', 'x', 'default', '💥');
const selector = fc.oneof(
  fc.constant({ all: true }),
  fc.record(
    {
      model: name,
      modelPrefix: name,
      tenant: name,
      namespace: name,
      keys: fc.array(name, { minLength: 1, maxLength: 3 }),
      keyPrefix: name,
      chainFrom: name,
      tag: name,
      olderThan: fc.constantFrom('1h', 0, '2026-01-01', '2026-01-01T00:00:00Z', 5e12),
      createdBefore: fc.constantFrom('7d', 1),
      tier: fc.constantFrom('ram', 'ssd'),
    },
    { requiredKeys: [] },
  ),
);
const bodies = fc.oneof(
  fc.record({ selector, tier: fc.constantFrom('ram', 'ssd'), dryRun: fc.boolean(), reason: name }, { requiredKeys: [] }),
  fc.record({ keys: fc.array(name, { maxLength: 4 }) }),
  fc.record({ reason: name }, { requiredKeys: [] }),
  fc.constant({}),
);
const query = fc.array(
  fc.tuple(
    fc.constantFrom('limit', 'cursor', 'model', 'tenant', 'namespace', 'tier', 'keyPrefix', 'olderThan', 'x'),
    fc.oneof(name, fc.constantFrom('1', '1000', '1h', 'ram', '', '%2F')),
  ),
  { maxLength: 3 },
);
const request = fc.tuple(fc.constantFrom(...routes), name, query, bodies).map(([route, part, pairs, body]) => {
  const search = pairs.length === 0 ? '' : `?${pairs.map(([key, value]) => `${key}=${encodeURIComponent(value)}`).join('&')}`;
  const path = route.path.replace(/\{\w+\}/, encodeURIComponent(part));
  return encoder.encode(`${route.method} ${path}${search}\n${route.method === 'POST' ? JSON.stringify(body) : ''}`);
});

function beginRest(): Check {
  let harness: ApiHarness | undefined;
  let used = 0;
  return async (input) => {
    // The twin keeps an audit log: a fresh one now and then, so that what is kept is bounded and most requests meet some chunks.
    if (harness === undefined || (used += 1) % 256 === 0) {
      harness = createApiHarness();
      putSampleChunks(harness.control);
    }
    const { app, bugs } = harness;
    const newline = input.indexOf(10);
    const line = decoder.decode(input.subarray(0, newline < 0 ? input.length : newline));
    const body = newline < 0 ? new Uint8Array(0) : input.slice(newline + 1);
    const space = line.indexOf(' ');
    const [method, path] = space < 0 ? ['GET', line] : [line.slice(0, space), line.slice(space + 1)];
    const init: RequestInit = { method, headers: { 'content-type': 'application/json' } };
    if (method !== 'GET' && method !== 'HEAD') init.body = body;
    let made: Request;
    try {
      made = new Request(`http://127.0.0.1:7600${path.startsWith('/') ? '' : '/'}${path}`, init);
    } catch {
      return; // No such request can be made: methods that fetch forbids, hosts that are none.
    }
    const response = await app.fetch(made);
    const text = await response.text();
    demandEqual(bugs, [], 'bugs behind the API');
    demand(response.status < 500, `${response.status}: ${text.slice(0, 500)}`);
    if (response.status < 400) return;
    const { status, detail } = problemSchema.parse(JSON.parse(text === '' ? '{}' : text));
    demand(status === response.status && detail.length < 8192, `a problem of ${detail.length} characters`);
  };
}

export const rest: FuzzTarget = { name: 'rest', corpus: request, begin: beginRest };
