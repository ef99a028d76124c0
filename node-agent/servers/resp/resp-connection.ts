/**
 * One RESP connection: bytes -> parser -> command -> reply, in order, one command at a time.
 *
 * Invariants: while a command waits (for room, the disk, a peer) the socket is paused, so nothing piles up; replies leave in the
 * order of the commands; a ticket or read handle is settled exactly once, also when the peer resets in mid-transfer; the payload's
 * memory belongs to the transfer until the I/O pool answered, never only until the socket closed.
 */
import type { PutRejected, PutTicket, ReadHandle } from '#cache/door.ts';
import { assert } from '#core/assert.ts';
import type { Address, NamespaceId } from '#core/brand.ts';
import { checksum } from '#core/checksum.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';
import type { SendJob } from '#ports/io-pool.ts';
import type { ConnectionHandler, TransportSocket } from '#ports/transport.ts';
import { KeyParser, isLmcacheKey } from '#protocol/lmcache-key.ts';
import type { ParsedKey } from '#protocol/lmcache-key.ts';
import { RESP_CRLF, RespReplyBuilder, bulkHeader } from '#protocol/resp/resp-encoder.ts';
import { DEFAULT_RESP_LIMITS, RespParser } from '#protocol/resp/resp-parser.ts';
import type { RespEvent, RespValueEvent } from '#protocol/resp/resp-parser.ts';
import { CommandRunner } from './commands.ts';
import type { ClientGroup, RespServer } from './resp-server.ts';
import type { SizeGuard } from './size-guard.ts';

/** Values up to this size are copied into the reply; larger ones leave from their slot, in the I/O pool. */
const COPY_REPLY_BYTES = 64 * 1024;
/**
 * Up to this much of a value is moved between socket and slot on the main thread, as far as the socket goes without waiting: a
 * hand-over to the pool and back costs about as much as copying 256 KiB, and 1 MiB takes 0.2 ms.
 */
const NOW_BYTES = 1024 * 1024;
/** Each costs half a microsecond; together less than a hand-over. */
const EMPTY_LOOKS = 32;
/** How long the transport looks for the next command of a connection that streams alone: as long as a client takes to begin it. */
const ALONE_LOOK_MS = 0.3;
/**
 * After a value of at least this much the socket is read in sips: what Bun reads for us is copied once more. Below it, waiting for the
 * notice that there is something to read costs more than the copy.
 */
