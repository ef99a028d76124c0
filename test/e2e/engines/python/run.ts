/**
 * The tests of the Python package with a real agent: `python3 -m unittest` in engines/python. KVTIER_PYTHON names another interpreter; tests that
 * need torch or vLLM run with one that has them, and say so where it has not.
 *
 *   bun test/e2e/engines/python/run.ts [MODULE ...]
 *
 * Prints each test and last `N passed, N failed`; exit code 1 on a failure.
 */
import { join } from 'node:path';

const root = join(import.meta.dir, '../../../..');
const python = process.env['KVTIER_PYTHON'] ?? 'python3';
const wanted = process.argv.slice(2).map((name) => `tests.${name}`);
const agent = [process.execPath, join(root, 'node-agent/bootstrap.mjs')];

const child = Bun.spawn(
  [python, '-m', 'unittest', ...(wanted.length === 0 ? ['discover', '-v', '-s', 'tests', '-t', '.'] : ['-v', ...wanted])],
  {
    cwd: join(root, 'engines/python'),
    env: { ...process.env, KVTIER_AGENT: JSON.stringify(agent), PYTHONDONTWRITEBYTECODE: '1' },
    stdout: 'inherit',
    stderr: 'pipe',
  },
);
let output = '';
const decoder = new TextDecoder();
for await (const bytes of child.stderr) {
  const text = decoder.decode(bytes, { stream: true });
  process.stdout.write(text);
  output += text;
}
const code = await child.exited;

const number = (pattern: RegExp): number => Number(pattern.exec(output)?.[1] ?? 0);
const ran = number(/^Ran (\d+) tests? in/m);
const skipped = number(/skipped=(\d+)/);
const broken = number(/failures=(\d+)/) + number(/errors=(\d+)/);
// An interpreter that ends in the middle has counted nothing.
const failed = code === 0 ? broken : Math.max(1, broken);
if (skipped > 0) console.log(`${skipped} skipped`);
console.log(`${Math.max(0, ran - skipped - broken)} passed, ${failed} failed`);
process.exitCode = failed === 0 && ran > skipped ? 0 : 1;
