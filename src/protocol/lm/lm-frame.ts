/**
 * The frames of LMCache's lm:// protocol: a request of 186 bytes, followed by a payload for PUT; a reply of 36 bytes, followed by a
 * payload for a GET that hits. docs/formats/wire-lm.md has the offset tables; `requestAt` and `replyAt` repeat them.
 *
 * All numbers are four-byte signed integers in the byte order of the client's machine, which is little-endian wherever LMCache runs.
 * Source: `ClientMetaMessage` and `ServerMetaMessage` of lmcache/v1/protocol.py; test/fixtures/lm-frames.json was written by them.
 */
import { assert } from '#core/assert.ts';
import type { LmBlock } from '#core/lm-block.ts';

export const LM_REQUEST_BYTES = 186;
export const LM_REPLY_BYTES = 36;
/** Room for a key in a request; shorter ones are padded with spaces. */
export const LM_KEY_BYTES = 150;

/** Numbers on the wire. */
export const LM_COMMANDS = { PUT: 1, GET: 2, EXIST: 3, LIST: 4, HEALTH: 5 } as const;
export type LmCommand = keyof typeof LM_COMMANDS;

export const LM_SUCCESS = 200;
export const LM_FAIL = 400;

/** fmt KV_2LTD, dtype float16, no extent: what LMCache's own server and client write where there is no object to describe. */
export const LM_NO_OBJECT: LmBlock = { fmt: 1, dtype: 2, shape: [0, 0, 0, 0] };

const SPACE = 0x20;

const requestAt = { command: 0, length: 4, fmt: 8, dtype: 12, location: 16, shape: 20, key: 36 } as const;
/** The location comes last here, and before the shape there. */
const replyAt = { code: 0, length: 4, fmt: 8, dtype: 12, shape: 16, location: 32 } as const;

export interface LmRequest {
  /** A number that `LM_COMMANDS` may not know. */
  readonly command: number;
  readonly length: number;
  readonly block: LmBlock;
  readonly location: number;
  /** Without its padding: a view of the request. */
  readonly key: Uint8Array;
  /**
   * False where the client may have cut the key: it counts letters and sends bytes, so that a key with other than ASCII letters which
   * fills the field may go on behind it, and then names more than one object.
   */
  readonly keyIsWhole: boolean;
}

export interface LmReply {
  readonly code: number;
  readonly length: number;
  readonly block: LmBlock;
  readonly location: number;
}

/** `bytes` are exactly LM_REQUEST_BYTES; every content is a request. The key is a view of them. */
export function decodeLmRequest(bytes: Uint8Array): LmRequest {
  assert(bytes.length === LM_REQUEST_BYTES, `An lm request has ${LM_REQUEST_BYTES} bytes, got ${bytes.length}`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, LM_REQUEST_BYTES);
  let end = LM_REQUEST_BYTES;
  while (end > requestAt.key && bytes[end - 1] === SPACE) end -= 1;
  const key = bytes.subarray(requestAt.key, end);
  return {
    command: view.getInt32(requestAt.command, true),
    length: view.getInt32(requestAt.length, true),
    block: readBlock(view, requestAt),
    location: view.getInt32(requestAt.location, true),
    key,
    keyIsWhole: key.length < LM_KEY_BYTES || key.every((byte) => byte < 0x80),
  };
}

/** What a client sends; `key` has at most LM_KEY_BYTES. */
export function encodeLmRequest(
  command: LmCommand | number,
  key: Uint8Array,
  options: { readonly length?: number; readonly block?: LmBlock; readonly location?: number } = {},
): Uint8Array<ArrayBuffer> {
  assert(key.length <= LM_KEY_BYTES, `The key of an lm request has at most ${LM_KEY_BYTES} bytes, got ${key.length}`);
  const bytes = new Uint8Array(LM_REQUEST_BYTES).fill(SPACE, requestAt.key);
  const view = new DataView(bytes.buffer);
  view.setInt32(requestAt.command, typeof command === 'number' ? command : LM_COMMANDS[command], true);
  view.setInt32(requestAt.length, options.length ?? 0, true);
  view.setInt32(requestAt.location, options.location ?? 0, true);
  writeBlock(view, requestAt, options.block ?? LM_NO_OBJECT);
  bytes.set(key, requestAt.key);
  return bytes;
}

/** A reply; with `length` for an object whose payload follows. Always whole: the client reads it with one recv. */
export function encodeLmReply(code: number, length = 0, block: LmBlock = LM_NO_OBJECT): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(LM_REPLY_BYTES);
  const view = new DataView(bytes.buffer);
  view.setInt32(replyAt.code, code, true);
  view.setInt32(replyAt.length, length, true);
  writeBlock(view, replyAt, block);
  return bytes;
}

/** `bytes` are exactly LM_REPLY_BYTES. */
export function decodeLmReply(bytes: Uint8Array): LmReply {
  assert(bytes.length === LM_REPLY_BYTES, `An lm reply has ${LM_REPLY_BYTES} bytes, got ${bytes.length}`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, LM_REPLY_BYTES);
  return {
    code: view.getInt32(replyAt.code, true),
    length: view.getInt32(replyAt.length, true),
    block: readBlock(view, replyAt),
    location: view.getInt32(replyAt.location, true),
  };
}

/** Yes, healthy. */
export const LM_YES: Uint8Array = encodeLmReply(LM_SUCCESS);
/** No, a miss, not supported. */
export const LM_NO: Uint8Array = encodeLmReply(LM_FAIL);

type BlockPlace = { readonly fmt: number; readonly dtype: number; readonly shape: number };

function readBlock(view: DataView, at: BlockPlace): LmBlock {
  const extent = (index: number): number => view.getInt32(at.shape + index * 4, true);
  return {
    fmt: view.getInt32(at.fmt, true),
    dtype: view.getInt32(at.dtype, true),
    shape: [extent(0), extent(1), extent(2), extent(3)],
  };
}

function writeBlock(view: DataView, at: BlockPlace, block: LmBlock): void {
  view.setInt32(at.fmt, block.fmt, true);
  view.setInt32(at.dtype, block.dtype, true);
  for (const [index, extent] of block.shape.entries()) view.setInt32(at.shape + index * 4, extent, true);
}
