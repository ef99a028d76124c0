/**
 * Chunks in an agent by its native door: keys go through the socket, values through memory that both map. One job a chunk, so that chunks
 * are restored as they arrive; the agent takes them in the order in which they are asked for.
 *
 * Invariant: memory that the agent may still write to is no buffer. Where a job is late, or its socket broke in the middle, the buffer gets
 * other memory.
 */
import { NativeClient, type JobResult, type Namespace, type SharedRegion } from '#engines/client/native-client.ts';
import { SharedMemory } from '#engines/client/shared-memory.ts';
import { assert } from '#core/assert.ts';
import { loadOutcomes, storeOutcomes } from '#protocol/native/native-schema.ts';
import type { ChunkNamespace } from './chunk-keys.ts';
import type { ChunkBuffer, ChunkStore } from './chunk-store.ts';

/** An agent that is there answers sooner even on a busy machine; one that is not refuses at once. */
const CONNECT_PATIENCE_MS = 50;
/** For one chunk, which takes milliseconds; then it is computed. */
const JOB_DEADLINE_MS = 2000;
/** One rank of one. */
const RANK = '0';

export interface NativeChunkStoreOptions {
  /** Of the agent's socket. */
  readonly path: string;
  readonly namespace: ChunkNamespace;
  readonly token?: string;
}

export class NativeChunkStore implements ChunkStore {
  readonly #client: NativeClient;
  readonly #namespace: Namespace;
  readonly #buffers: NativeBuffer[] = [];
  #lastStore: Promise<unknown> = Promise.resolve();

  /** Waits for a first attempt at a connection, and is a store also where that fails. */
  static async open(options: NativeChunkStoreOptions): Promise<NativeChunkStore> {
    const store = new NativeChunkStore(options);
    await store.connect();
    return store;
  }

  constructor({ path, namespace, token }: NativeChunkStoreOptions) {
    const credential = token === undefined ? {} : { token };
    this.#client = new NativeClient({
      path,
      name: 'kvtier-llama',
      connectPatienceMs: CONNECT_PATIENCE_MS,
      jobDeadlineMs: JOB_DEADLINE_MS,
      ...credential,
    });
    this.#namespace = this.#client.namespace({ ...namespace, rank: RANK, group: '', salt: '' });
  }

  /** Whether there is a connection now. Not needed: calls connect. */
  connect(): Promise<boolean> {
    return this.#client.connect();
  }

  createBuffers(count: number, sizeBytes: number): readonly ChunkBuffer[] {
    const buffers = Array.from({ length: count }, () => new NativeBuffer(this.#client, sizeBytes));
    this.#buffers.push(...buffers);
    return buffers;
  }

  async lookup(keys: readonly string[]): Promise<number> {
    const { tiers } = await this.#client.lookup(this.#namespace, keys.map(encodeKey));
    return tiers.length;
  }

  load(keys: readonly string[], buffers: readonly ChunkBuffer[]): readonly Promise<boolean>[] {
    return keys.map(async (key, index) => {
      const buffer = nativeBuffer(buffers[index]);
      const result = await this.#client.load({ ...this.#job(buffer), keys: [encodeKey(key)] });
      await buffer.settle(result);
      return result.outcomes[0] === loadOutcomes.loaded;
    });
  }

  store(keys: readonly string[], buffers: readonly ChunkBuffer[], parent?: string): readonly Promise<boolean>[] {
    return keys.map((key, index) => {
      const buffer = nativeBuffer(buffers[index]);
      // One after another: a parent that is still being stored is none to the agent.
      const stored = this.#lastStore.then(() => this.#storeOne(key, buffer, index === 0 ? parent : keys[index - 1]));
      this.#lastStore = stored.catch(() => false);
      return stored;
    });
  }

  async #storeOne(key: string, buffer: NativeBuffer, parent: string | undefined): Promise<boolean> {
    const chain = parent === undefined ? {} : { parent: encodeKey(parent) };
    const result = await this.#client.store({ ...this.#job(buffer), keys: [encodeKey(key)] }, chain);
    await buffer.settle(result);
    return result.outcomes[0] === storeOutcomes.stored || result.outcomes[0] === storeOutcomes.duplicate;
  }

  /** Buffers are void. */
  close(): Promise<void> {
    this.#client.close();
    for (const buffer of this.#buffers.splice(0)) buffer.close();
    return Promise.resolve();
  }

  #job(buffer: NativeBuffer) {
    return { namespace: this.#namespace, region: buffer.region, spans: [{ offset: 0, length: buffer.sizeBytes }] };
  }
}

/** A region of its own, replaced when it is spoiled. */
class NativeBuffer implements ChunkBuffer {
  readonly sizeBytes: number;
  readonly #client: NativeClient;
  #memory: SharedMemory;
  #region: SharedRegion;
  #bytes: Uint8Array;

  constructor(client: NativeClient, sizeBytes: number) {
    this.sizeBytes = sizeBytes;
    this.#client = client;
    this.#memory = SharedMemory.create(sizeBytes);
    this.#region = client.share(this.#memory);
    this.#bytes = this.#memory.view();
  }

  get address(): number {
    return this.#memory.address;
  }
  get bytes(): Uint8Array {
    return this.#bytes;
  }
  get region(): SharedRegion {
    return this.#region;
  }

  /** Makes this buffer nobody else's: where the agent has not let go of the memory yet, by taking other memory. */
  async settle(result: JobResult): Promise<void> {
    const letGo = await Promise.race([result.settled, Promise.resolve('late' as const)]);
    if (letGo === true && !this.#region.isSpoiled) return;
    const [memory, region] = [this.#memory, this.#region];
    this.#memory = SharedMemory.create(this.sizeBytes);
    this.#region = this.#client.share(this.#memory);
    this.#bytes = this.#memory.view();
    // The agent has a mapping of its own, so ours may go as soon as it has heard of it.
    void this.#client.unshare(region).finally(() => memory.close());
  }

  close(): void {
    this.#memory.close();
  }
}

function nativeBuffer(buffer: ChunkBuffer | undefined): NativeBuffer {
  assert(buffer instanceof NativeBuffer, 'A native store is given a buffer that it has not made');
  return buffer;
}

function encodeKey(key: string): Uint8Array {
  return new TextEncoder().encode(key);
}
