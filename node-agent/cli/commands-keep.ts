/** Commands that say what is kept and for whom: pin, unpin, quota. */
import { formatBytes, parseBytes } from '#core/bytes.ts';
import { badRequest } from '#core/errors.ts';
import { restLimits } from '#protocol/rest/limits.ts';
import type { Tenant } from '#protocol/rest/chunks.ts';
import type { PinResponse } from '#protocol/rest/operations.ts';
import type { KvtierClient } from '#client/kvtier-client.ts';
import { agentArgs, agentCommand, oneOf, printJson, type Command } from './command.ts';
import type { CliDeps } from './deps.ts';
import { EXIT_FOUND, EXIT_OK } from './exit-codes.ts';
import { selectorArgs, selectorOf } from './selector-words.ts';
import { columns, formatCount, renderTable } from './table.ts';
import type { Words } from './words.ts';

const modes = ['soft', 'hard'] as const;

const refusals: Readonly<Record<keyof PinResponse['refused'], string>> = {
  ram: 'a quarter of RAM is pinned already',
  ssd: 'a quarter of SSD is pinned already',
  count: 'the number of pins is used up',
  unwritten: 'only in RAM, and SSD did not take them',
};

export const pinCommand: Command = agentCommand({
  name: 'pin',
  summary: 'Keep chunks: evicted last (soft), or never for space and over a restart (hard); exit code 1 where some were refused.',
  args: {
    ...selectorArgs,
    mode: { type: 'string', valueHint: modes.join('|'), description: 'How firmly; needed.' },
    'into-hbm': { type: 'boolean', description: 'Copy them into HBM, too, as far as it has room.' },
    all: { type: 'boolean', description: 'Everything that is there now.' },
    ...agentArgs,
  },
  maxPositionals: restLimits.keyCount,
  async ask(client, words, deps) {
    const mode = oneOf('--mode', words.text.get('mode'), modes);
    if (mode === undefined) throw badRequest('pin needs --mode soft or --mode hard');
    const answer = await client.pin({ selector: selectorOf('pin', words), mode, ...(words.on.has('into-hbm') ? { tier: 'hbm' } : {}) });
    const refused = Object.entries(answer.refused).filter(([, { chunks }]) => chunks > 0);
    if (words.on.has('json')) printJson(deps, answer);
    else {
      const held = mode === 'hard' ? `, ${formatCount(answer.heldInRam)} of them held in RAM too` : '';
      deps.stdout.write(`Pinned ${formatCount(answer.pinned.chunks)} chunks, ${formatBytes(answer.pinned.bytes)}${held}\n`);
      if (answer.alreadyPinned.chunks > 0) deps.stdout.write(`${formatCount(answer.alreadyPinned.chunks)} chunks were pinned so before\n`);
      if (answer.inHbm !== undefined)
        deps.stdout.write(`${formatCount(answer.inHbm.chunks)} chunks are in HBM, ${formatBytes(answer.inHbm.bytes)}\n`);
      if (answer.notFound > 0) deps.stdout.write(`${formatCount(answer.notFound)} are not there\n`);
      for (const [reason, { chunks, bytes }] of refused) {
        const why = refusals[reason as keyof typeof refusals];
        deps.stderr.write(`Refused ${formatCount(chunks)} chunks, ${formatBytes(bytes)}: ${why}\n`);
      }
    }
    return refused.length > 0 ? EXIT_FOUND : EXIT_OK;
  },
});

export const unpinCommand: Command = agentCommand({
  name: 'unpin',
  summary: 'End the pins of chunks, of either mode.',
  args: { ...selectorArgs, all: { type: 'boolean', description: 'Every pin.' }, ...agentArgs },
  maxPositionals: restLimits.keyCount,
  async ask(client, words, deps) {
    const answer = await client.unpin(selectorOf('unpin', words));
    if (words.on.has('json')) printJson(deps, answer);
    else deps.stdout.write(`Unpinned ${formatCount(answer.unpinned.chunks)} chunks, ${formatBytes(answer.unpinned.bytes)}\n`);
    return EXIT_OK;
  },
});

