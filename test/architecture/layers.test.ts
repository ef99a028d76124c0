import { describe, expect, test } from 'vitest';
import { allowedImports, printLintConfig } from './lint-config.ts';
import { observers, outside, rooms, type Room } from './layers.ts';
import { readText, repositoryFiles, Workshop } from './repository.ts';

const sources = repositoryFiles().filter((path) => /^(src|node-agent|engines)\/.+\.ts$/.test(path));
const manifest = JSON.parse(readText('package.json')) as {
  readonly imports: Readonly<Record<string, string>>;
  readonly dependencies: Readonly<Record<string, string>>;
  readonly devDependencies: Readonly<Record<string, string>>;
};
const roomOf = (path: string): Room | undefined => rooms.find((room) => path.startsWith(`${room.folder}/`));

test('.oxlintrc.json is what the table generates; write it with `bun run lint:config`', () => {
  expect(readText('.oxlintrc.json')).toBe(printLintConfig());
});

describe('the table', () => {
  test('knows every source file', () => {
    expect(sources.length).toBeGreaterThan(50);
    const strangers = sources.filter((path) => roomOf(path) === undefined && !outside.some((entry) => entry.file === path));
    expect(strangers).toEqual([]);
  });

  test('has no room without files', () => {
    expect(rooms.length).toBeGreaterThan(15);
    expect(rooms.filter((room) => !sources.some((path) => roomOf(path) === room)).map((room) => room.folder)).toEqual([]);
  });

  test('names the rooms as package.json does', () => {
    const wrong = rooms.filter((room) => {
      const [alias, ...below] = room.alias.split('/');
      return (
        manifest.imports[`${alias}/*`] !== `./${room.folder.slice(0, room.folder.length - below.join('/').length).replace(/\/$/, '')}/*`
      );
    });
    expect(wrong.map((room) => room.folder)).toEqual([]);
  });

  test('allows rooms and packages that exist, and only agent packages that are no devDependencies', () => {
    const aliases = rooms.map((room) => room.alias);
    for (const room of rooms) {
      for (const pattern of room.rooms)
        expect(
          aliases.some((alias) => pattern.startsWith(alias.split('/')[0] ?? alias)),
          pattern,
        ).toBe(true);
      for (const pattern of room.packages) expect(Object.keys(manifest.dependencies)).toContain(pattern.replace(/\/\*\*$/, ''));
    }
  });

  test('points down only: no two rooms see each other', () => {
    const sees = (from: Room, to: Room): boolean =>
      from !== to && from.rooms.some((pattern) => pattern.startsWith(`${to.alias}/`) || pattern === `${to.alias.split('/')[0]}/**`);
    const circles = rooms.flatMap((from) =>
      rooms.filter((to) => sees(from, to) && sees(to, from)).map((to) => `${from.folder} <-> ${to.folder}`),
    );
    expect(circles).toEqual([]);
  });

  test('lets src see src only, and only host/, the driver of GPUs, the database and engines the effects of the host', () => {
    const portable = new Set(rooms.filter((room) => room.folder.startsWith('src/')).map((room) => `${room.alias}/**`));
    for (const room of rooms.filter((candidate) => candidate.folder.startsWith('src/'))) {
      expect(
        room.rooms.filter((pattern) => !portable.has(pattern)),
        room.folder,
      ).toEqual([]);
      expect(room.builtins, room.folder).toEqual([]);
    }
    const effects = rooms.filter(
      (room) => room.hostGlobals || room.builtins.some((name) => name !== 'node:path' && name !== 'node:crypto'),
    );
    expect(effects.map((room) => room.folder)).toEqual([
      'node-agent/host',
      'node-agent/cuda',
      'node-agent/catalog',
      'engines/client',
      'engines/llama',
    ]);
  });
});

/** One import for each room, part of a room, package and module that a room might reach for. */
const reachable: readonly string[] = [
  ...rooms.map((room) => `${room.alias}/some-file.ts`),
  '#cache/control.ts',
  '#cache/door.ts',
  '#catalog/journal.ts',
  '#testsupport/sim-clock.ts',
  './neighbour.ts',
  '../climbing.ts',
  './../climbing.ts',
  ...Object.keys(manifest.dependencies),
  ...Object.keys(manifest.devDependencies),
  'hono/http-exception',
  'drizzle-orm/sqlite-core',
  'bun',
  'bun:ffi',
  'node:fs',
  'node:fs/promises',
  'node:net',
  'node:path',
  'node:crypto',
];

/** What the table says, in the plainest way; the linter's globs are the other implementation. */
function tableAllows(room: Room, specifier: string): boolean {
  if (specifier.includes('../')) return false;
  return allowedImports(room).some((pattern) => {
    const [head = '', ...tails] = pattern.split('*').filter((part, index) => part !== '' || index === 0);
    return pattern.includes('*') ? specifier.startsWith(head) && specifier.endsWith(tails.at(-1) ?? '') : specifier === pattern;
  });
}

test('the linter refuses in each room exactly what the table does not allow', () => {
  using workshop = new Workshop();
  const text = reachable.map((specifier) => `import type {} from '${specifier}';\n`).join('');
  for (const room of rooms) workshop.write(`${room.folder}/reaches.ts`, text);
  const refused = workshop.lint().filter((finding) => finding.rule === 'no-restricted-imports');
  for (const room of rooms) {
    const lines = new Set(refused.filter((finding) => finding.file === `${room.folder}/reaches.ts`).map((finding) => finding.line));
    const byLinter = reachable.filter((_, index) => lines.has(index + 1));
    const byTable = reachable.filter((specifier) => !tableAllows(room, specifier));
    expect(byLinter, room.folder).toEqual(byTable);
    expect(byLinter.length, room.folder).toBeGreaterThan(10);
  }
});

test('observers and main.ts may import every room', () => {
  using workshop = new Workshop();
  const text = rooms.map((room) => `import type {} from '${room.alias}/some-file.ts';\n`).join('');
  const places = [...observers.map((folder) => `${folder}/sees.ts`), 'node-agent/main.ts'];
  for (const place of places) workshop.write(place, text);
  expect(workshop.lint().filter((finding) => finding.rule === 'no-restricted-imports')).toEqual([]);
});
