/** Commands that only look: stats, ls, lookup. */
import { formatBytes } from '#core/bytes.ts';
import { formatDuration } from '#core/duration.ts';
import { badRequest } from '#core/errors.ts';
import { restLimits } from '#protocol/rest/limits.ts';
import type { Chunk, ChunkQuery } from '#protocol/rest/chunks.ts';
import type { KvtierClient } from '#client/kvtier-client.ts';
import { agentArgs, agentCommand, countOf, oneOf, printJson, type Command } from './command.ts';
import type { CliDeps } from './deps.ts';
import { EXIT_FOUND, EXIT_OK } from './exit-codes.ts';
import { renderStats } from './render-stats.ts';
import { formatCount, renderTable } from './table.ts';
import type { Words } from './words.ts';

export const tiers = ['hbm', 'ram', 'ssd'] as const;

export const statsCommand: Command = agentCommand({
  name: 'stats',
  summary: 'Show tiers, hits and misses, I/O, doors, models and tenants of a running agent.',
  args: agentArgs,
  maxPositionals: 0,
  async ask(client, words, deps) {
    const stats = await client.stats();
    if (words.on.has('json')) printJson(deps, stats);
    else deps.stdout.write(renderStats(stats));
    return EXIT_OK;
  },
});

const lsWhat = ['chunks', 'namespaces', 'tenants', 'invalidations'] as const;

/** A page of any list: JSON for programs, a table for people. */
interface Listed {
  readonly rows: readonly unknown[];
  readonly cursor: string | null;
}

interface Lister {
  page(client: KvtierClient, query: { readonly limit: number; readonly cursor?: string }): Promise<Listed>;
  render(rows: readonly unknown[]): string;
}

function lister<Row>(
  page: (
    client: KvtierClient,
    query: { readonly limit: number; readonly cursor?: string },
  ) => Promise<{ readonly rows: readonly Row[]; readonly cursor: string | null }>,
  render: (rows: readonly Row[]) => string,
): Lister {
  return { page, render: (rows) => render(rows as readonly Row[]) };
}

function ago(deps: CliDeps, atMs: number): string {
  return `${formatDuration(Math.max(0, deps.nowMs() - atMs))} ago`;
}

function chunkLister(filter: ChunkQuery, deps: CliDeps): Lister {
  return lister(
    async (client, query) => {
      const { chunks, cursor } = await client.chunks({ ...filter, ...query });
      return { rows: chunks, cursor };
    },
    (rows: readonly Chunk[]) =>
      renderTable(
        [
          { head: 'ID' },
          { head: 'SIZE', right: true },
          { head: 'TIERS' },
          { head: 'HITS', right: true },
          { head: 'LAST USE', right: true },
          { head: 'STATE' },
          { head: 'KEY' },
        ],
        rows.map((chunk) => [
          chunk.id,
          formatBytes(chunk.sizeBytes),
          chunk.tiers.join('+'),
          formatCount(chunk.hitCount),
          ago(deps, chunk.lastUsedAtMs),
          [chunk.dirty ? 'dirty' : '', chunk.leased ? 'leased' : ''].filter((word) => word !== '').join(','),
          chunk.key,
        ]),
      ),
  );
}

function listerOf(what: (typeof lsWhat)[number], filter: ChunkQuery, deps: CliDeps): Lister {
  if (what === 'chunks') return chunkLister(filter, deps);
  if (what === 'namespaces') {
    return lister(
      async (client, query) => {
        const { namespaces, cursor } = await client.namespaces(query);
        return { rows: namespaces, cursor };
      },
      (rows) =>
        renderTable(
          [
            { head: 'NAMESPACE' },
            { head: 'MODEL' },
            { head: 'TENANT' },
            { head: 'EPOCH', right: true },
            { head: 'CHUNKS', right: true },
            { head: 'RAM', right: true },
            { head: 'SSD', right: true },
          ],
          rows.map((row) => [
            row.label,
            row.model,
            row.tenant,
            String(row.epoch),
            formatCount(row.chunkCount),
            formatBytes(row.bytes.ram),
            formatBytes(row.bytes.ssd),
          ]),
        ),
    );
  }
  if (what === 'tenants') {
    return lister(
      async (client, query) => {
        const { tenants, cursor } = await client.tenants(query);
        return { rows: tenants, cursor };
      },
      (rows) =>
        renderTable(
          [
            { head: 'TENANT' },
            { head: 'DIGEST' },
            { head: 'NAMESPACES', right: true },
            { head: 'CHUNKS', right: true },
            { head: 'RAM', right: true },
            { head: 'SSD', right: true },
          ],
          rows.map((row) => [
            row.tenant,
            row.digest,
            formatCount(row.namespaceCount),
            formatCount(row.chunkCount),
            formatBytes(row.bytes.ram),
            formatBytes(row.bytes.ssd),
          ]),
        ),
    );
  }
  return lister(
    async (client, query) => {
      const { invalidations, cursor } = await client.invalidations(query);
      return { rows: invalidations, cursor };
    },
    (rows) =>
      renderTable(
        [
          { head: 'ID' },
          { head: 'WHEN', right: true },
          { head: 'BY' },
          { head: 'CHUNKS', right: true },
          { head: 'BYTES', right: true },
          { head: 'SELECTOR' },
          { head: 'REASON' },
        ],
        rows.map((row) => [
          row.id,
          ago(deps, row.atMs),
          row.actor,
          formatCount(row.matchedChunks),
          formatBytes(row.removedBytes),
          JSON.stringify(row.selector),
          row.reason,
        ]),
      ),
  );
}

