/**
 * One folder of the SSD tier, usually one device: its budget, its free-space floor, its state.
 *
 * Invariants: usedBytes counts every file that exists or may exist: reserved before a write begins, given back when its unlink is
 * done; usedBytes never exceeds the capacity by more than what a lowered capacity left behind.
 * States: ok -> read-only (writes fail: full, EIO) -> ok again when a probe succeeds; any -> off (the folder is gone or reads fail
 * in a row); off is final until a restart, so that nothing that was dropped comes back; ok, read-only -> stalled (an operation passed its
 * deadline: nothing is asked of it) -> ok when a probe succeeds: its chunks are still its own.
 */
import { assert } from '#core/assert.ts';
import { formatBytes } from '#core/bytes.ts';
import { errnoName } from '#core/errors.ts';
import type { IoFailure } from '#ports/io-pool.ts';
import { BandwidthEstimate } from './bandwidth.ts';

export type FolderState = 'ok' | 'read-only' | 'stalled' | 'off';

const ENOENT = 2;
const ENOSPC = 28;
const ENOTDIR = 20;
/** Reads or writes that fail in a row before the folder is given up for that direction. */
const FAILURE_LIMIT = 3;

export class SsdFolder {
  readonly index: number;
  readonly path: string;
  /** Random, written into the folder's mark; names the folder in the catalog and the journal. */
  readonly id: string;
  readonly capacityBytes: number;
  readonly floorBytes: number;
  readonly read = new BandwidthEstimate();
  readonly write = new BandwidthEstimate();
  /** Undefined until the first transfer told. */
  direct: boolean | undefined;
  chunkCount = 0;
  /** Wrong files set aside in quarantine/; in no other count. */
  quarantinedFiles = 0;
  /** Its files were set aside at start, because nothing vouches for them. */
  dropped = false;
  #usedBytes = 0;
  #freeBytes = Number.POSITIVE_INFINITY;
  #state: FolderState = 'ok';
  #reason = '';
  #writeFailures = 0;
  #readFailures = 0;

  constructor(options: { index: number; path: string; id: string; capacityBytes: number; floorBytes: number }) {
    this.index = options.index;
    this.path = options.path;
    this.id = options.id;
    this.capacityBytes = options.capacityBytes;
    this.floorBytes = options.floorBytes;
  }

  get state(): FolderState {
    return this.#state;
  }

  /** Why it takes no writes, or none at all; '' while all is well. */
  get reason(): string {
    if (this.#reason !== '' || this.#freeBytes >= this.floorBytes) return this.#reason;
    return `free space of ${formatBytes(Math.max(0, this.#freeBytes))} is below the floor of ${formatBytes(this.floorBytes)}: nothing is written`;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** What may be stored in all: the budget, or less where the file system leaves less above the floor. */
  get effectiveCapacityBytes(): number {
    return Math.max(0, Math.min(this.capacityBytes, this.#usedBytes + this.#freeBytes - this.floorBytes));
  }

  get availableBytes(): number {
    return this.#state === 'ok' ? this.effectiveCapacityBytes - this.#usedBytes : 0;
  }

  /** Counts a file before it is written. */
  reserve(fileBytes: number): void {
    this.#usedBytes += fileBytes;
    this.#freeBytes -= fileBytes;
  }

  /** The file is gone, or was never made. */
  giveBack(fileBytes: number): void {
    this.#usedBytes -= fileBytes;
    this.#freeBytes += fileBytes;
    assert(this.#usedBytes >= 0, `folder ${this.path} holds no less than nothing`);
  }

  /** Counts a file found at start. */
  adopt(fileBytes: number): void {
    this.#usedBytes += fileBytes;
  }

  setFreeBytes(freeBytes: number): void {
    this.#freeBytes = freeBytes;
  }

  /** True where this failure turned the folder off: the caller drops its replicas. */
  onWriteFailure(failure: IoFailure): boolean {
    if (failure.errno === ENOENT || failure.errno === ENOTDIR)
      return this.turnOff(`the folder is gone (${failure.step}: ${errnoName(failure.errno)})`);
    this.#writeFailures += 1;
    if (failure.errno === ENOSPC || this.#writeFailures >= FAILURE_LIMIT) {
      if (this.#state === 'ok') this.#state = 'read-only';
      this.#reason = `writes fail (${failure.step}: ${errnoName(failure.errno)})`;
    }
    return false;
  }

  onWriteSuccess(): void {
    this.#writeFailures = 0;
    if (this.#state === 'read-only') {
      this.#state = 'ok';
      this.#reason = '';
    }
  }

  /** The device could not read a file; each file is tried once, so a row of these is no single bad block. True: the folder is off now. */
  onReadFailure(failure: IoFailure): boolean {
    this.#readFailures += 1;
    return this.#readFailures >= FAILURE_LIMIT ? this.turnOff(`reads fail (${failure.step}: ${errnoName(failure.errno)})`) : false;
  }

  onReadSuccess(): void {
    this.#readFailures = 0;
  }

  /** True where this is new: what waits for the folder is to be given up. */
  stall(reason: string): boolean {
    if (this.#state === 'off' || this.#state === 'stalled') return false;
    this.#state = 'stalled';
    this.#reason = reason;
    return true;
  }

  /** A probe went through. */
  endStall(): void {
    assert(this.#state === 'stalled', `Cannot end the stall of ${this.path}: it is ${this.#state}`);
    this.#state = 'ok';
    this.#reason = '';
    this.#writeFailures = 0;
  }

  turnOff(reason: string): boolean {
    if (this.#state === 'off') return false;
    this.#state = 'off';
    this.#reason = reason;
    return true;
  }
}
