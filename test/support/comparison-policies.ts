/**
 * Eviction policies that the agent does not have, as far as a replay needs them: to compare with. Entries are dense numbers below
 * `entryCount`, all of one size; `capacity` is how many the tier holds.
 */
import { Fifo } from '#core/fifo.ts';

/** What `replayPolicy` asks of a policy. Those of src/policy have it too. */
export interface ReplayPolicy {
  readonly size: number;
  has(entry: number): boolean;
  insert(entry: number, sizeBytes: number): void;
  touch(entry: number): void;
  remove(entry: number): void;
  victim(isEvictable: (entry: number) => boolean): number;
  /** The request that follows, in prefix order: for those that know chains. */
  begin?(blocks: Int32Array): void;
}

export interface TierShape {
  readonly entryCount: number;
  readonly capacity: number;
}

/** Second chance. Source: Corbató, "A paging experiment with the Multics system", 1968. */
export class Clock implements ReplayPolicy {
  readonly #used: Uint8Array;
  readonly #isIn: Uint8Array;
  readonly #ring = new Fifo<number>();
  size = 0;

  constructor({ entryCount }: TierShape) {
    this.#used = new Uint8Array(entryCount);
    this.#isIn = new Uint8Array(entryCount);
  }

  has(entry: number): boolean {
    return this.#isIn[entry] === 1;
  }

  insert(entry: number): void {
    this.#isIn[entry] = 1;
    this.#used[entry] = 0;
    this.#ring.push(entry);
    this.size += 1;
  }

  touch(entry: number): void {
    this.#used[entry] = 1;
  }

  /** Only what `victim` answered is ever removed: it is at the hand. */
  remove(entry: number): void {
    this.#ring.shift();
    this.#isIn[entry] = 0;
    this.size -= 1;
  }

  victim(isEvictable: (entry: number) => boolean): number {
    for (let left = 2 * this.size; left > 0; left -= 1) {
      const entry = this.#ring.peek() as number;
      if (this.#used[entry] === 0 && isEvictable(entry)) return entry;
      this.#used[entry] = 0;
      this.#ring.push(this.#ring.shift() as number);
    }
    return -1;
  }
}

/**
 * A tenth of the tier for what is new, a main queue with second chances, a ghost of the main queue's size. `usesToStay` in the small
 * queue lead to the main one: 2 in the paper. Source: Yang, Zhang, Qiu, Yue and Vigfusson, "FIFO queues are all you need for cache
 * eviction", SOSP 2023.
 */
export class S3Fifo implements ReplayPolicy {
  readonly #small = new Fifo<number>();
  readonly #main = new Fifo<number>();
  /** 0 absent, 1 small, 2 main. */
  readonly #queue: Uint8Array;
  readonly #uses: Uint8Array;
  readonly #ghosts = new Set<number>();
  readonly #smallLimit: number;
  readonly #mainLimit: number;
  readonly #usesToStay: number;
  #smallCount = 0;
  size = 0;

  constructor({ entryCount, capacity }: TierShape, usesToStay: number) {
    this.#queue = new Uint8Array(entryCount);
    this.#uses = new Uint8Array(entryCount);
    this.#smallLimit = Math.max(1, Math.floor(capacity / 10));
    this.#mainLimit = capacity - this.#smallLimit;
    this.#usesToStay = usesToStay;
  }

  has(entry: number): boolean {
    return this.#queue[entry] !== 0;
  }

