import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { BATCH_KEYS, ChunkIndex } from '#cache/chunk-index.ts';
import { packAndHash } from '#cache/key-hash.ts';
import type { EntryIndex, NamespaceId } from '#core/brand.ts';

const seedWords = { k0: 0x1234567, k1: 0x89abcde };

/** A generator whose first two words are the seed of the hash. */
function fixedRng(): { nextUint32(): number } {
  const words = [seedWords.k0, seedWords.k1];
  return { nextUint32: () => words.shift() ?? 0 };
}

const namespaceIds = fc.integer({ min: 0, max: 2 }) as fc.Arbitrary<NamespaceId>;
/** Few different keys, so that commands meet; lengths around word borders, empty, and the limit. */
const keys = fc.oneof(
  { weight: 8, arbitrary: fc.uint8Array({ maxLength: 2 }).map((bytes) => bytes.map((byte) => byte & 3)) },
  { weight: 2, arbitrary: fc.integer({ min: 0, max: 30 }).map((n) => new TextEncoder().encode(n.toString(16).padStart(64, '0'))) },
  { weight: 1, arbitrary: fc.constantFrom(2045, 2046, 2047, 2048).map((length) => new Uint8Array(length).fill(7)) },
);

interface ModelRow {
  readonly namespace: NamespaceId;
  readonly key: Uint8Array;
  readonly entry: EntryIndex;
  readonly generation: number;
  parent: { readonly entry: EntryIndex; readonly generation: number } | undefined;
  columns: Columns;
}

interface Columns {
  readonly sizeBytes: number;
  readonly checksum: bigint;
  readonly ramSlot: number;
  readonly ssdFolder: number;
  readonly flags: number;
  readonly createdAtMs: number;
  readonly lastUsedAtMs: number;
  readonly expiresAtMs: number;
  readonly hitCount: number;
  readonly leaseCount: number;
  readonly readerCount: number;
}

const blank: Columns = {
  sizeBytes: 0,
  checksum: 0n,
  ramSlot: -1,
  ssdFolder: -1,
  flags: 0,
  createdAtMs: 0,
  lastUsedAtMs: 0,
  expiresAtMs: 0,
  hitCount: 0,
  leaseCount: 0,
  readerCount: 0,
};

const uint16 = fc.oneof(fc.integer({ min: 0, max: 0xffff }), fc.constantFrom(0, 0xffff));
const uint32 = fc.oneof(fc.integer({ min: 0, max: 2 ** 32 - 1 }), fc.constantFrom(0, 2 ** 31, 2 ** 32 - 1));
const columns: fc.Arbitrary<Columns> = fc.record({
  sizeBytes: uint32,
  checksum: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  ramSlot: fc.integer({ min: -1, max: 2 ** 31 - 1 }),
  ssdFolder: fc.integer({ min: -1, max: 2 ** 15 - 1 }),
  flags: uint16,
  createdAtMs: fc.double({ noNaN: true }),
  lastUsedAtMs: fc.double({ noNaN: true }),
  expiresAtMs: fc.nat(20),
  hitCount: uint32,
  leaseCount: uint16,
  readerCount: uint16,
});

type Command =
  | { readonly kind: 'insert'; readonly namespace: NamespaceId; readonly key: Uint8Array }
  | { readonly kind: 'remove'; readonly namespace: NamespaceId; readonly key: Uint8Array }
  | { readonly kind: 'find'; readonly namespace: NamespaceId; readonly key: Uint8Array }
  | { readonly kind: 'set'; readonly pick: number; readonly columns: Columns }
  | { readonly kind: 'link'; readonly pick: number; readonly parentPick: number }
  | { readonly kind: 'findMany'; readonly namespace: NamespaceId; readonly wanted: readonly (number | Uint8Array)[] };

/** A number picks a key that is there, so that most lookups get far. */
const wanted = fc.array(fc.oneof({ weight: 12, arbitrary: fc.nat() }, { weight: 1, arbitrary: keys }), { maxLength: 40 });

