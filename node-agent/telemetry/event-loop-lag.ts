/**
 * How late the main thread's timers run: everything that it does for one client, the others wait for. A timer every 10 ms; its lag is
 * how much later than that it ran, of which about a millisecond is the timer's own grain.
 *
 * Invariant: holds the last WINDOW_SAMPLES lags (about 10 s), oldest overwritten first.
 */
import type { Clock } from '#core/clock.ts';

const INTERVAL_MS = 10;
const WINDOW_SAMPLES = 1000;

export interface LagSummary {
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
}

export class EventLoopLag {
  readonly #clock: Clock;
  readonly #samples = new Float64Array(WINDOW_SAMPLES);
  #count = 0;
  #cancel: (() => void) | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  start(): void {
    const plannedMs = this.#clock.monotonicMs() + INTERVAL_MS;
    this.#cancel = this.#clock.schedule(INTERVAL_MS, () => {
      this.#samples[this.#count % WINDOW_SAMPLES] = Math.max(0, this.#clock.monotonicMs() - plannedMs);
      this.#count += 1;
      this.start();
    });
  }

  stop(): void {
    this.#cancel?.();
  }

  /** Over about the last 10 s; zeroes before the first sample. */
  summary(): LagSummary {
    const sorted = this.#samples.slice(0, Math.min(this.#count, WINDOW_SAMPLES)).sort();
    const at = (share: number): number => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;
    return { p50Ms: at(0.5), p99Ms: at(0.99), maxMs: at(1) };
  }
}
