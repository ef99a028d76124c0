/**
 * The agent out of its parts: real ports, tiers, cache, doors, REST; start, readiness, shutdown. With main.ts the composition root:
 * nothing here decides anything about chunks.
 *
 * Order of the start: lock the data directory, threads, RAM, journal and folders, catalog, doors, agent.json. Order of the end:
 * stop accepting, let transfers end, write what is dirty, close the catalog and the journal, unmap. The RAM tier stays in shared memory
 * for the next agent, unless ram.keep says otherwise.
 */
import { createApi } from '#api/app.ts';
import type { ApiDeps } from '#api/deps.ts';
import { Cache } from '#cache/cache.ts';
import type { CacheLimits } from '#cache/cache-state.ts';
import { ChunkIndex } from '#cache/chunk-index.ts';
import { NamespaceTable } from '#cache/namespace-table.ts';
import { markTiers, openStore } from '#cache/recovery.ts';
import type { FolderSetup, OpenedStore } from '#cache/recovery.ts';
import { createSqliteCatalogStore } from '#catalog/sqlite-catalog-store.ts';
import { AGENT_FILE_NAME, formatAgentFile } from '#cli/agent-file.ts';
import type { Output } from '#cli/deps.ts';
import { renderStartScreen } from '#cli/start-screen.ts';
import type { AgentConfig } from '#config/agent-config.ts';
import type { LoadedConfig } from '#config/load-config.ts';
import { ttlOf } from '#config/ttl-rules.ts';
import type { BlockHash } from '#core/checksum.ts';
import { formatBytes } from '#core/bytes.ts';
import { KvtierError } from '#core/errors.ts';
import type { Logger } from '#core/logger.ts';
import { hostClock, hostRng } from '#host/clock.ts';
import { lowestFreeDescriptor, raiseDescriptorLimit } from '#host/descriptors.ts';
import { HostFileSystem } from '#host/file-system.ts';
import { JournalFiles } from '#host/journal-files.ts';
import { GarbageWatch, heapBytes } from '#host/garbage-watch.ts';
import { HostIoPool } from '#host/io-pool.ts';
import { memoryReader } from '#host/memory-events.ts';
import { readBootId, rememberSsdBudgets } from '#host/machine-facts.ts';
import { HostSharedMemory } from '#host/shared-memory.ts';
import { untilStopped } from '#host/signals.ts';
import { readTlsFiles } from '#host/tls-files.ts';
import type { TlsFiles } from '#host/tls-files.ts';
import { createPolicy } from '#policy/create-policy.ts';
import { KeyParser, parseKey } from '#protocol/lmcache-key.ts';
import type { Health } from '#protocol/rest/stats.ts';
import { EventLoopLag } from '#telemetry/event-loop-lag.ts';
import { Doors } from './doors.ts';
import type { DoorAddresses } from './doors.ts';
import { Gpus } from './gpus.ts';
import { connectionsWithin, descriptorsFor, MachineWatch } from '#telemetry/machine-watch.ts';
import { createLog } from '#telemetry/log.ts';
import type { LogRoot } from '#telemetry/log.ts';
import { Metrics } from '#telemetry/metrics.ts';
import { RamTier } from '#tiers/ram/ram-tier.ts';
import { SsdTier } from '#tiers/ssd/ssd-tier.ts';

export interface AgentOptions {
  readonly loaded: LoadedConfig;
  readonly version: string;
  readonly hash: BlockHash;
  readonly stdout: Output;
  readonly stderr: Output & { lostWrites(): number };
  /** A bug of ours somewhere: ends the process. */
  readonly onBug: (problem: unknown) => void;
}

const WEBHOOK_TIMEOUT_MS = 5000;
/** Two, so that one large transfer does not hold up the others. */
const MIN_SOCKET_WORKERS = 2;
const LOCK_RETRY_MS = 50;
const LOCK_PATIENCE_MS = 5000;
/** Share of shutdown.drainMs for transfers under way; the rest is for writing dirty chunks. */
const TRANSFER_SHARE = 0.2;

/** Runs until a signal; resolves with the exit code. Throws KvtierError where the start fails. */
export async function runAgent(options: AgentOptions): Promise<number> {
  const startedAt = performance.now();
  const stopped = untilStopped(() => process.exit(1));
  const agent = new Agent(options);
  try {
    await agent.start(startedAt);
  } catch (problem) {
    await agent.abandon();
    throw problem;
  }
  const signal = await stopped;
  await agent.stop(signal);
  return 0;
}

