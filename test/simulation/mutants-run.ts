/**
 * `bun run test:mutants [NAME ...]`: applies each deliberate bug of mutants.ts to a copy of the sources and runs the simulation until it
 * is found. Without names it writes the table of docs/testing.md. Ends with `N passed, N failed`.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { hunt, misfit, root } from './mutant-copy.ts';
import type { Hunted } from './mutant-copy.ts';
import { mutants } from './mutants.ts';
import type { Mutant } from './mutants.ts';

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
const rows: string[] = [];
let failed = 0;
for (const mutant of chosen) {
  const problem = misfit(mutant);
  const hunted = problem === undefined ? await hunt(mutant, { steps: LIMIT_STEPS, timeoutMs: TIMEOUT_MS }) : undefined;
  if (hunted?.found !== true) failed += 1;
  if (hunted !== undefined) rows.push(row(mutant, hunted));
  const outcome =
    hunted?.found === true ? `found at step ${hunted.steps}, seed ${hunted.seed}` : `NOT FOUND ${problem ?? hunted?.what ?? ''}`;
  console.log(`${mutant.name}: ${outcome}\n    ${hunted?.what.slice(0, 200) ?? ''}`);
}
if (wanted.length === 0) {
  const text = readFileSync(page, 'utf8');
  const table = ['| mutant | what is wrong then | weather | found at step |', '|---|---|---|---:|', ...rows].join('\n');
  writeFileSync(page, `${text.slice(0, text.indexOf(BEGIN))}${BEGIN}\n\n${table}\n\n${text.slice(text.indexOf(END))}`);
}
console.log(`${chosen.length - failed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
