/**
 * A unix socket of whole messages, each with a descriptor or none: how the front and the agent speak. Messages are JSON of at most 512
 * bytes, descriptors travel as SCM_RIGHTS (unix(7), cmsg(3)). Nothing here blocks. A peer that says anything else counts as gone, and no
 * descriptor that it sent stays open.
 */
import { parseFrontMessage } from './front-message.ts';
import type { FrontMessage } from './front-message.ts';
import {
  AF_UNIX,
  EAGAIN,
  MSG_CMSG_CLOEXEC,
  MSG_NOSIGNAL,
  SCM_RIGHTS,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOCK_SEQPACKET,
  SOL_SOCKET,
  addressOf,
  errno,
  libc,
} from './libc.ts';

const MESSAGE_BYTES = 512;
/** struct msghdr and struct cmsghdr on 64-bit Linux. */
const HEADER_BYTES = 56;
const CONTROL_BYTES = 24;
const CONTROL_LENGTH = 20;
/** Where the descriptors begin in a control message. 24 bytes hold two of them: the second is one too many, and would stay open. */
const DESCRIPTORS_OFFSET = 16;
/** In msg_flags: more bytes, or more descriptors, than there was room for. The kernel has closed the descriptors that did not fit. */
const FLAGS_OFFSET = 48;
const MSG_CTRUNC = 8;
const MSG_TRUNC = 0x20;
const encoder = new TextEncoder();

/** sockaddr_un; paths of more than 107 bytes do not exist for unix sockets. */
export function unixAddress(path: string): Uint8Array {
  const bytes = encoder.encode(path);
  const address = new Uint8Array(2 + bytes.length + 1);
  address[0] = AF_UNIX;
  address.set(bytes, 2);
  return address;
}

export function unixSocket(): number {
  return libc.socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

export class FdChannel {
  readonly fd: number;
  readonly #bytes = new Uint8Array(MESSAGE_BYTES);
  readonly #vector = new BigUint64Array(2);
  readonly #control = new Uint8Array(CONTROL_BYTES);
  readonly #header = new Uint8Array(HEADER_BYTES);

  constructor(fd: number) {
    this.fd = fd;
  }

  #prepare(messageBytes: number, controlBytes: number): void {
    this.#vector[0] = BigInt(Number(addressOf(this.#bytes)));
    this.#vector[1] = BigInt(messageBytes);
    const view = new DataView(this.#header.buffer);
    this.#header.fill(0);
    view.setBigUint64(16, BigInt(Number(addressOf(this.#vector))), true);
    view.setBigUint64(24, 1n, true);
    if (controlBytes === 0) return;
    view.setBigUint64(32, BigInt(Number(addressOf(this.#control))), true);
    view.setBigUint64(40, BigInt(controlBytes), true);
  }

  /** False where the other side is gone, or so slow that its buffer is full. */
  send(message: FrontMessage, fd = -1): boolean {
    const text = encoder.encode(JSON.stringify(message));
    if (text.length > MESSAGE_BYTES) return false;
    this.#bytes.set(text);
    this.#prepare(text.length, fd < 0 ? 0 : CONTROL_BYTES);
    if (fd >= 0) {
      const view = new DataView(this.#control.buffer);
      view.setBigUint64(0, BigInt(CONTROL_LENGTH), true);
      view.setInt32(8, SOL_SOCKET, true);
      view.setInt32(12, SCM_RIGHTS, true);
      view.setInt32(16, fd, true);
    }
    return libc.sendmsg(this.fd, addressOf(this.#header), MSG_NOSIGNAL) >= 0;
  }

  /** The next message; 'none' where nothing is there, 'end' where the other side is gone or none of ours. `fd` is the caller's, -1 for none. */
  receive(): { readonly message: FrontMessage; readonly fd: number } | 'none' | 'end' {
    this.#control.fill(0);
    this.#prepare(MESSAGE_BYTES, CONTROL_BYTES);
    const got = libc.recvmsg(this.fd, addressOf(this.#header), MSG_CMSG_CLOEXEC);
    if (got < 0) return errno() === EAGAIN ? 'none' : 'end';
    const descriptors = this.#descriptors();
    const isCut = (new DataView(this.#header.buffer).getUint32(FLAGS_OFFSET, true) & (MSG_TRUNC | MSG_CTRUNC)) !== 0;
    const message = isCut || got === 0 ? undefined : parseFrontMessage(this.#bytes.subarray(0, got), descriptors.length);
    if (message !== undefined) return { message, fd: descriptors[0] ?? -1 };
    for (const fd of descriptors) libc.close(fd);
    return 'end';
  }

  /** What came with the message that `#header` describes. */
  #descriptors(): number[] {
    const control = new DataView(this.#control.buffer);
    const controlBytes = Number(new DataView(this.#header.buffer).getBigUint64(40, true));
    const isRights =
      controlBytes > DESCRIPTORS_OFFSET && control.getInt32(8, true) === SOL_SOCKET && control.getInt32(12, true) === SCM_RIGHTS;
    const end = isRights ? Math.min(Number(control.getBigUint64(0, true)), CONTROL_BYTES) : 0;
    const descriptors: number[] = [];
    for (let at = DESCRIPTORS_OFFSET; at + 4 <= end; at += 4) descriptors.push(control.getInt32(at, true));
    return descriptors;
  }

  close(): void {
    libc.close(this.fd);
  }
}
