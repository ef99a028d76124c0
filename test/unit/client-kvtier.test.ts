import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { errorOfResponse } from '#client/error-of-response.ts';
import { KvtierClient, type FetchLike } from '#client/kvtier-client.ts';
import { parseNdjson } from '#client/ndjson.ts';
import { errorTable, KvtierError, type ErrorCode } from '#core/errors.ts';
import { problemOf } from '#protocol/rest/problem.ts';

function streamOf(pieces: readonly Uint8Array[], onCancel: () => void = () => undefined): ReadableStream<Uint8Array> {
  const rest = [...pieces];
  return new ReadableStream({
    pull(controller) {
      const piece = rest.shift();
      if (piece === undefined) controller.close();
      else controller.enqueue(piece);
    },
    cancel: onCancel,
  });
}

async function collect(stream: ReadableStream<Uint8Array>): Promise<unknown[]> {
  const lines: unknown[] = [];
  for await (const line of parseNdjson(stream)) lines.push(line);
  return lines;
}

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const codeOf = async (work: Promise<unknown>): Promise<ErrorCode> => {
  const error: unknown = await work.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof KvtierError)) throw new Error(`Wanted a KvtierError, got ${String(error)}`);
  return error.code;
};

describe('parseNdjson', () => {
  test('gives the same lines wherever the stream is cut', async () => {
    const values = fc.array(fc.oneof(fc.record({ text: fc.string({ unit: 'grapheme' }) }), fc.integer()), { maxLength: 5 });
    await fc.assert(
      fc.asyncProperty(
        values,
        fc.array(fc.integer({ min: 1, max: 7 }), { minLength: 1 }),
        fc.boolean(),
        async (lines, sizes, newlineAtEnd) => {
          const whole = bytes(lines.map((line) => JSON.stringify(line)).join('\n') + (newlineAtEnd ? '\n\n' : ''));
          const pieces: Uint8Array[] = [];
          for (let offset = 0, turn = 0; offset < whole.length; turn += 1) {
            const size = sizes[turn % sizes.length] ?? 1;
            pieces.push(whole.subarray(offset, offset + size));
            offset += size;
          }
          expect(await collect(streamOf(pieces))).toEqual(lines);
        },
      ),
      { numRuns: 100 },
    );
  });

  test('fails with IO_FAILED on a line that is no JSON, also a truncated last one', async () => {
    expect(await codeOf(collect(streamOf([bytes('{"a":1}\n{"a"')])))).toBe('IO_FAILED');
  });

  test('fails with IO_FAILED on a line without end', async () => {
    const piece = new Uint8Array(1024 * 1024).fill(0x20);
    expect(await codeOf(collect(streamOf(Array.from({ length: 17 }, () => piece))))).toBe('IO_FAILED');
  });

  test('cancels the stream when the reader stops early', async () => {
    let cancelled = false;
    for await (const line of parseNdjson(streamOf([bytes('1\n'), bytes('2\n'), bytes('3\n')], () => (cancelled = true))))
      if (line === 1) break;
    expect(cancelled).toBe(true);
  });

  test('fails with IO_FAILED where the stream breaks', async () => {
    const broken = new ReadableStream<Uint8Array>({ pull: (controller) => controller.error(new Error('reset')) });
    expect(await codeOf(collect(broken))).toBe('IO_FAILED');
  });
});

describe('errorOfResponse', () => {
  test('turns the problem of every code back into an error of that code', async () => {
    for (const code of Object.keys(errorTable) as ErrorCode[]) {
      const problem = problemOf(code, 'What happened');
      const error = await errorOfResponse('GET /x', new Response(JSON.stringify(problem), { status: problem.status }));
      expect([error.code, error.message, error.retryable]).toEqual([code, 'What happened', errorTable[code].retryable]);
    }
  });

  test('tells the fields that failed', async () => {
    const problem = problemOf('BAD_REQUEST', 'No fit', [
      { path: 'selector.model', message: 'Too big' },
      { path: '', message: 'Empty' },
    ]);
    expect((await errorOfResponse('x', Response.json(problem, { status: 400 }))).message).toBe('No fit; selector.model: Too big; Empty');
  });

  test('falls back to the status where the body is no problem of a known code', async () => {
    const newer = { ...problemOf('NOT_FOUND', 'x'), code: 'OF_A_NEWER_AGENT' };
    expect((await errorOfResponse('x', Response.json(newer, { status: 404 }))).code).toBe('NOT_FOUND');
    expect((await errorOfResponse('x', new Response('<html>', { status: 502 }))).code).toBe('IO_FAILED');
    expect((await errorOfResponse('x', new Response(null, { status: 401 }))).code).toBe('UNAUTHORIZED');
  });
});

