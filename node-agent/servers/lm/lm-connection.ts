/**
 * One connection of lm://: bytes -> parser -> request -> reply, in order, one request at a time. A PUT has no reply whatever becomes
 * of it, so that one which is not stored takes away what was there; a GET is answered with an object only where it is known how the object is to be read (its lm block), else as a miss.
 *
 * Invariants: while a request waits (for room, the disk, a peer) the socket is paused, so nothing piles up; replies leave in the order
 * of the requests, each header in one piece; a ticket or read handle is settled exactly once, also when the peer resets in
 * mid-transfer; the payload's memory belongs to the transfer until the I/O pool answered, never only until the socket closed.
 */
import type { ChunkRef, PutRejected, PutTicket, ReadHandle } from '#cache/door.ts';
import { assert } from '#core/assert.ts';
import { KvtierError } from '#core/errors.ts';
import type { LmBlock } from '#core/lm-block.ts';
import type { ConnectionHandler, TransportSocket } from '#ports/transport.ts';
import { KeyParser } from '#protocol/lmcache-key.ts';
import type { ParsedKey } from '#protocol/lmcache-key.ts';
import { LM_NO, LM_REQUEST_BYTES, LM_SUCCESS, LM_YES, encodeLmReply } from '#protocol/lm/lm-frame.ts';
import { LmParser } from '#protocol/lm/lm-parser.ts';
import type { LmEvent, LmPutEvent, LmRequestEvent } from '#protocol/lm/lm-parser.ts';
import { reserveInChain } from '#servers/chained-put.ts';
import { NamespaceRefs } from '#servers/namespace-refs.ts';
import { Outbox } from '#servers/outbox.ts';
import { NOW_BYTES, ValueTransfer } from '#servers/value-transfer.ts';
import type { ReceivedValue, ValueFrame } from '#servers/value-transfer.ts';
import type { LmClient, LmServer } from './lm-server.ts';

/** Objects up to this size are copied behind their header; larger ones leave from their slot, in the I/O pool. */
const COPY_REPLY_BYTES = 64 * 1024;
/** Replies are flushed when they pass this, and no further request is read until the peer took them. */
const FLUSH_BYTES = 256 * 1024;
/**
 * After a payload of at least this much the socket is read a request at a time: what Bun reads for us of the next payload would be
 * copied once more.
 */
const SIP_AFTER_BYTES = 512 * 1024;
const NO_TRAILER = new Uint8Array(0);

export class LmConnection implements ConnectionHandler {
  readonly #server: LmServer;
  readonly #socket: TransportSocket;
  readonly #id: number;
  readonly #parser = new LmParser();
  /** Of the default tenant: the protocol names none. */
  readonly #keys = new KeyParser();
  readonly #client: LmClient;
  readonly #namespaces: NamespaceRefs;
  readonly #outbox: Outbox;
  readonly #transfer: ValueTransfer;
  /** Replies that wait for the end of this turn, to leave in one write. */
  #replies: Uint8Array[] = [];
  #replyBytes = 0;
  #quietSinceMs: number;
  #closed = false;
  #closing = false;
  #sips = false;
  #warned = false;
  busy = false;

  constructor(server: LmServer, socket: TransportSocket, id: number) {
    const { cache, clock, stallMs } = server.options;
    this.#server = server;
    this.#socket = socket;
    this.#id = id;
    this.#client = server.join(socket.remoteAddress);
    this.#namespaces = new NamespaceRefs(cache);
    this.#quietSinceMs = clock.monotonicMs();
    this.#outbox = new Outbox(socket, { clock, stallMs, onSent: (bytes) => void (server.sentBytes += bytes) }, () => this.close());
    this.#transfer = new ValueTransfer(socket, server.options, { owner: this, source: this.#parser, tailBytes: 0 });
  }

  /** For transfers: the peer is gone. */
  get isGone(): boolean {
    return this.#closed;
  }

  get minBytesPerSecond(): number {
    return this.#server.options.minBytesPerSecond ?? 0;
  }

  get stallMs(): number {
    return this.#server.options.stallMs;
  }

  countReceived(bytes: number): void {
    this.#server.receivedBytes += bytes;
  }

