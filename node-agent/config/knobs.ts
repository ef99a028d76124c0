/**
 * Every knob of the agent, once: key in the TOML file, value type, default, and the sentence that `--help` and
 * docs/configuration.md print. Flag and variable follow from the key unless a knob names its own flag.
 */
import * as z from 'zod';
import { GiB, KiB, MiB } from '#core/bytes.ts';
import { deviceNames, hbmShare } from './hbm.ts';
import * as types from './knob-types.ts';
import { tenantTokens } from './tenant-tokens.ts';
import { MAX_TTL_MS, MIN_TTL_MS, ttlRules } from './ttl-rules.ts';

export interface KnobMeta {
  readonly shape: types.KnobShape;
  readonly description: string;
  /** As people read it; for a derived default, the rule. */
  readonly defaultText: string;
  /** Shown in help: `--ram <size|auto>`. */
  readonly hint: string;
  /** Long name without dashes, where it is not the key in kebab case. */
  readonly flag?: string;
  readonly secret?: true;
  /** What was refused is not quoted: it may hold a secret. That of a `secret` never is. */
  readonly unquoted?: true;
  readonly repeatable?: true;
}

const metas = z.registry<KnobMeta>();

/** A knob with a fixed default. */
function knob<Value>(type: z.ZodType<Value>, fallback: NoInfer<Value>, meta: KnobMeta): z.ZodDefault<z.ZodType<Value>> {
  const schema = z._default(type, fallback as never);
  metas.add(schema, meta);
  return schema;
}

/** A knob that may stay unset. */
function optionalKnob<Value>(type: z.ZodType<Value>, meta: KnobMeta): z.ZodOptional<z.ZodType<Value>> {
  const schema = z.optional(type);
  metas.add(schema, meta);
  return schema;
}

/** Smallest RAM tier: a few chunks of a MiB and their slabs. */
export const MIN_RAM_BYTES = 16 * MiB;
/** Smallest SSD folder. */
export const MIN_FOLDER_BYTES = MiB;
export const DEFAULT_MAX_CHUNK_BYTES = 128 * MiB;
const MAX_BYTES = 2 ** 50;
/** Those of src/policy/create-policy.ts; where agent.ts makes one, the compiler compares. */
const policyNames = ['adaptive', 'leaf-lru', 'slru', 'arc', 'fifo'] as const;
const policies =
  'the least recently used with a share of its own for what was used again, which follows what comes back (adaptive), ' +
  'the least recently used (leaf-lru), the same with 20 % for what was used again (slru), ARC as published (arc), the oldest (fifo)';
const HOUR_MS = 3_600_000;

