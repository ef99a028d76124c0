/** The quiet end of a simulated world: no faults, no new work. Everything ends, and nothing is left over. */
import type { SimClient } from './sim-client.ts';
import type { SimLmCommands } from './sim-lm-commands.ts';
import type { SimNativeCommands } from './sim-native-commands.ts';
import type { SimKey } from './sim-oracle.ts';
import type { SimWorld } from './sim-world.ts';

export class SimLiveness {
  readonly #world: SimWorld;

  /** Requests of operators without an answer. */
  #pending: () => number = () => 0;
  #kill: () => void = () => {};
  #lm: SimLmCommands | undefined;
  #native: SimNativeCommands | undefined;

  constructor(world: SimWorld) {
    this.#world = world;
  }

  /** Throws where something never ends or is left over. `kill` ends the process and starts the next. */
  drain(how: {
    readonly kill: () => void;
    readonly lm: SimLmCommands | undefined;
    readonly native: SimNativeCommands | undefined;
    readonly pending: () => number;
    readonly removeQuotas: () => void;
  }): void {
    const { agent, clients } = this.#world;
    this.#pending = how.pending;
    this.#kill = how.kill;
    this.#lm = how.lm;
    this.#native = how.native;
    const isAnswered = (): boolean =>
      clients.every((client) => client.pending === 0) && (this.#lm?.pending ?? 0) === 0 && (this.#native?.pending ?? 0) === 0;
    this.#until('all commands answered', () => agent.isReady && this.#pending() === 0 && isAnswered());
    how.removeQuotas();
    this.#until('quotas gone', () => this.#pending() === 0);
    // What an operator took off SSD is written again once somebody uses it.
    this.#readAll(() => false);
    for (const client of clients) client.connection?.close();
    this.#lm?.close();
    this.#native?.close();
    this.#until('all connections closed', () => agent.life?.server?.connectionCount() === 0 && agent.network.connectionCount === 0);
    const isClean = (): boolean => agent.cache.control.stats().tiers.every((tier) => tier.dirtyBytes === 0) || !this.#becomesClean;
    this.#until('nothing dirty', isClean);
    this.#until('nothing held', () => this.#leftOver() === '');
    agent.checkInvariants();
    this.#stopAndReadAll();
  }

  /** With endless folders and admission `idle` everything comes to SSD. */
  get #becomesClean(): boolean {
    const { admission = 'idle', ssdBytes } = this.#world.options;
    return admission === 'idle' && ssdBytes === undefined && this.#world.keepsFiles;
  }

  #leftOver(): string {
    const { agent } = this.#world;
    const holdings = agent.cache.holdings();
    const expected = { usedSlots: agent.tier('ram').chunkCount, openTickets: 0, waiting: 0, leases: 0 };
    if (JSON.stringify(holdings) !== JSON.stringify(expected)) return `${JSON.stringify(holdings)}, wanted ${JSON.stringify(expected)}`;
    const regions = this.#native?.leftOver() ?? '';
    if (regions !== '') return regions;
    const { hbm } = agent.life ?? {};
    if ((hbm?.tier?.usedSlots() ?? 0) !== (hbm?.tier === undefined ? 0 : agent.tier('hbm').chunkCount))
      return 'slots of HBM without a chunk';
    if (agent.network.activeCount > 0) return `${agent.network.activeCount} transfers`;
    if ((agent.life?.io.activeCount ?? 0) > 0) return `${agent.life?.io.activeCount} file jobs`;
    const queued = agent.cache.control.stats().catalog.queuedChanges;
    if (queued > 0) return `${queued} catalog changes`;
    const away = agent.life?.ssd.folders.find((folder) => folder.state === 'stalled');
    if (away !== undefined) return `${away.path} is stalled although its device answers`;
    return this.#world.keepsFiles ? this.#filesLeftOver() : '';
  }

  /** The files on disk are exactly the chunks', and counted to the byte. */
  #filesLeftOver(): string {
    const { agent } = this.#world;
    for (const folder of agent.life?.ssd.folders ?? []) {
      const files = agent.disk.filesBelow(folder.path).filter((path) => /\/[0-9a-f]{2}\//.test(path));
      const bytes = files.reduce((sum, path) => sum + (agent.disk.file(path)?.length ?? 0), 0);
      if (files.length !== folder.chunkCount || bytes !== folder.usedBytes)
        return `${folder.path} holds ${files.length} files of ${bytes} bytes, counted ${folder.chunkCount} of ${folder.usedBytes}`;
    }
    return '';
  }

  /** Bytes and disks first, then time, until it is so. */
  #until(what: string, isSo: () => boolean): void {
    const { agent } = this.#world;
    for (let round = 0; round < 2000; round += 1) {
      for (let index = 0; index < 200 && (agent.stepNetwork() || agent.stepIo() || agent.stepCatalog()); index += 1);
      if (agent.problem !== undefined) throw agent.problem;
      if (isSo()) return;
      agent.advance(round < 40 ? 20 : 500);
    }
    throw new Error(`Never: ${what}; ${agent.isReady ? this.#leftOver() : 'not ready'}; ${this.#pending()} requests`);
  }

  /** A clean stop, a start, and every key read once: what was there is there, and nothing else. */
  #stopAndReadAll(): void {
    const { agent } = this.#world;
    const before = new Set(agent.cache.control.chunks({}, { limit: 1000 }).chunks.map((chunk) => `${chunk.tenant} ${chunk.key}`));
    let closed = false;
    agent.life?.server?.close();
    agent.life?.lm?.close();
    agent.life?.native?.close();
    void agent.cache.close(agent.clock.monotonicMs() + 60_000).then(() => void (closed = true));
    this.#until('stopped', () => closed);
    this.#kill();
    this.#until('ready again', () => agent.isReady && agent.cache.recovery.progress.done);
    this.#readAll((key) => before.has(`${key.namespace.tenant} ${key.name}`));
  }

  #readAll(wasThere: (key: SimKey) => boolean): void {
    const { clients } = this.#world;
    for (const who of this.#world.everybody) {
      const client = clients.find((candidate) => candidate.who === who) as SimClient;
      client.connect();
      for (const key of this.#world.keysOf(who)) this.#readLast(client, key, wasThere(key));
      this.#until('all keys read', () => client.pending === 0);
    }
    this.#lm?.readAll();
    this.#until('all objects read', () => (this.#lm?.pending ?? 0) === 0);
  }

  #readLast(client: SimClient, key: SimKey, wasThere: boolean): void {
    const { oracle } = this.#world;
    const span = oracle.begin();
    client.command(['GET', key.name], (reply) => {
      if (reply === 'lost') throw new Error('A connection was lost in quiet times');
      if (reply.kind === 'bulk') oracle.endRead(key, span, reply.bytes);
      else if (wasThere && this.#becomesClean) throw new Error(`${key.label} was clean before the stop and is gone after it`);
    });
  }
}
