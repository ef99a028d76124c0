import { describe, expect, it } from 'vitest';
import { parseKey } from '#protocol/lmcache-key.ts';
import type { ParsedKey } from '#protocol/lmcache-key.ts';
import { MOST_WAITING, PendingMetadataTable } from '#servers/resp/pending-metadata.ts';

function key(index: number): ParsedKey {
  const parsed = parseKey(new TextEncoder().encode(`llama@1@0@${(0x10000 + index).toString(16)}@halfmetadata`));
  if (parsed === 'too-long') throw new Error('The key is too long');
  return parsed;
}

const value = new Uint8Array([1, 2, 3]);

describe('PendingMetadataTable', () => {
  it('forgets the oldest half where too many wait, and one that came again is young', () => {
    const table = new PendingMetadataTable({ invalidationCount: 0, expiryNowMs: () => 0 });
    for (let index = 0; index < MOST_WAITING; index += 1) table.keep(key(index), { value, expiresAtMs: 0 });
    table.keep(key(0), { value, expiresAtMs: 0 });
    table.keep(key(MOST_WAITING), { value, expiresAtMs: 0 });
    expect(table.size).toBe(MOST_WAITING);
    expect([0, 1, 2, MOST_WAITING].map((index) => table.take(key(index)) !== undefined)).toEqual([true, false, true, true]);
    expect(table.size).toBe(MOST_WAITING - 3);
  });

  it('gives a half out once, until its own expiry, and not after an invalidation that it was there for', () => {
    const now = { invalidationCount: 7, ms: 1000 };
    const table = new PendingMetadataTable({
      get invalidationCount() {
        return now.invalidationCount;
      },
      expiryNowMs: () => now.ms,
    });
    table.keep(key(1), { value, expiresAtMs: 2000 });
    table.keep(key(2), { value, expiresAtMs: 2000 });
    now.ms = 1999;
    expect([table.take(key(1))?.value, table.take(key(1))]).toEqual([value, undefined]);
    now.ms = 2000;
    expect(table.take(key(2))).toBeUndefined();
    table.keep(key(3), { value, expiresAtMs: 0 });
    now.invalidationCount += 1;
    table.keep(key(4), { value, expiresAtMs: 0 });
    expect([table.take(key(3)), table.take(key(4))?.value]).toEqual([undefined, value]);
  });
});
