import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';

const folder = mkdtempSync(join(tmpdir(), 'kvtier-bench-'));
const root = new URL('../..', import.meta.url).pathname;
afterAll(() => rmSync(folder, { recursive: true }));

async function bench(args: readonly string[]): Promise<{ readonly exitCode: number; readonly output: string; readonly errors: string }> {
  const child = Bun.spawn([process.execPath, 'bench/index.ts', ...args], { cwd: root, stdout: 'pipe', stderr: 'pipe' });
  const [output, errors] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  return { exitCode: await child.exited, output, errors };
}

test('bench:index --smoke prints its table and writes every case to the JSON file with a finite ratio', async () => {
  const path = join(folder, 'index.json');
  const { exitCode, output, errors } = await bench(['--smoke', '--json', path, '--seed', '7']);
  expect([exitCode, errors]).toEqual([0, '']);
  const report = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown> & { cases: Record<string, unknown>[] };
  expect(report).toMatchObject({ name: 'bench:index', bun: Bun.version, seed: 7, smoke: true });
  expect(report['commit']).toMatch(/^(unknown|[0-9a-f]{12}\+?)$/);
  expect(report['machine']).toMatch(/cores/);
  expect(report.cases.length).toBeGreaterThan(10);
  for (const row of report.cases) {
    expect(Object.keys(row).toSorted()).toEqual(['case', 'ours', 'peer', 'peerName', 'ratio', 'unit']);
    expect(Number.isFinite(row['ratio'])).toBe(true);
    expect(output).toContain(String(row['case']));
  }
});

test('bench:index refuses a flag it does not know, with 64 and its usage', async () => {
  const { exitCode, errors } = await bench(['--fast']);
  expect(exitCode).toBe(64);
  expect(errors).toContain('usage is bun run bench:index');
});
