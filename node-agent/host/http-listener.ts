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

/** `idleTimeout` is off: persist and invalidate wait for I/O without sending a byte. */
export function listenHttp(
  address: { readonly host: string; readonly port: number },
  handle: (request: Request) => Response | Promise<Response>,
  tls?: TlsFiles,
): HttpListener {
  try {
    const serve = (port: number): ReturnType<typeof Bun.serve> =>
      Bun.serve({
        hostname: address.host,
        port,
        idleTimeout: 0,
        fetch: handle,
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
