/** Reads the chunks with an SSD replica for a start: one snapshot, one pass, page by page, on a read-only connection of its own. */
import type Database from 'better-sqlite3';
import { drizzle } from 'drizzle-orm/better-sqlite3';
import { parseLmBlock } from '#core/lm-block.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';
import { selectNamespaces, selectSsdChunks } from '#schema/queries.ts';
import { ChunkPageWriter } from './chunk-page.ts';
import type { ChunkPage } from './chunk-page.ts';
import { namespaceSum, rowSum } from './row-sum.ts';

/** The columns of `selectSsdChunks` in its order; typed by us alone, since SQLite types values and people can edit the file. */
type RawRow = readonly unknown[];

export class ChunkLoad {
  readonly #connection: Database.Database;
  readonly #rows: Iterator<unknown>;
  readonly #namespaces: ReadonlyMap<number, KnownNamespace>;
  /** Read ahead by one, to see whether it belongs to the chunk before. */
  #next: RawRow | undefined;

  /** Takes the connection, and closes it in the end. */
  constructor(connection: Database.Database) {
    this.#connection = connection;
    try {
      const db = drizzle(this.#connection);
      // One read transaction for both queries: the load is of one moment.
      this.#connection.exec('BEGIN');
      this.#namespaces = readNamespaces(selectNamespaces(db).all());
      const query = selectSsdChunks(db).toSQL();
      this.#rows = this.#connection
        .prepare(query.sql)
        .raw()
        .iterate(...query.params);
      this.#next = this.#read();
    } catch (error) {
      this.#connection.close();
      throw error;
    }
  }

  next(limit: number): ChunkPage {
    const page = new ChunkPageWriter(limit);
    let current: unknown;
    let accepted = false;
    while (this.#next !== undefined) {
      const row = this.#next;
      if (row[0] !== current) {
        if (page.isFull) return page.finish(false);
        current = row[0];
        accepted = this.#add(page, row);
        if (!accepted) page.skip();
      }
      if (accepted && typeof row[13] === 'string') page.addReplica(row[13]);
      this.#next = this.#read();
    }
    return page.finish(true);
  }

  close(): void {
    this.#rows.return?.();
    this.#connection.close();
  }

  #read(): RawRow | undefined {
    const step = this.#rows.next();
    return step.done === true ? undefined : (step.value as RawRow);
  }

  /** False where the row is not what we would have written. */
  #add(page: ChunkPageWriter, row: RawRow): boolean {
    const [generation, key, sizeBytes, checksum, createdAtMs] = [row[0], row[2], row[3], row[4], row[5]];
    const [lastUsedAtMs, hitCount, parentGeneration, tokenCount, redisMetadata] = [row[6], row[7], row[8], row[9], row[10]];
    const lmBlock = row[11];
    const expiresAtMs = row[12] === null ? 0 : row[12];
    const known = this.#namespaces.get(row[1] as number);
    if (known === undefined || !(typeof key === 'string' || key instanceof Uint8Array)) return false;
    if (!isCount(generation) || !isCount(sizeBytes) || !isCount(hitCount) || !isOptionalCount(parentGeneration)) return false;
    if (!isTime(expiresAtMs) || expiresAtMs < 0) return false;
    if (!isTime(createdAtMs) || !isTime(lastUsedAtMs) || !isOptionalCount(tokenCount)) return false;
    if (typeof checksum !== 'string' || checksum.length !== 16 || !(redisMetadata === null || redisMetadata instanceof Uint8Array))
      return false;
    if (!(lmBlock === null || (typeof lmBlock === 'string' && parseLmBlock(lmBlock) !== undefined))) return false;
    const checksumHigh = hexWord(checksum, 0);
    const checksumLow = hexWord(checksum, 8);
    if (checksumHigh < 0 || checksumLow < 0) return false;
    const sizes = { generation, sizeBytes, createdAtMs, lastUsedAtMs, expiresAtMs, hitCount, parentGeneration, tokenCount };
    const all = { ...sizes, checksumHigh, checksumLow, namespace: known.namespace, key, redisMetadata, lmBlock };
    // 0 sums as NULL does.
    if (row[14] !== rowSum(all, known.sum)) return false;
    page.add(all);
    return true;
  }
}

/** Eight lower-case hexadecimal digits from `start` as a number; -1 where one is none. */
function hexWord(text: string, start: number): number {
  let value = 0;
  for (let at = start; at < start + 8; at += 1) {
    const code = text.charCodeAt(at);
    const digit = code >= 48 && code <= 57 ? code - 48 : code >= 97 && code <= 102 ? code - 87 : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isOptionalCount(value: unknown): value is number | null {
  return value === null || isCount(value);
}

function isTime(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value);
}

type NamespaceRow = ReturnType<ReturnType<typeof selectNamespaces>['all']>[number];

interface KnownNamespace {
  readonly namespace: NamespaceDescriptor;
  readonly sum: number;
}

function readNamespaces(rows: readonly NamespaceRow[]): Map<number, KnownNamespace> {
  const namespaces = new Map<number, KnownNamespace>();
  for (const row of rows) {
    const tags = parseTags(row.tags);
    const texts = [row.tenant, row.model, row.rank, row.objectGroup, row.dtype, row.layer, row.keyPrefix, row.keyTail];
    const known =
      row.grammar === 'object-key' || row.grammar === 'cache-engine-key' || row.grammar === 'opaque' || row.grammar === 'native';
    if (!known || tags === undefined || texts.some((value) => typeof value !== 'string')) continue;
    const { id, label: _label, objectGroup, ...columns } = row;
    const namespace = { ...columns, group: objectGroup, tags };
    namespaces.set(id, { namespace, sum: namespaceSum(namespace) });
  }
  return namespaces;
}

function parseTags(text: unknown): Readonly<Record<string, string>> | undefined {
  try {
    const value: unknown = JSON.parse(String(text));
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return undefined;
    return Object.values(value).every((tag) => typeof tag === 'string') ? (value as Record<string, string>) : undefined;
  } catch {
    return undefined;
  }
}
