/** Reads flags, variables and file into one AgentConfig, or says everything that is wrong with them at once. */
import { formatBytes } from '#core/bytes.ts';
import { formatDuration } from '#core/duration.ts';
import { KvtierError } from '#core/errors.ts';
import type { AgentConfig, TokenValues } from './agent-config.ts';
import type { MachineFacts } from './derive.ts';
import { formatShare } from './hbm.ts';
import { formatAddress, type SsdDir } from './knob-types.ts';
import { configSchema, knobOf, knobs, type KnobKey, type KnobValues } from './knobs.ts';
import { absolute, normalize, ssdDirs, type Normalized } from './normalize.ts';
import { readFlags, readToml, readVariables, type Origin, type RawValue, type RawValues } from './sources.ts';
import { isTenantFile } from './tenant-tokens.ts';
import { formatTtlRule } from './ttl-rules.ts';

/** Paths whose file systems matter; absolute. */
export interface FactsQuery {
  readonly dataDir: string;
  readonly shmDir: string;
  readonly ssdDirs: readonly string[];
}

export interface LoadInput {
  /** Words behind the command: flags only. */
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Text of a file; undefined where it does not exist. May throw for other reasons. */
  readonly readFile: (path: string) => string | undefined;
  readonly facts: (query: FactsQuery) => MachineFacts;
  /** Relative paths start here. */
  readonly cwd: string;
}

/** One knob as `kvtier config print` shows it. */
export interface ConfigRow {
  readonly key: KnobKey;
  /** Effective value for people; secrets masked. */
  readonly value: string;
  readonly origin: Origin;
  /** `--ram`, `KVTIER_RAM`, `ram.size in /etc/kvtier.toml`; '' for defaults and derived values. */
  readonly source: string;
  /** Where a derived value came from, otherwise ''. */
  readonly because: string;
}

export interface LoadedConfig {
  readonly config: AgentConfig;
  origin(key: KnobKey): Origin;
  /** `a quarter of memory (5.9 GiB by the cgroup)`; '' where nothing was derived. */
  because(key: KnobKey): string;
  describe(): readonly ConfigRow[];
}

const MASK = '********';

/** What went into the values; the CLI's client commands stop here, they need no machine. */
export interface ReadValues {
  readonly values: KnobValues;
  readonly given: RawValues;
  readonly tokens: TokenValues;
  readonly problems: string[];
}

/** CONFIG_INVALID with one line for each problem. */
export function configInvalid(problems: readonly string[]): KvtierError {
  const head = problems.length === 1 ? 'The configuration has a problem' : `The configuration has ${problems.length} problems`;
  return new KvtierError('CONFIG_INVALID', `${head}:\n${problems.map((problem) => `  - ${problem}`).join('\n')}`, {
    context: { problems: problems.length },
  });
}

/** Flag over variable over file. The file is named by flag or variable only. */
export function readValues(input: Omit<LoadInput, 'facts'>): ReadValues {
  const problems: string[] = [];
  const flags = readFlags(input.argv, problems);
  const variables = readVariables(input.env, problems);
  const path = (flags.get('config') ?? variables.get('config'))?.value;
  const file: RawValues = typeof path === 'string' && path !== '' ? readConfigFile(input, path, problems) : new Map();
  refuseBoth([flags, variables, file], problems);
  const given: RawValues = new Map([...file, ...variables, ...flags]);
  dropOverruledTwins([flags, variables, file], given);
  const values = parseValues(given, problems);
  const tokens = {
    admin: readToken(input, { values, given, problems, key: 'token', fileKey: 'tokenFile' }),
    read: readToken(input, { values, given, problems, key: 'readToken', fileKey: 'readTokenFile' }),
    tenants: readTenantTokens(input, values, problems),
  };
  return { values, given, tokens, problems };
}

function readConfigFile(input: Omit<LoadInput, 'facts'>, path: string, problems: string[]): RawValues {
  const source = readText(input, path, problems);
  return source === undefined ? new Map() : readToml(source, path, problems);
}