  insert(entry: number): void {
    this.size += 1;
    this.#uses[entry] = 0;
    if (this.#ghosts.delete(entry)) this.#toMain(entry);
    else {
      this.#queue[entry] = 1;
      this.#small.push(entry);
      this.#smallCount += 1;
    }
  }

  touch(entry: number): void {
    this.#uses[entry] = Math.min(3, (this.#uses[entry] ?? 0) + 1);
  }

  /** Only what `victim` answered is ever removed: it is at the head of its queue. */
  remove(entry: number): void {
    if (this.#queue[entry] === 1) {
      this.#small.shift();
      this.#smallCount -= 1;
      this.#ghosts.add(entry);
      for (const oldest of this.#ghosts) {
        if (this.#ghosts.size <= this.#mainLimit) break;
        this.#ghosts.delete(oldest);
      }
    } else this.#main.shift();
    this.#queue[entry] = 0;
    this.size -= 1;
  }

  victim(isEvictable: (entry: number) => boolean): number {
    for (let left = 8 * this.size; left > 0; left -= 1) {
      const isSmall = this.#smallCount > 0 && (this.#smallCount >= this.#smallLimit || this.#smallCount === this.size);
      const queue = isSmall ? this.#small : this.#main;
      const entry = queue.peek() as number;
      const uses = this.#uses[entry] ?? 0;
      if (isSmall ? uses < this.#usesToStay : uses === 0) {
        if (isEvictable(entry)) return entry;
        queue.push(queue.shift() as number);
      } else if (isSmall) {
        this.#small.shift();
        this.#smallCount -= 1;
        this.#uses[entry] = 0;
        this.#toMain(entry);
      } else {
        this.#uses[entry] = uses - 1;
        queue.push(queue.shift() as number);
      }
    }
    return -1;
  }

  #toMain(entry: number): void {
    this.#queue[entry] = 2;
    this.#main.push(entry);
  }
}

/**
 * Greedy-dual by frequency and the cost of computing again, the last chunks of chains only. A block at depth d costs 1 + d / 104 (at 53k
 * tokens attention costs as much as all else for a 70B). Source: Cherkasova, "Improving WWW proxies performance with Greedy-Dual-Size-
 * Frequency caching policy", HPL-98-69.
 */
export class GdsfLeaf implements ReplayPolicy {
  readonly #priority: Float64Array;
  readonly #uses: Float64Array;
  readonly #depth: Int32Array;
  readonly #parent: Int32Array;
  readonly #children: Int32Array;
  /** Binary heap of [priority, entry]; outdated pairs are passed over. */
  readonly #heap: (readonly [number, number])[] = [];
  #age = 0;
  size = 0;

  constructor({ entryCount }: TierShape) {
    this.#priority = new Float64Array(entryCount).fill(-1);
    this.#uses = new Float64Array(entryCount);
    this.#depth = new Int32Array(entryCount);
    this.#parent = new Int32Array(entryCount).fill(-1);
    this.#children = new Int32Array(entryCount);
  }

  begin(blocks: Int32Array): void {
    blocks.forEach((entry, at) => {
      // A parent that changes would upset the counts: traces chain their ids, so it does not.
      if (this.has(entry)) return;
      this.#depth[entry] = at;
      this.#parent[entry] = at === 0 ? -1 : blocks[at - 1]!;
    });
  }

  has(entry: number): boolean {
    return this.#priority[entry]! >= 0;
  }

  insert(entry: number): void {
    this.size += 1;
    this.#uses[entry] = 0;
    const parent = this.#parent[entry]!;
    if (parent >= 0) this.#children[parent] = this.#children[parent]! + 1;
    this.#raise(entry);
  }

  touch(entry: number): void {
    this.#raise(entry);
  }

  remove(entry: number): void {
    this.size -= 1;
    this.#age = this.#priority[entry]!;
    this.#priority[entry] = -1;
    const parent = this.#parent[entry]!;
    if (parent < 0) return;
    this.#children[parent] = this.#children[parent]! - 1;
    if (this.#children[parent] === 0 && this.has(parent)) this.#push([this.#priority[parent]!, parent]);
  }

  victim(isEvictable: (entry: number) => boolean): number {
    const passed: (readonly [number, number])[] = [];
    let found = -1;
    for (let next = this.#pop(); next !== undefined; next = this.#pop()) {
      const [priority, entry] = next;
      if (this.#priority[entry] !== priority || this.#children[entry]! > 0) continue;
      passed.push(next);
      if (!isEvictable(entry)) continue;
      found = entry;
      break;
    }
    for (const pair of passed) this.#push(pair);
    return found;
  }

  #raise(entry: number): void {
    const uses = this.#uses[entry]! + 1;
    const priority = this.#age + uses * (1 + this.#depth[entry]! / 104);
    this.#uses[entry] = uses;
    this.#priority[entry] = priority;
    this.#push([priority, entry]);
  }

  #push(pair: readonly [number, number]): void {
    const heap = this.#heap;
    let at = heap.push(pair) - 1;
    while (at > 0) {
      const up = (at - 1) >> 1;
      if (heap[up]![0] <= pair[0]) break;
      heap[at] = heap[up]!;
      at = up;
    }
    heap[at] = pair;
  }

  #pop(): readonly [number, number] | undefined {
    const heap = this.#heap;
    const top = heap[0];
    const last = heap.pop();
    if (last === undefined || heap.length === 0) return top;
    let at = 0;
    for (let child = 1; child < heap.length; child = 2 * at + 1) {
      if (child + 1 < heap.length && heap[child + 1]![0] < heap[child]![0]) child += 1;
      if (heap[child]![0] >= last[0]) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = last;
    return top;
  }
}
