/**
 * The file system under the journal: what is written there is written by a thread of its own, for which the main thread waits, but no longer
 * than a deadline. So a record is in the page cache when `append` returns, as the cache relies on, and a disk that does not answer costs
 * the main thread one deadline and not the agent: until the thread is back, whatever would write is refused at once, with ETIMEDOUT.
 *
 * What timed out may still happen, later, and before anything that is asked afterwards: the caller must not believe the file any more
 * (Journal: nothing is appended until it is rewritten).
 *
 * Reads, listings and locks are the host's own.
 */
import type { Fd } from '#core/brand.ts';
import { ioFailed } from '#core/errors.ts';
import type { AppendFile, FileSystem } from '#ports/file-system.ts';
import { HostFileSystem } from './file-system.ts';
import type { SyncFile } from './file-system.ts';
import { JOURNAL_OPS, PIECE_BYTES, makeChannelMemory, openChannel } from './journal-channel.ts';
import type { JournalChannel, JournalOp } from './journal-channel.ts';
import { ETIMEDOUT } from './libc.ts';

export interface JournalDeadlines {
  /** For one write, of at most PIECE_BYTES into the page cache. */
  readonly writeMs: number;
  /** For a sync of the disk. */
  readonly syncMs: number;
}

/** A write takes microseconds; one that waits for the journal of a busy file system, seconds at most. */
export const JOURNAL_DEADLINES: JournalDeadlines = { writeMs: 2000, syncMs: 10_000 };

interface Call {
  /** For the message of an error. */
  readonly action: string;
  readonly path: string;
  readonly fd?: number;
  readonly data?: Uint8Array;
  readonly sizeBytes?: number;
  readonly deadlineMs?: number;
}

export class JournalFiles extends HostFileSystem implements FileSystem {
  readonly #channel: JournalChannel;
  readonly #worker: Worker;
  readonly #syncFile: SyncFile;
  readonly #deadlines: JournalDeadlines;
  readonly #stopped: Promise<void>;

  /** `syncFile` runs fdatasync off the main thread. `onCrash` is told where the thread ends by itself. */
  static async start(syncFile: SyncFile, onCrash: (reason: string) => void, deadlines = JOURNAL_DEADLINES): Promise<JournalFiles> {
    const memory = makeChannelMemory();
    const worker = new Worker(new URL('./journal-worker.ts', import.meta.url).href);
    const ready = Promise.withResolvers<void>();
    const stopped = Promise.withResolvers<void>();
    worker.onmessage = (event: MessageEvent<'ready' | 'stopped'>): void => (event.data === 'ready' ? ready : stopped).resolve();
    worker.onerror = (event): void => onCrash(`journal thread: ${event.message}`);
    worker.postMessage(memory);
    await ready.promise;
    return new JournalFiles({ memory, worker, syncFile, deadlines, stopped: stopped.promise });
  }

  /** Use `start`. */
  constructor(parts: {
    readonly memory: SharedArrayBuffer;
    readonly worker: Worker;
    readonly syncFile: SyncFile;
    readonly deadlines: JournalDeadlines;
    readonly stopped: Promise<void>;
  }) {
    super(parts.syncFile);
    this.#channel = openChannel(parts.memory);
    this.#worker = parts.worker;
    this.#syncFile = parts.syncFile;
    this.#deadlines = parts.deadlines;
    this.#stopped = parts.stopped;
  }

  /** True while an operation that passed its deadline is still under way. */
  get isStalled(): boolean {
    const { control, asked, answered } = this.#channel;
    return Atomics.load(control, asked) !== Atomics.load(control, answered);
  }

