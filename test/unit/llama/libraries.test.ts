import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { expect, test } from 'vitest';
import { findLibraries, PACKAGE_VERSION } from '#engines/llama/libraries.ts';

const root = resolve(import.meta.dirname, '../../..');

test.each(['darwin-arm64', 'linux-arm64', 'win32-x64'])('on %s the error is one line that says what is wanted', (host) => {
  expect(() => findLibraries(host)).toThrow(/^Cannot run llama\.cpp on .+: @node-llama-cpp\/linux-x64 is for linux-x64 with glibc$/);
});

test('the version that the struct layouts are for is the one that is pinned', () => {
  const { devDependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    readonly devDependencies: Readonly<Record<string, string>>;
  };
  expect(devDependencies['@node-llama-cpp/linux-x64']).toBe(PACKAGE_VERSION);
});
