/** Schemas of what reads: chunks, namespaces, tenants, lookup, prefetch. */
import { z } from 'zod';
import { restLimits } from './limits.ts';
import { quotaSchema } from './quotas.ts';
import { countSchema, credentialTenantSchema, keyListSchema, keySchema, nameSchema, pinModeSchema, tierSchema } from './text.ts';
import { timePointSchema } from './time-point.ts';

const cursorSchema = z.string().min(1).max(restLimits.cursorLength).meta({ description: 'Opaque: the cursor of the page before' });
const nextCursorSchema = z.string().nullable().meta({ description: 'For the next page; null on the last' });

/** Page size of a query string. */
const limitSchema = z.coerce
  .number<string | number>()
  .int()
  .min(1)
  .max(restLimits.pageSize)
  .default(restLimits.defaultPageSize)
  .meta({ description: `Rows of the page, 1 to ${restLimits.pageSize}` });

export const pageQuerySchema = z.strictObject({ cursor: cursorSchema.optional(), limit: limitSchema });
export type PageQuery = z.input<typeof pageQuerySchema>;

export const chunkQuerySchema = z.strictObject({
  model: nameSchema.optional(),
  tenant: nameSchema.optional(),
  namespace: nameSchema.optional(),
  tier: tierSchema.optional(),
  keyPrefix: keySchema.optional(),
  olderThan: timePointSchema.optional(),
  cursor: cursorSchema.optional(),
  limit: limitSchema,
});
export type ChunkQuery = z.input<typeof chunkQuerySchema>;

export const chunkSchema = z
  .object({
    id: z.string().meta({ description: 'Opaque; stale once the chunk is removed' }),
    key: z.string(),
    namespace: z.string(),
    model: z.string(),
    tenant: z.string(),
    sizeBytes: countSchema,
    checksum: z.string().meta({ description: 'xxHash3-64 over blocks of 1 MiB, 16 hex digits' }),
    generation: countSchema,
    createdAtMs: z.number(),
    lastUsedAtMs: z.number(),
    expiresAtMs: z.number().nullable().meta({ description: 'Not served from then on; null: never' }),
    hitCount: countSchema,
    parentId: z.string().nullable(),
    tiers: z.array(tierSchema),
    dirty: z.boolean().meta({ description: 'A crash would lose it: no replica on SSD' }),
    leased: z.boolean(),
    pinned: pinModeSchema.nullable().meta({ description: 'soft: evicted last; hard: never for space; null: not pinned' }),
  })
  .meta({ id: 'Chunk' });
export type Chunk = z.infer<typeof chunkSchema>;

export const chunkPageSchema = z.object({ chunks: z.array(chunkSchema), cursor: nextCursorSchema }).meta({ id: 'ChunkPage' });
export type ChunkPage = z.infer<typeof chunkPageSchema>;

export const chunkParamsSchema = z.object({ id: z.string().min(1).max(128) });

export const tierBytesSchema = z.object({
  hbm: countSchema.optional().meta({ description: 'Absent without an HBM tier' }),
  ram: countSchema,
  ssd: countSchema,
});

export const namespaceSchema = z
  .object({
    label: z.string().meta({ description: 'What the namespace field of a selector or filter takes' }),
    grammar: z.enum(['object-key', 'cache-engine-key', 'opaque', 'native']),
    tenant: z.string(),
    model: z.string(),
    rank: z.string(),
    group: z.string(),
    dtype: z.string(),
    layer: z.string(),
    tags: z.record(z.string(), z.string()),
    keyPrefix: z.string(),
    keyTail: z.string(),
    epoch: countSchema.meta({ description: 'Epoch of the model; 0 where it was never moved' }),
    chunkCount: countSchema,
    bytes: tierBytesSchema,
  })
  .meta({ id: 'Namespace' });
export type Namespace = z.infer<typeof namespaceSchema>;
export const namespacePageSchema = z
  .object({ namespaces: z.array(namespaceSchema), cursor: nextCursorSchema })
  .meta({ id: 'NamespacePage' });
export type NamespacePage = z.infer<typeof namespacePageSchema>;

export const tenantSchema = z
  .object({
    tenant: z.string(),
    digest: z.string().meta({ description: 'How statistics, metrics and logs name the tenant; so is `tenant`, unless salts are revealed' }),
    namespaceCount: countSchema,
    chunkCount: countSchema,
    bytes: tierBytesSchema,
    quota: quotaSchema.nullable().meta({ description: 'Null: none' }),
  })
  .meta({ id: 'Tenant' });
export type Tenant = z.infer<typeof tenantSchema>;
export const tenantPageSchema = z.object({ tenants: z.array(tenantSchema), cursor: nextCursorSchema }).meta({ id: 'TenantPage' });
export type TenantPage = z.infer<typeof tenantPageSchema>;

export const keysRequestSchema = z
  .strictObject({
    keys: keyListSchema.meta({ description: 'Whole keys in prefix order' }),
    tenant: credentialTenantSchema
      .optional()
      .meta({ description: 'Whose keys, for those who see all: a tenant with a token, by its name or @name' }),
  })
  .meta({ id: 'KeysRequest' });

export const prefetchRequestSchema = keysRequestSchema
  .extend({ tier: z.enum(['ram', 'hbm']).optional().meta({ description: 'Where they are wanted; RAM where nothing is said' }) })
  .meta({ id: 'PrefetchRequest' });

export const lookupAnswerSchema = z.object({
  key: z.string(),
  tier: tierSchema.nullable().meta({ description: 'Where the bytes are; null for a miss' }),
  sizeBytes: countSchema.nullable(),
  reason: z.string().meta({ description: "Why it is a miss: absent, size-guard, gap; '' for a hit" }),
});
export const lookupResponseSchema = z
  .object({ hitCount: countSchema.meta({ description: 'Keys served before the first gap' }), answers: z.array(lookupAnswerSchema) })
  .meta({ id: 'LookupResponse' });
export type LookupResponse = z.infer<typeof lookupResponseSchema>;

export const prefetchResponseSchema = z
  .object({
    promoted: countSchema,
    alreadyInRam: countSchema.meta({ description: 'In the tier that was asked for' }),
    missing: countSchema,
    refused: countSchema,
  })
  .meta({ id: 'PrefetchResponse' });
export type PrefetchResponse = z.infer<typeof prefetchResponseSchema>;
