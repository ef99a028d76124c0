/**
 * One RESP connection: bytes -> parser -> command -> reply, in order, one command at a time.
 *
 * Invariants: while a command waits (for room, the disk, a peer) the socket is paused, so nothing piles up; replies leave in the
 * order of the commands; a ticket or read handle is settled exactly once, also when the peer resets in mid-transfer; the payload's
 * memory belongs to the transfer until the I/O pool answered, never only until the socket closed.
 */
import type { PutRejected, PutTicket, ReadHandle } from '#cache/door.ts';
import { assert } from '#core/assert.ts';
import type { NamespaceId } from '#core/brand.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';
import type { ConnectionHandler, TransportSocket } from '#ports/transport.ts';
import { KeyParser, isLmcacheKey } from '#protocol/lmcache-key.ts';
import type { ParsedKey } from '#protocol/lmcache-key.ts';
import { RESP_CRLF, RespReplyBuilder, bulkHeader } from '#protocol/resp/resp-encoder.ts';
import { DEFAULT_RESP_LIMITS, RespParser } from '#protocol/resp/resp-parser.ts';
import type { RespEvent, RespValueEvent } from '#protocol/resp/resp-parser.ts';
import { reserveInChain } from '#servers/chained-put.ts';
import { NamespaceRefs } from '#servers/namespace-refs.ts';
import { Outbox } from '#servers/outbox.ts';
import { RelayedTransfer } from '#servers/relayed-transfer.ts';
import { NOW_BYTES, ValueTransfer } from '#servers/value-transfer.ts';
import type { ReceivedValue, Transfers, ValueFrame } from '#servers/value-transfer.ts';
import { CommandRunner } from './commands.ts';
import type { ClientGroup, RespServer } from './resp-server.ts';
import { stateOfConnection } from './resp-state.ts';
import type { SizeGuard } from './size-guard.ts';

/** Values up to this size are copied into the reply; larger ones leave from their slot, in the I/O pool. */
const COPY_REPLY_BYTES = 64 * 1024;
/** How long the transport looks for the next command of a connection that streams alone: as long as a client takes to begin it. */
const ALONE_LOOK_MS = 0.3;
/**
 * After a value of at least this much the socket is read in sips: what Bun reads for us is copied once more. Below it, waiting for the
 * notice that there is something to read costs more than the copy.
 */
const SIP_AFTER_BYTES = 512 * 1024;
/** Holds the head of a SET with a long key. */
const SIP_BYTES = 4096;
/** Replies are flushed when they pass this, and no further command is read until the peer took them. */
const FLUSH_BYTES = 256 * 1024;

/** A value that streamed in, by its place in the arguments; `rejected` is the reason where it was not stored. */
export interface StreamedValue {
  readonly argIndex: number;
  readonly ticket: PutTicket | undefined;
  readonly checksum: bigint;
  readonly rejection: { readonly reason: string; readonly message: string } | undefined;
  readonly sizeBytes: number;
}

export class RespConnection implements ConnectionHandler {
  readonly id: number;
  readonly server: RespServer;
  readonly out = new RespReplyBuilder();
  /** Of the tenant that the connection's token names, see `identify`. */
  keys = new KeyParser();
  guard: SizeGuard;
  /** Undefined: sees the keys of all. */
  tenant: string | undefined;
  readonly #socket: TransportSocket;
  readonly #parser = new RespParser(DEFAULT_RESP_LIMITS);
  readonly commands: CommandRunner;
  #streamed: StreamedValue[] = [];
  /** When the last of them was there. */
  #streamedAtMs = 0;
  readonly #outbox: Outbox;
  readonly #transfer: Transfers;
  /** Where values pass the transport: told of what arrives and of the end. */
  readonly #relayed: RelayedTransfer | undefined;
  #closed = false;
  #closing = false;
  #sips = false;
  /** No other connection streams values. */
  #alone = false;
  busy = false;
  user = '';
  clientName = '';
  /** What is kept of the token that it gave, where connections outlive the process. */
  proof = '';
  idleSinceMs: number;
  #group: ClientGroup | undefined;
  readonly #namespaces: NamespaceRefs;

