/**
 * The catalog's file: opens, migrates, applies batches, reads. Synchronous; lives in the catalog's worker, or in a test.
 *
 * Invariants:
 * - a batch is one transaction: after a crash all of it is there or none;
 * - a file that SQLite calls corrupt is set aside and replaced by an empty one, at most once a call;
 * - the load reads on a connection of its own, in one snapshot, so that it neither waits for batches nor sees them.
 *
 * Nobody else in this process may open and close the file by another library or by node:fs: closing any descriptor of a file
 * drops all POSIX locks that the process has on it, SQLite's too.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type Database from 'better-sqlite3';
import { drizzle } from 'drizzle-orm/better-sqlite3';
import { migrate } from 'drizzle-orm/better-sqlite3/migrator';
import { namespaceLabel } from '#core/selector.ts';
import { namespaceIdentity } from '#core/namespace.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';
import type { CatalogInvalidation } from '#ports/catalog-store.ts';
import { prepareStatements } from '#schema/queries.ts';
import type { CatalogStatements } from '#schema/queries.ts';
import type { CatalogFiles } from './catalog-files.ts';
import { ChunkLoad } from './chunk-load.ts';
import { CatalogFailure } from './catalog-protocol.ts';
import type { CatalogBatch, CatalogFailureKind, OpenOptions, PatchRow, PutRow } from './catalog-protocol.ts';
import { ChunkPageWriter } from './chunk-page.ts';
import type { ChunkPage } from './chunk-page.ts';
import { parseSelector } from './invalidation-row.ts';
import { changingSum, namespaceSum, rowSum } from './row-sum.ts';

/** Rows of the namespace table are few; a client that makes up tenants shall not fill the heap with their ids. */
const NAMESPACE_CACHE_LIMIT = 10_000;
/** Pages of 4 KiB after which a commit copies the WAL back: SQLite's default, 4 MiB. */
const AUTOCHECKPOINT_PAGES = 1000;
/** Half of the rows of 100,000 chunks: they are written near their end and removed anywhere. */
const CACHE_KIB = 8 * 1024;

export class CatalogDatabase {
  readonly #options: OpenOptions;
  readonly #files: CatalogFiles;
  #connection: Database.Database;
  #statements: CatalogStatements;
  readonly #namespaceIds = new Map<string, number>();
  #load: ChunkLoad | undefined;
  /** What is still to be forgotten. */
  #forget: OpenOptions['forget'];
  #invalidationCount = 0;
  #setAside: string[] = [];

  /** Throws CatalogFailure. */
  constructor(options: OpenOptions, files: CatalogFiles) {
    this.#options = options;
    this.#files = files;
    this.#forget = options.forget;
    const { connection, statements } = this.#guarded(() => this.#connect());
    this.#connection = connection;
    this.#statements = statements;
    try {
      this.#guarded(() => this.#transaction(() => undefined));
    } catch (error) {
      // Another process holds the write lock: the first batch cleans instead. Until then people see rows that are gone.
      if (!(error instanceof CatalogFailure && error.kind === 'busy')) throw error;
    }
  }

  /** Names under which corrupt files were set aside since the last call. */
  takeSetAside(): string[] {
    return this.#setAside.splice(0);
  }

  walBytes(): number {
    return this.#files.walBytes();
  }

  /**
   * The next chunks with an SSD replica, coldest first. The first call fixes the snapshot. Damage found on the way ends the load:
   * the file is replaced, what was read so far stays good (a wrong row is caught by its chunk's header), the rest is adopted.
   */
  page(limit: number): ChunkPage {
    try {
      this.#load ??= new ChunkLoad(this.#files.openReader());
      const page = this.#load.next(limit);
      if (page.last) this.endLoad();
      return page;
    } catch (error) {
      this.endLoad();
      if (!isCorrupt(error)) throw failureOf(error);
      this.#guarded(() => this.#replace());
      return new ChunkPageWriter(0).finish(true);
    }
  }

  endLoad(): void {
    this.#load?.close();
    this.#load = undefined;
  }

