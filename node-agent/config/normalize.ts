/**
 * From knob values to AgentConfig: decides every `auto`, and refuses what cannot work together. A value that a person gave is
 * never changed behind their back: it is taken or refused; only defaults are lowered, with a reason.
 */
import { isAbsolute, resolve } from 'node:path';
import { formatBytes } from '#core/bytes.ts';
import { meantTenant } from '#core/namespace.ts';
import type { AgentConfig, SsdFolder, TokenValues } from './agent-config.ts';
import * as derive from './derive.ts';
import { doorProblems, lmDoor } from './doors.ts';
import { hbmSection } from './hbm.ts';
import type { SsdDir } from './knob-types.ts';
import { MIN_FOLDER_BYTES, MIN_RAM_BYTES, type KnobKey, type KnobValues } from './knobs.ts';
import type { Origin, RawValues } from './sources.ts';
import type { TtlRule } from './ttl-rules.ts';

export interface NormalizeInput {
  readonly values: KnobValues;
  /** What was given, by whom; knobs that are absent have their default. */
  readonly given: RawValues;
  readonly tokens: TokenValues;
  readonly facts: derive.MachineFacts;
  readonly cwd: string;
}

export interface Normalized {
  readonly config: AgentConfig;
  readonly origins: ReadonlyMap<KnobKey, Origin>;
  /** Where a derived value came from. */
  readonly reasons: ReadonlyMap<KnobKey, string>;
}

/** Collects origins, reasons and problems while the sections are worked through. */
interface Notes {
  readonly origins: Map<KnobKey, Origin>;
  readonly reasons: Map<KnobKey, string>;
  readonly problems: string[];
}

function take(notes: Notes, key: KnobKey, derived: derive.Derived): number {
  notes.origins.set(key, 'derived');
  notes.reasons.set(key, derived.because);
  return derived.value;
}

/** `--ram 8 GiB`: how a value was named and what it is. */
function named(input: NormalizeInput, key: KnobKey, value: string): string {
  return `${input.given.get(key)?.name ?? key} ${value}`;
}

/** Absolute folders of the SSD tier before sizes are known; the default folder where none is named. */
export function ssdDirs(values: KnobValues, cwd: string): readonly SsdDir[] {
  if (values['ssd.size'] === 'off') return [];
  const dirs = values['ssd.dir'] ?? [{ path: resolve(cwd, values.dataDir, 'ssd'), sizeBytes: undefined }];
  return dirs.map((dir) => ({ path: absolute(cwd, dir.path), sizeBytes: dir.sizeBytes }));
}

export function absolute(cwd: string, path: string): string {
  return isAbsolute(path) ? resolve(path) : resolve(cwd, path);
}

function lmSection(input: NormalizeInput, notes: Notes): AgentConfig['lm'] {
  const hasToken = input.tokens.admin !== undefined;
  const lm = lmDoor(input.values, hasToken);
  if (lm.because !== undefined) {
    notes.origins.set('lm.listen', 'derived');
    notes.reasons.set('lm.listen', lm.because);
  }
  const options = { hasToken, named: (key: KnobKey, value: string) => named(input, key, value) };
  notes.problems.push(...doorProblems(input.values, lm.config.listen, options));
  return lm.config;
}

/** sun_path of a unix socket. */
const MAX_SOCKET_PATH_BYTES = 107;

function socketSection(input: NormalizeInput, notes: Notes): AgentConfig['socket'] {
  const { values } = input;
  const asked = values['socket.path'];
  const wanted =
    asked === 'auto' ? resolve(input.cwd, values.dataDir, 'agent.sock') : asked === 'off' ? undefined : absolute(input.cwd, asked);
  const isTooLong = wanted !== undefined && new TextEncoder().encode(wanted).length > MAX_SOCKET_PATH_BYTES;
  if (asked === 'auto') {
    notes.origins.set('socket.path', 'derived');
    notes.reasons.set(
      'socket.path',
      isTooLong ? 'off, since its path has more than 107 bytes: name a shorter --socket' : 'in the data directory',
    );
  } else if (isTooLong) {
    notes.problems.push(
      `${named(input, 'socket.path', asked)} has more than ${MAX_SOCKET_PATH_BYTES} bytes, which no unix socket can have`,
    );
  }
  return {
    path: isTooLong ? undefined : wanted,
    mode: values['socket.mode'],
    group: values['socket.group'],
    regionRoots: values['socket.regionRoots'],
    maxConnections: values['socket.maxConnections'],
    reserveBytes: values['socket.reserve'],
  };
}

