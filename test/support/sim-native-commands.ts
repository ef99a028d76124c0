/**
 * What clients of the native door ask in a simulated world, beside those of the RESP door, for the same keys and under the same oracle.
 *
 * Every span lies between guard bytes. Memory of a job is the agent's until the answer; from then on it is the client's, who writes a
 * mark there and looks for it later: whoever writes after the answer is found.
 */
import { KiB } from '#core/bytes.ts';
import { loadOutcomes, storeOutcomes, tierNumbers } from '#protocol/native/native-schema.ts';
import type { NativeNamespace } from '#protocol/native/native-key.ts';
import type { SimRng } from './sim-clock.ts';
import { SimNativeClient } from './sim-native-client.ts';
import type { SimForeignMemory } from './sim-shared-memory.ts';
import type { SimKey, SimSpan, SimValue } from './sim-oracle.ts';
import { tokenOf } from './sim-tokens.ts';
import type { SimWorld } from './sim-world.ts';

const LAYOUT = '0123456789abcdef';
export const NATIVE_KEYS = 8;
/** Owners of leases, as the door numbers them. */
const FIRST_OWNER = 2 ** 41;
const CLIENTS = 3;
const MOST_PENDING = 5;
const PLACES = 6;
const PLACE_BYTES = 128 * KiB;
const sizes = [1, 100, 4096, 5000, 16 * KiB + 1, 64 * KiB, 100 * KiB];
const GUARD = 0xa5;
const MARK = 0x5a;
const nothing = new Uint8Array(0);
const encoder = new TextEncoder();

export function nativeKey(index: number): string {
  return `kvtier:1@native-${index % 2}@${LAYOUT}@0@@${'e5'.repeat(4)}-${index}`;
}

function fieldsOf(name: string): { readonly fields: NativeNamespace; readonly key: Uint8Array } {
  const [, model = '', layout = '', rank = '', group = '', key = ''] = name.split('@');
  return { fields: { model, layout, rank, group, salt: '' }, key: encoder.encode(key) };
}

/** A part of a client's memory: free, or a job's. */
interface Place {
  readonly offset: number;
  isFree: boolean;
}

interface Chunk {
  readonly key: SimKey;
  readonly place: Place;
  readonly offset: number;
  readonly sizeBytes: number;
}

class Desk {
  readonly client: SimNativeClient;
  readonly who: string | undefined;
  /** Of this connection. */
  namespaces = new Map<string, number>();
  memory: SimForeignMemory | undefined;
  fd = -1;
  region = -1;
  isCut = false;
  places: Place[] = [];
  leases: number[] = [];

  constructor(client: SimNativeClient, who: string | undefined) {
    this.client = client;
    this.who = who;
  }

  /** Another memory, and nothing of the last connection. */
  forget(): void {
    this.namespaces = new Map();
    this.memory = undefined;
    this.region = -1;
    this.isCut = false;
    this.places = [];
    this.leases = [];
  }
}

export class SimNativeCommands {
  readonly #world: SimWorld;
  readonly #rng: SimRng;
  readonly #desks: readonly Desk[];
  hits = 0;

