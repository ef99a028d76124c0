import { fdatasync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { HostFileSystem } from '#host/file-system.ts';
import type { SyncFile } from '#host/file-system.ts';
import { describeFileSystem } from '#testsupport/file-system-contract.ts';
import { SimFileSystem } from '#testsupport/sim-file-system.ts';

describeFileSystem('SimFileSystem', () => {
  const fileSystem = new SimFileSystem();
  fileSystem.mkdir('/data');
  return { fileSystem, folder: '/data', dispose: () => undefined };
});

describeFileSystem('HostFileSystem', () => {
  const folder = mkdtempSync(join(tmpdir(), 'kvtier-file-system-'));
  const syncFile: SyncFile = (fd) =>
    new Promise((resolve) => fdatasync(fd, (error) => resolve(error === null ? { ok: true } : { ok: false, errno: -(error.errno ?? -5) })));
  return { fileSystem: new HostFileSystem(syncFile), folder, dispose: () => rmSync(folder, { recursive: true }) };
});