const quotaWhat = ['ls', 'set', 'rm'] as const;

export const quotaCommand: Command = agentCommand({
  name: 'quota',
  summary: 'List, set or take away what a tenant may hold in each tier: quota ls, quota set TENANT, quota rm TENANT.',
  args: {
    what: { type: 'positional', required: false, default: 'ls', description: `What to do: ${quotaWhat.join(', ')}.` },
    tenant: {
      type: 'positional',
      required: false,
      description: 'Tenant: one with a token, a cache_salt (salt@NAME where both have the name), or default.',
    },
    // `--ram` and `--ssd` are sizes of tiers elsewhere.
    'ram-bytes': { type: 'string', valueHint: 'size', description: 'Most in RAM (10GiB); left out: no limit there.' },
    'ssd-bytes': { type: 'string', valueHint: 'size', description: 'Most on SSD (1TiB); left out: no limit there.' },
    ...agentArgs,
  },
  maxPositionals: 2,
  async ask(client, words, deps) {
    const [first, tenant] = words.positionals;
    const what = oneOf('quota', first, quotaWhat) ?? 'ls';
    if (what !== 'set' && (words.text.has('ram-bytes') || words.text.has('ssd-bytes'))) throw badRequest(`quota ${what} takes no size`);
    if (what === 'ls') {
      if (tenant !== undefined) throw badRequest(`quota ls takes no tenant, '${tenant}' is given`);
      print(deps, words, await tenantsWithQuota(client));
      return EXIT_OK;
    }
    if (tenant === undefined) throw badRequest(`quota ${what} needs a tenant`);
    const row = what === 'rm' ? await client.removeQuota(tenant) : await client.setQuota(tenant, quotaOf(words));
    print(deps, words, [row]);
    return EXIT_OK;
  },
});

function quotaOf(words: Words): { ramBytes?: number; ssdBytes?: number } {
  const ramBytes = sizeOf(words, 'ram-bytes');
  const ssdBytes = sizeOf(words, 'ssd-bytes');
  if (ramBytes === undefined && ssdBytes === undefined) throw badRequest('quota set needs --ram-bytes, --ssd-bytes or both');
  return { ...(ramBytes === undefined ? {} : { ramBytes }), ...(ssdBytes === undefined ? {} : { ssdBytes }) };
}

function sizeOf(words: Words, flag: string): number | undefined {
  const text = words.text.get(flag);
  if (text === undefined) return undefined;
  const bytes = parseBytes(text);
  if (bytes === undefined) throw badRequest(`--${flag} is '${text}': a size like 10GiB is wanted`);
  return bytes;
}

async function tenantsWithQuota(client: KvtierClient): Promise<Tenant[]> {
  const rows: Tenant[] = [];
  let cursor: string | null = null;
  do {
    const page: { tenants: Tenant[]; cursor: string | null } = await client.tenants({
      limit: restLimits.pageSize,
      ...(cursor === null ? {} : { cursor }),
    });
    rows.push(...page.tenants.filter(({ quota }) => quota !== null));
    cursor = page.cursor;
  } while (cursor !== null);
  return rows;
}

function print(deps: CliDeps, words: Words, rows: readonly Tenant[]): void {
  if (words.on.has('json')) return printJson(deps, { tenants: rows });
  const limit = (bytes: number | null | undefined): string => (bytes === null || bytes === undefined ? '-' : formatBytes(bytes));
  deps.stdout.write(
    renderTable(
      columns('TENANT', '>RAM', '>OF', '>SSD', '>OF', '>CHUNKS'),
      rows.map(({ tenant, bytes, quota, chunkCount }) => [
        tenant,
        formatBytes(bytes.ram),
        limit(quota?.ramBytes),
        formatBytes(bytes.ssd),
        limit(quota?.ssdBytes),
        formatCount(chunkCount),
      ]),
    ),
  );
}
