/**
 * Reads a slot table that a former process left, and trusts nothing in it: numbers out of range, links that lead astray or in circles,
 * texts that are none, a checksum that is wrong, and the record does not exist.
 *
 * Invariants: a unit is claimed by at most one record; what `chunks` answers has a namespace that decodes.
 */
import type { BlockHash } from '#core/checksum.ts';
import type { LmBlock } from '#core/lm-block.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';
import type { SlotPlace } from '#slab/slab-geometry.ts';
import * as format from './slot-record.ts';
import { HEADER_DOUBLES, HEADER_WORDS, UNIT_DOUBLES, UNIT_WORDS, unit, UNIT_BYTES } from './slot-record.ts';
import type { TableViews } from './table-views.ts';

export interface FoundChunk {
  readonly unit: number;
  readonly namespaceUnit: number;
  readonly namespace: NamespaceDescriptor;
  readonly key: Uint8Array;
  readonly metadata: Uint8Array | undefined;
  readonly lmBlock: LmBlock | undefined;
  readonly generation: number;
  readonly sizeBytes: number;
  readonly checksum: bigint;
  readonly createdAtMs: number;
  readonly expiresAtMs: number;
  readonly parentGeneration: number;
  readonly lastUsedAtMs: number;
  readonly place: SlotPlace;
}

interface FoundNamespace {
  readonly descriptor: NamespaceDescriptor;
  /** Of its checksum; chunks name it, so that another namespace in the same unit is not taken for it. */
  readonly stamp: number;
  readonly units: readonly number[];
}

export class SlotTableReader {
  readonly #views: TableViews;
  readonly #unitCount: number;
  readonly #hash: BlockHash;
  readonly #claimed: Uint8Array;
  readonly #namespaces = new Map<number, FoundNamespace | undefined>();
  readonly #claimedNamespaces = new Set<number>();
  readonly #units = new Map<number, readonly number[]>();

  constructor(views: TableViews, unitCount: number, hash: BlockHash) {
    this.#views = views;
    this.#unitCount = unitCount;
    this.#hash = hash;
    this.#claimed = new Uint8Array(unitCount);
  }

  /** Every chunk's record that can be believed, ordered by place. */
  chunks(): FoundChunk[] {
    const found: FoundChunk[] = [];
    for (let index = 0; index < this.#unitCount; index += 1) {
      const chunk = this.#views.u32[HEADER_WORDS + index * UNIT_WORDS] === format.STATE_CHUNK ? this.#chunk(index) : undefined;
      if (chunk !== undefined) found.push(chunk);
    }
    return found.sort((a, b) => a.place.firstPage - b.place.firstPage || a.place.ordinal - b.place.ordinal);
  }

