/**
 * The journal: the only thing in the data directory that is not derived from the chunk files. It says which files are dead
 * although they are there. An invalidation is appended and synced before it is acknowledged; a deletion or overwrite is
 * appended. Replayed over the file headers at start; where it cannot be trusted in whole, all files are dropped.
 *
 * Invariants:
 * - the file is its head and whole records with consecutive sequence numbers: `#tail.sizeBytes` is its size between calls;
 * - sequence numbers grow over the life of the data directory, across compaction and across a damaged file;
 * - `#syncedSequence <= sequence`, and everything up to it survives a power cut;
 * - start epochs grow, and a compacted file holds the last of them: a file without a `start` is `new`, whatever else is in it;
 * - after a failed truncate or sync, and after anything that passed its deadline, nothing is appended any more (what is in the file is
 *   unknown) until `compact` has written a new one.
 *
 * What a crash loses: a killed process loses nothing that was appended. A power cut loses what was not synced, and where it
 * leaves half a record the whole journal counts as damaged. A cut exactly between two records cannot be seen in the file, so
 * the caller may keep a mark elsewhere and pass it as `minimumSequence`.
 */
import { assert } from '#core/assert.ts';
import type { BlockHash } from '#core/checksum.ts';
import { KvtierError } from '#core/errors.ts';
import type { AppendFile, FileSystem } from '#ports/file-system.ts';
import { encodeHead, encodeRecords, scanJournal } from './journal-file.ts';
import type { JournalEntry, JournalScan, JournalTail } from './journal-file.ts';
import type { JournalRecord } from './journal-record.ts';

/** Compaction is due at 8 MiB: some 100,000 deletions, replayed in well under a second. */
export const DEFAULT_COMPACTION_BYTES = 8 * 1024 * 1024;
/** A larger file is not read at start but counts as damaged; `append` refuses to get there. Live records alone stay far below. */
export const MAX_JOURNAL_BYTES = 512 * 1024 * 1024;
/** Damaged journals kept beside the new one for people to look at. */
export const KEPT_DAMAGED_FILES = 3;

export interface JournalReplay {
  /**
   * `new`: there was no file, or one without a `start` record. `damaged`: anything at all was wrong with it; it was set aside and
   * a new one begun. In both cases the caller drops every chunk file that is there, and only then appends `start`: a crash in
   * between gives `new` again.
   */
  readonly state: 'new' | 'ok' | 'damaged';
  /** In order. Empty unless `ok`: half a journal is no journal. */
  readonly records: readonly JournalEntry[];
  /** What is wrong, in words; '' unless `damaged`. */
  readonly problem: string;
  /** The highest start epoch that could be read, also out of a damaged file; 0 for none. The next epoch must be above it. */
  readonly highestEpoch: number;
}

export interface JournalOptions {
  /** A journal whose last record is older than this was cut: `damaged`. Default 0. */
  readonly minimumSequence?: number;
  /** See `needsCompaction`. */
  readonly compactionBytes?: number;
}

interface JournalParts {
  readonly fileSystem: FileSystem;
  readonly path: string;
  readonly hash: BlockHash;
  readonly file: AppendFile;
  readonly tail: JournalTail;
  readonly compactionBytes: number;
  readonly epoch: number;
}

export class Journal {
  readonly path: string;
  readonly #fileSystem: FileSystem;
  readonly #hash: BlockHash;
  readonly #compactionBytes: number;
  #file: AppendFile;
  #tail: JournalTail;
  #syncedSequence: number;
  /** Highest epoch of a `start` record, also of a damaged file before this one. */
  #epoch: number;
  /** Size after the last compaction, or 0: the next is due at twice that. */
  #compactedBytes = 0;
  #failure: KvtierError | undefined;
  #closed = false;
  /** The sync under way, with the file it works on: that file is closed only when it settles. */
  #syncing: { readonly file: AppendFile; readonly promise: Promise<void> } | undefined;

