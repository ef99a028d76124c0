/**
 * The real cache core on simulated ports: one process life after another on one disk. `crash` ends a life as SIGKILL does: memory is
 * gone (with `keep` what was in shared memory is not), written bytes stay, jobs under way end at a random point. Nothing moves unless the test moves it: I/O by `step`, time by
 * `advance`.
 */
import { Cache } from '#cache/cache.ts';
import type { CacheLimits, SsdAdmission } from '#cache/cache-state.ts';
import { ChunkIndex } from '#cache/chunk-index.ts';
import type { CommitOptions, CommitOutcome, PutRejected, PutTicket, ReadHandle } from '#cache/door.ts';
import { NamespaceTable } from '#cache/namespace-table.ts';
import { markTiers, openStore } from '#cache/recovery.ts';
import { checksum } from '#core/checksum.ts';
import type { BlockHash } from '#core/checksum.ts';
import { MiB } from '#core/bytes.ts';
import type { NamespaceId } from '#core/brand.ts';
import type { Logger } from '#core/logger.ts';
import { createPolicy } from '#policy/create-policy.ts';
import type { PolicyName } from '#policy/create-policy.ts';
import { KeyParser } from '#protocol/lmcache-key.ts';
import { RamTier } from '#tiers/ram/ram-tier.ts';
import { SsdTier } from '#tiers/ssd/ssd-tier.ts';
import { SimCatalogRowDisk, SimCatalogStore } from './sim-catalog-store.ts';
import { settle, SimClock, SimRng } from './sim-clock.ts';
import { SimDisk } from './sim-disk.ts';
import { SimFileIo } from './sim-file-io.ts';
import { SimHbm } from './sim-hbm.ts';
import type { SimHbmOptions } from './sim-hbm.ts';
import { SimSharedMemory } from './sim-shared-memory.ts';

export const simHash: BlockHash = (block, seed) => Bun.hash.xxHash3(block, seed);

export interface SimCacheOptions extends SimHbmOptions {
  readonly seed?: number;
  readonly ramBytes?: number;
  readonly maxChunkBytes?: number;
  /** Budget of each SSD folder, one a device. */
  readonly ssdBytes?: readonly number[];
  readonly floorBytes?: number;
  readonly admission?: SsdAdmission;
  readonly ramPolicy?: PolicyName;
  readonly ssdPolicy?: PolicyName;
  readonly limits?: Partial<CacheLimits>;
  readonly logger?: Logger;
  /** The RAM tier outlives the process, as with ram.keep. Default false. */
  readonly keep?: boolean;
  /** ssd.direct; 'auto' unless given. */
  readonly direct?: 'auto' | 'on' | 'off';
}

interface Life {
  readonly cache: Cache;
  readonly io: SimFileIo;
  readonly memory: SimSharedMemory;
  readonly ram: RamTier;
  readonly ssd: SsdTier;
  readonly catalog: SimCatalogStore;
  readonly hbm: SimHbm;
  readonly findings: readonly string[];
}

const encoder = new TextEncoder();

export class SimCache {
  readonly seed: number;
  readonly rng: SimRng;
  readonly clock = new SimClock();
  readonly disk = new SimDisk();
  readonly catalogDisk = new SimCatalogRowDisk();
  /** Of the machine: outlives a process. */
  readonly memory = new SimSharedMemory();
  readonly log: string[] = [];
  bootId = 'sim';
  #options: SimCacheOptions;
  readonly #keys = new KeyParser();
  #life: Life | undefined;

  constructor(options: SimCacheOptions = {}) {
    this.#options = options;
    this.seed = options.seed ?? 1;
    this.rng = new SimRng(this.seed);
  }

  static async start(options: SimCacheOptions = {}): Promise<SimCache> {
    const sim = new SimCache(options);
    await sim.restart();
    return sim;
  }

  /** The same machine, configured otherwise from the next start on. */
  withOptions(options: SimCacheOptions): this {
    this.#options = options;
    return this;
  }

