/**
 * The payload checksum: xxHash3-64 over blocks of 1 MiB, each seeded with the hash of the one before, the first with 0.
 * An empty payload hashes as one empty block. It finds corruption; it proves nothing against an adversary.
 * The hash itself is the host's (Bun.hash.xxHash3), so it comes in as a function.
 */
export const CHECKSUM_BLOCK_BYTES = 1024 * 1024;

export type BlockHash = (block: Uint8Array, seed: bigint) => bigint;

/** Checksum of a whole payload in memory; for one that lands step by step there is RunningChecksum. */
export function checksum(payload: Uint8Array, hash: BlockHash): bigint {
  let seed = hash(payload.subarray(0, CHECKSUM_BLOCK_BYTES), 0n);
  for (let offset = CHECKSUM_BLOCK_BYTES; offset < payload.length; offset += CHECKSUM_BLOCK_BYTES) {
    seed = hash(payload.subarray(offset, offset + CHECKSUM_BLOCK_BYTES), seed);
  }
  return seed;
}

/**
 * The checksum of a payload that lands step by step: hashes each block as soon as it is whole.
 * Invariant: what is hashed has landed, in order, and is never looked at again.
 */
export class RunningChecksum {
  #sizeBytes: number;
  readonly #hash: BlockHash;
  readonly #block: (offset: number, sizeBytes: number) => Uint8Array;
  #hashedBytes = 0;
  #seed = 0n;

  /** `block` gives a view of the payload's memory. */
  constructor(sizeBytes: number, hash: BlockHash, block: (offset: number, sizeBytes: number) => Uint8Array) {
    this.#sizeBytes = sizeBytes;
    this.#hash = hash;
    this.#block = block;
  }

  /** Forgets all: the next payload begins. */
  restart(sizeBytes: number): void {
    this.#sizeBytes = sizeBytes;
    this.#hashedBytes = 0;
    this.#seed = 0n;
  }

  /** May be called with any growing count of bytes that have landed. */
  advance(landedBytes: number): void {
    while (this.#hashedBytes < landedBytes) {
      const blockBytes = Math.min(CHECKSUM_BLOCK_BYTES, this.#sizeBytes - this.#hashedBytes);
      if (this.#hashedBytes + blockBytes > landedBytes) return;
      this.#seed = this.#hash(this.#block(this.#hashedBytes, blockBytes), this.#seed);
      this.#hashedBytes += blockBytes;
    }
  }

  /** Only after `advance` of the whole payload. */
  finish(): bigint {
    return this.#sizeBytes === 0 ? this.#hash(this.#block(0, 0), 0n) : this.#seed;
  }
}
