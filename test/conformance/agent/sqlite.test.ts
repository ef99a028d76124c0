/** `sqlite3` on the catalog of a live agent: the answers that docs/queries.md promises agree with /v1/stats and the listings. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import * as known from '#testsupport/agent-chunks.ts';
import { until } from '#testsupport/agent-probes.ts';
import type { ByteClient } from '#testsupport/byte-client.ts';

const hasShell = spawnSync('sqlite3', ['--version']).status === 0;

const alpha = [1, 2, 3, 4].map((id) => known.objectChunk(id, { model: 'org/alpha' }));
const ann = [5, 6].map((id) => known.objectChunk(id, { model: 'org/alpha', tenant: 'salt-of-ann' }));
const zeta = [7, 8].map((id) => known.engineChunk(id, { model: 'zeta', tags: { lang: 'de' } }));
const opaque = ['plain', 'other'].map((key) => known.opaqueChunk(key));
const all = [...alpha, ...ann, ...zeta, ...opaque];

// A skip with its reason in the name: the shell is not ours to install.
const shellTest = hasShell ? test : test.skip;

let agent: RunningAgent;
let client: ByteClient;
beforeAll(async () => {
  agent = await startAgent({ flags: ['--ssd-admission', 'demote', '--tenants-reveal'] });
  client = await known.redisClient(agent);
  await known.store(client, all);
  await agent.client.persist({ model: 'org/alpha' });
  await agent.client.evict({ tier: 'ram', selector: { tenant: 'salt-of-ann' } });
  for (const [index, chunk] of alpha.entries()) for (let times = 0; times <= index; times += 1) await client.send('GET', chunk.key);
});
afterAll(async () => {
  client.destroy();
  expect(await agent.stop(), agent.output()).toBe(0);
});

function query<Row>(sql: string): Row[] {
  const shell = spawnSync('sqlite3', ['-json', '-readonly', join(agent.dataDir, 'catalog.db'), sql], { encoding: 'utf8' });
  if (shell.status !== 0) throw new Error(`${sql}\n${shell.stderr}`);
  return shell.stdout.trim() === '' ? [] : (JSON.parse(shell.stdout) as Row[]);
}

/** Uses follow every 5 s, all else within 100 ms; nothing tells when but the rows themselves. */
async function written(hits: number): Promise<void> {
  await until(`the catalog has ${hits} hits and nothing waits`, async () => {
    const { catalog } = await agent.client.stats();
    const [row] = query<{ hits: number }>('SELECT coalesce(sum(hit_count), 0) AS hits FROM chunk');
    return catalog.queuedChanges === 0 && row?.hits === hits;
  });
}

shellTest('what is cached by tier, model and tenant is what the agent holds', async () => {
  await written(1 + 2 + 3 + 4);
  const stats = await agent.client.stats();
  for (const name of ['ram', 'ssd'] as const) {
    const tier = known.tier(stats, name);
    const rows = (await known.listed(agent)).filter(({ tiers }) => tiers.includes(name));
    expect(
      query(
        `SELECT sum(chunk_count) AS chunks, sum(size_bytes) AS bytes, sum(dirty_bytes) AS dirty FROM usage_by_tier WHERE tier = '${name}'`,
      ),
      name,
    ).toEqual([{ chunks: tier.chunkCount, bytes: rows.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0), dirty: tier.dirtyBytes }]);
  }
  const models = query<{ model: string; chunk_count: number; ram_bytes: number; ssd_bytes: number }>(
    'SELECT model, chunk_count, ram_bytes, ssd_bytes FROM usage_by_model ORDER BY model',
  );
  expect(models).toEqual(
    stats.models
      .map(({ model, chunkCount, bytes }) => ({ model, chunk_count: chunkCount, ram_bytes: bytes.ram, ssd_bytes: bytes.ssd }))
      .toSorted((a, b) => (a.model < b.model ? -1 : 1)),
  );
  const { tenants } = await agent.client.tenants();
  expect(query('SELECT tenant, chunk_count, ram_bytes, ssd_bytes FROM usage_by_tenant ORDER BY tenant')).toEqual(
    tenants.map(({ tenant, chunkCount, bytes }) => ({ tenant, chunk_count: chunkCount, ram_bytes: bytes.ram, ssd_bytes: bytes.ssd })),
  );
});

shellTest('every chunk is there as the listing tells of it, and the hottest come first', async () => {
  await written(1 + 2 + 3 + 4);
  const rows = query<{
    key: string;
    generation: number;
    tiers: string;
    namespace: string;
    checksum: string;
    size_bytes: number;
    hit_count: number;
    created_at_ms: number;
  }>('SELECT key, generation, tiers, namespace, checksum, size_bytes, hit_count, created_at_ms FROM cached_chunk ORDER BY key');
  const listed = (await known.listed(agent)).toSorted((a, b) => (a.key < b.key ? -1 : 1));
  expect(rows).toEqual(
    listed.map(({ key, generation, tiers, namespace, checksum, sizeBytes, hitCount, createdAtMs }) => ({
      key,
      generation,
      tiers: tiers.join('+'),
      namespace,
      checksum,
      size_bytes: sizeBytes,
      hit_count: hitCount,
      created_at_ms: createdAtMs,
    })),
  );
  expect(query<{ key: string }>('SELECT key FROM hottest_chunk').map(({ key }) => key)).toEqual(alpha.map(({ key }) => key).toReversed());
});

shellTest('what was invalidated when, by whom and how much is the audit log, and the chunks are gone from every view', async () => {
  const before = Date.now();
  await agent.client.invalidate({ selector: { model: 'zeta', tag: 'lang=de' }, reason: 'recalled' });
  await agent.client.bumpEpoch('org/alpha', { reason: 'new weights' });
  await client.send('FLUSHALL');
  await written(0);
  const rows = query<{
    id: string;
    actor: string;
    reason: string;
    selector: string;
    matched_chunks: number;
    removed_bytes: number;
    generation: number;
  }>('SELECT id, actor, reason, selector, matched_chunks, removed_bytes, generation FROM invalidation_log');
  const log = (await agent.client.invalidations()).invalidations;
  expect(rows.map((row) => ({ ...row, selector: JSON.parse(row.selector) as unknown }))).toEqual(
    log.map(({ id, actor, reason, selector, matchedChunks, removedBytes, generation }) => ({
      id,
      actor,
      reason,
      selector,
      matched_chunks: matchedChunks,
      removed_bytes: removedBytes,
      generation,
    })),
  );
  expect(rows.map(({ actor, matched_chunks }) => [actor, matched_chunks])).toEqual([
    ['resp', opaque.length],
    ['epoch', alpha.length + ann.length],
    ['admin', zeta.length],
  ]);
  const [time] = query<{ first: number; last: number }>('SELECT min(at_ms) AS first, max(at_ms) AS last FROM invalidation');
  expect(time?.first).toBeGreaterThanOrEqual(before - 1);
  expect(time?.last).toBeLessThanOrEqual(Date.now() + 1);
  await until(
    'no row of a chunk is left',
    () => query<{ n: number }>('SELECT (SELECT count(*) FROM chunk) + (SELECT count(*) FROM replica) AS n')[0]?.n === 0,
  );
  for (const view of ['cached_chunk', 'usage_by_tier', 'usage_by_model', 'usage_by_tenant', 'hottest_chunk', 'chain'])
    expect(query(`SELECT * FROM ${view}`), view).toEqual([]);
});
