/**
 * A RESP client that costs little: values go out from memory that the caller keeps, and what comes back is counted, not kept. One
 * command at a time on each connection, as LMCache's client does it.
 */
import type { Socket } from 'bun';

interface Waiter {
  /** The reply's first line, once it is whole. */
  line: string | undefined;
  /** Bytes behind the first line that are still to come. */
  restBytes: number;
  resolve(line: string): void;
  reject(problem: Error): void;
}

const encoder = new TextEncoder();
const decoder = new TextDecoder('latin1');
const CRLF = encoder.encode('\r\n');
const LF = 10;

export class LoadClient {
  #socket: Socket | undefined;
  #unsent: Uint8Array[] = [];
  #waiter: Waiter | undefined;
  #text = '';

  static async connect(address: { readonly host: string; readonly port: number }): Promise<LoadClient> {
    const client = new LoadClient();
    client.#socket = await Bun.connect({
      hostname: address.host,
      port: address.port,
      socket: {
        data: (_, chunk) => client.#onData(chunk),
        drain: () => client.#flush(),
        close: () => client.#waiter?.reject(new Error('The agent closed the connection')),
      },
    });
    return client;
  }

  /** `value` must stay as it is until the promise settles. Rejects where the answer is not +OK. */
  async set(key: string, value: Uint8Array): Promise<void> {
    const head = `*3\r\n$3\r\nSET\r\n$${key.length}\r\n${key}\r\n$${value.length}\r\n`;
    const line = await this.#roundTrip([encoder.encode(head), value, CRLF]);
    if (line !== '+OK') throw new Error(`SET ${key}: ${line}`);
  }

  /** Size of the value, or -1. */
  async get(key: string): Promise<number> {
    const line = await this.#roundTrip([encoder.encode(`*2\r\n$3\r\nGET\r\n$${key.length}\r\n${key}\r\n`)]);
    if (!line.startsWith('$')) throw new Error(`GET ${key}: ${line}`);
    return Number(line.slice(1));
  }

  /** One line in, one line out. */
  async ask(inline: string): Promise<string> {
    return await this.#roundTrip([encoder.encode(`${inline}\r\n`)]);
  }

  /** Many commands in one write; resolves when as many answers of one line have come. */
  async pipeline(commands: Uint8Array, count: number): Promise<void> {
    let first = this.#roundTrip([commands]);
    for (let index = 0; index < count; index += 1) {
      const line = await first;
      if (line !== '+OK') throw new Error(`Command ${index} of a pipeline: ${line}`);
      if (index + 1 < count) first = this.#roundTrip([]);
    }
  }

  #roundTrip(parts: readonly Uint8Array[]): Promise<string> {
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    this.#waiter = { line: undefined, restBytes: 0, resolve, reject };
    this.#unsent.push(...parts);
    this.#flush();
    if (this.#text !== '') {
      const early = encoder.encode(this.#text);
      this.#text = '';
      this.#onData(early);
    }
    return promise;
  }

  #flush(): void {
    for (let part = this.#unsent[0]; part !== undefined; part = this.#unsent[0]) {
      const written = Math.max(0, this.#socket?.write(part) ?? 0);
      if (written < part.length) {
        this.#unsent[0] = part.subarray(written);
        return;
      }
      this.#unsent.shift();
    }
  }

  #onData(chunk: Uint8Array): void {
    const waiter = this.#waiter;
    let offset = 0;
    if (waiter !== undefined && waiter.line === undefined) {
      const end = chunk.indexOf(LF);
      this.#text += decoder.decode(end < 0 ? chunk : chunk.subarray(0, end + 1));
      if (end < 0) return;
      waiter.line = this.#text.slice(0, -2);
      this.#text = '';
      offset = end + 1;
      const size = waiter.line.startsWith('$') ? Number(waiter.line.slice(1)) : -1;
      waiter.restBytes = size < 0 ? 0 : size + 2;
    }
    if (waiter?.line === undefined) {
      this.#text += decoder.decode(chunk);
      return;
    }
    const taken = Math.min(waiter.restBytes, chunk.length - offset);
    waiter.restBytes -= taken;
    if (waiter.restBytes > 0) return;
    this.#waiter = undefined;
    waiter.resolve(waiter.line);
    this.#text = decoder.decode(chunk.subarray(offset + taken));
  }

  close(): void {
    this.#waiter = undefined;
    this.#socket?.end();
  }
}

/** Memory of a value; `stamp` makes it another one without touching more than a few bytes, so that no store is a duplicate. */
export function payload(sizeBytes: number): Uint8Array {
  const value = new Uint8Array(sizeBytes);
  for (let offset = 0; offset < sizeBytes; offset += 65_536)
    crypto.getRandomValues(value.subarray(offset, Math.min(offset + 65_536, sizeBytes)));
  return value;
}

export function stamp(value: Uint8Array, id: number): void {
  new DataView(value.buffer, value.byteOffset).setFloat64(0, id);
}
