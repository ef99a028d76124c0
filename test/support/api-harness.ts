/** The real Hono app over the twin of the cache: what tests of the REST API, the client and the CLI run against. */
import { createApi, type ApiApp } from '#api/app.ts';
import type { ApiDeps } from '#api/deps.ts';
import { KvtierClient } from '#client/kvtier-client.ts';
import { noopLogger } from '#core/logger.ts';
import type { DoorStats, Health } from '#protocol/rest/stats.ts';
import { Metrics } from '#telemetry/metrics.ts';
import { SimCacheControl, simNamespace } from './sim-cache-control.ts';

/** 2026-01-02T03:04:05Z */
export const HARNESS_NOW_MS = 1_767_323_045_000;

export interface ApiHarness {
  readonly app: ApiApp;
  readonly control: SimCacheControl;
  readonly metrics: Metrics;
  /** Set what /readyz answers. */
  readonly agent: { health: Health; doors: DoorStats[] };
  /** What reached onBug. */
  readonly bugs: unknown[];
  /** Lines that were logged. */
  readonly logged: { message: string; fields: unknown }[];
  /** Fires what is scheduled on the clock. */
  fireTimers(): void;
  client(token?: string): KvtierClient;
  /** A raw request; `json` sets body and content type. */
  request(
    method: string,
    path: string,
    options?: { readonly headers?: Record<string, string>; readonly json?: unknown; readonly body?: string | ReadableStream<Uint8Array> },
  ): Promise<Response>;
}

export function createApiHarness(overrides: Partial<ApiDeps> = {}): ApiHarness {
  const timers = new Set<() => void>();
  const clock = {
    nowMs: () => HARNESS_NOW_MS,
    monotonicMs: () => 0,
    schedule: (_delayMs: number, callback: () => void) => {
      timers.add(callback);
      return () => void timers.delete(callback);
    },
  };
  const control = new SimCacheControl(clock.nowMs);
  const metrics = new Metrics();
  const agent: ApiHarness['agent'] = { health: { state: 'ready', reasons: [] }, doors: [] };
  const bugs: unknown[] = [];
  const logged: ApiHarness['logged'] = [];
  const log = (message: string, fields?: unknown): void => void logged.push({ message, fields });
  const app = createApi({
    control,
    metrics,
    clock,
    tokens: {},
    logger: { ...noopLogger, warn: log, error: log },
    onBug: (error) => void bugs.push(error),
    agent: {
      version: '0.1.0',
      startedAtMs: HARNESS_NOW_MS - 90_000,
      doors: () => agent.doors,
      health: () => agent.health,
      residentBytes: () => 123_456_789,
      heapBytes: () => 12_345_678,
      eventLoopLag: () => ({ p50Ms: 1, p99Ms: 2, maxMs: 3 }),
    },
    ...overrides,
  });
  const send = async (url: string, init: RequestInit): Promise<Response> => await app.request(url, init);
  return {
    app,
    control,
    metrics,
    agent,
    bugs,
    logged,
    fireTimers: () => {
      for (const callback of timers) callback();
      timers.clear();
    },
    client: (token) => new KvtierClient({ baseUrl: 'http://127.0.0.1:7600', token, fetch: send }),
    request: (method, path, options = {}) => {
      const headers: Record<string, string> = { ...options.headers };
      const init: RequestInit = { method, headers };
      if (options.json !== undefined) {
        headers['content-type'] ??= 'application/json';
        init.body = JSON.stringify(options.json);
      }
      if (options.body !== undefined) init.body = options.body;
      return send(`http://127.0.0.1:7600${path}`, init);
    },
  };
}

/** Three chunks of one chain of a model (RAM, RAM and SSD, SSD), and one of another tenant and model. */
export function putSampleChunks(control: SimCacheControl): { readonly keys: readonly string[]; readonly otherKey: string } {
  const llama = simNamespace({ model: 'meta/llama-3' });
  const qwen = simNamespace({ model: 'qwen', tenant: 'salt-of-ann' });
  const keys = ['aa', 'bb', 'cc'].map((hash) => `${llama.keyPrefix}${hash}${llama.keyTail}`);
  const [first = '', second = '', third = ''] = keys;
  control.put({ key: first, namespace: llama, sizeBytes: 1000, tiers: ['ram'] });
  control.put({
    key: second,
    namespace: llama,
    sizeBytes: 2000,
    tiers: ['ram', 'ssd'],
    parentKey: first,
    lastUsedAtMs: HARNESS_NOW_MS - 7_200_000,
  });
  control.put({
    key: third,
    namespace: llama,
    sizeBytes: 4000,
    tiers: ['ssd'],
    parentKey: second,
    lastUsedAtMs: HARNESS_NOW_MS - 7_200_000,
  });
  const otherKey = `${qwen.keyPrefix}dd${qwen.keyTail}`;
  control.put({ key: otherKey, namespace: qwen, sizeBytes: 500, tiers: ['ram'], leased: true });
  return { keys, otherKey };
}
