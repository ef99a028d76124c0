/**
 * Time as expiries are judged by it (docs/operating.md, "Clocks"), modelled beside the agent: the largest wall clock that was there,
 * moved on by the monotonic clock, and at a start at least what the journal remembers. And the wall clock's jumps.
 *
 * Judges what the journal remembers at a start, of which nothing may be forgotten by a kill; and that no chunk lives for longer than the
 * longest lifetime that anybody gave, and the minute by which the journal may be behind: nothing stays for ever since a clock was wrong.
 */
import type { SimClock, SimRng } from './sim-clock.ts';

/** How far the journal may be behind when a lifetime is given (expiry.ts). */
const BEHIND_MS = 60_000;
const MINUTE_MS = 60_000;
export const HOUR_MS = 60 * MINUTE_MS;

export class SimTime {
  readonly #clock: SimClock;
  #wallMs: number;
  #monotonicMs: number;
  /** The journal's clock as of the kill. */
  #journaledMs = 0;

  constructor(clock: SimClock) {
    this.#clock = clock;
    this.#wallMs = clock.nowMs();
    this.#monotonicMs = clock.monotonicMs();
  }

  /** As `ExpiryClock.nowMs` must be, by the rule. */
  nowMs(): number {
    const nowMs = this.#wallMs + (this.#clock.monotonicMs() - this.#monotonicMs);
    const wallMs = this.#clock.nowMs();
    if (wallMs <= nowMs) return nowMs;
    [this.#wallMs, this.#monotonicMs] = [wallMs, this.#clock.monotonicMs()];
    return wallMs;
  }

  /** The process ends; its journal's clock is `journaledMs`. */
  end(journaledMs: number): void {
    this.#journaledMs = Math.max(this.#journaledMs, journaledMs);
  }

  /** Judges when chunks end; no lifetime is longer than `longestMs`. */
  check(chunks: Iterable<{ readonly key: string; readonly expiresAtMs: number | undefined }>, longestMs: number): void {
    for (const { key, expiresAtMs = 0 } of chunks) {
      const leftMs = expiresAtMs - this.nowMs();
      if (leftMs > longestMs + BEHIND_MS) throw new Error(`${key} lives for ${leftMs} ms more, and nobody gave it more than ${longestMs}`);
    }
  }

  /** Records that were not synced are lost, and the clock with them. */
  powerCut(): void {
    this.#journaledMs = 0;
  }

  /** A process begins, whose journal remembers `journaledMs`. `judged`: it had no trouble to be written. */
  begin(journaledMs: number, judged: boolean): void {
    if (judged && journaledMs < this.#journaledMs)
      throw new Error(`The journal's clock was at ${this.#journaledMs} and is at ${journaledMs} after a kill`);
    this.#wallMs = Math.max(journaledMs, this.#clock.nowMs());
    this.#monotonicMs = this.#clock.monotonicMs();
  }

  /** Sets the wall clock: forwards by hours, back by minutes or by all that it was ahead. Answers by how much, in ms. */
  jump(rng: SimRng): number {
    const ahead = this.nowMs() - this.#clock.nowMs();
    const how = rng.weighted({ forwards: 3, back: 4, right: ahead > 0 ? 2 : 0, slightly: 2 });
    const ms =
      how === 'forwards'
        ? rng.pick([1, 2, 5]) * HOUR_MS + rng.below(MINUTE_MS)
        : how === 'back'
          ? -rng.pick([1, 3, 10, 30, 200]) * MINUTE_MS - rng.below(MINUTE_MS)
          : how === 'right'
            ? ahead
            : rng.below(4000) - 2000;
    return this.jumpBy(ms);
  }

  jumpBy(ms: number): number {
    this.#clock.wallOffsetMs += ms;
    this.nowMs();
    return ms;
  }
}
