/** The deliberate bugs still fit the sources; a few of them, others each day, are found. `bun run test:mutants` hunts all. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { hunt, misfit, root } from './mutant-copy.ts';
import { mutants } from './mutants.ts';

/** Those that are found within a few thousand steps, so that the lane stays fast. */
const quick = [
  'cross-tenant-lookup',
  'double-free',
  'commit-after-abort',
  'lost-dirty-flag',
  'skip-a-checksum',
  'forget-a-generation',
  'wrong-reply-order',
];
const TODAY = 2;

describe('A mutant', () => {
  it('fits the sources of today, and none has the name of another', () => {
    expect(mutants.map(misfit).filter((problem) => problem !== undefined)).toEqual([]);
    expect(new Set(mutants.map(({ name }) => name)).size).toBe(mutants.length);
  });

  it('has a row in docs/testing.md', () => {
    const page = readFileSync(join(root, 'docs/testing.md'), 'utf8');
    expect(mutants.filter(({ name, why }) => !page.includes(`| \`${name}\` | ${why} |`)).map(({ name }) => name)).toEqual([]);
  });

  const day = Math.floor(Date.now() / 86_400_000);
  const names = Array.from({ length: TODAY }, (_, index) => quick[(day * TODAY + index) % quick.length] ?? '');
  it.each(names)('is found by the simulation: %s', async (name) => {
    const mutant = mutants.find((candidate) => candidate.name === name);
    if (mutant === undefined) throw new Error(`There is no mutant ${name}`);
    const hunted = await hunt(mutant, { steps: 30_000, timeoutMs: 50_000 });
    expect(hunted).toMatchObject({ found: true });
  });
});
