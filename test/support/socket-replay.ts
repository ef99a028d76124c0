/**
 * Replays a trace as LMCache's RESP adapter would send it: each batch of keys is cut into tiles of consecutive keys, one tile a
 * socket, all sockets at once, one command after another on each. A request looks up all of its blocks, loads those before the
 * first gap, and stores the rest.
 */
import { RawRespClient } from './raw-resp.ts';
import { encodeCommand } from './naive-resp.ts';
import type { Trace } from './trace.ts';

export interface SocketReplayOptions {
  readonly address: { readonly host: string; readonly port: number };
  readonly sockets: number;
  readonly valueBytes: number;
}

/** `llama@01000100@0@<hash>`: an object key whose hash is the block's id. */
function keyOf(blockId: number): string {
  return `llama@01000100@0@${blockId.toString(16).padStart(64, '0')}`;
}

/** Hit ratio: blocks in contiguous cached prefixes / blocks requested. */
export async function replayThroughSockets(trace: Trace, options: SocketReplayOptions): Promise<number> {
  const clients = await Promise.all(Array.from({ length: options.sockets }, () => RawRespClient.connect(options.address)));
  const value = 'v'.repeat(options.valueBytes);
  /** Replies in the order of `blocks`. */
  const batch = async (blocks: readonly number[], command: (key: string) => readonly string[]): Promise<string[]> => {
    const tiles = Math.min(clients.length, blocks.length);
    const size = Math.ceil(blocks.length / Math.max(1, tiles));
    const answers = await Promise.all(
      clients.slice(0, tiles).map(async (client, index) => {
        const replies: string[] = [];
        for (const block of blocks.slice(index * size, (index + 1) * size)) {
          const { replies: one } = await client.exchange([encodeCommand(command(keyOf(block)))], 1);
          replies.push(one[0] ?? '');
        }
        return replies;
      }),
    );
    return answers.flat();
  };
  let hitBlocks = 0;
  for (const { blockIds } of trace.requests) {
    if (blockIds.length === 0) continue;
    const found = await batch(blockIds, (key) => ['EXISTS', key]);
    const gap = found.findIndex((reply) => reply !== ':1\r\n');
    const prefix = blockIds.slice(0, gap < 0 ? blockIds.length : gap);
    const loaded = await batch(prefix, (key) => ['GET', key]);
    const lost = loaded.findIndex((reply) => reply === '$-1\r\n');
    hitBlocks += lost < 0 ? prefix.length : lost;
    const missing = blockIds.filter((_, index) => found[index] !== ':1\r\n');
    await batch(missing, (key) => ['SET', key, value]);
  }
  for (const client of clients) client.close();
  return hitBlocks / trace.requestedBlockCount;
}
