/**
 * `bun run llama`: llama.cpp with the agent behind it. Reads questions from standard input, one JSON object a line (ask.ts), and writes
 * a line when it is ready and one for each answer; `--prompt` asks one question and prints it for people.
 */
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { badRequest, errorTable, KvtierError } from '#core/errors.ts';
import type { Failure, Question } from './ask.ts';
import type { ChunkNamespace } from './chunk-keys.ts';
import type { ChunkStore } from './chunk-store.ts';
import { EngineSession } from './engine-session.ts';
import { findModel } from './model-files.ts';
import { NativeChunkStore } from './native-chunk-store.ts';
import { NoopChunkStore } from './noop-chunk-store.ts';
import type { RespAddress } from './resp-connection.ts';
import { RespChunkStore } from './resp-chunk-store.ts';
import { kvTypes, type KvType } from './struct-layouts.ts';

const USAGE = `bun run llama [--prompt TEXT] [flags]

  --model NAME|PATH    preset t, s or m (random weights, written when first used), or any GGUF of the llama architecture; default s
  --model-dir PATH     where presets are written; default ./.kvtier/models
  --socket PATH        the agent's native door; default: as <data-dir>/agent.json says
  --resp HOST:PORT     its RESP door instead; auto: as <data-dir>/agent.json says
  --data-dir PATH      of the agent; default ./.kvtier
  --no-cache           computes everything
  --prompt TEXT        one question; without it, JSON lines {"prompt": TEXT} on standard input
  --generate COUNT     tokens to generate for --prompt; default 8
  --context TOKENS     default 4096
  --threads COUNT      default: the cores, at most 8
  --kv f16|q8_0        type of the KV; default f16
  --cpu NAME|auto      CPU variant of llama.cpp; default haswell (AVX2) where the machine has it
  --verbose            llama.cpp's own log on standard error

KVTIER_TOKEN is the agent's token, where it wants one.
`;

