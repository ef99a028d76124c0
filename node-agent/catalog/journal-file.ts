/**
 * The journal as one run of bytes: a head of 32 bytes, then framed records. Pure; docs/formats/journal.md has the offsets.
 *
 * Each checksum is seeded with the one before, so that a record cannot be moved, repeated or spliced in from another journal.
 * A record that fits a page never straddles two: pad records and zero filler see to that. A kernel copies a write into the page
 * cache page by page and may stop between two of them when the process is killed, so a kill leaves whole records, and a torn one
 * means that more than a process was lost.
 */
import { assert } from '#core/assert.ts';
import type { BlockHash } from '#core/checksum.ts';
import { MAX_EPOCH } from '#core/epoch.ts';
import { MalformedBytes } from './journal-bytes.ts';
import {
  decodeBody,
  encodeBody,
  MAX_RECORD_BYTES,
  PAD_TYPE,
  RECORD_FRAME_BYTES,
  RECORD_HEAD_BYTES,
  RECORD_VERSION,
  recordType,
} from './journal-record.ts';
import type { JournalRecord } from './journal-record.ts';

export const JOURNAL_HEAD_BYTES = 32;
export const JOURNAL_FORMAT_VERSION = 1;
/** `kvtierJ` and a line feed: text tools that rewrite line ends destroy it visibly. */
const MAGIC = new Uint8Array([0x6b, 0x76, 0x74, 0x69, 0x65, 0x72, 0x4a, 0x0a]);
const PAGE_BYTES = 4096;

/** A record with its place in the life of the data directory. */
export interface JournalEntry {
  readonly sequence: number;
  readonly record: JournalRecord;
}

/** Where the next record goes: what a writer needs to know of everything before. */
export interface JournalTail {
  /** Size of the file so far. */
  readonly sizeBytes: number;
  /** Sequence number of the last record; the one before the first where there is none yet. */
  readonly sequence: number;
  /** Checksum of the last record, or of the head. */
  readonly checksum: bigint;
}

export interface JournalScan {
  /** The good records before `problem`, all of them where it is undefined. */
  readonly entries: readonly JournalEntry[];
  readonly tail: JournalTail;
  /** What is wrong with the file, in words; undefined for a sound one. */
  readonly problem: string | undefined;
}

/** The head of a journal whose first record gets the number `sequence + 1`. */
export function encodeHead(sequence: number, hash: BlockHash): { readonly bytes: Uint8Array; readonly tail: JournalTail } {
  assert(Number.isSafeInteger(sequence) && sequence >= 0, `Cannot begin a journal after sequence ${sequence}`);
  const bytes = new Uint8Array(JOURNAL_HEAD_BYTES);
  const view = new DataView(bytes.buffer);
  bytes.set(MAGIC);
  view.setUint32(8, JOURNAL_FORMAT_VERSION, true);
  view.setUint32(12, JOURNAL_HEAD_BYTES, true);
  view.setBigUint64(16, BigInt(sequence), true);
  const checksum = BigInt.asUintN(64, hash(bytes.subarray(0, 24), 0n));
  view.setBigUint64(24, checksum, true);
  return { bytes, tail: { sizeBytes: JOURNAL_HEAD_BYTES, sequence, checksum } };
}

