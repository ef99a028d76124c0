/**
 * Transport on Bun.listen. While a socket sips, Bun does not read it at all: Readiness tells of bytes, and this file takes a few.
 *
 * Invariants: one of Bun and `#sip` reads a socket, never both; while it is paused neither does; a socket that sips is disarmed
 * before it is closed; an end or an error is always left to Bun.
 */
import type { Socket, TCPSocketListener } from 'bun';
import type { Fd } from '#core/brand.ts';
import { KvtierError } from '#core/errors.ts';
import type { ConnectionHandler, Listener, Transport, TransportSocket } from '#ports/transport.ts';
import type { FrontSlot } from './front-state.ts';
import type { Readiness } from './readiness.ts';
import type { TlsFiles } from './tls-files.ts';
import { EAGAIN, EINTR, SHUT_RDWR, addressOf, errno, libc } from './libc.ts';

/** Quiet for so long, the kernel asks whether the peer is still there; some ten minutes later, by its defaults, it gives up. */
const KEEP_ALIVE_MS = 60_000;

export interface Connection {
  readonly host: HostSocket;
}

export class HostSocket implements TransportSocket {
  readonly #socket: Socket<Connection>;
  readonly remoteAddress: string;
  readonly direct: boolean;
  #closed = false;
  /** Undefined only while `accept` decides; it may close the socket, and Bun tells so before `accept` has returned. */
  #handler: ConnectionHandler | undefined;

  readonly #readiness: Readiness | undefined;
  /** Names the socket in #readiness; 0 as long as it never sipped. */
  #readinessId = 0;
  #sipBytes = 0;
  #paused = false;
  #armed = false;
  #lookMs = 0;
  #looking = false;
  #lookUntilMs = 0;
  #left = false;

  /** Undefined where the connection ends with the process. */
  readonly #slot: FrontSlot | undefined;
  readonly resumed: string | undefined;
  readonly #onBuffer: (bytes: number) => void;