const SIP_AFTER_BYTES = 512 * 1024;
/** Holds the head of a SET with a long key. */
const SIP_BYTES = 4096;
const NO_TAIL = new Uint8Array(0);
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
  readonly #commands: CommandRunner;
  #streamed: StreamedValue[] = [];
  /** Bytes that the kernel did not take yet. */
  #unsent: Uint8Array | undefined;
  #drainWaiter: (() => void) | undefined;
  #closed = false;
  #closing = false;
  #sips = false;
  /** No other connection streams values. */
  #alone = false;
  busy = false;
  user = '';
  clientName = '';
  idleSinceMs: number;
  #group: ClientGroup | undefined;
  readonly #namespaces = new Map<NamespaceDescriptor, NamespaceId>();

  constructor(server: RespServer, socket: TransportSocket, id: number) {
    this.server = server;
    this.#socket = socket;
    this.id = id;
    this.idleSinceMs = server.options.clock.monotonicMs();
    this.guard = server.guardOf(undefined);
    this.#commands = new CommandRunner(this);
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
    this.#releaseNamespaces();
    this.keys = new KeyParser(tenant === undefined ? {} : { tenant });
    this.guard = this.server.guardOf(tenant);
  }

  /** The id of a namespace; this connection holds one reference to each of the last few that it used. */
  namespace(descriptor: NamespaceDescriptor): NamespaceId {
    const known = this.#namespaces.get(descriptor);
    if (known !== undefined) return known;
    if (this.#namespaces.size >= 16) this.#releaseNamespaces();
    const id = this.server.options.cache.internNamespace(descriptor);
    this.#namespaces.set(descriptor, id);
    return id;
  }

  #releaseNamespaces(): void {
    for (const id of this.#namespaces.values()) this.server.options.cache.releaseNamespace(id);
    this.#namespaces.clear();
  }

  onData(chunk: Uint8Array): void {
    if (this.#closing) return;
    this.idleSinceMs = this.server.options.clock.monotonicMs();
    this.server.receivedBytes += chunk.length;
    this.#parser.push(chunk);
    if (!this.busy) this.#run();
  }

  /** Closes a connection that holds room for values and sends nothing, or that has been quiet for `idleMs`. */
  sweep(nowMs: number, idleMs: number | undefined): void {
    if (this.busy) return;
    const quietMs = nowMs - this.idleSinceMs;
    if ((this.#streamed.length > 0 && quietMs > this.server.options.stallMs) || (idleMs !== undefined && quietMs > idleMs)) this.close();
  }

  onDrain(): void {
    if (this.#unsent === undefined) return;
    const bytes = this.#unsent;
    this.#unsent = undefined;
    this.#write(bytes);
    if (this.#unsent === undefined) this.#wakeDrain();
  }

  #wakeDrain(): void {
    const waiter = this.#drainWaiter;
    this.#drainWaiter = undefined;
    waiter?.();
  }

  onClose(): void {
    this.#closed = true;
    this.#closing = true;
    this.#unsent = undefined;
    this.#wakeDrain();
    // A command that is in work settles what it holds; without one it is done here.
    if (!this.busy) this.#release();
  }

  #release(): void {
    this.#abortStreamed();
    this.#releaseNamespaces();
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
    if (this.#unsent !== undefined && !this.#closing) this.#wait(Promise.resolve());
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
        return this.#commands.run(event.name, event.args, streamed);
      }
      case 'oversized':
        this.#abortStreamed();
        this.#commands.oversized(event);
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
    const key = event.args[event.argIndex - 1] ?? new Uint8Array(0);
    const refusal = this.#commands.refuseValue(event.name, key);
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
    const spare = inference.spareFor(namespace, parsed.key);
    const request = { namespace, key: parsed.key, sizeBytes, ...(spare === undefined ? {} : { spare }) };
    for (;;) {
      const reserved = this.server.options.cache.reserve(request);
      if (reserved instanceof Promise) return reserved;
      if (reserved.kind === 'ticket') inference.opened(reserved, namespace, parsed.key);
      if (reserved.kind === 'ticket' || reserved.reason !== 'own-chain') return reserved;
      if (this.#giveUpOne(namespace, parsed.key)) continue;
      if (!inference.laterIsOpen(namespace, parsed.key)) return reserved;
      const kept = { ...parsed, key: parsed.key.slice() };
      return inference.nextSettled().then(() => this.reserve(kept, sizeBytes));
    }
  }

  /** Gives a ticket back. */
  abort(ticket: PutTicket): void {
    this.server.options.cache.abort(ticket);
    this.#group?.inference.settled(ticket);
  }

  /** Gives up the last chunk of this key's chain that nobody uses. False: none may go. */
  #giveUpOne(namespace: NamespaceId, key: Uint8Array): boolean {
    for (const later of this.group.inference.sacrificesFor(namespace, key)) {
      if (this.server.options.cache.giveUp(later)) return true;
    }
    return false;
  }

  #reject(event: RespValueEvent, rejection: { reason: string; message: string }): void {
    this.#parser.skipValue();
    this.#streamed.push({ argIndex: event.argIndex, ticket: undefined, checksum: 0n, rejection, sizeBytes: event.sizeBytes });
  }

  #fill(event: RespValueEvent, reserved: PutTicket | { kind: 'rejected'; reason: string; message: string }): Promise<void> | undefined {
    if (reserved.kind === 'rejected') {
      this.#reject(event, reserved);
      return undefined;
    }
    const ticket = reserved;
    let placed = 0;
    const memory = ticket.view(Math.min(ticket.sizeBytes, this.#parser.unreadBytes));
    for (
      let bytes = this.#parser.takeBuffered(ticket.sizeBytes);
      bytes.length > 0;
      bytes = this.#parser.takeBuffered(ticket.sizeBytes - placed)
    ) {
      memory.set(bytes, placed);
      placed += bytes.length;
    }
    const tail = new Uint8Array(RESP_CRLF.length);
    let tailBytes = 0;
    this.#alone = this.server.streamsAlone(this);
    // A larger value only where the pool is idle: else its threads do better than this one.
    const fits = ticket.sizeBytes - placed <= NOW_BYTES;
    let budget = fits || this.server.options.sockets.activeCount === 0 ? NOW_BYTES : 0;
    // A peer that is sending fills the socket again while we copy; one that is not ends the loop after a few empty looks. What the pool
    // will fetch anyway is not looked for twice.
    const emptyLooks = fits ? EMPTY_LOOKS : 1;
    for (let looks = 0; looks < emptyLooks && budget > 0 && placed < ticket.sizeBytes && !this.#closed;) {
      const missing = ticket.sizeBytes - placed;
      const moved = this.server.options.sockets.receiveNow({
        fd: this.#socket.fd,
        address: (ticket.address + placed) as Address,
        sizeBytes: Math.min(missing, budget),
        tail: missing <= budget ? tail : NO_TAIL,
      });
      // What failed fails again in the pool, which says so.
      const taken = typeof moved === 'number' ? moved : 0;
      if (taken === 0) looks += 1;
      budget -= taken;
      this.server.receivedBytes += taken;
      this.#parser.valueReceivedElsewhere(Math.min(taken, missing));
      placed += Math.min(taken, missing);
      tailBytes = Math.max(0, taken - missing);
    }
    if (placed < ticket.sizeBytes || (tailBytes > 0 && tailBytes < tail.length)) {
      return this.#receiveRest(event, ticket, { placedBytes: placed, tail: tail.subarray(0, tailBytes) });
    }
    if (tailBytes > 0) this.#parser.trailerReceivedElsewhere(tail);
    this.#keep(event, ticket, checksum(ticket.view(), this.server.options.hash));
    return undefined;
  }

  #keep(event: RespValueEvent, ticket: PutTicket, sum: bigint): void {
    this.#streamed.push({ argIndex: event.argIndex, ticket, checksum: sum, rejection: undefined, sizeBytes: ticket.sizeBytes });
  }

  /** The pool fetches what is missing of the value and of the CRLF behind it, of which `tail` is there already. */
  async #receiveRest(
    event: RespValueEvent,
    ticket: PutTicket,
    have: { readonly placedBytes: number; readonly tail: Uint8Array },
  ): Promise<void> {
    const { placedBytes } = have;
    const { sockets, stallMs } = this.server.options;
    if (this.#closed) {
      this.abort(ticket);
      return;
    }
    this.#socket.pause();
    const outcome = await sockets.receive({
      fd: this.#socket.fd,
      address: ticket.address,
      sizeBytes: ticket.sizeBytes,
      placedBytes,
      tailBytes: RESP_CRLF.length - have.tail.length,
      stallMs,
    });
    if (!outcome.ok || this.#closed) {
      this.abort(ticket);
      if (!outcome.ok) this.close();
      return;
    }
    this.server.receivedBytes += ticket.sizeBytes - placedBytes + outcome.tail.length;
    this.#parser.valueReceivedElsewhere(ticket.sizeBytes - placedBytes);
    this.#parser.trailerReceivedElsewhere(Uint8Array.of(...have.tail, ...outcome.tail));
    this.#keep(event, ticket, outcome.checksum);
  }

  /** Sends a value and releases it. Small ones join the reply buffer; large ones go from their slot once the buffer is out. */
  sendValue(handle: ReadHandle): Promise<void> | undefined {
    if (handle.sizeBytes <= COPY_REPLY_BYTES) {
      this.out.bulk(handle.view());
      handle.release();
      return undefined;
    }
    let sentBytes = 0;
    if (handle.sizeBytes <= NOW_BYTES && this.out.length === 0 && this.#unsent === undefined && !this.#closing) {
      const sent = this.server.options.sockets.sendNow({ ...this.#sendJob(handle), sentBytes: 0 });
      // What failed fails again in the pool, which says so.
      sentBytes = typeof sent === 'number' ? sent : 0;
      if (sentBytes === bulkHeader(handle.sizeBytes).length + handle.sizeBytes + RESP_CRLF.length) {
        this.server.sentBytes += sentBytes;
        handle.release();
        return undefined;
      }
    }
    return this.#sendLarge(handle, sentBytes);
  }

  #sendJob(handle: ReadHandle): Omit<SendJob, 'sentBytes' | 'stallMs'> {
    return {
      fd: this.#socket.fd,
      header: bulkHeader(handle.sizeBytes),
      address: handle.address,
      sizeBytes: handle.sizeBytes,
      trailer: RESP_CRLF,
    };
  }

  async #sendLarge(handle: ReadHandle, sentBytes: number): Promise<void> {
    try {
      await this.flushed();
      if (this.#closed || this.#closing) return;
      this.#socket.pause();
      const outcome = await this.server.options.sockets.send({ ...this.#sendJob(handle), sentBytes, stallMs: this.server.options.stallMs });
      if (outcome.ok) this.server.sentBytes += handle.sizeBytes;
      else this.close();
    } finally {
      handle.release();
    }
  }

  /** Resolves when the kernel has taken every reply so far, or the peer is gone. */
  async flushed(): Promise<void> {
    this.#flush();
    while (this.#unsent !== undefined && !this.#closed) {
      const drained = Promise.withResolvers<void>();
      const giveUp = this.server.options.clock.schedule(this.server.options.stallMs, () => this.close());
      this.#drainWaiter = drained.resolve;
      await drained.promise;
      giveUp();
    }
  }

  #flush(): void {
    if (this.out.length === 0 || this.#unsent !== undefined) return;
    this.#write(this.out.bytes);
    // What the kernel refused must survive the next reply.
    if (this.#unsent !== undefined) this.#unsent = (this.#unsent as Uint8Array).slice();
    this.out.clear();
  }

  #write(bytes: Uint8Array): void {
    if (this.#closed) return;
    const written = this.#socket.write(bytes);
    this.server.sentBytes += written;
    if (written < bytes.length) this.#unsent = bytes.subarray(written);
  }

  /** Closes when the replies are out, or the peer has not taken them for `stallMs`. */
  end(): void {
    this.#closing = true;
    this.#flush();
    if (this.#unsent === undefined) this.#socket.end();
    else void this.flushed().then(() => this.#socket.end());
  }

  close(): void {
    if (this.#closing && this.#closed) return;
    this.#closing = true;
    this.#socket.terminate();
  }
}
