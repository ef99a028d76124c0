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
import type { Address } from '#core/brand.ts';
import type { BlockHash } from '#core/checksum.ts';
import type { Clock } from '#core/clock.ts';
import { errnoName } from '#core/errors.ts';
import { Fifo } from '#core/fifo.ts';
import type { Logger } from '#core/logger.ts';
import type { FileSystem } from '#ports/file-system.ts';
import { SHORT_FILE } from '#ports/io-pool.ts';
import type { FileIo, IoFailure, IoPriority } from '#ports/io-pool.ts';
import { LatencyWindow } from './bandwidth.ts';
import { chunkFileName, chunkShard, decodeChunkHeader, encodeChunkHeader, parseChunkFileName } from './chunk-file.ts';
import type { ChunkFileHeader } from './chunk-file.ts';
import { SsdFolder } from './ssd-folder.ts';

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
  /** 'missing': no such file. 'corrupt': wrong bytes; the file was set aside. 'failed': the device did not answer. */
  | { readonly ok: false; readonly reason: 'missing' | 'corrupt' | 'failed'; readonly problem: string };

export interface SsdReadRequest {
  readonly folder: number;
  readonly generation: number;
  readonly address: Address;
  readonly sizeBytes: number;
  readonly capacityBytes: number;
  readonly checksum: bigint;
  readonly priority: IoPriority;
}

const SHARDS = 256;
const UNLINKS_AT_ONCE = 2;
const ENOENT = 2;

export class SsdTier {
  readonly folders: SsdFolder[] = [];
  readonly readLatency = new LatencyWindow();
  readonly writeLatency = new LatencyWindow();
  readBytes = 0;
  writtenBytes = 0;
  readErrors = 0;
  writeErrors = 0;
  checksumMismatches = 0;
  quarantinedFiles = 0;
  activeReads = 0;
  activeWrites = 0;
  readonly #options: SsdTierOptions;
  readonly #unlinks = new Fifo<{ folder: SsdFolder; generation: number; fileBytes: number; done: () => void }>();
  #unlinksRunning = 0;
  #fallbackReported = false;

  constructor(options: SsdTierOptions) {
    this.#options = options;
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
    this.quarantinedFiles += fileSystem.list(`${folder.path}/quarantine`).length;
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
  }

  /** Unlinks what `dropFiles` set aside, a few files at a time. */
  async sweepDropped(folder: SsdFolder): Promise<void> {
    const { fileSystem, files } = this.#options;
    for (const name of fileSystem.list(folder.path)) {
      if (!name.startsWith('dropped-')) continue;
      const trash = `${folder.path}/${name}`;
      for (const shard of fileSystem.list(trash)) {
        const listing = await files.list(`${trash}/${shard}`);
        if (!listing.ok) continue;
        for (const file of listing.names) await files.unlink(`${trash}/${shard}/${file}`);
      }
      fileSystem.remove(trash);
    }
  }

