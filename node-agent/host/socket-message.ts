/** One message with one descriptor over a connected unix stream socket: sendmsg(2), recvmsg(2), cmsg(3) on 64-bit Linux. */
import type { Fd } from '#core/brand.ts';
import { EAGAIN, MSG_CMSG_CLOEXEC, MSG_DONTWAIT, MSG_NOSIGNAL, SCM_RIGHTS, SOL_SOCKET, addressOf, errno, libc } from './libc.ts';

const HEADER_BYTES = 56;
/** Room for two descriptors: the second is one too many, and would stay open. */
const CONTROL_BYTES = 24;
const ONE_DESCRIPTOR_LENGTH = 20;
const DESCRIPTORS_OFFSET = 16;

export class SocketMessage {
  // The views are made at once: an array that has made its ArrayBuffer itself moves its bytes when it is asked for it.
  readonly #vector = new BigUint64Array(new ArrayBuffer(16));
  readonly #control = new Uint8Array(new ArrayBuffer(CONTROL_BYTES));
  readonly #controlView = new DataView(this.#control.buffer);
  readonly #header = new Uint8Array(new ArrayBuffer(HEADER_BYTES));
  readonly #headerView = new DataView(this.#header.buffer);
  readonly #byte = new Uint8Array(1);

  #prepare(bytes: Uint8Array): DataView {
    this.#vector[0] = BigInt(Number(addressOf(bytes)));
    this.#vector[1] = BigInt(bytes.length);
    this.#header.fill(0);
    const view = this.#headerView;
    view.setBigUint64(16, BigInt(Number(addressOf(this.#vector))), true);
    view.setBigUint64(24, 1n, true);
    view.setBigUint64(32, BigInt(Number(addressOf(this.#control))), true);
    view.setBigUint64(40, BigInt(CONTROL_BYTES), true);
    return this.#controlView;
  }

  /** Bytes that were taken, the descriptor with them; -1: nothing. */
  send(socket: Fd, bytes: Uint8Array, fd: Fd): number {
    const control = this.#prepare(bytes);
    control.setBigUint64(0, BigInt(ONE_DESCRIPTOR_LENGTH), true);
    control.setInt32(8, SOL_SOCKET, true);
    control.setInt32(12, SCM_RIGHTS, true);
    control.setInt32(DESCRIPTORS_OFFSET, fd, true);
    return libc.sendmsg(socket, addressOf(this.#header), MSG_NOSIGNAL | MSG_DONTWAIT);
  }

  /** The descriptor that came with one byte; undefined for anything else, whose descriptors are closed. */
  receive(socket: Fd): Fd | undefined | 'again' {
    this.#control.fill(0);
    const control = this.#prepare(this.#byte);
    const got = libc.recvmsg(socket, addressOf(this.#header), MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (got < 0 && errno() === EAGAIN) return 'again';
    const isRights = got === 1 && control.getInt32(8, true) === SOL_SOCKET && control.getInt32(12, true) === SCM_RIGHTS;
    const end = isRights ? Math.min(Number(control.getBigUint64(0, true)), CONTROL_BYTES) : 0;
    const descriptors: Fd[] = [];
    for (let at = DESCRIPTORS_OFFSET; at + 4 <= end; at += 4) descriptors.push(control.getInt32(at, true) as Fd);
    if (descriptors.length === 1) return descriptors[0];
    for (const fd of descriptors) libc.close(fd);
    return undefined;
  }
}