const commands: fc.Arbitrary<Command> = fc.oneof(
  { weight: 5, arbitrary: fc.record({ kind: fc.constant('insert' as const), namespace: namespaceIds, key: keys }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('remove' as const), namespace: namespaceIds, key: keys }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('find' as const), namespace: namespaceIds, key: keys }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('set' as const), pick: fc.nat(), columns }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('link' as const), pick: fc.nat(), parentPick: fc.nat() }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('findMany' as const), namespace: namespaceIds, wanted }) },
);

function nameOf(namespace: NamespaceId, key: Uint8Array): string {
  return `${namespace}:${Buffer.from(key).toString('hex')}`;
}

/** The index beside a Map that says what it must answer. */
class Pair {
  readonly index = new ChunkIndex(fixedRng());
  readonly rows = new Map<string, ModelRow>();
  #generation = 0;

  run(command: Command): void {
    if (command.kind === 'insert') this.#insert(command.namespace, command.key);
    else if (command.kind === 'remove') this.#remove(command.namespace, command.key);
    else if (command.kind === 'find')
      expect(this.index.find(command.namespace, command.key)).toBe(this.#expected(command.namespace, command.key));
    else if (command.kind === 'findMany') this.#findMany(command.namespace, command.wanted);
    else if (command.kind === 'set') this.#set(this.#pick(command.pick), command.columns);
    else if (command.kind === 'link') this.#link(this.#pick(command.pick), this.#pick(command.parentPick));
  }

  check(): void {
    const { index } = this;
    index.checkInvariants();
    expect(index.entryCount).toBe(this.rows.size);
    const expiring = [...this.rows.values()].filter((row) => row.columns.expiresAtMs !== 0);
    expect(index.expiringCount).toBe(expiring.length);
    for (const nowMs of [0, 1, 10, 20]) {
      const due = expiring.filter((row) => row.columns.expiresAtMs <= nowMs).map((row) => row.entry);
      expect(index.due(nowMs, 1000)).toEqual(due.sort((a, b) => a - b));
      expect(index.due(nowMs, 2)).toEqual(due.slice(0, 2));
    }
    for (const row of this.rows.values()) {
      const { entry } = row;
      expect(index.find(row.namespace, row.key)).toBe(entry);
      expect(index.namespaceOf(entry)).toBe(row.namespace);
      expect(Buffer.compare(index.keyOf(entry), row.key)).toBe(0);
      expect(index.keyEquals(entry, row.key)).toBe(true);
      expect(index.generation(entry)).toBe(row.generation);
      expect(readColumns(index, entry)).toEqual(row.columns);
      const parentLives = [...this.rows.values()].some(
        (other) => other.entry === row.parent?.entry && other.generation === row.parent.generation,
      );
      expect(index.parent(entry)).toBe(parentLives ? row.parent?.entry : -1);
      expect(index.parentGeneration(entry)).toBe(row.parent?.generation ?? 0);
    }
  }

  #expected(namespace: NamespaceId, key: Uint8Array): number {
    return this.rows.get(nameOf(namespace, key))?.entry ?? -1;
  }

