/** Everything that goes wrong, as RFC 9457 problem+json. */
import type { Context } from 'hono';
import { HTTPException } from 'hono/http-exception';
import type { z } from 'zod';
import { KvtierError, type ErrorCode } from '#core/errors.ts';
import { problemOf, PROBLEM_CONTENT_TYPE, type Problem } from '#protocol/rest/problem.ts';

/** Failed fields told of one request; names of unknown fields are cut, since a caller chooses them. */
const MAX_FIELD_ERRORS = 20;
const MAX_MESSAGE_LENGTH = 300;

const codeOfStatus: Readonly<Record<number, ErrorCode>> = { 400: 'BAD_REQUEST', 413: 'PAYLOAD_TOO_LARGE', 415: 'UNSUPPORTED_MEDIA_TYPE' };

/**
 * The problem of a throw. Operating errors tell their message, which is written for callers; HTTPException comes from the HTTP
 * library for requests it cannot read; all else is a bug, of which the caller learns nothing but that.
 */
export function problemOfError(error: unknown): { readonly problem: Problem; readonly bug: boolean } {
  if (error instanceof KvtierError) return { problem: problemOf(error.code, error.message), bug: false };
  if (error instanceof HTTPException) {
    const code = codeOfStatus[error.status];
    if (code !== undefined) return { problem: problemOf(code, error.message), bug: false };
  }
  return { problem: problemOf('INTERNAL', 'The agent failed on this request; its log tells why'), bug: true };
}

export function problemOfZodError(error: z.core.$ZodError): Problem {
  const errors = error.issues
    .slice(0, MAX_FIELD_ERRORS)
    .map(({ path, message }) => ({ path: cut(path.map(String).join('.')), message: cut(message) }));
  return problemOf('BAD_REQUEST', 'The request does not fit its schema', errors);
}

export function problemResponse(context: Context, problem: Problem): Response {
  const headers: Record<string, string> = { 'content-type': PROBLEM_CONTENT_TYPE };
  if (problem.status === 401) headers['www-authenticate'] = 'Bearer realm="kvtier"';
  if (problem.status === 503) headers['retry-after'] = '1';
  return context.body(JSON.stringify(problem), problem.status as 400, headers);
}

function cut(text: string): string {
  return text.length <= MAX_MESSAGE_LENGTH ? text : `${text.slice(0, MAX_MESSAGE_LENGTH)}…`;
}
