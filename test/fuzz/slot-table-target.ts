/**
 * Shared memory that a former process left: the header of the table, its records, and the memory that they speak of. A start takes what can be
 * believed, and that must be what the format's page says, apart from all else, and inside of the tier. Payloads are judged at the first touch.
 */
import fc from 'fast-check';
import { KiB } from '#core/bytes.ts';
import type { Address, Fd, NamespaceId, SlotIndex } from '#core/brand.ts';
import { noopLogger } from '#core/logger.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';
import type { Arena, SharedMemory } from '#ports/shared-memory.ts';
import { hash } from '#testsupport/journal-records.ts';
import type { SeededRandom } from '#testsupport/kill-values.ts';
import { NaiveSlotTable, type NaiveRecord } from '#testsupport/naive-slot-table.ts';
import { RamTier } from '#tiers/ram/ram-tier.ts';
import { CONTINUATION_TEXT_BYTES, TABLE_HEADER_BYTES, UNIT_BYTES } from '#tiers/ram/slot-record.ts';
import type { ChunkFacts } from '#tiers/ram/slot-table.ts';
import { demand, demandEqual, type Check, type FuzzTarget } from './harness.ts';

const TIER_BYTES = 256 * KiB;
const TABLE_BYTES = TABLE_HEADER_BYTES + (4096 + TIER_BYTES / KiB) * UNIT_BYTES;
/** An input is this much of the header, then units: the rest of the header is zeroes that nobody reads. */
const HEAD_BYTES = 192;
const MAX_UNITS = 48;
const SEED = 0x6b76_7469_6572_540an;

/** Two files in memory that is used again for each input; addresses mean nothing, as nobody but this file reads them. */
class ReusedMemory implements SharedMemory {
  readonly table = new Uint8Array(TABLE_BYTES);
  readonly tier = new Uint8Array(TIER_BYTES);
  /** Bytes of the table that are there; 0: no file. */
  tableBytes = 0;
  hasTier = true;

  create(name: string, sizeBytes: number): Arena {
    if (name === 'table') {
      this.table.fill(0);
      this.tableBytes = sizeBytes;
    } else this.hasTier = true;
    return this.#arena(name, sizeBytes);
  }

  open(name: string): Arena | undefined {
    const sizeBytes = name === 'table' ? this.tableBytes : this.hasTier ? TIER_BYTES : 0;
    return sizeBytes === 0 ? undefined : this.#arena(name, sizeBytes);
  }

  #arena(name: string, sizeBytes: number): Arena {
    const bytes = name === 'table' ? this.table : this.tier;
    return {
      path: name,
      fd: -1 as Fd,
      address: (2 ** 40) as Address,
      sizeBytes,
      allocate: (offset, length) => offset >= 0 && length >= 0 && offset + length <= sizeBytes,
      view: (offset, length) => {
        demand(offset >= 0 && length >= 0 && offset + length <= sizeBytes, `[${offset}, +${length}) of ${name} is looked at`);
        return bytes.subarray(offset, offset + length);
      },
      readOnlyFd: () => -1 as Fd,
      close: () => undefined,
    };
  }

  freeBytes(): number {
    return TIER_BYTES;
  }

  removeOrphans(): number {
    return 0;
  }
}

function tierOn(sharedMemory: SharedMemory): RamTier {
  const tier = new RamTier({
    sharedMemory,
    capacityBytes: TIER_BYTES,
    maxChunkBytes: 64 * KiB,
    populate: () => Promise.resolve({ ok: true }),
    keep: { hash, bootId: 'boot' },
    onArena: () => undefined,
    onGrowth: () => undefined,
    logger: noopLogger,
  });
  tier.start();
  return tier;
}

const text = fc.string({ maxLength: 12 });
const chunkFields = fc.record({
  keyBytes: fc.oneof(fc.nat(40), fc.nat(700)),
  twinBytes: fc.oneof(fc.constant(0), fc.nat(300)),
  sizeBytes: fc.oneof(fc.integer({ min: 1, max: 600 }), fc.integer({ min: 1, max: 40_000 })),
  namespace: fc.nat(2),
  hasBlock: fc.boolean(),
  expires: fc.boolean(),
  isForgotten: fc.boolean(),
});

function namespaceOf(id: number, word: string): NamespaceDescriptor {
  const rest = { model: 'm', rank: '0', group: '', dtype: '', layer: '', tags: { a: word } };
  return { grammar: 'object-key', tenant: `t${id}`, ...rest, keyPrefix: `p${id}`, keyTail: id === 2 ? 'x'.repeat(400) : '' };
}

const writer = new ReusedMemory();

