/**
 * How chunks are named: `MODEL@01000100@0@HASH`, LMCache's object key, so that the agent's doors know model and chain.
 *
 *   MODEL  the model's name, cleaned, a slash, and 16 hex digits of the fingerprint
 *   HASH   SHA-256 in hex, chained: of chunk i over the hash of chunk i-1 and the chunk's tokens as little-endian 32-bit numbers; before the
 *          first stands the fingerprint's own hash
 *
 * Invariant: two chunks have one key only where every bit of their rows is the same by right: same model bytes, build, CPU variant, KV type,
 * flash attention, layout and seal, and the same tokens from the start of the sequence.
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

/** As it stands in keys and in the agent's statistics. */
export function modelIdOf(facts: EngineFacts): string {
  const name = facts.modelName.replace(/[^A-Za-z0-9._-]+/g, '-').slice(0, MAX_NAME_LENGTH);
  return `${name}/${toHex(fingerprintOf(facts)).slice(0, 16)}`;
}

/** The keys of all whole chunks of a sequence, in order. */
export function chunkKeysOf(facts: EngineFacts, tokens: Int32Array): readonly string[] {
  const model = modelIdOf(facts);
  const count = Math.floor(tokens.length / facts.chunkTokens);
  const keys: string[] = [];
  let hash = fingerprintOf(facts);
  for (let index = 0; index < count; index += 1) {
    const part = tokens.subarray(index * facts.chunkTokens, (index + 1) * facts.chunkTokens);
    hash = createHash('sha256')
      .update(hash)
      .update(new Uint8Array(part.buffer, part.byteOffset, part.byteLength))
      .digest();
    keys.push(`${model}@${RANK}@${GROUP}@${toHex(hash)}`);
  }
  return keys;
}

function toHex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}