/** The bytes that follow `tail` for these records, in one piece, and the tail behind them. */
export function encodeRecords(
  records: readonly JournalRecord[],
  tail: JournalTail,
  hash: BlockHash,
): { readonly bytes: Uint8Array; readonly tail: JournalTail } {
  const pieces: Uint8Array[] = [];
  let next = tail;
  const add = (type: number, body: Uint8Array): void => {
    const sequence = next.sequence + 1;
    const piece = encodeFrame({ type, body, sequence, seed: next.checksum }, hash);
    const checksum = new DataView(piece.buffer).getBigUint64(piece.length - 8, true);
    pieces.push(piece);
    next = { sizeBytes: next.sizeBytes + piece.length, sequence, checksum };
  };
  for (const record of records) {
    const body = encodeBody(record);
    const sizeBytes = body.length + RECORD_FRAME_BYTES;
    const roomBytes = roomInPage(next.sizeBytes);
    if (sizeBytes <= PAGE_BYTES && sizeBytes > roomBytes) {
      if (roomBytes >= RECORD_FRAME_BYTES) add(PAD_TYPE, new Uint8Array(roomBytes - RECORD_FRAME_BYTES));
      else next = fill(next, roomBytes, pieces);
    } else if (roomBytes < RECORD_FRAME_BYTES) next = fill(next, roomBytes, pieces);
    add(recordType(record.kind), body);
  }
  return { bytes: join(pieces, next.sizeBytes - tail.sizeBytes), tail: next };
}

/** Reads a whole file. Never throws for what is in it. */
export function scanJournal(file: Uint8Array, hash: BlockHash): JournalScan {
  const entries: JournalEntry[] = [];
  let tail: JournalTail = { sizeBytes: 0, sequence: 0, checksum: 0n };
  try {
    tail = readHead(file, hash);
    while (tail.sizeBytes < file.length) {
      const roomBytes = roomInPage(tail.sizeBytes);
      if (roomBytes < RECORD_FRAME_BYTES) tail = skipFiller(file, tail, roomBytes);
      const frame = readFrame(file, tail, hash);
      if (frame.record?.kind === 'start' && frame.record.epoch > MAX_EPOCH)
        throw new MalformedBytes(`epoch ${frame.record.epoch} leaves no generations`);
      if (frame.record !== undefined) entries.push({ sequence: frame.tail.sequence, record: frame.record });
      tail = frame.tail;
    }
  } catch (error) {
    if (!(error instanceof MalformedBytes)) throw error;
    return { entries, tail, problem: `At byte ${tail.sizeBytes}: ${error.message}` };
  }
  return { entries, tail, problem: undefined };
}

/** Bytes left in the page that holds `offset`, 1 to 4096. */
function roomInPage(offset: number): number {
  return PAGE_BYTES - (offset % PAGE_BYTES);
}

function fill(tail: JournalTail, fillerBytes: number, pieces: Uint8Array[]): JournalTail {
  pieces.push(new Uint8Array(fillerBytes));
  return { ...tail, sizeBytes: tail.sizeBytes + fillerBytes };
}

function encodeFrame(frame: { type: number; body: Uint8Array; sequence: number; seed: bigint }, hash: BlockHash): Uint8Array<ArrayBuffer> {
  const { body } = frame;
  const sizeBytes = body.length + RECORD_FRAME_BYTES;
  assert(sizeBytes <= MAX_RECORD_BYTES, `Cannot journal a record of ${sizeBytes} bytes: ${MAX_RECORD_BYTES} at most`);
  const bytes = new Uint8Array(sizeBytes);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, body.length, true);
  view.setUint16(4, frame.type, true);
  view.setUint16(6, RECORD_VERSION, true);
  view.setBigUint64(8, BigInt(frame.sequence), true);
  bytes.set(body, RECORD_HEAD_BYTES);
  view.setBigUint64(sizeBytes - 8, BigInt.asUintN(64, hash(bytes.subarray(0, sizeBytes - 8), frame.seed)), true);
  return bytes;
}