  apply(batch: CatalogBatch): void {
    this.#guarded(() =>
      this.#transaction(() => {
        const ids = batch.namespaces.map((descriptor) => this.#namespaceId(descriptor, batch.nowMs));
        for (const generation of batch.removes) {
          this.#statements.removeReplicas.run({ generation });
          this.#statements.removeChunk.run({ generation });
        }
        const sums = batch.namespaces.map(namespaceSum);
        for (const row of batch.puts) this.#put(row, ids[row.namespace] ?? 0, sums[row.namespace] ?? 0);
        for (const row of batch.patches) this.#patch(row);
        for (const row of batch.invalidations) this.#putInvalidation(row);
      }),
    );
  }

  checkpoint(): void {
    // Answers busy in its row rather than by an error; the size of the WAL says the same.
    this.#guarded(() => void this.#connection.pragma('wal_checkpoint(TRUNCATE)'));
  }

  /** Newest first; undefined where `beforeId` is unknown. */
  invalidations(beforeId: string | undefined, limit: number): CatalogInvalidation[] | undefined {
    return this.#guarded(() => {
      let rows;
      if (beforeId === undefined) rows = this.#statements.newestInvalidations.all({ limit });
      else {
        const place = this.#statements.invalidationPlace.get({ id: beforeId });
        if (place === undefined) return undefined;
        rows = this.#statements.olderInvalidations.all({ ...place, limit });
      }
      return rows.map((row) => ({ ...row, selector: parseSelector(row.selector) }));
    });
  }

  /** Copies the WAL back and closes; SQLite then removes it, unless another process has the file open. */
  close(): void {
    this.endLoad();
    try {
      this.#connection.pragma('wal_checkpoint(TRUNCATE)');
    } catch (error) {
      // Whatever it is, the rows are in the WAL and the next start reads them from there; close all the same.
      void error;
    }
    this.#connection.close();
  }

  #connect(): { connection: Database.Database; statements: CatalogStatements } {
    const { migrationsDir, busyTimeoutMs, nowMs } = this.#options;
    const connection = this.#files.open(busyTimeoutMs);
    try {
      connection.pragma('journal_mode = WAL');
      connection.pragma('synchronous = NORMAL');
      connection.pragma(`wal_autocheckpoint = ${AUTOCHECKPOINT_PAGES}`);
      connection.pragma(`cache_size = -${CACHE_KIB}`);
      connection.pragma('foreign_keys = OFF');
      const version = bringUp(connection, migrationsDir);
      if (connection.pragma('quick_check(1)', { simple: true }) !== 'ok') throw new Corrupt('quick_check found damage');
      const statements = prepareStatements(drizzle(connection));
      if (version.changed) {
        statements.putMeta.run({ name: 'schema_version', value: String(version.current) });
        statements.addMeta.run({ name: 'created_at', value: new Date(nowMs).toISOString() });
      }
      this.#namespaceIds.clear();
      this.#invalidationCount = statements.countInvalidations.get()?.count ?? 0;
      return { connection, statements };
    } catch (error) {
      connection.close();
      throw error;
    }
  }

  /** Runs `action`; where the file turns out corrupt, replaces it and runs it once more. Errors leave as CatalogFailure. */
  #guarded<T>(action: () => T): T {
    try {
      return action();
    } catch (error) {
      if (!isCorrupt(error)) throw failureOf(error);
    }
    try {
      this.#replace();
      return action();
    } catch (error) {
      throw failureOf(error);
    }
  }

  #replace(): void {
    this.endLoad();
    const first = this.#connection === undefined;
    if (!first) {
      try {
        this.#connection.close();
      } catch (error) {
        // A corrupt file may refuse its last checkpoint; it is set aside as it is.
        void error;
      }
    }
    this.#setAside.push(this.#files.setAside());
    if (first) return;
    const { connection, statements } = this.#connect();
    this.#connection = connection;
    this.#statements = statements;
  }

  /** Cleans first, where that is still to be done. */
  #transaction(action: () => void): void {
    // Immediate: takes the write lock at once, so that busy is told before any work.
    try {
      this.#connection
        .transaction(() => {
          this.#clean();
          action();
        })
        .immediate();
      this.#forget = 'nothing';
    } catch (error) {
      this.#namespaceIds.clear();
      throw isCorrupt(error) ? error : failureOf(error);
    }
  }

  #clean(): void {
    if (this.#forget === 'nothing') return;
    const statements = this.#statements;
    if (this.#forget === 'all') {
      statements.removeAllReplicas.run();
      statements.removeAllChunks.run();
    } else {
      statements.removeRamReplicas.run();
      statements.removeChunksWithoutSsd.run();
    }
    statements.removeUnusedNamespaces.run();
    statements.removeUnusedTenants.run();
  }

  #namespaceId(descriptor: NamespaceDescriptor, nowMs: number): number {
    const { group, tags, ...columns } = descriptor;
    const identity = namespaceIdentity(descriptor);
    const known = this.#namespaceIds.get(identity);
    if (known !== undefined) return known;
    this.#statements.addTenant.run({ name: descriptor.tenant, firstSeenAtMs: nowMs });
    const row = { ...columns, label: namespaceLabel(descriptor), objectGroup: group, tags: JSON.stringify(tags) };
    const id = this.#statements.putNamespace.get(row)?.id;
    if (id === undefined) throw new CatalogFailure('bug', 'putNamespace returned no id');
    if (this.#namespaceIds.size >= NAMESPACE_CACHE_LIMIT) this.#namespaceIds.clear();
    this.#namespaceIds.set(identity, id);
    return id;
  }

  #put(row: PutRow, namespaceId: number, sumOfNamespace: number): void {
    const { namespace: _namespace, replicas, key, redisMetadata, ...columns } = row;
    const halves = { checksumHigh: Number.parseInt(row.checksum.slice(0, 8), 16), checksumLow: Number.parseInt(row.checksum.slice(8), 16) };
    const sum = rowSum({ ...row, ...halves }, sumOfNamespace);
    this.#statements.putChunk.run({ ...columns, namespaceId, key: bindable(key), redisMetadata: bindable(redisMetadata), rowSum: sum });
    this.#setReplicas(row.generation, replicas);
  }

  #patch(row: PatchRow): void {
    const { generation, use, parent, expiry, replicas } = row;
    if (use !== undefined) this.#statements.setUse.run({ generation, ...use });
    if (parent !== undefined || expiry !== undefined) {
      const before = this.#statements.changing.get({ generation });
      if (before !== undefined) {
        const after = {
          expiresAtMs: expiry === undefined ? before.expiresAtMs : expiry.atMs,
          parentGeneration: parent === undefined ? before.parentGeneration : parent.generation,
        };
        // A sum that was wrong stays wrong.
        const sum = before.rowSum === null ? null : (before.rowSum ^ changingSum(before) ^ changingSum(after)) >>> 0;
        this.#statements.setChanging.run({ generation, ...after, rowSum: sum });
      }
    }
    // Replicas of a chunk whose row was dropped by a full queue would be orphans.
    if (replicas !== undefined && this.#statements.hasChunk.get({ generation }) !== undefined) this.#setReplicas(generation, replicas);
  }

  #setReplicas(generation: number, replicas: PutRow['replicas']): void {
    this.#statements.removeReplicas.run({ generation });
    for (const { tier, folder, dirty } of replicas) this.#statements.putReplica.run({ generation, tier, folder, dirty: dirty ? 1 : 0 });
  }

  #putInvalidation(row: CatalogInvalidation): void {
    const { selector, ...columns } = row;
    this.#statements.putInvalidation.run({ ...columns, selector: JSON.stringify(selector) });
    this.#invalidationCount += 1;
    const { invalidationLimit } = this.#options;
    // Trims a tenth at a time: a trim looks at the whole index.
    if (this.#invalidationCount <= invalidationLimit * 1.1) return;
    this.#statements.trimInvalidations.run({ keep: invalidationLimit });
    this.#invalidationCount = invalidationLimit;
  }
}

