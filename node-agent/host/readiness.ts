/**
 * Says when a socket has something to read without reading it, which Bun's own sockets cannot: they hand over up to 512 KiB in memory
 * of their own, and what belongs in a slab would be copied twice. Costs a thread that sleeps in epoll and about 20 us a notice.
 *
 * Invariants: an armed socket is told of at most once; a socket that was disarmed is never told of; ids are never used twice, so a
 * notice on its way for a socket that is gone finds nobody.
 */
import { EFD_CLOEXEC, EFD_NONBLOCK, EPOLLIN, EPOLLONESHOT, addressOf, libc } from './libc.ts';
import { Epoll } from './epoll.ts';

const STOP_ID = -1;

export class Readiness {
  readonly #epoll = new Epoll();
  readonly #stopFd = libc.eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  readonly #worker = new Worker(new URL('./readiness-worker.ts', import.meta.url).href);
  readonly #stopped: Promise<void>;
  readonly #waiting = new Map<number, () => void>();
  #nextId = 1;

  constructor(onCrash: (reason: string) => void) {
    const stopped = Promise.withResolvers<void>();
    this.#stopped = stopped.promise;
    this.#epoll.add(this.#stopFd, EPOLLIN, STOP_ID);
    this.#worker.onmessage = (event: MessageEvent<readonly number[] | 'stopped'>): void => {
      if (event.data === 'stopped') return stopped.resolve();
      for (const id of event.data) {
        const tell = this.#waiting.get(id);
        this.#waiting.delete(id);
        tell?.();
      }
    };
    this.#worker.onerror = (event): void => onCrash(`readiness worker: ${event.message}`);
    this.#worker.postMessage({ epollFd: this.#epoll.fd, stopId: STOP_ID });
  }

  /** A name for one socket's life. */
  nextId(): number {
    return this.#nextId++;
  }

  /** Calls `tell` once, in a later turn, when `fd` has bytes, an end or an error to read. False: the kernel refused. */
  arm(id: number, fd: number, tell: () => void): boolean {
    this.#waiting.set(id, tell);
    const events = EPOLLIN | EPOLLONESHOT;
    if (this.#epoll.modify(fd, events, id) === 0 || this.#epoll.add(fd, events, id) === 0) return true;
    this.#waiting.delete(id);
    return false;
  }

  /** Before `fd` is closed, and where nobody wants to know any more. */
  disarm(id: number, fd: number): void {
    this.#waiting.delete(id);
    this.#epoll.delete(fd);
  }

  /** For a socket that is closed already. */
  forget(id: number): void {
    this.#waiting.delete(id);
  }

  async close(): Promise<void> {
    libc.write(this.#stopFd, addressOf(new BigUint64Array([1n])), 8);
    await this.#stopped;
    this.#worker.terminate();
    this.#epoll.close();
    libc.close(this.#stopFd);
  }
}
