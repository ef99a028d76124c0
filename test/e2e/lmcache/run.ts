// The end-to-end lane: the real, unmodified lmcache client against our agent (or, with `--peer redis`, against
// redis-server, to see what a plain RESP server does under the same checks).
//
//   bun test/e2e/lmcache/run.ts [--peer redis] [--keep] [--skip-wire] [--skip-bench]
//
// A. `lmcache bench l2`: store, lookup, load, byte comparison, at several object sizes.
// B. `lmcache server` + `lmcache bench server` (an engine's part, no model), four times: fresh; after a restart
//    of lmcache server alone; after SIGTERM and a restart of the peer on the same data and port; after kill -9 and the
//    same. lmcache server is started anew each time, because its client never reconnects, and its L1 is gone with it:
//    what these runs read is ours.
//
// C. LMCache's lm:// connector: objects stored before B, loaded again after each restart of the peer. Not with `--peer redis`.
//
// Why a second run asks for the same chunks, and how its bytes are judged: README.md, "How bench server is seeded".
// Prints one line per check and last `N passed, N failed`; exit code 1 on a failure.
// KVTIER_E2E_AGENT replaces the start of the agent's command line (default: this bun, node-agent/main.ts).

import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { engineEnvironment } from '#testsupport/engine-environment.ts';

const here = import.meta.dir;
const root = join(here, '../../..');
const promptCount = 3;
const chunksPerPrompt = 4; // 1024 tokens in chunks of 256 (server.sh)
const { values: options } = parseArgs({
  options: {
    peer: { type: 'string', default: 'kvtier' },
    keep: { type: 'boolean', default: false },
    'skip-wire': { type: 'boolean', default: false },
    'skip-bench': { type: 'boolean', default: false },
  },
});
const work = mkdtempSync(join(tmpdir(), 'kvtier-e2e-lmcache-'));

let passed = 0;
let failed = 0;
function check(claim: string, good: boolean, detail = ''): boolean {
  if (good) passed += 1;
  else failed += 1;
  console.log(`${good ? 'ok  ' : 'FAIL'}  ${claim}${detail === '' ? '' : ` (${detail})`}`);
  return good;
}

interface Run {
  readonly code: number;
  readonly output: string;
}

/** Runs one script of this folder and returns its exit code and output; the lines that tell something are shown too. */
async function script(name: string, ...args: string[]): Promise<Run> {
  const child = Bun.spawn([join(here, name), ...args], {
    cwd: root,
    stdout: 'pipe',
    stderr: 'inherit',
  });
  let output = '';
  const decoder = new TextDecoder();
  for await (const bytes of child.stdout) output += decoder.decode(bytes, { stream: true });
  for (const line of output.trimEnd().split('\n')) {
    if (/seq|Verify|setup:|bench-l2|server\.sh|cuda_stubs|rror|Traceback/.test(line)) console.log(`    | ${line}`);
  }
  return { code: await child.exited, output };
}

async function until<T>(what: string, seconds: number, probe: () => Promise<T | undefined> | T | undefined): Promise<T> {
  const end = Date.now() + seconds * 1000;
  for (;;) {
    const value = await probe();
    if (value !== undefined) return value;
    if (Date.now() > end) throw new Error(`Cannot see ${what}: waited ${seconds} s`);
    await Bun.sleep(50);
  }
}

/** What stands on the other side of the client's sockets: our agent, or redis-server for comparison. */
interface Peer {
  readonly name: string;
  readonly host: string;
  readonly port: number;
  /** Of the lm:// door; undefined where there is none. */
  readonly lmPort?: number;
  start(): Promise<void>;
  /** Sends the signal and resolves to the exit code once the process is gone (null when a signal ended it). */
  stop(signal: 'SIGTERM' | 'SIGKILL'): Promise<number | null>;
  /** Reads served from stored data since the process started. */
  hits(): Promise<number>;
  /** Bytes acknowledged that a kill -9 would lose, over all tiers. */
  dirtyBytes(): Promise<number>;
}

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false; // ESRCH: gone. EPERM cannot be: it is our own child.
  }
}