/** The one schema. Key order is the order of the reference page. */
export const configSchema = z.strictObject({
  config: optionalKnob(types.text('a path'), {
    shape: 'path',
    hint: 'path',
    defaultText: 'none',
    description: 'TOML file with the settings that neither a flag nor a variable gives.',
  }),
  dataDir: knob(types.text('a path'), './.kvtier', {
    shape: 'path',
    hint: 'path',
    defaultText: '`./.kvtier`',
    description: 'Folder of the journal, the catalog, agent.json and, unless ssd.dir says otherwise, the SSD tier.',
  }),
  'http.listen': knob(
    types.address(),
    { host: '127.0.0.1', port: 7600 },
    {
      shape: 'address',
      hint: 'host:port',
      flag: 'http',
      defaultText: '`127.0.0.1:7600`',
      description: 'Address of the REST API, metrics and health; port 0 picks a free port, and anything but loopback needs a token.',
    },
  ),
  'resp.listen': knob(
    types.address(['off']),
    { host: '127.0.0.1', port: 7601 },
    {
      shape: 'address',
      hint: 'host:port|off',
      flag: 'resp',
      defaultText: '`127.0.0.1:7601`',
      description:
        'Address of the RESP door for LMCache and redis clients; port 0 picks a free port, and anything but loopback needs a token.',
    },
  ),
  'resp.front': optionalKnob(types.text('a path'), {
    shape: 'path',
    hint: 'path',
    defaultText: 'none: the agent listens itself',
    description:
      'Unix socket of a front (kvtier front) that listens on resp.listen in place of the agent and keeps client connections open while the agent restarts.',
  }),
  'lm.listen': knob(types.address(['auto', 'off']), 'auto', {
    shape: 'address',
    hint: 'host:port|auto|off',
    flag: 'lm',
    defaultText: '`auto`: 127.0.0.1:7602, or off where a token is configured',
    description:
      'Address of the door for LMCache lm:// clients, which has no authentication; port 0 picks a free port, and anything but loopback needs lm.allowUnauthenticated.',
  }),
  'lm.allowUnauthenticated': knob(types.toggle(), false, {
    shape: 'boolean',
    hint: '',
    defaultText: '`false`',
    description: 'Let the lm:// door listen beyond this machine, where everybody who reaches it reads and stores.',
  }),
  'socket.path': knob(types.text('a path, auto or off'), 'auto', {
    shape: 'path',
    hint: 'path|auto|off',
    flag: 'socket',
    defaultText: '`auto`: agent.sock in dataDir',
    description: 'Unix socket of the native door for engines on this machine; at most 107 bytes.',
  }),
  'socket.mode': knob(types.fileMode(), 0o600, {
    shape: 'mode',
    hint: 'octal',
    defaultText: '`0600`',
    description: 'Permissions of the socket: who may write to it may use the door.',
  }),
  'socket.group': optionalKnob(types.text('a group'), {
    shape: 'text',
    hint: 'name|gid',
    defaultText: "the process's own",
    description: 'Group of the socket, for engines of other users; goes with socket.mode 0660.',
  }),
  'socket.regionRoots': knob(types.paths(), ['/dev/shm'], {
    shape: 'path',
    hint: 'path,path',
    defaultText: '`/dev/shm`',
    description: 'Folders, in memory, under which the files of clients may lie that the agent reads and writes for them.',
  }),
  'socket.maxConnections': knob(types.count({ min: 1, max: 65_536 }), 1024, {
    shape: 'count',
    hint: 'count',
    defaultText: '`1024`',
    description: 'Connections to the socket at one time; further ones are closed.',
  }),
  'socket.reserve': knob(types.size({ min: MiB, max: MAX_BYTES }), 256 * MiB, {
    shape: 'size',
    hint: 'size',
    defaultText: '`256MiB`',
    description: 'Memory that the agent makes for clients that reserve room before they store, over all of them; a quarter of it for each.',
  }),
  'tls.cert': optionalKnob(types.text('a path'), {
    shape: 'path',
    hint: 'path',
    defaultText: 'none',
    description: 'Certificate chain in PEM with which HTTP and RESP speak TLS, and nothing else; read once at start, needs tls.key.',
  }),
  'tls.key': optionalKnob(types.text('a path'), {
    shape: 'path',
    hint: 'path',
    defaultText: 'none',
    description: 'Private key in PEM, without a passphrase, of tls.cert.',
  }),
  token: optionalKnob(types.secret(), {
    shape: 'secret',
    hint: 'token',
    secret: true,
    defaultText: 'none',
    description:
      'Admin token that clients must present on HTTP (bearer) and RESP (AUTH); prefer tokenFile, since a flag is visible in the process list.',
  }),
  tokenFile: optionalKnob(types.text('a path'), {
    shape: 'path',
    hint: 'path',
    defaultText: 'none',
    description: 'File whose first line is the admin token.',
  }),
  readToken: optionalKnob(types.secret(), {
    shape: 'secret',
    hint: 'token',
    secret: true,
    defaultText: 'none',
    description: 'Token that may read but not change anything; needs an admin token beside it.',
  }),
  readTokenFile: optionalKnob(types.text('a path'), {
    shape: 'path',
    hint: 'path',
    defaultText: 'none',
    description: 'File whose first line is the read token.',
  }),
  'tenants.tokens': optionalKnob(tenantTokens(), {
    shape: 'tenants',
    hint: 'name=token …',
    flag: 'tenant-tokens',
    secret: true,
    defaultText: 'none',
    description:
      'Tokens of tenants, each of whom sees its own chunks only; in the file a table a tenant, `[tenants.NAME]` with `token` or `tokenFile`, which is to be preferred: a flag is visible in the process list.',
  }),
  'tenants.reveal': knob(types.toggle(), false, {
    shape: 'boolean',
    hint: '',
    flag: 'tenants-reveal',
    // What stands among the tenants is most likely a token.
    unquoted: true,
    defaultText: '`false`',
    description: 'Show cache salts as they are in logs, metrics, statistics and listings instead of their digests.',
  }),
  'ram.size': knob(types.size({ min: MIN_RAM_BYTES, max: MAX_BYTES, words: ['auto'] }), 'auto', {
    shape: 'size',
    hint: 'size|auto',
    flag: 'ram',
    defaultText: '`auto`: the least of 4 GiB, a quarter of memory, and half of the free ram.shmDir',
    description: 'Capacity of the RAM tier.',
  }),
  'ram.maxChunk': knob(types.size({ min: 4 * KiB, max: 4 * GiB, words: ['auto'] }), 'auto', {
    shape: 'size',
    hint: 'size|auto',
    defaultText: '`auto`: 128 MiB, or a quarter of the RAM tier where that is less',
    description: 'Largest value that a put may carry; a larger one is rejected, and more than a quarter of the RAM tier is refused.',
  }),
  'ram.shmDir': knob(types.text('a path'), '/dev/shm', {
    shape: 'path',
    hint: 'path',
    flag: 'shm-dir',
    defaultText: '`/dev/shm`',
    description: 'Shared-memory file system that backs the RAM tier.',
  }),
  'ram.keep': knob(types.choice(['on', 'off']), 'on', {
    shape: 'choice',
    hint: 'on|off',
    defaultText: '`on`',
    description: 'Leave the RAM tier in shared memory when the agent ends, however it ends, and take it over at the next start.',
  }),
  'ram.hugepages': knob(types.toggle(), false, {
    shape: 'boolean',
    hint: '',
    defaultText: '`false`',
    description: 'Ask the kernel to back the RAM tier with huge pages.',
  }),
  'ram.policy': knob(types.choice(policyNames), 'adaptive', {
    shape: 'choice',
    hint: policyNames.join('|'),
    defaultText: '`adaptive`',
    description: `What leaves the RAM tier first: ${policies}.`,
  }),
  'ssd.size': knob(types.size({ min: MIN_FOLDER_BYTES, max: MAX_BYTES, words: ['auto', 'off'] }), 'auto', {
    shape: 'size',
    hint: 'size|auto|off',
    flag: 'ssd',
    defaultText: '`auto`: the sum of the folders; a folder without a size takes the lesser of 20 GiB and half of its free disk',
    description: 'Capacity of the SSD tier over all its folders; `off` keeps everything in RAM.',
  }),
  'ssd.dir': optionalKnob(types.folders(MIN_FOLDER_BYTES), {
    shape: 'folders',
    hint: 'path[:size]',
    flag: 'ssd-dir',
    repeatable: true,
    defaultText: '`<dataDir>/ssd`',
    description:
      'Folder of the SSD tier with an optional capacity of its own; repeat it, one per device, and losing one loses only its chunks.',
  }),
  'ssd.policy': knob(types.choice(policyNames), 'adaptive', {
    shape: 'choice',
    hint: policyNames.join('|'),
    defaultText: '`adaptive`',
    description: 'What leaves the SSD tier first; as ram.policy.',
  }),
  'ssd.admission': knob(types.choice(['idle', 'demote', 'through', 'second-use', 'off']), 'idle', {
    shape: 'choice',
    hint: 'idle|demote|through|second-use|off',
    defaultText: '`idle`',
    description:
      'When a chunk is written to SSD: when it leaves RAM or the disk is quiet (idle), only when it leaves RAM (demote), at once (through), when the disk is quiet after its second use (second-use), never (off).',
  }),
  'ssd.idleAfter': knob(types.duration({ min: 0, max: HOUR_MS }), 2000, {
    shape: 'duration',
    hint: 'duration',
    defaultText: '`2s`',
    description: 'Under idle admission, how long a chunk is in RAM before a quiet disk writes it.',
  }),
  'ssd.writeBudget': knob(types.rate({ min: 0, max: MAX_BYTES, words: ['auto'] }), 'auto', {
    shape: 'rate',
    hint: 'bytes per second|auto',
    defaultText: '`auto`: no limit',
    description: 'Bytes per second that the SSD tier may write; 0 and auto mean no limit.',
  }),
  'ssd.freeSpaceFloor': knob(types.size({ min: 0, max: MAX_BYTES, words: ['auto'] }), 'auto', {
    shape: 'size',
    hint: 'size|auto',
    defaultText: '`auto`: the lesser of 1 GiB and a tenth of the smallest disk',
    description: 'Free space on each disk below which its folder takes no more writes, whatever its capacity says.',
  }),
  'ssd.direct': knob(types.choice(['auto', 'on', 'off']), 'auto', {
    shape: 'choice',
    hint: 'auto|on|off',
    defaultText: '`auto`',
    description:
      'Bypass the page cache (O_DIRECT): where the file system can (auto), or fail the folder where it cannot (on), or never (off).',
  }),
  'ssd.queueBytes': knob(types.size({ min: 4 * KiB, max: MAX_BYTES, words: ['auto'] }), 'auto', {
    shape: 'size',
    hint: 'size|auto',
    defaultText: '`auto`: a quarter of the RAM tier, at most 1 GiB',
    description: 'Bytes that may wait to be written to SSD; beyond it whole chain suffixes are shed and counted.',
  }),
  'ssd.ioDeadline': knob(types.duration({ min: 100, max: HOUR_MS }), 10_000, {
    shape: 'duration',
    hint: 'duration',
    defaultText: '`10s`',
    description:
      'How long an operation on an SSD folder may run, plus a second for each 16 MiB; then the folder is stalled: its chunks are misses until a probe succeeds.',
  }),
  'hbm.size': knob(hbmShare(), 'auto', {
    shape: 'shares',
    hint: 'size|auto|off',
    flag: 'hbm',
    defaultText: '`auto`: no pool, and no context on any device',
    description:
      'Memory of each GPU that the HBM tier takes: one size for every device, or a list of one size a device; an inference engine owns the card by default, so `auto` takes nothing.',
  }),
  'hbm.devices': optionalKnob(deviceNames(), {
    shape: 'devices',
    hint: 'number|UUID',
    repeatable: true,
    defaultText: 'every device that the driver has, or the first ones where hbm.size is a list',
    description: 'Devices that get a pool, by their number in the order of the driver or by UUID.',
  }),
  'hbm.required': knob(types.toggle(), false, {
    shape: 'boolean',
    hint: '',
    defaultText: '`false`: the agent works without, and says why',
    description: 'Refuse to start where a device that hbm.size wants a pool on cannot give it.',
  }),
  'hbm.driver': knob(types.choice(['real', 'emulated']), 'real', {
    shape: 'choice',
    hint: 'real|emulated',
    defaultText: '`real`',
    description:
      'The CUDA driver of this machine, or an emulation of one in host memory, for trying and testing; its numbers say nothing of a GPU and are called emulated wherever they are shown.',
  }),
  'hbm.driverPath': optionalKnob(types.text('a path'), {
    shape: 'path',
    hint: 'path',
    defaultText: '`libcuda.so.1` as the loader finds it',
    description: 'The library of the CUDA driver.',
  }),
  'hbm.promoteHits': knob(types.count({ min: 1, max: 1000 }), 2, {
    shape: 'count',
    hint: 'count',
    defaultText: '`2`',
    description: 'Hits within hbm.promoteWindow after which a chunk in RAM is copied to a device.',
  }),
  'hbm.promoteWindow': knob(types.duration({ min: 1000, max: 24 * HOUR_MS }), 600_000, {
    shape: 'duration',
    hint: 'duration',
    defaultText: '`10m`',
    description: 'Time within which hbm.promoteHits count.',
  }),
  'hbm.policy': knob(types.choice(policyNames), 'adaptive', {
    shape: 'choice',
    hint: policyNames.join('|'),
    defaultText: '`adaptive`',
    description: 'What leaves the HBM tier first; as ram.policy.',
  }),
  'lease.duration': knob(types.duration({ min: 10, max: HOUR_MS }), 30_000, {
    shape: 'duration',
    hint: 'duration',
    defaultText: '`30s`',
    description: 'How long a probe that answered yes protects the chunk from eviction.',
  }),
  'ttl.default': knob(types.duration({ min: MIN_TTL_MS, max: MAX_TTL_MS, words: ['off'] }), 'off', {
    shape: 'duration',
    hint: 'duration|off',
    defaultText: '`off`',
    description: 'How long a chunk lives where neither the client nor ttl.rules says so; off: until it is evicted.',
  }),
  'ttl.rules': optionalKnob(ttlRules(), {
    shape: 'rules',
    hint: 'model[@tenant]=duration',
    repeatable: true,
    defaultText: 'none',
    description:
      "How long the chunks of a model, or of a tenant in it, live where the client does not say: patterns with `*`, a duration or `off`, the first that fits. A tenant with a token is `name` or `@name`, a salt of such a name `salt@name`. The model of keys that are not LMCache's is empty. A cache salt in a rule is shown wherever settings are.",
  }),
  'put.wait': knob(types.duration({ min: 0, max: 60_000 }), 1000, {
    shape: 'duration',
    hint: 'duration',
    defaultText: '`1s`',
    description: 'How long a put waits for room in RAM before the coldest unwritten chunks are dropped.',
  }),
  'readAhead.bytes': knob(types.size({ min: 0, max: MAX_BYTES, words: ['auto'] }), 'auto', {
    shape: 'size',
    hint: 'size|auto',
    defaultText: '`auto`: an eighth of the RAM tier, at most 512 MiB',
    description:
      'Bytes that may be on their way from SSD to RAM because of a probe, before anybody asked for them; 0 turns read-ahead off.',
  }),
  'io.workers': knob(types.count({ min: 2, max: 64, words: ['auto'] }), 'auto', {
    shape: 'count',
    hint: 'count|auto',
    defaultText: '`auto`: two per core, 8 to 32',
    description: 'Threads that move bytes between memory, sockets and files.',
  }),
  'resp.profile': knob(types.choice(['auto', 'lmcache', 'redis']), 'auto', {
    shape: 'choice',
    hint: 'auto|lmcache|redis',
    defaultText: '`auto`',
    description:
      'Whether connections follow the rules that LMCache relies on, those of redis, or the first until they send anything else (auto).',
  }),
  'resp.maxConnections': knob(types.count({ min: 1, max: 65_536 }), 1024, {
    shape: 'count',
    hint: 'count',
    defaultText: '`1024`',
    description: 'Connections at one time, of the RESP door and as many of the lm:// door; further ones are closed.',
  }),
  'resp.sizeGuard': knob(types.choice(['auto', 'on', 'off']), 'auto', {
    shape: 'choice',
    hint: 'auto|on|off',
    defaultText: '`auto`',
    description:
      'Answer a chunk as a miss where its size is not the one that its client expects: in the LMCache profile (auto), always, or never.',
  }),
  'resp.idle': knob(types.duration({ min: 1000, max: 24 * HOUR_MS, words: ['off'] }), 'off', {
    shape: 'duration',
    hint: 'duration|off',
    defaultText: '`off`',
    description: 'Close a RESP connection that has sent nothing for this long.',
  }),
  'resp.stall': knob(types.duration({ min: 100, max: HOUR_MS }), 30_000, {
    shape: 'duration',
    hint: 'duration',
    defaultText: '`30s`',
    description: 'Close a connection of the RESP or lm:// door whose transfer has moved no byte for this long.',
  }),
  'resp.minRate': knob(types.rate({ min: 0, max: MAX_BYTES }), MiB, {
    shape: 'rate',
    hint: 'bytes per second',
    defaultText: '`1MiB`',
    description:
      'A value must arrive, or be taken, within resp.stall plus its size at this rate, else its connection is closed: a peer that trickles holds no room; 0 for no such rule.',
  }),
  'http.maxBody': knob(types.size({ min: KiB, max: 64 * MiB }), MiB, {
    shape: 'size',
    hint: 'size',
    defaultText: '`1MiB`',
    description: 'Largest body of a REST request.',
  }),
  'invalidate.webhook': optionalKnob(types.httpUrl(), {
    shape: 'url',
    // A URL may hold a password, and one that is refused cannot be masked in parts.
    unquoted: true,
    hint: 'url',
    defaultText: 'none',
    description: "URL posted to after an invalidation, such as LMCache's own clear, whose memory still holds what was taken away here.",
  }),
  'shutdown.drainMs': knob(types.duration({ min: 0, max: HOUR_MS }), 25_000, {
    shape: 'duration',
    hint: 'duration',
    flag: 'shutdown-drain',
    defaultText: '`25s`',
    description:
      'How long a stopping agent finishes transfers and writes dirty chunks to SSD; keep it below the grace period of the supervisor.',
  }),
  'log.level': knob(types.choice(['debug', 'info', 'warn', 'error']), 'info', {
    shape: 'choice',
    hint: 'debug|info|warn|error',
    defaultText: '`info`',
    description: 'Least severe record that is logged.',
  }),
  'log.format': knob(types.choice(['pretty', 'json']), 'pretty', {
    shape: 'choice',
    hint: 'pretty|json',
    defaultText: '`pretty`',
    description: 'Log lines for people, or one JSON object a line for programs.',
  }),
});

