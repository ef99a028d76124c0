/**
 * LocalTransport on Bun's unix sockets. Bun reads with recv(2), which drops descriptors: while one is expected the socket is paused and
 * read here (recvmsg(2)).
 */
import { chmodSync, chownSync, lstatSync, readFileSync, unlinkSync } from 'node:fs';
import type { Socket } from 'bun';
import type { Fd } from '#core/brand.ts';
import { KvtierError } from '#core/errors.ts';
import type { LocalAddress, LocalListener, LocalSocket, LocalTransport, Peer } from '#ports/local-door.ts';
import type { ConnectionHandler } from '#ports/transport.ts';
import { SocketMessage } from './socket-message.ts';
import { unixAddress } from './fd-channel.ts';
import { AF_UNIX, EAGAIN, SOCK_CLOEXEC, SOCK_STREAM, SOL_SOCKET, SO_PEERCRED, addressOf, errno, libc } from './libc.ts';

/** sun_path of sockaddr_un, without the final zero. */
const MAX_PATH_BYTES = 107;
/** Descriptors come rarely, and right behind the message that announces them. */
const POLL_MS = 1;

interface Attached {
  socket: UnixSocket;
  handler: ConnectionHandler;
}

class UnixSocket implements LocalSocket {
  readonly direct = false;
  readonly remoteAddress = 'local';
  readonly peer: Peer;
  readonly #socket: Socket<Attached>;
  readonly #message = new SocketMessage();
  #closed = false;

  constructor(socket: Socket<Attached>) {
    this.#socket = socket;
    this.peer = peerOf(this.fd);
  }

  get fd(): Fd {
    return (this.#closed ? -1 : (this.#socket as unknown as { readonly fd: number }).fd) as Fd;
  }

  write(bytes: Uint8Array): number {
    return this.#closed ? 0 : Math.max(0, this.#socket.write(bytes));
  }

  writeWithDescriptor(bytes: Uint8Array, fd: Fd): number {
    if (this.#closed) return -1;
    return this.#message.send(this.fd, bytes, fd);
  }

  async receiveDescriptor(deadlineMs: number): Promise<Fd | undefined> {
    const endsAt = performance.now() + deadlineMs;
    while (!this.#closed) {
      const got = this.#message.receive(this.fd);
      if (got !== 'again') return got;
      if (performance.now() > endsAt) return undefined;
      await Bun.sleep(POLL_MS);
    }
    return undefined;
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  sip(): void {}

  end(): void {
    this.#socket.end();
  }

  terminate(): void {
    this.#socket.terminate();
  }

  closed(): void {
    this.#closed = true;
  }
}

function peerOf(fd: Fd): Peer {
  const credentials = new Uint32Array(3);
  const length = new Uint32Array([12]);
  if (libc.getsockopt(fd, SOL_SOCKET, SO_PEERCRED, addressOf(credentials), addressOf(length)) !== 0)
    throw new Error(`Cannot tell who connected: errno ${errno()}`);
  return { pid: credentials[0] ?? 0, uid: credentials[1] ?? 0 };
}

export class UnixTransport implements LocalTransport {
  readonly #onBug: (problem: unknown) => void;

  /** `onBug`: a handler threw. Bun would keep it to itself, and the connection would be silent for ever. */
  constructor(onBug: (problem: unknown) => void) {
    this.#onBug = onBug;
  }

  listen(address: LocalAddress, accept: (socket: LocalSocket) => ConnectionHandler): LocalListener {
    const { path, mode } = address;
    if (new TextEncoder().encode(path).length > MAX_PATH_BYTES) {
      throw new KvtierError('CONFIG_INVALID', `Cannot listen on ${path}: the path of a unix socket has at most ${MAX_PATH_BYTES} bytes`, {
        context: { path },
      });
    }
    removeStale(path);
    const gid = address.group === undefined ? undefined : gidOf(address.group);
    // Nobody connects between the bind and the chmod.
    const former = process.umask(0o177);
    let server: ReturnType<typeof open>;
    try {
      server = open(path, accept, this.#onBug);
    } catch (problem) {
      throw unusable(path, problem);
    } finally {
      process.umask(former);
    }
    try {
      if (gid !== undefined) chownSync(path, process.getuid?.() ?? 0, gid);
      chmodSync(path, mode);
    } catch (problem) {
      server.stop(true);
      remove(path);
      throw unusable(path, problem);
    }
    return {
      // A unix socket is accepted by its own users alone; a shortage of descriptors is met by the limit of connections.
      pause() {},
      resume: () => true,
      stop: () => {
        server.stop(false);
        remove(path);
      },
    };
  }
}

function unusable(path: string, problem: unknown): KvtierError {
  return new KvtierError('CONFIG_INVALID', `Cannot listen on ${path}: ${String(problem)}`, { context: { path }, cause: problem });
}

function open(
  path: string,
  accept: (socket: LocalSocket) => ConnectionHandler,
  onBug: (problem: unknown) => void,
): { stop(closeActive?: boolean): void } {
  return Bun.listen<Attached>({
    unix: path,
    socket: {
      open(socket) {
        const local = new UnixSocket(socket);
        socket.data = { socket: local, handler: accept(local) };
      },
      data(socket, chunk) {
        socket.data.handler.onData(chunk);
      },
      drain(socket) {
        socket.data.handler.onDrain();
      },
      close(socket) {
        socket.data.socket.closed();
        socket.data.handler.onClose();
      },
      end: (socket) => void socket.end(),
      error(_socket, problem) {
        onBug(problem);
      },
    },
  });
}

/** A socket file that nobody listens on is left over by a process that was killed. The lock of the data directory says whose it was. */
function removeStale(path: string): void {
  try {
    if (!lstatSync(path).isSocket()) {
      throw new KvtierError('ADDRESS_IN_USE', `Cannot listen on ${path}: there is a file that is no socket`, { context: { path } });
    }
  } catch (problem) {
    if (problem instanceof KvtierError) throw problem;
    return;
  }
  const { connect, close } = probe(path);
  close();
  if (connect) throw new KvtierError('ADDRESS_IN_USE', `Cannot listen on ${path}: another process does`, { context: { path } });
  remove(path);
}

function probe(path: string): { readonly connect: boolean; close(): void } {
  const fd = libc.socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const address = unixAddress(path);
  const connect = libc.connect(fd, addressOf(address), address.length) === 0 || errno() === EAGAIN;
  return { connect, close: () => void libc.close(fd) };
}

function remove(path: string): void {
  try {
    unlinkSync(path);
  } catch (problem) {
    if (!(problem instanceof Error)) throw problem;
  }
}

/** By number, or by name out of /etc/group. */
function gidOf(group: string): number {
  if (/^\d+$/.test(group)) return Number(group);
  const line = readFileSync('/etc/group', 'utf8')
    .split('\n')
    .find((entry) => entry.startsWith(`${group}:`));
  const gid = Number(line?.split(':')[2]);
  if (!Number.isInteger(gid))
    throw new KvtierError('CONFIG_INVALID', `Cannot give the socket to group ${group}: there is no such group`, {});
  return gid;
}
