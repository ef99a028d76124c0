/** What operators see of chunks that real clients stored over RESP: statistics, listings, lookups, metrics, health, problems. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import * as known from '#testsupport/agent-chunks.ts';
import { until } from '#testsupport/agent-probes.ts';
import type { ByteClient } from '#testsupport/byte-client.ts';
import { tenantDigest } from '#telemetry/tenant-digest.ts';

const alpha = [1, 2, 3, 4].map((id) => known.objectChunk(id, { model: 'org/alpha' }));
const ann = [1, 2, 5].map((id) => known.objectChunk(id, { model: 'org/alpha', tenant: 'salt-of-ann' }));
const beta = [1, 6].map((id) => known.objectChunk(id, { model: 'org/beta', rank: '02000201' }));
const tagged = [7, 8].map((id) => known.engineChunk(id, { model: 'zeta', tags: { lang: 'de', kind: 'x' } }));
const english = [7].map((id) => known.engineChunk(id, { model: 'zeta', tags: { lang: 'en' } }));
const opaque = ['plain', 'plain:2', 'other'].map((key) => known.opaqueChunk(key));
const all = [...alpha, ...ann, ...beta, ...tagged, ...english, ...opaque];

let agent: RunningAgent;
let client: ByteClient;
beforeAll(async () => {
  agent = await startAgent({ flags: ['--ssd-admission', 'demote', '--tenants-reveal'] });
  client = await known.redisClient(agent);
  await known.store(client, all);
});
afterAll(async () => {
  client.destroy();
  expect(await agent.stop(), agent.output()).toBe(0);
});

test('/v1/stats has every field of the reference, and chunks, bytes, models and tenants are those that were stored', async () => {
  const stats = await agent.client.stats();
  expect(stats.version).toMatch(/^\d+\.\d+\.\d+/);
  expect(stats.uptimeSeconds).toBeGreaterThan(0);
  expect(stats.state, JSON.stringify(await agent.client.readiness())).toMatch(/^(ready|degraded)$/);
  expect(stats.tiers.map((row) => row.tier)).toEqual(['ram', 'ssd']);
  expect(known.tier(stats, 'ram')).toMatchObject({
    chunkCount: all.length,
    usedBytes: known.bytesOf(all),
    dirtyBytes: known.bytesOf(all),
    leasedBytes: 0,
    capacityBytes: 64 * 2 ** 20,
  });
  expect(known.tier(stats, 'ssd')).toMatchObject({ chunkCount: 0, dirtyBytes: 0, capacityBytes: 256 * 2 ** 20 });
  expect(stats).toMatchObject({ puts: all.length, putBytes: known.bytesOf(all), lookups: 0, misses: 0, hits: { hbm: 0, ram: 0, ssd: 0 } });
  expect(stats.storeAdmission.mode).toBe('demote');
  const doors = new Map(stats.doors.map((door) => [door.door, door]));
  expect(doors.get('resp')).toMatchObject({ address: `127.0.0.1:${agent.resp.port}`, connections: 1, requests: all.length + 1, errors: 0 });
  expect(doors.get('resp')?.receivedBytes).toBeGreaterThan(known.bytesOf(all));
  expect(doors.get('http')?.address).toBe(`127.0.0.1:${agent.http.port}`);
  for (const field of ['probes', 'evictions', 'demotions', 'promotions', 'io', 'catalog', 'recovery'] as const)
    expect(stats[field], field).toBeDefined();
  for (const model of ['org/alpha', 'org/beta', 'zeta', '']) {
    const chunks = all.filter((chunk) => chunk.model === model);
    expect(stats.models.find((row) => row.model === model)).toEqual({
      model,
      epoch: 0,
      chunkCount: chunks.length,
      bytes: { ram: known.bytesOf(chunks), ssd: 0 },
    });
  }
  for (const tenant of ['default', 'salt-of-ann']) {
    const chunks = all.filter((chunk) => chunk.tenant === tenant);
    expect(stats.tenants.find((row) => row.tenant === tenant)).toMatchObject({
      chunkCount: chunks.length,
      bytes: { ram: known.bytesOf(chunks) },
    });
  }
});

test('/v1/namespaces and /v1/tenants have one row for each of both grammars and opaque keys, with their chunks and bytes, in any page size', async () => {
  const expected = new Map<string, known.KnownChunk[]>();
  for (const chunk of all) expected.set(chunk.namespace, [...(expected.get(chunk.namespace) ?? []), chunk]);
  for (const limit of [1, 2, 1000]) {
    const rows = [];
    let cursor: string | null = null;
    do {
      const page: Awaited<ReturnType<typeof agent.client.namespaces>> = await agent.client.namespaces(
        cursor === null ? { limit } : { limit, cursor },
      );
      expect(page.namespaces.length).toBeLessThanOrEqual(limit);
      rows.push(...page.namespaces);
      cursor = page.cursor;
    } while (cursor !== null);
    expect(rows.map(({ label }) => label).toSorted()).toEqual([...expected.keys()].toSorted());
    for (const row of rows) {
      const chunks = expected.get(row.label) ?? [];
      expect(row, row.label).toMatchObject({
        model: chunks[0]?.model,
        tenant: chunks[0]?.tenant,
        tags: chunks[0]?.tags,
        chunkCount: chunks.length,
        bytes: { ram: known.bytesOf(chunks), ssd: 0 },
      });
    }
  }
  const { tenants } = await agent.client.tenants();
  expect(tenants.map(({ tenant, chunkCount }) => [tenant, chunkCount])).toEqual([
    ['default', all.length - ann.length],
    ['salt-of-ann', ann.length],
  ]);
  expect(tenants[1]?.digest).toBe(tenantDigest('salt-of-ann'));
});

test('/v1/chunks filters by model, tenant, namespace, tier, key prefix and age, and by all of them at once', async () => {
  expect(await known.listedKeys(agent)).toEqual(known.keysOf(all));
  for (const model of ['org/alpha', 'org/beta', 'zeta']) {
    expect(await known.listedKeys(agent, { model }), model).toEqual(known.keysOf(all.filter((chunk) => chunk.model === model)));
  }
  expect(await known.listedKeys(agent, { model: 'org' })).toEqual([]);
  expect(await known.listedKeys(agent, { tenant: 'salt-of-ann' })).toEqual(known.keysOf(ann));
  for (const namespace of new Set(all.map((chunk) => chunk.namespace))) {
    expect(await known.listedKeys(agent, { namespace }), namespace).toEqual(
      known.keysOf(all.filter((chunk) => chunk.namespace === namespace)),
    );
  }
  expect(await known.listedKeys(agent, { tier: 'ram' })).toEqual(known.keysOf(all));
  expect(await known.listedKeys(agent, { tier: 'ssd' })).toEqual([]);
  expect(await known.listedKeys(agent, { tier: 'hbm' })).toEqual([]);
  expect(await known.listedKeys(agent, { keyPrefix: 'plain' })).toEqual(['plain', 'plain:2']);
  expect(await known.listedKeys(agent, { keyPrefix: 'org/alpha@01000100@0@0000000' })).toEqual(known.keysOf([...alpha, ...ann]));
  const rows = await known.listed(agent);
  const times = rows.map(({ lastUsedAtMs }) => lastUsedAtMs).toSorted((a, b) => a - b);
  const middle = times[Math.floor(times.length / 2)] ?? 0;
  const older = rows
    .filter(({ lastUsedAtMs }) => lastUsedAtMs < middle)
    .map(({ key }) => key)
    .toSorted();
  expect(await known.listedKeys(agent, { olderThan: middle })).toEqual(older);
  expect(await known.listedKeys(agent, { olderThan: new Date(middle).toISOString() })).toEqual(older);
  expect(await known.listedKeys(agent, { olderThan: '1h' })).toEqual([]);
  expect(
    await known.listedKeys(agent, {
      model: 'org/alpha',
      tenant: 'salt-of-ann',
      tier: 'ram',
      keyPrefix: ann[1]?.key ?? '',
      olderThan: Date.now() + 1000,
    }),
  ).toEqual([ann[1]?.key]);
});

test('/v1/chunks/{id} tells of the chunk while it is that put, and is a 404 once the key was overwritten or deleted', async () => {
  const chunk = known.opaqueChunk('by-id');
  const putAt = Date.now();
  await known.store(client, [chunk]);
  const [row] = await known.listed(agent, { keyPrefix: 'by-id' });
  expect(row).toMatchObject({
    key: 'by-id',
    sizeBytes: chunk.bytes.length,
    tiers: ['ram'],
    dirty: true,
    leased: false,
    model: '',
    tenant: 'default',
    hitCount: 0,
  });
  expect(row?.checksum).toBe(Bun.hash.xxHash3(chunk.bytes, 0n).toString(16).padStart(16, '0'));
  expect(Math.abs((row?.createdAtMs ?? 0) - putAt)).toBeLessThan(5000);
  const id = row?.id ?? '';
  expect(await agent.client.chunk(id)).toEqual(row);
  await client.send('GET', 'by-id');
  expect((await agent.client.chunk(id)).hitCount).toBe(1);
  await known.store(client, [{ ...chunk, bytes: known.opaqueChunk('').bytes }]);
  await expect(agent.client.chunk(id)).rejects.toMatchObject({ code: 'NOT_FOUND' });
  const [second] = await known.listed(agent, { keyPrefix: 'by-id' });
  expect(await client.send('DEL', 'by-id')).toBe(':1');
  await expect(agent.client.chunk(second?.id ?? '')).rejects.toMatchObject({ code: 'NOT_FOUND' });
  for (const other of ['0-0', '999999-1', 'x', '-1-1'])
    await expect(agent.client.chunk(other), other).rejects.toMatchObject({ code: 'NOT_FOUND' });
});

test('/v1/lookup tells tier and size up to the first gap, and takes no lease, no touch and no count', async () => {
  const before = await agent.client.stats();
  const rows = await known.listed(agent);
  const [first, second, third] = alpha;
  const keys = [first, second].map((chunk) => chunk?.key ?? '');
  const absent = known.objectChunk(99, { model: 'org/alpha' }).key;
  const answer = await agent.client.lookup([...keys, absent, third?.key ?? '', 'never seen']);
  expect(answer).toEqual({
    hitCount: 2,
    answers: [
      { key: keys[0], tier: 'ram', sizeBytes: first?.bytes.length, reason: '' },
      { key: keys[1], tier: 'ram', sizeBytes: second?.bytes.length, reason: '' },
      { key: absent, tier: null, sizeBytes: null, reason: 'absent' },
      { key: third?.key, tier: null, sizeBytes: null, reason: 'gap' },
      { key: 'never seen', tier: null, sizeBytes: null, reason: 'absent' },
    ],
  });
  expect((await agent.client.lookup(known.keysOf([...tagged, ...english, ...opaque, ...ann]))).hitCount).toBe(9);
  expect(await known.listed(agent)).toEqual(rows);
  const after = await agent.client.stats();
  expect([after.leases, after.lookups, after.probes]).toEqual([before.leases, before.lookups, before.probes]);
});

test('/metrics parses, every line of it, and agrees with /v1/stats of the same quiet moment', async () => {
  const samples = parseMetrics(await agent.client.metrics());
  const stats = await agent.client.stats();
  const expected: Record<string, number> = {
    kvtier_probes_total: stats.probes,
    kvtier_lookups_total: stats.lookups,
    'kvtier_hits_total{tier="ram"}': stats.hits.ram,
    'kvtier_hits_total{tier="ssd"}': stats.hits.ssd,
    kvtier_misses_total: stats.misses,
    kvtier_puts_total: stats.puts,
    kvtier_put_bytes_total: stats.putBytes,
    kvtier_deletes_total: stats.deletes,
    kvtier_leases: stats.leases,
    'kvtier_tier_used_bytes{tier="ram"}': known.tier(stats, 'ram').usedBytes,
    'kvtier_tier_dirty_bytes{tier="ram"}': known.tier(stats, 'ram').dirtyBytes,
    'kvtier_tier_chunks{tier="ram"}': known.tier(stats, 'ram').chunkCount,
    'kvtier_tier_capacity_bytes{tier="ssd"}': known.tier(stats, 'ssd').capacityBytes,
    'kvtier_io_bytes_total{direction="write"}': stats.io.writtenBytes,
    'kvtier_door_requests_total{door="resp"}': stats.doors.find(({ door }) => door === 'resp')?.requests ?? -1,
    'kvtier_door_received_bytes_total{door="resp"}': stats.doors.find(({ door }) => door === 'resp')?.receivedBytes ?? -1,
    [`kvtier_agent_state{state="${stats.state}"}`]: 1,
    'kvtier_model_chunks{model="org/alpha"}': alpha.length + ann.length,
    'kvtier_model_chunks{model="opaque"}': opaque.length,
    [`kvtier_tenant_chunks{tenant="salt-of-ann"}`]: ann.length,
    [`kvtier_tenant_bytes{tenant="salt-of-ann",tier="ram"}`]: known.bytesOf(ann),
    [`kvtier_build_info{version="${stats.version}"}`]: 1,
  };
  for (const [name, value] of Object.entries(expected)) expect(samples.get(name), name).toBe(value);
});

test('/healthz says ok and /readyz is 200 with a state; unknown routes, methods, bodies and fields are problems', async () => {
  expect(await agent.client.liveness()).toEqual({ status: 'ok' });
  const ready = await fetch(`${agent.url}/readyz`);
  expect(ready.status).toBe(200);
  expect(['ready', 'degraded']).toContain(((await ready.json()) as { state: string }).state);
  const json = { 'content-type': 'application/json' };
  const cases: readonly (readonly [string, RequestInit, number, string])[] = [
    ['/v1/nothing', {}, 404, 'NOT_FOUND'],
    ['/v1/stats', { method: 'DELETE' }, 405, 'METHOD_NOT_ALLOWED'],
    ['/v1/invalidate', { method: 'POST', headers: json, body: '{' }, 400, 'BAD_REQUEST'],
    ['/v1/invalidate', { method: 'POST', headers: json, body: '{"selector":{}}' }, 400, 'BAD_REQUEST'],
    ['/v1/invalidate', { method: 'POST', headers: json, body: '{"selector":{"modle":"x"}}' }, 400, 'BAD_REQUEST'],
    [
      '/v1/invalidate',
      { method: 'POST', headers: { 'content-type': 'text/plain' }, body: '{"selector":{"all":true}}' },
      415,
      'UNSUPPORTED_MEDIA_TYPE',
    ],
    ['/v1/lookup', { method: 'POST', headers: json, body: JSON.stringify({ keys: ['k'.repeat(2 ** 21)] }) }, 413, 'PAYLOAD_TOO_LARGE'],
    ['/v1/chunks?modle=x', {}, 400, 'BAD_REQUEST'],
    ['/v1/chunks?limit=1001', {}, 400, 'BAD_REQUEST'],
    ['/v1/chunks?cursor=bm9uZQ', {}, 400, 'BAD_REQUEST'],
    ['/v1/chunks/none', {}, 404, 'NOT_FOUND'],
  ];
  for (const [path, init, status, code] of cases) {
    const response = await fetch(agent.url + path, init);
    expect([path, response.status, response.headers.get('content-type')?.split(';')[0]]).toEqual([
      path,
      status,
      'application/problem+json',
    ]);
    expect(await response.json(), path).toMatchObject({ status, code, type: `urn:kvtier:problem:${code}` });
  }
  expect(await known.listedKeys(agent)).toEqual(known.keysOf(all));
});

test('/v1/chunks gives each of 3,000 chunks exactly once over its pages, also while others come and go', async () => {
  const many = Array.from({ length: 3000 }, (_, index) => `page:${index}`);
  for (let start = 0; start < many.length; start += 500) {
    expect(await client.send('MSET', ...many.slice(start, start + 500).flatMap((key) => [key, key]))).toBe('+OK');
  }
  for (const limit of [7, 100, 1000]) {
    const keys: string[] = [];
    let cursor: string | null = null;
    let pages = 0;
    do {
      const page: Awaited<ReturnType<typeof agent.client.chunks>> = await agent.client.chunks({
        keyPrefix: 'page:',
        limit,
        ...(cursor === null ? {} : { cursor }),
      });
      expect(page.chunks.length).toBeLessThanOrEqual(limit);
      keys.push(...page.chunks.map(({ key }) => key));
      cursor = page.cursor;
      pages += 1;
      if (pages % 3 === 0) await client.send('SET', 'comes and goes', 'x');
      if (pages % 3 === 1) await client.send('DEL', 'comes and goes');
    } while (cursor !== null);
    expect(keys.length, `limit ${limit}`).toBe(many.length);
    expect(keys.toSorted(), `limit ${limit}`).toEqual(many.toSorted());
  }
  expect(await agent.client.invalidate({ selector: { keyPrefix: 'page:' } })).toMatchObject({ matchedChunks: 3000 });
});

test('/metrics names at most 100 tenants and models, escaped, and the rest under other: nobody is lost', async () => {
  const odd = known.objectChunk(1, { model: 'we"ird\\m' });
  await known.store(client, [
    odd,
    ...Array.from({ length: 150 }, (_, id) => known.objectChunk(id, { model: `m${id}`, tenant: `tenant${id}` })),
  ]);
  const samples = parseMetrics(await agent.client.metrics());
  const { chunkCount } = known.tier(await agent.client.stats(), 'ram');
  for (const label of ['tenant', 'model']) {
    const rows = [...samples].filter(([name]) => name.startsWith(`kvtier_${label}_chunks{`));
    expect(rows).toHaveLength(101);
    expect(rows.reduce((sum, [, value]) => sum + value, 0)).toBe(chunkCount);
  }
  await agent.client.invalidate({ selector: { modelPrefix: 'm' } });
  expect(parseMetrics(await agent.client.metrics()).get('kvtier_model_chunks{model="we\\"ird\\\\m"}')).toBe(1);
  expect(await agent.client.invalidate({ selector: { model: odd.model } })).toMatchObject({ matchedChunks: 1 });
});

test('what the listings tell of chunks on SSD is the same after a restart, after kill -9, and without the catalog', async () => {
  const dataDir = mkdtempSync(join(tmpdir(), 'kvtier-listings-'));
  const flags = ['--ssd-admission', 'demote', '--tenants-reveal'];
  let other = await startAgent({ dataDir, flags });
  const first = await known.redisClient(other);
  const odd = [known.objectChunk(1, { model: 'we"ird\\m', tenant: 'sal"t' }), known.opaqueChunk('\ufeffa b'), ...tagged, ...ann];
  await known.store(first, odd);
  first.destroy();
  await other.client.persist({ all: true });
  // Ids and tiers are of one process; parents are told by key.
  const facts = async () => {
    const rows = await known.listed(other);
    const keys = new Map(rows.map(({ id, key }) => [id, key]));
    return rows
      .map(({ parentId, ...row }) => ({ ...row, id: '', tiers: [], parent: keys.get(parentId ?? '') }))
      .toSorted((a, b) => (a.key < b.key ? -1 : 1));
  };
  const before = await facts();
  expect(before.map(({ key }) => key)).toEqual(known.keysOf(odd));
  for (const how of ['stop', 'kill9', 'no catalog'] as const) {
    await (how === 'kill9' ? other.kill9() : other.stop());
    if (how === 'no catalog') for (const suffix of ['', '-wal', '-shm']) rmSync(join(dataDir, `catalog.db${suffix}`), { force: true });
    other = await startAgent({ dataDir, flags });
    await until('adoption has ended', async () => (await other.client.stats()).recovery.done);
    expect(await facts(), how).toEqual(before);
  }
  expect(await other.stop(), other.output()).toBe(0);
  rmSync(dataDir, { recursive: true, force: true });
});

/** `name{labels}` to value. Throws for a line that is neither a sample nor HELP or TYPE, for a sample twice, and for one without TYPE. */
function parseMetrics(text: string): Map<string, number> {
  const samples = new Map<string, number>();
  const types = new Set<string>();
  expect(text.endsWith('\n')).toBe(true);
  for (const line of text.trimEnd().split('\n')) {
    const comment = /^# (HELP|TYPE) ([a-z_]+) (.+)$/.exec(line);
    if (comment?.[1] === 'TYPE') types.add(comment[2] ?? '');
    if (comment !== null || line === '') continue;
    const sample = /^([a-z_]+)(\{(?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)+\})? (NaN|[+-]?Inf|[-+0-9.e]+)$/.exec(line);
    if (sample === null || !types.has(sample[1] ?? '')) throw new Error(`No sample of a known metric: ${line}`);
    const name = `${sample[1] ?? ''}${sample[2] ?? ''}`;
    if (samples.has(name)) throw new Error(`Twice: ${name}`);
    samples.set(name, Number(sample[3]));
  }
  return samples;
}
