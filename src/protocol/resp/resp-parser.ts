/**
 * Incremental parser of what a redis client sends: arrays of bulk strings, and inline commands. It never buffers a large value;
 * those of SET, SETEX, PSETEX and MSET are handed on as they arrive (docs/formats/wire-resp.md).
 *
 * Who owns what:
 * - A chunk given to `push` belongs to the parser until `next()` has returned undefined with `unreadBytes` 0; then the caller may
 *   overwrite it. A caller that must reuse it earlier (it awaits in the middle of a value) calls `retain()`.
 * - `args` of 'command' are views, valid until the next `push()` or `next()`. `args` of 'value' are copies that stay valid; the
 *   array itself is the parser's and grows with the command.
 *
 * Invariants: the read position lies inside the chunk; a command holds at most argCount arguments; at most maxCommandBytes (plus one
 * argument) are held for it; memory for an argument follows the bytes that arrived, never the length that was announced; every
 * call of next() that returns an event consumed at least one byte since the last one or finished what an earlier byte began;
 * after 'error' nothing is parsed any more.
 */
import { assert } from '#core/assert.ts';
import { commandName, type RespCommandName } from './command-name.ts';
import { splitInlineArguments } from './inline-arguments.ts';
import { MALFORMED, NEEDS_MORE, RespNumber } from './resp-number.ts';

export interface RespLimits {
  /** Arguments of one command; more is a protocol error. */
  readonly maxArguments: number;
  /** Bytes of an inline command's line. */
  readonly maxInlineBytes: number;
  /** Largest argument that is buffered; a larger one (value positions aside) is skipped and reported as 'oversized'. */
  readonly maxArgumentBytes: number;
  /** A longer bulk string is a protocol error. */
  readonly maxValueBytes: number;
  /** Values of SET, SETEX, PSETEX and MSET above this are streamed; at most this they are ordinary arguments. */
  readonly streamThresholdBytes: number;
  /** Sum of the buffered arguments of one command; above it the command is skipped and reported as 'oversized'. */
  readonly maxCommandBytes: number;
}

/** The documented limits of the door. 64 MiB hold 16,384 keys of 2 KiB twice. */
export const DEFAULT_RESP_LIMITS: RespLimits = {
  maxArguments: 16_384,
  maxInlineBytes: 64 * 1024,
  maxArgumentBytes: 64 * 1024,
  maxValueBytes: 512 * 1024 * 1024,
  streamThresholdBytes: 16 * 1024,
  maxCommandBytes: 64 * 1024 * 1024,
};

export interface RespCommandEvent {
  readonly kind: 'command';
  /** Upper case; '' where the door has no such command. */
  readonly name: RespCommandName | '';
  readonly args: Uint8Array[];
  /**
   * How many of the args were streamed; each left an empty Uint8Array in its place, at the argIndex of its 'value' event. MSET may name
   * a key twice, once with a streamed value and once without: only storing in the order of args gives the last one.
   */
  readonly streamed: number;
}

/** Commands that carry values; the key stands behind the name, in MSET before each value. */
export type RespValueCommand = 'SET' | 'SETEX' | 'PSETEX' | 'MSET';

/** A large value begins. Until `valueRemaining` is 0 or `skipValue()` was called, next() returns undefined. */
export interface RespValueEvent {
  readonly kind: 'value';
  readonly name: RespValueCommand;
  /** The arguments before it; earlier streamed values are empty. */
  readonly args: Uint8Array[];
  readonly argIndex: number;
  readonly argCount: number;
  readonly sizeBytes: number;
}

/** A command that was read to its end and thrown away: answer an error, the connection is in sync. */
export interface RespOversizedEvent {
  readonly kind: 'oversized';
  /** '' where the door has no such command, or its name was what was too long. */
  readonly name: RespCommandName | '';
  /** 'argument': one argument is above maxArgumentBytes; 'command': their sum is above maxCommandBytes. */
  readonly reason: 'argument' | 'command';
  readonly argIndex: number;
  readonly argCount: number;
  readonly sizeBytes: number;
  readonly limitBytes: number;
  /** How many 'value' events this command had before. */
  readonly streamed: number;
}

/** Reply `-ERR <message>` and close. */
export interface RespErrorEvent {
  readonly kind: 'error';
  readonly message: string;
}

export type RespEvent = RespCommandEvent | RespValueEvent | RespOversizedEvent | RespErrorEvent;

