/**
 * `bun run test:mutants [NAME ...]`: applies each deliberate bug of mutants.ts to a copy of the sources and runs the simulation until it
 * is found. Writes the table of docs/testing.md: all rows, or with names theirs. Ends with `N passed, N failed`.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { hunt, misfit, root } from './mutant-copy.ts';
import type { Hunted } from './mutant-copy.ts';
import { mutants } from './mutants.ts';
import type { Mutant } from './mutant.ts';

const LIMIT_STEPS = 400_000;
const TIMEOUT_MS = 600_000;
const page = join(root, 'docs/testing.md');
const BEGIN = '<!-- mutants: written by `bun run test:mutants` -->';
const END = '<!-- end of mutants -->';

function row(mutant: Mutant, hunted: Hunted): string {
  const step = hunted.found ? hunted.steps.toLocaleString('en') : 'not found';
  return `| \`${mutant.name}\` | ${mutant.why} | \`${mutant.profile}\` | ${step} |`;
}

const wanted = process.argv.slice(2);
const chosen = mutants.filter((mutant) => wanted.length === 0 || wanted.includes(mutant.name));
/** By name: what the page says, and what was found now. */
const rows = new Map<string, string>();
const text = readFileSync(page, 'utf8');
if (wanted.length > 0) {
  for (const line of text.slice(text.indexOf(BEGIN), text.indexOf(END)).split('\n')) {
    const name = /^\| `([^`]+)` \|/.exec(line)?.[1];
    if (name !== undefined) rows.set(name, line);
  }
}
let failed = 0;

async function one(mutant: Mutant): Promise<void> {
  const problem = misfit(mutant);
  const hunted = problem === undefined ? await hunt(mutant, { steps: LIMIT_STEPS, timeoutMs: TIMEOUT_MS }) : undefined;
  if (hunted?.found !== true) failed += 1;
  if (hunted !== undefined) rows.set(mutant.name, row(mutant, hunted));
  const outcome =
    hunted?.found === true ? `found at step ${hunted.steps}, seed ${hunted.seed}` : `NOT FOUND ${problem ?? hunted?.what ?? ''}`;
  console.log(`${mutant.name}: ${outcome}\n    ${hunted?.what.slice(0, 1000) ?? ''}`);
}

// Each hunt is a process of its own: as many at once as there are cores.
const waiting = [...chosen];
const lane = async (): Promise<void> => {
  for (let mutant = waiting.shift(); mutant !== undefined; mutant = waiting.shift()) await one(mutant);
};
await Promise.all(Array.from({ length: availableParallelism() }, lane));
const known = mutants.map(({ name }) => rows.get(name)).filter((line) => line !== undefined);
const table = ['| mutant | what is wrong then | weather | found at step |', '|---|---|---|---:|', ...known].join('\n');
writeFileSync(page, `${text.slice(0, text.indexOf(BEGIN))}${BEGIN}\n\n${table}\n\n${text.slice(text.indexOf(END))}`);
console.log(`${chosen.length - failed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
