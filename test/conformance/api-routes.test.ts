import { describe, expect, test } from 'vitest';
import { InvariantError } from '#core/assert.ts';
import { errorTable, ioFailed, KvtierError, type ErrorCode } from '#core/errors.ts';
import { tenantDigest } from '#telemetry/tenant-digest.ts';
import { createApiHarness, HARNESS_NOW_MS, putSampleChunks } from '#testsupport/api-harness.ts';
import { simNamespace } from '#testsupport/sim-cache-control.ts';

const json = async (response: Response): Promise<Record<string, unknown>> => (await response.json()) as Record<string, unknown>;

describe('health', () => {
  test('/readyz is 200 while ready and, with reasons, while degraded; 503 while starting or draining', async () => {
    const harness = createApiHarness();
    for (const [state, status] of [
      ['ready', 200],
      ['degraded', 200],
      ['starting', 503],
      ['draining', 503],
    ] as const) {
      harness.agent.health = { state, reasons: [`it is ${state}`] };
      const response = await harness.request('GET', '/readyz');
      expect([response.status, await response.json()]).toEqual([status, { state, reasons: [`it is ${state}`] }]);
      expect(await harness.client().readiness()).toEqual({ state, reasons: [`it is ${state}`] });
    }
  });

  test('/healthz is 200 in every state', async () => {
    const harness = createApiHarness();
    harness.agent.health = { state: 'draining', reasons: [] };
    expect((await harness.request('GET', '/healthz')).status).toBe(200);
  });
});

describe('statistics', () => {
  test('/v1/stats prints counters, sums per model and tenant, and no tenant in clear', async () => {
    const harness = createApiHarness();
    putSampleChunks(harness.control);
    harness.control.overrides = { lookups: 7, hits: { hbm: 0, ram: 4, ssd: 1 }, misses: 2 };
    harness.agent.doors = [
      {
        door: 'resp',
        address: '127.0.0.1:7601',
        connections: 2,
        acceptedConnections: 3,
        requests: 9,
        errors: 1,
        receivedBytes: 10,
        sentBytes: 11,
      },
    ];
    await harness.client().bumpEpoch('never-seen');
    const stats = await harness.client().stats();
    expect(stats).toMatchObject({ version: '0.1.0', uptimeSeconds: 90, state: 'ready', lookups: 7, hits: { ram: 4, ssd: 1 }, misses: 2 });
    expect(stats.models).toEqual([
      { model: 'meta/llama-3', epoch: 0, chunkCount: 3, bytes: { ram: 3000, ssd: 6000 } },
      { model: 'qwen', epoch: 0, chunkCount: 1, bytes: { ram: 500, ssd: 0 } },
    ]);
    expect(stats.tenants.map(({ tenant }) => tenant)).toEqual(['default', tenantDigest('salt-of-ann')]);
    expect(stats.doors).toHaveLength(1);
    expect(JSON.stringify(stats)).not.toContain('salt-of-ann');
  });

  test('/v1/stats prints 0 for a quantile or a bandwidth of nothing, since JSON has no NaN', async () => {
    const { client, control } = createApiHarness();
    control.overrides = { storeAdmission: { ...control.stats().storeAdmission, writeBudgetBytesPerSecond: Number.POSITIVE_INFINITY } };
    const stats = await client().stats();
    expect(stats.io.readLatencyMs).toEqual({ p50: 0, p99: 0 });
    expect(stats.storeAdmission.writeBudgetBytesPerSecond).toBe(0);
  });

  test('/v1/stats lists at most 100 models and tenants, largest first, and counts all', async () => {
    const { control, client } = createApiHarness();
    for (let index = 0; index < 120; index += 1) {
      control.put({
        key: `k${index}`,
        namespace: simNamespace({ model: `m${index}`, tenant: `t${index}` }),
        sizeBytes: index + 1,
        tiers: ['ram'],
      });
    }
    const stats = await client().stats();
    expect([stats.models.length, stats.modelCount, stats.tenants.length, stats.tenantCount]).toEqual([100, 120, 100, 120]);
    expect(stats.models[0]?.model).toBe('m119');
  });
});

