/**
 * The lm door on the real cache, both on simulated ports: clients that pipeline, stall and reset, a process that is killed, RAM that is
 * always full, objects that come through the other door. A failure prints its seed.
 *
 * Every key has one client that writes it, so that the order of its values is known. A GET may give the last value that was confirmed
 * (a reply came after it), a later one, or one of a connection that was reset while it was under way; or a miss. Its block is always
 * that of its bytes.
 */
import { describe, expect, it } from 'vitest';
import { KiB, MiB } from '#core/bytes.ts';
import { LM_FAIL, LM_REPLY_BYTES, LM_SUCCESS, decodeLmReply } from '#protocol/lm/lm-frame.ts';
import { LmServer } from '#servers/lm/lm-server.ts';
import { ByteQueue } from '#testsupport/byte-queue.ts';
import { blockOf, engineKey, frame, putFrame } from '#testsupport/lm-client.ts';
import { SimCache, payloadOf, simHash } from '#testsupport/sim-cache.ts';
import { settle } from '#testsupport/sim-clock.ts';
import { SimNetwork, type SimConnection, type SimPeer } from '#testsupport/sim-network.ts';

const sizes = [0, 1, 5000, 64 * KiB, 64 * KiB + 1, 100 * KiB, 200 * KiB];
const stallMs = 10_000;
const factor = Number(process.env['KVTIER_TEST_SEEDS'] ?? 1);

interface Key {
  readonly name: string;
  /** Highest value that was certainly worked through. */
  confirmed: number;
  sent: number;
  /** Values of connections that ended in the middle: they may land at any time of this life. */
  readonly afloat: Set<number>;
}

interface Asked {
  readonly kind: 'get' | 'exist' | 'health';
  readonly key?: Key;
  /** What was confirmed when it was sent; puts that were sent before it on the same connection are confirmed by its reply. */
  readonly least: number;
  readonly puts: readonly (readonly [Key, number])[];
}

class Client implements SimPeer {
  readonly keys: readonly Key[];
  connection: SimConnection | undefined;
  /** It has said all that it will on this connection. */
  leaving = false;
  asked: Asked[] = [];
  /** Sent since the last question. */
  puts: (readonly [Key, number])[] = [];
  readonly #inbox = new ByteQueue();
  readonly #onReply: (asked: Asked, reply: ReturnType<typeof decodeLmReply>, payload: Uint8Array) => void;

  constructor(keys: readonly Key[], onReply: (asked: Asked, reply: ReturnType<typeof decodeLmReply>, payload: Uint8Array) => void) {
    this.keys = keys;
    this.#onReply = onReply;
  }

