/**
 * The catalog's worker in a simulation: the real service on the simulated file, behind messages that arrive one by one, in order, when
 * the driver says so. Between any two of them the process may end.
 */
import type { CatalogPeerEvents, StartCatalogPeer } from '#catalog/catalog-link.ts';
import type { CatalogBatch, CatalogReply, CatalogRequest, OpenOptions } from '#catalog/catalog-protocol.ts';
import { CatalogService } from '#catalog/catalog-service.ts';
import type { SimCatalogDisk } from './sim-catalog-disk.ts';
import type { SimRng } from './sim-clock.ts';

interface Thread {
  readonly service: CatalogService;
  readonly events: CatalogPeerEvents;
  readonly requests: CatalogRequest[];
  /** With the request that each answers. */
  readonly replies: { readonly request: CatalogRequest; readonly reply: CatalogReply }[];
}

export class SimCatalogWorker {
  readonly #disk: SimCatalogDisk;
  #thread: Thread | undefined;

  constructor(disk: SimCatalogDisk) {
    this.#disk = disk;
  }

  readonly start: StartCatalogPeer = (events) => {
    const thread: Thread = { service: new CatalogService(() => this.#disk), events, requests: [], replies: [] };
    this.#thread = thread;
    return {
      // The copy is what makes a message: whoever sent it may use its buffers again.
      post: (request) => void thread.requests.push(structuredClone(request)),
      end: () => this.#end(thread),
    };
  };

  /** Messages on their way. */
  get pending(): number {
    return (this.#thread?.requests.length ?? 0) + (this.#thread?.replies.length ?? 0);
  }

  /** The next request is served, or the next reply arrives. False where there is none. */
  step(rng: SimRng): boolean {
    const thread = this.#thread;
    if (thread === undefined || this.pending === 0) return false;
    const serves = thread.requests.length > 0 && (thread.replies.length === 0 || rng.chance(0.5));
    if (serves) this.#serve(thread, thread.requests.shift() as CatalogRequest);
    else this.#deliver(thread);
    return true;
  }

  #serve(thread: Thread, request: CatalogRequest): void {
    const failedBefore = this.#disk.failedTransactions;
    const { reply, transfer } = thread.service.answer(request);
    thread.replies.push({ request, reply: structuredClone(reply, { transfer }) });
    if (!reply.ok) return;
    if (request.call === 'open') this.#disk.opened(request.ask as OpenOptions, this.#disk.failedTransactions === failedBefore);
    else if (request.call === 'apply') this.#disk.applied(request.ask as CatalogBatch);
  }

  #deliver(thread: Thread): void {
    const { request, reply } = thread.replies.shift() as Thread['replies'][number];
    if (reply.ok && request.call === 'apply') this.#disk.acknowledged(request.ask as CatalogBatch);
    thread.events.onReply(reply);
  }

  /** The thread ends by itself: what was on its way is lost, also the answer to a batch that is committed. */
  lose(): void {
    const thread = this.#thread;
    if (thread === undefined) return;
    this.#end(thread);
    thread.events.onLost('a fault of the simulation');
  }

  /** The process ends. */
  kill(): void {
    if (this.#thread !== undefined) this.#end(this.#thread);
  }

  #end(thread: Thread): void {
    if (this.#thread !== thread) return;
    this.#thread = undefined;
    this.#disk.crash();
  }
}
