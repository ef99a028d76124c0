/**
 * How chunks are named: by a namespace, which is the model's name and a fingerprint, and a chained hash.
 *
 *   native door  the namespace's model and layout, and the hash as the key
 *   RESP         `MODEL/FINGERPRINT@01000100@0@HASH`, LMCache's object key, so that the agent knows model and chain; 16 digits of the fingerprint
 *   hash         SHA-256 in hex: of chunk i over the hash of chunk i-1 and the chunk's tokens as little-endian 32-bit numbers; before the first
 *                stands the fingerprint
 *
 * Invariant: two chunks have one hash only where every bit of their rows is the same by right: same model bytes, build, CPU variant, KV
 * type, flash attention, layout and seal, and the same tokens from the start of the sequence.
 */
import { createHash } from 'node:crypto';
import { SEAL_VERSION } from './chunk-seal.ts';
import type { EngineFacts } from './llama-engine.ts';

/** One rank of one, the first: LMCache's packing of world size and worker. */
const RANK = '01000100';
const GROUP = '0';
/** Of a model's name; the agent takes keys of 2 KiB. */
const MAX_NAME_LENGTH = 96;

/** SHA-256 over everything that makes equal tokens different KV. */
export function fingerprintOf(facts: EngineFacts): Uint8Array {
  const parts = [
    'kvtier llama',
    `seal ${SEAL_VERSION}`,
    `model ${facts.modelSha256}`,
    `build ${facts.build}`,
    `cpu ${facts.cpuVariant}`,
    `kv ${facts.kvType}`,
    `flash attention ${facts.flashAttention}`,
    `layout ${facts.layout}`,
    `tokens ${facts.chunkTokens}`,
  ];
  return createHash('sha256').update(parts.join('\n')).digest();
}

/** What makes equal hashes equal KV, for people and for the agent. */
export interface ChunkNamespace {
  /** The model's name, cleaned. */
  readonly model: string;
  /** The fingerprint: 64 hex digits. */
  readonly layout: string;
}

export function chunkNamespaceOf(facts: EngineFacts): ChunkNamespace {
  const model = facts.modelName.replace(/[^A-Za-z0-9._-]+/g, '-').slice(0, MAX_NAME_LENGTH);
  return { model, layout: toHex(fingerprintOf(facts)) };
}

/** How the agent calls the model of chunks that came by RESP. */
export function respModelOf({ model, layout }: ChunkNamespace): string {
  return `${model}/${layout.slice(0, 16)}`;
}

export function respKeyOf(namespace: ChunkNamespace, hash: string): string {
  return `${respModelOf(namespace)}@${RANK}@${GROUP}@${hash}`;
}

/** The hashes of all whole chunks of a sequence, in order. */
export function chunkHashesOf(facts: EngineFacts, tokens: Int32Array): readonly string[] {
  const count = Math.floor(tokens.length / facts.chunkTokens);
  const hashes: string[] = [];
  let hash = fingerprintOf(facts);
  for (let index = 0; index < count; index += 1) {
    const part = tokens.subarray(index * facts.chunkTokens, (index + 1) * facts.chunkTokens);
    hash = createHash('sha256')
      .update(hash)
      .update(new Uint8Array(part.buffer, part.byteOffset, part.byteLength))
      .digest();
    hashes.push(toHex(hash));
  }
  return hashes;
}

function toHex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}
