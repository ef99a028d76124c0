/**
 * One socket to a RESP server, for values that are too large to be buffered: a bulk goes from the socket into the memory that waits for it,
 * and a value goes out of the memory it lies in.
 *
 * Invariants
 * - Whatever shakes the order of replies (a protocol error, a stall) ends the connection.
 * - Every request is settled exactly once, also when the connection ends.
 */
import type { Socket } from 'bun';

/** What a reply is read as: one line, or a bulk that fills `target` exactly. */
interface Expected {
  readonly target: Uint8Array | undefined;
  readonly settle: (reply: RespReply) => void;
}

/** `line`: a status, number or error with its mark. `filled`: the target holds the bulk. `absent`: nil, a bulk of another size, or no connection. */
export type RespReply = { readonly kind: 'line'; readonly text: string } | { readonly kind: 'filled' } | { readonly kind: 'absent' };

const CR = 13;
const LF = 10;
/** No line that we ask for is longer. */
const MAX_LINE_BYTES = 4096;

export interface RespAddress {
  readonly host: string;
  readonly port: number;
}

/**
 * Takes replies out of bytes as they come. Replies are matched to what is expected by order alone.
 * Invariants: everything that is expected is settled exactly once, and its memory is not touched after that.
 */
export class RespReplies {
  readonly #expected: Expected[] = [];
  #broken = false;
  /** Of the line under way. */
  readonly #line = new Uint8Array(MAX_LINE_BYTES);
  #lineLength = 0;
  /** Of the bulk under way, CRLF included; 0 between replies. */
  #bulkLeft = 0;
  /** Where its next byte goes, or undefined where it is thrown away. */
  #bulkTarget: Uint8Array | undefined;
  #bulkSize = 0;

  get expectedCount(): number {
    return this.#expected.length;
  }

  expect(target: Uint8Array | undefined, settle: (reply: RespReply) => void): void {
    this.#expected.push({ target, settle });
  }

  /** False where the bytes are no RESP, or a reply that nobody asked for: then nothing more can be told apart. */
  receive(bytes: Uint8Array): boolean {
    for (let offset = 0; offset < bytes.length && !this.#broken;) {
      offset = this.#bulkLeft > 0 ? this.#receiveBulk(bytes, offset) : this.#receiveLine(bytes, offset);
    }
    return !this.#broken;
  }

