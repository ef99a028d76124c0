import { closeSync, existsSync, mkdtempSync, openSync, readdirSync, rmSync, statSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import Database from 'better-sqlite3';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { Logger } from '#core/logger.ts';
import { createSqliteCatalogStore } from '#catalog/sqlite-catalog-store.ts';
import type { SqliteCatalogOptions } from '#catalog/sqlite-catalog-store.ts';
import { hostClock } from '#host/clock.ts';
import type { CatalogStore } from '#ports/catalog-store.ts';
import { makeChunk, makeInvalidation, opaque, readAll } from '#testsupport/catalog-fixtures.ts';

const migrationsDir = fileURLToPath(new URL('../../migrations', import.meta.url));
let folder: string;
let path: string;
let log: string[];
let stores: CatalogStore[];
let others: Database.Database[];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'kvtier-catalog-'));
  path = join(folder, 'catalog.db');
  log = [];
  stores = [];
  others = [];
});
afterEach(async () => {
  for (const other of others) other.close();
  for (const store of stores) await store.close();
  rmSync(folder, { recursive: true });
});

const note = (message: string): void => void log.push(message);
const logger: Logger = { debug: note, info: note, warn: note, error: note };

function makeStore(options: Partial<SqliteCatalogOptions> = {}): CatalogStore {
  const quick = { busyTimeoutMs: 1, minPauseMs: 5, maxPauseMs: 20, graceMs: 0, batchDelayMs: 5 };
  const store = createSqliteCatalogStore({ path, migrationsDir, clock: hostClock, logger, ...quick, ...options });
  stores.push(store);
  return store;
}

function other(): Database.Database {
  const connection = new Database(path, { timeout: 5000 });
  others.push(connection);
  return connection;
}

async function fill(generations: number): Promise<void> {
  const store = makeStore();
  await readAll(await store.open());
  for (let generation = 1; generation <= generations; generation += 1) store.enqueue({ kind: 'put', chunk: makeChunk(generation) });
  await store.flush();
  await store.close();
}

const counted = (connection: Database.Database): unknown => connection.prepare('SELECT count(*) FROM chunk').pluck().get();

describe('the catalog file', () => {
  test('is for its owner alone, with its WAL, also where it was there with another mode', async () => {
    writeFileSync(path, '', { mode: 0o644 });
    const store = makeStore();
    await store.open();
    store.enqueue({ kind: 'put', chunk: makeChunk(1) });
    await store.flush();
    const modes = readdirSync(folder)
      .sort()
      .map((name) => [name, statSync(join(folder, name)).mode & 0o777]);
    expect(modes).toEqual(['catalog.db', 'catalog.db-shm', 'catalog.db-wal'].map((name) => [name, 0o600]));
  });

  test('can be read by another connection while the agent writes', async () => {
    const store = makeStore();
    await store.open();
    store.enqueue({ kind: 'put', chunk: makeChunk(1, { key: new Uint8Array([0xab, 0x00]) }) });
    store.enqueue({ kind: 'put', chunk: makeChunk(2) });
    await store.flush();
    const rows = other().prepare('SELECT key, tiers, model, last_used_at FROM cached_chunk ORDER BY generation').all();
    const model = 'meta-llama/Llama-3.3-70B-Instruct';
    expect(rows).toEqual([
      { key: `${model}@00010000@x'ab00'@0`, tiers: 'ssd', model, last_used_at: '2023-11-14 22:15:00' },
      { key: `${model}@00010000@key-2@0`, tiers: 'ssd', model, last_used_at: '2023-11-14 22:15:00' },
    ]);
  });

  test('loses its WAL when it is closed in order', async () => {
    await fill(3);
    expect(readdirSync(folder)).toEqual(['catalog.db']);
  });

  test('is refused, and left alone, where a newer kvtier wrote it', async () => {
    await fill(1);
    const connection = other();
    connection.pragma('user_version = 999');
    const store = makeStore();
    await expect(store.open()).rejects.toMatchObject({ code: 'CATALOG_SCHEMA_NEWER' });
    expect(store.stats().state).toBe('off');
    expect(counted(connection)).toBe(1);
  });

  test('has every migration applied once, over restarts', async () => {
    await fill(1);
    await fill(1);
    const connection = other();
    expect(connection.pragma('user_version', { simple: true })).toBe(
      connection.prepare('SELECT count(*) FROM __drizzle_migrations').pluck().get(),
    );
    expect(connection.prepare("SELECT value FROM meta WHERE name = 'schema_version'").pluck().get()).toBe(
      String(connection.pragma('user_version', { simple: true })),
    );
  });
});