function checkTokens(input: NormalizeInput, notes: Notes): void {
  const { admin, read, tenants } = input.tokens;
  if (tenants.size > 0 && admin === undefined)
    notes.problems.push(
      'Tenants have tokens but there is no admin token, so that nobody could administer: set --token-file or --token too',
    );
  const owners = new Map<string, string>();
  for (const [owner, token] of [
    ['the admin', admin],
    ['the reader', read],
    ...[...tenants].map(([name, token]) => [`tenant ${name}`, token]),
  ] as const) {
    const other = token === undefined ? undefined : owners.get(token);
    if (other !== undefined && owner !== 'the reader')
      notes.problems.push(`The token of ${owner ?? ''} equals that of ${other}: give them different values`);
    if (token !== undefined) owners.set(token, owner ?? '');
  }
  if (read === undefined) return;
  if (admin === undefined) {
    notes.problems.push('A read token is set without an admin token, so that nobody could administer: set --token-file or --token too');
  } else if (admin === read) {
    notes.problems.push('The read token equals the admin token: give the two different values');
  }
}

function tlsSection(input: NormalizeInput, notes: Notes): AgentConfig['tls'] {
  const [cert, key] = [input.values['tls.cert'], input.values['tls.key']];
  if (cert === undefined && key === undefined) return undefined;
  if (cert === undefined || key === undefined) {
    notes.problems.push(
      cert === undefined
        ? '--tls-key is given without --tls-cert: give both or none'
        : '--tls-cert is given without --tls-key: give both or none',
    );
    return undefined;
  }
  return { certPath: absolute(input.cwd, cert), keyPath: absolute(input.cwd, key) };
}

/** Under TLS nobody but the agent can take a byte of a connection, and a session ends with its process. */
function frontPath(input: NormalizeInput, notes: Notes): string | undefined {
  const path = input.values['resp.front'];
  if (path === undefined) return undefined;
  if (input.values['tls.cert'] !== undefined)
    notes.problems.push('--resp-front and --tls-cert exclude each other: a TLS connection ends with its agent');
  return absolute(input.cwd, path);
}

function ramSection(input: NormalizeInput, notes: Notes): AgentConfig['ram'] {
  const { values, facts } = input;
  const shmDir = absolute(input.cwd, values['ram.shmDir']);
  const asked = values['ram.size'];
  let sizeBytes: number;
  if (asked === 'auto') {
    sizeBytes = take(notes, 'ram.size', derive.deriveRam(facts, shmDir));
    if (sizeBytes < MIN_RAM_BYTES) {
      const hint =
        facts.platform === 'linux'
          ? 'enlarge it (in a container: --shm-size) or name another --shm-dir'
          : `shared memory needs Linux, this is ${facts.platform}`;
      notes.problems.push(
        `Cannot size the RAM tier: ${notes.reasons.get('ram.size') ?? ''} leaves ${formatBytes(sizeBytes)}, at least ${formatBytes(MIN_RAM_BYTES)} is needed; ${hint}`,
      );
      sizeBytes = MIN_RAM_BYTES;
    }
  } else {
    sizeBytes = asked;
    const memory = derive.effectiveMemory(facts);
    if (asked > memory.value) {
      notes.problems.push(`${named(input, 'ram.size', formatBytes(asked))} is more than the memory there is (${memory.because})`);
    } else if (asked > facts.shmFreeBytes) {
      notes.problems.push(
        `${named(input, 'ram.size', formatBytes(asked))} does not fit ${shmDir}: ${formatBytes(facts.shmFreeBytes)} of ${formatBytes(facts.shmTotalBytes)} are free; ` +
          'ask for less, enlarge it (in a container: --shm-size) or name another --shm-dir',
      );
    }
  }
  const chunk = values['ram.maxChunk'];
  const maxChunkBytes = chunk === 'auto' ? take(notes, 'ram.maxChunk', derive.deriveMaxChunk(sizeBytes)) : chunk;
  if (maxChunkBytes > sizeBytes / 4) {
    notes.problems.push(
      `${named(input, 'ram.maxChunk', formatBytes(maxChunkBytes))} is more than a quarter of the RAM tier (${formatBytes(sizeBytes)}): at most ${formatBytes(Math.floor(sizeBytes / 4))} is allowed`,
    );
  }
  return {
    sizeBytes,
    maxChunkBytes,
    shmDir,
    hugepages: values['ram.hugepages'],
    keep: values['ram.keep'] === 'on',
    policy: values['ram.policy'],
  };
}

function checkFolderPaths(dirs: readonly SsdDir[], notes: Notes): void {
  dirs.forEach((dir, index) => {
    for (const other of dirs.slice(index + 1)) {
      const [outer, inner] = dir.path.length <= other.path.length ? [dir.path, other.path] : [other.path, dir.path];
      if (outer === inner) notes.problems.push(`SSD folder ${outer} is named twice`);
      else if (inner.startsWith(outer === '/' ? '/' : `${outer}/`))
        notes.problems.push(`SSD folder ${inner} lies inside SSD folder ${outer}`);
    }
  });
}