class Corrupt extends Error {
  override readonly name = 'Corrupt';
}

function bindable(value: string | Uint8Array | null): string | Buffer | null {
  return value instanceof Uint8Array ? Buffer.from(value.buffer, value.byteOffset, value.byteLength) : value;
}

/** Applies what is missing of migrations/. Throws CatalogFailure `newer` for a file of a later kvtier. */
function bringUp(connection: Database.Database, migrationsDir: string): { readonly current: number; readonly changed: boolean } {
  const journal = JSON.parse(readFileSync(join(migrationsDir, 'meta', '_journal.json'), 'utf8')) as {
    readonly entries: readonly unknown[];
  };
  const current = journal.entries.length;
  const found = Number(connection.pragma('user_version', { simple: true }));
  if (found > current) {
    throw new CatalogFailure(
      'newer',
      `The catalog has schema ${found}, this kvtier knows ${current}: run a newer kvtier, or delete the file (it is rebuilt)`,
    );
  }
  if (found === current) return { current, changed: false };
  migrate(drizzle(connection), { migrationsFolder: migrationsDir });
  connection.pragma(`user_version = ${current}`);
  return { current, changed: true };
}

/** SQLite's code, also where drizzle has wrapped the error. */
function codeOf(error: unknown): string {
  for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) {
    const { code } = cause as { code?: unknown };
    if (typeof code === 'string') return code;
  }
  return '';
}

function isCorrupt(error: unknown): boolean {
  if (error instanceof Corrupt) return true;
  const code = codeOf(error);
  return code.startsWith('SQLITE_CORRUPT') || code === 'SQLITE_NOTADB';
}

function failureOf(error: unknown): CatalogFailure {
  if (error instanceof CatalogFailure) return error;
  const message = error instanceof Error ? error.message : String(error);
  return new CatalogFailure(isCorrupt(error) ? 'io' : kindOf(codeOf(error)), message, error);
}

function kindOf(code: string): CatalogFailureKind {
  if (code.startsWith('SQLITE_BUSY') || code.startsWith('SQLITE_LOCKED')) return 'busy';
  if (code === 'SQLITE_FULL' || code === 'ENOSPC' || code === 'EDQUOT') return 'full';
  if (/^SQLITE_(IOERR|CANTOPEN|READONLY|PERM|PROTOCOL|NOMEM)/.test(code) || /^E[A-Z0-9]+$/.test(code)) return 'io';
  return 'bug';
}
