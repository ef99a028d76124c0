/** How an admin names a tenant that has a token, beside a salt of the same name: in every order and filter of the REST API. */
import { describe, expect, test } from 'vitest';
import type { KvtierClient } from '#client/kvtier-client.ts';
import { createApiHarness, type ApiHarness } from '#testsupport/api-harness.ts';
import { simNamespace } from '#testsupport/sim-cache-control.ts';

const admin = 'admin-token-21c0';
/** A chunk of the tenant `ann`, one of a client without a token that has the salt `ann`, and one of nobody's. */
const owners = { token: '@ann', salt: 'ann', none: 'default' } as const;
const spellings = [
  ['the bare name', 'ann', 'token'],
  ['@ and the name', '@ann', 'token'],
  ['salt@ and the name', 'salt@ann', 'salt'],
] as const;

function start(revealSalts: boolean): { harness: ApiHarness; client: KvtierClient; keys: Record<keyof typeof owners, string> } {
  const tokens = { admin, tenants: new Map([['ann', 'ann-token-90ab']]) };
  const harness = createApiHarness({ tokens, revealSalts });
  const keys = { token: 'k-token', salt: 'k-salt', none: 'k-none' };
  for (const who of ['token', 'salt', 'none'] as const) {
    const namespace = simNamespace({ model: 'm', tenant: owners[who] });
    harness.control.put({ key: keys[who], namespace, sizeBytes: 10, tiers: ['ram', 'ssd'] });
  }
  return { harness, client: harness.client(admin), keys };
}

describe.each([true, false])('Where salts are shown in clear: %s', (revealSalts) => {
  test.each(spellings)('%s names a quota', async (_, name, who) => {
    const { harness, client } = start(revealSalts);
    expect(await client.setQuota(name, { ramBytes: 5 })).toMatchObject({ chunkCount: 1, quota: { ramBytes: 5 } });
    expect(harness.control.quotas()).toEqual([{ tenant: owners[who], ramBytes: 5, ssdBytes: undefined }]);
    expect(await client.quota(name)).toMatchObject({ chunkCount: 1, quota: { ramBytes: 5 } });
    await client.removeQuota(name);
    expect(harness.control.quotas()).toEqual([]);
  });

  test.each(spellings)('%s names it in filters and selectors', async (_, name, who) => {
    const { harness, client, keys } = start(revealSalts);
    const selector = { tenant: name };
    expect((await client.chunks(selector)).chunks.map(({ key }) => key)).toEqual([keys[who]]);
    expect(await client.pin({ selector, mode: 'soft' })).toMatchObject({ pinned: { chunks: 1 } });
    expect(await client.unpin(selector)).toMatchObject({ unpinned: { chunks: 1 } });
    expect(await client.persist(selector)).toMatchObject({ alreadyOnSsd: 1 });
    expect(await client.evict({ tier: 'ram', selector })).toMatchObject({ evicted: 1 });
    expect(await client.invalidate({ selector })).toMatchObject({ matchedChunks: 1 });
    const left = harness.control.chunks({}, { limit: 10 }).chunks.map(({ tenant }) => tenant);
    expect(left.toSorted()).toEqual(
      Object.values(owners)
        .filter((owner) => owner !== owners[who])
        .toSorted(),
    );
  });

  test('a name that nobody has a token for is that of a salt', async () => {
    const { harness, client } = start(revealSalts);
    await client.setQuota('bob', { ramBytes: 5 });
    expect(harness.control.quotas()).toMatchObject([{ tenant: 'bob' }]);
    await client.setQuota('salt@bob', { ramBytes: 6 });
    expect(harness.control.quotas()).toMatchObject([{ tenant: 'bob', ramBytes: 6 }]);
  });
});
