/** What the REST API needs from the rest of the agent. main.ts builds it; tests build it from twins. */
import type { CacheControl } from '#cache/control.ts';
import type { Clock } from '#core/clock.ts';
import type { Logger } from '#core/logger.ts';
import type { DoorStats, Health } from '#protocol/rest/stats.ts';
import type { LagSummary } from '#telemetry/event-loop-lag.ts';
import type { WatchCounts } from '#telemetry/machine-watch.ts';
import type { SnapshotSource } from '#telemetry/metrics.ts';
import type { Tokens } from './credentials.ts';
import type { GpuInfo } from './devices-view.ts';

export interface AgentInfo {
  readonly version: string;
  /** Wall clock. */
  readonly startedAtMs: number;
  doors(): readonly DoorStats[];
  health(): Health;
  /** Resident memory of the process. */
  residentBytes(): number;
  /** JavaScript heap of the main thread in use. */
  heapBytes(): number;
  eventLoopLag(): LagSummary;
  /** What the machine does to the agent; without it, nobody looks. */
  watch?(): WatchCounts;
  /** Since the start: lines that the log did not take. */
  lostLogWrites?(): number;
  /** Without it, there is no HBM tier. */
  gpu?(): GpuInfo;
}

/** Counts of the API, and the text for Prometheus; telemetry/metrics.ts is the real one. */
export interface ApiMetrics {
  readonly contentType: string;
  countHttpResponse(route: string, status: number): void;
  countWebhookCall(outcome: 'ok' | 'failed'): void;
  scrape(source: SnapshotSource): Promise<string>;
}

export interface WebhookOptions {
  /** LMCache's own clear, for example `http://127.0.0.1:8080/cache/clear`. */
  readonly url: string;
  /** Bound on the whole call; an invalidation waits this long at most. */
  readonly timeoutMs: number;
  readonly fetch: (url: string, init: RequestInit) => Promise<Response>;
}

export interface ApiDeps {
  readonly control: CacheControl;
  readonly agent: AgentInfo;
  /** None: open, and then the Host header must be loopback or one of `hosts`. */
  readonly tokens: Tokens;
  /** Cache salts as they are in every answer; default false: by digest. */
  readonly revealSalts?: boolean;
  /** Host names and addresses, besides loopback, under which this door is reached; without ports. */
  readonly hosts?: readonly string[];
  /** Largest request body; default restLimits.bodyBytes. */
  readonly maxBodyBytes?: number;
  readonly metrics: ApiMetrics;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly webhook?: WebhookOptions | undefined;
  /** Told of every InvariantError and unknown throw after its 500 is on the way; main ends the process. */
  readonly onBug: (error: unknown) => void;
}
