import fc from 'fast-check';
import { expect, test } from 'vitest';
import { HashTable } from '#cache/hash-table.ts';

/** Few homes, at the end of a shard too, so that runs are long, wrap around and are cut by removals. */
const hashes = fc
  .record({ shard: fc.constantFrom(0, 255), low: fc.constantFrom(0, 1, 2, 5, 6, 7, 14, 15, 30, 31), high: fc.integer({ min: 0, max: 2 }) })
  .map(({ shard, low, high }) => ((shard << 24) | (high << 12) | low) >>> 0);

function rowsOf(table: HashTable): string[] {
  const rows: string[] = [];
  table.forEach((hash, row) => rows.push(`${hash}:${row}`));
  return rows.toSorted();
}

/** What a reader does: walks from the home of the hash to the first empty slot. */
function lookup(table: HashTable, hash: number): number[] {
  const shard = table.shardOf(hash);
  const mask = shard.length - 1;
  const rows: number[] = [];
  for (let at = (hash << 1) & mask; shard[at + 1] !== 0; at = (at + 2) & mask) if (shard[at] === hash) rows.push(shard[at + 1]! - 1);
  return rows.toSorted((a, b) => a - b);
}

test('HashTable reaches every row from its home under any order of inserts and removals, equal hashes included', () => {
  const command = fc.oneof(
    { weight: 3, arbitrary: fc.record({ kind: fc.constant('insert' as const), hash: hashes }) },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant('remove' as const), pick: fc.nat() }) },
  );
  fc.assert(
    fc.property(fc.array(command, { maxLength: 80, size: 'max' }), (commands) => {
      const table = new HashTable();
      const model: { readonly hash: number; readonly row: number }[] = [];
      let serial = 0;
      for (const step of commands) {
        if (step.kind === 'insert') {
          table.insert(step.hash, serial);
          model.push({ hash: step.hash, row: serial });
          serial += 1;
        } else if (model.length > 0) {
          const [gone] = model.splice(step.pick % model.length, 1);
          table.remove(gone!.hash, gone!.row);
          expect(() => table.remove(gone!.hash, gone!.row)).toThrow('it is not there');
        }
        table.checkInvariants();
        expect(rowsOf(table)).toEqual(model.map(({ hash, row }) => `${hash}:${row}`).toSorted());
      }
      for (const { hash } of model) expect(lookup(table, hash)).toEqual(model.filter((row) => row.hash === hash).map(({ row }) => row));
    }),
    { numRuns: 100 },
  );
});