const START = 0;
const INLINE = 1;
const COUNT = 2;
const BULK_MARK = 3;
const BULK_LENGTH = 4;
const ARGUMENT = 5;
const VALUE = 6;
const TRAILER = 7;
const CLOSED = 8;

const CR = 13;
const LF = 10;
const EMPTY = new Uint8Array(0);
/** An argument that is split over chunks starts with this much memory and doubles as its bytes arrive. */
const FIRST_PARTIAL_BYTES = 4096;

export class RespParser {
  readonly #limits: RespLimits;
  #state = START;
  #chunk: Uint8Array = EMPTY;
  #position = 0;
  /** Chunks pushed before the current one was used up. */
  #queue: Uint8Array[] = [];
  /** The current chunk is memory of ours, made by retain(). */
  #chunkOwned = false;

  readonly #number = new RespNumber();
  /** The CR behind a bulk string was seen, its LF not yet. */
  #crSeen = false;

  #name: RespCommandName | '' = '';
  #args: Uint8Array[] = [];
  /** The first so many args are copies, not views of a chunk. */
  #ownedCount = 0;
  #argCount = 0;
  #argIndex = 0;
  #argSize = 0;
  #streamed = 0;
  /** Sum of the buffered arguments of this command. */
  #commandBytes = 0;
  #oversized: RespOversizedEvent | undefined;

  /** Bytes of an argument or inline line that is split over chunks. */
  #partial: Uint8Array = EMPTY;
  #partialLength = 0;

  #remaining = 0;
  #skipping = false;

  constructor(limits: RespLimits) {
    assert(limits.maxInlineBytes > 0 && limits.maxArguments > 0, 'RESP limits must be positive');
    this.#limits = limits;
  }

  /** Bytes of the streamed value that neither the parser nor the caller has seen. */
  get valueRemaining(): number {
    return this.#state === VALUE && !this.#skipping ? this.#remaining : 0;
  }

