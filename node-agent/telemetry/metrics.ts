import { Counter, Gauge, Registry } from 'prom-client';
import { metricDefinitions, type MetricDefinition, type MetricsSnapshot, type Sample } from './metric-definitions.ts';

/** What a scrape reads besides the counts kept here. Called once per scrape. */
export type SnapshotSource = () => Omit<MetricsSnapshot, 'httpResponses' | 'webhookCalls'>;

/**
 * The Prometheus text, built from the statistics when it is asked for: nothing is counted twice and an idle agent pays nothing.
 * Invariant: the registry is filled in one synchronous step, so that scrapes that overlap each print a whole snapshot.
 */
export class Metrics {
  readonly #registry = new Registry();
  readonly #series: readonly { readonly definition: MetricDefinition; readonly write: (samples: readonly Sample[]) => void }[];
  readonly #httpResponses = new Map<string, { readonly route: string; readonly status: number; count: number }>();
  readonly #webhookCalls = { ok: 0, failed: 0 };

  constructor() {
    this.#series = metricDefinitions.map((definition) => ({ definition, write: this.#register(definition) }));
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  /** `route` is a template or 'other', never a path: paths are unbounded and hold keys. */
  countHttpResponse(route: string, status: number): void {
    const id = `${route} ${status}`;
    const entry = this.#httpResponses.get(id) ?? { route, status, count: 0 };
    entry.count += 1;
    this.#httpResponses.set(id, entry);
  }

  /** Sums of the above, for the door's own row in the statistics. An error is a status of 400 or more. */
  httpTotals(): { readonly requests: number; readonly errors: number } {
    let requests = 0;
    let errors = 0;
    for (const { status, count } of this.#httpResponses.values()) {
      requests += count;
      if (status >= 400) errors += count;
    }
    return { requests, errors };
  }

  countWebhookCall(outcome: 'ok' | 'failed'): void {
    this.#webhookCalls[outcome] += 1;
  }

  async scrape(source: SnapshotSource): Promise<string> {
    const snapshot: MetricsSnapshot = { ...source(), httpResponses: [...this.#httpResponses.values()], webhookCalls: this.#webhookCalls };
    for (const { definition, write } of this.#series) write(definition.collect(snapshot));
    return await this.#registry.metrics();
  }

  #register({ name, type, help, labels }: MetricDefinition): (samples: readonly Sample[]) => void {
    const options = { name, help, labelNames: [...labels], registers: [this.#registry] };
    if (type === 'gauge') {
      const gauge = new Gauge(options);
      return (samples) => {
        gauge.reset();
        for (const { labels: values, value } of samples) gauge.set(values, finite(value));
      };
    }
    const counter = new Counter(options);
    return (samples) => {
      counter.reset();
      for (const { labels: values, value } of samples) counter.inc(values, Math.max(0, finite(value)));
    };
  }
}

/** A quantile of nothing is NaN; a scrape must not fail on it. */
function finite(value: number): number {
  return Number.isFinite(value) ? value : 0;
}

/** The table of docs/metrics.md. */
export function metricsTable(): string {
  const rows = metricDefinitions.map(({ name, type, help, labels }) => `| \`${name}\` | ${type} | ${labels.join(', ')} | ${help} |`);
  return ['| metric | type | labels | meaning |', '|---|---|---|---|', ...rows].join('\n');
}
