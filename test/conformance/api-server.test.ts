import { afterEach, describe, expect, test } from 'vitest';
import { KvtierClient } from '#client/kvtier-client.ts';
import { listenHttp, type HttpListener } from '#host/http-listener.ts';
import { createApiHarness, putSampleChunks, type ApiHarness } from '#testsupport/api-harness.ts';

const servers: HttpListener[] = [];
afterEach(() => {
  for (const server of servers.splice(0)) server.stop();
});

/** The API behind a real listener on a free port of loopback. */
function listen(harness: ApiHarness): number {
  const listener = listenHttp({ host: '127.0.0.1', port: 0 }, (request) => harness.app.fetch(request));
  servers.push(listener);
  return listener.port;
}

/** Sends bytes as they are and reads until the other side closes. */
async function raw(port: number, text: string): Promise<string> {
  const received: string[] = [];
  let rest = Buffer.from(text);
  const send = (socket: { write(bytes: Uint8Array): number }): void => {
    rest = rest.subarray(Math.max(0, socket.write(rest)));
  };
  await new Promise<void>((resolve, reject) => {
    Bun.connect({
      hostname: '127.0.0.1',
      port,
      socket: {
        open: send,
        drain: send,
        data: (_, bytes) => void received.push(bytes.toString()),
        close: () => resolve(),
        error: (_, error) => reject(error),
      },
    }).catch(reject);
  });
  return received.join('');
}

const statusOf = (answer: string): number => Number(/^HTTP\/1\.1 (\d+)/.exec(answer)?.[1]);
const get = (path: string, headers: readonly string[]): string =>
  [`GET ${path} HTTP/1.1`, ...headers, 'Connection: close', '', ''].join('\r\n');

describe('the API behind a listener', () => {
  test('serves the client over the network', async () => {
    const harness = createApiHarness({ tokens: { admin: 'a' } });
    const { keys } = putSampleChunks(harness.control);
    const client = new KvtierClient({ baseUrl: `http://127.0.0.1:${listen(harness)}`, token: 'a' });
    expect((await client.lookup(keys)).hitCount).toBe(3);
    expect((await client.bumpEpoch('meta/llama-3')).matchedChunks).toBe(3);
    await expect(new KvtierClient({ baseUrl: client.baseUrl }).stats()).rejects.toMatchObject({ code: 'UNAUTHORIZED' });
  });

  test('a request without a Host, or with one that is none, is answered and is no bug', async () => {
    for (const tokens of [undefined, { admin: 'a' }]) {
      const harness = createApiHarness(tokens === undefined ? {} : { tokens });
      const port = listen(harness);
      const end = 'Connection: close\r\n\r\n';
      for (const path of ['/healthz', '/readyz']) expect(statusOf(await raw(port, `GET ${path} HTTP/1.0\r\n${end}`)), path).toBe(200);
      const wanted = tokens === undefined ? 200 : 401;
      expect(statusOf(await raw(port, `GET /v1/stats HTTP/1.0\r\n${end}`))).toBe(wanted);
      const body = '{"keys":["a"]}';
      const head = `Content-Type: application/json\r\nContent-Length: ${body.length}\r\n`;
      expect(statusOf(await raw(port, `POST /v1/lookup HTTP/1.0\r\n${head}${end}${body}`))).toBe(wanted);
      for (const method of ['GET', 'POST', 'PUT', 'DELETE', 'OPTIONS', 'HEAD', 'TRACE', 'CONNECT', 'PATCH']) {
        for (const path of ['/', '//', '/v1/stats', '/v1/invalidate', '/%zz?%zz', '/nope']) {
          const plain = await raw(port, `${method} ${path} HTTP/1.0\r\nOrigin: http://evil\r\n${end}`);
          expect(plain === '' || (statusOf(plain) >= 200 && statusOf(plain) < 500), `${method} ${path}: ${plain}`).toBe(true);
          for (const host of ['', 'a b', '[::1', 'localhost:99999', 'localhost/x?', '\u00ff', 'localhost, evil']) {
            const answer = await raw(port, `${method} ${path} HTTP/1.1\r\nHost: ${host}\r\n${end}`);
            expect(answer === '' || (statusOf(answer) >= 400 && statusOf(answer) < 500), `${method} ${path} ${host}: ${answer}`).toBe(true);
          }
        }
      }
      expect(harness.bugs).toEqual([]);
    }
  });

  test('a client that leaves within its body is no bug', async () => {
    const harness = createApiHarness();
    const port = listen(harness);
    const head = 'POST /v1/lookup HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n';
    const cut = [
      'Content-Length: 100\r\n\r\n{"keys"',
      'Transfer-Encoding: chunked\r\n\r\n5\r\n{"key\r\n',
      'Transfer-Encoding: chunked\r\n\r\n5\r\n{"key\r\nzz\r\n',
    ];
    for (const [index, rest] of cut.entries()) {
      const socket = await Bun.connect({ hostname: '127.0.0.1', port, socket: { data: () => undefined } });
      socket.write(head + rest);
      socket.end();
      // Counted once it is over; the loop is bounded by the test's own limit.
      const done = `kvtier_http_responses_total{route="/v1/lookup",status="400"} ${index + 1}`;
      while (harness.bugs.length === 0 && !(await (await harness.request('GET', '/metrics')).text()).includes(done))
        await new Promise((resolve) => setTimeout(resolve, 5));
    }
    expect(harness.bugs).toEqual([]);
  });

  test('a reader that leaves verify ends the run, and the next one may start', async () => {
    const harness = createApiHarness();
    putSampleChunks(harness.control);
    let open = (): void => undefined;
    harness.control.verifyGate = () => new Promise((resolve) => (open = resolve));
    const client = new KvtierClient({ baseUrl: `http://127.0.0.1:${listen(harness)}` });
    const run = client.verify();
    expect((await run.next()).value).toMatchObject({ checkedFiles: 1 });
    await run.return();
    open();
    harness.control.verifyGate = () => Promise.resolve();
    // The server learns of the closed connection in its own time: asked until it has, bounded by the test's own limit.
    let done = false;
    while (!done) {
      const again = await client
        .verify()
        .next()
        .catch((error: unknown) => error);
      done = !(again instanceof Error);
    }
    expect(harness.control.endedVerifies).toBeGreaterThanOrEqual(1);
  });

  test('judges the Host header as it is on the wire', async () => {
    const port = listen(createApiHarness());
    expect(statusOf(await raw(port, get('/v1/stats', [`Host: 127.0.0.1:${port}`])))).toBe(200);
    expect(statusOf(await raw(port, get('/v1/stats', [`Host: evil.example:${port}`])))).toBe(403);
    expect(statusOf(await raw(port, get(`http://127.0.0.1:${port}/v1/stats`, ['Host: evil.example'])))).not.toBe(200);
  });

  test('a body over the limit is refused on its announced length, before it arrives', async () => {
    const port = listen(createApiHarness());
    const head = [
      'POST /v1/lookup HTTP/1.1',
      `Host: 127.0.0.1:${port}`,
      'Content-Type: application/json',
      'Content-Length: 10000000',
      'Connection: close',
      '',
      '{',
    ].join('\r\n');
    expect(statusOf(await raw(port, head))).toBe(413);
  });

  test('a body over the limit in pieces of unannounced length is refused too', async () => {
    const port = listen(createApiHarness());
    const piece = `10000\r\n${' '.repeat(0x10000)}\r\n`;
    const head = [
      'POST /v1/lookup HTTP/1.1',
      `Host: 127.0.0.1:${port}`,
      'Content-Type: application/json',
      'Transfer-Encoding: chunked',
      'Connection: close',
      '',
      '',
    ].join('\r\n');
    const answer = await raw(port, head + piece.repeat(20) + '0\r\n\r\n');
    expect(statusOf(answer)).toBe(413);
    expect(answer).toContain('PAYLOAD_TOO_LARGE');
  });
});

