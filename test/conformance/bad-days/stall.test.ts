import { execFileSync } from 'node:child_process';
import { closeSync, constants, openSync, rmSync } from 'node:fs';
import { afterEach, describe, expect, test } from 'vitest';
import type { RunningAgent } from '#testsupport/agent.ts';
import { CheckedClient, Cleanup, range, until, untilClean } from '#testsupport/bad-days.ts';
import { chunkFiles } from '#testsupport/kill-tamper.ts';

const cleanup = new Cleanup();
afterEach(() => cleanup.run());

const MiB = 1024 * 1024;

/** A FIFO nobody writes to: who opens it for reading waits, as on a device that hangs. */
function hang(path: string): void {
  rmSync(path);
  execFileSync('mkfifo', [path]);
}

async function stalling(): Promise<{ agent: RunningAgent; client: CheckedClient; files: readonly string[] }> {
  const dataDir = cleanup.folder();
  const ssd = `${dataDir}/ssd`;
  const agent = await cleanup.agent({ dataDir, flags: ['--ssd-admission', 'through', '--ssd-io-deadline', '300ms'] });
  const client = await CheckedClient.connect(agent);
  await client.store(0, 12, MiB);
  await untilClean(agent);
  await agent.client.evict({ tier: 'ram', selector: { all: true } });
  return { agent, client, files: chunkFiles(ssd).map((file) => file.path) };
}

describe('a device that does not answer', () => {
  test('its chunks are misses and it says so; the agent serves on, asks again, and finds everything when it is back', async () => {
    const { agent, client, files } = await stalling();
    const bad = files[0] ?? '';
    hang(bad);
    const others = await Promise.all(Array.from({ length: 6 }, () => CheckedClient.connect(agent)));
    const found = await Promise.all(others.map((other) => other.found(0, 12)));
    for (const keys of found) expect(keys.length).toBeLessThanOrEqual(11);
    const health = await agent.client.readiness();
    expect(health).toMatchObject({ state: 'degraded', reasons: [expect.stringMatching(/ssd.*does not answer/)] });
    expect(await (await fetch(`${agent.url}/metrics`)).text()).toMatch(/kvtier_folder_state\{folder="[^"]+",state="stalled"\} 1/);
    // RAM goes on as if nothing was.
    await client.store(20, 30, MiB);
    expect(await client.found(20, 30)).toEqual(range(20, 30));

    await until('answers again', async () => (await agent.client.readiness()).state === 'ready');
    await untilClean(agent);
    await agent.client.evict({ tier: 'ram', selector: { all: true } });
    // What did not hang is there, what hangs is a miss at once, and nothing stalls again.
    expect((await client.found(0, 12)).length).toBe(11);
    expect(await client.found(20, 30)).toEqual(range(20, 30));
    expect((await agent.client.readiness()).state).toBe('ready');
    closeSync(openSync(bad, constants.O_WRONLY | constants.O_NONBLOCK));
    expect(await agent.stop()).toBe(0);
  });

  test('does not hold up a stop, though its thread never comes back', async () => {
    const { agent, client, files } = await stalling();
    hang(files[0] ?? '');
    expect((await client.found(0, 12)).length).toBeLessThanOrEqual(11);
    expect(await agent.stop()).toBe(0);
    expect(agent.output()).toContain('Stopped');
  });
});