describe('a corrupt catalog', () => {
  test.each([
    ['is no database at all', async () => writeFileSync(path, 'this is not a database, whatever its name says'.repeat(100))],
    [
      'has a page of garbage in the middle',
      async () => {
        await fill(500);
        const file = Bun.file(path);
        const bytes = new Uint8Array(await file.arrayBuffer());
        bytes.fill(0xa5, 4096 * 3, 4096 * 9);
        await Bun.write(path, bytes);
      },
    ],
    [
      'was cut short',
      async () => {
        await fill(500);
        const bytes = new Uint8Array(await Bun.file(path).arrayBuffer());
        await Bun.write(path, bytes.subarray(0, bytes.length / 2));
      },
    ],
  ])('that %s is set aside and replaced by an empty one', async (_name, spoil) => {
    await spoil();
    const spoiled = await Bun.file(path).bytes();
    const store = makeStore();
    expect(await readAll(await store.open())).toEqual([]);
    expect(await Bun.file(`${path}.corrupt-1`).bytes()).toEqual(spoiled);
    store.enqueue({ kind: 'put', chunk: makeChunk(9) });
    await store.flush();
    expect(store.stats()).toMatchObject({ state: 'ok', droppedChanges: 0 });
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(log).toContain('The catalog was corrupt; it is rebuilt from the chunk files');
  });

  test('is kept in its two newest copies', async () => {
    for (let round = 1; round <= 4; round += 1) {
      writeFileSync(path, `garbage ${round} `.repeat(100));
      const store = makeStore();
      await store.open();
      await store.close();
    }
    expect(readdirSync(folder).sort()).toEqual(['catalog.db', 'catalog.db.corrupt-3', 'catalog.db.corrupt-4']);
  });

  test('that turns corrupt while the agent runs is replaced, and the batch written to the new one', async () => {
    await fill(1);
    // More than SQLite keeps in memory, so that it must read again.
    const rows = 'WITH RECURSIVE n (g) AS (SELECT 2 UNION ALL SELECT g + 1 FROM n WHERE g < 40000)';
    const filler = other();
    filler.exec(`
      INSERT INTO chunk ${rows} SELECT g, 1, printf('%0600d', g), 4096, '0123456789abcdef', 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL FROM n;
      INSERT INTO replica ${rows} SELECT g, 'ssd', 'a1', 0 FROM n;
      PRAGMA wal_checkpoint(TRUNCATE);
    `);
    const store = makeStore();
    expect((await readAll(await store.open())).length, 'rows that prove nothing are read and passed by').toBe(1);
    const pages = openSync(path, 'r+');
    writeSync(pages, new Uint8Array(statSync(path).size - 4096).fill(0x5a), 0, undefined, 4096);
    closeSync(pages);
    for (let generation = 100; generation < 40_000; generation += 100) store.enqueue({ kind: 'remove', generation });
    for (let generation = 100_000; generation < 100_010; generation += 1) store.enqueue({ kind: 'put', chunk: makeChunk(generation) });
    await store.flush();
    expect(store.stats().state).toBe('ok');
    expect(existsSync(`${path}.corrupt-1`)).toBe(true);
    expect(store.stats().droppedChanges).toBe(0);
    expect(counted(other())).toBe(10);
  });

  test('row is skipped, and only it, where a value is not of its kind', async () => {
    await fill(6);
    const connection = other();
    connection.pragma('foreign_keys = OFF');
    connection.exec(`
      UPDATE chunk SET checksum = 'not hexadecimal!' WHERE generation = 1;
      UPDATE chunk SET size_bytes = 'large' WHERE generation = 2;
      UPDATE chunk SET namespace_id = 99 WHERE generation = 3;
      UPDATE chunk SET size_bytes = -1 WHERE generation = 4;
      UPDATE chunk SET last_used_at_ms = 9e999 WHERE generation = 5;
    `);
    expect((await readAll(await makeStore().open())).map((chunk) => chunk.generation)).toEqual([6]);
    expect(log).toContain('Catalog rows of unknown form were skipped');
  });

  test.each([
    ['key', "UPDATE chunk SET key = 'key-3' WHERE generation = 2"],
    ['key of another kind', 'UPDATE chunk SET key = CAST(key AS BLOB) WHERE generation = 2'],
    ['generation', 'UPDATE replica SET generation = 9 WHERE generation = 2; UPDATE chunk SET generation = 9 WHERE generation = 2'],
    ['size', 'UPDATE chunk SET size_bytes = size_bytes + 1 WHERE generation = 2'],
    ['checksum', "UPDATE chunk SET checksum = '0000000000000000' WHERE generation = 2"],
    ['creation', 'UPDATE chunk SET created_at_ms = created_at_ms - 1 WHERE generation = 2'],
    ['expiry', 'UPDATE chunk SET expires_at_ms = 1 WHERE generation = 2'],
    ['parent', 'UPDATE chunk SET parent_generation = 1 WHERE generation = 2'],
    ['tokens', 'UPDATE chunk SET token_count = NULL WHERE generation = 2'],
    ['twin', "UPDATE chunk SET redis_metadata = x'00' WHERE generation = 2"],
    ['lm block', "UPDATE chunk SET lm_block = '[1,1,1,1,1,1]' WHERE generation = 2"],
    ['sum', 'UPDATE chunk SET row_sum = NULL WHERE generation = 2'],
  ])('row is skipped, and only it, where its %s is another', async (_what, statement) => {
    await fill(3);
    const connection = other();
    connection.pragma('foreign_keys = OFF');
    connection.exec(statement);
    expect((await readAll(await makeStore().open())).map((chunk) => chunk.generation)).toEqual([1, 3]);
  });

  test('namespace row that is another takes its chunks along', async () => {
    await fill(2);
    other().exec("UPDATE namespace SET key_prefix = key_prefix || 'x'");
    expect(await readAll(await makeStore().open())).toEqual([]);
  });

  test('row stays wrong where its expiry or its parent is changed afterwards, and a right one right', async () => {
    await fill(2);
    other().exec("UPDATE chunk SET key = 'other' WHERE generation = 1");
    const store = makeStore();
    await readAll(await store.open());
    for (const generation of [1, 2]) {
      store.enqueue({ kind: 'expiry', generation, expiresAtMs: 1_950_000_000_000 });
      store.enqueue({ kind: 'parent', generation, parentGeneration: 77 });
    }
    await store.flush();
    await store.close();
    const rows = await readAll(await makeStore().open());
    expect(rows.map((row) => [row.generation, row.expiresAtMs, row.parentGeneration])).toEqual([[2, 1_950_000_000_000, 77]]);
  });
});