  #insert(namespace: NamespaceId, key: Uint8Array): void {
    if (this.rows.has(nameOf(namespace, key))) {
      expect(() => this.index.insert(namespace, key)).toThrow('holds it already');
      return;
    }
    const entry = this.index.insert(namespace, key);
    expect(readColumns(this.index, entry)).toEqual(blank);
    this.#generation += 1;
    this.index.setGeneration(entry, this.#generation);
    this.rows.set(nameOf(namespace, key), { namespace, key, entry, generation: this.#generation, parent: undefined, columns: blank });
  }

  #remove(namespace: NamespaceId, key: Uint8Array): void {
    const row = this.rows.get(nameOf(namespace, key));
    if (row === undefined) return;
    this.index.remove(row.entry);
    this.rows.delete(nameOf(namespace, key));
    expect(this.index.isLive(row.entry)).toBe(false);
    expect(this.index.generation(row.entry)).toBe(0);
    expect(() => this.index.remove(row.entry)).toThrow('is free');
  }

  #findMany(namespace: NamespaceId, picks: readonly (number | Uint8Array)[]): void {
    const present = [...this.rows.values()].filter((row) => row.namespace === namespace);
    const sought = picks.map((pick) =>
      typeof pick === 'number' ? (present[pick % Math.max(1, present.length)]?.key ?? hexKey(pick)) : pick,
    );
    const expected = sought.map((key) => this.#expected(namespace, key));
    const gap = expected.indexOf(-1);
    const count = gap < 0 ? expected.length : gap;
    const out = new Int32Array(sought.length);
    expect(this.index.findMany(namespace, sought, out)).toBe(count);
    expect([...out.subarray(0, count)]).toEqual(expected.slice(0, count));
    const each: number[] = [];
    const batch = new Int32Array(BATCH_KEYS);
    while (each.length < sought.length) each.push(...batch.subarray(0, this.index.findBatch(namespace, sought, each.length, batch)));
    expect(each).toEqual(expected);
  }

  #pick(pick: number): ModelRow | undefined {
    const all = [...this.rows.values()];
    return all[pick % Math.max(1, all.length)];
  }

  #set(row: ModelRow | undefined, values: Columns): void {
    if (row === undefined) return;
    writeColumns(this.index, row.entry, values);
    row.columns = values;
  }

  #link(row: ModelRow | undefined, parent: ModelRow | undefined): void {
    if (row === undefined || parent === undefined) return;
    if (row === parent) {
      this.index.setParent(row.entry, -1);
      row.parent = undefined;
      return;
    }
    this.index.setParent(row.entry, parent.entry);
    row.parent = { entry: parent.entry, generation: parent.generation };
  }
}

function readColumns(index: ChunkIndex, entry: EntryIndex): Columns {
  return {
    sizeBytes: index.sizeBytes(entry),
    checksum: index.checksum(entry),
    ramSlot: index.ramSlot(entry),
    ssdFolder: index.ssdFolder(entry),
    flags: index.flags(entry),
    createdAtMs: index.createdAtMs(entry),
    lastUsedAtMs: index.lastUsedAtMs(entry),
    expiresAtMs: index.expiresAtMs(entry),
    hitCount: index.hitCount(entry),
    leaseCount: index.leaseCount(entry),
    readerCount: index.readerCount(entry),
  };
}

function writeColumns(index: ChunkIndex, entry: EntryIndex, values: Columns): void {
  index.setSizeBytes(entry, values.sizeBytes);
  index.setChecksum(entry, values.checksum);
  index.setRamSlot(entry, values.ramSlot);
  index.setSsdFolder(entry, values.ssdFolder);
  index.setFlags(entry, values.flags);
  index.setCreatedAtMs(entry, values.createdAtMs);
  index.setLastUsedAtMs(entry, values.lastUsedAtMs);
  index.setExpiresAtMs(entry, values.expiresAtMs);
  index.setHitCount(entry, values.hitCount);
  index.setLeaseCount(entry, values.leaseCount);
  index.setReaderCount(entry, values.readerCount);
}

/** 64 ASCII digits, as an engine's hash is spelled. */
function hexKey(n: number): Uint8Array {
  return new TextEncoder().encode(n.toString(16).padStart(64, '0'));
}

const namespace0 = 0 as NamespaceId;