  onBytes(bytes: Uint8Array): void {
    this.#inbox.push(bytes);
    while (this.#inbox.length >= LM_REPLY_BYTES) {
      const reply = decodeLmReply(this.#inbox.peek(LM_REPLY_BYTES));
      if (reply.code !== LM_SUCCESS && reply.code !== LM_FAIL) throw new Error(`Out of step: code ${reply.code}`);
      if (this.#inbox.length < LM_REPLY_BYTES + reply.length) return;
      this.#inbox.drop(LM_REPLY_BYTES);
      const asked = this.asked.shift();
      if (asked === undefined) throw new Error('A reply that nobody asked for');
      this.#onReply(asked, reply, this.#inbox.take(reply.length));
      for (const [key, value] of asked.puts) key.confirmed = Math.max(key.confirmed, value);
    }
  }

  onEnd(): void {
    for (const [key, value] of [...this.asked.flatMap(({ puts }) => puts), ...this.puts]) key.afloat.add(value);
    this.connection = undefined;
    this.leaving = false;
    this.asked = [];
    this.puts = [];
    this.#inbox.clear();
  }
}

class LmWorld {
  readonly sim: SimCache;
  readonly network: SimNetwork;
  readonly clients: readonly Client[];
  readonly keys: readonly Key[];
  server: LmServer;
  hits = 0;
  /** Value n of a key is payload n; these came without a block, through the other door. */
  readonly bare = new Set<number>();
  nextValue = 1;

  static async start(seed: number, ramBytes: number): Promise<LmWorld> {
    return new LmWorld(await SimCache.start({ seed, ramBytes, maxChunkBytes: ramBytes / 4, ssdBytes: [2 * MiB] }));
  }

  constructor(sim: SimCache) {
    this.sim = sim;
    this.network = new SimNetwork({ clock: sim.clock, rng: sim.rng, hash: simHash });
    this.clients = Array.from({ length: 4 }, (_, index) => {
      const keys = Array.from({ length: 4 }, (__, at): Key => ({
        name: engineKey(index * 4 + at),
        confirmed: 0,
        sent: 0,
        afloat: new Set(),
      }));
      return new Client(keys, (asked, reply, payload) => this.#judge(asked, reply, payload));
    });
    this.keys = this.clients.flatMap(({ keys }) => keys);
    this.server = this.#serve();
  }

  #serve(): LmServer {
    const { sim, network } = this;
    network.begin(sim.memory);
    const nothing = (): void => {};
    const logger = { debug: nothing, info: nothing, warn: nothing, error: nothing };
    const parts = { cache: sim.cache, sockets: network, transport: network, clock: sim.clock, logger, hash: simHash };
    const server = new LmServer({ ...parts, maxConnections: 16, stallMs });
    server.listen({ host: '127.0.0.1', port: 7602 });
    return server;
  }

  #judge({ kind, key, least, puts }: Asked, reply: ReturnType<typeof decodeLmReply>, payload: Uint8Array): void {
    if (kind === 'health') expect(reply.code).toBe(LM_SUCCESS);
    if (kind !== 'get' || key === undefined) return expect(payload.length).toBe(0);
    if (reply.code === LM_FAIL) return;
    this.hits += 1;
    const value = reply.block.shape[0];
    expect(reply.block, `the block of ${key.name}`).toEqual(blockOf(value));
    expect(Buffer.compare(payload, payloadOf(value, payload.length)), `${key.name} has the bytes of value ${value}`).toBe(0);
    expect(this.bare.has(value), `${value} of ${key.name} has a block`).toBe(false);
    // Its own connection's puts before it are worked through.
    const own = Math.max(least, ...puts.filter(([of]) => of === key).map(([, put]) => put));
    const fits = (value >= own && value <= key.sent) || key.afloat.has(value);
    expect(fits, `${key.name} gave ${value}, wanted ${own} to ${key.sent} or one of ${[...key.afloat].join(' ')}`).toBe(true);
  }

  /** A client does something. */
  act(): void {
    const { rng } = this.sim;
    const client = rng.pick(this.clients);
    client.connection ??= this.network.connect('10.0.0.1', client);
    const { connection } = client;
    if (connection === undefined || client.leaving || client.asked.length >= 6) return;
    const action = rng.weighted({ put: 10, get: 14, exist: 5, health: 2, reset: 0.3, half: 0.2, stall: 0.3, wrong: 0.1 });
    if (action === 'put') {
      const key = rng.pick(client.keys);
      key.sent = this.nextValue++;
      client.puts.push([key, key.sent]);
      connection.send(putFrame(key.name, { bytes: payloadOf(key.sent, rng.pick(sizes)), block: blockOf(key.sent) }));
    } else if (action === 'get' || action === 'exist' || action === 'health') {
      const key = rng.chance(0.6) ? rng.pick(client.keys) : rng.pick(this.keys);
      client.asked.push({ kind: action, key, least: key.confirmed, puts: client.puts });
      client.puts = [];
      connection.send(frame(action === 'get' ? 'GET' : action === 'exist' ? 'EXIST' : 'HEALTH', key.name));
    } else if (action === 'reset') connection.reset();
    else if (action === 'half') {
      const whole = putFrame(rng.pick(client.keys).name, { bytes: payloadOf(0, 70_000), block: blockOf(0) });
      connection.send(whole.subarray(0, 1 + rng.below(whole.length - 1)));
      connection.close();
      client.leaving = true;
    } else if (action === 'stall') this.network.stall(connection, 200);
    else connection.send(new Uint8Array(186).fill(0x2a));
  }

  /** The other door stores, without a block; or an operator takes away. */
  async mischief(): Promise<void> {
    const { sim } = this;
    const key = sim.rng.pick(this.keys);
    const value = this.nextValue++;
    this.bare.add(value);
    const what = sim.rng.weighted({ store: 2, delete: 1, evict: 1 });
    if (what === 'store') {
      const reserved = sim.reserve(key.name, 5000);
      if (reserved instanceof Promise) {
        void reserved.then((late) => void (late.kind === 'ticket' && sim.cache.abort(late)));
      } else if (reserved.kind === 'ticket') sim.commit(reserved, payloadOf(value, 5000));
    } else if (what === 'delete') sim.delete(key.name);
    else await sim.run(sim.cache.control.evict('ram', { all: true }));
  }

  async kill(): Promise<void> {
    this.network.kill();
    this.sim.crash();
    // What was under way in the process is gone with it.
    await settle();
    for (const key of this.keys) {
      for (const value of key.afloat) key.afloat.delete(value);
      // A value that was never confirmed may or may not have been stored; one that was may be forgotten, and an older one is dead.
      if (key.sent > key.confirmed) key.afloat.add(key.sent);
    }
    await this.sim.restart();
    await settle();
    this.server = this.#serve();
  }

  async step(): Promise<void> {
    const { sim } = this;
    const what = sim.rng.weighted({ act: 5, network: 14, io: 6, time: 1, mischief: 0.25 });
    if (what === 'act') this.act();
    else if (what === 'network') this.network.step();
    else if (what === 'io') sim.io.step(sim.rng);
    else if (what === 'time') {
      await sim.clock.advance(sim.rng.pick([1, 20, 300, 3000]));
      this.network.expire();
    } else await this.mischief();
    await settle();
    this.server.checkInvariants();
  }

  /** Without faults everything ends: replies come, connections go, slots and leases are accounted for. */
  async end(): Promise<void> {
    const { sim, network } = this;
    for (const client of this.clients) client.connection?.close();
    for (let quiet = 0; quiet < 300;) {
      const moved = network.step() || sim.io.step(sim.rng);
      await settle();
      if (moved) quiet = 0;
      else {
        await sim.clock.advance(1000);
        network.expire();
        quiet += 1;
      }
    }
    expect(this.server.stats().connections).toBe(0);
    sim.checkQuiet();
    network.checkInvariants();
  }
}

async function run(seed: number, options: { readonly ramBytes: number; readonly kills: boolean }): Promise<number> {
  const world = await LmWorld.start(seed, options.ramBytes);
  try {
    for (let step = 0; step < 1500; step += 1) {
      await world.step();
      if (options.kills && world.sim.rng.chance(0.002)) await world.kill();
    }
    await world.end();
  } catch (problem) {
    throw new Error(`Seed ${seed} with ${options.ramBytes} bytes of RAM`, { cause: problem });
  }
  return world.hits;
}

describe('The lm door, whatever happens', () => {
  it.each([
    ['in a RAM tier that is always full', { ramBytes: 1 * MiB, kills: false }],
    ['with room, while the process is killed', { ramBytes: 4 * MiB, kills: true }],
  ])('gives each object with its own block, never an older one, and loses no slot, %s', async (_, options) => {
    const fresh = Array.from(crypto.getRandomValues(new Uint32Array(2 * factor)));
    console.log(`fresh seeds ${fresh.join(' ')}`);
    let hits = 0;
    for (const seed of [...Array.from({ length: 3 * factor }, (__, index) => index + 1), ...fresh]) hits += await run(seed, options);
    expect(hits).toBeGreaterThan(100);
  });
});
