/**
 * What a start brings back: the journal says what is dead, shared memory what is in RAM still, the catalog what is likely on SSD, the
 * folders' names what is there, and the headers of files without a row the rest. Ready before the last step ends.
 *
 * Nothing is believed that the journal cannot vouch for: no journal, a damaged one, one that is shorter than a folder remembers, or
 * a folder that missed a run, and the files go. The RAM tier is judged as a folder is.
 *
 * Invariants: a chunk that is taken in has a file with its generation in its name and is not dead; of two files of one key the newer
 * wins and the other is unlinked; until adoption is done every deletion and overwrite is journaled (tombstones.ts).
 */
import type { EntryIndex } from '#core/brand.ts';
import type { BlockHash } from '#core/checksum.ts';
import type { Clock } from '#core/clock.ts';
import type { Logger } from '#core/logger.ts';
import { MAX_EPOCH } from '#core/epoch.ts';
import { KvtierError } from '#core/errors.ts';
import { Journal } from '#catalog/journal.ts';
import type { CatalogChunk } from '#ports/catalog-store.ts';
import type { FileSystem } from '#ports/file-system.ts';
import { readFolderMark, writeFolderMark } from '#tiers/ssd/folder-mark.ts';
import type { FolderMark } from '#tiers/ssd/folder-mark.ts';
import type { ChunkFileHeader } from '#tiers/ssd/chunk-file.ts';
import type { SsdFolder } from '#tiers/ssd/ssd-folder.ts';
import type { RamTier } from '#tiers/ram/ram-tier.ts';
import type { SsdTier } from '#tiers/ssd/ssd-tier.ts';
import type { CacheState } from './cache-state.ts';
import { HeaderReader } from './header-reader.ts';
import { restoreRam, settleRam, takeFile } from './ram-recovery.ts';
import type { ParentLink } from './ram-recovery.ts';
import { Tombstones } from './tombstones.ts';

export interface FolderSetup {
  readonly path: string;
  readonly capacityBytes: number;
  readonly floorBytes: number;
}

export interface OpenedStore {
  readonly tombstones: Tombstones;
  readonly epoch: number;
  /** Sentences for the log and health: why files were dropped. */
  readonly findings: readonly string[];
}

/** Opens the journal, judges each folder, begins a new epoch. The folders are ready for files when it returns. */
export async function openStore(deps: {
  fileSystem: FileSystem;
  /** Started. */
  ram: RamTier;
  ssd: SsdTier;
  journalPath: string;
  folders: readonly FolderSetup[];
  hash: BlockHash;
  clock: Clock;
  logger: Logger;
  bootId: string;
  /** For the journal alone, where its disk may not answer; default `fileSystem`. */
  journalFiles?: FileSystem | undefined;
  /** See `Journal.open`. */
  compactionBytes?: number | undefined;
}): Promise<OpenedStore> {
  const { fileSystem, ram, ssd } = deps;
  const findings: string[] = [];
  const probes = deps.folders.map((setup) => lookAtFolder(fileSystem, setup.path));
  const failure = probes.find((probe) => probe.problem !== undefined)?.problem;
  if (failure !== undefined && probes.every((probe) => probe.problem !== undefined)) throw failure;
  const marks = probes.map((probe) => probe.mark);
  const keptEpoch = ram.keptMark?.epoch ?? 0;
  const everyMark = [...marks, keptEpoch <= MAX_EPOCH ? ram.keptMark : undefined].filter((mark) => mark !== undefined);
  const minimumSequence = Math.max(0, ...everyMark.map((mark) => mark.journalSequence));
  const { journal, replay } = Journal.open(deps.journalFiles ?? fileSystem, deps.journalPath, deps.hash, {
    minimumSequence,
    ...(deps.compactionBytes === undefined ? {} : { compactionBytes: deps.compactionBytes }),
  });
  if (replay.state === 'damaged') findings.push(`The journal is damaged (${replay.problem}): what was in RAM and on SSD is dropped`);
  const epoch = Math.max(replay.highestEpoch, ...everyMark.map((mark) => mark.epoch)) + 1;
  if (replay.state !== 'ok') ram.forgetKept('there is no journal that vouches for it');
  else if (!(keptEpoch >= replay.highestEpoch && keptEpoch <= MAX_EPOCH)) ram.forgetKept('it missed a run of this agent');
  for (const [index, setup] of deps.folders.entries()) {
    const mark = marks[index];
    const trusted = replay.state === 'ok' && mark !== undefined && mark.epoch >= replay.highestEpoch;
    const folder = ssd.addFolder({ ...setup, id: mark?.id ?? randomId() });
    const problem = probes[index]?.problem ?? prepare(ssd, folder, trusted);
    if (problem !== undefined) {
      // It gets no mark, so that the next start knows that it missed this run.
      folder.turnOff(`off for this run: ${problem.message}`);
      findings.push(`${setup.path} is off for this run: ${problem.message}`);
    } else if (!trusted && folder.dropped && replay.state !== 'damaged') {
      findings.push(`${setup.path} missed a run of this agent or has no journal: its files are dropped`);
    }
  }
  // Marks first: a crash between them and the start record leaves marks ahead of the journal, which says that nothing was missed.
  for (const problem of markTiers({ fileSystem, ram, ssd }, { epoch, journalSequence: journal.sequence })) {
    findings.push(`${problem.message}: without its mark, this folder's files are dropped at the next start`);
  }
  const tombstones = new Tombstones(
    journal,
    replay.records.map((entry) => entry.record),
    deps.logger,
  );
  tombstones.begin({ kind: 'start', epoch, atMs: deps.clock.nowMs(), bootId: deps.bootId });
  await tombstones.sync();
  return { tombstones, epoch, findings };
}

