import { readFileSync, readdirSync } from 'node:fs';
import { generateSQLiteDrizzleJson, generateSQLiteMigration } from 'drizzle-kit/api';
import { describe, expect, test } from 'vitest';
import * as schema from '#schema/schema.ts';

const folder = new URL('../../migrations/', import.meta.url);
const read = (name: string): string => readFileSync(new URL(name, folder), 'utf8');
const journal = JSON.parse(read('meta/_journal.json')) as {
  readonly entries: readonly { readonly idx: number; readonly tag: string; readonly when: number }[];
};

describe('migrations/', () => {
  test('lead to the tables of the schema: drizzle-kit finds nothing to generate', async () => {
    const last = `meta/${String(journal.entries.length - 1).padStart(4, '0')}_snapshot.json`;
    const snapshot = JSON.parse(read(last)) as Awaited<ReturnType<typeof generateSQLiteDrizzleJson>>;
    expect(await generateSQLiteMigration(snapshot, await generateSQLiteDrizzleJson(schema))).toEqual([]);
  });

  test('are the SQL files of the journal, in the order of their times', () => {
    const files = readdirSync(folder)
      .filter((name) => name.endsWith('.sql'))
      .sort();
    expect(files).toEqual(journal.entries.map((entry) => `${entry.tag}.sql`));
    const times = journal.entries.map((entry) => entry.when);
    expect(times).toEqual([...times].sort((a, b) => a - b));
  });
});
