import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { problemSchema } from '#protocol/rest/problem.ts';
import { restLimits } from '#protocol/rest/limits.ts';
import { restRoutes } from '#protocol/rest/routes.ts';
import { createApiHarness, putSampleChunks } from '#testsupport/api-harness.ts';

const jsonType = { 'content-type': 'application/json' };

/** The problem of a refused request, checked for its form. */
async function problemOf(response: Response): Promise<{ status: number; detail: string; text: string }> {
  expect(response.headers.get('content-type')).toBe('application/problem+json');
  const text = await response.text();
  const problem = problemSchema.parse(JSON.parse(text));
  expect(problem.status).toBe(response.status);
  expect(text).not.toMatch(/node_modules|\.ts:|at Object/);
  return { status: response.status, detail: problem.detail, text };
}

describe('bodies', () => {
  test('malformed JSON is a 400 on every route with a body', async () => {
    const { request, bugs } = createApiHarness();
    for (const { method, path } of Object.values(restRoutes).filter(({ method }) => method === 'POST' || method === 'PUT')) {
      for (const body of ['', '{', '{"selector":', 'nope', '{"a":1}{"b":2}', '\u0000', '[', "{'keys':[]}"]) {
        const response = await request(method, path.replace(/\{\w+\}/, 'x'), { headers: jsonType, body });
        expect((await problemOf(response)).status, `${path} ${body}`).toBe(400);
      }
    }
    expect(bugs).toEqual([]);
  });

  test('JSON of another shape is a 400 that names the fields', async () => {
    const { request } = createApiHarness();
    const { status, text } = await problemOf(
      await request('POST', '/v1/invalidate', { json: { selector: { model: 5, tennant: 'x' }, dryRun: 'yes' } }),
    );
    expect(status).toBe(400);
    expect(text).toContain('selector.model');
    expect(text).toContain('tennant');
    expect(text).toContain('dryRun');
  });

  test('nothing is invalidated by a selector that is empty, unknown or not alone', async () => {
    const { request, control } = createApiHarness();
    putSampleChunks(control);
    for (const selector of [
      {},
      { all: true, model: 'qwen' },
      { everything: true },
      { keyPrefix: '' },
      null,
      'all',
      { olderThan: 'soon' },
      { tier: 'tape' },
      { keys: 'k' },
    ]) {
      for (const path of ['/v1/invalidate', '/v1/persist', '/v1/evict', '/v1/pin', '/v1/unpin']) {
        const json = path === '/v1/evict' ? { tier: 'ram', selector } : path === '/v1/pin' ? { mode: 'soft', selector } : { selector };
        expect((await problemOf(await request('POST', path, { json }))).status, JSON.stringify(selector)).toBe(400);
      }
    }
    expect((await request('GET', '/v1/invalidations')).status).toBe(200);
    expect(control.namespaces().reduce((sum, { chunkCount }) => sum + chunkCount, 0)).toBe(4);
  });

  test('a quota that is empty, negative, no whole number, too large, misspelt or no number is a 400, and changes nothing', async () => {
    const { request, control } = createApiHarness();
    for (const json of [
      {},
      null,
      [],
      { ramBytes: -1 },
      { ramBytes: 1.5 },
      { ssdBytes: 2 ** 51 },
      { ramBytes: '10GiB' },
      { ramBytes: null },
      { ramBytes: 1, hbmBytes: 1 },
      { ram: 1 },
    ]) {
      const { status } = await problemOf(await request('PUT', '/v1/tenants/ann/quota', { json }));
      expect([json, status]).toEqual([json, 400]);
    }
    expect(control.quotas()).toEqual([]);
    expect((await problemOf(await request('PUT', `/v1/tenants/${'x'.repeat(5000)}/quota`, { json: { ramBytes: 1 } }))).status).toBe(400);
  });

  test('a pin without a mode, with another one, or with more than it takes is a 400', async () => {
    const { request, control } = createApiHarness();
    putSampleChunks(control);
    const selector = { all: true };
    for (const json of [
      { selector },
      { selector, mode: 'hard', tier: 'ram' },
      { selector, mode: 'firm' },
      { mode: 'hard' },
      { selector, mode: 'hard', ttl: 5 },
    ]) {
      expect((await problemOf(await request('POST', '/v1/pin', { json }))).status, JSON.stringify(json)).toBe(400);
    }
    expect(control.stats().pins.chunks).toBe(0);
  });

  test('quotas of unknown tenants are a 404 to read and to take away, and may be set', async () => {
    const { request, client } = createApiHarness();
    expect((await problemOf(await request('GET', '/v1/tenants/nobody/quota'))).status).toBe(404);
    expect((await problemOf(await request('DELETE', '/v1/tenants/nobody/quota'))).status).toBe(404);
    expect(await client().setQuota('nobody', { ramBytes: 0 })).toMatchObject({ chunkCount: 0, quota: { ramBytes: 0, ssdBytes: null } });
    expect((await request('GET', '/v1/tenants/nobody/quota')).status).toBe(200);
    expect(await client().removeQuota('nobody')).toMatchObject({ quota: null });
    expect((await problemOf(await request('GET', '/v1/tenants/nobody/quota'))).status).toBe(404);
  });

  test('a body over 1 MiB is a 413, told or not told its length; one at the limit is read', async () => {
    const { request } = createApiHarness();
    const over = `{"keys":["${'k'.repeat(restLimits.bodyBytes)}"]}`;
    expect(
      (
        await problemOf(
          await request('POST', '/v1/lookup', { headers: { ...jsonType, 'content-length': String(over.length) }, body: over }),
        )
      ).status,
    ).toBe(413);
    expect((await problemOf(await request('POST', '/v1/lookup', { headers: jsonType, body: over }))).status).toBe(413);
    const chunked = new ReadableStream<Uint8Array>(
      { pull: (controller) => controller.enqueue(new Uint8Array(64 * 1024).fill(0x20)) },
      { highWaterMark: 0 },
    );
    expect((await problemOf(await request('POST', '/v1/lookup', { headers: jsonType, body: chunked }))).status).toBe(413);
    const exact = '{"keys":["k"]}'.padEnd(restLimits.bodyBytes, ' ');
    expect((await request('POST', '/v1/lookup', { headers: jsonType, body: exact })).status).toBe(200);
  });

  test('a body of deep brackets is a 400, not a crash', async () => {
    const { request, bugs } = createApiHarness();
    const deep = '['.repeat(500_000);
    expect((await problemOf(await request('POST', '/v1/lookup', { headers: jsonType, body: deep }))).status).toBe(400);
    expect((await problemOf(await request('POST', '/v1/lookup', { headers: jsonType, body: deep + ']'.repeat(500_000) }))).status).toBe(
      400,
    );
    expect(bugs).toEqual([]);
  });

  test('a huge unknown field is cut in the answer, and at most 20 fields are told', async () => {
    const { request } = createApiHarness();
    const huge = await problemOf(await request('POST', '/v1/lookup', { json: { ['x'.repeat(500_000)]: 1 } }));
    expect(huge.text.length).toBeLessThan(2000);
    const many = await problemOf(await request('POST', '/v1/lookup', { json: { keys: Array.from({ length: 10_000 }, () => 5) } }));
    expect(many.status).toBe(400);
    expect(many.text.length).toBeLessThan(5000);
  });

  test('any JSON gives an answer that is no 500', async () => {
    const { request, bugs } = createApiHarness();
    const paths = ['/v1/invalidate', '/v1/pin', '/v1/unpin', '/v1/lookup', '/v1/evict', '/v1/namespaces/x/epoch', '/v1/verify'];
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...paths), fc.oneof(fc.json(), fc.string()), async (path, body) => {
        const response = await request('POST', path, { headers: jsonType, body });
        await response.body?.cancel();
        expect([200, 400]).toContain(response.status);
      }),
      { numRuns: 150 },
    );
    expect(bugs).toEqual([]);
  });
});

