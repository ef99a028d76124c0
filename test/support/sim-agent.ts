/**
 * The agent on a simulated machine: the real cache, tiers, journal, RESP door and REST API, wired as agent.ts wires them, on ports
 * that move only when a driver moves them. One process life after another on the same disks.
 *
 * Nothing here is asynchronous for the driver: a step is a call, and `settle` runs what became ready. `kill` ends a life as SIGKILL
 * does, at any moment, also in the middle of a start.
 */
import { drainMicrotasks } from 'bun:jsc';
import { fileURLToPath } from 'node:url';
import { createApi } from '#api/app.ts';
import type { ApiApp } from '#api/app.ts';
import { createAuthenticate } from '#api/credentials.ts';
import type { Tokens } from '#api/credentials.ts';
import { Cache } from '#cache/cache.ts';
import type { CacheLimits, SsdAdmission } from '#cache/cache-state.ts';
import { ChunkIndex } from '#cache/chunk-index.ts';
import type { CacheControl } from '#cache/control.ts';
import { NamespaceTable } from '#cache/namespace-table.ts';
import { markTiers, openStore } from '#cache/recovery.ts';
import type { Tombstones } from '#cache/tombstones.ts';
import { MiB } from '#core/bytes.ts';
import { checksum } from '#core/checksum.ts';
import type { BlockHash } from '#core/checksum.ts';
import type { Logger } from '#core/logger.ts';
import { scanJournal } from '#catalog/journal-file.ts';
import { createSqliteCatalogStore } from '#catalog/sqlite-catalog-store.ts';
import type { SqliteCatalogLimits } from '#catalog/sqlite-catalog-store.ts';
import type { CatalogStore } from '#ports/catalog-store.ts';
import { createPolicy } from '#policy/create-policy.ts';
import type { PolicyName } from '#policy/create-policy.ts';
import { KeyParser, parseKey } from '#protocol/lmcache-key.ts';
import { LmServer } from '#servers/lm/lm-server.ts';
import { NativeServer } from '#servers/native/native-server.ts';
import { RespServer } from '#servers/resp/resp-server.ts';
import { Metrics } from '#telemetry/metrics.ts';
import { RamTier } from '#tiers/ram/ram-tier.ts';
import { SsdTier } from '#tiers/ssd/ssd-tier.ts';
import { SimCatalogDisk } from './sim-catalog-disk.ts';
import { SimCatalogWorker } from './sim-catalog-worker.ts';
import { SimClock, SimRng } from './sim-clock.ts';
import { SimDisk } from './sim-disk.ts';
import { SimFileIo } from './sim-file-io.ts';
import { SimStop } from './sim-file-system.ts';
import { SimHangs } from './sim-hangs.ts';
import { SimHbm } from './sim-hbm.ts';
import type { SimHbmOptions } from './sim-hbm.ts';
import { SimClientMemories, SimLocalTransport, SimRegions } from './sim-local-door.ts';
import { SimNetwork } from './sim-network.ts';
import { SimSharedMemory } from './sim-shared-memory.ts';
import { tokenOf } from './sim-tokens.ts';

const migrationsDir = fileURLToPath(new URL('../../migrations', import.meta.url));
export const JOURNAL_PATH = '/data/journal';
const RESP_PORT = 7601;
export const SIM_LM_PORT = 7602;

const hash: BlockHash = (block, seed) => Bun.hash.xxHash3(block, seed);

export interface SimAgentOptions extends SimHbmOptions {
  readonly seed: number;
  readonly ramBytes?: number;
  readonly maxChunkBytes?: number;
  /** Budget of each SSD folder, one a device. */
  readonly ssdBytes?: readonly number[];
  readonly floorBytes?: number;
  readonly admission?: SsdAdmission;
  /** `adaptive` by default, as in the agent. */
  readonly ramPolicy?: PolicyName;
  readonly ssdPolicy?: PolicyName;
  readonly limits?: Partial<CacheLimits>;
  /** Size at which the journal is compacted first; 8 MiB by default, which no run reaches. */
  readonly compactionBytes?: number;
  readonly catalog?: Partial<SqliteCatalogLimits>;
  readonly stallMs?: number;
  /** Names with a token each, `token-of-NAME`; then there are an admin's and a reader's token too, `token-of-admin` and `token-of-read`. */
  readonly tenants?: readonly string[];
  /** The lm door is open, too. */
  readonly lm?: boolean;
  /** The native door is open, too. */
  readonly native?: boolean;
  /** The RAM tier outlives the process, as with ram.keep. */
  readonly keep?: boolean;
}

