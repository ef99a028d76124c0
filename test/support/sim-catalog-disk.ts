/**
 * The catalog's file in a simulation: the real SQLite on an image in memory that outlives a process. What is committed survives a kill;
 * a power cut may take the image back to the last checkpoint, tear it, or lose it, as with `synchronous = NORMAL`.
 *
 * Judges each process by the image that it leaves: the rows are those of the batches that were acknowledged, and of at most one that
 * was under way.
 */
import Database from 'better-sqlite3';
import type { CatalogFiles } from '#catalog/catalog-files.ts';
import type { CatalogBatch, OpenOptions } from '#catalog/catalog-protocol.ts';
import { SimCatalogRows } from './sim-catalog-rows.ts';
import type { SimRng } from './sim-clock.ts';

/** Of SQLite, and of the kernel. */
const PAGE_BYTES = 4096;
/** What a batch adds to the log, so that checkpoints happen. */
const LOG_BYTES = 16 * 1024;

/** Errors that SQLite may answer a transaction with. */
export type SimCatalogError = 'SQLITE_BUSY' | 'SQLITE_FULL' | 'SQLITE_IOERR_WRITE' | 'SQLITE_CORRUPT';

export class SimCatalogDisk implements CatalogFiles {
  /** The file while nobody has it open; undefined: there is none. */
  #image: Buffer | undefined;
  /** As of the last checkpoint: what the device has for sure. */
  #synced: Buffer | undefined;
  #isSyncedWhole = true;
  #connection: Database.Database | undefined;
  #logBytes = 0;
  /** Acknowledged rows; undefined where the file may hold anything. */
  #rows: SimCatalogRows | undefined = new SimCatalogRows();
  /** The file is whole, if old: the next process finds out what is in it. */
  #isWhole = true;
  /** Committed for all we know, without an answer yet. */
  #underWay: CatalogBatch | undefined;
  #forget: OpenOptions['forget'] = 'nothing';
  /** Another process holds a lock. */
  locked = false;
  /** Answers to the next transactions, after their work and before their commit. */
  readonly failures: SimCatalogError[] = [];
  failedTransactions = 0;
  setAsideCount = 0;
  /** Hears that a process left something else than it acknowledged. */
  onProblem: (problem: Error) => void = () => {};

  open(): Database.Database {
    if (this.#connection !== undefined) throw new Error('The catalog is open already');
    const connection = this.#image === undefined ? new Database(':memory:') : new Database(this.#image);
    this.#connection = this.#watched(connection);
    return this.#connection;
  }

  openReader(): Database.Database {
    const connection = this.#connection;
    if (connection === undefined) throw new Error('The catalog is not open');
    return new Database(connection.serialize());
  }

  walBytes(): number {
    return this.#logBytes;
  }

  setAside(): string {
    this.#image = undefined;
    this.#logBytes = 0;
    this.#rows = new SimCatalogRows();
    this.#isWhole = true;
    this.#forget = 'nothing';
    this.setAsideCount += 1;
    return `/data/catalog.db.corrupt-${this.setAsideCount}`;
  }

  /** A connection whose checkpoints and ends are noted, and whose transactions fail when they are told to. */
  #watched(connection: Database.Database): Database.Database {
    const transaction = connection.transaction.bind(connection);
    const watched = (action: () => void): unknown => {
      const run = transaction(() => {
        action();
        const code = this.failures.shift();
        if (code !== undefined) throw new Database.SqliteError('a fault of the simulation', code);
      });
      const immediate = (): void => {
        this.failedTransactions += 1;
        if (this.locked) throw new Database.SqliteError('database is locked', 'SQLITE_BUSY');
        run.immediate();
        this.failedTransactions -= 1;
      };
      return { immediate };
    };
    connection.transaction = watched as unknown as typeof connection.transaction;
    const pragma = connection.pragma.bind(connection);
    connection.pragma = (text, options) => {
      if (text.startsWith('wal_checkpoint')) this.#checkpoint();
      return pragma(text, options);
    };
    const close = connection.close.bind(connection);
    connection.close = () => {
      if (this.#connection === connection) {
        this.#image = imageOf(connection);
        this.#connection = undefined;
      }
      return close();
    };
    return connection;
  }