describe('ChunkIndex', () => {
  test('answers like a Map under any order of commands, and stays whole after each', () => {
    fc.assert(
      fc.property(fc.array(commands, { maxLength: 60, size: 'max' }), (list) => {
        const pair = new Pair();
        for (const command of list) {
          pair.run(command);
          pair.check();
        }
      }),
      { numRuns: 60 },
    );
  });

  test('answers like a Map through growth and churn over many segments and rehashes', () => {
    const index = new ChunkIndex(fixedRng());
    const entries = new Map<number, EntryIndex>();
    const random = lcg(7);
    for (let step = 0; step < 60_000; step += 1) {
      const n = random() % 40_000;
      const known = entries.get(n);
      if (known === undefined) {
        const entry = index.insert(namespace0, hexKey(n));
        index.setGeneration(entry, step + 1);
        entries.set(n, entry);
      } else if (step % 3 === 0) {
        index.remove(known);
        entries.delete(n);
      }
    }
    expect(index.entryCapacity).toBeGreaterThan(16_384);
    index.checkInvariants();
    for (let n = 0; n < 40_000; n += 1) expect(index.find(namespace0, hexKey(n))).toBe(entries.get(n) ?? -1);
  });

  test('finds 64 keys of mixed lengths in order, and stops at a gap wherever it is', () => {
    const index = new ChunkIndex(fixedRng());
    const chain: Uint8Array[] = Array.from({ length: 64 }, (_, n) => new Uint8Array(n === 40 ? 2048 : n * 3).fill(n));
    const entries = chain.map((key) => index.insert(namespace0, key));
    const out = new Int32Array(64);
    expect(index.findMany(namespace0, chain, out)).toBe(64);
    expect([...out]).toEqual(entries);
    for (let gap = 0; gap < 64; gap += 1) {
      const broken = chain.with(gap, hexKey(gap));
      expect(index.findMany(namespace0, broken, out.fill(-7))).toBe(gap);
      expect([...out.subarray(0, gap)]).toEqual(entries.slice(0, gap));
    }
    expect(index.findMany(namespace0, [], out)).toBe(0);
  });

  test('tells keys apart whose hashes are equal, in find, findMany and remove', () => {
    const pairs = collisions((n) => [namespace0, hexKey(n)]);
    expect(pairs.length).toBeGreaterThan(0);
    for (const [first, second] of pairs.map(([a, b]) => [hexKey(a), hexKey(b)] as const)) {
      const index = new ChunkIndex(fixedRng());
      const a = index.insert(namespace0, first);
      expect(index.find(namespace0, second)).toBe(-1);
      const out = new Int32Array(2);
      expect(index.findMany(namespace0, [first, second], out)).toBe(1);
      const b = index.insert(namespace0, second);
      expect(index.findMany(namespace0, [second, first], out)).toBe(2);
      expect([...out]).toEqual([b, a]);
      index.remove(a);
      expect(index.find(namespace0, first)).toBe(-1);
      expect(index.find(namespace0, second)).toBe(b);
      index.checkInvariants();
    }
  });

  test('tells namespaces apart whose hashes of one key are equal', () => {
    const key = hexKey(1);
    const pairs = collisions((n) => [n as NamespaceId, key]);
    expect(pairs.length).toBeGreaterThan(0);
    for (const [first, second] of pairs) {
      const index = new ChunkIndex(fixedRng());
      const entry = index.insert(first as NamespaceId, key);
      expect(index.find(second as NamespaceId, key)).toBe(-1);
      expect(index.findMany(second as NamespaceId, [key], new Int32Array(1))).toBe(0);
      expect(index.find(first as NamespaceId, key)).toBe(entry);
    }
  });

  test('takes keys as views into a larger buffer', () => {
    const index = new ChunkIndex(fixedRng());
    const buffer = new Uint8Array(300).map((_, at) => at);
    const entry = index.insert(namespace0, buffer.subarray(3, 70));
    buffer.copyWithin(100, 3, 70);
    buffer.fill(0, 3, 70);
    expect(index.find(namespace0, buffer.subarray(100, 167))).toBe(entry);
    expect(index.find(namespace0, buffer.subarray(3, 70))).toBe(-1);
  });

  test('keeps the same bytes of two namespaces apart', () => {
    const index = new ChunkIndex(fixedRng());
    const key = hexKey(1);
    const a = index.insert(namespace0, key);
    expect(index.find(1 as NamespaceId, key)).toBe(-1);
    const b = index.insert(1 as NamespaceId, key);
    expect(index.find(namespace0, key)).toBe(a);
    expect(index.find(1 as NamespaceId, key)).toBe(b);
  });

  test('ends the links of children when a parent is removed, also when its row holds another chunk', () => {
    const index = new ChunkIndex(fixedRng());
    const parent = index.insert(namespace0, hexKey(1));
    index.setGeneration(parent, 1);
    const child = index.insert(namespace0, hexKey(2));
    index.setGeneration(child, 2);
    index.setParent(child, parent);
    expect(index.parent(child)).toBe(parent);
    index.remove(parent);
    expect(index.parent(child)).toBe(-1);
    const other = index.insert(namespace0, hexKey(3));
    expect(other).toBe(parent);
    expect(index.parent(child)).toBe(-1);
    index.setGeneration(other, 3);
    expect(index.parent(child)).toBe(-1);
    expect(index.parentGeneration(child)).toBe(1);
  });

  test.each([
    ['a key beyond 2 KiB', (index: ChunkIndex) => index.find(namespace0, new Uint8Array(2049))],
    ['a column write to a free row', (index: ChunkIndex) => index.setFlags(0 as EntryIndex, 1)],
    ['the key of a free row', (index: ChunkIndex) => index.keyOf(0 as EntryIndex)],
    ['an output that is too short', (index: ChunkIndex) => index.findMany(namespace0, [hexKey(1), hexKey(2)], new Int32Array(1))],
  ])('refuses %s', (_name, act) => {
    expect(() => act(new ChunkIndex(fixedRng()))).toThrow('Cannot');
  });

  test.each([-1, 0x10000, Number.NaN])('refuses %s as a 16-bit count instead of wrapping', (value) => {
    const index = new ChunkIndex(fixedRng());
    const entry = index.insert(namespace0, hexKey(1));
    expect(() => index.setLeaseCount(entry, value)).toThrow('Cannot set');
    expect(() => index.setReaderCount(entry, value)).toThrow('Cannot set');
    expect(index.leaseCount(entry)).toBe(0);
  });
});

