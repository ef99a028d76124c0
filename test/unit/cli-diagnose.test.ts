import { beforeAll, describe, expect, it } from 'vitest';
import { diagnose } from '#cli/diagnose.ts';
import type { Namespace } from '#protocol/rest/chunks.ts';
import type { Stats } from '#protocol/rest/stats.ts';
import { createApiHarness } from '#testsupport/api-harness.ts';
import { stringContaining } from '#testsupport/matchers.ts';

let base: Stats;
beforeAll(async () => {
  const answer = await createApiHarness().client().stats();
  base = { ...answer, models: [{ model: 'llama', epoch: 0, chunkCount: 500, bytes: { ram: 1, ssd: 1 } }] };
});

/** Much was stored and asked, and nothing was found. */
function nothingFound(changes: Partial<Stats> = {}): Stats {
  return { ...base, puts: 500, probes: 400, probeHits: 0, lookups: 0, misses: 0, ...changes };
}

function working(changes: Partial<Stats> = {}): Stats {
  return { ...base, puts: 500, probes: 400, probeHits: 300, lookups: 300, misses: 10, hits: { hbm: 0, ram: 200, ssd: 90 }, ...changes };
}

function namespace(model: string, tenant: string, chunkCount = 10): Namespace {
  return {
    label: `${model}#${tenant}`,
    grammar: 'object-key',
    tenant,
    model,
    rank: '',
    group: '',
    dtype: '',
    layer: '',
    tags: {},
    keyPrefix: '',
    keyTail: '',
    epoch: 0,
    chunkCount,
    bytes: { ram: 0, ssd: 0 },
  };
}

function causes(stats: Stats, namespaces: readonly Namespace[] = []): string[] {
  return diagnose(stats, { namespaces }).map((finding) => `${finding.severity} ${finding.cause}`);
}