describe('peers that take their time', () => {
  /** Answers after longer than a peer may be idle. */
  function listenSlow(handle: (request: Request) => Promise<Response>): number {
    const listener = listenHttp({ host: '127.0.0.1', port: 0 }, handle, { idleSeconds: 2 });
    servers.push(listener);
    return listener.port;
  }
  const patiently = async (request: Request): Promise<Response> => {
    const text = await request.text();
    await new Promise((resolve) => setTimeout(resolve, 6000));
    return new Response(`late ${text}`);
  };
  const post = 'POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\n';

  test('who sends half a request is closed, who waits for his answer is not', { timeout: 60_000 }, async () => {
    const port = listenSlow(patiently);
    const began = performance.now();
    const [half, head, whole, bare] = await Promise.all([
      raw(port, `${post}ab`),
      raw(port, 'GET / HTTP/1.1\r\nHost: a'),
      raw(port, `${post}abc`),
      raw(port, 'GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n'),
    ]);
    expect([half, head]).toEqual(['', '']);
    expect(whole).toContain('late abc');
    expect(bare).toContain('late ');
    expect(performance.now() - began).toBeLessThan(30_000);
  });

  test('a connection that asks nothing more is closed', { timeout: 60_000 }, async () => {
    const port = listenSlow(() => Promise.resolve(new Response('done')));
    expect(await raw(port, 'GET / HTTP/1.1\r\nHost: a\r\n\r\n')).toContain('done');
  });

  test('a stream that is slow is read to its end', { timeout: 60_000 }, async () => {
    const lines = new ReadableStream<Uint8Array>({
      async start(controller) {
        for (let line = 0; line < 4; line += 1) {
          controller.enqueue(new TextEncoder().encode(`line ${line}\n`));
          await new Promise((resolve) => setTimeout(resolve, 1500));
        }
        controller.close();
      },
    });
    const headers = { 'content-type': 'application/x-ndjson' };
    const port = listenSlow(() => Promise.resolve(new Response(lines, { headers })));
    expect(await raw(port, 'GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')).toContain('line 3');
  });
});
