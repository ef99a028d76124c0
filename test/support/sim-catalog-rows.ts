/** The naive model of the catalog's rows: what the batches that were acknowledged add up to. Judges what a process leaves on the disk. */
import type Database from 'better-sqlite3';
import { namespaceIdentity } from '#core/namespace.ts';
import type { CatalogBatch, OpenOptions, PatchRow, PutRow } from '#catalog/catalog-protocol.ts';
import type { CatalogReplica } from '#ports/catalog-store.ts';

interface Row {
  readonly namespace: string;
  readonly key: string;
  readonly sizeBytes: number;
  readonly checksum: string;
  readonly createdAtMs: number;
  readonly lastUsedAtMs: number;
  readonly hitCount: number;
  readonly expiresAtMs: number | null;
  readonly parentGeneration: number | null;
  /** In the order of the table. */
  readonly replicas: readonly string[];
}

export class SimCatalogRows {
  readonly #rows = new Map<number, Row>();
  readonly #invalidations = new Set<string>();

  /** What is in the file, row by row. Throws where SQLite finds damage. */
  static read(connection: Database.Database): SimCatalogRows {
    const rows = new SimCatalogRows();
    const chunks = connection.prepare(CHUNKS).raw().all() as (readonly (string | number | Uint8Array | null)[])[];
    for (const [
      generation,
      grammar,
      tenant,
      keyPrefix,
      keyTail,
      key,
      sizeBytes,
      checksum,
      created,
      used,
      hits,
      expires,
      parent,
    ] of chunks) {
      rows.#rows.set(generation as number, {
        namespace: namespaceIdentity({ grammar, tenant, keyPrefix, keyTail } as Parameters<typeof namespaceIdentity>[0]),
        key: keyText(key as string | Uint8Array),
        sizeBytes: sizeBytes as number,
        checksum: checksum as string,
        createdAtMs: created as number,
        lastUsedAtMs: used as number,
        hitCount: hits as number,
        expiresAtMs: expires as number | null,
        parentGeneration: parent as number | null,
        replicas: [],
      });
    }
    for (const [generation, tier, folder, dirty] of connection.prepare(REPLICAS).raw().all() as (readonly (string | number)[])[]) {
      const row = rows.#rows.get(generation as number);
      const replica = `${tier} ${folder} ${dirty}`;
      // An orphan shows as a row that nobody wants.
      if (row === undefined) rows.#invalidations.add(`orphan ${generation} ${replica}`);
      else rows.#rows.set(generation as number, { ...row, replicas: [...row.replicas, replica] });
    }
    for (const id of connection.prepare('SELECT id FROM invalidation').pluck().all()) rows.#invalidations.add(id as string);
    return rows;
  }

  clone(): SimCatalogRows {
    const copy = new SimCatalogRows();
    for (const [generation, row] of this.#rows) copy.#rows.set(generation, row);
    for (const id of this.#invalidations) copy.#invalidations.add(id);
    return copy;
  }

  apply(batch: CatalogBatch): void {
    for (const generation of batch.removes) this.#rows.delete(generation);
    for (const row of batch.puts) this.#put(row, batch);
    for (const row of batch.patches) this.#patch(row);
    for (const { id } of batch.invalidations) this.#invalidations.add(id);
  }

  #put(put: PutRow, batch: CatalogBatch): void {
    const namespace = batch.namespaces[put.namespace];
    if (namespace === undefined) throw new Error(`A batch has no namespace ${put.namespace}`);
    const { sizeBytes, checksum, createdAtMs, lastUsedAtMs, hitCount, expiresAtMs, parentGeneration } = put;
    this.#rows.set(put.generation, {
      namespace: namespaceIdentity(namespace),
      key: keyText(put.key),
      sizeBytes,
      checksum,
      createdAtMs,
      lastUsedAtMs,
      hitCount,
      expiresAtMs,
      parentGeneration,
      replicas: texts(put.replicas),
    });
  }

  #patch({ generation, use, parent, expiry, replicas }: PatchRow): void {
    const row = this.#rows.get(generation);
    if (row === undefined) return;
    this.#rows.set(generation, {
      ...row,
      ...use,
      ...(parent === undefined ? {} : { parentGeneration: parent.generation }),
      ...(expiry === undefined ? {} : { expiresAtMs: expiry.atMs }),
      ...(replicas === undefined ? {} : { replicas: texts(replicas) }),
    });
  }

  /** What an open does to the rows of a former process. */
  forget(what: OpenOptions['forget']): void {
    if (what === 'nothing') return;
    for (const [generation, row] of this.#rows) {
      const replicas = what === 'all' ? [] : row.replicas.filter((replica) => replica.startsWith('ssd '));
      if (replicas.length === 0) this.#rows.delete(generation);
      else this.#rows.set(generation, { ...row, replicas });
    }
  }

  /** The first difference to `other`, in words; undefined where there is none. */
  differs(other: SimCatalogRows): string | undefined {
    for (const [generation, row] of this.#rows) {
      const there = JSON.stringify(other.#rows.get(generation));
      if (there !== JSON.stringify(row)) return `generation ${generation}: ${JSON.stringify(row)} and ${there}`;
    }
    for (const generation of other.#rows.keys()) if (!this.#rows.has(generation)) return `generation ${generation} is in the second only`;
    for (const id of this.#invalidations) if (!other.#invalidations.has(id)) return `${id} is in the first only`;
    for (const id of other.#invalidations) if (!this.#invalidations.has(id)) return `${id} is in the second only`;
    return undefined;
  }

  /** As `GET /v1/chunks` might list them: for a comparison with the index. */
  *facts(): Iterable<{
    generation: number;
    sizeBytes: number;
    hitCount: number;
    lastUsedAtMs: number;
    expiresAtMs: number;
    tiers: string;
  }> {
    for (const [generation, { sizeBytes, hitCount, lastUsedAtMs, expiresAtMs, replicas }] of this.#rows) {
      const tiers = replicas.map((replica) => replica.slice(0, 3)).join(' ');
      yield { generation, sizeBytes, hitCount, lastUsedAtMs, expiresAtMs: expiresAtMs ?? 0, tiers };
    }
  }
}

const CHUNKS = `SELECT c.generation, n.grammar, n.tenant, n.key_prefix, n.key_tail, c.key, c.size_bytes, c.checksum, c.created_at_ms,
  c.last_used_at_ms, c.hit_count, c.expires_at_ms, c.parent_generation
  FROM chunk c LEFT JOIN namespace n ON n.id = c.namespace_id`;
const REPLICAS = 'SELECT generation, tier, folder, dirty FROM replica ORDER BY generation, tier, folder';

function keyText(key: string | Uint8Array): string {
  return typeof key === 'string' ? `text ${key}` : `blob ${Buffer.from(key).toString('hex')}`;
}

function texts(replicas: readonly CatalogReplica[]): string[] {
  return replicas.map(({ tier, folder, dirty }) => `${tier} ${folder} ${dirty ? 1 : 0}`).sort();
}
