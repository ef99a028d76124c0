import { describe, expect, test } from 'vitest';
import { restRoutes, type RestRoute } from '#protocol/rest/routes.ts';
import { createApiHarness } from '#testsupport/api-harness.ts';

const ADMIN = 'admin-token-1';
const READ = 'read-token-1';
const credentials = { none: undefined, wrong: 'Bearer nobody', read: `Bearer ${READ}`, admin: `Bearer ${ADMIN}` } as const;

/** 'in': past the tokens, whatever the route then says of the empty request. */
function expected(access: RestRoute['access'], who: keyof typeof credentials): 'in' | 401 | 403 {
  if (access === 'public' || who === 'admin') return 'in';
  if (who === 'none' || who === 'wrong') return 401;
  return access === 'read' ? 'in' : 403;
}

const pathOf = (route: RestRoute): string => route.path.replace(/\{\w+\}/, 'x');
const init = (route: RestRoute, authorization: string | undefined): { headers: Record<string, string>; json?: unknown } => {
  const headers: Record<string, string> = authorization === undefined ? {} : { authorization };
  return route.method === 'POST' || route.method === 'PUT' ? { headers, json: {} } : { headers };
};

test('who may call what is written down twice: a route that opens shows here', () => {
  const names = (access: RestRoute['access']): string[] =>
    Object.values(restRoutes)
      .filter((route) => route.access === access)
      .map(({ method, path }) => `${method} ${path}`);
  expect(names('public')).toEqual(['GET /healthz', 'GET /readyz']);
  expect(names('admin')).toEqual([
    'PUT /v1/tenants/{tenant}/quota',
    'DELETE /v1/tenants/{tenant}/quota',
    'POST /v1/prefetch',
    'POST /v1/persist',
    'POST /v1/evict',
    'POST /v1/pin',
    'POST /v1/unpin',
    'POST /v1/invalidate',
    'POST /v1/namespaces/{model}/epoch',
    'POST /v1/verify',
  ]);
  expect(names('read').filter((name) => !name.startsWith('GET '))).toEqual(['POST /v1/lookup']);
});

describe('token matrix', () => {
  const { request } = createApiHarness({ tokens: { admin: ADMIN, read: READ } });
  for (const [name, route] of Object.entries(restRoutes)) {
    for (const who of Object.keys(credentials) as (keyof typeof credentials)[]) {
      test(`${route.method} ${route.path} (${name}) with ${who} token: ${expected(route.access, who)}`, async () => {
        const { status, headers } = await request(route.method, pathOf(route), init(route, credentials[who]));
        const outcome = status === 401 || status === 403 ? status : 'in';
        expect(outcome).toBe(expected(route.access, who));
        expect(headers.get('www-authenticate') === null).toBe(status !== 401);
        if (outcome !== 'in') expect(headers.get('content-type')).toBe('application/problem+json');
      });
    }
  }
});

describe('tokens', () => {
  test('only an admin token configured: reads need it too', async () => {
    const { request } = createApiHarness({ tokens: { admin: ADMIN } });
    expect((await request('GET', '/v1/stats')).status).toBe(401);
    expect((await request('GET', '/v1/stats', { headers: { authorization: `Bearer ${READ}` } })).status).toBe(401);
    expect((await request('GET', '/v1/stats', { headers: { authorization: `Bearer ${ADMIN}` } })).status).toBe(200);
  });

  test('only a read token configured: nobody is admin', async () => {
    const { request } = createApiHarness({ tokens: { read: READ } });
    expect((await request('POST', '/v1/invalidate', { json: { selector: { all: true } } })).status).toBe(401);
    expect(
      (await request('POST', '/v1/invalidate', { json: { selector: { all: true } }, headers: { authorization: `Bearer ${READ}` } })).status,
    ).toBe(403);
  });

  test('prefixes, suffixes, other schemes, case and empty tokens are wrong', async () => {
    const { request } = createApiHarness({ tokens: { admin: ADMIN, read: READ } });
    const values = [
      ADMIN,
      `Bearer ${ADMIN}x`,
      `Bearer ${ADMIN.slice(0, -1)}`,
      `Bearer ${ADMIN.toUpperCase()}`,
      `Basic ${btoa(`x:${ADMIN}`)}`,
      'Bearer',
      'Bearer ',
      `Bearer ${ADMIN} ${READ}`,
      `Bearer ${READ},${ADMIN}`,
    ];
    for (const authorization of values)
      expect((await request('GET', '/v1/stats', { headers: { authorization } })).status, authorization).toBe(401);
  });

  test('the scheme is read without regard to case, as RFC 9110 wants', async () => {
    const { request } = createApiHarness({ tokens: { admin: ADMIN } });
    expect((await request('GET', '/v1/stats', { headers: { authorization: `bEARER ${ADMIN}` } })).status).toBe(200);
  });

  test('without a token nothing tells routes from no routes', async () => {
    const { request } = createApiHarness({ tokens: { admin: ADMIN } });
    for (const [method, path] of [
      ['GET', '/v1/nothing'],
      ['DELETE', '/v1/stats'],
      ['GET', '/v1/stats'],
      ['POST', '/v1/invalidate'],
    ] as const) {
      expect((await request(method, path)).status, `${method} ${path}`).toBe(401);
    }
  });

  test('a body is not read for a caller without a token', async () => {
    const { request } = createApiHarness({ tokens: { admin: ADMIN } });
    let pulled = 0;
    const body = new ReadableStream<Uint8Array>(
      { pull: (controller) => ((pulled += 1), controller.enqueue(new Uint8Array(1024))) },
      { highWaterMark: 0 },
    );
    expect((await request('POST', '/v1/invalidate', { headers: { 'content-type': 'application/json' }, body })).status).toBe(401);
    expect(pulled).toBe(0);
  });

  test('no answer holds a token', async () => {
    const { request } = createApiHarness({ tokens: { admin: ADMIN, read: READ } });
    for (const route of Object.values(restRoutes)) {
      for (const authorization of Object.values(credentials)) {
        const text = await (await request(route.method, pathOf(route), init(route, authorization))).text();
        expect(text.includes(ADMIN) || text.includes(READ), route.path).toBe(false);
      }
    }
  });
});

