/**
 * The connections of one door: as many as are allowed, swept once a second, waited for at a stop.
 *
 * Invariants: a connection is in here from its acceptance until it says that it is gone (`forget`); there are never more than allowed.
 */
import { assert } from '#core/assert.ts';
import type { Clock } from '#core/clock.ts';
import type { ConnectionHandler, Listener, TransportSocket } from '#ports/transport.ts';

export interface DoorConnection extends ConnectionHandler {
  /** A command is in work. */
  readonly busy: boolean;
}

/** What a door has and does of its own. */
export interface DoorHooks<Connection extends DoorConnection, Socket extends TransportSocket> {
  readonly open: (socket: Socket, id: number) => Connection;
  /** There are as many as are allowed: the last words, then the end. */
  readonly refuse: (socket: Socket) => void;
  readonly sweep: (connection: Connection, nowMs: number) => void;
}

const SWEEP_MS = 1000;
const SETTLE_POLL_MS = 5;
/** For a socket that was refused. */
const nobody: ConnectionHandler = { onData() {}, onDrain() {}, onClose() {} };

/** TCP, or a unix socket. */
export interface DoorTransport<Socket extends TransportSocket, Address, Listening extends { stop(): void }> {
  listen(address: Address, accept: (socket: Socket) => ConnectionHandler): Listening;
}

export interface DoorOptions<Transport> {
  readonly transport: Transport;
  readonly clock: Clock;
  readonly maxConnections: number;
}

export class DoorConnections<
  Connection extends DoorConnection,
  Socket extends TransportSocket = TransportSocket,
  Address = { readonly host: string; readonly port: number },
  Listening extends { stop(): void } = Listener,
> {
  readonly #options: DoorOptions<DoorTransport<Socket, Address, Listening>>;
  readonly #hooks: DoorHooks<Connection, Socket>;
  readonly #open = new Set<Connection>();
  #listener: Listening | undefined;
  #cancelSweep: (() => void) | undefined;
  #total = 0;
  #accepted = 0;

  constructor(options: DoorOptions<DoorTransport<Socket, Address, Listening>>, hooks: DoorHooks<Connection, Socket>) {
    this.#options = options;
    this.#hooks = hooks;
  }

  get all(): ReadonlySet<Connection> {
    return this.#open;
  }

  /** `onAccept` is told of each connection once it is in here. */
  listen(address: Address, onAccept: (connection: Connection, socket: Socket) => void): Listening {
    this.#listener = this.#options.transport.listen(address, (socket) => {
      this.#total += 1;
      if (this.#open.size >= this.#options.maxConnections) {
        this.#hooks.refuse(socket);
        return nobody;
      }
      this.#accepted += 1;
      const connection = this.#hooks.open(socket, this.#accepted);
      this.#open.add(connection);
      onAccept(connection, socket);
      return connection;
    });
    this.#sweep();
    return this.#listener;
  }

  #sweep(): void {
    const { clock } = this.#options;
    this.#cancelSweep = clock.schedule(SWEEP_MS, () => {
      for (const connection of this.#open) this.#hooks.sweep(connection, clock.monotonicMs());
      this.#sweep();
    });
  }

  /** Called by a connection when it is gone; its own resources are free already. */
  forget(connection: Connection): void {
    this.#open.delete(connection);
  }

  stats(): { readonly connections: number; readonly totalConnections: number; readonly rejectedConnections: number } {
    return { connections: this.#open.size, totalConnections: this.#total, rejectedConnections: this.#total - this.#accepted };
  }

  /** No new connections. */
  stopAccepting(): void {
    this.#listener?.stop();
    this.#cancelSweep?.();
  }

  /** Resolves when no command is in work, or the deadline (monotonic ms) has passed. */
  async settle(deadlineMs: number): Promise<void> {
    const { clock } = this.#options;
    while ([...this.#open].some((connection) => connection.busy) && clock.monotonicMs() < deadlineMs) {
      await new Promise<void>((resolve) => void clock.schedule(SETTLE_POLL_MS, resolve));
    }
  }

  checkInvariants(): void {
    assert(this.#open.size <= this.#options.maxConnections, 'more connections than allowed');
  }
}
