/** Schemas of tenants' quotas. */
import { z } from 'zod';
import { countSchema, nameSchema } from './text.ts';

/** Bytes that a sum with what is under way still holds exactly. */
const limitSchema = z
  .number()
  .int()
  .min(0)
  .max(2 ** 50);

/** A whole quota: what is left out is not limited. At least one is wanted, since none at all is DELETE's business. */
export const quotaRequestSchema = z
  .strictObject({
    ramBytes: limitSchema.optional().meta({ description: 'Payload bytes in RAM; left out: no limit there' }),
    ssdBytes: limitSchema.optional().meta({ description: 'Payload bytes on SSD; left out: no limit there' }),
  })
  .refine(({ ramBytes, ssdBytes }) => ramBytes !== undefined || ssdBytes !== undefined, {
    message: 'The quota is empty; wanted ramBytes, ssdBytes or both, or DELETE to take it away',
  })
  .meta({ id: 'QuotaRequest', description: 'Replaces the whole quota' });
export type QuotaRequest = z.input<typeof quotaRequestSchema>;

export const quotaSchema = z
  .object({ ramBytes: countSchema.nullable(), ssdBytes: countSchema.nullable() })
  .meta({ id: 'Quota', description: 'Null: no limit in this tier' });
export type Quota = z.infer<typeof quotaSchema>;

export const tenantParamsSchema = z.object({
  tenant: nameSchema.meta({
    description:
      'A tenant with a token (name or @name), a cache_salt or its digest (salt@name where a tenant has that name), or default; percent-encoded',
  }),
});
