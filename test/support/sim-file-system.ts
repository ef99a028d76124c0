/**
 * A file system in memory that knows what a power cut loses: bytes that were not synced, and names whose folder was not synced.
 * Passes the contract suite of the real one (file-system-contract.ts).
 *
 * The model: a file has cached bytes (what every process sees) and durable bytes (as of its last sync). Names are likewise
 * cached and durable; changes of names reach the disk in their order, as on a journaling file system. A power cut keeps the
 * durable state plus whatever part of the rest `PowerCut` says.
 */
import { ioFailed } from '#core/errors.ts';
import type { AppendFile, FileSystem } from '#ports/file-system.ts';

export type SimOperation =
  | 'readFile'
  | 'openAppend'
  | 'append'
  | 'sync'
  | 'truncate'
  | 'rename'
  | 'remove'
  | 'create'
  | 'syncFolder'
  | 'list';

/** The process ends here: thrown out of the operation that `stopAfter` chose. Not an operating error, nobody may catch it. */
export class SimStop extends Error {
  override readonly name = 'SimStop';
}

export interface PowerCut {
  /** What is left of a file of which `durable` was synced and `cached` was written. Default: `durable`. */
  readonly content?: (path: string, durable: Uint8Array, cached: Uint8Array) => Uint8Array;
  /** How many of the unsynced changes of names, oldest first, reached the disk. Default 0. */
  readonly names?: (pending: number) => number;
}

interface SimInode {
  cached: Uint8Array;
  durable: Uint8Array;
}

interface Failure {
  readonly operation: SimOperation;
  readonly errno: number;
  /** For `append`: bytes that are written all the same. */
  readonly partialBytes: number;
  readonly path: string | undefined;
}

type NameChange = { readonly path: string; readonly inode: SimInode | undefined };

const ENOENT = 2;
const EEXIST = 17;
const EISDIR = 21;

export class SimFileSystem implements FileSystem {
  /** Bytes that all files together may have; an append beyond it writes what fits and fails with ENOSPC. */
  capacityBytes = Number.MAX_SAFE_INTEGER;
  /** Operations done so far; `stopAfter` counts in these. */
  operationCount = 0;
  /** Syncs that met a handle closed under them: always a bug of the caller. */
  failedSyncs = 0;
  readonly #names = new Map<string, SimInode>();
  #durableNames = new Map<string, SimInode>();
  readonly #pendingNames: NameChange[][] = [];
  readonly #folders = new Set<string>(['/', '.']);
  readonly #locks = new Set<string>();
  #failures: Failure[] = [];
  #stopAt = Number.POSITIVE_INFINITY;
  #stopDuring: { readonly path: string; readonly count: number } | undefined;
  /** Grows with each power cut: handles of a former life are dead. */
  #life = 0;
  readonly #heldSyncs: (() => void)[] = [];
  #holdSyncs = false;

  /** The next `operation` (on `path`, where given) fails with `errno`; for append after `partialBytes` were written. */
  failNext(operation: SimOperation, errno: number, options: { partialBytes?: number; path?: string } = {}): void {
    this.#failures.push({ operation, errno, partialBytes: options.partialBytes ?? 0, path: options.path });
  }

  clearFailures(): void {
    this.#failures = [];
  }

  /** Throws SimStop instead of doing operation number `count` from now (1 is the next). Until `powerCut` all others stop too. */
  stopAfter(count: number): void {
    this.#stopAt = this.operationCount + count;
  }

  /** As `stopAfter`, counted from the moment at which somebody begins to write what is to replace `path`. */
  stopDuring(path: string, count: number): void {
    this.#stopDuring = { path: `${path}.tmp`, count };
  }

  clearStops(): void {
    this.#stopAt = Number.POSITIVE_INFINITY;
    this.#stopDuring = undefined;
  }

  /** The process has ended in the middle of an operation: whoever drives it does the rest. */
  get isStopped(): boolean {
    return this.operationCount >= this.#stopAt;
  }

  /** `AppendFile.sync` waits until `releaseSyncs`. */
  holdSyncs(): void {
    this.#holdSyncs = true;
  }

