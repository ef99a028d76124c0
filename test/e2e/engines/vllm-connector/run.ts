/**
 * vLLM on the CPU with KvtierConnector (engines/python), real weights, and the agent behind it over the native door.
 *
 *   bun test/e2e/engines/vllm-connector/run.ts [--lengths 1000,2000] [--runs 1] [--json FILE] [--keep]
 *
 * The same questions are asked: cold; again; after the engine was killed and started anew; after the agent was killed (SIGKILL, with nothing
 * dirty) and started anew; and while the agent is away, when the engine has to go on without it; and once it is back. vLLM's own prefix cache is
 * off: what is not computed has come from the agent. Greedy answers must be the same text in every case; where the same chunks were loaded,
 * the log-probabilities must be the same to the last bit; against the cold answer they may differ by what bfloat16 rounds when a prompt is
 * computed in one piece and not in two. A prompt that differs in its first token must find nothing.
 *
 * Prints one line per check, a table of times, and last `N passed, N failed`.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { startAgent } from '#testsupport/agent.ts';
import type { RunningAgent } from '#testsupport/agent.ts';
import { makeEngineEnvironment } from '#testsupport/engine-environment.ts';
import type { EngineEnvironment } from '#testsupport/engine-environment.ts';
import { eventually } from '#testsupport/engine-process.ts';
import { startVllm } from '#testsupport/vllm.ts';
import type { Completion, RunningVllm } from '#testsupport/vllm.ts';
import { recordPrompt } from '#testsupport/record-prompt.ts';

/** KvtierConnector's default for vLLM's blocks on CPUs, of 128 tokens. */
const CHUNK_TOKENS = 256;
/**
 * What vLLM computes in one step: the whole chunks of 2,000 tokens. A cold prompt of that length is then computed in the very pieces of one whose
 * chunks are loaded, so that the same bits come out, and not what bfloat16 makes of another order of sums.
 */
const STEP_TOKENS = 1792;
const { values: options } = parseArgs({
  options: {
    lengths: { type: 'string', default: '1000,2000' },
    runs: { type: 'string', default: '1' },
    json: { type: 'string' },
    keep: { type: 'boolean', default: false },
  },
});
const work = mkdtempSync(join(tmpdir(), 'kvtier-e2e-connector-'));
const python = new URL('../../../../engines/python', import.meta.url).pathname;

let passed = 0;
let failed = 0;
function check(claim: string, good: boolean, detail = ''): void {
  if (good) passed += 1;
  else failed += 1;
  console.log(`${good ? 'ok  ' : 'FAIL'}  ${claim}${detail === '' ? '' : ` (${detail})`}`);
}

interface Question {
  readonly length: number;
  readonly prompt: readonly number[];
}

const times: { readonly state: string; readonly length: number; readonly ttftMs: number }[] = [];
/** Whole chunks of what may be loaded: the last token is always computed. */
const chunksOf = ({ length }: Question): number => Math.floor((length - 1) / CHUNK_TOKENS);

function startEngine(environment: EngineEnvironment, agent: RunningAgent, name: string): Promise<RunningVllm> {
  return startVllm({
    environment,
    logPath: join(work, `${name}.log`),
    variables: { PYTHONPATH: python },
    flags: ['--max-num-batched-tokens', String(STEP_TOKENS)],
    kvTransferConfig: {
      kv_connector: 'KvtierConnector',
      kv_role: 'kv_both',
      kv_load_failure_policy: 'recompute',
      kv_connector_module_path: 'kvtier.vllm_connector',
      // This machine may be busy with three processes of vLLM when a lookup comes; no token may be missed for that.
      kv_connector_extra_config: { socket: agent.socket, lookup_timeout_ms: 2000 },
    },
  });
}

/** Enough for every chunk of the lane, 5.6 MiB each. */
const startKvtier = (): Promise<RunningAgent> => startAgent({ dataDir: join(work, 'data'), flags: ['--ram', '1GiB', '--ssd', '2GiB'] });

async function settled(agent: RunningAgent): Promise<void> {
  await eventually('dirtyBytes 0 in every tier', 180_000, async () => {
    const { tiers } = await agent.client.stats();
    return tiers.every((tier) => tier.dirtyBytes === 0) || undefined;
  });
}

async function hits(agent: RunningAgent): Promise<number> {
  const stats = await agent.client.stats();
  return stats.hits.hbm + stats.hits.ram + stats.hits.ssd;
}

async function askAll(vllm: RunningVllm, questions: readonly Question[], state: string): Promise<readonly Completion[]> {
  const answers: Completion[] = [];
  for (const { prompt, length } of questions) {
    const answer = await vllm.complete(prompt);
    times.push({ state, length, ttftMs: answer.ttftMs });
    answers.push(answer);
  }
  return answers;
}

/** Bit by bit: the same computation on the same KV. */
function same(a: Completion | undefined, b: Completion | undefined): boolean {
  return a !== undefined && b !== undefined && a.text === b.text && JSON.stringify(a.logprobs) === JSON.stringify(b.logprobs);
}

/** Of bfloat16, whose sums come out otherwise where a prompt is computed in other pieces. */
const NEARLY = 0.25;

/** The same tokens, as sure of each as rounding lets it be. */
function alike(a: Completion | undefined, b: Completion | undefined): boolean {
  if (a === undefined || b === undefined || a.text !== b.text || a.logprobs.length !== b.logprobs.length) return false;
  return a.logprobs.every((value, index) => Math.abs(value - (b.logprobs[index] ?? Number.NaN)) < NEARLY);
}