function readHead(file: Uint8Array, hash: BlockHash): JournalTail {
  if (file.length < JOURNAL_HEAD_BYTES)
    throw new MalformedBytes(`the file has ${file.length} bytes, its head alone has ${JOURNAL_HEAD_BYTES}`);
  if (MAGIC.some((byte, index) => file[index] !== byte)) throw new MalformedBytes('the magic is not that of a kvtier journal');
  const view = new DataView(file.buffer, file.byteOffset, JOURNAL_HEAD_BYTES);
  const checksum = view.getBigUint64(24, true);
  if (BigInt.asUintN(64, hash(file.subarray(0, 24), 0n)) !== checksum) throw new MalformedBytes('the checksum of the head is wrong');
  const version = view.getUint32(8, true);
  if (version !== JOURNAL_FORMAT_VERSION) throw new MalformedBytes(`format version ${version} is unknown`);
  if (view.getUint32(12, true) !== JOURNAL_HEAD_BYTES) throw new MalformedBytes('the size of the head is wrong');
  const sequence = view.getBigUint64(16, true);
  if (sequence >= BigInt(Number.MAX_SAFE_INTEGER)) throw new MalformedBytes('the first sequence number is beyond 2^53');
  return { sizeBytes: JOURNAL_HEAD_BYTES, sequence: Number(sequence), checksum };
}

/** Filler is only ever written in front of a record, in the same write, and ends at a page: a file that ends inside it was cut. */
function skipFiller(file: Uint8Array, tail: JournalTail, fillerBytes: number): JournalTail {
  const sizeBytes = tail.sizeBytes + fillerBytes;
  if (file.length < sizeBytes) throw new MalformedBytes('the file ends in filler');
  if (file.subarray(tail.sizeBytes, sizeBytes).some((byte) => byte !== 0)) throw new MalformedBytes('filler is not zero');
  return { ...tail, sizeBytes };
}

function readFrame(
  file: Uint8Array,
  tail: JournalTail,
  hash: BlockHash,
): { readonly record: JournalRecord | undefined; readonly tail: JournalTail } {
  const at = tail.sizeBytes;
  const leftBytes = file.length - at;
  // A kill between filler and record leaves the filler alone; it fills the page to its end and nothing was acknowledged.
  if (leftBytes === 0) return { record: undefined, tail };
  if (leftBytes < RECORD_FRAME_BYTES)
    throw new MalformedBytes(`a record has ${leftBytes} bytes, its frame alone has ${RECORD_FRAME_BYTES}`);
  const view = new DataView(file.buffer, file.byteOffset + at, leftBytes);
  const bodyBytes = view.getUint32(0, true);
  const sizeBytes = bodyBytes + RECORD_FRAME_BYTES;
  if (sizeBytes > MAX_RECORD_BYTES) throw new MalformedBytes(`a record announces ${sizeBytes} bytes, ${MAX_RECORD_BYTES} at most`);
  if (sizeBytes > leftBytes) throw new MalformedBytes(`a record announces ${sizeBytes} bytes, ${leftBytes} are left`);
  const checksum = view.getBigUint64(sizeBytes - 8, true);
  const computed = BigInt.asUintN(64, hash(file.subarray(at, at + sizeBytes - 8), tail.checksum));
  if (computed !== checksum) throw new MalformedBytes('the checksum of a record is wrong');
  const sequence = Number(view.getBigUint64(8, true));
  if (sequence !== tail.sequence + 1) throw new MalformedBytes(`sequence ${sequence} follows ${tail.sequence}`);
  const body = file.subarray(at + RECORD_HEAD_BYTES, at + sizeBytes - 8);
  const next = { sizeBytes: at + sizeBytes, sequence, checksum };
  return { record: readBody(view.getUint16(4, true), view.getUint16(6, true), body), tail: next };
}

function readBody(type: number, version: number, body: Uint8Array): JournalRecord | undefined {
  if (type !== PAD_TYPE) return decodeBody(type, version, body);
  if (version !== RECORD_VERSION || body.some((byte) => byte !== 0)) throw new MalformedBytes('a pad record is not empty');
  return undefined;
}

function join(pieces: readonly Uint8Array[], sizeBytes: number): Uint8Array {
  const only = pieces[0];
  if (pieces.length === 1 && only !== undefined) return only;
  const bytes = new Uint8Array(sizeBytes);
  let at = 0;
  for (const piece of pieces) {
    bytes.set(piece, at);
    at += piece.length;
  }
  return bytes;
}
