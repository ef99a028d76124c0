/**
 * The statements that keep the catalog, prepared once for a connection. On any synchronous SQLite that drizzle drives; the node
 * agent runs them on better-sqlite3. Values are bound by the names of the columns in schema.ts.
 */
import { and, asc, count, desc, eq, lt, ne, notExists, notInArray, or, sql } from 'drizzle-orm';
import type { BaseSQLiteDatabase } from 'drizzle-orm/sqlite-core';
import { chunk, invalidation, meta, namespace, replica, tenant } from './schema.ts';

export type CatalogDb = BaseSQLiteDatabase<'sync', unknown, Record<string, unknown>>;

const bind = sql.placeholder;

export type CatalogStatements = ReturnType<typeof prepareStatements>;

/** Every statement of the write-behind. */
export function prepareStatements(db: CatalogDb) {
  return {
    putMeta: db
      .insert(meta)
      .values({ name: bind('name'), value: bind('value') })
      .onConflictDoUpdate({ target: meta.name, set: { value: sql`excluded.value` } })
      .prepare(),
    addMeta: db
      .insert(meta)
      .values({ name: bind('name'), value: bind('value') })
      .onConflictDoNothing()
      .prepare(),
    addTenant: db
      .insert(tenant)
      .values({ name: bind('name'), firstSeenAtMs: bind('firstSeenAtMs') })
      .onConflictDoNothing()
      .prepare(),
    ...namespaceStatements(db),
    ...chunkStatements(db),
    ...replicaStatements(db),
    ...invalidationStatements(db),
    ...cleaningStatements(db),
  };
}

function namespaceStatements(db: CatalogDb) {
  return {
    /** Returns the id, of the row that is there as well. */
    putNamespace: db
      .insert(namespace)
      .values({
        label: bind('label'),
        grammar: bind('grammar'),
        tenant: bind('tenant'),
        model: bind('model'),
        rank: bind('rank'),
        objectGroup: bind('objectGroup'),
        dtype: bind('dtype'),
        layer: bind('layer'),
        tags: bind('tags'),
        keyPrefix: bind('keyPrefix'),
        keyTail: bind('keyTail'),
      })
      .onConflictDoUpdate({
        target: [namespace.grammar, namespace.tenant, namespace.keyPrefix, namespace.keyTail],
        set: { label: sql`excluded.label` },
      })
      .returning({ id: namespace.id })
      .prepare(),
  };
}

function chunkStatements(db: CatalogDb) {
  return {
    putChunk: db
      .insert(chunk)
      .values({
        generation: bind('generation'),
        namespaceId: bind('namespaceId'),
        key: sql`${bind('key')}`,
        sizeBytes: bind('sizeBytes'),
        checksum: bind('checksum'),
        createdAtMs: bind('createdAtMs'),
        expiresAtMs: bind('expiresAtMs'),
        lastUsedAtMs: bind('lastUsedAtMs'),
        hitCount: bind('hitCount'),
        parentGeneration: bind('parentGeneration'),
        tokenCount: bind('tokenCount'),
        redisMetadata: sql`${bind('redisMetadata')}`,
        lmBlock: bind('lmBlock'),
        rowSum: bind('rowSum'),
      })
      .onConflictDoUpdate({
        target: chunk.generation,
        set: {
          namespaceId: sql`excluded.namespace_id`,
          key: sql`excluded.key`,
          sizeBytes: sql`excluded.size_bytes`,
          checksum: sql`excluded.checksum`,
          createdAtMs: sql`excluded.created_at_ms`,
          expiresAtMs: sql`excluded.expires_at_ms`,
          lastUsedAtMs: sql`excluded.last_used_at_ms`,
          hitCount: sql`excluded.hit_count`,
          parentGeneration: sql`excluded.parent_generation`,
          tokenCount: sql`excluded.token_count`,
          redisMetadata: sql`excluded.redis_metadata`,
          lmBlock: sql`excluded.lm_block`,
          rowSum: sql`excluded.row_sum`,
        },
      })
      .prepare(),
    /** Remove its replicas too: foreign keys are not enforced on this connection (a delete of a namespace would scan all chunks). */
    removeChunk: db
      .delete(chunk)
      .where(eq(chunk.generation, bind('generation')))
      .prepare(),
    hasChunk: db
      .select({ generation: chunk.generation })
      .from(chunk)
      .where(eq(chunk.generation, bind('generation')))
      .prepare(),
    setUse: db
      .update(chunk)
      .set({ lastUsedAtMs: sql`${bind('lastUsedAtMs')}`, hitCount: sql`${bind('hitCount')}` })
      .where(eq(chunk.generation, bind('generation')))
      .prepare(),
    /** What of a row changes by itself, with the sum that covers it. */
    changing: db
      .select({ expiresAtMs: chunk.expiresAtMs, parentGeneration: chunk.parentGeneration, rowSum: chunk.rowSum })
      .from(chunk)
      .where(eq(chunk.generation, bind('generation')))
      .prepare(),
    setChanging: db
      .update(chunk)
      .set({
        expiresAtMs: sql`${bind('expiresAtMs')}`,
        parentGeneration: sql`${bind('parentGeneration')}`,
        rowSum: sql`${bind('rowSum')}`,
      })
      .where(eq(chunk.generation, bind('generation')))
      .prepare(),
  };
}

