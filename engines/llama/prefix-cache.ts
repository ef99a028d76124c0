/**
 * Prefills a prompt with what a store has of it: restores the longest head of stored chunks, computes the rest, stores what is new.
 *
 * Invariants
 * - Logits are those of a computation without a store: chunks are restored in ascending order, each only after its seal held, and the first
 *   doubt ends the restoring; the rest is computed.
 * - At least one token is computed, since a state holds no logits: of a prompt that is whole chunks, the last is not asked for.
 * - Storing never delays a token: a chunk is cut while a buffer is free, and after the first token where none is.
 * - A buffer is free, or the store's until its promise is settled.
 */
import { assert } from '#core/assert.ts';
import { chunkHashesOf } from './chunk-keys.ts';
import { SEAL_BYTES, sealChunk, sealHolds } from './chunk-seal.ts';
import type { ChunkBuffer, ChunkStore } from './chunk-store.ts';
import type { Engine } from './engine-thread.ts';

/** Room for two batches of loads, so that one arrives while the other is restored. */
const DEFAULT_BUFFERS = 16;
/** Chunks of one decode, between which chunks are cut. */
const STEP_CHUNKS = 2;

export interface Prefill {
  /** Behind the last token of the prompt. */
  readonly logits: Float32Array;
  readonly tokenCount: number;
  /** Tokens that were restored and not computed. */
  readonly restoredTokens: number;
  /** What the lookup answered, in chunks. */
  readonly foundChunks: number;
  /** Why fewer chunks were restored than found. */
  readonly stoppedBy: 'nothing' | 'not loaded' | 'seal' | 'engine';
  readonly lookupMs: number;
  /** Loading and restoring, which overlap. */
  readonly restoreMs: number;
  readonly computeMs: number;
  /** From the call to the logits. */
  readonly ttftMs: number;
  /** How many chunks the store took; settled when all of them are. */
  readonly stored: Promise<number>;
}

export class PrefixCache {
  readonly #engine: Engine;
  readonly #store: ChunkStore;
  readonly #free: ChunkBuffer[];
  readonly #bufferCount: number;
  /** Chunks of the call before that still have to be cut from the sequence, or stored. */
  #storing: Promise<unknown> = Promise.resolve();

  constructor(engine: Engine, store: ChunkStore, bufferCount = DEFAULT_BUFFERS) {
    assert(bufferCount >= 2, `A prefix cache wants 2 buffers or more, not ${bufferCount}`);
    this.#engine = engine;
    this.#store = store;
    this.#bufferCount = bufferCount;
    this.#free = [...store.createBuffers(bufferCount, engine.facts.chunkBytes + SEAL_BYTES)];
  }

