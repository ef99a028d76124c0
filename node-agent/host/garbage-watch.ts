/**
 * Collects the garbage of the main thread that the engine would leave. To JavaScriptCore a view of the arenas is memory that it is
 * responsible for, and it lets garbage grow in proportion: beside a RAM tier of 64 GiB by gigabytes. Two kinds are collected here: buffers
 * outside of the heap, as Bun makes one for each piece that it reads from a socket and a door for the replies that it writes, by their
 * bytes as they pass; and objects that have grown old, when they have outgrown what was left of them the last time. Bun has young objects
 * collected about once a second.
 *
 * Invariants: at most BUFFER_BYTES pass between two collections, and leave a few times as much, since a reply grows by doubling; objects
 * hold at most GROWTH times what they held after the last full collection, and SLACK_BYTES, for longer than WATCH_MS.
 */
import { edenGC, fullGC, heapSize } from 'bun:jsc';
import type { Clock } from '#core/clock.ts';
import { viewedBytes } from './shared-memory.ts';

const BUFFER_BYTES = 32 * 1024 ** 2;
const WATCH_MS = 1000;
const GROWTH = 1.5;
const SLACK_BYTES = 8 * 1024 ** 2;

/** Bytes of the JavaScript heap as the last collection found it, without the arenas. Takes some microseconds and no system call. */
export function heapBytes(): number {
  return Math.max(0, heapSize() - viewedBytes());
}

export interface WatchedHeap {
  heapBytes(): number;
  collectYoung(): void;
  collectAll(): void;
}

export class GarbageWatch {
  readonly #clock: Clock;
  readonly #heap: WatchedHeap;
  #bufferBytes = 0;
  /** By the last full collection. */
  #leftBytes: number;
  #cancel: (() => void) | undefined;

  constructor(clock: Clock, heap: WatchedHeap = { heapBytes, collectYoung: edenGC, collectAll: fullGC }) {
    this.#clock = clock;
    this.#heap = heap;
    this.#leftBytes = heap.heapBytes();
  }

  start(): void {
    this.#cancel = this.#clock.schedule(WATCH_MS, () => {
      this.look();
      this.start();
    });
  }

  stop(): void {
    this.#cancel?.();
  }

  /** So many bytes passed in buffers that nobody will keep. */
  readonly leave = (bytes: number): void => {
    this.#bufferBytes += bytes;
    if (this.#bufferBytes < BUFFER_BYTES) return;
    this.#bufferBytes = 0;
    this.#heap.collectYoung();
  };

  /** Collects all where it is time to; that stops the thread for some milliseconds. */
  look(): void {
    if (this.#heap.heapBytes() <= this.#leftBytes * GROWTH + SLACK_BYTES) return;
    this.#bufferBytes = 0;
    this.#heap.collectAll();
    this.#leftBytes = this.#heap.heapBytes();
  }
}
