/** A selector on the command line: flags and whole keys, ANDed. */
import type { ArgsDef } from 'citty';
import { badRequest } from '#core/errors.ts';
import type { WireSelector } from '#protocol/rest/selector.ts';
import { oneOf } from './command.ts';
import { tiers } from './commands-read.ts';
import type { Words } from './words.ts';

const selectorFlags = [
  ['model', 'model', 'Exact model name.'],
  ['model-prefix', 'modelPrefix', 'Start of the model name.'],
  ['tenant', 'tenant', 'Tenant: one with a token, a cache_salt (salt@NAME where both have the name), or default.'],
  ['namespace', 'namespace', 'Namespace as `ls namespaces` prints it.'],
  ['key-prefix', 'keyPrefix', 'Start of the key.'],
  ['chain-from', 'chainFrom', 'Whole key of a chunk: it and its known descendants.'],
  ['tag', 'tag', 'name=value, or name for any value.'],
  ['older-than', 'olderThan', 'Last used before: a duration ago (7d), ISO 8601, or milliseconds.'],
  ['created-before', 'createdBefore', 'First put before: a duration ago, ISO 8601, or milliseconds.'],
] as const;

export const selectorArgs: ArgsDef = {
  keys: { type: 'positional', required: false, description: "Whole keys in the client's own spelling." },
  ...Object.fromEntries(selectorFlags.map(([flag, , description]) => [flag, { type: 'string' as const, description }])),
  tier: { type: 'string', valueHint: tiers.join('|'), description: 'Has a replica in this tier.' },
};

/**
 * `allTaken` is what `--all` would do, for commands that want it confirmed by --yes. Errors: BAD_REQUEST for no field at all, for --all
 * beside others, and for an --all that is not confirmed.
 */
export function selectorOf(command: string, words: Words, { allTaken }: { readonly allTaken?: string } = {}): WireSelector {
  const selector: Record<string, unknown> = {};
  for (const [flag, field] of selectorFlags) {
    const value = words.text.get(flag);
    if (value !== undefined) selector[field] = value;
  }
  const tier = oneOf('--tier', words.text.get('tier'), tiers);
  if (tier !== undefined) selector['tier'] = tier;
  if (words.positionals.length > 0) selector['keys'] = words.positionals;
  const fields = Object.keys(selector);
  if (words.on.has('all')) {
    if (fields.length > 0) throw badRequest(`--all stands alone, ${fields.join(', ')} is given too`);
    if (allTaken !== undefined && !words.on.has('yes') && !words.on.has('dry-run'))
      throw badRequest(`--all ${allTaken}: repeat with --yes, or look first with --dry-run`);
    return { all: true };
  }
  if (fields.length === 0) throw badRequest(`${command} needs keys, a selector flag, or --all`);
  return selector;
}
