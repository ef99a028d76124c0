/** Reader of the trace files in test/fixtures/traces (their README says where they come from). */
import { readFileSync } from 'node:fs';
import { assert } from '#core/assert.ts';

interface TraceRequest {
  readonly timestampMs: number;
  readonly inputTokens: number;
  readonly outputTokens: number;
  /** One id per block of the prompt in prefix order, chained, so that equal ids have equal prefixes. Empty: no prompt. */
  readonly blockIds: readonly number[];
}

export interface Trace {
  readonly name: string;
  /** Tokens of a whole block; the last block of a request may hold fewer. */
  readonly blockTokens: number;
  readonly requests: readonly TraceRequest[];
  readonly uniqueBlockCount: number;
  readonly requestedBlockCount: number;
}

const traceFiles = {
  synthetic: { file: 'synthetic_trace.jsonl', blockTokens: 512 },
  'lmcache-agent': { file: 'lmcache_agent_256.jsonl', blockTokens: 256 },
} as const;

export type TraceName = keyof typeof traceFiles;

/** Reads a trace of the fixtures. */
export function readTrace(name: TraceName): Trace {
  const { file, blockTokens } = traceFiles[name];
  const path = new URL(`../fixtures/traces/${file}`, import.meta.url);
  return { name, blockTokens, ...parseTrace(readFileSync(path, 'utf8'), blockTokens) };
}

/** Parses one JSON object a line; throws InvariantError with the line number where a line is not a request. */
export function parseTrace(text: string, blockTokens: number): Omit<Trace, 'name' | 'blockTokens'> {
  const requests: TraceRequest[] = [];
  const unique = new Set<number>();
  let requestedBlockCount = 0;
  text.split('\n').forEach((line, index) => {
    if (line.trim() === '') return;
    const raw: unknown = JSON.parse(line);
    assert(isRequest(raw), `Trace line ${index + 1} is not a request`);
    const blockIds = raw.hash_ids;
    // One trace gives a partial last block an id, the other leaves it out.
    const partial = raw.input_length / blockTokens - blockIds.length;
    assert(Math.abs(partial) < 1, `Trace line ${index + 1} has ${blockIds.length} blocks for ${raw.input_length} tokens`);
    for (const id of blockIds) unique.add(id);
    requestedBlockCount += blockIds.length;
    requests.push({ timestampMs: raw.timestamp, inputTokens: raw.input_length, outputTokens: raw.output_length, blockIds });
  });
  return { requests, uniqueBlockCount: unique.size, requestedBlockCount };
}

interface RawRequest {
  readonly timestamp: number;
  readonly input_length: number;
  readonly output_length: number;
  readonly hash_ids: readonly number[];
}

function isRequest(raw: unknown): raw is RawRequest {
  if (typeof raw !== 'object' || raw === null) return false;
  const { timestamp, input_length, output_length, hash_ids } = raw as Record<string, unknown>;
  const numbers = [timestamp, input_length, output_length].every((value) => Number.isFinite(value));
  return numbers && Array.isArray(hash_ids) && hash_ids.every((id) => Number.isSafeInteger(id) && id >= 0);
}