describe('diagnose', () => {
  it('finds nothing wrong with an agent that serves, and says its hit rate', () => {
    expect(causes(working())).toEqual(['ok hit-rate']);
    expect(diagnose(working())[0]?.message).toBe('96.7 % of the keys asked for were found');
    expect(diagnose(nothingFound({ probeHits: 100 }))[0]?.message).toBe('25 % of the keys asked about were found');
  });

  it('names disjoint hashes where much is stored and asked and no key is common, with the model', () => {
    const [finding] = diagnose(nothingFound());
    expect([finding?.severity, finding?.cause]).toEqual(['problem', 'disjoint-hashes']);
    expect(finding?.message).toContain('500 chunks of llama');
    expect(finding?.advice).toContain('PYTHONHASHSEED');
  });

  it('does not name disjoint hashes where one key was found, stored twice, or too little happened', () => {
    expect(causes(nothingFound({ probeHits: 1 }))).not.toContain('problem disjoint-hashes');
    expect(causes(nothingFound({ duplicatePuts: 1 }))).toEqual([]);
    expect(causes(nothingFound({ puts: 19 }))).toEqual([]);
    expect(causes(nothingFound({ probes: 19 }))).toEqual([]);
    expect(causes(nothingFound({ probes: 0, lookups: 20, misses: 20 }))).toEqual(['problem disjoint-hashes']);
  });

  it('names a tenant mismatch where one model is stored under several tenants and nothing is found', () => {
    const split = [namespace('llama', 'a'), namespace('llama', 'b'), namespace('qwen', 'default')];
    const [first, second] = diagnose(nothingFound(), { namespaces: split });
    expect([first?.severity, first?.cause, first?.message]).toEqual([
      'problem',
      'tenant-mismatch',
      stringContaining('llama is stored under 2 tenants'),
    ]);
    expect([second?.severity, second?.cause]).toEqual(['warning', 'disjoint-hashes']);
    expect(causes(working(), split)).toEqual(['ok hit-rate']);
  });

  it('suspects a tenant mismatch where a model is stored under one cache_salt, and none where it is under the default only', () => {
    expect(causes(nothingFound(), [namespace('llama', 'a')])).toEqual(['problem disjoint-hashes', 'warning tenant-mismatch']);
    const innocent = [
      namespace('llama', 'default'),
      namespace('qwen', 'default'),
      namespace('llama', 'c', 0),
      namespace('', 'd'),
      namespace('', 'e'),
    ];
    expect(causes(nothingFound(), innocent)).toEqual(['problem disjoint-hashes']);
  });

  it('suspects disjoint hashes of one model that is never read beside others that are', () => {
    const samples = [
      { model: 'llama', chunks: 500, everRead: 40 },
      { model: 'qwen', chunks: 20, everRead: 0 },
      { model: 'new', chunks: 19, everRead: 0 },
    ];
    const [finding, ...rest] = diagnose(working(), { samples });
    expect([finding?.severity, finding?.cause, finding?.message]).toEqual([
      'warning',
      'disjoint-hashes',
      stringContaining('20 chunks of qwen'),
    ]);
    expect(rest.map(({ cause }) => cause)).toEqual(['hit-rate']);
    expect(diagnose(nothingFound(), { samples }), 'nothing found is told once').toHaveLength(1);
  });

  it('names the size guard: a problem where nothing is found, a warning where it explains misses', () => {
    expect(causes(nothingFound({ sizeGuardMisses: 300, misses: 300 }))).toEqual(['problem size-guard']);
    expect(causes(working({ sizeGuardMisses: 50 }))).toEqual(['warning size-guard', 'ok hit-rate']);
    expect(causes(working({ sizeGuardMisses: 1, misses: 900 }))).toEqual(['ok hit-rate']);
  });

  it('names shed writes, from the door, from RAM and from the write queue', () => {
    const none = { tooLarge: 0, shed: 0, draining: 0, quota: 0, quotaSlot: 0 };
    expect(causes(nothingFound({ rejectedPuts: { ...none, shed: 400 } }))).toContain('problem shed-writes');
    expect(causes(working({ droppedDirtyChunks: 100 }))).toEqual(['warning shed-writes', 'ok hit-rate']);
    expect(causes(working({ storeAdmission: { ...base.storeAdmission, shedChunks: 100 } }))).toEqual([
      'warning shed-writes',
      'ok hit-rate',
    ]);
    expect(causes(working({ droppedDirtyChunks: 10 }))).toEqual(['ok hit-rate']);
  });

  it('names values that are too large, also where nothing else was ever stored', () => {
    const rejectedPuts = { tooLarge: 400, shed: 0, draining: 0, quota: 0, quotaSlot: 0 };
    expect(causes(nothingFound({ puts: 0, rejectedPuts }))).toEqual(['problem too-large', 'warning no-puts']);
    expect(causes(working({ rejectedPuts }))).toEqual(['warning too-large', 'ok hit-rate']);
  });

  it('names tiers that are too small, by what leaves the last tier', () => {
    const evictions = { hbm: 0, ram: 450, ssd: 0 };
    expect(causes(working({ evictions }))).toEqual(['ok hit-rate']);
    const ssdOff = base.tiers.map((tier) => (tier.tier === 'ssd' ? { ...tier, state: 'off' as const, capacityBytes: 0 } : tier));
    expect(diagnose(working({ evictions, tiers: ssdOff }))[0]).toMatchObject({
      severity: 'warning',
      cause: 'too-small',
      advice: stringContaining('--ssd'),
    });
    expect(causes(nothingFound({ misses: 400, evictions: { hbm: 0, ram: 450, ssd: 450 } }))).toEqual(['problem too-small']);
  });

  it('names traffic that never comes', () => {
    expect(causes({ ...base, puts: 0 })).toEqual(['warning no-traffic']);
    expect(diagnose({ ...base, puts: 0 })[0]?.message).toContain('none has connected');
    expect(causes(nothingFound({ puts: 0 }))).toEqual(['warning no-puts']);
    expect(causes({ ...base, puts: 500 })).toEqual(['warning no-questions']);
  });

  it('names damaged files, and leaves what the agent is degraded by to /readyz', () => {
    const found = diagnose(
      working({
        io: { ...base.io, checksumMismatches: 2, quarantinedFiles: 2 },
        catalog: { ...base.catalog, state: 'degraded', reason: 'locked' },
      }),
    );
    expect(found.map((finding) => finding.cause)).toEqual(['checksum-mismatch', 'hit-rate']);
  });

  it('gives advice with every problem and warning', () => {
    const every = [
      ...diagnose(nothingFound(), { namespaces: [namespace('llama', 'a'), namespace('llama', 'b')] }),
      ...diagnose(nothingFound({ sizeGuardMisses: 9, droppedDirtyChunks: 99 })),
      ...diagnose({ ...base, puts: 0 }),
      ...diagnose({ ...base, puts: 500 }),
      ...diagnose(nothingFound({ puts: 0 })),
    ];
    for (const finding of every) expect(finding.advice, finding.cause).not.toBe('');
  });
});