export type KnobValues = z.output<typeof configSchema>;
export type KnobKey = keyof KnobValues;

export interface Knob extends KnobMeta {
  readonly key: KnobKey;
  readonly flag: string;
  readonly variable: string;
}

/** Variables of the same prefix that are not knobs: the address that CLI commands talk to. */
export const otherVariables: readonly string[] = ['KVTIER_URL'];
/** Variables of the tests, which start agents with the environment that they were started with. */
export const testPrefixes: readonly string[] = ['KVTIER_E2E_', 'KVTIER_TEST_', 'KVTIER_CUDA_EMULATOR'];

function kebab(key: string): string {
  return key.replaceAll('.', '-').replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

/** All knobs in the order of the schema. */
export const knobs: readonly Knob[] = Object.entries(configSchema.shape).map(([key, schema]) => {
  const meta = metas.get(schema);
  if (meta === undefined) throw new TypeError(`Knob ${key} has no description`);
  const flag = meta.flag ?? kebab(key);
  return { ...meta, key: key as KnobKey, flag, variable: `KVTIER_${flag.replaceAll('-', '_').toUpperCase()}` };
});

const byKey = new Map<string, Knob>(knobs.map((entry) => [entry.key, entry]));

export function knobOf(key: KnobKey): Knob {
  const found = byKey.get(key);
  if (found === undefined) throw new TypeError(`No knob ${key}`);
  return found;
}
