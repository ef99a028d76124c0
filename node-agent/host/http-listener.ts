/** HTTP on Bun.serve. */
import { KvtierError } from '#core/errors.ts';

export interface HttpListener {
  readonly host: string;
  readonly port: number;
  /** Closes at once; requests under way are cut. */
  stop(): void;
}

/** `idleTimeout` is off: persist and invalidate wait for I/O without sending a byte. */
export function listenHttp(
  address: { readonly host: string; readonly port: number },
  handle: (request: Request) => Response | Promise<Response>,
): HttpListener {
  try {
    const server = Bun.serve({ hostname: address.host, port: address.port, idleTimeout: 0, fetch: handle });
    return { host: address.host, port: server.port ?? address.port, stop: () => void server.stop(true) };
  } catch (problem) {
    throw new KvtierError('ADDRESS_IN_USE', `Cannot listen on ${address.host}:${address.port}: ${String(problem)}`, {
      context: { host: address.host, port: address.port },
      cause: problem,
    });
  }
}
