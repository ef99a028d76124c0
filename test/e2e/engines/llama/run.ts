/**
 * A real llama.cpp, on a model of random weights, with the real agent behind it.
 *
 *   bun test/e2e/engines/llama/run.ts [--model t|s|m] [--keep]
 *
 * A. The engine alone: state that is cut into chunks and restored gives the logits of a recomputation, to the bit; and the controls that show
 *    that this comparison would notice: a zeroed chunk, a chunk of another prefix.
 * B. Through the agent, by RESP and by the native door: cold, warm, another engine, the agent killed with SIGKILL, RAM lost, a bit flipped on SSD, the agent away and back.
 * C. A store that lies: what another prefix, zeros or a flipped bit would give is refused by the seal, and computed.
 * D. `bun run demo`, small.
 *
 * Prints one line per check and last `N passed, N failed`; exit code 1 on a failure. One thread: llama.cpp's threads spin at barriers, and a
 * machine that runs other tests beside has no core to spin on.
 */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { KvtierError } from '#core/errors.ts';
import { chunkHashesOf, chunkNamespaceOf, respModelOf, type ChunkNamespace } from '#engines/llama/chunk-keys.ts';
import type { ChunkBuffer, ChunkStore } from '#engines/llama/chunk-store.ts';
import { EngineThread } from '#engines/llama/engine-thread.ts';
import { CHUNK_TOKENS, LlamaEngine } from '#engines/llama/llama-engine.ts';
import { findModel } from '#engines/llama/model-files.ts';
import { PrefixCache, type Prefill } from '#engines/llama/prefix-cache.ts';
import { NativeChunkStore } from '#engines/llama/native-chunk-store.ts';
import { NoopChunkStore } from '#engines/llama/noop-chunk-store.ts';
import { RespChunkStore } from '#engines/llama/resp-chunk-store.ts';
import type { KvType } from '#engines/llama/struct-layouts.ts';
import { fileOf, listed } from '#testsupport/agent-chunks.ts';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';

const CHUNK_FILE_HEADER_BYTES = 4096; // docs/formats/chunk-file.md
const { values: options } = parseArgs({
  options: { model: { type: 'string', default: 't' }, keep: { type: 'boolean', default: false } },
});
const work = mkdtempSync(join(tmpdir(), 'kvtier-e2e-llama-'));
const dataDir = join(work, 'data');

let passed = 0;
let failed = 0;
function check(claim: string, good: boolean, detail = ''): void {
  if (good) passed += 1;
  else failed += 1;
  console.log(`${good ? 'ok  ' : 'FAIL'}  ${claim}${detail === '' ? '' : ` (${detail})`}`);
}

/** Tokens of the model that are neither controls nor bytes, the same for the same seed. */
function promptOf(tokenCount: number, seed: number): Int32Array {
  let state = seed;
  return Int32Array.from({ length: tokenCount }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return 300 + (state % 3000);
  });
}

function same(a: Float32Array | undefined, b: Float32Array | undefined): boolean {
  if (a === undefined || b === undefined) return false;
  return Buffer.compare(new Uint8Array(a.buffer, a.byteOffset, a.byteLength), new Uint8Array(b.buffer, b.byteOffset, b.byteLength)) === 0;
}

function largestDifference(a: Float32Array | undefined, b: Float32Array | undefined): number {
  let largest = 0;
  for (const [index, value] of (a ?? new Float32Array()).entries()) largest = Math.max(largest, Math.abs(value - (b?.[index] ?? 0)));
  return largest;
}

// ---- A

function logitsOf(engine: LlamaEngine, tokens: Int32Array): Float32Array | undefined {
  engine.clear();
  return engine.decode(tokens, true);
}

/** The first `count` chunks of the sequence that the engine holds. */
function chunksOf(engine: LlamaEngine, count: number): Uint8Array[] {
  return Array.from({ length: count }, (_, index) => {
    const payload = new Uint8Array(engine.facts.chunkBytes);
    engine.cutChunk(index, payload);
    return payload;
  });
}

/** Restores the chunks and computes the rest. */
function restoredLogits(engine: LlamaEngine, chunks: readonly Uint8Array[], tokens: Int32Array): Float32Array | undefined {
  engine.clear();
  if (!chunks.every((chunk, index) => engine.restoreChunk(index, chunk))) return undefined;
  return engine.decode(tokens.subarray(chunks.length * CHUNK_TOKENS), true);
}

