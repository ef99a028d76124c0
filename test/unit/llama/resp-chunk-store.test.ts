import type { Socket, TCPSocketListener } from 'bun';
import { afterEach, describe, expect, test } from 'vitest';
import { RespConnection } from '#engines/llama/resp-connection.ts';
import { RespChunkStore } from '#engines/llama/resp-chunk-store.ts';

/** A server that answers with what it is told to, in the pieces it is told to. */
class ScriptedServer {
  readonly #listener: TCPSocketListener<undefined>;
  readonly received: Buffer[] = [];
  #sockets: Socket<undefined>[] = [];
  #arrival = Promise.withResolvers<void>();

  constructor(onData: (socket: Socket<undefined>, text: string) => void) {
    this.#listener = Bun.listen<undefined>({
      hostname: '127.0.0.1',
      port: 0,
      socket: {
        open: (socket) => void this.#sockets.push(socket),
        data: (socket, bytes) => {
          this.received.push(Buffer.from(bytes));
          onData(socket, bytes.toString('latin1'));
          this.#arrival.resolve();
          this.#arrival = Promise.withResolvers();
        },
      },
    });
  }
  get address() {
    return { host: '127.0.0.1', port: this.#listener.port };
  }
  async until(text: string): Promise<void> {
    while (!Buffer.concat(this.received).toString('latin1').includes(text)) await this.#arrival.promise;
  }
  stop(): void {
    for (const socket of this.#sockets) socket.terminate();
    this.#listener.stop(true);
  }
}

const namespace = { model: 'm', layout: '0'.repeat(64) };
let server: ScriptedServer | undefined;
afterEach(() => server?.stop());

/** Sends each piece in a packet of its own. */
function sendInPieces(socket: Socket<undefined>, pieces: readonly string[]): void {
  const [first, ...rest] = pieces;
  if (first === undefined) return;
  socket.write(Buffer.from(first, 'latin1'));
  socket.flush();
  setImmediate(() => sendInPieces(socket, rest));
}

async function connectTo(answer: string, pieceBytes: number, stallMs = 2000): Promise<RespConnection> {
  const pieces = Array.from({ length: Math.ceil(answer.length / pieceBytes) }, (_, index) =>
    answer.slice(index * pieceBytes, (index + 1) * pieceBytes),
  );
  let sent = false;
  server = new ScriptedServer((socket) => {
    if (!sent) sendInPieces(socket, pieces);
    sent = true;
  });
  const connection = await RespConnection.open(server.address, stallMs);
  if (connection === undefined) throw new Error('no connection');
  return connection;
}

describe('RespConnection', () => {
  test.each([1, 2, 3, 5, 1000])('takes replies in pieces of %i bytes, each bulk into its own memory', async (pieceBytes) => {
    const connection = await connectTo('+OK\r\n$5\r\nab\r\nc\r\n:1\r\n$-1\r\n-NO such\r\n$3\r\nxyz\r\n$0\r\n\r\n', pieceBytes);
    const [first, other, last] = [new Uint8Array(5), new Uint8Array(5).fill(7), new Uint8Array(0)];
    const replies = await Promise.all([
      connection.request(['A']),
      connection.request(['B'], first),
      connection.request(['C']),
      connection.request(['D'], other),
      connection.request(['E']),
      connection.request(['F'], other), // of another size than the target
      connection.request(['G'], last),
    ]);
    expect(replies).toEqual([
      { kind: 'line', text: '+OK' },
      { kind: 'filled' },
      { kind: 'line', text: ':1' },
      { kind: 'absent' },
      { kind: 'line', text: '-NO such' },
      { kind: 'absent' },
      { kind: 'filled' },
    ]);
    expect(Buffer.from(first).toString()).toBe('ab\r\nc');
    expect(other).toEqual(new Uint8Array(5).fill(7));
    connection.end();
  });

  test.each([
    ['a reply of another kind', '*1\r\n'],
    ['a number that is none', ':x\r\n'],
    ['a length that is none', '$-2\r\n'],
    ['a line without CR', '+OK\n'],
    ['a line without end', `+${'x'.repeat(5000)}`],
    ['bytes that are no RESP', 'HTTP/1.1 400 Bad Request\r\n\r\n'],
  ])('ends the connection at %s, and everything that waits is absent', async (_what, answer) => {
    const connection = await connectTo(answer, 1000);
    const replies = await Promise.all([connection.request(['A'], new Uint8Array(4)), connection.request(['B'])]);
    expect(replies).toEqual([{ kind: 'absent' }, { kind: 'absent' }]);
    expect(connection.isOpen).toBe(false);
    expect(await connection.request(['C'])).toEqual({ kind: 'absent' });
  });

  test('ends the connection at a reply that nobody asked for', async () => {
    const connection = await connectTo('+OK\r\n+OK\r\n', 1000);
    expect(await connection.request(['A'])).toEqual({ kind: 'line', text: '+OK' });
    expect(await connection.request(['B'])).toEqual({ kind: 'absent' });
  });

  test('gives up on a server that stops in the middle of a value', async () => {
    const connection = await connectTo('$100\r\nabc', 1000, 50);
    expect(await connection.request(['A'], new Uint8Array(100))).toEqual({ kind: 'absent' });
    expect(connection.isOpen).toBe(false);
  });

  test('sends commands as arrays of bulks, values from where they lie', async () => {
    const connection = await connectTo('+OK\r\n', 1000);
    await connection.request(['SET', 'kä', new TextEncoder().encode('a\r\nb')]);
    await server?.until('a\r\nb\r\n');
    expect(Buffer.concat(server?.received ?? []).toString('utf8')).toBe('*3\r\n$3\r\nSET\r\n$3\r\nkä\r\n$4\r\na\r\nb\r\n');
    connection.end();
  });

  test('is none where nobody listens', async () => {
    server = new ScriptedServer(() => undefined);
    const { address } = server;
    server.stop();
    expect(await RespConnection.open(address, 100)).toBeUndefined();
  });
});

describe('RespChunkStore', () => {
  test('answers misses in time where nobody listens, and does not reject', async () => {
    const gone = new ScriptedServer(() => undefined);
    gone.stop();
    const store = new RespChunkStore({ ...gone.address, namespace });
    const buffers = store.createBuffers(2, 16);
    const startMs = performance.now();
    expect(await store.lookup(['a', 'b'])).toBe(0);
    expect(await Promise.all(store.load(['a', 'b'], buffers))).toEqual([false, false]);
    expect(await Promise.all(store.store(['a', 'b'], buffers))).toEqual([false, false]);
    expect(performance.now() - startMs).toBeLessThan(1000);
    await store.close();
  });

  test('counts up to the first gap', async () => {
    server = new ScriptedServer((socket, text) => {
      const exists = text.match(/EXISTS/g)?.length ?? 0;
      socket.write(text.includes('CLIENT') ? '+OK\r\n' : ':1\r\n:1\r\n:0\r\n:1\r\n'.slice(0, exists * 4));
    });
    const store = new RespChunkStore({ ...server.address, namespace });
    expect(await store.lookup(['a', 'b', 'c', 'd'])).toBe(2);
    expect(await store.lookup(['a', 'b'])).toBe(2);
    await store.close();
  });

  test('takes a server that refuses its token for one that is away', async () => {
    server = new ScriptedServer((socket) => void socket.write('-WRONGPASS no\r\n-NOAUTH no\r\n'));
    const store = new RespChunkStore({ ...server.address, namespace, token: 'wrong' });
    expect(await store.lookup(['a'])).toBe(0);
    await store.close();
  });
});