  /** False where a unit of the record, or of its namespace, is another's: one of the two is a leftover. */
  isClaimable(chunk: FoundChunk): boolean {
    const units = this.#units.get(chunk.unit) ?? [];
    const space = this.#namespaces.get(chunk.namespaceUnit)?.units ?? [];
    if (units.some((index) => this.#claimed[index] === 1 || space.includes(index))) return false;
    return this.#claimedNamespaces.has(chunk.namespaceUnit) || space.every((index) => this.#claimed[index] === 0);
  }

  /** The units of this record and of its namespace are in use. */
  claim(chunk: FoundChunk): void {
    for (const index of this.#units.get(chunk.unit) ?? []) this.#claimed[index] = 1;
    for (const index of this.#namespaces.get(chunk.namespaceUnit)?.units ?? []) this.#claimed[index] = 1;
    this.#claimedNamespaces.add(chunk.namespaceUnit);
  }

  isClaimed(index: number): boolean {
    return this.#claimed[index] === 1;
  }

  #chunk(index: number): FoundChunk | undefined {
    const { u16, u32, f64, u64 } = this.#views;
    const word = HEADER_WORDS + index * UNIT_WORDS;
    const double = HEADER_DOUBLES + index * UNIT_DOUBLES;
    const keyBytes = u16[word * 2 + unit.keyBytes / 2] as number;
    const metadataBytes = u16[word * 2 + unit.metadataBytes / 2] as number;
    const flags = u32[word + unit.flags / 4] as number;
    const textBytes = keyBytes + metadataBytes + (flags === 0 ? 0 : format.LM_BLOCK_BYTES);
    if (keyBytes > format.MAX_KEY_BYTES || metadataBytes > format.MAX_METADATA_BYTES || (flags !== 0 && flags !== format.FLAG_LM_BLOCK))
      return undefined;
    const units = this.#chain(index, textBytes - format.CHUNK_TEXT_BYTES);
    if (units === undefined || !this.#isSealed(index, format.STATE_CHUNK, textBytes)) return undefined;
    const namespaceUnit = u32[word + unit.namespace / 4] as number;
    const namespace = this.#namespace(namespaceUnit);
    if (namespace === undefined || namespace.stamp !== u32[word + unit.namespaceStamp / 4]) return undefined;
    const text = this.#text(index, units, textBytes);
    const lastUsedAtMs = f64[double + unit.lastUsed / 8] as number;
    const chunk: FoundChunk = {
      unit: index,
      namespaceUnit,
      namespace: namespace.descriptor,
      key: text.subarray(0, keyBytes),
      metadata: metadataBytes === 0 ? undefined : text.subarray(keyBytes, keyBytes + metadataBytes),
      lmBlock: flags === 0 ? undefined : format.decodeLmBlock(text.subarray(keyBytes + metadataBytes)),
      generation: f64[double + unit.generation / 8] as number,
      sizeBytes: u32[word + unit.sizeBytes / 4] as number,
      checksum: u64[double + unit.payloadChecksum / 8] as bigint,
      createdAtMs: f64[double + unit.createdAt / 8] as number,
      expiresAtMs: f64[double + unit.expiresAt / 8] as number,
      parentGeneration: f64[double + unit.parentGeneration / 8] as number,
      lastUsedAtMs: Number.isFinite(lastUsedAtMs) && lastUsedAtMs > 0 ? lastUsedAtMs : (f64[double + unit.createdAt / 8] as number),
      place: {
        firstPage: u32[word + unit.firstPage / 4] as number,
        pages: u32[word + unit.pages / 4] as number,
        slots: u32[word + unit.slots / 4] as number,
        classBytes: u32[word + unit.classBytes / 4] as number,
        ordinal: u32[word + unit.ordinal / 4] as number,
      },
    };
    if (!isPlausible(chunk)) return undefined;
    this.#units.set(index, units);
    return chunk;
  }

  #namespace(index: number): FoundNamespace | undefined {
    if (index >= this.#unitCount) return undefined;
    if (this.#namespaces.has(index)) return this.#namespaces.get(index);
    const { u32 } = this.#views;
    const word = HEADER_WORDS + index * UNIT_WORDS;
    const textBytes = u32[word + unit.namespaceBytes / 4] as number;
    const isOne = u32[word] === format.STATE_NAMESPACE && textBytes <= format.MAX_NAMESPACE_BYTES;
    const units = isOne ? this.#chain(index, textBytes - format.NAMESPACE_TEXT_BYTES) : undefined;
    let known: FoundNamespace | undefined;
    if (units !== undefined && this.#isSealed(index, format.STATE_NAMESPACE, textBytes)) {
      const descriptor = format.decodeNamespace(this.#text(index, units, textBytes));
      if (descriptor !== undefined) known = { descriptor, stamp: u32[word + unit.checksum / 4] as number, units };
    }
    this.#namespaces.set(index, known);
    return known;
  }

  /** The head and the continuations that hold `tailBytes`; undefined where the links do not lead there. */
  #chain(head: number, tailBytes: number): number[] | undefined {
    const { u32 } = this.#views;
    const units = [head];
    let next = u32[HEADER_WORDS + head * UNIT_WORDS + unit.next / 4] as number;
    for (let left = tailBytes; left > 0; left -= format.CONTINUATION_TEXT_BYTES) {
      const index = next - 1;
      if (index < 0 || index >= this.#unitCount || units.includes(index)) return undefined;
      if (u32[HEADER_WORDS + index * UNIT_WORDS] !== format.STATE_CONTINUATION) return undefined;
      units.push(index);
      next = u32[HEADER_WORDS + index * UNIT_WORDS + unit.next / 4] as number;
    }
    return next === 0 ? units : undefined;
  }

  #isSealed(head: number, state: number, textBytes: number): boolean {
    const sealed = this.#views.u64[HEADER_DOUBLES + head * UNIT_DOUBLES + unit.checksum / 8];
    return sealed === format.recordChecksum(this.#views, this.#hash, { head, state, textBytes });
  }

  /** A copy. */
  #text(head: number, units: readonly number[], textBytes: number): Uint8Array {
    const { bytes, u32 } = this.#views;
    const isChunk = u32[HEADER_WORDS + head * UNIT_WORDS] === format.STATE_CHUNK;
    const text = new Uint8Array(textBytes);
    let done = 0;
    for (const [place, index] of units.entries()) {
      const inUnit = place > 0 ? unit.continuationText : isChunk ? unit.chunkText : unit.namespaceText;
      const room = place > 0 ? format.CONTINUATION_TEXT_BYTES : isChunk ? format.CHUNK_TEXT_BYTES : format.NAMESPACE_TEXT_BYTES;
      const count = Math.min(room, textBytes - done);
      const start = format.TABLE_HEADER_BYTES + index * UNIT_BYTES + inUnit;
      text.set(bytes.subarray(start, start + count), done);
      done += count;
    }
    return text;
  }
}

function isPlausible(chunk: FoundChunk): boolean {
  const { generation, parentGeneration, createdAtMs, expiresAtMs, sizeBytes, place } = chunk;
  const times = [createdAtMs, expiresAtMs];
  return (
    Number.isSafeInteger(generation) &&
    generation > 0 &&
    Number.isSafeInteger(parentGeneration) &&
    parentGeneration >= 0 &&
    times.every((time) => Number.isFinite(time) && time >= 0) &&
    sizeBytes <= place.classBytes
  );
}