/** The first answer that was made of loaded chunks. */
const loadedFirst = new Map<Question, Completion>();

function difference(a: Completion | undefined, b: Completion | undefined): string {
  if (a === undefined || b === undefined) return '';
  const furthest = Math.max(...a.logprobs.map((value, index) => Math.abs(value - (b.logprobs[index] ?? Number.NaN))));
  return `${a.text === b.text ? 'the same text' : `${JSON.stringify(a.text)} and ${JSON.stringify(b.text)}`}, log-probabilities within ${furthest.toFixed(4)}`;
}

/** Asks again, and checks that the agent gave every whole chunk and that the answers are those of the first time. */
async function warm(
  vllm: RunningVllm,
  agent: RunningAgent,
  { questions, cold, state }: { readonly questions: readonly Question[]; readonly cold: readonly Completion[]; readonly state: string },
): Promise<void> {
  for (const [index, question] of questions.entries()) {
    const before = await hits(agent);
    const [answer] = await askAll(vllm, [question], state);
    const loaded = (await hits(agent)) - before;
    check(
      `${state}, ${question.length} tokens: every chunk is loaded`,
      loaded === chunksOf(question),
      `${loaded} of ${chunksOf(question)}`,
    );
    const cached = answer?.cachedTokens ?? 0;
    const wanted = chunksOf(question) * CHUNK_TOKENS;
    check(`${state}, ${question.length} tokens: vLLM computes the rest alone`, cached === wanted, `${cached} tokens were not computed`);
    const samePieces = question.length <= STEP_TOKENS + CHUNK_TOKENS;
    const isRight = samePieces ? same(answer, cold[index]) : alike(answer, cold[index]);
    check(`${state}, ${question.length} tokens: the answer is the cold one's`, isRight, difference(answer, cold[index]));
    const earlier = loadedFirst.get(question);
    if (earlier !== undefined)
      check(
        `${state}, ${question.length} tokens: bit by bit as when it was loaded first`,
        same(answer, earlier),
        difference(answer, earlier),
      );
    else if (answer !== undefined) loadedFirst.set(question, answer);
  }
}

async function scenario(environment: EngineEnvironment): Promise<void> {
  let agent = await startKvtier();
  let vllm = await startEngine(environment, agent, 'first');
  console.log(`vLLM was ready after ${(vllm.startMs / 1000).toFixed(0)} s`);
  try {
    const questions: Question[] = [];
    for (const length of options.lengths.split(',').map(Number))
      for (let run = 0; run < Number(options.runs); run += 1)
        questions.push({ length, prompt: await recordPrompt(vllm, length, 100 * length + run) });
    await warmUp(vllm);
    const cold = await askAll(vllm, questions, 'cold');
    check('cold: nothing is loaded', (await hits(agent)) === 0);
    await warm(vllm, agent, { questions, cold, state: 'again' });

    const [first] = questions;
    if (first === undefined) throw new Error('There is no question');
    const before = await hits(agent);
    await vllm.complete([(first.prompt[0] ?? 0) + 1, ...first.prompt.slice(1)], 1);
    check('a prompt that differs in its first token finds nothing', (await hits(agent)) === before);

    await settled(agent);
    await vllm.kill9();
    vllm = await startEngine(environment, agent, 'second');
    await warm(vllm, agent, { questions, cold, state: 'engine killed' });

    await settled(agent);
    await agent.kill9();
    const away = await askAll(vllm, questions.slice(0, 1), 'agent away');
    check('agent away: the engine goes on, and its answer is the cold one', same(away[0], cold[0]), difference(away[0], cold[0]));

    agent = await startKvtier();
    await eventually('the engine is connected again', 30_000, async () => {
      const { doors } = await agent.client.stats();
      return (doors.find(({ door }) => door === 'native')?.connections ?? 0) >= 3 || undefined;
    });
    await warm(vllm, agent, { questions, cold, state: 'agent killed' });
  } finally {
    await vllm.kill9();
    await agent.kill9();
  }
}

/** What every process does once is not a question's time. */
async function warmUp(vllm: RunningVllm): Promise<void> {
  await vllm.complete(await recordPrompt(vllm, 200, 7), 2);
}

function table(): void {
  const lengths = [...new Set(times.map(({ length }) => length))];
  const states = [...new Set(times.map(({ state }) => state))];
  console.log(`\nTTFT, ms            ${lengths.map((length) => `${length} tokens`.padStart(14)).join('')}`);
  for (const state of states) {
    const cells = lengths.map((length) => {
      const all = times.filter((row) => row.state === state && row.length === length).map((row) => row.ttftMs);
      const middle = all.toSorted((a, b) => a - b)[Math.floor(all.length / 2)];
      return (middle === undefined ? '' : middle.toFixed(0)).padStart(14);
    });
    console.log(`${state.padEnd(20)}${cells.join('')}`);
  }
}

try {
  await scenario(await makeEngineEnvironment());
  table();
  if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify({ passed, failed, times }, undefined, 2)}\n`);
} catch (error) {
  check(error instanceof Error ? error.message : String(error), false);
} finally {
  if (options.keep) console.log(`kept: ${work}`);
  else rmSync(work, { recursive: true, force: true });
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