/** What a boot of the machine would lose. */
function dirtyOf(tiers: readonly { readonly dirtyBytes: number }[]): number {
  return tiers.reduce((sum, tier) => sum + tier.dirtyBytes, 0);
}

class Agent {
  readonly #options: AgentOptions;
  readonly #config: AgentConfig;
  readonly #log: LogRoot;
  readonly #logger: Logger;
  readonly #metrics = new Metrics();
  readonly #lag = new EventLoopLag(hostClock);
  readonly #garbage = new GarbageWatch(hostClock);
  #watch: MachineWatch | undefined;
  #maxConnections: number;
  readonly #startedAtMs = Date.now();
  readonly #startedAt = hostClock.monotonicMs();
  /** Of shared memory, that stay for the next agent. */
  #keptBytes = 0;
  #state: Health['state'] = 'starting';
  readonly #findings: string[] = [];
  #pool: HostIoPool | undefined;
  #journalFiles: JournalFiles | undefined;
  #tls: TlsFiles | undefined;
  #fileSystem = new HostFileSystem(async (fd) => (await this.#pool?.syncFile(fd)) ?? { ok: false, errno: 9 });
  #lock: { release(): void } | undefined;
  #gpus: Gpus | undefined;
  #ram: RamTier | undefined;
  #cache: Cache | undefined;
  #doors: Doors | undefined;