describe('listings', () => {
  test('/v1/chunks gives each chunk once over all pages, in every page size', async () => {
    const { control, client } = createApiHarness();
    for (let index = 0; index < 11; index += 1)
      control.put({ key: `k${index}`, namespace: simNamespace({ model: 'm' }), sizeBytes: 1, tiers: ['ram'] });
    for (const limit of [1, 2, 5, 10, 11, 12]) {
      const keys: string[] = [];
      let cursor: string | null = '';
      do {
        const page = await client().chunks(cursor === '' ? { limit } : { limit, cursor });
        expect(page.chunks.length).toBeLessThanOrEqual(limit);
        keys.push(...page.chunks.map(({ key }) => key));
        cursor = page.cursor;
      } while (cursor !== null);
      expect(keys).toEqual(Array.from({ length: 11 }, (_, index) => `k${index}`));
    }
  });

  test('/v1/chunks applies every filter', async () => {
    const { control, client } = createApiHarness();
    const { keys, otherKey } = putSampleChunks(control);
    const [first = '', second = '', third = ''] = keys;
    const found = async (query: Parameters<ReturnType<typeof client>['chunks']>[0]): Promise<string[]> =>
      (await client().chunks(query)).chunks.map(({ key }) => key);
    expect(await found({ model: 'meta/llama-3' })).toEqual(keys);
    const digest = tenantDigest('salt-of-ann');
    const shown = otherKey.replace('salt-of-ann', digest);
    for (const tenant of ['salt-of-ann', digest]) expect(await found({ tenant })).toEqual([shown]);
    expect(await found({ tier: 'ssd' })).toEqual([second, third]);
    expect(await found({ keyPrefix: first.slice(0, -1) })).toEqual([first]);
    expect(await found({ olderThan: '1h' })).toEqual([second, third]);
    expect(await found({ olderThan: new Date(HARNESS_NOW_MS - 3_600_000).toISOString() })).toEqual([second, third]);
    expect(await found({ olderThan: HARNESS_NOW_MS - 3_600_000 })).toEqual([second, third]);
    expect(await found({ model: 'meta/llama-3', tier: 'ram', olderThan: '1h' })).toEqual([second]);
    for (const salt of ['salt-of-ann', digest]) expect(await found({ namespace: `qwen@00000001@0#${salt}` })).toEqual([shown]);
  });

  test('/v1/chunks/{id} prints the chunk with its parent, and 404 once it is gone', async () => {
    const { control, client } = createApiHarness();
    const { keys } = putSampleChunks(control);
    const [parent, child] = (await client().chunks({ limit: 2 })).chunks;
    expect(await client().chunk(child?.id ?? '')).toMatchObject({ key: keys[1], parentId: parent?.id, checksum: 'fedcba9876543210' });
    expect(await client().chunk(parent?.id ?? '')).toMatchObject({ parentId: null, dirty: true });
    await client().invalidate({ selector: { all: true } });
    await expect(client().chunk(child?.id ?? '')).rejects.toMatchObject({ code: 'NOT_FOUND' });
  });

  test('/v1/namespaces and /v1/tenants give each row once over all pages, also while rows come and go', async () => {
    const { control, client } = createApiHarness({ revealSalts: true });
    for (const name of ['a', 'b', 'd', 'e', 'ü'])
      control.put({ key: name, namespace: simNamespace({ model: 'm', tenant: name }), sizeBytes: 1, tiers: ['ram'] });
    const first = await client().tenants({ limit: 2 });
    expect(first.tenants.map(({ tenant }) => tenant)).toEqual(['a', 'b']);
    await client().invalidate({ selector: { tenant: 'a' } });
    control.put({ key: 'c', namespace: simNamespace({ model: 'm', tenant: 'c' }), sizeBytes: 1, tiers: ['ram'] });
    const second = await client().tenants({ limit: 10, cursor: first.cursor ?? '' });
    expect(second.tenants.map(({ tenant }) => tenant)).toEqual(['c', 'd', 'e', 'ü']);
    expect(second.cursor).toBeNull();
    const labels: string[] = [];
    let cursor: string | null = '';
    do {
      const page = await client().namespaces(cursor === '' ? { limit: 2 } : { limit: 2, cursor });
      labels.push(...page.namespaces.map(({ label }) => label));
      cursor = page.cursor;
    } while (cursor !== null);
    expect(labels.toSorted()).toEqual(['b', 'c', 'd', 'e', 'ü'].map((tenant) => `m@00000001@0#${tenant}`));
  });

  test('/v1/namespaces prints the parts of the name, and the epoch; /v1/tenants the digest', async () => {
    const { control, client } = createApiHarness();
    await client().bumpEpoch('meta/llama-3');
    putSampleChunks(control);
    const { namespaces } = await client().namespaces();
    expect(namespaces.find(({ model }) => model === 'meta/llama-3')).toMatchObject({
      epoch: 1,
      chunkCount: 3,
      rank: '00000001',
      grammar: 'object-key',
      bytes: { ram: 3000, ssd: 6000 },
    });
    expect((await client().tenants()).tenants.map(({ digest }) => digest)).toEqual(['default', tenantDigest('salt-of-ann')]);
  });
});

