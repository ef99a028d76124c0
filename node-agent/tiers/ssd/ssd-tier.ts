/**
 * The SSD tier: one file per chunk in sharded folders, several devices, each with its own budget and state. It knows files and
 * bytes, not keys' order or leases: which chunk to write, read or evict is the cache's decision.
 *
 * Layout of a folder: kvtier-folder.json, <two hex digits>/<16 hex digits of the generation>.kv, quarantine/, dropped-<n>/.
 * Invariants: see SsdFolder. A file is written under a temporary name and renamed when whole. Unlinks are few at a time and count
 * as used until done.
 */
import { assert } from '#core/assert.ts';
import { BLOCK_BYTES, roundUp } from '#core/bytes.ts';
import type { Address, Fd } from '#core/brand.ts';
import type { BlockHash } from '#core/checksum.ts';
import type { Clock } from '#core/clock.ts';
import { errnoName, KvtierError } from '#core/errors.ts';
import { Fifo } from '#core/fifo.ts';
import type { Logger } from '#core/logger.ts';
import type { FileSystem } from '#ports/file-system.ts';
import { SHORT_FILE } from '#ports/io-pool.ts';
import type { FileIo, IoFailure, IoPriority } from '#ports/io-pool.ts';
import { LatencyWindow } from './bandwidth.ts';
import { chunkFileName, chunkShard, decodeChunkHeader, encodeChunkHeader, parseChunkFileName } from './chunk-file.ts';
import type { ChunkFileHeader } from './chunk-file.ts';
import { SsdFolder } from './ssd-folder.ts';
import { StallProbe } from './stall-probe.ts';

export interface SsdTierOptions {
  readonly files: FileIo;
  readonly fileSystem: FileSystem;
  readonly hash: BlockHash;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly direct: 'auto' | 'on' | 'off';
  /** A folder went off: its chunks are gone. */
  readonly onFolderLost: (folder: SsdFolder) => void;
}

export type SsdReadOutcome =
  | { readonly ok: true; readonly header: ChunkFileHeader; readonly elapsedMs: number }
  /**
   * 'missing': no such file. 'corrupt': wrong bytes; the file was set aside, unless `fileStays`. 'unreadable': the device cannot
   * read it; the file stays. 'failed': not the file's fault (no descriptors, no memory, the pool closes). 'fault': the memory of a
   * client's region has gone.
   */
  | {
      readonly ok: false;
      readonly reason: 'missing' | 'corrupt' | 'unreadable' | 'failed' | 'fault';
      readonly problem: string;
      readonly fileStays: boolean;
      /** The device still holds the request's memory until this settles; it may never. */
      readonly late?: Promise<boolean>;
    };

export type SsdWriteOutcome =
  | { readonly ok: true }
  /** `late`: the source's memory is still read until this settles; true: the file is there now, counted, and the caller's to unlink. */
  | { readonly ok: false; readonly reason: 'unfit' | 'failed'; readonly failure?: IoFailure; readonly late?: Promise<boolean> };

export interface SsdReadRequest {
  readonly folder: number;
  readonly generation: number;
  readonly address: Address;
  readonly sizeBytes: number;
  readonly capacityBytes: number;
  readonly checksum: bigint;
  readonly priority: IoPriority;
  /** See ReadChunkJob. */
  readonly region?: { readonly fd: Fd; readonly offset: number };
}

interface PendingUnlink {
  readonly folder: SsdFolder;
  readonly generation: number;
  readonly fileBytes: number;
  readonly done: () => void;
}

const SHARDS = 256;
const UNLINKS_AT_ONCE = 2;
/** Wrong files kept for a look in each folder; they count in no budget, so further ones are unlinked. */
const MAX_QUARANTINED = 16;
const ENOENT = 2;
const EIO = 5;
const EFAULT = 14;
const ENOTDIR = 20;
const ETIMEDOUT = 110;

