/**
 * A long-lived program of the engine lanes. Its processes are a group of their own, so that what it started ends with it; its output goes to a file.
 */
import { spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';

export interface EngineProcess {
  readonly pid: number;
  /** Everything printed so far. */
  log(): string;
  /** True as long as the process itself lives. */
  alive(): boolean;
  /** Signals the process; a group that is still there after `patienceMs` is killed. Resolves when the process is gone. */
  stop(patienceMs?: number): Promise<void>;
  /** SIGKILL to the whole group. */
  kill9(): Promise<void>;
}

export interface EngineCommand {
  readonly argv: readonly [string, ...string[]];
  readonly variables: Readonly<Record<string, string>>;
  readonly logPath: string;
}

const STOP_PATIENCE_MS = 20_000;

export function startEngineProcess({ argv, variables, logPath }: EngineCommand): EngineProcess {
  const [program, ...args] = argv;
  const out = openSync(logPath, 'a');
  const child = spawn(program, args, { env: { ...process.env, ...variables }, stdio: ['ignore', out, out], detached: true });
  closeSync(out);
  let ended = false;
  const exited = new Promise<void>((resolve) => {
    child.once('exit', () => {
      ended = true;
      resolve();
    });
    child.once('error', () => {
      ended = true;
      resolve();
    });
  });
  const pid = child.pid ?? 0;
  const signalGroup = (): void => {
    if (pid === 0) return;
    try {
      process.kill(-pid, 'SIGKILL');
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error;
    }
  };
  return {
    pid,
    log: () => readFileSync(logPath, 'utf8'),
    alive: () => !ended,
    async stop(patienceMs = STOP_PATIENCE_MS) {
      if (!ended) child.kill('SIGTERM');
      await Promise.race([exited, new Promise((resolve) => setTimeout(resolve, patienceMs).unref())]);
      signalGroup();
      await exited;
    },
    async kill9() {
      signalGroup();
      await exited;
    },
  };
}

/** Asks `probe` until it answers other than undefined; throws after `patienceMs`, naming what was waited for. */
export async function eventually<T>(what: string, patienceMs: number, probe: () => T | undefined | Promise<T | undefined>): Promise<T> {
  const end = performance.now() + patienceMs;
  for (;;) {
    const value = await probe();
    if (value !== undefined) return value;
    if (performance.now() > end) throw new Error(`Cannot see ${what}: waited ${patienceMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** True where a GET is answered with a status of success; false also where nobody listens. */
export async function answersGet(url: string): Promise<boolean> {
  try {
    const answer = await fetch(url, { signal: AbortSignal.timeout(2_000) });
    await answer.body?.cancel();
    return answer.ok;
  } catch {
    return false; // Nobody listens yet: the caller asks again.
  }
}
