/**
 * Transport and SocketIo on simulated TCP: bytes arrive in pieces, buffers are small, peers stall, reset and close, and nothing moves
 * unless `step` moves it.
 *
 * The model: a connection has two directions, each with a bounded kernel buffer. The server's end has a descriptor number out of one
 * table; the lowest free number is given out first, as Linux does, so that a number that was closed is soon another connection's.
 * A transfer looks its number up when it is submitted, and keeps what it found (`dup`): who submits a number that has been closed
 * meanwhile moves the bytes of whoever has it now.
 *
 * Invariants (checkInvariants): a number names one connection; a closed connection has none; a transfer under way holds its
 * connection; nothing is read by the transport while it is paused.
 */
import { assert } from '#core/assert.ts';
import type { Fd } from '#core/brand.ts';
import { checksum } from '#core/checksum.ts';
import type { BlockHash } from '#core/checksum.ts';
import type { IoFailure, ReceiveDone, ReceiveJob, SendDone, SendJob, SocketIo } from '#ports/io-pool.ts';
import type { ConnectionHandler, Listener, Transport, TransportSocket } from '#ports/transport.ts';
import { ByteQueue } from './byte-queue.ts';
import type { SimClock, SimRng } from './sim-clock.ts';
import type { SimSharedMemory } from './sim-shared-memory.ts';

const EBADF = 9;
const ECONNRESET = 104;
const ETIMEDOUT = 110;
/** stdin and friends, the journal, arenas. */
const FIRST_FD = 10;

/** The client's end of a connection. */
export interface SimPeer {
  /** Bytes that came; they are the peer's. */
  onBytes(bytes: Uint8Array): void;
  /** The connection is over, whoever ended it. Exactly once. */
  onEnd(how: 'closed' | 'reset'): void;
}

interface Transfer {
  readonly connection: SimConnection;
  readonly receiving: boolean;
  readonly address: number;
  readonly sizeBytes: number;
  readonly totalBytes: number;
  readonly stallMs: number;
  progressAtMs: number;
  doneBytes: number;
  /** Receive: payload and tail as they came off the wire. Send: header, then trailer. */
  readonly small: Uint8Array;
  readonly headerBytes: number;
  readonly resolve: (outcome: (ReceiveDone & SendDone) | IoFailure) => void;
}

/** What may happen next on a connection or a transfer. */
type Move = () => void;

export class SimConnection implements TransportSocket {
  readonly id: number;
  readonly remoteAddress: string;
  readonly direct = true;
  readonly #network: SimNetwork;
  readonly #peer: SimPeer;
  /** Written by the peer and still on its way. */
  readonly outbox = new ByteQueue();
  /** Arrived and not read. */
  readonly arrived = new ByteQueue();
  /** Taken by the server's kernel and still on its way to the peer. */
  readonly sending = new ByteQueue();
  /** Room in the kernel, in each direction. */
  bufferBytes: number;
  handler: ConnectionHandler | undefined;
  #fd: number;
  paused = false;
  sipBytes = 0;
  wantsDrain = false;
  ending = false;
  /** The peer sends no more: what it sent may still be read. */
  peerClosed = false;
  /** Both directions are dead. */
  broken = false;
  /** The server's end is gone and its number free. */
  closed = false;
  peerGone = false;
  /** Until then (in steps of the network) nothing moves to or from the peer. */
  stalledUntil = 0;

  constructor(network: SimNetwork, peer: SimPeer, options: { id: number; fd: number; remoteAddress: string; bufferBytes: number }) {
    this.#network = network;
    this.#peer = peer;
    this.id = options.id;
    this.#fd = options.fd;
    this.remoteAddress = options.remoteAddress;
    this.bufferBytes = options.bufferBytes;
  }

  // --- the server's end -----------------------------------------------------------------------------------------------------

