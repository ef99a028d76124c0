/** Clients that store, overwrite, read, delete and invalidate until their agent dies, and tell an oracle what they saw. */
import type { RunningAgent } from './agent.ts';
import type { KillOracle, Put, PutOptions } from './kill-oracle.ts';
import { makeValue, readValue, SeededRandom } from './kill-values.ts';
import { ConnectionLost, RespError, ValueClient } from './value-client.ts';

const LEAST_BYTES = 100;
const RECONNECT_MS = 50;
/** Most values are small, so that many are on their way at any moment; some are of the sizes of KV chunks. */
const SMALL_BYTES = 128 * 1024;
const MOST_BYTES = 8 * 1024 * 1024;
const LARGE_SHARE = 0.3;
/** Of LMCache's redis:// metadata. */
const METADATA_BYTES = 64;
const MODELS = ['alpha', 'beta', 'gamma'] as const;
/** Opaque keys lie under this many prefixes. */
const PREFIXES = 8;

/** Ordinary keys first, then the value halves of the redis:// twins, then their metadata halves. */
export interface KeySpace {
  readonly names: readonly string[];
  readonly values: number;
  /** The first metadata half; its value half is `twins` before it. */
  readonly firstMetadata: number;
  readonly twins: number;
}

/** Keys of both LMCache grammars and opaque ones, in several models, tenants and prefixes. */
export function makeKeys(count: number, twins: number): KeySpace {
  const names: string[] = [];
  for (let index = 0; index < count; index += 1) {
    const hash = (0x10000 + index).toString(16).padStart(8, '0');
    const model = MODELS[index % MODELS.length] ?? 'alpha';
    if (index % 4 === 0) names.push(`doc${index % PREFIXES}:${hash}`);
    else if (index % 4 === 1) names.push(`${model}@000000ff@0@${hash}@salt${index % 2}`);
    else if (index % 4 === 2) names.push(`${model}@000000ff@0@${hash}`);
    else names.push(`${model}@1@0@${hash}@bfloat16`);
  }
  for (const half of ['kv_bytes', 'metadata'])
    for (let index = 0; index < twins; index += 1) names.push(`twin@1@0@${(0x20000 + index).toString(16)}@half${half}`);
  return { names, values: count + twins, firstMetadata: count + twins, twins };
}

export interface LoadOptions {
  readonly agent: RunningAgent;
  readonly oracle: KillOracle;
  readonly keys: KeySpace;
  readonly seed: number;
  readonly writers: number;
  /** Mean pause between invalidations; undefined for none. */
  readonly invalidationPauseMs: number | undefined;
  /** A client that lost its connection makes another, until `stop`: for an agent that is ill-treated and lives. */
  readonly reconnect?: boolean;
}

export interface Load {
  /** Runs each time an invalidation has been sent. */
  onInvalidation: () => void;
  /** Runs each time one has been acknowledged. */
  onInvalidated: () => void;
  /** Resolves when that many operations have been answered, or no client is left to ask for more. */
  answered(operations: number): Promise<void>;
  /** Ends the clients after the operation each is in; resolves when they have. */
  stop(): Promise<void>;
  readonly counts: {
    sets: number;
    expiries: number;
    deletes: number;
    gets: number;
    probes: number;
    invalidations: number;
    refused: number;
  };
}

export function startLoad(options: LoadOptions): Load {
  const load = new RunningLoad(options);
  load.start();
  return load;
}

function tomorrow(): number {
  return Date.now() + 86_400_000;
}

function sizeOf(random: SeededRandom): number {
  return random.next() < LARGE_SHARE ? random.logarithmic(SMALL_BYTES, MOST_BYTES) : random.logarithmic(LEAST_BYTES, SMALL_BYTES);
}

/** A fifth of the values end by themselves, most of them soon. */
function ttlOf(random: SeededRandom): number | undefined {
  if (random.next() < 0.8) return undefined;
  return random.next() < 0.8 ? Math.round(random.logarithmic(1, 4000)) : 60_000;
}

class RunningLoad implements Load {
  readonly counts = { sets: 0, expiries: 0, deletes: 0, gets: 0, probes: 0, invalidations: 0, refused: 0 };
  onInvalidation: () => void = () => undefined;
  onInvalidated: () => void = () => undefined;
  readonly #options: LoadOptions;
  #stopped = false;
  readonly #clients: Promise<void>[] = [];
  #wake: () => void = () => undefined;
  #operations = 0;
  #awaited: { readonly operations: number; readonly resolve: () => void } | undefined;

  constructor(options: LoadOptions) {
    this.#options = options;
  }