describe('ChunkIndex.scan', () => {
  test('visits every row that stays exactly once, in row order, whatever comes and goes between the pages', () => {
    const step = fc.record({
      limit: fc.integer({ min: 1, max: 5 }),
      inserts: fc.nat({ max: 4 }),
      removes: fc.array(fc.nat(), { maxLength: 4 }),
    });
    fc.assert(
      fc.property(fc.nat({ max: 30 }), fc.array(step, { minLength: 1, maxLength: 20 }), (initial, steps) => {
        const index = new ChunkIndex(fixedRng());
        let serial = 0;
        const insert = (): EntryIndex => index.insert(namespace0, hexKey((serial += 1)));
        const staying = new Set(Array.from({ length: initial }, insert));
        const live = new Set(staying);
        const visits: number[] = [];
        let cursor = 0;
        for (let round = 0; round === 0 || cursor !== 0; round += 1) {
          const { limit, inserts, removes } = steps[round % steps.length]!;
          const before = visits.length;
          cursor = index.scan(cursor, limit, (entry) => visits.push(entry));
          expect(visits.length - before).toBeLessThanOrEqual(limit);
          for (const pick of removes) {
            const victim = [...live][pick % Math.max(1, live.size)];
            if (victim === undefined) continue;
            index.remove(victim);
            live.delete(victim);
            staying.delete(victim);
          }
          if (round < 20) for (let i = 0; i < inserts; i += 1) live.add(insert());
        }
        expect(visits).toEqual(visits.toSorted((a, b) => a - b));
        for (const entry of staying) expect(visits.filter((visited) => visited === entry)).toHaveLength(1);
      }),
      { numRuns: 100 },
    );
  });

  test('bounds the free rows that one call passes over, and still ends', () => {
    const index = new ChunkIndex(fixedRng());
    const entries = Array.from({ length: 40_000 }, (_, n) => index.insert(namespace0, hexKey(n)));
    for (const entry of entries.slice(0, -1)) index.remove(entry);
    const visits: number[] = [];
    let calls = 0;
    let cursor = 0;
    do {
      cursor = index.scan(cursor, 10, (entry) => visits.push(entry));
      calls += 1;
    } while (cursor !== 0);
    expect(calls).toBe(3);
    expect(visits).toEqual([entries.at(-1)]);
  });

  test('lets the visitor remove the row it is given', () => {
    const index = new ChunkIndex(fixedRng());
    for (let n = 0; n < 10; n += 1) index.insert(namespace0, hexKey(n));
    let visits = 0;
    index.forEach((entry) => {
      visits += 1;
      index.remove(entry);
    });
    expect([visits, index.entryCount]).toEqual([10, 0]);
    index.checkInvariants();
  });
});

