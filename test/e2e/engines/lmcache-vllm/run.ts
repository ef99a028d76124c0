/**
 * vLLM on the CPU with LMCache's multi-process connector, both as PyPI serves them, and our agent as LMCache's L2.
 *
 *   bun test/e2e/engines/lmcache-vllm/run.ts [--lengths 1000,4000] [--runs 1] [--json FILE] [--keep]
 *
 * The same questions are asked: cold; again, from LMCache's own memory; after `lmcache server` was killed and started anew, so that its memory is
 * gone and what it finds is its L2's; after the agent was killed too; after the engine was killed too. Then redis-server takes the agent's place,
 * as the oracle: what a plain key-value store gives is what the agent has to give, down to the log-probabilities of every generated token. At
 * last the agent stays away, and the engine goes on without it.
 *
 * `--runs` asks that many different prompts of each length, for the table of times. Prints one line per check and last `N passed, N failed`.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { makeEngineEnvironment } from '#testsupport/engine-environment.ts';
import type { Completion, RunningVllm } from '#testsupport/vllm.ts';
import { startKvtier, startRedis } from './peers.ts';
import type { OraclePeer } from './peers.ts';
import { recordPrompt } from '#testsupport/record-prompt.ts';
import { Stack, startEngine, whileEngineKnows } from './stack.ts';

const CHUNK_TOKENS = 256;
const { values: options } = parseArgs({
  options: {
    lengths: { type: 'string', default: '1000,4000' },
    runs: { type: 'string', default: '1' },
    json: { type: 'string' },
    keep: { type: 'boolean', default: false },
  },
});
const work = mkdtempSync(join(tmpdir(), 'kvtier-e2e-vllm-'));

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

interface Asked extends Question {
  readonly answer: Completion;
}

/** What is printed at the end: one row for each state of the caches and length. */
const times: { readonly peer: string; readonly state: string; readonly length: number; readonly ttftMs: number }[] = [];

/** Whole chunks: what is left of a prompt is computed. */
const chunksOf = ({ length }: Question): number => Math.floor(length / CHUNK_TOKENS);

async function ask(vllm: RunningVllm, question: Question, where: { readonly peer: string; readonly state: string }): Promise<Asked> {
  const answer = await vllm.complete(question.prompt);
  times.push({ ...where, length: question.length, ttftMs: answer.ttftMs });
  return { ...question, answer };
}

/** Nothing is found, everything is stored. */
async function askCold(vllm: RunningVllm, stack: Stack, questions: readonly Question[]): Promise<readonly Asked[]> {
  const before = stack.lmcache.lookups().length;
  const asked: Asked[] = [];
  for (const question of questions) asked.push(await ask(vllm, question, { peer: stack.peer.name, state: 'cold' }));
  await stack.lmcache.storesDone();
  check(
    `${stack.peer.name}, cold: nothing is found`,
    stack.lmcache.lookups().length === before && asked.every(({ answer }) => answer.cachedTokens === 0),
    `cached tokens ${asked.map(({ answer }) => answer.cachedTokens).join(' ')}`,
  );
  return asked;
}

/** Every whole chunk is found, in `tier`, and the texts are those of `expected`. */
async function askWarm(
  vllm: RunningVllm,
  stack: Stack,
  expected: readonly Asked[],
  state: string,
  tier: 'L1' | 'L2',
): Promise<readonly Asked[]> {
  const when = `${stack.peer.name}, ${state}`;
  const [hitsBefore, lookupsBefore] = [await stack.peer.hits(), stack.lmcache.lookups().length];
  const asked: Asked[] = [];
  for (const question of expected) asked.push(await ask(vllm, question, { peer: stack.peer.name, state }));
  const lookups = stack.lmcache.lookups().slice(lookupsBefore);
  const wanted = expected.map((question) =>
    tier === 'L1' ? { l1Chunks: chunksOf(question), l2Chunks: 0 } : { l1Chunks: 0, l2Chunks: chunksOf(question) },
  );
  check(`${when}: LMCache finds every chunk in its ${tier}`, JSON.stringify(lookups) === JSON.stringify(wanted), JSON.stringify(lookups));
  check(
    `${when}: the engine computes only what is behind the last whole chunk`,
    asked.every((one) => one.answer.cachedTokens === chunksOf(one) * CHUNK_TOKENS),
    `cached tokens ${asked.map(({ answer }) => answer.cachedTokens).join(' ')}`,
  );
  const texts = asked.every(({ answer }, i) => answer.text === expected[i]?.answer.text);
  check(`${when}: the answers are those of the cold run`, texts, texts ? '' : JSON.stringify(asked.map(({ answer }) => answer.text)));
  if (tier === 'L2') {
    const [hits, chunks] = [(await stack.peer.hits()) - hitsBefore, expected.reduce((total, question) => total + chunksOf(question), 0)];
    check(`${when}: ${stack.peer.name} counts a hit for each of ${chunks} chunks`, hits >= chunks, `${hits}`);
  }
  return asked;
}

function checkSame(claim: string, ours: readonly Asked[], theirs: readonly Asked[]): void {
  const facts = (asked: readonly Asked[]): string => JSON.stringify(asked.map(({ answer }) => [answer.text, answer.logprobs]));
  check(claim, facts(ours) === facts(theirs), facts(ours) === facts(theirs) ? '' : `${facts(ours)} and ${facts(theirs)}`.slice(0, 600));
}

