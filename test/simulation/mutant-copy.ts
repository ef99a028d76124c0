/** A copy of the sources with a bug in it, and the hunt of the simulation for that bug. */
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { Mutant } from './mutant.ts';

export const root = resolve(import.meta.dirname, '../..');
const copied = ['src', 'node-agent', 'migrations', 'test/support', 'test/simulation', 'package.json', 'tsconfig.json'];

export interface Hunted {
  readonly found: boolean;
  readonly steps: number;
  readonly seed: number;
  readonly what: string;
}

/** Why a mutant does not fit the sources of today; undefined where it does. */
export function misfit(mutant: Mutant): string | undefined {
  for (const { file, find, replace } of mutant.edits) {
    const count = readFileSync(join(root, file), 'utf8').split(find).length - 1;
    if (count !== 1) return `${mutant.name}: ${file} has ${count} times ${JSON.stringify(find)}, wanted 1`;
    if (find === replace) return `${mutant.name}: an edit of ${file} changes nothing`;
  }
  return undefined;
}

/** Runs the simulation on the sources with the bug until it is found, or `limitSteps` are done, or `timeoutMs` are over. */
export async function hunt(
  mutant: Mutant,
  limits: { readonly steps: number; readonly timeoutMs: number; readonly seed?: number },
): Promise<Hunted> {
  const folder = mkdtempSync(join(tmpdir(), 'kvtier-mutant-'));
  try {
    for (const path of copied) cpSync(join(root, path), join(folder, path), { recursive: true });
    symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
    for (const { file, find, replace } of mutant.edits) {
      const path = join(folder, file);
      writeFileSync(
        path,
        readFileSync(path, 'utf8').replace(find, () => replace),
      );
    }
    const command = [
      process.execPath,
      join(folder, 'test/simulation/hunt.ts'),
      mutant.profile,
      String(limits.steps),
      String(limits.seed ?? 1),
    ];
    const child = Bun.spawn(command, { cwd: folder, stdin: 'ignore', stdout: 'pipe', stderr: 'pipe' });
    const timer = setTimeout(() => child.kill('SIGKILL'), limits.timeoutMs);
    const [output, errors, code] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text(), child.exited]);
    clearTimeout(timer);
    const line = output.trim().split('\n').at(-1) ?? '';
    if (code !== 0 || !line.startsWith('{'))
      return { found: false, steps: 0, seed: 0, what: `the hunt ended with ${code}: ${errors.trim().slice(0, 1000)}` };
    return JSON.parse(line) as Hunted;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