describe('the door without tokens', () => {
  const get = async (host: string, hosts: readonly string[] = []): Promise<number> =>
    (await createApiHarness({ hosts }).request('GET', '/v1/stats', { headers: { host } })).status;

  test('serves loopback hosts and the address it is bound to', async () => {
    for (const host of ['127.0.0.1:7600', '127.8.9.1', 'localhost:7600', 'LocalHost', '[::1]:7600', '[::1]'])
      expect(await get(host), host).toBe(200);
    expect(await get('node-1:7600', ['node-1'])).toBe(200);
    expect(await get('[FE80::1]:7600', ['[fe80::1]'])).toBe(200);
  });

  test('refuses every other Host, as a rebound name would send', async () => {
    for (const host of [
      'evil.example',
      'evil.example:7600',
      '127.0.0.1.evil.example',
      'localhost.evil.example',
      'localhost@evil.example',
      'evil.example#localhost',
      '10.0.0.1',
      '[::2]',
      '',
      'localhost:99999',
    ]) {
      expect(await get(host), host).toBe(403);
    }
  });

  test('answers probes of health under any Host', async () => {
    const { request } = createApiHarness();
    for (const path of ['/healthz', '/readyz'])
      expect((await request('GET', path, { headers: { host: '10.1.2.3:7600' } })).status).toBe(200);
  });

  test('refuses a change that another origin or site sends, and takes its own', async () => {
    const { request } = createApiHarness();
    const post = async (headers: Record<string, string>): Promise<number> =>
      (
        await request('POST', '/v1/invalidate', {
          json: { selector: { all: true }, dryRun: true },
          headers: { host: '127.0.0.1:7600', ...headers },
        })
      ).status;
    expect(await post({})).toBe(200);
    expect(await post({ origin: 'http://127.0.0.1:7600', 'sec-fetch-site': 'same-origin' })).toBe(200);
    for (const origin of [
      'http://evil.example',
      'null',
      'http://127.0.0.1:8080',
      'https://127.0.0.1:7600',
      'http://localhost:7600',
      'http://127.0.0.1:7600/x',
      '',
    ]) {
      expect(await post({ origin }), origin).toBe(403);
    }
    for (const site of ['cross-site', 'same-site']) expect(await post({ 'sec-fetch-site': site })).toBe(403);
  });

  test('refuses a form of a foreign page, whose type is not JSON', async () => {
    const { request, control } = createApiHarness();
    control.put({
      key: 'k',
      namespace: {
        grammar: 'opaque',
        tenant: 'default',
        model: '',
        rank: '',
        group: '',
        dtype: '',
        layer: '',
        tags: {},
        keyPrefix: '',
        keyTail: '',
      },
      sizeBytes: 1,
      tiers: ['ram'],
    });
    for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x', undefined]) {
      const headers: Record<string, string> = type === undefined ? {} : { 'content-type': type };
      expect((await request('POST', '/v1/invalidate', { headers, body: '{"selector":{"all":true}}' })).status, type).toBe(415);
    }
    expect(control.namespaces()).toHaveLength(1);
    // Without a body too: verify and epochs need none, and a foreign page can send one of those unasked.
    for (const path of ['/v1/verify', '/v1/namespaces/m/epoch']) expect((await request('POST', path)).status, path).toBe(415);
  });

  test('leaves Host and Origin alone once a token protects it', async () => {
    const { request } = createApiHarness({ tokens: { admin: ADMIN } });
    const headers = { host: 'node.example', origin: 'http://other', authorization: `Bearer ${ADMIN}` };
    expect((await request('POST', '/v1/lookup', { json: { keys: ['k'] }, headers })).status).toBe(200);
  });
});