function readText(input: Omit<LoadInput, 'facts'>, path: string, problems: string[]): string | undefined {
  try {
    const source = input.readFile(absolute(input.cwd, path));
    if (source === undefined) problems.push(`Cannot read ${path}: there is no such file`);
    return source;
  } catch (error) {
    problems.push(`Cannot read ${path}: ${error instanceof Error ? error.message : String(error)}`);
    return undefined;
  }
}

const twins: readonly (readonly [KnobKey, KnobKey])[] = [
  ['token', 'tokenFile'],
  ['readToken', 'readTokenFile'],
];

/** A token and a token file in one place contradict each other. */
function refuseBoth(sources: readonly RawValues[], problems: string[]): void {
  for (const source of sources) {
    for (const [key, fileKey] of twins) {
      const [value, file] = [source.get(key), source.get(fileKey)];
      if (value !== undefined && file !== undefined) problems.push(`${value.name} and ${file.name} are both given: drop one`);
    }
  }
}

/** A token by flag overrules a token file by variable, and so on: precedence holds for the pair. */
function dropOverruledTwins(sources: readonly RawValues[], given: RawValues): void {
  for (const pair of twins) {
    const winner = sources.find((source) => pair.some((key) => source.has(key)));
    for (const key of pair) if (winner !== undefined && !winner.has(key)) given.delete(key);
  }
}

/** Values by the schema. A knob that cannot be read is a problem and keeps its default, so that the other checks go on. */
function parseValues(given: RawValues, problems: string[]): KnobValues {
  const raw: Record<string, unknown> = Object.fromEntries([...given].map(([key, entry]) => [key, entry.value]));
  const first = configSchema.safeParse(raw);
  if (first.success) return first.data;
  for (const issue of first.error.issues) {
    const key = String(issue.path[0]) as KnobKey;
    const entry = given.get(key);
    const { secret, unquoted } = knobOf(key);
    const shown = entry === undefined || secret === true || unquoted === true ? '' : ` is ${showRaw(entry)}`;
    problems.push(`${entry?.name ?? key}${shown}: ${issue.message}`);
    delete raw[key];
  }
  for (const key of [...given.keys()]) if (!(key in raw)) given.delete(key);
  return configSchema.parse(raw);
}

function showRaw(entry: RawValue): string {
  const shown = typeof entry.value === 'string' ? entry.value : JSON.stringify(entry.value);
  return `'${shown.length > 200 ? `${shown.slice(0, 200)}…` : shown}'`;
}

interface TokenRequest {
  readonly values: KnobValues;
  readonly given: RawValues;
  readonly problems: string[];
  readonly key: 'token' | 'readToken';
  readonly fileKey: 'tokenFile' | 'readTokenFile';
}

function readToken(input: Omit<LoadInput, 'facts'>, request: TokenRequest): string | undefined {
  const path = request.values[request.fileKey];
  if (path === undefined || request.values[request.key] !== undefined) return request.values[request.key];
  const text = readText(input, path, request.problems);
  if (text === undefined) return undefined;
  return tokenOf(text, `${request.given.get(request.fileKey)?.name ?? request.fileKey} ${path}`, request.problems);
}

/** The first line of a token file. `name` is only for messages. */
function tokenOf(text: string, name: string, problems: string[]): string | undefined {
  const line = (text.split('\n')[0] ?? '').trim();
  if (/^[\x21-\x7e]{1,1024}$/.test(line)) return line;
  problems.push(`${name}: its first line must be 1 to 1024 visible ASCII characters`);
  return undefined;
}

function readTenantTokens(input: Omit<LoadInput, 'facts'>, values: KnobValues, problems: string[]): ReadonlyMap<string, string> {
  const tokens = new Map<string, string>();
  for (const [name, given] of values['tenants.tokens'] ?? []) {
    const text = isTenantFile(given) ? readText(input, given.tokenFile, problems) : given.token;
    const token =
      text === undefined ? undefined : isTenantFile(given) ? tokenOf(text, `tenants.${name}.tokenFile ${given.tokenFile}`, problems) : text;
    if (token !== undefined) tokens.set(name, token);
  }
  return tokens;
}

/**
 * The whole configuration.
 * Errors: CONFIG_INVALID whose message lists every problem with the values in it.
 */
