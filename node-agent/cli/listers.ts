/** Lists of `kvtier ls`: how a page is fetched and how it is printed. */
import { formatBytes } from '#core/bytes.ts';
import { formatDuration } from '#core/duration.ts';
import type { Chunk, ChunkQuery } from '#protocol/rest/chunks.ts';
import type { KvtierClient } from '#client/kvtier-client.ts';
import { columns, formatCount, renderTable, tierColumns } from './table.ts';

export const lsWhat = ['chunks', 'namespaces', 'tenants', 'invalidations'] as const;

interface PageQuery {
  readonly limit: number;
  readonly cursor?: string;
}

interface Page<Row> {
  readonly rows: readonly Row[];
  /** Null on the last page. */
  readonly cursor: string | null;
}

/** A page as JSON rows and as a table. */
export interface ListedPage extends Page<unknown> {
  readonly table: string;
}

/** Fetches one page. */
export type Lister = (client: KvtierClient, query: PageQuery) => Promise<ListedPage>;

function lister<Row>(
  fetchPage: (client: KvtierClient, query: PageQuery) => Promise<Page<Row>>,
  render: (rows: readonly Row[]) => string,
): Lister {
  return async (client, query) => {
    const page = await fetchPage(client, query);
    return { ...page, table: render(page.rows) };
  };
}

function ago(nowMs: number, atMs: number): string {
  return `${formatDuration(Math.max(0, nowMs - atMs))} ago`;
}

function left(nowMs: number, atMs: number | null): string {
  return atMs === null ? '-' : `in ${formatDuration(Math.max(0, atMs - nowMs))}`;
}

function stateOf(chunk: Chunk): string {
  return [chunk.dirty ? 'dirty' : '', chunk.leased ? 'leased' : '', chunk.pinned === null ? '' : `${chunk.pinned} pin`]
    .filter((word) => word !== '')
    .join(',');
}

function chunkLister(filter: ChunkQuery, nowMs: number): Lister {
  return lister(
    async (client, query) => {
      const { chunks, cursor } = await client.chunks({ ...filter, ...query });
      return { rows: chunks, cursor };
    },
    (rows) =>
      renderTable(
        columns('ID', '>SIZE', 'TIERS', '>HITS', '>LAST USE', '>EXPIRES', 'STATE', 'KEY'),
        rows.map((row) => [
          row.id,
          formatBytes(row.sizeBytes),
          row.tiers.join('+'),
          formatCount(row.hitCount),
          ago(nowMs, row.lastUsedAtMs),
          left(nowMs, row.expiresAtMs),
          stateOf(row),
          row.key,
        ]),
      ),
  );
}

const namespaceLister: Lister = lister(
  async (client, query) => {
    const { namespaces, cursor } = await client.namespaces(query);
    return { rows: namespaces, cursor };
  },
  (rows) => {
    const { heads, cells } = tierColumns(rows);
    return renderTable(
      columns('NAMESPACE', 'MODEL', 'TENANT', '>EPOCH', '>CHUNKS', ...heads),
      rows.map((row) => [row.label, row.model, row.tenant, String(row.epoch), formatCount(row.chunkCount), ...cells(row.bytes)]),
    );
  },
);

const tenantLister: Lister = lister(
  async (client, query) => {
    const { tenants, cursor } = await client.tenants(query);
    return { rows: tenants, cursor };
  },
  (rows) => {
    const { heads, cells } = tierColumns(rows);
    return renderTable(
      columns('TENANT', 'DIGEST', '>NAMESPACES', '>CHUNKS', ...heads),
      rows.map((row) => [row.tenant, row.digest, formatCount(row.namespaceCount), formatCount(row.chunkCount), ...cells(row.bytes)]),
    );
  },
);

function invalidationLister(nowMs: number): Lister {
  return lister(
    async (client, query) => {
      const { invalidations, cursor } = await client.invalidations(query);
      return { rows: invalidations, cursor };
    },
    (rows) =>
      renderTable(
        columns('ID', '>WHEN', 'BY', '>CHUNKS', '>BYTES', 'SELECTOR', 'REASON'),
        rows.map((row) => [
          row.id,
          ago(nowMs, row.atMs),
          row.actor,
          formatCount(row.matchedChunks),
          formatBytes(row.removedBytes),
          JSON.stringify(row.selector),
          row.reason,
        ]),
      ),
  );
}

/** `filter` is for chunks only; `nowMs` is what ages count from. */
export function listerOf(what: (typeof lsWhat)[number], filter: ChunkQuery, nowMs: number): Lister {
  if (what === 'chunks') return chunkLister(filter, nowMs);
  if (what === 'namespaces') return namespaceLister;
  if (what === 'tenants') return tenantLister;
  return invalidationLister(nowMs);
}