describe('a start', () => {
  test('takes rows that only RAM had out of the file, with the namespaces and tenants that nothing is left of', async () => {
    const store = makeStore();
    await store.open();
    const ram = [{ tier: 'ram', folder: '', dirty: true }] as const;
    store.enqueue({ kind: 'put', chunk: makeChunk(1, { namespace: opaque, replicas: ram }) });
    store.enqueue({ kind: 'put', chunk: makeChunk(2) });
    await store.flush();
    await store.close();
    await makeStore().open();
    const connection = other();
    expect(connection.prepare('SELECT generation FROM chunk').pluck().all()).toEqual([2]);
    expect(connection.prepare('SELECT tier FROM replica').pluck().all()).toEqual(['ssd']);
    expect(connection.prepare('SELECT tenant FROM namespace').pluck().all()).toEqual(['default']);
    expect(connection.prepare('SELECT name FROM tenant').pluck().all()).toEqual(['default']);
  });

  test('finds damage also in pages that the load does not read', async () => {
    await fill(400);
    const connection = new Database(path);
    const page = connection
      .prepare("SELECT pageno FROM dbstat WHERE name = 'chunk_parent' AND pagetype = 'leaf' LIMIT 1")
      .pluck()
      .get() as number;
    connection.close();
    const bytes = await Bun.file(path).bytes();
    bytes.fill(0xa5, (page - 1) * 4096, page * 4096);
    await Bun.write(path, bytes);
    expect(await readAll(await makeStore().open())).toEqual([]);
    expect(existsSync(`${path}.corrupt-1`)).toBe(true);
  });
});

