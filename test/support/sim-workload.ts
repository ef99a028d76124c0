/** What happens in a simulated world: the choice of the next step, the commands of clients and operators, and the quiet end. */
import type { Cache } from '#cache/cache.ts';
import { KiB } from '#core/bytes.ts';
import type { Selector } from '#core/selector.ts';
import type { SimClient, SimOutcome, SimReply } from './sim-client.ts';
import type { SimRng } from './sim-clock.ts';
import { SimListener } from './sim-listener.ts';
import type { SimKey, SimSpan, SimValue } from './sim-oracle.ts';
import type { SimWorld } from './sim-world.ts';

const HASH = 'a1b2c3d4e5f60718';
/** Around every threshold of the door: inline, streamed, copied replies, sips. Large ones are rare: they cost time to look at. */
const sizes = [0, 1, 100, 4096, 5000, 16 * KiB, 16 * KiB + 1, 20 * KiB, 40 * KiB, 64 * KiB, 64 * KiB + 1, 100 * KiB];
const LARGE_BYTES = 600 * KiB;

/** Keys of several namespaces: two models, a salted tenant, an opaque one. Equal hashes in all of them. */
function keyName(index: number): string {
  const hash = `${HASH}${(index >> 2).toString(16).padStart(16, '0')}`;
  if (index % 4 === 0) return `opaque-${index}`;
  if (index % 4 === 1) return `model-a@00000001@${hash}@0`;
  if (index % 4 === 2) return `model-b@00000001@${hash}@0`;
  return `model-a@00000001@${hash}@0@salt`;
}

export class SimWorkload {
  readonly #world: SimWorld;
  readonly #rng: SimRng;
  readonly #keys: SimKey[];
  #listener: SimListener | undefined;
  /** Requests of operators that have no answer yet. */
  #requests = 0;
  commands = 0;

  constructor(world: SimWorld) {
    this.#world = world;
    this.#rng = world.agent.rng;
    this.#keys = Array.from({ length: world.options.keyCount ?? 24 }, (_, index) => world.oracle.key(keyName(index)));
    world.agent.onCache = (cache) => this.#listen(cache);
  }