/** Adds up every number called `name` (or every number in an object so called) in a JSON tree; undefined when there is none, so that a rename is seen. */
function total(tree: unknown, name: string, inside = false): number | undefined {
  if (inside && typeof tree === 'number') return tree;
  if (typeof tree !== 'object' || tree === null) return undefined;
  const parts = Object.entries(tree).map(([key, value]) => total(value, name, inside || key === name));
  const numbers = parts.filter((part) => part !== undefined);
  return numbers.length === 0 ? undefined : numbers.reduce((sum, part) => sum + part);
}

interface AgentFile {
  readonly pid: number;
  readonly doors: Record<'resp' | 'http' | 'lm', { readonly host: string; readonly port: number }>;
}

class KvtierPeer implements Peer {
  readonly name = 'kvtier';
  #child: Bun.Subprocess | undefined;
  #agent: AgentFile | undefined;
  readonly #dataDir = join(work, 'data');

  get host(): string {
    return this.#agent?.doors.resp.host ?? '127.0.0.1';
  }
  get port(): number {
    return this.#agent?.doors.resp.port ?? 0;
  }
  get lmPort(): number {
    return this.#agent?.doors.lm.port ?? 0;
  }

  async start(): Promise<void> {
    const before = this.#agent;
    const file = join(this.#dataDir, 'agent.json');
    const command = process.env['KVTIER_E2E_AGENT']?.split(' ') ?? [process.execPath, 'node-agent/main.ts'];
    const flags = ['--data-dir', this.#dataDir, '--http', '127.0.0.1:0', '--resp', `127.0.0.1:${this.port}`];
    flags.push('--lm', `127.0.0.1:${this.lmPort}`);
    this.#child = Bun.spawn([...command, 'serve', ...flags, '--ram', '2GiB', '--ssd', '4GiB'], {
      cwd: root,
      stdout: Bun.file(join(work, `agent-${Date.now()}.log`)),
      stderr: Bun.file(join(work, `agent-${Date.now()}.err`)),
    });
    this.#agent = await until(`a new ${file}`, 60, () => {
      if (this.#child?.exitCode !== null) throw new Error(`The agent ended with ${this.#child?.exitCode}; its logs are in ${work}`);
      if (!existsSync(file)) return undefined;
      try {
        const read = JSON.parse(readFileSync(file, 'utf8')) as AgentFile;
        // A killed agent leaves its file behind: only another pid is the new one.
        return read.pid !== before?.pid && read.doors.resp.port > 0 ? read : undefined;
      } catch {
        return undefined; // half written: read again
      }
    });
  }

  async stop(signal: 'SIGTERM' | 'SIGKILL'): Promise<number | null> {
    const child = this.#child!;
    const ended = (): boolean => child.exitCode !== null || child.signalCode !== null;
    // The command may be a launcher around the agent: the signal is for the agent itself.
    const pid = this.#agent === undefined || !alive(this.#agent.pid) ? child.pid : this.#agent.pid;
    if (ended() && pid === child.pid) return child.exitCode;
    process.kill(pid, signal);
    await until(`agent ${pid} gone after ${signal}`, 60, () => (ended() && (pid === child.pid || !alive(pid)) ? true : undefined));
    return child.exitCode;
  }

  async #stats(): Promise<unknown> {
    const door = this.#agent!.doors.http;
    const answer = await fetch(`http://${door.host}:${door.port}/v1/stats`);
    if (!answer.ok) throw new Error(`GET /v1/stats answered ${answer.status}, wanted 200`);
    return await answer.json();
  }

  async #counter(name: string): Promise<number> {
    const stats = await this.#stats();
    const value = total(stats, name);
    if (value === undefined) throw new Error(`GET /v1/stats has no ${name}: ${JSON.stringify(stats).slice(0, 400)}`);
    return value;
  }

  hits = (): Promise<number> => this.#counter('hits');
  dirtyBytes = (): Promise<number> => this.#counter('dirtyBytes');
}

class RedisPeer implements Peer {
  readonly name = 'redis';
  readonly host = '127.0.0.1';
  port = 0;
  #child: Bun.Subprocess | undefined;

