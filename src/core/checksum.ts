/**
 * The payload checksum: xxHash3-64 over blocks of 1 MiB, each seeded with the hash of the one before, the first with 0.
 * An empty payload hashes as one empty block. It finds corruption; it proves nothing against an adversary.
 * The hash itself is the host's (Bun.hash.xxHash3), so it comes in as a function.
 */
export const CHECKSUM_BLOCK_BYTES = 1024 * 1024;

export type BlockHash = (block: Uint8Array, seed: bigint) => bigint;

/** Checksum of a whole payload in memory. Streams do the same block by block as bytes land. */
export function checksum(payload: Uint8Array, hash: BlockHash): bigint {
  let seed = hash(payload.subarray(0, CHECKSUM_BLOCK_BYTES), 0n);
  for (let offset = CHECKSUM_BLOCK_BYTES; offset < payload.length; offset += CHECKSUM_BLOCK_BYTES) {
    seed = hash(payload.subarray(offset, offset + CHECKSUM_BLOCK_BYTES), seed);
  }
  return seed;
}
