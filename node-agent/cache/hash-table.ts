/**
 * Hash -> row, open addressing with linear probing, as 256 tables chosen by the top bits of the hash, each growing on its own:
 * a rehash touches a 256th of the rows (4,000 rows, tens of microseconds, at a million), so none is a pause.
 *
 * A slot is two words, [hash, row + 1], eight slots to a cache line; row + 1 = 0 marks it empty. Removal shifts later slots back
 * instead of leaving tombstones, so that churn never slows a lookup. At most 2/3 of a table is used.
 *
 * Invariants (checkInvariants): every used slot is reachable from its home without crossing an empty one; used counts are exact.
 */
import { assert } from '#core/assert.ts';

const SHARD_BITS = 8;
const SHARD_COUNT = 1 << SHARD_BITS;
const SHARD_SHIFT = 32 - SHARD_BITS;
const FIRST_SLOTS = 8;

export class HashTable {
  readonly #shards: Uint32Array[] = Array.from({ length: SHARD_COUNT }, () => new Uint32Array(FIRST_SLOTS * 2));
  readonly #used = new Uint32Array(SHARD_COUNT);

  /** The shard that holds `hash`; pass it to `next` and `rowAt`. Valid until the next insert or remove. */
  shardOf(hash: number): Uint32Array {
    return this.#shards[hash >>> SHARD_SHIFT]!;
  }

  insert(hash: number, row: number): void {
    const shardNumber = hash >>> SHARD_SHIFT;
    let shard = this.#shards[shardNumber]!;
    const used = this.#used[shardNumber]! + 1;
    if (used * 3 > shard.length) {
      shard = grow(shard);
      this.#shards[shardNumber] = shard;
    }
    this.#used[shardNumber] = used;
    place(shard, hash, row + 1);
  }

  /** `hash` and `row` must be in the table. */
  remove(hash: number, row: number): void {
    const shardNumber = hash >>> SHARD_SHIFT;
    const shard = this.#shards[shardNumber]!;
    const mask = shard.length - 1;
    let at = (hash << 1) & mask;
    while (shard[at + 1] !== row + 1) {
      if (shard[at + 1] === 0) assert(false, `Cannot remove row ${row} from the hash table: it is not there`);
      at = (at + 2) & mask;
    }
    // Backward shift: a later slot moves into the hole unless its home lies between the hole and itself.
    let hole = at;
    for (let next = (hole + 2) & mask; shard[next + 1] !== 0; next = (next + 2) & mask) {
      const home = (shard[next]! << 1) & mask;
      if (((next - home) & mask) < ((next - hole) & mask)) continue;
      shard[hole] = shard[next]!;
      shard[hole + 1] = shard[next + 1]!;
      hole = next;
    }
    shard[hole] = 0;
    shard[hole + 1] = 0;
    this.#used[shardNumber] = this.#used[shardNumber]! - 1;
  }

  memoryBytes(): number {
    let sum = this.#used.byteLength;
    for (const shard of this.#shards) sum += shard.byteLength;
    return sum;
  }

  forEach(visit: (hash: number, row: number) => void): void {
    for (const shard of this.#shards) {
      for (let at = 0; at < shard.length; at += 2) {
        if (shard[at + 1] !== 0) visit(shard[at]!, shard[at + 1]! - 1);
      }
    }
  }

  checkInvariants(): void {
    this.#shards.forEach((shard, shardNumber) => {
      const mask = shard.length - 1;
      let used = 0;
      for (let at = 0; at < shard.length; at += 2) {
        if (shard[at + 1] === 0) continue;
        used += 1;
        assert(shard[at]! >>> SHARD_SHIFT === shardNumber, `Hash table slot ${at} is in the wrong shard ${shardNumber}`);
        for (let probe = (shard[at]! << 1) & mask; probe !== at; probe = (probe + 2) & mask) {
          assert(shard[probe + 1] !== 0, `Hash table row ${shard[at + 1]! - 1} cannot be reached: slot ${probe} before it is empty`);
        }
      }
      assert(used === this.#used[shardNumber], `Hash table shard ${shardNumber} counts ${this.#used[shardNumber]} rows, has ${used}`);
      assert(used * 3 <= shard.length, `Hash table shard ${shardNumber} is over its load: ${used} rows in ${shard.length / 2} slots`);
    });
  }
}

function place(shard: Uint32Array, hash: number, rowPlusOne: number): void {
  const mask = shard.length - 1;
  let at = (hash << 1) & mask;
  while (shard[at + 1] !== 0) at = (at + 2) & mask;
  shard[at] = hash;
  shard[at + 1] = rowPlusOne;
}

function grow(shard: Uint32Array): Uint32Array {
  const grown = new Uint32Array(shard.length * 2);
  for (let at = 0; at < shard.length; at += 2) {
    if (shard[at + 1] !== 0) place(grown, shard[at]!, shard[at + 1]!);
  }
  return grown;
}
