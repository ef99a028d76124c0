/** How tokens are compared. A stopwatch proves nothing on a busy machine, so the comparisons themselves are counted. */
import type * as nodeCrypto from 'node:crypto';
import { beforeEach, expect, test, vi } from 'vitest';

const compared = vi.hoisted((): { sizes: number[] } => ({ sizes: [] }));
vi.mock('node:crypto', async (original) => {
  const crypto = await original<typeof nodeCrypto>();
  return {
    ...crypto,
    timingSafeEqual: (a: Uint8Array, b: Uint8Array) => {
      compared.sizes.push(a.byteLength, b.byteLength);
      return crypto.timingSafeEqual(a, b);
    },
  };
});
const { createAuthenticate } = await import('#api/credentials.ts');

const tenants = new Map(Array.from({ length: 5 }, (_, index) => [`t${index}`, `token-of-${index}`]));
const authenticate = createAuthenticate({ admin: 'root', read: 'reader', tenants });

beforeEach(() => {
  compared.sizes.length = 0;
});

test.each([
  ['root', { role: 'admin', tenant: undefined }],
  ['reader', { role: 'read', tenant: undefined }],
  ['token-of-0', { role: 'tenant', tenant: '@t0' }],
  ['token-of-4', { role: 'tenant', tenant: '@t4' }],
  ['', undefined],
  ['roo', undefined],
  ['root ', undefined],
  ['x'.repeat(100_000), undefined],
])('%.20s is compared with each of seven tokens, in constant time and by digests of one length, whichever it is', (token, wanted) => {
  for (const given of [token, new TextEncoder().encode(token)]) {
    compared.sizes.length = 0;
    expect(authenticate?.(given)).toEqual(wanted);
    expect(compared.sizes).toEqual(Array.from({ length: 14 }, () => 32));
  }
});