/** Its mark, or why nothing can be done with it. */
function lookAtFolder(fileSystem: FileSystem, path: string): { readonly mark?: FolderMark | undefined; readonly problem?: KvtierError } {
  try {
    fileSystem.mkdir(path);
    return { mark: readFolderMark(fileSystem, path) };
  } catch (problem) {
    if (!(problem instanceof KvtierError)) throw problem;
    return { problem };
  }
}

function prepare(ssd: SsdTier, folder: SsdFolder, trusted: boolean): KvtierError | undefined {
  try {
    if (!trusted && ssd.hasFiles(folder)) ssd.dropFiles(folder);
    ssd.prepareFolder(folder);
    return undefined;
  } catch (problem) {
    if (!(problem instanceof KvtierError)) throw problem;
    return problem;
  }
}

function randomId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** Says in each tier that it took part in this run, and how far the journal was. Answers whose mark could not be written. */
export function markTiers(
  tiers: { readonly fileSystem: FileSystem; readonly ram: RamTier; readonly ssd: SsdTier },
  mark: { epoch: number; journalSequence: number },
): KvtierError[] {
  tiers.ram.setMark(mark);
  return markFolders(tiers.fileSystem, tiers.ssd.folders, mark);
}

/** Writes the marks of the folders that are on. Those that could not be written stay behind, which costs their files at most. */
function markFolders(
  fileSystem: FileSystem,
  folders: readonly SsdFolder[],
  mark: { epoch: number; journalSequence: number },
): KvtierError[] {
  const problems: KvtierError[] = [];
  for (const folder of folders) {
    // A device that does not answer would be waited for; its mark stays behind.
    if (folder.state === 'off' || folder.state === 'stalled') continue;
    try {
      writeFolderMark(fileSystem, folder.path, { format: 1, id: folder.id, ...mark });
    } catch (problem) {
      if (!(problem instanceof KvtierError)) throw problem;
      problems.push(problem);
    }
  }
  return problems;
}

export interface RecoveryProgress {
  done: boolean;
  adoptedFiles: number;
  droppedFiles: number;
  loadedRows: number;
  /** Chunks that were in RAM when the former process ended, and are again. */
  keptChunks: number;
}

export class Recovery {
  readonly #state: CacheState;
  readonly progress: RecoveryProgress = { done: false, adoptedFiles: 0, droppedFiles: 0, loadedRows: 0, keptChunks: 0 };
  readonly #uncatalogued: { folder: SsdFolder; generations: number[] }[] = [];
  /** What headers say of parents, kept until all are read: a parent may be read after its child. */
  readonly #links: ParentLink[] = [];
  readonly #headers: HeaderReader;
  #stopped = false;

  constructor(state: CacheState) {
    this.#state = state;
    this.#headers = new HeaderReader(state);
  }

