import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { docsPage } from '#api/docs-page.ts';
import { errorTable } from '#core/errors.ts';
import { restRoutes, type RouteName } from '#protocol/rest/routes.ts';
import type { KvtierClient } from '#client/kvtier-client.ts';
import { createApiHarness, putSampleChunks } from '#testsupport/api-harness.ts';

interface Operation {
  readonly security: readonly object[];
  readonly requestBody?: { readonly content: Readonly<Record<string, { readonly schema: { readonly $ref?: string } }>> };
  readonly responses: Readonly<Record<string, unknown>>;
}
interface Document {
  readonly openapi: string;
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
  readonly components: { readonly schemas: Readonly<Record<string, unknown>>; readonly securitySchemes: unknown };
}

/** One use of each method of the client; the type makes a route without a use a compile error. */
const uses: Readonly<Record<RouteName, (client: KvtierClient) => Promise<unknown>>> = {
  liveness: (client) => client.liveness(),
  readiness: (client) => client.readiness(),
  metrics: (client) => client.metrics(),
  openapi: (client) => client.openapi(),
  docs: (client) => client.docs(),
  stats: (client) => client.stats(),
  devices: (client) => client.devices(),
  namespaces: (client) => client.namespaces(),
  tenants: (client) => client.tenants(),
  quota: (client) => client.quota('default'),
  setQuota: (client) => client.setQuota('a/b c', { ramBytes: 1 }),
  removeQuota: async (client) => {
    await client.setQuota('gone', { ssdBytes: 1 });
    return await client.removeQuota('gone');
  },
  chunks: (client) => client.chunks(),
  chunk: async (client) => client.chunk((await client.chunks({ limit: 1 })).chunks[0]?.id ?? 'none'),
  lookup: (client) => client.lookup(['k']),
  prefetch: (client) => client.prefetch(['k']),
  persist: (client) => client.persist({ all: true }),
  evict: (client) => client.evict({ tier: 'ram', selector: { all: true } }),
  pin: (client) => client.pin({ selector: { all: true }, mode: 'soft' }),
  unpin: (client) => client.unpin({ all: true }),
  invalidate: (client) => client.invalidate({ selector: { model: 'qwen' } }),
  invalidations: (client) => client.invalidations(),
  bumpEpoch: (client) => client.bumpEpoch('a/b'),
  verify: async (client) => {
    for await (const line of client.verify()) expect(line.totalFiles).toBeGreaterThan(0);
  },
};

async function documentOf(): Promise<Document> {
  return (await createApiHarness().client().openapi()) as unknown as Document;
}

