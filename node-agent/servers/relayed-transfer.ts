/**
 * ValueTransfer where the bytes of the connection are not those of its socket: under TLS the transport alone can read and write them, so
 * that values pass the main thread. A value that comes in is copied from each chunk into its slot, one that goes out is written in
 * pieces, and neither is buffered: what the peer does not take is waited for.
 *
 * Invariants: the socket is read only while a value is filled or the connection parses; a ticket's memory is written on the main thread
 * alone, hence never after `receive` has settled; one value moves in each direction at a time.
 */
import type { PutTicket } from '#cache/door.ts';
import { assert } from '#core/assert.ts';
import { RunningChecksum } from '#core/checksum.ts';
import type { BlockHash } from '#core/checksum.ts';
import type { Clock } from '#core/clock.ts';
import type { TransportSocket } from '#ports/transport.ts';
import type { Outbox } from './outbox.ts';
import { transferBudgetMs } from './value-transfer.ts';
import type { ReceivedValue, TransferOwner, Transfers, ValueFrame, ValueSource } from './value-transfer.ts';

/** Written at one time; what the kernel does not take of it is copied by the outbox. */
const PIECE_BYTES = 128 * 1024;
/** Encrypted before others get a turn: about a millisecond. */
const TURN_BYTES = 1024 * 1024;
const NOTHING = new Uint8Array(0);

export interface RelayedSource extends ValueSource {
  /** Copies what is left unread: the transport's memory is its own again. */
  retain(): void;
}

interface Filling {
  readonly ticket: PutTicket;
  readonly memory: Uint8Array;
  placedBytes: number;
  readonly sum: RunningChecksum;
  lastAtMs: number;
  readonly deadlineAtMs: number;
  settle: (value: ReceivedValue | undefined) => void;
  cancel: () => void;
}

export class RelayedTransfer implements Transfers {
  readonly #socket: TransportSocket;
  readonly #outbox: Outbox;
  readonly #hash: BlockHash;
  readonly #clock: Clock;
  readonly #owner: TransferOwner;
  readonly #source: RelayedSource;
  #filling: Filling | undefined;

  constructor(
    socket: TransportSocket,
    io: { readonly outbox: Outbox; readonly hash: BlockHash; readonly clock: Clock },
    door: { readonly owner: TransferOwner; readonly source: RelayedSource },
  ) {
    this.#socket = socket;
    this.#outbox = io.outbox;
    this.#hash = io.hash;
    this.#clock = io.clock;
    this.#owner = door.owner;
    this.#source = door.source;
  }

  receive(ticket: PutTicket): ReceivedValue | Promise<ReceivedValue | undefined> {
    assert(this.#filling === undefined, 'one value is filled at a time');
    const nowMs = this.#clock.monotonicMs();
    const memory = ticket.view();
    const filling: Filling = {
      ticket,
      memory,
      placedBytes: 0,
      sum: new RunningChecksum(ticket.sizeBytes, this.#hash, (offset, bytes) => memory.subarray(offset, offset + bytes)),
      lastAtMs: nowMs,
      deadlineAtMs: nowMs + transferBudgetMs(this.#owner, ticket.sizeBytes),
      settle: () => {},
      cancel: () => {},
    };
    if (this.#take(filling)) return { checksum: filling.sum.finish(), tail: NOTHING };
    if (this.#owner.isGone) return Promise.resolve(undefined);
    this.#filling = filling;
    return new Promise((resolve) => {
      filling.settle = resolve;
      this.#watch(filling);
      // The connection pauses its socket when it is told to wait; this wait is for the socket.
      queueMicrotask(() => {
        if (this.#filling === filling) this.#socket.resume();
      });
    });
  }

  /** Bytes were pushed into the source while a value is filled. */
  onArrival(): void {
    const filling = this.#filling;
    if (filling === undefined) return;
    filling.lastAtMs = this.#clock.monotonicMs();
    if (!this.#take(filling)) return;
    this.#socket.pause();
    this.#source.retain();
    this.#end({ checksum: filling.sum.finish(), tail: NOTHING });
  }

  onClose(): void {
    this.#end(undefined);
  }

  #end(value: ReceivedValue | undefined): void {
    const filling = this.#filling;
    if (filling === undefined) return;
    this.#filling = undefined;
    filling.cancel();
    filling.settle(value);
  }

  /** True where the value is whole. Blocks are hashed as they fill, so that none is left to do at the end. */
  #take(filling: Filling): boolean {
    const { memory, ticket } = filling;
    for (let missing = ticket.sizeBytes - filling.placedBytes; missing > 0; missing = ticket.sizeBytes - filling.placedBytes) {
      const bytes = this.#source.takeBuffered(missing);
      if (bytes.length === 0) return false;
      memory.set(bytes, filling.placedBytes);
      filling.placedBytes += bytes.length;
      filling.sum.advance(filling.placedBytes);
    }
    return true;
  }

  /** Gives up on a peer that is quiet for `stallMs` or slower on the whole than it may be. */
  #watch(filling: Filling): void {
    const dueAtMs = Math.min(filling.lastAtMs + this.#owner.stallMs, filling.deadlineAtMs);
    filling.cancel = this.#clock.schedule(Math.max(1, dueAtMs - this.#clock.monotonicMs()), () => {
      const nowMs = this.#clock.monotonicMs();
      if (nowMs >= filling.deadlineAtMs || nowMs - filling.lastAtMs >= this.#owner.stallMs) this.#end(undefined);
      else this.#watch(filling);
    });
  }

  /** Nothing leaves at once: what is encrypted has to be written by the transport. */
  sendNow(): number {
    return 0;
  }

  async send({ header, handle, trailer }: ValueFrame, sentBytes: number): Promise<boolean> {
    assert(sentBytes === 0, 'nothing of a relayed frame has left before');
    const deadlineAtMs = this.#clock.monotonicMs() + transferBudgetMs(this.#owner, handle.sizeBytes);
    const memory = handle.view();
    this.#outbox.write(header);
    for (let offset = 0; offset < memory.length; offset += PIECE_BYTES) {
      await this.#outbox.drained();
      if (offset > 0 && offset % TURN_BYTES === 0) await this.#turn();
      if (this.#owner.isGone || this.#clock.monotonicMs() > deadlineAtMs) return false;
      this.#outbox.write(memory.subarray(offset, offset + PIECE_BYTES));
    }
    await this.#outbox.drained();
    if (this.#owner.isGone) return false;
    this.#outbox.write(trailer);
    await this.#outbox.drained();
    return !this.#owner.isGone;
  }

  #turn(): Promise<void> {
    return new Promise((resolve) => void this.#clock.schedule(0, resolve));
  }
}
