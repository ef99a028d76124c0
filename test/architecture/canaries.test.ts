import { expect, test } from 'vitest';
import { buildLintConfig } from './lint-config.ts';
import { rooms } from './layers.ts';
import { byPlace, readText, repositoryFiles, Workshop, type Finding } from './repository.ts';

const folder = 'test/architecture/canaries/';
const canaries = repositoryFiles().filter((path) => path.startsWith(folder) && path.endsWith('.ts'));
const isForCompiler = (path: string): boolean => path.includes('/tsc-');

/** The findings that the canaries announce in `// canary: RULE RULE` at the end of the offending lines. */
function announced(paths: readonly string[]): readonly Finding[] {
  const findings: Finding[] = [];
  for (const path of paths) {
    for (const [index, line] of readText(path).split('\n').entries()) {
      const rules = /\/\/ canary: (.+)$/.exec(line)?.[1]?.split(' ') ?? [];
      for (const rule of rules) findings.push({ file: path.slice(folder.length), line: index + 1, rule });
    }
  }
  return findings.toSorted(byPlace);
}

function workshopWith(paths: readonly string[]): Workshop {
  const workshop = new Workshop();
  for (const path of paths) workshop.copy(path, path.slice(folder.length));
  return workshop;
}

test('the linter finds in the canaries exactly what they announce', () => {
  const paths = canaries.filter((path) => !isForCompiler(path));
  using workshop = workshopWith(paths);
  expect(announced(paths).length).toBeGreaterThan(50);
  expect(workshop.lint()).toEqual(announced(paths));
});

test('the compiler finds in src exactly what the canaries announce: host globals, host modules and what cannot be erased', () => {
  const paths = canaries.filter(isForCompiler);
  using workshop = workshopWith(paths);
  expect(announced(paths).length).toBeGreaterThan(6);
  expect(workshop.typeCheckSources()).toEqual(announced(paths));
});

test('every house rule has a canary', () => {
  const proven = new Set(announced(canaries).map((finding) => finding.rule));
  const rules = Object.entries(buildLintConfig().rules)
    .filter(([, setting]) => setting !== 'off')
    .map(([name]) => name.slice(name.indexOf('/') + 1));
  expect(rules.length).toBeGreaterThan(20);
  expect(rules.filter((rule) => !proven.has(rule))).toEqual([]);
});

test('every room but those with nothing above them has an import canary', () => {
  const found = announced(canaries).filter((finding) => finding.rule === 'no-restricted-imports');
  const missing = rooms.filter((room) => !found.some((finding) => finding.file.startsWith(`${room.folder}/`)));
  expect(missing.map((room) => room.folder)).toEqual([]);
});
