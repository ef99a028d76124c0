/**
 * What must not come back: the journal's records as the running cache needs them, and the rule when a deletion or an overwrite has
 * to be written down. It has to be exactly when a file of the key may be on disk: the chunk is on SSD, a write or an unlink of the
 * key is under way, or recovery has not yet read all headers (`adopting`).
 *
 * Invariants: `#live` holds a forget record for every dead file that may still exist; a record leaves `#live` only when no write or
 * unlink of its key is pending and adoption is over; every record in `#live` is in the journal; `#expiries` holds the last expiry
 * that was journaled for every chunk that is alive or whose file may still exist.
 */
import { assert } from '#core/assert.ts';
import { KvtierError } from '#core/errors.ts';
import { namespaceIdentity } from '#core/namespace.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';
import type { PinMode } from '#core/pin-mode.ts';
import { isVolatile, matchesStable } from '#core/selector.ts';
import type { ChunkFacts, Selector } from '#core/selector.ts';
import { boundedExpiry, MAX_EXPIRES_AT_MS } from './expiry-bounds.ts';
import { InvalidationJudge } from './invalidation-judge.ts';
import { splitForget } from '#catalog/journal-record.ts';
import type {
  EpochRecord,
  FolderDroppedRecord,
  ForgetRecord,
  InvalidateRecord,
  JournalRecord,
  QuotaRecord,
  StartRecord,
} from '#catalog/journal-record.ts';
import type { Journal } from '#catalog/journal.ts';
import { noopLogger } from '#core/logger.ts';
import type { Logger } from '#core/logger.ts';

/** Invalidations that compaction keeps for the audit log although their files are gone. */
const AUDIT_INVALIDATIONS = 1000;
const latin1 = new TextDecoder('latin1');

export class Tombstones {
  readonly #journal: Journal;
  readonly #logger: Logger;
  #start: StartRecord | undefined;
  /** In order of generation. */
  #invalidations: InvalidateRecord[] = [];
  readonly #judge = new InvalidationJudge();
  readonly #epochs = new Map<string, EpochRecord>();
  readonly #foldersDropped = new Map<string, FolderDroppedRecord>();
  /** Key id -> the newest forget record. */
  readonly #live = new Map<string, ForgetRecord>();
  /** Key id -> writes and unlinks under way. */
  readonly #pending = new Map<string, number>();
  /** The files of these writes and unlinks. */
  readonly #pendingFiles = new Set<{ readonly generation: number }>();
  /**
   * The oldest generation of a file that went since the last compaction. A name that went is not synced, and a power cut may bring it
   * back: what the file is judged by is kept for one more compaction, which is 8 MiB of records away.
   */
  #oldestUnlinked = Number.POSITIVE_INFINITY;
  /** Selectors whose scan is under way and that are not in the journal yet. */
  readonly #running = new Set<{ readonly selector: Selector; readonly generation: number }>();
  /** Generation -> the expiry that the journal gives it. Generations are used once, so that what is stale does no harm until compaction. */
  readonly #expiries = new Map<number, number>();
  /** The largest wall clock that the journal knows. */
  #clockMs = 0;
  /** Visits the generations of all live chunks; for compaction. */
  forEachLive: (visit: (generation: number) => void) => void = () => {};
  #adopting = true;
  #unknownFiles = 0;
  /** Folders that went while the journal could not be written: their record goes before any other. */
  readonly #owed = new Map<string, FolderDroppedRecord>();
  #closed = false;
  /** What the journal said at the start; the quotas and pins of this run are kept by quotas.ts and pins.ts, see `alsoKept`. */
  readonly replayedQuotas = new Map<string, QuotaRecord>();
  readonly replayedPins = new Map<number, PinMode>();
  /** Records that a compaction keeps besides the tombstones. */
  readonly alsoKept: (() => readonly JournalRecord[])[] = [];

  constructor(journal: Journal, replayed: readonly JournalRecord[], logger: Logger = noopLogger) {
    this.#journal = journal;
    this.#logger = logger;
    for (const record of replayed) this.#replay(record);
  }

