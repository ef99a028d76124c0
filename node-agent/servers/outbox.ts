/**
 * What a connection writes and the kernel does not take at once: nothing is buffered without bound, and a peer that does not read for
 * `stallMs` is given up.
 *
 * Invariants: bytes leave in the order in which they were written; while something waits nothing else is written; whoever waits for
 * the end of it is woken when all has left or the peer is gone.
 */
import { assert } from '#core/assert.ts';
import type { Clock } from '#core/clock.ts';
import type { TransportSocket } from '#ports/transport.ts';

export class Outbox {
  readonly #socket: TransportSocket;
  readonly #options: { readonly clock: Clock; readonly stallMs: number; readonly onSent: (bytes: number) => void };
  readonly #onStall: () => void;
  #unsent: Uint8Array | undefined;
  #waiters: (() => void)[] = [];
  #gone = false;

  constructor(
    socket: TransportSocket,
    options: { readonly clock: Clock; readonly stallMs: number; readonly onSent: (bytes: number) => void },
    onStall: () => void,
  ) {
    this.#socket = socket;
    this.#options = options;
    this.#onStall = onStall;
  }

  /** The kernel has yet to take something. */
  get isBlocked(): boolean {
    return this.#unsent !== undefined;
  }

  /** Requires: not blocked. `bytes` may be reused when it returns. */
  write(bytes: Uint8Array): void {
    assert(this.#unsent === undefined, 'nothing is written past what waits');
    this.#write(bytes);
    // What the kernel refused must survive the next reply.
    if (this.#unsent !== undefined) this.#unsent = Uint8Array.from(this.#unsent as Uint8Array);
  }

  #write(bytes: Uint8Array): void {
    if (this.#gone) return;
    const written = this.#socket.write(bytes);
    this.#options.onSent(written);
    this.#unsent = written < bytes.length ? bytes.subarray(written) : undefined;
  }

  onDrain(): void {
    if (this.#unsent === undefined) return;
    this.#write(this.#unsent);
    if (this.#unsent === undefined) this.#wake();
  }

  onClose(): void {
    this.#gone = true;
    this.#unsent = undefined;
    this.#wake();
  }

  #wake(): void {
    for (const wake of this.#waiters.splice(0)) wake();
  }

  /** Resolves when the kernel has taken everything, or the peer is gone. */
  async drained(): Promise<void> {
    while (this.#unsent !== undefined) {
      const { promise, resolve } = Promise.withResolvers<void>();
      const giveUp = this.#options.clock.schedule(this.#options.stallMs, this.#onStall);
      this.#waiters.push(resolve);
      await promise;
      giveUp();
    }
  }
}
