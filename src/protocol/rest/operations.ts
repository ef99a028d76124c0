/** Schemas of what changes: persist, evict, invalidate, epochs; and verify. */
import { z } from 'zod';
import { restLimits } from './limits.ts';
import { problemSchema } from './problem.ts';
import { selectorSchema } from './selector.ts';
import { boundedText, countSchema, nameSchema, pinModeSchema, tierSchema } from './text.ts';

const reasonSchema = boundedText(restLimits.reasonLength).meta({ description: 'Kept in the audit log' });

export const persistRequestSchema = z.strictObject({ selector: selectorSchema }).meta({ id: 'PersistRequest' });
export const persistResponseSchema = z
  .object({ persisted: countSchema, alreadyOnSsd: countSchema, failed: countSchema, bytes: countSchema })
  .meta({ id: 'PersistResponse' });
export type PersistResponse = z.infer<typeof persistResponseSchema>;

export const evictRequestSchema = z
  .strictObject({ tier: tierSchema.meta({ description: 'The tier to free' }), selector: selectorSchema })
  .meta({ id: 'EvictRequest' });
export type EvictRequest = z.input<typeof evictRequestSchema>;
export const evictResponseSchema = z
  .object({
    evicted: countSchema,
    bytes: countSchema,
    skipped: countSchema.meta({ description: 'Leased, or in RAM and no lower tier takes them' }),
  })
  .meta({ id: 'EvictResponse' });
export type EvictResponse = z.infer<typeof evictResponseSchema>;

const pinSumSchema = z.object({ chunks: countSchema, bytes: countSchema });

export const pinRequestSchema = z
  .strictObject({
    selector: selectorSchema,
    mode: pinModeSchema.meta({
      description: 'soft: evicted last; hard: never for space, at most a quarter of a tier, and kept over a restart',
    }),
    tier: z
      .literal('hbm')
      .optional()
      .meta({ description: 'Copies what is pinned into HBM, too, as far as it has room. It leaves HBM last, and may leave it' }),
  })
  .meta({ id: 'PinRequest' });
export type PinRequest = z.input<typeof pinRequestSchema>;
export const pinResponseSchema = z
  .object({
    mode: pinModeSchema,
    pinned: pinSumSchema.meta({ description: 'By this request' }),
    heldInRam: countSchema.meta({ description: 'Of these, chunks whose RAM copy is held too' }),
    alreadyPinned: pinSumSchema,
    refused: z
      .object({
        ram: pinSumSchema.meta({ description: 'The quarter of RAM is used up, and there is no SSD' }),
        ssd: pinSumSchema.meta({ description: 'The quarter of SSD is used up' }),
        count: pinSumSchema.meta({ description: 'The number of pins is used up' }),
        unwritten: pinSumSchema.meta({ description: 'Only in RAM, and SSD did not take them' }),
      })
      .meta({ description: 'Not pinned, by reason' }),
    notFound: countSchema.meta({ description: 'Keys that are not there, and chunks that went meanwhile' }),
    inHbm: pinSumSchema
      .optional()
      .meta({ description: 'Pinned chunks of the selector that HBM has at the end; where tier hbm was asked for' }),
  })
  .meta({ id: 'PinResponse' });
export type PinResponse = z.infer<typeof pinResponseSchema>;

export const unpinRequestSchema = z.strictObject({ selector: selectorSchema }).meta({ id: 'UnpinRequest' });
export const unpinResponseSchema = z
  .object({ unpinned: pinSumSchema, notPinned: countSchema, notFound: countSchema })
  .meta({ id: 'UnpinResponse' });
export type UnpinResponse = z.infer<typeof unpinResponseSchema>;

export const invalidateRequestSchema = z
  .strictObject({
    selector: selectorSchema,
    dryRun: z.boolean().optional().meta({ description: 'Count only; default false' }),
    reason: reasonSchema.optional(),
  })
  .meta({ id: 'InvalidateRequest' });
export type InvalidateRequest = z.input<typeof invalidateRequestSchema>;

/** 'ok' or 'failed' tells of the call to LMCache's own clear; 'off' where none is configured or nothing was to be cleared. */
const webhookSchema = z.enum(['ok', 'failed', 'off']).meta({ description: "Outcome of the call to LMCache's own clear" });

const invalidateFields = {
  id: z.string(),
  matchedChunks: countSchema,
  removedBytes: countSchema,
  generation: countSchema,
  dryRun: z.boolean(),
  webhook: webhookSchema,
};
export const invalidateResponseSchema = z.object(invalidateFields).meta({ id: 'InvalidateResponse' });
export type InvalidateResponse = z.infer<typeof invalidateResponseSchema>;

export const epochParamsSchema = z.object({ model: nameSchema.meta({ description: 'Model name, percent-encoded: / is %2F' }) });
export const epochRequestSchema = z.strictObject({ reason: reasonSchema.optional() }).meta({ id: 'EpochRequest' });
export type EpochRequest = z.input<typeof epochRequestSchema>;
export const epochResponseSchema = z.object({ model: z.string(), epoch: countSchema, ...invalidateFields }).meta({ id: 'EpochResponse' });
export type EpochResponse = z.infer<typeof epochResponseSchema>;

export const invalidationSchema = z
  .object({
    id: z.string(),
    atMs: z.number(),
    generation: countSchema,
    // Not selectorSchema: what a newer or older agent wrote into its log must still print.
    selector: z
      .record(z.string(), z.union([z.boolean(), z.string(), z.number(), z.array(z.string())]))
      .meta({ description: 'As it was asked, times as ms since 1970' }),
    reason: z.string(),
    actor: z.string().meta({ description: 'admin, resp or epoch; never a token' }),
    matchedChunks: countSchema,
    removedBytes: countSchema,
  })
  .meta({ id: 'Invalidation' });
export type Invalidation = z.infer<typeof invalidationSchema>;
export const invalidationPageSchema = z
  .object({ invalidations: z.array(invalidationSchema), cursor: z.string().nullable() })
  .meta({ id: 'InvalidationPage' });
export type InvalidationPage = z.infer<typeof invalidationPageSchema>;

export const verifyProgressSchema = z
  .object({
    checkedFiles: countSchema,
    totalFiles: countSchema,
    checkedBytes: countSchema,
    mismatches: z.array(z.object({ path: z.string(), key: z.string(), problem: z.string() })),
    done: z.boolean(),
  })
  .meta({ id: 'VerifyProgress' });
export type VerifyProgress = z.infer<typeof verifyProgressSchema>;

/** A line of the NDJSON stream: progress, or the problem that ended it after the status was sent. */
export const verifyLineSchema = z.union([verifyProgressSchema, z.object({ problem: problemSchema })]).meta({ id: 'VerifyLine' });
export type VerifyLine = z.infer<typeof verifyLineSchema>;

/** Routes that take a body but need nothing in it. */
export const emptyRequestSchema = z.strictObject({}).meta({ id: 'EmptyRequest' });