  #listen(cache: Cache): void {
    const { agent, oracle, options } = this.#world;
    this.#listener = new SimListener(cache, {
      clock: agent.clock,
      leaseMs: options.limits?.leaseMs ?? 30_000,
      tick: () => oracle.begin().begin,
    });
  }

  checkLeases(): void {
    this.#listener?.check();
  }

  // --- one step -------------------------------------------------------------------------------------------------------------

  one(): void {
    const { agent, options } = this.#world;
    const perThousand = (events: number | undefined): number => (events ?? 0) / 10;
    const action = this.#rng.weighted({
      network: 56,
      io: 18,
      client: 16,
      time: 4,
      operator: 1.5,
      catalog: 2,
      reset: perThousand(options.resets),
      kill: perThousand(options.kills),
    });
    if (action === 'network') return void (agent.stepNetwork() || this.#client());
    if (action === 'io') return void (agent.stepIo() || agent.stepNetwork());
    if (action === 'client') return this.#client();
    if (action === 'time') return agent.advance(this.#rng.pick([1, 5, 20, 100, 300, 1000, 3000, 12_000]));
    if (action === 'operator') return this.#operator();
    if (action === 'catalog') return agent.life?.catalog.commit();
    if (action === 'reset') return this.#reset();
    this.#kill();
  }

  #kill(): void {
    const { agent, oracle } = this.#world;
    this.#world.note('kill');
    this.#listener = undefined;
    agent.kill();
    oracle.endOfProcess();
    this.#requests = 0;
    agent.boot();
  }

  #reset(): void {
    const { clients } = this.#world;
    const client = this.#rng.pick(clients);
    if (client.connection === undefined) return;
    this.#world.note(`reset of ${clients.indexOf(client)}`);
    if (this.#rng.chance(0.7)) client.connection.reset();
    else client.connection.close();
    this.#world.agent.settle();
  }

  // --- clients --------------------------------------------------------------------------------------------------------------

  #client(): void {
    const { clients, agent } = this.#world;
    const index = this.#rng.below(clients.length);
    const client = clients[index] as SimClient;
    if (!client.connect() || client.pending >= 6) return;
    this.commands += 1;
    const action = this.#rng.weighted({
      set: 20,
      get: 24,
      mget: 4,
      exists: 9,
      del: 3,
      mset: 2,
      strlen: 1.5,
      touch: 1,
      keys: 0.7,
      flush: 0.08,
    });
    const who = `client ${index}`;
    if (action === 'set') this.#set(client, who);
    else if (action === 'get') this.#get(client, who);
    else if (action === 'mget') this.#mget(client, who);
    else if (action === 'exists') this.#exists(client, who);
    else if (action === 'del') this.#del(client, who);
    else if (action === 'mset') this.#mset(client, who);
    else if (action === 'strlen') this.#strlen(client, who);
    else if (action === 'touch')
      client.command(['TOUCH', this.#key().name, this.#key().name], (reply) => expectOf('TOUCH', reply, 'integer'));
    else if (action === 'keys') this.#list(client, who);
    else this.#flush(client, who);
    agent.settle();
  }

  #key(): SimKey {
    return this.#rng.pick(this.#keys);
  }

  #someKeys(most: number): SimKey[] {
    return [...new Set(Array.from({ length: 1 + this.#rng.below(most) }, () => this.#key()))];
  }

  #newValue(key: SimKey): SimValue {
    const { oracle } = this.#world;
    const again = this.#rng.chance(0.15) ? key.values.findLast((value) => value.state === 'stored') : undefined;
    const sizeBytes = this.#rng.chance(0.01) ? LARGE_BYTES : this.#rng.pick(sizes);
    return oracle.beginSet(key, sizeBytes, again);
  }

  #set(client: SimClient, who: string): void {
    const { oracle } = this.#world;
    const key = this.#key();
    const value = this.#newValue(key);
    const condition = this.#rng.weighted({ '': 10, NX: 1, XX: 1 });
    this.#world.note(`${who} SET ${key.name} = ${value.id} (${value.sizeBytes}) ${condition}`);
    const args = ['SET', key.name, oracle.payload(value), ...(condition === '' ? [] : [condition])];
    client.command(args, (reply) => {
      this.#world.note(`${who} SET ${key.name} = ${value.id}: ${show(reply)}`);
      if (reply === 'lost') return oracle.endSet(value, 'lost');
      const isNull = reply.kind === 'null' && condition !== '';
      if (isNull || reply.kind === 'error') return oracle.endSet(value, 'refused');
      expectOf('SET', reply, 'simple');
      oracle.endSet(value, 'stored');
    });
  }

  #mset(client: SimClient, who: string): void {
    const { oracle } = this.#world;
    const values = this.#someKeys(3).map((key) => this.#newValue(key));
    const text = values.map((value) => `${value.key.name} = ${value.id}`).join(', ');
    this.#world.note(`${who} MSET ${text}`);
    client.command(['MSET', ...values.flatMap((value) => [value.key.name, oracle.payload(value)])], (reply) => {
      this.#world.note(`${who} MSET ${text}: ${show(reply)}`);
      // Some of an MSET that is refused may have been stored: as good as lost.
      const stored = reply !== 'lost' && reply.kind === 'simple';
      if (!stored && reply !== 'lost') expectOf('MSET', reply, 'error');
      for (const value of values) oracle.endSet(value, stored ? 'stored' : 'lost');
    });
  }

  #get(client: SimClient, who: string): void {
    const { oracle } = this.#world;
    const key = this.#key();
    const span = oracle.begin();
    client.command(['GET', key.name], (reply) => this.#answer(who, key, span, reply));
  }

  #answer(who: string, key: SimKey, span: SimSpan, reply: SimOutcome): void {
    const { oracle, note } = { oracle: this.#world.oracle, note: (text: string): void => this.#world.note(text) };
    if (reply === 'lost') return;
    // A miss after a promise is an error line, see promises.ts.
    if (reply.kind === 'null' || (reply.kind === 'error' && reply.text.startsWith('M'))) {
      note(`${who} GET ${key.name}: miss`);
      return oracle.endMiss();
    }
    if (reply.kind !== 'bulk') throw new Error(`GET ${key.name} was answered by ${show(reply)}`);
    const value = oracle.endRead(key, span, reply.bytes);
    note(`${who} GET ${key.name}: ${value.id}`);
  }

  #mget(client: SimClient, who: string): void {
    const { oracle } = this.#world;
    const keys = this.#someKeys(4);
    const span = oracle.begin();
    client.command(['MGET', ...keys.map((key) => key.name)], (reply) => {
      if (reply === 'lost') return;
      if (reply.kind !== 'array' || reply.items.length !== keys.length)
        throw new Error(`MGET of ${keys.length} was answered by ${show(reply)}`);
      for (const [index, key] of keys.entries()) this.#answer(who, key, span, reply.items[index] as SimReply);
    });
  }

  #exists(client: SimClient, who: string): void {
    const { oracle } = this.#world;
    const keys = this.#someKeys(3);
    const span = oracle.begin();
    client.command(['EXISTS', ...keys.map((key) => key.name)], (reply) => {
      if (reply === 'lost') return;
      if (reply.kind !== 'integer') throw new Error(`EXISTS was answered by ${show(reply)}`);
      const most = keys.filter((key) => oracle.mayExist(key, span)).length;
      const names = keys.map((key) => key.name).join(' ');
      if (reply.value > most) throw new Error(`EXISTS ${names} counts ${reply.value}, at most ${most} can be there`);
      this.#world.note(`${who} EXISTS ${names}: ${reply.value}`);
    });
  }

  #del(client: SimClient, who: string): void {
    const { oracle } = this.#world;
    const keys = this.#someKeys(2);
    const span = oracle.begin();
    const names = keys.map((key) => key.name).join(' ');
    this.#world.note(`${who} DEL ${names}`);
    client.command([this.#rng.chance(0.5) ? 'DEL' : 'UNLINK', ...keys.map((key) => key.name)], (reply) => {
      this.#world.note(`${who} DEL ${names}: ${show(reply)}`);
      if (reply === 'lost' || reply.kind === 'error') return;
      expectOf('DEL', reply, 'integer');
      for (const key of keys) oracle.endDelete(key, span);
    });
  }

  #strlen(client: SimClient, who: string): void {
    const { oracle } = this.#world;
    const key = this.#key();
    const span = oracle.begin();
    client.command(['STRLEN', key.name], (reply) => {
      if (reply === 'lost') return;
      if (reply.kind !== 'integer') throw new Error(`STRLEN was answered by ${show(reply)}`);
      const fits = key.values.some((value) => value.sizeBytes === reply.value && oracle.mayBeRead(value, span));
      if (reply.value !== 0 && !fits) throw new Error(`STRLEN ${key.name} says ${reply.value}, which no value of it has`);
      this.#world.note(`${who} STRLEN ${key.name}: ${reply.value}`);
    });
  }

  #list(client: SimClient, who: string): void {
    const { oracle } = this.#world;
    const span = oracle.begin();
    client.command(['KEYS', '*'], (reply) => {
      if (reply === 'lost') return;
      if (reply.kind !== 'array') throw new Error(`KEYS was answered by ${show(reply)}`);
      for (const item of reply.items) {
        const name = item.kind === 'bulk' ? Buffer.from(item.bytes).toString() : '';
        if (!oracle.mayExist(oracle.key(name), span)) throw new Error(`KEYS lists ${name}, which cannot be there`);
      }
      this.#world.note(`${who} KEYS: ${reply.items.length}`);
    });
  }

  #flush(client: SimClient, who: string): void {
    const { oracle } = this.#world;
    const span = oracle.begin();
    client.command(['FLUSHALL'], (reply) => {
      this.#world.note(`${who} FLUSHALL: ${show(reply)}`);
      if (reply === 'lost' || reply.kind === 'error') return;
      oracle.endInvalidation({ all: true }, span);
      this.#listener?.invalidated({ all: true }, span.begin);
    });
  }

  // --- operators ------------------------------------------------------------------------------------------------------------

  #operator(): void {
    if (!this.#world.agent.isReady || this.#requests >= 4) return;
    const action = this.#rng.weighted({ invalidate: 5, dryRun: 1, evict: 3, persist: 2, prefetch: 3, epoch: 0.5, chunks: 1, verify: 0.3 });
    if (action === 'invalidate') this.#invalidate(this.#selector());
    else if (action === 'dryRun') this.#post('/v1/invalidate', { selector: this.#selector(), dryRun: true });
    else if (action === 'evict') this.#post('/v1/evict', { tier: this.#rng.pick(['ram', 'ssd']), selector: this.#broad() });
    else if (action === 'persist') this.#post('/v1/persist', { selector: this.#broad() });
    else if (action === 'prefetch') this.#post('/v1/prefetch', { keys: this.#someKeys(3).map((key) => key.name) });
    else if (action === 'epoch') this.#epoch();
    else if (action === 'chunks') this.#chunks();
    else this.#verify();
    this.#world.agent.settle();
  }

  #selector(): Selector {
    const { clock } = this.#world.agent;
    const kind = this.#rng.weighted({
      model: 2,
      modelPrefix: 1,
      tenant: 1,
      keys: 5,
      keyPrefix: 2,
      createdBefore: 2,
      olderThan: 1,
      chainFrom: 1,
      tier: 0.5,
    });
    const { name } = this.#key();
    if (kind === 'model') return { model: this.#rng.pick(['model-a', 'model-b']) };
    if (kind === 'modelPrefix') return { modelPrefix: 'model-' };
    if (kind === 'tenant') return { tenant: this.#rng.pick(['default', 'salt']) };
    if (kind === 'keys') return { keys: this.#someKeys(2).map((key) => key.name) };
    if (kind === 'keyPrefix') return { keyPrefix: name.slice(0, -3) };
    if (kind === 'createdBefore') return { createdBefore: clock.nowMs() - this.#rng.below(5000) };
    if (kind === 'olderThan') return { olderThan: clock.nowMs() - this.#rng.below(5000) };
    if (kind === 'tier') return { tier: this.#rng.pick(['ram', 'ssd'] as const), model: 'model-a' };
    return { chainFrom: name };
  }

  #broad(): Selector {
    return this.#rng.chance(0.3) ? { all: true } : { keys: this.#someKeys(3).map((key) => key.name) };
  }

  /** A request; `done` hears of an answer 200 of the same life. Anything else must be an operating error. */
  #post(path: string, body: unknown, done: (answer: unknown) => void = () => {}): void {
    const { agent } = this.#world;
    const life = agent.lives;
    this.#requests += 1;
    const text = `${path} ${JSON.stringify(body)}`;
    this.#world.note(text);
    const answered = async (): Promise<void> => {
      const response = await agent.request('POST', path, body);
      const answer: unknown = await response.json();
      if (life !== agent.lives) return;
      this.#requests -= 1;
      this.#world.note(`${text}: ${response.status}`);
      if (response.status === 200) done(answer);
      else if (response.status < 503) throw new Error(`${text} was answered by ${response.status} ${JSON.stringify(answer)}`);
    };
    answered().catch((problem: unknown) => agent.fail(problem));
  }

  #invalidate(selector: Selector): void {
    const { oracle } = this.#world;
    const span = oracle.begin();
    this.#post('/v1/invalidate', { selector }, () => this.#invalidated(selector, span));
  }

  #invalidated(selector: Selector, span: SimSpan): void {
    this.#world.oracle.endInvalidation(selector, span);
    this.#listener?.invalidated(selector, span.begin);
  }

  #epoch(): void {
    const span = this.#world.oracle.begin();
    this.#post('/v1/namespaces/model-b/epoch', {}, () => this.#invalidated({ model: 'model-b' }, span));
  }

  #chunks(): void {
    const { agent, oracle } = this.#world;
    const span = oracle.begin();
    for (const chunk of agent.cache.control.chunks({}, { limit: 1000 }).chunks) {
      if (!oracle.mayExist(oracle.key(chunk.key), span)) throw new Error(`${chunk.key} is listed and cannot be there`);
    }
  }

  #verify(): void {
    const { agent } = this.#world;
    const life = agent.lives;
    this.#requests += 1;
    const run = async (): Promise<void> => {
      for await (const _step of agent.cache.control.verify()) void _step;
      if (life === agent.lives) this.#requests -= 1;
    };
    run().catch((problem: unknown) => agent.fail(problem));
  }

  // --- the end --------------------------------------------------------------------------------------------------------------

  /** No faults, no new work: everything ends, and nothing is left over. */
  drain(): void {
    const { agent, clients } = this.#world;
    for (const connection of agent.network.connections) connection.stalledUntil = 0;
    this.#until('all commands answered', () => agent.isReady && this.#requests === 0 && clients.every((client) => client.pending === 0));
    for (const client of clients) client.connection?.close();
    this.#until('all connections closed', () => agent.life?.server?.connectionCount() === 0 && agent.network.connectionCount === 0);
    const isClean = (): boolean => agent.tier('ram').dirtyBytes === 0 || !this.#becomesClean;
    this.#until('nothing dirty', isClean);
    this.#until('nothing held', () => this.#leftOver() === '');
    agent.checkInvariants();
    this.#stopAndReadAll();
  }

  /** With endless folders and admission `idle` everything comes to SSD. */
  get #becomesClean(): boolean {
    const { admission = 'idle', ssdBytes } = this.#world.options;
    return admission === 'idle' && ssdBytes === undefined;
  }

  #leftOver(): string {
    const { agent } = this.#world;
    const holdings = agent.cache.holdings();
    const expected = { usedSlots: agent.tier('ram').chunkCount, openTickets: 0, waiting: 0, leases: 0 };
    if (JSON.stringify(holdings) !== JSON.stringify(expected)) return `${JSON.stringify(holdings)}, wanted ${JSON.stringify(expected)}`;
    if (agent.network.activeCount > 0) return `${agent.network.activeCount} transfers`;
    if ((agent.life?.io.activeCount ?? 0) > 0) return `${agent.life?.io.activeCount} file jobs`;
    const queued = agent.cache.control.stats().catalog.queuedChanges;
    return queued > 0 ? `${queued} catalog changes` : '';
  }

  /** Bytes and disks first, then time, until it is so. */
  #until(what: string, isSo: () => boolean): void {
    const { agent } = this.#world;
    for (let round = 0; round < 2000; round += 1) {
      for (let index = 0; index < 200 && (agent.stepNetwork() || agent.stepIo()); index += 1);
      agent.life?.catalog.commit();
      if (agent.problem !== undefined) throw agent.problem;
      if (isSo()) return;
      agent.advance(round < 40 ? 20 : 500);
    }
    throw new Error(`Never: ${what}; ${agent.isReady ? this.#leftOver() : 'not ready'}; ${this.#requests} requests`);
  }

  /** A clean stop, a start, and every key read once: what was there is there, and nothing else. */
  #stopAndReadAll(): void {
    const { agent, oracle, clients } = this.#world;
    const before = new Set(agent.cache.control.chunks({}, { limit: 1000 }).chunks.map((chunk) => chunk.key));
    let closed = false;
    agent.life?.server?.close();
    void agent.cache.close(agent.clock.monotonicMs() + 60_000).then(() => void (closed = true));
    this.#until('stopped', () => closed);
    this.#kill();
    this.#until('ready again', () => agent.isReady && agent.cache.recovery.progress.done);
    const client = clients[0] as SimClient;
    client.connect();
    for (const key of this.#keys) {
      const span = oracle.begin();
      client.command(['GET', key.name], (reply) => {
        this.#answer('last', key, span, reply);
        const isMiss = reply !== 'lost' && reply.kind !== 'bulk';
        if (isMiss && before.has(key.name) && this.#becomesClean)
          throw new Error(`${key.name} was clean before the stop and is gone after it`);
      });
    }
    this.#until('all keys read', () => client.pending === 0);
  }
}

function show(reply: SimOutcome): string {
  if (reply === 'lost') return 'lost';
  if (reply.kind === 'integer') return String(reply.value);
  if (reply.kind === 'bulk') return `${reply.bytes.length} bytes`;
  if (reply.kind === 'array') return `${reply.items.length} replies`;
  return reply.kind === 'null' ? 'null' : reply.text;
}

function expectOf(command: string, reply: SimOutcome, kind: SimReply['kind']): void {
  if (reply !== 'lost' && reply.kind !== kind) throw new Error(`${command} was answered by ${show(reply)}`);
}