  get fd(): Fd {
    return (this.closed ? -1 : this.#fd) as Fd;
  }

  write(bytes: Uint8Array): number {
    if (this.closed || this.broken) return bytes.length;
    const taken = this.#network.piece(Math.min(bytes.length, this.bufferBytes - this.sending.length));
    this.sending.push(bytes.subarray(0, taken));
    if (taken < bytes.length) this.wantsDrain = true;
    return taken;
  }

  pause(): void {
    this.paused = true;
  }

  resume(): void {
    this.paused = false;
  }

  sip(maxBytes: number): void {
    this.sipBytes = maxBytes;
  }

  end(): void {
    this.ending = true;
  }

  terminate(): void {
    if (this.closed) return;
    this.broken = true;
    this.closeServer();
  }

  /** The number is free, and the handler hears of it. */
  closeServer(): void {
    if (this.closed) return;
    this.closed = true;
    this.#network.freeFd(this.#fd);
    this.handler?.onClose();
  }

  // --- the peer's end -------------------------------------------------------------------------------------------------------

  send(bytes: Uint8Array): void {
    if (!this.peerGone && !this.broken) this.outbox.push(bytes);
  }

  /** The peer closes when what it sent has arrived. */
  close(): void {
    this.peerClosed = true;
  }

  /** The peer resets: what was on its way is lost. The server notices at a step of its own. */
  reset(): void {
    this.broken = true;
    this.outbox.clear();
    this.arrived.clear();
    this.sending.clear();
    this.endPeer('reset');
  }

  endPeer(how: 'closed' | 'reset'): void {
    if (this.peerGone) return;
    this.peerGone = true;
    this.#peer.onEnd(how);
  }

  // --- what may happen ------------------------------------------------------------------------------------------------------

  moves(step: number, add: (move: Move) => void): void {
    if (this.closed && !this.broken && this.sending.length === 0 && !this.peerGone) return add(() => this.endPeer('closed'));
    if (this.broken) {
      if (!this.closed) add(() => this.closeServer());
      if (!this.peerGone) add(() => this.endPeer('reset'));
      return;
    }
    if (step >= this.stalledUntil) {
      if (this.outbox.length > 0 && this.arrived.length < this.bufferBytes) add(() => this.#arrive());
      if (this.sending.length > 0 && !this.peerGone) add(() => this.#deliver());
    }
    if (this.closed) return;
    if (this.arrived.length > 0 && !this.paused && !this.ending) add(() => this.#data());
    if (this.wantsDrain && this.sending.length < this.bufferBytes) add(() => this.#drain());
    if (this.peerClosed && this.outbox.length === 0 && !this.paused && (this.arrived.length === 0 || this.ending)) {
      add(() => {
        this.closeServer();
        this.endPeer('closed');
      });
    }
    if (this.ending && this.sending.length === 0 && !this.wantsDrain) add(() => this.closeServer());
  }

  #arrive(): void {
    this.arrived.push(this.outbox.take(this.#network.piece(this.bufferBytes - this.arrived.length)));
  }

  #deliver(): void {
    this.#peer.onBytes(this.sending.take(this.#network.piece(this.sending.length)));
  }

  #data(): void {
    const limit = this.sipBytes > 0 ? Math.min(this.sipBytes, this.arrived.length) : this.arrived.length;
    // A buffer of its own, overwritten after the handler returned: who keeps a view of it reads garbage.
    const chunk = this.arrived.take(this.#network.piece(limit));
    this.handler?.onData(chunk);
    this.#network.spoilLater(chunk);
  }

  #drain(): void {
    this.wantsDrain = false;
    this.handler?.onDrain();
  }
}

export class SimNetwork implements Transport, SocketIo {
  readonly #clock: SimClock;
  readonly #rng: SimRng;
  readonly #hash: BlockHash;
  readonly #fds = new Map<number, SimConnection>();
  readonly connections = new Set<SimConnection>();
  readonly #transfers = new Set<Transfer>();
  #memory: SimSharedMemory | undefined;
  /** By port. */
  readonly #accepts = new Map<number, (socket: TransportSocket) => ConnectionHandler>();
  #nextConnection = 1;
  #step = 0;
  /** Bytes of one movement at most; the smaller, the more interleavings. */
  maxPieceBytes = 256 * 1024;
  /** Sizes of the next movements, instead of random ones; at most what can move. */
  readonly script: number[] = [];
  /** Chunks that handlers have returned from: theirs no more. */
  #spoiled: Uint8Array[] = [];

  constructor(parts: { clock: SimClock; rng: SimRng; hash: BlockHash }) {
    this.#clock = parts.clock;
    this.#rng = parts.rng;
    this.#hash = parts.hash;
  }

  /** A process begins: its memory, and nothing of the last one's sockets. */
  begin(memory: SimSharedMemory): void {
    this.#memory = memory;
  }

  /** What the I/O threads still do of their transfers while the process is killed: nobody hears of it. */
  moveTransfers(): void {
    for (const transfer of this.#transfers) {
      const { connection } = transfer;
      if (transfer.receiving && !connection.broken && connection.arrived.length > 0 && this.#rng.chance(0.5)) this.#receivePiece(transfer);
    }
  }

  /** The process is gone: the kernel closes what it had open. */
  kill(): void {
    this.#accepts.clear();
    this.#transfers.clear();
    this.#spoiled = [];
    for (const connection of this.connections) {
      connection.handler = undefined;
      connection.closed = true;
      connection.broken = true;
      connection.endPeer('reset');
    }
    this.connections.clear();
    this.#fds.clear();
  }

  /** How much of what could move does: all of it, mostly, or a few bytes. At least 1 where `limit` is. */
  piece(limit: number): number {
    const scripted = this.script.shift();
    if (scripted !== undefined) return Math.min(limit, scripted);
    const most = Math.min(limit, this.maxPieceBytes);
    if (most <= 1 || this.#rng.chance(0.6)) return Math.max(0, most);
    return 1 + this.#rng.below(this.#rng.chance(0.3) ? Math.min(most, 40) : most);
  }

  spoilLater(chunk: Uint8Array): void {
    this.#spoiled.push(chunk);
  }

  freeFd(fd: number): void {
    this.#fds.delete(fd);
  }

  get connectionCount(): number {
    return this.connections.size;
  }

  // --- Transport ------------------------------------------------------------------------------------------------------------

  listen(address: { readonly host: string; readonly port: number }, accept: (socket: TransportSocket) => ConnectionHandler): Listener {
    const { port } = address;
    const resume = (): boolean => {
      this.#accepts.set(port, accept);
      return true;
    };
    const close = (): void => void this.#accepts.delete(port);
    resume();
    return { host: address.host, port, pause: close, resume, stop: close };
  }

  /** Undefined where nobody listens. Without a port: to whoever listened first. */
  connect(remoteAddress: string, peer: SimPeer, port?: number): SimConnection | undefined {
    const accept = port === undefined ? this.#accepts.values().next().value : this.#accepts.get(port);
    if (accept === undefined) return undefined;
    let fd = FIRST_FD;
    while (this.#fds.has(fd)) fd += 1;
    const bufferBytes = this.#rng.pick([1000, 8 * 1024, 64 * 1024, 256 * 1024]);
    const connection = new SimConnection(this, peer, { id: this.#nextConnection++, fd, remoteAddress, bufferBytes });
    this.#fds.set(fd, connection);
    this.connections.add(connection);
    const handler = accept(connection);
    connection.handler = handler;
    if (connection.closed) handler.onClose();
    return connection;
  }

  // --- SocketIo -------------------------------------------------------------------------------------------------------------

  get activeCount(): number {
    return this.#transfers.size;
  }

  #lookUp(fd: number): SimConnection | undefined {
    return this.#fds.get(fd);
  }

  receive(job: ReceiveJob): Promise<ReceiveDone | IoFailure> {
    const small = new Uint8Array(job.sizeBytes + job.tailBytes);
    if (job.placedBytes > 0) small.set(this.#at(job.address, job.placedBytes));
    return this.#submit(job.fd, {
      receiving: true,
      address: job.address,
      sizeBytes: job.sizeBytes,
      totalBytes: job.sizeBytes + job.tailBytes,
      stallMs: job.stallMs,
      doneBytes: job.placedBytes,
      small,
      headerBytes: 0,
    });
  }

  send(job: SendJob): Promise<SendDone | IoFailure> {
    const small = new Uint8Array(job.header.length + job.trailer.length);
    small.set(job.header);
    small.set(job.trailer, job.header.length);
    return this.#submit(job.fd, {
      receiving: false,
      address: job.address,
      sizeBytes: job.sizeBytes,
      totalBytes: small.length + job.sizeBytes,
      stallMs: job.stallMs,
      doneBytes: job.sentBytes,
      small,
      headerBytes: job.header.length,
    });
  }

  #submit(fd: number, job: Omit<Transfer, 'connection' | 'resolve' | 'progressAtMs'>): Promise<(ReceiveDone & SendDone) | IoFailure> {
    const connection = this.#lookUp(fd);
    if (connection === undefined) return Promise.resolve({ ok: false, errno: EBADF, step: 'dup' });
    return new Promise((resolve) => {
      this.#transfers.add({ ...job, connection, resolve, progressAtMs: this.#clock.monotonicMs() });
    });
  }

  #at(address: number, sizeBytes: number): Uint8Array {
    assert(this.#memory !== undefined, 'the process runs');
    return this.#memory.at(address, sizeBytes);
  }

  receiveNow(job: Parameters<SocketIo['receiveNow']>[0]): number | IoFailure {
    const connection = this.#lookUp(job.fd);
    if (connection === undefined) return { ok: false, errno: EBADF, step: 'receive' };
    if (connection.broken) return { ok: false, errno: ECONNRESET, step: 'receive' };
    if (connection.arrived.length === 0) {
      return connection.peerClosed && connection.outbox.length === 0 ? { ok: false, errno: ECONNRESET, step: 'receive' } : 0;
    }
    const there = Math.min(connection.arrived.length, job.sizeBytes + job.tail.length);
    // The edge of the payload is where doors err: half of what follows it comes more often than chance would have it.
    const got = connection.arrived.take(this.#rng.chance(0.05) ? Math.min(there, job.sizeBytes + 1) : this.piece(there));
    const payload = Math.min(got.length, job.sizeBytes);
    this.#at(job.address, payload).set(got.subarray(0, payload));
    job.tail.set(got.subarray(payload));
    return got.length;
  }

  sendNow(job: Omit<SendJob, 'stallMs'>): number | IoFailure {
    const connection = this.#lookUp(job.fd);
    if (connection === undefined) return { ok: false, errno: EBADF, step: 'send' };
    if (connection.broken) return { ok: false, errno: ECONNRESET, step: 'send' };
    const all = new Uint8Array(job.header.length + job.sizeBytes + job.trailer.length);
    all.set(job.header);
    all.set(this.#at(job.address, job.sizeBytes), job.header.length);
    all.set(job.trailer, job.header.length + job.sizeBytes);
    const room = connection.bufferBytes - connection.sending.length;
    const taken = this.piece(Math.min(all.length - job.sentBytes, room));
    connection.sending.push(all.subarray(job.sentBytes, job.sentBytes + taken));
    return taken;
  }

  // --- steps ----------------------------------------------------------------------------------------------------------------

  /** One movement somewhere. False where nothing can move. */
  step(): boolean {
    this.#step += 1;
    for (const chunk of this.#spoiled.splice(0)) chunk.fill(0xdd);
    const moves: Move[] = [];
    const add = (move: Move): void => void moves.push(move);
    for (const connection of this.connections) {
      if (connection.closed && connection.peerGone) this.connections.delete(connection);
      else connection.moves(this.#step, add);
    }
    for (const transfer of this.#transfers) if (this.#canMove(transfer)) moves.push(() => this.#move(transfer));
    if (moves.length === 0) return false;
    this.#rng.pick(moves)();
    return true;
  }

  /** For `steps` steps of the network nothing moves on one connection. */
  stall(connection: SimConnection, steps: number): void {
    connection.stalledUntil = this.#step + steps;
  }

  /** Time has passed: transfers without progress are given up. */
  expire(): void {
    const now = this.#clock.monotonicMs();
    for (const transfer of this.#transfers) {
      if (now - transfer.progressAtMs > transfer.stallMs) this.#finish(transfer, { ok: false, errno: ETIMEDOUT, step: 'transfer' });
    }
  }

  #canMove({ connection, receiving, doneBytes, totalBytes }: Transfer): boolean {
    if (connection.broken || doneBytes === totalBytes) return true;
    if (!receiving) return connection.sending.length < connection.bufferBytes || connection.peerGone;
    return connection.arrived.length > 0 || (connection.peerClosed && connection.outbox.length === 0);
  }

  #move(transfer: Transfer): void {
    const { connection, receiving, totalBytes } = transfer;
    const isOver = receiving ? connection.arrived.length === 0 : connection.peerGone;
    if (transfer.doneBytes < totalBytes && (connection.broken || isOver)) {
      return this.#finish(transfer, { ok: false, errno: ECONNRESET, step: 'transfer' });
    }
    if (receiving) this.#receivePiece(transfer);
    else this.#sendPiece(transfer);
    transfer.progressAtMs = this.#clock.monotonicMs();
    if (transfer.doneBytes < totalBytes || this.#rng.chance(0.3)) return;
    const { small, sizeBytes } = transfer;
    const sum = receiving ? checksum(small.subarray(0, sizeBytes), this.#hash) : 0n;
    this.#finish(transfer, { ok: true, checksum: sum, tail: receiving ? small.slice(sizeBytes) : new Uint8Array(0) });
  }

  #receivePiece(transfer: Transfer): void {
    const { connection, small, address, sizeBytes } = transfer;
    const got = connection.arrived.take(this.piece(Math.min(connection.arrived.length, transfer.totalBytes - transfer.doneBytes)));
    small.set(got, transfer.doneBytes);
    const payload = Math.min(got.length, Math.max(0, sizeBytes - transfer.doneBytes));
    if (payload > 0) this.#at(address + transfer.doneBytes, payload).set(got.subarray(0, payload));
    transfer.doneBytes += got.length;
  }

  /** Out of the memory as it is at this moment: who gives a slot away under a reader is found out. */
  #sendPiece(transfer: Transfer): void {
    const { connection, small, headerBytes, address, sizeBytes } = transfer;
    const room = connection.bufferBytes - connection.sending.length;
    const count = this.piece(Math.min(room, transfer.totalBytes - transfer.doneBytes));
    const end = transfer.doneBytes + count;
    const part = (from: number, bytes: Uint8Array): void => {
      const first = Math.max(transfer.doneBytes, from) - from;
      const last = Math.min(end, from + bytes.length) - from;
      if (last > first) connection.sending.push(bytes.subarray(first, last));
    };
    part(0, small.subarray(0, headerBytes));
    part(headerBytes, this.#at(address, sizeBytes));
    part(headerBytes + sizeBytes, small.subarray(headerBytes));
    transfer.doneBytes = end;
  }

  #finish(transfer: Transfer, outcome: (ReceiveDone & SendDone) | IoFailure): void {
    this.#transfers.delete(transfer);
    transfer.resolve(outcome);
  }

  checkInvariants(): void {
    for (const [fd, connection] of this.#fds) {
      assert(connection.fd === (fd as Fd), `descriptor ${fd} names connection ${connection.id}`);
    }
    for (const connection of this.connections) {
      if (!connection.closed) assert(this.#fds.get(connection.fd) === connection, `connection ${connection.id} has its descriptor`);
      assert(connection.arrived.length <= connection.bufferBytes + this.maxPieceBytes, 'a kernel buffer is bounded');
    }
    for (const transfer of this.#transfers) assert(transfer.doneBytes <= transfer.totalBytes, 'a transfer moves no more than it has');
  }
}
