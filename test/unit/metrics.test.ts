import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import type { CacheStats } from '#cache/control.ts';
import { Metrics, metricsTable } from '#telemetry/metrics.ts';
import { MAX_GROUP_LABELS, metricDefinitions, type MetricsSnapshot } from '#telemetry/metric-definitions.ts';
import { tenantDigest } from '#telemetry/tenant-digest.ts';
import { SimCacheControl, simNamespace } from '#testsupport/sim-cache-control.ts';

type Source = Omit<MetricsSnapshot, 'httpResponses' | 'webhookCalls'>;

function sourceOf(control: SimCacheControl): Source {
  return {
    stats: control.stats(),
    namespaces: control.namespaces(),
    version: '0.1.0',
    state: 'degraded',
    uptimeSeconds: 90,
    residentBytes: 5,
    heapBytes: 4,
    eventLoopLag: { p50Ms: 1, p99Ms: 2.5, maxMs: 7 },
    doors: [
      {
        door: 'resp',
        address: '127.0.0.1:7601',
        connections: 1,
        acceptedConnections: 2,
        requests: 3,
        errors: 4,
        receivedBytes: 5,
        sentBytes: 6,
      },
    ],
  };
}

/** Samples of one metric: `{label="value"} number` lines without the name. */
function samples(text: string, name: string): string[] {
  return text
    .split('\n')
    .filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `))
    .map((line) => line.slice(name.length));
}

describe('metric definitions', () => {
  test('follow the conventions of names: one prefix, counters in _total, units in full', () => {
    for (const { name, type, labels, help } of metricDefinitions) {
      expect(name).toMatch(/^kvtier_[a-z]+(_[a-z]+)*$/);
      expect(name.endsWith('_total'), name).toBe(type === 'counter');
      expect(name, name).not.toMatch(/_(ms|us|kib|mib|milliseconds)(_|$)/);
      expect(help.length).toBeGreaterThan(5);
      expect(labels.every((label) => /^[a-z_]+$/.test(label))).toBe(true);
    }
    expect(new Set(metricDefinitions.map(({ name }) => name)).size).toBe(metricDefinitions.length);
  });

  test('docs/metrics.md holds their table', () => {
    expect(readFileSync(new URL('../../docs/metrics.md', import.meta.url), 'utf8')).toContain(metricsTable());
  });
});

describe('Metrics', () => {
  test('prints every number of the statistics', async () => {
    // Each number is another prime-like value, so that two swapped fields show.
    let next = 1000;
    const numbered = <T>(value: T): T => {
      if (typeof value === 'number') return (next += 7) as T;
      if (Array.isArray(value)) return value.map(numbered) as T;
      if (typeof value === 'object' && value !== null)
        return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, numbered(inner)])) as T;
      return value;
    };
    const control = new SimCacheControl(() => 0);
    const folder = {
      path: '/data/a',
      id: 'f1',
      state: 'read-only' as const,
      reason: 'EIO',
      capacityBytes: 0,
      usedBytes: 0,
      chunkCount: 0,
      direct: false,
      readBytesPerSecond: 0,
      writeBytesPerSecond: 0,
    };
    const plain = control.stats();
    const stats: CacheStats = numbered({
      ...plain,
      tiers: plain.tiers.map((tier) => (tier.tier === 'ssd' ? { ...tier, folders: [folder] } : tier)),
    });
    const text = await new Metrics().scrape(() => ({ ...sourceOf(control), stats }));
    const printed = new Set(
      text
        .split('\n')
        .filter((line) => !line.startsWith('#'))
        .map((line) => Number(line.slice(line.lastIndexOf(' ') + 1))),
    );
    const missing: number[] = [];
    const visit = (value: unknown): void => {
      if (typeof value === 'number' && !printed.has(value) && !printed.has(value / 1000)) missing.push(value);
      else if (typeof value === 'object' && value !== null) Object.values(value).forEach(visit);
    };
    visit(stats);
    expect(missing).toEqual([]);
    expect(samples(text, 'kvtier_hits_total')).toContain(`{tier="ssd"} ${stats.hits.ssd}`);
    expect(samples(text, 'kvtier_rejected_puts_total')).toContain(`{reason="shed"} ${stats.rejectedPuts.shed}`);
    expect(samples(text, 'kvtier_io_latency_seconds')).toContain(
      `{direction="write",quantile="0.99"} ${stats.io.writeLatencyMs.p99 / 1000}`,
    );
    expect(samples(text, 'kvtier_folder_state')).toContain('{folder="/data/a",state="read-only"} 1');
    expect(samples(text, 'kvtier_folder_direct')).toEqual(['{folder="/data/a"} 0']);
    expect(samples(text, 'kvtier_agent_state')).toContain('{state="degraded"} 1');
    expect(samples(text, 'kvtier_door_errors_total')).toEqual(['{door="resp"} 4']);
  });

  test('prints the same numbers however often it is scraped, and at once', async () => {
    const control = new SimCacheControl(() => 0);
    control.overrides = { lookups: 7 };
    const metrics = new Metrics();
    const texts = await Promise.all([1, 2, 3].map(() => metrics.scrape(() => sourceOf(control))));
    for (const text of texts) expect(samples(text, 'kvtier_lookups_total')).toEqual([' 7']);
    expect(new Set(texts).size).toBe(1);
  });

  test('drops the series of a tenant or folder that is gone', async () => {
    const control = new SimCacheControl(() => 0);
    const metrics = new Metrics();
    control.put({ key: 'k', namespace: simNamespace({ model: 'm' }), sizeBytes: 5, tiers: ['ram'] });
    expect(samples(await metrics.scrape(() => sourceOf(control)), 'kvtier_model_bytes')).toEqual([
      '{model="m",tier="ram"} 5',
      '{model="m",tier="ssd"} 0',
    ]);
    await control.invalidate({ all: true }, { dryRun: false, reason: '', actor: 'admin' });
    expect(samples(await metrics.scrape(() => sourceOf(control)), 'kvtier_model_bytes')).toEqual([]);
  });

  test('names tenants as they are handed in, by digest unless salts are to be shown, at most 100 of them, the largest, and sums the rest as other', async () => {
    const control = new SimCacheControl(() => 0);
    for (let index = 1; index <= 130; index += 1) {
      control.put({
        key: `k${index}`,
        namespace: simNamespace({ model: `model-${index}`, tenant: `salt-${index}` }),
        sizeBytes: index,
        tiers: ['ssd'],
      });
    }
    const text = await new Metrics().scrape(() => sourceOf(control));
    for (const label of ['tenant', 'model']) {
      const lines = samples(text, `kvtier_${label}_chunks`);
      expect(lines).toHaveLength(MAX_GROUP_LABELS + 1);
      expect(lines).toContain(`{${label}="other"} 30`);
      // 1 + 2 + ... + 30
      expect(samples(text, `kvtier_${label}_bytes`)).toContain(`{${label}="other",tier="ssd"} 465`);
    }
    expect(samples(text, 'kvtier_tenant_chunks')).toContain('{tenant="salt-31"} 1');
  });

  test('prints 0 for a quantile of nothing', async () => {
    const text = await new Metrics().scrape(() => sourceOf(new SimCacheControl(() => 0)));
    expect(samples(text, 'kvtier_io_latency_seconds')).toContain('{direction="read",quantile="0.5"} 0');
    expect(text).not.toMatch(/ NaN/);
  });

  test('escapes what a model name may hold', async () => {
    const control = new SimCacheControl(() => 0);
    control.put({ key: 'k', namespace: simNamespace({ model: 'a"b\\c\nd' }), sizeBytes: 5, tiers: ['ram'] });
    expect(await new Metrics().scrape(() => sourceOf(control))).toContain('kvtier_model_chunks{model="a\\"b\\\\c\\nd"} 1');
  });

  test('counts answers by route and status', async () => {
    const metrics = new Metrics();
    metrics.countHttpResponse('/v1/stats', 200);
    metrics.countHttpResponse('/v1/stats', 200);
    metrics.countHttpResponse('other', 404);
    expect(metrics.httpTotals()).toEqual({ requests: 3, errors: 1 });
    const text = await metrics.scrape(() => sourceOf(new SimCacheControl(() => 0)));
    expect(samples(text, 'kvtier_http_responses_total')).toEqual(['{route="/v1/stats",status="200"} 2', '{route="other",status="404"} 1']);
  });
});

describe('tenantDigest', () => {
  test('is stable, keeps default readable, and tells nothing of the salt', () => {
    expect(tenantDigest('default')).toBe('default');
    expect(tenantDigest('ann')).toBe(tenantDigest('ann'));
    expect(tenantDigest('ann')).toMatch(/^t-[0-9a-f]{12}$/);
    expect(tenantDigest('ann')).not.toBe(tenantDigest('bob'));
  });
});
