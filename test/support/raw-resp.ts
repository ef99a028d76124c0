/** A redis client that knows nothing: it sends bytes and gives back the bytes that came, as latin1 text. */
import { connect, type Socket } from 'node:net';
import { fromLatin1 } from './naive-resp.ts';

export interface RawReply {
  /** One element a reply; a rest that is no whole reply is the last one. */
  readonly replies: string[];
  /** The server closed the connection. */
  readonly closed: boolean;
}

export class RawRespClient {
  readonly #socket: Socket;
  #text = '';
  #closed = false;
  #wake: () => void = () => undefined;

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.setNoDelay(true);
    socket.on('data', (data: Buffer) => {
      this.#text += data.toString('latin1');
      this.#wake();
    });
    socket.on('error', () => undefined);
    socket.on('close', () => {
      this.#closed = true;
      this.#wake();
    });
  }

  static connect(address: { readonly host: string; readonly port: number }): Promise<RawRespClient> {
    return new Promise((resolve, reject) => {
      const socket = connect(address.port, address.host);
      socket.once('error', reject);
      socket.once('connect', () => resolve(new RawRespClient(socket)));
    });
  }

  /** Sends `pieces` as they are, one write each, and waits for `count` replies or the end of the connection. */
  async exchange(pieces: readonly string[], count: number): Promise<RawReply> {
    for (const piece of pieces) this.#socket.write(fromLatin1(piece));
    const replies: string[] = [];
    let scanned = 0;
    for (;;) {
      for (let end = replyEnd(this.#text, scanned); end !== undefined && replies.length < count; end = replyEnd(this.#text, scanned)) {
        replies.push(this.#text.slice(scanned, end));
        scanned = end;
      }
      if (replies.length >= count || this.#closed) break;
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    this.#text = this.#text.slice(scanned);
    if (this.#closed && this.#text !== '') replies.push(this.#text);
    return { replies, closed: this.#closed };
  }

  /** Everything until the server closes. */
  async untilClosed(pieces: readonly string[]): Promise<RawReply> {
    return this.exchange(pieces, Number.MAX_SAFE_INTEGER);
  }

  close(): void {
    this.#socket.destroy();
  }
}

/** Where the reply that starts at `start` ends; undefined where it is not whole. Knows RESP2 and RESP3. */
export function replyEnd(text: string, start: number): number | undefined {
  const lineEnd = text.indexOf('\r\n', start);
  if (lineEnd < 0) return undefined;
  const mark = text[start] ?? '';
  const count = Number(text.slice(start + 1, lineEnd));
  let end = lineEnd + 2;
  if ('$=!'.includes(mark)) {
    if (count < 0) return end;
    return end + count + 2 <= text.length ? end + count + 2 : undefined;
  }
  const children = mark === '%' ? 2 * count : '*~>'.includes(mark) ? count : 0;
  for (let index = 0; index < children; index += 1) {
    const next = replyEnd(text, end);
    if (next === undefined) return undefined;
    end = next;
  }
  return end;
}

/** The elements of a whole array reply, each as its own bytes. */
export function arrayElements(reply: string): string[] {
  const elements: string[] = [];
  let start = reply.indexOf('\r\n') + 2;
  for (let end = replyEnd(reply, start); start < reply.length && end !== undefined; end = replyEnd(reply, start)) {
    elements.push(reply.slice(start, end));
    start = end;
  }
  return elements;
}