describe('ChunkIndex memory', () => {
  test('stays at or below 200 bytes a chunk at a million chunks of 64-byte keys, links of two tiers included', () => {
    const index = new ChunkIndex(fixedRng());
    const key = new Uint8Array(64).fill(0x61);
    const words = new DataView(key.buffer);
    for (let n = 0; n < 1_000_000; n += 1) {
      words.setUint32(20, n);
      index.insert(namespace0, key);
    }
    const tierBytes = 16 * index.entryCapacity;
    expect((index.memoryBytes() + 2 * tierBytes) / 1_000_000).toBeLessThanOrEqual(200);
  });

  test('stays where it is when churn replaces every key many times', () => {
    const index = new ChunkIndex(fixedRng());
    const entries = Array.from({ length: 5000 }, (_, n) => index.insert(namespace0, hexKey(n)));
    const before = index.memoryBytes();
    const pagesBefore = index.keyPageCount;
    const random = lcg(3);
    for (let step = 0; step < 50_000; step += 1) {
      const at = random() % entries.length;
      index.remove(entries[at]!);
      entries[at] = index.insert(namespace0, hexKey(5000 + step));
    }
    expect(index.keyPageCount).toBe(pagesBefore);
    // Rows and keys take no byte more; a shard of the hash table that was just below its limit may have doubled.
    expect(index.memoryBytes()).toBeLessThan(before * 1.05);
    index.checkInvariants();
  });

  test('serves long keys from the room of short ones, even where one short key in each page stays', () => {
    const index = new ChunkIndex(fixedRng());
    const short = Array.from({ length: 24_000 }, (_, n) => index.insert(namespace0, hexKey(n)));
    const before = index.memoryBytes();
    const pagesBefore = index.keyPageCount;
    short.forEach((entry, n) => n % 240 !== 0 && index.remove(entry));
    expect(index.keyPageCount).toBe(1);
    const long = new Uint8Array(2048);
    for (let n = 0; n < 600; n += 1) {
      new DataView(long.buffer).setUint32(0, n);
      index.insert(namespace0, long);
    }
    expect(index.keyPageCount).toBeLessThanOrEqual(pagesBefore);
    expect(index.memoryBytes()).toBe(before);
    index.checkInvariants();
  });
});

/** Pairs of numbers whose inputs have equal hashes under the fixed seed: among 200,000 there are about five. */
function collisions(input: (n: number) => readonly [NamespaceId, Uint8Array]): (readonly [number, number])[] {
  const words = new Uint32Array(16);
  const seen = new Map<number, number>();
  const pairs: (readonly [number, number])[] = [];
  for (let n = 0; n < 200_000; n += 1) {
    const [namespace, key] = input(n);
    const hash = packAndHash(seedWords, namespace, key, words, 0);
    const other = seen.get(hash);
    if (other === undefined) seen.set(hash, n);
    else pairs.push([other, n]);
  }
  return pairs;
}

function lcg(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state >>> 8;
  };
}
