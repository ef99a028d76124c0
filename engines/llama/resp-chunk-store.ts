/**
 * Chunks in an agent, or a redis-server, by its RESP door: one connection, every batch pipelined, values copied once from the socket.
 * Order on the connection is the order of the prefix, from which the agent infers the chain.
 *
 * Failing soft: where the connection cannot be made, stalls or ends, what waits on it is a miss or not kept. The next call after
 * RECONNECT_PAUSE_MS tries again.
 */
import { ptr } from 'bun:ffi';
import { type ChunkNamespace, respKeyOf } from './chunk-keys.ts';
import type { ChunkBuffer, ChunkStore } from './chunk-store.ts';
import { RespConnection, type RespAddress, type RespReply } from './resp-connection.ts';

const RECONNECT_PAUSE_MS = 100;
const DEFAULT_STALL_MS = 2000;

export interface RespChunkStoreOptions extends RespAddress {
  readonly namespace: ChunkNamespace;
  /** Password, where the agent wants one. */
  readonly token?: string;
  /** How long an answer may take without a byte moving; default 2 s. */
  readonly stallMs?: number;
}

export class RespChunkStore implements ChunkStore {
  readonly #options: RespChunkStoreOptions;
  #connection: Promise<RespConnection | undefined> | undefined;
  #retryAtMs = 0;

  constructor(options: RespChunkStoreOptions) {
    this.#options = options;
  }

  createBuffers(count: number, sizeBytes: number): readonly ChunkBuffer[] {
    return Array.from({ length: count }, () => {
      const bytes = new Uint8Array(sizeBytes);
      return { address: ptr(bytes), sizeBytes, bytes };
    });
  }

  async lookup(keys: readonly string[]): Promise<number> {
    const connection = await this.#connect();
    if (connection === undefined) return 0;
    const replies = await Promise.all(keys.map((key) => connection.request(['EXISTS', this.#spell(key)])));
    const gap = replies.findIndex((reply) => !isLine(reply, ':1'));
    return gap < 0 ? keys.length : gap;
  }

  load(keys: readonly string[], buffers: readonly ChunkBuffer[]): readonly Promise<boolean>[] {
    const connecting = this.#connect();
    return keys.map(async (key, index) => {
      const connection = await connecting;
      const target = buffers[index]?.bytes;
      if (connection === undefined || target === undefined) return false;
      return (await connection.request(['GET', this.#spell(key)], target)).kind === 'filled';
    });
  }

  store(keys: readonly string[], buffers: readonly ChunkBuffer[]): readonly Promise<boolean>[] {
    const connecting = this.#connect();
    return keys.map(async (key, index) => {
      const connection = await connecting;
      const value = buffers[index]?.bytes;
      if (connection === undefined || value === undefined) return false;
      return isLine(await connection.request(['SET', this.#spell(key), value]), '+OK');
    });
  }

  async close(): Promise<void> {
    (await this.#connection)?.end();
  }

  #spell(hash: string): string {
    return respKeyOf(this.#options.namespace, hash);
  }

  async #connect(): Promise<RespConnection | undefined> {
    const current = await this.#connection;
    if (current?.isOpen === true) return current;
    // Whoever comes first connects; the others, and the batch that is under way, wait for the same connection.
    if (this.#retryAtMs <= performance.now()) {
      this.#retryAtMs = performance.now() + RECONNECT_PAUSE_MS;
      this.#connection = this.#open();
    }
    const opened = await this.#connection;
    return opened?.isOpen === true ? opened : undefined;
  }

  async #open(): Promise<RespConnection | undefined> {
    const connection = await RespConnection.open(this.#options, this.#options.stallMs ?? DEFAULT_STALL_MS);
    if (connection === undefined) return undefined;
    // A name of our own also makes the agent answer as redis does, and not in the lengths that LMCache's client counts.
    const { token } = this.#options;
    const greeting = token === undefined ? [] : [connection.request(['AUTH', token])];
    const replies = await Promise.all([...greeting, connection.request(['CLIENT', 'SETNAME', 'kvtier-llama'])]);
    if (replies.every((reply) => isLine(reply, '+OK'))) return connection;
    connection.end();
    return undefined;
  }
}

function isLine(reply: RespReply, text: string): boolean {
  return reply.kind === 'line' && reply.text === text;
}
