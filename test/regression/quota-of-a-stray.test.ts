/** A chunk that only HBM had was passed by when its tenant's quota came or went, and came back to RAM into an order that was none. */
import { expect, it } from 'vitest';
import { KiB } from '#core/bytes.ts';
import { isPayload, payloadOf, SimCache } from '#testsupport/sim-cache.ts';

const KEY = 'opaque-0';

it('A quota that comes or goes marks what only HBM has', async () => {
  const sim = await SimCache.start({ ramBytes: 256 * KiB, hbmBytes: [256 * KiB], admission: 'off' });
  const { control } = sim.cache;
  await sim.put(KEY, payloadOf(1, 16 * KiB));
  expect(await sim.run(control.prefetch([KEY], { tier: 'hbm' }))).toMatchObject({ promoted: 1 });
  for (let id = 2; sim.tiersOf(KEY).includes('ram'); id += 1) await sim.put(`opaque-${id}`, payloadOf(id, 16 * KiB));
  expect(sim.tiersOf(KEY)).toEqual(['hbm']);
  await sim.run(control.setQuota('default', { ramBytes: 1024 * KiB, ssdBytes: undefined }));
  sim.check();
  await sim.run(control.setQuota('default', undefined));
  sim.check();
  expect(isPayload(await sim.get(KEY), 1, 16 * KiB)).toBe(true);
  sim.check();
  expect(sim.cache.control.stats().hits.hbm).toBe(1);
});
