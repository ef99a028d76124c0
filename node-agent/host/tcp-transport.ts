/** Transport on Bun.listen. */
import type { Socket } from 'bun';
import type { Fd } from '#core/brand.ts';
import { KvtierError } from '#core/errors.ts';
import type { ConnectionHandler, Listener, Transport, TransportSocket } from '#ports/transport.ts';
import { SHUT_RDWR, libc } from './libc.ts';

interface Connection {
  readonly host: HostSocket;
}

class HostSocket implements TransportSocket {
  readonly #socket: Socket<Connection>;
  readonly remoteAddress: string;
  #closed = false;
  /** Undefined only while `accept` decides; it may close the socket, and Bun tells so before `accept` has returned. */
  #handler: ConnectionHandler | undefined;

  constructor(socket: Socket<Connection>) {
    this.#socket = socket;
    this.remoteAddress = socket.remoteAddress;
  }

  /** The owner of the connection; told at once where it is closed already. */
  attach(handler: ConnectionHandler): void {
    this.#handler = handler;
    if (this.#closed) handler.onClose();
  }

  get handler(): ConnectionHandler | undefined {
    return this.#handler;
  }

  get fd(): Fd {
    return (this.#closed ? -1 : this.#fdNumber()) as Fd;
  }

  // Bun has `fd` on TCP sockets; its type does not say so.
  #fdNumber(): number {
    return (this.#socket as unknown as { readonly fd: number }).fd;
  }

  write(bytes: Uint8Array): number {
    return this.#closed ? bytes.length : Math.max(0, this.#socket.write(bytes));
  }

  pause(): void {
    if (!this.#closed) this.#socket.pause();
  }

  resume(): void {
    if (!this.#closed) this.#socket.resume();
  }

  end(): void {
    if (!this.#closed) this.#socket.end();
  }

  terminate(): void {
    if (this.#closed) return;
    // Ends transfers on duplicates too: closing this descriptor alone would leave the connection open for them.
    const fd = this.#fdNumber();
    if (fd >= 0) libc.shutdown(fd, SHUT_RDWR);
    this.#socket.terminate();
  }

  /** Bun may tell twice: of an end that it made and of one that it saw. */
  onClose(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#handler?.onClose();
  }
}

export class TcpTransport implements Transport {
  listen(address: { readonly host: string; readonly port: number }, accept: (socket: TransportSocket) => ConnectionHandler): Listener {
    try {
      const server = Bun.listen<Connection>({
        hostname: address.host,
        port: address.port,
        socket: {
          open(socket) {
            socket.setNoDelay(true);
            const host = new HostSocket(socket);
            socket.data = { host };
            host.attach(accept(host));
          },
          data: (socket, chunk) => socket.data.host.handler?.onData(chunk),
          drain: (socket) => socket.data.host.handler?.onDrain(),
          close: (socket) => socket.data.host.onClose(),
          end: (socket) => void socket.end(),
          // Bun calls this for what our own handlers threw: a bug, which must not end as a closed socket.
          error: (_, problem) =>
            queueMicrotask(() => {
              throw problem;
            }),
        },
      });
      return { host: address.host, port: server.port, stop: () => server.stop(false) };
    } catch (problem) {
      throw new KvtierError('ADDRESS_IN_USE', `Cannot listen on ${address.host}:${address.port}: ${String(problem)}`, {
        context: { host: address.host, port: address.port },
        cause: problem,
      });
    }
  }
}