  releaseSyncs(): void {
    this.#holdSyncs = false;
    for (const release of this.#heldSyncs.splice(0)) release();
  }

  /** Syncs that wait, see `holdSyncs`. */
  get heldSyncCount(): number {
    return this.#heldSyncs.length;
  }

  /** Lets one of the waiting syncs reach the disk. */
  releaseSync(index: number): void {
    this.#heldSyncs.splice(index, 1)[0]?.();
  }

  /** The process was killed: as `restart`, but nobody of it is there any more, so what waits for a sync never goes on. */
  kill(): void {
    this.#heldSyncs.length = 0;
    this.#life += 1;
    const held = this.#holdSyncs;
    this.restart();
    this.#holdSyncs = held;
  }

  /** The machine loses power and comes back. */
  powerCut(cut: PowerCut = {}): void {
    const { content = (_path, durable) => durable, names = () => 0 } = cut;
    const kept = Math.max(0, Math.min(this.#pendingNames.length, names(this.#pendingNames.length)));
    for (const changes of this.#pendingNames.splice(0).slice(0, kept)) applyChanges(this.#durableNames, changes);
    this.#names.clear();
    const done = new Map<SimInode, SimInode>();
    for (const [path, inode] of this.#durableNames) {
      let after = done.get(inode);
      if (after === undefined) {
        const bytes = content(path, inode.durable.slice(), inode.cached.slice()).slice();
        after = { cached: bytes, durable: bytes };
        done.set(inode, after);
      }
      this.#names.set(path, after);
    }
    this.#durableNames = new Map(this.#names);
    this.restart();
    this.#life += 1;
  }

  /** The process was killed: nothing is lost, injected failures and locks are gone. */
  restart(): void {
    this.#locks.clear();
    this.#failures = [];
    this.#stopAt = Number.POSITIVE_INFINITY;
    this.#stopDuring = undefined;
    this.releaseSyncs();
  }

  /** Overwrites a file behind everybody's back, durably. */
  plant(path: string, bytes: Uint8Array): void {
    const inode = { cached: bytes.slice(), durable: bytes.slice() };
    this.#names.set(path, inode);
    this.#durableNames.set(path, inode);
  }

  readFile(path: string): Uint8Array | undefined {
    this.#step('readFile', path);
    if (this.#folders.has(path)) throw ioFailed(`Cannot read ${path}`, EISDIR, { path });
    return this.#names.get(path)?.cached.slice();
  }

  writeFileAtomic(path: string, bytes: Uint8Array): void {
    const temporary = `${path}.tmp`;
    this.#step('create', temporary);
    const inode: SimInode = { cached: new Uint8Array(), durable: new Uint8Array() };
    this.#change([{ path: temporary, inode }]);
    this.#write(inode, bytes, temporary);
    this.#step('sync', temporary);
    inode.durable = inode.cached;
    this.rename(temporary, path);
    this.#step('syncFolder', path);
    this.#syncNames();
  }

  openAppend(path: string): AppendFile {
    this.#step('openAppend', path);
    if (this.#folders.has(path)) throw ioFailed(`Cannot open ${path}`, EISDIR, { path });
    let inode = this.#names.get(path);
    if (inode === undefined) {
      inode = { cached: new Uint8Array(), durable: new Uint8Array() };
      this.#change([{ path, inode }]);
    }
    return this.#handle(path, inode);
  }

  mkdir(path: string): void {
    this.#folders.add(path);
  }

  list(path: string): string[] {
    this.#step('list', path);
    if (!this.#folders.has(path)) throw ioFailed(`Cannot list ${path}`, ENOENT, { path });
    const prefix = path.endsWith('/') ? path : `${path}/`;
    const inside = (name: string): boolean => name.startsWith(prefix) && name !== path && !name.slice(prefix.length).includes('/');
    return [...this.#names.keys(), ...this.#folders]
      .filter(inside)
      .map((name) => name.slice(prefix.length))
      .sort();
  }

  exists(path: string): boolean {
    return this.#names.has(path) || this.#folders.has(path);
  }

  remove(path: string): void {
    this.#step('remove', path);
    if (this.#names.has(path)) this.#change([{ path, inode: undefined }]);
  }

  rename(from: string, to: string): void {
    this.#step('rename', from);
    const inode = this.#names.get(from);
    if (inode === undefined) throw ioFailed(`Cannot rename ${from}`, ENOENT, { path: from });
    if (this.#folders.has(to)) throw ioFailed(`Cannot rename ${from} over a folder`, EEXIST, { path: to });
    this.#change([
      { path: from, inode: undefined },
      { path: to, inode },
    ]);
  }

  sizeBytes(path: string): number | undefined {
    return this.#names.get(path)?.cached.length;
  }

  statFs(_path: string): { totalBytes: number; freeBytes: number } {
    return { totalBytes: this.capacityBytes, freeBytes: this.capacityBytes - this.#usedBytes() };
  }

  lock(path: string): { release(): void } | undefined {
    if (this.#locks.has(path)) return undefined;
    this.#locks.add(path);
    if (!this.#names.has(path)) this.#change([{ path, inode: { cached: new Uint8Array(), durable: new Uint8Array() } }]);
    return { release: () => void this.#locks.delete(path) };
  }

  #handle(path: string, inode: SimInode): AppendFile {
    const life = this.#life;
    let open = true;
    const use = (operation: SimOperation): void => {
      if (!open || life !== this.#life) throw ioFailed(`Cannot ${operation} ${path}`, 9, { path });
      this.#step(operation, path);
    };
    return {
      path,
      get sizeBytes() {
        return inode.cached.length;
      },
      append: (bytes) => {
        if (!open || life !== this.#life) throw ioFailed(`Cannot append to ${path}`, 9, { path });
        this.#write(inode, bytes, path);
      },
      sync: async () => {
        use('sync');
        const bytes = inode.cached;
        if (this.#holdSyncs) await new Promise<void>((release) => void this.#heldSyncs.push(release));
        // On a real host the number of a closed descriptor may be another file's by now.
        if (!open) {
          this.failedSyncs += 1;
          throw ioFailed(`Cannot sync ${path}, closed meanwhile`, 9, { path });
        }
        if (life === this.#life) inode.durable = bytes;
      },
      truncate: (sizeBytes) => {
        use('truncate');
        inode.cached = inode.cached.slice(0, sizeBytes);
      },
      close: () => {
        open = false;
      },
    };
  }

  /** Appends in one operation; injected failures and a full disk leave a part. */
  #write(inode: SimInode, bytes: Uint8Array, path: string): void {
    this.#stop();
    const failure = this.#takeFailure('append', path);
    const roomBytes = Math.max(0, this.capacityBytes - this.#usedBytes());
    const fits = failure !== undefined ? Math.min(failure.partialBytes, bytes.length) : Math.min(roomBytes, bytes.length);
    const next = new Uint8Array(inode.cached.length + fits);
    next.set(inode.cached);
    next.set(bytes.subarray(0, fits), inode.cached.length);
    inode.cached = next;
    if (failure !== undefined) throw ioFailed(`Cannot append to ${path}`, failure.errno, { path });
    if (fits < bytes.length) throw ioFailed(`Cannot append to ${path}`, 28, { path });
  }

  #usedBytes(): number {
    let used = 0;
    for (const inode of new Set(this.#names.values())) used += inode.cached.length;
    return used;
  }

  #change(changes: NameChange[]): void {
    applyChanges(this.#names, changes);
    this.#pendingNames.push(changes);
  }

  #syncNames(): void {
    for (const changes of this.#pendingNames.splice(0)) applyChanges(this.#durableNames, changes);
  }

  #step(operation: SimOperation, path: string): void {
    if ((operation === 'create' || operation === 'openAppend') && path === this.#stopDuring?.path) this.stopAfter(this.#stopDuring.count);
    this.#stop();
    const failure = this.#takeFailure(operation, path);
    if (failure !== undefined) throw ioFailed(`Cannot ${operation} ${path}`, failure.errno, { path });
  }

  #stop(): void {
    this.operationCount += 1;
    if (this.operationCount >= this.#stopAt) throw new SimStop(`The process ends at operation ${this.operationCount}`);
  }

  #takeFailure(operation: SimOperation, path: string): Failure | undefined {
    const matches = (failure: Failure): boolean => failure.operation === operation && (failure.path ?? path) === path;
    const index = this.#failures.findIndex(matches);
    return index < 0 ? undefined : this.#failures.splice(index, 1)[0];
  }
}

function applyChanges(names: Map<string, SimInode>, changes: readonly NameChange[]): void {
  for (const { path, inode } of changes) {
    if (inode === undefined) names.delete(path);
    else names.set(path, inode);
  }
}