/** A table as a real tier writes it; some chunks are gone again. */
function tableOf(chunks: readonly ReturnType<typeof factsOf>[]): Uint8Array {
  writer.tableBytes = 0;
  const tier = tierOn(writer);
  tier.restore();
  tier.setMark({ epoch: 3, journalSequence: 9 });
  const slots: SlotIndex[] = [];
  for (const { facts, isForgotten } of chunks) {
    const slot = tier.allocate(facts.sizeBytes);
    if (slot < 0) continue;
    tier.remember(slot as SlotIndex, facts);
    if (isForgotten) slots.push(slot as SlotIndex);
  }
  for (const slot of slots) tier.release(slot);
  const units = Math.min(MAX_UNITS, new DataView(writer.table.buffer).getUint32(72, true));
  const input = new Uint8Array(HEAD_BYTES + units * UNIT_BYTES);
  input.set(writer.table.subarray(0, HEAD_BYTES));
  input.set(writer.table.subarray(TABLE_HEADER_BYTES, TABLE_HEADER_BYTES + units * UNIT_BYTES), HEAD_BYTES);
  return input;
}

function factsOf(
  fields: typeof chunkFields extends fc.Arbitrary<infer T> ? T : never,
  generation: number,
  word: string,
): {
  readonly facts: ChunkFacts;
  readonly isForgotten: boolean;
} {
  const facts: ChunkFacts = {
    namespace: fields.namespace as NamespaceId,
    descriptor: namespaceOf(fields.namespace, word),
    key: new Uint8Array(fields.keyBytes).fill(generation),
    metadata: fields.twinBytes === 0 ? undefined : new Uint8Array(fields.twinBytes).fill(generation + 1),
    lmBlock: fields.hasBlock ? { fmt: generation, dtype: -1, shape: [1, 2, 3, -(2 ** 31)] } : undefined,
    generation,
    sizeBytes: fields.sizeBytes,
    checksum: BigInt.asUintN(64, BigInt(generation) * 0x9e37_79b9_7f4a_7c15n),
    createdAtMs: 1000 + generation,
    expiresAtMs: fields.expires ? 5000 : 0,
    parentGeneration: generation - 1,
    lastUsedAtMs: 2000 + generation,
  };
  return { facts, isForgotten: fields.isForgotten };
}

const tables = fc
  .tuple(fc.array(chunkFields, { maxLength: 7 }), text)
  .map(([chunks, word]) => tableOf(chunks.map((fields, index) => factsOf(fields, index + 1, word))))
  // Longer ones are cut and would count as valid.
  .filter((input) => input.length < HEAD_BYTES + MAX_UNITS * UNIT_BYTES);

/** Fields of a unit that a lie is told in: next, generation, sizes, namespace, place, lengths and flags. */
const LIED_WORDS = [4, 16, 20, 56, 60, 64, 68, 72, 76, 80, 84, 88, 92];

/** Well-formed lies: a field of one record in another, a record twice, numbers one too far, links to anywhere. */
function lie(bytes: Uint8Array, random: SeededRandom): void {
  const units = Math.floor((bytes.length - HEAD_BYTES) / UNIT_BYTES);
  if (units === 0) return;
  const view = new DataView(bytes.buffer);
  const at = (): number => HEAD_BYTES + random.below(units) * UNIT_BYTES;
  const [to, from, word] = [at(), at(), random.pick(LIED_WORDS)];
  switch (random.below(6)) {
    case 0:
      return void bytes.copyWithin(to, from, from + UNIT_BYTES);
    case 1:
      return view.setUint32(to + word, view.getUint32(from + word, true), true);
    case 2:
      return view.setUint32(to + word, view.getUint32(to + word, true) + random.below(5) - 2, true);
    case 3:
      return view.setUint32(to + 4, random.below(units + 1), true);
    case 4:
      return view.setUint32(to + 56, view.getUint32(to + 80, true) + random.below(4000), true);
    default:
      return view.setUint32(to, random.below(4), true);
  }
}

/** The checksums of the header and of every record, as far as its links lead: lies stay, and are sealed. */
function mend(input: Uint8Array, random: SeededRandom): Uint8Array {
  const out = input.slice();
  if (out.length < HEAD_BYTES) return out;
  const view = new DataView(out.buffer);
  const units = Math.floor((out.length - HEAD_BYTES) / UNIT_BYTES);
  for (let lies = random.below(4); lies > 0; lies -= 1) lie(out, random);
  if (random.below(2) === 0) view.setUint32(72, Math.min(units, MAX_UNITS), true);
  view.setBigUint64(40, BigInt.asUintN(64, hash(out.subarray(128, 192), hash(out.subarray(0, 40), SEED))), true);
  const sealed = new Map<number, number>();
  const seal = (unit: number, from: number, textBytes: number, seed: bigint): void => {
    const at = HEAD_BYTES + unit * UNIT_BYTES;
    const inHead = Math.min(textBytes, 248 - from);
    let sum = hash(out.subarray(at + 16, at + from + inHead), seed);
    let next = view.getUint32(at + 4, true);
    for (let left = textBytes - inHead; left > 0 && next > 0 && next <= units; left -= CONTINUATION_TEXT_BYTES) {
      const part = HEAD_BYTES + (next - 1) * UNIT_BYTES;
      sum = hash(out.subarray(part + 16, part + 16 + Math.min(CONTINUATION_TEXT_BYTES, left)), sum);
      next = view.getUint32(part + 4, true);
    }
    view.setBigUint64(at + 8, BigInt.asUintN(64, sum), true);
    sealed.set(unit, view.getUint32(at + 8, true));
  };
  const states = Array.from({ length: units }, (_, unit) => view.getUint32(HEAD_BYTES + unit * UNIT_BYTES, true));
  for (const [unit, state] of states.entries())
    if (state === 2) seal(unit, 24, Math.min(65_536, view.getUint32(HEAD_BYTES + unit * UNIT_BYTES + 16, true)), SEED + 2n);
  for (const [unit, state] of states.entries()) {
    if (state !== 1) continue;
    const at = HEAD_BYTES + unit * UNIT_BYTES;
    const stamp = sealed.get(view.getUint32(at + 60, true));
    if (stamp !== undefined && random.below(8) !== 0) view.setUint32(at + 64, stamp, true);
    const block = view.getUint32(at + 92, true) === 0 ? 0 : 24;
    seal(unit, 96, view.getUint16(at + 88, true) + view.getUint16(at + 90, true) + block, SEED + 1n);
  }
  return out;
}

