/** Later is cut to this, in milliseconds since 1970: the year 5138, and exact in every format. */
export const MAX_EXPIRES_AT_MS = 1e14;

/** A point in time at which a chunk may end: whole, and never 0, which stands for never. */
export function boundedExpiry(atMs: number): number {
  return Math.min(Math.max(1, Math.floor(atMs)), MAX_EXPIRES_AT_MS);
}
