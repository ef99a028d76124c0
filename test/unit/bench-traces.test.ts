import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';

const folder = mkdtempSync(join(tmpdir(), 'kvtier-traces-'));
const root = new URL('../..', import.meta.url).pathname;
afterAll(() => rmSync(folder, { recursive: true }));

async function bench(args: readonly string[]): Promise<{ readonly exitCode: number; readonly output: string; readonly errors: string }> {
  const child = Bun.spawn([process.execPath, 'bench/traces.ts', ...args], { cwd: root, stdout: 'pipe', stderr: 'pipe' });
  const [output, errors] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  return { exitCode: await child.exited, output, errors };
}

function file(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

const line = (ids: readonly number[]): string =>
  JSON.stringify({ timestamp: 1, input_length: ids.length * 512, output_length: 1, hash_ids: ids });

test('bench:traces prints policies, the goal and admission of a file, and every case of the JSON has a ratio', async () => {
  const trace = file('own.jsonl', [line([1, 2, 3]), line([1, 2, 4]), line([]), '', line([1, 2, 3])].join('\n'));
  const json = join(folder, 'report.json');
  const { exitCode, output, errors } = await bench(['--smoke', '--json', json, trace]);
  expect([exitCode, errors]).toEqual([0, '']);
  for (const word of ['own.jsonl: 4 requests, 9 blocks, 4 unique', 'adaptive (default)', 'leaf LRU', 'S3-FIFO', 'GDSF-leaf', 'goal met'])
    expect(output).toContain(word);
  for (const mode of ['idle', 'demote', 'through', 'second-use', 'off'])
    expect(output).toMatch(new RegExp(`^${mode} .*blocks written`, 'm'));
  const report = JSON.parse(readFileSync(json, 'utf8')) as { cases: { case: string; ratio: number }[] };
  expect(report.cases).toHaveLength(11);
  for (const row of report.cases) expect(Number.isFinite(row.ratio), row.case).toBe(true);
});

test.each([
  ['text that is not JSON', '{"timestamp": 1', 'line 2: not JSON'],
  ['an array', '[]', 'line 2: an object is wanted'],
  ['null', 'null', 'line 2: an object is wanted'],
  ['no timestamp', '{"hash_ids":[1]}', 'line 2: timestamp is no number'],
  ['a negative length', '{"timestamp":1,"input_length":-1,"hash_ids":[1]}', 'line 2: input_length is no number'],
  ['no blocks', '{"timestamp":1}', 'line 2: hash_ids is no array'],
  ['a block id that is none', '{"timestamp":1,"hash_ids":[1,"2"]}', 'line 2: hash_ids[1] is no whole number'],
  ['a block id beyond 2^53', '{"timestamp":1,"hash_ids":[1e300]}', 'line 2: hash_ids[0] is no whole number'],
  ['more blocks than are taken', `{"timestamp":1,"hash_ids":[${'1,'.repeat(2 ** 20)}1]}`, 'line 2: hash_ids has 1048577 blocks'],
  ['a line longer than is read', 'x'.repeat(17 * 1024 * 1024), 'line 2: the line is longer than'],
])('bench:traces refuses %s with the line in the message', async (_name, bad, message) => {
  const { exitCode, errors } = await bench(['--smoke', file('bad.jsonl', `${line([1])}\n${bad}\n`)]);
  expect(exitCode).toBe(65);
  expect(errors).toContain(message);
});

test('bench:traces refuses an empty file, one that is not there, and a flag it does not know', async () => {
  expect((await bench([file('empty.jsonl', '\n')])).errors).toContain('it has no request');
  expect((await bench([join(folder, 'absent.jsonl')])).errors).toContain('there is no such file');
  const { exitCode, errors } = await bench(['--fast']);
  expect(exitCode).toBe(64);
  expect(errors).toContain('usage is bun run bench:traces');
});
