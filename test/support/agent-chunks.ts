/** Chunks of known content in a running agent: in every grammar, stored by RESP, and what is left of them by RESP and by REST. */
import type { Chunk, ChunkQuery } from '#protocol/rest/chunks.ts';
import { chunkFileName, chunkShard } from '#tiers/ssd/chunk-file.ts';
import { join } from 'node:path';
import type { RunningAgent } from './agent.ts';
import { ByteClient, pattern, same } from './byte-client.ts';

/** What a test knows of a chunk without asking the agent. */
export interface KnownChunk {
  readonly key: string;
  readonly bytes: Uint8Array;
  readonly model: string;
  readonly tenant: string;
  readonly namespace: string;
  readonly tags: Readonly<Record<string, string>>;
}

/** 64 hex digits. */
export function hashOf(id: number): string {
  return id.toString(16).padStart(8, '0').repeat(8);
}

let nextId = 1;

/** Values of several sizes, so that some are arguments of a command and others stream. */
function valueOf(): Uint8Array {
  const id = nextId++;
  return pattern(id % 3 === 0 ? 70_000 + id : 3000 + id, id);
}

/** LMCache's object key; `tenant` is the salt. */
export function objectChunk(id: number, options: { readonly model: string; readonly rank?: string; readonly tenant?: string }): KnownChunk {
  const { model, rank = '01000100', tenant } = options;
  const salt = tenant === undefined ? '' : `@${tenant}`;
  return {
    key: `${model}@${rank}@0@${hashOf(id)}${salt}`,
    bytes: valueOf(),
    model,
    tenant: tenant ?? 'default',
    namespace: `${model}@${rank}@0${tenant === undefined ? '' : `#${tenant}`}`,
    tags: {},
  };
}

/** LMCache's cache engine key with its tags. */
export function engineChunk(id: number, options: { readonly model: string; readonly tags: Readonly<Record<string, string>> }): KnownChunk {
  const { model, tags } = options;
  const tail = Object.entries(tags)
    .map(([name, value]) => `@${name}%${value}`)
    .join('');
  return {
    key: `${model}@2@1@${hashOf(id)}@bfloat16${tail}`,
    bytes: valueOf(),
    model,
    tenant: 'default',
    namespace: `${model}@2/1@bfloat16${tail}`,
    tags,
  };
}

export function opaqueChunk(key: string): KnownChunk {
  return { key, bytes: valueOf(), model: '', tenant: 'default', namespace: 'opaque', tags: {} };
}

/** A connection that follows the rules of redis: no leases by EXISTS, no size guard. */
export async function redisClient(agent: RunningAgent, token?: string): Promise<ByteClient> {
  const client = await ByteClient.connect(agent.resp);
  if (token !== undefined) await client.send('AUTH', token);
  const reply = await client.send('PING');
  if (reply !== '+PONG') throw new Error(`PING: ${String(reply)}`);
  return client;
}

export async function store(client: ByteClient, chunks: readonly KnownChunk[]): Promise<void> {
  for (const { key, bytes } of chunks) {
    const reply = await client.send('SET', key, bytes);
    if (reply !== '+OK') throw new Error(`SET ${key}: ${String(reply)}`);
  }
}

/** Keys that GET serves. Throws where the bytes are not those of the key. */
export async function served(client: ByteClient, chunks: readonly KnownChunk[]): Promise<string[]> {
  const found: string[] = [];
  for (const { key, bytes } of chunks) {
    const reply = await client.send('GET', key);
    if (reply === undefined) continue;
    if (!(reply instanceof Uint8Array) || !same(reply, bytes))
      throw new Error(`GET ${key} gave other bytes: ${String(reply).slice(0, 80)}`);
    found.push(key);
  }
  return found;
}

/** All pages. */
export async function listed(agent: RunningAgent, query: ChunkQuery = {}): Promise<Chunk[]> {
  const chunks: Chunk[] = [];
  let cursor: string | null = null;
  do {
    const page = await agent.client.chunks({ limit: 1000, ...query, ...(cursor === null ? {} : { cursor }) });
    chunks.push(...page.chunks);
    cursor = page.cursor;
  } while (cursor !== null);
  return chunks;
}

export async function listedKeys(agent: RunningAgent, query: ChunkQuery = {}): Promise<string[]> {
  return (await listed(agent, query)).map(({ key }) => key).toSorted();
}

/** The file that holds a chunk on SSD, where it has one, in the default folder. */
export function fileOf(agent: RunningAgent, chunk: Chunk): string {
  return join(agent.dataDir, 'ssd', chunkShard(chunk.generation), chunkFileName(chunk.generation));
}

export function bytesOf(chunks: readonly KnownChunk[]): number {
  return chunks.reduce((sum, { bytes }) => sum + bytes.length, 0);
}

export function keysOf(chunks: readonly KnownChunk[]): string[] {
  return chunks.map(({ key }) => key).toSorted();
}

export function tier(stats: Awaited<ReturnType<RunningAgent['client']['stats']>>, name: 'ram' | 'ssd') {
  const found = stats.tiers.find((row) => row.tier === name);
  if (found === undefined) throw new Error(`There is no tier ${name}`);
  return found;
}