describe('paths and queries', () => {
  test('an unknown path is a 404 and a known one under another method a 405 with Allow', async () => {
    const { request } = createApiHarness();
    for (const path of [
      '/',
      '/v1',
      '/v1/',
      '/v1/stats/',
      '/v2/stats',
      '/v1/chunks/a/b',
      '/v1/namespaces//epoch',
      '/v1/namespaces/a/b/epoch',
      '/../etc/passwd',
      '/v1/%2e%2e/stats/x',
    ]) {
      expect((await problemOf(await request('GET', path))).status, path).toBe(404);
    }
    const methodsOf = Map.groupBy(Object.values(restRoutes), ({ path }) => path);
    for (const [path, routes] of methodsOf) {
      const known: readonly string[] = routes.map(({ method }) => method);
      for (const other of ['GET', 'POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS'].filter((method) => !known.includes(method))) {
        const response = await request(other, path.replace(/\{\w+\}/, 'x'));
        expect((await problemOf(response)).status, `${other} ${path}`).toBe(405);
        expect(response.headers.get('allow')).toBe(known.join(', '));
      }
    }
  });

  test('HEAD is GET without a body', async () => {
    const response = await createApiHarness().request('HEAD', '/v1/stats');
    expect([response.status, await response.text()]).toEqual([200, '']);
  });

  test('cursors that no page gave are a 400 on every listing', async () => {
    const { request, control } = createApiHarness();
    putSampleChunks(control);
    for (const path of ['/v1/chunks', '/v1/namespaces', '/v1/tenants', '/v1/invalidations']) {
      for (const cursor of [
        '',
        '%00',
        '!!!',
        'a',
        '-1',
        '../x',
        encodeURIComponent('💥'),
        'x'.repeat(20_000),
        btoa(`${path.slice(4)} `).replaceAll('=', ''),
      ]) {
        const response = await request('GET', `${path}?cursor=${cursor}`);
        expect((await problemOf(response)).status, `${path} ${cursor.slice(0, 20)}`).toBe(400);
      }
    }
  });

  test('the cursor of one listing is a 400 on another', async () => {
    const { request, client, control } = createApiHarness();
    putSampleChunks(control);
    for (const _ of [1, 2]) await client().invalidate({ selector: { tag: 'none' } });
    const cursors = {
      chunks: (await client().chunks({ limit: 1 })).cursor,
      namespaces: (await client().namespaces({ limit: 1 })).cursor,
      tenants: (await client().tenants({ limit: 1 })).cursor,
      invalidations: (await client().invalidations({ limit: 1 })).cursor,
    };
    for (const [from, cursor] of Object.entries(cursors)) {
      expect(cursor, from).not.toBeNull();
      for (const to of Object.keys(cursors)) {
        expect((await request('GET', `/v1/${to}?cursor=${cursor}`)).status, `${from} on ${to}`).toBe(from === to ? 200 : 400);
      }
    }
  });

  test('bad page sizes, unknown and repeated parameters are a 400', async () => {
    const { request } = createApiHarness();
    for (const query of [
      'limit=0',
      'limit=1001',
      'limit=1e9',
      'limit=x',
      'limit=1&limit=2',
      'modle=x',
      'tier=tape',
      'olderThan=soon',
      'olderThan=1h&olderThan=2h',
      'keyPrefix=',
    ]) {
      expect((await problemOf(await request('GET', `/v1/chunks?${query}`))).status, query).toBe(400);
    }
  });

  test('a query on a route that has none is a 400, and changes nothing', async () => {
    const { request, client, control } = createApiHarness();
    putSampleChunks(control);
    const before = (await client().chunks({ limit: 1000 })).chunks.length;
    const response = await request('POST', '/v1/invalidate?dryRun=true', { json: { selector: { all: true } } });
    const { status, detail } = await problemOf(response);
    expect(status).toBe(400);
    expect(detail).toContain('"dryRun"');
    expect((await client().chunks({ limit: 1000 })).chunks).toHaveLength(before);
    const listings = ['/v1/chunks', '/v1/namespaces', '/v1/tenants', '/v1/invalidations'];
    for (const { method, path, access } of Object.values(restRoutes)) {
      const wanted = access === 'public' ? [200, 503] : [400];
      const answer = await request(
        method,
        `${path.replace(/\{\w+\}/, 'x')}?x=`,
        method === 'GET' || method === 'DELETE' ? {} : { json: {} },
      );
      expect(wanted, `${method} ${path}`).toContain(answer.status);
      if (access !== 'public' && !listings.includes(path)) expect((await problemOf(answer)).detail, path).toContain('"x"');
    }
  });

  test('a chunk id of any characters is a 404, or a 400 where it is too long', async () => {
    const { request } = createApiHarness();
    for (const id of ['x', '0-0', '%2e%2e%2fetc', '%00', '%ff', '%zz', encodeURIComponent('💥<script>')]) {
      const { status, text } = await problemOf(await request('GET', `/v1/chunks/${id}`));
      expect(status, id).toBe(404);
      expect(text).not.toContain('<script>');
    }
    expect((await problemOf(await request('GET', `/v1/chunks/${'x'.repeat(200)}`))).status).toBe(400);
  });

  test('keys and tenants of any characters come back as they were', async () => {
    const { client, control } = createApiHarness({ revealSalts: true });
    for (const text of ['../../etc/passwd', 'a\u0000b', 'a"b\\c\n', '<script>', '💥ü', '%2F%00', ' ']) {
      control.put({
        key: text,
        sizeBytes: 1,
        tiers: ['ram'],
        namespace: {
          grammar: 'object-key',
          tenant: text,
          model: 'm',
          rank: '1',
          group: '0',
          dtype: '',
          layer: '',
          tags: { 'a/b': text },
          keyPrefix: 'p',
          keyTail: text,
        },
      });
      expect((await client().lookup([text])).answers[0]).toEqual({ key: text, tier: 'ram', sizeBytes: 1, reason: '' });
      expect((await client().chunks({ tenant: text })).chunks.map(({ key, tenant }) => [key, tenant])).toEqual([[text, text]]);
      expect((await client().chunks({ keyPrefix: text })).chunks).toHaveLength(1);
      expect((await client().invalidate({ selector: { tag: `a/b=${text}` } })).matchedChunks).toBe(1);
    }
  });
});