/** Cold, then warm with less and less left alive. Returns the first answers out of LMCache's memory. */
async function scenario(
  vllm: RunningVllm,
  stack: Stack,
  questions: readonly Question[],
): Promise<{ cold: readonly Asked[]; warm: readonly Asked[] }> {
  const cold = await askCold(vllm, stack, questions);
  const warm = await askWarm(vllm, stack, cold, 'again', 'L1');
  await whileEngineKnows(vllm, stack.lmcache, () => stack.startLmcache());
  const again = await askWarm(vllm, stack, cold, 'lmcache server restarted', 'L2');
  checkSame(`${stack.peer.name}: tokens and log-probabilities are the same out of L2 as out of LMCache's memory`, again, warm);
  await stack.peer.settled();
  await whileEngineKnows(vllm, stack.lmcache, async () => {
    await stack.peer.kill9();
    await stack.startPeer();
    await stack.startLmcache();
  });
  const afterKill = await askWarm(vllm, stack, cold, `${stack.peer.name} and lmcache server killed`, 'L2');
  checkSame(`${stack.peer.name}: and after kill -9`, afterKill, warm);
  return { cold, warm };
}

/** The checks above are worth something only if the engine uses the bytes that it loads: with zeroes in their place it answers otherwise. */
async function zeroedValues(vllm: RunningVllm, stack: Stack<OraclePeer>, expected: readonly Asked[]): Promise<void> {
  stack.peer.zero();
  await whileEngineKnows(vllm, stack.lmcache, () => stack.startLmcache());
  const [question] = expected;
  if (question === undefined) throw new Error('There is no question');
  const { answer } = await ask(vllm, question, { peer: stack.peer.name, state: 'zeroed values' });
  check(
    'with zeroes in the place of stored values the engine answers otherwise',
    answer.cachedTokens > 0 && answer.text !== question.answer.text,
    JSON.stringify(answer.text),
  );
}

/** The agent goes and does not come back: prompts are computed, and answers are right. */
async function withoutPeer(vllm: RunningVllm, stack: Stack, cold: readonly Asked[]): Promise<void> {
  await stack.peer.settled();
  await stack.peer.kill9();
  // Its L1 may answer what it has; another prompt is in no cache.
  const [first] = cold;
  if (first === undefined) throw new Error('There is no question');
  const fresh = { length: first.length, prompt: await recordPrompt(vllm, first.length, 999_983) };
  const asked = await ask(vllm, fresh, { peer: stack.peer.name, state: 'agent away' });
  check('with the agent away a new prompt is computed', asked.answer.cachedTokens === 0, `cached tokens ${asked.answer.cachedTokens}`);
  check('and its answer is another one, since its records are others', asked.answer.text !== first.answer.text, asked.answer.text);
  check('and the engine lives', vllm.alive());
}

function printTimes(): void {
  console.log('\nTTFT in ms (median):');
  const key = (row: (typeof times)[number]): string =>
    `${row.peer.padEnd(14)} ${row.state.padEnd(40)} ${String(row.length).padStart(5)} tokens`;
  for (const [name, rows] of Map.groupBy(times, key)) {
    const sorted = rows.map(({ ttftMs }) => ttftMs).toSorted((a, b) => a - b);
    console.log(
      `  ${name}  ${(sorted[Math.floor(sorted.length / 2)] ?? Number.NaN).toFixed(0).padStart(7)}  (${sorted.map((ms) => ms.toFixed(0)).join(' ')})`,
    );
  }
  if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(times, undefined, 1)}\n`);
}

async function main(): Promise<void> {
  const environment = await makeEngineEnvironment();
  const ours = new Stack(environment, join(work, 'kvtier'), startKvtier);
  const oracle = new Stack(environment, join(work, 'redis'), startRedis);
  let vllm: RunningVllm | undefined;
  try {
    await ours.startPeer();
    await ours.startLmcache();
    const { rpcPort } = ours.lmcache;
    vllm = await startEngine(environment, join(work, 'vllm-1.log'), rpcPort);
    check('vLLM starts with LMCacheMPConnector', true, `${(vllm.startMs / 1000).toFixed(0)} s`);
    const questions: Question[] = [];
    for (const length of options.lengths.split(',').map(Number)) {
      for (let run = 0; run < Number(options.runs); run += 1) {
        questions.push({ length, prompt: await recordPrompt(vllm, length, length + run) });
      }
    }
    const { cold, warm } = await scenario(vllm, ours, questions);

    // redis-server in the agent's place, under the same engine.
    await oracle.startPeer();
    await whileEngineKnows(vllm, ours.lmcache, () => oracle.startLmcache(rpcPort));
    const theirs = await scenario(vllm, oracle, questions);
    checkSame('computed anew, tokens and log-probabilities are the same', theirs.cold, cold);
    checkSame('the agent gives what redis-server gives', warm, theirs.warm);
    await zeroedValues(vllm, oracle, theirs.warm);

    // Another engine process finds what the first one stored.
    await vllm.kill9();
    await oracle.kill9();
    await ours.startLmcache(rpcPort);
    vllm = await startEngine(environment, join(work, 'vllm-2.log'), rpcPort);
    const crossed = await askWarm(vllm, ours, cold, 'engine and lmcache server killed', 'L2');
    checkSame('kvtier: and in another engine process', crossed, warm);
    await withoutPeer(vllm, ours, cold);
  } catch (error) {
    check('the lane runs to its end', false, Bun.inspect(error));
  } finally {
    await vllm?.kill9();
    await ours.kill9();
    await oracle.kill9();
  }
  printTimes();
}

await main();
if (options.keep || failed > 0) console.log(`Logs and data are in ${work}`);
else rmSync(work, { recursive: true, force: true });
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed > 0 || passed === 0 ? 1 : 0);
