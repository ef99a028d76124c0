/** Schemas of health and statistics. Sizes in bytes; counters since the start of the process. */
import { z } from 'zod';
import { tierBytesSchema } from './chunks.ts';
import { quotaSchema } from './quotas.ts';
import { countSchema, tierSchema } from './text.ts';

export const healthSchema = z
  .object({
    state: z.enum(['starting', 'ready', 'degraded', 'draining']),
    reasons: z.array(z.string()).meta({ description: 'Why it is not ready, in a sentence each' }),
    notes: z.array(z.string()).optional().meta({ description: 'What is so on purpose and has to be known, such as a GPU that is none' }),
  })
  .meta({ id: 'Health' });
export type Health = z.infer<typeof healthSchema>;

/** The process answers; says nothing of the cache. */
export const livenessSchema = z.object({ status: z.literal('ok') }).meta({ id: 'Liveness' });
export type Liveness = z.infer<typeof livenessSchema>;

const folderSchema = z.object({
  path: z.string(),
  id: z.string(),
  state: z.enum(['ok', 'read-only', 'stalled', 'off']),
  reason: z.string(),
  capacityBytes: countSchema,
  usedBytes: countSchema,
  chunkCount: countSchema,
  direct: z.boolean().meta({ description: 'False where the file system refuses O_DIRECT' }),
  readBytesPerSecond: z.number(),
  writeBytesPerSecond: z.number(),
});

const tierStatsSchema = z
  .object({
    tier: tierSchema,
    state: z.enum(['ok', 'starting', 'degraded', 'off']),
    reasons: z.array(z.string()),
    capacityBytes: countSchema,
    usedBytes: countSchema,
    dirtyBytes: countSchema.meta({ description: 'Only here, and lost in a crash' }),
    chunkCount: countSchema,
    leasedBytes: countSchema,
    folders: z.array(folderSchema).optional(),
  })
  .meta({ id: 'TierStats' });

const latencySchema = z.object({ p50: z.number(), p99: z.number() });
const perTierSchema = z.object({ hbm: countSchema, ram: countSchema, ssd: countSchema });
const lowerTiersSchema = z.object({ ram: countSchema, ssd: countSchema });

export const doorSchema = z
  .object({
    door: z.string(),
    address: z.string(),
    connections: countSchema,
    acceptedConnections: countSchema,
    requests: countSchema,
    errors: countSchema,
    receivedBytes: countSchema,
    sentBytes: countSchema,
  })
  .meta({ id: 'DoorStats' });
export type DoorStats = z.infer<typeof doorSchema>;

const ioSchema = z.object({
  readBytes: countSchema,
  writtenBytes: countSchema,
  readErrors: countSchema,
  writeErrors: countSchema,
  checksumMismatches: countSchema,
  quarantinedFiles: countSchema,
  queueDepth: countSchema,
  readLatencyMs: latencySchema,
  writeLatencyMs: latencySchema,
});

const storeAdmissionSchema = z.object({
  mode: z.string(),
  admittedChunks: countSchema,
  skippedChunks: countSchema,
  shedChunks: countSchema,
  writeBudgetBytesPerSecond: z.number(),
});

const pinSumsSchema = z.object({
  soft: z.object({ chunks: countSchema, bytes: countSchema }),
  hard: z.object({ chunks: countSchema, bytes: countSchema }),
});
const pinsSchema = z.object({
  chunks: countSchema,
  lost: countSchema.meta({ description: 'Pins that could not be kept: a tier became smaller, or a value larger' }),
  ram: pinSumsSchema,
  ssd: pinSumsSchema,
});

const catalogSchema = z.object({
  state: z.enum(['ok', 'degraded', 'off']),
  reason: z.string(),
  queuedChanges: countSchema,
  droppedChanges: countSchema,
  walBytes: countSchema,
});

export const statsSchema = z
  .object({
    scope: z.string().meta({ description: "'agent', or the tenant whose numbers alone these are: what is not kept by tenant is 0 then" }),
    version: z.string(),
    uptimeSeconds: z.number(),
    state: healthSchema.shape.state,
    tiers: z.array(tierStatsSchema),
    hbm: z
      .object({
        promotions: countSchema,
        demotions: countSchema,
        loads: countSchema,
        checksumMismatches: countSchema,
        exports: countSchema,
      })
      .optional()
      .meta({ description: 'What moved to and from GPUs; absent without an HBM tier. The devices: /v1/devices' }),
    probes: countSchema.meta({ description: 'Keys asked about' }),
    probeHits: countSchema,
    lookups: countSchema.meta({ description: 'Keys asked for bytes; each is one hit or one miss' }),
    hits: perTierSchema,
    misses: countSchema,
    puts: countSchema,
    putBytes: countSchema,
    duplicatePuts: countSchema,
    rejectedPuts: z.object({ tooLarge: countSchema, shed: countSchema, draining: countSchema, quota: countSchema, quotaSlot: countSchema }),
    droppedDirtyChunks: countSchema,
    evictions: perTierSchema,
    demotions: countSchema,
    promotions: countSchema,
    deletes: countSchema,
    invalidatedChunks: countSchema,
    expiredChunks: countSchema,
    sizeGuardMisses: countSchema,
    refusedLookups: countSchema.meta({
      description: 'Misses of chunks that are there: RAM had no room for them in time, or their device does not answer',
    }),
    storeAdmission: storeAdmissionSchema,
    leases: countSchema,
    pins: pinsSchema,
    quotas: z.object({ tenants: countSchema, evictions: lowerTiersSchema.meta({ description: 'Replicas given up for a quota' }) }),
    io: ioSchema,
    doors: z.array(doorSchema),
    modelCount: countSchema,
    models: z
      .array(z.object({ model: z.string(), epoch: countSchema, chunkCount: countSchema, bytes: tierBytesSchema }))
      .meta({ description: 'Largest first, at most 100' }),
    tenantCount: countSchema,
    tenants: z
      .array(z.object({ tenant: z.string(), chunkCount: countSchema, bytes: tierBytesSchema, quota: quotaSchema.nullable() }))
      .meta({ description: 'Salts by digest (a cache_salt is a secret), largest first, at most 100' }),
    catalog: catalogSchema,
    recovery: z.object({
      done: z.boolean(),
      adoptedFiles: countSchema,
      droppedFiles: countSchema,
      loadedRows: countSchema,
      /** Chunks that the former process had in RAM, and that are there still. */
      keptChunks: countSchema,
    }),
  })
  .meta({ id: 'Stats' });
export type Stats = z.infer<typeof statsSchema>;
