/** TCP as the doors see it: bytes in, bytes out, back-pressure. Payloads that bypass it go through SocketIo with `fd`. */
import type { Fd } from '#core/brand.ts';

export interface TransportSocket {
  /** -1 once the socket is closed. Never hand it to another thread: SocketIo makes its own duplicate. */
  readonly fd: Fd;
  /**
   * True where the bytes on the wire are those of the connection, so that SocketIo may move them by `fd`. False under TLS: all goes
   * through `write` and `onData`, and `sip` does nothing.
   */
  readonly direct: boolean;
  readonly remoteAddress: string;
  /** Bytes that the kernel took; the rest must be written again after `onDrain`. Nothing is buffered. */
  write(bytes: Uint8Array): number;
  /** Stops reading at once; no onData until `resume`. */
  pause(): void;
  resume(): void;
  /**
   * From now on at most that many bytes in one onData, which may then come some 20 us later: for a peer whose next command is likely
   * to bring a value that belongs somewhere else than into memory of the transport. For `lookMs` after each resume the transport looks
   * for bytes in every turn of the loop instead of sleeping. 0 bytes: back to whatever is there. A hint; it may be ignored.
   */
  sip(maxBytes: number, lookMs?: number): void;
  /**
   * Where the connection may go on in another process: what `rest` said of it when that process was at rest; '' for a new one. Undefined where
   * a connection ends with its process.
   */
  readonly resumed?: string | undefined;
  /**
   * No byte of a command is taken and every reply has left: from here another process may go on, if it knows `state` (at most 240 bytes; a
   * longer one is not kept). Ends with the next onData, before its first byte is taken from the kernel.
   */
  rest?(state: string): void;
  /** Gives the connection up without closing it, where it is at rest: another process may have it. False: it is not, or there is none. */
  leave?(): boolean;
  /** Closes after what was written has left. */
  end(): void;
  /** Closes now, and breaks transfers on duplicates of the descriptor. */
  terminate(): void;
}

export interface ConnectionHandler {
  /** `chunk` is valid until the handler returns. */
  onData(chunk: Uint8Array): void;
  onDrain(): void;
  /** Exactly once, whoever closed. */
  onClose(): void;
}

export interface Listener {
  readonly host: string;
  /** The port that was bound, also where 0 was asked for. */
  readonly port: number;
  /** Accepts nobody until `resume`; connections that are open stay. */
  pause(): void;
  /** On the same port. False where it cannot be had now; true where it was not paused. */
  resume(): boolean;
  /** No new connections; those that are open stay. */
  stop(): void;
}

export interface Transport {
  /** Throws ADDRESS_IN_USE where the address is taken. */
  listen(address: { readonly host: string; readonly port: number }, accept: (socket: TransportSocket) => ConnectionHandler): Listener;
}