  /** Replaces the engine's sequence by these tokens. Errors: the engine's. */
  async prefill(tokens: Int32Array): Promise<Prefill> {
    assert(tokens.length > 0, 'A prompt has no token');
    await this.#storing;
    this.checkInvariants();
    const startMs = performance.now();
    const { chunkTokens } = this.#engine.facts;
    const keys = chunkHashesOf(this.#engine.facts, tokens);
    await this.#engine.clear();
    const loadable = keys.slice(0, Math.floor((tokens.length - 1) / chunkTokens));
    const foundChunks = loadable.length === 0 ? 0 : await this.#store.lookup(loadable);
    const lookedUpMs = performance.now();
    const restored = await this.#restore(loadable.slice(0, foundChunks));
    const restoredMs = performance.now();
    const storing = new StoreRun(this.#engine, this.#store, { keys, free: this.#free, next: restored.count });
    const computing = this.#compute(tokens, restored.count * chunkTokens, storing);
    const stored = computing.then(
      () => storing.finish(),
      () => storing.finish(),
    );
    this.#storing = stored.catch(() => 0); // The caller has the promise that tells.
    const logits = await computing;
    const endMs = performance.now();
    return {
      logits,
      tokenCount: tokens.length,
      restoredTokens: restored.count * chunkTokens,
      foundChunks,
      stoppedBy: restored.stoppedBy,
      lookupMs: lookedUpMs - startMs,
      restoreMs: restoredMs - lookedUpMs,
      computeMs: endMs - restoredMs,
      ttftMs: endMs - startMs,
      stored,
    };
  }

  /** Appends `count` tokens, each the likeliest after the one before, and returns them. */
  async generate(logits: Float32Array, count: number): Promise<Int32Array> {
    const tokens = new Int32Array(count);
    let current = logits;
    for (let index = 0; index < count; index += 1) {
      const token = likeliest(current);
      tokens[index] = token;
      const next = index + 1 === count ? undefined : await this.#engine.decode(Int32Array.of(token), true);
      if (next !== undefined) current = next;
    }
    return tokens;
  }

  /** Between calls every buffer is free. */
  checkInvariants(): void {
    assert(this.#free.length === this.#bufferCount, `${this.#free.length} of ${this.#bufferCount} buffers are free between two prompts`);
    assert(new Set(this.#free).size === this.#bufferCount, 'A buffer is free twice');
  }

  async #restore(keys: readonly string[]): Promise<{ readonly count: number; readonly stoppedBy: Prefill['stoppedBy'] }> {
    const groupSize = Math.floor(this.#bufferCount / 2);
    const start = (from: number): LoadGroup | undefined =>
      from < keys.length ? new LoadGroup(this.#store, keys.slice(from, from + groupSize), this.#free) : undefined;
    let count = 0;
    let stoppedBy: Prefill['stoppedBy'] = 'nothing';
    let current = start(0);
    let next = start(groupSize);
    for (let from = 0; current !== undefined; from += groupSize) {
      while (stoppedBy === 'nothing' && count < from + current.size) {
        stoppedBy = await this.#restoreOne(current, count - from, count);
        if (stoppedBy === 'nothing') count += 1;
      }
      await current.release();
      current = next;
      next = stoppedBy === 'nothing' ? start(from + 2 * groupSize) : undefined;
    }
    return { count, stoppedBy };
  }

  async #restoreOne(group: LoadGroup, place: number, index: number): Promise<Prefill['stoppedBy']> {
    const loaded = await group.loaded(place);
    if (loaded === undefined) return 'not loaded';
    if (!sealHolds(loaded.buffer.bytes, loaded.key)) return 'seal';
    const payload = { address: loaded.buffer.address, sizeBytes: this.#engine.facts.chunkBytes };
    return (await this.#engine.restoreChunk(index, payload)) ? 'nothing' : 'engine';
  }

  async #compute(tokens: Int32Array, from: number, storing: StoreRun): Promise<Float32Array> {
    const stepTokens = STEP_CHUNKS * this.#engine.facts.chunkTokens;
    for (let position = from; ; position += stepTokens) {
      const end = Math.min(position + stepTokens, tokens.length);
      const last = end === tokens.length;
      const logits = await this.#engine.decode(tokens.subarray(position, end), last);
      if (last) {
        assert(logits !== undefined, 'The engine gives no logits behind the last token');
        storing.computed(end);
        return logits;
      }
      storing.computed(end);
      storing.cutWhileFree();
    }
  }
}

/** Consecutive chunks that are being loaded, each into a buffer of its own. */
class LoadGroup {
  readonly #keys: readonly string[];
  readonly #free: ChunkBuffer[];
  readonly #buffers: readonly ChunkBuffer[];
  readonly #loads: readonly Promise<boolean>[];

  constructor(store: ChunkStore, keys: readonly string[], free: ChunkBuffer[]) {
    assert(free.length >= keys.length, `${keys.length} chunks are to be loaded into ${free.length} free buffers`);
    this.#keys = keys;
    this.#free = free;
    this.#buffers = free.splice(0, keys.length);
    this.#loads = store.load(keys, this.#buffers);
  }

  get size(): number {
    return this.#keys.length;
  }

  /** The chunk when it has arrived; undefined where it cannot be had. */
  async loaded(place: number): Promise<{ readonly key: string; readonly buffer: ChunkBuffer } | undefined> {
    const [key, buffer] = [this.#keys[place], this.#buffers[place]];
    return key !== undefined && buffer !== undefined && (await this.#loads[place]) === true ? { key, buffer } : undefined;
  }

  /** Gives the buffers back when nothing is loaded into them any more. */
  async release(): Promise<void> {
    await Promise.all(this.#loads);
    this.#free.push(...this.#buffers);
  }
}

/** Cuts and stores the new chunks of one sequence, in order. */
class StoreRun {
  readonly #engine: Engine;
  readonly #store: ChunkStore;
  readonly #keys: readonly string[];
  readonly #free: ChunkBuffer[];
  #next: number;
  #computedChunks = 0;
  readonly #stores: Promise<boolean>[] = [];

  constructor(
    engine: Engine,
    store: ChunkStore,
    run: { readonly keys: readonly string[]; readonly free: ChunkBuffer[]; readonly next: number },
  ) {
    this.#engine = engine;
    this.#store = store;
    this.#keys = run.keys;
    this.#free = run.free;
    this.#next = run.next;
  }

  /** The sequence holds this many tokens of the prompt. */
  computed(tokenCount: number): void {
    this.#computedChunks = Math.floor(tokenCount / this.#engine.facts.chunkTokens);
  }

  /** Starts what can be started without waiting. */
  cutWhileFree(): void {
    while (this.#next < this.#computedChunks && this.#free.length > 0) this.#startOne();
  }

  /** Cuts and stores what is left; the sequence must hold the prompt until then. Resolves to the number of chunks that the store took. */
  async finish(): Promise<number> {
    for (;;) {
      this.cutWhileFree();
      const settled = await Promise.allSettled(this.#stores);
      if (this.#next < this.#computedChunks) continue;
      const failed = settled.find((outcome) => outcome.status === 'rejected');
      if (failed !== undefined) throw failed.reason;
      return settled.filter((outcome) => outcome.status === 'fulfilled' && outcome.value).length;
    }
  }

  #startOne(): void {
    const index = this.#next;
    const [key, buffer] = [this.#keys[index], this.#free.pop()];
    assert(key !== undefined && buffer !== undefined, `Chunk ${index} has no key or no buffer`);
    this.#next += 1;
    this.#stores.push(this.#cutAndStore(index, key, buffer));
  }

  async #cutAndStore(index: number, key: string, buffer: ChunkBuffer): Promise<boolean> {
    try {
      await this.#engine.cutChunk(index, { address: buffer.address, sizeBytes: this.#engine.facts.chunkBytes });
      sealChunk(buffer.bytes, key);
      return (await this.#store.store([key], [buffer], this.#keys[index - 1])[0]) ?? false;
    } finally {
      this.#free.push(buffer);
    }
  }
}

function likeliest(logits: Float32Array): number {
  let best = 0;
  for (let index = 1; index < logits.length; index += 1) {
    if ((logits[index] ?? 0) > (logits[best] ?? 0)) best = index;
  }
  return best;
}
