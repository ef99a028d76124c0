/** Many keys in one probe answer, count and hold what as many probes do. */
import { describe, expect, it } from 'vitest';
import type { PutTicket, TierOfBytes } from '#cache/door.ts';
import { KiB } from '#core/bytes.ts';
import { payloadOf, SimCache } from '#testsupport/sim-cache.ts';

const chunk = 16 * KiB;
const keyOf = (index: number): string => `model-a@00000001@${index.toString(16).padStart(48, '0')}`;
/** Ends between two turns of housekeeping, so that the probe is the first to see it. */
const TTL = 60_100;

/** 40 chunks of which every seventh is missing, every fifth on SSD only, and number 3 has expired. */
async function filled(): Promise<SimCache> {
  const sim = await SimCache.start({ limits: { readAheadBytes: 0 } });
  const put = (index: number): void => {
    const options = index === 3 ? { expiry: { ttlMs: TTL } } : {};
    expect(sim.commit(sim.reserve(keyOf(index), chunk) as PutTicket, payloadOf(index, chunk), options)).toBe('stored');
  };
  for (let index = 0; index < 40; index += 5) if (index % 7 !== 6) put(index);
  await sim.quiet(2000);
  await sim.run(sim.cache.control.evict('ram', { all: true }));
  for (let index = 0; index < 40; index += 1) if (index % 7 !== 6 && index % 5 !== 0) put(index);
  await sim.clock.advance(TTL + 20);
  expect(sim.cache.control.stats().expiredChunks).toBe(0);
  return sim;
}

interface Answer {
  readonly tier: TierOfBytes;
  readonly sizeBytes: number;
}

interface How {
  readonly prefix: boolean;
  readonly peek: boolean;
  readonly owner: number | undefined;
}

function one(sim: SimCache, keys: readonly string[], how: How): (Answer | undefined)[] {
  const answers: (Answer | undefined)[] = [];
  for (const key of keys) {
    const found = how.peek ? sim.peek(key) : sim.probe(key, how.owner);
    if (found === undefined && how.prefix) break;
    answers.push(found === undefined ? undefined : { tier: found.tier, sizeBytes: found.sizeBytes });
  }
  return answers;
}

function many(sim: SimCache, keys: readonly string[], how: How): (Answer | undefined)[] {
  const answers: (Answer | undefined)[] = [];
  const parsed = keys.map((key) => sim.with(key, (namespace, bytes) => ({ namespace, bytes: bytes.slice() })));
  const namespace = parsed[0]!.namespace;
  const count = sim.cache.probeAll({ namespace, keys: parsed.map(({ bytes }) => bytes), ...how }, (index, tier, sizeBytes) => {
    answers[index] = { tier, sizeBytes };
  });
  answers.length = count;
  return Array.from(answers);
}

const facts = (sim: SimCache): unknown => {
  const { probes, probeHits, misses, lookups, leases, expiredChunks } = sim.cache.control.stats();
  return { probes, probeHits, misses, lookups, leases, expiredChunks };
};

const all = Array.from({ length: 40 }, (_, index) => keyOf(index));
const twice = [keyOf(3), keyOf(4), keyOf(3), keyOf(4), ...all, ...all.toReversed()];

describe('Cache.probeAll', () => {
  for (const [name, keys] of [
    ['keys in order', all],
    ['keys that come twice, and one that has expired', twice],
    ['keys from the middle on', all.slice(7, 33)],
  ] as const) {
    for (const prefix of [false, true]) {
      for (const peek of [false, true]) {
        it(`answers as one probe after the other: ${name}, prefix ${prefix}, peek ${peek}`, async () => {
          const [first, second] = [await filled(), await filled()];
          const how = { prefix, peek, owner: 9 };
          expect(many(second, keys, how)).toEqual(one(first, keys, how));
          expect(facts(second)).toEqual(facts(first));
          if (keys === twice) expect(second.cache.control.stats().expiredChunks).toBe(1);
          first.check();
          second.check();
        });
      }
    }
  }

  it('takes leases that hold what it found, and none without an owner', async () => {
    const sim = await filled();
    many(sim, all, { prefix: false, peek: false, owner: undefined });
    expect(sim.cache.control.stats().leases).toBe(0);
    const found = many(sim, all, { prefix: false, peek: false, owner: 9 }).filter((answer) => answer !== undefined);
    expect(sim.cache.control.stats().leases).toBe(found.length);
    expect(found.length).toBeGreaterThan(25);
    sim.cache.endLeases(9);
    expect(sim.cache.control.stats().leases).toBe(0);
    sim.check();
  });

  it('says no to every probe while it drains', async () => {
    const sim = await filled();
    sim.cache.beginDrain();
    expect(many(sim, all, { prefix: false, peek: false, owner: 9 }).every((answer) => answer === undefined)).toBe(true);
  });
});