describe('a catalog locked by another process', () => {
  test('for writing is read at start, written when it is free, and degraded in between', async () => {
    await fill(5);
    const locker = other();
    locker.exec('BEGIN IMMEDIATE');
    const store = makeStore();
    expect((await readAll(await store.open())).length).toBe(5);
    store.enqueue({ kind: 'put', chunk: makeChunk(6) });
    await vi.waitFor(() => expect(store.stats().state).toBe('degraded'), 5000);
    expect(store.stats()).toMatchObject({ queuedChanges: 1, droppedChanges: 0 });
    expect(store.stats().reason).toContain('another process holds a lock');
    locker.exec('ROLLBACK');
    await store.flush();
    expect(store.stats()).toMatchObject({ state: 'ok', reason: '', queuedChanges: 0 });
    expect(counted(locker)).toBe(6);
  });

  test('for everything is started without, and forgets its old rows when it comes', async () => {
    await fill(5);
    const locker = other();
    locker.pragma('locking_mode = EXCLUSIVE');
    locker.exec('BEGIN EXCLUSIVE');
    const store = makeStore({ patienceMs: 30 });
    expect(await readAll(await store.open())).toEqual([]);
    expect(store.stats().state).toBe('degraded');
    store.enqueue({ kind: 'put', chunk: makeChunk(3, { hitCount: 1234 }) });
    locker.exec('ROLLBACK');
    locker.close();
    await store.flush();
    expect(store.stats().state).toBe('ok');
    const rows = other().prepare('SELECT generation, hit_count FROM chunk').all();
    expect(rows).toEqual([{ generation: 3, hit_count: 1234 }]);
  });

  test('lets the queue fill, drops and counts the rest, and takes new changes afterwards', async () => {
    await fill(1);
    const locker = other();
    locker.exec('BEGIN IMMEDIATE');
    const store = makeStore({ maxChanges: 10, batchChanges: 4 });
    await readAll(await store.open());
    for (let generation = 10; generation < 40; generation += 1) store.enqueue({ kind: 'put', chunk: makeChunk(generation) });
    expect(store.stats()).toMatchObject({ droppedChanges: 20 });
    locker.exec('ROLLBACK');
    await store.flush();
    store.enqueue({ kind: 'put', chunk: makeChunk(50) });
    await store.flush();
    expect(counted(locker)).toBe(12);
    expect(store.stats().droppedChanges).toBe(20);
  });

  test('does not hold up closing for longer than its patience', async () => {
    await fill(1);
    other().exec('BEGIN IMMEDIATE');
    const store = makeStore({ patienceMs: 50 });
    await readAll(await store.open());
    store.enqueue({ kind: 'put', chunk: makeChunk(2) });
    await store.close();
    expect(store.stats()).toMatchObject({ state: 'off', droppedChanges: 1 });
  });
});

describe('a reader that holds the WAL', () => {
  test('bounds it: nothing is written above the limit, and all of it when the reader has gone', async () => {
    const limit = 256 * 1024;
    const store = makeStore({ walLimitBytes: limit, batchChanges: 100, maxChanges: 5000 });
    await store.open();
    store.enqueue({ kind: 'put', chunk: makeChunk(1) });
    await store.flush();
    const reader = other();
    reader.exec('BEGIN');
    expect(counted(reader)).toBe(1);
    let generation = 1;
    let largest = 0;
    const more = (): void => {
      for (let index = 0; index < 500; index += 1) store.enqueue({ kind: 'put', chunk: makeChunk((generation += 1)) });
      largest = Math.max(largest, store.stats().walBytes);
      expect(store.stats().state).toBe('degraded');
    };
    await vi.waitFor(more, { timeout: 10_000, interval: 5 });
    expect(store.stats().reason).toContain('a long reader holds the WAL');
    while (store.stats().droppedChanges === 0) store.enqueue({ kind: 'put', chunk: makeChunk((generation += 1)) });
    // A batch of 100 rows touches a few hundred pages at the very most.
    expect(Math.max(largest, statSync(`${path}-wal`).size)).toBeLessThan(limit + 300 * 4152);
    expect(statSync(`${path}-wal`).size).toBeGreaterThan(limit);
    expect(counted(reader)).toBe(1);
    reader.exec('COMMIT');
    await store.flush();
    expect(store.stats()).toMatchObject({ state: 'ok', queuedChanges: 0 });
    expect(store.stats().walBytes).toBeLessThan(limit + 300 * 4152);
    expect(counted(reader)).toBe(generation - store.stats().droppedChanges);
  });
});

