/** `bun run check:gpu` where there is nothing to check, and where not everything holds; that it passes is a stage of the full run. */
import { join } from 'node:path';
import { expect, test } from 'vitest';

const program = join(import.meta.dirname, '../../bench/check-gpu.ts');

async function run(args: readonly string[], environment: Readonly<Record<string, string>> = {}): Promise<[number, string[]]> {
  const child = Bun.spawn([process.execPath, program, ...args], {
    env: { ...process.env, ...environment },
    stdout: 'pipe',
    stderr: 'inherit',
  });
  const output = await new Response(child.stdout).text();
  return [await child.exited, output.trim().split('\n')];
}

test('check:gpu without a driver says so in one line, and exits with 77', async () => {
  expect(await run(['--driver', 'libcuda-that-is-not.so.1'])).toEqual([
    77,
    ['check:gpu is skipped: No CUDA driver: libcuda-that-is-not.so.1 cannot be loaded'],
  ]);
});

test('check:gpu exits with 1 where something does not hold, says what, and that it was emulated', async () => {
  // A context takes more than the card has.
  const [code, lines] = await run(['--driver', 'emulated', '--smoke'], { KVTIER_CUDA_EMULATOR_OPTIONS: 'context=1G' });
  expect(code).toBe(1);
  expect(lines.filter((line) => !line.includes('emulated'))).toEqual([]);
  expect(lines.find((line) => line.includes('the first device opens'))).toMatch(/^emulated: failed: .*CUDA_ERROR_OUT_OF_MEMORY/);
  expect(lines.at(-1)).toMatch(/^emulated: \d+ checks passed, [1-9]\d* failed/);
});
