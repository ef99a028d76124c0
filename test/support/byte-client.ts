/**
 * A RESP client for large and hostile traffic: bytes in, bytes out, nothing decoded to text, and every way to misbehave. Replies are
 * taken from what has arrived, so a client that is paused is one that does not read.
 */
import { connect, type Socket } from 'node:net';

/** Text of a line without its CRLF ('+OK', ':1', '-ERR ...'), the bytes of a bulk, undefined for nil, or a list of these. */
export type Reply = string | Uint8Array | undefined | readonly Reply[];

const encoder = new TextEncoder();
const LF = 10;

export class ByteClient {
  readonly socket: Socket;
  #chunks: Uint8Array[] = [];
  /** Bytes of the first chunk that are consumed. */
  #offset = 0;
  #available = 0;
  #wake: () => void = () => undefined;
  #closed = false;
  readonly closed: Promise<void>;

  constructor(socket: Socket) {
    this.socket = socket;
    socket.setNoDelay(true);
    socket.on('data', (data: Buffer) => {
      this.#chunks.push(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
      this.#available += data.byteLength;
      this.#wake();
    });
    // A reset is an end like any other here: `closed` tells.
    socket.on('error', () => undefined);
    this.closed = new Promise((resolve) => {
      socket.on('close', () => {
        this.#closed = true;
        this.#wake();
        resolve();
      });
    });
  }

  static connect(
    address: { readonly host: string; readonly port: number },
    options: { readonly allowHalfOpen?: boolean } = {},
  ): Promise<ByteClient> {
    return new Promise((resolve, reject) => {
      const socket = connect({ port: address.port, host: address.host, allowHalfOpen: options.allowHalfOpen ?? false });
      socket.once('error', reject);
      socket.once('connect', () => resolve(new ByteClient(socket)));
    });
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  /** Bytes that came and were not taken. */
  get availableBytes(): number {
    return this.#available;
  }

  write(bytes: Uint8Array | string): void {
    this.socket.write(typeof bytes === 'string' ? encoder.encode(bytes) : bytes);
  }

  /** Resolves when the kernel has taken what was written so far, or the connection is gone. */
  written(bytes: Uint8Array | string): Promise<void> {
    return new Promise((resolve) => {
      void this.closed.then(resolve);
      this.socket.write(typeof bytes === 'string' ? encoder.encode(bytes) : bytes, () => resolve());
    });
  }

  /** One command and its reply. */
  async send(...args: readonly (Uint8Array | string)[]): Promise<Reply> {
    this.write(command(...args));
    return await this.reply();
  }

  /** `count` bytes; throws where the connection ends before. */
  async bytes(count: number): Promise<Uint8Array> {
    while (this.#available < count) await this.#more();
    const taken = new Uint8Array(count);
    for (let filled = 0; filled < count;) {
      const chunk = this.#chunks[0] as Uint8Array;
      const part = chunk.subarray(this.#offset, this.#offset + count - filled);
      taken.set(part, filled);
      filled += part.length;
      this.#offset += part.length;
      if (this.#offset === chunk.length) {
        this.#chunks.shift();
        this.#offset = 0;
      }
    }
    this.#available -= count;
    return taken;
  }

  async #more(): Promise<void> {
    if (this.#closed) throw new Error(`The connection ended with ${this.#available} bytes of an unfinished reply`);
    await new Promise<void>((resolve) => (this.#wake = resolve));
  }

  async line(): Promise<string> {
    let text = '';
    for (;;) {
      while (this.#available === 0) await this.#more();
      const chunk = this.#chunks[0] as Uint8Array;
      const end = chunk.indexOf(LF, this.#offset);
      const part = await this.bytes((end < 0 ? chunk.length : end + 1) - this.#offset);
      text += new TextDecoder('latin1').decode(part);
      if (end >= 0) return text.slice(0, -2);
    }
  }

  async reply(): Promise<Reply> {
    const line = await this.line();
    const mark = line[0];
    const count = Number(line.slice(1));
    if (line === '_' || ((mark === '$' || mark === '*') && count < 0)) return undefined;
    if (mark === '$' || mark === '=') {
      const body = await this.bytes(count);
      await this.bytes(2);
      return body;
    }
    if (mark !== '*' && mark !== '%') return line;
    const list: Reply[] = [];
    for (let index = 0; index < count * (mark === '%' ? 2 : 1); index += 1) list.push(await this.reply());
    return list;
  }

  /** Everything until the server closes. */
  async rest(): Promise<Uint8Array> {
    await this.closed;
    return await this.bytes(this.#available);
  }

  /** RST, as a client that crashed behind a firewall or set SO_LINGER to 0. */
  reset(): void {
    this.socket.resetAndDestroy();
  }

  destroy(): void {
    this.socket.destroy();
  }
}

/** An array of bulk strings. */
export function command(...args: readonly (Uint8Array | string)[]): Uint8Array {
  const parts: Uint8Array[] = [encoder.encode(`*${args.length}\r\n`)];
  for (const arg of args) {
    const bytes = typeof arg === 'string' ? encoder.encode(arg) : arg;
    parts.push(encoder.encode(`$${bytes.length}\r\n`), bytes, encoder.encode('\r\n'));
  }
  return concat(parts);
}

export function concat(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.length;
  }
  return whole;
}

/** The head of a SET whose value does not follow. */
export function setHead(key: string, announcedBytes: number | string): string {
  return `*3\r\n$3\r\nSET\r\n$${encoder.encode(key).length}\r\n${key}\r\n$${announcedBytes}\r\n`;
}

/** Bytes that tell whose they are: every eight bytes hold `id` and their own place. */
export function pattern(sizeBytes: number, id: number): Uint8Array {
  const words = new Uint32Array(Math.ceil(sizeBytes / 4));
  for (let index = 0; index < words.length; index += 2) {
    words[index] = id;
    words[index + 1] = index ^ Math.imul(id, 0x9e3779b1);
  }
  return new Uint8Array(words.buffer, 0, sizeBytes);
}

export function same(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}
