import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, statfsSync, symlinkSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import type { RunningAgent } from '#testsupport/agent.ts';
import { canMount, CheckedClient, Cleanup, fillDisk, range, runToEnd, until, untilClean } from '#testsupport/bad-days.ts';
import { RespError } from '#testsupport/value-client.ts';
import { chunkFiles } from '#testsupport/kill-tamper.ts';

const cleanup = new Cleanup();
afterEach(() => cleanup.run());

const MiB = 1024 * 1024;
const writeAtOnce = ['--ssd-admission', 'through', '--ram', '64MiB'];

async function folderOf(
  agent: RunningAgent,
  path: string,
): Promise<{ readonly state: string; readonly reason: string; readonly chunkCount: number }> {
  const { tiers } = await agent.client.stats();
  const folder = tiers.find(({ tier }) => tier === 'ssd')?.folders?.find((candidate) => candidate.path === path);
  if (folder === undefined) throw new Error(`Stats do not know ${path}`);
  return folder;
}

/** Keys stored, written to SSD, and taken out of RAM, so that every read goes to a file. */
async function onSsdOnly(agent: RunningAgent, client: CheckedClient, keys: { from: number; to: number; sizeBytes: number }): Promise<void> {
  await client.store(keys.from, keys.to, keys.sizeBytes);
  await untilClean(agent);
  await agent.client.evict({ tier: 'ram', selector: { all: true } });
}

describe('a full disk', () => {
  test.skipIf(!canMount)('the folder takes no writes and says so, RAM goes on, and it recovers by itself', async () => {
    const disk = cleanup.mount(96 * MiB);
    const ssd = join(disk, 'ssd');
    const agent = await cleanup.agent({
      dataDir: cleanup.folder(),
      flags: [...writeAtOnce, '--ssd-dir', `${ssd}:64MiB`, '--ssd-free-space-floor', '1MiB'],
    });
    const client = await CheckedClient.connect(agent);
    await client.store(0, 4, MiB);
    await untilClean(agent);
    const filler = fillDisk(disk);
    await client.store(4, 14, MiB);
    const health = await until('degraded', async () => {
      const now = await agent.client.readiness();
      return now.state === 'degraded' && now;
    });
    expect(health.reasons.join()).toMatch(/ENOSPC|free space/);
    expect((await fetch(`${agent.url}/readyz`)).status).toBe(200);
    expect(await client.found(0, 14)).toEqual(range(0, 14));
    expect((await agent.client.stats()).tiers[0]?.dirtyBytes).toBeGreaterThan(0);

    rmSync(filler);
    await until('ready again', async () => (await agent.client.readiness()).state === 'ready');
    await untilClean(agent);
    await agent.kill9();
    const again = await cleanup.agent({ dataDir: agent.dataDir, flags: [...writeAtOnce, '--ssd-dir', `${ssd}:64MiB`] });
    const reader = await CheckedClient.connect(again);
    expect(await reader.found(0, 14)).toEqual(range(0, 14));
  });

  test.skipIf(!canMount)(
    'others that take the free space below the floor get it back from the tier, and where that is not enough it says so',
    async () => {
      const disk = cleanup.mount(96 * MiB);
      const ssd = join(disk, 'ssd');
      const agent = await cleanup.agent({
        dataDir: cleanup.folder(),
        flags: [...writeAtOnce, '--ssd-dir', `${ssd}:64MiB`, '--ssd-free-space-floor', '8MiB'],
      });
      const client = await CheckedClient.connect(agent);
      await onSsdOnly(agent, client, { from: 0, to: 4, sizeBytes: MiB });
      const filler = fillDisk(disk, 6 * MiB);
      await until('8 MiB are free', () => Promise.resolve(statfsSync(disk).bavail * statfsSync(disk).bsize >= 8 * MiB));
      expect((await agent.client.readiness()).state).toBe('ready');
      expect((await client.found(0, 4)).length).toBeGreaterThan(0);
      renameSync(filler, `${filler}-1`);
      fillDisk(disk, 2 * MiB);
      const health = await until('degraded', async () => {
        const now = await agent.client.readiness();
        return now.state === 'degraded' && now;
      });
      expect(health.reasons.join()).toContain('below the floor of 8 MiB');
      await client.store(4, 8, MiB);
      expect(await client.found(4, 8)).toEqual(range(4, 8));
      expect((await agent.client.stats()).io.writeErrors).toBe(0);
    },
  );

  test.skipIf(!canMount)(
    'the disk of the data directory is full: stores and invalidations that must be journaled are refused, nothing dead is served',
    async () => {
      const disk = cleanup.mount(64 * MiB);
      const dataDir = join(disk, 'data');
      const ssd = cleanup.folder();
      const agent = await cleanup.agent({ dataDir, flags: [...writeAtOnce, '--ssd-dir', `${ssd}:64MiB`] });
      const client = await CheckedClient.connect(agent);
      await client.store(0, 40, 100_000);
      await untilClean(agent);
      const filler = fillDisk(disk);
      // The journal's last page has room for a while.
      await until('the journal cannot grow', async () => {
        try {
          await agent.client.invalidate({ selector: { keyPrefix: 'nothing:' } });
          return false;
        } catch {
          return true;
        }
      });
      const kept: number[] = [];
      for (const key of range(0, 40)) {
        try {
          await client.client.command('DEL', `bad:${key}`);
        } catch (problem) {
          expect(problem).toBeInstanceOf(RespError);
          kept.push(key);
        }
      }
      expect(kept.length).toBeGreaterThan(20);
      expect(await client.found(0, 40)).toEqual(kept);
      await client.store(50, 52, 1000); // of keys without a file: nothing to journal
      expect(await client.found(50, 52)).toEqual([50, 51]);
      await agent.kill9();

      const flags = [...writeAtOnce, '--ssd-dir', `${ssd}:64MiB`];
      const refused = await runToEnd(['--data-dir', dataDir, '--http', '127.0.0.1:0', '--resp', '127.0.0.1:0', '--lm', 'off', ...flags]);
      expect(refused).toMatchObject({ code: 74 });
      expect(refused.output).toContain('ENOSPC');
      rmSync(filler);
      const again = await cleanup.agent({ dataDir, flags });
      const reader = await CheckedClient.connect(again);
      expect((await reader.found(0, 40)).every((key) => kept.includes(key))).toBe(true);
    },
  );
});

