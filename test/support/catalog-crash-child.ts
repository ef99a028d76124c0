/** A process that writes to a catalog until it is killed. Arguments: path, migrations folder. Prints a generation when it is committed. */
import { noopLogger } from '#core/logger.ts';
import { createSqliteCatalogStore } from '#catalog/sqlite-catalog-store.ts';
import { hostClock } from '#host/clock.ts';
import { makeChunk, makeInvalidation, readAll } from './catalog-fixtures.ts';

const [path = '', migrationsDir = '', first = '1'] = process.argv.slice(2);
const store = createSqliteCatalogStore({ path, migrationsDir, clock: hostClock, logger: noopLogger, batchDelayMs: 1, batchChanges: 20 });
await readAll(await store.open());
for (let generation = Number(first); ; generation += 1) {
  store.enqueue({ kind: 'put', chunk: makeChunk(generation) });
  if (generation % 3 === 0) store.enqueue({ kind: 'remove', generation: generation - 1 });
  if (generation % 10 === 0) store.enqueue({ kind: 'invalidation', invalidation: makeInvalidation(generation) });
  if (generation % 50 === 0) {
    await store.flush();
    process.stdout.write(`${generation}\n`);
  }
}