  /** Generations of the chunk files of a folder; unlinks temporary files on the way. */
  async listGenerations(folder: SsdFolder): Promise<Set<number>> {
    const generations = new Set<number>();
    const shards = Array.from({ length: SHARDS }, (_, shard) => `${folder.path}/${shard.toString(16).padStart(2, '0')}`);
    const listings = await Promise.all(shards.map((path) => this.#options.files.list(path)));
    for (const [index, listing] of listings.entries()) {
      if (!listing.ok) continue;
      for (const name of listing.names) {
        const generation = parseChunkFileName(name);
        if (generation !== undefined) generations.add(generation);
        else void this.#options.files.unlink(`${shards[index] ?? ''}/${name}`);
      }
    }
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

  get pendingUnlinks(): number {
    return this.#unlinks.length + this.#unlinksRunning;
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
   * the caller's until `unlink`. 'unfit': the key is too long for a header, the chunk stays in RAM.
   */
  async write(folder: SsdFolder, header: ChunkFileHeader, address: Address): Promise<{ ok: true } | { ok: false; reason: 'unfit' | 'failed'; failure?: IoFailure }> {
    const encoded = encodeChunkHeader(header, this.#options.hash);
    if (!encoded.ok) return { ok: false, reason: 'unfit' };
    const fileBytes = this.fileBytes(header.sizeBytes);
    folder.reserve(fileBytes);
    this.activeWrites += 1;
    const path = this.path(folder, header.generation);
    const outcome = await this.#options.files.writeChunk({
      tempPath: `${path}.tmp`, path, header: encoded.bytes, address, sizeBytes: header.sizeBytes, direct: this.#options.direct !== 'off', sync: false,
    });
    this.activeWrites -= 1;
    if (!outcome.ok) {
      folder.giveBack(fileBytes);
      this.writeErrors += 1;
      if (folder.onWriteFailure(outcome)) this.#options.onFolderLost(folder);
      this.#options.logger.warn(`Cannot write a chunk to ${folder.path}: ${outcome.step}: ${errnoName(outcome.errno)}`, { folderState: folder.state });
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

  #noteDirect(folder: SsdFolder, direct: boolean): void {
    folder.direct = direct;
    if (direct || this.#options.direct === 'off' || this.#fallbackReported) return;
    this.#fallbackReported = true;
    this.#options.logger.warn(`${folder.path} does not support O_DIRECT: the SSD tier goes through the page cache there`, {});
    if (this.#options.direct === 'on' && folder.turnOff('ssd.direct is on and the file system does not support O_DIRECT')) this.#options.onFolderLost(folder);
  }

  /** Reads a chunk into retained memory and verifies header and checksum. Wrong bytes are quarantined and never served. */
  async read(request: SsdReadRequest): Promise<SsdReadOutcome> {
    const folder = this.#folder(request.folder);
    const path = this.path(folder, request.generation);
    this.activeReads += 1;
    const outcome = await this.#options.files.readChunk({
      path, address: request.address, sizeBytes: request.sizeBytes, capacityBytes: request.capacityBytes,
      direct: this.#options.direct !== 'off', priority: request.priority,
    });
    this.activeReads -= 1;
    if (!outcome.ok && outcome.step === SHORT_FILE) {
      await this.quarantine(folder, request.generation, outcome.step);
      return { ok: false, reason: 'corrupt', problem: outcome.step };
    }
    if (!outcome.ok) {
      this.readErrors += 1;
      if (folder.onReadFailure(outcome)) this.#options.onFolderLost(folder);
      const problem = `${outcome.step}: ${errnoName(outcome.errno)}`;
      this.#options.logger.warn(`Cannot read ${path}: ${problem}`, {});
      return { ok: false, reason: outcome.errno === ENOENT ? 'missing' : 'failed', problem };
    }
    folder.onReadSuccess();
    folder.direct = outcome.direct;
    folder.read.add(request.sizeBytes, outcome.elapsedMs);
    this.readLatency.add(outcome.elapsedMs);
    this.readBytes += this.fileBytes(request.sizeBytes);
    const problem = this.#wrong(request, outcome.header, outcome.checksum);
    if (typeof problem !== 'string') return { ok: true, header: problem, elapsedMs: outcome.elapsedMs };
    await this.quarantine(folder, request.generation, problem);
    return { ok: false, reason: 'corrupt', problem };
  }

  #wrong(request: { generation: number; sizeBytes: number; checksum: bigint }, headerBytes: Uint8Array, checksum: bigint): ChunkFileHeader | string {
    const decoded = decodeChunkHeader(headerBytes, this.#options.hash);
    if (!decoded.ok) return `header: ${decoded.problem}`;
    const { header } = decoded;
    if (header.generation !== request.generation) return `header names generation ${header.generation}`;
    if (header.sizeBytes !== request.sizeBytes) return `header names ${header.sizeBytes} bytes, wanted ${request.sizeBytes}`;
    if (header.checksum !== checksum || checksum !== request.checksum) return 'payload checksum';
    return header;
  }

  /** Checks one file without loading it: for `verify`. Undefined where it is right. */
  async verifyFile(folderIndex: number, wanted: { generation: number; sizeBytes: number; checksum: bigint }): Promise<{ problem: string; corrupt: boolean } | undefined> {
    const outcome = await this.#options.files.checksumFile(this.path(this.#folder(folderIndex), wanted.generation), wanted.sizeBytes);
    if (!outcome.ok) return { problem: `${outcome.step}: ${errnoName(outcome.errno)}`, corrupt: outcome.step === SHORT_FILE };
    const problem = this.#wrong(wanted, outcome.header, outcome.checksum);
    return typeof problem === 'string' ? { problem, corrupt: true } : undefined;
  }

  /** Moves a file out of the way of every reader and every recovery; keeps its bytes for a look. */
  async quarantine(folder: SsdFolder, generation: number, problem: string): Promise<void> {
    this.checksumMismatches += 1;
    this.quarantinedFiles += 1;
    const path = this.path(folder, generation);
    this.#options.logger.error(`Quarantined ${path}: ${problem}`, { generation });
    const moved = await this.#options.files.rename(path, `${folder.path}/quarantine/${chunkFileName(generation)}`);
    if (!moved.ok) await this.#options.files.unlink(path);
  }

  /** Removes a file in the background; `done` runs when it is gone and its space is free. */
  unlink(folderIndex: number, generation: number, options: { sizeBytes: number; done?: () => void }): void {
    const folder = this.#folder(folderIndex);
    folder.chunkCount -= 1;
    this.#unlinks.push({ folder, generation, fileBytes: this.fileBytes(options.sizeBytes), done: options.done ?? ((): void => {}) });
    this.#pumpUnlinks();
  }

  /** The file of a chunk is gone or in quarantine: it counts no more. */
  forgetFile(folderIndex: number, sizeBytes: number): void {
    const folder = this.#folder(folderIndex);
    folder.chunkCount -= 1;
    folder.giveBack(this.fileBytes(sizeBytes));
  }

  /** As `unlink` for a file whose size is not counted: one that recovery refused. */
  unlinkUncounted(folderIndex: number, generation: number): Promise<unknown> {
    return this.#options.files.unlink(this.path(this.#folder(folderIndex), generation));
  }

  #pumpUnlinks(): void {
    while (this.#unlinksRunning < UNLINKS_AT_ONCE) {
      const next = this.#unlinks.shift();
      if (next === undefined) return;
      this.#unlinksRunning += 1;
      void this.#options.files.unlink(this.path(next.folder, next.generation)).then((outcome) => {
        this.#unlinksRunning -= 1;
        // A file that will not go keeps its tombstone (done is not called) and its space.
        if (outcome.ok || outcome.errno === ENOENT) {
          next.folder.giveBack(next.fileBytes);
          next.done();
        } else this.writeErrors += 1;
        this.#pumpUnlinks();
      });
    }
  }

  readHeaders(folder: SsdFolder, generations: readonly number[]): Promise<readonly (Uint8Array | IoFailure)[]> {
    return this.#options.files.readHeaders(generations.map((generation) => this.path(folder, generation)));
  }

  decodeHeader(bytes: Uint8Array): ChunkFileHeader | undefined {
    const decoded = decodeChunkHeader(bytes, this.#options.hash);
    return decoded.ok ? decoded.header : undefined;
  }

  /** Looks at the file systems: free space, and folders that went away. A read-only folder may try writes again. */
  async poll(): Promise<void> {
    for (const folder of this.folders) {
      if (folder.state === 'off') continue;
      const stats = await this.#options.files.statFs(`${folder.path}/00`);
      if (!stats.ok) {
        if (stats.errno === ENOENT && folder.turnOff('the folder is gone')) this.#options.onFolderLost(folder);
        continue;
      }
      folder.setFreeBytes(stats.freeBytes);
      if (folder.state === 'read-only') await this.#probeWrite(folder);
    }
  }

  async #probeWrite(folder: SsdFolder): Promise<void> {
    const path = `${folder.path}/00/probe`;
    const outcome = await this.#options.files.writeChunk({
      tempPath: `${path}.tmp`, path, header: new Uint8Array(BLOCK_BYTES), address: 0 as Address, sizeBytes: 0, direct: false, sync: true,
    });
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

  #folder(index: number): SsdFolder {
    const folder = this.folders[index];
    assert(folder !== undefined, `SSD folder ${index} exists`);
    return folder;
  }
}