/** Thrown in the middle of a call: the process ends there. */
export class SimDeath extends Error {
  override readonly name = 'SimDeath';
}

/** One process, from its start to its end. */
export interface SimLife {
  readonly io: SimFileIo;
  readonly memory: SimSharedMemory;
  readonly ram: RamTier;
  readonly ssd: SsdTier;
  readonly catalog: CatalogStore;
  readonly catalogWorker: SimCatalogWorker;
  readonly hbm: SimHbm;
  /** As far as the start has come. */
  tombstones: Tombstones | undefined;
  cache: Cache | undefined;
  server: RespServer | undefined;
  lm: LmServer | undefined;
  native: NativeServer | undefined;
  readonly regions: SimRegions;
  /** The native door's. */
  local: SimLocalTransport | undefined;
  /** Doors are open. */
  ready: boolean;
}

export class SimAgent {
  readonly seed: number;
  readonly rng: SimRng;
  readonly clock = new SimClock();
  readonly disk = new SimDisk();
  readonly catalogDisk = new SimCatalogDisk();
  /** Of the machine's devices. */
  readonly hangs = new SimHangs(this.clock);
  readonly network: SimNetwork;
  readonly app: ApiApp;
  /** Warnings and errors that the agent logged, the last few. */
  readonly log: string[] = [];
  readonly #options: SimAgentOptions;
  readonly #keys = new KeyParser();
  readonly #tokens: Tokens;
  #life: SimLife | undefined;
  /** Grows with each start: what a former life left behind knows that it is over. */
  lives = 0;
  /** A bug of the agent, told in a callback. */
  problem: Error | undefined;
  /** A life's cache is there, before its doors open: the place to listen in. */
  onCache: (cache: Cache) => void = () => {};
  /** Doors have opened in this moment. */
  onReady: (life: SimLife) => void = () => {};
  /** Of the next life, where it is not what the options say. */
  ramBytes: number;
  /** False: the next life keeps nothing, and leaves what others kept where it is. */
  keepsRam: boolean;
  #boots = 0;

  constructor(options: SimAgentOptions) {
    this.#options = options;
    this.#tokens =
      options.tenants === undefined
        ? {}
        : { admin: tokenOf('admin'), read: tokenOf('read'), tenants: new Map(options.tenants.map((name) => [name, tokenOf(name)])) };
    this.seed = options.seed;
    this.ramBytes = options.ramBytes ?? 4 * MiB;
    this.keepsRam = options.keep === true;
    this.rng = new SimRng(options.seed);
    this.network = new SimNetwork({ clock: this.clock, rng: this.rng, hash });
    this.disk.data.holdSyncs();
    this.catalogDisk.onProblem = (problem) => this.fail(problem);
    this.app = this.#createApi();
  }

  /** Notes what went wrong in a callback; the first counts. */
  fail(problem: unknown): void {
    if (problem instanceof SimStop) return;
    this.problem ??= problem instanceof Error ? problem : new Error(String(problem));
  }

  get life(): SimLife | undefined {
    return this.#life;
  }

  /** The cache of the life that serves. */
  get cache(): Cache {
    const cache = this.#life?.cache;
    if (cache === undefined) throw new Error('The simulated process does not serve');
    return cache;
  }

  get isReady(): boolean {
    return this.#life?.ready === true;
  }

  /** Of the clients of the native door. */
  readonly clientMemories = new SimClientMemories();
  /** Of the machine: outlives a process. */
  readonly memory = new SimSharedMemory();

