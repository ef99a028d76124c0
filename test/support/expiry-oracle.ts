/**
 * What the cache may say of keys that expire, told from the outside: which expiries were acknowledged, which time it must be by now,
 * and which chunks were seen to be over. Knows nothing of journals, headers and rows.
 *
 * Rules: a hit is no later than the last acknowledged expiry; within a life the cache names exactly that; over a crash one that was put off may
 * be what it was before, one that was brought forward stays; what was over once is over for good, whatever the wall clock says.
 */
import type { ExpirySpec } from '#cache/door.ts';
import type { SimCache } from './sim-cache.ts';

export interface ExpiringKey {
  readonly name: string;
  readonly current: object | undefined;
}

interface Claim {
  /** All that were acknowledged, the last one at the end; 0: never. */
  readonly acknowledged: number[];
  /** The last one comes from a former life, which may have lost it. */
  mayBeLost: boolean;
  /** It was removed because it had expired, and somebody saw that. */
  over: boolean;
}

const HOUSEKEEPING_MS = 250;

export class ExpiryOracle {
  readonly #sim: SimCache;
  readonly #claims = new WeakMap<object, Claim>();
  /** Largest difference of the wall clock to the monotonic one in this life, as the cache has seen it. */
  #offsetMs = Number.NEGATIVE_INFINITY;
  /** It must be later than this: something that expired then was seen to be over. */
  #leastMs = 0;
  #slackMs = 0;
  /** It is never later than this. */
  #mostMs = 0;

  constructor(sim: SimCache) {
    this.#sim = sim;
  }