  /** Throws KvtierError: what the operation did, or ETIMEDOUT where it has not ended in time or a former one has not yet. */
  #call(op: JournalOp, { action, path, fd = -1, data = EMPTY, sizeBytes = 0, deadlineMs = this.#deadlines.writeMs }: Call): void {
    const channel = this.#channel;
    const { control } = channel;
    if (this.isStalled) throw ioFailed(`${action} ${path}, since the disk does not answer`, ETIMEDOUT, { path });
    control[channel.op] = op;
    control[channel.fd] = fd;
    control[channel.length] = data.length;
    channel.sizes[0] = sizeBytes;
    channel.data.set(data);
    const before = Atomics.load(control, channel.answered);
    Atomics.store(control, channel.asked, before + 1);
    Atomics.notify(control, channel.asked);
    if (Atomics.wait(control, channel.answered, before, deadlineMs) === 'timed-out' && this.isStalled)
      throw ioFailed(`${action} ${path} within ${deadlineMs} ms`, ETIMEDOUT, { path });
    const errno = control[channel.errno] as number;
    if (errno !== 0) throw ioFailed(`${action} ${path}`, errno, { path });
  }

  #write(fd: number, bytes: Uint8Array, where: { readonly action: string; readonly path: string }): void {
    for (let offset = 0; offset < bytes.length; offset += PIECE_BYTES)
      this.#call(JOURNAL_OPS.write, { ...where, fd, data: bytes.subarray(offset, offset + PIECE_BYTES) });
  }

  override writeFileAtomic(path: string, bytes: Uint8Array): void {
    const where = { action: 'Cannot write', path };
    this.#call(JOURNAL_OPS.create, { ...where, data: encoder.encode(`${path}.tmp`) });
    const fd = this.#fd;
    try {
      this.#write(fd, bytes, where);
    } catch (problem) {
      // Left to the thread that hangs, it costs a descriptor.
      if (!this.isStalled) this.#call(JOURNAL_OPS.discard, { ...where, fd });
      throw problem;
    }
    this.#call(JOURNAL_OPS.replace, { ...where, fd, data: encoder.encode(path), deadlineMs: this.#deadlines.syncMs });
  }

  get #fd(): number {
    return this.#channel.control[this.#channel.fd] as number;
  }

  override openAppend(path: string): AppendFile {
    this.#call(JOURNAL_OPS.open, { action: 'Cannot open', path, data: encoder.encode(path) });
    const fd = this.#fd;
    let sizeBytes = this.#channel.sizes[0] as number;
    return {
      path,
      get sizeBytes() {
        return sizeBytes;
      },
      append: (bytes) => {
        this.#write(fd, bytes, { action: 'Cannot append to', path });
        sizeBytes += bytes.length;
      },
      sync: () => this.#sync(fd, path),
      truncate: (to) => {
        this.#call(JOURNAL_OPS.truncate, { action: 'Cannot truncate', path, fd, sizeBytes: to });
        sizeBytes = to;
      },
      close: () => {
        if (!this.isStalled) this.#call(JOURNAL_OPS.discard, { action: 'Cannot close', path, fd });
      },
    };
  }

  async #sync(fd: number, path: string): Promise<void> {
    const { syncMs } = this.#deadlines;
    const late = Promise.withResolvers<{ readonly ok: false; readonly errno: number }>();
    const timer = setTimeout(() => late.resolve({ ok: false, errno: ETIMEDOUT }), syncMs);
    const outcome = await Promise.race([this.#syncFile(fd as Fd), late.promise]);
    clearTimeout(timer);
    if (!outcome.ok) throw ioFailed(`Cannot sync ${path}`, outcome.errno, { path });
  }

  /** Ends the thread; one that hangs is left behind. */
  async close(): Promise<void> {
    if (this.isStalled) {
      this.#worker.unref();
      return;
    }
    const { control, op, asked } = this.#channel;
    control[op] = JOURNAL_OPS.end;
    Atomics.add(control, asked, 1);
    Atomics.notify(control, asked);
    await this.#stopped;
    this.#worker.terminate();
  }
}

const EMPTY = new Uint8Array(0);
const encoder = new TextEncoder();
