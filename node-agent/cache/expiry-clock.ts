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
  /** Whole: when the wall clock was ahead last, and of the monotonic clock then. */
  #wallMs: number;
  #monotonicMs: number;

  constructor(clock: Clock, leastMs: number) {
    this.#clock = clock;
    this.#wallMs = Math.floor(leastMs);
    this.#monotonicMs = clock.monotonicMs();
  }

  /** Whole milliseconds since 1970. Does not decrease. */
  nowMs(): number {
    const monotonicMs = this.#clock.monotonicMs();
    const wallMs = Math.floor(this.#clock.nowMs());
    const nowMs = this.#wallMs + Math.floor(monotonicMs - this.#monotonicMs);
    if (wallMs <= nowMs) return nowMs;
    this.#wallMs = wallMs;
    this.#monotonicMs = monotonicMs;
    return wallMs;
  }
}
