/**
 * Moves values between a door's socket and the memory of the cache: what came along with the command is copied, what is small moves at
 * once on the main thread as far as the socket goes without waiting, the rest goes to the I/O pool. One for each connection.
 *
 * It settles nothing: the ticket is the caller's to commit or abort, the handle its to release, in every outcome. The payload's memory
 * belongs to the transfer until the promise settles, never only until the socket closed.
 */
import type { PutTicket, ReadHandle } from '#cache/door.ts';
import type { Address } from '#core/brand.ts';
import { RunningChecksum } from '#core/checksum.ts';
import type { BlockHash } from '#core/checksum.ts';
import type { Clock } from '#core/clock.ts';
import type { SendJob, SocketIo } from '#ports/io-pool.ts';
import type { TransportSocket } from '#ports/transport.ts';

/**
 * Up to this much of a value is moved between socket and slot on the main thread, as far as the socket goes without waiting: a
 * hand-over to the pool and back costs about as much as copying 256 KiB, and 1 MiB takes 0.2 ms with its checksum.
 */
export const NOW_BYTES = 1024 * 1024;
/**
 * So much while one connection streams alone. The peer still copies into the socket when we begin, and each block is hashed while it copies
 * the next: 4 MiB take 0.8 ms, and a hand-over would come on top.
 */
const ALONE_NOW_BYTES = 4 * 1024 * 1024;
/** Each costs a microsecond and lets another thread have the processor, which may be the peer's; together less than a hand-over. */
const EMPTY_LOOKS = 32;
/**
 * A peer that is alone copies as fast as we do, so that every other look is empty: one for each so many bytes of the value, 1,024 for a
 * MiB, which take a millisecond. By the value's size, so that a peer that stops in each has to send a MiB for each millisecond that it takes.
 */
const ALONE_BYTES_PER_LOOK = 1024;
const ALONE_EMPTY_LOOKS = 1024;
/**
 * After so long the pool goes on, whatever the looks found: a peer that trickles makes no empty look, and where processors are few, a
 * thread that yields may get its own back milliseconds later.
 */
const NOW_MS = 4;
const NOTHING = new Uint8Array(0);

/** The parser of a door, in the middle of a value. */
export interface ValueSource {
  /** Bytes that were pushed and not parsed yet. */
  readonly unreadBytes: number;
  /** Bytes of the value that arrived already; empty where none is left. */
  takeBuffered(maxBytes: number): Uint8Array;
  valueReceivedElsewhere(byteCount: number): void;
}

export interface ReceivedValue {
  readonly checksum: bigint;
  /** What follows the value on the wire: all of it, or nothing where it has yet to come. */
  readonly tail: Uint8Array;
}

/** A value with what stands around it on the wire. */
export interface ValueFrame {
  readonly header: Uint8Array;
  readonly handle: ReadHandle;
  readonly trailer: Uint8Array;
}

/** What the connection tells and is told. */
export interface TransferOwner {
  /** The peer is gone: nothing more is moved. */
  readonly isGone: boolean;
  readonly stallMs: number;
  /** No other connection of the door streams values. */
  readonly streamsAlone?: boolean;
  /** A value must move at this rate on the whole, besides `stallMs`; 0 or none: a peer may take as long as it likes. */
  readonly minBytesPerSecond?: number;
  countReceived(bytes: number): void;
}

/** How values move: straight between socket and memory (below), or through the transport (relayed-transfer.ts). */
export interface Transfers {
  receive(ticket: PutTicket): ReceivedValue | Promise<ReceivedValue | undefined>;
  sendNow(frame: ValueFrame): number;
  send(frame: ValueFrame, sentBytes: number): Promise<boolean>;
}

/**
 * What the transfer of a value may take in all, ms: a peer that trickles a byte now and then never stalls, but would hold the value's
 * memory for ever.
 */
export function transferBudgetMs({ stallMs, minBytesPerSecond = 0 }: TransferOwner, sizeBytes: number): number {
  return minBytesPerSecond === 0 ? Number.POSITIVE_INFINITY : stallMs + (sizeBytes * 1000) / minBytesPerSecond;
}

export class ValueTransfer implements Transfers {
  readonly #socket: TransportSocket;
  readonly #sockets: SocketIo;
  readonly #hash: BlockHash;
  readonly #clock: Clock;
  readonly #owner: TransferOwner;
  readonly #source: ValueSource;
  /** Bytes that follow every value on the wire. */
  readonly #tailBytes: number;

  constructor(
    socket: TransportSocket,
    io: { readonly sockets: SocketIo; readonly hash: BlockHash; readonly clock: Clock },
    door: { readonly owner: TransferOwner; readonly source: ValueSource; readonly tailBytes: number },
  ) {
    this.#socket = socket;
    this.#sockets = io.sockets;
    this.#hash = io.hash;
    this.#clock = io.clock;
    this.#owner = door.owner;
    this.#source = door.source;
    this.#tailBytes = door.tailBytes;
  }