export class SsdTier {
  readonly folders: SsdFolder[] = [];
  readonly readLatency = new LatencyWindow();
  readonly writeLatency = new LatencyWindow();
  readBytes = 0;
  writtenBytes = 0;
  readErrors = 0;
  writeErrors = 0;
  checksumMismatches = 0;
  activeReads = 0;
  activeWrites = 0;
  readonly #options: SsdTierOptions;
  readonly #unlinks = new Fifo<PendingUnlink>();
  #unlinksRunning = 0;
  #unlinkingBytes = 0;
  /** Files that would not go; tried again at each poll. */
  #stuckUnlinks: PendingUnlink[] = [];
  #fallbackReported = false;
  /** Reads that a device never answered: nobody asks for the same file again, or one bad file would stall its folder over and over. */
  readonly #stuckReads = new Set<number>();
  readonly #probe: StallProbe;
  /** Times that a folder did not answer in time. */
  stalls = 0;

  constructor(options: SsdTierOptions) {
    this.#options = options;
    this.#probe = new StallProbe(options);
  }

  /** Adds a folder whose mark was already judged. `id` is the mark's, or a new one. */
  addFolder(options: { path: string; id: string; capacityBytes: number; floorBytes: number }): SsdFolder {
    const folder = new SsdFolder({ ...options, index: this.folders.length });
    this.folders.push(folder);
    return folder;
  }

  /** Makes the shards and removes temporary files of a former run. */
  prepareFolder(folder: SsdFolder): void {
    const { fileSystem } = this.#options;
    for (let shard = 0; shard < SHARDS; shard += 1) fileSystem.mkdir(`${folder.path}/${shard.toString(16).padStart(2, '0')}`);
    fileSystem.mkdir(`${folder.path}/quarantine`);
    folder.quarantinedFiles = fileSystem.list(`${folder.path}/quarantine`).length;
    folder.setFreeBytes(fileSystem.statFs(folder.path).freeBytes);
  }

  /** True where a folder has shards: it was used before. */
  hasFiles(folder: SsdFolder): boolean {
    return this.#options.fileSystem.list(folder.path).some((name) => /^[0-9a-f]{2}$/.test(name));
  }

  /** Sets all files aside at once (a rename per shard) and unlinks them in the background. For folders that cannot be trusted. */
  dropFiles(folder: SsdFolder): void {
    const { fileSystem, clock } = this.#options;
    const trash = `${folder.path}/dropped-${clock.nowMs()}`;
    fileSystem.mkdir(trash);
    for (const name of fileSystem.list(folder.path)) {
      if (/^[0-9a-f]{2}$/.test(name)) fileSystem.rename(`${folder.path}/${name}`, `${trash}/${name}`);
    }
    folder.dropped = true;
  }

  /** Unlinks what `dropFiles` set aside, one file at a time. What is left when it is stopped goes after the next start. */
  async sweepDropped(folder: SsdFolder, stopped: () => boolean): Promise<void> {
    const { files, fileSystem } = this.#options;
    const names = async (path: string): Promise<readonly string[]> => {
      const listing = await files.list(path);
      return listing.ok && !stopped() && folder.state !== 'off' ? listing.names : [];
    };
    for (const name of await names(folder.path)) {
      if (!name.startsWith('dropped-')) continue;
      const trash = `${folder.path}/${name}`;
      for (const shard of await names(trash)) {
        for (const file of await names(`${trash}/${shard}`)) {
          if (stopped() || folder.state === 'off') return;
          await files.unlink(`${trash}/${shard}/${file}`);
        }
      }
      if (stopped() || folder.state === 'off') return;
      try {
        fileSystem.remove(trash);
      } catch (problem) {
        if (!(problem instanceof KvtierError)) throw problem;
        this.#options.logger.warn(`Cannot remove ${trash}`, { code: problem.code });
      }
    }
  }

