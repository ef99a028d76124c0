/**
 * `bun run demo`: the same long prompt, computed once and then loaded. Writes a model of random weights, starts an agent and an engine, and
 * asks cold, warm, after a restart of the engine, after kill -9 of the agent, and after one that loses its RAM too. Prints the time to
 * the first token and whether the logits are the same, to the bit; ends with 1 where they are not.
 *
 * Invariant: what it starts and writes is gone when it ends, also by Ctrl-C: two folders of its own, one of them in shared memory.
 */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmdirSync, rmSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { badRequest, errorTable, KvtierError } from '#core/errors.ts';
import type { Answer } from './ask.ts';
import { DemoAgent, DemoEngine, type DemoEngineOptions } from './demo-processes.ts';
import { demoPrompt } from './demo-prompt.ts';
import { findModel } from './model-files.ts';

const USAGE = `bun run demo [flags]

  --model NAME|PATH   preset t, s or m, or any GGUF of the llama architecture; default s (111 million parameters)
  --chunks COUNT      length of the shared prompt in chunks of 256 tokens; default 8
  --threads COUNT     of the engine; default: the cores that are idle
  --stay              keep the agent running at the end, until Ctrl-C
`;

const CHUNK_TOKENS = 256;
/** What follows the shared prompt, as a question follows a document. */
const SUFFIX_TOKENS = 24;
const GENERATED_TOKENS = 8;
const BAR_WIDTH = 32;

