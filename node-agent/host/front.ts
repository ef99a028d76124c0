/**
 * The front: a small process that holds client sockets while agents come and go. It accepts, gives each connection's descriptor to the agent,
 * and keeps one of its own, so that no peer sees a close when the agent ends. It never reads a byte of them.
 *
 * Invariants: a connection that was busy when its agent went is shut down, since nobody knows what was taken of it; one that was at rest is
 * given to the next agent; at most one agent has the connections.
 */
import { rmSync } from 'node:fs';
import { KvtierError, errnoName } from '#core/errors.ts';
import { FdChannel, unixAddress, unixSocket } from './fd-channel.ts';
import { FRONT_FORMAT, FrontState } from './front-state.ts';
import { Readiness } from './readiness.ts';
import { AF_INET, SHUT_RDWR, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET, SO_REUSEADDR, addressOf, errno, libc } from './libc.ts';

const BACKLOG = 511;
/** Until the agent may have taken some of what fills its buffer. */
const RETRY_MS = 10;

interface Held {
  readonly slot: number;
  /** Tells this connection from a later one in the same slot. */
  readonly serial: number;
  readonly fd: number;
}

export interface FrontOptions {
  readonly listen: { readonly host: string; readonly port: number };
  readonly socketPath: string;
  readonly maxConnections: number;
  readonly onCrash: (reason: string) => void;
  readonly log: (message: string) => void;
}

export class Front {
  readonly port: number;
  readonly #options: FrontOptions;
  readonly #state: FrontState;
  readonly #readiness: Readiness;
  readonly #tcpFd: number;
  readonly #unixFd: number;
  readonly #held = new Map<number, Held>();
  readonly #freeSlots: number[];
  #agent: { readonly channel: FdChannel; readonly readinessId: number } | undefined;
  #nextSerial = 1;
  /** Connections that the agent does not have yet. */
  #ungiven: Held[] = [];
  #retry: ReturnType<typeof setTimeout> | undefined;
  #isClosed = false;

