/**
 * The lm:// door: listens, limits connections, keeps what belongs to one client over all of its sockets. What a connection does with
 * bytes is in lm-connection.ts, the wire in docs/formats/wire-lm.md.
 *
 * The protocol has no authentication: whoever connects reads and stores in the default tenant. The composition root opens it on
 * loopback only, unless told otherwise.
 */
import type { CacheDoor, LeaseOwner } from '#cache/door.ts';
import { assert } from '#core/assert.ts';
import type { BlockHash } from '#core/checksum.ts';
import type { Clock } from '#core/clock.ts';
import type { Logger } from '#core/logger.ts';
import type { SocketIo } from '#ports/io-pool.ts';
import type { ConnectionHandler, Listener, Transport, TransportSocket } from '#ports/transport.ts';
import { ChainInference } from '#servers/chain-inference.ts';
import { LmConnection } from './lm-connection.ts';

export interface LmServerOptions {
  readonly cache: CacheDoor;
  readonly sockets: SocketIo;
  readonly transport: Transport;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly hash: BlockHash;
  readonly maxConnections: number;
  /** A connection that is in the middle of a request, a payload or a reply and moves no byte for this long is closed. */
  readonly stallMs: number;
  /** As in the RESP door. */
  readonly minBytesPerSecond?: number;
}

/** One client: an address, over all of its sockets. */
export interface LmClient {
  readonly id: LeaseOwner;
  readonly address: string;
  readonly inference: ChainInference;
  socketCount: number;
}

export interface LmDoorStats {
  readonly connections: number;
  readonly totalConnections: number;
  readonly rejectedConnections: number;
  readonly requests: number;
  /** Requests after which the connection was closed, since nobody knew where the next one begins. */
  readonly protocolErrors: number;
  /** Payloads that were read and not stored: the protocol has no word to say so. */
  readonly refusedPuts: number;
  readonly receivedBytes: number;
  readonly sentBytes: number;
}

const SWEEP_MS = 1000;
/** Owners of leases are numbers over all doors: those of the RESP door begin at 1, and are fewer than this. */
const FIRST_OWNER = 2 ** 40;

export class LmServer {
  readonly options: LmServerOptions;
  readonly #connections = new Set<LmConnection>();
  readonly #clients = new Map<string, LmClient>();
  #listener: Listener | undefined;
  #nextConnection = 1;
  #nextOwner = FIRST_OWNER;
  #cancelSweep: (() => void) | undefined;
  requests = 0;
  protocolErrors = 0;
  refusedPuts = 0;
  receivedBytes = 0;
  sentBytes = 0;
  #total = 0;
  #rejected = 0;

  constructor(options: LmServerOptions) {
    this.options = options;
  }

  listen(address: { readonly host: string; readonly port: number }): Listener {
    this.#listener = this.options.transport.listen(address, (socket) => this.#accept(socket));
    this.#sweep();
    return this.#listener;
  }

  #sweep(): void {
    const { clock } = this.options;
    this.#cancelSweep = clock.schedule(SWEEP_MS, () => {
      for (const connection of this.#connections) connection.sweep(clock.monotonicMs());
      this.#sweep();
    });
  }

  #accept(socket: TransportSocket): ConnectionHandler {
    this.#total += 1;
    if (this.#connections.size >= this.options.maxConnections) {
      this.#rejected += 1;
      // Without a word: whatever we said would be read as a reply.
      socket.end();
      return { onData() {}, onDrain() {}, onClose() {} };
    }
    const connection = new LmConnection(this, socket, this.#nextConnection++);
    this.#connections.add(connection);
    return connection;
  }

  /** Called by a connection when it is gone; its own resources are free already. */
  forget(connection: LmConnection): void {
    this.#connections.delete(connection);
  }

  join(address: string): LmClient {
    let client = this.#clients.get(address);
    if (client === undefined) {
      const { cache, clock } = this.options;
      client = { id: this.#nextOwner++, address, inference: new ChainInference(cache, clock), socketCount: 0 };
      this.#clients.set(address, client);
    }
    client.socketCount += 1;
    return client;
  }

  leave(client: LmClient): void {
    client.socketCount -= 1;
    if (client.socketCount > 0) return;
    this.#clients.delete(client.address);
    client.inference.endAll();
    client.inference.close();
  }

  stats(): LmDoorStats {
    return {
      connections: this.#connections.size,
      totalConnections: this.#total,
      rejectedConnections: this.#rejected,
      requests: this.requests,
      protocolErrors: this.protocolErrors,
      refusedPuts: this.refusedPuts,
      receivedBytes: this.receivedBytes,
      sentBytes: this.sentBytes,
    };
  }

  /** No new connections. */
  stopAccepting(): void {
    this.#listener?.stop();
    this.#cancelSweep?.();
  }

  /** Resolves when no request is in work, or the deadline (monotonic ms) has passed. */
  async settle(deadlineMs: number): Promise<void> {
    while ([...this.#connections].some((connection) => connection.busy) && this.options.clock.monotonicMs() < deadlineMs) {
      await new Promise<void>((resolve) => void this.options.clock.schedule(5, resolve));
    }
  }

  /** Closes every connection. */
  close(): void {
    this.stopAccepting();
    for (const connection of this.#connections) connection.close();
  }

  /** Throws InvariantError where the state contradicts itself; for tests. */
  checkInvariants(): void {
    let sockets = 0;
    for (const client of this.#clients.values()) {
      assert(client.socketCount > 0, `client ${client.address} without a socket is forgotten`);
      sockets += client.socketCount;
    }
    assert(sockets <= this.#connections.size, 'a socket of a client is a connection');
    assert(this.#connections.size <= this.options.maxConnections, 'more connections than allowed');
    for (const connection of this.#connections) connection.checkInvariants();
  }
}