  start(): void {
    const { writers, seed, invalidationPauseMs } = this.#options;
    for (let writer = 0; writer < writers; writer += 1)
      this.#clients.push(this.#client((client) => this.#write(client, writer, new SeededRandom(seed + writer))));
    if (invalidationPauseMs !== undefined)
      this.#clients.push(this.#client((client) => this.#invalidate(client, new SeededRandom(seed + 1000), invalidationPauseMs)));
  }

  answered(operations: number): Promise<void> {
    const reached = new Promise<void>((resolve) => (this.#awaited = { operations, resolve }));
    return Promise.race([reached, Promise.all(this.#clients.slice(0, this.#options.writers)).then(() => undefined)]);
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#wake();
    await Promise.all(this.#clients);
  }

  async #client(run: (client: ValueClient) => Promise<void>): Promise<void> {
    do {
      try {
        const client = await ValueClient.connect(this.#options.agent.resp);
        await run(client);
        client.close();
      } catch (problem) {
        // The agent was killed, or cut us off: what was under way is the oracle's business.
        if (!(problem instanceof ConnectionLost)) throw problem;
        if (this.#options.reconnect === true) await new Promise((resolve) => setTimeout(resolve, RECONNECT_MS));
      }
    } while (this.#options.reconnect === true && !this.#stopped);
  }

  /** Each writer has keys of its own, so that the puts of one key never overlap; it reads everybody's. */
  async #write(client: ValueClient, writer: number, random: SeededRandom): Promise<void> {
    const { keys, writers } = this.#options;
    const own = Array.from({ length: keys.values }, (_, key) => key).filter((key) => key % writers === writer);
    while (!this.#stopped) {
      const dice = random.next();
      if (dice < 0.46) await this.#set(client, random.pick(own), { sizeBytes: sizeOf(random), ttlMs: ttlOf(random) });
      else if (dice < 0.5) await this.#expire(client, random.pick(own), random.next() < 0.3 ? undefined : (ttlOf(random) ?? 60_000));
      else if (dice < 0.6) await this.#delete(client, random.pick(own));
      else if (dice < 0.9) await readKey(client, this.#options, random.below(keys.names.length)).then(() => (this.counts.gets += 1));
      else await this.#probe(client, random.below(keys.values));
      this.#operations += 1;
      if (this.#awaited !== undefined && this.#operations >= this.#awaited.operations) this.#awaited.resolve();
    }
  }

  #metadataOf(key: number): number | undefined {
    const { values, twins, firstMetadata } = this.#options.keys;
    return key >= values - twins ? firstMetadata + key - (values - twins) : undefined;
  }

  async #set(client: ValueClient, key: number, value: { sizeBytes: number; ttlMs: number | undefined }): Promise<void> {
    const { oracle, keys } = this.#options;
    const metadata = this.#metadataOf(key);
    this.counts.sets += 1;
    // The halves are one entry: a new value takes the old metadata away.
    const replaced = metadata === undefined ? undefined : oracle.beginRemoval((other) => other === metadata, { byValue: true });
    const entry = await this.#put(client, key, value);
    if (replaced !== undefined) oracle.endRemoval(replaced, entry.acknowledged);
    if (metadata === undefined || !entry.acknowledged) return;
    const half = await this.#put(client, metadata, { sizeBytes: METADATA_BYTES, entry });
    // Where the value has gone meanwhile, its metadata waits for the next one.
    if (half.acknowledged && (await client.command('EXISTS', keys.names[metadata] ?? '')) === 1) oracle.foundAtItsValue(half);
  }

  async #put(client: ValueClient, key: number, value: PutOptions & { readonly sizeBytes: number }): Promise<Put> {
    const { oracle, keys } = this.#options;
    const put = oracle.beginPut(key, value);
    const expiry = value.ttlMs === undefined ? [] : ['PX', String(value.ttlMs)];
    const bytes = makeValue(key, put.version, value.sizeBytes);
    oracle.endPut(put, await this.#answered(client.command('SET', keys.names[key] ?? '', bytes, ...expiry)));
    return put;
  }

  /** Another end for what is there, or none. */
  async #expire(client: ValueClient, key: number, ttlMs: number | undefined): Promise<void> {
    const { oracle, keys } = this.#options;
    const name = keys.names[key] ?? '';
    const end = oracle.beginExpiry(key, ttlMs);
    this.counts.expiries += 1;
    let changed = false;
    const asked = ttlMs === undefined ? client.command('PERSIST', name) : client.command('PEXPIRE', name, String(ttlMs));
    await this.#answered(asked.then((answer) => (changed = answer === 1)));
    end(changed);
  }

  /** False for an error reply. */
  async #answered(command: Promise<unknown>): Promise<boolean> {
    try {
      await command;
      return true;
    } catch (problem) {
      if (!(problem instanceof RespError)) throw problem;
      this.counts.refused += 1;
      return false;
    }
  }

  async #delete(client: ValueClient, key: number): Promise<void> {
    const { oracle, keys } = this.#options;
    const metadata = this.#metadataOf(key);
    const removal = oracle.beginRemoval((other) => other === key || other === metadata);
    this.counts.deletes += 1;
    oracle.endRemoval(removal, await this.#answered(client.command('DEL', keys.names[key] ?? '')));
  }

  async #probe(client: ValueClient, key: number): Promise<void> {
    const { oracle, keys } = this.#options;
    const read = oracle.beginRead(key);
    this.counts.probes += 1;
    const answer = await client.command('EXISTS', keys.names[key] ?? '');
    oracle.endProbe(read, answer === 1);
  }

  async #invalidate(client: ValueClient, random: SeededRandom, pauseMs: number): Promise<void> {
    while (!this.#stopped) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        setTimeout(resolve, random.next() * 2 * pauseMs);
      });
      if (this.#stopped) return;
      const dice = random.next();
      const { names: all, values } = this.#options.keys;
      const names = all.slice(0, values);
      if (dice < 0.2) await this.#post({ keyPrefix: `doc${random.below(PREFIXES)}:` });
      else if (dice < 0.6) await this.#post({ keys: [random.pick(names), random.pick(names)] });
      else if (dice < 0.65) await this.#post({ model: random.pick([...MODELS, 'twin']) });
      else if (dice < 0.75) await this.#post({ model: random.pick(MODELS), tenant: 'salt1' });
      // Everything was last used before tomorrow: the same chunks, by the way of a selector that no file can be judged by.
      else if (dice < 0.85) await this.#post({ keyPrefix: `doc${random.below(PREFIXES)}:`, olderThan: tomorrow() });
      else if (dice < 0.98) await this.#post({ model: random.pick(MODELS), olderThan: tomorrow() });
      else if (dice < 0.99) await this.#post({ all: true });
      else await this.#flush(client);
    }
  }

  async #flush(client: ValueClient): Promise<void> {
    const removal = this.#options.oracle.beginRemoval(() => true);
    this.counts.invalidations += 1;
    const answer = this.#answered(client.command('FLUSHALL'));
    this.onInvalidation();
    this.#options.oracle.endRemoval(removal, await answer);
  }

  async #post(selector: Selector): Promise<void> {
    const { agent, oracle, keys } = this.#options;
    const removal = oracle.beginRemoval((key) => selects(selector, keys, key));
    this.counts.invalidations += 1;
    const answer = agent.client.invalidate({ selector }).then(
      () => true,
      () => false,
    );
    this.onInvalidation();
    const acknowledged = await answer;
    oracle.endRemoval(removal, acknowledged);
    if (acknowledged) this.onInvalidated();
  }
}

