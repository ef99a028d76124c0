import { describe, expect, test } from 'vitest';
import { lanes } from '#testsupport/lanes.ts';
import { readText, repositoryFiles } from './repository.ts';
import { lineCount, tidyChecks, wantedFileLines } from './tidy.ts';

const paths = repositoryFiles();
// Canaries break rules on purpose, and tidy.ts holds a bad sample for each check.
const ours = paths.filter((path) => !path.startsWith('test/architecture/canaries/') && path !== 'test/architecture/tidy.ts');

describe.each(tidyChecks)('$name', (check) => {
  test('is found where it is broken', () => {
    expect(check.applies(check.bad.path)).toBe(true);
    expect(check.find(check.bad)).toHaveLength(1);
  });

  test('holds in the repository', () => {
    const looked = ours.filter((path) => check.applies(path));
    expect(looked.length).toBeGreaterThan(0);
    const violations = looked.flatMap((path) => check.find({ path, text: readText(path) }).map((message) => `${path}:${message}`));
    expect(violations).toEqual([]);
  });
});

test('the driver of GPUs is opened by the binding, and whoever hides its name is found by its functions', () => {
  const check = tidyChecks.find(({ name }) => name.startsWith('only node-agent/cuda'));
  const opened = ours.filter((path) => path.startsWith('node-agent/cuda/') && /\bdlopen\(/.test(readText(path)));
  expect(opened).toContain('node-agent/cuda/driver-symbols.ts');
  const find = (text: string): readonly string[] =>
    check?.find({ path: 'bench/gpu.ts', text: text.replace('open(', 'dl' + 'open(') }) ?? [];
  expect(find("open(process.argv[2], {\n  cuMemAlloc_v2: { args: ['ptr', 'u64'], returns: 'i32' },\n});\n")).toHaveLength(1);
  expect(find('open(`libcuda.so`, {});\n')).toHaveLength(1);
  expect(find("open('libc.so.6', { open: { args: [], returns: 'i32' } });\nconst shown = 'cuInit';\n")).toEqual([]);
});

test('the list of files is the repository and not a part of it', () => {
  expect(paths.length).toBeGreaterThan(100);
  for (const path of ['package.json', 'bun.lock', 'src/core/errors.ts', 'node-agent/bootstrap.mjs', '.gitignore'])
    expect(paths).toContain(path);
});

test('files of more than 300 lines are listed', () => {
  const long = ours
    .filter((path) => path.endsWith('.ts'))
    .map((path) => ({ path, lines: lineCount(readText(path)) }))
    .filter((file) => file.lines > wantedFileLines)
    .toSorted((a, b) => b.lines - a.lines);
  for (const file of long) console.log(`${file.lines} ${file.path}`);
  expect(long.length).toBeLessThan(ours.length);
});

test('every script of package.json that names a file names one that exists', () => {
  const { scripts } = JSON.parse(readText('package.json')) as { readonly scripts: Readonly<Record<string, string>> };
  const named = Object.values(scripts).flatMap((script) => script.match(/\S+\.(?:ts|mjs)\b/g) ?? []);
  expect(named.length).toBeGreaterThan(5);
  expect([...new Set(named)].filter((path) => !paths.includes(path))).toEqual([]);
});

test('every slow lane has a command of its own', () => {
  const { scripts } = JSON.parse(readText('package.json')) as { readonly scripts: Readonly<Record<string, string>> };
  for (const lane of lanes.filter((candidate) => !candidate.fast)) expect(scripts[`test:${lane.name}`]).toContain(`--project=${lane.name}`);
});
