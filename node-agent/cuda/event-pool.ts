/**
 * Events of one context, made when needed and used again: making one costs as much as a copy. A pair marks begin and end of a batch.
 * Disposed with its context current.
 */
import type { DeviceFailure } from '#ports/device-memory.ts';
import type { CudaDriver, Event } from './driver.ts';
import { CUDA_SUCCESS } from './status.ts';

export interface EventPair {
  readonly start: Event;
  readonly end: Event;
}

export class EventPool implements Disposable {
  readonly #driver: CudaDriver;
  readonly #idle: EventPair[] = [];

  constructor(driver: CudaDriver) {
    this.#driver = driver;
  }

  /** With the context current. */
  take(): EventPair | DeviceFailure {
    const idle = this.#idle.pop();
    if (idle !== undefined) return idle;
    const first = this.#driver.createEvent();
    if (first !== CUDA_SUCCESS) return this.#driver.failure(first, 'cuEventCreate(0)');
    const start = this.#driver.value as Event;
    const second = this.#driver.createEvent();
    if (second === CUDA_SUCCESS) return { start, end: this.#driver.value as Event };
    const failure = this.#driver.failure(second, 'cuEventCreate(0)');
    this.#driver.destroyEvent(start);
    return failure;
  }

  /** Of a batch that is over, or was never begun: no record of theirs is pending that anybody waits for. */
  give(pair: EventPair): void {
    this.#idle.push(pair);
  }

  /** Pairs that nobody has. */
  get idle(): readonly EventPair[] {
    return this.#idle;
  }

  [Symbol.dispose](): void {
    for (const { start, end } of this.#idle.splice(0)) {
      this.#driver.destroyEvent(start);
      this.#driver.destroyEvent(end);
    }
  }
}
