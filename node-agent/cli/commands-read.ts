/** Commands that only look: stats, ls, lookup. */
import { formatBytes } from '#core/bytes.ts';
import { badRequest } from '#core/errors.ts';
import { restLimits } from '#protocol/rest/limits.ts';
import type { ChunkQuery } from '#protocol/rest/chunks.ts';
import { agentArgs, agentCommand, countOf, oneOf, printJson, type Command } from './command.ts';
import { EXIT_FOUND, EXIT_OK } from './exit-codes.ts';
import { listerOf, lsWhat } from './listers.ts';
import { renderStats } from './render-stats.ts';
import { columns, renderTable } from './table.ts';
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
    else deps.stdout.write(renderStats(stats, stats.hbm === undefined ? undefined : await client.devices()));
    return EXIT_OK;
  },
});

const filterArgs = {
  model: { type: 'string', description: 'Chunks of this model.' },
  tenant: {
    type: 'string',
    description: 'Chunks of this tenant: one with a token, a cache_salt (salt@NAME where both have the name), or default.',
  },
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
    const list = listerOf(what, filter, deps.nowMs());
    const limit = countOf(words, 'limit', { fallback: restLimits.defaultPageSize, min: 1, max: restLimits.pageSize });
    const json: unknown[] = [];
    let cursor: string | null = words.text.get('cursor') ?? null;
    do {
      const page = await list(client, cursor === null ? { limit } : { limit, cursor });
      if (words.on.has('json')) json.push(...page.rows);
      else deps.stdout.write(page.table);
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
      deps.stdout.write(renderTable(columns('TIER', '>SIZE', 'REASON', 'KEY'), rows));
    }
    return response.answers.every((answer) => answer.tier !== null) ? EXIT_OK : EXIT_FOUND;
  },
});
