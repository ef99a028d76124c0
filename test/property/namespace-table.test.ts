import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { NamespaceTable } from '#cache/namespace-table.ts';
import type { NamespaceId } from '#core/brand.ts';
import { namespaceIdentity } from '#core/namespace.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';
import { namespaceLabel } from '#core/selector.ts';

function descriptorOf(tenant: string, keyPrefix: string, keyTail: string): NamespaceDescriptor {
  return { grammar: 'object-key', tenant, model: 'm', rank: '0', group: '', dtype: '', layer: '', tags: {}, keyPrefix, keyTail };
}

const descriptors = fc
  .tuple(fc.constantFrom('default', 'a'), fc.constantFrom('m@', 'é@'), fc.constantFrom('', '@t'))
  .map(([tenant, prefix, tail]) => descriptorOf(tenant, prefix, tail));

type Command =
  | { readonly kind: 'intern'; readonly descriptor: NamespaceDescriptor }
  | { readonly kind: 'retain' | 'release' | 'chunk'; readonly pick: number };

const commands: fc.Arbitrary<Command> = fc.oneof(
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('intern' as const), descriptor: descriptors }) },
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constantFrom('retain' as const, 'release' as const, 'release' as const, 'chunk' as const),
      pick: fc.nat(),
    }),
  },
);

interface ModelRow {
  readonly id: NamespaceId;
  readonly descriptor: NamespaceDescriptor;
  references: number;
  chunks: number;
}

describe('NamespaceTable', () => {
  test('keeps ids, references and counters like a Map by identity', () => {
    fc.assert(
      fc.property(fc.array(commands, { maxLength: 60, size: 'max' }), (list) => {
        const table = new NamespaceTable();
        const model = new Map<string, ModelRow>();
        for (const command of list) {
          step(table, model, command);
          table.checkInvariants();
          compare(table, model);
        }
      }),
      { numRuns: 100 },
    );
  });

  test('does not grow where every key has a namespace of its own', () => {
    const table = new NamespaceTable();
    let largest = 0;
    for (let n = 0; n < 10_000; n += 1) {
      const id = table.intern(descriptorOf('default', `m${n}@`, ''));
      largest = Math.max(largest, id);
      table.release(id);
    }
    expect([table.count, largest]).toEqual([0, 0]);
  });

  test('refuses to forget a namespace that still counts bytes, and to use one that is gone', () => {
    const table = new NamespaceTable();
    const id = table.intern(descriptorOf('default', 'm@', ''));
    table.addSsdBytes(id, 1);
    expect(() => table.release(id)).toThrow('Cannot forget');
    const other = new NamespaceTable();
    const gone = other.intern(descriptorOf('default', 'm@', ''));
    other.release(gone);
    for (const use of [() => other.retain(gone), () => other.release(gone), () => other.label(gone), () => other.addChunks(gone, 1)]) {
      expect(use).toThrow('it is not live');
    }
  });

  test('spells a whole key as the client did, to the byte, also where it is not UTF-8', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), fc.string({ unit: 'grapheme' }), fc.uint8Array(), (prefix, tail, key) => {
        const table = new NamespaceTable();
        const id = table.intern(descriptorOf('default', prefix, tail));
        const expected = Buffer.concat([Buffer.from(prefix), key, Buffer.from(tail)]);
        expect(Buffer.compare(table.wholeKeyBytes(id, key), expected)).toBe(0);
        expect(table.wholeKey(id, key)).toBe(prefix + Buffer.from(key).toString('utf8') + tail);
      }),
      { numRuns: 100 },
    );
  });

  test('keeps a byte order mark in a key', () => {
    const table = new NamespaceTable();
    const id = table.intern(descriptorOf('default', '', ''));
    expect(table.wholeKey(id, new TextEncoder().encode('\ufeffk'))).toBe('\ufeffk');
  });
});

function step(table: NamespaceTable, model: Map<string, ModelRow>, command: Command): void {
  if (command.kind === 'intern') {
    const identity = namespaceIdentity(command.descriptor);
    const known = model.get(identity);
    const id = table.intern(command.descriptor);
    if (known === undefined) model.set(identity, { id, descriptor: command.descriptor, references: 1, chunks: 0 });
    else {
      expect(id).toBe(known.id);
      known.references += 1;
    }
    return;
  }
  const rows = [...model.values()];
  const row = rows[command.pick % Math.max(1, rows.length)];
  if (row === undefined) return;
  if (command.kind === 'release') release(table, model, row);
  else {
    table.retain(row.id);
    row.references += 1;
    if (command.kind === 'chunk') countChunk(table, row, 1);
  }
}

function release(table: NamespaceTable, model: Map<string, ModelRow>, row: ModelRow): void {
  if (row.chunks > 0) countChunk(table, row, -1);
  table.release(row.id);
  row.references -= 1;
  if (row.references > 0) return;
  model.delete(namespaceIdentity(row.descriptor));
  expect(table.isLive(row.id)).toBe(false);
}

function countChunk(table: NamespaceTable, row: ModelRow, delta: 1 | -1): void {
  table.addChunks(row.id, delta);
  table.addRamBytes(row.id, delta * 5);
  table.addSsdBytes(row.id, delta * 7);
  row.chunks += delta;
}

function compare(table: NamespaceTable, model: ReadonlyMap<string, ModelRow>): void {
  expect(table.count).toBe(model.size);
  for (const { id, descriptor, references, chunks } of model.values()) {
    expect(table.find(descriptor)).toBe(id);
    expect(table.descriptor(id)).toEqual(descriptor);
    expect(table.label(id)).toBe(namespaceLabel(descriptor));
    expect(table.referenceCount(id)).toBe(references);
    expect(table.usage(id)).toMatchObject({ chunkCount: chunks, ramBytes: chunks * 5, ssdBytes: chunks * 7 });
  }
  const visited: number[] = [];
  table.forEach((id) => visited.push(id));
  expect(visited).toEqual([...model.values()].map(({ id }) => id).toSorted((a, b) => a - b));
}
