/** HTTP on Bun.serve. */
import { KvtierError } from '#core/errors.ts';
import type { TlsFiles } from './tls-files.ts';

export interface HttpListener {
  readonly host: string;
  readonly port: number;
  /** Accepts nobody until `resume`; requests under way go on. */
  pause(): void;
  /** On the same port. False where somebody else took it. */
  resume(): boolean;
  /** Closes at once; requests under way are cut. */
  stop(): void;
}

/** Seconds in which a peer must send its request, and after which a connection that asks nothing more is closed. */
const IDLE_SECONDS = 60;
/** Sent bit by bit for as long as the work takes. */
const STREAMS = 'application/x-ndjson';

export interface HttpOptions {
  readonly tls?: TlsFiles | undefined;
  /** For tests; at most 255. */
  readonly idleSeconds?: number;
}

/**
 * Who does not send the whole of a request is closed after a while. Its answer may take as long as it likes: persist and invalidate wait
 * for I/O without sending a byte.
 */
export function listenHttp(
  address: { readonly host: string; readonly port: number },
  handle: (request: Request) => Response | Promise<Response>,
  { tls, idleSeconds = IDLE_SECONDS }: HttpOptions = {},
): HttpListener {
  try {
    const base = `${tls === undefined ? 'http' : 'https'}://${address.host.includes(':') ? `[${address.host}]` : address.host}`;
    const serve = (port: number): ReturnType<typeof Bun.serve> =>
      Bun.serve({
        hostname: address.host,
        port,
        idleTimeout: idleSeconds,
        fetch: async (request, bun) => {
          const whole = withWholeUrl(request, base);
          if (whole === undefined) return new Response(null, { status: 400 });
          const response = await handle(
            whenWhole(whole, () => {
              bun.timeout(request, 0);
            }),
          );
          // Bun counts from here, and not from the last byte that is sent.
          if (response.headers.get('content-type') !== STREAMS) bun.timeout(request, idleSeconds);
          return response;
        },
        ...(tls === undefined ? {} : { tls: { cert: tls.cert, key: tls.key } }),
      });
    let server = serve(address.port);
    let paused = false;
    const port = server.port ?? address.port;
    return {
      host: address.host,
      port,
      pause() {
        paused = true;
        void server.stop(false);
      },
      resume() {
        if (!paused) return true;
        try {
          server = serve(port);
          paused = false;
          return true;
        } catch {
          // In use by another program, or no descriptor after all: the caller tries again.
          return false;
        }
      },
      stop: () => void server.stop(true),
    };
  } catch (problem) {
    throw new KvtierError('ADDRESS_IN_USE', `Cannot listen on ${address.host}:${address.port}: ${String(problem)}`, {
      context: { host: address.host, port: address.port },
      cause: problem,
    });
  }
}

/** The same request, which says when all of it has been read. */
function whenWhole(request: Request, tell: () => void): Request {
  if (request.body === null) {
    tell();
    return request;
  }
  const body = request.body.pipeThrough(new TransformStream<Uint8Array, Uint8Array>({ flush: tell }));
  return new Request(request, { method: request.method, body, duplex: 'half' });
}

/**
 * Where no Host header makes a URL of the target, as HTTP/1.0 allows (load balancers ask for health so), `request.url` is the bare
 * path, which is no URL: then it is that of the door. The header stays as it came, for whoever judges it. Undefined: no URL at all.
 */
function withWholeUrl(request: Request, base: string): Request | undefined {
  if (URL.canParse(request.url)) return request;
  const url = request.url.startsWith('/') ? URL.parse(`${base}${request.url}`) : null;
  return url === null || request.method === 'TRACE' || request.method === 'CONNECT' ? undefined : new Request(url.href, request);
}
