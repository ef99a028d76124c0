/** Runs `kvtier` as a process of its own, as a person or a script does. */
import { spawn } from 'node:child_process';
import { join } from 'node:path';

export interface CliResult {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface CliStart {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
}

const root = new URL('../..', import.meta.url).pathname;
const PATIENCE_MS = 30_000;

/** The environment without settings of kvtier, so that a test says all that a process is told. */
export function cleanEnvironment(extra: Readonly<Record<string, string>> = {}): Record<string, string> {
  const kept = Object.entries(process.env).filter(
    (entry): entry is [string, string] => entry[1] !== undefined && !entry[0].startsWith('KVTIER_'),
  );
  return { ...Object.fromEntries(kept), ...extra };
}

export async function runCli(args: readonly string[], options: CliStart = {}): Promise<CliResult> {
  const child = spawn(process.execPath, [join(root, 'node-agent/main.ts'), ...args], {
    cwd: options.cwd ?? root,
    env: cleanEnvironment(options.env),
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (data: Buffer) => void (stdout += data.toString()));
  child.stderr.on('data', (data: Buffer) => void (stderr += data.toString()));
  const timer = setTimeout(() => child.kill('SIGKILL'), PATIENCE_MS);
  const code = await new Promise<number | null>((resolve) => void child.on('close', resolve));
  clearTimeout(timer);
  return { code, stdout, stderr };
}
