/**
 * The time that expiries are judged by: the wall clock, but never going back. It is the largest wall clock seen, moved on by the
 * monotonic clock, and at a start at least what the journal remembers. So a wall clock that is set back brings nothing back and keeps
 * nothing alive for longer, and one that is set forward is followed.
 *
 * The price: after a clock was ahead and is set right, absolute times (EXPIREAT, SET EXAT) come early by as much as it was ahead.
 */
import type { Clock } from '#core/clock.ts';

export class ExpiryClock {
  readonly #clock: Clock;
  /** Largest difference of wall clock and monotonic clock seen. */
  #offsetMs: number;

  constructor(clock: Clock, leastMs: number) {
    this.#clock = clock;
    this.#offsetMs = leastMs - clock.monotonicMs();
  }

  /** Whole milliseconds since 1970. Does not decrease. */
  nowMs(): number {
    const monotonicMs = this.#clock.monotonicMs();
    const offsetMs = this.#clock.nowMs() - monotonicMs;
    if (offsetMs > this.#offsetMs) this.#offsetMs = offsetMs;
    return Math.floor(monotonicMs + this.#offsetMs);
  }
}