  /** Catalog rows whose file is there become chunks. After this the cache may serve. */
  async load(): Promise<void> {
    const state = this.#state;
    const [listings, catalog] = await Promise.all([
      Promise.all(
        state.ssd.folders.map((folder) => (folder.state === 'off' ? Promise.resolve(undefined) : state.ssd.listGenerations(folder))),
      ),
      state.catalog.open(),
    ]);
    const byId = new Map(state.ssd.folders.map((folder, index) => [folder.id, { folder, names: listings[index] ?? new Set<number>() }]));
    const parents: ParentLink[] = [];
    const entries = restoreRam(state, parents);
    const kept = [...entries];
    this.progress.keptChunks = kept.length;
    for await (const rows of catalog.chunks) {
      for (const row of rows) {
        const entry = this.#takeRow(row, byId);
        if (entry === undefined) continue;
        entries.set(row.generation, entry);
        if (row.parentGeneration !== undefined) parents.push({ entry, generation: row.generation, parentGeneration: row.parentGeneration });
      }
    }
    for (const link of parents) {
      const parent = entries.get(link.parentGeneration);
      if (parent !== undefined && state.isSame({ entry: link.entry, generation: link.generation })) state.setParent(link.entry, parent);
    }
    settleRam(state, kept, byId);
    for (const { folder, names } of byId.values())
      if (names.size > 0) this.#uncatalogued.push({ folder, generations: [...names].sort((a, b) => a - b) });
    for (const record of state.tombstones.invalidations) {
      const { kind: _, ...row } = record;
      state.catalog.enqueue({ kind: 'invalidation', invalidation: row });
    }
  }

