/**
 * Where the catalog's file is and how it is opened. The one seam between the catalog's SQL and a disk: a simulation has a twin whose
 * file is an image that a crash may leave behind.
 */
import { chmodSync, closeSync, openSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import Database from 'better-sqlite3';

/** Corrupt catalogs kept beside the new one for people to look at. */
export const KEPT_CORRUPT_FILES = 2;

export interface CatalogFiles {
  /** For reading and writing; creates an empty file where there is none. The caller closes it. */
  open(busyTimeoutMs: number): Database.Database;
  /** For reading what is committed, beside the other. The caller closes it. */
  openReader(): Database.Database;
  /** Size of the write-ahead log; 0 where there is none. */
  walBytes(): number;
  /** Puts a corrupt file out of the way, with its log; nobody has it open. Returns its new name. */
  setAside(): string;
}

export class SqliteFiles implements CatalogFiles {
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  open(busyTimeoutMs: number): Database.Database {
    createPrivate(this.#path);
    return new Database(this.#path, { timeout: busyTimeoutMs });
  }

  openReader(): Database.Database {
    return new Database(this.#path, { readonly: true, fileMustExist: true });
  }

  walBytes(): number {
    return statSync(`${this.#path}-wal`, { throwIfNoEntry: false })?.size ?? 0;
  }

  /** Renames to `<path>.corrupt-<n>` and removes all but the newest few. */
  setAside(): string {
    const path = this.#path;
    const prefix = `${basename(path)}.corrupt-`;
    const numbers = readdirSync(dirname(path))
      .filter((name) => name.startsWith(prefix) && /^\d{1,9}$/.test(name.slice(prefix.length)))
      .map((name) => Number(name.slice(prefix.length)))
      .sort((a, b) => a - b);
    const aside = `${path}.corrupt-${(numbers.at(-1) ?? 0) + 1}`;
    renameSync(path, aside);
    if (statSync(`${path}-wal`, { throwIfNoEntry: false }) !== undefined) renameSync(`${path}-wal`, `${aside}-wal`);
    rmSync(`${path}-shm`, { force: true });
    for (const number of numbers.slice(0, Math.max(0, numbers.length + 1 - KEPT_CORRUPT_FILES))) {
      for (const suffix of ['', '-wal', '-shm']) rmSync(`${path}.corrupt-${number}${suffix}`, { force: true });
    }
    return aside;
  }
}

/** Mode 0600 before SQLite sees it: the WAL and its index get the mode of the file. */
function createPrivate(path: string): void {
  closeSync(openSync(path, 'a', 0o600));
  chmodSync(path, 0o600);
}
