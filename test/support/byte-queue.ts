/** Bytes first in, first out, in one growing buffer: the kernel's side of a simulated socket. */
export class ByteQueue {
  #bytes = new Uint8Array(1024);
  #start = 0;
  #end = 0;

  get length(): number {
    return this.#end - this.#start;
  }

  push(bytes: Uint8Array): void {
    if (this.#end + bytes.length > this.#bytes.length) this.#grow(bytes.length);
    this.#bytes.set(bytes, this.#end);
    this.#end += bytes.length;
  }

  #grow(extra: number): void {
    const live = this.#bytes.subarray(this.#start, this.#end);
    let capacity = this.#bytes.length;
    while (capacity < live.length + extra) capacity *= 2;
    const grown = capacity === this.#bytes.length ? this.#bytes : new Uint8Array(capacity);
    if (grown === this.#bytes) grown.copyWithin(0, this.#start, this.#end);
    else grown.set(live);
    this.#bytes = grown;
    this.#end = live.length;
    this.#start = 0;
  }

  /** The first `count` bytes, where they are: valid until the next call. */
  peek(count = this.length): Uint8Array {
    return this.#bytes.subarray(this.#start, this.#start + Math.min(count, this.length));
  }

  drop(count: number): void {
    this.#start += Math.min(count, this.length);
    if (this.#start === this.#end) this.#start = this.#end = 0;
  }

  /** A copy of the first `count` bytes, which leave. */
  take(count: number): Uint8Array {
    const taken = this.peek(count).slice();
    this.drop(taken.length);
    return taken;
  }

  clear(): void {
    this.#start = this.#end = 0;
  }
}
