/** What tests of bad days share: agents that end at once, file systems of a given size, other processes at the catalog. */
import { spawn, spawnSync } from 'node:child_process';
import { appendFileSync, mkdirSync, mkdtempSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startAgent, type AgentStart, type RunningAgent } from './agent.ts';
import { readValue, makeValue } from './kill-values.ts';
import { ValueClient } from './value-client.ts';

const root = new URL('../..', import.meta.url).pathname;
const MiB = 1024 * 1024;
const PATIENCE_MS = 30_000;

/** Undoes what a test did to the machine, in reverse order; call from afterEach. */
export class Cleanup {
  readonly #steps: (() => unknown)[] = [];

  add(step: () => unknown): void {
    this.#steps.push(step);
  }

  async run(): Promise<void> {
    for (const step of this.#steps.splice(0).reverse()) await step();
  }

  folder(): string {
    const path = mkdtempSync(join(tmpdir(), 'kvtier-bad-'));
    this.add(() => rmSync(path, { recursive: true, force: true }));
    return path;
  }

  /** Killed at the end if it still runs. */
  async agent(options: AgentStart): Promise<RunningAgent> {
    const agent = await startAgent(options);
    this.add(async () => {
      if (agent.process.exitCode === null && agent.process.signalCode === null) await agent.kill9();
    });
    return agent;
  }

  /** A file system of its own in memory. Only where `canMount`. */
  mount(sizeBytes: number, options: { readonly readOnly?: boolean } = {}): string {
    const path = this.folder();
    const flags = `size=${sizeBytes}${options.readOnly === true ? ',ro' : ''}`;
    const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', flags, 'kvtier-test', path]);
    if (mounted.status !== 0) throw new Error(`Cannot mount a tmpfs: ${mounted.stderr.toString()}`);
    this.add(() => spawnSync('umount', ['-l', path]));
    return path;
  }
}

/** Mounting needs root and a container that allows it. Tests that need it are skipped elsewhere. */
export const canMount: boolean = ((): boolean => {
  const path = mkdtempSync(join(tmpdir(), 'kvtier-mount-'));
  try {
    if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'kvtier-test', path]).status !== 0) return false;
    return spawnSync('umount', [path]).status === 0;
  } finally {
    rmSync(path, { recursive: true, force: true });
  }
})();

/** Starts an agent that is expected to end by itself. */
export async function runToEnd(
  flags: readonly string[],
): Promise<{ readonly code: number | null; readonly output: string; readonly elapsedMs: number }> {
  const startedAt = performance.now();
  const child = spawn(process.execPath, [join(root, 'node-agent/main.ts'), 'serve', ...flags], { stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  child.stdout.on('data', (data: Buffer) => void (output += data.toString()));
  child.stderr.on('data', (data: Buffer) => void (output += data.toString()));
  const timer = setTimeout(() => child.kill('SIGKILL'), PATIENCE_MS);
  const code = await new Promise<number | null>((resolve) => void child.on('close', resolve));
  clearTimeout(timer);
  return { code, output, elapsedMs: performance.now() - startedAt };
}

/** Asks until there is an answer. */
export async function until<Value>(what: string, ask: () => Promise<Value | undefined | false>): Promise<Value> {
  const giveUpMs = Date.now() + PATIENCE_MS;
  for (;;) {
    const answer = await ask();
    if (answer !== undefined && answer !== false) return answer;
    if (Date.now() > giveUpMs) throw new Error(`Waited ${PATIENCE_MS / 1000} s in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Until nothing is only in RAM. */
export function untilClean(agent: RunningAgent): Promise<unknown> {
  return until('dirtyBytes 0', async () => {
    const { tiers } = await agent.client.stats();
    return tiers.every((tier) => tier.dirtyBytes === 0) && tiers;
  });
}

/** A client whose values follow from their keys. */
export class CheckedClient {
  readonly client: ValueClient;

  constructor(client: ValueClient) {
    this.client = client;
  }

  static async connect(agent: RunningAgent): Promise<CheckedClient> {
    return new CheckedClient(await ValueClient.connect(agent.resp));
  }

  /** Stores keys `from` to `to - 1`, each once. */
  async store(from: number, to: number, sizeBytes: number): Promise<void> {
    for (let key = from; key < to; key += 1) await this.client.command('SET', `bad:${key}`, makeValue(key, 1, sizeBytes));
  }

  /** The keys that were found, in order. Throws where one has other bytes than were stored. */
  async found(from: number, to: number): Promise<number[]> {
    const keys: number[] = [];
    for (let key = from; key < to; key += 1) {
      const bytes = await this.client.get(`bad:${key}`);
      if (bytes === undefined) continue;
      const version = readValue(key, bytes);
      if (version !== 1) throw new Error(`Key ${key}: the value ${version}`);
      keys.push(key);
    }
    return keys;
  }

  close(): void {
    this.client.close();
  }
}

export function range(from: number, to: number): number[] {
  return Array.from({ length: to - from }, (_, index) => from + index);
}

/** Takes all free space of a file system but `leftBytes`; the path of the file that does. */
export function fillDisk(folder: string, leftBytes = 0): string {
  const path = join(folder, 'filler');
  // Somebody else may take some of it meanwhile.
  for (let filled = false; !filled;) {
    const { bavail, bsize } = statfsSync(folder);
    filled = spawnSync('fallocate', ['-l', String(bavail * bsize - Math.max(leftBytes, MiB)), path]).status === 0;
  }
  try {
    while (leftBytes === 0) appendFileSync(path, new Uint8Array(4096));
  } catch (problem) {
    if ((problem as { code?: string }).code !== 'ENOSPC') throw problem;
  }
  return path;
}

/** Runs SQL in another process on the catalog and holds the transaction until it is released. */
export async function holdCatalog(path: string, sql: string): Promise<{ release(): Promise<void> }> {
  const script = `import Database from 'better-sqlite3'; const db = new Database(${JSON.stringify(path)});
for (const line of ${JSON.stringify(sql.split(';'))}) { const s = line.trim(); if (s === '') continue; if (/^select/i.test(s)) db.prepare(s).all(); else db.exec(s); }
console.log('held'); process.stdin.on('data', () => { db.close(); process.exit(0); }); process.stdin.resume();`;
  const file = join(root, 'node_modules', '.cache', `kvtier-hold-${process.pid}-${performance.now()}.mjs`);
  mkdirSync(join(root, 'node_modules', '.cache'), { recursive: true });
  writeFileSync(file, script);
  const child = spawn(process.execPath, [file], { stdio: ['pipe', 'pipe', 'inherit'] });
  await new Promise<void>((resolve, reject) => {
    child.stdout.once('data', () => resolve());
    child.once('exit', (code) => reject(new Error(`The holder of the catalog ended with ${code}`)));
  });
  return {
    async release() {
      const gone = new Promise<void>((resolve) => void child.once('exit', () => resolve()));
      child.stdin.write('go\n');
      await gone;
      rmSync(file, { force: true });
    },
  };
}
