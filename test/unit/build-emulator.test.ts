import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { buildEmulator } from '#cuda/emulator/build-emulator.ts';

let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'kvtier-build-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

/** A compiler that answers and writes what it is told to. */
function compiler(name: string, script: string): string {
  const path = join(folder, name);
  writeFileSync(path, `#!/bin/sh\n[ "$1" = --version ] && { echo ${name} 1.0; exit 0; }\n${script}\n`, { mode: 0o755 });
  return path;
}

/** Writes its own name to the file behind -o, and a line of calls. */
const writes = (name: string): string =>
  compiler(name, `while [ "$1" != -o ]; do shift; done\necho "$0" > "$2"\necho called >> "$0.calls"`);
const calls = (path: string): number => readFileSync(`${path}.calls`, 'utf8').split('\n').length - 1;

describe('buildEmulator', () => {
  test('compiles once a source and compiler, into a folder that is its owner’s alone', async () => {
    const cacheFolder = join(folder, 'a', 'cache');
    const first = writes('first');
    const built = await buildEmulator({ cacheFolder, compilers: [first] });
    expect(built).toMatchObject({ ok: true });
    expect(await buildEmulator({ cacheFolder, compilers: [first] })).toEqual(built);
    expect(calls(first)).toBe(1);
    expect(statSync(cacheFolder).mode & 0o777).toBe(0o700);
    const second = await buildEmulator({ cacheFolder, compilers: [writes('second')] });
    const without = await buildEmulator({ cacheFolder, compilers: [first], batchCopies: false });
    expect(new Set([built, second, without].map((each) => (each.ok ? each.path : '')))).toHaveLength(3);
    expect(readdirSync(cacheFolder).filter((name) => !name.endsWith('.so'))).toEqual([]);
  });

  test('takes the first compiler that can be started, and says so where there is none', async () => {
    const cacheFolder = join(folder, 'cache');
    expect(await buildEmulator({ cacheFolder, compilers: [join(folder, 'none'), writes('second')] })).toMatchObject({ ok: true });
    expect(await buildEmulator({ cacheFolder, compilers: ['kvtier-no-such-compiler'] })).toEqual({
      ok: false,
      reason: 'no C compiler: none of kvtier-no-such-compiler can be started',
    });
  });

  test('says what the compiler said, and leaves no draft', async () => {
    const cacheFolder = join(folder, 'cache');
    const bad = compiler('bad', 'echo "a.c:1: fatal error: sys/mman.h: not there" >&2; exit 1');
    const built = await buildEmulator({ cacheFolder, compilers: [bad] });
    expect(built).toEqual({ ok: false, reason: `${bad} could not compile the emulator: a.c:1: fatal error: sys/mman.h: not there` });
    expect(readdirSync(cacheFolder)).toEqual([]);
  });

  test('says where it could not write', async () => {
    const file = join(folder, 'a-file');
    writeFileSync(file, '');
    const built = await buildEmulator({ cacheFolder: join(file, 'cache'), compilers: [writes('first')] });
    expect(built.ok ? '' : built.reason).toContain('the emulator could not be put into');
  });

  test('does not load what others can write to: it compiles anew', async () => {
    const first = writes('first');
    const built = await buildEmulator({ cacheFolder: folder, compilers: [first] });
    if (!built.ok) throw new Error(built.reason);
    rmSync(built.path);
    writeFileSync(built.path, 'planted', { mode: 0o666 });
    Bun.spawnSync(['chmod', '666', built.path]);
    expect(await buildEmulator({ cacheFolder: folder, compilers: [first] })).toEqual(built);
    expect(readFileSync(built.path, 'utf8')).toBe(`${first}\n`);
  });

  test('two at once give one library', async () => {
    const first = writes('first');
    const [left, right] = await Promise.all([0, 1].map(() => buildEmulator({ cacheFolder: folder, compilers: [first] })));
    expect(left).toEqual(right);
    expect(left).toMatchObject({ ok: true });
  });

  test('compiles without a warning', async () => {
    const strict = compiler('strict', 'exec cc -Werror "$@"');
    expect(await buildEmulator({ cacheFolder: join(folder, 'cache'), compilers: [strict] })).toMatchObject({ ok: true });
  });
});

test('docs/testing.md lists the options of the emulator, with their defaults', () => {
  const read = (path: string): string => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');
  const source = read('node-agent/cuda/emulator/cuda-emulator.c');
  const names = [...source.matchAll(/\{"(\w+)", &options->\w+/g)].map(([, name]) => name ?? '').toSorted();
  expect(names.length).toBeGreaterThan(10);
  const defaults = /default_options = \{([^}]*)\}/.exec(source)?.[1] ?? '';
  const words = new Map([...defaults.matchAll(/\.(\w+) = ([^,]+)/g)].map(([, name = '', value = '']) => [name, value]));
  const spelled: Readonly<Record<string, string>> = { '1024 * MIB': '1G', '16 * MIB': '16M', CHECK_FULL: 'full' };
  const page = read('docs/testing.md');
  const table = page.slice(page.indexOf('| option | default |'), page.indexOf('Errors are injected'));
  const rows = [...table.matchAll(/^\| (`[^|]+`) \| ([^|]+) \|/gm)].flatMap(([, listed = '', values = '']) => {
    const shown = values.split(', ');
    return listed.split(', ').map((name, index) => [name.replaceAll('`', ''), shown[index] ?? ''] as const);
  });
  expect(rows.map(([name]) => name).toSorted()).toEqual(names);
  for (const [name, value] of rows) expect([name, value]).toEqual([name, spelled[words.get(name) ?? '0'] ?? words.get(name) ?? '0']);
});