/** Folder sizes where `ssd.size` is a number: named sizes as they are, the rest in equal shares. */
function shareOut(input: NormalizeInput, notes: Notes, dirs: readonly SsdDir[]): readonly SsdFolder[] {
  const total = input.values['ssd.size'] as number;
  const namedBytes = dirs.reduce((sum, dir) => sum + (dir.sizeBytes ?? 0), 0);
  const open = dirs.filter((dir) => dir.sizeBytes === undefined).length;
  const share = open === 0 ? 0 : Math.floor((total - namedBytes) / open / 4096) * 4096;
  const asked = named(input, 'ssd.size', formatBytes(total));
  if (open === 0 && namedBytes !== total) {
    notes.problems.push(`${asked} and the SSD folders disagree: the folders sum to ${formatBytes(namedBytes)}; give one or the other`);
  } else if (open > 0 && share < MIN_FOLDER_BYTES) {
    notes.problems.push(`${asked} leaves no room for ${open} SSD folder(s) without a size: the others sum to ${formatBytes(namedBytes)}`);
  }
  return dirs.map((dir) => ({ path: dir.path, sizeBytes: dir.sizeBytes ?? Math.max(share, 0) }));
}

/** Folder sizes where `ssd.size` is auto: a folder without a size follows its disk. */
function followDisks(input: NormalizeInput, notes: Notes, dirs: readonly SsdDir[]): readonly SsdFolder[] {
  const disks = new Map(input.facts.disks.map((disk) => [disk.path, disk]));
  const open = dirs.filter((dir) => dir.sizeBytes === undefined);
  const reasons: string[] = [];
  const folders = dirs.map((dir) => {
    if (dir.sizeBytes !== undefined) return { path: dir.path, sizeBytes: dir.sizeBytes };
    const disk = disks.get(dir.path) ?? { path: dir.path, fileSystem: dir.path, freeBytes: 0, totalBytes: 0, rememberedBytes: undefined };
    const sharing = open.filter((other) => disks.get(other.path)?.fileSystem === disk.fileSystem).length;
    const derived = derive.deriveFolder(disk, Math.max(1, sharing));
    reasons.push(dirs.length === 1 ? derived.because : `${dir.path}: ${derived.because}`);
    return { path: dir.path, sizeBytes: derived.value };
  });
  notes.origins.set('ssd.size', 'derived');
  notes.reasons.set('ssd.size', reasons.length === 0 ? 'the sum of the SSD folders' : reasons.join('; '));
  return folders;
}

function ssdSection(
  input: NormalizeInput,
  notes: Notes,
  ramBytes: number,
): Pick<AgentConfig['ssd'], 'sizeBytes' | 'folders' | 'freeSpaceFloorBytes'> {
  const { values, facts } = input;
  if (values['ssd.size'] === 'off' && values['ssd.dir'] !== undefined) {
    notes.problems.push(
      `${named(input, 'ssd.size', 'off')} and ${named(input, 'ssd.dir', values['ssd.dir'].map((dir) => dir.path).join(', '))} contradict each other: drop one`,
    );
  }
  const dirs = ssdDirs(values, input.cwd);
  checkFolderPaths(dirs, notes);
  if (values['ssd.dir'] === undefined && dirs.length > 0) {
    notes.origins.set('ssd.dir', 'derived');
    notes.reasons.set('ssd.dir', 'under the data folder');
  }
  const folders = dirs.length === 0 ? [] : values['ssd.size'] === 'auto' ? followDisks(input, notes, dirs) : shareOut(input, notes, dirs);
  for (const folder of folders) {
    const disk = facts.disks.find((candidate) => candidate.path === folder.path);
    if (disk !== undefined && folder.sizeBytes > disk.totalBytes) {
      notes.problems.push(
        `SSD folder ${folder.path} is to hold ${formatBytes(folder.sizeBytes)}, its disk holds ${formatBytes(disk.totalBytes)} in all`,
      );
    }
  }
  const floor = values['ssd.freeSpaceFloor'];
  const freeSpaceFloorBytes = floor === 'auto' ? take(notes, 'ssd.freeSpaceFloor', derive.deriveFloor(facts.disks)) : floor;
  for (const disk of floor === 'auto' ? [] : facts.disks) {
    if (freeSpaceFloorBytes < disk.totalBytes) continue;
    notes.problems.push(
      `${named(input, 'ssd.freeSpaceFloor', formatBytes(freeSpaceFloorBytes))} lets nothing be written to ${disk.path}: its disk holds ${formatBytes(disk.totalBytes)} in all`,
    );
  }
  const queue = values['ssd.queueBytes'];
  if (queue !== 'auto' && queue > ramBytes / 2) {
    notes.problems.push(
      `${named(input, 'ssd.queueBytes', formatBytes(queue))} is more than half of the RAM tier (${formatBytes(ramBytes)}), in which the queue lives`,
    );
  }
  return { sizeBytes: folders.reduce((sum, folder) => sum + folder.sizeBytes, 0), folders, freeSpaceFloorBytes };
}