  constructor(server: RespServer, socket: TransportSocket, id: number) {
    this.server = server;
    this.#socket = socket;
    this.id = id;
    this.idleSinceMs = server.options.clock.monotonicMs();
    this.guard = server.guardOf(undefined);
    this.#namespaces = new NamespaceRefs(server.options.cache);
    const { clock, stallMs } = server.options;
    this.#outbox = new Outbox(socket, { clock, stallMs, onSent: (bytes) => void (server.sentBytes += bytes) }, () => this.close());
    const { hash } = server.options;
    this.#relayed = socket.direct
      ? undefined
      : new RelayedTransfer(socket, { outbox: this.#outbox, hash, clock }, { owner: this, source: this.#parser });
    this.#transfer =
      this.#relayed ?? new ValueTransfer(socket, server.options, { owner: this, source: this.#parser, tailBytes: RESP_CRLF.length });
    this.commands = new CommandRunner(this);
  }

  /** For transfers: what `#fill` found of this value. */
  get streamsAlone(): boolean {
    return this.#alone;
  }

  /** For transfers: the peer is gone. */
  get isGone(): boolean {
    return this.#closed;
  }

  get minBytesPerSecond(): number {
    return this.server.options.minBytesPerSecond ?? 0;
  }

  get stallMs(): number {
    return this.server.options.stallMs;
  }

  countReceived(bytes: number): void {
    this.server.receivedBytes += bytes;
  }

  get remoteAddress(): string {
    return this.#socket.remoteAddress;
  }

  get group(): ClientGroup {
    return (this.#group ??= this.server.joinGroup(this.#socket.remoteAddress, this));
  }

  /** After AUTH: keys are the tenant's, leases and inference the user's from now on. Nothing of the former tenant stays. */
  identify(user: string, tenant: string | undefined): void {
    if (this.#group !== undefined) this.server.leaveGroup(this.#group);
    this.#group = undefined;
    this.user = user;
    if (tenant === this.tenant) return;
    this.tenant = tenant;
    this.#namespaces.release();
    this.keys = new KeyParser(tenant === undefined ? {} : { tenant });
    this.guard = this.server.guardOf(tenant);
  }

  /** The id of a namespace; this connection holds one reference to each of the last few that it used. */
  namespace(descriptor: NamespaceDescriptor): NamespaceId {
    return this.#namespaces.id(descriptor);
  }

  onData(chunk: Uint8Array): void {
    if (this.#closing) return;
    this.idleSinceMs = this.server.options.clock.monotonicMs();
    this.server.receivedBytes += chunk.length;
    this.#parser.push(chunk);
    if (!this.busy) this.#run();
    else this.#relayed?.onArrival();
  }

  /** Closes a connection that holds room for values and sends nothing, or that has been quiet for `idleMs`. */
  sweep(nowMs: number, idleMs: number | undefined): void {
    if (this.busy) return;
    const quietMs = nowMs - this.idleSinceMs;
    // Since its last value, not since its last byte: a peer that trickles keys between two values holds the room of the first.
    const holdsMs = this.#streamed.length > 0 ? nowMs - this.#streamedAtMs : 0;
    if (holdsMs > this.server.options.stallMs || (idleMs !== undefined && quietMs > idleMs)) this.close();
  }

  onDrain(): void {
    this.#outbox.onDrain();
  }

  onClose(): void {
    this.#closed = true;
    this.#closing = true;
    this.#outbox.onClose();
    this.#relayed?.onClose();
    // A command that is in work settles what it holds; without one it is done here.
    if (!this.busy) this.#release();
  }

  #release(): void {
    this.#abortStreamed();
    this.#namespaces.release();
    if (this.#group !== undefined) this.server.leaveGroup(this.#group);
    this.#group = undefined;
    this.server.forget(this);
  }

  #abortStreamed(): void {
    for (const value of this.#streamed) if (value.ticket !== undefined) this.abort(value.ticket);
    this.#streamed = [];
  }

  /** Processes events until the parser is empty or a command has to wait. */
  #run(): void {
    for (;;) {
      if (this.#closing) break;
      const event = this.#parser.next();
      if (event === undefined) break;
      const pending = this.#handle(event);
      if (pending === undefined && this.out.length < FLUSH_BYTES) continue;
      this.#wait(pending ?? Promise.resolve());
      return;
    }
    this.#flush();
    if (this.#outbox.isBlocked && !this.#closing) this.#wait(Promise.resolve());
    else this.#rest();
  }

  /** Every reply has left, and no byte of a command is here: where sockets outlive the process, this one may go on in another. */
  #rest(): void {
    if (this.#socket.resumed === undefined || this.#closing || this.#streamed.length > 0 || !this.#parser.isAtBoundary) return;
    this.#socket.rest?.(stateOfConnection(this));
  }

  /** Leaves the connection to the next process, as it is. False where it cannot be. */
  leave(): boolean {
    if (this.busy || this.#closing || this.#socket.leave?.() !== true) return false;
    this.#closing = true;
    return true;
  }

  #wait(pending: Promise<void>): void {
    this.busy = true;
    this.#socket.pause();
    this.#parser.retain();
    const done = (): void => {
      this.busy = false;
      if (this.#closed) return this.#release();
      if (this.#closing) return;
      this.#run();
      if (!this.busy && !this.#closing) this.#socket.resume();
    };
    void pending
      .then(() => this.flushed())
      .then(done, (problem: unknown) => {
        done();
        throw problem;
      });
  }

  #handle(event: RespEvent): Promise<void> | undefined {
    switch (event.kind) {
      case 'value':
        return this.#receiveValue(event);
      case 'command': {
        this.server.commands += 1;
        const streamed = this.#streamed;
        this.#streamed = [];
        this.#setSips((streamed.at(-1)?.sizeBytes ?? 0) >= SIP_AFTER_BYTES);
        return this.commands.run(event.name, event.args, streamed);
      }
      case 'oversized':
        this.#abortStreamed();
        this.commands.oversized(event);
        return undefined;
      case 'error':
        this.server.protocolErrors += 1;
        this.#abortStreamed();
        this.out.error(`ERR ${event.message}`);
        this.#flush();
        this.end();
        return undefined;
    }
  }

  /** Expects of the next command what this one was. */
  #setSips(sips: boolean): void {
    if (!sips && !this.#sips) return;
    this.#sips = sips;
    this.#socket.sip(sips ? SIP_BYTES : 0, this.#alone ? ALONE_LOOK_MS : 0);
  }

  /** A large value begins: find room, take what came with the command, let the pool fetch the rest. */
  #receiveValue(event: RespValueEvent): Promise<void> | undefined {
    const key = event.args[event.name === 'MSET' ? event.argIndex - 1 : 1] ?? new Uint8Array(0);
    const refusal = this.commands.refuseValue(event.name, key);
    if (refusal !== undefined) {
      this.#reject(event, refusal);
      return undefined;
    }
    const shed = this.#streamed.find((value) => value.rejection?.reason === 'shed')?.rejection;
    if (shed !== undefined) {
      // An MSET that found no room holds what it got: to wait again for each of its other values would make everybody wait.
      this.#reject(event, shed);
      return undefined;
    }
    const parsed = this.keys.parse(key);
    assert(parsed !== 'too-long', 'refuseValue looked at the key');
    const reserved = this.reserve(parsed, event.sizeBytes);
    if (reserved instanceof Promise) {
      this.#parser.retain();
      return reserved.then((outcome) => this.#fill(event, outcome));
    }
    return this.#fill(event, reserved);
  }

  /** Room for a value; what LMCache stores does not push out the chain that it continues. */
  reserve(parsed: ParsedKey, sizeBytes: number): PutTicket | PutRejected | Promise<PutTicket | PutRejected> {
    const namespace = this.namespace(parsed.descriptor);
    if (!isLmcacheKey(parsed)) return this.server.options.cache.reserve({ namespace, key: parsed.key, sizeBytes });
    const { inference } = this.group;
    const reserved = reserveInChain(this.server.options.cache, inference, { namespace, key: parsed.key, sizeBytes });
    if (reserved !== 'wait') return reserved;
    const kept = { ...parsed, key: parsed.key.slice() };
    return inference.nextSettled().then(() => this.reserve(kept, sizeBytes));
  }

  /** Gives a ticket back. */
  abort(ticket: PutTicket): void {
    this.server.options.cache.abort(ticket);
    this.#group?.inference.settled(ticket);
  }

  #reject(event: RespValueEvent, rejection: { reason: string; message: string }): void {
    this.#parser.skipValue();
    this.#streamedAtMs = this.server.options.clock.monotonicMs();
    this.#streamed.push({ argIndex: event.argIndex, ticket: undefined, checksum: 0n, rejection, sizeBytes: event.sizeBytes });
  }

  #fill(event: RespValueEvent, reserved: PutTicket | { kind: 'rejected'; reason: string; message: string }): Promise<void> | undefined {
    if (reserved.kind === 'rejected') {
      this.#reject(event, reserved);
      return undefined;
    }
    this.#alone = this.server.streamsAlone(this);
    const received = this.#transfer.receive(reserved);
    if (!(received instanceof Promise)) {
      this.#received(event, reserved, received);
      return undefined;
    }
    return received.then((value) => {
      if (value !== undefined) return this.#received(event, reserved, value);
      this.abort(reserved);
      this.close();
    });
  }

  #received(event: RespValueEvent, ticket: PutTicket, value: ReceivedValue): void {
    if (value.tail.length > 0) this.#parser.trailerReceivedElsewhere(value.tail);
    this.#keep(event, ticket, value.checksum);
  }

  #keep(event: RespValueEvent, ticket: PutTicket, sum: bigint): void {
    this.#streamedAtMs = this.server.options.clock.monotonicMs();
    this.#streamed.push({ argIndex: event.argIndex, ticket, checksum: sum, rejection: undefined, sizeBytes: ticket.sizeBytes });
  }

  /** Sends a value and releases it. Small ones join the reply buffer; large ones go from their slot once the buffer is out. */
  sendValue(handle: ReadHandle): Promise<void> | undefined {
    if (handle.sizeBytes <= COPY_REPLY_BYTES) {
      this.out.bulk(handle.view());
      handle.release();
      return undefined;
    }
    const frame = { header: bulkHeader(handle.sizeBytes), handle, trailer: RESP_CRLF };
    let sentBytes = 0;
    if (handle.sizeBytes <= NOW_BYTES && this.out.length === 0 && !this.#outbox.isBlocked && !this.#closing) {
      sentBytes = this.#transfer.sendNow(frame);
      if (sentBytes === frame.header.length + handle.sizeBytes + RESP_CRLF.length) {
        this.server.sentBytes += sentBytes;
        handle.release();
        return undefined;
      }
    }
    return this.#sendLarge(frame, sentBytes);
  }

  async #sendLarge(frame: ValueFrame, sentBytes: number): Promise<void> {
    const { handle } = frame;
    try {
      await this.flushed();
      if (this.#closed || this.#closing) return;
      if (!(await this.#transfer.send(frame, sentBytes))) this.close();
      // What is relayed is counted as it is written.
      else if (this.#relayed === undefined) this.server.sentBytes += handle.sizeBytes;
    } finally {
      handle.release();
    }
  }

  /** Resolves when the kernel has taken every reply so far, or the peer is gone. */
  async flushed(): Promise<void> {
    this.#flush();
    await this.#outbox.drained();
  }

  #flush(): void {
    if (this.out.length === 0 || this.#outbox.isBlocked) return;
    this.#outbox.write(this.out.bytes);
    this.out.clear();
  }

  /** Closes when the replies are out, or the peer has not taken them for `stallMs`. */
  end(): void {
    this.#closing = true;
    this.#flush();
    if (!this.#outbox.isBlocked) this.#socket.end();
    else void this.flushed().then(() => this.#socket.end());
  }

  close(): void {
    if (this.#closing && this.#closed) return;
    this.#closing = true;
    this.#socket.terminate();
  }
}
