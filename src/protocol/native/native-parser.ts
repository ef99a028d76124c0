/**
 * Cuts a stream into the frames of the native door, however it arrives. Buffers at most one frame; a frame that says it is longer than
 * allowed ends the stream before anything is kept of it.
 */
import { FRAME_HEADER_BYTES } from './native-schema.ts';

export interface NativeFrame {
  readonly op: number;
  readonly status: number;
  readonly tag: number;
  /** Valid until the next call of `push` or `next`. */
  readonly body: Uint8Array;
}

export type NativeEvent = NativeFrame | { readonly problem: string };

const nothing = new Uint8Array(0);

export class NativeParser {
  readonly #maxFrameBytes: number;
  #pending: Uint8Array = nothing;
  /** Where `#pending` is of our own making and has room behind its end. */
  #owned: Uint8Array = nothing;
  #broken = false;

  /** `maxFrameBytes`: of a body. */
  constructor(maxFrameBytes: number) {
    this.#maxFrameBytes = maxFrameBytes;
  }

  /** Bytes of a frame that is not whole. */
  get pendingBytes(): number {
    return this.#pending.length;
  }

  /** `chunk` must stay as it is until `next` has answered undefined, or `retain` was called. */
  push(chunk: Uint8Array): void {
    if (this.#broken || chunk.length === 0) return;
    if (this.#pending.length === 0) {
      this.#pending = chunk;
      return;
    }
    this.#append(chunk);
  }

  #append(chunk: Uint8Array): void {
    const length = this.#pending.length + chunk.length;
    const isOwned = this.#pending.length > 0 && this.#pending.buffer === this.#owned.buffer;
    const end = isOwned ? this.#pending.byteOffset + this.#pending.length : 0;
    if (isOwned && end + chunk.length <= this.#owned.length) {
      this.#owned.set(chunk, end);
      this.#pending = this.#owned.subarray(this.#pending.byteOffset, end + chunk.length);
      return;
    }
    const wanted = this.#wantedBytes() ?? length;
    const grown = new Uint8Array(Math.max(length, Math.min(wanted, 2 * length), 256));
    grown.set(this.#pending);
    grown.set(chunk, this.#pending.length);
    this.#owned = grown;
    this.#pending = grown.subarray(0, length);
  }

  /** Of the frame at hand, where its header is there. */
  #wantedBytes(): number | undefined {
    if (this.#pending.length < 4) return undefined;
    const view = new DataView(this.#pending.buffer, this.#pending.byteOffset, 4);
    return FRAME_HEADER_BYTES + Math.min(view.getUint32(0, true), this.#maxFrameBytes);
  }

  /** What was pushed may change from now on. */
  retain(): void {
    if (this.#pending.length === 0) {
      this.#pending = nothing;
      this.#owned = nothing;
    } else if (this.#pending.buffer !== this.#owned.buffer) {
      const kept = this.#pending;
      this.#pending = nothing;
      this.#owned = new Uint8Array(Math.max(256, kept.length));
      this.#owned.set(kept);
      this.#pending = this.#owned.subarray(0, kept.length);
    }
  }

  /** The next whole frame, or what is wrong, once; undefined where more bytes are needed. */
  next(): NativeEvent | undefined {
    const bytes = this.#pending;
    if (this.#broken || bytes.length < 4) return undefined;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const bodyBytes = view.getUint32(0, true);
    if (bodyBytes > this.#maxFrameBytes) {
      return this.#break(`a frame of ${bodyBytes} bytes, at most ${this.#maxFrameBytes} are allowed`);
    }
    if (bytes.length < FRAME_HEADER_BYTES + bodyBytes) return undefined;
    const tag = view.getUint32(8, true) + view.getUint32(12, true) * 2 ** 32;
    if (tag > Number.MAX_SAFE_INTEGER) return this.#break('a tag beyond 2^53');
    const end = FRAME_HEADER_BYTES + bodyBytes;
    this.#pending = bytes.subarray(end);
    return { op: view.getUint16(4, true), status: view.getUint16(6, true), tag, body: bytes.subarray(FRAME_HEADER_BYTES, end) };
  }

  #break(problem: string): NativeEvent {
    this.#broken = true;
    this.#pending = nothing;
    this.#owned = nothing;
    return { problem };
  }
}
