/** TransportSocket.sip on real sockets: whoever reads, nothing is lost, nothing comes twice, an end is told once. */
import { afterAll, afterEach, beforeEach, expect, test } from 'vitest';
import type { FrontSlot } from '#host/front-state.ts';
import { Readiness } from '#host/readiness.ts';
import { HostSocket, TcpTransport } from '#host/tcp-transport.ts';
import type { Connection } from '#host/tcp-transport.ts';
import type { ConnectionHandler, Listener, TransportSocket } from '#ports/transport.ts';
import { until } from '#testsupport/agent-probes.ts';
import { ByteClient, pattern, same } from '#testsupport/byte-client.ts';

const readiness = new Readiness((reason) => {
  throw new Error(reason);
});
afterAll(() => readiness.close());

/** What the server side of one connection saw. */
class Seen implements ConnectionHandler {
  readonly socket: TransportSocket;
  readonly sizes: number[] = [];
  readonly bytes: number[] = [];
  closes = 0;
  onChunk: (chunk: Uint8Array) => void = () => {};

  constructor(socket: TransportSocket) {
    this.socket = socket;
  }

  onData(chunk: Uint8Array): void {
    this.sizes.push(chunk.length);
    for (const byte of chunk) this.bytes.push(byte);
    this.onChunk(chunk);
  }

  onDrain(): void {}

  onClose(): void {
    this.closes += 1;
  }
}

let listener: Listener;
let client: ByteClient;
let seen: Seen;

async function connect(transport: TcpTransport, prepare: (seen: Seen) => void = () => {}): Promise<void> {
  const accepted = Promise.withResolvers<Seen>();
  listener = transport.listen({ host: '127.0.0.1', port: 0 }, (socket) => {
    const handler = new Seen(socket);
    prepare(handler);
    accepted.resolve(handler);
    return handler;
  });
  client = await ByteClient.connect(listener);
  seen = await accepted.promise;
}

beforeEach(() => connect(new TcpTransport({ readiness })));
afterEach(() => {
  client.destroy();
  listener.stop();
});

const received = (count: number): Promise<void> => until(`${count} bytes`, () => Promise.resolve(seen.bytes.length >= count));

for (const lookMs of [0, 0.5]) {
  test(`no chunk is larger than a sip, and all bytes come in order (looking for ${lookMs} ms)`, async () => {
    seen.socket.sip(16, lookMs);
    const sent = pattern(5000, 1);
    client.write(sent);
    await received(sent.length);
    expect(Math.max(...seen.sizes)).toBe(16);
    expect(same(Uint8Array.from(seen.bytes), sent)).toBe(true);
  });
}

test('a socket that goes from sips to gulps and back loses nothing', async () => {
  const sent = pattern(200_000, 2);
  let chunks = 0;
  seen.onChunk = () => {
    chunks += 1;
    seen.socket.sip(chunks % 3 === 0 ? 0 : 100, chunks % 2 === 0 ? 0.1 : 0);
  };
  for (let offset = 0; offset < sent.length; offset += 1000) await client.written(sent.subarray(offset, offset + 1000));
  await received(sent.length);
  expect(same(Uint8Array.from(seen.bytes), sent)).toBe(true);
});

/** Something went through the kernel and the readiness thread since: had another socket been read, that would be seen by now. */
async function roundOfAnother(): Promise<void> {
  const mine = { client, listener, seen };
  await connect(new TcpTransport({ readiness }));
  seen.socket.sip(1);
  client.write('x');
  await received(1);
  client.destroy();
  listener.stop();
  ({ client, listener, seen } = mine);
}

test('a socket that pauses itself in a sip goes on where it was', async () => {
  seen.socket.sip(10);
  client.write('0123456789abcdefghij');
  seen.onChunk = () => {
    if (seen.bytes.length === 10) seen.socket.pause();
  };
  await received(10);
  client.write('klmno');
  await roundOfAnother();
  expect(seen.bytes.length).toBe(10);
  seen.socket.resume();
  await received(25);
  expect(String.fromCharCode(...seen.bytes)).toBe('0123456789abcdefghijklmno');
});

test('a socket that is paused while it waits for a sip is not read', async () => {
  seen.socket.sip(10);
  seen.socket.pause();
  client.write('abc');
  await roundOfAnother();
  expect(seen.bytes.length).toBe(0);
  seen.socket.resume();
  await received(3);
});

test('a peer that ends, or resets, while the socket sips is told of exactly once', async () => {
  for (const leave of ['destroy', 'reset'] as const) {
    if (leave === 'reset') await connect(new TcpTransport({ readiness }));
    seen.socket.sip(10);
    client.write('abc');
    await received(3);
    client[leave]();
    await until('the close', () => Promise.resolve(seen.closes > 0));
    expect(seen.closes).toBe(1);
    expect(seen.socket.fd).toBe(-1);
    if (leave === 'destroy') listener.stop();
  }
});

test('a socket that is closed from this side while it sips is closed for the peer', async () => {
  for (const close of ['end', 'terminate'] as const) {
    if (close === 'terminate') await connect(new TcpTransport({ readiness }));
    seen.socket.sip(10);
    seen.socket[close]();
    await client.closed;
    await until('the close', () => Promise.resolve(seen.closes > 0));
    expect(seen.closes).toBe(1);
    if (close === 'end') listener.stop();
  }
});

test('without a readiness thread a sip is only a hint', async () => {
  client.destroy();
  listener.stop();
  await connect(new TcpTransport());
  seen.socket.sip(1);
  client.write('abc');
  await received(3);
  expect(String.fromCharCode(...seen.bytes)).toBe('abc');
});

test('what goes through JavaScript in either direction is counted: it leaves buffers behind', async () => {
  let buffers = 0;
  client.destroy();
  listener.stop();
  await connect(new TcpTransport({ readiness, onBuffer: (bytes) => void (buffers += bytes) }));
  client.write('abc');
  await received(3);
  await until('the count', () => Promise.resolve(buffers === 3));
  expect(seen.socket.write(Uint8Array.of(1, 2, 3, 4))).toBe(4);
  expect(buffers).toBe(7);
});

test('back to whatever is there, a socket that Bun never reads is waited for asleep', async () => {
  let takes = 0;
  const slot: FrontSlot = { resumed: '', isAtRest: true, begin: () => (takes += 1) > 0, restAgain() {}, rest() {}, closed() {} };
  const server = Bun.listen<Connection>({
    hostname: '127.0.0.1',
    port: 0,
    socket: {
      open(socket) {
        socket.pause();
        const host = new HostSocket(socket, { readiness, direct: true, slot, onBuffer: () => {} });
        socket.data = { host };
        seen = new Seen(host);
        host.attach(seen);
        host.sip(10, 60_000);
      },
      data() {
        throw new Error('Bun read it');
      },
      close: (socket) => socket.data.host.onClose(),
    },
  });
  const peer = await ByteClient.connect({ host: '127.0.0.1', port: server.port });
  await until('two looks', () => Promise.resolve(takes > 1));
  seen.socket.sip(0, 60_000);
  peer.write('x');
  await received(1);
  const before = takes;
  await roundOfAnother();
  expect(takes).toBe(before);
  peer.destroy();
  await until('the close', () => Promise.resolve(seen.closes > 0));
  server.stop();
});