  constructor(world: SimWorld) {
    this.#world = world;
    this.#rng = world.agent.rng;
    this.#desks = Array.from({ length: CLIENTS }, (_, index) => {
      const who = world.everybody[index % world.everybody.length];
      const desk: Desk = new Desk(
        new SimNativeClient(world.agent.network, {
          token: who === undefined ? '' : tokenOf(who),
          onEnd: () => desk.forget(),
          onContinue: () => this.#sendDescriptor(desk),
        }),
        who,
      );
      return desk;
    });
  }

  get pending(): number {
    return this.#desks.reduce((sum, { client }) => sum + client.pending, 0);
  }

  one(): void {
    const index = this.#rng.below(CLIENTS);
    const desk = this.#desks[index] as Desk;
    const { client } = desk;
    if (!client.connect() || client.pending >= MOST_PENDING) return;
    const who = `native ${index}`;
    if (desk.memory === undefined) return this.#attach(desk, who);
    const action = this.#rng.weighted({
      store: 10,
      load: 14,
      peek: 2,
      letGo: 2,
      open: 3,
      release: 3,
      touch: 1,
      die: 0.4,
      cut: 0.3,
      detach: 0.3,
    });
    if (action === 'store') this.#store(desk, who);
    else if (action === 'load') this.#load(desk, who);
    else if (action === 'die') this.#die(desk, who);
    else if (action === 'cut') this.#cut(desk, who);
    else if (action === 'detach') this.#detach(desk);
    else this.#small(desk, action);
    this.#world.agent.settle();
  }

  // --- memory -----------------------------------------------------------------------------------------------------------------

  #attach(desk: Desk, who: string): void {
    const { fd, path, memory } = this.#world.agent.clientMemories.create(PLACES * PLACE_BYTES);
    memory.bytes.fill(GUARD);
    desk.memory = memory;
    desk.fd = fd;
    desk.places = Array.from({ length: PLACES }, (_, index) => ({ offset: index * PLACE_BYTES, isFree: true }));
    const byPath = this.#rng.chance(0.6);
    this.#world.note(`${who} attaches`);
    // Nothing may follow before the descriptor: the client asks nothing until the answer.
    desk.client.ask('ATTACH', { how: byPath ? 0 : 1, path: byPath ? path : '' }, (answer) => {
      if (answer !== 'lost' && 'reply' in answer) desk.region = answer.reply.region;
    });
  }

  #sendDescriptor(desk: Desk): void {
    const { connection } = desk.client;
    if (connection !== undefined) this.#world.agent.life?.local?.of(connection)?.fromPeer.push(desk.fd as never);
  }

  #die(desk: Desk, who: string): void {
    this.#world.note(`${who} dies with ${desk.client.pending} requests`);
    desk.client.connection?.reset();
  }

  /** The file is truncated: what is gone stays gone, whoever reads or writes there. */
  #cut(desk: Desk, who: string): void {
    if (desk.memory === undefined) return;
    desk.memory.liveBytes = this.#rng.below(desk.memory.liveBytes + 1);
    desk.isCut = true;
    this.#world.note(`${who} cuts its memory to ${desk.memory.liveBytes}`);
  }

  #detach(desk: Desk): void {
    if (desk.region < 0) return;
    const { region, memory } = desk;
    desk.region = -1;
    desk.client.ask('DETACH', { region }, (answer) => {
      if (answer === 'lost') return;
      if (!('reply' in answer)) throw new Error(`DETACH was refused: ${answer.status}`);
      if (desk.memory === memory) desk.memory = undefined;
    });
  }

  #place(desk: Desk, key: SimKey, sizeBytes: number): Chunk | undefined {
    const place = desk.places.find(({ isFree }) => isFree);
    if (place === undefined) return undefined;
    place.isFree = false;
    const offset = place.offset + this.#rng.pick([0, 1, 4096, 513, 8191]);
    this.#check(desk, place);
    desk.memory?.bytes.fill(GUARD, place.offset, place.offset + PLACE_BYTES);
    return { key, place, offset, sizeBytes };
  }

  /** The client's again: a mark for whoever writes there all the same. */
  #giveBack(desk: Desk, memory: SimForeignMemory | undefined, chunks: readonly Chunk[]): void {
    for (const { place } of chunks) {
      place.isFree = true;
      memory?.bytes.fill(MARK, place.offset, place.offset + PLACE_BYTES);
    }
  }

  #check(desk: Desk, place: Place): void {
    const bytes = desk.memory?.bytes.subarray(place.offset, place.offset + PLACE_BYTES);
    const [first] = bytes ?? [];
    if (bytes?.some((byte) => byte !== first) === true || (first !== undefined && first !== MARK && first !== GUARD))
      throw new Error('Somebody wrote into memory of a client that no job has');
  }

  // --- requests ---------------------------------------------------------------------------------------------------------------

  #namespace(desk: Desk, key: SimKey): number | undefined {
    const { fields } = fieldsOf(key.name);
    const known = desk.namespaces.get(fields.model);
    if (known !== undefined) return known < 0 ? undefined : known;
    desk.namespaces.set(fields.model, -1);
    desk.client.ask('NAMESPACE', fields, (answer) => {
      if (answer !== 'lost' && 'reply' in answer) desk.namespaces.set(fields.model, answer.reply.namespace);
    });
    return undefined;
  }

  #keysOf(desk: Desk): readonly SimKey[] {
    return this.#world.keysOf(desk.who).slice(-NATIVE_KEYS);
  }

  /** One to three, of one namespace. */
  #some(desk: Desk): { readonly keys: readonly SimKey[]; readonly namespace: number } | undefined {
    const first = this.#rng.pick(this.#keysOf(desk));
    const namespace = this.#namespace(desk, first);
    if (namespace === undefined || desk.region < 0) return undefined;
    const { model } = fieldsOf(first.name).fields;
    const others = this.#keysOf(desk).filter((key) => key !== first && fieldsOf(key.name).fields.model === model);
    return { keys: [first, ...others.slice(0, this.#rng.below(3))], namespace };
  }

  #store(desk: Desk, who: string): void {
    const some = this.#some(desk);
    const { memory, region } = desk;
    if (some === undefined || memory === undefined) return;
    const { oracle } = this.#world;
    const puts: { readonly chunk: Chunk; readonly value: SimValue }[] = [];
    for (const key of some.keys) {
      const sizeBytes = this.#rng.pick(sizes);
      const chunk = this.#place(desk, key, sizeBytes);
      if (chunk === undefined) break;
      const value = oracle.beginSet(key, sizeBytes);
      memory.bytes.set(oracle.payload(value), chunk.offset);
      puts.push({ chunk, value });
    }
    if (puts.length === 0) return;
    this.#world.note(`${who} STORE ${puts.map(({ chunk, value }) => `${chunk.key.label} = ${value.id}`).join(', ')}`);
    const request = {
      namespace: some.namespace,
      region,
      flags: this.#rng.below(2),
      ttlMs: 0,
      parent: nothing,
      keys: puts.map(({ chunk }) => fieldsOf(chunk.key.name).key),
      spans: puts.map(({ chunk }) => ({ offset: chunk.offset, length: chunk.sizeBytes })),
    };
    desk.client.ask('STORE', request, (answer) => {
      for (const [index, { value }] of puts.entries()) {
        if (answer === 'lost') oracle.endSet(value, 'lost');
        else {
          const outcome = 'reply' in answer ? answer.reply.outcomes[index] : undefined;
          if (outcome === storeOutcomes.fault && !desk.isCut) throw new Error('STORE is a fault of memory that is whole');
          oracle.endSet(value, outcome !== undefined && outcome <= storeOutcomes.dropped ? 'stored' : 'refused');
        }
      }
      if (answer !== 'lost')
        this.#giveBack(
          desk,
          memory,
          puts.map(({ chunk }) => chunk),
        );
    });
  }

  /** What is there, then its bytes. */
  #load(desk: Desk, who: string): void {
    const some = this.#some(desk);
    if (some === undefined) return;
    const { namespace } = some;
    const keys = some.keys.map((key) => fieldsOf(key.name).key);
    const seen = this.#world.oracle.begin();
    desk.client.ask('LOOKUP', { namespace, flags: this.#rng.chance(0.5) ? 1 : 0, keys }, (answer) => {
      if (answer === 'lost' || !('reply' in answer) || desk.region < 0) return;
      const { tiers, sizes: found } = answer.reply;
      const chunks: Chunk[] = [];
      for (const [index, tier] of tiers.entries()) {
        const key = some.keys[index];
        if (key === undefined || tier === tierNumbers.missing) continue;
        if (!this.#world.oracle.mayExist(key, seen)) throw new Error(`LOOKUP says that ${key.label} is there, and nothing can be`);
        const chunk = (found[index] ?? 0) > PLACE_BYTES - 8192 ? undefined : this.#place(desk, key, found[index] ?? 0);
        if (chunk !== undefined) chunks.push(chunk);
      }
      if (chunks.length > 0) this.#loadThese(desk, who, { namespace, chunks });
    });
  }

  #loadThese(desk: Desk, who: string, { namespace, chunks }: { readonly namespace: number; readonly chunks: readonly Chunk[] }): void {
    const { memory, region } = desk;
    const span = this.#world.oracle.begin();
    const request = {
      namespace,
      region,
      deadlineMs: this.#rng.chance(0.2) ? 20 : 0,
      keys: chunks.map(({ key }) => fieldsOf(key.name).key),
      spans: chunks.map(({ offset, sizeBytes }) => ({ offset, length: sizeBytes })),
    };
    desk.client.ask('LOAD', request, (answer) => {
      if (answer === 'lost') return;
      const outcomes = 'reply' in answer ? answer.reply.outcomes : undefined;
      for (const [index, chunk] of chunks.entries()) this.#judge(who, { desk, memory, chunk, span, outcome: outcomes?.[index] });
      this.#giveBack(desk, memory, chunks);
    });
  }

  #judge(
    who: string,
    asked: {
      readonly desk: Desk;
      readonly memory: SimForeignMemory | undefined;
      readonly chunk: Chunk;
      readonly span: SimSpan;
      readonly outcome: number | undefined;
    },
  ): void {
    const { desk, memory, chunk, span, outcome } = asked;
    const { place, offset, sizeBytes, key } = chunk;
    if (memory === undefined) return;
    const around = [memory.bytes.subarray(place.offset, offset), memory.bytes.subarray(offset + sizeBytes, place.offset + PLACE_BYTES)];
    if (around.some((bytes) => bytes.some((byte) => byte !== GUARD))) throw new Error(`LOAD of ${key.label} wrote beside its span`);
    if (outcome === loadOutcomes.fault && !desk.isCut) throw new Error(`LOAD of ${key.label} is a fault of memory that is whole`);
    if (outcome !== loadOutcomes.loaded) {
      this.#world.note(`${who} LOAD ${key.label}: ${outcome}`);
      return;
    }
    const value = this.#world.oracle.endRead(key, span, memory.bytes.slice(offset, offset + sizeBytes));
    this.hits += 1;
    this.#world.note(`${who} LOAD ${key.label}: ${value.id}`);
  }

  #small(desk: Desk, action: 'peek' | 'letGo' | 'open' | 'release' | 'touch'): void {
    const some = this.#some(desk);
    if (some === undefined) return;
    const { namespace } = some;
    const keys = some.keys.map((key) => fieldsOf(key.name).key);
    const { client } = desk;
    if (action === 'peek') client.ask('LOOKUP', { namespace, flags: 2, keys }, () => {});
    else if (action === 'letGo') client.ask('LET_GO', { namespace, keys }, () => {});
    else if (action === 'touch') client.ask('TOUCH', { namespace, keys }, () => {});
    else if (action === 'release') client.ask('RELEASE', { leases: desk.leases.splice(0) }, () => {});
    else {
      client.ask('OPEN', { namespace, key: keys[0] ?? nothing }, (answer) => {
        if (answer !== 'lost' && 'reply' in answer && answer.reply.lease > 0) desk.leases.push(answer.reply.lease);
      });
    }
  }

  // --- what must hold ---------------------------------------------------------------------------------------------------------

  /** Between any two steps. */
  checkInvariants(): void {
    const { life } = this.#world.agent;
    life?.native?.checkInvariants();
    if (life?.ready !== true || life.local === undefined) return;
    for (const [index, { connection }] of life.local.accepted.entries()) {
      if (connection.closed && life.cache?.leasesOf(FIRST_OWNER + index + 1) !== 0)
        throw new Error(`A native client that is gone holds leases (connection ${index + 1})`);
    }
  }

  /** For the quiet end. */
  leftOver(): string {
    const { life } = this.#world.agent;
    const regions = life?.regions?.openCount ?? 0;
    return regions === 0 ? '' : `${regions} regions of clients that are gone`;
  }

  close(): void {
    for (const { client } of this.#desks) client.connection?.close();
  }
}
