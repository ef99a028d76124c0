import { execFileSync } from 'node:child_process';
import { closeSync, constants, fdatasync, mkdtempSync, openSync, readSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { HostFileSystem } from '#host/file-system.ts';
import type { SyncFile } from '#host/file-system.ts';
import { JournalFiles } from '#host/journal-files.ts';
import type { JournalDeadlines } from '#host/journal-files.ts';
import { describeFileSystem } from '#testsupport/file-system-contract.ts';
import { SimFileSystem } from '#testsupport/sim-file-system.ts';

describeFileSystem('SimFileSystem', () => {
  const fileSystem = new SimFileSystem();
  fileSystem.mkdir('/data');
  return { fileSystem, folder: '/data', dispose: () => undefined };
});

const syncFile: SyncFile = (fd) =>
  new Promise((resolve) => fdatasync(fd, (error) => resolve(error === null ? { ok: true } : { ok: false, errno: -(error.errno ?? -5) })));
const started: JournalFiles[] = [];
const journalFiles = await start(syncFile);
afterAll(async () => {
  for (const files of started) await files.close();
});

async function start(sync: SyncFile, deadlines?: JournalDeadlines): Promise<JournalFiles> {
  const files = await JournalFiles.start(
    sync,
    (reason) => {
      throw new Error(reason);
    },
    deadlines,
  );
  started.push(files);
  return files;
}

describeFileSystem('HostFileSystem', () => {
  const folder = mkdtempSync(join(tmpdir(), 'kvtier-file-system-'));
  return { fileSystem: new HostFileSystem(syncFile), folder, dispose: () => rmSync(folder, { recursive: true }) };
});

describeFileSystem('JournalFiles', () => {
  const folder = mkdtempSync(join(tmpdir(), 'kvtier-journal-files-'));
  return { fileSystem: journalFiles, folder, dispose: () => rmSync(folder, { recursive: true }) };
});

describe('JournalFiles', () => {
  /** Milliseconds until it was refused, and with what. */
  function refused(action: () => void): { ms: number; errno: unknown } {
    const startedAt = performance.now();
    try {
      action();
    } catch (problem) {
      return { ms: performance.now() - startedAt, errno: (problem as { context?: { errno?: number } }).context?.errno };
    }
    throw new Error('It was not refused');
  }

  test('waits for a write that does not end until its deadline, refuses all others at once, and goes on when it has ended', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'kvtier-journal-stall-'));
    const pipe = join(folder, 'pipe');
    execFileSync('mkfifo', [pipe]);
    const files = await start(syncFile, { writeMs: 200, syncMs: 200 });
    const file = files.openAppend(pipe);
    // A pipe holds 64 KiB; nobody reads it yet.
    const late = refused(() => file.append(new Uint8Array(100_000)));
    expect(late.errno).toBe(110);
    expect(late.ms).toBeGreaterThan(150);
    expect(late.ms).toBeLessThan(1000);
    expect(files.isStalled).toBe(true);
    for (const action of [
      () => file.append(new Uint8Array(1)),
      () => file.truncate(0),
      () => files.writeFileAtomic(join(folder, 'whole'), new Uint8Array(1)),
      () => void files.openAppend(join(folder, 'other')),
    ]) {
      const next = refused(action);
      expect(next.errno).toBe(110);
      expect(next.ms).toBeLessThan(100);
    }
    const reader = openSync(pipe, constants.O_RDONLY | constants.O_NONBLOCK);
    const piece = new Uint8Array(65_536);
    for (let read = 0; read < 100_000;) {
      try {
        read += readSync(reader, piece);
      } catch (problem) {
        if ((problem as { code?: string }).code !== 'EAGAIN') throw problem;
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
    }
    while (files.isStalled) await new Promise((resolve) => setTimeout(resolve, 1));
    files.writeFileAtomic(join(folder, 'whole'), new Uint8Array([7]));
    expect(files.readFile(join(folder, 'whole'))).toEqual(new Uint8Array([7]));
    file.append(new Uint8Array(10));
    closeSync(reader);
    file.close();
    rmSync(folder, { recursive: true });
  });

  test('gives a sync that does not end up', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'kvtier-journal-sync-'));
    const files = await start(() => new Promise(() => undefined), { writeMs: 1000, syncMs: 20 });
    const file = files.openAppend(join(folder, 'journal'));
    file.append(new Uint8Array(3));
    await expect(file.sync()).rejects.toMatchObject({ code: 'IO_FAILED', context: { errno: 110 } });
    file.close();
    rmSync(folder, { recursive: true });
  });
});
