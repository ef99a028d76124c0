/**
 * The catalog: what is cached, for people with a `sqlite3` shell and for the next start. Derived from the chunk files and the
 * journal, so that it may be deleted at any time. Sizes in bytes, times in wall-clock milliseconds, generations as in core/brand.ts.
 *
 * Changing a table: edit here, run `bunx drizzle-kit generate`, commit the new file of migrations/. The views stand in
 * migrations/0001_views.sql, since nothing in TypeScript reads them.
 */
import { blob, index, integer, primaryKey, sqliteTable, text, uniqueIndex } from 'drizzle-orm/sqlite-core';

/** `schema_version`, `created_at`. The version that counts for a program is `PRAGMA user_version`: the number of migrations applied. */
export const meta = sqliteTable('meta', {
  name: text('name').primaryKey(),
  value: text('value').notNull(),
});

/** Whoever owns chunks, or did. Names are cache salts: this file has mode 0600, and they never leave it for a log. */
export const tenant = sqliteTable('tenant', {
  name: text('name').primaryKey(),
  firstSeenAtMs: integer('first_seen_at_ms').notNull(),
});

/** See core/namespace.ts. Rows stay when their chunks have gone. */
export const namespace = sqliteTable(
  'namespace',
  {
    id: integer('id').primaryKey(),
    label: text('label').notNull(),
    grammar: text('grammar', { enum: ['object-key', 'cache-engine-key', 'opaque', 'native'] }).notNull(),
    tenant: text('tenant')
      .notNull()
      .references(() => tenant.name),
    model: text('model').notNull(),
    rank: text('rank').notNull(),
    /** `group` is a word of SQL. */
    objectGroup: text('object_group').notNull(),
    dtype: text('dtype').notNull(),
    layer: text('layer').notNull(),
    /** A JSON object of names and values. */
    tags: text('tags').notNull(),
    keyPrefix: text('key_prefix').notNull(),
    keyTail: text('key_tail').notNull(),
  },
  (table) => [uniqueIndex('namespace_identity').on(table.grammar, table.tenant, table.keyPrefix, table.keyTail)],
);

export const chunk = sqliteTable(
  'chunk',
  {
    generation: integer('generation').primaryKey(),
    namespaceId: integer('namespace_id')
      .notNull()
      .references(() => namespace.id),
    /**
     * The chunk's own key inside its namespace: as text where its bytes are UTF-8 without NUL, else as a blob (SQLite types values,
     * not columns). The view cached_chunk shows the whole key, blobs in hexadecimal.
     */
    key: text('key').notNull(),
    sizeBytes: integer('size_bytes').notNull(),
    /** 16 hexadecimal digits, as everywhere a checksum is shown. */
    checksum: text('checksum').notNull(),
    createdAtMs: integer('created_at_ms').notNull(),
    lastUsedAtMs: integer('last_used_at_ms').notNull(),
    hitCount: integer('hit_count').notNull(),
    /** NULL: never. The journal may know better (docs/formats/journal.md). */
    expiresAtMs: integer('expires_at_ms'),
    /** May name a chunk that has gone. */
    parentGeneration: integer('parent_generation'),
    tokenCount: integer('token_count'),
    redisMetadata: blob('redis_metadata', { mode: 'buffer' }),
    /** `[fmt,dtype,shape0,shape1,shape2,shape3]` of a chunk that a client of lm:// stored. */
    lmBlock: text('lm_block'),
    /** By which the row proves itself (node-agent/catalog/row-sum.ts). NULL or another one: the row is not believed, and its file is read. */
    rowSum: integer('row_sum'),
  },
  (table) => [index('chunk_parent').on(table.parentGeneration)],
);

/** Where a chunk's bytes are. WITHOUT ROWID, so that the rows lie in the order of the primary key and nothing is stored twice. */
export const replica = sqliteTable(
  'replica',
  {
    generation: integer('generation')
      .notNull()
      .references(() => chunk.generation, { onDelete: 'cascade' }),
    tier: text('tier', { enum: ['hbm', 'ram', 'ssd'] }).notNull(),
    /** Id of the SSD folder; '' for RAM. */
    folder: text('folder').notNull(),
    /** 1 where the bytes are not on SSD too. */
    dirty: integer('dirty', { mode: 'boolean' }).notNull(),
  },
  (table) => [primaryKey({ columns: [table.generation, table.tier, table.folder] })],
);

/** The audit log. The journal decides what is dead; this says who asked, when, and how much it was. */
export const invalidation = sqliteTable(
  'invalidation',
  {
    id: text('id').primaryKey(),
    atMs: integer('at_ms').notNull(),
    generation: integer('generation').notNull(),
    /** JSON, see core/selector.ts. */
    selector: text('selector').notNull(),
    reason: text('reason').notNull(),
    actor: text('actor').notNull(),
    matchedChunks: integer('matched_chunks').notNull(),
    removedBytes: integer('removed_bytes').notNull(),
  },
  (table) => [index('invalidation_order').on(table.generation, table.id)],
);
