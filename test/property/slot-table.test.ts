/** The slot table against a model: what a process that is killed anywhere leaves behind, torn and damaged in every way. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { NamespaceId, SlotIndex } from '#core/brand.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';
import { MiB } from '#core/bytes.ts';
import type { SlotPlace } from '#slab/slab-geometry.ts';
import { SlotTable, type ChunkFacts } from '#tiers/ram/slot-table.ts';
import { simHash } from '#testsupport/sim-cache.ts';
import { SimSharedMemory } from '#testsupport/sim-shared-memory.ts';

const geometry = { tierBytes: MiB, arenaBytes: MiB, pageBytes: 4096, bootId: 'boot' };
const SLOTS = 24;
const CLASS_BYTES = 4096;

function namespaceOf(id: number): NamespaceDescriptor {
  const tail = id % 3 === 2 ? 'x'.repeat(700) : '';
  return {
    grammar: 'object-key',
    tenant: `t${id}`,
    model: 'm',
    rank: '0',
    group: '',
    dtype: '',
    layer: '',
    tags: { a: 'b' },
    keyPrefix: `p${id}`,
    keyTail: tail,
  };
}

/** One slab of SLOTS slots. */
function placeOf(slot: number): SlotPlace {
  return { firstPage: 0, pages: SLOTS, slots: SLOTS, classBytes: CLASS_BYTES, ordinal: slot };
}

interface Chunk {
  readonly slot: number;
  readonly facts: ChunkFacts;
}

type Step =
  | { readonly kind: 'remember'; readonly slot: number; readonly namespace: number; readonly keyBytes: number; readonly twinBytes: number }
  | { readonly kind: 'erase'; readonly slot: number };

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant('remember' as const),
      slot: fc.nat(SLOTS - 1),
      namespace: fc.nat(5),
      keyBytes: fc.oneof(fc.nat(200), fc.nat(2048)),
      twinBytes: fc.oneof(fc.constant(0), fc.nat(512)),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('erase' as const), slot: fc.nat(SLOTS - 1) }) },
);

class Machine {
  readonly memory = new SimSharedMemory();
  table: SlotTable;
  readonly model = new Map<number, ChunkFacts>();
  #generation = 1;

  constructor() {
    this.table = Machine.open(this.memory).table;
  }

  static open(memory: SimSharedMemory): { table: SlotTable; kept: boolean; reason: string } {
    const opened = SlotTable.open(memory, geometry, simHash);
    if (opened === undefined) throw new Error('The table can be had');
    return opened;
  }

  run(next: Step): void {
    if (next.kind === 'erase') {
      this.table.erase(next.slot as SlotIndex);
      this.model.delete(next.slot);
      return;
    }
    const generation = this.#generation++;
    const facts: ChunkFacts = {
      namespace: next.namespace as NamespaceId,
      descriptor: namespaceOf(next.namespace),
      key: new Uint8Array(next.keyBytes).fill(generation),
      metadata: next.twinBytes === 0 ? undefined : new Uint8Array(next.twinBytes).fill(generation + 1),
      lmBlock: generation % 3 === 0 ? { fmt: generation, dtype: -1, shape: [1, 2, 3, -(2 ** 31)] } : undefined,
      generation,
      sizeBytes: 100 + next.slot,
      checksum: (BigInt(generation) * 0x9e37_79b9_7f4a_7c15n) % 2n ** 64n,
      createdAtMs: 1000 + generation,
      expiresAtMs: 0,
      parentGeneration: generation - 1,
      lastUsedAtMs: 2000 + generation,
    };
    this.table.remember(next.slot as SlotIndex, facts, placeOf(next.slot));
    this.model.set(next.slot, facts);
  }

  get bytes(): Uint8Array {
    const bytes = this.memory.file('table');
    if (bytes === undefined) throw new Error('The table is there');
    return bytes;
  }

  check(): void {
    this.table.checkInvariants((slot) => placeOf(slot));
  }
}

/** Another process looks at the same memory. */
function restore(memory: SimSharedMemory): { found: Chunk[]; table: SlotTable; kept: boolean } {
  memory.endProcess();
  const { table, kept } = Machine.open(memory);
  const slots = new Set<number>();
  const found = table.restore((place) => {
    if (place.firstPage !== 0 || place.ordinal >= SLOTS || place.classBytes !== CLASS_BYTES || slots.has(place.ordinal)) return -1;
    slots.add(place.ordinal);
    return place.ordinal as SlotIndex;
  });
  table.checkInvariants((slot) => placeOf(slot));
  return {
    kept,
    table,
    found: found.map((chunk) => ({ slot: chunk.slot, facts: { ...chunk, namespace: 0 as NamespaceId, descriptor: chunk.namespace } })),
  };
}

function same(a: ChunkFacts, b: ChunkFacts | undefined): boolean {
  if (b === undefined) return false;
  const text = (facts: ChunkFacts): string =>
    JSON.stringify([
      Object.entries(facts.descriptor).toSorted(([a], [b]) => (a < b ? -1 : 1)),
      [...facts.key],
      [...(facts.metadata ?? [])],
      facts.lmBlock,
      facts.generation,
      facts.sizeBytes,
      String(facts.checksum),
      facts.createdAtMs,
      facts.expiresAtMs,
      facts.parentGeneration,
    ]);
  return text(a) === text(b);
}