  constructor(options: AgentOptions) {
    this.#options = options;
    this.#config = options.loaded.config;
    this.#maxConnections = this.#config.resp.maxConnections;
    const { admin, read, tenants } = this.#config.tokens;
    this.#log = createLog({
      level: this.#config.log.level,
      format: this.#config.log.format,
      write: (line) => options.stderr.write(line),
      secrets: [admin, read, ...tenants.values()].filter((token) => token !== undefined),
      reveal: this.#config.tenants.reveal,
      color: options.stderr.isTerminal,
    });
    this.#logger = this.#log.room('agent');
  }

  async start(startedAt: number): Promise<void> {
    const config = this.#config;
    this.#tls = config.tls === undefined ? undefined : readTlsFiles(config.tls);
    this.#fileSystem.mkdir(config.dataDir);
    this.#lock = await this.#waitForLock(`${config.dataDir}/agent.lock`);
    if (this.#lock === undefined) {
      throw new KvtierError('DATA_DIR_LOCKED', `Cannot start: another agent owns ${config.dataDir}; stop it or name another --data-dir`, {
        context: { dataDir: config.dataDir },
      });
    }
    this.#startWatch();
    const workers = Math.max(2, config.io.workers);
    const socketWorkers = Math.max(MIN_SOCKET_WORKERS, Math.floor(workers / 8));
    this.#pool = await HostIoPool.start({
      socketWorkers,
      fileWorkers: Math.max(2, workers - socketWorkers),
      fileDeadlineMs: config.ssd.ioDeadlineMs,
      onCrash: this.#options.onBug,
    });
    this.#gpus = await Gpus.start(config, this.#log.room('tiers.hbm'));
    this.#startRam(this.#pool);
    const cache = await this.#startCache(this.#pool);
    const doors = this.#startDoors(cache, this.#pool);
    this.#state = 'ready';
    this.#lag.start();
    this.#garbage.start();
    this.#watch?.start();
    const readyMs = performance.now() - startedAt;
    const warnings = [...this.#findings, ...(this.#ram?.reasons ?? []), ...(this.#gpus?.warnings() ?? [])];
    if (this.#ram !== undefined) void this.#gpus?.registerRam(this.#ram);
    this.#options.stdout.write(
      renderStartScreen({
        version: this.#options.version,
        loaded: this.#options.loaded,
        doors: doors.addresses(),
        devices: this.#gpus?.screen() ?? [],
        readyMs,
        warnings,
      }),
    );
    const { keptChunks } = cache.recovery.progress;
    this.#logger.info('Ready', { readyMs: Math.round(readyMs), loadedChunks: cache.chunkCount, keptChunks });
  }

  /** A process that was killed holds its lock until the kernel has unmapped its arenas; a restart that is quick waits for it. */
  async #waitForLock(path: string): Promise<{ release(): void } | undefined> {
    for (let waitedMs = 0; ; waitedMs += LOCK_RETRY_MS) {
      const lock = this.#fileSystem.lock(path);
      if (lock !== undefined || waitedMs >= LOCK_PATIENCE_MS) return lock;
      await Bun.sleep(LOCK_RETRY_MS);
    }
  }

  /** Before anything is opened: as many connections as there are descriptors for, and an eye on what the machine does. */
  #startWatch(): void {
    const { resp, lm } = this.#config;
    const doors = Math.max(1, [resp.listen, lm.listen].filter((address) => address !== undefined).length);
    const wanted = resp.maxConnections;
    const { soft } = raiseDescriptorLimit(descriptorsFor(doors * wanted));
    this.#maxConnections = Math.max(1, Math.min(wanted, Math.floor(connectionsWithin(soft) / doors)));
    if (this.#maxConnections < wanted) {
      this.#findings.push(
        `descriptors: ${this.#maxConnections} connections at most and not ${wanted}, since ${soft} files may be open; raise the limit (ulimit -n, LimitNOFILE=) to ${descriptorsFor(doors * wanted)}`,
      );
      this.#logger.warn(this.#findings.at(-1) ?? '', {});
    }
    this.#watch = new MachineWatch({
      clock: hostClock,
      logger: this.#log.room('watch'),
      readMemory: memoryReader(),
      lowestFreeDescriptor,
      descriptorLimit: soft,
      pauseDoors: () => this.#doors?.listeners().forEach((listener) => listener.pause()),
      // Each, also where an earlier one failed.
      resumeDoors: () => (this.#doors?.listeners() ?? []).map((listener) => listener.resume()).every(Boolean),
    });
  }

  #startRam(pool: HostIoPool): void {
    const { ram, dataDir } = this.#config;
    const bootId = readBootId();
    // Without the id of the boot nothing tells memory from what a file system made of it.
    const keeps = ram.keep && bootId !== '';
    const sharedMemory = new HostSharedMemory(ram.shmDir, { hugepages: ram.hugepages, dataDir, keeps });
    const orphans = sharedMemory.removeOrphans();
    if (orphans > 0) this.#logger.info(`Removed ${formatBytes(orphans)} of shared memory whose agent is gone`, {});
    this.#ram = new RamTier({
      sharedMemory,
      capacityBytes: ram.sizeBytes,
      maxChunkBytes: ram.maxChunkBytes,
      keep: keeps ? { hash: this.#options.hash, bootId } : undefined,
      checksumMemory: (address, sizeBytes) => pool.checksumMemory(address, sizeBytes),
      populate: (address, sizeBytes) => pool.populate(address, sizeBytes),
      onArena: (address, sizeBytes) => {
        pool.registerArena(address, sizeBytes);
        this.#gpus?.addArena(address, sizeBytes);
      },
      onGrowth: () => this.#cache?.ramGrew(),
      logger: this.#log.room('tiers.ram'),
    });
    this.#ram.start();
  }

  async #startCache(pool: HostIoPool): Promise<Cache> {
    const config = this.#config;
    const { hash } = this.#options;
    const fileSystem = this.#fileSystem;
    const ssd = new SsdTier({
      files: pool.files,
      fileSystem,
      hash,
      clock: hostClock,
      logger: this.#log.room('tiers.ssd'),
      direct: config.ssd.direct,
      onFolderLost: (folder) => this.#cache?.folderLost(folder),
    });
    if (this.#ram === undefined) throw new KvtierError('TIER_UNAVAILABLE', 'Cannot start the cache: there is no RAM tier');
    const ram = this.#ram;
    const opened = await this.#openStore(pool, { ram, ssd });
    rememberSsdBudgets(config.dataDir, config.ssd.folders);
    for (const finding of opened.findings) {
      this.#findings.push(finding);
      this.#logger.warn(finding, {});
    }
    const index = new ChunkIndex(hostRng);
    const cache = new Cache(
      {
        index,
        namespaces: new NamespaceTable({ ttlOf: (descriptor) => ttlOf(config.ttl, descriptor) }),
        ram,
        ssd,
        hbm: this.#gpus?.parts(index),
        ramOrder: createPolicy(config.ram.policy, index.policyFacts),
        ssdOrder: createPolicy(config.ssd.policy, index.policyFacts),
        catalog: createSqliteCatalogStore({
          path: `${config.dataDir}/catalog.db`,
          migrationsDir: `${import.meta.dir}/../migrations`,
          clock: hostClock,
          logger: this.#log.room('catalog'),
        }),
        tombstones: opened.tombstones,
        clock: hostClock,
        hash,
        logger: this.#log.room('cache'),
        limits: this.#limits(),
      },
      {
        epoch: opened.epoch,
        markFolders: (journalSequence) => markTiers({ fileSystem, ram, ssd }, { epoch: opened.epoch, journalSequence }),
      },
    );
    this.#cache = cache;
    if (this.#gpus !== undefined) this.#gpus.onLost = (device) => cache.deviceLost(device);
    const keys = new KeyParser();
    cache.control.parseKey = (key, tenant) => {
      const bytes = new TextEncoder().encode(key);
      const parsed = tenant === undefined ? keys.parse(bytes) : parseKey(bytes, { tenant });
      return parsed === 'too-long' ? undefined : parsed;
    };
    await cache.start();
    return cache;
  }

  async #openStore(pool: HostIoPool, { ram, ssd }: { readonly ram: RamTier; readonly ssd: SsdTier }): Promise<OpenedStore> {
    this.#journalFiles = await JournalFiles.start((fd) => pool.syncFile(fd), this.#options.onBug);
    return await openStore({
      fileSystem: this.#fileSystem,
      journalFiles: this.#journalFiles,
      ram,
      ssd,
      journalPath: `${this.#config.dataDir}/journal`,
      folders: this.#folders(),
      hash: this.#options.hash,
      clock: hostClock,
      logger: this.#log.room('cache'),
      bootId: readBootId(),
    });
  }

  #folders(): readonly FolderSetup[] {
    const { ssd } = this.#config;
    return ssd.folders.map(({ path, sizeBytes }) => ({ path, capacityBytes: sizeBytes, floorBytes: ssd.freeSpaceFloorBytes }));
  }

  #limits(): CacheLimits {
    const { ssd, lease, put, readAhead, io } = this.#config;
    return {
      ssdAdmission: ssd.folders.length === 0 ? 'off' : ssd.admission,
      ssdIdleAfterMs: ssd.idleAfterMs,
      ssdWriteBytesPerSecond: ssd.writeBudgetBytesPerSecond,
      ssdQueueBytes: ssd.queueBytes,
      leaseMs: lease.durationMs,
      putWaitMs: put.waitMs,
      readAheadBytes: readAhead.bytes,
      writesAtOnce: Math.max(1, Math.floor(io.workers / 2)),
    };
  }

  #startDoors(cache: Cache, pool: HostIoPool): Doors {
    const ram = this.#ram;
    if (ram === undefined) throw new KvtierError('TIER_UNAVAILABLE', 'Cannot open the doors: there is no RAM tier');
    const doors = new Doors({
      cache,
      ram,
      pool,
      config: this.#config,
      log: this.#log,
      tls: this.#tls,
      hash: this.#options.hash,
      version: this.#options.version,
      maxConnections: this.#maxConnections,
      onBug: this.#options.onBug,
      onBuffer: this.#garbage.leave,
      findings: this.#findings,
      httpTotals: () => this.#metrics.httpTotals(),
      info: () => this.#info(cache),
    });
    this.#doors = doors;
    doors.start(createApi(this.#apiDeps(cache)));
    this.#writeAgentFile(doors.addresses());
    return doors;
  }

  #apiDeps(cache: Cache): ApiDeps {
    const { tokens, http, invalidate } = this.#config;
    const startedAt = this.#startedAt;
    return {
      control: cache.control,
      agent: {
        version: this.#options.version,
        // So that the time since then is monotonic, whatever the wall clock does.
        get startedAtMs() {
          return hostClock.nowMs() - (hostClock.monotonicMs() - startedAt);
        },
        doors: () => this.#doors?.stats() ?? [],
        health: () => this.#health(cache),
        residentBytes: () => process.memoryUsage.rss(),
        heapBytes,
        eventLoopLag: () => this.#lag.summary(),
        lostLogWrites: () => this.#options.stderr.lostWrites(),
        ...(this.#gpus === undefined ? {} : { gpu: () => (this.#gpus as Gpus).info() }),
        ...(this.#watch === undefined ? {} : { watch: () => (this.#watch as MachineWatch).counts() }),
      },
      tokens,
      revealSalts: this.#config.tenants.reveal,
      hosts: [http.listen.host],
      maxBodyBytes: http.maxBodyBytes,
      metrics: this.#metrics,
      clock: hostClock,
      logger: this.#log.room('api'),
      webhook: invalidate.webhook === undefined ? undefined : { url: invalidate.webhook, timeoutMs: WEBHOOK_TIMEOUT_MS, fetch },
      onBug: this.#options.onBug,
    };
  }

  #health(cache: Cache): Health {
    const notes = [...(this.#gpus?.notes() ?? [])];
    if (this.#state !== 'ready') return { state: this.#state, reasons: [], notes };
    const { tiers, catalog } = cache.control.stats();
    const reasons = tiers.flatMap((tier) => tier.reasons.map((reason) => `${tier.tier}: ${reason}`));
    if (catalog.state !== 'ok') reasons.push(`catalog: ${catalog.reason}`);
    if (cache.journalProblem !== undefined) reasons.push(`journal: ${cache.journalProblem}`);
    reasons.push(...this.#findings, ...(this.#gpus?.reasons() ?? []), ...(this.#watch?.reasons() ?? []));
    return reasons.length > 0 ? { state: 'degraded', reasons, notes } : { state: 'ready', reasons: [], notes };
  }

  #info(cache: Cache): Readonly<Record<string, Readonly<Record<string, string | number>>>> {
    const stats = cache.control.stats();
    const ram = stats.tiers.find((tier) => tier.tier === 'ram');
    const ssd = stats.tiers.find((tier) => tier.tier === 'ssd');
    return {
      Process: { process_id: process.pid },
      Memory: {
        used_memory: ram?.usedBytes ?? 0,
        maxmemory: ram?.capacityBytes ?? 0,
        maxmemory_policy: 'allkeys-lru',
        ssd_used_bytes: ssd?.usedBytes ?? 0,
      },
      Stats: {
        keyspace_hits: stats.hits.hbm + stats.hits.ram + stats.hits.ssd,
        keyspace_misses: stats.misses,
        evicted_keys: stats.evictions.ram + stats.evictions.ssd - stats.demotions,
        dirty_bytes: dirtyOf(stats.tiers),
      },
    };
  }

  #writeAgentFile({ http, resp, lm, socket }: DoorAddresses): void {
    const text = formatAgentFile({
      version: this.#options.version,
      pid: process.pid,
      startedAt: new Date(this.#startedAtMs).toISOString(),
      doors: {
        http,
        ...(resp === undefined ? {} : { resp }),
        ...(lm === undefined ? {} : { lm }),
        ...(socket === undefined ? {} : { socket }),
      },
      dataDir: this.#config.dataDir,
      ...(this.#config.tls === undefined ? {} : { tls: true }),
    });
    this.#fileSystem.writeFileAtomic(`${this.#config.dataDir}/${AGENT_FILE_NAME}`, new TextEncoder().encode(text));
  }

  /** After a start that failed: gives back what it took, above all the shared memory, unless that holds what a former agent left. */
  async abandon(): Promise<void> {
    if (this.#lock === undefined) return;
    try {
      this.#cache?.beginDrain();
      await this.#close(performance.now());
    } catch (problem) {
      this.#logger.warn('Cannot clean up after a start that failed', { problem: String(problem) });
    }
  }

  async stop(signal: string): Promise<void> {
    const { drainMs } = this.#config.shutdown;
    const startedAtMs = performance.now();
    this.#state = 'draining';
    const dirtyBytes = dirtyOf(this.#cache?.control.stats().tiers ?? []);
    this.#logger.info(`${signal}: draining`, { dirty: formatBytes(dirtyBytes), seconds: drainMs / 1000 });
    this.#cache?.beginDrain();
    this.#doors?.stopAccepting();
    // A client that stalls in the middle of a value must not use up the time that dirty chunks need.
    const settledAtMs = startedAtMs + drainMs * TRANSFER_SHARE;
    await this.#doors?.settle(settledAtMs);
    const lostBytes = await this.#close(startedAtMs + drainMs);
    this.#lag.stop();
    this.#garbage.stop();
    this.#watch?.stop();
    if (lostBytes > 0 && this.#ram?.keeps === true)
      this.#logger.warn(`Stopped: ${lostBytes} bytes are only in RAM, where the next agent finds them unless the machine is booted`, {
        lostBytes,
      });
    else if (lostBytes > 0) this.#logger.warn(`Stopped: ${lostBytes} bytes were only in RAM and are gone`, { lostBytes });
    else this.#logger.info('Stopped: nothing was only in RAM', { lostBytes });
    if (this.#keptBytes === 0) return;
    const { dataDir, ram } = this.#config;
    const kept = `${formatBytes(this.#keptBytes)} of RAM stay in ${ram.shmDir} for the next agent; to free them: kvtier ram drop --data-dir ${dataDir}`;
    this.#logger.info(kept, { keptBytes: this.#keptBytes });
  }

  /** Resolves with the bytes that were only in RAM. */
  async #close(deadlineMs: number): Promise<number> {
    const lostBytes = (await this.#cache?.close(deadlineMs)) ?? 0;
    this.#fileSystem.remove(`${this.#config.dataDir}/${AGENT_FILE_NAME}`);
    await this.#doors?.close();
    await this.#pool?.close();
    await this.#journalFiles?.close();
    await this.#gpus?.close();
    this.#keptBytes = (await this.#ram?.close({ keep: true })) ?? 0;
    this.#lock?.release();
    return lostBytes;
  }
}
