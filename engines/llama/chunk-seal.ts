/**
 * What stands behind the rows of a stored chunk, so that the engine's side judges the bytes itself, whichever way they came:
 *
 *   0  u64 magic 'KVTLLAMA'
 *   8  u32 version 1
 *   12 u32 bytes of the rows
 *   16 u64 xxHash3-64 of the rows, in blocks of 1 MiB, each seeded with the hash of the one before (#core/checksum.ts)
 *   24 32  SHA-256 of the key
 *   56 zeros up to 4096, so that a value of whole pages stays one
 *
 * Nothing is learned from a seal: it is compared with what it must be. It finds bytes that changed and values that belong to another key;
 * it proves nothing against somebody who writes seals.
 */
import { createHash } from 'node:crypto';
import { checksum } from '#core/checksum.ts';

export const SEAL_BYTES = 4096;
export const SEAL_VERSION = 1;
const MAGIC = 0x414d414c4c54564bn; // 'KVTLLAMA', little-endian
const USED_BYTES = 56;

/** Writes the seal into the last SEAL_BYTES of `value`. */
export function sealChunk(value: Uint8Array, key: string): void {
  sealOf(value, key, value.subarray(value.length - SEAL_BYTES));
}

/** Whether `value` is, to the bit, what was sealed under this key. */
export function sealHolds(value: Uint8Array, key: string): boolean {
  if (value.length < SEAL_BYTES) return false;
  const found = value.subarray(value.length - SEAL_BYTES);
  const view = new DataView(found.buffer, found.byteOffset, USED_BYTES);
  // The cheap part first: nothing is hashed for what is no chunk at all.
  if (view.getBigUint64(0, true) !== MAGIC) return false;
  const wanted = new Uint8Array(SEAL_BYTES);
  sealOf(value, key, wanted);
  return Buffer.compare(found, wanted) === 0;
}

function sealOf(value: Uint8Array, key: string, target: Uint8Array): void {
  const rows = value.subarray(0, value.length - SEAL_BYTES);
  const view = new DataView(target.buffer, target.byteOffset, USED_BYTES);
  target.fill(0);
  view.setBigUint64(0, MAGIC, true);
  view.setUint32(8, SEAL_VERSION, true);
  view.setUint32(12, rows.length, true);
  view.setBigUint64(16, checksum(rows, Bun.hash.xxHash3), true);
  target.set(createHash('sha256').update(key).digest(), 24);
}