  onData(chunk: Uint8Array): void {
    if (this.#closing) return;
    this.#quietSinceMs = this.#server.options.clock.monotonicMs();
    this.#server.receivedBytes += chunk.length;
    this.#parser.push(chunk);
    if (this.busy) this.#parser.retain();
    else this.#run();
  }

  onDrain(): void {
    this.#outbox.onDrain();
  }

  onClose(): void {
    this.#closed = true;
    this.#closing = true;
    this.#outbox.onClose();
    // A request that is in work settles what it holds; without one it is done here.
    if (!this.busy) this.#release();
  }

  #release(): void {
    this.#replies = [];
    this.#replyBytes = 0;
    this.#namespaces.release();
    this.#server.leave(this.#client);
    this.#server.forget(this);
  }

  /** Closes a connection that began something and does not go on. One that is between two requests may be quiet for ever. */
  sweep(nowMs: number): void {
    if (this.busy || !this.#parser.isInside) return;
    if (nowMs - this.#quietSinceMs > this.stallMs) this.close();
  }

  /** Processes requests until the parser is empty or one has to wait. */
  #run(): void {
    while (!this.#closing) {
      const event = this.#parser.next();
      if (event === undefined) break;
      const pending = this.#handle(event);
      if (pending === undefined && this.#replyBytes < FLUSH_BYTES) continue;
      this.#wait(pending ?? Promise.resolve());
      return;
    }
    this.#flush();
    if (this.#outbox.isBlocked && !this.#closing) this.#wait(Promise.resolve());
  }

  #wait(pending: Promise<void>): void {
    this.busy = true;
    this.#socket.pause();
    this.#parser.retain();
    const done = (): void => {
      this.busy = false;
      this.#quietSinceMs = this.#server.options.clock.monotonicMs();
      if (this.#closed) return this.#release();
      if (this.#closing) return;
      this.#run();
      if (!this.busy && !this.#closing) this.#socket.resume();
    };
    void pending
      .then(() => this.#flushed())
      .then(done, (problem: unknown) => {
        done();
        throw problem;
      });
  }

  #handle(event: LmEvent): Promise<void> | undefined {
    if (event.kind === 'error') {
      this.#server.protocolErrors += 1;
      this.#server.options.logger.warn(`Closed a connection to the lm door: ${event.message}`, { client: this.#client.address });
      this.#end();
      return undefined;
    }
    this.#server.requests += 1;
    if (event.kind === 'put') return this.#put(event);
    this.#setSips(false);
    switch (event.command) {
      case 'GET':
        return this.#get(event);
      case 'EXIST':
        this.#reply(this.#exists(event) ? LM_YES : LM_NO);
        return undefined;
      case 'HEALTH':
        this.#reply(LM_YES);
        return undefined;
      case 'LIST':
        // LMCache's server has no answer at all and its client never asks; a client that did would wait for one.
        this.#reply(LM_NO);
        return undefined;
    }
  }

  /** Undefined for what is not one of LMCache's own keys, whole: it is neither stored nor found. */
  #key(event: LmRequestEvent | LmPutEvent): ParsedKey | undefined {
    const parsed = this.#keys.parse(event.key);
    // An object key would name a tenant by its salt, which nothing here vouches for; a redis:// twin is another door's spelling.
    const isOurs = parsed !== 'too-long' && parsed.descriptor.grammar === 'cache-engine-key' && parsed.part === 'whole';
    if (isOurs && event.keyIsWhole) return parsed;
    if (!this.#warned) {
      this.#warned = true;
      const why = event.keyIsWhole ? 'is not a key of LMCache' : 'fills all 150 bytes of its field and may have been cut by the client';
      this.#server.options.logger.warn(`Nothing is stored under a key that came through the lm door: it ${why}`, {
        client: this.#client.address,
      });
    }
    return undefined;
  }

  // --- reads ----------------------------------------------------------------------------------------------------------------

  #exists(event: LmRequestEvent): boolean {
    const { cache } = this.#server.options;
    const parsed = this.#key(event);
    if (parsed === undefined) {
      cache.countRefusedProbe('undescribed');
      return false;
    }
    const namespace = this.#namespaces.id(parsed.descriptor);
    const found = cache.peek(namespace, parsed.key);
    const described = found === undefined || cache.lmBlock(found.ref) !== undefined;
    if (!described) cache.countRefusedProbe('undescribed');
    const outcome = described ? cache.probe(namespace, parsed.key, this.#client.id) : undefined;
    // A key that was not found is what the client computes and stores next.
    this.#client.inference.noteProbe(namespace, this.#id, { key: parsed.key, ref: outcome?.ref });
    return outcome !== undefined;
  }

  #get(event: LmRequestEvent): Promise<void> | undefined {
    const { cache } = this.#server.options;
    const parsed = this.#key(event);
    const namespace = parsed === undefined ? undefined : this.#namespaces.id(parsed.descriptor);
    if (parsed === undefined || namespace === undefined) {
      cache.countRefusedLookup('undescribed');
      this.#reply(LM_NO);
      return undefined;
    }
    this.#client.inference.end(namespace);
    const found = cache.peek(namespace, parsed.key);
    if (found !== undefined && cache.lmBlock(found.ref) === undefined) {
      cache.countRefusedLookup('undescribed');
      this.#reply(LM_NO);
      return undefined;
    }
    const opened = cache.open(namespace, parsed.key, this.#client.id);
    if (opened instanceof Promise) return opened.then((handle) => this.#answerGet(handle, found?.ref));
    return this.#answerGet(opened, found?.ref);
  }

  /** `ref` is the chunk that was opened: where it has been replaced since, its block is another's. */
  #answerGet(handle: ReadHandle | undefined, ref: ChunkRef | undefined): Promise<void> | undefined {
    if (handle === undefined) {
      this.#reply(LM_NO);
      return undefined;
    }
    const block = ref === undefined ? undefined : this.#server.options.cache.lmBlock(ref);
    if (block === undefined) {
      // Counted as a hit already: the bytes were there, and went or were renewed while they were loaded.
      handle.release();
      this.#reply(LM_NO);
      return undefined;
    }
    return this.#sendObject(handle, block);
  }

  /** Sends an object and releases it. Small ones join the replies; large ones go from their slot once the replies are out. */
  #sendObject(handle: ReadHandle, block: LmBlock): Promise<void> | undefined {
    const header = encodeLmReply(LM_SUCCESS, handle.sizeBytes, block);
    if (handle.sizeBytes <= COPY_REPLY_BYTES) {
      this.#reply(header);
      this.#reply(handle.view().slice());
      handle.release();
      return undefined;
    }
    const frame = { header, handle, trailer: NO_TRAILER };
    let sentBytes = 0;
    if (handle.sizeBytes <= NOW_BYTES && this.#replyBytes === 0 && !this.#outbox.isBlocked && !this.#closing) {
      sentBytes = this.#transfer.sendNow(frame);
      if (sentBytes === header.length + handle.sizeBytes) {
        this.#server.sentBytes += sentBytes;
        handle.release();
        return undefined;
      }
    }
    return this.#sendLarge(frame, sentBytes);
  }

  async #sendLarge(frame: ValueFrame, sentBytes: number): Promise<void> {
    const { handle, header } = frame;
    try {
      await this.#flushed();
      if (this.#closing) return;
      if (await this.#transfer.send(frame, sentBytes)) this.#server.sentBytes += header.length + handle.sizeBytes;
      else this.close();
    } finally {
      handle.release();
    }
  }

  // --- writes ---------------------------------------------------------------------------------------------------------------

  /** A payload begins: find room, take what came with the request, let the pool fetch the rest. */
  #put(event: LmPutEvent): Promise<void> | undefined {
    const parsed = this.#key(event);
    if (parsed === undefined) {
      this.#skipPayload();
      return undefined;
    }
    const reserved = this.#reserve(parsed, event.sizeBytes);
    if (reserved instanceof Promise) return reserved.then((outcome) => this.#fill(event, parsed, outcome));
    return this.#fill(event, parsed, reserved);
  }

  #reserve(parsed: ParsedKey, sizeBytes: number): PutTicket | PutRejected | Promise<PutTicket | PutRejected> {
    const { inference } = this.#client;
    const put = { namespace: this.#namespaces.id(parsed.descriptor), key: parsed.key, sizeBytes };
    const reserved = reserveInChain(this.#server.options.cache, inference, put);
    return reserved === 'wait' ? inference.nextSettled().then(() => this.#reserve(parsed, sizeBytes)) : reserved;
  }

  /** Read to its end without a buffer. */
  #skipPayload(): void {
    this.#server.refusedPuts += 1;
    // A payload that is thrown away is not read in sips.
    this.#setSips(false);
    this.#parser.skipPayload();
  }

  #fill(event: LmPutEvent, parsed: ParsedKey, reserved: PutTicket | PutRejected): Promise<void> | undefined {
    if (reserved.kind === 'rejected') {
      this.#skipPayload();
      this.#forgetFormer(parsed);
      return undefined;
    }
    const received = this.#transfer.receive(reserved);
    if (!(received instanceof Promise)) {
      this.#commit(event, parsed, { ticket: reserved, value: received });
      return undefined;
    }
    return received.then((value) => {
      if (value !== undefined) return this.#commit(event, parsed, { ticket: reserved, value });
      this.#server.options.cache.abort(reserved);
      this.#client.inference.settled(reserved);
      this.close();
    });
  }

  #commit(event: LmPutEvent, parsed: ParsedKey, put: { readonly ticket: PutTicket; readonly value: ReceivedValue }): void {
    const { cache } = this.#server.options;
    const { inference } = this.#client;
    const namespace = this.#namespaces.id(parsed.descriptor);
    this.#setSips(event.sizeBytes >= SIP_AFTER_BYTES);
    const parent = inference.parentFor(namespace, this.#id, parsed.key);
    const outcome = cache.commit(put.ticket, put.value.checksum, {
      lmBlock: event.block,
      ...(parent === undefined ? {} : { parent }),
    });
    if (outcome === 'failed') {
      this.#server.refusedPuts += 1;
      this.#forgetFormer(parsed);
    } else if (outcome !== 'dropped') {
      const found = cache.peek(namespace, parsed.key);
      if (found !== undefined) inference.notePut(namespace, this.#id, { key: parsed.key, ref: found.ref });
    }
    // After the chunk is known: it may be what the put that waits takes the place of.
    inference.settled(put.ticket);
  }

  /**
   * A PUT that is not stored is taken for stored by its client, which nobody tells: what was there under its key is no answer any more.
   * Where even that cannot be made durable the connection goes, so that the client learns that something is wrong.
   */
  #forgetFormer(parsed: ParsedKey): void {
    const { cache, logger } = this.#server.options;
    try {
      cache.delete(this.#namespaces.id(parsed.descriptor), parsed.key);
    } catch (problem) {
      if (!(problem instanceof KvtierError)) throw problem;
      logger.error('Closed a connection to the lm door: a put failed, and the former object cannot be taken away', { code: problem.code });
      this.close();
    }
  }

  /** Expects of the next request what this one was. */
  #setSips(sips: boolean): void {
    if (sips === this.#sips) return;
    this.#sips = sips;
    this.#socket.sip(sips ? LM_REQUEST_BYTES : 0);
  }

  // --- replies --------------------------------------------------------------------------------------------------------------

  #reply(bytes: Uint8Array): void {
    if (this.#closed) return;
    this.#replies.push(bytes);
    this.#replyBytes += bytes.length;
  }

  /** Resolves when the kernel has taken every reply so far, or the peer is gone. */
  async #flushed(): Promise<void> {
    await this.#outbox.drained();
    this.#flush();
    await this.#outbox.drained();
  }

  /** One write for all of them: LMCache's client reads a header with a single recv and takes what comes for the whole of it. */
  #flush(): void {
    if (this.#replyBytes === 0 || this.#outbox.isBlocked) return;
    const bytes = new Uint8Array(this.#replyBytes);
    let offset = 0;
    for (const reply of this.#replies) {
      bytes.set(reply, offset);
      offset += reply.length;
    }
    this.#replies = [];
    this.#replyBytes = 0;
    this.#outbox.write(bytes);
  }

  /** Closes when the replies are out, or the peer has not taken them for `stallMs`. */
  #end(): void {
    this.#closing = true;
    this.#flush();
    if (!this.#outbox.isBlocked) this.#socket.end();
    else void this.#flushed().then(() => this.#socket.end());
  }

  close(): void {
    if (this.#closing && this.#closed) return;
    this.#closing = true;
    this.#socket.terminate();
  }

  /** Throws InvariantError where the state contradicts itself; for tests. */
  checkInvariants(): void {
    this.#parser.checkInvariants();
    assert(this.#replyBytes === this.#replies.reduce((sum, reply) => sum + reply.length, 0), 'reply bytes are the sum of the replies');
    assert(this.busy || this.#closing || this.#parser.unreadBytes === 0, 'nothing is left unread while nothing waits');
    assert(this.busy || this.#closing || this.#replyBytes === 0, 'no reply is held back while nothing waits');
  }
}
