/** The real pool on files that never open: a FIFO without a peer holds a thread as a device that hangs does. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, openSync, closeSync, rmSync, constants, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { HostIoPool } from '#host/io-pool.ts';
import { mapAnonymous } from '#host/libc.ts';
import type { Address } from '#core/brand.ts';

const ETIMEDOUT = 110;
let folder = '';
let pool: HostIoPool;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'kvtier-stuck-'));
  pool = await HostIoPool.start({
    socketWorkers: 1,
    fileWorkers: 2,
    fileDeadlineMs: 200,
    onCrash: (reason) => {
      throw new Error(reason);
    },
  });
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

function fifo(name: string): string {
  const path = join(folder, name);
  execFileSync('mkfifo', [path]);
  return path;
}

/** Lets a thread that reads the FIFO go on; it finds nothing to read. */
function release(path: string): void {
  closeSync(openSync(path, constants.O_WRONLY | constants.O_NONBLOCK));
}

/** A thread that was ended meanwhile holds nothing any more. */
function releaseIfHeld(path: string): void {
  try {
    release(path);
  } catch (problem) {
    expect((problem as { code?: string }).code).toBe('ENXIO');
  }
}

describe('HostIoPool on a device that does not answer', () => {
  it('fails what passes its deadline, gives up what waits for it, and keeps as many threads as it had', async () => {
    const stuck = ['a', 'b', 'c', 'd'].map((name) => fifo(name));
    const sound = join(folder, 'sound');
    writeFileSync(sound, new Uint8Array(8192));
    const outcomes = stuck.map((path) => pool.files.checksumFile(path, 4096));
    const first = await Promise.race(outcomes);
    expect(first).toMatchObject({ ok: false, errno: ETIMEDOUT, step: 'checksum' });
    pool.files.abandon(`${folder}/`);
    for (const outcome of await Promise.all(outcomes)) expect(outcome).toMatchObject({ ok: false, errno: ETIMEDOUT });
    expect(pool.files.stuckCount).toBeLessThanOrEqual(4);
    // Both kinds of work go on: reads, and what is allowed half of the threads.
    expect(await pool.files.checksumFile(sound, 4096)).toMatchObject({ ok: true });
    expect(await pool.files.statFs(folder)).toMatchObject({ ok: true });
    expect(await pool.files.readHeaders([sound])).toEqual([new Uint8Array(4096)]);
    for (const path of stuck) {
      try {
        release(path);
      } catch (problem) {
        // Nobody had begun to read this one.
        expect((problem as { code?: string }).code).toBe('ENXIO');
      }
    }
    await pool.close();
  });

  it('says how it ended when it ends after all, and has no more threads than before', async () => {
    const path = fifo('late');
    const address = mapAnonymous(8192) as Address;
    const outcome = await pool.files.readChunk({ path, address, sizeBytes: 4096, capacityBytes: 8192, direct: false, priority: 'demand' });
    expect(outcome).toMatchObject({ ok: false, errno: ETIMEDOUT });
    expect(pool.files.stuckCount).toBe(1);
    release(path);
    // The file was empty: the read failed.
    expect(await (outcome as { late?: Promise<boolean> }).late).toBe(false);
    expect(pool.files.stuckCount).toBe(0);
    await pool.close();
  });

  it('closes although a thread never comes back', async () => {
    const path = fifo('never');
    const outcome = pool.files.checksumFile(path, 4096);
    await pool.close();
    expect(await outcome).toMatchObject({ ok: false, errno: ETIMEDOUT });
    releaseIfHeld(path);
  });

  it('does not run out of threads however many operations hang: at most twice its own', async () => {
    const paths = Array.from({ length: 12 }, (_, index) => fifo(`f${index}`));
    const outcomes = paths.map((path) => pool.files.readHeaders([path]));
    await outcomes[3];
    expect(pool.files.stuckCount).toBeLessThanOrEqual(4);
    pool.files.abandon(folder);
    await Promise.all(outcomes);
    for (const path of paths) releaseIfHeld(path);
    await pool.close();
  });
});
