/** A stop says what it leaves in shared memory; that can be freed, and not before. */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { afterEach, expect, test } from 'vitest';
import { dropKeptRam, listKeptRam } from '#host/kept-ram.ts';
import { MiB } from '#core/bytes.ts';
import { CheckedClient, Cleanup } from '#testsupport/bad-days.ts';

const cleanup = new Cleanup();
const shmDir = mkdtempSync('/dev/shm/kvtier-kept-');
afterEach(async () => {
  await cleanup.run();
  rmSync(shmDir, { recursive: true, force: true });
});

test('the last line of a stop says how much RAM stays, where, and how to free it; it is freed then, and not under the live agent', async () => {
  const dataDir = cleanup.folder();
  const flags = ['--ram', '64MiB', '--shm-dir', shmDir, '--ram-keep', 'on'];
  const agent = await cleanup.agent({ dataDir, flags });
  await (await CheckedClient.connect(agent)).store(0, 4, MiB);
  expect(dropKeptRam(shmDir, dataDir)).toEqual({ outcome: 'in-use' });
  expect(listKeptRam(shmDir)).toMatchObject([{ inUse: true }]);
  expect(await agent.stop()).toBe(0);
  const last = agent.output().trimEnd().split('\n').at(-1);
  expect(last).toContain(`of RAM stay in ${shmDir} for the next agent; to free them: kvtier ram drop --data-dir ${dataDir}`);
  expect(listKeptRam(shmDir)).toMatchObject([{ inUse: false }]);
  expect(dropKeptRam(shmDir, dataDir)).toMatchObject({ outcome: 'dropped' });
  expect(readdirSync(shmDir)).toEqual([]);
});
