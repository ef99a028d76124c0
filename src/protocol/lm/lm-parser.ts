/**
 * Incremental parser of what a client of lm:// sends: requests of a fixed size, each PUT followed by its payload, which is never
 * buffered: it is handed on as it arrives (docs/formats/wire-lm.md).
 *
 * Who owns what: a chunk given to `push` belongs to the parser until `next()` has returned undefined with `unreadBytes` 0; a caller that
 * must reuse it earlier calls `retain()`. The key of an event is the parser's and stays as it is until `next()` is called again, also
 * across a wait.
 *
 * Invariants: between calls at most one request is held, besides chunks that were pushed and not read; every event consumed a whole
 * request; bytes of a payload are handed out, told of as received elsewhere, or skipped, each exactly once; after 'error' nothing is
 * parsed any more, since nobody knows where the next request begins.
 */
import { assert } from '#core/assert.ts';
import type { LmBlock } from '#core/lm-block.ts';
import { LM_COMMANDS, LM_REQUEST_BYTES, decodeLmRequest } from './lm-frame.ts';
import type { LmCommand } from './lm-frame.ts';

export interface LmLimits {
  /** A PUT that announces more is an error: it would be a stream of bytes that end nowhere. */
  readonly maxPayloadBytes: number;
}

/** The documented limit of the door, as at the RESP door. */
export const DEFAULT_LM_LIMITS: LmLimits = { maxPayloadBytes: 512 * 1024 * 1024 };

/** A request without payload: answer it. */
export interface LmRequestEvent {
  readonly kind: 'request';
  readonly command: Exclude<LmCommand, 'PUT'>;
  readonly key: Uint8Array;
  readonly keyIsWhole: boolean;
}

/** A payload begins. Until `payloadRemaining` is 0 or `skipPayload()` was called, next() returns undefined. There is no reply. */
export interface LmPutEvent {
  readonly kind: 'put';
  readonly key: Uint8Array;
  readonly keyIsWhole: boolean;
  readonly block: LmBlock;
  readonly sizeBytes: number;
}

/** Close: the protocol has no word for an error, and the client would read one as a reply. */
export interface LmErrorEvent {
  readonly kind: 'error';
  readonly message: string;
}

export type LmEvent = LmRequestEvent | LmPutEvent | LmErrorEvent;

const EMPTY = new Uint8Array(0);
const commandNames: ReadonlyMap<number, LmCommand> = new Map(
  Object.entries(LM_COMMANDS).map(([name, number]) => [number, name as LmCommand]),
);

export class LmParser {
  readonly #limits: LmLimits;
  /** The request that is being read, or was read last. */
  readonly #request = new Uint8Array(LM_REQUEST_BYTES);
  #requestBytes = 0;
  #chunk: Uint8Array = EMPTY;
  #position = 0;
  /** The chunk is memory of ours. */
  #chunkOwned = false;
  #remaining = 0;
  #skipping = false;
  #closed = false;

  constructor(limits: LmLimits = DEFAULT_LM_LIMITS) {
    assert(limits.maxPayloadBytes >= 0, 'lm limits must not be negative');
    this.#limits = limits;
  }

  /** Bytes of the payload that neither the parser nor the caller has seen; 0 for one that is skipped. */
  get payloadRemaining(): number {
    return this.#skipping ? 0 : this.#remaining;
  }

  /** Bytes that were pushed and not parsed yet. */
  get unreadBytes(): number {
    return this.#chunk.length - this.#position;
  }

  /** Memory that the parser holds between calls, without a chunk that belongs to the caller. */
  get heldBytes(): number {
    return this.#requestBytes + (this.#chunkOwned ? this.#chunk.length : 0);
  }

  /** True in the middle of a request or a payload: more bytes of it must come. */
  get isInside(): boolean {
    return this.#requestBytes > 0 || this.#remaining > 0;
  }

  /** True after 'error': the rest of the connection is ignored. */
  get closed(): boolean {
    return this.#closed;
  }