  /** Throws ADDRESS_IN_USE, IO_FAILED. */
  constructor(options: FrontOptions) {
    this.#options = options;
    const { listen, socketPath } = options;
    this.#tcpFd = listenTcp(listen);
    this.port = portOf(this.#tcpFd);
    this.#state = FrontState.create(`${socketPath}.state`, options.maxConnections);
    this.#freeSlots = Array.from({ length: options.maxConnections }, (_, index) => options.maxConnections - 1 - index);
    this.#unixFd = listenUnix(socketPath);
    this.#readiness = new Readiness(options.onCrash);
    this.#watch(this.#tcpFd, this.#readiness.nextId(), () => this.#accept());
    this.#watch(this.#unixFd, this.#readiness.nextId(), () => this.#acceptAgent());
  }

  get connectionCount(): number {
    return this.#held.size;
  }

  #watch(fd: number, id: number, tell: () => void): void {
    this.#readiness.arm(id, fd, () => {
      if (this.#isClosed) return;
      tell();
      this.#watch(fd, id, tell);
    });
  }

  #accept(): void {
    for (;;) {
      const fd = libc.accept4(this.#tcpFd, null, null, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (fd < 0) return;
      const slot = this.#freeSlots.pop();
      if (slot === undefined) {
        libc.close(fd);
        continue;
      }
      const held = { slot, serial: this.#nextSerial++, fd };
      this.#state.occupy(slot);
      this.#held.set(slot, held);
      this.#give(held);
    }
  }

  #give(held: Held): void {
    this.#ungiven.push(held);
    this.#pump();
  }

  /** As many as the agent's buffer takes now. */
  #pump(): void {
    for (let held = this.#ungiven[0]; this.#agent !== undefined && held !== undefined; held = this.#ungiven[0]) {
      const isThere = this.#held.get(held.slot) === held;
      if (isThere && !this.#agent.channel.send({ type: 'connection', slot: held.slot, serial: held.serial }, held.fd)) {
        this.#retry ??= setTimeout(() => {
          this.#retry = undefined;
          this.#pump();
        }, RETRY_MS);
        return;
      }
      this.#ungiven.shift();
    }
  }

  #acceptAgent(): void {
    const fd = libc.accept4(this.#unixFd, null, null, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;
    // The former one may be gone without our having heard of it.
    if (this.#agent !== undefined) this.#hear();
    if (this.#agent !== undefined) {
      libc.close(fd);
      return;
    }
    const channel = new FdChannel(fd);
    const readinessId = this.#readiness.nextId();
    this.#agent = { channel, readinessId };
    channel.send({ type: 'hello', format: FRONT_FORMAT, host: this.#options.listen.host, port: this.port });
    this.#ungiven = [...this.#held.values()];
    this.#pump();
    this.#options.log(`An agent took over with ${this.#held.size} connections`);
    this.#watchAgent();
  }

  #watchAgent(): void {
    const agent = this.#agent;
    if (agent === undefined) return;
    this.#readiness.arm(agent.readinessId, agent.channel.fd, () => {
      if (this.#agent !== agent) return;
      this.#hear();
      if (this.#agent === agent) this.#watchAgent();
    });
  }

  #hear(): void {
    for (const agent = this.#agent; agent !== undefined && this.#agent === agent;) {
      const got = agent.channel.receive();
      if (got === 'none') return;
      if (got === 'end') return this.#agentGone();
      if (got.fd >= 0) libc.close(got.fd);
      const { message } = got;
      if (message.type === 'closed' && this.#held.get(message.slot)?.serial === message.serial) this.#drop(message.slot);
    }
  }

  #agentGone(): void {
    const agent = this.#agent;
    if (agent === undefined) return;
    this.#agent = undefined;
    this.#ungiven = [];
    this.#readiness.disarm(agent.readinessId, agent.channel.fd);
    agent.channel.close();
    let broken = 0;
    for (const { slot } of [...this.#held.values()]) {
      if (this.#state.isAtRest(slot)) continue;
      broken += 1;
      this.#drop(slot);
    }
    this.#options.log(
      `The agent is gone: ${this.#held.size} connections wait for the next one, ${broken} were in the middle of a command and are closed`,
    );
  }

  #drop(slot: number): void {
    const held = this.#held.get(slot);
    if (held === undefined) return;
    this.#held.delete(slot);
    this.#state.free(slot);
    libc.shutdown(held.fd, SHUT_RDWR);
    libc.close(held.fd);
    this.#freeSlots.push(slot);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#retry);
    for (const slot of [...this.#held.keys()]) this.#drop(slot);
    this.#agent?.channel.close();
    await this.#readiness.close();
    libc.close(this.#tcpFd);
    libc.close(this.#unixFd);
    rmSync(this.#options.socketPath, { force: true });
    rmSync(`${this.#options.socketPath}.state`, { force: true });
    this.#state.close();
  }
}

/** sockaddr_in. LMCache's client speaks IPv4 only, and so does the front. */
function listenTcp({ host, port }: { readonly host: string; readonly port: number }): number {
  const parts = (host === 'localhost' ? '127.0.0.1' : host).split('.').map(Number);
  if (parts.length !== 4 || !parts.every((part) => Number.isInteger(part) && part >= 0 && part < 256))
    throw new KvtierError('CONFIG_INVALID', `Cannot listen on ${host}: the front takes IPv4 addresses only`);
  const address = new Uint8Array(16);
  address.set([AF_INET, 0, port >>> 8, port & 255, ...parts]);
  const fd = libc.socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  libc.setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, addressOf(new Uint8Array(Int32Array.of(1).buffer)), 4);
  if (libc.bind(fd, addressOf(address), 16) !== 0 || libc.listen(fd, BACKLOG) !== 0) {
    const reason = errnoName(errno());
    libc.close(fd);
    throw new KvtierError('ADDRESS_IN_USE', `Cannot listen on ${host}:${port}: ${reason}`, { context: { host, port } });
  }
  return fd;
}

function portOf(fd: number): number {
  const address = new Uint8Array(16);
  libc.getsockname(fd, addressOf(address), addressOf(new Uint8Array(Uint32Array.of(16).buffer)));
  return ((address[2] as number) << 8) | (address[3] as number);
}

/** Whoever connects gets the clients: nobody but this user may, from the first moment on. */
function listenUnix(path: string): number {
  rmSync(path, { force: true });
  const fd = unixSocket();
  const address = unixAddress(path);
  const umask = process.umask(0o177);
  const isBound = libc.bind(fd, addressOf(address), address.length) === 0;
  const reasonOfBind = isBound ? 0 : errno();
  process.umask(umask);
  if (!isBound || libc.listen(fd, 8) !== 0) {
    const reason = errnoName(isBound ? errno() : reasonOfBind);
    libc.close(fd);
    throw new KvtierError('IO_FAILED', `Cannot listen on ${path}: ${reason}`, { context: { path } });
  }
  return fd;
}