  #logger(): Logger {
    const keep = (message: string): void => {
      // Simulated devices keep what they were given, so that a wrong byte is ours.
      if (message.startsWith('A chunk in HBM has wrong bytes')) this.fail(new Error(message));
      this.log.push(message);
      if (this.log.length > 50) this.log.shift();
    };
    return { debug: () => {}, info: () => {}, warn: keep, error: keep };
  }

  #createApi(): ApiApp {
    // One API for all lives, since it is costly to build: each call goes to the life of the moment.
    const control = new Proxy({} as CacheControl, {
      get: (_target, name) => {
        const now = this.cache.control as unknown as Record<PropertyKey, unknown>;
        const member = now[name];
        return typeof member === 'function' ? (member.bind(now) as unknown) : member;
      },
    });
    return createApi({
      control,
      metrics: new Metrics(),
      clock: this.clock,
      tokens: this.#tokens,
      logger: this.#logger(),
      onBug: (error) => this.fail(error),
      agent: {
        version: 'sim',
        startedAtMs: this.clock.nowMs(),
        doors: () => [],
        health: () => ({ state: 'ready', reasons: [] }),
        residentBytes: () => 0,
        heapBytes: () => 0,
        eventLoopLag: () => ({ p50Ms: 0, p99Ms: 0, maxMs: 0 }),
      },
    });
  }

  /** Runs what is ready: microtasks, and what they make ready. */
  settle(): void {
    drainMicrotasks();
  }

  /** Begins a life. It is ready some steps later. */
  boot(): void {
    this.lives += 1;
    const { ramBytes } = this;
    const logger = this.#logger();
    const memory = this.keepsRam || this.#options.keep !== true ? this.memory : new SimSharedMemory();
    if (this.#options.keep !== true) memory.boot();
    const io = new SimFileIo({ disk: this.disk, memory, clock: this.clock, hash, hangs: { hangs: this.hangs, rng: this.rng } });
    // The tiers call the cache that is made of them; until it is there, nobody listens.
    const ram = new RamTier({
      sharedMemory: memory,
      capacityBytes: ramBytes,
      maxChunkBytes: this.#options.maxChunkBytes ?? ramBytes / 4,
      keep: this.keepsRam ? { hash, bootId: this.#bootId } : undefined,
      checksumMemory: (address, sizeBytes) => Promise.resolve(checksum(memory.at(address, sizeBytes), hash)),
      populate: () => Promise.resolve({ ok: true }),
      onArena: () => {},
      onGrowth: () => life.cache?.ramGrew(),
      logger,
    });
    const ssd = new SsdTier({
      files: io,
      fileSystem: this.disk,
      hash,
      clock: this.clock,
      logger,
      direct: 'auto',
      onFolderLost: (folder) => life.cache?.folderLost(folder),
    });
    const catalogWorker = new SimCatalogWorker(this.catalogDisk);
    const hbm = new SimHbm(this.#options, {
      host: (address, sizeBytes) => memory.at(address, sizeBytes),
      logger,
      onLost: (device) => life.cache?.deviceLost(device),
    });
    const catalog = createSqliteCatalogStore({
      path: '/data/catalog.db',
      migrationsDir,
      clock: this.clock,
      logger,
      startPeer: catalogWorker.start,
      ...this.#options.catalog,
    });
    const life: SimLife = {
      io,
      memory,
      ram,
      ssd,
      catalog,
      catalogWorker,
      hbm,
      tombstones: undefined,
      cache: undefined,
      server: undefined,
      lm: undefined,
      native: undefined,
      regions: new SimRegions(this.clientMemories, memory),
      local: undefined,
      ready: false,
    };
    this.#life = life;
    this.network.begin(memory);
    try {
      ram.start();
    } catch (problem) {
      if (!(problem instanceof SimDeath)) throw problem;
      return this.kill();
    }
    this.#start(life, logger).catch((problem: unknown) => {
      if (this.#life === life) this.onStartFailed(problem);
    });
    this.settle();
  }

  /** What a start does that cannot go on; the supervisor tries again. Overridden by drivers that inject faults. */
  onStartFailed: (problem: unknown) => void = (problem) => this.fail(problem);

  async #start(life: SimLife, logger: Logger): Promise<void> {
    const { clock, disk } = this;
    const options = this.#options;
    const { ram, ssd, catalog } = life;
    const folders = (options.ssdBytes ?? [64 * MiB]).map((capacityBytes, index) => ({
      path: `/ssd${index}/kv`,
      capacityBytes,
      floorBytes: options.floorBytes ?? 0,
    }));
    const opened = await openStore({
      fileSystem: disk,
      ram,
      ssd,
      journalPath: JOURNAL_PATH,
      folders,
      hash,
      clock,
      logger,
      bootId: this.#bootId,
      compactionBytes: options.compactionBytes,
    });
    life.tombstones = opened.tombstones;
    const index = new ChunkIndex(this.rng);
    const cache = new Cache(
      {
        index,
        namespaces: new NamespaceTable(),
        ram,
        ssd,
        ramOrder: createPolicy(options.ramPolicy ?? 'adaptive', index.policyFacts),
        ssdOrder: createPolicy(options.ssdPolicy ?? 'adaptive', index.policyFacts),
        ...life.hbm.parts(index.policyFacts),
        catalog,
        tombstones: opened.tombstones,
        clock,
        hash,
        logger,
        limits: this.#limits(),
      },
      {
        epoch: opened.epoch,
        markFolders: (journalSequence) => markTiers({ fileSystem: disk, ram, ssd }, { epoch: opened.epoch, journalSequence }),
      },
    );
    life.cache = cache;
    cache.control.parseKey = (key, tenant) => {
      const bytes = new TextEncoder().encode(key);
      const parsed = tenant === undefined ? this.#keys.parse(bytes) : parseKey(bytes, { tenant });
      return parsed === 'too-long' ? undefined : parsed;
    };
    this.onCache(cache);
    await cache.start();
    const authenticate = createAuthenticate(this.#tokens);
    const parts = { cache, sockets: this.network, transport: this.network, clock, logger, hash };
    const stallMs = options.stallMs ?? 30_000;
    life.server = new RespServer({
      ...parts,
      version: 'sim',
      profile: 'auto',
      sizeGuard: 'off',
      maxConnections: 64,
      stallMs,
      idleMs: undefined,
      tokensRequired: authenticate !== undefined,
      authenticate: authenticate ?? (() => undefined),
      info: () => ({}),
    });
    life.server.listen({ host: '127.0.0.1', port: RESP_PORT });
    if (options.lm === true) {
      life.lm = new LmServer({ ...parts, maxConnections: 16, stallMs });
      life.lm.listen({ host: '127.0.0.1', port: SIM_LM_PORT });
    }
    if (options.native === true) this.#listenNatively(life, cache, logger);
    life.ready = true;
    this.onReady(life);
  }

  #listenNatively(life: SimLife, cache: Cache, logger: Logger): void {
    const { clock } = this;
    const options = this.#options;
    life.local = new SimLocalTransport(this.network, clock);
    life.native = new NativeServer({
      cache,
      transport: life.local,
      regions: life.regions,
      regionIo: life.io,
      arenas: life.ram,
      clock,
      logger,
      version: 'sim',
      instance: this.lives,
      leaseMs: options.limits?.leaseMs ?? 30_000,
      maxChunkBytes: options.maxChunkBytes ?? MiB,
      maxConnections: 16,
      stallMs: options.stallMs ?? 30_000,
      reserveBytes: { perClient: MiB, total: 4 * MiB },
      authenticate: createAuthenticate(this.#tokens),
      sharesArenas: options.tenants === undefined,
      rest: async ({ method, path, token, body }) => {
        const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' };
        const init = body === undefined ? { method, headers } : { method, headers, body };
        const response = await this.app.fetch(new Request(`http://127.0.0.1:7600${path}`, init));
        return { status: response.status, text: await response.text() };
      },
    });
    life.native.listen({ path: 'sim', mode: 0o600 });
  }

  get #bootId(): string {
    return `sim-${this.#boots}`;
  }

  /** As after a boot, to a process that finds kept memory; what is there stays. */
  changeBootId(): void {
    this.#boots += 1;
  }

  #limits(): CacheLimits {
    const ramBytes = this.#options.ramBytes ?? 4 * MiB;
    return {
      ssdAdmission: this.#options.admission ?? 'idle',
      ssdIdleAfterMs: 1000,
      ssdWriteBytesPerSecond: 0,
      ssdQueueBytes: ramBytes,
      leaseMs: 30_000,
      putWaitMs: 1000,
      readAheadBytes: ramBytes / 4,
      writesAtOnce: 2,
      ...this.#options.limits,
    };
  }

  /** SIGKILL. What was written stays, what waited is lost. */
  kill(): void {
    this.#life?.io.kill(this.rng);
    this.#life?.catalogWorker.kill();
    this.#life?.hbm.devices.kill();
    if (this.#options.keep === true) this.network.moveTransfers();
    this.#life?.memory.endProcess();
    this.#life = undefined;
    this.clock.dropTimers();
    this.disk.data.kill();
    this.network.kill();
    this.settle();
  }

  /** The machine loses power: what no sync has brought to a device may be lost, torn, or there again. */
  powerCut(): void {
    this.kill();
    this.memory.boot();
    this.changeBootId();
    const { rng, disk } = this;
    this.catalogDisk.powerCut(rng);
    disk.data.powerCut({
      content: (path, durable, cached) => {
        if (rng.chance(0.5) || cached.length < durable.length) return durable;
        const sizeBytes = durable.length + rng.below(cached.length - durable.length + 1);
        // A cut between two records is the one that cannot be seen in the file.
        if (path !== JOURNAL_PATH || rng.chance(0.5)) return cached.slice(0, sizeBytes);
        return cached.slice(0, Math.max(durable.length, scanJournal(cached.subarray(0, sizeBytes), hash).tail.sizeBytes));
      },
      names: (pending) => rng.below(pending + 1),
    });
    disk.data.holdSyncs();
    disk.powerCut({
      torn: (bytes) => {
        const fate = rng.weighted({ whole: 3, zeroes: 2, short: 2, gone: 1 });
        if (fate === 'whole') return bytes;
        if (fate === 'gone') return undefined;
        if (fate === 'short') return bytes.slice(0, rng.below(bytes.length));
        const torn = bytes.slice();
        for (let block = 0; block < torn.length; block += 4096) if (rng.chance(0.4)) torn.fill(0, block, block + 4096);
        return torn;
      },
      returns: () => rng.chance(0.3),
    });
  }

  /** A request to the REST door, as the bearer of a token where the agent has some. */
  request(
    method: 'GET' | 'POST' | 'PUT' | 'DELETE',
    path: string,
    options: { readonly body?: unknown; readonly who?: string | undefined } = {},
  ): Promise<Response> {
    const { body, who = 'admin' } = options;
    const token: Record<string, string> = this.#options.tenants === undefined ? {} : { authorization: `Bearer ${tokenOf(who)}` };
    const init =
      body === undefined && method === 'GET'
        ? { method, headers: token }
        : { method, body: JSON.stringify(body), headers: { ...token, 'content-type': 'application/json' } };
    return Promise.resolve(this.app.fetch(new Request(`http://127.0.0.1:7600${path}`, init)));
  }

  // --- steps ----------------------------------------------------------------------------------------------------------------

  #disksMoveAtMs = 0;

  /** File work stands still for that long. */
  stallDisks(ms: number): void {
    this.#disksMoveAtMs = this.clock.monotonicMs() + ms;
  }

  /** A step of file work, of a sync, or of the catalog's worker. False where there is none. */
  stepIo(): boolean {
    const life = this.#life;
    if (life === undefined || this.clock.monotonicMs() < this.#disksMoveAtMs) return false;
    const { data } = this.disk;
    const ready = life.io.readyCount;
    const messages = life.catalogWorker.pending;
    if (messages > 0 && this.rng.chance(1 / (ready + data.heldSyncCount + 1))) return this.stepCatalog();
    const syncs = data.heldSyncCount;
    if (syncs > 0 && this.rng.chance(1 / (ready + 1))) {
      data.releaseSync(this.rng.below(syncs));
      this.settle();
      return true;
    }
    const moved = life.hbm.stepAmong(this.rng, life.io.activeCount) || life.io.step(this.rng);
    this.settle();
    return moved;
  }

  /** A message to or from the catalog's worker. */
  stepCatalog(): boolean {
    const moved = this.#life?.catalogWorker.step(this.rng) ?? false;
    this.settle();
    return moved;
  }

  stepNetwork(): boolean {
    const moved = this.network.step();
    this.settle();
    return moved;
  }

  advance(ms: number): void {
    const untilMs = this.clock.monotonicMs() + ms;
    while (this.clock.fire(untilMs)) this.settle();
    this.network.expire();
    this.settle();
  }

  /** What must hold between any two steps. */
  checkInvariants(): void {
    this.network.checkInvariants();
    this.#life?.hbm.devices.check();
    this.#life?.lm?.checkInvariants();
    // What a former process left in RAM is taken in before the doors open, in several turns.
    const life = this.#life;
    if (life !== undefined && (this.#options.keep !== true || life.ready)) life.cache?.checkInvariants();
  }

  tier(name: 'hbm' | 'ram' | 'ssd'): ReturnType<Cache['control']['stats']>['tiers'][number] {
    const tier = this.cache.control.stats().tiers.find((candidate) => candidate.tier === name);
    if (tier === undefined) throw new Error(`There is no tier ${name}`);
    return tier;
  }
}
