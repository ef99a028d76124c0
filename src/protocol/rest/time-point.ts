import { z } from 'zod';
import { badRequest } from '#core/errors.ts';
import { parseDuration } from '#core/duration.ts';

/** Largest time of ECMAScript's Date, in ms: the year 275760. */
const MAX_TIME_MS = 8.64e15;
const isoSchema = z.union([z.iso.datetime({ offset: true }), z.iso.date()]);

/**
 * A moment, in one of three spellings:
 * - milliseconds since 1970, as a number or as digits (a query string has no numbers);
 * - ISO 8601 with `Z` or an offset, or a date alone, which is midnight UTC; a local time without offset is refused;
 * - a duration with its unit (`1h`, `30m`, `7d`), which means that long before the server's clock.
 */
export const timePointSchema = z
  .union([z.number().int().min(0).max(MAX_TIME_MS), z.string().min(1).max(64)])
  .refine((value) => timePointMs(value, 0) !== undefined, {
    message: 'Not a time; wanted ms since 1970, ISO 8601 with an offset, or a duration ago such as 1h',
  })
  .meta({ description: 'ms since 1970, ISO 8601 with offset (or a date, UTC), or a duration ago such as 1h' });
export type TimePoint = number | string;

/** Wall-clock milliseconds, at least 0, or undefined where the text is no time. `nowMs` is the moment that durations count from. */
export function timePointMs(value: TimePoint, nowMs: number): number | undefined {
  if (typeof value === 'number') return Number.isInteger(value) && value >= 0 && value <= MAX_TIME_MS ? value : undefined;
  if (/^\d+$/.test(value)) return timePointMs(Number(value), nowMs);
  const durationMs = parseDuration(value);
  if (durationMs !== undefined) return Math.max(0, nowMs - durationMs);
  if (!isoSchema.safeParse(value).success) return undefined;
  const timeMs = Date.parse(value);
  return Number.isNaN(timeMs) || timeMs < 0 ? undefined : timeMs;
}

/** As `timePointMs`, for a value that the schema took. Errors: BAD_REQUEST. */
export function resolveTimePoint(value: TimePoint, nowMs: number): number {
  const timeMs = timePointMs(value, nowMs);
  if (timeMs === undefined) throw badRequest(`Cannot read time ${JSON.stringify(value)}: wanted ms since 1970, ISO 8601 or a duration`);
  return timeMs;
}
