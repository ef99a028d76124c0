/**
 * One thread, one blocking socket, one command at a time: how LMCache's native client drives a RESP server. A value leaves from, and
 * arrives in, one buffer that is reused, so the client costs the two copies that the kernel makes and nothing else.
 */
import { dlopen, ptr } from 'bun:ffi';
import type { BlockingRun, BlockingTarget } from './blocking-client.ts';
import { payload, stamp } from './load-client.ts';

declare const self: Worker;

const { symbols: libc } = dlopen('libc.so.6', {
  socket: { args: ['i32', 'i32', 'i32'], returns: 'i32' },
  connect: { args: ['i32', 'ptr', 'u32'], returns: 'i32' },
  setsockopt: { args: ['i32', 'i32', 'i32', 'ptr', 'u32'], returns: 'i32' },
  send: { args: ['i32', 'ptr', 'u64', 'i32'], returns: 'i64' },
  recv: { args: ['i32', 'ptr', 'u64', 'i32'], returns: 'i64' },
  close: { args: ['i32'], returns: 'i32' },
});
const AF_INET = 2;
const SOCK_STREAM = 1;
const IPPROTO_TCP = 6;
const TCP_NODELAY = 1;
const MSG_WAITALL = 0x100;
const MSG_NOSIGNAL = 0x4000;
const NOTHING = '$-1\r\n';
const KEY_DIGITS = 12;
const encoder = new TextEncoder();
const decoder = new TextDecoder('latin1');

/** Connects to 127.0.0.1. */
function connect(port: number): number {
  const fd = libc.socket(AF_INET, SOCK_STREAM, 0);
  const address = new Uint8Array(16);
  const view = new DataView(address.buffer);
  view.setUint16(0, AF_INET, true);
  view.setUint16(2, port, false);
  view.setUint32(4, 0x7f000001, false);
  if (fd < 0 || libc.connect(fd, ptr(address), address.length) < 0) throw new Error(`Cannot connect to port ${port}`);
  const on = new Int32Array([1]);
  libc.setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, ptr(on), 4);
  return fd;
}

function sendAll(fd: number, bytes: Uint8Array): void {
  const base = Number(ptr(bytes));
  for (let sent = 0; sent < bytes.length;) {
    const count = Number(libc.send(fd, base + sent, bytes.length - sent, MSG_NOSIGNAL));
    if (count <= 0) throw new Error('The server closed the connection');
    sent += count;
  }
}

/** Fills `bytes` with one reply; false where the answer is that there is nothing. Throws where the first bytes are others than `head`. */
function receiveReply(fd: number, bytes: Uint8Array, head: string): boolean {
  const base = Number(ptr(bytes));
  let got = 0;
  while (got < bytes.length) {
    // The first read takes what is there: an answer that is shorter than the wanted one must not block for ever.
    const flags = got < head.length ? 0 : MSG_WAITALL;
    const count = Number(libc.recv(fd, base + got, bytes.length - got, flags));
    if (count <= 0) throw new Error('The server closed the connection');
    got += count;
    const have = decoder.decode(bytes.subarray(0, Math.min(got, head.length)));
    if (got === NOTHING.length && decoder.decode(bytes.subarray(0, got)) === NOTHING) return false;
    if (!head.startsWith(have)) throw new Error(`Unexpected answer: ${have}`);
  }
  return true;
}

class BlockingClient {
  readonly #fd: number;
  readonly #target: BlockingTarget;
  readonly #setHead: Uint8Array;
  readonly #set: Uint8Array;
  readonly #get: Uint8Array;
  readonly #reply: Uint8Array;
  readonly #ok = new Uint8Array(5);

  constructor(target: BlockingTarget) {
    this.#target = target;
    this.#fd = connect(target.port);
    const key = `key:${'0'.repeat(KEY_DIGITS)}`;
    this.#setHead = encoder.encode(`*3\r\n$3\r\nSET\r\n$${key.length}\r\n${key}\r\n$${target.sizeBytes}\r\n`);
    this.#set = new Uint8Array(this.#setHead.length + target.sizeBytes + 2);
    this.#set.set(this.#setHead);
    this.#set.set(payload(target.sizeBytes), this.#setHead.length);
    this.#set.set(encoder.encode('\r\n'), this.#setHead.length + target.sizeBytes);
    this.#get = encoder.encode(`*2\r\n$3\r\nGET\r\n$${key.length}\r\n${key}\r\n`);
    this.#reply = new Uint8Array(`$${target.sizeBytes}\r\n`.length + target.sizeBytes + 2).fill(1);
  }

  run(run: BlockingRun): void {
    let state = run.seed;
    for (let request = 0; request < run.requests; request += 1) {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
      const key = (run.sequential ? request : Math.floor((state / 2 ** 32) * this.#target.keys)).toString().padStart(KEY_DIGITS, '0');
      const id = run.seed * 1e6 + request;
      if (run.command === 'SET') this.#store(key, id);
      else if (!this.#find(key)) {
        if (run.refill !== true) throw new Error(`Unexpected answer: there is no ${key}`);
        this.#store(key, id);
      }
    }
  }

  #store(key: string, id: number): void {
    encoder.encodeInto(key, this.#set.subarray(this.#setHead.lastIndexOf(36) - 2 - KEY_DIGITS));
    stamp(this.#set.subarray(this.#setHead.length), id);
    sendAll(this.#fd, this.#set);
    receiveReply(this.#fd, this.#ok, '+OK\r\n');
  }

  #find(key: string): boolean {
    encoder.encodeInto(key, this.#get.subarray(this.#get.length - 2 - KEY_DIGITS));
    sendAll(this.#fd, this.#get);
    return receiveReply(this.#fd, this.#reply, `$${this.#target.sizeBytes}\r\n`);
  }

  close(): void {
    libc.close(this.#fd);
  }
}

let client: BlockingClient | undefined;
self.onmessage = (event: MessageEvent<BlockingTarget | BlockingRun | 'close'>): void => {
  const message = event.data;
  if (message === 'close') client?.close();
  else if ('port' in message) client = new BlockingClient(message);
  else client?.run(message);
  self.postMessage('done');
};