describe('the write-behind', () => {
  test('leaves no replica without its chunk', async () => {
    const store = makeStore();
    await store.open();
    store.enqueue({ kind: 'put', chunk: makeChunk(1) });
    await store.flush();
    store.enqueue({ kind: 'remove', generation: 1 });
    store.enqueue({ kind: 'replicas', generation: 2, replicas: makeChunk(2).replicas });
    await store.flush();
    expect(other().prepare('SELECT count(*) FROM replica').pluck().get()).toBe(0);
  });

  test('drops a batch that SQLite will never take, counts it, and goes on', async () => {
    const store = makeStore();
    await store.open();
    const impossible = null as unknown as number;
    store.enqueue({ kind: 'put', chunk: makeChunk(1, { sizeBytes: impossible }) });
    await store.flush();
    store.enqueue({ kind: 'put', chunk: makeChunk(2) });
    await store.flush();
    expect(store.stats()).toMatchObject({ state: 'ok', droppedChanges: 1 });
    expect(counted(other())).toBe(1);
    expect(log).toContain('A catalog batch was dropped');
  });

  test('survives the loss of its worker: what waited is written by the next one, and what only RAM has stays', async () => {
    const HostWorker = globalThis.Worker;
    const workers: Worker[] = [];
    globalThis.Worker = class extends HostWorker {
      constructor(...parameters: ConstructorParameters<typeof HostWorker>) {
        super(...parameters);
        workers.push(this);
      }
    };
    try {
      const store = makeStore();
      await store.open();
      store.enqueue({ kind: 'put', chunk: makeChunk(1, { replicas: [{ tier: 'ram', folder: '', dirty: true }] }) });
      await store.flush();
      workers[0]?.terminate();
      store.enqueue({ kind: 'put', chunk: makeChunk(2) });
      await store.flush();
      expect(workers.length).toBe(2);
      expect(store.stats()).toMatchObject({ state: 'ok', droppedChanges: 0 });
      expect(counted(other())).toBe(2);
    } finally {
      globalThis.Worker = HostWorker;
    }
  });

  test('commits a change by itself, soon', async () => {
    const store = makeStore();
    await store.open();
    store.enqueue({ kind: 'put', chunk: makeChunk(1) });
    await vi.waitFor(() => expect(counted(other())).toBe(1), 5000);
  });

  test('keeps uses back until the interval is over, or until somebody flushes', async () => {
    const store = makeStore({ touchIntervalMs: 3_600_000 });
    await store.open();
    store.enqueue({ kind: 'put', chunk: makeChunk(1, { hitCount: 0 }) });
    await store.flush();
    store.enqueue({ kind: 'touch', generation: 1, lastUsedAtMs: 5, hitCount: 8 });
    store.enqueue({ kind: 'put', chunk: makeChunk(2) });
    const connection = other();
    await vi.waitFor(() => expect(counted(connection)).toBe(2), 5000);
    const hits = connection.prepare('SELECT hit_count FROM chunk WHERE generation = 1').pluck();
    expect(hits.get()).toBe(0);
    await store.flush();
    expect(hits.get()).toBe(8);
  });

  test('writes uses by itself when the interval is over', async () => {
    const store = makeStore({ touchIntervalMs: 20 });
    await store.open();
    store.enqueue({ kind: 'put', chunk: makeChunk(1, { hitCount: 0 }) });
    await store.flush();
    store.enqueue({ kind: 'touch', generation: 1, lastUsedAtMs: 5, hitCount: 8 });
    const connection = other();
    await vi.waitFor(() => expect(connection.prepare('SELECT hit_count FROM chunk').pluck().get()).toBe(8), 5000);
  });

  test('bounds the audit log to its newest rows', async () => {
    const store = makeStore({ invalidationLimit: 100 });
    await store.open();
    for (let generation = 1; generation <= 1000; generation += 1)
      store.enqueue({ kind: 'invalidation', invalidation: makeInvalidation(generation) });
    await store.flush();
    const rows = other().prepare('SELECT count(*) AS count, max(generation) AS newest FROM invalidation').get() as {
      count: number;
      newest: number;
    };
    expect(rows.newest).toBe(1000);
    expect(rows.count).toBeGreaterThanOrEqual(100);
    expect(rows.count).toBeLessThanOrEqual(110);
  });

  test('loads in pages that together are the whole, and may be left in the middle', async () => {
    await fill(25);
    const store = makeStore({ loadPageRows: 10 });
    const sizes: number[] = [];
    for await (const page of (await store.open()).chunks) sizes.push(page.length);
    expect(sizes).toEqual([10, 10, 5]);
    await store.close();
    const second = makeStore({ loadPageRows: 10 });
    for await (const page of (await second.open()).chunks) if (page.length > 0) break;
    second.enqueue({ kind: 'remove', generation: 1 });
    await second.flush();
    expect(counted(other())).toBe(24);
  });
});
