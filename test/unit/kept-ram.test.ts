/** What agents leave in shared memory: seen by whoever asks, freed for whom it was kept, and never under a live agent. */
import { mkdirSync, mkdtempSync, readdirSync, realpathSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { MiB } from '#core/bytes.ts';
import { dropKeptRam, listKeptRam } from '#host/kept-ram.ts';
import { HostSharedMemory } from '#host/shared-memory.ts';
import { createCliHarness } from '#testsupport/cli-harness.ts';

let shmDir: string;
let dataDir: string;
beforeEach(() => {
  shmDir = mkdtempSync('/dev/shm/kvtier-kept-');
  dataDir = join(shmDir, 'data');
  mkdirSync(join(dataDir, 'journal'), { recursive: true });
});
afterEach(() => rmSync(shmDir, { recursive: true }));

/** An agent that has memory of a mebibyte and a table; the function ends it. */
function agent(keeps = true): () => void {
  const memory = new HostSharedMemory(shmDir, { dataDir, keeps });
  const arenas = ['table', 'ram-0'].map((name) => memory.create(name, MiB));
  for (const arena of arenas) arena.allocate(0, MiB);
  return () => arenas.forEach((arena) => arena.close({ keep: keeps }));
}

const files = (): string[] => readdirSync(shmDir).filter((name) => name.startsWith('kvtier-'));

describe('kept RAM', () => {
  it('is listed with its size, its owner and whether an agent has it', () => {
    expect(listKeptRam(shmDir)).toEqual([]);
    expect(listKeptRam(join(shmDir, 'nowhere'))).toEqual([]);
    const end = agent();
    expect(listKeptRam(shmDir)).toMatchObject([{ dataDir: realpathSync(dataDir), sizeBytes: 2 * MiB, inUse: true }]);
    end();
    const [kept, ...rest] = listKeptRam(shmDir);
    expect(rest).toEqual([]);
    expect(kept).toMatchObject({ dataDir: realpathSync(dataDir), sizeBytes: 2 * MiB, inUse: false });
    expect(Math.abs(Date.now() - (kept?.sinceMs ?? 0))).toBeLessThan(60_000);
  });

  it('is freed for its data directory, with the link, and for no other', () => {
    agent()();
    expect(dropKeptRam(shmDir, join(shmDir, 'other'))).toEqual({ outcome: 'none' });
    expect(files()).toHaveLength(3);
    expect(dropKeptRam(shmDir, dataDir)).toEqual({ outcome: 'dropped', sizeBytes: 2 * MiB });
    expect(files()).toEqual([]);
    expect(dropKeptRam(shmDir, dataDir)).toEqual({ outcome: 'none' });
  });

  it('of a live agent stays, all of it', () => {
    const end = agent();
    const before = files();
    expect(dropKeptRam(shmDir, dataDir)).toEqual({ outcome: 'in-use' });
    expect(files()).toEqual(before);
    end();
    expect(dropKeptRam(shmDir, dataDir)).toMatchObject({ outcome: 'dropped' });
  });

  it('is not locked by having been looked at', () => {
    agent()();
    listKeptRam(shmDir);
    const memory = new HostSharedMemory(shmDir, { dataDir, keeps: true });
    const arena = memory.open('table');
    expect(arena?.sizeBytes).toBe(MiB);
    arena?.close({ keep: false });
  });
});

describe('the command line', () => {
  it('lists kept RAM in doctor, and says how to free it', async () => {
    const cli = createCliHarness();
    const kept = { path: '/dev/shm/kvtier-0123456789ab', dataDir: '/srv/old', sizeBytes: 3 * MiB, sinceMs: 0, inUse: false };
    cli.probes = { keptRam: () => [kept, { ...kept, dataDir: '/srv/live', inUse: true }, { ...kept, dataDir: undefined }] };
    const { exit, out } = await cli.run('doctor');
    expect(exit).toBe(0);
    expect(out).toMatch(
      /kvtier-0123456789ab-\*: 3 MiB of the agent of \/srv\/old, which has ended; made .* ago\n {9}-> To free it: kvtier ram drop --data-dir \/srv\/old/,
    );
    expect(out).toContain('the agent of /srv/live, which is running');
    expect(out).toContain('The next agent of this user frees it.');
  });

  it('frees it, says so where nothing is kept, and refuses under a live agent', async () => {
    const cli = createCliHarness();
    expect(await cli.run('ram', 'drop')).toMatchObject({ exit: 0, out: 'Nothing is kept in /dev/shm for the agent of /srv/.kvtier\n' });
    cli.drop = { outcome: 'dropped', sizeBytes: 5 * MiB };
    expect((await cli.run('ram', 'drop')).out).toBe('Freed 5 MiB in /dev/shm that the agent of /srv/.kvtier had left\n');
    expect(JSON.parse((await cli.run('ram', 'drop', '--json')).out)).toMatchObject({ freedBytes: 5 * MiB });
    cli.drop = { outcome: 'in-use' };
    const refused = await cli.run('ram', 'drop');
    expect(refused.exit).toBe(73);
    expect(refused.err).toContain('the agent is running; stop it first');
    expect((await cli.run('ram')).exit).toBe(64);
    expect((await cli.run('ram', 'free')).exit).toBe(64);
  });
});
