/**
 * A slot table read as docs/formats/slot-table.md has it, with DataView and nothing of the reader's: what of it may be believed at all. What it
 * does not judge is where the slots lie; the allocator's owner does that.
 */
import type { BlockHash } from '#core/checksum.ts';

const HEADER_BYTES = 4096;
const UNIT_BYTES = 256;
const SEED = 0x6b76_7469_6572_540an;

export interface NaiveRecord {
  readonly unit: number;
  readonly generation: number;
  readonly sizeBytes: number;
  readonly checksum: bigint;
  readonly expiresAtMs: number;
  readonly key: Uint8Array;
  readonly namespaceUnit: number;
  /** This record's and its namespace's. */
  readonly units: readonly number[];
}

interface Text {
  readonly units: readonly number[];
  readonly bytes: Uint8Array;
}

export class NaiveSlotTable {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #hash: BlockHash;
  readonly #unitCount: number;

  constructor(bytes: Uint8Array, hash: BlockHash) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#hash = hash;
    this.#unitCount = this.#view.getUint32(72, true);
  }

  /** By unit. */
  records(): Map<number, NaiveRecord> {
    const found = new Map<number, NaiveRecord>();
    for (let unit = 0; unit < this.#unitCount; unit += 1) {
      const record = this.#chunk(unit);
      if (record !== undefined) found.set(unit, record);
    }
    return found;
  }

  #word(unit: number, offset: number): number {
    return this.#view.getUint32(HEADER_BYTES + unit * UNIT_BYTES + offset, true);
  }

  #chunk(unit: number): NaiveRecord | undefined {
    if (this.#word(unit, 0) !== 1) return undefined;
    const at = HEADER_BYTES + unit * UNIT_BYTES;
    const keyBytes = this.#view.getUint16(at + 88, true);
    const twinBytes = this.#view.getUint16(at + 90, true);
    const flags = this.#word(unit, 92);
    if (keyBytes > 2048 || twinBytes > 512 || flags > 1) return undefined;
    const text = this.#text(unit, keyBytes + twinBytes + flags * 24, { from: 96, seed: SEED + 1n });
    const namespaceUnit = this.#word(unit, 60);
    if (text === undefined || namespaceUnit >= this.#unitCount || this.#word(namespaceUnit, 0) !== 2) return undefined;
    if (this.#word(namespaceUnit, 8) !== this.#word(unit, 64)) return undefined;
    const namespaceBytes = this.#word(namespaceUnit, 16);
    const space = namespaceBytes > 65_536 ? undefined : this.#text(namespaceUnit, namespaceBytes, { from: 24, seed: SEED + 2n });
    if (space === undefined) return undefined;
    return {
      unit,
      generation: this.#view.getFloat64(at + 16, true),
      sizeBytes: this.#word(unit, 56),
      checksum: this.#view.getBigUint64(at + 48, true),
      expiresAtMs: this.#view.getFloat64(at + 32, true),
      key: text.bytes.subarray(0, keyBytes),
      namespaceUnit,
      units: [...text.units, ...space.units],
    };
  }

  /** The text of a record, where its units are linked right and its checksum holds. */
  #text(head: number, textBytes: number, place: { readonly from: number; readonly seed: bigint }): Text | undefined {
    const start = HEADER_BYTES + head * UNIT_BYTES;
    const inHead = Math.min(textBytes, 248 - place.from);
    const parts = [this.#bytes.subarray(start + place.from, start + place.from + inHead)];
    const units = [head];
    let sum = this.#hash(this.#bytes.subarray(start + 16, start + place.from + inHead), place.seed);
    let next = this.#word(head, 4);
    for (let left = textBytes - inHead; left > 0; left -= 240) {
      const unit = next - 1;
      if (unit < 0 || unit >= this.#unitCount || units.includes(unit) || this.#word(unit, 0) !== 3) return undefined;
      const part = HEADER_BYTES + unit * UNIT_BYTES + 16;
      parts.push(this.#bytes.subarray(part, part + Math.min(240, left)));
      sum = this.#hash(this.#bytes.subarray(part, part + Math.min(240, left)), sum);
      units.push(unit);
      next = this.#word(unit, 4);
    }
    if (next !== 0 || BigInt.asUintN(64, sum) !== this.#view.getBigUint64(start + 8, true)) return undefined;
    return { units, bytes: Uint8Array.from(Buffer.concat(parts)) };
  }
}