  /**
   * Generations of the chunk files of a folder; unlinks temporary files on the way. A folder that cannot be listed is lost: files that
   * are not seen now must not be found later.
   */
  async listGenerations(folder: SsdFolder): Promise<Set<number>> {
    const generations = new Set<number>();
    // Waited for: a chunk that is still in RAM is written again under the name of the write that did not end.
    const unlinks: Promise<unknown>[] = [];
    const shards = Array.from({ length: SHARDS }, (_, shard) => `${folder.path}/${shard.toString(16).padStart(2, '0')}`);
    const listings = await Promise.all(shards.map((path) => this.#options.files.list(path)));
    for (const [index, listing] of listings.entries()) {
      if (!listing.ok) {
        this.loseFolder(folder, `it cannot be listed (${listing.step}: ${errnoName(listing.errno)})`);
        return new Set();
      }
      for (const name of listing.names) {
        const generation = parseChunkFileName(name);
        if (generation !== undefined) generations.add(generation);
        else unlinks.push(this.#options.files.unlink(`${shards[index] ?? ''}/${name}`));
      }
    }
    await Promise.all(unlinks);
    return generations;
  }

  path(folder: SsdFolder, generation: number): string {
    return `${folder.path}/${chunkShard(generation)}/${chunkFileName(generation)}`;
  }

  fileBytes(sizeBytes: number): number {
    return BLOCK_BYTES + roundUp(sizeBytes, BLOCK_BYTES);
  }

  get writable(): boolean {
    return this.folders.some((folder) => folder.state === 'ok');
  }

  get capacityBytes(): number {
    return this.folders.reduce((sum, folder) => sum + (folder.state === 'off' ? 0 : folder.capacityBytes), 0);
  }

  get usedBytes(): number {
    return this.folders.reduce((sum, folder) => sum + (folder.state === 'off' ? 0 : folder.usedBytes), 0);
  }

  get chunkCount(): number {
    return this.folders.reduce((sum, folder) => sum + folder.chunkCount, 0);
  }

  /** Unlinks queued or under way; not those that failed and wait for another attempt. */
  get pendingUnlinks(): number {
    return this.#unlinks.length + this.#unlinksRunning;
  }

  /** Bytes that these will free where writes may use them. */
  get unlinkingBytes(): number {
    return this.#unlinkingBytes;
  }

  /** The folder with the most room for a file of this size, or undefined: evict first. */
  folderWithRoom(fileBytes: number): SsdFolder | undefined {
    let best: SsdFolder | undefined;
    for (const folder of this.folders) {
      if (folder.availableBytes >= fileBytes && (best === undefined || folder.availableBytes > best.availableBytes)) best = folder;
    }
    return best;
  }

  /** False where no eviction could ever make room: every writable folder is smaller than the file. */
  canEverFit(fileBytes: number): boolean {
    return this.folders.some((folder) => folder.state === 'ok' && folder.effectiveCapacityBytes >= fileBytes);
  }

  /**
   * Writes a chunk. The caller has retained the memory. The space is reserved here and given back on failure; on success it is
   * the caller's until `unlink`. `sync`: on the device when it resolves, not only handed to it. 'unfit': the key is too long for a header, the chunk stays in RAM.
   */
  async write(
    folder: SsdFolder,
    header: ChunkFileHeader,
    source: { readonly address: Address; readonly sync?: boolean },
  ): Promise<SsdWriteOutcome> {
    const encoded = encodeChunkHeader(header, this.#options.hash);
    if (!encoded.ok) return { ok: false, reason: 'unfit' };
    const fileBytes = this.fileBytes(header.sizeBytes);
    folder.reserve(fileBytes);
    this.activeWrites += 1;
    const path = this.path(folder, header.generation);
    const outcome = await this.#options.files.writeChunk({
      tempPath: `${path}.tmp`,
      path,
      header: encoded.bytes,
      address: source.address,
      sizeBytes: header.sizeBytes,
      direct: this.#options.direct !== 'off',
      sync: source.sync ?? false,
    });
    this.activeWrites -= 1;
    if (!outcome.ok && isTimeout(outcome)) {
      this.#stalled(folder, outcome);
      if (outcome.late === undefined) folder.giveBack(fileBytes);
      return { ok: false, reason: 'failed', failure: outcome, ...this.#lateFile(folder, fileBytes, outcome) };
    }
    if (!outcome.ok) {
      folder.giveBack(fileBytes);
      this.writeErrors += 1;
      if (folder.onWriteFailure(outcome)) this.#options.onFolderLost(folder);
      this.#options.logger.warn(`Cannot write a chunk to ${folder.path}: ${outcome.step}: ${errnoName(outcome.errno)}`, {
        folderState: folder.state,
      });
      return { ok: false, reason: 'failed', failure: outcome };
    }
    this.#noteDirect(folder, outcome.direct);
    folder.onWriteSuccess();
    folder.chunkCount += 1;
    folder.write.add(fileBytes, outcome.elapsedMs);
    this.writeLatency.add(outcome.elapsedMs);
    this.writtenBytes += fileBytes;
    return { ok: true };
  }

  /** A file that may still come keeps its space until that is known. */
  #lateFile(folder: SsdFolder, fileBytes: number, failure: IoFailure): { late?: Promise<boolean> } {
    if (failure.late === undefined) return {};
    const late = failure.late.then((done) => {
      if (done) folder.chunkCount += 1;
      else folder.giveBack(fileBytes);
      return done;
    });
    return { late };
  }