  #checkpoint(): void {
    if (this.#connection === undefined) return;
    this.#synced = imageOf(this.#connection);
    this.#isSyncedWhole = this.#isWhole;
    this.#logBytes = 0;
  }

  // --- the model ------------------------------------------------------------------------------------------------------------

  opened(options: OpenOptions, forgotten: boolean): void {
    if (this.#isWhole && this.#connection !== undefined) this.#rows ??= SimCatalogRows.read(this.#connection);
    this.#underWay = undefined;
    if (forgotten) this.#rows?.forget(options.forget);
    this.#forget = forgotten ? 'nothing' : options.forget;
  }

  /** A batch was applied without an error; nobody knows yet. */
  applied(batch: CatalogBatch): void {
    this.#rows?.forget(this.#forget);
    this.#forget = 'nothing';
    this.#underWay = batch;
    this.#logBytes += LOG_BYTES;
  }

  acknowledged(batch: CatalogBatch): void {
    this.#rows?.apply(batch);
    this.#underWay = undefined;
  }

  /** Judges the rows of the file that is open. */
  check(): void {
    const connection = this.#connection;
    if (this.#rows === undefined || connection === undefined) return;
    const there = SimCatalogRows.read(connection);
    const difference = this.#rows.differs(there);
    if (difference === undefined) return;
    if (this.#underWay !== undefined) {
      const more = this.#rows.clone();
      more.apply(this.#underWay);
      if (more.differs(there) === undefined) {
        this.#rows = more;
        return;
      }
    }
    this.onProblem(new Error(`The catalog holds something else than was acknowledged: ${difference}`));
  }

  /** What is committed now; undefined while no process has it open. */
  read(): SimCatalogRows | undefined {
    return this.#connection === undefined ? undefined : SimCatalogRows.read(this.#connection);
  }

  // --- ends -----------------------------------------------------------------------------------------------------------------

  /** Whoever had it open is gone: an open transaction is lost, what was committed is there. */
  crash(): void {
    const connection = this.#connection;
    this.#underWay = connection === undefined ? undefined : this.#underWay;
    if (connection === undefined) return;
    if (connection.inTransaction) connection.exec('ROLLBACK');
    this.check();
    this.#image = imageOf(connection);
    this.#connection = undefined;
    this.#underWay = undefined;
    connection.close();
  }

  /** After a crash of the machine. */
  powerCut(rng: SimRng): void {
    const cached = this.#image;
    const synced = this.#synced;
    const fate = rng.weighted({ kept: 3, stale: 4, mixed: 2, short: 1, gone: 1 });
    if (fate === 'kept' || cached === undefined) return;
    if (fate === 'stale') this.#image = synced;
    else if (fate === 'gone') this.#image = undefined;
    else if (fate === 'short') this.#image = cached.subarray(0, rng.below(cached.length));
    else this.#image = mixed(cached, synced ?? Buffer.alloc(0), rng);
    if (this.#image?.length === 0) this.#image = undefined;
    this.#logBytes = 0;
    this.#rows = this.#image === undefined ? new SimCatalogRows() : undefined;
    this.#isWhole = this.#image === undefined || (fate === 'stale' && this.#isSyncedWhole);
    this.#synced = this.#image;
    this.#isSyncedWhole = this.#isWhole;
  }

  /** Bits flip while nobody has it open. */
  rot(rng: SimRng): void {
    if (this.#image === undefined) return;
    const image = Buffer.from(this.#image);
    for (let count = 1 + rng.below(8); count > 0; count -= 1) {
      const at = rng.below(image.length);
      image[at] = (image[at] ?? 0) ^ (1 << rng.below(8));
    }
    this.#image = image;
    this.#rows = undefined;
    this.#isWhole = false;
  }
}

function imageOf(connection: Database.Database): Buffer | undefined {
  try {
    return connection.serialize();
  } catch {
    // Not a database: nothing that the next process could read either.
    return undefined;
  }
}

/** Pages of two moments. */
function mixed(cached: Buffer, synced: Buffer, rng: SimRng): Buffer {
  const image = Buffer.from(cached);
  for (let at = 0; at + PAGE_BYTES <= Math.min(cached.length, synced.length); at += PAGE_BYTES) {
    if (rng.chance(0.4)) synced.copy(image, at, at, at + PAGE_BYTES);
  }
  return image;
}
