import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { afterEach, describe, expect, test } from 'vitest';
import { startAgent } from '#testsupport/agent.ts';
import { canMount, CheckedClient, Cleanup, fillDisk, runToEnd, until } from '#testsupport/bad-days.ts';

const cleanup = new Cleanup();
afterEach(() => cleanup.run());

const MiB = 1024 * 1024;
const anyPorts = ['--http', '127.0.0.1:0', '--resp', '127.0.0.1:0', '--lm', 'off', '--ram', '32MiB', '--ssd', '64MiB'];

describe('an agent that cannot start says why, in a sentence and an exit code', () => {
  test('another agent owns the data directory: 73, and the other goes on', async () => {
    const first = await cleanup.agent({ dataDir: cleanup.folder() });
    const second = await runToEnd(['--data-dir', first.dataDir, ...anyPorts]);
    expect(second).toMatchObject({ code: 73 });
    expect(second.output).toContain(`another agent owns ${first.dataDir}; stop it or name another --data-dir`);
    expect((await first.client.readiness()).state).toBe('ready');
    const client = await CheckedClient.connect(first);
    await client.store(0, 3, 1000);
    expect(await client.found(0, 3)).toEqual([0, 1, 2]);
    client.close();
  });

  test('an agent that is still ending is waited for', async () => {
    const first = await cleanup.agent({ dataDir: cleanup.folder() });
    first.process.kill('SIGTERM');
    const second = await startAgent({ dataDir: first.dataDir });
    expect(await first.exited).toBe(0);
    expect(await second.stop()).toBe(0);
  });

  test.each(['--http', '--resp'])('%s names a port in use: 75, and no shared memory stays behind', async (door) => {
    const server = createServer();
    await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve));
    cleanup.add(() => server.close());
    const address = server.address();
    const port = typeof address === 'object' && address !== null ? address.port : 0;
    const shmDir = cleanup.folder();
    const doors = anyPorts.map((word, index) => (anyPorts[index - 1] === door ? `127.0.0.1:${port}` : word));
    const ended = await runToEnd(['--data-dir', cleanup.folder(), '--shm-dir', shmDir, ...doors]);
    expect(ended).toMatchObject({ code: 75 });
    expect(ended.output).toContain(`Cannot listen on 127.0.0.1:${port}`);
    expect(readdirSync(shmDir)).toEqual([]);
  });

  test('a data directory below a file: 74', async () => {
    const file = join(cleanup.folder(), 'file');
    writeFileSync(file, '');
    const ended = await runToEnd(['--data-dir', join(file, 'data'), ...anyPorts]);
    expect(ended).toMatchObject({ code: 74 });
    expect(ended.output).toContain(join(file, 'data'));
    expect(ended.output).toContain('ENOTDIR');
  });

  test.skipIf(!canMount)('a data directory on a read-only file system: 74', async () => {
    const path = cleanup.mount(MiB, { readOnly: true });
    const ended = await runToEnd(['--data-dir', path, '--ssd-dir', `${cleanup.folder()}:64MiB`, ...anyPorts.slice(0, 6)]);
    expect(ended).toMatchObject({ code: 74 });
    expect(ended.output).toContain(path);
    expect(ended.output).toContain('EROFS');
  });

  test('a catalog of a newer kvtier: 65, and the catalog is left as it was', async () => {
    const first = await cleanup.agent({ dataDir: cleanup.folder() });
    await first.stop();
    const path = join(first.dataDir, 'catalog.db');
    const database = new Database(path);
    database.pragma('user_version = 999');
    database.close();
    const ended = await runToEnd(['--data-dir', first.dataDir, ...anyPorts]);
    expect(ended).toMatchObject({ code: 65 });
    expect(ended.output).toMatch(/The catalog has schema 999.*run a newer kvtier/);
    const again = new Database(path, { readonly: true });
    expect(again.pragma('user_version', { simple: true })).toBe(999);
    again.close();
  });

  test('agent.json is a folder: 74', async () => {
    const dataDir = cleanup.folder();
    mkdirSync(join(dataDir, 'agent.json'));
    expect(await runToEnd(['--data-dir', dataDir, ...anyPorts])).toMatchObject({ code: 74 });
  });
});

describe('--shm-dir on a file system of 64 MiB', () => {
  test.skipIf(!canMount)('--ram auto takes half of it, and four times the tier may be stored', async () => {
    const shmDir = cleanup.mount(64 * MiB);
    const agent = await cleanup.agent({ dataDir: cleanup.folder(), flags: ['--shm-dir', shmDir, '--ram', 'auto', '--ssd', '512MiB'] });
    const { tiers } = await agent.client.stats();
    expect(tiers[0]).toMatchObject({ tier: 'ram', capacityBytes: 32 * MiB });
    expect(agent.output()).toContain(`half of the free ${shmDir}`);
    const client = await CheckedClient.connect(agent);
    await client.store(0, 128, MiB);
    expect((await client.found(0, 128)).length).toBeGreaterThanOrEqual(122);
    client.close();
  });

  test.skipIf(!canMount)('a larger --ram is refused: 78, with both sizes and what to do', async () => {
    const shmDir = cleanup.mount(64 * MiB);
    const ended = await runToEnd([
      '--data-dir',
      cleanup.folder(),
      '--shm-dir',
      shmDir,
      '--ram',
      '256MiB',
      '--http',
      '127.0.0.1:0',
      '--resp',
      '127.0.0.1:0',
    ]);
    expect(ended).toMatchObject({ code: 78 });
    expect(ended.output).toContain(`--ram 256 MiB does not fit ${shmDir}: 64 MiB of 64 MiB are free`);
    expect(ended.output).toContain('--shm-size');
  });

  test.skipIf(!canMount)('one that others fill while the tier grows leaves the tier smaller, and says so', async () => {
    const shmDir = cleanup.mount(768 * MiB);
    const starting = cleanup.agent({ dataDir: cleanup.folder(), flags: ['--shm-dir', shmDir, '--ram', '700MiB', '--ssd', '64MiB'] });
    await until('the first arena', () => Promise.resolve(readdirSync(shmDir).length > 0));
    fillDisk(shmDir, 4 * MiB);
    const agent = await starting;
    const health = await until('degraded', async () => {
      const now = await agent.client.readiness();
      return now.state === 'degraded' && now;
    });
    expect(health.reasons.join()).toMatch(/Shared memory is full: .* of 700 MiB could be backed/);
    expect((await agent.client.stats()).tiers[0]?.capacityBytes).toBeLessThan(700 * MiB);
    const client = await CheckedClient.connect(agent);
    await client.store(0, 200, 4 * MiB);
    expect((await client.found(190, 200)).length).toBe(10);
    client.close();
  });

  test.skipIf(!canMount)('an agent that was killed does not stand in the way of the next one', async () => {
    const shmDir = cleanup.mount(64 * MiB);
    const options = { dataDir: cleanup.folder(), flags: ['--shm-dir', shmDir, '--ram', '60MiB', '--ssd', '64MiB'] };
    const first = await cleanup.agent(options);
    await first.kill9();
    const second = await cleanup.agent(options);
    expect((await second.client.stats()).tiers[0]).toMatchObject({ capacityBytes: 60 * MiB });
  });
});
