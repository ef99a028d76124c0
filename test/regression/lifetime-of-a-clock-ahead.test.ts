/** A lifetime was given by a clock that was ahead, and the process was killed before the next sweep: the journal did not know the time. */
import { expect, it } from 'vitest';
import type { PutTicket } from '#cache/door.ts';
import { KiB } from '#core/bytes.ts';
import { payloadOf, SimCache } from '#testsupport/sim-cache.ts';

const KEY = 'model-a@00000001@a1b2c3d4e5f60718a1b2c3d4e5f60718';
const HOUR_MS = 3_600_000;
const MINUTE_MS = 60_000;

it('A lifetime that a clock gave which was ahead is not longer after a crash and with the clock set right', async () => {
  const sim = await SimCache.start({});
  sim.clock.wallOffsetMs += 10 * HOUR_MS;
  const ticket = sim.reserve(KEY, 16 * KiB) as PutTicket;
  sim.commit(ticket, payloadOf(1, 16 * KiB), { expiry: { ttlMs: MINUTE_MS } });
  const givenAtMs = sim.cache.expiryNowMs();
  sim.crash();
  sim.clock.wallOffsetMs -= 10 * HOUR_MS;
  await sim.restart();
  expect(sim.cache.expiryNowMs()).toBeGreaterThanOrEqual(givenAtMs - MINUTE_MS);
});

it('So is one that a chunk got later', async () => {
  const sim = await SimCache.start({});
  const ticket = sim.reserve(KEY, 16 * KiB) as PutTicket;
  sim.commit(ticket, payloadOf(1, 16 * KiB));
  sim.clock.wallOffsetMs += 10 * HOUR_MS;
  const givenAtMs = sim.cache.expiryNowMs();
  sim.expire(KEY, givenAtMs + MINUTE_MS);
  sim.crash();
  sim.clock.wallOffsetMs -= 10 * HOUR_MS;
  await sim.restart();
  expect(sim.cache.expiryNowMs()).toBeGreaterThanOrEqual(givenAtMs - MINUTE_MS);
});
