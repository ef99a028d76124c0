import { describe, expect, test } from 'vitest';
import { createPolicy } from '#policy/create-policy.ts';
import { LeafLru } from '#policy/leaf-lru.ts';
import type { EvictionPolicy } from '#policy/eviction-policy.ts';
import { parseTrace, readTrace } from '#testsupport/trace.ts';
import type { TraceName } from '#testsupport/trace.ts';
import { capacityOf, replay } from '#testsupport/trace-replay.ts';

/** Shares of unique blocks, reference hit ratios of leaf LRU and Belady's bound: test/fixtures/traces/README.md. */
const shares = [0.01, 0.05, 0.1, 0.25, 0.5] as const;
const references: Readonly<Record<TraceName, { readonly leafLru: readonly number[]; readonly bound: readonly number[] }>> = {
  synthetic: { leafLru: [0.0381, 0.1566, 0.2623, 0.4441, 0.5888], bound: [0.1854, 0.3956, 0.5063, 0.626, 0.6396] },
  'lmcache-agent': { leafLru: [0.2359, 0.6722, 0.8483, 0.8968, 0.8972], bound: [0.3657, 0.7716, 0.8842, 0.8977, 0.8977] },
};
const TOLERANCE = 0.002;

describe.each(['synthetic', 'lmcache-agent'] as const)('trace %s', (name) => {
  const trace = readTrace(name);
  const reference = references[name];

  test.each(shares.map((share, at) => ({ share, at })))(
    'LeafLru reaches the reference hit ratio at $share of unique blocks',
    ({ share, at }) => {
      const policy = new LeafLru();
      const capacityBlocks = capacityOf(trace, share);
      const result = replay(trace, policy, { capacityBlocks });
      policy.checkInvariants();
      expect(Math.abs(result.hitRatio - reference.leafLru[at]!)).toBeLessThanOrEqual(TOLERANCE);
      expect(result.hitRatio).toBeLessThanOrEqual(reference.bound[at]! + TOLERANCE);
      expect(result.peakBlockCount).toBeLessThanOrEqual(capacityBlocks);
    },
  );

  test('touching the prefix first loses hits in a small tier', () => {
    const capacityBlocks = capacityOf(trace, 0.01);
    const suffixFirst = replay(trace, new LeafLru(), { capacityBlocks }).hitRatio;
    const prefixFirst = replay(trace, new LeafLru(), { capacityBlocks, order: 'prefix-first' }).hitRatio;
    expect(prefixFirst).toBeLessThan(suffixFirst - TOLERANCE);
  });

  test('every set that LeafLru keeps is prefix-closed: no block outlives its predecessor', () => {
    const parents = new Map<number, number>();
    for (const { blockIds } of trace.requests) blockIds.forEach((id, at) => at > 0 && parents.set(id, blockIds[at - 1]!));
    const policy = new LeafLru();
    replay(trace, policy, { capacityBlocks: capacityOf(trace, 0.05) });
    expect(strandedCount(policy, parents)).toBe(0);
  });
});

describe.each(['synthetic', 'lmcache-agent'] as const)('trace %s in adaptive order', (name) => {
  test('at most a handful of blocks outlive their predecessor', () => {
    const trace = readTrace(name);
    const parents = new Map<number, number>();
    for (const { blockIds } of trace.requests) blockIds.forEach((id, at) => at > 0 && parents.set(id, blockIds[at - 1]!));
    const policy = createPolicy('adaptive', { sizeOf: () => 1, identityOf: (entry) => entry });
    const capacityBlocks = capacityOf(trace, 0.05);
    replay(trace, policy, { capacityBlocks });
    policy.checkInvariants();
    expect(strandedCount(policy, parents)).toBeLessThanOrEqual(Math.max(3, capacityBlocks / 100));
  });
});

describe('trace reader', () => {
  test('counts the requests, blocks and unique blocks of the fixtures', () => {
    const synthetic = readTrace('synthetic');
    const agent = readTrace('lmcache-agent');
    expect([synthetic.requests.length, synthetic.requestedBlockCount, synthetic.uniqueBlockCount]).toEqual([3993, 121_877, 43_924]);
    expect([agent.requests.length, agent.requestedBlockCount, agent.uniqueBlockCount]).toEqual([1619, 14_822, 1516]);
    expect(agent.requests.some((request) => request.blockIds.length === 0)).toBe(true);
  });

  test.each([
    ['text that is not JSON', '{"timestamp": 1'],
    ['a missing field', '{"timestamp":0,"input_length":512,"hash_ids":[1]}'],
    ['a negative block id', '{"timestamp":0,"input_length":512,"output_length":1,"hash_ids":[-1]}'],
    ['more blocks than the tokens fill', '{"timestamp":0,"input_length":512,"output_length":1,"hash_ids":[1,2,3]}'],
    ['null', 'null'],
  ])('refuses %s', (_name, line) => {
    expect(() => parseTrace(line, 512)).toThrow();
  });
});

function strandedCount(policy: EvictionPolicy, parents: ReadonlyMap<number, number>): number {
  let stranded = 0;
  policy.forEachColdest((entry) => {
    const parent = parents.get(entry);
    if (parent !== undefined && !policy.has(parent)) stranded += 1;
    return true;
  });
  return stranded;
}