describe('OpenAPI document', () => {
  test('holds exactly the routes of the table', async () => {
    const { openapi, paths } = await documentOf();
    const printed = Object.entries(paths).flatMap(([path, methods]) =>
      Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`),
    );
    expect(openapi).toBe('3.1.0');
    expect(printed.toSorted()).toEqual(
      Object.values(restRoutes)
        .map(({ method, path }) => `${method} ${path}`)
        .toSorted(),
    );
  });

  test('asks for a token on exactly the routes that need one, and names problems everywhere', async () => {
    const { paths, components } = await documentOf();
    expect(components.securitySchemes).toEqual({ bearer: { type: 'http', scheme: 'bearer' } });
    for (const { method, path, access } of Object.values(restRoutes)) {
      const operation = paths[path]?.[method.toLowerCase()];
      expect(operation?.security, path).toEqual(access === 'public' ? [] : [{ bearer: [] }]);
      expect(JSON.stringify(operation?.responses['default'])).toContain('application/problem+json');
    }
  });

  test('names its schemas and every reference leads to one', async () => {
    const document = await documentOf();
    const references = [...JSON.stringify(document).matchAll(/"\$ref":"#\/components\/schemas\/(\w+)"/g)].map((match) => match[1] ?? '');
    expect(references.length).toBeGreaterThan(10);
    for (const name of references) expect(document.components.schemas, name).toHaveProperty(name);
    for (const name of ['Selector', 'Stats', 'Chunk', 'Problem', 'InvalidateRequest', 'VerifyLine'])
      expect(document.components.schemas).toHaveProperty(name);
    expect(document.components.schemas['Selector']).toMatchObject({ additionalProperties: false });
  });
});

describe('client', () => {
  test('has a method for every route of the document, each reaches its route, and every route is exercised', async () => {
    const { client, control } = createApiHarness();
    putSampleChunks(control);
    const { paths } = await documentOf();
    expect(Object.keys(uses).length).toBe(Object.values(paths).flatMap((methods) => Object.keys(methods)).length);
    for (const use of Object.values(uses)) await use(client());
    const text = await client().metrics();
    for (const { path } of Object.values(restRoutes))
      expect(text, path).toContain(`kvtier_http_responses_total{route="${path}",status="200"}`);
  });
});

describe('docs page', () => {
  test('escapes everything it prints', () => {
    const hostile = `<script>"'&`;
    const html = docsPage({
      info: { title: hostile, version: hostile },
      paths: { [hostile]: { get: { summary: hostile, parameters: [{ name: hostile, in: hostile }], requestBody: hostile } } },
      components: { schemas: { [hostile]: { description: hostile } } },
    });
    expect(html).not.toContain('<script>');
    expect(html).toContain('&lt;script&gt;&quot;&#39;&amp;');
  });

  test('lists every route, loads nothing and runs nothing', async () => {
    const response = await createApiHarness().request('GET', '/docs');
    const html = await response.text();
    for (const { method, path } of Object.values(restRoutes)) expect(html).toContain(`<code>${method} ${path}</code>`);
    expect(html).not.toMatch(/<script|<link|<img|src=|@import|url\(/i);
    expect(response.headers.get('content-security-policy')).toContain("default-src 'none'");
    expect(response.headers.get('content-type')).toMatch(/^text\/html/);
  });
});

describe('docs/', () => {
  const read = (name: string): string => readFileSync(new URL(`../../docs/${name}`, import.meta.url), 'utf8');

  test('errors.md holds the table of error codes', () => {
    const rows = Object.entries(errorTable).map(
      ([code, { http, exit, retryable, meaning }]) => `| \`${code}\` | ${http} | ${exit} | ${retryable ? 'yes' : 'no'} | ${meaning} |`,
    );
    expect(read('errors.md')).toContain(
      ['| code | HTTP status | exit code | retry can help | meaning |', '|---|---|---|---|---|', ...rows].join('\n'),
    );
  });

  test('rest.md has a heading and a curl line for every route', () => {
    const page = read('rest.md');
    for (const { method, path } of Object.values(restRoutes)) expect(page, path).toContain(`### ${method} ${path}`);
    expect(page.match(/^curl /gm)?.length).toBeGreaterThanOrEqual(Object.keys(restRoutes).length);
  });

  test('every curl line of rest.md is a request that the API takes', async () => {
    const lines = [...read('rest.md').matchAll(/^curl .*$/gm)].map(([line]) => line);
    for (const line of lines) {
      const { request, client, control } = createApiHarness();
      putSampleChunks(control);
      const chunkId = (await client().chunks({ limit: 1 })).chunks[0]?.id ?? '';
      const url = (/http:\/\/127\.0\.0\.1:7600(\S*?)'?(?:\s|$)/.exec(line)?.[1] ?? '').replace('CHUNK_ID', chunkId);
      const body = /-d '([^']*)'/.exec(line)?.[1];
      // The quota that the page takes away.
      await client().setQuota('salt-of-ann', { ramBytes: 1 });
      const response = await request(
        / -X (\w+) /.exec(line)?.[1] ?? (body === undefined ? 'GET' : 'POST'),
        url,
        body === undefined ? {} : { headers: { 'content-type': 'application/json' }, body },
      );
      expect([line, response.status]).toEqual([line, 200]);
      await response.body?.cancel();
    }
  });
});