  /** Fills the ticket's memory. Undefined where the peer left or stalled; the socket is paused where it answers with a promise. */
  receive(ticket: PutTicket): ReceivedValue | Promise<ReceivedValue | undefined> {
    const { sizeBytes } = ticket;
    const memory = ticket.view();
    let placed = this.#placeBuffered(memory);
    const tail = this.#tailBytes === 0 ? NOTHING : new Uint8Array(this.#tailBytes);
    let tailBytes = 0;
    const isIdle = this.#sockets.activeCount === 0;
    const isAlone = isIdle && this.#owner.streamsAlone === true;
    // A larger value only where the pool is idle: else its threads do better than this one.
    const fits = sizeBytes - placed <= (isAlone ? ALONE_NOW_BYTES : NOW_BYTES);
    let budget = fits ? sizeBytes : isIdle ? NOW_BYTES : 0;
    // A peer that is sending fills the socket again while we copy; one that is not ends the loop after a few empty looks. What the pool
    // will fetch anyway is not looked for twice.
    const aloneLooks = Math.min(ALONE_EMPTY_LOOKS, Math.max(EMPTY_LOOKS, sizeBytes / ALONE_BYTES_PER_LOOK));
    const emptyLooks = !fits ? 1 : isAlone ? aloneLooks : EMPTY_LOOKS;
    const untilMs = this.#clock.monotonicMs() + NOW_MS;
    const sum = new RunningChecksum(sizeBytes, this.#hash, (offset, blockBytes) => memory.subarray(offset, offset + blockBytes));
    for (let looks = 0; looks < emptyLooks && budget > 0 && placed < sizeBytes && !this.#owner.isGone;) {
      const missing = sizeBytes - placed;
      const moved = this.#sockets.receiveNow({
        fd: this.#socket.fd,
        address: (ticket.address + placed) as Address,
        sizeBytes: Math.min(missing, budget),
        tail: missing <= budget ? tail : NOTHING,
      });
      // What failed fails again in the pool, which says so.
      if (typeof moved !== 'number') break;
      if (moved === 0) looks += 1;
      else {
        budget -= moved;
        this.#owner.countReceived(moved);
        this.#source.valueReceivedElsewhere(Math.min(moved, missing));
        placed += Math.min(moved, missing);
        tailBytes = Math.max(0, moved - missing);
        if (fits) sum.advance(placed);
      }
      if (this.#clock.monotonicMs() >= untilMs) break;
    }
    if (placed < sizeBytes || (tailBytes > 0 && tailBytes < tail.length)) {
      return this.#receiveRest(ticket, { placedBytes: placed, tail: tail.subarray(0, tailBytes) });
    }
    sum.advance(sizeBytes);
    return { checksum: sum.finish(), tail: tailBytes > 0 ? tail : NOTHING };
  }

  /** Copies what came with the command; answers how much that was. */
  #placeBuffered(memory: Uint8Array): number {
    const source = this.#source;
    let placed = 0;
    for (let bytes = source.takeBuffered(memory.length); bytes.length > 0; bytes = source.takeBuffered(memory.length - placed)) {
      memory.set(bytes, placed);
      placed += bytes.length;
    }
    return placed;
  }

  /** The pool fetches what is missing of the value and of what follows it, of which `tail` is there already. */
  async #receiveRest(
    ticket: PutTicket,
    have: { readonly placedBytes: number; readonly tail: Uint8Array },
  ): Promise<ReceivedValue | undefined> {
    const { placedBytes } = have;
    if (this.#owner.isGone) return undefined;
    this.#socket.pause();
    const outcome = await this.#sockets.receive({
      fd: this.#socket.fd,
      address: ticket.address,
      sizeBytes: ticket.sizeBytes,
      placedBytes,
      tailBytes: this.#tailBytes - have.tail.length,
      stallMs: this.#owner.stallMs,
      deadlineMs: transferBudgetMs(this.#owner, ticket.sizeBytes),
    });
    if (!outcome.ok || this.#owner.isGone) return undefined;
    this.#owner.countReceived(ticket.sizeBytes - placedBytes + outcome.tail.length);
    // The value may have been whole, and only half of what follows it was missing.
    if (placedBytes < ticket.sizeBytes) this.#source.valueReceivedElsewhere(ticket.sizeBytes - placedBytes);
    return { checksum: outcome.checksum, tail: this.#tailBytes === 0 ? NOTHING : Uint8Array.of(...have.tail, ...outcome.tail) };
  }

  /** Bytes of the frame that left at this moment, without waiting; requires that nothing else waits to be sent. */
  sendNow(frame: ValueFrame): number {
    const sent = this.#sockets.sendNow({ ...this.#job(frame), sentBytes: 0 });
    // What failed fails again in the pool, which says so.
    return typeof sent === 'number' ? sent : 0;
  }

  /** The pool sends what is left of the frame, with the socket paused. False where the peer left or stalled. */
  async send(frame: ValueFrame, sentBytes: number): Promise<boolean> {
    this.#socket.pause();
    const { stallMs } = this.#owner;
    const deadlineMs = transferBudgetMs(this.#owner, frame.handle.sizeBytes);
    const outcome = await this.#sockets.send({ ...this.#job(frame), sentBytes, stallMs, deadlineMs });
    return outcome.ok;
  }

  #job({ header, handle, trailer }: ValueFrame): Omit<SendJob, 'sentBytes' | 'stallMs'> {
    return { fd: this.#socket.fd, header, address: handle.address, sizeBytes: handle.sizeBytes, trailer };
  }
}
