/**
 * The doors of the agent: RESP, lm, native, HTTP, each where the configuration wants it. Part of the composition root: it decides nothing
 * about chunks.
 *
 * Order of the end: `stopAccepting`, `settle`, then, when the cache is closed, `close`.
 */
import { createAuthenticate, createResumption } from '#api/credentials.ts';
import type { Cache } from '#cache/cache.ts';
import type { AgentConfig } from '#config/agent-config.ts';
import { formatAddress } from '#config/knob-types.ts';
import type { Address } from '#config/knob-types.ts';
import { MiB } from '#core/bytes.ts';
import type { BlockHash } from '#core/checksum.ts';
import { hostClock, hostRng } from '#host/clock.ts';
import { FrontTransport } from '#host/front-transport.ts';
import { listenHttp } from '#host/http-listener.ts';
import type { HttpListener } from '#host/http-listener.ts';
import type { HostIoPool } from '#host/io-pool.ts';
import { Readiness } from '#host/readiness.ts';
import { HostRegions } from '#host/regions.ts';
import { TcpTransport } from '#host/tcp-transport.ts';
import type { TlsFiles } from '#host/tls-files.ts';
import { UnixTransport } from '#host/unix-transport.ts';
import type { LocalListener } from '#ports/local-door.ts';
import type { Listener } from '#ports/transport.ts';
import type { DoorStats } from '#protocol/rest/stats.ts';
import { LmServer } from '#servers/lm/lm-server.ts';
import { NativeServer } from '#servers/native/native-server.ts';
import { RespServer } from '#servers/resp/resp-server.ts';
import type { LogRoot } from '#telemetry/log.ts';
import type { RamTier } from '#tiers/ram/ram-tier.ts';

export interface DoorAddresses {
  readonly http: Address;
  readonly resp: Address | undefined;
  readonly lm: Address | undefined;
  /** Path of the native door's socket. */
  readonly socket: string | undefined;
}

export interface DoorParts {
  readonly cache: Cache;
  readonly ram: RamTier;
  readonly pool: HostIoPool;
  readonly config: AgentConfig;
  readonly log: LogRoot;
  readonly tls: TlsFiles | undefined;
  readonly hash: BlockHash;
  readonly version: string;
  /** Of the RESP door, and as many of the lm door. */
  readonly maxConnections: number;
  readonly onBug: (problem: unknown) => void;
  readonly onBuffer: (bytes: number) => void;
  /** Sentences for health; a door that ends adds to them. */
  readonly findings: string[];
  readonly httpTotals: () => { readonly requests: number; readonly errors: number };
  /** For INFO. */
  readonly info: () => Readonly<Record<string, Readonly<Record<string, string | number>>>>;
}

export class Doors {
  readonly #parts: DoorParts;
  #readiness: Readiness | undefined;
  #resp: RespServer | undefined;
  #respListener: Listener | undefined;
  #lm: LmServer | undefined;
  #lmListener: Listener | undefined;
  #native: NativeServer | undefined;
  #nativeListener: LocalListener | undefined;
  #http: HttpListener | undefined;

  constructor(parts: DoorParts) {
    this.#parts = parts;
  }