function replicaStatements(db: CatalogDb) {
  return {
    removeReplicas: db
      .delete(replica)
      .where(eq(replica.generation, bind('generation')))
      .prepare(),
    putReplica: db
      .insert(replica)
      .values({ generation: bind('generation'), tier: bind('tier'), folder: bind('folder'), dirty: bind('dirty') })
      .onConflictDoUpdate({ target: [replica.generation, replica.tier, replica.folder], set: { dirty: sql`excluded.dirty` } })
      .prepare(),
  };
}

function invalidationStatements(db: CatalogDb) {
  return {
    putInvalidation: db
      .insert(invalidation)
      .values({
        id: bind('id'),
        atMs: bind('atMs'),
        generation: bind('generation'),
        selector: bind('selector'),
        reason: bind('reason'),
        actor: bind('actor'),
        matchedChunks: bind('matchedChunks'),
        removedBytes: bind('removedBytes'),
      })
      .onConflictDoUpdate({
        target: invalidation.id,
        set: { matchedChunks: sql`excluded.matched_chunks`, removedBytes: sql`excluded.removed_bytes` },
      })
      .prepare(),
    /** All but the newest `keep`. */
    trimInvalidations: db
      .delete(invalidation)
      .where(
        sql`${invalidation.id} IN (SELECT ${invalidation.id} FROM ${invalidation} ORDER BY ${invalidation.generation} DESC, ${invalidation.id} DESC LIMIT -1 OFFSET ${bind('keep')})`,
      )
      .prepare(),
    countInvalidations: db.select({ count: count() }).from(invalidation).prepare(),
    invalidationPlace: db
      .select({ generation: invalidation.generation, id: invalidation.id })
      .from(invalidation)
      .where(eq(invalidation.id, bind('id')))
      .prepare(),
    /** Newest first. */
    newestInvalidations: db
      .select()
      .from(invalidation)
      .orderBy(desc(invalidation.generation), desc(invalidation.id))
      .limit(bind('limit'))
      .prepare(),
    olderInvalidations: db
      .select()
      .from(invalidation)
      .where(
        or(
          lt(invalidation.generation, bind('generation')),
          and(eq(invalidation.generation, bind('generation')), lt(invalidation.id, bind('id'))),
        ),
      )
      .orderBy(desc(invalidation.generation), desc(invalidation.id))
      .limit(bind('limit'))
      .prepare(),
  };
}

function cleaningStatements(db: CatalogDb) {
  const onSsd = db
    .select({ one: sql`1` })
    .from(replica)
    .where(and(eq(replica.generation, chunk.generation), eq(replica.tier, 'ssd')));
  return {
    /** RAM is empty after a start: what only it held is gone. */
    removeRamReplicas: db.delete(replica).where(ne(replica.tier, 'ssd')).prepare(),
    removeChunksWithoutSsd: db.delete(chunk).where(notExists(onSsd)).prepare(),
    removeAllReplicas: db.delete(replica).prepare(),
    removeAllChunks: db.delete(chunk).prepare(),
    removeUnusedNamespaces: db
      .delete(namespace)
      .where(notInArray(namespace.id, db.select({ id: chunk.namespaceId }).from(chunk)))
      .prepare(),
    removeUnusedTenants: db
      .delete(tenant)
      .where(notInArray(tenant.name, db.select({ name: namespace.tenant }).from(namespace)))
      .prepare(),
  };
}

/** All namespaces, for the load. */
export function selectNamespaces(db: CatalogDb) {
  return db.select().from(namespace);
}

/** One row for each SSD replica, coldest chunk first; replicas of one chunk are neighbours. */
export function selectSsdChunks(db: CatalogDb) {
  return db
    .select({
      generation: chunk.generation,
      namespaceId: chunk.namespaceId,
      key: chunk.key,
      sizeBytes: chunk.sizeBytes,
      checksum: chunk.checksum,
      createdAtMs: chunk.createdAtMs,
      lastUsedAtMs: chunk.lastUsedAtMs,
      hitCount: chunk.hitCount,
      parentGeneration: chunk.parentGeneration,
      tokenCount: chunk.tokenCount,
      redisMetadata: chunk.redisMetadata,
      lmBlock: chunk.lmBlock,
      expiresAtMs: chunk.expiresAtMs,
      folder: replica.folder,
      rowSum: chunk.rowSum,
    })
    .from(replica)
    .innerJoin(chunk, eq(chunk.generation, replica.generation))
    .where(eq(replica.tier, 'ssd'))
    .orderBy(asc(chunk.lastUsedAtMs), asc(chunk.generation));
}
