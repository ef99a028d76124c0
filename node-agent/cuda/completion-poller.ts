/**
 * Asks for what has been done, for all devices of this process, on the main thread, without ever waiting: a driver's callback runs on a
 * thread of its own where no JavaScript may, and a Worker that waits would add a thread hop to each copy.
 *
 * Adaptive. After work came or something was done, a turn looks a few times in a row (a copy of a few KiB takes as long), then again in the
 * next turn of the event loop, which serves sockets in between; when nothing has been done for IMMEDIATE_MS, by timers of 1 ms. A turn
 * completes at most TURN_BUDGET copies before it lets the loop go on; a device that used that up is asked last in the next turn, so that
 * others come to theirs however many it has. Nothing in flight: nothing runs.
 */

/** Something that has copies in flight. */
export interface Polled {
  /** Completes up to `budget` of what is done. Returns how many. */
  poll(budget: number): number;
  /** Copies that are worth looking at often; others are stuck, and looked at rarely. */
  readonly lively: number;
  readonly stuck: number;
}

const SPINS = 4;
const TURN_BUDGET = 64;
/** A chunk of 8 MiB takes 160 us on PCIe 5.0 x16 at 50 GB/s. */
const IMMEDIATE_MS = 0.3;
const TIMER_MS = 1;
const STUCK_MS = 100;

export class CompletionPoller {
  readonly #sources = new Set<Polled>();
  #scheduled = false;
  /** Set while the turn that is scheduled is a timer. */
  #timer: ReturnType<typeof setTimeout> | undefined;
  #progressAtMs = 0;
  readonly #turn = (): void => this.#look();
  /** Turns so far; for the benchmark. */
  turns = 0;

  add(source: Polled): void {
    this.#sources.add(source);
  }

  remove(source: Polled): void {
    this.#sources.delete(source);
  }

  /** Something was submitted. */
  wake(): void {
    this.#progressAtMs = performance.now();
    if (this.#timer !== undefined) {
      clearTimeout(this.#timer);
      this.#timer = undefined;
      this.#scheduled = false;
    }
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(this.#turn);
  }

  #look(): void {
    this.#timer = undefined;
    this.turns += 1;
    let left = TURN_BUDGET;
    for (let spin = 0; spin < SPINS && left > 0; spin += 1) {
      let done = 0;
      for (const source of this.#sources) if (source.lively + source.stuck > 0) done += source.poll(left - done);
      left -= done;
      // Something was done: perhaps more is. Nothing was, twice: the loop has others to serve.
      if (done === 0 && spin > 0) break;
    }
    if (left === 0) this.#putFirstLast();
    this.#scheduleNext(left < TURN_BUDGET);
  }

  #putFirstLast(): void {
    const [first] = this.#sources;
    if (first === undefined) return;
    this.#sources.delete(first);
    this.#sources.add(first);
  }

  #scheduleNext(progress: boolean): void {
    let lively = 0;
    let stuck = 0;
    for (const source of this.#sources) {
      lively += source.lively;
      stuck += source.stuck;
    }
    this.#scheduled = lively + stuck > 0;
    if (!this.#scheduled) return;
    const nowMs = performance.now();
    if (progress) this.#progressAtMs = nowMs;
    if (lively > 0 && nowMs - this.#progressAtMs < IMMEDIATE_MS) {
      setImmediate(this.#turn);
      return;
    }
    this.#timer = setTimeout(this.#turn, lively > 0 ? TIMER_MS : STUCK_MS);
    // What is stuck may stay so for good, and keeps no process alive.
    if (lively === 0) this.#timer.unref();
  }
}
