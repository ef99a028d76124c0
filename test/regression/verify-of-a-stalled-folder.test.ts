/** Found by `bun run simulate stuck --seed 3 --steps 2500`: `verify` took a device that hung for a folder full of wrong files, and unlinked them. */
import { expect, it } from 'vitest';
import { KiB } from '#core/bytes.ts';
import { settle } from '#testsupport/sim-clock.ts';
import { isPayload, payloadOf, SimCache } from '#testsupport/sim-cache.ts';

const chunk = 64 * KiB;

async function onSsd(): Promise<SimCache> {
  const sim = await SimCache.start();
  for (let index = 0; index < 4; index += 1) await sim.put(`k${index}`, payloadOf(index, chunk));
  await sim.run(sim.cache.control.evict('ram', { all: true }));
  await sim.quiet(1000);
  return sim;
}

async function verify(sim: SimCache): Promise<number> {
  let mismatches = 0;
  for await (const progress of sim.cache.control.verify()) mismatches = progress.mismatches.length;
  return mismatches;
}

async function expectAllThere(sim: SimCache): Promise<void> {
  for (let index = 0; index < 4; index += 1) expect(isPayload(await sim.get(`k${index}`), index, chunk)).toBe(true);
  sim.checkQuiet();
}

it('verify takes nothing from a folder whose device does not answer', async () => {
  const sim = await onSsd();
  sim.io.stuck.add('/ssd0/');
  const verified = verify(sim);
  await settle();
  expect(sim.io.passDeadline()).toBe(1);
  // The first passed its deadline, the others were not asked: each is told, and stays.
  expect(await verified).toBe(4);
  sim.io.unstick();
  await sim.quiet(8000);
  await expectAllThere(sim);
});

it('verify takes nothing where the process is out of descriptors', async () => {
  const sim = await onSsd();
  sim.io.faults.push({ kind: 'checksum', errno: 24, times: 4 });
  expect(await sim.run(verify(sim))).toBe(4);
  await expectAllThere(sim);
});
