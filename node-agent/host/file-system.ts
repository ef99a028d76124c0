/** FileSystem on node:fs: small, synchronous, for start-up, the journal and agent.json. */
import * as fs from 'node:fs';
import { dirname } from 'node:path';
import type { Fd } from '#core/brand.ts';
import { ioFailed } from '#core/errors.ts';
import type { KvtierError } from '#core/errors.ts';
import type { AppendFile, FileSystem } from '#ports/file-system.ts';
import { LOCK_EX, LOCK_NB, O_CLOEXEC, O_CREAT, O_RDWR, addressOf, cString, errno, libc } from './libc.ts';

function translate(action: string, path: string, problem: unknown): KvtierError {
  const number = Math.abs((problem as { errno?: number }).errno ?? 5);
  return ioFailed(`${action} ${path}`, number, { path });
}

function isMissing(problem: unknown): boolean {
  return (problem as { code?: string }).code === 'ENOENT';
}

export type SyncFile = (fd: Fd) => Promise<{ readonly ok: true } | { readonly ok: false; readonly errno: number }>;

class HostAppendFile implements AppendFile {
  readonly path: string;
  readonly #fd: number;
  readonly #syncFile: SyncFile;
  #sizeBytes: number;

  constructor(path: string, syncFile: SyncFile) {
    this.path = path;
    this.#syncFile = syncFile;
    try {
      this.#fd = fs.openSync(path, 'a+', 0o600);
      this.#sizeBytes = fs.fstatSync(this.#fd).size;
    } catch (problem) {
      throw translate('Cannot open', path, problem);
    }
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  append(bytes: Uint8Array): void {
    try {
      let offset = 0;
      while (offset < bytes.length) offset += fs.writeSync(this.#fd, bytes, offset, bytes.length - offset);
      this.#sizeBytes += bytes.length;
    } catch (problem) {
      throw translate('Cannot append to', this.path, problem);
    }
  }

  async sync(): Promise<void> {
    const outcome = await this.#syncFile(this.#fd as Fd);
    if (!outcome.ok) throw ioFailed(`Cannot sync ${this.path}`, outcome.errno, { path: this.path });
  }

  truncate(sizeBytes: number): void {
    try {
      fs.ftruncateSync(this.#fd, sizeBytes);
      this.#sizeBytes = sizeBytes;
    } catch (problem) {
      throw translate('Cannot truncate', this.path, problem);
    }
  }

  close(): void {
    fs.closeSync(this.#fd);
  }
}

export class HostFileSystem implements FileSystem {
  readonly #syncFile: SyncFile;

  /** `syncFile` runs fdatasync off the main thread. */
  constructor(syncFile: SyncFile) {
    this.#syncFile = syncFile;
  }

  readFile(path: string): Uint8Array | undefined {
    try {
      return new Uint8Array(fs.readFileSync(path));
    } catch (problem) {
      if (isMissing(problem)) return undefined;
      throw translate('Cannot read', path, problem);
    }
  }

  writeFileAtomic(path: string, bytes: Uint8Array): void {
    const temporary = `${path}.tmp`;
    try {
      const fd = fs.openSync(temporary, 'w', 0o600);
      try {
        let offset = 0;
        while (offset < bytes.length) offset += fs.writeSync(fd, bytes, offset, bytes.length - offset);
        fs.fsyncSync(fd);
      } finally {
        fs.closeSync(fd);
      }
      fs.renameSync(temporary, path);
      this.#syncFolder(dirname(path));
    } catch (problem) {
      throw translate('Cannot write', path, problem);
    }
  }

  #syncFolder(path: string): void {
    const fd = fs.openSync(path, 'r');
    try {
      fs.fsyncSync(fd);
    } finally {
      fs.closeSync(fd);
    }
  }

  openAppend(path: string): AppendFile {
    return new HostAppendFile(path, this.#syncFile);
  }

  mkdir(path: string): void {
    try {
      fs.mkdirSync(path, { recursive: true, mode: 0o700 });
    } catch (problem) {
      throw translate('Cannot create folder', path, problem);
    }
  }

  list(path: string): string[] {
    try {
      return fs.readdirSync(path);
    } catch (problem) {
      throw translate('Cannot list', path, problem);
    }
  }

  exists(path: string): boolean {
    return fs.existsSync(path);
  }

  remove(path: string): void {
    try {
      fs.rmSync(path, { recursive: true, force: true });
    } catch (problem) {
      throw translate('Cannot remove', path, problem);
    }
  }

  rename(from: string, to: string): void {
    try {
      fs.renameSync(from, to);
    } catch (problem) {
      throw translate('Cannot rename', from, problem);
    }
  }

  sizeBytes(path: string): number | undefined {
    try {
      return fs.statSync(path).size;
    } catch (problem) {
      if (isMissing(problem)) return undefined;
      throw translate('Cannot stat', path, problem);
    }
  }

  statFs(path: string): { totalBytes: number; freeBytes: number } {
    try {
      const stats = fs.statfsSync(path);
      return { totalBytes: stats.blocks * stats.bsize, freeBytes: stats.bavail * stats.bsize };
    } catch (problem) {
      throw translate('Cannot stat file system of', path, problem);
    }
  }

  lock(path: string): { release(): void } | undefined {
    const fd = libc.open(addressOf(cString(path)), O_RDWR | O_CREAT | O_CLOEXEC, 0o600);
    if (fd < 0) throw ioFailed(`Cannot open ${path}`, errno(), { path });
    if (libc.flock(fd, LOCK_EX | LOCK_NB) !== 0) {
      libc.close(fd);
      return undefined;
    }
    return { release: () => void libc.close(fd) };
  }
}
