/** Time that moves when a test says so, and randomness from a seed: the simulated twins of Clock and Rng. */
import type { Clock, Rng } from '#core/clock.ts';

interface Timer {
  readonly atMs: number;
  readonly order: number;
  readonly callback: () => void;
}

/** Runs everything that is ready now: all microtasks, and what they queue. */
export function settle(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

export class SimClock implements Clock {
  /** Difference of the wall clock, which may jump, to the monotonic one. */
  wallOffsetMs: number;
  #nowMs = 1000;
  #order = 0;
  #timers: Timer[] = [];

  constructor(wallMs = 1_700_000_000_000) {
    this.wallOffsetMs = wallMs - this.#nowMs;
  }

  nowMs(): number {
    return this.#nowMs + this.wallOffsetMs;
  }

  monotonicMs(): number {
    return this.#nowMs;
  }

  schedule(delayMs: number, callback: () => void): () => void {
    const timer = { atMs: this.#nowMs + Math.max(0, delayMs), order: this.#order++, callback };
    this.#timers.push(timer);
    return () => void (this.#timers = this.#timers.filter((other) => other !== timer));
  }

  get timerCount(): number {
    return this.#timers.length;
  }

  /** Moves on by `ms`, running each timer at its time, in order, with everything it sets off. */
  async advance(ms: number): Promise<void> {
    const untilMs = this.#nowMs + ms;
    for (let next = this.#next(untilMs); next !== undefined; next = this.#next(untilMs)) {
      const due = next;
      this.#timers = this.#timers.filter((timer) => timer !== due);
      this.#nowMs = Math.max(this.#nowMs, due.atMs);
      due.callback();
      await settle();
    }
    this.#nowMs = untilMs;
    await settle();
  }

  /** Runs the next timer that is due until then, alone; where none is, moves there and answers false. For drivers without a loop. */
  fire(untilMs: number): boolean {
    const due = this.#next(untilMs);
    if (due === undefined) {
      this.#nowMs = Math.max(this.#nowMs, untilMs);
      return false;
    }
    this.#timers = this.#timers.filter((timer) => timer !== due);
    this.#nowMs = Math.max(this.#nowMs, due.atMs);
    due.callback();
    return true;
  }

  #next(untilMs: number): Timer | undefined {
    let best: Timer | undefined;
    for (const timer of this.#timers) {
      if (timer.atMs > untilMs) continue;
      if (best === undefined || timer.atMs < best.atMs || (timer.atMs === best.atMs && timer.order < best.order)) best = timer;
    }
    return best;
  }

  /** The process is gone, and its timers with it. */
  dropTimers(): void {
    this.#timers = [];
  }
}

/** xorshift128 with a state mixed out of the seed. */
export class SimRng implements Rng {
  readonly #state = new Uint32Array(4);

  constructor(seed: number) {
    let mixed = seed >>> 0;
    for (let index = 0; index < 4; index += 1) {
      mixed = (mixed + 0x9e37_79b9) >>> 0;
      let word = Math.imul(mixed ^ (mixed >>> 16), 0x21f0_aaad);
      word = Math.imul(word ^ (word >>> 15), 0x735a_2d97);
      this.#state[index] = (word ^ (word >>> 15)) >>> 0 || 1;
    }
  }

  nextUint32(): number {
    const s = this.#state;
    let t = s[3] as number;
    t ^= t << 11;
    t ^= t >>> 8;
    s[3] = s[2] as number;
    s[2] = s[1] as number;
    s[1] = s[0] as number;
    const next = (t ^ (s[0] as number) ^ ((s[0] as number) >>> 19)) >>> 0;
    s[0] = next;
    return next;
  }

  /** Differs where the decisions so far differed. */
  get fingerprint(): number {
    const [a = 0, b = 0, c = 0, d = 0] = this.#state;
    return (a ^ Math.imul(b, 3) ^ Math.imul(c, 5) ^ Math.imul(d, 7)) >>> 0;
  }

  /** Uniform in [0, limit). */
  below(limit: number): number {
    return Math.floor((this.nextUint32() / 2 ** 32) * limit);
  }

  chance(probability: number): boolean {
    return this.nextUint32() < probability * 2 ** 32;
  }

  pick<T>(items: readonly T[]): T {
    const item = items[this.below(items.length)];
    if (item === undefined) throw new RangeError('Cannot pick from nothing');
    return item;
  }

  /** One of the names, as often as its weight says. */
  weighted<T extends string>(weights: Readonly<Record<T, number>>): T {
    const entries = Object.entries(weights) as [T, number][];
    let left = (this.nextUint32() / 2 ** 32) * entries.reduce((sum, [, weight]) => sum + weight, 0);
    for (const [name, weight] of entries) {
      left -= weight;
      if (left < 0) return name;
    }
    return (entries.at(-1) as [T, number])[0];
  }
}
