/** What clients of a simulated world ask over RESP, and what the oracle makes of the answers. */
import { KiB } from '#core/bytes.ts';
import type { SimClient, SimOutcome, SimReply } from './sim-client.ts';
import type { SimRng } from './sim-clock.ts';
import type { SimKey, SimSpan, SimValue } from './sim-oracle.ts';
import type { SimWorld } from './sim-world.ts';

/** Around every threshold of the door: inline, streamed, copied replies, sips. Large ones are rare: they cost time to look at. */
const sizes = [0, 1, 100, 4096, 5000, 16 * KiB, 16 * KiB + 1, 20 * KiB, 40 * KiB, 64 * KiB, 64 * KiB + 1, 100 * KiB];
const LARGE_BYTES = 600 * KiB;
/** Ends that are waited for. */
const SOON_MS = 12_000;
/** Of those that are asked for. */
export const LONGEST_TTL_MS = 60_000;

export class SimCommands {
  readonly #world: SimWorld;
  readonly #rng: SimRng;
  /** Commands sent. */
  count = 0;

  constructor(world: SimWorld) {
    this.#world = world;
    this.#rng = world.agent.rng;
  }

  /** A command of some client, or its connection. */
  one(): void {
    const { clients, agent } = this.#world;
    const index = this.#rng.below(clients.length);
    const client = clients[index] as SimClient;
    if (!client.connect() || client.pending >= 6) return;
    this.count += 1;
    const action = this.#rng.weighted({
      set: 20,
      get: 24,
      mget: 4,
      exists: 9,
      del: 3,
      mset: 2,
      strlen: 1.5,
      expire: 2,
      ttl: 1,
      touch: 1,
      keys: 0.7,
      overtake: 1,
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
    else if (action === 'expire') this.#expire(client, who);
    else if (action === 'ttl') this.#ttl(client, who);
    else if (action === 'touch')
      client.command(['TOUCH', this.#key(client).name, this.#key(client).name], (reply) => expectOf('TOUCH', reply, 'integer'));
    else if (action === 'keys') this.#list(client, who);
    else if (action === 'overtake') this.#overtake(client);
    else this.#flush(client, who);
    agent.settle();
  }

  #key(client: SimClient): SimKey {
    return this.#world.key(client.who);
  }

  #someKeys(client: SimClient, most: number): SimKey[] {
    return [...new Set(Array.from({ length: 1 + this.#rng.below(most) }, () => this.#key(client)))];
  }

  #newValue(key: SimKey, ttlMs?: number): SimValue {
    const { oracle } = this.#world;
    const again = this.#rng.chance(0.15) ? key.values.findLast((value) => value.state === 'stored') : undefined;
    const sizeBytes = this.#rng.chance(0.01) ? LARGE_BYTES : this.#rng.pick(this.#world.options.sizes ?? sizes);
    return oracle.beginSet(key, sizeBytes, { again, ttlMs });
  }

  /** A client gives some key a lifetime, now; answers which. */
  giveLifetime(): SimKey | undefined {
    const client = this.#rng.pick(this.#world.clients);
    if (!client.connect() || client.pending > 0) return undefined;
    const who = `client ${this.#world.clients.indexOf(client)}`;
    const key = this.#key(client);
    if (this.#rng.chance(0.5)) this.#set(client, who, { key, ttlMs: LONGEST_TTL_MS });
    else this.#expire(client, who, { key, ttlMs: 20_000 });
    this.#world.agent.settle();
    return key;
  }

  #set(client: SimClient, who: string, what?: { readonly key: SimKey; readonly ttlMs: number }): void {
    const { oracle } = this.#world;
    const key = what?.key ?? this.#key(client);
    const ttlMs = what?.ttlMs ?? (this.#rng.chance(0.15) ? this.#rng.pick([500, 2000, 10_000, LONGEST_TTL_MS]) : undefined);
    const value = this.#newValue(key, ttlMs);
    const condition = this.#rng.weighted({ '': 10, NX: 1, XX: 1 });
    this.#world.note(`${who} SET ${key.label} = ${value.id} (${value.sizeBytes}) ${condition} ${ttlMs ?? ''}`);
    const expiry = ttlMs === undefined ? [] : ttlMs % 1000 === 0 ? ['EX', String(ttlMs / 1000)] : ['PX', String(ttlMs)];
    const args = ['SET', key.name, oracle.payload(value), ...(condition === '' ? [] : [condition]), ...expiry];
    client.command(args, (reply) => {
      this.#world.note(`${who} SET ${key.label} = ${value.id}: ${show(reply)}`);
      if (reply === 'lost') return oracle.endSet(value, 'lost');
      const isNull = reply.kind === 'null' && condition !== '';
      if (isNull || reply.kind === 'error') return oracle.endSet(value, 'refused');
      expectOf('SET', reply, 'simple');
      oracle.endSet(value, 'stored');
    });
  }

  #mset(client: SimClient, who: string): void {
    const { oracle } = this.#world;
    const values = this.#someKeys(client, 3).map((key) => this.#newValue(key));
    const text = values.map((value) => `${value.key.label} = ${value.id}`).join(', ');
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
    const key = this.#key(client);
    const span = oracle.begin();
    client.command(['GET', key.name], (reply) => this.#answer(who, key, span, reply));
  }

  /** The end of some value comes, and a client of its owner reads it at once, before the sweep comes by. */
  readAtItsEnd(): void {
    const { agent, oracle, clients } = this.#world;
    const client = this.#rng.pick(clients);
    const nowMs = agent.clock.nowMs();
    const ends = this.#world
      .keysOf(client.who)
      .flatMap(({ values }) => values.filter(({ deadAt, expiresByMs }) => deadAt === Number.POSITIVE_INFINITY && expiresByMs > nowMs))
      .filter(({ expiresByMs }) => expiresByMs < nowMs + SOON_MS);
    if (ends.length === 0) return agent.advance(100);
    const { key, expiresByMs } = this.#rng.pick(ends);
    agent.advance(expiresByMs - nowMs + 1);
    if (!client.connect() || client.pending >= 6) return;
    const span = oracle.begin();
    const who = `client ${clients.indexOf(client)}`;
    client.command(['GET', key.name], (reply) => this.#answer(who, key, span, reply));
    this.#moveUntil(() => client.pending === 0);
  }

  /** A large value is on its way to a peer that stands still; it is replaced, and others are stored in its size. */
  #overtake(reader: SimClient): void {
    const { agent, clients, oracle } = this.#world;
    const writer = clients.find((client) => client !== reader && client.who === reader.who);
    const keys = this.#world.keysOf(reader.who);
    const large = keys.filter(({ values }) => values.some(({ sizeBytes, state }) => state === 'stored' && sizeBytes > 64 * KiB));
    if (large.length === 0 || writer?.connect() !== true || reader.connection === undefined) return;
    const key = this.#rng.pick(large);
    const sizeBytes = key.values.findLast((value) => value.state === 'stored' && value.sizeBytes > 64 * KiB)?.sizeBytes ?? 0;
    const before = agent.network.activeCount;
    const span = oracle.begin();
    const name = `client ${clients.indexOf(reader)}`;
    this.#world.note(`${name} is overtaken in GET ${key.label}`);
    reader.command(['GET', key.name], (reply) => this.#answer(name, key, span, reply));
    this.#moveUntil(() => reader.pending === 0 || agent.network.activeCount > before);
    // It may have gone meanwhile.
    if (reader.connection !== undefined) agent.network.stall(reader.connection, 60);
    for (const other of [key, this.#key(reader), this.#key(reader)]) {
      const value = oracle.beginSet(other, sizeBytes);
      this.#world.note(`client ${clients.indexOf(writer)} SET ${other.label} = ${value.id} (${sizeBytes})`);
      writer.command(['SET', other.name, oracle.payload(value)], (reply) => this.#endSet(value, reply));
    }
    this.#moveUntil(() => writer.pending === 0);
  }

  #endSet(value: SimValue, reply: SimOutcome): void {
    const { oracle } = this.#world;
    this.#world.note(`SET ${value.key.label} = ${value.id}: ${show(reply)}`);
    if (reply === 'lost') return oracle.endSet(value, 'lost');
    if (reply.kind === 'error') return oracle.endSet(value, 'refused');
    expectOf('SET', reply, 'simple');
    oracle.endSet(value, 'stored');
  }

  /** Bytes move, and nothing else, until it is so or for a while. */
  #moveUntil(isSo: () => boolean): void {
    for (let moves = 0; moves < 60 && !isSo() && this.#world.agent.stepNetwork(); moves += 1);
  }

  #answer(who: string, key: SimKey, span: SimSpan, reply: SimOutcome): void {
    const { oracle, note } = { oracle: this.#world.oracle, note: (text: string): void => this.#world.note(text) };
    if (reply === 'lost') return;
    // A miss after a promise is an error line, see promises.ts.
    if (reply.kind === 'null' || (reply.kind === 'error' && reply.text.startsWith('M'))) {
      note(`${who} GET ${key.label}: miss`);
      return oracle.endMiss(key, span);
    }
    if (reply.kind !== 'bulk') throw new Error(`GET ${key.label} was answered by ${show(reply)}`);
    const value = oracle.endRead(key, span, reply.bytes);
    note(`${who} GET ${key.label}: ${value.id}`);
  }

  #mget(client: SimClient, who: string): void {
    const { oracle } = this.#world;
    const keys = this.#someKeys(client, 4);
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
    const keys = this.#someKeys(client, 3);
    const span = oracle.begin();
    client.command(['EXISTS', ...keys.map((key) => key.name)], (reply) => {
      if (reply === 'lost') return;
      if (reply.kind !== 'integer') throw new Error(`EXISTS was answered by ${show(reply)}`);
      const most = keys.filter((key) => oracle.mayExist(key, span)).length;
      if (reply.value === 0) for (const key of keys) oracle.keeping?.judgeMiss(key, span, 'EXISTS');
      const names = keys.map((key) => key.label).join(' ');
      if (reply.value > most) throw new Error(`EXISTS ${names} counts ${reply.value}, at most ${most} can be there`);
      this.#world.note(`${who} EXISTS ${names}: ${reply.value}`);
    });
  }

  #del(client: SimClient, who: string): void {
    const { oracle } = this.#world;
    const keys = this.#someKeys(client, 2);
    const span = oracle.begin();
    const over = oracle.beginChange(keys);
    const names = keys.map((key) => key.label).join(' ');
    this.#world.note(`${who} DEL ${names}`);
    client.command([this.#rng.chance(0.5) ? 'DEL' : 'UNLINK', ...keys.map((key) => key.name)], (reply) => {
      this.#world.note(`${who} DEL ${names}: ${show(reply)}`);
      if (reply !== 'lost') over();
      if (reply === 'lost' || reply.kind === 'error') return;
      expectOf('DEL', reply, 'integer');
      for (const key of keys) oracle.endDelete(key, span);
    });
  }

  #expire(client: SimClient, who: string, what?: { readonly key: SimKey; readonly ttlMs: number }): void {
    const { oracle } = this.#world;
    const key = what?.key ?? this.#key(client);
    const ttlMs = what?.ttlMs ?? (this.#rng.chance(0.2) ? undefined : this.#rng.pick([0, 300, 2000, 20_000]));
    const change = oracle.beginExpire(key);
    const command = ttlMs === undefined ? ['PERSIST', key.name] : ['PEXPIRE', key.name, String(ttlMs)];
    client.command(command, (reply) => {
      this.#world.note(`${who} PEXPIRE ${key.label} ${ttlMs ?? 'never'}: ${show(reply)}`);
      const isSet = reply !== 'lost' && reply.kind === 'integer' && reply.value === 1;
      if (!isSet && reply !== 'lost' && reply.kind !== 'error') expectOf('PEXPIRE', reply, 'integer');
      oracle.endExpire(change, isSet ? ttlMs : undefined);
    });
  }

  #ttl(client: SimClient, who: string): void {
    const { oracle } = this.#world;
    const key = this.#key(client);
    const span = oracle.begin();
    client.command(['PTTL', key.name], (reply) => {
      if (reply === 'lost') return;
      if (reply.kind !== 'integer') throw new Error(`PTTL was answered by ${show(reply)}`);
      this.#world.note(`${who} PTTL ${key.label}: ${reply.value}`);
      if (reply.value === -2) return;
      if (!oracle.mayExist(key, span)) throw new Error(`PTTL ${key.label} says ${reply.value}, and nothing can be there`);
    });
  }

  #strlen(client: SimClient, who: string): void {
    const { oracle } = this.#world;
    const key = this.#key(client);
    const span = oracle.begin();
    client.command(['STRLEN', key.name], (reply) => {
      if (reply === 'lost') return;
      if (reply.kind !== 'integer') throw new Error(`STRLEN was answered by ${show(reply)}`);
      const fits = key.values.some((value) => value.sizeBytes === reply.value && oracle.mayBeRead(value, span));
      if (reply.value !== 0 && !fits) throw new Error(`STRLEN ${key.label} says ${reply.value}, which no value of it has`);
      this.#world.note(`${who} STRLEN ${key.label}: ${reply.value}`);
      if (reply.value === 0 && key.values.at(-1)?.sizeBytes !== 0) oracle.keeping?.judgeMiss(key, span, 'STRLEN');
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
        if (!this.#world.mayList(name, client.who, span)) throw new Error(`KEYS lists ${name} for ${client.who}, which cannot be there`);
      }
      this.#world.note(`${who} KEYS: ${reply.items.length}`);
    });
  }

  #flush(client: SimClient, who: string): void {
    const { oracle } = this.#world;
    const tenant = this.#world.tenantOf(client.who);
    const span = oracle.begin();
    const over = oracle.beginChange();
    client.command(['FLUSHALL'], (reply) => {
      this.#world.note(`${who} FLUSHALL: ${show(reply)}`);
      if (reply !== 'lost') over();
      if (reply === 'lost' || reply.kind === 'error') return;
      const selector = tenant === undefined ? ({ all: true } as const) : { tenant };
      oracle.endInvalidation(selector, span);
      this.#world.listener?.invalidated(selector, span.begin);
    });
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