  /** What a record has ended stays so, in whatever order they come; times are made such that clock, columns and replies can hold them. */
  #replay(record: JournalRecord): void {
    switch (record.kind) {
      case 'invalidate':
        this.#addInvalidation(record);
        break;
      case 'forget':
        this.#remember(record);
        break;
      case 'forgetMany':
        for (const key of record.keys) this.#remember({ kind: 'forget', namespace: record.namespace, key, generation: record.generation });
        break;
      case 'folderDropped':
        if ((this.#foldersDropped.get(record.folderId)?.generation ?? -1) < record.generation)
          this.#foldersDropped.set(record.folderId, record);
        break;
      case 'epoch':
        if ((this.#epochs.get(record.model)?.epoch ?? -1) < record.epoch) this.#epochs.set(record.model, record);
        break;
      case 'expire':
        this.#expiries.set(record.generation, record.expiresAtMs === 0 ? 0 : boundedExpiry(record.expiresAtMs));
        break;
      case 'clock':
        this.#clockMs = Math.max(this.#clockMs, Math.min(record.atMs, MAX_EXPIRES_AT_MS));
        break;
      case 'quota':
        if (record.ramBytes === undefined && record.ssdBytes === undefined) this.replayedQuotas.delete(record.tenant);
        else this.replayedQuotas.set(record.tenant, record);
        break;
      case 'pin':
        for (const generation of record.generations) {
          if (record.mode === 'none') this.replayedPins.delete(generation);
          else this.replayedPins.set(generation, record.mode);
        }
        break;
      case 'start':
      case 'cleanStop':
        break;
    }
  }

  /** In order of generation, which is not that of the records where two scans overlapped; nearly always at the end. */
  #addInvalidation(record: InvalidateRecord): void {
    let at = this.#invalidations.length;
    while (at > 0 && (this.#invalidations[at - 1] as InvalidateRecord).generation > record.generation) at -= 1;
    this.#invalidations.splice(at, 0, record);
    if (this.#adopting) this.#judge.add(record.selector, record.generation);
  }

  /** The newest generation counts: an invalidation that began before a put may be written after it. */
  #remember(record: ForgetRecord): void {
    const id = this.keyId(record.namespace, record.key);
    if ((this.#live.get(id)?.generation ?? -1) < record.generation) this.#live.set(id, record);
  }

  /** Throws where nothing can be journaled: the agent has closed, or a record that must come first cannot be written. */
  #append(records: readonly JournalRecord[]): void {
    if (this.#closed) throw new KvtierError('SHUTTING_DOWN', 'Cannot write the journal: the agent is shutting down');
    if (this.#owed.size > 0) {
      this.#journal.appendAll([...this.#owed.values()]);
      this.#owed.clear();
    }
    this.#journal.appendAll(records);
  }

  /** Quotas and pins: in the page cache when it returns; `sync` makes them durable. Throws KvtierError where it cannot be written. */
  append(records: readonly JournalRecord[]): void {
    this.#append(records);
  }

  keyId(namespace: Pick<NamespaceDescriptor, 'grammar' | 'tenant' | 'keyPrefix' | 'keyTail'>, key: Uint8Array): string {
    return `${namespaceIdentity(namespace as NamespaceDescriptor)}\u0000${latin1.decode(key)}`;
  }

  get adopting(): boolean {
    return this.#adopting;
  }

  get invalidations(): readonly InvalidateRecord[] {
    return this.#invalidations;
  }

  get epochs(): ReadonlyMap<string, EpochRecord> {
    return this.#epochs;
  }

  /** Sequence of the journal, for the folders' marks. */
  get sequence(): number {
    return this.#journal.sequence;
  }

  begin(record: StartRecord): void {
    this.#start = record;
    this.#journal.append(record);
  }

  /** Every header has been read: what has no pending file needs no record any more. */
  adoptionDone(): void {
    this.#adopting = false;
    this.#judge.clear();
    for (const id of [...this.#live.keys()]) this.#prune(id);
  }

  #prune(id: string): void {
    if (!this.#adopting && this.#unknownFiles === 0 && !this.#pending.has(id)) this.#live.delete(id);
  }

  /** True where a deletion or overwrite of this key must be journaled although the chunk is not on SSD. */
  mayHaveFile(id: () => string): boolean {
    return this.#adopting || this.#owed.size > 0 || this.#unknownFiles > 0 || (this.#pending.size > 0 && this.#pending.has(id()));
  }

  /** Counts a write or an unlink of a key; call the answer once it is over and, for a write that came too late, its file is gone. */
  trackUnlink(id: string, generation: number): () => void {
    const file = { generation };
    this.#pendingFiles.add(file);
    this.#pending.set(id, (this.#pending.get(id) ?? 0) + 1);
    return () => {
      assert(this.#pendingFiles.delete(file), 'a tracked file operation ends once');
      this.#oldestUnlinked = Math.min(this.#oldestUnlinked, generation);
      const count = (this.#pending.get(id) ?? 0) - 1;
      if (count > 0) this.#pending.set(id, count);
      else {
        this.#pending.delete(id);
        this.#prune(id);
      }
    };
  }

  /** As `trackUnlink` for a file whose key cannot be read, now: it may be that of any key at the next start. */
  trackUnknown(generation: number): () => void {
    const file = { generation };
    this.#pendingFiles.add(file);
    this.#unknownFiles += 1;
    return () => {
      assert(this.#pendingFiles.delete(file), 'a tracked file operation ends once');
      this.#oldestUnlinked = Math.min(this.#oldestUnlinked, generation);
      this.#unknownFiles -= 1;
      if (this.#unknownFiles === 0 && !this.#adopting) for (const id of [...this.#live.keys()]) this.#prune(id);
    };
  }

  get pendingCount(): number {
    return this.#pending.size;
  }

  /** Files of the key with at most this generation are dead. In the page cache when it returns; throws where it cannot be written. */
  forget(namespace: NamespaceDescriptor, key: Uint8Array, generation: number): void {
    const record: ForgetRecord = { kind: 'forget', namespace: partsOf(namespace), key: key.slice(), generation };
    this.#append([record]);
    this.#remember(record);
  }

  /** As `forget` for the keys that a volatile selector was resolved to. */
  forgetMany(namespace: NamespaceDescriptor, keys: readonly Uint8Array[], generation: number): void {
    const parts = partsOf(namespace);
    this.#append(splitForget(parts, keys, generation));
    for (const key of keys) this.#remember({ kind: 'forget', namespace: parts, key: key.slice(), generation });
  }

  /** The chunk of this generation expires then (0: never), whatever its file says. In the page cache when it returns; throws as `forget`. */
  expire(generation: number, expiresAtMs: number): void {
    this.#append([{ kind: 'expire', generation, expiresAtMs }]);
    this.#expiries.set(generation, expiresAtMs);
  }

  /** What the journal says of a chunk's expiry; undefined where that is in its header and its row. */
  journaledExpiry(generation: number): number | undefined {
    return this.#expiries.get(generation);
  }

  /** The largest wall clock that the journal knows; 0: none. */
  get clockMs(): number {
    return this.#clockMs;
  }

  /** In the page cache when it returns; throws where it cannot be written. */
  noteClock(atMs: number): void {
    if (atMs <= this.#clockMs) return;
    this.#append([{ kind: 'clock', atMs }]);
    this.#clockMs = atMs;
  }

  /** The selector counts from now on, for files that adoption finds while its scan is under way. */
  beginInvalidation(selector: Selector, generation: number): () => void {
    const running = { selector, generation };
    this.#running.add(running);
    return () => void this.#running.delete(running);
  }

  /** Durable when the promise settles. */
  async invalidate(record: InvalidateRecord): Promise<void> {
    this.#append([record]);
    this.#addInvalidation(record);
    await this.#journal.sync();
  }

  async setEpoch(record: EpochRecord): Promise<void> {
    this.#append([record]);
    this.#epochs.set(record.model, record);
    await this.#journal.sync();
  }

  /**
   * Everything in the folder with at most this generation is dead. Where that cannot be written now, it is owed: until it is,
   * every deletion and overwrite is journaled behind it or refused, since the folder may hold an older value of any key.
   */
  dropFolder(folderId: string, generation: number): void {
    const record: FolderDroppedRecord = { kind: 'folderDropped', folderId, generation };
    this.#foldersDropped.set(folderId, record);
    this.#owed.set(folderId, record);
    this.payOwed();
  }

  /** Tries to write what is owed; counts as written only when it is. */
  payOwed(): void {
    if (this.#owed.size === 0 || this.#closed) return;
    try {
      this.#append([]);
    } catch (problem) {
      if (!(problem instanceof KvtierError)) throw problem;
      this.#logger.error('Cannot write to the journal that a folder is lost', { code: problem.code });
    }
  }

  /** True where a file with this content and generation must not be served: the one judge for rows and headers, until adoption is done. */
  isDead(facts: ChunkFacts, chunk: { readonly key: Uint8Array; readonly generation: number; readonly folderId: string }): boolean {
    assert(this.#adopting, 'files are judged until adoption is done');
    const { generation } = chunk;
    if ((this.#foldersDropped.get(chunk.folderId)?.generation ?? -1) >= generation) return true;
    if ((this.#live.get(this.keyId(facts.namespace, chunk.key))?.generation ?? -1) >= generation) return true;
    for (const running of this.#running) {
      if (running.generation >= generation && !isVolatile(running.selector) && matchesStable(running.selector, facts)) return true;
    }
    return this.#judge.isDead(facts, generation);
  }

  async sync(): Promise<void> {
    await this.#journal.sync();
  }

  /** Why nothing can be journaled now; undefined while all is well. A compaction heals it. */
  get problem(): string | undefined {
    return this.#journal.failure?.message;
  }

  /** Rewrites the journal with what is still needed: where it has grown, and where it has failed, since only that heals it. */
  compactIfNeeded(): boolean {
    if (this.#closed || (!this.#journal.needsCompaction && this.#journal.failure === undefined)) return false;
    try {
      this.#compact();
      return true;
    } catch (problem) {
      if (!(problem instanceof KvtierError)) throw problem;
      this.#logger.error('Cannot rewrite the journal; the next attempt follows', { code: problem.code });
      return false;
    }
  }

  #compact(): void {
    assert(this.#start !== undefined, 'the run has begun');
    // Any invalidation may be needed for a file whose header is not read yet, or that is still there with a generation below it.
    let oldest = this.#oldestUnlinked;
    for (const file of this.#pendingFiles) oldest = Math.min(oldest, file.generation);
    if (!this.#adopting) {
      const audited = this.#invalidations.length - AUDIT_INVALIDATIONS;
      this.#invalidations = this.#invalidations.filter((record, index) => index >= audited || record.generation >= oldest);
    }
    this.#pruneExpiries();
    this.#journal.compact([
      this.#start,
      ...(this.#clockMs > 0 ? [{ kind: 'clock', atMs: this.#clockMs } as const] : []),
      ...[...this.#expiries].map(([generation, expiresAtMs]) => ({ kind: 'expire', generation, expiresAtMs }) as const),
      ...this.#foldersDropped.values(),
      ...this.#epochs.values(),
      ...this.#invalidations,
      ...this.#live.values(),
      ...this.alsoKept.flatMap((kept) => kept()),
    ]);
    this.#owed.clear();
    if (!this.#adopting) this.#oldestUnlinked = Number.POSITIVE_INFINITY;
    this.#logger.debug('Compacted the journal', { sizeBytes: this.#journal.sizeBytes });
  }

  /** Forgets what the journal says of chunks that are gone with their files. */
  #pruneExpiries(): void {
    if (this.#adopting || this.#expiries.size === 0) return;
    const needed = new Map<number, number>();
    const keep = (generation: number): void => {
      const expiresAtMs = this.#expiries.get(generation);
      if (expiresAtMs !== undefined) needed.set(generation, expiresAtMs);
    };
    for (const file of this.#pendingFiles) keep(file.generation);
    this.forEachLive(keep);
    this.#expiries.clear();
    for (const [generation, expiresAtMs] of needed) this.#expiries.set(generation, expiresAtMs);
  }

  /** Ends with a record of the clean stop where the journal takes it. From now on whatever must be journaled is refused. */
  async close(atMs: number): Promise<void> {
    if (this.#closed) return;
    try {
      this.#append([{ kind: 'cleanStop', atMs }]);
      this.#closed = true;
      await this.#journal.sync();
    } catch (problem) {
      if (!(problem instanceof KvtierError)) throw problem;
      this.#closed = true;
      this.#logger.error('Cannot end the journal with a clean stop', { code: problem.code });
    }
    await this.#journal.close();
  }
}

/** What a record keeps of a namespace: its identity. */
function partsOf({ grammar, tenant, keyPrefix, keyTail }: NamespaceDescriptor): ForgetRecord['namespace'] {
  return { grammar, tenant, keyPrefix, keyTail };
}