const { values: flags } = parseArgs({
  options: {
    model: { type: 'string', default: 's' },
    'model-dir': { type: 'string', default: '.kvtier/models' },
    socket: { type: 'string' },
    resp: { type: 'string' },
    'data-dir': { type: 'string', default: process.env['KVTIER_DATA_DIR'] ?? '.kvtier' },
    'no-cache': { type: 'boolean', default: false },
    prompt: { type: 'string' },
    generate: { type: 'string', default: '8' },
    context: { type: 'string', default: '4096' },
    threads: { type: 'string', default: String(Math.min(8, availableParallelism())) },
    kv: { type: 'string', default: 'f16' },
    cpu: { type: 'string' },
    verbose: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

function positive(name: string, given: unknown): number {
  const value = Number(given);
  if (Number.isSafeInteger(value) && value > 0) return value;
  throw badRequest(`Cannot use ${name} ${JSON.stringify(given)}: want a number of 1 or more`);
}

function kvType(text: string): KvType {
  if (Object.hasOwn(kvTypes, text)) return text as KvType;
  throw badRequest(`Cannot use --kv ${text}: want ${Object.keys(kvTypes).join(' or ')}`);
}

interface AgentDoors {
  readonly resp?: RespAddress;
  readonly socket?: string;
}

/** Where the agent of the data directory listens. */
function agentDoors(): AgentDoors {
  const file = join(flags['data-dir'], 'agent.json');
  try {
    return (JSON.parse(readFileSync(file, 'utf8')) as { readonly doors: AgentDoors }).doors;
  } catch (cause) {
    throw new KvtierError('NOT_FOUND', `Cannot read ${file}: start the agent with \`bun run agent\`, or name its door`, { cause });
  }
}

function parseAddress(text: string): RespAddress {
  const [, host, port] = /^(.+):(\d+)$/.exec(text) ?? [];
  if (host === undefined || port === undefined) throw badRequest(`Cannot use --resp ${text}: want HOST:PORT or auto`);
  return { host: host.replace(/^\[(.*)\]$/, '$1'), port: Number(port) };
}

/** The native door, unless RESP is asked for. Looks for the agent at once, so that a wrong address is an error before the model is loaded. */
function storeOpener(): (namespace: ChunkNamespace) => Promise<ChunkStore> {
  const token = process.env['KVTIER_TOKEN'];
  const credential = token === undefined ? {} : { token };
  if (flags['no-cache']) return () => Promise.resolve(new NoopChunkStore());
  if (flags.resp !== undefined) {
    const address = flags.resp === 'auto' ? agentDoors().resp : parseAddress(flags.resp);
    if (address === undefined) throw badRequest('Cannot use --resp auto: the agent has no RESP door');
    return (namespace) => Promise.resolve(new RespChunkStore({ ...address, namespace, ...credential }));
  }
  const path = flags.socket ?? agentDoors().socket;
  if (path === undefined) throw badRequest('Cannot use the native door: the agent has none; want --resp auto');
  return (namespace) => NativeChunkStore.open({ path, namespace, ...credential });
}

const say = (line: object): void => void process.stdout.write(`${JSON.stringify(line)}\n`);

async function serveLines(session: EngineSession): Promise<void> {
  say(session.ready());
  for await (const line of createInterface({ input: process.stdin })) {
    if (line.trim() === '') continue;
    try {
      say(await session.ask(parseQuestion(line)));
    } catch (error) {
      if (!(error instanceof KvtierError) || error.code !== 'BAD_REQUEST') throw error;
      say({ error: error.message } satisfies Failure);
    }
  }
}

function parseQuestion(line: string): Question {
  let read: unknown;
  try {
    read = JSON.parse(line);
  } catch {
    throw badRequest('Cannot read a question: it is not JSON');
  }
  const { prompt, ...counts } = (read ?? {}) as Partial<Record<keyof Question, unknown>>;
  if (typeof prompt !== 'string' || prompt === '') throw badRequest('Cannot read a question: want {"prompt": TEXT}');
  const count = (name: 'generate' | 'promptTokens'): Partial<Question> =>
    counts[name] === undefined ? {} : { [name]: positive(name, counts[name]) };
  return { prompt, ...count('generate'), ...count('promptTokens') };
}

async function askOnce(session: EngineSession, prompt: string): Promise<void> {
  const answer = await session.ask({ prompt, generate: positive('generate', flags.generate) });
  const ms = (value: number): string => `${value.toFixed(1)} ms`;
  process.stdout.write(
    [
      `model     ${session.ready().model}, fingerprint ${session.ready().fingerprint.slice(0, 16)}`,
      `tokens    ${answer.tokens}, of which ${answer.restoredTokens} restored; ${answer.storedChunks} chunks stored`,
      `ttft      ${ms(answer.ttftMs)}: lookup ${ms(answer.lookupMs)}, restore ${ms(answer.restoreMs)}, compute ${ms(answer.computeMs)}`,
      `logits    ${answer.logitsSha256}`,
      `text      ${JSON.stringify(answer.text)}\n`,
    ].join('\n'),
  );
}

async function main(): Promise<void> {
  if (flags.help) {
    process.stdout.write(USAGE);
    return;
  }
  const openStore = storeOpener();
  const session = await EngineSession.open(
    {
      modelPath: findModel(flags.model, flags['model-dir']).path,
      contextTokens: positive('context', flags.context),
      threads: positive('threads', flags.threads),
      kvType: kvType(flags.kv),
      verbose: flags.verbose,
      ...(flags.cpu === undefined ? {} : { cpuVariant: flags.cpu }),
    },
    openStore,
  );
  if (flags.prompt === undefined) await serveLines(session);
  else await askOnce(session, flags.prompt);
  await session.close();
}

try {
  await main();
} catch (error) {
  if (!(error instanceof KvtierError)) throw error;
  process.stderr.write(`kvtier llama: ${error.message}\n`);
  process.exitCode = errorTable[error.code].exit;
}
