import { KvtierError } from '#core/errors.ts';

/** A line longer than this is no answer of ours; 100,000 mismatches of 160 bytes fit. */
export const MAX_LINE_LENGTH = 16 * 1024 * 1024;

/**
 * Lines of a stream of newline-delimited JSON, parsed. A line may arrive in any pieces, cut even inside a character; blank lines
 * are skipped; text after the last newline is a line too. The stream is cancelled when the caller stops early.
 * Errors: IO_FAILED where a line is no JSON, too long, or the stream breaks.
 */
export async function* parseNdjson(stream: ReadableStream<Uint8Array>): AsyncGenerator<unknown, void, undefined> {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let pending = '';
  let ended = false;
  try {
    while (!ended) {
      const { done, value } = await readPiece(reader);
      ended = done;
      pending += value === undefined ? decoder.decode() : decoder.decode(value, { stream: true });
      let newline = pending.indexOf('\n');
      while (newline >= 0) {
        const line = pending.slice(0, newline);
        pending = pending.slice(newline + 1);
        if (line.trim() !== '') yield parseLine(line);
        newline = pending.indexOf('\n');
      }
      if (pending.length > MAX_LINE_LENGTH) {
        throw new KvtierError('IO_FAILED', `Cannot read the stream: a line is over ${MAX_LINE_LENGTH} characters`);
      }
    }
    if (pending.trim() !== '') yield parseLine(pending);
  } finally {
    if (!ended) await reader.cancel().then(undefined, () => undefined); // Already broken: nothing to cancel.
  }
}

/** What is needed of a ReadableStreamDefaultReader; hosts type the rest differently. */
interface PieceReader {
  read(): Promise<{ done: boolean; value?: Uint8Array | undefined }>;
}

async function readPiece(reader: PieceReader): Promise<{ done: boolean; value?: Uint8Array | undefined }> {
  try {
    return await reader.read();
  } catch (cause) {
    throw new KvtierError('IO_FAILED', 'Cannot read the stream: it broke before its end', { cause });
  }
}

function parseLine(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch (cause) {
    throw new KvtierError('IO_FAILED', `Cannot read a line of ${line.length} characters: it is not JSON`, { cause });
  }
}