  push(chunk: Uint8Array): void {
    if (this.#closed || chunk.length === 0) return;
    if (this.unreadBytes > 0) {
      const joined = new Uint8Array(this.unreadBytes + chunk.length);
      joined.set(this.#chunk.subarray(this.#position));
      joined.set(chunk, this.unreadBytes);
      this.#chunk = joined;
      this.#chunkOwned = true;
    } else {
      this.#chunk = chunk;
      this.#chunkOwned = false;
    }
    this.#position = 0;
  }

  /** Copies whatever the parser still needs of the chunk it was given, which may be overwritten afterwards. */
  retain(): void {
    if (this.unreadBytes === 0) this.#releaseChunk();
    else if (!this.#chunkOwned) {
      this.#chunk = Uint8Array.from(this.#chunk.subarray(this.#position));
      this.#position = 0;
      this.#chunkOwned = true;
    }
  }

  /** The next event; undefined where more bytes are needed, or the caller has yet to take those of a payload. */
  next(): LmEvent | undefined {
    while (this.unreadBytes > 0) {
      if (this.#remaining === 0) {
        this.#fillRequest();
        if (this.#requestBytes === LM_REQUEST_BYTES) return this.#event();
      } else if (this.#skipping) this.#skipBytes();
      else return undefined;
    }
    this.#releaseChunk();
    return undefined;
  }

  #fillRequest(): void {
    const count = Math.min(LM_REQUEST_BYTES - this.#requestBytes, this.unreadBytes);
    this.#request.set(this.#chunk.subarray(this.#position, this.#position + count), this.#requestBytes);
    this.#requestBytes += count;
    this.#position += count;
  }

  #event(): LmEvent {
    this.#requestBytes = 0;
    const { command, length, block, key, keyIsWhole } = decodeLmRequest(this.#request);
    const name = commandNames.get(command);
    if (name === undefined) return this.#fail(`unknown command ${command}`);
    // Their server looks at the length for PUT alone, and so do we.
    if (name !== 'PUT') return { kind: 'request', command: name, key, keyIsWhole };
    if (length < 0 || length > this.#limits.maxPayloadBytes) {
      return this.#fail(`a payload of ${length} bytes is announced, want 0 to ${this.#limits.maxPayloadBytes}`);
    }
    this.#remaining = length;
    this.#skipping = false;
    return { kind: 'put', key, keyIsWhole, block, sizeBytes: length };
  }

  #fail(message: string): LmErrorEvent {
    this.#closed = true;
    this.#releaseChunk();
    return { kind: 'error', message };
  }

  #skipBytes(): void {
    const count = Math.min(this.#remaining, this.unreadBytes);
    this.#position += count;
    this.#remaining -= count;
  }

  /**
   * Up to `maxBytes` of the payload that already arrived: a view, valid as long as the chunk it came in. Empty where nothing has.
   * Requires: the last event was 'put'.
   */
  takeBuffered(maxBytes: number): Uint8Array {
    if (this.#remaining === 0) return EMPTY;
    assert(!this.#skipping, 'takeBuffered of a payload that is skipped');
    const start = this.#position;
    this.#position += Math.min(maxBytes, this.#remaining, this.unreadBytes);
    this.#remaining -= this.#position - start;
    return this.#chunk.subarray(start, this.#position);
  }

  /** That many bytes of the payload were read straight from the socket. Requires: nothing unread is left in the parser. */
  valueReceivedElsewhere(byteCount: number): void {
    if (byteCount === 0) return;
    assert(!this.#skipping && this.unreadBytes === 0, 'valueReceivedElsewhere while earlier bytes of the payload are unread');
    assert(byteCount > 0 && byteCount <= this.#remaining, 'valueReceivedElsewhere beyond the payload');
    this.#remaining -= byteCount;
  }

  /** Discards the rest of the payload as it arrives. */
  skipPayload(): void {
    this.#skipping = true;
  }

  #releaseChunk(): void {
    this.#chunk = EMPTY;
    this.#position = 0;
    this.#chunkOwned = false;
  }

  /** Throws InvariantError where the state contradicts itself; for tests. */
  checkInvariants(): void {
    assert(this.#position <= this.#chunk.length, 'read position beyond the chunk');
    assert(this.#requestBytes < LM_REQUEST_BYTES, 'a whole request was not told of');
    assert(this.#remaining >= 0 && this.#remaining <= this.#limits.maxPayloadBytes, 'payload bytes out of range');
    assert(this.#remaining === 0 || this.#requestBytes === 0, 'a request in the middle of a payload');
    assert(!this.#closed || (this.unreadBytes === 0 && this.heldBytes === 0), 'memory held after an error');
  }
}
