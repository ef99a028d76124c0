/**
 * The native door's ports in the simulation: a local transport on SimNetwork, where descriptors go beside the bytes, and memory of clients
 * that the process maps. What a client cuts away of its memory is EFAULT to the I/O threads; what is not mapped is a SIGSEGV.
 */
import type { Address, Fd } from '#core/brand.ts';
import type { LocalAddress, LocalListener, LocalSocket, LocalTransport, Peer, RegionOutcome, Regions } from '#ports/local-door.ts';
import type { ConnectionHandler } from '#ports/transport.ts';
import type { SimClock } from './sim-clock.ts';
import type { SimConnection, SimNetwork } from './sim-network.ts';
import type { SimForeignMemory, SimSharedMemory } from './sim-shared-memory.ts';

export const SIM_NATIVE_PORT = 7603;
const POLL_MS = 1;

/** Memory of clients, of the machine: by the numbers of their descriptors, and by path. */
export class SimClientMemories {
  readonly #memories = new Map<number, SimForeignMemory>();
  #nextFd = 1000;

  create(sizeBytes: number): { readonly fd: Fd; readonly path: string; readonly memory: SimForeignMemory } {
    const fd = this.#nextFd++;
    const memory = { bytes: new Uint8Array(sizeBytes), liveBytes: sizeBytes };
    this.#memories.set(fd, memory);
    return { fd: fd as Fd, path: `/dev/shm/${fd}`, memory };
  }

  find(fd: number): SimForeignMemory | undefined {
    return this.#memories.get(fd);
  }
}

export class SimRegions implements Regions {
  readonly #clients: SimClientMemories;
  readonly #memory: SimSharedMemory;
  /** Mapped and not unmapped. */
  openCount = 0;

  constructor(clients: SimClientMemories, memory: SimSharedMemory) {
    this.#clients = clients;
    this.#memory = memory;
  }

  byPath(path: string, _peer: Peer): RegionOutcome {
    return this.byDescriptor(Number(/^\/dev\/shm\/(\d+)$/.exec(path)?.[1] ?? -1) as Fd);
  }

  byDescriptor(fd: Fd): RegionOutcome {
    const memory = this.#clients.find(fd);
    if (memory === undefined || memory.liveBytes === 0) return { problem: 'there is no such memory' };
    return this.#mapped(fd, memory);
  }

  discard(): void {}

  create(sizeBytes: number): RegionOutcome {
    const { fd, memory } = this.#clients.create(sizeBytes);
    return this.#mapped(fd, memory);
  }

  #mapped(fd: Fd, memory: SimForeignMemory): RegionOutcome {
    const address = this.#memory.mapForeign(memory);
    this.openCount += 1;
    return {
      address: address as Address,
      fd,
      sizeBytes: memory.liveBytes,
      sealed: false,
      close: () => {
        this.openCount -= 1;
        this.#memory.unmapForeign(address);
      },
    };
  }
}

class SimLocalSocket implements LocalSocket {
  readonly peer = { pid: 1, uid: 1000 };
  readonly direct = false;
  readonly remoteAddress = 'local';
  readonly connection: SimConnection;
  readonly #clock: SimClock;
  /** That the peer has sent, in order. */
  readonly fromPeer: Fd[] = [];
  /** For the peer, in order. */
  readonly forPeer: Fd[] = [];

  constructor(connection: SimConnection, clock: SimClock) {
    this.connection = connection;
    this.#clock = clock;
  }

  get fd(): Fd {
    return this.connection.fd;
  }

  write(bytes: Uint8Array): number {
    return this.connection.write(bytes);
  }

  writeWithDescriptor(bytes: Uint8Array, fd: Fd): number {
    const taken = this.connection.write(bytes);
    if (taken === 0) return -1;
    this.forPeer.push(fd);
    return taken;
  }

  async receiveDescriptor(deadlineMs: number): Promise<Fd | undefined> {
    const endsAt = this.#clock.monotonicMs() + deadlineMs;
    while (!this.connection.closed && this.#clock.monotonicMs() < endsAt) {
      const fd = this.fromPeer.shift();
      if (fd !== undefined) return fd;
      await new Promise<void>((resolve) => void this.#clock.schedule(POLL_MS, resolve));
    }
    return undefined;
  }

  pause(): void {
    this.connection.pause();
  }

  resume(): void {
    this.connection.resume();
  }

  sip(): void {}

  end(): void {
    this.connection.end();
  }

  terminate(): void {
    this.connection.terminate();
  }
}

export class SimLocalTransport implements LocalTransport {
  readonly #network: SimNetwork;
  readonly #clock: SimClock;
  /** Of this life, in the order in which they were accepted. */
  readonly accepted: SimLocalSocket[] = [];

  constructor(network: SimNetwork, clock: SimClock) {
    this.#network = network;
    this.#clock = clock;
  }

  listen(_address: LocalAddress, accept: (socket: LocalSocket) => ConnectionHandler): LocalListener {
    return this.#network.listen({ host: 'local', port: SIM_NATIVE_PORT }, (socket) => {
      const local = new SimLocalSocket(socket as SimConnection, this.#clock);
      this.accepted.push(local);
      return accept(local);
    });
  }

  /** The server's end of a client's connection. */
  of(connection: SimConnection): SimLocalSocket | undefined {
    return this.accepted.find((socket) => socket.connection === connection);
  }
}
