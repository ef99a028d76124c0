/** Seen in `bun run simulate stuck`: a device that hung while headers were read at a start had all these files put into quarantine. */
import { expect, it } from 'vitest';
import { KiB } from '#core/bytes.ts';
import { settle } from '#testsupport/sim-clock.ts';
import { isPayload, payloadOf, SimCache } from '#testsupport/sim-cache.ts';

const chunk = 64 * KiB;

/** A start that has files without a row to look at, with the device of the first folder hanging. */
async function hangingStart(): Promise<SimCache> {
  const sim = await SimCache.start({ ssdBytes: [4096 * KiB, 4096 * KiB] });
  for (let index = 0; index < 8; index += 1) await sim.put(`k${index}`, payloadOf(index, chunk));
  await sim.quiet(5000);
  sim.reboot();
  sim.catalogDisk.clear();
  await sim.restart();
  sim.io.stuck.add('/ssd0/');
  await settle();
  return sim;
}

const there = async (sim: SimCache): Promise<number> => {
  let count = 0;
  for (let index = 0; index < 8; index += 1) if (isPayload(await sim.get(`k${index}`), index, chunk)) count += 1;
  return count;
};

it('A folder that does not answer while its files are adopted stalls, has all that it had once it is back, and holds up no other', async () => {
  const sim = await hangingStart();
  await sim.drainIo();
  expect(sim.io.passDeadline()).toBe(1);
  await sim.quiet(20_000);
  const [first, second] = sim.tier('ssd').folders ?? [];
  expect([first?.state, second?.state]).toEqual(['stalled', 'ok']);
  expect(await there(sim)).toBe(4);
  sim.io.unstick();
  await sim.quiet(130_000, 1000);
  expect(sim.cache.recovery.progress).toMatchObject({ done: true, droppedFiles: 0 });
  expect(await there(sim)).toBe(8);
  await sim.quiet(60_000, 1000);
  sim.checkQuiet();
});

it('A file that does not answer alone for ten minutes is given up, and the rest of its folder is taken in', async () => {
  const sim = await hangingStart();
  sim.io.unstick();
  const bad = sim.chunkFiles()[0] as string;
  sim.io.stuck.add(bad);
  for (let minute = 0; minute < 14; minute += 1) {
    await sim.quiet(60_000, 1000);
    sim.io.passDeadline();
  }
  await sim.quiet(130_000, 1000);
  expect(sim.cache.recovery.progress).toMatchObject({ done: true, droppedFiles: 1 });
  expect(await there(sim)).toBe(7);
});

it('A stop does not wait for files that a hanging folder has still to show', async () => {
  const sim = await hangingStart();
  await sim.drainIo();
  sim.io.passDeadline();
  await sim.quiet(1000);
  const beganMs = sim.clock.monotonicMs();
  await sim.run(sim.cache.close(beganMs + 60_000));
  expect(sim.clock.monotonicMs() - beganMs).toBeLessThan(10_000);
});
