/**
 * The RESP door: listens, limits connections, keeps what belongs to one client over all of its sockets. What a connection does
 * with bytes is in resp-connection.ts, what commands mean in commands.ts, the wire in docs/formats/wire-resp.md.
 */
import type { CacheDoor, LeaseOwner } from '#cache/door.ts';
import type { BlockHash } from '#core/checksum.ts';
import type { Clock } from '#core/clock.ts';
import type { Authenticate } from '#core/credential.ts';
import type { Logger } from '#core/logger.ts';
import type { SocketIo } from '#ports/io-pool.ts';
import type { Listener, Transport } from '#ports/transport.ts';
import { errorReply } from '#protocol/resp/resp-encoder.ts';
import { ChainInference } from '#servers/chain-inference.ts';
import { DoorConnections } from '#servers/door-connections.ts';
import { RespConnection } from './resp-connection.ts';
import { SizeGuard } from './size-guard.ts';
import { PendingMetadataTable } from './pending-metadata.ts';
import { Promises } from './promises.ts';
import { resumeConnection } from './resp-state.ts';
import type { Resumption } from './resp-state.ts';

export interface RespServerOptions {
  readonly cache: CacheDoor;
  readonly sockets: SocketIo;
  readonly transport: Transport;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly hash: BlockHash;
  readonly version: string;
  readonly profile: 'auto' | 'lmcache' | 'redis';
  readonly sizeGuard: 'auto' | 'on' | 'off';
  readonly maxConnections: number;
  readonly stallMs: number;
  /** A value must move at this rate on the whole, besides `stallMs` for each; 0 or none: a peer may take as long as it likes. */
  readonly minBytesPerSecond?: number;
  readonly idleMs: number | undefined;
  readonly authenticate: Authenticate;
  /** Where connections outlive the process: what is kept of a token, and whom that stands for now. */
  readonly resumption?: Resumption | undefined;
  /** Without tokens everybody is admin and any AUTH is fine. */
  readonly tokensRequired: boolean;
  /** Sections of INFO that only the composition root knows. */
  readonly info: () => Readonly<Record<string, Readonly<Record<string, string | number>>>>;
}

/** One client: an address, a user name and a tenant, over all of its sockets. */
export interface ClientGroup {
  readonly id: LeaseOwner;
  readonly name: string;
  readonly guard: SizeGuard;
  readonly inference: ChainInference;
  readonly promises: Promises;
  socketCount: number;
}

export interface RespDoorStats {
  readonly connections: number;
  readonly totalConnections: number;
  readonly rejectedConnections: number;
  readonly commands: number;
  readonly protocolErrors: number;
  readonly unguardedPrefixes: number;
  readonly receivedBytes: number;
  readonly sentBytes: number;
}

/** Several times what a client that uses its sockets by turns takes from one to the next. */
const ALONE_AFTER_MS = 50;
/** LMCache loads within milliseconds of its lookup; an engine under load may take minutes. */
const PROMISE_MS = 600_000;

export class RespServer {
  readonly options: RespServerOptions;
  readonly pendingMetadata: PendingMetadataTable;
  /** One for each tenant: what one stores says nothing of another's sizes. The key is '' for connections without a tenant. */
  readonly #guards = new Map<string, SizeGuard>();
  readonly #connections: DoorConnections<RespConnection>;
  readonly #groups = new Map<string, ClientGroup>();
  #nextGroup = 1;
  commands = 0;
  protocolErrors = 0;
  receivedBytes = 0;
  sentBytes = 0;

  constructor(options: RespServerOptions) {
    this.options = options;
    this.pendingMetadata = new PendingMetadataTable(options.cache);
    this.#connections = new DoorConnections(options, {
      open: (socket, id) => new RespConnection(this, socket, id),
      refuse: (socket) => {
        socket.write(errorReply('ERR max number of clients reached'));
        socket.end();
      },
      sweep: (connection, nowMs) => connection.sweep(nowMs, options.idleMs),
    });
  }

  /** Tenants are configured, so that there are few. */
  guardOf(tenant: string | undefined): SizeGuard {
    const name = tenant ?? '';
    let guard = this.#guards.get(name);
    if (guard === undefined) this.#guards.set(name, (guard = new SizeGuard(() => this.options.clock.monotonicMs())));
    return guard;
  }

  listen(address: { readonly host: string; readonly port: number }): Listener {
    return this.#connections.listen(address, (connection, { resumed }) => {
      if (resumed !== undefined && resumed !== '' && !resumeConnection(connection, resumed)) connection.close();
    });
  }

  #lastStreaming: RespConnection | undefined;
  #othersStreamedAtMs = Number.NEGATIVE_INFINITY;

  /** Notes that `connection` has a large value to receive. True where no other connection had one lately, and no transfer runs. */
  streamsAlone(connection: RespConnection): boolean {
    const nowMs = this.options.clock.monotonicMs();
    if (this.#lastStreaming !== connection && this.#lastStreaming !== undefined) this.#othersStreamedAtMs = nowMs;
    this.#lastStreaming = connection;
    return nowMs - this.#othersStreamedAtMs > ALONE_AFTER_MS && this.options.sockets.activeCount === 0;
  }

  /** Called by a connection when it is gone; its own resources are free already. */
  forget(connection: RespConnection): void {
    this.#connections.forget(connection);
    if (this.#lastStreaming === connection) this.#lastStreaming = undefined;
  }

  joinGroup(address: string, client: { readonly user: string; readonly tenant: string | undefined }): ClientGroup {
    const { user, tenant } = client;
    const name = `${address}\u0000${tenant ?? ''}\u0000${user}`;
    let group = this.#groups.get(name);
    if (group === undefined) {
      group = {
        id: this.#nextGroup++,
        name,
        guard: this.guardOf(tenant),
        inference: new ChainInference(this.options.cache, this.options.clock),
        promises: new Promises(PROMISE_MS),
        socketCount: 0,
      };
      this.#groups.set(name, group);
    }
    group.socketCount += 1;
    return group;
  }

  leaveGroup(group: ClientGroup): void {
    group.socketCount -= 1;
    if (group.socketCount > 0) return;
    this.#groups.delete(group.name);
    group.inference.endAll();
    group.inference.close();
    group.guard.forgetClient(group.id);
  }

  /** All, or those of one tenant. */
  connectionCount(tenant?: string): number {
    if (tenant === undefined) return this.#connections.all.size;
    let count = 0;
    for (const connection of this.#connections.all) if (connection.tenant === tenant) count += 1;
    return count;
  }

  stats(): RespDoorStats {
    return {
      ...this.#connections.stats(),
      commands: this.commands,
      protocolErrors: this.protocolErrors,
      unguardedPrefixes: [...this.#guards.values()].reduce((sum, guard) => sum + guard.unguardedCount, 0),
      receivedBytes: this.receivedBytes,
      sentBytes: this.sentBytes,
    };
  }

  /** No new connections. */
  stopAccepting(): void {
    this.#connections.stopAccepting();
  }

  /** Resolves when no command is in work, or the deadline (monotonic ms) has passed. */
  settle(deadlineMs: number): Promise<void> {
    return this.#connections.settle(deadlineMs);
  }

  /** Closes every connection, or leaves it to the next process. */
  close(): void {
    this.stopAccepting();
    for (const connection of this.#connections.all) if (!connection.leave()) connection.close();
  }
}
