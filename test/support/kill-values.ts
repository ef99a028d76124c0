/** Values that say whose they are: every byte follows from key, version and size, so a read can be checked without keeping it. */

/** Bytes of key number, version and size at the head of a value. */
const HEAD_BYTES = 16;

/** Deterministic numbers out of one seed (mulberry32). */
export class SeededRandom {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** [0, 1). */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }

  /** Whole, in [0, limit). */
  below(limit: number): number {
    return Math.floor(this.next() * limit);
  }

  pick<Item>(items: readonly Item[]): Item {
    const item = items[this.below(items.length)];
    if (item === undefined) throw new RangeError('Cannot pick from an empty list');
    return item;
  }

  /** Evenly on a logarithmic scale. */
  logarithmic(least: number, most: number): number {
    return Math.round(least * (most / least) ** this.next());
  }
}

/** `sizeBytes` bytes that no other key or version has; at least 16. */
export function makeValue(key: number, version: number, sizeBytes: number): Uint8Array {
  const words = new Uint32Array(Math.ceil(sizeBytes / 4));
  let state = (Math.imul(key + 1, 0x9e3779b1) ^ Math.imul(version + 1, 0x85ebca6b)) >>> 0 || 1;
  for (let index = 4; index < words.length; index += 1) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[index] = state;
  }
  words[0] = key;
  words[1] = version;
  words[2] = sizeBytes;
  words[3] = ~(key ^ version ^ sizeBytes);
  return new Uint8Array(words.buffer, 0, sizeBytes);
}

/** The version that a value claims to be, or a sentence about what is wrong with its bytes. */
export function readValue(key: number, bytes: Uint8Array): number | string {
  if (bytes.length < HEAD_BYTES) return `has ${bytes.length} bytes`;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const [owner, version, sizeBytes] = [view.getUint32(0, true), view.getUint32(4, true), view.getUint32(8, true)];
  if (owner !== key) return `belongs to key ${owner}, version ${version}`;
  if (sizeBytes !== bytes.length) return `has ${bytes.length} bytes, its head says ${sizeBytes}`;
  const wanted = makeValue(key, version, sizeBytes);
  return Buffer.compare(wanted, bytes) === 0 ? version : `has wrong bytes in version ${version}`;
}

/** The version in the head of a chunk file's payload, unchecked. */
export function versionOf(payload: Uint8Array): number {
  return new DataView(payload.buffer, payload.byteOffset, payload.length).getUint32(4, true);
}