describe('chunk work', () => {
  test('/v1/lookup answers every key in order and counts what is served before the first gap', async () => {
    const { control, client } = createApiHarness();
    const { keys } = putSampleChunks(control);
    const [first = '', second = '', third = ''] = keys;
    expect(await client().lookup([first, second, 'absent', third])).toEqual({
      hitCount: 2,
      answers: [
        { key: first, tier: 'ram', sizeBytes: 1000, reason: '' },
        { key: second, tier: 'ram', sizeBytes: 2000, reason: '' },
        { key: 'absent', tier: null, sizeBytes: null, reason: 'absent' },
        { key: third, tier: null, sizeBytes: null, reason: 'gap' },
      ],
    });
    expect((await client().lookup([first, first])).hitCount).toBe(2);
  });

  test('/v1/prefetch, /v1/persist and /v1/evict print what the cache did', async () => {
    const { control, client } = createApiHarness();
    const { keys } = putSampleChunks(control);
    expect(await client().prefetch([...keys, 'absent'])).toEqual({ promoted: 1, alreadyInRam: 2, missing: 1, refused: 0 });
    expect(await client().persist({ all: true })).toEqual({ persisted: 2, alreadyOnSsd: 2, failed: 0, bytes: 1500 });
    expect(await client().evict({ tier: 'ram', selector: { all: true } })).toEqual({ evicted: 3, bytes: 7000, skipped: 1 });
    expect((await client().lookup(keys)).answers.map(({ tier }) => tier)).toEqual(['ssd', 'ssd', 'ssd']);
    control.checkInvariants();
  });
});

describe('invalidation', () => {
  test('a dry run counts and removes nothing; the run removes the same and is in the audit log', async () => {
    const { control, client } = createApiHarness();
    const { keys } = putSampleChunks(control);
    const selector = { chainFrom: keys[1] ?? '', olderThan: '1h' };
    expect(await client().invalidate({ selector, dryRun: true })).toMatchObject({
      matchedChunks: 2,
      removedBytes: 6000,
      dryRun: true,
      webhook: 'off',
    });
    expect((await client().chunks()).chunks).toHaveLength(4);
    expect((await client().invalidations()).invalidations).toEqual([]);
    const answer = await client().invalidate({ selector, reason: 'bad weights' });
    expect(answer).toMatchObject({ matchedChunks: 2, removedBytes: 6000, dryRun: false });
    expect((await client().chunks()).chunks).toHaveLength(2);
    expect((await client().invalidations()).invalidations).toEqual([
      {
        id: answer.id,
        atMs: HARNESS_NOW_MS,
        generation: answer.generation,
        selector: { chainFrom: keys[1], olderThan: HARNESS_NOW_MS - 3_600_000 },
        reason: 'bad weights',
        actor: 'admin',
        matchedChunks: 2,
        removedBytes: 6000,
      },
    ]);
  });

  test('/v1/invalidations pages newest first and ends with a null cursor', async () => {
    const { client } = createApiHarness();
    for (const reason of ['one', 'two', 'three', 'four']) await client().invalidate({ selector: { all: true }, reason });
    const first = await client().invalidations({ limit: 2 });
    expect(first.invalidations.map(({ reason }) => reason)).toEqual(['four', 'three']);
    const second = await client().invalidations({ limit: 2, cursor: first.cursor ?? '' });
    expect(second.invalidations.map(({ reason }) => reason)).toEqual(['two', 'one']);
    expect(second.cursor).toBeNull();
  });

  test('an epoch takes a model with a slash, percent or space in its name, and invalidates only that model', async () => {
    for (const model of ['meta/llama-3', 'a%2Fb', 'a%b', 'über alles?#', '..x', 'm@1:2']) {
      const { control, client } = createApiHarness();
      putSampleChunks(control);
      control.put({ key: 'mine', namespace: simNamespace({ model }), sizeBytes: 1, tiers: ['ram'] });
      const matched = model === 'meta/llama-3' ? 4 : 1;
      expect(await client().bumpEpoch(model, { reason: 'new weights' })).toMatchObject({ model, epoch: 1, matchedChunks: matched });
      expect(await client().bumpEpoch(model)).toMatchObject({ epoch: 2, matchedChunks: 0 });
      expect((await client().invalidations()).invalidations.map(({ actor }) => actor)).toEqual(['epoch', 'epoch']);
    }
  });
});

