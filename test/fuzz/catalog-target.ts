/**
 * The catalog's rows as a disk or a person may leave them: values that are others, in a file that SQLite finds no fault with. A row that is
 * read is the row that was written, or differs from it in what is a hint.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import Database from 'better-sqlite3';
import fc from 'fast-check';
import { CatalogDatabase } from '#catalog/catalog-database.ts';
import { SqliteFiles } from '#catalog/catalog-files.ts';
import { CatalogQueue } from '#catalog/catalog-queue.ts';
import { ChunkLoad } from '#catalog/chunk-load.ts';
import { readPage } from '#catalog/chunk-page.ts';
import type { CatalogChunk } from '#ports/catalog-store.ts';
import { llama, makeChunk, opaque } from '#testsupport/catalog-fixtures.ts';
import { demand, demandEqual, type Check, type FuzzTarget } from './harness.ts';

const migrationsDir = fileURLToPath(new URL('../../migrations', import.meta.url));
const encoder = new TextEncoder();
const decoder = new TextDecoder();
const CHUNKS: readonly CatalogChunk[] = [
  makeChunk(1, { namespace: opaque, key: new Uint8Array([0, 0xff, 7]), redisMetadata: new Uint8Array([1, 2, 3, 4, 5]) }),
  makeChunk(2, { parentGeneration: 1, lmBlock: { fmt: 1, dtype: 2, shape: [3, 4, 5, 6] } }),
  makeChunk(3, { namespace: llama, tokenCount: undefined, expiresAtMs: 1_900_000_000_000 }),
];
const CHUNK_COLUMNS = [
  ...['generation', 'namespace_id', 'key', 'size_bytes', 'checksum', 'created_at_ms', 'last_used_at_ms', 'hit_count', 'expires_at_ms'],
  ...['parent_generation', 'token_count', 'redis_metadata', 'lm_block', 'row_sum'],
];
const NAMESPACE_COLUMNS = ['grammar', 'tenant', 'model', 'rank', 'object_group', 'dtype', 'layer', 'tags', 'key_prefix', 'key_tail'];
const kinds = ['text', 'blob', 'integer', 'real', 'null', 'copy', 'plus'];

/** column NUL kind NUL row NUL value: what is changed. A column of its own changes nothing. */
const edits = fc
  .tuple(
    fc.constantFrom('none', ...CHUNK_COLUMNS, ...NAMESPACE_COLUMNS),
    fc.constantFrom(...kinds),
    fc.constantFrom('1', '2', '3'),
    fc.oneof(
      fc.integer().map(String),
      fc.maxSafeNat().map(String),
      fc.string({ maxLength: 12 }),
      fc.constantFrom('key-3', '[1,2,3,4,5,6]', '{}', '{"a":"b"}'),
    ),
  )
  .map((parts) => parts.join('\0'));

/** A catalog that is made once and put right after each input. */
class SpoiledCatalog {
  readonly path: string;
  readonly #connection: Database.Database;

  constructor() {
    // Not on a disk: one that is busy would count as a slow input.
    const folder = mkdtempSync('/dev/shm/kvtier-fuzz-');
    process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
    this.path = join(folder, 'catalog.db');
    const options = { path: this.path, migrationsDir, busyTimeoutMs: 1000, invalidationLimit: 10, forget: 'nothing' as const, nowMs: 1 };
    const database = new CatalogDatabase(options, new SqliteFiles(this.path));
    const queue = new CatalogQueue({ maxChanges: 100, maxBytes: 2 ** 20 });
    for (const chunk of CHUNKS) queue.add({ kind: 'put', chunk });
    const batch = queue.take(100, { touches: true, nowMs: 1 });
    if (batch !== undefined) database.apply(batch);
    database.close();
    this.#connection = new Database(this.path);
    this.#connection.pragma('foreign_keys = OFF');
    this.#connection.pragma('synchronous = OFF');
    this.#connection.exec(
      'CREATE TABLE chunk_as_it_was AS SELECT * FROM chunk; CREATE TABLE namespace_as_it_was AS SELECT * FROM namespace',
    );
  }

  /** False where SQLite itself refuses. */
  spoil(input: Uint8Array): boolean {
    const [column = '', kind = '', row = '', ...rest] = decoder.decode(input).split('\0');
    const table = CHUNK_COLUMNS.includes(column) ? 'chunk' : NAMESPACE_COLUMNS.includes(column) ? 'namespace' : undefined;
    const id = table === 'chunk' ? 'generation' : 'id';
    if (table === undefined) return false;
    const text = rest.join('\0');
    const [expression, value] =
      kind === 'copy' || kind === 'plus'
        ? [kind === 'copy' ? `(SELECT ${column} FROM ${table} ORDER BY ${id} LIMIT 1)` : `${column} + 1`, undefined]
        : ['?', valueOf(kind, text)];
    try {
      const statement = this.#connection.prepare(
        `UPDATE ${table} SET ${column} = ${expression} WHERE ${id} = ${Number(row) > 0 ? Math.floor(Number(row)) % 4 : 2}`,
      );
      if (expression === '?') statement.run(value);
      else statement.run();
    } catch (problem) {
      if (!(problem instanceof Error)) throw problem;
      return false;
    }
    return true;
  }

  restore(): void {
    this.#connection.exec(
      'DELETE FROM chunk; INSERT INTO chunk SELECT * FROM chunk_as_it_was; DELETE FROM namespace; INSERT INTO namespace SELECT * FROM namespace_as_it_was',
    );
  }
}

function valueOf(kind: string, text: string): string | Buffer | number | bigint | null {
  if (kind === 'blob') return Buffer.from(text);
  if (kind === 'null') return null;
  const number = Number(text);
  if (kind === 'integer') return BigInt(Math.trunc(Math.min(2 ** 62, Math.max(-(2 ** 62), number || 0))));
  return kind === 'real' ? number : text;
}

/** What decides: uses are hints. */
function proven(chunk: CatalogChunk): unknown {
  const { lastUsedAtMs: _used, hitCount: _hits, key, redisMetadata, checksum, ...rest } = chunk;
  return {
    ...rest,
    checksum: BigInt.asUintN(64, checksum),
    key: [...key],
    redisMetadata: redisMetadata === undefined ? [] : [...redisMetadata],
  };
}

let catalog: SpoiledCatalog | undefined;

function begin(): Check {
  catalog ??= new SpoiledCatalog();
  const { path } = catalog;
  const spoiled = catalog;
  return (input) => {
    const isSpoiled = spoiled.spoil(input);
    const load = new ChunkLoad(new Database(path, { readonly: true }));
    try {
      const page = load.next(10);
      for (const chunk of readPage(page)) {
        const wanted = CHUNKS.find((each) => each.generation === chunk.generation);
        demand(wanted !== undefined, `a chunk of generation ${chunk.generation} was never written`);
        demandEqual(proven(chunk), proven(wanted), 'a row that is believed');
      }
      demand(page.count + page.skippedRows <= CHUNKS.length, 'rows are counted once');
      demand(isSpoiled || page.count === CHUNKS.length, 'a catalog that nobody has touched is read whole');
    } finally {
      load.close();
      if (isSpoiled) spoiled.restore();
    }
  };
}

export const catalogRows: FuzzTarget = { name: 'catalog-rows', corpus: edits.map((text) => encoder.encode(text)), begin };