  /** Without `readiness` it does not sip; under TLS nobody but Bun may read it. `onBuffer` as in TcpTransport, for what is written. */
  constructor(
    socket: Socket<Connection>,
    options: {
      readonly readiness: Readiness | undefined;
      readonly direct: boolean;
      readonly slot?: FrontSlot;
      readonly onBuffer: (bytes: number) => void;
    },
  ) {
    const { readiness, direct } = options;
    this.#onBuffer = options.onBuffer;
    this.#slot = options.slot;
    this.resumed = options.slot?.resumed;
    this.direct = direct;
    this.#socket = socket;
    this.#readiness = direct ? readiness : undefined;
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
    if (this.#closed) return bytes.length;
    const written = Math.max(0, this.#socket.write(bytes));
    this.#onBuffer(written);
    return written;
  }

  pause(): void {
    if (this.#closed) return;
    this.#paused = true;
    if (this.#sipBytes === 0) this.#socket.pause();
  }

  resume(): void {
    if (this.#closed) return;
    this.#paused = false;
    if (this.#sipBytes === 0) this.#socket.resume();
    else this.#arm();
  }

  sip(maxBytes: number, lookMs = 0): void {
    if (this.#closed || this.#readiness === undefined) return;
    // Where Bun never reads, 0 bytes are sips too, of a peer that is not waited for.
    this.#lookMs = maxBytes === 0 ? 0 : lookMs;
    const sips = this.#sipBytes > 0;
    this.#sipBytes = maxBytes === 0 && this.#slot !== undefined ? sipBuffer.length : maxBytes;
    if (sips === this.#sipBytes > 0) return;
    if (this.#sipBytes === 0) return this.#leaveToBun();
    if (this.#readinessId === 0) this.#readinessId = this.#readiness.nextId();
    this.#socket.pause();
    if (!this.#paused) this.#arm();
  }

  #leaveToBun(): void {
    this.#sipBytes = 0;
    this.#disarm();
    if (!this.#paused) this.#socket.resume();
  }

  /** Waits for bytes: first by looking, where that was asked for, then asleep. */
  #arm(): void {
    if (this.#armed || this.#looking) return;
    if (this.#lookMs === 0) return this.#sleep();
    this.#looking = true;
    this.#lookUntilMs = performance.now() + this.#lookMs;
    setImmediate(this.#look);
  }

  /** A property, so that no look makes a function of its own. */
  readonly #look = (): void => {
    this.#looking = false;
    if (this.#closed || this.#paused || this.#sipBytes === 0 || this.#take() > 0) return;
    if (performance.now() >= this.#lookUntilMs) return this.#sleep();
    // The peer may wait for the processor that this thread keeps by looking.
    libc.sched_yield();
    this.#looking = true;
    setImmediate(this.#look);
  };

  #sleep(): void {
    this.#armed = this.#readiness?.arm(this.#readinessId, this.#fdNumber(), () => this.#sip()) ?? false;
    // What Bun takes from the kernel it takes before anybody can say so: a connection that may go on elsewhere is none of its business.
    if (!this.#armed && this.#slot !== undefined) this.terminate();
    else if (!this.#armed) this.#leaveToBun();
  }

  #disarm(): void {
    if (this.#readinessId !== 0) this.#readiness?.disarm(this.#readinessId, this.#fdNumber());
    this.#armed = false;
  }

  /** Something is there to read. While the socket is paused it stays there: `resume` arms again. */
  #sip(): void {
    this.#armed = false;
    if (this.#closed || this.#paused || this.#sipBytes === 0) return;
    if (this.#take() === 0) this.#sleep();
  }

  /** Reads a little and hands it over, or leaves an end or an error to Bun; 0: nothing is there. */
  #take(): number {
    const rested = this.#slot?.begin() ?? false;
    const got = libc.read(this.#fdNumber(), addressOf(sipBuffer), Math.min(this.#sipBytes, sipBuffer.length));
    if (got < 0 && isTransient(errno())) {
      if (rested) this.#slot?.restAgain();
      return 0;
    }
    if (got <= 0) this.#leaveToBun();
    else this.#handler?.onData(sipBuffer.subarray(0, got));
    // The handler may have paused, closed or left; a peer that sends on is told of again.
    if (!this.#closed && !this.#paused && this.#sipBytes > 0) this.#arm();
    return 1;
  }

  rest(state: string): void {
    if (!this.#closed && !this.#left) this.#slot?.rest(state);
  }

  leave(): boolean {
    if (this.#closed || this.#slot?.isAtRest !== true) return false;
    // The descriptor goes with the process, without a word to the peer: the front has another one.
    this.#left = true;
    this.#disarm();
    this.#sipBytes = 0;
    return true;
  }

  end(): void {
    if (this.#closed) return;
    if (this.#sipBytes > 0) this.#leaveToBun();
    this.#socket.end();
  }

  terminate(): void {
    if (this.#closed) return;
    this.#disarm();
    // Ends transfers on duplicates too: closing this descriptor alone would leave the connection open for them.
    const fd = this.#fdNumber();
    if (fd >= 0) libc.shutdown(fd, SHUT_RDWR);
    this.#socket.terminate();
  }

  /** Bun may tell twice: of an end that it made and of one that it saw. */
  onClose(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#armed) this.#readiness?.forget(this.#readinessId);
    this.#slot?.closed();
    this.#handler?.onClose();
  }
}

/** One for all sockets of the thread: it is read and handled in one turn. */
const sipBuffer = new Uint8Array(64 * 1024);

function isTransient(reason: number): boolean {
  return reason === EAGAIN || reason === EINTR;
}

export class TcpTransport implements Transport {
  readonly #readiness: Readiness | undefined;

  readonly #tls: TlsFiles | undefined;
  readonly #onBuffer: (bytes: number) => void;

  /**
   * Without `readiness` sockets do not sip; with `tls` they are not direct. `onBuffer` is told of each buffer that Bun made for what it
   * read, once it is garbage, and of what was written: replies are made in memory that is garbage when they have left.
   */
  constructor(
    options: {
      readonly readiness?: Readiness | undefined;
      readonly tls?: TlsFiles | undefined;
      readonly onBuffer?: (bytes: number) => void;
    } = {},
  ) {
    this.#readiness = options.readiness;
    this.#tls = options.tls;
    this.#onBuffer = options.onBuffer ?? (() => {});
  }

  listen(address: { readonly host: string; readonly port: number }, accept: (socket: TransportSocket) => ConnectionHandler): Listener {
    const readiness = this.#readiness;
    const tls = this.#tls;
    const onBuffer = this.#onBuffer;
    try {
      const listenOn = (port: number): TCPSocketListener<Connection> =>
        Bun.listen<Connection>({
          hostname: address.host,
          port,
          ...(tls === undefined ? {} : { tls: { cert: tls.cert, key: tls.key } }),
          socket: {
            open(socket) {
              socket.setNoDelay(true);
              // A peer whose machine is gone is noticed although nobody waits for its bytes.
              socket.setKeepAlive(true, KEEP_ALIVE_MS);
              const host = new HostSocket(socket, { readiness, direct: tls === undefined, onBuffer });
              socket.data = { host };
              host.attach(accept(host));
            },
            data(socket, chunk) {
              socket.data.host.handler?.onData(chunk);
              onBuffer(chunk.length);
            },
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
      let server = listenOn(address.port);
      let paused = false;
      const { port } = server;
      return {
        host: address.host,
        port,
        pause() {
          paused = true;
          server.stop(false);
        },
        resume() {
          if (!paused) return true;
          try {
            server = listenOn(port);
            paused = false;
            return true;
          } catch {
            // In use by another program, or no descriptor after all: the caller tries again.
            return false;
          }
        },
        stop: () => server.stop(false),
      };
    } catch (problem) {
      throw new KvtierError('ADDRESS_IN_USE', `Cannot listen on ${address.host}:${address.port}: ${String(problem)}`, {
        context: { host: address.host, port: address.port },
        cause: problem,
      });
    }
  }
}