  /**
   * Opens or begins the journal. Never throws for its contents. Throws KvtierError where the file system refuses (permission,
   * no space); a file that cannot be read for EIO is damaged.
   */
  // oxlint-disable-next-line max-params -- three positional and an options object, as STYLE allows
  static open(
    fileSystem: FileSystem,
    path: string,
    hash: BlockHash,
    options: JournalOptions = {},
  ): { journal: Journal; replay: JournalReplay } {
    const { minimumSequence = 0, compactionBytes = DEFAULT_COMPACTION_BYTES } = options;
    const scan = readJournal(fileSystem, path, hash);
    const problem = scan === undefined ? undefined : (scan.problem ?? missedMark(scan, minimumSequence));
    const sound = scan !== undefined && problem === undefined;
    let tail = scan?.tail;
    if (tail === undefined || !sound) {
      if (scan !== undefined) setAside(fileSystem, path);
      tail = begin(fileSystem, path, { hash, sequence: Math.max(minimumSequence, scan?.tail.sequence ?? 0) });
    }
    const epoch = highestEpoch(scan?.entries ?? []);
    const file = fileSystem.openAppend(path);
    const journal = new Journal({ fileSystem, path, hash, file, tail, compactionBytes, epoch });
    const started = sound && scan.entries.some((entry) => entry.record.kind === 'start');
    const state = problem !== undefined ? 'damaged' : started ? 'ok' : 'new';
    return { journal, replay: { state, records: started ? scan.entries : [], problem: problem ?? '', highestEpoch: epoch } };
  }

  /** Use `open`. */
  constructor(parts: JournalParts) {
    this.path = parts.path;
    this.#fileSystem = parts.fileSystem;
    this.#hash = parts.hash;
    this.#compactionBytes = parts.compactionBytes;
    this.#file = parts.file;
    this.#tail = parts.tail;
    // What was read at start may still be in the page cache only: the first sync covers it.
    this.#syncedSequence = 0;
    this.#epoch = parts.epoch;
  }

  /** Number of the last record. Kept elsewhere after a sync, it is the mark for `minimumSequence`. */
  get sequence(): number {
    return this.#tail.sequence;
  }

  /** Everything up to this number survives a power cut. */
  get syncedSequence(): number {
    return this.#syncedSequence;
  }

  get sizeBytes(): number {
    return this.#tail.sizeBytes;
  }

  /** Why nothing can be appended any more; undefined while all is well. `compact` heals it. */
  get failure(): KvtierError | undefined {
    return this.#failure;
  }

  /** True when the file has passed the threshold and twice its size after the last compaction. */
  get needsCompaction(): boolean {
    return this.#tail.sizeBytes > Math.max(this.#compactionBytes, 2 * this.#compactedBytes);
  }

  /** Appends one record, see `appendAll`. Returns its sequence number. */
  append(record: JournalRecord): number {
    return this.appendAll([record]);
  }

