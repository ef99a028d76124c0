/**
 * Which host memory is pinned, and the worker that pins it. Portable: done once, in the context of a device that is open, it counts for all
 * of them. When that device closes, what it pinned is pinned again through another one that is open, and copies go the slow way meanwhile.
 *
 * Invariants (checkInvariants): a range is in `#ranges` only while it is pinned, by a context that is alive; ranges are whole pages, do not
 * overlap and are sorted by address; nobody waits for a worker that is gone.
 */
import { assert } from '#core/assert.ts';
import type { Address } from '#core/brand.ts';
import type { DeviceFailure } from '#ports/device-memory.ts';
import type { Context } from './driver.ts';
import type { RegisterReply, RegisterRequest } from './register-messages.ts';
import { ownFailure } from './status.ts';

const PAGE_BYTES = 4096;

interface Range {
  readonly address: Address;
  readonly sizeBytes: number;
  readonly context: Context;
}

type Registered = { readonly ok: true; readonly elapsedMs: number } | DeviceFailure;

export class HostRegistrar {
  readonly #path: string;
  readonly #contextOf: () => Context | undefined;
  readonly #ranges: Range[] = [];
  readonly #waiters = new Map<number, (reply: RegisterReply) => void>();
  #worker: Worker | undefined;
  #nextId = 1;
  /** All work of the worker in order: a context goes only behind what uses it. */
  #queue: Promise<unknown> = Promise.resolve();

  /** `contextOf` answers the context of a device that is open and well. */
  constructor(path: string, contextOf: () => Context | undefined) {
    this.#path = path;
    this.#contextOf = contextOf;
  }

  get registrations(): number {
    return this.#ranges.length;
  }

  isRegistered(address: number, sizeBytes: number): boolean {
    const range = this.#ranges[this.#find(address)];
    return range !== undefined && address + sizeBytes <= range.address + range.sizeBytes;
  }

  /** Index of the last range that starts at or before `address`; -1 where there is none. */
  #find(address: number): number {
    let low = 0;
    let high = this.#ranges.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#ranges[middle]?.address ?? 0) <= address) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  register(address: Address, sizeBytes: number): Promise<Registered> {
    assert(sizeBytes > 0 && address % PAGE_BYTES === 0 && sizeBytes % PAGE_BYTES === 0, 'host memory is registered by whole pages');
    return this.#inOrder(() => this.#register(address, sizeBytes, this.#contextOf()));
  }

  async #register(address: Address, sizeBytes: number, context: Context | undefined): Promise<Registered> {
    if (context === undefined)
      return ownFailure('KVTIER_NO_CONTEXT', `Cannot register ${sizeBytes} bytes at 0x${address.toString(16)}: no device is open`);
    const { failure, elapsedMs } = await this.#ask((id) => ({ kind: 'register', id, context, address, sizeBytes }));
    if (failure !== undefined) return failure;
    this.#ranges.splice(this.#find(address) + 1, 0, { address, sizeBytes, context });
    return { ok: true, elapsedMs };
  }

  unregister(address: Address): Promise<{ readonly ok: true } | DeviceFailure> {
    return this.#inOrder(() => this.#unregister(address));
  }

  async #unregister(address: Address): Promise<{ readonly ok: true } | DeviceFailure> {
    const index = this.#find(address);
    const range = this.#ranges[index];
    if (range === undefined || range.address !== address)
      return ownFailure('KVTIER_NOT_REGISTERED', `Cannot unregister 0x${address.toString(16)}: it is not registered`);
    // First of all: a copy that is submitted meanwhile is a pageable one.
    this.#ranges.splice(index, 1);
    const { failure } = await this.#ask((id) => ({ kind: 'unregister', id, context: range.context, address }));
    return failure ?? { ok: true };
  }

  /** A context is about to be let go. Call the result when it is gone: then another one pins what this one had pinned. */
  async release(context: Context): Promise<() => Promise<void>> {
    const ranges = await this.#inOrder(async () => {
      const pinned = this.#ranges.filter((range) => range.context === context);
      for (const range of pinned) await this.#unregister(range.address);
      return pinned;
    });
    return () =>
      this.#inOrder(async () => {
        const other = this.#contextOf();
        if (other === undefined) return;
        // Where that fails copies go the slow way, and are counted.
        for (const range of ranges) await this.#register(range.address, range.sizeBytes, other);
      });
  }

  /** Throws an InvariantError. `isAlive`: of a context, whether it is not let go. */
  checkInvariants(isAlive: (context: Context) => boolean): void {
    let end = 0;
    for (const { address, sizeBytes, context } of this.#ranges) {
      assert(address >= end, `the range at 0x${address.toString(16)} begins where the one before it has ended`);
      assert(sizeBytes > 0 && address % PAGE_BYTES === 0 && sizeBytes % PAGE_BYTES === 0, 'a range is whole pages');
      assert(isAlive(context), `the range at 0x${address.toString(16)} is pinned by a context that is alive`);
      end = address + sizeBytes;
    }
    assert(this.#waiters.size === 0 || this.#worker !== undefined, 'nobody waits for a worker that is gone');
  }

  async close(): Promise<void> {
    await this.#inOrder(() => Promise.resolve());
    this.#worker?.terminate();
    this.#worker = undefined;
  }

  #inOrder<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#queue.then(work);
    // A bug in `work` is told to its caller; the next one has its turn nevertheless.
    this.#queue = result.catch(() => undefined);
    return result;
  }

  #ask(make: (id: number) => RegisterRequest): Promise<RegisterReply> {
    const worker = this.#start();
    const { promise, resolve } = Promise.withResolvers<RegisterReply>();
    const id = this.#nextId++;
    this.#waiters.set(id, resolve);
    worker.postMessage(make(id));
    return promise;
  }

  #start(): Worker {
    if (this.#worker !== undefined) return this.#worker;
    const worker = new Worker(new URL('./register-worker.ts', import.meta.url).href);
    worker.onmessage = (event: MessageEvent<RegisterReply>): void => {
      const waiter = this.#waiters.get(event.data.id);
      assert(waiter !== undefined, `registration ${event.data.id} was answered twice or never asked for`);
      this.#waiters.delete(event.data.id);
      waiter(event.data);
    };
    worker.onerror = (event): void => {
      // What it pinned stays pinned; the next request starts another.
      this.#worker = undefined;
      const failure = ownFailure('KVTIER_WORKER_FAILED', `The registration worker ended: ${event.message}`);
      for (const [id, waiter] of this.#waiters) waiter({ id, failure, elapsedMs: 0 });
      this.#waiters.clear();
    };
    const load: RegisterRequest = { kind: 'load', path: this.#path };
    worker.postMessage(load);
    this.#worker = worker;
    return worker;
  }
}