  /** Bytes that were pushed and not parsed yet. */
  get unreadBytes(): number {
    let total = this.#chunk.length - this.#position;
    for (const chunk of this.#queue) total += chunk.length;
    return total;
  }

  /** Nothing of a command is here: the next byte begins one. */
  get isAtBoundary(): boolean {
    return this.#state === START && this.#partialLength === 0 && this.unreadBytes === 0;
  }

  /** Memory that the parser holds between calls, without chunks that belong to the caller. */
  get heldBytes(): number {
    const announced = this.#state === ARGUMENT ? this.#argSize : 0;
    return this.#partial.length + this.#commandBytes - announced + (this.#chunkOwned ? this.#chunk.length : 0);
  }

  /** True after 'error': the rest of the connection is ignored. */
  get closed(): boolean {
    return this.#state === CLOSED;
  }

  push(chunk: Uint8Array): void {
    if (this.#state === CLOSED || chunk.length === 0) return;
    // A Buffer's slice() is a view and would leak into what the caller takes for a copy, so only plain arrays are kept.
    const plain = chunk.constructor === Uint8Array ? chunk : new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    if (this.#position < this.#chunk.length) {
      this.#queue.push(plain);
      return;
    }
    this.#chunk = plain;
    this.#position = 0;
    this.#chunkOwned = false;
  }

  /** Copies whatever the parser still needs of the chunks it was given; they may be overwritten afterwards. */
  retain(): void {
    // Arguments need no copy here: the parser pauses only at events, where they are copied already ('value') or handed over.
    if (this.unreadBytes === 0) {
      this.#releaseChunk();
      return;
    }
    if (this.#chunkOwned && this.#queue.length === 0) return;
    const joined = new Uint8Array(this.unreadBytes);
    joined.set(this.#chunk.subarray(this.#position));
    let offset = this.#chunk.length - this.#position;
    for (const chunk of this.#queue) {
      joined.set(chunk, offset);
      offset += chunk.length;
    }
    this.#chunk = joined;
    this.#position = 0;
    this.#queue = [];
    this.#chunkOwned = true;
  }

  /** The next event; undefined where more bytes are needed, or the caller has yet to take those of a value. */
  next(): RespEvent | undefined {
    for (;;) {
      if (this.#position >= this.#chunk.length && !this.#nextChunk()) return this.#settle();
      let event: RespEvent | undefined;
      switch (this.#state) {
        case START:
          this.#start();
          break;
        case INLINE:
          event = this.#readInline();
          break;
        case COUNT:
          event = this.#readCount();
          break;
        case BULK_MARK:
          event = this.#readBulkMark();
          break;
        case BULK_LENGTH:
          event = this.#readBulkLength();
          break;
        case ARGUMENT:
          event = this.#readArgument();
          break;
        case VALUE:
          if (!this.#skipping) return undefined;
          this.#skipBytes();
          break;
        case TRAILER:
          event = this.#readTrailer();
          break;
        default:
          return this.#settle();
      }
      if (event !== undefined) return event;
    }
  }

  /**
   * Up to `maxBytes` of the value that already arrived: a view, valid as long as the chunk it came in. Empty where nothing has.
   * Requires: the last event was 'value' and its bytes are not used up.
   */
  takeBuffered(maxBytes: number): Uint8Array {
    if (this.#remaining === 0) return EMPTY;
    assert(this.#state === VALUE && !this.#skipping, 'takeBuffered without a value');
    if (this.#position >= this.#chunk.length && !this.#nextChunk()) return EMPTY;
    const count = Math.min(maxBytes, this.#remaining, this.#chunk.length - this.#position);
    const view = this.#chunk.subarray(this.#position, this.#position + count);
    this.#position += count;
    this.#consumeValue(count);
    return view;
  }

  /** That many bytes of the value were read straight from the socket. Requires: nothing unread is left in the parser. */
  valueReceivedElsewhere(byteCount: number): void {
    assert(this.#state === VALUE && !this.#skipping, 'valueReceivedElsewhere without a value');
    assert(this.unreadBytes === 0, 'valueReceivedElsewhere while earlier bytes of the value are unread');
    assert(byteCount >= 0 && byteCount <= this.#remaining, 'valueReceivedElsewhere beyond the value');
    this.#consumeValue(byteCount);
  }

  /** The two bytes after the value were read straight from the socket too; anything but CRLF is an 'error' next. */
  trailerReceivedElsewhere(bytes: Uint8Array): void {
    assert(this.#state === TRAILER && !this.#crSeen, 'trailerReceivedElsewhere without a finished value');
    assert(this.unreadBytes === 0 && bytes.length === 2, 'trailerReceivedElsewhere takes exactly the two bytes after the value');
    // Parsed like any other bytes, so that a wrong trailer takes the same way. A copy: the caller's two bytes may be scratch.
    this.#chunk = bytes.slice();
    this.#position = 0;
    this.#chunkOwned = true;
  }

  /** Discards the rest of the value as it arrives; the command event follows as usual. */
  skipValue(): void {
    if (this.#state === TRAILER) return;
    assert(this.#state === VALUE, 'skipValue without a value');
    this.#skipping = true;
  }

  /** Throws InvariantError where the state contradicts itself; for tests. */
  checkInvariants(): void {
    assert(this.#position <= this.#chunk.length, 'read position beyond the chunk');
    assert(this.#args.length <= this.#argCount || this.#state === START, 'more arguments than announced');
    assert(this.#ownedCount <= this.#args.length, 'more owned arguments than arguments');
    assert(this.#partialLength <= this.#partial.length, 'partial argument beyond its memory');
    assert(this.#partial.length <= Math.max(FIRST_PARTIAL_BYTES, 2 * this.#partialLength), 'memory ahead of the bytes that arrived');
    assert(this.#remaining >= 0 && (this.#remaining === 0 || this.#state === VALUE), 'value bytes outside a value');
    assert(this.#state !== CLOSED || (this.unreadBytes === 0 && this.heldBytes === 0), 'memory held after an error');
  }

  #nextChunk(): boolean {
    const chunk = this.#queue.shift();
    if (chunk === undefined) return false;
    this.#chunk = chunk;
    this.#position = 0;
    this.#chunkOwned = false;
    return true;
  }

  /** All bytes are read: nothing may point into the caller's chunk any more. */
  #settle(): undefined {
    this.#ownArguments();
    this.#releaseChunk();
    return undefined;
  }

  #releaseChunk(): void {
    this.#chunk = EMPTY;
    this.#position = 0;
    this.#chunkOwned = false;
  }

  #ownArguments(): void {
    for (let index = this.#ownedCount; index < this.#args.length; index += 1) {
      const view = this.#args[index];
      if (view !== undefined && view.length > 0) this.#args[index] = view.slice();
    }
    this.#ownedCount = this.#args.length;
  }

  #start(): void {
    if (this.#chunk[this.#position] !== 0x2a) {
      this.#state = INLINE;
      return;
    }
    this.#position += 1;
    this.#argIndex = 0;
    this.#argCount = 0;
    this.#streamed = 0;
    this.#name = '';
    this.#number.begin();
    this.#state = COUNT;
  }

  #readCount(): RespErrorEvent | undefined {
    const number = this.#number;
    const result = number.read(this.#chunk, this.#position);
    this.#position = number.position;
    if (result === NEEDS_MORE) return undefined;
    const tooMany = !number.negative && number.value > this.#limits.maxArguments;
    if (result === MALFORMED || tooMany) return this.#fail('Protocol error: invalid multibulk length');
    if (number.negative || number.value === 0) {
      this.#state = START;
      return undefined;
    }
    this.#argCount = number.value;
    this.#state = BULK_MARK;
    return undefined;
  }

  #readBulkMark(): RespErrorEvent | undefined {
    const byte = this.#chunk[this.#position] ?? 0;
    if (byte !== 0x24) {
      const shown = byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : '?';
      return this.#fail(`Protocol error: expected '$', got '${shown}'`);
    }
    this.#position += 1;
    this.#number.begin();
    this.#state = BULK_LENGTH;
    return undefined;
  }

  #readBulkLength(): RespEvent | undefined {
    const number = this.#number;
    const result = number.read(this.#chunk, this.#position);
    this.#position = number.position;
    if (result === NEEDS_MORE) return undefined;
    if (result === MALFORMED || number.negative || number.value > this.#limits.maxValueBytes) {
      return this.#fail('Protocol error: invalid bulk length');
    }
    this.#argSize = number.value;
    if (this.#oversized !== undefined) return this.#skipArgument();
    if (this.#isValuePosition()) {
      if (this.#argSize > this.#limits.streamThresholdBytes) return this.#beginValue();
    } else if (this.#argSize > this.#limits.maxArgumentBytes) {
      return this.#giveUp('argument', this.#argSize, this.#limits.maxArgumentBytes);
    }
    this.#commandBytes += this.#argSize;
    if (this.#commandBytes > this.#limits.maxCommandBytes) {
      return this.#giveUp('command', this.#commandBytes, this.#limits.maxCommandBytes);
    }
    this.#state = ARGUMENT;
    return this.#argSize === 0 ? this.#finishArgument(EMPTY) : undefined;
  }

  #isValuePosition(): boolean {
    if (this.#argIndex < 2) return false;
    if (this.#name === 'SET') return this.#argIndex === 2;
    if (this.#name === 'SETEX' || this.#name === 'PSETEX') return this.#argIndex === 3;
    return this.#name === 'MSET' && this.#argIndex % 2 === 0;
  }

  #beginValue(): RespValueEvent {
    this.#ownArguments();
    this.#state = VALUE;
    this.#remaining = this.#argSize;
    this.#skipping = false;
    this.#streamed += 1;
    return {
      kind: 'value',
      name: this.#name as RespValueCommand,
      args: this.#args,
      argIndex: this.#argIndex,
      argCount: this.#argCount,
      sizeBytes: this.#argSize,
    };
  }

  /** From here on the command is only read to its end; what was buffered of it is dropped at once. */
  #giveUp(reason: 'argument' | 'command', sizeBytes: number, limitBytes: number): undefined {
    this.#oversized = {
      kind: 'oversized',
      name: this.#name,
      reason,
      argIndex: this.#argIndex,
      argCount: this.#argCount,
      sizeBytes,
      limitBytes,
      streamed: this.#streamed,
    };
    this.#args = [];
    this.#ownedCount = 0;
    this.#commandBytes = 0;
    return this.#skipArgument();
  }

  #skipArgument(): undefined {
    this.#remaining = this.#argSize;
    this.#skipping = true;
    this.#state = VALUE;
    this.#consumeValue(0);
    return undefined;
  }

  #skipBytes(): void {
    const count = Math.min(this.#remaining, this.#chunk.length - this.#position);
    this.#position += count;
    this.#consumeValue(count);
  }

  #consumeValue(count: number): void {
    this.#remaining -= count;
    if (this.#remaining === 0) this.#finishArgument(EMPTY);
  }

  #readArgument(): RespEvent | undefined {
    const position = this.#position;
    const available = this.#chunk.length - position;
    if (this.#partialLength === 0 && available >= this.#argSize) {
      const view = new Uint8Array(this.#chunk.buffer, this.#chunk.byteOffset + position, this.#argSize);
      this.#position = position + this.#argSize;
      return this.#finishArgument(view);
    }
    const count = Math.min(available, this.#argSize - this.#partialLength);
    this.#appendPartial(count, this.#argSize);
    if (this.#partialLength < this.#argSize) return undefined;
    return this.#finishArgument(this.#takePartial());
  }

  #finishArgument(view: Uint8Array): undefined {
    if (this.#oversized === undefined) {
      if (this.#argIndex === 0) this.#name = commandName(view);
      this.#args.push(view);
    }
    this.#crSeen = false;
    this.#state = TRAILER;
    return undefined;
  }

  #readTrailer(): RespEvent | undefined {
    if (!this.#crSeen) {
      if (this.#chunk[this.#position++] !== CR) return this.#fail('Protocol error: expected CRLF after bulk string');
      this.#crSeen = true;
      if (this.#position >= this.#chunk.length) return undefined;
    }
    if (this.#chunk[this.#position++] !== LF) return this.#fail('Protocol error: expected CRLF after bulk string');
    this.#argIndex += 1;
    if (this.#argIndex < this.#argCount) {
      this.#state = BULK_MARK;
      return undefined;
    }
    this.#state = START;
    const oversized = this.#oversized;
    if (oversized !== undefined) {
      this.#oversized = undefined;
      return oversized;
    }
    return this.#emitCommand(this.#args, this.#streamed);
  }

  #emitCommand(args: Uint8Array[], streamed: number): RespCommandEvent {
    this.#args = [];
    this.#ownedCount = 0;
    this.#commandBytes = 0;
    return { kind: 'command', name: this.#name, args, streamed };
  }

  /** Looks for the end of the line in the new bytes only, so that a line fed byte by byte costs no more than its length. */
  #readInline(): RespEvent | undefined {
    const newline = this.#chunk.indexOf(LF, this.#position);
    const end = newline < 0 ? this.#chunk.length : newline;
    const count = end - this.#position;
    if (this.#partialLength + count > this.#limits.maxInlineBytes) return this.#fail('Protocol error: too big inline request');
    if (newline < 0) {
      this.#appendPartial(count, this.#limits.maxInlineBytes);
      return undefined;
    }
    let line: Uint8Array;
    if (this.#partialLength === 0) {
      line = this.#chunk.subarray(this.#position, end);
      this.#position = end;
    } else {
      this.#appendPartial(count, this.#limits.maxInlineBytes);
      line = this.#takePartial();
    }
    this.#position += 1;
    return this.#finishInline(line[line.length - 1] === CR ? line.subarray(0, -1) : line);
  }

  #finishInline(line: Uint8Array): RespEvent | undefined {
    const args = splitInlineArguments(line);
    if (args === undefined) return this.#fail('Protocol error: unbalanced quotes in request');
    if (args.length > this.#limits.maxArguments) return this.#fail('Protocol error: invalid multibulk length');
    this.#state = START;
    const first = args[0];
    if (first === undefined) return undefined;
    // A web page can make a browser send a POST to a loopback port; its body would be read as commands (redis: "Possible SECURITY ATTACK").
    if (isHttpWord(first)) return this.#fail('Protocol error: HTTP request on a RESP port');
    this.#name = commandName(first);
    return this.#emitCommand(args, 0);
  }

  #appendPartial(count: number, limitBytes: number): void {
    const needed = this.#partialLength + count;
    if (needed > this.#partial.length) {
      const capacity = Math.min(limitBytes, Math.max(FIRST_PARTIAL_BYTES, 2 * this.#partialLength, needed));
      const grown = new Uint8Array(capacity);
      grown.set(this.#partial.subarray(0, this.#partialLength));
      this.#partial = grown;
    }
    this.#partial.set(this.#chunk.subarray(this.#position, this.#position + count), this.#partialLength);
    this.#partialLength = needed;
    this.#position += count;
  }

  #takePartial(): Uint8Array {
    const whole = this.#partial.subarray(0, this.#partialLength);
    this.#partial = EMPTY;
    this.#partialLength = 0;
    return whole;
  }

  #fail(message: string): RespErrorEvent {
    this.#state = CLOSED;
    this.#args = [];
    this.#ownedCount = 0;
    this.#commandBytes = 0;
    this.#remaining = 0;
    this.#oversized = undefined;
    this.#partial = EMPTY;
    this.#partialLength = 0;
    this.#queue = [];
    this.#releaseChunk();
    return { kind: 'error', message };
  }
}

/** `POST` or `Host:` as the first word of a line, in any case. */
function isHttpWord(word: Uint8Array): boolean {
  const text = word.length === 4 || word.length === 5 ? String.fromCharCode(...word).toLowerCase() : '';
  return text === 'post' || text === 'host:';
}