  get life(): Life {
    if (this.#life === undefined) throw new Error('The simulated process does not run');
    return this.#life;
  }

  get cache(): Cache {
    return this.life.cache;
  }

  get io(): SimFileIo {
    return this.life.io;
  }

  /** Begins a life: the order of agent.ts. Listings and headers of the load run; adoption goes on as the test steps. */
  async restart(): Promise<void> {
    const { clock, disk } = this;
    const options = this.#options;
    const ramBytes = options.ramBytes ?? 4 * MiB;
    const ssdBytes = options.ssdBytes ?? [64 * MiB];
    const logger: Logger = options.logger ?? {
      debug: () => {},
      info: () => {},
      warn: (message) => void this.log.push(message),
      error: (message) => void this.log.push(message),
    };
    const { memory } = this;
    if (options.keep !== true) memory.boot();
    const io = new SimFileIo({ disk, memory, clock, hash: simHash });
    // The tiers call the cache that is made of them; until it is there, nobody listens.
    const running: { cache?: Cache } = {};
    const ram = new RamTier({
      sharedMemory: memory,
      capacityBytes: ramBytes,
      maxChunkBytes: options.maxChunkBytes ?? ramBytes / 4,
      keep: options.keep === true ? { hash: simHash, bootId: this.bootId } : undefined,
      checksumMemory: (address, sizeBytes) => Promise.resolve(checksum(memory.at(address, sizeBytes), simHash)),
      populate: () => Promise.resolve({ ok: true }),
      onArena: () => {},
      onGrowth: () => running.cache?.ramGrew(),
      logger,
    });
    ram.start();
    const ssd = new SsdTier({
      files: io,
      fileSystem: disk,
      hash: simHash,
      clock,
      logger,
      direct: options.direct ?? 'auto',
      onFolderLost: (folder) => running.cache?.folderLost(folder),
    });
    const folders = ssdBytes.map((capacityBytes, index) => ({
      path: `/ssd${index}/kv`,
      capacityBytes,
      floorBytes: options.floorBytes ?? 0,
    }));
    const hbm = new SimHbm(options, {
      host: (address, sizeBytes) => memory.at(address, sizeBytes),
      logger,
      onLost: (device) => running.cache?.deviceLost(device),
    });
    const opened = await openStore({
      fileSystem: disk,
      ram,
      ssd,
      journalPath: '/data/journal',
      folders,
      hash: simHash,
      clock,
      logger,
      bootId: this.bootId,
    });
    const catalog = new SimCatalogStore(this.catalogDisk);
    const index = new ChunkIndex(this.rng);
    const cache = new Cache(
      {
        index,
        namespaces: new NamespaceTable(),
        ram,
        ssd,
        ramOrder: createPolicy(options.ramPolicy ?? 'leaf-lru', index.policyFacts),
        ssdOrder: createPolicy(options.ssdPolicy ?? 'leaf-lru', index.policyFacts),
        ...hbm.parts(index.policyFacts),
        catalog,
        tombstones: opened.tombstones,
        clock,
        hash: simHash,
        logger,
        limits: {
          ssdAdmission: options.admission ?? 'idle',
          ssdIdleAfterMs: 1000,
          ssdWriteBytesPerSecond: 0,
          ssdQueueBytes: ramBytes,
          leaseMs: 30_000,
          putWaitMs: 1000,
          readAheadBytes: ramBytes / 4,
          writesAtOnce: 2,
          ...options.limits,
        },
      },
      {
        epoch: opened.epoch,
        markFolders: (journalSequence) => markTiers({ fileSystem: disk, ram, ssd }, { epoch: opened.epoch, journalSequence }),
      },
    );
    running.cache = cache;
    cache.control.parseKey = (key) => {
      const parsed = this.#keys.parse(encoder.encode(key));
      return parsed === 'too-long' ? undefined : parsed;
    };
    this.#life = { cache, io, memory, ram, ssd, catalog, hbm, findings: opened.findings };
    await this.run(cache.start());
  }

  /** SIGKILL. Committed catalog rows stay; what was queued for it is lost. */
  crash(): void {
    this.life.io.kill(this.rng);
    this.life.hbm.devices.kill();
    this.clock.dropTimers();
    this.disk.data.restart();
    this.memory.endProcess();
    this.#life = undefined;
  }

  /** SIGKILL, and the machine is booted: shared memory is gone too. What was written stays. */
  reboot(): void {
    this.crash();
    this.memory.boot();
    this.bootId += '.';
  }

  /** One step of I/O. False where no job is under way. */
  async step(): Promise<boolean> {
    const moved = this.life.hbm.stepAmong(this.rng, this.io.activeCount) || this.io.step(this.rng);
    await settle();
    return moved;
  }

  /** I/O until none is under way; timers do not run. */
  async drainIo(): Promise<void> {
    await settle();
    while (await this.step());
  }

  /** I/O, and where there is none time, until the promise settles. */
  async run<T>(promise: Promise<T>): Promise<T> {
    let settled = false;
    const done = (): void => void (settled = true);
    promise.then(done, done);
    await settle();
    for (let idle = 0; !settled;) {
      if (await this.step()) idle = 0;
      else {
        await this.clock.advance(10);
        idle += 1;
        if (idle > 100_000) throw new Error('The promise never settles: no I/O is under way and time does not help');
      }
    }
    return await promise;
  }

  /** Time, with all I/O that it sets off, in slices. */
  async quiet(ms: number, sliceMs = 100): Promise<void> {
    for (let passed = 0; passed < ms; passed += sliceMs) {
      await this.clock.advance(sliceMs);
      await this.drainIo();
    }
  }

  // --- shorthands over the door ---------------------------------------------------------------------------------------------

  /** Runs `use` with a namespace that is referenced meanwhile, as the doors do it. */
  with<T>(key: string, use: (namespace: NamespaceId, key: Uint8Array) => T): T {
    const parsed = this.#keys.parse(encoder.encode(key));
    if (parsed === 'too-long') throw new Error(`Key ${key} is too long`);
    const namespace = this.cache.internNamespace(parsed.descriptor);
    try {
      return use(namespace, parsed.key.slice());
    } finally {
      this.cache.releaseNamespace(namespace);
    }
  }

  reserve(key: string, sizeBytes: number): PutTicket | PutRejected | Promise<PutTicket | PutRejected> {
    return this.with(key, (namespace, bytes) => this.cache.reserve({ namespace, key: bytes, sizeBytes }));
  }

  commit(ticket: PutTicket, payload: Uint8Array, options: CommitOptions = {}): CommitOutcome {
    ticket.view().set(payload);
    return this.cache.commit(ticket, checksum(payload, simHash), options);
  }

  /** A whole put; waits where it must, moving I/O and time. */
  async put(key: string, payload: Uint8Array, options: CommitOptions = {}): Promise<CommitOutcome | PutRejected['reason']> {
    const reserved = this.reserve(key, payload.length);
    const ticket = reserved instanceof Promise ? await this.run(reserved) : reserved;
    return ticket.kind === 'rejected' ? ticket.reason : this.commit(ticket, payload, options);
  }

  open(key: string, owner?: number): ReadHandle | undefined | Promise<ReadHandle | undefined> {
    return this.with(key, (namespace, bytes) => this.cache.open(namespace, bytes, owner));
  }

  /** A whole read: a copy of the payload, or undefined. */
  async get(key: string, owner?: number): Promise<Uint8Array | undefined> {
    const opened = this.open(key, owner);
    const handle = opened instanceof Promise ? await this.run(opened) : opened;
    const payload = handle?.view().slice();
    handle?.release();
    return payload;
  }

  probe(key: string, owner?: number): { sizeBytes: number; tier: 'hbm' | 'ram' | 'ssd' } | undefined {
    return this.with(key, (namespace, bytes) => this.cache.probe(namespace, bytes, owner));
  }

  peek(key: string): { ref: { entry: number; generation: number }; sizeBytes: number; tier: 'hbm' | 'ram' | 'ssd' } | undefined {
    return this.with(key, (namespace, bytes) => this.cache.peek(namespace, bytes));
  }

  /** Gives a chunk another expiry; 0: never. False where it is gone. */
  expire(key: string, atMs: number): boolean {
    const found = this.peek(key);
    return found !== undefined && this.cache.setExpiry(found.ref, atMs);
  }

  /** 0: never; undefined: there is no chunk. */
  expiresAt(key: string): number | undefined {
    const found = this.peek(key);
    return found === undefined ? undefined : this.cache.expiresAtMs(found.ref);
  }

  delete(key: string): boolean {
    return this.with(key, (namespace, bytes) => this.cache.delete(namespace, bytes));
  }

  invalidate(selector: Parameters<Cache['control']['invalidate']>[0], dryRun = false): ReturnType<Cache['control']['invalidate']> {
    return this.cache.control.invalidate(selector, { dryRun, reason: 'test', actor: 'admin' });
  }

  tier(name: 'hbm' | 'ram' | 'ssd'): ReturnType<Cache['control']['stats']>['tiers'][number] {
    const tier = this.cache.control.stats().tiers.find((candidate) => candidate.tier === name);
    if (tier === undefined) throw new Error(`There is no tier ${name}`);
    return tier;
  }

  /** Tiers of a chunk by its whole key; [] where there is none. */
  tiersOf(key: string): readonly string[] {
    return this.cache.control.chunks({ keyPrefix: key }, { limit: 100 }).chunks.find((chunk) => chunk.key === key)?.tiers ?? [];
  }

  /** Chunk files on disk (not quarantined, not temporary). */
  chunkFiles(): string[] {
    return this.disk.filesBelow('').filter((path) => /\/[0-9a-f]{2}\/[0-9a-f]{16}\.kv$/.test(path));
  }

  /** What must hold between any two steps. */
  check(): void {
    this.cache.checkInvariants();
    this.life.hbm.devices.check();
  }

  /**
   * What must hold when nothing is under way: every slot belongs to a chunk, nothing waits, and the files on disk are exactly the
   * chunks' and counted to the byte.
   */
  checkQuiet(): void {
    this.check();
    const holdings = this.cache.holdings();
    const hbmSlots = this.life.hbm.tier?.usedSlots() ?? 0;
    const inHbm = this.life.hbm.tier === undefined ? 0 : this.tier('hbm').chunkCount;
    if (hbmSlots !== inHbm) throw new Error(`Leak: ${hbmSlots} slots of HBM in use, ${inHbm} chunks there`);
    const expected = { usedSlots: this.tier('ram').chunkCount, openTickets: 0, waiting: 0, leases: holdings.leases };
    if (JSON.stringify(holdings) !== JSON.stringify(expected))
      throw new Error(`Leak: ${JSON.stringify(holdings)}, wanted ${JSON.stringify(expected)}`);
    for (const folder of this.life.ssd.folders) {
      if (folder.state === 'off') continue;
      const files = this.disk.filesBelow(folder.path).filter((path) => /\/[0-9a-f]{2}\//.test(path));
      const bytes = files.reduce((sum, path) => sum + (this.disk.file(path)?.length ?? 0), 0);
      if (files.length !== folder.chunkCount || bytes !== folder.usedBytes) {
        throw new Error(
          `${folder.path} holds ${files.length} files of ${bytes} bytes, counted ${folder.chunkCount} of ${folder.usedBytes}`,
        );
      }
    }
  }
}

/** True where the bytes are those of `payloadOf(value, sizeBytes)`; far faster than a matcher on large arrays. */
export function isPayload(bytes: Uint8Array | undefined, value: number, sizeBytes: number): boolean {
  return bytes !== undefined && Buffer.from(payloadOf(value, sizeBytes)).equals(bytes);
}

/** Bytes that tell the value's number at every offset. */
export function payloadOf(value: number, sizeBytes: number): Uint8Array {
  const payload = new Uint8Array(sizeBytes);
  const words = new Uint32Array(payload.buffer, 0, Math.floor(sizeBytes / 4));
  for (let index = 0; index < words.length; index += 1) words[index] = Math.imul(value + 1, 0x9e37_79b1) ^ index;
  for (let index = words.length * 4; index < sizeBytes; index += 1) payload[index] = value ^ index;
  return payload;
}
