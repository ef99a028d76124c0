/** An epoll set whose entries are named by a number. Another thread of the process may change the set of one that waits. */
import { EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, addressOf, libc } from './libc.ts';

const MAX_EVENTS = 64;
/** epoll_event is packed on x86-64 only: its data sits at 4 there, at 8 elsewhere. */
const DATA_OFFSET = process.arch === 'x64' ? 4 : 8;
const EVENT_BYTES = process.arch === 'x64' ? 12 : 16;

export class Epoll {
  readonly fd: number;
  readonly #events = new Uint8Array(16 * MAX_EVENTS);
  readonly #eventView = new DataView(this.#events.buffer);
  readonly #oneEvent = new Uint8Array(16);
  readonly #oneEventView = new DataView(this.#oneEvent.buffer);

  /** A new set, or one that another thread made. */
  constructor(fd: number = libc.epoll_create1(EPOLL_CLOEXEC)) {
    this.fd = fd;
  }

  /** -1 where the kernel refused; the reason is in errno. `id` is any number; 0 is what a deleted entry would have. */
  add(fd: number, events: number, id: number): number {
    return this.#control(EPOLL_CTL_ADD, fd, { events, id });
  }

  modify(fd: number, events: number, id: number): number {
    return this.#control(EPOLL_CTL_MOD, fd, { events, id });
  }

  delete(fd: number): number {
    return this.#control(EPOLL_CTL_DEL, fd, { events: 0, id: 0 });
  }

  /** Calls `visit` with the id of each ready entry, at most 64; -1 waits for ever. */
  wait(timeoutMs: number, visit: (id: number) => void): void {
    const count = libc.epoll_wait(this.fd, addressOf(this.#events), MAX_EVENTS, timeoutMs);
    for (let index = 0; index < count; index += 1) visit(this.#eventView.getFloat64(index * EVENT_BYTES + DATA_OFFSET, true));
  }

  close(): void {
    libc.close(this.fd);
  }

  #control(operation: number, fd: number, entry: { readonly events: number; readonly id: number }): number {
    this.#oneEventView.setUint32(0, entry.events, true);
    this.#oneEventView.setFloat64(DATA_OFFSET, entry.id, true);
    return libc.epoll_ctl(this.fd, operation, fd, addressOf(this.#oneEvent));
  }
}