/** Limits that live in the RAM tier: the write queue and read-ahead. */
function ramShares(
  input: NormalizeInput,
  notes: Notes,
  ram: AgentConfig['ram'],
): { readonly queueBytes: number; readonly readAheadBytes: number } {
  const queue = input.values['ssd.queueBytes'];
  const queueBytes = queue === 'auto' ? take(notes, 'ssd.queueBytes', derive.deriveQueue(ram.sizeBytes)) : queue;
  if (queue !== 'auto' && queueBytes < ram.maxChunkBytes) {
    notes.problems.push(
      `${named(input, 'ssd.queueBytes', formatBytes(queueBytes))} is less than the largest chunk (${formatBytes(ram.maxChunkBytes)}), which could then never be written`,
    );
  }
  const ahead = input.values['readAhead.bytes'];
  const readAheadBytes = ahead === 'auto' ? take(notes, 'readAhead.bytes', derive.deriveReadAhead(ram.sizeBytes)) : ahead;
  if (readAheadBytes > ram.sizeBytes / 2) {
    notes.problems.push(
      `${named(input, 'readAhead.bytes', formatBytes(readAheadBytes))} is more than half of the RAM tier (${formatBytes(ram.sizeBytes)})`,
    );
  }
  return { queueBytes, readAheadBytes };
}

/** Appends to `problems` what cannot work; the config is only to be used if nothing was appended. */
export function normalize(input: NormalizeInput, problems: string[]): Normalized {
  const { values } = input;
  const notes: Notes = { origins: new Map([...input.given].map(([key, raw]) => [key, raw.origin])), reasons: new Map(), problems };
  const lm = lmSection(input, notes);
  checkTokens(input, notes);
  const ram = ramSection(input, notes);
  const ssd = ssdSection(input, notes, ram.sizeBytes);
  const shares = ramShares(input, notes, ram);
  const workers = values['io.workers'];
  const resp = values['resp.listen'];
  const idle = values['resp.idle'];
  const budget = values['ssd.writeBudget'];
  const config: AgentConfig = {
    configFile: values.config === undefined ? undefined : absolute(input.cwd, values.config),
    dataDir: absolute(input.cwd, values.dataDir),
    http: { listen: values['http.listen'], maxBodyBytes: values['http.maxBody'] },
    resp: {
      listen: resp === 'off' ? undefined : resp,
      front: frontPath(input, notes),
      profile: values['resp.profile'],
      maxConnections: values['resp.maxConnections'],
      sizeGuard: values['resp.sizeGuard'],
      idleMs: idle === 'off' ? undefined : idle,
      stallMs: values['resp.stall'],
      minBytesPerSecond: values['resp.minRate'],
    },
    lm,
    socket: socketSection(input, notes),
    tls: tlsSection(input, notes),
    tokens: input.tokens,
    tenants: { reveal: values['tenants.reveal'] },
    ram,
    ssd: {
      ...ssd,
      policy: values['ssd.policy'],
      admission: values['ssd.admission'],
      idleAfterMs: values['ssd.idleAfter'],
      ioDeadlineMs: values['ssd.ioDeadline'],
      writeBudgetBytesPerSecond: budget === 'auto' ? 0 : budget,
      direct: values['ssd.direct'],
      queueBytes: shares.queueBytes,
    },
    hbm: hbmSection(values, {
      problems,
      named: (key, value) => named(input, key, value),
      absolute: (path) => absolute(input.cwd, path),
    }),
    lease: { durationMs: values['lease.duration'] },
    ttl: {
      defaultMs: values['ttl.default'] === 'off' ? 0 : values['ttl.default'],
      rules: namedRules(values['ttl.rules'] ?? [], input.tokens.tenants),
    },
    put: { waitMs: values['put.wait'] },
    readAhead: { bytes: shares.readAheadBytes },
    io: { workers: workers === 'auto' ? take(notes, 'io.workers', derive.deriveWorkers(input.facts)) : workers },
    invalidate: { webhook: values['invalidate.webhook'] },
    shutdown: { drainMs: values['shutdown.drainMs'] },
    log: { level: values['log.level'], format: values['log.format'] },
  };
  return { config, origins: notes.origins, reasons: notes.reasons };
}

/** Rules name tenants as people do. */
function namedRules(rules: readonly TtlRule[], tenants: ReadonlyMap<string, unknown>): readonly TtlRule[] {
  return rules.map((rule) => ({ ...rule, tenant: meantTenant(rule.tenant, (name) => tenants.has(name)) }));
}