  #takeRow(row: CatalogChunk, byId: ReadonlyMap<string, { folder: SsdFolder; names: Set<number> }>): EntryIndex | undefined {
    const state = this.#state;
    for (const replica of row.replicas) {
      const home = replica.tier === 'ssd' ? byId.get(replica.folder) : undefined;
      if (home === undefined || !home.names.has(row.generation)) continue;
      home.names.delete(row.generation);
      const entry = this.#take(home.folder, row);
      if (entry === undefined) return undefined;
      this.progress.loadedRows += 1;
      return entry;
    }
    state.catalog.enqueue({ kind: 'remove', generation: row.generation });
    return undefined;
  }

  /** One judge for rows and headers. Undefined where the file is dead or older than what is known; it is unlinked then. */
  #take(folder: SsdFolder, found: Omit<CatalogChunk, 'replicas' | 'tokenCount' | 'parentGeneration'>): EntryIndex | undefined {
    const state = this.#state;
    const { index, namespaces, tombstones, ram } = state;
    const namespace = namespaces.intern(found.namespace);
    try {
      const facts = { namespace: found.namespace, key: namespaces.wholeKey(namespace, found.key), createdAtMs: found.createdAtMs };
      const known = index.find(namespace, found.key);
      // What cannot be loaded any more (a smaller ram.maxChunk, say) would be promised to a probe and never kept.
      const expiresAtMs = state.expiry.ofFile(found);
      const dead =
        expiresAtMs < 0 ||
        !ram.canEverFit(found.sizeBytes) ||
        tombstones.isDead(facts, { key: found.key, generation: found.generation, folderId: folder.id });
      if (dead || (known >= 0 && index.generation(known as EntryIndex) > found.generation)) {
        this.#drop(folder, found);
        return undefined;
      }
      if (known >= 0 && index.generation(known as EntryIndex) === found.generation) return this.#join(folder, known as EntryIndex, found);
      if (known >= 0) state.remove(known as EntryIndex);
      const entry = state.insert({ ...found, namespace, expiresAtMs });
      index.setLastUsedAtMs(entry, found.lastUsedAtMs);
      index.setHitCount(entry, found.hitCount);
      if (found.redisMetadata !== undefined) state.setMetadata(entry, found.redisMetadata);
      if (found.lmBlock !== undefined) state.setLmBlock(entry, found.lmBlock);
      takeFile(state, entry, folder);
      state.quotas.recovered(entry);
      return entry;
    } finally {
      namespaces.release(namespace);
    }
  }

  /** The very chunk is known: from RAM, or from a file of the same name in another folder, which is one too many. */
  #join(
    folder: SsdFolder,
    known: EntryIndex,
    found: Omit<CatalogChunk, 'replicas' | 'tokenCount' | 'parentGeneration'>,
  ): EntryIndex | undefined {
    const state = this.#state;
    if (state.index.ssdFolder(known) >= 0 || state.isWriting(known)) {
      this.#drop(folder, found);
      return undefined;
    }
    state.index.setHitCount(known, Math.max(found.hitCount, state.index.hitCount(known)));
    takeFile(state, known, folder);
    state.quotas.recovered(known);
    return known;
  }

  #drop(folder: SsdFolder, found: { generation: number; namespace: CatalogChunk['namespace']; key: Uint8Array }): void {
    const { tombstones, ssd, catalog } = this.#state;
    this.progress.droppedFiles += 1;
    catalog.enqueue({ kind: 'remove', generation: found.generation });
    const done = tombstones.trackUnlink(tombstones.keyId(found.namespace, found.key), found.generation);
    ssd.unlinkUncounted(folder.index, found.generation, done);
  }

  /** Reads the headers of files without a row, in the background, oldest first. */
  async adopt(): Promise<void> {
    const state = this.#state;
    for await (const { folder, generations, headers } of this.#headers.read(this.#uncatalogued.splice(0)))
      for (const [index, bytes] of headers.entries()) this.#adoptOne(folder, generations[index] ?? 0, bytes);
    this.#linkAdopted();
    if (this.#stopped) return;
    state.tombstones.adoptionDone();
    state.pins.adoptionDone();
    this.progress.done = true;
    for (const folder of state.ssd.folders) {
      if (folder.state !== 'off') void state.ssd.sweepDropped(folder, () => this.#stopped);
    }
  }

  #adoptOne(folder: SsdFolder, generation: number, bytes: Uint8Array | undefined): void {
    const state = this.#state;
    const header = bytes === undefined ? undefined : state.ssd.decodeHeader(bytes);
    if (header === undefined || header.generation !== generation) {
      this.progress.droppedFiles += 1;
      void this.#refuse(folder, generation);
      return;
    }
    const entry = this.#take(folder, chunkOfHeader(header));
    if (entry === undefined) return;
    this.progress.adoptedFiles += 1;
    if (header.parentGeneration > 0) this.#links.push({ entry, generation, parentGeneration: header.parentGeneration });
    state.catalogPut(entry);
  }

  /** Chains of adopted files, whose parents may be adopted ones or catalogued ones. What a client has told meanwhile is newer and stands. */
  #linkAdopted(): void {
    const { index, catalog } = this.#state;
    const links = this.#links.splice(0);
    if (links.length === 0) return;
    const wanted = new Set(links.map((link) => link.parentGeneration));
    const parents = new Map<number, EntryIndex>();
    index.forEach((entry) => {
      if (wanted.has(index.generation(entry))) parents.set(index.generation(entry), entry);
    });
    for (const { entry, generation, parentGeneration } of links) {
      const parent = parents.get(parentGeneration);
      if (parent === undefined || !this.#state.isSame({ entry, generation }) || index.parent(entry) >= 0) continue;
      if (this.#state.setParent(entry, parent)) catalog.enqueue({ kind: 'parent', generation, parentGeneration });
    }
  }

  /** A file that does not say whose it is counts as an older one of every key until it is gone. */
  async #refuse(folder: SsdFolder, generation: number): Promise<void> {
    const { ssd, tombstones } = this.#state;
    const done = tombstones.trackUnknown(generation);
    if (await ssd.quarantine(folder, generation, 'header unreadable at start')) done();
    else ssd.unlinkUncounted(folder.index, generation, done);
  }

  /** For shutdown: adoption stops at the next batch; what is left is adopted at the next start. */
  stop(): void {
    this.#stopped = true;
    this.#headers.stop();
  }
}

function chunkOfHeader(header: ChunkFileHeader): Omit<CatalogChunk, 'replicas' | 'tokenCount' | 'parentGeneration'> {
  return {
    generation: header.generation,
    namespace: header.namespace,
    key: header.key,
    sizeBytes: header.sizeBytes,
    checksum: header.checksum,
    createdAtMs: header.createdAtMs,
    expiresAtMs: header.expiresAtMs,
    lastUsedAtMs: header.createdAtMs,
    hitCount: 0,
    redisMetadata: header.redisMetadata,
    lmBlock: header.lm,
  };
}
