/**
 * Reader of traces in the format of the Mooncake release: one JSON object a line with `timestamp` (ms) and `hash_ids` (one number a
 * block of the prompt, prefix-chained); `input_length` and `output_length` (tokens), where they are there. Read as a stream, and
 * bounded, since anybody's file may be given.
 *
 * Source: https://github.com/kvcache-ai/Mooncake, FAST25-release.
 */
import { compact } from '#testsupport/policy-table.ts';
import type { CompactTrace } from '#testsupport/policy-table.ts';
import { MiB } from '#core/bytes.ts';

export interface TraceLimits {
  readonly lineBytes: number;
  readonly blocksOfRequest: number;
  readonly requests: number;
  readonly blocks: number;
}

/** 2^28 blocks are a GiB of block numbers. */
export const traceLimits: TraceLimits = { lineBytes: 16 * MiB, blocksOfRequest: 2 ** 20, requests: 2 ** 22, blocks: 2 ** 28 };

export class TraceError extends Error {}

/** Throws TraceError, which names the file and the line, where one is not a request or the file is larger than the limits. */
export async function readTraceFile(path: string, limits: TraceLimits = traceLimits): Promise<CompactTrace> {
  const file = Bun.file(path);
  if (!(await file.exists())) throw new TraceError(`Cannot read ${path}: there is no such file`);
  const reader = new LineReader(path, limits);
  const decoder = new TextDecoder('utf-8', { fatal: true });
  let rest = '';
  try {
    for await (const bytes of file.stream()) {
      rest += decoder.decode(bytes, { stream: true });
      const lines = rest.split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) reader.take(line);
      if (rest.length > limits.lineBytes) reader.fail(`the line is longer than ${limits.lineBytes} characters`);
    }
    reader.take(rest + decoder.decode());
  } catch (problem) {
    if (problem instanceof TraceError) throw problem;
    throw new TraceError(`Cannot read ${path}: ${problem instanceof Error ? problem.message : String(problem)}`);
  }
  if (reader.requests.length === 0) throw new TraceError(`Cannot use ${path}: it has no request`);
  return compact(path.split('/').at(-1) ?? path, reader.requests);
}

class LineReader {
  readonly #path: string;
  readonly #limits: TraceLimits;
  readonly requests: { readonly timestampMs: number; readonly blockIds: Float64Array }[] = [];
  #lineNumber = 0;
  #blocks = 0;

  constructor(path: string, limits: TraceLimits) {
    this.#path = path;
    this.#limits = limits;
  }

  fail(why: string): never {
    throw new TraceError(`Cannot use ${this.#path}, line ${this.#lineNumber + 1}: ${why}`);
  }

  take(line: string): void {
    const limits = this.#limits;
    if (line.length > limits.lineBytes) this.fail(`the line is longer than ${limits.lineBytes} characters`);
    if (line.trim() !== '') {
      const request = this.#parse(line);
      this.#blocks += request.blockIds.length;
      if (this.requests.length >= limits.requests) this.fail(`more than ${limits.requests} requests`);
      if (this.#blocks > limits.blocks) this.fail(`more than ${limits.blocks} blocks in all requests`);
      this.requests.push(request);
    }
    this.#lineNumber += 1;
  }

  #parse(line: string): { readonly timestampMs: number; readonly blockIds: Float64Array } {
    let raw: unknown;
    try {
      raw = JSON.parse(line);
    } catch (problem) {
      this.fail(`not JSON: ${problem instanceof Error ? problem.message : String(problem)}`);
    }
    if (typeof raw !== 'object' || raw === null || Array.isArray(raw)) this.fail('an object is wanted');
    const { timestamp, hash_ids: ids, input_length: input, output_length: output } = raw as Record<string, unknown>;
    if (!isAmount(timestamp)) this.fail('timestamp is no number of milliseconds');
    if (input !== undefined && !isAmount(input)) this.fail('input_length is no number of tokens');
    if (output !== undefined && !isAmount(output)) this.fail('output_length is no number of tokens');
    if (!Array.isArray(ids)) this.fail('hash_ids is no array');
    if (ids.length > this.#limits.blocksOfRequest)
      this.fail(`hash_ids has ${ids.length} blocks, at most ${this.#limits.blocksOfRequest} are taken`);
    const bad = ids.findIndex((id) => !Number.isSafeInteger(id) || (id as number) < 0);
    if (bad >= 0) this.fail(`hash_ids[${bad}] is no whole number from 0 to 2^53`);
    return { timestampMs: timestamp, blockIds: Float64Array.from(ids as number[]) };
  }
}

function isAmount(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0;
}
