/**
 * The main thread's end of the catalog's worker: calls with promises. Starts the worker on the first call, and again on the next
 * call after it has ended by itself.
 */
import { CatalogFailure } from './catalog-protocol.ts';
import type { CatalogCall, CatalogCalls, CatalogReply, CatalogRequest } from './catalog-protocol.ts';

interface Waiting {
  readonly resolve: (answer: unknown) => void;
  readonly reject: (failure: CatalogFailure) => void;
}

/** The other end: a worker, or in a simulation its twin. Messages arrive in their order, and not before the call that sent them returns. */
export interface CatalogPeer {
  post(request: CatalogRequest): void;
  /** Nothing is told any more. */
  end(): void;
}

export interface CatalogPeerEvents {
  readonly onReply: (reply: CatalogReply) => void;
  /** It is gone by itself. */
  readonly onLost: (reason: string) => void;
}

export type StartCatalogPeer = (events: CatalogPeerEvents) => CatalogPeer;

export class CatalogLink {
  /** Size of the WAL as of the last reply. */
  walBytes = 0;
  readonly #onSetAside: (path: string) => void;
  readonly #startPeer: StartCatalogPeer;
  #peer: CatalogPeer | undefined;
  #nextId = 1;
  readonly #waiting = new Map<number, Waiting>();

  constructor(onSetAside: (path: string) => void, startPeer: StartCatalogPeer = startWorker) {
    this.#onSetAside = onSetAside;
    this.#startPeer = startPeer;
  }

  /** True while there is a worker; after `gone` there is none until the next call. */
  get isAlive(): boolean {
    return this.#peer !== undefined;
  }

  /** Rejects with CatalogFailure only. */
  call<Call extends CatalogCall>(call: Call, ask: CatalogCalls[Call]['ask']): Promise<CatalogCalls[Call]['answer']> {
    return new Promise((resolve, reject) => {
      const peer = (this.#peer ??= this.#start());
      const id = this.#nextId;
      this.#nextId += 1;
      this.#waiting.set(id, { resolve: resolve as (answer: unknown) => void, reject });
      peer.post({ id, call, ask });
    });
  }

  /** Ends the worker. Calls under way are rejected. */
  end(): void {
    this.#peer?.end();
    this.#lose('the catalog was closed');
  }

  #start(): CatalogPeer {
    const peer = this.#startPeer({
      onReply: (reply) => this.#receive(reply),
      onLost: (reason) => {
        if (this.#peer === peer) this.#lose(reason);
      },
    });
    return peer;
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
    this.#peer = undefined;
    for (const waiting of this.#waiting.values()) waiting.reject(new CatalogFailure('gone', reason));
    this.#waiting.clear();
  }
}

function startWorker(events: CatalogPeerEvents): CatalogPeer {
  const worker = new Worker(new URL('./catalog-worker.ts', import.meta.url).href);
  worker.onmessage = (event: MessageEvent<CatalogReply>) => events.onReply(event.data);
  const lost = (reason: string): void => {
    worker.terminate();
    events.onLost(reason);
  };
  worker.onerror = (event) => lost(event.message);
  worker.addEventListener('close', () => lost('the worker ended'));
  return { post: (request) => worker.postMessage(request), end: () => worker.terminate() };
}