  start(api: { fetch(request: Request): Response | Promise<Response> }): void {
    const { cache, pool } = this.#parts;
    const config = this.#parts.config;
    this.#readiness = new Readiness(this.#parts.onBug);
    const { tls } = this.#parts;
    // lm:// has no TLS: it is loopback's.
    const onBuffer = this.#parts.onBuffer;
    const transport = new TcpTransport({ readiness: this.#readiness, onBuffer });
    if (config.resp.listen !== undefined) {
      const front = this.#takeOver(this.#readiness);
      const authenticate = createAuthenticate(config.tokens);
      this.#resp = new RespServer({
        cache,
        sockets: pool.sockets,
        transport: front ?? (tls === undefined ? transport : new TcpTransport({ readiness: this.#readiness, tls, onBuffer })),
        resumption: front === undefined ? undefined : createResumption(config.tokens, front.key),
        clock: hostClock,
        logger: this.#parts.log.room('resp'),
        hash: this.#parts.hash,
        version: this.#parts.version,
        profile: config.resp.profile,
        sizeGuard: config.resp.sizeGuard,
        maxConnections: this.#parts.maxConnections,
        stallMs: config.resp.stallMs,
        minBytesPerSecond: config.resp.minBytesPerSecond,
        idleMs: config.resp.idleMs,
        tokensRequired: authenticate !== undefined,
        authenticate: authenticate ?? (() => undefined),
        info: this.#parts.info,
      });
      this.#respListener = this.#resp.listen(config.resp.listen);
    }
    if (config.lm.listen !== undefined) {
      this.#lm = new LmServer({
        cache,
        sockets: pool.sockets,
        transport,
        clock: hostClock,
        logger: this.#parts.log.room('lm'),
        hash: this.#parts.hash,
        maxConnections: this.#parts.maxConnections,
        stallMs: config.resp.stallMs,
        minBytesPerSecond: config.resp.minBytesPerSecond,
      });
      this.#lmListener = this.#lm.listen(config.lm.listen);
    }
    this.#startNative((request) => api.fetch(request));
    this.#http = listenHttp(config.http.listen, (request) => api.fetch(request), { tls });
  }

  #startNative(fetch: (request: Request) => Response | Promise<Response>): void {
    const { socket, tokens, lease, resp, ram, http } = this.#parts.config;
    const { cache, pool, ram: tier } = this.#parts;
    if (socket.path === undefined) return;
    this.#native = new NativeServer({
      cache,
      transport: new UnixTransport(this.#parts.onBug),
      regions: new HostRegions(socket.regionRoots),
      regionIo: pool.regions,
      arenas: tier,
      clock: hostClock,
      logger: this.#parts.log.room('native'),
      version: this.#parts.version,
      instance: hostRng.nextUint32() + 1,
      leaseMs: lease.durationMs,
      maxChunkBytes: ram.maxChunkBytes,
      maxConnections: socket.maxConnections,
      stallMs: resp.stallMs,
      reserveBytes: { perClient: Math.floor(socket.reserveBytes / 4 / MiB) * MiB || MiB, total: socket.reserveBytes },
      authenticate: createAuthenticate(tokens),
      sharesArenas: tokens.tenants.size === 0,
      rest: async ({ method, path, token, body }) => {
        const response = await fetch(
          new Request(`http://${formatAddress(http.listen)}${path}`, {
            method,
            headers: {
              host: formatAddress(http.listen),
              ...(token === '' ? {} : { authorization: `Bearer ${token}` }),
              ...(body === undefined ? {} : { 'content-type': 'application/json' }),
            },
            ...(body === undefined ? {} : { body }),
          }),
        );
        return { status: response.status, text: await response.text() };
      },
    });
    this.#nativeListener = this.#native.listen({ path: socket.path, mode: socket.mode, group: socket.group });
  }

  /** The front's connections, where there is one. */
  #takeOver(readiness: Readiness): FrontTransport | undefined {
    const path = this.#parts.config.resp.front;
    if (path === undefined) return undefined;
    return new FrontTransport(path, {
      readiness,
      onBuffer: this.#parts.onBuffer,
      onGone: () => {
        this.#parts.findings.push(
          'The front has ended: connections that are open stay, new ones do not come; start it, then restart the agent',
        );
        this.#parts.log.room('agent').error(this.#parts.findings.at(-1) ?? '', {});
      },
    });
  }

  listeners(): readonly Pick<Listener, 'pause' | 'resume'>[] {
    return [this.#respListener, this.#lmListener, this.#http].filter((listener) => listener !== undefined);
  }

  /** With the ports that they really have. */
  addresses(): DoorAddresses {
    const addressOf = ({ host, port }: Address): Address => ({ host, port });
    const [resp, lm] = [this.#respListener, this.#lmListener].map((listener) => listener && addressOf(listener));
    const socket = this.#nativeListener === undefined ? undefined : this.#parts.config.socket.path;
    return { http: addressOf(this.#http ?? this.#parts.config.http.listen), resp, lm, socket };
  }

  stats(): readonly DoorStats[] {
    const { http, resp, lm, socket } = this.addresses();
    const totals = this.#parts.httpTotals();
    // Bun.serve tells neither connections nor bytes.
    const unknown = { connections: 0, acceptedConnections: 0, receivedBytes: 0, sentBytes: 0 };
    const rows: DoorStats[] = [
      { door: 'http', address: formatAddress(http), requests: totals.requests, errors: totals.errors, ...unknown },
    ];
    const stats = this.#resp?.stats();
    if (resp !== undefined && stats !== undefined) {
      rows.push({
        door: 'resp',
        address: formatAddress(resp),
        connections: stats.connections,
        acceptedConnections: stats.totalConnections,
        requests: stats.commands,
        errors: stats.protocolErrors,
        receivedBytes: stats.receivedBytes,
        sentBytes: stats.sentBytes,
      });
    }
    const lmStats = this.#lm?.stats();
    if (lm !== undefined && lmStats !== undefined) {
      rows.push({
        door: 'lm',
        address: formatAddress(lm),
        connections: lmStats.connections,
        acceptedConnections: lmStats.totalConnections,
        requests: lmStats.requests,
        errors: lmStats.protocolErrors + lmStats.refusedPuts,
        receivedBytes: lmStats.receivedBytes,
        sentBytes: lmStats.sentBytes,
      });
    }
    const nativeStats = this.#native?.stats();
    if (socket !== undefined && nativeStats !== undefined) {
      rows.push({
        door: 'native',
        address: socket,
        connections: nativeStats.connections,
        acceptedConnections: nativeStats.totalConnections,
        requests: nativeStats.requests,
        errors: nativeStats.protocolErrors,
        receivedBytes: nativeStats.receivedBytes,
        sentBytes: nativeStats.sentBytes,
      });
    }
    return rows;
  }

  stopAccepting(): void {
    this.#resp?.stopAccepting();
    this.#lm?.stopAccepting();
    this.#native?.stopAccepting();
  }

  /** Resolves when no transfer is in work, or the deadline (monotonic ms) has passed. */
  async settle(deadlineMs: number): Promise<void> {
    await Promise.all([this.#resp?.settle(deadlineMs), this.#lm?.settle(deadlineMs), this.#native?.settle(deadlineMs)]);
  }

  async close(): Promise<void> {
    this.#resp?.close();
    this.#lm?.close();
    this.#native?.close();
    this.#http?.stop();
    await this.#readiness?.close();
  }
}