function engineAlone(modelPath: string, variant: { readonly kvType: KvType; readonly cpuVariant?: string }): void {
  const engine = new LlamaEngine({ modelPath, contextTokens: 2048, threads: 1, ...variant });
  const name = `${variant.kvType} KV, ${engine.facts.cpuVariant}`;
  for (const [tokenCount, restoreCount] of [
    [257, 1],
    [300, 1],
    [1024, 3],
    [1056, 4],
    [1056, 2],
  ] as const) {
    const tokens = promptOf(tokenCount, tokenCount);
    const cold = logitsOf(engine, tokens);
    const warm = restoredLogits(engine, chunksOf(engine, restoreCount), tokens);
    check(`${name}: ${restoreCount} chunks restored of ${tokenCount} tokens give the logits of a recomputation`, same(cold, warm));
  }
  const tokens = promptOf(1056, 1);
  const cold = logitsOf(engine, tokens);
  const chunks = chunksOf(engine, 4);
  const another = logitsOf(engine, promptOf(1056, 2));
  const others = chunksOf(engine, 4);
  const controls = {
    'a zeroed chunk': new Uint8Array(engine.facts.chunkBytes),
    'a chunk of another prefix': others[1] ?? new Uint8Array(),
  };
  for (const [what, chunk] of Object.entries(controls)) {
    const spoiled = restoredLogits(engine, chunks.with(1, chunk), tokens);
    const difference = largestDifference(cold, spoiled);
    check(
      `${name}: ${what} is noticed in the logits`,
      spoiled !== undefined && !same(cold, spoiled),
      `largest difference ${difference.toFixed(2)}`,
    );
  }
  check(`${name}: two prompts have different logits`, !same(cold, another));
  check(`${name}: after all that the chunks still give the same logits`, same(cold, restoredLogits(engine, chunks, tokens)));
  let refusal = '';
  try {
    engine.decode(promptOf(2048, 3), false);
  } catch (error) {
    refusal = error instanceof KvtierError ? error.code : String(error);
  }
  check(`${name}: a prompt beyond the context is refused`, refusal === 'BAD_REQUEST', refusal);
  engine.close();
}

// ---- B

const SHARED_CHUNKS = 8;
const prompt = promptOf(SHARED_CHUNKS * CHUNK_TOKENS + 24, 7);

/** The one that runs, so that none is left behind. */
let running: RunningAgent | undefined;

async function agentWith(respPort = 0): Promise<RunningAgent> {
  running = await startAgent({ dataDir, respPort, flags: ['--ram', '256MiB', '--ssd', '1GiB'] });
  return running;
}

async function clean(agent: RunningAgent): Promise<void> {
  for (;;) {
    const stats = await agent.client.stats();
    if (stats.tiers.every((row) => row.dirtyBytes === 0)) return;
    await Bun.sleep(100);
  }
}

/** An engine process's worth: a thread, a context and a connection of its own. */
class Client {
  readonly engine: EngineThread;
  readonly cache: PrefixCache;
  readonly #store: ChunkStore;