describe('webhook', () => {
  const webhook = (
    fetch: (url: string, init: RequestInit) => Promise<Response>,
  ): { url: string; timeoutMs: number; fetch: typeof fetch } => ({ url: 'http://lmcache/clear-cache', timeoutMs: 500, fetch });

  test('is called after an invalidation and an epoch, not after a dry run, and its outcome is in the answer', async () => {
    const calls: string[] = [];
    const { client, control } = createApiHarness({
      webhook: webhook(async (url, init) => (calls.push(`${init.method} ${url} ${control.namespaces().length}`), new Response('cleared'))),
    });
    putSampleChunks(control);
    expect((await client().invalidate({ selector: { all: true }, dryRun: true })).webhook).toBe('off');
    expect(calls).toEqual([]);
    expect((await client().invalidate({ selector: { all: true } })).webhook).toBe('ok');
    expect((await client().bumpEpoch('m')).webhook).toBe('ok');
    expect(calls).toEqual(['POST http://lmcache/clear-cache 0', 'POST http://lmcache/clear-cache 0']);
    expect(await client().metrics()).toContain('kvtier_webhook_calls_total{outcome="ok"} 2');
  });

  test('says failed where the other side refuses, breaks or answers an error, and the invalidation stands', async () => {
    for (const fetch of [
      () => Promise.reject(new Error('refused')),
      async () => new Response('', { status: 500 }),
      async () => new Response('', { status: 302 }),
      () => {
        throw new TypeError('bad URL');
      },
    ]) {
      const { client, control, logged, bugs } = createApiHarness({ webhook: webhook(fetch) });
      putSampleChunks(control);
      expect(await client().invalidate({ selector: { all: true } })).toMatchObject({ matchedChunks: 4, webhook: 'failed' });
      expect(logged).toHaveLength(1);
      expect(bugs).toEqual([]);
    }
  });

  test('is bounded in time even where its fetch never settles and ignores the abort', async () => {
    let called = (): void => undefined;
    const calling = new Promise<void>((resolve) => (called = resolve));
    const { client, fireTimers } = createApiHarness({ webhook: webhook(() => (called(), new Promise(() => undefined))) });
    const answer = client().invalidate({ selector: { all: true } });
    await calling;
    fireTimers();
    expect((await answer).webhook).toBe('failed');
  });

  test('is not called where the invalidation failed', async () => {
    let calls = 0;
    const { client, control } = createApiHarness({ webhook: webhook(async () => ((calls += 1), new Response())) });
    control.failNext.set('invalidate', ioFailed('Cannot sync the journal', 5));
    await expect(client().invalidate({ selector: { all: true } })).rejects.toMatchObject({ code: 'IO_FAILED' });
    expect(calls).toBe(0);
  });
});

