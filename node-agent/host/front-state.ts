/**
 * What the front and the agent know of each connection together: a mapped file with 256 bytes for each. docs/formats/front.md has it to the byte.
 *
 * The agent says `busy` before it takes the first byte of a command from the kernel, and `rest` when every reply has left. So whatever kills it, a
 * connection that says rest is at the boundary of a command, and another process may go on with it.
 */
import { closeSync, fchmodSync, fstatSync, ftruncateSync, openSync } from 'node:fs';
import { MAP_SHARED, PROT_READ, PROT_WRITE, asPointer, libc, viewOf } from './libc.ts';

const SLOT_BYTES = 256;
const HEADER_BYTES = 256;
const TEXT_OFFSET = 16;
const KEY_OFFSET = 32;
export const KEY_BYTES = 32;
export const STATE_TEXT_BYTES = SLOT_BYTES - TEXT_OFFSET;
const MAGIC = Uint8Array.of(0x6b, 0x76, 0x74, 0x69, 0x65, 0x72, 0x46, 0x0a);
export const FRONT_FORMAT = 1;
const FREE = 0;
const BUSY = 1;
const REST = 2;
const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** One connection as the agent's transport sees it. */
export interface FrontSlot {
  /** What was said of it at its last rest; '' for a new one. */
  readonly resumed: string;
  readonly isAtRest: boolean;
  /** Before a byte is taken. True where it was at rest. */
  begin(): boolean;
  /** Nothing was there to take. */
  restAgain(): void;
  rest(state: string): void;
  /** It is over, for the front too. */
  closed(): void;
}

export class FrontState {
  readonly slots: number;
  /** Random, the front's: what is kept of tokens is worth nothing elsewhere. */
  readonly key: Uint8Array;
  readonly #address: number;
  readonly #bytes: Uint8Array;
  readonly #words: Uint32Array;

  /** Throws where the file cannot be had, or is another format's. */
  static create(path: string, slots: number): FrontState {
    const fd = openSync(path, 'w+', 0o600);
    try {
      // A file of that name may have been there with another mode; what it held is gone.
      fchmodSync(fd, 0o600);
      ftruncateSync(fd, HEADER_BYTES + slots * SLOT_BYTES);
      const state = new FrontState(fd);
      state.#bytes.set(MAGIC);
      state.#words[2] = FRONT_FORMAT;
      state.#words[3] = slots;
      crypto.getRandomValues(state.#bytes.subarray(KEY_OFFSET, KEY_OFFSET + KEY_BYTES));
      return new FrontState(fd);
    } finally {
      closeSync(fd);
    }
  }

  static open(path: string): FrontState {
    const fd = openSync(path, 'r+');
    try {
      const state = new FrontState(fd);
      const isOne = MAGIC.every((byte, index) => state.#bytes[index] === byte) && state.#words[2] === FRONT_FORMAT;
      if (isOne && state.#bytes.length === HEADER_BYTES + state.slots * SLOT_BYTES) return state;
      state.close();
      throw new Error('it is of another kvtier');
    } finally {
      closeSync(fd);
    }
  }

  constructor(fd: number) {
    const sizeBytes = fstatSync(fd).size;
    this.#address = sizeBytes < HEADER_BYTES ? 0 : Number(libc.mmap(null, sizeBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    if (this.#address <= 0 || !Number.isSafeInteger(this.#address)) throw new Error('it cannot be mapped');
    this.#bytes = viewOf(this.#address, sizeBytes);
    this.#words = new Uint32Array(this.#bytes.buffer, 0, Math.floor(sizeBytes / 4));
    this.slots = this.#words[3] as number;
    this.key = this.#bytes.subarray(KEY_OFFSET, KEY_OFFSET + KEY_BYTES);
  }

  #word(slot: number): number {
    return (HEADER_BYTES + slot * SLOT_BYTES) / 4;
  }

  /** A new connection: at rest, with nothing to say. */
  occupy(slot: number): void {
    this.#words[this.#word(slot) + 1] = 0;
    Atomics.store(this.#words, this.#word(slot), REST);
  }

  free(slot: number): void {
    Atomics.store(this.#words, this.#word(slot), FREE);
  }

  isAtRest(slot: number): boolean {
    return Atomics.load(this.#words, this.#word(slot)) === REST;
  }

  setBusy(slot: number): void {
    Atomics.store(this.#words, this.#word(slot), BUSY);
  }

  /** As it was before `setBusy`. */
  setRest(slot: number): void {
    Atomics.store(this.#words, this.#word(slot), REST);
  }

  /** While busy. False where the text is too long: then the connection must not rest. */
  write(slot: number, text: string): boolean {
    const bytes = encoder.encode(text);
    if (bytes.length > STATE_TEXT_BYTES) return false;
    this.#words[this.#word(slot) + 1] = bytes.length;
    this.#bytes.set(bytes, HEADER_BYTES + slot * SLOT_BYTES + TEXT_OFFSET);
    return true;
  }

  read(slot: number): string {
    const length = Math.min(this.#words[this.#word(slot) + 1] as number, STATE_TEXT_BYTES);
    const start = HEADER_BYTES + slot * SLOT_BYTES + TEXT_OFFSET;
    return decoder.decode(this.#bytes.slice(start, start + length));
  }

  close(): void {
    libc.munmap(asPointer(this.#address), this.#bytes.length);
  }
}
