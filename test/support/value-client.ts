/** A RESP2 client for values of many megabytes: one command at a time, bytes stay bytes. */
import { connect, type Socket } from 'node:net';

/** The connection is gone; whether the command happened is open. */
export class ConnectionLost extends Error {
  override readonly name = 'ConnectionLost';
}

/** An error reply of the server. */
export class RespError extends Error {
  override readonly name = 'RespError';
}

export type RespAnswer = string | number | Buffer | undefined;

export class ValueClient {
  readonly #socket: Socket;
  #chunks: Buffer[] = [];
  #lengthBytes = 0;
  #wantedBytes = 0;
  #waiting: { resolve(answer: RespAnswer): void; reject(problem: Error): void } | undefined;
  #lost = false;

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.setNoDelay(true);
    socket.on('data', (data: Buffer) => {
      this.#chunks.push(data);
      this.#lengthBytes += data.length;
      if (this.#lengthBytes >= this.#wantedBytes) this.#read();
    });
    socket.on('error', () => undefined);
    socket.on('close', () => {
      this.#lost = true;
      this.#settle((waiting) => waiting.reject(new ConnectionLost('The connection was closed')));
    });
  }

  /** Rejects with ConnectionLost where nobody listens. */
  static connect(address: { readonly host: string; readonly port: number }): Promise<ValueClient> {
    return new Promise((resolve, reject) => {
      const socket = connect(address.port, address.host);
      socket.once('error', (cause) => reject(new ConnectionLost('Cannot connect', { cause })));
      socket.once('connect', () => resolve(new ValueClient(socket)));
    });
  }

  /** Rejects with RespError or ConnectionLost. */
  command(...args: readonly (string | Uint8Array)[]): Promise<RespAnswer> {
    if (this.#lost) return Promise.reject(new ConnectionLost('The connection was closed before'));
    const pieces: Uint8Array[] = [Buffer.from(`*${args.length}\r\n`)];
    for (const arg of args) {
      const bytes = typeof arg === 'string' ? Buffer.from(arg) : arg;
      pieces.push(Buffer.from(`$${bytes.length}\r\n`), bytes, Buffer.from('\r\n'));
    }
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
      this.#socket.cork();
      for (const piece of pieces) this.#socket.write(piece);
      this.#socket.uncork();
    });
  }

  async get(key: string): Promise<Buffer | undefined> {
    const answer = await this.command('GET', key);
    return Buffer.isBuffer(answer) ? answer : undefined;
  }

  close(): void {
    this.#socket.destroy();
  }

  #settle(action: (waiting: { resolve(answer: RespAnswer): void; reject(problem: Error): void }) => void): void {
    const waiting = this.#waiting;
    this.#waiting = undefined;
    if (waiting !== undefined) action(waiting);
  }

  #read(): void {
    const whole = this.#chunks.length === 1 && this.#chunks[0] !== undefined ? this.#chunks[0] : Buffer.concat(this.#chunks);
    this.#chunks = [whole];
    const lineEnd = whole.indexOf('\r\n');
    if (lineEnd < 0) return;
    const mark = String.fromCharCode(whole[0] ?? 0);
    const text = whole.toString('latin1', 1, lineEnd);
    let end = lineEnd + 2;
    let answer: RespAnswer | RespError = text;
    if (mark === ':') answer = Number(text);
    else if (mark === '-') answer = new RespError(text);
    else if (mark === '$' && text === '-1') answer = undefined;
    else if (mark === '$') {
      end += Number(text) + 2;
      this.#wantedBytes = end;
      if (whole.length < end) return;
      answer = whole.subarray(lineEnd + 2, end - 2);
    }
    this.#wantedBytes = 0;
    this.#chunks = end < whole.length ? [whole.subarray(end)] : [];
    this.#lengthBytes = whole.length - end;
    const final = answer;
    this.#settle((waiting) => (final instanceof RespError ? waiting.reject(final) : waiting.resolve(final)));
  }
}
