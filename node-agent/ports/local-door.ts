/**
 * What the native door needs of the host: a unix socket that knows its peer and passes descriptors, memory that clients share, and
 * copies between that memory and ours which fail, instead of killing the process, where the client takes its memory away.
 */
import type { Address, Fd } from '#core/brand.ts';
import type { IoFailure } from './io-pool.ts';
import type { ConnectionHandler, TransportSocket } from './transport.ts';

/** SO_PEERCRED: who connected, as the kernel saw it then. */
export interface Peer {
  readonly pid: number;
  readonly uid: number;
}

export interface LocalSocket extends TransportSocket {
  readonly peer: Peer;
  /**
   * The descriptor that comes with the next byte; undefined where something else comes, nothing within `deadlineMs`, or the peer goes. The
   * caller's to close. Nothing is read for onData meanwhile.
   */
  receiveDescriptor(deadlineMs: number): Promise<Fd | undefined>;
  /** As `write`, with a duplicate of the descriptor for the peer. -1 where nothing was taken: try again a little later. */
  writeWithDescriptor(bytes: Uint8Array, fd: Fd): number;
}

export interface LocalAddress {
  readonly path: string;
  /** Permission bits of the socket file. */
  readonly mode: number;
  /** Group of the socket file, by name or number; undefined: the process's own. */
  readonly group?: string | undefined;
}

export interface LocalListener {
  pause(): void;
  resume(): boolean;
  /** No new connections; the file goes. */
  stop(): void;
}

export interface LocalTransport {
  /** Throws ADDRESS_IN_USE where another process listens there, CONFIG_INVALID for a path that no socket can have. */
  listen(address: LocalAddress, accept: (socket: LocalSocket) => ConnectionHandler): LocalListener;
}

/** Memory of a client, mapped here. Its pages may vanish at any time unless it is sealed: only RegionIo may touch them. */
export interface Region {
  readonly address: Address;
  readonly fd: Fd;
  readonly sizeBytes: number;
  /** It cannot shrink, so that a plain copy is safe. */
  readonly sealed: boolean;
  /** Unmaps; no job may be under way. */
  close(): void;
}

/** A region, or a sentence about why it may not be attached. */
export type RegionOutcome = Region | { readonly problem: string };

export interface Regions {
  /** A file under one of the allowed roots that belongs to the peer. */
  byPath(path: string, peer: Peer): RegionOutcome;
  /** Takes the descriptor over, also where it is refused. */
  byDescriptor(fd: Fd): RegionOutcome;
  /** Closes a descriptor that came too late. */
  discard(fd: Fd): void;
  /** Fresh sealed memory for one client. */
  create(sizeBytes: number): RegionOutcome;
}

/** Where a chunk lies in the agent's own memory, as a descriptor can reach it. */
export interface ArenaPlace {
  readonly arena: number;
  /** Of the chunk's first byte in the arena. */
  readonly offset: number;
}

/** A part of a region. */
export interface RegionSpan {
  readonly region: Region;
  readonly offset: number;
  readonly sizeBytes: number;
}

export interface RegionIo {
  /** Arena to region; not one byte outside the span is written. */
  copyOut(from: { readonly address: Address }, to: RegionSpan): Promise<{ readonly ok: true } | IoFailure>;
  /** Region to arena. Answers the checksum of what has arrived. */
  copyIn(from: RegionSpan, to: { readonly address: Address }): Promise<{ readonly ok: true; readonly checksum: bigint } | IoFailure>;
}
