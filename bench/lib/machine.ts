import { readFileSync } from 'node:fs';
import { arch, availableParallelism, cpus, release, totalmem } from 'node:os';
import { formatBytes } from '#core/bytes.ts';

/** What the numbers were measured on, in a line: `AMD EPYC, 2 cores, 15.6 GiB, linux 6.8 x64`. */
export function describeMachine(): string {
  const model = cpus()[0]?.model.replace(/\s+/g, ' ').trim() ?? 'unknown processor';
  return `${model}, ${availableParallelism()} cores, ${formatBytes(totalmem())}, ${process.platform} ${release()} ${arch()}`;
}

/** Load average of the last minute, or undefined where the host does not tell: numbers from a busy machine say so. */
export function loadAverage(): number | undefined {
  try {
    return Number(readFileSync('/proc/loadavg', 'utf8').split(' ')[0]);
  } catch {
    // Not Linux: the report goes without it.
    return undefined;
  }
}

/** Commit of the checkout, with `+` where the working tree differs; 'unknown' outside a checkout. */
export function describeCommit(): string {
  const commit = git(['rev-parse', '--short=12', 'HEAD']);
  if (commit === undefined) return 'unknown';
  return git(['status', '--porcelain', '--untracked-files=no']) === '' ? commit : `${commit}+`;
}

function git(args: readonly string[]): string | undefined {
  try {
    const result = Bun.spawnSync(['git', ...args], { cwd: import.meta.dir, stdout: 'pipe', stderr: 'ignore' });
    return result.success ? result.stdout.toString().trim() : undefined;
  } catch {
    // No git on this machine.
    return undefined;
  }
}
