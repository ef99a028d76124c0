import { existsSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import type { RunningAgent } from '#testsupport/agent.ts';
import { CheckedClient, Cleanup, range, until } from '#testsupport/bad-days.ts';

const cleanup = new Cleanup();
afterEach(() => cleanup.run());

const MiB = 1024 * 1024;
/** Nothing goes to SSD before the agent stops. */
const onlyAtTheEnd = ['--ssd-admission', 'demote', '--ram', '128MiB', '--ssd', '512MiB'];

/** A client that has announced a value and sends no more: a transfer that the agent waits for. */
async function stallInAValue(agent: RunningAgent): Promise<Socket> {
  const socket = connect(agent.resp.port, agent.resp.host);
  socket.on('error', () => undefined);
  cleanup.add(() => socket.destroy());
  await new Promise<void>((resolve) => void socket.once('connect', resolve));
  socket.write(`*3\r\n$3\r\nSET\r\n$7\r\nstalled\r\n$4194304\r\n${'x'.repeat(MiB)}`);
  await until('the value is under way', async () => {
    const { doors } = await agent.client.stats();
    return doors.some((door) => door.door === 'resp' && door.receivedBytes >= 1000);
  });
  return socket;
}

test('SIGTERM with dirty chunks writes them, and a restart finds everything', async () => {
  const dataDir = cleanup.folder();
  const first = await cleanup.agent({ dataDir, flags: onlyAtTheEnd });
  const client = await CheckedClient.connect(first);
  await client.store(0, 60, MiB);
  expect((await first.client.stats()).tiers[0]?.dirtyBytes).toBe(60 * MiB);
  expect(await first.stop()).toBe(0);
  expect(first.output()).toContain('Stopped: nothing was only in RAM');
  expect(existsSync(join(dataDir, 'agent.json'))).toBe(false);
  const second = await cleanup.agent({ dataDir, flags: onlyAtTheEnd });
  expect((await second.client.stats()).recovery).toMatchObject({ loadedRows: 60, adoptedFiles: 0, droppedFiles: 0 });
  const again = await CheckedClient.connect(second);
  expect(await again.found(0, 60)).toEqual(range(0, 60));
});

test('two signals within a second are one', async () => {
  const dataDir = cleanup.folder();
  const agent = await cleanup.agent({ dataDir, flags: onlyAtTheEnd });
  const client = await CheckedClient.connect(agent);
  await client.store(0, 20, MiB);
  agent.process.kill('SIGTERM');
  agent.process.kill('SIGINT');
  expect(await agent.exited).toBe(0);
  expect(agent.output()).toContain('Stopped: nothing was only in RAM');
});

test('a signal that comes later than a second after the first ends the process at once', async () => {
  const agent = await cleanup.agent({ dataDir: cleanup.folder(), flags: ['--shutdown-drain', '60s'] });
  await stallInAValue(agent);
  agent.process.kill('SIGTERM');
  await until('the drain has begun', () => Promise.resolve(agent.output().includes('SIGTERM: draining')));
  await new Promise((resolve) => setTimeout(resolve, 1100)); // the second that is meant
  const sentAt = performance.now();
  agent.process.kill('SIGTERM');
  expect(await agent.exited).toBe(1);
  expect(performance.now() - sentAt).toBeLessThan(2000);
});

test('while it drains, /readyz is 503, probes answer 0, stores are rejected, reads go on', async () => {
  const agent = await cleanup.agent({ dataDir: cleanup.folder(), flags: ['--shutdown-drain', '60s'] });
  const client = await CheckedClient.connect(agent);
  await client.store(0, 1, 1000);
  const stalled = await stallInAValue(agent);
  agent.process.kill('SIGTERM');
  await until('draining', async () => (await agent.client.readiness()).state === 'draining');
  expect((await fetch(`${agent.url}/readyz`)).status).toBe(503);
  expect((await fetch(`${agent.url}/healthz`)).status).toBe(200);
  expect(await client.client.command('EXISTS', 'bad:0')).toBe(0);
  await expect(client.store(1, 2, 1000)).rejects.toThrow('shutting down');
  expect(await client.found(0, 1)).toEqual([0]);
  await expect(CheckedClient.connect(agent)).rejects.toThrow('Cannot connect');
  stalled.destroy();
  expect(await agent.exited).toBe(0);
});

test('a client that stalls in a value takes no time from what must be written', async () => {
  const dataDir = cleanup.folder();
  const agent = await cleanup.agent({ dataDir, flags: [...onlyAtTheEnd, '--shutdown-drain', '5s'] });
  const client = await CheckedClient.connect(agent);
  await client.store(0, 40, MiB);
  await stallInAValue(agent);
  agent.process.kill('SIGTERM');
  expect(await agent.exited).toBe(0);
  expect(agent.output()).toContain('Stopped: nothing was only in RAM');
});

test('a drain that is too short says how many bytes are lost, and loses only those', async () => {
  const dataDir = cleanup.folder();
  const first = await cleanup.agent({ dataDir, flags: [...onlyAtTheEnd, '--shutdown-drain', '1ms'] });
  const client = await CheckedClient.connect(first);
  await client.store(0, 100, MiB);
  expect(await first.stop()).toBe(0);
  const said = /Stopped: (\d+) bytes were only in RAM and are gone/.exec(first.output());
  const lostBytes = Number(said?.[1]);
  expect(lostBytes).toBeGreaterThan(0);
  const second = await cleanup.agent({ dataDir, flags: onlyAtTheEnd });
  const again = await CheckedClient.connect(second);
  expect((await again.found(0, 100)).length * MiB).toBe(100 * MiB - lostBytes);
});