  /**
   * Appends records in one write; in the page cache when it returns, so they survive this process. Returns the number of the
   * last. All or none: on a KvtierError (NO_SPACE, IO_FAILED, PAYLOAD_TOO_LARGE, BAD_REQUEST) the file is as before and the
   * caller must not acknowledge.
   */
  appendAll(records: readonly JournalRecord[]): number {
    this.#assertUsable();
    if (records.length === 0) return this.#tail.sequence;
    const epoch = nextEpoch(records, this.#epoch);
    const { bytes, tail } = encodeRecords(records, this.#tail, this.#hash);
    if (tail.sizeBytes > MAX_JOURNAL_BYTES) {
      const context = { sizeBytes: tail.sizeBytes, limitBytes: MAX_JOURNAL_BYTES };
      throw new KvtierError('NO_SPACE', `Cannot append to the journal: it would pass ${MAX_JOURNAL_BYTES} bytes`, { context });
    }
    try {
      this.#file.append(bytes);
    } catch (error) {
      if (isTimeout(error)) this.#fail('The disk under the journal does not answer', error);
      else this.#takeBack();
      throw error;
    }
    this.#tail = tail;
    this.#epoch = epoch;
    return tail.sequence;
  }

  /**
   * Resolves when everything appended before the call is durable. Callers at the same time share one sync of the disk.
   * Rejects with KvtierError where the disk refuses; then nothing appended since the last good sync may be acknowledged, and
   * the journal has failed: a second sync would report success for pages that the kernel has dropped.
   */
  async sync(): Promise<void> {
    const target = this.#tail.sequence;
    while (this.#syncedSequence < target) {
      this.#assertUsable();
      this.#syncing ??= { file: this.#file, promise: this.#syncOnce(this.#file) };
      await this.#syncing.promise;
    }
  }

  /**
   * Replaces the file by one that holds only `liveRecords`, under new sequence numbers. Blocks for the time of the write and
   * its sync. `liveRecords` must have the last `start`. What was appended before and is not in `liveRecords` is forgotten; what is in it is durable when this returns.
   * A crash leaves the old or the new file. On a KvtierError the journal goes on with whichever file is in place.
   */
  compact(liveRecords: readonly JournalRecord[]): void {
    assert(!this.#closed, 'Cannot compact a closed journal');
    const epoch = highestEpoch(liveRecords.map((record) => ({ record })));
    assert(epoch >= this.#epoch, `Cannot compact the journal: start of epoch ${this.#epoch} is missing`);
    const head = encodeHead(this.#tail.sequence, this.#hash);
    const { bytes, tail } = encodeRecords(liveRecords, head.tail, this.#hash);
    const whole = new Uint8Array(head.bytes.length + bytes.length);
    whole.set(head.bytes);
    whole.set(bytes, head.bytes.length);
    try {
      this.#fileSystem.writeFileAtomic(this.path, whole);
    } catch (error) {
      this.#afterFailedCompaction({ whole, tail }, error);
      throw error;
    }
    this.#switchTo(this.#fileSystem.openAppend(this.path), tail);
    this.#syncedSequence = tail.sequence;
    this.#epoch = epoch;
    this.#failure = undefined;
  }

  /** Closes the file after a sync under way. Does not sync by itself: the caller ends with `cleanStop` and `sync`. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#syncing?.promise.catch(() => undefined);
    this.#file.close();
  }

  /** Throws InvariantError where the file and what we know of it differ. Reads the whole file. For tests. */
  checkInvariants(): void {
    assert(this.#syncedSequence <= this.#tail.sequence, 'Journal: synced sequence is ahead of the last');
    if (this.#failure !== undefined || this.#closed) return;
    assert(
      this.#file.sizeBytes === this.#tail.sizeBytes,
      `Journal: file has ${this.#file.sizeBytes} bytes, ${this.#tail.sizeBytes} wanted`,
    );
    const scan = scanJournal(this.#fileSystem.readFile(this.path) ?? new Uint8Array(), this.#hash);
    assert(scan.problem === undefined, `Journal: ${scan.problem}`);
    assert(scan.tail.sequence === this.#tail.sequence && scan.tail.checksum === this.#tail.checksum, 'Journal: the file ends elsewhere');
  }

  #assertUsable(): void {
    assert(!this.#closed, 'Cannot use a closed journal');
    if (this.#failure !== undefined) throw this.#failure;
  }

  async #syncOnce(file: AppendFile): Promise<void> {
    try {
      // One turn later, so that callers of this turn share it; and so that `#syncing` is set before anything can settle.
      await Promise.resolve();
      if (file !== this.#file) return;
      const target = this.#tail.sequence;
      await file.sync();
      this.#syncedSequence = Math.max(this.#syncedSequence, target);
    } catch (error) {
      // A compaction during the sync has written all of it anew, and durably; then the old file's trouble is nobody's.
      if (file === this.#file) {
        this.#fail('Cannot sync the journal', error);
        throw error;
      }
    } finally {
      this.#syncing = undefined;
      if (file !== this.#file) file.close();
    }
  }

  /** Cuts off what a failed append may have left. */
  #takeBack(): void {
    try {
      this.#file.truncate(this.#tail.sizeBytes);
    } catch (error) {
      this.#fail('Cannot cut a half-written record off the journal', error);
    }
  }

  #fail(message: string, cause: unknown): void {
    const errno = cause instanceof KvtierError ? cause.context['errno'] : undefined;
    this.#failure = new KvtierError('IO_FAILED', `${message}; nothing is journaled until it is rewritten`, {
      context: { path: this.path, errno },
      cause,
    });
  }

  #switchTo(file: AppendFile, tail: JournalTail): void {
    const old = this.#file;
    this.#file = file;
    this.#tail = tail;
    this.#compactedBytes = tail.sizeBytes;
    if (this.#syncing?.file !== old) old.close();
  }

  /**
   * The rename may have happened although the whole failed (a sync of the folder): then appending to the old file would write
   * into nothing, and a power cut may still bring the old name back, so that nothing appended to the new file is durable. Looks
   * which one is there; unless it is surely the old one, the journal has failed until a compaction succeeds.
   */
  #afterFailedCompaction(attempt: { readonly whole: Uint8Array; readonly tail: JournalTail }, cause: unknown): void {
    // It may still come in place, at any time.
    if (isTimeout(cause)) return this.#fail('The disk under the journal does not answer', cause);
    try {
      const there = this.#fileSystem.readFile(this.path);
      if (there === undefined || !equalBytes(there, attempt.whole)) return;
      this.#switchTo(this.#fileSystem.openAppend(this.path), attempt.tail);
      this.#fail('Cannot make a compacted journal durable', cause);
    } catch (error) {
      this.#fail('Cannot tell which journal is in place after a failed compaction', error);
    }
  }
}

/** What was asked may still happen. */
function isTimeout(problem: unknown): boolean {
  return problem instanceof KvtierError && problem.context['errno'] === ETIMEDOUT;
}

const ETIMEDOUT = 110;
const EIO = 5;
const EISDIR = 21;

function readJournal(fileSystem: FileSystem, path: string, hash: BlockHash): JournalScan | undefined {
  const unread = (problem: string): JournalScan => ({ entries: [], tail: { sizeBytes: 0, sequence: 0, checksum: 0n }, problem });
  try {
    const sizeBytes = fileSystem.sizeBytes(path);
    if (sizeBytes !== undefined && sizeBytes > MAX_JOURNAL_BYTES)
      return unread(`the file has ${sizeBytes} bytes, ${MAX_JOURNAL_BYTES} at most`);
    const file = fileSystem.readFile(path);
    return file === undefined ? undefined : scanJournal(file, hash);
  } catch (error) {
    if (!(error instanceof KvtierError)) throw error;
    const { errno } = error.context;
    if (errno !== EIO && errno !== EISDIR) throw error;
    return unread(`the file cannot be read: ${error.message}`);
  }
}

function missedMark(scan: JournalScan, minimumSequence: number): string | undefined {
  if (scan.tail.sequence >= minimumSequence) return undefined;
  return `the last record has sequence ${scan.tail.sequence}, but ${minimumSequence} had been written`;
}

function highestEpoch(records: Iterable<{ readonly record: JournalRecord }>): number {
  let highest = 0;
  for (const { record } of records) if (record.kind === 'start') highest = Math.max(highest, record.epoch);
  return highest;
}

function nextEpoch(records: readonly JournalRecord[], epoch: number): number {
  let next = epoch;
  for (const record of records) {
    if (record.kind !== 'start') continue;
    assert(record.epoch > next, `Cannot start epoch ${record.epoch}: epoch ${next} has been`);
    next = record.epoch;
  }
  return next;
}

function begin(fileSystem: FileSystem, path: string, options: { hash: BlockHash; sequence: number }): JournalTail {
  const head = encodeHead(options.sequence, options.hash);
  fileSystem.writeFileAtomic(path, head.bytes);
  return head.tail;
}

/** Renames the damaged journal to `<path>.damaged-<n>`, n growing, and removes all but the newest few. */
function setAside(fileSystem: FileSystem, path: string): void {
  const slash = path.lastIndexOf('/');
  const folder = slash < 0 ? '.' : path.slice(0, Math.max(slash, 1));
  const prefix = `${path.slice(slash + 1)}.damaged-`;
  const numbers = fileSystem
    .list(folder)
    .filter((name) => name.startsWith(prefix) && /^\d{1,9}$/.test(name.slice(prefix.length)))
    .map((name) => Number(name.slice(prefix.length)))
    .sort((a, b) => a - b);
  fileSystem.rename(path, `${path}.damaged-${(numbers.at(-1) ?? 0) + 1}`);
  for (const number of numbers.slice(0, Math.max(0, numbers.length + 1 - KEPT_DAMAGED_FILES))) {
    fileSystem.remove(`${path}.damaged-${number}`);
  }
}

function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, index) => byte === b[index]);
}