  /** Settles everything that waits as absent. */
  end(): void {
    this.#broken = true;
    for (const { settle } of this.#expected.splice(0)) settle({ kind: 'absent' });
  }

  #receiveBulk(bytes: Uint8Array, offset: number): number {
    const count = Math.min(this.#bulkLeft, bytes.length - offset);
    const done = this.#bulkSize + 2 - this.#bulkLeft;
    const payload = Math.max(0, Math.min(count, this.#bulkSize - done));
    if (payload > 0) this.#bulkTarget?.set(bytes.subarray(offset, offset + payload), done);
    this.#bulkLeft -= count;
    if (this.#bulkLeft === 0) this.#settle(this.#bulkTarget === undefined ? { kind: 'absent' } : { kind: 'filled' });
    return offset + count;
  }

  #receiveLine(bytes: Uint8Array, offset: number): number {
    const end = bytes.indexOf(LF, offset);
    const part = bytes.subarray(offset, end < 0 ? bytes.length : end + 1);
    if (this.#lineLength + part.length > MAX_LINE_BYTES) {
      this.#broken = true;
      return bytes.length;
    }
    this.#line.set(part, this.#lineLength);
    this.#lineLength += part.length;
    if (end >= 0) this.#takeLine();
    return offset + part.length;
  }

  #takeLine(): void {
    const whole = this.#lineLength >= 3 && this.#line[this.#lineLength - 2] === CR;
    const text = new TextDecoder('latin1').decode(this.#line.subarray(0, Math.max(0, this.#lineLength - 2)));
    this.#lineLength = 0;
    const [next] = this.#expected;
    if (!whole || next === undefined || !/^(?:[+-]|:-?\d+$|\$(?:-1|\d{1,10})$)/.test(text)) {
      this.#broken = true;
      return;
    }
    if (!text.startsWith('$')) this.#settle({ kind: 'line', text });
    else if (text === '$-1') this.#settle({ kind: 'absent' });
    else {
      this.#bulkSize = Number(text.slice(1));
      this.#bulkLeft = this.#bulkSize + 2;
      // A value of another size is read to its end, so that the next reply is found.
      this.#bulkTarget = next.target?.length === this.#bulkSize ? next.target : undefined;
    }
  }

  #settle(reply: RespReply): void {
    this.#bulkTarget = undefined;
    this.#expected.shift()?.settle(reply);
  }
}

export class RespConnection {
  #socket: Socket | undefined;
  readonly #replies = new RespReplies();
  readonly #outgoing: Uint8Array[] = [];
  #ended = false;
  readonly #stallMs: number;
  #stallTimer: ReturnType<typeof setTimeout> | undefined;

  /** Resolves to undefined where nobody listens. `stallMs`: how long a request may wait without a byte moving. */
  static async open(address: RespAddress, stallMs: number): Promise<RespConnection | undefined> {
    const connection = new RespConnection(stallMs);
    try {
      connection.#socket = await Bun.connect({
        hostname: address.host,
        port: address.port,
        socket: {
          data: (_socket, bytes) => connection.#receive(bytes),
          drain: () => connection.#flush(),
          close: () => connection.end(),
          error: () => connection.end(),
        },
      });
    } catch {
      return undefined; // Refused or unreachable: the caller counts a miss.
    }
    connection.#socket.setNoDelay(true);
    return connection;
  }

  constructor(stallMs: number) {
    this.#stallMs = stallMs;
  }

  get isOpen(): boolean {
    return !this.#ended;
  }

  /** Sends a command. `words` of a value are sent from where they are, so they must not change before the reply. */
  request(words: readonly (string | Uint8Array)[], target?: Uint8Array): Promise<RespReply> {
    if (this.#ended) return Promise.resolve({ kind: 'absent' });
    return new Promise((settle) => {
      this.#replies.expect(target, settle);
      this.#outgoing.push(...encode(words));
      this.#flush();
      this.#watch();
    });
  }

  /** Settles everything that waits as absent. */
  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    clearTimeout(this.#stallTimer);
    this.#outgoing.length = 0;
    this.#socket?.terminate();
    this.#replies.end();
  }

  #watch(): void {
    clearTimeout(this.#stallTimer);
    if (this.#replies.expectedCount > 0 && !this.#ended) this.#stallTimer = setTimeout(() => this.end(), this.#stallMs);
  }

  #flush(): void {
    for (let piece = this.#outgoing[0]; piece !== undefined && !this.#ended; piece = this.#outgoing[0]) {
      const written = this.#socket?.write(piece) ?? -1;
      if (written < 0) {
        this.end();
        return;
      }
      if (written > 0) this.#watch();
      if (written < piece.length) {
        this.#outgoing[0] = piece.subarray(written);
        return; // The kernel is full: drain comes.
      }
      this.#outgoing.shift();
    }
  }

  #receive(bytes: Uint8Array): void {
    if (this.#ended) return;
    if (this.#replies.receive(bytes)) this.#watch();
    else this.end();
  }
}

/** An array of bulk strings; a value of more than a page is not copied. */
function encode(words: readonly (string | Uint8Array)[]): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  let head = `*${words.length}\r\n`;
  const encoder = new TextEncoder();
  for (const word of words) {
    if (typeof word === 'string') {
      head += `$${encoder.encode(word).length}\r\n${word}\r\n`;
      continue;
    }
    pieces.push(encoder.encode(`${head}$${word.length}\r\n`), word);
    head = '\r\n';
  }
  pieces.push(encoder.encode(head));
  return pieces;
}
