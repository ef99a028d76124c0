import { expect, test } from 'vitest';
import type { Clock } from '#core/clock.ts';
import { EventLoopLag } from '#telemetry/event-loop-lag.ts';

/** Fires the one timer that waits, as late as a test says. */
class LateClock implements Clock {
  #nowMs = 5000;
  #due: { readonly atMs: number; readonly callback: () => void } | undefined;

  nowMs(): number {
    throw new Error('lag is measured on the monotonic clock');
  }

  monotonicMs(): number {
    return this.#nowMs;
  }

  schedule(delayMs: number, callback: () => void): () => void {
    this.#due = { atMs: this.#nowMs + delayMs, callback };
    return () => void (this.#due = undefined);
  }

  fire(lateMs: number): void {
    const due = this.#due;
    if (due === undefined) throw new Error('no timer waits');
    this.#nowMs = due.atMs + lateMs;
    due.callback();
  }

  get waiting(): boolean {
    return this.#due !== undefined;
  }
}

test('EventLoopLag tells how late its timers ran, as quantiles', () => {
  const clock = new LateClock();
  const lag = new EventLoopLag(clock);
  lag.start();
  expect(lag.summary()).toEqual({ p50Ms: 0, p99Ms: 0, maxMs: 0 });
  for (let index = 0; index < 980; index += 1) clock.fire(index % 2);
  for (let index = 0; index < 20; index += 1) clock.fire(30);
  expect(lag.summary()).toEqual({ p50Ms: 1, p99Ms: 30, maxMs: 30 });
});

test('EventLoopLag counts a timer that ran early as on time, and forgets what is older than its window', () => {
  const clock = new LateClock();
  const lag = new EventLoopLag(clock);
  lag.start();
  clock.fire(500);
  expect(lag.summary().maxMs).toBe(500);
  for (let index = 0; index < 1000; index += 1) clock.fire(-0.5);
  expect(lag.summary()).toEqual({ p50Ms: 0, p99Ms: 0, maxMs: 0 });
});

test('EventLoopLag leaves no timer behind when it is stopped', () => {
  const clock = new LateClock();
  const lag = new EventLoopLag(clock);
  lag.start();
  clock.fire(1);
  lag.stop();
  expect(clock.waiting).toBe(false);
});