const { values: flags } = parseArgs({
  options: {
    model: { type: 'string', default: 's' },
    chunks: { type: 'string', default: '8' },
    threads: { type: 'string' },
    stay: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

const print = (text: string): void => void process.stdout.write(`${text}\n`);
const seconds = (ms: number): string => `${(ms / 1000).toFixed(2)} s`;
const grouped = (value: number): string => value.toLocaleString('en-US');

function countOf(name: string, text: string): number {
  const value = Number(text);
  if (Number.isSafeInteger(value) && value >= 1 && value <= 1000) return value;
  throw badRequest(`Cannot use --${name} ${text}: want a number from 1 to 1000`);
}

/** Cores that nobody uses, over half a second: threads of llama.cpp wait for each other by spinning, so one too many costs more than it brings. */
async function idleCores(): Promise<number> {
  const read = (): readonly number[] => (/^cpu .*$/m.exec(readFileSync('/proc/stat', 'utf8'))?.[0] ?? '').split(/\s+/).slice(1).map(Number);
  const before = read();
  await Bun.sleep(500);
  const spent = read().map((ticks, index) => ticks - (before[index] ?? 0));
  const idle = (spent[3] ?? 0) + (spent[4] ?? 0);
  const all = spent.slice(0, 8).reduce((sum, ticks) => sum + ticks, 0);
  return Math.max(1, Math.round((availableParallelism() * idle) / Math.max(1, all)));
}

/** Everything of the demo that has to be ended or removed. */
class Stage {
  readonly folder: string;
  readonly agent: DemoAgent;
  engine: DemoEngine | undefined;
  readonly #parent = resolve('.kvtier');
  readonly #parentIsOurs: boolean;

  constructor() {
    this.#parentIsOurs = !existsSync(this.#parent);
    mkdirSync(this.#parent, { recursive: true, mode: 0o700 });
    this.folder = mkdtempSync(join(this.#parent, 'demo-'));
    this.agent = new DemoAgent(this.folder, `/dev/shm/kvtier-demo-${process.pid}`);
  }

  async startEngine(options: DemoEngineOptions): Promise<DemoEngine> {
    await this.engine?.end();
    this.engine = await DemoEngine.start(options);
    // A first, short question brings the weights into memory, and is too short to be cached.
    await this.engine.ask({ prompt: demoPrompt(1), promptTokens: 16, generate: 1 });
    return this.engine;
  }

  async clear(): Promise<void> {
    await this.engine?.end();
    await this.agent.remove();
    rmSync(this.folder, { recursive: true, force: true });
    if (this.#parentIsOurs && readdirSync(this.#parent).length === 0) rmdirSync(this.#parent);
  }
}

interface Row {
  readonly name: string;
  readonly answer: Answer;
  /** Where the chunks came from. */
  readonly source: string;
}

/** Prints a case as soon as it is answered; the first is what the others are compared with. */
class Table {
  readonly rows: Row[] = [];

  print(row: Row): void {
    this.rows.push(row);
    const [cold] = this.rows;
    const share = row.answer.ttftMs / (cold?.answer.ttftMs ?? 1);
    const bar = '█'.repeat(Math.max(1, Math.min(BAR_WIDTH, Math.round(share * BAR_WIDTH))));
    const cells = [row.name.padEnd(28), seconds(row.answer.ttftMs).padStart(8), ` ${bar.padEnd(BAR_WIDTH)}`, row.source.padEnd(22)];
    print(`  ${cells.join(' ')} ${row === cold ? '' : this.isSame(row) ? 'identical' : 'DIFFERENT'}`.trimEnd());
  }

  isSame(row: Row): boolean {
    const [cold] = this.rows;
    return row.answer.logitsSha256 === cold?.answer.logitsSha256 && row.answer.text === cold.answer.text;
  }

  get allSame(): boolean {
    return this.rows.every((row) => this.isSame(row));
  }
}

async function askAndPrint(stage: Stage, table: Table, name: string): Promise<void> {
  const chunks = countOf('chunks', flags.chunks);
  const engine = stage.engine;
  if (engine === undefined) throw new KvtierError('INTERNAL', 'There is no engine to ask');
  const before = await stage.agent.hits();
  const promptTokens = chunks * CHUNK_TOKENS + SUFFIX_TOKENS;
  const answer = await engine.ask({ prompt: demoPrompt(promptTokens), promptTokens, generate: GENERATED_TOKENS });
  if (answer.tokens < promptTokens) throw badRequest(`The prompt has ${answer.tokens} tokens of this model, wanted ${promptTokens}`);
  const after = await stage.agent.hits();
  const sources = (['ram', 'ssd'] as const).filter((tier) => after[tier] > before[tier]).map((tier) => tier.toUpperCase());
  const loaded = `${grouped(answer.restoredTokens)} tokens from ${sources.join('+')}`;
  table.print({ name, answer, source: answer.restoredTokens === 0 ? 'all computed' : loaded });
}

async function play(stage: Stage): Promise<boolean> {
  const started = performance.now();
  const model = findModel(flags.model, stage.folder);
  const writeMs = performance.now() - started;
  const threads = flags.threads === undefined ? await idleCores() : countOf('threads', flags.threads);
  const chunks = countOf('chunks', flags.chunks);
  await stage.agent.start(true);
  const contextTokens = (chunks + 1) * CHUNK_TOKENS;
  const options = { modelPath: model.path, dataDir: stage.agent.dataDir, contextTokens, threads };
  const { ready } = await stage.startEngine(options);
  const kvMib = (chunks * ready.chunkBytes) / 1024 / 1024;
  print(`kvtier demo: a real engine with the agent behind it

  model   ${ready.model}, ${Math.round(ready.parameterCount / 1e6)} million parameters${model.written ? `, random weights written in ${seconds(writeMs)}` : ''}
  engine  ${ready.build}, ${ready.cpuVariant}, KV ${ready.kvType}, ${threads} of ${availableParallelism()} cores
  prompt  ${grouped(chunks * CHUNK_TOKENS + SUFFIX_TOKENS)} tokens; the KV of ${grouped(chunks * CHUNK_TOKENS)} is ${kvMib.toFixed(0)} MiB in ${chunks} chunks
  stats   ${stage.agent.url}/v1/stats

  ${'the same prompt'.padEnd(28)} ${'first token'.padStart(8)}`);
  const table = new Table();
  await askAndPrint(stage, table, 'cold');
  await askAndPrint(stage, table, 'warm');
  await stage.startEngine(options);
  await askAndPrint(stage, table, 'engine restarted');
  await stage.agent.clean();
  await stage.agent.end('SIGKILL');
  await stage.agent.start(true);
  await stage.startEngine(options);
  await askAndPrint(stage, table, 'agent killed (SIGKILL)');
  await stage.agent.clean();
  await stage.agent.end('SIGKILL');
  await stage.agent.start(false);
  await stage.startEngine(options);
  await askAndPrint(stage, table, 'killed, its RAM lost too');
  const [cold, warm] = table.rows.map((row) => row.answer.ttftMs);
  print(`
  ${table.allSame ? `Logits and ${GENERATED_TOKENS} generated tokens are identical in all cases` : 'Logits DIFFER'} (SHA-256 ${table.rows[0]?.answer.logitsSha256.slice(0, 16)}).
  Warm is ${((cold ?? 0) / (warm ?? 1)).toFixed(1)} times sooner than cold. All in ${seconds(performance.now() - started)}.`);
  return table.allSame;
}

async function main(): Promise<void> {
  if (flags.help) return print(USAGE);
  const stage = new Stage();
  const interrupted = Promise.withResolvers<never>();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => interrupted.reject(new KvtierError('SHUTTING_DOWN', `Ended by ${signal}`)));
  }
  try {
    const same = await Promise.race([play(stage), interrupted.promise]);
    if (!same) process.exitCode = 1;
    if (flags.stay) {
      print(`\n  The agent stays: ${stage.agent.url}/v1/stats; Ctrl-C ends it.`);
      await interrupted.promise;
    }
  } catch (error) {
    if (!(error instanceof KvtierError)) throw error;
    if (!(flags.stay && error.code === 'SHUTTING_DOWN')) {
      process.stderr.write(`kvtier demo: ${error.message}\n`);
      process.exitCode = error.code === 'SHUTTING_DOWN' ? 130 : errorTable[error.code].exit;
    }
  } finally {
    await stage.clear();
  }
}

await main();
process.exit(); // What lost the race against a signal is not waited for.