  /** The time that the cache must have reached. */
  nowMs(): number {
    const { clock } = this.#sim;
    // Both look at the same time: a moment that the cache has not seen binds it to nothing.
    this.#sim.cache.expiryNowMs();
    this.#offsetMs = Math.max(this.#offsetMs, clock.nowMs() - clock.monotonicMs());
    // Some timers of the simulation are at a fraction of a millisecond, which the cache passes over.
    if (!Number.isInteger(clock.monotonicMs())) this.#slackMs = 1;
    return Math.max(this.#leastMs, Math.floor(clock.monotonicMs() + this.#offsetMs) - this.#slackMs);
  }

  /** A wall clock that jumps; the cache looks at it at once. */
  jump(): string {
    const { clock, rng } = this.#sim;
    const ms = rng.pick([-3_600_000, -10_000, -1, 1, 10_000, 3_600_000]);
    this.nowMs();
    clock.wallOffsetMs += ms;
    this.nowMs();
    return `clock ${ms} ms`;
  }

  /** Half of the crashes come with a clock that is set back. */
  crashed({ maySetBack, journalGone }: { readonly maySetBack: boolean; readonly journalGone: boolean }): void {
    const { clock, rng } = this.#sim;
    const nowMs = this.#sim.clock.nowMs();
    if (maySetBack && rng.chance(0.5)) clock.wallOffsetMs -= rng.pick([1000, 60_000, 3_600_000]);
    else clock.wallOffsetMs += Math.max(0, this.#mostMs - nowMs);
    this.#offsetMs = Number.NEGATIVE_INFINITY;
    // With the journal everything on SSD goes, and the time that it remembered.
    if (journalGone) this.#leastMs = 0;
  }

  restarted(keys: readonly ExpiringKey[]): void {
    this.nowMs();
    for (const key of keys) {
      const claim = key.current === undefined ? undefined : this.#claims.get(key.current);
      if (claim !== undefined) claim.mayBeLost = true;
    }
  }

  randomSpec(): ExpirySpec | undefined {
    const { rng } = this.#sim;
    const kind = rng.weighted({ none: 14, ttl: 5, at: 2, keep: 1 });
    if (kind === 'none') return undefined;
    if (kind === 'keep') return 'keep';
    const ttlMs = rng.pick([1, 100, 1000, 5000, 60_000]);
    return kind === 'ttl' ? { ttlMs } : { atMs: this.#sim.cache.expiryNowMs() + rng.pick([-1000, 0, 500, 30_000]) };
  }

  /** What a put must give; `before`: what the value that it replaced had, `undefined` where there was none. */
  expected(spec: ExpirySpec | undefined, before: number | undefined): number {
    if (spec === undefined) return 0;
    if (spec === 'keep') return before ?? 0;
    const nowMs = this.#sim.cache.expiryNowMs();
    if (nowMs < this.nowMs()) throw new Error(`The cache takes it to be ${nowMs}, it must be ${this.nowMs()}`);
    return Math.max(1, 'atMs' in spec ? spec.atMs : nowMs + spec.ttlMs);
  }

  acknowledged(value: object, atMs: number): void {
    this.#mostMs = Math.max(this.#mostMs, this.#sim.cache.expiryNowMs());
    const claim = this.#claims.get(value);
    if (claim === undefined) this.#claims.set(value, { acknowledged: [atMs], mayBeLost: false, over: false });
    else {
      claim.acknowledged.push(atMs);
      claim.mayBeLost = false;
    }
  }

  /** Gives a key another expiry. True where the key is gone by it. */
  change(key: ExpiringKey, note: (text: string) => void): boolean {
    const { rng, cache } = this.#sim;
    const nowMs = cache.expiryNowMs();
    const atMs = rng.pick([0, nowMs + 1, nowMs + 500, nowMs + 5000, nowMs + 60_000, nowMs - 1]);
    const changed = this.#sim.expire(key.name, atMs);
    note(`expiry of ${key.name} at ${atMs}: ${changed}`);
    if (!changed) return false;
    if (key.current === undefined) throw new Error(`${key.name} should be gone, and took an expiry`);
    if (atMs !== 0 && atMs <= nowMs) return true;
    this.acknowledged(key.current, atMs);
    return false;
  }

  /** Throws where a value that may be over was served. */
  served(key: ExpiringKey, how: string): void {
    const claim = key.current === undefined ? undefined : this.#claims.get(key.current);
    const atMs = claim?.acknowledged.at(-1) ?? 0;
    if (claim?.over === true) throw new Error(`${key.name} was over, and is back (${how})`);
    if (atMs !== 0 && atMs <= this.nowMs()) throw new Error(`${key.name} expired at ${atMs}, it is ${this.nowMs()}, and ${how} has it`);
  }

  /** True where a lease may be broken by an expiry. */
  mayBeOver(key: ExpiringKey): boolean {
    const claim = key.current === undefined ? undefined : this.#claims.get(key.current);
    const nowMs = this.#sim.cache.expiryNowMs();
    return claim !== undefined && claim.acknowledged.some((atMs) => atMs !== 0 && atMs <= nowMs);
  }

  /** Asks for every key: what the cache says of its expiry must be what was acknowledged. */
  inspect(keys: readonly ExpiringKey[]): void {
    this.#mostMs = Math.max(this.#mostMs, this.#sim.cache.expiryNowMs());
    for (const key of keys) {
      if (key.current === undefined) continue;
      const claim = this.#claims.get(key.current);
      const last = claim?.acknowledged.at(-1) ?? 0;
      const isOver = last !== 0 && last <= this.nowMs();
      // Half of the time the sweep is left to find it, in two turns of housekeeping.
      if (isOver && claim !== undefined && !claim.over && last + 2 * HOUSEKEEPING_MS > this.nowMs() && this.#sim.rng.chance(0.5)) continue;
      const before = this.#expired();
      const told = this.#sim.expiresAt(key.name);
      if (told !== undefined) this.#judge(key, { told, last, claim });
      else if (isOver && claim !== undefined && this.#expired() > before) {
        claim.over = true;
        this.#leastMs = Math.max(this.#leastMs, last);
      }
    }
  }

  #expired(): number {
    return this.#sim.cache.control.stats().expiredChunks;
  }

  #judge(key: ExpiringKey, { told, last, claim }: { told: number; last: number; claim: Claim | undefined }): void {
    this.served(key, 'its expiry');
    if (told === last) return;
    const sooner = told !== 0 && (last === 0 || told < last);
    if (claim?.mayBeLost === true && sooner && claim.acknowledged.includes(told)) return;
    throw new Error(`${key.name} expires at ${told}, acknowledged was ${claim?.acknowledged.join(', ') ?? 'nothing'}`);
  }
}
