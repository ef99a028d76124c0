/** Clock and Rng of the real host. */
import type { Clock, Rng } from '#core/clock.ts';

export const hostClock: Clock = {
  nowMs: () => Date.now(),
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
