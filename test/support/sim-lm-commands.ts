/**
 * What clients of the lm door ask in a simulated world, beside those of the RESP door and under the same oracle.
 *
 * An object comes back with the block that it was put with, and what nobody put through this door is a miss here. A PUT that was worked
 * through has taken the place of what was there, stored or not: its client is never told.
 */
import { KiB } from '#core/bytes.ts';
import { sameLmBlock } from '#core/lm-block.ts';
import { LM_FAIL } from '#protocol/lm/lm-frame.ts';
import { blockOf, frame, putFrame } from './lm-client.ts';
import { SIM_LM_PORT } from './sim-agent.ts';
import type { SimRng } from './sim-clock.ts';
import { SimLmClient } from './sim-lm-client.ts';
import type { SimLmOutcome } from './sim-lm-client.ts';
import type { SimKey, SimSpan, SimValue } from './sim-oracle.ts';
import type { SimWorld } from './sim-world.ts';

/** Around the thresholds of the door: copied replies, payloads that come with their request. */
const sizes = [0, 1, 100, 5000, 16 * KiB, 40 * KiB, 64 * KiB, 64 * KiB + 1, 100 * KiB];
const CLIENTS = 2;
const MOST_PENDING = 6;

export class SimLmCommands {
  readonly #world: SimWorld;
  readonly #rng: SimRng;
  readonly #clients: readonly SimLmClient[];
  readonly #keys: readonly SimKey[];
  /** Ids of values that were put through this door. */
  readonly #described = new Set<number>();
  /** Objects that came back. */
  hits = 0;

  constructor(world: SimWorld) {
    this.#world = world;
    this.#rng = world.agent.rng;
    this.#keys = world.lmKeys;
    this.#clients = Array.from(
      { length: CLIENTS },
      (_, index) =>
        new SimLmClient(world.agent.network, { address: `10.0.0.${1 + index}`, port: SIM_LM_PORT }, (value, how) => {
          world.oracle.endSet(value, how);
        }),
    );
  }

  get pending(): number {
    return this.#clients.reduce((sum, client) => sum + client.pending, 0);
  }

  /** A request of some client, or its end. */
  one(): void {
    const index = this.#rng.below(CLIENTS);
    const client = this.#clients[index] as SimLmClient;
    if (!client.connect() || client.isLeaving || client.pending >= MOST_PENDING) return;
    const action = this.#rng.weighted({ put: 10, get: 13, exist: 5, health: 2, reset: 0.3, half: 0.2, garbage: 0.1 });
    const who = `lm ${index}`;
    const key = this.#rng.pick(this.#keys);
    if (action === 'put') this.#put(client, who, key);
    else if (action === 'get') this.#get(client, who, key);
    else if (action === 'exist') this.#exist(client, who, key);
    else if (action === 'health') client.ask(frame('HEALTH', ''), (outcome) => expectEmpty('HEALTH', outcome));
    else if (action === 'reset') client.connection?.reset();
    else if (action === 'half') this.#half(client, who, key);
    else client.sayLast(new Uint8Array(186).fill(0x2a));
    this.#world.agent.settle();
  }

  #newValue(key: SimKey): SimValue {
    const value = this.#world.oracle.beginSet(key, this.#rng.pick(sizes));
    this.#described.add(value.id);
    return value;
  }

  #put(client: SimLmClient, who: string, key: SimKey): void {
    const value = this.#newValue(key);
    this.#world.note(`${who} PUT ${key.label} = ${value.id} (${value.sizeBytes})`);
    client.put(key.name, value, { bytes: this.#world.oracle.payload(value), block: blockOf(value.id) });
  }

  /** Less than a whole PUT: nothing of it may ever be seen. */
  #half(client: SimLmClient, who: string, key: SimKey): void {
    const { oracle } = this.#world;
    const value = this.#newValue(key);
    const whole = putFrame(key.name, { bytes: oracle.payload(value), block: blockOf(value.id) });
    this.#world.note(`${who} half a PUT ${key.label} = ${value.id}`);
    oracle.endSet(value, 'refused');
    client.sayLast(whole.subarray(0, 1 + this.#rng.below(whole.length - 1)));
  }

  #get(client: SimLmClient, who: string, key: SimKey): void {
    const span = this.#world.oracle.begin();
    client.ask(frame('GET', key.name), (outcome, puts) => this.#judge(who, { key, span, puts }, outcome));
  }

  #judge(who: string, asked: { key: SimKey; span: SimSpan; puts: readonly SimValue[] }, outcome: SimLmOutcome): void {
    const { oracle } = this.#world;
    const { key, span, puts } = asked;
    if (outcome === 'lost') return;
    if (outcome.reply.code === LM_FAIL) {
      this.#world.note(`${who} GET ${key.label}: miss`);
      return oracle.endMiss(key, span);
    }
    const { block } = outcome.reply;
    const id = block.shape[0];
    if (!this.#described.has(id) || !sameLmBlock(block, blockOf(id)))
      throw new Error(`${key.label} came with the block ${JSON.stringify(block)}, which no PUT has said`);
    const value = oracle.endRead(key, span, outcome.payload, id);
    const later = puts.find((put) => put.key === key && value.end < put.begin);
    if (later !== undefined) throw new Error(`${key.label} gave ${value.id}, and ${later.id} was put on the same connection before`);
    this.hits += 1;
    this.#world.note(`${who} GET ${key.label}: ${value.id}`);
  }

  /** By its own PUT, or by an earlier one of the same bytes (empty values are all alike): a SET of what is there leaves it as it is. */
  #isDescribed(value: SimValue): boolean {
    const { oracle } = this.#world;
    return value.key.values.some((other) => this.#described.has(other.id) && oracle.payload(other).equals(oracle.payload(value)));
  }

  #exist(client: SimLmClient, who: string, key: SimKey): void {
    const { oracle } = this.#world;
    const span = oracle.begin();
    client.ask(frame('EXIST', key.name), (outcome) => {
      if (outcome === 'lost') return;
      expectEmpty('EXIST', outcome);
      const isThere = outcome.reply.code !== LM_FAIL;
      const may = key.values.some((value) => this.#isDescribed(value) && oracle.mayBeRead(value, span));
      if (isThere && !may) throw new Error(`EXIST ${key.label} says yes, and nothing can be there`);
      this.#world.note(`${who} EXIST ${key.label}: ${isThere}`);
    });
  }

  /** For the quiet end: every key once. */
  readAll(): void {
    const client = this.#clients[0] as SimLmClient;
    client.connect();
    for (const key of this.#keys) this.#get(client, 'lm 0', key);
  }

  close(): void {
    for (const client of this.#clients) client.connection?.close();
  }
}

function expectEmpty(what: string, outcome: SimLmOutcome): void {
  if (outcome !== 'lost' && outcome.payload.length > 0) throw new Error(`${what} was answered with ${outcome.payload.length} bytes`);
}
