import { z } from 'zod';
import { isCredentialTenant, tenantNameShape } from '#core/namespace.ts';
import { restLimits } from './limits.ts';

/**
 * Text that names something stored: not empty (an empty prefix would match everything), bounded, and well-formed Unicode (a
 * lone surrogate would be another text after a trip through UTF-8, hence through the journal).
 */
export function boundedText(maxLength: number): z.ZodString {
  return z
    .string()
    .min(1)
    .max(maxLength)
    .refine((text) => text.isWellFormed(), { message: 'Text holds a lone surrogate; wanted well-formed Unicode' });
}

export const keySchema = boundedText(restLimits.keyLength).meta({ description: "A whole key in the client's own spelling" });
export const nameSchema = boundedText(restLimits.nameLength);
/** A tenant with a token, as `tenantOfCredential` spells it or by its bare name. */
export const credentialTenantSchema = z.string().refine((text) => tenantNameShape.test(isCredentialTenant(text) ? text.slice(1) : text), {
  message: 'Not a tenant with a token; wanted its name, or @ and its name',
});
export const keyListSchema = z.array(keySchema).min(1).max(restLimits.keyCount);
export const tierSchema = z.enum(['hbm', 'ram', 'ssd']);
export const pinModeSchema = z.enum(['soft', 'hard']);

/** Whole numbers as the server prints them: counters, sizes, times. */
export const countSchema = z.number().int().min(0);