const filterArgs = {
  model: { type: 'string', description: 'Chunks of this model.' },
  tenant: { type: 'string', description: 'Chunks of this tenant (cache_salt).' },
  namespace: { type: 'string', description: 'Chunks of this namespace, as `ls namespaces` prints it.' },
  tier: { type: 'string', valueHint: tiers.join('|'), description: 'Chunks with a replica in this tier.' },
  'key-prefix': { type: 'string', valueHint: 'prefix', description: 'Chunks whose key starts so.' },
  'older-than': {
    type: 'string',
    valueHint: 'time',
    description: 'Chunks last used before: a duration ago (1h), ISO 8601, or milliseconds.',
  },
} as const;

function chunkFilter(words: Words): ChunkQuery {
  const filter: Record<string, string> = {};
  for (const [flag, field] of [
    ['model', 'model'],
    ['tenant', 'tenant'],
    ['namespace', 'namespace'],
    ['key-prefix', 'keyPrefix'],
    ['older-than', 'olderThan'],
  ] as const) {
    const value = words.text.get(flag);
    if (value !== undefined) filter[field] = value;
  }
  const tier = oneOf('--tier', words.text.get('tier'), tiers);
  return tier === undefined ? filter : { ...filter, tier };
}

export const lsCommand: Command = agentCommand({
  name: 'ls',
  summary: 'List chunks, namespaces, tenants or past invalidations, a page at a time.',
  args: {
    what: { type: 'positional', required: false, default: 'chunks', description: `What to list: ${lsWhat.join(', ')}.` },
    ...filterArgs,
    limit: {
      type: 'string',
      valueHint: 'count',
      description: `Rows of a page, 1 to ${restLimits.pageSize}; default ${restLimits.defaultPageSize}.`,
    },
    cursor: { type: 'string', description: 'Go on behind the page that printed this cursor.' },
    all: { type: 'boolean', description: 'All pages.' },
    ...agentArgs,
  },
  maxPositionals: 1,
  async ask(client, words, deps) {
    const what = oneOf('ls', words.positionals[0], lsWhat) ?? 'chunks';
    const filter = chunkFilter(words);
    if (what !== 'chunks' && Object.keys(filter).length > 0)
      throw badRequest(`ls ${what} takes no filter: ${Object.keys(filter).join(', ')} is for chunks`);
    const list = listerOf(what, filter, deps);
    const limit = countOf(words, 'limit', { fallback: restLimits.defaultPageSize, min: 1, max: restLimits.pageSize });
    const json: unknown[] = [];
    let cursor: string | null = words.text.get('cursor') ?? null;
    do {
      const page = await list.page(client, cursor === null ? { limit } : { limit, cursor });
      if (words.on.has('json')) json.push(...page.rows);
      else deps.stdout.write(list.render(page.rows));
      cursor = page.cursor;
    } while (words.on.has('all') && cursor !== null);
    if (words.on.has('json')) printJson(deps, { [what]: json, cursor });
    else if (cursor !== null) deps.stderr.write(`More: repeat with --cursor ${cursor}, or --all\n`);
    return EXIT_OK;
  },
});

export const lookupCommand: Command = agentCommand({
  name: 'lookup',
  summary: 'Tell of whole keys, in prefix order, which would be served and from which tier; exit code 1 where one would not.',
  args: { keys: { type: 'positional', required: false, description: "Keys in the client's own spelling, prefix first." }, ...agentArgs },
  maxPositionals: restLimits.keyCount,
  async ask(client, words, deps) {
    if (words.positionals.length === 0) throw badRequest('lookup needs at least one key');
    const response = await client.lookup(words.positionals);
    if (words.on.has('json')) printJson(deps, response);
    else {
      const rows = response.answers.map((answer) => [
        answer.tier ?? 'miss',
        answer.sizeBytes === null ? '' : formatBytes(answer.sizeBytes),
        answer.reason,
        answer.key,
      ]);
      deps.stdout.write(renderTable([{ head: 'TIER' }, { head: 'SIZE', right: true }, { head: 'REASON' }, { head: 'KEY' }], rows));
    }
    return response.answers.every((answer) => answer.tier !== null) ? EXIT_OK : EXIT_FOUND;
  },
});