  async start(): Promise<void> {
    if (this.port === 0) {
      const probe = Bun.listen({ hostname: this.host, port: 0, socket: { data() {} } });
      this.port = probe.port;
      probe.stop(true);
    }
    // An append-only file, so that the same persistence checks mean something.
    const flags = ['--port', `${this.port}`, '--bind', this.host, '--save', '', '--appendonly', 'yes', '--dir', work];
    this.#child = Bun.spawn(['redis-server', ...flags], {
      stdout: Bun.file(join(work, `redis-${Date.now()}.log`)),
    });
    await until("redis-server's PONG", 60, async () => {
      if (this.#child?.exitCode !== null) throw new Error(`redis-server ended with ${this.#child?.exitCode}`);
      return (await this.#cli('PING')).startsWith('PONG') ? true : undefined;
    });
  }

  async stop(signal: 'SIGTERM' | 'SIGKILL'): Promise<number | null> {
    this.#child!.kill(signal);
    const code = await this.#child!.exited;
    return this.#child!.signalCode ? null : code;
  }

  async #cli(...args: string[]): Promise<string> {
    const child = Bun.spawn(['redis-cli', '-h', this.host, '-p', `${this.port}`, ...args], {
      stdout: 'pipe',
      stderr: 'ignore',
    });
    return await new Response(child.stdout).text();
  }

  async hits(): Promise<number> {
    return Number(/keyspace_hits:(\d+)/.exec(await this.#cli('INFO', 'stats'))?.[1] ?? 'NaN');
  }

  dirtyBytes = (): Promise<number> => Promise.resolve(0); // appended before the reply; kill -9 keeps the page cache
}

interface Prompt {
  coldHits?: number;
  warmHits?: number;
  coldChecksum?: string;
  warmChecksum?: string;
}

/** The facts of one `lmcache bench server` run, by prompt. */
function readBench(output: string): {
  prompts: Prompt[];
  matches: number;
  mismatches: number;
  troubles: string[];
} {
  const prompts: Prompt[] = Array.from({ length: promptCount }, () => ({}));
  for (const line of output.split('\n')) {
    const lookup = /\[seq (\d+)\/(cold|warm)\] LOOKUP: (\d+)\//.exec(line);
    const sum = /\[seq (\d+)\/(cold|warm)\] CHECKSUM: (\w+) \((\d+) chunks\)/.exec(line);
    const prompt = prompts[Number((lookup ?? sum)?.[1] ?? -1)];
    if (lookup && prompt) prompt[lookup[2] === 'cold' ? 'coldHits' : 'warmHits'] = Number(lookup[3]);
    if (sum && prompt) prompt[sum[2] === 'cold' ? 'coldChecksum' : 'warmChecksum'] = `${sum[3]}/${sum[4]}`;
  }
  return {
    prompts,
    matches: output.split('CHECKSUM MATCH OK').length - 1,
    mismatches: output.split('MISMATCH').length - 1,
    troubles: output.split('\n').filter((line) => /timeout|_failed|Traceback|ERROR/.test(line)),
  };
}

const dirOf = (stack: string): string => join(work, `lmcache-${stack}`);

/** Where lmcache server found the chunks of each lookup so far, one line of its log per lookup that found any. */
function lookupLines(stack: string): string[] {
  const log = readFileSync(join(dirOf(stack), 'server.log'), 'utf8');
  return log.split('\n').filter((line) => line.includes('Prefetch request completed'));
}

/**
 * Waits until lmcache server has no L2 store left to do: it answers the engine's store before that. Two looks in a
 * row, as a key is for a moment neither pending nor in flight. Whether the stores went well is shown by reading.
 * (An empty L1 would say more, but skip_l1 forgets to drop an object that was being read when its L2 store ended.)
 */
async function l2StoresDone(stack: string): Promise<boolean> {
  const port = readFileSync(join(dirOf(stack), 'http-port'), 'utf8').trim();
  let quiet = 0;
  const probe = async (): Promise<true | undefined> => {
    const status = (await (await fetch(`http://127.0.0.1:${port}/status`)).json()) as {
      storage_manager: { store_controllers: unknown };
    };
    const controllers = status.storage_manager.store_controllers;
    const left = (total(controllers, 'pending_keys_count') ?? NaN) + (total(controllers, 'in_flight_task_count') ?? NaN);
    quiet = left === 0 ? quiet + 1 : 0;
    return quiet >= 2 ? true : undefined;
  };
  return await until('the end of all L2 stores', 120, probe).catch(() => false);
}

async function startStack(peer: Peer, stack: string): Promise<void> {
  const started = await script('server.sh', 'start', dirOf(stack), peer.host, `${peer.port}`);
  if (!check(`lmcache server starts (${stack})`, started.code === 0)) throw new Error('no lmcache server to go on with');
}

async function runBench(when: string, stack: string): Promise<ReturnType<typeof readBench>> {
  const run = await script('server.sh', 'bench', dirOf(stack), `${promptCount}`, '0.2');
  const bench = readBench(run.output);
  check(
    `${when}: bench server ends well, without time-outs or failed transfers`,
    run.code === 0 && bench.troubles.length === 0,
    bench.troubles.join('; '),
  );
  check(`${when}: no checksum mismatch`, bench.mismatches === 0);
  const warm = bench.prompts.every((p) => p.warmHits === chunksPerPrompt);
  check(`${when}: every second lookup of a prompt hits all ${chunksPerPrompt} chunks`, warm, warm ? '' : JSON.stringify(bench.prompts));
  return bench;
}

/** The first run: nothing is there, everything is stored. Returns the checksums of what was stored, by prompt. */
async function storingRun(stack: string): Promise<string[]> {
  const when = 'B fresh';
  const bench = await runBench(when, stack);
  const cold = bench.prompts.every((p) => p.coldHits === 0);
  check(`${when}: the first lookup of a prompt finds nothing`, cold, cold ? '' : JSON.stringify(bench.prompts));
  check(
    `${when}: all ${promptCount} prompts come back with the bytes stored`,
    bench.matches === promptCount,
    `${bench.matches} of ${promptCount}`,
  );
  check(`${when}: lmcache has no L2 store left to do`, await l2StoresDone(stack));
  return bench.prompts.map((p) => p.coldChecksum ?? '');
}

/** Every later run: everything is there, and it is ours. */
async function readingRun(peer: Peer, when: string, stack: string, expected: readonly string[]): Promise<void> {
  const [hitsBefore, seen] = [await peer.hits(), lookupLines(stack).length];
  const bench = await runBench(when, stack);
  const shown = JSON.stringify(bench.prompts);
  const cold = bench.prompts.every((p) => p.coldHits === chunksPerPrompt);
  check(`${when}: the first lookup of a prompt hits all ${chunksPerPrompt} chunks`, cold, cold ? '' : shown);
  // The tensors are zeroed before the second read of a prompt, so these digests are of what we served.
  const same = bench.prompts.every((p, i) => p.warmChecksum !== undefined && p.warmChecksum === expected[i]);
  check(`${when}: all ${promptCount} prompts come back with the bytes that the first run stored`, same, same ? '' : shown);
  const lookups = lookupLines(stack).slice(seen);
  const whole = `${chunksPerPrompt}/${chunksPerPrompt} retained keys (0 L1, ${chunksPerPrompt} L2)`;
  const ours = lookups.filter((line) => line.includes(whole)).length;
  check(
    `${when}: lmcache found every chunk in L2, none in L1`,
    ours === promptCount * 2 && lookups.length === ours,
    `${ours} of ${promptCount * 2} lookups`,
  );
  const hits = (await peer.hits()) - hitsBefore;
  const wantHits = promptCount * chunksPerPrompt * 2; // redis counts EXISTS as well
  check(`${when}: ${peer.name} counts a hit for each of ${wantHits} reads`, hits >= wantHits, `${hits}`);
}

const python = engineEnvironment().program('python');

/** A Python program of this folder, with its arguments; what it printed and how it ended. */
async function pythonProgram(name: string, ...args: string[]): Promise<Run> {
  const child = Bun.spawn([python, join(here, name), ...args], { stdout: 'pipe', stderr: 'ignore' });
  const output = await new Response(child.stdout).text();
  return { code: await child.exited, output };
}

/** C: objects of every format through LMCache's lm:// connector, in a process of its own each time. */
async function lmObjects(peer: Peer, mode: 'store' | 'load', when: string): Promise<void> {
  if (peer.lmPort === undefined) return;
  const run = await pythonProgram('lm_objects.py', mode, `${peer.lmPort}`);
  for (const line of run.output.split('\n').filter((text) => text.includes('WRONG'))) console.log(`    | ${line}`);
  const claim = mode === 'store' ? 'stores objects of every format and loads them' : 'loads them with bytes, format, dtype and shape';
  check(`C ${when}: the lm:// connector ${claim}`, run.code === 0, run.output.trimEnd().split('\n').at(-1));
}

/** The frames that the codec is tested with are those that this release writes. */
async function lmVectors(): Promise<void> {
  const run = await pythonProgram('lm_vectors.py');
  const shown = (text: string): string => JSON.stringify({ ...(JSON.parse(text) as object), lmcache: '' });
  const same = run.code === 0 && shown(run.output) === shown(readFileSync(join(root, 'test/fixtures/lm-frames.json'), 'utf8'));
  check('the client writes the lm:// frames that our codec is tested with', same);
}

async function restart(peer: Peer, how: 'SIGTERM' | 'SIGKILL'): Promise<void> {
  const dirty = await until('dirtyBytes 0', 180, async () => ((await peer.dirtyBytes()) === 0 ? 0 : undefined)).catch(() => -1);
  check(`before ${how}: ${peer.name} shows dirtyBytes 0 over all tiers`, dirty === 0);
  const { port } = peer;
  // lmcache server is still connected: its eight sockets must not hold the process up, nor the port after it.
  const code = await peer.stop(how);
  check(`${how}: ${peer.name} is gone, with its clients still connected`, how === 'SIGTERM' ? code === 0 : code !== 0, `exit code ${code}`);
  await peer.start();
  check(`${how}: ${peer.name} is back on the same data and the same port`, peer.port === port, `port ${peer.port}`);
}

async function main(): Promise<void> {
  const ready = await script('../engines/setup.sh');
  if (!check('the real lmcache client is installed', ready.code === 0)) return;
  if (!options['skip-wire']) {
    const { code, output } = await pythonProgram('wire_rules.py');
    for (const line of output.split('\n').filter((l) => l.includes('FAIL'))) console.log(`    | ${line}`);
    check('the client keeps the wire rules that our door relies on', code === 0, output.trimEnd().split('\n').at(-1));
    await lmVectors();
  }
  const peer: Peer = options.peer === 'redis' ? new RedisPeer() : new KvtierPeer();
  const stacks: string[] = [];
  try {
    await peer.start();
    check(`${peer.name} starts`, true, `port ${peer.port}`);
    if (!options['skip-bench']) {
      const bench = await script('bench-l2.sh', peer.host, `${peer.port}`);
      check('A: lmcache bench l2 stores, finds, loads and compares every object', bench.code === 0, `exit code ${bench.code}`);
    }
    await lmObjects(peer, 'store', 'fresh');
    stacks.push('fresh');
    await startStack(peer, 'fresh');
    const stored = await storingRun('fresh');
    await script('server.sh', 'stop', dirOf('fresh'));
    stacks.push('again');
    await startStack(peer, 'again');
    await readingRun(peer, 'B after a restart of lmcache server alone', 'again', stored);
    for (const how of ['SIGTERM', 'SIGKILL'] as const) {
      await restart(peer, how); // the stack before it is still up, with its sockets in our process
      await script('server.sh', 'stop', dirOf(stacks.at(-1)!));
      await lmObjects(peer, 'load', `after ${how}`);
      stacks.push(how);
      await startStack(peer, how);
      await readingRun(peer, `B after ${how}`, how, stored);
    }
  } catch (error) {
    check('the lane runs to its end', false, error instanceof Error ? error.message : String(error));
  } finally {
    for (const stack of stacks) await script('server.sh', 'stop', dirOf(stack));
    await peer.stop('SIGKILL').catch(() => null); // it may never have started, or be gone already
  }
}

await main();
if (options.keep || failed > 0) console.log(`Logs and data are in ${work}`);
else rmSync(work, { recursive: true, force: true });
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed > 0 || passed === 0 ? 1 : 0);