interface Selector {
  all?: true;
  model?: string;
  tenant?: string;
  keyPrefix?: string;
  keys?: string[];
  olderThan?: number;
}

/** The twin halves are one entry under the spelling of the value half. */
function selects(selector: Selector, space: KeySpace, key: number): boolean {
  const name = space.names[key >= space.firstMetadata ? key - space.twins : key] ?? '';
  const { model, tenant, keyPrefix, keys } = selector;
  if (model !== undefined && !name.startsWith(`${model}@`)) return false;
  if (tenant !== undefined && !name.endsWith(`@${tenant}`)) return false;
  if (keyPrefix !== undefined && !name.startsWith(keyPrefix)) return false;
  return keys === undefined || keys.includes(name);
}

/** Reads one key and lets the oracle judge it. Resolves with the version, undefined for a miss. */
export async function readKey(
  client: ValueClient,
  options: { readonly oracle: KillOracle; readonly keys: KeySpace },
  key: number,
): Promise<number | undefined> {
  const read = options.oracle.beginRead(key);
  const bytes = await client.get(options.keys.names[key] ?? '');
  const version = bytes === undefined ? undefined : readValue(key, bytes);
  options.oracle.endRead(read, version);
  return typeof version === 'number' ? version : undefined;
}

/** Reads every key over a few sockets; the versions found, by key. */
export async function sweep(
  agent: RunningAgent,
  options: { readonly oracle: KillOracle; readonly keys: KeySpace },
): Promise<Map<number, number>> {
  const found = new Map<number, number>();
  let next = 0;
  const reader = async (): Promise<void> => {
    const client = await ValueClient.connect(agent.resp);
    for (let key = next++; key < options.keys.names.length; key = next++) {
      const version = await readKey(client, options, key);
      if (version !== undefined) found.set(key, version);
    }
    client.close();
  };
  await Promise.all(Array.from({ length: 3 }, reader));
  return found;
}
