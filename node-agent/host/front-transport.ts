/**
 * Transport whose connections come from the front (front.ts) and survive this process. Bun adopts each descriptor for writing and for its end;
 * every byte is taken by HostSocket itself, since it has to be said before it is done.
 */
import type { Socket } from 'bun';
import { errnoName, KvtierError } from '#core/errors.ts';
import type { ConnectionHandler, Listener, Transport, TransportSocket } from '#ports/transport.ts';
import { FdChannel, unixAddress, unixSocket } from './fd-channel.ts';
import { FRONT_FORMAT, FrontState } from './front-state.ts';
import type { FrontSlot } from './front-state.ts';
import { EAGAIN, addressOf, errno, libc } from './libc.ts';
import type { Readiness } from './readiness.ts';
import { HostSocket } from './tcp-transport.ts';
import type { Connection } from './tcp-transport.ts';

/** The front notices the end of a former agent within milliseconds. */
const CONNECT_PATIENCE_MS = 5000;
const HELLO_PATIENCE_MS = 1000;
const PAUSE_MS = 20;

export class FrontTransport implements Transport {
  readonly #path: string;
  readonly #readiness: Readiness;
  readonly #state: FrontState;
  readonly #channel: FdChannel;
  readonly #address: { readonly host: string; readonly port: number };
  readonly #onGone: () => void;
  readonly #onBuffer: (bytes: number) => void;
  #stopped = false;

  /** Throws FRONT_UNAVAILABLE where there is no front. `onGone`: the front has ended, and takes all connections along. `onBuffer` as in HostSocket. */
  constructor(
    path: string,
    options: { readonly readiness: Readiness; readonly onGone: () => void; readonly onBuffer: (bytes: number) => void },
  ) {
    this.#path = path;
    this.#readiness = options.readiness;
    this.#onGone = options.onGone;
    this.#onBuffer = options.onBuffer;
    const { channel, address } = this.#connect();
    this.#channel = channel;
    this.#address = address;
    try {
      this.#state = FrontState.open(`${path}.state`);
    } catch (problem) {
      throw this.#unavailable(`its state cannot be used: ${String(problem)}`);
    }
  }

  /** Random, the front's. */
  get key(): Uint8Array {
    return this.#state.key;
  }

  #unavailable(why: string): KvtierError {
    return new KvtierError('IO_FAILED', `Cannot take over the connections of the front at ${this.#path}: ${why}`, {
      context: { path: this.#path },
    });
  }

  #connect(): { channel: FdChannel; address: { host: string; port: number } } {
    const address = unixAddress(this.#path);
    for (let waitedMs = 0; ; waitedMs += PAUSE_MS) {
      const fd = unixSocket();
      const isThere = libc.connect(fd, addressOf(address), address.length) === 0;
      const reason = isThere ? 0 : errno();
      if (!isThere && reason !== EAGAIN && waitedMs >= CONNECT_PATIENCE_MS) {
        libc.close(fd);
        throw this.#unavailable(errnoName(reason));
      }
      const hello = isThere ? this.#hello(new FdChannel(fd)) : undefined;
      if (hello !== undefined) return hello;
      libc.close(fd);
      if (waitedMs >= CONNECT_PATIENCE_MS) throw this.#unavailable('another agent has them');
      Bun.sleepSync(PAUSE_MS);
    }
  }

  #hello(channel: FdChannel): { channel: FdChannel; address: { host: string; port: number } } | undefined {
    for (let waitedMs = 0; waitedMs < HELLO_PATIENCE_MS; waitedMs += 1) {
      const got = channel.receive();
      if (got === 'end') return undefined;
      if (got === 'none') {
        Bun.sleepSync(1);
        continue;
      }
      if (got.fd >= 0) libc.close(got.fd);
      const { message } = got;
      if (message.type === 'hello' && message.format === FRONT_FORMAT && message.host !== undefined && message.port !== undefined)
        return { channel, address: { host: message.host, port: message.port } };
      throw this.#unavailable('it is of another kvtier');
    }
    return undefined;
  }

  /** The address is the front's, whatever is asked for. */
  listen(_address: { readonly host: string; readonly port: number }, accept: (socket: TransportSocket) => ConnectionHandler): Listener {
    this.#watch(this.#readiness.nextId(), accept);
    return { ...this.#address, pause: () => {}, resume: () => true, stop: () => void (this.#stopped = true) };
  }

  #watch(id: number, accept: (socket: TransportSocket) => ConnectionHandler): void {
    this.#readiness.arm(id, this.#channel.fd, () => {
      for (;;) {
        // Connections that come when we stop are the next agent's.
        if (this.#stopped) return;
        const got = this.#channel.receive();
        if (got === 'none') break;
        if (got === 'end') return this.#onGone();
        const { message, fd } = got;
        if (message.type === 'connection' && message.slot < this.#state.slots) this.#adopt(fd, message, accept);
        else if (fd >= 0) libc.close(fd);
      }
      this.#watch(id, accept);
    });
  }

  #adopt(
    fd: number,
    name: { readonly slot: number; readonly serial: number },
    accept: (socket: TransportSocket) => ConnectionHandler,
  ): void {
    const slot = new Slot(this.#state, name.slot, () => void this.#channel.send({ type: 'closed', slot: name.slot, serial: name.serial }));
    const readiness = this.#readiness;
    const onBuffer = this.#onBuffer;
    const options = {
      fd,
      socket: {
        open(socket: Socket<Connection>): void {
          // Before Bun has read anything.
          socket.pause();
          socket.setNoDelay(true);
          const host = new HostSocket(socket, { readiness, direct: true, slot, onBuffer });
          socket.data = { host };
          host.attach(accept(host));
          host.sip(0);
        },
        data: (socket: Socket<Connection>, chunk: Uint8Array): void => socket.data.host.handler?.onData(chunk),
        drain: (socket: Socket<Connection>): void => socket.data.host.handler?.onDrain(),
        close: (socket: Socket<Connection>): void => socket.data.host.onClose(),
        end: (socket: Socket<Connection>): void => void socket.end(),
        error: (_: Socket<Connection>, problem: Error): void =>
          queueMicrotask(() => {
            throw problem;
          }),
      },
    };
    // Bun adopts a descriptor where it is given one instead of an address; its types do not say so.
    const adopting = Bun.connect(options as unknown as Parameters<typeof Bun.connect<Connection>>[0]);
    adopting.catch(() => {
      // Its peer went on the way here.
      slot.closed();
      libc.close(fd);
    });
  }
}

class Slot implements FrontSlot {
  readonly resumed: string;
  readonly #state: FrontState;
  readonly #slot: number;
  readonly #tell: () => void;
  #text: string;
  #isClosed = false;

  constructor(state: FrontState, slot: number, tell: () => void) {
    this.#state = state;
    this.#slot = slot;
    this.#tell = tell;
    this.resumed = state.read(slot);
    this.#text = this.resumed;
  }

  get isAtRest(): boolean {
    return !this.#isClosed && this.#state.isAtRest(this.#slot);
  }

  begin(): boolean {
    if (this.#isClosed) return false;
    const rested = this.#state.isAtRest(this.#slot);
    if (rested) this.#state.setBusy(this.#slot);
    return rested;
  }

  restAgain(): void {
    if (!this.#isClosed) this.#state.setRest(this.#slot);
  }

  rest(text: string): void {
    if (this.#isClosed || this.#state.isAtRest(this.#slot)) return;
    if (text !== this.#text) {
      if (!this.#state.write(this.#slot, text)) return;
      this.#text = text;
    }
    this.#state.setRest(this.#slot);
  }

  closed(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#tell();
  }
}