describe('SlotTable', () => {
  it('gives the next process exactly what was remembered and not erased, over several processes', () => {
    fc.assert(
      fc.property(fc.array(fc.array(step, { maxLength: 40 }), { minLength: 1, maxLength: 3 }), (lives) => {
        const machine = new Machine();
        for (const steps of lives) {
          for (const next of steps) machine.run(next);
          machine.check();
          const { found, table, kept } = restore(machine.memory);
          expect(kept).toBe(true);
          expect(found.length).toBe(machine.model.size);
          for (const { slot, facts } of found) {
            expect(same(facts, machine.model.get(slot))).toBe(true);
            expect(facts.lastUsedAtMs).toBe(machine.model.get(slot)?.lastUsedAtMs);
          }
          machine.table = table;
          // The new process knows namespaces by its own numbers.
          machine.model.clear();
          for (const { slot, facts } of found) machine.model.set(slot, facts);
        }
      }),
      { numRuns: 150 },
    );
  });

  it('after a kill in the middle of a step gives what was there before the step or after it, whichever stores had happened, and nothing else', () => {
    fc.assert(
      fc.property(
        fc.array(step, { maxLength: 30 }),
        step,
        fc.array(fc.boolean(), { minLength: 8, maxLength: 64 }),
        (steps, last, choice) => {
          const machine = new Machine();
          for (const next of steps) machine.run(next);
          const before = machine.bytes.slice();
          const wasThere = new Map(machine.model);
          machine.run(last);
          const isThere = new Map(machine.model);
          const after = machine.bytes;
          // Any set of the four-byte words that the step changed, not only those in the order of the program.
          const words = { before: new Uint32Array(before.buffer), after: new Uint32Array(after.buffer) };
          let changed = 0;
          for (let word = 0; word < words.after.length; word += 1) {
            if (words.before[word] === words.after[word]) continue;
            if (choice[changed % choice.length] === true) words.after[word] = words.before[word] as number;
            changed += 1;
          }
          const { found } = restore(machine.memory);
          for (const { slot, facts } of found) expect(same(facts, wasThere.get(slot)) || same(facts, isThere.get(slot))).toBe(true);
          // The other slots are not touched by it, unless their namespace's record was.
          const untouched = [...wasThere].filter(([slot]) => slot !== last.slot);
          for (const [slot, facts] of untouched) expect(found.some((chunk) => chunk.slot === slot && same(chunk.facts, facts))).toBe(true);
        },
      ),
      { numRuns: 300 },
    );
  });

  it('never gives what was not remembered, and stays whole, whatever bytes are damaged', () => {
    fc.assert(
      fc.property(
        fc.array(step, { minLength: 5, maxLength: 40 }),
        fc.array(fc.tuple(fc.nat(64 * 256 - 1), fc.nat(255)), { maxLength: 60 }),
        (steps, damage) => {
          const machine = new Machine();
          for (const next of steps) machine.run(next);
          for (const [offset, byte] of damage) machine.bytes[4096 + offset] = byte;
          const { found, table } = restore(machine.memory);
          for (const { slot, facts } of found) expect(same(facts, machine.model.get(slot))).toBe(true);
          machine.table = table;
          machine.model.clear();
          for (const next of steps) machine.run(next);
          machine.check();
        },
      ),
      { numRuns: 200 },
    );
  });

  it('survives pages of garbage', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 4096, maxLength: 4096 }), fc.nat(2 ** 32 - 1), (garbage, used) => {
        const machine = new Machine();
        machine.run({ kind: 'remember', slot: 1, namespace: 1, keyBytes: 10, twinBytes: 0 });
        for (let page = 1; page < 9; page += 1) machine.bytes.set(garbage, page * 4096);
        new Uint32Array(machine.bytes.buffer)[18] = used;
        expect(restore(machine.memory).found).toEqual([]);
      }),
      { numRuns: 100 },
    );
  });
});

describe('SlotTable.open', () => {
  const reopen = (change: (bytes: Uint8Array) => void, other: Partial<typeof geometry> = {}): string => {
    const machine = new Machine();
    machine.run({ kind: 'remember', slot: 0, namespace: 0, keyBytes: 8, twinBytes: 0 });
    change(machine.bytes);
    machine.memory.endProcess();
    const opened = SlotTable.open(machine.memory, { ...geometry, ...other }, simHash);
    expect(opened?.kept).toBe(opened?.reason === '');
    expect(opened?.table.recordCount).toBe(opened?.kept === true ? 2 : 0);
    return opened?.reason ?? 'none';
  };

  it('takes over a table of the same tier, and says why it does not take another', () => {
    const nothing = (): void => undefined;
    expect(reopen(nothing)).toBe('');
    expect(reopen(nothing, { bootId: 'other' })).toContain('booted');
    expect(reopen(nothing, { tierBytes: 2 * MiB, arenaBytes: 2 * MiB })).toContain('ram.size');
    expect(reopen(nothing, { pageBytes: 8192 })).toContain('cut up otherwise');
    expect(reopen((bytes) => void (bytes[0] = 0))).toContain('not one of kvtier');
    expect(reopen((bytes) => void (bytes[8] = 9))).toContain('format 9');
    expect(reopen((bytes) => void (bytes[24] = 9))).toContain('damaged');
    expect(reopen((bytes) => void (bytes[75] = 0xff))).toContain('cut short');
  });

  it('has no record where shared memory is full, and counts that', () => {
    const memory = new SimSharedMemory(4096);
    const opened = Machine.open(memory);
    const machine = new Machine();
    machine.table = opened.table;
    machine.run({ kind: 'remember', slot: 0, namespace: 0, keyBytes: 8, twinBytes: 0 });
    expect(opened.table.unkeptChunks).toBe(1);
    expect(opened.table.recordCount).toBe(0);
    expect(SlotTable.open(new SimSharedMemory(100), geometry, simHash)).toBeUndefined();
  });
});
