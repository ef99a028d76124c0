/** Errors on the wire: RFC 9457 problem details. */
import { z } from 'zod';
import { errorTable, type ErrorCode } from '#core/errors.ts';

export const PROBLEM_CONTENT_TYPE = 'application/problem+json';

const errorCodes = Object.keys(errorTable) as [ErrorCode, ...ErrorCode[]];

export const problemSchema = z
  .object({
    type: z.string().meta({ description: 'urn:kvtier:problem:CODE' }),
    title: z.string().meta({ description: 'What the code means; the same for every problem of the code' }),
    status: z.number().int(),
    detail: z.string().meta({ description: 'What happened here: the action, what is, what is wanted' }),
    code: z.enum(errorCodes),
    retryable: z.boolean().meta({ description: 'True where the same request may succeed later' }),
    errors: z
      .array(z.object({ path: z.string(), message: z.string() }))
      .optional()
      .meta({ description: 'Fields that failed validation; path is a dotted path in the body or query' }),
  })
  .meta({ id: 'Problem', description: 'RFC 9457 problem details' });
export type Problem = z.infer<typeof problemSchema>;

/** The problem of a code. `detail` must be free of secrets. */
export function problemOf(code: ErrorCode, detail: string, errors?: Problem['errors']): Problem {
  const row = errorTable[code];
  const base: Problem = {
    type: `urn:kvtier:problem:${code}`,
    title: row.meaning,
    status: row.http,
    detail,
    code,
    retryable: row.retryable,
  };
  return errors === undefined ? base : { ...base, errors };
}
