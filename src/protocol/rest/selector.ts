/** The selector on the wire. Its meaning is core/selector.ts; here are only spelling and bounds. */
import { z } from 'zod';
import type { Selector } from '#core/selector.ts';
import { keyListSchema, keySchema, nameSchema, tierSchema } from './text.ts';
import { resolveTimePoint, timePointSchema } from './time-point.ts';

/**
 * Fields are ANDed and unknown ones refused: a misspelt field that was ignored would widen what is invalidated.
 * An empty selector is refused; `all` stands alone. The same key twice is the same as once.
 */
export const selectorSchema = z
  .strictObject({
    all: z.literal(true).optional().meta({ description: 'Everything; stands alone' }),
    model: nameSchema.optional().meta({ description: 'Exact model name' }),
    modelPrefix: nameSchema.optional().meta({ description: 'Start of the model name' }),
    tenant: nameSchema.optional().meta({
      description: 'A tenant with a token (name or @name), a cache_salt or its digest (salt@name where a tenant has that name), or default',
    }),
    namespace: nameSchema.optional().meta({ description: 'A label as /v1/namespaces prints it' }),
    keys: keyListSchema.optional().meta({ description: "Whole keys in the client's spelling" }),
    keyPrefix: keySchema.optional().meta({ description: "Start of the client's spelling of a key" }),
    chainFrom: keySchema.optional().meta({ description: 'Whole key of a chunk: it and its known descendants' }),
    tag: nameSchema.optional().meta({ description: 'name=value, or name for any value' }),
    olderThan: timePointSchema.optional().meta({ description: 'Last use before this time: ms, ISO 8601, or a duration ago' }),
    createdBefore: timePointSchema.optional().meta({ description: 'First put before this time: ms, ISO 8601, or a duration ago' }),
    tier: tierSchema.optional().meta({ description: 'Has a replica in this tier' }),
  })
  .superRefine((selector, context) => {
    const fields = Object.entries(selector).filter(([, value]) => value !== undefined);
    if (fields.length === 0) {
      context.addIssue({ code: 'custom', message: 'Selector is empty; wanted at least one field, or {"all": true} for everything' });
    }
    if (selector.all === true && fields.length > 1) {
      context.addIssue({ code: 'custom', path: ['all'], message: 'all stands beside other fields; wanted all alone or the others alone' });
    }
  })
  .meta({ id: 'Selector', description: 'What to act on: fields are ANDed, at least one, unknown fields are refused' });
export type WireSelector = z.input<typeof selectorSchema>;

/** The core's selector, with times resolved against `nowMs` and without absent fields. Errors: BAD_REQUEST. */
export function toSelector(wire: z.output<typeof selectorSchema>, nowMs: number): Selector {
  const { olderThan, createdBefore, ...rest } = wire;
  const present: Selector = Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== undefined));
  return {
    ...present,
    ...(olderThan === undefined ? {} : { olderThan: resolveTimePoint(olderThan, nowMs) }),
    ...(createdBefore === undefined ? {} : { createdBefore: resolveTimePoint(createdBefore, nowMs) }),
  };
}
