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
import type { Listener, Transport } from '#ports/transport.ts';
import { ChainInference } from '#servers/chain-inference.ts';
import { DoorConnections } from '#servers/door-connections.ts';
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

/** Owners of leases are numbers over all doors: those of the RESP door begin at 1, and are fewer than this. */
const FIRST_OWNER = 2 ** 40;

export class LmServer {
  readonly options: LmServerOptions;
  readonly #connections: DoorConnections<LmConnection>;
  readonly #clients = new Map<string, LmClient>();
  #nextOwner = FIRST_OWNER;
  requests = 0;
  protocolErrors = 0;
  refusedPuts = 0;
  receivedBytes = 0;
  sentBytes = 0;

  constructor(options: LmServerOptions) {
    this.options = options;
    this.#connections = new DoorConnections(options, {
      open: (socket, id) => new LmConnection(this, socket, id),
      // Without a word: whatever we said would be read as a reply.
      refuse: (socket) => socket.end(),
      sweep: (connection, nowMs) => connection.sweep(nowMs),
    });
  }

  listen(address: { readonly host: string; readonly port: number }): Listener {
    return this.#connections.listen(address, () => {});
  }

  /** Called by a connection when it is gone; its own resources are free already. */
  forget(connection: LmConnection): void {
    this.#connections.forget(connection);
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
      ...this.#connections.stats(),
      requests: this.requests,
      protocolErrors: this.protocolErrors,
      refusedPuts: this.refusedPuts,
      receivedBytes: this.receivedBytes,
      sentBytes: this.sentBytes,
    };
  }

  /** No new connections. */
  stopAccepting(): void {
    this.#connections.stopAccepting();
  }

  /** Resolves when no request is in work, or the deadline (monotonic ms) has passed. */
  settle(deadlineMs: number): Promise<void> {
    return this.#connections.settle(deadlineMs);
  }

  /** Closes every connection. */
  close(): void {
    this.stopAccepting();
    for (const connection of this.#connections.all) connection.close();
  }

  /** Throws InvariantError where the state contradicts itself; for tests. */
  checkInvariants(): void {
    let sockets = 0;
    for (const client of this.#clients.values()) {
      assert(client.socketCount > 0, `client ${client.address} without a socket is forgotten`);
      sockets += client.socketCount;
    }
    assert(sockets <= this.#connections.all.size, 'a socket of a client is a connection');
    this.#connections.checkInvariants();
    for (const connection of this.#connections.all) connection.checkInvariants();
  }
}