  static async open(
    modelPath: string,
    openStore: (namespace: ChunkNamespace) => Promise<ChunkStore>,
    kvType: KvType = 'f16',
  ): Promise<Client> {
    const engine = await EngineThread.open({ modelPath, contextTokens: 4096, threads: 1, kvType });
    return new Client(engine, await openStore(chunkNamespaceOf(engine.facts)));
  }
  constructor(engine: EngineThread, store: ChunkStore) {
    this.engine = engine;
    this.#store = store;
    this.cache = new PrefixCache(engine, store);
  }
  async ask(tokens: Int32Array): Promise<Prefill & { readonly storedChunks: number }> {
    const prefill = await this.cache.prefill(tokens);
    return { ...prefill, storedChunks: await prefill.stored };
  }
  /** Resolves when an agent that is back is in use again. */
  async reconnected(): Promise<void> {
    const [first = ''] = chunkHashesOf(this.engine.facts, prompt);
    while ((await this.#store.lookup([first])) === 0) await Bun.sleep(20);
  }
  async close(): Promise<void> {
    await this.#store.close();
    await this.engine.close();
  }
}

const describe = (got: Prefill): string =>
  `${got.restoredTokens} of ${got.tokenCount} tokens restored, ${got.ttftMs.toFixed(0)} ms, stopped by ${got.stoppedBy}`;

function checkWarm(claim: string, cold: Prefill, warm: Prefill, chunks = SHARED_CHUNKS): void {
  const good = same(cold.logits, warm.logits) && warm.restoredTokens === chunks * CHUNK_TOKENS;
  check(`${claim}: ${chunks} chunks are restored and the logits identical`, good, describe(warm));
}

type Door = 'native' | 'resp';

async function throughTheAgent(modelPath: string, door: Door): Promise<Prefill> {
  console.log(`    through the ${door} door`);
  rmSync(dataDir, { recursive: true, force: true });
  let agent = await agentWith();
  const port = agent.resp.port;
  const openStore = async (namespace: ChunkNamespace): Promise<ChunkStore> =>
    door === 'native' ? await NativeChunkStore.open({ path: agent.socket, namespace }) : new RespChunkStore({ ...agent.resp, namespace });
  const first = await Client.open(modelPath, openStore);
  const model = door === 'native' ? chunkNamespaceOf(first.engine.facts).model : respModelOf(chunkNamespaceOf(first.engine.facts));
  const cold = await first.ask(prompt);
  check(
    'cold: nothing is restored and every whole chunk is stored',
    cold.restoredTokens === 0 && cold.storedChunks === SHARED_CHUNKS,
    describe(cold),
  );
  const warm = await first.ask(prompt);
  checkWarm('warm', cold, warm);
  check(
    'warm: the first token comes at least three times sooner',
    warm.ttftMs < cold.ttftMs / 3,
    `${cold.ttftMs.toFixed(0)} ms cold, ${describe(warm)}`,
  );
  const exact = await first.ask(prompt.subarray(0, SHARED_CHUNKS * CHUNK_TOKENS));
  check(
    'a prompt of whole chunks: its last is computed, since a state has no logits',
    exact.restoredTokens === (SHARED_CHUNKS - 1) * CHUNK_TOKENS,
  );
  await checkStatistics(agent, model);

  const second = await Client.open(modelPath, openStore);
  checkWarm('another engine', cold, await second.ask(prompt));
  const branched = prompt.slice();
  branched.fill(299, 5 * CHUNK_TOKENS + 1);
  const branch = await second.ask(branched);
  check('a prompt that branches off shares its head', branch.restoredTokens === 5 * CHUNK_TOKENS, describe(branch));
  const quantized = await Client.open(modelPath, openStore, 'q8_0');
  const foreign = await quantized.ask(prompt);
  check(
    'an engine with another KV type shares nothing',
    foreign.restoredTokens === 0 && foreign.storedChunks === SHARED_CHUNKS,
    describe(foreign),
  );
  await quantized.close();

  await clean(agent);
  await agent.kill9();
  const away = await second.ask(prompt);
  const went = same(cold.logits, away.logits) && away.restoredTokens === 0 && away.storedChunks === 0;
  check('agent away: the engine goes on', went && away.lookupMs < 500, `${describe(away)}, lookup ${away.lookupMs.toFixed(1)} ms`);
  agent = await agentWith(port);
  await second.reconnected();
  checkWarm('agent killed and back, RAM lost: from SSD', cold, await second.ask(prompt));
  const hits = (await agent.client.stats()).hits;
  check('and the bytes came from SSD', hits.ssd === SHARED_CHUNKS, JSON.stringify(hits));

  await agent.kill9();
  agent = await flipOneBit(agent, () => agentWith(port), model);
  const third = await Client.open(modelPath, openStore);
  const spoiled = await third.ask(prompt);
  checkWarm('a bit flipped on SSD', cold, spoiled, FLIPPED_CHUNK);
  const { checksumMismatches } = (await agent.client.stats()).io;
  check(
    'and the agent found it by its checksum',
    spoiled.stoppedBy === 'not loaded' && checksumMismatches >= 1,
    `${checksumMismatches} mismatches`,
  );
  checkWarm('what was computed again is stored again', cold, await third.ask(prompt));
  for (const client of [first, second, third]) await client.close();
  await agent.stop();
  return cold;
}

async function checkStatistics(agent: RunningAgent, model: string): Promise<void> {
  const chunks = await listed(agent, { model });
  const parents = chunks.filter((chunk) => chunk.parentId !== null).length;
  const sizes = new Set(chunks.map((chunk) => chunk.sizeBytes));
  check('the agent lists the chunks under the model', chunks.length === SHARED_CHUNKS && sizes.size === 1, `${chunks.length} of ${model}`);
  check('and knows them for a chain', parents === SHARED_CHUNKS - 1, `${parents} have a parent`);
}

const FLIPPED_CHUNK = 3;

/** Flips a bit in the middle of a chunk's file while no agent runs. */
async function flipOneBit(agent: RunningAgent, restart: () => Promise<RunningAgent>, model: string): Promise<RunningAgent> {
  const looking = await restart();
  const chunks = await listed(looking, { model });
  const ordered = chunks.toSorted((a, b) => a.generation - b.generation);
  const chunk = ordered[FLIPPED_CHUNK];
  if (chunk === undefined) throw new Error(`The agent has ${chunks.length} chunks of ${model}`);
  const path = fileOf(agent, chunk);
  await looking.kill9();
  const bytes = readFileSync(path);
  const place = CHUNK_FILE_HEADER_BYTES + (chunk.sizeBytes >> 1);
  bytes[place] = (bytes[place] ?? 0) ^ 0x10;
  writeFileSync(path, bytes);
  return await restart();
}

// ---- C

/** A store in memory whose values are spoiled on their way back. */
class LyingStore implements ChunkStore {
  readonly #values = new Map<string, Uint8Array>();
  readonly #inner = new NoopChunkStore();
  spoil: (value: Uint8Array, index: number) => Uint8Array = (value) => value;

  createBuffers(count: number, sizeBytes: number): readonly ChunkBuffer[] {
    return this.#inner.createBuffers(count, sizeBytes);
  }
  lookup(keys: readonly string[]): Promise<number> {
    const gap = keys.findIndex((key) => !this.#values.has(key));
    return Promise.resolve(gap < 0 ? keys.length : gap);
  }
  load(keys: readonly string[], buffers: readonly ChunkBuffer[]): readonly Promise<boolean>[] {
    return keys.map((key, index) => {
      const value = this.#values.get(key);
      if (value !== undefined) buffers[index]?.bytes.set(this.spoil(value.slice(), index));
      return Promise.resolve(value !== undefined);
    });
  }
  store(keys: readonly string[], buffers: readonly ChunkBuffer[]): readonly Promise<boolean>[] {
    return keys.map((key, index) => {
      this.#values.set(key, (buffers[index]?.bytes ?? new Uint8Array()).slice());
      return Promise.resolve(true);
    });
  }
  close(): Promise<void> {
    return this.#inner.close();
  }
  /** The values of the first chunks of each prompt, in the order of storing. */
  values(): readonly Uint8Array[] {
    return [...this.#values.values()];
  }
}

async function lyingStore(modelPath: string, cold: Prefill): Promise<void> {
  const store = new LyingStore();
  const client = await Client.open(modelPath, () => Promise.resolve(store));
  await client.ask(prompt);
  await client.ask(promptOf(prompt.length, 8));
  checkWarm('a store in memory', cold, await client.ask(prompt));
  const ofAnother = store.values()[SHARED_CHUNKS + 2] ?? new Uint8Array();
  const lies: Readonly<Record<string, (value: Uint8Array) => Uint8Array>> = {
    'a flipped bit': (value) => value.with(value.length >> 1, (value[value.length >> 1] ?? 0) ^ 1),
    'a zeroed chunk': (value) => new Uint8Array(value.length),
    'zeroed rows behind a true seal': (value) => value.fill(0, 0, value.length - 4096),
    'a whole chunk of another prefix': () => ofAnother,
  };
  for (const [what, lie] of Object.entries(lies)) {
    store.spoil = (value, index) => (index === 2 ? lie(value) : value);
    const got = await client.ask(prompt);
    checkWarm(what, cold, got, 2);
    check(`${what}: the seal says so`, got.stoppedBy === 'seal', got.stoppedBy);
  }
  await client.close();
}

// ---- D

async function demo(): Promise<void> {
  const folder = join(work, 'demo');
  mkdirSync(folder);
  const started = performance.now();
  const child = Bun.spawn(
    [process.execPath, join(import.meta.dir, '../../../../engines/llama/demo.ts'), '--model', 't', '--threads', '1'],
    {
      cwd: folder,
      stdout: 'pipe',
      stderr: 'inherit',
    },
  );
  const output = await new Response(child.stdout).text();
  const code = await child.exited;
  console.log(output.trimEnd().replaceAll(/^/gm, '    | '));
  check('the demo ends well, in less than three minutes', code === 0 && performance.now() - started < 180_000, `exit code ${code}`);
  check('and finds the logits identical in its four warm cases', output.match(/ identical$/gm)?.length === 4);
  const left = [...readdirSync(folder), ...readdirSync('/dev/shm').filter((name) => name === `kvtier-demo-${child.pid}`)];
  check('and leaves nothing behind', left.length === 0, left.join(' '));
}

async function main(): Promise<void> {
  try {
    const { path } = findModel(options.model, work);
    engineAlone(path, { kvType: 'f16' });
    engineAlone(path, { kvType: 'q8_0' });
    await throughTheAgent(path, 'resp');
    const cold = await throughTheAgent(path, 'native');
    await lyingStore(path, cold);
    await demo();
  } catch (error) {
    check('the lane runs to its end', false, error instanceof Error ? (error.stack ?? error.message) : String(error));
  }
}

await main();
await running?.kill9();
if (options.keep || failed > 0) console.log(`Model and data are in ${work}`);
else rmSync(work, { recursive: true, force: true });
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed > 0 || passed === 0 ? 1 : 0);
