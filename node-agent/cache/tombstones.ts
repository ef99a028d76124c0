/**
 * What must not come back: the journal's records as the running cache needs them, and the rule when a deletion or an overwrite has
 * to be written down. It has to be exactly when a file of the key may be on disk: the chunk is on SSD, a write or an unlink of the
 * key is under way, or recovery has not yet read all headers (`adopting`).
 *
 * Invariants: `#live` holds a forget record for every dead file that may still exist; a record leaves `#live` only when no write or
 * unlink of its key is pending and adoption is over; every record in `#live` is in the journal.
 */
import { assert } from '#core/assert.ts';
import { namespaceIdentity } from '#core/namespace.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';
import { isVolatile, matchesStable } from '#core/selector.ts';
import type { ChunkFacts, Selector } from '#core/selector.ts';
import { splitForget } from '#catalog/journal-record.ts';
import type { EpochRecord, FolderDroppedRecord, ForgetRecord, InvalidateRecord, JournalRecord, StartRecord } from '#catalog/journal-record.ts';
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
  readonly #epochs = new Map<string, EpochRecord>();
  readonly #foldersDropped = new Map<string, FolderDroppedRecord>();
  /** Key id -> the newest forget record. */
  readonly #live = new Map<string, ForgetRecord>();
  /** Key id -> writes and unlinks under way. */
  readonly #pending = new Map<string, number>();
  /** Selectors whose scan is under way and that are not in the journal yet. */
  readonly #running = new Set<{ readonly selector: Selector; readonly generation: number }>();
  #adopting = true;

  constructor(journal: Journal, replayed: readonly JournalRecord[], logger: Logger = noopLogger) {
    this.#journal = journal;
    this.#logger = logger;
    for (const record of replayed) this.#replay(record);
  }

  #replay(record: JournalRecord): void {
    switch (record.kind) {
      case 'invalidate':
        this.#invalidations.push(record);
        break;
      case 'forget':
        this.#live.set(this.keyId(record.namespace, record.key), record);
        break;
      case 'forgetMany':
        for (const key of record.keys) {
          this.#live.set(this.keyId(record.namespace, key), { kind: 'forget', namespace: record.namespace, key, generation: record.generation });
        }
        break;
      case 'folderDropped':
        this.#foldersDropped.set(record.folderId, record);
        break;
      case 'epoch':
        this.#epochs.set(record.model, record);
        break;
      case 'start':
      case 'cleanStop':
        break;
    }
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
    for (const id of [...this.#live.keys()]) this.#prune(id);
  }

  #prune(id: string): void {
    if (!this.#adopting && !this.#pending.has(id)) this.#live.delete(id);
  }

  /** True where a deletion or overwrite of this key must be journaled although the chunk is not on SSD. */
  mayHaveFile(id: () => string): boolean {
    return this.#adopting || (this.#pending.size > 0 && this.#pending.has(id()));
  }

  /** Counts a write or an unlink of a key; call the answer once it is over and, for a write that came too late, its file is gone. */
  trackUnlink(id: string, _generation: number): () => void {
    this.#pending.set(id, (this.#pending.get(id) ?? 0) + 1);
    let done = false;
    return () => {
      assert(!done, 'a tracked file operation ends once');
      done = true;
      const count = (this.#pending.get(id) ?? 0) - 1;
      if (count > 0) this.#pending.set(id, count);
      else {
        this.#pending.delete(id);
        this.#prune(id);
      }
    };
  }

  get pendingCount(): number {
    return this.#pending.size;
  }

  /** Files of the key with at most this generation are dead. In the page cache when it returns; throws where it cannot be written. */
  forget(namespace: NamespaceDescriptor, key: Uint8Array, generation: number): void {
    const { grammar, tenant, keyPrefix, keyTail } = namespace;
    const record: ForgetRecord = { kind: 'forget', namespace: { grammar, tenant, keyPrefix, keyTail }, key: key.slice(), generation };
    this.#journal.append(record);
    this.#live.set(this.keyId(namespace, key), record);
  }

  /** As `forget` for the keys that a volatile selector was resolved to. */
  forgetMany(namespace: NamespaceDescriptor, keys: readonly Uint8Array[], generation: number): void {
    const { grammar, tenant, keyPrefix, keyTail } = namespace;
    const parts = { grammar, tenant, keyPrefix, keyTail };
    this.#journal.appendAll(splitForget(parts, keys, generation));
    for (const key of keys) this.#live.set(this.keyId(namespace, key), { kind: 'forget', namespace: parts, key: key.slice(), generation });
  }

  /** The selector counts from now on, for files that adoption finds while its scan is under way. */
  beginInvalidation(selector: Selector, generation: number): () => void {
    const running = { selector, generation };
    this.#running.add(running);
    return () => void this.#running.delete(running);
  }

  /** Durable when the promise settles. */
  async invalidate(record: InvalidateRecord): Promise<void> {
    this.#journal.append(record);
    this.#invalidations.push(record);
    await this.#journal.sync();
  }

  async setEpoch(record: EpochRecord): Promise<void> {
    this.#journal.append(record);
    this.#epochs.set(record.model, record);
    await this.#journal.sync();
  }

  dropFolder(folderId: string, generation: number): void {
    const record: FolderDroppedRecord = { kind: 'folderDropped', folderId, generation };
    this.#journal.append(record);
    this.#foldersDropped.set(folderId, record);
  }

  /** True where a file with this content and generation must not be served: the one judge for rows and headers at recovery. */
  isDead(facts: ChunkFacts, chunk: { readonly key: Uint8Array; readonly generation: number; readonly folderId: string }): boolean {
    const { generation } = chunk;
    if ((this.#foldersDropped.get(chunk.folderId)?.generation ?? -1) >= generation) return true;
    if ((this.#live.get(this.keyId(facts.namespace, chunk.key))?.generation ?? -1) >= generation) return true;
    for (const running of this.#running) {
      if (running.generation >= generation && !isVolatile(running.selector) && matchesStable(running.selector, facts)) return true;
    }
    for (let index = this.#invalidations.length - 1; index >= 0; index -= 1) {
      const record = this.#invalidations[index];
      if (record === undefined || record.generation < generation) return false;
      if (!isVolatile(record.selector) && matchesStable(record.selector, facts)) return true;
    }
    return false;
  }

  async sync(): Promise<void> {
    await this.#journal.sync();
  }

  /** Rewrites the journal with what is still needed, where it has grown. Not while files are being adopted or unlinked. */
  compactIfNeeded(): boolean {
    if (!this.#journal.needsCompaction || this.#adopting || this.#pending.size > 0 || this.#running.size > 0) return false;
    this.#compact();
    return true;
  }

  #compact(): void {
    assert(this.#start !== undefined, 'the run has begun');
    this.#invalidations = this.#invalidations.slice(-AUDIT_INVALIDATIONS);
    this.#journal.compact([this.#start, ...this.#foldersDropped.values(), ...this.#epochs.values(), ...this.#invalidations, ...this.#live.values()]);
    this.#logger.debug('Compacted the journal', { sizeBytes: this.#journal.sizeBytes });
  }

  async close(atMs: number): Promise<void> {
    this.#journal.append({ kind: 'cleanStop', atMs });
    await this.#journal.sync();
    await this.#journal.close();
  }
}