/** A few records in the place of the former chunks, and what must hold then. */
function useAfterwards(tier: RamTier, slots: readonly SlotIndex[], random: SeededRandom): void {
  const before = slots.filter(() => random.below(2) === 0);
  for (const slot of before) {
    if (random.below(2) === 0) tier.noteUse(slot, 77);
    tier.forget(slot);
    tier.release(slot);
  }
  for (let count = 0; count < 3; count += 1) {
    const { facts } = factsOf(
      {
        keyBytes: 20 + 150 * count,
        twinBytes: 0,
        sizeBytes: 100 + 9000 * count,
        namespace: count,
        hasBlock: false,
        expires: false,
        isForgotten: false,
      },
      100 + count,
      'w',
    );
    const slot = tier.allocate(facts.sizeBytes);
    if (slot >= 0) tier.remember(slot as SlotIndex, facts);
  }
  tier.checkInvariants();
}

function begin(): Check {
  const memory = new ReusedMemory();
  let dirtyBytes = 0;
  return (input, random, valid) => {
    memory.table.fill(0, 0, Math.max(dirtyBytes, TABLE_HEADER_BYTES));
    const units = Math.min(input.length - HEAD_BYTES, TABLE_BYTES - TABLE_HEADER_BYTES);
    memory.table.set(input.subarray(0, HEAD_BYTES));
    if (units > 0) memory.table.set(input.subarray(HEAD_BYTES, HEAD_BYTES + units), TABLE_HEADER_BYTES);
    // Now and then the file is cut, or its memory is gone.
    memory.tableBytes = valid || random.below(16) > 0 ? TABLE_BYTES : random.below(TABLE_BYTES);
    memory.hasTier = valid || random.below(16) > 0;
    const wanted = new DataView(memory.table.buffer).getUint32(72, true);
    const isInside = wanted * UNIT_BYTES <= TABLE_BYTES - TABLE_HEADER_BYTES;
    const naive = isInside ? new NaiveSlotTable(memory.table, hash).records() : new Map<number, NaiveRecord>();
    const tier = tierOn(memory);
    const found = tier.restore();
    if (valid) demandEqual(found.length, naive.size, 'the records of a valid table');
    const ranges: { start: number; end: number }[] = [];
    const seen = new Set<number>();
    for (const chunk of found) {
      const model = naive.get(chunk.unit);
      demand(model !== undefined, `unit ${chunk.unit} holds no record that may be believed`);
      const { generation, sizeBytes, checksum: sum, expiresAtMs, key } = chunk;
      demandEqual(
        [generation, sizeBytes, sum, expiresAtMs, key],
        [model.generation, model.sizeBytes, model.checksum, model.expiresAtMs, model.key],
        'a record',
      );
      demand(!seen.has(chunk.unit), 'no record comes twice');
      seen.add(chunk.unit);
      const start = tier.address(chunk.slot) - 2 ** 40;
      demand(start >= 0 && start + tier.slotCapacityBytes(chunk.slot) <= TIER_BYTES, `a slot lies at ${start}`);
      demand(sizeBytes <= tier.slotCapacityBytes(chunk.slot), `${sizeBytes} bytes lie in a slot of ${tier.slotCapacityBytes(chunk.slot)}`);
      demand(
        ranges.every((range) => start >= range.end || start + sizeBytes <= range.start),
        'two chunks share memory',
      );
      ranges.push({ start, end: start + tier.slotCapacityBytes(chunk.slot) });
      demand(tier.view(chunk.slot, sizeBytes).length === sizeBytes, 'what is served is as long as the record says');
    }
    if (random.below(4) === 0) tier.checkInvariants();
    useAfterwards(
      tier,
      found.map((chunk) => chunk.slot),
      random,
    );
    dirtyBytes = TABLE_HEADER_BYTES + Math.max(input.length, new DataView(memory.table.buffer).getUint32(72, true) * UNIT_BYTES);
  };
}

export const slotTable: FuzzTarget = { name: 'slot-table', corpus: tables, mend, begin };
