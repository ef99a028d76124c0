/** Hit ratios of all policies over one trace, and whether the default's are near the best. */
import { createPolicy } from '#policy/create-policy.ts';
import { Clock, GdsfLeaf, S3Fifo } from './comparison-policies.ts';
import type { ReplayPolicy, TierShape } from './comparison-policies.ts';

/** Requests as dense block numbers in prefix order. */
export interface CompactTrace {
  readonly name: string;
  readonly requests: readonly Int32Array[];
  /** Of each request; ascending. */
  readonly timestampsMs: readonly number[];
  readonly uniqueBlockCount: number;
  readonly requestedBlockCount: number;
}

/** Numbers block ids in the order of their coming. */
export function compact(
  name: string,
  requests: readonly { readonly timestampMs: number; readonly blockIds: ArrayLike<number> }[],
): CompactTrace {
  const numbers = new Map<number, number>();
  let requestedBlockCount = 0;
  const dense = requests.map(({ blockIds }) => {
    requestedBlockCount += blockIds.length;
    return Int32Array.from(blockIds, (id) => {
      const known = numbers.get(id);
      if (known !== undefined) return known;
      numbers.set(id, numbers.size);
      return numbers.size - 1;
    });
  });
  return {
    name,
    requests: dense,
    timestampsMs: requests.map(({ timestampMs }) => timestampMs),
    uniqueBlockCount: numbers.size,
    requestedBlockCount,
  };
}

/** The first requests, with no more than so many blocks. */
export function headOf(trace: CompactTrace, maxBlocks: number): CompactTrace {
  let blocks = 0;
  let count = 0;
  for (; count < trace.requests.length; count += 1) {
    blocks += trace.requests[count]!.length;
    if (blocks > maxBlocks && count > 0) break;
  }
  if (count === trace.requests.length) return trace;
  const requests = trace.requests.slice(0, count).map((blockIds, at) => ({ timestampMs: trace.timestampsMs[at] ?? 0, blockIds }));
  return compact(trace.name, requests);
}

/** Shares of the unique bytes that the tier holds. */
export const shares = [0.01, 0.05, 0.1, 0.25, 0.5] as const;
export const DEFAULT_POLICY = 'adaptive';
/** The default is compared with the best of these. */
export const rivals = ['leaf LRU', 'SLRU-20', 'ARC', 'CLOCK', 'S3-FIFO', 'GDSF-leaf'] as const;

const facts = { sizeOf: () => 1, identityOf: (entry: number) => entry };
const makers: Readonly<Record<string, (shape: TierShape) => ReplayPolicy>> = {
  [DEFAULT_POLICY]: () => createPolicy(DEFAULT_POLICY, facts),
  'leaf LRU': () => createPolicy('leaf-lru', facts),
  'SLRU-20': () => createPolicy('slru', facts),
  ARC: () => createPolicy('arc', facts),
  CLOCK: (shape) => new Clock(shape),
  'S3-FIFO': (shape) => new S3Fifo(shape, 2),
  'S3-FIFO (1 use)': (shape) => new S3Fifo(shape, 1),
  'GDSF-leaf': (shape) => new GdsfLeaf(shape),
  FIFO: () => createPolicy('fifo', facts),
  LRU: () => createPolicy('leaf-lru', facts),
};

export interface PolicyRow {
  readonly policy: string;
  /** By `shares`. */
  readonly hitRatios: readonly number[];
  readonly mean: number;
}

export interface PolicyTable {
  readonly rows: readonly PolicyRow[];
  /** The default's mean over the best rival's. */
  readonly relativeMean: number;
  /** Points of hit ratio that the default loses to the best rival, at worst. */
  readonly worstLoss: number;
  readonly bestRival: string;
  /** Of each share. */
  readonly bestOfCell: readonly number[];
}

export const MIN_RELATIVE_MEAN = 0.96;
export const MAX_LOSS = 0.03;

export function meetsGoal(table: PolicyTable): boolean {
  return table.relativeMean >= MIN_RELATIVE_MEAN && table.worstLoss <= MAX_LOSS;
}

export function policyTable(trace: CompactTrace): PolicyTable {
  const rows = Object.entries(makers).map(([policy, make]) => {
    const hitRatios = shares.map((share) => {
      const capacity = Math.max(1, Math.round(trace.uniqueBlockCount * share));
      const prefixFirst = policy === 'LRU';
      return replayPolicy(trace, make({ entryCount: trace.uniqueBlockCount, capacity }), { capacity, prefixFirst });
    });
    return { policy, hitRatios, mean: hitRatios.reduce((sum, ratio) => sum + ratio, 0) / shares.length };
  });
  const against = rows.filter((row) => rivals.some((name) => name === row.policy));
  const best = against.reduce((former, row) => (row.mean > former.mean ? row : former));
  const own = rows.find((row) => row.policy === DEFAULT_POLICY) as PolicyRow;
  const bestOfCell = shares.map((_share, at) => Math.max(...against.map((row) => row.hitRatios[at] ?? 0)));
  const worstLoss = Math.max(...bestOfCell.map((ratio, at) => ratio - (own.hitRatios[at] ?? 0)));
  // A trace in which nothing comes again: nobody hits.
  const relativeMean = best.mean === 0 ? 1 : own.mean / best.mean;
  return { rows, relativeMean, worstLoss, bestRival: best.policy, bestOfCell };
}

interface ReplayOptions {
  readonly capacity: number;
  readonly prefixFirst: boolean;
}

/**
 * The accounting of the reference numbers (trace-replay.ts): a request hits the blocks before its first absent one; then its blocks, as
 * many as the tier holds, are touched or inserted, suffix first, while none of the request may be evicted.
 */
export function replayPolicy(trace: CompactTrace, policy: ReplayPolicy, { capacity, prefixFirst }: ReplayOptions): number {
  const lastRequest = new Int32Array(trace.uniqueBlockCount).fill(-1);
  let hitCount = 0;
  trace.requests.forEach((blocks, request) => {
    let hits = 0;
    while (hits < blocks.length && policy.has(blocks[hits]!)) hits += 1;
    hitCount += hits;
    for (const block of blocks) lastRequest[block] = request;
    policy.begin?.(blocks);
    const isEvictable = (entry: number): boolean => lastRequest[entry] !== request;
    const kept = Math.min(blocks.length, capacity);
    for (let step = 0; step < kept; step += 1) {
      const block = blocks[prefixFirst ? step : kept - 1 - step]!;
      if (policy.has(block)) {
        policy.touch(block);
        continue;
      }
      if (policy.size >= capacity) {
        const victim = policy.victim(isEvictable);
        if (victim < 0) continue;
        policy.remove(victim);
      }
      policy.insert(block, 1);
    }
  });
  return trace.requestedBlockCount === 0 ? 0 : hitCount / trace.requestedBlockCount;
}
