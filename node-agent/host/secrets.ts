/** Comparison of secrets in constant time, whatever their lengths: both are hashed first. */
import { createHash, timingSafeEqual } from 'node:crypto';

export function secretsEqual(given: Uint8Array | string, wanted: string): boolean {
  const digest = (value: Uint8Array | string): Buffer => createHash('sha256').update(value).digest();
  return timingSafeEqual(digest(given), digest(wanted));
}
