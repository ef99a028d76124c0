/**
 * What the main thread and the thread of the journal share: a few numbers and a piece of data.
 *
 * Invariant: it belongs to the thread while `asked` and `answered` differ, to the main thread while they are equal.
 */
export const JOURNAL_OPS = { open: 1, create: 2, write: 3, truncate: 4, discard: 5, replace: 6, end: 7 } as const;
export type JournalOp = (typeof JOURNAL_OPS)[keyof typeof JOURNAL_OPS];

/**
 * Bytes of one write. More than is ever appended at once (1000 keys of 2 KiB), so that a kill does not fall between two halves of a record;
 * what a compaction writes goes in pieces.
 */
export const PIECE_BYTES = 3 * 1024 * 1024;
const HEAD_BYTES = 64;

/** Numbers at `control[asked]` and so on. `sizes[0]`: a size in bytes, either way. */
export interface JournalChannel {
  readonly control: Int32Array;
  readonly sizes: Float64Array;
  readonly data: Uint8Array;
  readonly asked: 0;
  readonly answered: 1;
  readonly op: 2;
  readonly fd: 3;
  readonly length: 4;
  readonly errno: 5;
}

export function makeChannelMemory(): SharedArrayBuffer {
  return new SharedArrayBuffer(HEAD_BYTES + PIECE_BYTES);
}

export function openChannel(memory: SharedArrayBuffer): JournalChannel {
  return {
    control: new Int32Array(memory, 0, 8),
    sizes: new Float64Array(memory, 32, 1),
    data: new Uint8Array(memory, HEAD_BYTES),
    asked: 0,
    answered: 1,
    op: 2,
    fd: 3,
    length: 4,
    errno: 5,
  };
}