  /** An operation passed its deadline: nothing more is asked of the folder until a probe went through. */
  #stalled(folder: SsdFolder, failure: IoFailure): void {
    if (!folder.stall(`the device does not answer (${failure.step} passed its deadline)`)) return;
    this.stalls += 1;
    this.#probe.began(folder);
    this.#options.logger.error(`SSD folder ${folder.path} does not answer: its chunks are misses until it does`, { step: failure.step });
    this.#options.files.abandon(`${folder.path}/`);
  }

  /** False where the page cache is what was asked for, and no sign of anything. */
  get wantsDirect(): boolean {
    return this.#options.direct !== 'off';
  }

  /** True where chunks of the folder cannot be read now, but are not lost. */
  isStalled(folderIndex: number): boolean {
    return this.folders[folderIndex]?.state === 'stalled';
  }

  #noteDirect(folder: SsdFolder, direct: boolean): void {
    folder.direct = direct;
    if (direct || this.#options.direct === 'off') return;
    if (!this.#fallbackReported)
      this.#options.logger.warn(`${folder.path} does not support O_DIRECT: the SSD tier goes through the page cache there`, {});
    this.#fallbackReported = true;
    if (this.#options.direct === 'on') this.loseFolder(folder, 'ssd.direct is on and the file system does not support O_DIRECT');
  }

  /** Reads a chunk into retained memory and verifies header and checksum. Wrong bytes are quarantined and never served. */
  async read(request: SsdReadRequest): Promise<SsdReadOutcome> {
    const folder = this.#folder(request.folder);
    if (folder.state === 'stalled' || this.#stuckReads.has(request.generation)) {
      return { ok: false, reason: 'failed', problem: 'the device does not answer', fileStays: true };
    }
    const path = this.path(folder, request.generation);
    this.activeReads += 1;
    const outcome = await this.#options.files.readChunk({
      path,
      address: request.address,
      sizeBytes: request.sizeBytes,
      capacityBytes: request.capacityBytes,
      direct: this.#options.direct !== 'off',
      priority: request.priority,
      ...(request.region === undefined ? {} : { region: request.region }),
    });
    this.activeReads -= 1;
    if (!outcome.ok) return await this.#readFailed(folder, request.generation, outcome);
    folder.onReadSuccess();
    folder.direct = outcome.direct;
    folder.read.add(request.sizeBytes, outcome.elapsedMs);
    this.readLatency.add(outcome.elapsedMs);
    this.readBytes += this.fileBytes(request.sizeBytes);
    const problem = this.#wrong(request, outcome.header, outcome.checksum);
    if (typeof problem !== 'string') return { ok: true, header: problem, elapsedMs: outcome.elapsedMs };
    if (request.region !== undefined) {
      // What lies in a client's memory he may have written himself: the file is judged by what is read of it into ours.
      const verdict = await this.verifyFile(request.folder, request);
      if (verdict === undefined)
        return { ok: false, reason: 'fault', problem: 'the memory was changed while it was read into', fileStays: true };
      if (verdict.reason !== 'corrupt') return { ok: false, ...verdict, fileStays: verdict.reason !== 'missing' };
    }
    return { ok: false, reason: 'corrupt', problem, fileStays: !(await this.quarantine(folder, request.generation, problem)) };
  }

  /** A missing file is the caller's to count: a read may lose the race against the removal of its chunk. */
  async #readFailed(folder: SsdFolder, generation: number, failure: IoFailure): Promise<SsdReadOutcome> {
    if (failure.step === SHORT_FILE) {
      return { ok: false, reason: 'corrupt', problem: failure.step, fileStays: !(await this.quarantine(folder, generation, failure.step)) };
    }
    const problem = `${failure.step}: ${errnoName(failure.errno)}`;
    // The client's memory is gone; the device is well.
    if (failure.errno === EFAULT) return { ok: false, reason: 'fault', problem, fileStays: true };
    if (isTimeout(failure)) {
      this.#stalled(folder, failure);
      if (failure.late === undefined) return { ok: false, reason: 'failed', problem, fileStays: true };
      this.readErrors += 1;
      this.#stuckReads.add(generation);
      const late = failure.late.finally(() => void this.#stuckReads.delete(generation));
      return { ok: false, reason: 'failed', problem, fileStays: true, late };
    }
    if (failure.errno === ENOENT) {
      // One file, or all of them: a folder that went away must be declared lost before anything is put in place of its chunks.
      await this.#lookAt(folder);
      return { ok: false, reason: 'missing', problem, fileStays: false };
    }
    this.readErrors += 1;
    this.#options.logger.warn(`Cannot read ${this.path(folder, generation)}: ${problem}`, {});
    if (failure.errno !== EIO) return { ok: false, reason: 'failed', problem, fileStays: true };
    if (folder.onReadFailure(failure)) this.#options.onFolderLost(folder);
    return { ok: false, reason: 'unreadable', problem, fileStays: true };
  }

  #wrong(
    request: { generation: number; sizeBytes: number; checksum: bigint },
    headerBytes: Uint8Array,
    checksum: bigint,
  ): ChunkFileHeader | string {
    const decoded = decodeChunkHeader(headerBytes, this.#options.hash);
    if (!decoded.ok) return `header: ${decoded.problem}`;
    const { header } = decoded;
    if (header.generation !== request.generation) return `header names generation ${header.generation}`;
    if (header.sizeBytes !== request.sizeBytes) return `header names ${header.sizeBytes} bytes, wanted ${request.sizeBytes}`;
    if (header.checksum !== checksum || checksum !== request.checksum) return 'payload checksum';
    return header;
  }

  /** Checks one file without loading it: for `verify`. Undefined where it is right. 'failed': nothing is known of the file, which stays. */
  async verifyFile(
    folderIndex: number,
    wanted: { generation: number; sizeBytes: number; checksum: bigint },
  ): Promise<{ problem: string; reason: 'missing' | 'corrupt' | 'unreadable' | 'failed' } | undefined> {
    const folder = this.#folder(folderIndex);
    if (folder.state === 'stalled') return { problem: 'the device does not answer', reason: 'failed' };
    const outcome = await this.#options.files.checksumFile(this.path(folder, wanted.generation), wanted.sizeBytes);
    if (!outcome.ok && isTimeout(outcome)) this.#stalled(folder, outcome);
    if (!outcome.ok) {
      const { step, errno } = outcome;
      const reason = step === SHORT_FILE ? 'corrupt' : errno === ENOENT ? 'missing' : errno === EIO ? 'unreadable' : 'failed';
      return { problem: `${step}: ${errnoName(errno)}`, reason };
    }
    const problem = this.#wrong(wanted, outcome.header, outcome.checksum);
    return typeof problem === 'string' ? { problem, reason: 'corrupt' } : undefined;
  }

  /**
   * Moves a file out of the way of every reader and every recovery; keeps its bytes for a look. False where it is still in place: the
   * caller unlinks it, and it is not gone before that is done.
   */
  async quarantine(folder: SsdFolder, generation: number, problem: string): Promise<boolean> {
    this.checksumMismatches += 1;
    const path = this.path(folder, generation);
    this.#options.logger.error(`Wrong file ${path}: ${problem}`, { generation });
    if (folder.quarantinedFiles >= MAX_QUARANTINED) {
      const outcome = await this.#options.files.unlink(path);
      return outcome.ok || outcome.errno === ENOENT;
    }
    const moved = await this.#options.files.rename(path, `${folder.path}/quarantine/${chunkFileName(generation)}`);
    if (!moved.ok) return moved.errno === ENOENT;
    folder.quarantinedFiles += 1;
    return true;
  }

  get quarantinedFiles(): number {
    return this.folders.reduce((sum, folder) => sum + folder.quarantinedFiles, 0);
  }

  /** Removes a file in the background; `done` runs when it is gone and its space is free. */
  unlink(folderIndex: number, generation: number, options: { sizeBytes: number; done?: () => void }): void {
    const folder = this.#folder(folderIndex);
    folder.chunkCount -= 1;
    this.#queueUnlink({ folder, generation, fileBytes: this.fileBytes(options.sizeBytes), done: options.done ?? ((): void => {}) });
  }

  /** As `unlink` for a file that is not counted: one that recovery refused. */
  unlinkUncounted(folderIndex: number, generation: number, done: () => void): void {
    this.#queueUnlink({ folder: this.#folder(folderIndex), generation, fileBytes: 0, done });
  }

  /** The file of a chunk is gone or in quarantine: it counts no more. */
  forgetFile(folderIndex: number, sizeBytes: number): void {
    const folder = this.#folder(folderIndex);
    folder.chunkCount -= 1;
    folder.giveBack(this.fileBytes(sizeBytes));
  }

  #queueUnlink(unlink: PendingUnlink): void {
    this.#unlinks.push(unlink);
    this.#unlinkingBytes += unlink.fileBytes;
    this.#pumpUnlinks();
  }

  #pumpUnlinks(): void {
    while (this.#unlinksRunning < UNLINKS_AT_ONCE) {
      const next = this.#unlinks.shift();
      if (next === undefined) return;
      if (next.folder.state === 'stalled') {
        this.#unlinkingBytes -= next.fileBytes;
        this.#stuckUnlinks.push(next);
        continue;
      }
      this.#unlinksRunning += 1;
      void this.#options.files.unlink(this.path(next.folder, next.generation)).then((outcome) => {
        this.#unlinksRunning -= 1;
        this.#unlinkingBytes -= next.fileBytes;
        if (!outcome.ok && isTimeout(outcome)) {
          this.#stalled(next.folder, outcome);
          // Not tried again before it is known how this one ends: its space must not be given back twice.
          if (outcome.late === undefined) this.#stuckUnlinks.push(next);
          else void outcome.late.then(() => this.#stuckUnlinks.push(next));
          return this.#pumpUnlinks();
        }
        // The files of a folder that is off are dead by the journal's word. Any other file that will not go keeps its space, and its
        // key stays tracked (done is not called).
        if (outcome.ok || outcome.errno === ENOENT || next.folder.state === 'off') {
          next.folder.giveBack(next.fileBytes);
          next.done();
        } else {
          this.writeErrors += 1;
          this.#stuckUnlinks.push(next);
        }
        this.#pumpUnlinks();
      });
    }
  }

  async readHeaders(folder: SsdFolder, generations: readonly number[]): Promise<readonly (Uint8Array | IoFailure)[]> {
    const headers = await this.#options.files.readHeaders(generations.map((generation) => this.path(folder, generation)));
    const timeout = headers.find((header): header is IoFailure => !(header instanceof Uint8Array) && isTimeout(header));
    if (timeout !== undefined) this.#stalled(folder, timeout);
    return headers;
  }

  decodeHeader(bytes: Uint8Array): ChunkFileHeader | undefined {
    const decoded = decodeChunkHeader(bytes, this.#options.hash);
    return decoded.ok ? decoded.header : undefined;
  }

  /** Looks at the file systems: free space, and folders that went away. A read-only folder may try writes again. */
  async poll(): Promise<void> {
    for (const unlink of this.#stuckUnlinks.splice(0)) this.#queueUnlink(unlink);
    for (const folder of this.folders) {
      if (folder.state === 'stalled') this.#probe.tryNow(folder);
      if (folder.state === 'off' || folder.state === 'stalled') continue;
      if ((await this.#lookAt(folder)) && folder.state === 'read-only') await this.#probeWrite(folder);
    }
  }

  /** True where the folder is there; else it is lost, or nothing can be said. */
  async #lookAt(folder: SsdFolder): Promise<boolean> {
    const stats = await this.#options.files.statFs(`${folder.path}/00`);
    if (stats.ok) folder.setFreeBytes(stats.freeBytes);
    else if (isTimeout(stats)) this.#stalled(folder, stats);
    else if (stats.errno === ENOENT || stats.errno === ENOTDIR) this.loseFolder(folder, 'the folder is gone');
    return stats.ok;
  }

  /** Turns a folder off for this run; its chunks are dropped. */
  loseFolder(folder: SsdFolder, reason: string): void {
    if (folder.turnOff(reason)) this.#options.onFolderLost(folder);
  }

  async #probeWrite(folder: SsdFolder): Promise<void> {
    const path = `${folder.path}/00/probe`;
    const outcome = await this.#options.files.writeChunk({
      tempPath: `${path}.tmp`,
      path,
      header: new Uint8Array(BLOCK_BYTES),
      address: 0 as Address,
      sizeBytes: 0,
      direct: false,
      sync: true,
    });
    if (!outcome.ok && isTimeout(outcome)) return this.#stalled(folder, outcome);
    await this.#options.files.unlink(path);
    if (outcome.ok && folder.effectiveCapacityBytes > folder.usedBytes) folder.onWriteSuccess();
  }

  /** Read requests wait behind these: the write-behind yields to them. */
  queueDepth(): number {
    const depth = this.#options.files.queueDepth();
    return depth.demand + depth.prefetch + depth.write + depth.background;
  }

  demandWaits(): boolean {
    return this.#options.files.queueDepth().demand > 0;
  }

  checkInvariants(): void {
    this.#probe.checkInvariants();
    assert(this.#unlinksRunning <= UNLINKS_AT_ONCE && this.#unlinkingBytes >= 0, 'unlinks are few and count once');
  }

  #folder(index: number): SsdFolder {
    const folder = this.folders[index];
    assert(folder !== undefined, `SSD folder ${index} exists`);
    return folder;
  }
}

/** Past its deadline, or never begun because another operation of the folder was. */
export function isTimeout(failure: IoFailure): boolean {
  return failure.errno === ETIMEDOUT;
}
