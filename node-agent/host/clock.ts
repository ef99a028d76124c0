/** Clock and Rng of the real host. */
import type { Clock, Rng } from '#core/clock.ts';

export const hostClock: Clock = {
  // A clock before 1970 is a clock that nobody set; times are never negative.
  nowMs: () => Math.max(0, Date.now()),
  monotonicMs: () => performance.now(),
  schedule(delayMs, callback) {
    const timer = setTimeout(callback, delayMs);
    timer.unref();
    return () => clearTimeout(timer);
  },
};

export const hostRng: Rng = {
  nextUint32: () => crypto.getRandomValues(new Uint32Array(1))[0] ?? 0,
};
