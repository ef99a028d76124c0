/** A real vLLM on the CPU, for the engine lanes: greedy, small, without its own prefix cache, so that what is reused comes from the connector. */
import { answersGet, eventually, startEngineProcess } from '#testsupport/engine-process.ts';
import type { EngineProcess } from '#testsupport/engine-process.ts';
import { freePort } from '#testsupport/free-port.ts';
import type { EngineEnvironment } from '#testsupport/engine-environment.ts';

export interface VllmStart {
  readonly environment: EngineEnvironment;
  readonly logPath: string;
  /** The value of --kv-transfer-config; without it vLLM runs without a connector. */
  readonly kvTransferConfig?: object;
  readonly flags?: readonly string[];
  readonly variables?: Readonly<Record<string, string>>;
}

export interface Completion {
  readonly text: string;
  /** The log-probability of each token that was generated. */
  readonly logprobs: readonly number[];
  readonly promptTokens: number;
  /** Tokens of the prompt that were not computed. */
  readonly cachedTokens: number;
  /** From the request to its first token. */
  readonly ttftMs: number;
}

export interface RunningVllm extends EngineProcess {
  readonly port: number;
  /** From the start of the process to its first healthy answer. */
  readonly startMs: number;
  tokenize(text: string): Promise<readonly number[]>;
  /** Greedy. Throws where vLLM answers with an error or not at all. */
  complete(promptTokens: readonly number[], maxTokens?: number): Promise<Completion>;
}

/** Seconds on an idle machine, minutes on a loaded one: three processes that import torch. */
const START_PATIENCE_MS = 300_000;
const ANSWER_PATIENCE_MS = 240_000;
const GENERATED_TOKENS = 24;
/** Room for a prompt of 4,096 tokens and what follows; a multiple of vLLM's block on CPUs (128). */
const MAX_MODEL_LEN = 4352;

interface StreamedCompletion {
  readonly choices?: readonly { readonly text: string; readonly logprobs?: { readonly token_logprobs: readonly number[] } | null }[];
  readonly usage?: { readonly prompt_tokens: number; readonly prompt_tokens_details?: { readonly cached_tokens?: number } | null } | null;
  readonly error?: unknown;
}

/** Resolves when it is ready; throws with the end of its log where it is not. */
export async function startVllm({ environment, logPath, kvTransferConfig, flags = [], variables = {} }: VllmStart): Promise<RunningVllm> {
  const port = await freePort();
  const startedAt = performance.now();
  const transfer = kvTransferConfig === undefined ? [] : ['--kv-transfer-config', JSON.stringify(kvTransferConfig)];
  const server = startEngineProcess({
    logPath,
    argv: [
      environment.program('vllm'),
      'serve',
      environment.model,
      ...['--served-model-name', 'smollm2', '--host', '127.0.0.1', '--port', String(port)],
      ...['--dtype', 'bfloat16', '--max-model-len', String(MAX_MODEL_LEN), '--max-num-seqs', '4', '--enforce-eager'],
      ...['--no-enable-prefix-caching', '--disable-hybrid-kv-cache-manager', '--enable-prompt-tokens-details'],
      ...transfer,
      ...flags,
    ],
    variables: {
      ...environment.variables,
      VLLM_CPU_KVCACHE_SPACE: '1',
      VLLM_HOST_IP: '127.0.0.1',
      GLOO_SOCKET_IFNAME: 'lo',
      ...variables,
    },
  });
  const url = `http://127.0.0.1:${port}`;
  try {
    await eventually('a healthy vLLM', START_PATIENCE_MS, async () => {
      if (!server.alive()) throw new Error('vLLM ended');
      return (await answersGet(`${url}/health`)) || undefined;
    });
  } catch (error) {
    await server.kill9();
    throw new Error(`vLLM does not start; the end of ${logPath}:\n${server.log().slice(-3_000)}`, { cause: error });
  }
  return {
    ...server,
    port,
    startMs: performance.now() - startedAt,
    async tokenize(text) {
      const answer = await post(`${url}/tokenize`, { model: 'smollm2', prompt: text });
      return ((await answer.json()) as { tokens: number[] }).tokens;
    },
    complete: (promptTokens, maxTokens = GENERATED_TOKENS) => complete(url, promptTokens, maxTokens),
  };
}

async function post(url: string, body: object): Promise<Response> {
  const answer = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(ANSWER_PATIENCE_MS),
  });
  if (!answer.ok) throw new Error(`POST ${url} answered ${answer.status}: ${(await answer.text()).slice(0, 300)}`);
  return answer;
}

async function complete(url: string, prompt: readonly number[], maxTokens: number): Promise<Completion> {
  const sentAt = performance.now();
  const answer = await post(`${url}/v1/completions`, {
    model: 'smollm2',
    prompt,
    max_tokens: maxTokens,
    temperature: 0,
    ignore_eos: true,
    logprobs: 1,
    stream: true,
    stream_options: { include_usage: true },
  });
  let ttftMs = Number.NaN;
  let text = '';
  const logprobs: number[] = [];
  let usage: StreamedCompletion['usage'];
  for await (const event of events(answer)) {
    if (event.error !== undefined) throw new Error(`vLLM failed in the middle of an answer: ${JSON.stringify(event.error)}`);
    usage = event.usage ?? usage;
    const [choice] = event.choices ?? [];
    if (choice === undefined) continue;
    if (Number.isNaN(ttftMs)) ttftMs = performance.now() - sentAt;
    text += choice.text;
    logprobs.push(...(choice.logprobs?.token_logprobs ?? []));
  }
  if (usage === undefined || usage === null || logprobs.length === 0)
    throw new Error(`vLLM ended its answer early, after ${JSON.stringify(text)}`);
  const cachedTokens = usage.prompt_tokens_details?.cached_tokens ?? 0;
  return { text, logprobs, promptTokens: usage.prompt_tokens, cachedTokens, ttftMs };
}

/** The events of a text/event-stream whose data is JSON, up to `[DONE]`. */
async function* events(answer: Response): AsyncGenerator<StreamedCompletion> {
  if (answer.body === null) throw new Error('vLLM answered without a body');
  let rest = '';
  for await (const text of answer.body.pipeThrough(new TextDecoderStream())) {
    rest += text;
    const lines = rest.split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) {
      if (line.startsWith('data: {')) yield JSON.parse(line.slice('data: '.length)) as StreamedCompletion;
    }
  }
}
