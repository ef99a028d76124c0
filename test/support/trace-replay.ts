import type { EvictionPolicy } from '#policy/eviction-policy.ts';
import type { Trace } from './trace.ts';

/** 'prefix-first' is the naive order, for comparison only. */
type TouchOrder = 'suffix-first' | 'prefix-first';

export interface ReplayOptions {
  readonly capacityBlocks: number;
  readonly order?: TouchOrder;
}

export interface ReplayResult {
  /** Blocks in contiguous cached prefixes / blocks requested. */
  readonly hitRatio: number;
  readonly hitBlockCount: number;
  /** Largest number of blocks held at once. */
  readonly peakBlockCount: number;
}

/** Blocks of a tier that holds `share` of a trace's unique blocks. */
export function capacityOf(trace: Trace, share: number): number {
  return Math.max(1, Math.round(trace.uniqueBlockCount * share));
}

/**
 * Replays a trace through a policy in the accounting of the reference numbers:
 * a request hits the blocks before its first absent one; then all its blocks are touched or inserted, suffix first, while none of
 * them may be evicted; of a request longer than the tier only the head that fits is kept. Requests without blocks count nothing.
 */
export function replay(trace: Trace, policy: EvictionPolicy, options: ReplayOptions): ReplayResult {
  const { capacityBlocks, order = 'suffix-first' } = options;
  let hitBlockCount = 0;
  let peakBlockCount = 0;
  for (const { blockIds } of trace.requests) {
    let hits = 0;
    while (hits < blockIds.length && policy.has(blockIds[hits]!)) hits += 1;
    hitBlockCount += hits;
    const kept = blockIds.slice(0, capacityBlocks);
    store(policy, order === 'suffix-first' ? kept.toReversed() : kept, { pinned: new Set(blockIds), capacityBlocks });
    peakBlockCount = Math.max(peakBlockCount, policy.size);
  }
  return { hitRatio: hitBlockCount / trace.requestedBlockCount, hitBlockCount, peakBlockCount };
}

interface StoreOptions {
  readonly pinned: ReadonlySet<number>;
  readonly capacityBlocks: number;
}

function store(policy: EvictionPolicy, blocks: readonly number[], { pinned, capacityBlocks }: StoreOptions): void {
  for (const block of blocks) {
    if (policy.has(block)) {
      policy.touch(block);
      continue;
    }
    if (policy.size >= capacityBlocks) {
      const victim = policy.victim((entry) => !pinned.has(entry));
      if (victim < 0) continue;
      policy.remove(victim);
    }
    policy.insert(block, 1);
  }
}