describe('files of the SSD tier', () => {
  test('one that the device cannot read costs its chunk and nothing else', async () => {
    const agent = await cleanup.agent({ dataDir: cleanup.folder(), flags: writeAtOnce });
    const client = await CheckedClient.connect(agent);
    await onSsdOnly(agent, client, { from: 0, to: 8, sizeBytes: MiB });
    const victim = chunkFiles(join(agent.dataDir, 'ssd')).find(({ key }) => key === 'bad:3')?.path ?? '';
    rmSync(victim);
    symlinkSync('/proc/self/mem', victim); // every read at its beginning is an EIO
    for (let round = 0; round < 4; round += 1) expect(await client.found(0, 8)).toEqual([0, 1, 2, 4, 5, 6, 7]);
    expect(await folderOf(agent, join(agent.dataDir, 'ssd'))).toMatchObject({ state: 'ok' });
    expect((await agent.client.stats()).io.readErrors).toBe(1);
    expect(agent.output()).toContain('EIO');
    await client.store(3, 4, MiB);
    expect(await client.found(3, 4)).toEqual([3]);
  });

  test.each([
    ['a missing one', (path: string): void => rmSync(path)],
    ['a folder in its place', (path: string): void => (rmSync(path), mkdirSync(path))],
    ['a cut one', (path: string): void => truncateSync(path, 100_000)],
    ['an empty one', (path: string): void => truncateSync(path, 0)],
    ['a link that leads nowhere', (path: string): void => (rmSync(path), symlinkSync('/nowhere/at/all', path))],
  ])('%s is a miss, and so it is after a restart', async (_, spoil) => {
    const dataDir = cleanup.folder();
    const agent = await cleanup.agent({ dataDir, flags: writeAtOnce });
    const client = await CheckedClient.connect(agent);
    await onSsdOnly(agent, client, { from: 0, to: 3, sizeBytes: MiB });
    spoil(chunkFiles(join(dataDir, 'ssd')).find(({ key }) => key === 'bad:1')?.path ?? '');
    expect(await client.found(0, 3)).toEqual([0, 2]);
    expect((await agent.client.readiness()).state).toBe('ready');
    expect(await agent.stop()).toBe(0);
    const again = await cleanup.agent({ dataDir, flags: writeAtOnce });
    const reader = await CheckedClient.connect(again);
    expect(await reader.found(0, 3)).toEqual([0, 2]);
    await reader.store(1, 2, MiB);
    await untilClean(again);
    expect(await reader.found(0, 3)).toEqual([0, 1, 2]);
  });
});

