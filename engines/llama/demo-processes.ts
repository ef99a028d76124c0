/** The two processes of the demo: an agent in a folder of its own, and an engine that is asked by lines. */
import { existsSync, mkdirSync, readFileSync, rmSync, statfsSync } from 'node:fs';
import { join } from 'node:path';
import { KvtierClient } from '#client/kvtier-client.ts';
import { KvtierError } from '#core/errors.ts';
import type { Answer, Failure, Question, Ready } from './ask.ts';

const START_PATIENCE_MS = 30_000;
const WANTED_RAM_BYTES = 512 * 1024 * 1024;
const root = join(import.meta.dir, '../..');

export class DemoAgent {
  readonly dataDir: string;
  /** Arenas of this agent alone, so that removing the folder removes them; and its socket, whose path must be short. */
  readonly #shmDir: string;
  #process: Bun.Subprocess | undefined;
  #port = 0;
  /** Chosen once: what a killed agent leaves for the next one takes room itself. */
  #ramBytes = 0;
  #starts = 0;
  client = new KvtierClient({ baseUrl: 'http://127.0.0.1' });

  constructor(folder: string, shmDir: string) {
    this.dataDir = join(folder, 'agent');
    this.#shmDir = shmDir;
  }

  get url(): string {
    return this.client.baseUrl;
  }

  /** With the same HTTP port each time. `keepRam` false: RAM is lost with the process, as in a reboot. */
  async start(keepRam: boolean): Promise<void> {
    mkdirSync(this.#shmDir, { recursive: true, mode: 0o700 });
    if (this.#ramBytes === 0) {
      const { bavail, bsize } = statfsSync(this.#shmDir);
      this.#ramBytes = Math.min(WANTED_RAM_BYTES, Math.floor((bavail * bsize) / 2));
    }
    const agentFile = join(this.dataDir, 'agent.json');
    rmSync(agentFile, { force: true });
    const flags = ['--data-dir', this.dataDir, '--http', `127.0.0.1:${this.#port}`, '--resp', 'off', '--lm', 'off'];
    flags.push(
      '--ram',
      String(this.#ramBytes),
      '--shm-dir',
      this.#shmDir,
      '--socket',
      join(this.#shmDir, 'agent.sock'),
      '--ssd',
      '2GiB',
      '--ram-keep',
      keepRam ? 'on' : 'off',
    );
    this.#starts += 1;
    const log = Bun.file(`${this.dataDir}-${this.#starts}.log`);
    const child = Bun.spawn([process.execPath, join(root, 'node-agent/main.ts'), 'serve', ...flags], {
      cwd: root,
      env: childEnvironment(),
      stdin: 'ignore',
      stdout: log,
      stderr: log,
    });
    this.#process = child;
    await until('the agent', () => {
      if (child.exitCode !== null)
        throw new KvtierError('INTERNAL', `The agent ended with ${child.exitCode}:\n${readFileSync(log.name ?? '', 'utf8')}`);
      return existsSync(agentFile);
    });
    const { doors } = JSON.parse(readFileSync(agentFile, 'utf8')) as { readonly doors: { readonly http: { readonly port: number } } };
    this.#port = doors.http.port;
    this.client = new KvtierClient({ baseUrl: `http://127.0.0.1:${this.#port}` });
  }

  /** Resolves when a crash would lose nothing. */
  async clean(): Promise<void> {
    await until('everything on SSD', async () => (await this.client.stats()).tiers.every((tier) => tier.dirtyBytes === 0));
  }

  /** Hits since its start, by tier. */
  async hits(): Promise<Readonly<Record<'ram' | 'ssd', number>>> {
    return (await this.client.stats()).hits;
  }

  async end(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    this.#process?.kill(signal);
    await this.#process?.exited;
    this.#process = undefined;
  }

  /** Ends it, and removes what it has in memory. */
  async remove(): Promise<void> {
    await this.end('SIGKILL');
    rmSync(this.#shmDir, { recursive: true, force: true });
  }
}

export interface DemoEngineOptions {
  readonly modelPath: string;
  readonly dataDir: string;
  readonly contextTokens: number;
  readonly threads: number;
}

export class DemoEngine {
  readonly #process: Bun.Subprocess<'pipe', 'pipe', 'inherit'>;
  readonly #lines: AsyncGenerator<string>;
  #ready: Ready | undefined;

  static async start(options: DemoEngineOptions): Promise<DemoEngine> {
    const engine = new DemoEngine(options);
    engine.#ready = (await engine.#line()) as Ready;
    return engine;
  }

  constructor({ modelPath, dataDir, contextTokens, threads }: DemoEngineOptions) {
    const flags = ['--model', modelPath, '--data-dir', dataDir, '--context', String(contextTokens), '--threads', String(threads)];
    this.#process = Bun.spawn([process.execPath, join(import.meta.dir, 'main.ts'), ...flags], {
      cwd: root,
      env: childEnvironment(),
      stdin: 'pipe',
      stdout: 'pipe',
      stderr: 'inherit',
    });
    this.#lines = linesOf(this.#process.stdout);
  }

  get ready(): Ready {
    if (this.#ready === undefined) throw new KvtierError('INTERNAL', 'The engine is not ready');
    return this.#ready;
  }

  async ask(question: Question): Promise<Answer> {
    void this.#process.stdin.write(`${JSON.stringify(question)}\n`);
    void this.#process.stdin.flush();
    const answer = (await this.#line()) as Answer | Failure;
    if ('error' in answer) throw new KvtierError('BAD_REQUEST', answer.error);
    return answer;
  }

  async end(): Promise<void> {
    this.#process.kill('SIGKILL');
    await this.#process.exited;
  }

  async #line(): Promise<unknown> {
    const line = await this.#lines.next();
    // What it had to say is on standard error.
    if (line.done === true) throw new KvtierError('INTERNAL', `The engine ended with ${await this.#process.exited}`);
    return JSON.parse(line.value);
  }
}

/** Without the settings of an agent that this machine may have. */
function childEnvironment(): Record<string, string | undefined> {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('KVTIER_')));
}

async function* linesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  let text = '';
  const decoder = new TextDecoder();
  for await (const bytes of stream) {
    text += decoder.decode(bytes, { stream: true });
    for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
      yield text.slice(0, end);
      text = text.slice(end + 1);
    }
  }
}

async function until(what: string, probe: () => boolean | Promise<boolean>): Promise<void> {
  const endMs = performance.now() + START_PATIENCE_MS;
  while (!(await probe())) {
    if (performance.now() > endMs) throw new KvtierError('INTERNAL', `Cannot see ${what}: waited ${START_PATIENCE_MS} ms`);
    await Bun.sleep(20);
  }
}
