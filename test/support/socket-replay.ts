/**
 * Replays a trace as LMCache's RESP adapter would send it: each batch of keys is cut into tiles of consecutive keys, one tile a
 * socket, all sockets at once, one command after another on each. A request looks up all of its blocks, loads those before the
 * first gap, and stores the rest.
 */
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import type { Trace } from './trace.ts';

export interface SocketReplayOptions {
  readonly address: { readonly host: string; readonly port: number };
  readonly sockets: number;
  readonly valueBytes: number;
}

/** One blocking worker of the adapter: sends a command, waits for its reply, knows only the replies that it can get. */
class Worker {
  readonly #socket: Socket;
  /** Bytes of the reply that are still to come; undefined while its first line is unknown. */
  #missing: number | undefined;
  #line = '';
  #resolve: (reply: string) => void = () => {};

  constructor(address: { readonly host: string; readonly port: number }) {
    this.#socket = connect(address.port, address.host);
    this.#socket.setNoDelay(true);
    this.#socket.on('data', (data: Buffer) => this.#take(data));
  }

  #take(data: Buffer): void {
    let rest = data;
    if (this.#missing === undefined) {
      const end = data.indexOf('\r\n');
      if (end < 0) throw new Error('a reply line is split: not expected from one write');
      this.#line = data.toString('latin1', 0, end);
      rest = data.subarray(end + 2);
      this.#missing = this.#line.startsWith('$') && this.#line !== '$-1' ? Number(this.#line.slice(1)) + 2 : 0;
    }
    this.#missing -= rest.length;
    if (this.#missing > 0) return;
    this.#missing = undefined;
    this.#resolve(this.#line);
  }

  /** First line of the reply. */
  call(command: string, key: string, value?: Buffer): Promise<string> {
    const words = value === undefined ? 2 : 3;
    const head = `*${words}\r\n$${command.length}\r\n${command}\r\n$${key.length}\r\n${key}\r\n`;
    this.#socket.write(value === undefined ? head : `${head}$${value.length}\r\n`);
    if (value !== undefined) {
      this.#socket.write(value);
      this.#socket.write('\r\n');
    }
    return new Promise((resolve) => (this.#resolve = resolve));
  }

  close(): void {
    this.#socket.destroy();
  }
}

/** `llama@01000100@0@<hash>`: an object key whose hash is the block's id. */
function keyOf(blockId: number): string {
  return `llama@01000100@0@${blockId.toString(16).padStart(64, '0')}`;
}

/** Hit ratio: blocks in contiguous cached prefixes / blocks requested. */
export async function replayThroughSockets(trace: Trace, options: SocketReplayOptions): Promise<number> {
  const workers = Array.from({ length: options.sockets }, () => new Worker(options.address));
  const value = Buffer.alloc(options.valueBytes, 'v');
  /** First lines of the replies, in the order of `blocks`. */
  const batch = async (blocks: readonly number[], command: string, payload?: Buffer): Promise<string[]> => {
    const tiles = Math.min(workers.length, blocks.length);
    const size = Math.ceil(blocks.length / Math.max(1, tiles));
    const answers = await Promise.all(
      workers.slice(0, tiles).map(async (worker, index) => {
        const replies: string[] = [];
        for (const block of blocks.slice(index * size, (index + 1) * size)) replies.push(await worker.call(command, keyOf(block), payload));
        return replies;
      }),
    );
    return answers.flat();
  };
  let hitBlocks = 0;
  for (const { blockIds } of trace.requests) {
    if (blockIds.length === 0) continue;
    const found = await batch(blockIds, 'EXISTS');
    const gap = found.findIndex((reply) => reply !== ':1');
    const prefix = blockIds.slice(0, gap < 0 ? blockIds.length : gap);
    const loaded = await batch(prefix, 'GET');
    const lost = loaded.indexOf('$-1');
    hitBlocks += lost < 0 ? prefix.length : lost;
    const missing = blockIds.filter((_, index) => found[index] !== ':1');
    await batch(missing, 'SET', value);
  }
  for (const worker of workers) worker.close();
  return hitBlocks / trace.requestedBlockCount;
}