describe('a lost SSD folder', () => {
  test('removed while the agent runs: it is off, RAM goes on, and nothing of it returns', async () => {
    const dataDir = cleanup.folder();
    const ssd = join(dataDir, 'ssd');
    const agent = await cleanup.agent({ dataDir, flags: writeAtOnce });
    const client = await CheckedClient.connect(agent);
    await onSsdOnly(agent, client, { from: 0, to: 4, sizeBytes: MiB });
    await client.store(4, 8, MiB);
    await untilClean(agent);
    rmSync(ssd, { recursive: true });
    await until('the folder is off', async () => (await folderOf(agent, ssd)).state === 'off');
    expect((await agent.client.readiness()).reasons.join()).toContain('the folder is gone');
    expect(await client.found(0, 8)).toEqual([4, 5, 6, 7]);
    await client.store(8, 10, MiB);
    expect(await client.found(4, 10)).toEqual(range(4, 10));
    expect(await agent.stop()).toBe(0);
    expect(agent.output()).toContain(`${6 * MiB} bytes were only in RAM and are gone`);
    const again = await cleanup.agent({ dataDir, flags: writeAtOnce });
    const reader = await CheckedClient.connect(again);
    expect(await reader.found(0, 10)).toEqual([]);
    expect((await again.client.readiness()).state).toBe('ready');
  });

  test('one of two: only its chunks are lost', async () => {
    const [one, two] = [cleanup.folder(), cleanup.folder()];
    const flags = [...writeAtOnce, '--ssd-dir', `${one}:128MiB`, '--ssd-dir', `${two}:128MiB`];
    const agent = await cleanup.agent({ dataDir: cleanup.folder(), flags });
    const client = await CheckedClient.connect(agent);
    await onSsdOnly(agent, client, { from: 0, to: 24, sizeBytes: MiB });
    const kept = chunkFiles(two)
      .map(({ key }) => Number(key.slice(4)))
      .sort((a, b) => a - b);
    expect(kept.length).toBeGreaterThan(4);
    expect(kept.length).toBeLessThan(20);
    rmSync(one, { recursive: true });
    await until('the folder is off', async () => (await folderOf(agent, one)).state === 'off');
    expect(await folderOf(agent, two)).toMatchObject({ state: 'ok', chunkCount: kept.length });
    expect(await client.found(0, 24)).toEqual(kept);
    await client.store(24, 28, MiB);
    await untilClean(agent);
    await agent.client.evict({ tier: 'ram', selector: { all: true } });
    expect(await client.found(24, 28)).toEqual(range(24, 28));
  });

  test('a folder that missed a run is emptied: it does not know what was taken away meanwhile', async () => {
    const dataDir = cleanup.folder();
    const [one, two] = [cleanup.folder(), cleanup.folder()];
    const both = [...writeAtOnce, '--ssd-dir', `${one}:128MiB`, '--ssd-dir', `${two}:128MiB`];
    const first = await cleanup.agent({ dataDir, flags: both });
    const client = await CheckedClient.connect(first);
    await client.store(0, 16, MiB);
    await untilClean(first);
    expect(await first.stop()).toBe(0);
    const onOne = chunkFiles(one)
      .map(({ key }) => Number(key.slice(4)))
      .sort((a, b) => a - b);
    expect(chunkFiles(two).length).toBeGreaterThan(0);

    const second = await cleanup.agent({ dataDir, flags: [...writeAtOnce, '--ssd-dir', `${one}:128MiB`] });
    const reader = await CheckedClient.connect(second);
    expect(await reader.found(0, 16)).toEqual(onOne);
    expect(await second.stop()).toBe(0);

    const third = await cleanup.agent({ dataDir, flags: both });
    expect(third.output()).toContain(`${two} missed a run`);
    expect((await third.client.readiness()).reasons.join()).toContain(`${two} missed a run`);
    const last = await CheckedClient.connect(third);
    expect(await last.found(0, 16)).toEqual(onOne);
    await until('the dropped files are unlinked', () => Promise.resolve(!readdirSync(two).some((name) => name.startsWith('dropped-'))));
  });

  test('a folder that was away for a while within one run stays off until a restart, and is empty then', async () => {
    const dataDir = cleanup.folder();
    const parent = cleanup.folder();
    const ssd = join(parent, 'ssd');
    const flags = [...writeAtOnce, '--ssd-dir', `${ssd}:128MiB`];
    const agent = await cleanup.agent({ dataDir, flags });
    const client = await CheckedClient.connect(agent);
    await onSsdOnly(agent, client, { from: 0, to: 4, sizeBytes: MiB });
    renameSync(ssd, `${ssd}-away`);
    await until('the folder is off', async () => (await folderOf(agent, ssd)).state === 'off');
    renameSync(`${ssd}-away`, ssd);
    expect(await client.found(0, 4)).toEqual([]);
    expect(await agent.stop()).toBe(0);
    const again = await cleanup.agent({ dataDir, flags });
    const reader = await CheckedClient.connect(again);
    expect(await reader.found(0, 4)).toEqual([]);
    expect(existsSync(join(ssd, 'kvtier-folder.json'))).toBe(true);
  });
});
