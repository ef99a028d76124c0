/** Loads a configuration on a machine that is told, from files that are given. */
import { expect } from 'vitest';
import { GiB } from '#core/bytes.ts';
import { KvtierError } from '#core/errors.ts';
import type { DiskFacts, MachineFacts } from '#config/derive.ts';
import { loadConfig, type FactsQuery, type LoadedConfig } from '#config/load-config.ts';

interface Given {
  readonly argv?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  readonly files?: Readonly<Record<string, string>>;
  readonly facts?: Partial<MachineFacts>;
  readonly disk?: Partial<DiskFacts>;
}

export function machine(query: FactsQuery, given: Given): MachineFacts {
  return {
    platform: 'linux',
    memoryBytes: 64 * GiB,
    cgroupMemoryBytes: undefined,
    cores: 8,
    cgroupCores: undefined,
    shmFreeBytes: 32 * GiB,
    shmTotalBytes: 32 * GiB,
    disks: query.ssdDirs.map((path) => ({
      path,
      fileSystem: 'one',
      freeBytes: 500 * GiB,
      totalBytes: 900 * GiB,
      rememberedBytes: undefined,
      ...given.disk,
    })),
    ...given.facts,
  };
}

export function load(given: Given = {}): LoadedConfig {
  return loadConfig({
    argv: given.argv ?? [],
    env: given.env ?? {},
    cwd: '/srv',
    readFile: (path) => given.files?.[path],
    facts: (query) => machine(query, given),
  });
}

/** Sentences of the refusal; empty where there is none. */
export function problemsOf(given: Given): readonly string[] {
  try {
    load(given);
  } catch (error) {
    expect(error).toBeInstanceOf(KvtierError);
    expect((error as KvtierError).code).toBe('CONFIG_INVALID');
    return (error as KvtierError).message
      .split('\n')
      .slice(1)
      .map((line) => line.replace(/^ {2}- /, ''));
  }
  return [];
}

/** The one problem; fails where there are none or several. */
export function problemOf(given: Given): string {
  const problems = problemsOf(given);
  expect(problems).toHaveLength(1);
  return problems[0] ?? '';
}