export function loadConfig(input: LoadInput): LoadedConfig {
  const { values, given, tokens, problems } = readValues(input);
  const facts = input.facts({
    dataDir: absolute(input.cwd, values.dataDir),
    shmDir: absolute(input.cwd, values['ram.shmDir']),
    ssdDirs: ssdDirs(values, input.cwd).map((dir) => dir.path),
  });
  const normalized = normalize({ values, given, tokens, facts, cwd: input.cwd }, problems);
  if (problems.length > 0) throw configInvalid(problems);
  return loaded(normalized, given, values);
}

function loaded(normalized: Normalized, given: RawValues, values: KnobValues): LoadedConfig {
  const origin = (key: KnobKey): Origin => normalized.origins.get(key) ?? 'default';
  const because = (key: KnobKey): string => normalized.reasons.get(key) ?? '';
  return {
    config: normalized.config,
    origin,
    because,
    describe: () =>
      knobs.map((knob) => ({
        key: knob.key,
        value: showValue(knob.key, normalized.config, values),
        origin: origin(knob.key),
        source: origin(knob.key) === 'derived' ? '' : (given.get(knob.key)?.name ?? ''),
        because: because(knob.key),
      })),
  };
}

/** A URL may carry a password; its user part and query stay out of print. */
function maskUrl(text: string): string {
  const url = new URL(text);
  return `${url.protocol}//${url.username === '' ? '' : `${MASK}@`}${url.host}${url.pathname}${url.search === '' ? '' : `?${MASK}`}`;
}

/** Effective values that differ from what the knob itself says, because `auto` was decided or a path made absolute. */
function effective(config: AgentConfig): Partial<Record<KnobKey, string>> {
  const { ram, ssd } = config;
  return {
    config: config.configFile ?? '',
    dataDir: config.dataDir,
    token: config.tokens.admin === undefined ? '' : MASK,
    readToken: config.tokens.read === undefined ? '' : MASK,
    'tenants.tokens': [...config.tokens.tenants.keys()].map((name) => `${name}=${MASK}`).join(' '),
    'lm.listen': config.lm.listen === undefined ? 'off' : formatAddress(config.lm.listen),
    'socket.path': config.socket.path ?? 'off',
    'socket.mode': `0${config.socket.mode.toString(8)}`,
    'ram.size': formatBytes(ram.sizeBytes),
    'ram.maxChunk': formatBytes(ram.maxChunkBytes),
    'ram.shmDir': ram.shmDir,
    'ssd.size': ssd.folders.length === 0 ? 'off' : formatBytes(ssd.sizeBytes),
    'ssd.dir': ssd.folders.map((folder) => `${folder.path} (${formatBytes(folder.sizeBytes)})`).join(', '),
    'ssd.writeBudget': ssd.writeBudgetBytesPerSecond === 0 ? 'no limit' : `${formatBytes(ssd.writeBudgetBytesPerSecond)}/s`,
    'ssd.freeSpaceFloor': formatBytes(ssd.freeSpaceFloorBytes),
    'ssd.queueBytes': formatBytes(ssd.queueBytes),
    'hbm.size': config.hbm.share === 'sizes' ? formatShare(config.hbm.sizesBytes) : config.hbm.share,
    'hbm.devices': config.hbm.devices.join(', '),
    'hbm.driverPath': config.hbm.driverPath ?? '',
    'readAhead.bytes': config.readAhead.bytes === 0 ? 'off' : formatBytes(config.readAhead.bytes),
    'ttl.rules': config.ttl.rules.map(formatTtlRule).join(', '),
    'io.workers': String(config.io.workers),
    'invalidate.webhook': config.invalidate.webhook === undefined ? '' : maskUrl(config.invalidate.webhook),
  };
}

function showValue(key: KnobKey, config: AgentConfig, values: KnobValues): string {
  const shown = effective(config)[key];
  if (shown !== undefined) return shown;
  const value = values[key];
  if (value === undefined) return '';
  if (typeof value === 'object') {
    if ('host' in value) return formatAddress(value);
    return Array.isArray(value) ? (value as readonly SsdDir[]).map((dir) => dir.path).join(', ') : '';
  }
  if (typeof value !== 'number') return String(value);
  const { shape } = knobOf(key);
  return shape === 'size' ? formatBytes(value) : shape === 'duration' ? formatDuration(value) : String(value);
}
