/** Bytes with descriptors over a connected unix stream socket: sendmsg(2), recvmsg(2), cmsg(3) on 64-bit Linux. */
import { EAGAIN, MSG_CMSG_CLOEXEC, MSG_DONTWAIT, MSG_NOSIGNAL, SCM_RIGHTS, SOL_SOCKET, addressOf, errno, libc } from './libc.ts';

/** struct msghdr: name 0, namelen 8, iov 16, iovlen 24, control 32, controllen 40, flags 48. */
const HEADER_BYTES = 56;
/** struct cmsghdr (length 0, level 8, type 12) and one descriptor, padded. */
const CONTROL_BYTES = 24;
const DESCRIPTOR_OFFSET = 16;
const ONE_DESCRIPTOR_LENGTH = DESCRIPTOR_OFFSET + 4;

export class DescriptorMessage {
  // The views are made at once: an array that has made its ArrayBuffer itself moves its bytes when it is asked for it.
  readonly #vector = new BigUint64Array(new ArrayBuffer(16));
  readonly #control = new Uint8Array(new ArrayBuffer(CONTROL_BYTES));
  readonly #controlView = new DataView(this.#control.buffer);
  readonly #header = new Uint8Array(new ArrayBuffer(HEADER_BYTES));
  readonly #headerView = new DataView(this.#header.buffer);

  #prepare(bytes: Uint8Array): void {
    this.#vector[0] = BigInt(Number(addressOf(bytes)));
    this.#vector[1] = BigInt(bytes.length);
    this.#header.fill(0);
    const view = this.#headerView;
    view.setBigUint64(16, BigInt(Number(addressOf(this.#vector))), true);
    view.setBigUint64(24, 1n, true);
    view.setBigUint64(32, BigInt(Number(addressOf(this.#control))), true);
    view.setBigUint64(40, BigInt(CONTROL_BYTES), true);
  }

  /** False where the kernel has no room now. */
  send(socket: number, bytes: Uint8Array, fd: number): boolean {
    this.#prepare(bytes);
    this.#controlView.setBigUint64(0, BigInt(ONE_DESCRIPTOR_LENGTH), true);
    this.#controlView.setInt32(8, SOL_SOCKET, true);
    this.#controlView.setInt32(12, SCM_RIGHTS, true);
    this.#controlView.setInt32(DESCRIPTOR_OFFSET, fd, true);
    return libc.sendmsg(socket, addressOf(this.#header), MSG_NOSIGNAL | MSG_DONTWAIT) === bytes.length;
  }

  /** Bytes read into `target`, 0 at the end of the stream or where it broke, and a descriptor that came with them; undefined: nothing yet. */
  receive(socket: number, target: Uint8Array): { readonly bytes: number; readonly fd: number | undefined } | undefined {
    this.#control.fill(0);
    this.#prepare(target);
    const bytes = libc.recvmsg(socket, addressOf(this.#header), MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (bytes < 0) return errno() === EAGAIN ? undefined : { bytes: 0, fd: undefined };
    const hasOne =
      Number(this.#controlView.getBigUint64(0, true)) === ONE_DESCRIPTOR_LENGTH &&
      this.#controlView.getInt32(8, true) === SOL_SOCKET &&
      this.#controlView.getInt32(12, true) === SCM_RIGHTS;
    return { bytes, fd: hasOne ? this.#controlView.getInt32(DESCRIPTOR_OFFSET, true) : undefined };
  }
}
