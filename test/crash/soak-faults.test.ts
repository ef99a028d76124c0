import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const root = new URL('../..', import.meta.url).pathname;

test('half a minute of the soak with faults finds nothing wrong, and its report says what was done', () => {
  const folder = mkdtempSync(join(tmpdir(), 'kvtier-soak-'));
  const report = join(folder, 'report.json');
  try {
    const flags = ['--minutes', '0.5', '--lives', '2', '--json', report];
    const run = spawnSync(process.execPath, [join(root, 'bench/soak-faults.ts'), ...flags], {
      cwd: root,
      encoding: 'utf8',
      timeout: 540_000,
    });
    // What is wrong first: whoever shows failures may show their first line only.
    const wrong = run.stdout.split('\n').filter((line) => line.startsWith('PROBLEM '));
    const ended = `status ${run.status}, signal ${run.signal}${run.error === undefined ? '' : `, ${run.error.message}`}`;
    expect(run.status, `${wrong.join('; ')} (${ended})\n${run.stdout}\n${run.stderr}`).toBe(0);
    const { kills, lives, reads, hits, faults, problems } = JSON.parse(readFileSync(report, 'utf8')) as {
      readonly kills: number;
      readonly lives: readonly unknown[];
      readonly reads: number;
      readonly hits: number;
      readonly faults: Readonly<Record<string, number>>;
      readonly problems: readonly string[];
    };
    expect([kills, lives.length, problems]).toEqual([1, 2, []]);
    expect(reads).toBeGreaterThan(50);
    expect(hits).toBeGreaterThan(0);
    expect(Object.values(faults).reduce((sum, count) => sum + count, 0)).toBeGreaterThan(5);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
