/**
 * The agent on a simulated machine: the real cache, tiers, journal, RESP door and REST API, wired as agent.ts wires them, on ports
 * that move only when a driver moves them. One process life after another on the same disks.
 *
 * Nothing here is asynchronous for the driver: a step is a call, and `settle` runs what became ready. `kill` ends a life as SIGKILL
 * does, at any moment, also in the middle of a start.
 */
import { drainMicrotasks } from 'bun:jsc';
import { createApi } from '#api/app.ts';
import type { ApiApp } from '#api/app.ts';
import { Cache } from '#cache/cache.ts';
import type { CacheLimits, SsdAdmission } from '#cache/cache-state.ts';
import { ChunkIndex } from '#cache/chunk-index.ts';
import type { CacheControl } from '#cache/control.ts';
import { NamespaceTable } from '#cache/namespace-table.ts';
import { markFolders, openStore } from '#cache/recovery.ts';
import { MiB } from '#core/bytes.ts';
import type { BlockHash } from '#core/checksum.ts';
import type { Logger } from '#core/logger.ts';
import { LeafLru } from '#policy/leaf-lru.ts';
import { KeyParser } from '#protocol/lmcache-key.ts';
import { RespServer } from '#servers/resp/resp-server.ts';
import { Metrics } from '#telemetry/metrics.ts';
import { RamTier } from '#tiers/ram/ram-tier.ts';
import { SsdTier } from '#tiers/ssd/ssd-tier.ts';
import { SimCatalogDisk, SimCatalogStore } from './sim-catalog-store.ts';
import { SimClock, SimRng } from './sim-clock.ts';
import { SimDisk } from './sim-disk.ts';
import { SimFileIo } from './sim-file-io.ts';
import { SimNetwork } from './sim-network.ts';
import { SimSharedMemory } from './sim-shared-memory.ts';

const hash: BlockHash = (block, seed) => Bun.hash.xxHash3(block, seed);

export interface SimAgentOptions {
  readonly seed: number;
  readonly ramBytes?: number;
  readonly maxChunkBytes?: number;
  /** Budget of each SSD folder, one a device. */
  readonly ssdBytes?: readonly number[];
  readonly floorBytes?: number;
  readonly admission?: SsdAdmission;
  readonly limits?: Partial<CacheLimits>;
  readonly stallMs?: number;
}

/** One process, from its start to its end. */
export interface SimLife {
  readonly io: SimFileIo;
  readonly memory: SimSharedMemory;
  readonly ram: RamTier;
  readonly ssd: SsdTier;
  readonly catalog: SimCatalogStore;
  /** As far as the start has come. */
  cache: Cache | undefined;
  server: RespServer | undefined;
  /** Doors are open. */
  ready: boolean;
}

export class SimAgent {
  readonly seed: number;
  readonly rng: SimRng;
  readonly clock = new SimClock();
  readonly disk = new SimDisk();
  readonly catalogDisk = new SimCatalogDisk();
  readonly network: SimNetwork;
  readonly app: ApiApp;
  /** Warnings and errors that the agent logged, the last few. */
  readonly log: string[] = [];
  readonly #options: SimAgentOptions;
  readonly #keys = new KeyParser();
  #life: SimLife | undefined;
  /** Grows with each start: what a former life left behind knows that it is over. */
  lives = 0;
  /** A bug of the agent, told in a callback. */
  problem: Error | undefined;
  /** A life's cache is there, before its doors open: the place to listen in. */
  onCache: (cache: Cache) => void = () => {};

  constructor(options: SimAgentOptions) {
    this.#options = options;
    this.seed = options.seed;
    this.rng = new SimRng(options.seed);
    this.network = new SimNetwork({ clock: this.clock, rng: this.rng, hash });
    this.disk.data.holdSyncs();
    this.app = this.#createApi();
  }

  /** Notes what went wrong in a callback; the first counts. */
  fail(problem: unknown): void {
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

  #logger(): Logger {
    const keep = (message: string): void => {
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
      tokens: {},
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
    const ramBytes = this.#options.ramBytes ?? 4 * MiB;
    const logger = this.#logger();
    const memory = new SimSharedMemory();
    const io = new SimFileIo({ disk: this.disk, memory, clock: this.clock, hash });
    // The tiers call the cache that is made of them; until it is there, nobody listens.
    const ram = new RamTier({
      sharedMemory: memory,
      capacityBytes: ramBytes,
      maxChunkBytes: this.#options.maxChunkBytes ?? ramBytes / 4,
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
    const catalog = new SimCatalogStore(this.catalogDisk);
    const life: SimLife = { io, memory, ram, ssd, catalog, cache: undefined, server: undefined, ready: false };
    this.#life = life;
    this.network.begin(memory);
    ram.start();
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
    const opened = await openStore({ fileSystem: disk, ssd, journalPath: '/data/journal', folders, hash, clock, logger, bootId: 'sim' });
    const cache = new Cache(
      {
        index: new ChunkIndex(this.rng),
        namespaces: new NamespaceTable(),
        ram,
        ssd,
        ramOrder: new LeafLru(),
        ssdOrder: new LeafLru(),
        catalog,
        tombstones: opened.tombstones,
        clock,
        hash,
        logger,
        limits: this.#limits(),
      },
      { epoch: opened.epoch, markFolders: (journalSequence) => markFolders(disk, ssd.folders, { epoch: opened.epoch, journalSequence }) },
    );
    life.cache = cache;
    cache.control.parseKey = (key) => {
      const parsed = this.#keys.parse(new TextEncoder().encode(key));
      return parsed === 'too-long' ? undefined : parsed;
    };
    this.onCache(cache);
    await cache.start();
    life.server = new RespServer({
      cache,
      sockets: this.network,
      transport: this.network,
      clock,
      logger,
      hash,
      version: 'sim',
      profile: 'auto',
      sizeGuard: 'off',
      maxConnections: 64,
      stallMs: options.stallMs ?? 30_000,
      idleMs: undefined,
      tokensRequired: false,
      authenticate: () => undefined,
      info: () => ({}),
    });
    life.server.listen({ host: '127.0.0.1', port: 7601 });
    life.ready = true;
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
    this.#life = undefined;
    this.clock.dropTimers();
    this.disk.data.kill();
    this.network.kill();
    this.settle();
  }

  /** A request to the REST door; undefined where no cache is there to answer. */
  request(method: 'GET' | 'POST', path: string, body?: unknown): Promise<Response> {
    const init = body === undefined ? { method } : { method, body: JSON.stringify(body), headers: { 'content-type': 'application/json' } };
    return Promise.resolve(this.app.fetch(new Request(`http://127.0.0.1:7600${path}`, init)));
  }

  // --- steps ----------------------------------------------------------------------------------------------------------------

  /** A step of file work, of a sync, or of the catalog. False where there is none. */
  stepIo(): boolean {
    const life = this.#life;
    if (life === undefined) return false;
    const { data } = this.disk;
    const syncs = data.heldSyncCount;
    if (syncs > 0 && this.rng.chance(1 / (life.io.activeCount + 1))) {
      data.releaseSync(this.rng.below(syncs));
      this.settle();
      return true;
    }
    const moved = life.io.step(this.rng);
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
    this.#life?.cache?.checkInvariants();
  }

  tier(name: 'ram' | 'ssd'): ReturnType<Cache['control']['stats']>['tiers'][number] {
    const tier = this.cache.control.stats().tiers.find((candidate) => candidate.tier === name);
    if (tier === undefined) throw new Error(`There is no tier ${name}`);
    return tier;
  }
}
