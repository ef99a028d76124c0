/** Starts the real agent as a process of its own, for tests that speak to it as clients do. */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { KvtierClient } from '#client/kvtier-client.ts';

export interface AgentStart {
  /** Kept across restarts if given; otherwise a folder of its own, removed by `stop`. */
  readonly dataDir?: string;
  /** Further flags, such as `['--ram', '64MiB']`. */
  readonly flags?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** A command that runs the agent, such as `['prlimit', '--nofile=300:300']`. */
  readonly launcher?: readonly string[];
  readonly respPort?: number;
  /** Opens the lm door on this port, 0 for a free one; without it the door is off. */
  readonly lmPort?: number;
  readonly token?: string;
  /** Another checkout whose agent is started instead, to compare the two. */
  readonly checkout?: string;
}

export interface RunningAgent {
  readonly resp: { readonly host: string; readonly port: number };
  /** Port 0 where the door is off. */
  readonly lm: { readonly host: string; readonly port: number };
  readonly http: { readonly host: string; readonly port: number };
  readonly url: string;
  /** Path of the native door; empty where it is off. */
  readonly socket: string;
  readonly dataDir: string;
  readonly pid: number;
  readonly process: ChildProcess;
  readonly client: KvtierClient;
  /** What it printed so far, both streams. */
  output(): string;
  /** SIGTERM; resolves with the exit code. Removes the data directory if it was the agent's own. */
  stop(): Promise<number | null>;
  /** SIGKILL; resolves when the process is gone. The data directory stays. */
  kill9(): Promise<void>;
  /** Resolves with the exit code. */
  readonly exited: Promise<number | null>;
}

const root = new URL('../..', import.meta.url).pathname;
const START_PATIENCE_MS = 30_000;

/** Resolves when the agent's doors are open. Small tiers unless `flags` say otherwise. */
export async function startAgent(options: AgentStart = {}): Promise<RunningAgent> {
  const own = options.dataDir === undefined;
  const dataDir = options.dataDir ?? mkdtempSync(join(tmpdir(), 'kvtier-test-'));
  const agentFile = join(dataDir, 'agent.json');
  rmSync(agentFile, { force: true });
  const sizes = options.flags?.includes('--ram') === true ? [] : ['--ram', '64MiB'];
  const ssd = options.flags?.includes('--ssd') === true || options.flags?.includes('--ssd-dir') === true ? [] : ['--ssd', '256MiB'];
  // An older checkout refuses flags that it does not know.
  const reference = readFileSync(join(options.checkout ?? root, 'docs/configuration.md'), 'utf8');
  const known = (flag: string, value: string): string[] => (reference.includes(`\`${flag} `) ? [flag, value] : []);
  const args = [
    join(options.checkout ?? root, 'node-agent/main.ts'),
    'serve',
    '--data-dir',
    dataDir,
    '--http',
    '127.0.0.1:0',
    '--resp',
    `127.0.0.1:${options.respPort ?? 0}`,
    ...known('--lm', options.lmPort === undefined ? 'off' : `127.0.0.1:${options.lmPort}`),
    ...sizes,
    ...ssd,
    // Tests of what SSD brings back would find it all in RAM; and nobody resumes a data directory that a test has removed.
    ...(options.flags?.includes('--ram-keep') === true ? [] : known('--ram-keep', 'off')),
    ...(options.token === undefined ? [] : ['--token', options.token]),
    ...(options.flags ?? []),
  ];
  const [program = '', ...words] = [...(options.launcher ?? []), process.execPath, ...args];
  const child = spawn(program, words, { env: { ...process.env, ...options.env }, stdio: ['ignore', 'pipe', 'pipe'] });
  let printed = '';
  child.stdout.on('data', (chunk: Buffer) => void (printed += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => void (printed += chunk.toString()));
  const exited = new Promise<number | null>((resolve) => void child.on('exit', (code) => resolve(code)));
  let ended = false;
  void exited.then(() => (ended = true));
  const startedAt = Date.now();
  while (!existsSync(agentFile)) {
    if (ended) throw new Error(`The agent ended before it was ready:\n${printed}`);
    if (Date.now() - startedAt > START_PATIENCE_MS) throw new Error(`The agent was not ready in ${START_PATIENCE_MS} ms:\n${printed}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  const { doors, pid } = JSON.parse(readFileSync(agentFile, 'utf8')) as {
    doors: {
      http: { host: string; port: number };
      resp: { host: string; port: number };
      lm?: { host: string; port: number };
      socket?: string;
    };
    pid: number;
  };
  const url = `http://${doors.http.host}:${doors.http.port}`;
  return {
    resp: doors.resp,
    lm: doors.lm ?? { host: '127.0.0.1', port: 0 },
    http: doors.http,
    url,
    socket: doors.socket ?? '',
    dataDir,
    pid,
    process: child,
    client: new KvtierClient({ baseUrl: url, ...(options.token === undefined ? {} : { token: options.token }) }),
    output: () => printed,
    exited,
    async stop() {
      child.kill('SIGTERM');
      const code = await exited;
      if (own) rmSync(dataDir, { recursive: true, force: true });
      return code;
    },
    async kill9() {
      child.kill('SIGKILL');
      await exited;
    },
  };
}
