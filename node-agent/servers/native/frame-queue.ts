/**
 * Frames on their way to one client, in order, some with a descriptor.
 *
 * Invariants: frames leave in the order in which they were sent, each whole; a descriptor leaves with the first byte of its frame; while
 * something waits for the kernel, the client has `stallMs` to take some of it, and is given up then.
 */
import type { Fd } from '#core/brand.ts';
import type { Clock } from '#core/clock.ts';
import type { LocalSocket } from '#ports/local-door.ts';
import { Outbox } from '#servers/outbox.ts';

/** The transport does not tell when there is room for a frame with a descriptor. Such frames are few. */
const RETRY_MS = 2;
export const NO_DESCRIPTOR = -1 as Fd;

interface Waiting {
  readonly frame: Uint8Array;
  readonly fd: Fd;
}

export class FrameQueue {
  readonly #socket: LocalSocket;
  readonly #clock: Clock;
  readonly #stallMs: number;
  readonly #onStall: () => void;
  readonly #outbox: Outbox;
  #waiting: Waiting[] = [];
  #waiters: (() => void)[] = [];
  #cancelRetry: (() => void) | undefined;
  #cancelStall: (() => void) | undefined;
  #gone = false;

  constructor(socket: LocalSocket, options: { readonly clock: Clock; readonly stallMs: number; readonly onStall: () => void }) {
    this.#socket = socket;
    this.#clock = options.clock;
    this.#stallMs = options.stallMs;
    this.#onStall = options.onStall;
    // Nobody waits for the outbox itself, so that its own stall never begins.
    this.#outbox = new Outbox(socket, { clock: options.clock, stallMs: options.stallMs, onSent: () => {} }, () => {});
  }

  /** The kernel has yet to take something. */
  get isBlocked(): boolean {
    return this.#outbox.isBlocked || this.#waiting.length > 0;
  }

  /** Frames that have not begun to leave. */
  get length(): number {
    return this.#waiting.length;
  }

  /** `frame` is the queue's from now on. */
  send(frame: Uint8Array, fd: Fd = NO_DESCRIPTOR): void {
    if (this.#gone) return;
    this.#waiting.push({ frame, fd });
    if (this.#waiting.length === 1) this.#pump();
  }

  onDrain(): void {
    this.#outbox.onDrain();
    this.#pump();
  }

  #pump(): void {
    const before = this.#waiting.length;
    while (!this.#gone && !this.#outbox.isBlocked && this.#cancelRetry === undefined) {
      const next = this.#waiting[0];
      if (next === undefined) break;
      if (!this.#write(next)) {
        this.#retryLater();
        break;
      }
      this.#waiting.shift();
    }
    this.#watchStall(before > this.#waiting.length);
    if (!this.isBlocked) this.#wake();
  }

  /** False where the kernel has no room for a frame with a descriptor. */
  #write({ frame, fd }: Waiting): boolean {
    if (fd < 0) {
      this.#outbox.write(frame);
      return true;
    }
    const sent = this.#socket.writeWithDescriptor(frame, fd);
    if (sent < 0) return false;
    if (sent < frame.length) this.#outbox.write(frame.subarray(sent));
    return true;
  }

  #retryLater(): void {
    this.#cancelRetry = this.#clock.schedule(RETRY_MS, () => {
      this.#cancelRetry = undefined;
      this.#pump();
    });
  }

  /** The time begins anew with each bit of progress. */
  #watchStall(hasMoved: boolean): void {
    if (this.#cancelStall !== undefined && this.isBlocked && !hasMoved) return;
    this.#cancelStall?.();
    this.#cancelStall = this.isBlocked && !this.#gone ? this.#clock.schedule(this.#stallMs, this.#onStall) : undefined;
  }

  /** Resolves when the kernel has taken everything, or the client is gone. */
  drained(): Promise<void> {
    if (!this.isBlocked || this.#gone) return Promise.resolve();
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiters.push(resolve);
    return promise;
  }

  #wake(): void {
    for (const wake of this.#waiters.splice(0)) wake();
  }

  /** The client is gone: nothing is sent any more. */
  close(): void {
    if (this.#gone) return;
    this.#gone = true;
    this.#waiting = [];
    this.#cancelRetry?.();
    this.#cancelStall?.();
    this.#outbox.onClose();
    this.#wake();
  }
}
