/** The tables of docs/formats/native.md, from the schema. `bun test/support/native-tables.ts` writes them into the page. */
import { readFileSync, writeFileSync } from 'node:fs';
import { loadOutcomes, nativeOperations, statuses, storeOutcomes, tierNumbers } from '#protocol/native/native-schema.ts';
import type { Operation, Shape } from '#protocol/native/native-schema.ts';

const page = new URL('../../docs/formats/native.md', import.meta.url);
export const BEGIN = '<!-- from the schema: begin -->';
export const END = '<!-- from the schema: end -->';

function fields(shape: Shape): string {
  const list = Object.entries(shape).map(([name, type]) => `\`${name}\` ${type}`);
  return list.length === 0 ? 'nothing' : list.join(', ');
}

function numbers(title: string, values: Readonly<Record<string, number>>): string {
  return `| ${title} | | \n|---|---|\n${Object.entries(values)
    .map(([name, number]) => `| ${number} | \`${name}\` |`)
    .join('\n')}`.replace('| | \n', '| |\n');
}

export function nativeTables(): string {
  const operations = Object.entries(nativeOperations as Readonly<Record<string, Operation>>).map(
    ([name, { op, request, reply, about }]) =>
      `### ${op} ${name}\n\n${about}\n\n- Request: ${fields(request)}.\n- Reply: ${fields(reply)}.`,
  );
  const tables = [
    numbers('status', statuses),
    numbers('tier', tierNumbers),
    numbers('outcome of LOAD', loadOutcomes),
    numbers('outcome of STORE and COMMIT', storeOutcomes),
  ];
  return [...operations, '## Numbers', ...tables].join('\n\n');
}

/** The page with what stands between the marks renewed. */
export function renewed(text: string): string {
  const [head = '', rest = ''] = text.split(BEGIN);
  const tail = rest.split(END)[1];
  if (tail === undefined) throw new Error(`${page.pathname} lacks its marks`);
  return `${head}${BEGIN}\n\n${nativeTables()}\n\n${END}${tail}`;
}

export function pageText(): string {
  return readFileSync(page, 'utf8');
}

if (import.meta.main) writeFileSync(page, renewed(pageText()));
