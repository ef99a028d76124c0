/**
 * The main thread's end of the catalog's worker: calls with promises. Starts the worker on the first call, and again on the next
 * call after it has ended by itself.
 */
import { CatalogFailure } from './catalog-protocol.ts';
import type { CatalogCall, CatalogCalls, CatalogReply } from './catalog-protocol.ts';

interface Waiting {
  readonly resolve: (answer: unknown) => void;
  readonly reject: (failure: CatalogFailure) => void;
}

export class CatalogLink {
  /** Size of the WAL as of the last reply. */
  walBytes = 0;
  readonly #onSetAside: (path: string) => void;
  #worker: Worker | undefined;
  #nextId = 1;
  readonly #waiting = new Map<number, Waiting>();

  constructor(onSetAside: (path: string) => void) {
    this.#onSetAside = onSetAside;
  }

  /** True while there is a worker; after `gone` there is none until the next call. */
  get isAlive(): boolean {
    return this.#worker !== undefined;
  }

  /** Rejects with CatalogFailure only. */
  call<Call extends CatalogCall>(call: Call, ask: CatalogCalls[Call]['ask']): Promise<CatalogCalls[Call]['answer']> {
    return new Promise((resolve, reject) => {
      const worker = (this.#worker ??= this.#start());
      const id = this.#nextId;
      this.#nextId += 1;
      this.#waiting.set(id, { resolve: resolve as (answer: unknown) => void, reject });
      worker.postMessage({ id, call, ask });
    });
  }

  /** Ends the worker. Calls under way are rejected. */
  end(): void {
    this.#worker?.terminate();
    this.#lose('the catalog was closed');
  }

  #start(): Worker {
    const worker = new Worker(new URL('./catalog-worker.ts', import.meta.url).href);
    worker.onmessage = (event: MessageEvent<CatalogReply>) => this.#receive(event.data);
    const lost = (reason: string): void => {
      if (this.#worker !== worker) return;
      worker.terminate();
      this.#lose(reason);
    };
    worker.onerror = (event) => lost(event.message);
    worker.addEventListener('close', () => lost('the worker ended'));
    return worker;
  }

  #receive(reply: CatalogReply): void {
    this.walBytes = reply.walBytes;
    for (const path of reply.setAside) this.#onSetAside(path);
    const waiting = this.#waiting.get(reply.id);
    this.#waiting.delete(reply.id);
    if (reply.ok) waiting?.resolve(reply.answer);
    else waiting?.reject(new CatalogFailure(reply.kind, reply.message));
  }

  #lose(reason: string): void {
    this.#worker = undefined;
    for (const waiting of this.#waiting.values()) waiting.reject(new CatalogFailure('gone', reason));
    this.#waiting.clear();
  }
}