describe('verify', () => {
  test('streams a line per file and names what differs', async () => {
    const { control, client } = createApiHarness();
    const { keys } = putSampleChunks(control);
    control.corruptKeys.add(keys[2] ?? '');
    const lines = [];
    for await (const line of client().verify()) lines.push(line);
    expect(lines.map(({ checkedFiles, done }) => [checkedFiles, done])).toEqual([
      [1, false],
      [2, false],
      [2, true],
    ]);
    expect(lines.at(-1)?.mismatches).toEqual([{ path: `chunks/${keys[2]}`, key: keys[2], problem: 'checksum differs' }]);
  });

  test('answers a status of its own where it fails before the first line', async () => {
    const { control, client } = createApiHarness();
    control.failNext.set('verify', new KvtierError('TIER_UNAVAILABLE', 'No SSD is configured'));
    await expect(client().verify().next()).rejects.toMatchObject({ code: 'TIER_UNAVAILABLE', context: { status: 503 } });
    expect((await client().verify().next()).value).toMatchObject({ done: true });
  });

  test('ends the stream with a problem where it fails later, and frees its place', async () => {
    const { control, client } = createApiHarness();
    putSampleChunks(control);
    control.verifyGate = () => Promise.reject(ioFailed('Cannot read', 5));
    const run = async (): Promise<void> => {
      for await (const _ of client().verify()) continue;
    };
    await expect(run()).rejects.toMatchObject({ code: 'IO_FAILED' });
    control.verifyGate = () => Promise.resolve();
    await run();
  });

  test('a reader that stalls for a minute loses the run, and the next one may start', async () => {
    const { control, client, request, fireTimers } = createApiHarness();
    putSampleChunks(control);
    const response = await request('POST', '/v1/verify', { json: {} });
    const reader = response.body?.getReader();
    await reader?.read();
    await expect(client().verify().next()).rejects.toMatchObject({ code: 'OVERLOADED' });
    fireTimers();
    await expect(
      (async () => {
        while ((await reader?.read())?.done === false) continue;
      })(),
    ).rejects.toThrow('stalled');
    expect(control.endedVerifies).toBe(1);
    expect((await client().verify().next()).value).toMatchObject({ checkedFiles: 1 });
  });

  test('runs once at a time; a reader that goes away ends it', async () => {
    const { control, client } = createApiHarness();
    putSampleChunks(control);
    const first = client().verify();
    await first.next();
    await expect(client().verify().next()).rejects.toMatchObject({ code: 'OVERLOADED' });
    await first.return();
    expect(control.endedVerifies).toBe(1);
    await client().verify().next();
  });
});

describe('errors', () => {
  test('every code leaves as problem+json with the status of the table and the message of the error', async () => {
    const { control, request } = createApiHarness();
    for (const code of Object.keys(errorTable) as ErrorCode[]) {
      control.failNext.set(
        'persist',
        new KvtierError(code, `It was ${code}`, { context: { secret: 'hidden' }, cause: new Error('hidden') }),
      );
      const response = await request('POST', '/v1/persist', { json: { selector: { all: true } } });
      expect(response.status).toBe(errorTable[code].http);
      expect(response.headers.get('content-type')).toBe('application/problem+json');
      const problem = await json(response);
      expect(problem).toEqual({
        type: `urn:kvtier:problem:${code}`,
        title: errorTable[code].meaning,
        status: errorTable[code].http,
        detail: `It was ${code}`,
        code,
        retryable: errorTable[code].retryable,
      });
    }
  });

  test('a bug is a 500 that tells nothing, and reaches onBug once', async () => {
    for (const bug of [new InvariantError('slot 7 has two owners'), new TypeError('secret token abc'), new Error('x')]) {
      const { control, request, bugs } = createApiHarness();
      control.failNext.set('persist', bug);
      const response = await request('POST', '/v1/persist', { json: { selector: { all: true } } });
      expect(response.status).toBe(500);
      const text = await response.text();
      expect(JSON.parse(text)).toMatchObject({ code: 'INTERNAL', status: 500 });
      expect(text).not.toContain(bug.message);
      expect(text).not.toContain('.ts');
      expect(bugs).toEqual([bug]);
    }
  });

  test('an operating error never reaches onBug', async () => {
    const { control, request, bugs } = createApiHarness();
    control.failNext.set('persist', ioFailed('Cannot write', 28));
    expect((await request('POST', '/v1/persist', { json: { selector: { all: true } } })).status).toBe(507);
    expect(bugs).toEqual([]);
  });
});