describe('KvtierClient', () => {
  const clientOf = (fetch: FetchLike): KvtierClient => new KvtierClient({ baseUrl: 'http://node:7600/prefix/', token: 'secret', fetch });

  test('keeps a path prefix, sends the token, encodes parameters and follows no redirect', async () => {
    const seen: { url: string; init: RequestInit }[] = [];
    const client = clientOf(async (url, init) => {
      seen.push({ url, init });
      return new Response('', { status: 302, headers: { location: 'http://elsewhere/' } });
    });
    expect(await codeOf(client.bumpEpoch('meta/llama 3%?#'))).toBe('IO_FAILED');
    expect(await codeOf(client.chunks({ keyPrefix: 'a&b=c', limit: 5 }))).toBe('IO_FAILED');
    expect(seen.map(({ url }) => url)).toEqual([
      'http://node:7600/prefix/v1/namespaces/meta%2Fllama%203%25%3F%23/epoch',
      'http://node:7600/prefix/v1/chunks?keyPrefix=a%26b%3Dc&limit=5',
    ]);
    expect(new Headers(seen[0]?.init.headers).get('authorization')).toBe('Bearer secret');
    expect(seen.every(({ init }) => init.redirect === 'manual')).toBe(true);
  });

  test('refuses path parameters that a URL cannot carry, before it sends anything', async () => {
    const client = clientOf(() => Promise.reject(new Error('must not be called')));
    for (const model of ['', '.', '..', '\ud800']) expect(await codeOf(client.bumpEpoch(model))).toBe('BAD_REQUEST');
  });

  test('says IO_FAILED where nothing listens, without the token in the message', async () => {
    const error: unknown = await clientOf(() => Promise.reject(new Error('refused')))
      .stats()
      .then(undefined, (thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: 'IO_FAILED' });
    expect(String(error)).not.toContain('secret');
  });

  test('says IO_FAILED where the answer is not of this API', async () => {
    for (const body of ['<html>', '{}', 'null', '[1]', '{"version":1}']) {
      expect(await codeOf(clientOf(async () => new Response(body)).stats()), body).toBe('IO_FAILED');
    }
  });

  test('takes fields that a newer agent adds', async () => {
    const health = { state: 'ready', reasons: [], mood: 'fine' };
    expect(await clientOf(async () => Response.json(health)).readiness()).toEqual({ state: 'ready', reasons: [] });
  });

  test("passes the caller's abort on", async () => {
    const controller = new AbortController();
    const client = clientOf(
      (_, init) => new Promise((_resolve, reject) => init.signal?.addEventListener('abort', () => reject(new Error('aborted')))),
    );
    const call = client.stats({ signal: controller.signal });
    controller.abort();
    expect(await codeOf(call)).toBe('IO_FAILED');
  });

  test('verify fails with the problem that ends the stream, and with IO_FAILED where it just ends', async () => {
    const progress = { checkedFiles: 1, totalFiles: 2, checkedBytes: 3, mismatches: [], done: false };
    const run = async (lines: readonly unknown[]): Promise<number> => {
      const text = lines.map((line) => `${JSON.stringify(line)}\n`).join('');
      let count = 0;
      for await (const _ of clientOf(async () => new Response(text)).verify()) count += 1;
      return count;
    };
    expect(await run([progress, { ...progress, done: true }])).toBe(2);
    expect(await codeOf(run([progress]))).toBe('IO_FAILED');
    expect(await codeOf(run([progress, { problem: problemOf('NO_SPACE', 'full') }]))).toBe('NO_SPACE');
    expect(await codeOf(run([progress, { other: 1 }]))).toBe('IO_FAILED');
  });
});
