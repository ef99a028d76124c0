/**
 * The native door: a unix socket for words, shared memory for bytes. Listens, limits connections, numbers the owners of leases. What a
 * connection does with a frame is in native-connection.ts, the wire in src/protocol/native and docs/formats/native.md.
 */
import type { CacheDoor } from '#cache/door.ts';
import type { Address, Fd } from '#core/brand.ts';
import type { Clock } from '#core/clock.ts';
import type { Authenticate } from '#core/credential.ts';
import type { Logger } from '#core/logger.ts';
import type { ArenaPlace, LocalAddress, LocalListener, LocalSocket, LocalTransport, RegionIo, Regions } from '#ports/local-door.ts';
import { DoorConnections } from '#servers/door-connections.ts';
import { NativeConnection } from './native-connection.ts';
import type { MemoryBudget } from './native-memory.ts';

export interface NativeServerOptions {
  readonly cache: CacheDoor;
  readonly transport: LocalTransport;
  readonly regions: Regions;
  readonly regionIo: RegionIo;
  /** Memory of the RAM tier: where it lies, and a descriptor of an arena that only reads. */
  readonly arenas: { locate(address: Address): ArenaPlace; readOnlyDescriptor(arena: number): Fd };
  readonly clock: Clock;
  readonly logger: Logger;
  readonly version: string;
  /** Another number for another process. */
  readonly instance: number;
  readonly leaseMs: number;
  readonly maxChunkBytes: number;
  readonly maxConnections: number;
  /** A client that does not read its replies, or is in the middle of a frame, for so long is closed. */
  readonly stallMs: number;
  readonly reserveBytes: { readonly perClient: number; readonly total: number };
  /** Undefined: nobody needs a token, and everybody is admin. */
  readonly authenticate: Authenticate | undefined;
  /**
   * One tenant's bytes share arenas with another's, so where tenants have tokens nobody is shown an arena.
   */
  readonly sharesArenas: boolean;
  /** What operators may do over REST, done for the holder of this token: path, body, answer in JSON. */
  readonly rest: (request: {
    readonly method: 'GET' | 'POST';
    readonly path: string;
    readonly token: string;
    readonly body?: string;
  }) => Promise<{
    readonly status: number;
    readonly text: string;
  }>;
}

export interface NativeDoorStats {
  readonly connections: number;
  readonly totalConnections: number;
  readonly rejectedConnections: number;
  readonly requests: number;
  readonly protocolErrors: number;
  /** Payload bytes that went between regions and the agent. */
  readonly receivedBytes: number;
  readonly sentBytes: number;
  readonly regions: number;
}

/** Owners of leases are numbers over all doors: above those of RESP and lm. */
const FIRST_OWNER = 2 ** 41;

export class NativeServer {
  readonly options: NativeServerOptions;
  readonly budget: MemoryBudget;
  readonly #connections: DoorConnections<NativeConnection, LocalSocket, LocalAddress, LocalListener>;
  requests = 0;
  protocolErrors = 0;
  receivedBytes = 0;
  sentBytes = 0;

  constructor(options: NativeServerOptions) {
    this.options = options;
    this.budget = { perClientBytes: options.reserveBytes.perClient, totalBytes: options.reserveBytes.total, usedBytes: 0, mappedBytes: 0 };
    this.#connections = new DoorConnections(options, {
      open: (socket, id) => new NativeConnection(this, socket, FIRST_OWNER + id),
      refuse: (socket) => socket.end(),
      sweep: (connection, nowMs) => connection.sweep(nowMs),
    });
  }

  listen(address: LocalAddress): LocalListener {
    return this.#connections.listen(address, () => {});
  }

  /** Called by a connection when it is gone; its own resources are free already. */
  forget(connection: NativeConnection): void {
    this.#connections.forget(connection);
  }

  stats(): NativeDoorStats {
    let regions = 0;
    for (const connection of this.#connections.all) regions += connection.regionCount;
    const { requests, protocolErrors, receivedBytes, sentBytes } = this;
    return { ...this.#connections.stats(), requests, protocolErrors, receivedBytes, sentBytes, regions };
  }

  stopAccepting(): void {
    this.#connections.stopAccepting();
  }

  /** Resolves when no job is in work, or the deadline (monotonic ms) has passed. */
  settle(deadlineMs: number): Promise<void> {
    return this.#connections.settle(deadlineMs);
  }

  close(): void {
    this.stopAccepting();
    for (const connection of this.#connections.all) connection.close();
  }

  /** Throws InvariantError where the state contradicts itself; for tests. */
  checkInvariants(): void {
    this.#connections.checkInvariants();
    for (const connection of this.#connections.all) connection.checkInvariants();
  }
}
