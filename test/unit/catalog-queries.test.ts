import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import Database from 'better-sqlite3';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { noopLogger } from '#core/logger.ts';
import { createSqliteCatalogStore } from '#catalog/sqlite-catalog-store.ts';
import { hostClock } from '#host/clock.ts';
import type { CatalogStore } from '#ports/catalog-store.ts';
import { llama, makeChunk, makeInvalidation, opaque } from '#testsupport/catalog-fixtures.ts';

const page = readFileSync(new URL('../../docs/queries.md', import.meta.url), 'utf8');
const queries = [...page.matchAll(/```sql\n([^`]*)```/g)].map((match) => (match[1] ?? '').trim());
const shell = Bun.which('sqlite3');

let folder: string;
let path: string;
let store: CatalogStore;

/** A live agent's catalog: three chains of a model on two ranks, opaque chunks of a tenant, some of all only in RAM. */
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'kvtier-queries-'));
  path = join(folder, 'catalog.db');
  const migrationsDir = fileURLToPath(new URL('../../migrations', import.meta.url));
  store = createSqliteCatalogStore({ path, migrationsDir, clock: hostClock, logger: noopLogger });
  await store.open();
  const ram = { tier: 'ram', folder: '', dirty: true } as const;
  const clean = { tier: 'ram', folder: '', dirty: false } as const;
  const ssd = { tier: 'ssd', folder: 'a1', dirty: false } as const;
  const now = Date.now();
  for (let chain = 0; chain < 3; chain += 1) {
    for (let depth = 0; depth <= chain + 1; depth += 1) {
      const generation = 100 * (chain + 1) + depth;
      const namespace = chain === 2 ? { ...llama, rank: '00010001', keyPrefix: 'meta-llama/Llama-3.3-70B-Instruct@00010001@' } : llama;
      const parentGeneration = depth === 0 ? (chain === 0 ? undefined : 99_999) : generation - 1;
      const replicas = depth === 0 ? [clean, ssd] : depth === 1 ? [ssd] : [ram];
      store.enqueue({
        kind: 'put',
        chunk: makeChunk(generation, {
          namespace,
          parentGeneration,
          replicas,
          hitCount: chain * 10 + depth,
          lastUsedAtMs: now - depth * 3_600_000,
        }),
      });
    }
  }
  store.enqueue({ kind: 'put', chunk: makeChunk(900, { namespace: opaque, key: new Uint8Array([0xff, 0x00]), hitCount: 0 }) });
  store.enqueue({ kind: 'invalidation', invalidation: makeInvalidation(1) });
  store.enqueue({ kind: 'invalidation', invalidation: makeInvalidation(2, { selector: { all: true }, actor: 'resp', reason: '' }) });
  await store.flush();
});
afterAll(async () => {
  await store.close();
  rmSync(folder, { recursive: true });
});

function rowsOf(query: string): Record<string, unknown>[] {
  const connection = new Database(path, { readonly: true });
  try {
    return connection.prepare(query).all() as Record<string, unknown>[];
  } finally {
    connection.close();
  }
}

describe('docs/queries.md', () => {
  test('has queries', () => {
    expect(queries.length).toBeGreaterThan(15);
  });

  test.each(queries)('finds something on a filled catalog with: %s', (query) => {
    expect(rowsOf(query).length).toBeGreaterThan(0);
  });

  test.skipIf(shell === null)('runs whole in the sqlite3 shell beside the agent', async () => {
    const child = Bun.spawn([shell ?? '', '-bail', '-header', '-column', path], {
      stdin: new Blob([queries.join('\n')]),
      stdout: 'pipe',
      stderr: 'pipe',
    });
    const [text, problems, status] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
    expect({ problems, status }).toEqual({ problems: '', status: 0 });
    expect(text).toContain('meta-llama/Llama-3.3-70B-Instruct@00010001@key-303@0');
    expect(text).toContain("x'ff00'");
    expect(text).toContain('new weights');
  });

  test('names every table and view of the catalog, and no other', () => {
    const there = rowsOf(
      "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE '\\_\\_%' ESCAPE '\\' ORDER BY name",
    ).map((row) => row['name']);
    const listed = [...(/^Tables: [^]*?\n\n/m.exec(page)?.[0] ?? '').matchAll(/`(\w+)`/g)]
      .map((match) => match[1] ?? '')
      .toSorted((a, b) => (a < b ? -1 : 1));
    expect(listed).toEqual(there);
  });
});

describe('the views', () => {
  test('count a chunk once a model and once a tier', () => {
    expect(rowsOf('SELECT tier, folder, chunk_count, dirty_chunk_count FROM usage_by_tier')).toEqual([
      { tier: 'ram', folder: '', chunk_count: 6, dirty_chunk_count: 3 },
      { tier: 'ssd', folder: 'a1', chunk_count: 7, dirty_chunk_count: 0 },
    ]);
    expect(rowsOf('SELECT model, chunk_count, tenant_count, ram_bytes, ssd_bytes FROM usage_by_model ORDER BY model DESC')).toEqual([
      {
        model: llama.model,
        chunk_count: 9,
        tenant_count: 1,
        ram_bytes: 4096 * (100 + 200 + 300 + 202 + 302 + 303),
        ssd_bytes: 4096 * (100 + 101 + 200 + 201 + 300 + 301),
      },
      { model: '', chunk_count: 1, tenant_count: 1, ram_bytes: 0, ssd_bytes: 4096 * 900 },
    ]);
    expect(rowsOf('SELECT tenant, chunk_count FROM usage_by_tenant ORDER BY tenant')).toEqual([
      { tenant: 'acme', chunk_count: 1 },
      { tenant: 'default', chunk_count: 9 },
    ]);
  });

  test('follow a chain from where its parent is gone, and end on a circle of parents', () => {
    const lengths = 'SELECT root_generation, count(*) AS length FROM chain GROUP BY root_generation ORDER BY root_generation';
    const wanted = [
      [100, 2],
      [200, 3],
      [300, 4],
      [900, 1],
    ].map(([root_generation, length]) => ({ root_generation, length }));
    expect(rowsOf(lengths)).toEqual(wanted);
    const connection = new Database(path);
    connection.exec('BEGIN; UPDATE chunk SET parent_generation = 303 WHERE generation = 300');
    expect(connection.prepare(lengths).all()).toEqual(wanted.filter((row) => row.root_generation !== 300));
    connection.exec('ROLLBACK');
    connection.close();
  });
});
