/**
 * A file worker that a stuck device made superfluous leaves nothing behind. Its scratch was a mapping of its own, which outlives a thread:
 * 4 MiB stayed for each, and a device that hung now and then took all memory.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const MiB = 1024 ** 2;
const program = new URL('../support/replace-threads.ts', import.meta.url).pathname;

test('memory does not follow the number of file workers that were replaced', () => {
  const folder = mkdtempSync(join(tmpdir(), 'kvtier-threads-'));
  try {
    const run = spawnSync(process.execPath, [program, folder, '8'], { encoding: 'utf8', timeout: 110_000 });
    expect(run.status, `${run.stdout}\n${run.stderr}`).toBe(0);
    const { threads, beforeBytes, afterBytes } = JSON.parse(run.stdout) as Record<'threads' | 'beforeBytes' | 'afterBytes', number>;
    expect(threads).toBe(32);
    // 128 MiB with a mapping each; as many threads as the pool has may be in another state than before.
    expect((afterBytes - beforeBytes) / MiB).toBeLessThan(32);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}, 120_000);
