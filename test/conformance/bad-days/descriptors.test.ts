import { execFileSync, spawnSync } from 'node:child_process';
import { connect, type Socket } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import { cpuMs, openDescriptors } from '#testsupport/agent-probes.ts';
import { CheckedClient, Cleanup, range, until } from '#testsupport/bad-days.ts';

const cleanup = new Cleanup();
afterEach(() => cleanup.run());

const hasPrlimit = spawnSync('prlimit', ['--version']).status === 0;
const MiB = 1024 * 1024;

/** Connections that do nothing; refused ones too. */
function hold(address: { readonly host: string; readonly port: number }, count: number): Socket[] {
  const sockets = Array.from({ length: count }, () => connect(address.port, address.host).on('error', () => undefined));
  cleanup.add(() => {
    for (const socket of sockets) socket.destroy();
  });
  return sockets;
}

describe('the limit of open files', () => {
  test.skipIf(!hasPrlimit)('at the start allows fewer connections than asked for: so many are accepted, and it says so', async () => {
    const agent = await cleanup.agent({ launcher: ['prlimit', '--nofile=456:456'] });
    const health = await agent.client.readiness();
    expect(health.state).toBe('degraded');
    expect(health.reasons.join()).toMatch(/descriptors: 100 connections at most and not 1024, since 456 files may be open; raise/);
    hold(agent.resp, 200);
    await until('all are accepted or refused', async () => {
      const door = (await agent.client.stats()).doors.find((row) => row.door === 'resp');
      return (door?.acceptedConnections ?? 0) >= 200;
    });
    const door = (await agent.client.stats()).doors.find((row) => row.door === 'resp');
    expect(door?.connections).toBe(100);
    expect(await agent.stop()).toBe(0);
  });

  test.skipIf(!hasPrlimit)('is raised as far as it may be', async () => {
    const agent = await cleanup.agent({ launcher: ['prlimit', '--nofile=256:4096'] });
    expect(await agent.client.readiness()).toEqual({ state: 'ready', reasons: [] });
    expect(await agent.stop()).toBe(0);
  });

  test.skipIf(!hasPrlimit)(
    'that is reached while it runs neither spins nor crashes; those who are there are served, and later ones again',
    async () => {
      const agent = await cleanup.agent({});
      const client = await CheckedClient.connect(agent);
      await client.store(0, 4, MiB);
      const open = openDescriptors(agent.pid);
      execFileSync('prlimit', ['--pid', String(agent.pid), `--nofile=${open + 30}:20000`]);
      const sockets = [...hold(agent.resp, 60), ...hold(agent.http, 60)];
      // Wherever it stands: the agent was asked by the old limit, so only the descriptors that are left tell.
      await until('the doors are closed', async () => {
        const probe = connect(agent.resp.port, agent.resp.host);
        return await new Promise<boolean>((resolve) => {
          probe.on('connect', () => resolve(false)).on('error', () => resolve(true));
          setTimeout(() => probe.destroy(), 500);
        });
      });
      const before = cpuMs(agent.pid);
      await new Promise((resolve) => setTimeout(resolve, 2000));
      expect(cpuMs(agent.pid) - before).toBeLessThan(1000);
      expect(await client.found(0, 4)).toEqual(range(0, 4));
      for (const socket of sockets) socket.destroy();
      execFileSync('prlimit', ['--pid', String(agent.pid), '--nofile=20000:20000']);
      await until('the doors are open', async () => {
        try {
          return (await agent.client.readiness()).state === 'ready';
        } catch {
          return false;
        }
      });
      const again = await CheckedClient.connect(agent);
      expect(await again.found(0, 4)).toEqual(range(0, 4));
      expect(agent.output()).toContain('The limit of open files is reached');
      expect(await agent.stop()).toBe(0);
    },
  );
});
