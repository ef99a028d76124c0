/**
 * Every metric, once: what Prometheus scrapes and what docs/metrics.md prints. Names end in their unit (`_bytes`, `_seconds`) and
 * counters in `_total`; sizes are bytes, times seconds. Counters start at 0 with the process.
 */
import type { CacheStats, FolderStats, NamespaceStats, PinSum } from '#cache/control.ts';
import type { Devices } from '#protocol/rest/devices.ts';
import type { DoorStats, Health } from '#protocol/rest/stats.ts';
import { deviceMetrics } from './device-metrics.ts';
import type { LagSummary } from './event-loop-lag.ts';
import type { WatchCounts } from './machine-watch.ts';
import { addTierBytes, allTierBytes } from './tier-bytes.ts';
import type { TierBytes } from './tier-bytes.ts';

/** Series per tenant or model; what is beyond, smallest first, is summed under `other`. */
export const MAX_GROUP_LABELS = 100;

/** All that one scrape reads, taken in one synchronous step. */
export interface MetricsSnapshot {
  readonly stats: CacheStats;
  readonly namespaces: readonly NamespaceStats[];
  readonly doors: readonly DoorStats[];
  readonly version: string;
  readonly state: Health['state'];
  readonly uptimeSeconds: number;
  readonly residentBytes: number;
  /** Of the main thread's JavaScript heap. */
  readonly heapBytes: number;
  readonly eventLoopLag: LagSummary;
  readonly watch?: WatchCounts | undefined;
  readonly lostLogWrites?: number | undefined;
  readonly devices?: Devices | undefined;
  /** Answers of the HTTP door by route template and status. */
  readonly httpResponses: readonly { readonly route: string; readonly status: number; readonly count: number }[];
  readonly webhookCalls: Readonly<Record<'ok' | 'failed', number>>;
}

export interface Sample {
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

export interface MetricDefinition {
  readonly name: string;
  readonly type: 'counter' | 'gauge';
  readonly help: string;
  readonly labels: readonly string[];
  collect(snapshot: MetricsSnapshot): readonly Sample[];
}

const tierStates = ['ok', 'starting', 'degraded', 'off'] as const;
const agentStates = ['starting', 'ready', 'degraded', 'draining'] as const;
const folderStates = ['ok', 'read-only', 'stalled', 'off'] as const;

const one = (value: number): readonly Sample[] => [{ labels: {}, value }];

/** A metric without labels. */
function plain(
  type: MetricDefinition['type'],
  name: string,
  options: { help: string; read: (snapshot: MetricsSnapshot) => number },
): MetricDefinition {
  const { help, read } = options;
  return { name, type, help, labels: [], collect: (snapshot) => one(read(snapshot)) };
}

/** One sample for each value of one label. */
function labelled(
  type: MetricDefinition['type'],
  name: string,
  options: { help: string; label: string; read: (snapshot: MetricsSnapshot) => Readonly<Record<string, number>> },
): MetricDefinition {
  const { help, label, read } = options;
  const collect = (snapshot: MetricsSnapshot): Sample[] =>
    Object.entries(read(snapshot)).map(([key, value]) => ({ labels: { [label]: key }, value }));
  return { name, type, help, labels: [label], collect };
}

function perTier(
  name: string,
  help: string,
  field: 'capacityBytes' | 'usedBytes' | 'dirtyBytes' | 'leasedBytes' | 'chunkCount',
): MetricDefinition {
  const collect = ({ stats }: MetricsSnapshot): Sample[] =>
    stats.tiers.map((tier) => ({ labels: { tier: tier.tier }, value: tier[field] }));
  return { name, type: 'gauge', help, labels: ['tier'], collect };
}

function perFolder(name: string, help: string, read: (folder: FolderStats) => number): MetricDefinition {
  const collect = ({ stats }: MetricsSnapshot): Sample[] =>
    stats.tiers.flatMap((tier) => (tier.folders ?? []).map((folder) => ({ labels: { folder: folder.path }, value: read(folder) })));
  return { name, type: 'gauge', help, labels: ['folder'], collect };
}

function perDoor(
  type: MetricDefinition['type'],
  name: string,
  options: { help: string; field: Exclude<keyof DoorStats, 'door' | 'address'> },
): MetricDefinition {
  const collect = ({ doors }: MetricsSnapshot): Sample[] =>
    doors.map((door) => ({ labels: { door: door.door }, value: door[options.field] }));
  return { name, type, help: options.help, labels: ['door'], collect };
}

/** 1 for the state that holds, 0 for the others, so that an alert can name a state. */
function oneHot(states: readonly string[], state: string, labels: Readonly<Record<string, string>> = {}): Sample[] {
  return states.map((candidate) => ({ labels: { ...labels, state: candidate }, value: candidate === state ? 1 : 0 }));
}

type Group = TierBytes & { readonly chunkCount: number };

/** Sums by label, the largest MAX_GROUP_LABELS by bytes (ties by name), the rest under `other`. */
export function groupNamespaces(
  namespaces: readonly NamespaceStats[],
  label: (namespace: NamespaceStats) => string,
): ReadonlyMap<string, Group> {
  const groups = new Map<string, Group>();
  for (const namespace of namespaces) add(groups, label(namespace), { chunkCount: namespace.chunkCount, ...namespace.bytes });
  if (groups.size <= MAX_GROUP_LABELS) return groups;
  const sorted = [...groups].toSorted(([a, left], [b, right]) => allTierBytes(right) - allTierBytes(left) || (a < b ? -1 : 1));
  const kept = new Map(sorted.slice(0, MAX_GROUP_LABELS));
  for (const [, group] of sorted.slice(MAX_GROUP_LABELS)) add(kept, 'other', group);
  return kept;
}

function add(groups: Map<string, Group>, label: string, more: Group): void {
  const group = groups.get(label) ?? { chunkCount: 0, ram: 0, ssd: 0 };
  groups.set(label, { chunkCount: group.chunkCount + more.chunkCount, ...addTierBytes(group, more) });
}

/** As it is handed in: a digest, unless salts are to be shown. */
const ofTenant = (namespace: NamespaceStats): string => namespace.descriptor.tenant;
const ofModel = (namespace: NamespaceStats): string => (namespace.descriptor.model === '' ? 'opaque' : namespace.descriptor.model);

function perGroup(label: 'tenant' | 'model', key: (namespace: NamespaceStats) => string, help: string): MetricDefinition[] {
  const groups = (snapshot: MetricsSnapshot): [string, Group][] => [...groupNamespaces(snapshot.namespaces, key)];
  return [
    {
      name: `kvtier_${label}_chunks`,
      type: 'gauge',
      help: `Chunks of ${help}`,
      labels: [label],
      collect: (snapshot) => groups(snapshot).map(([name, group]) => ({ labels: { [label]: name }, value: group.chunkCount })),
    },
    {
      name: `kvtier_${label}_bytes`,
      type: 'gauge',
      help: `Payload bytes of ${help}`,
      labels: [label, 'tier'],
      collect: (snapshot) =>
        groups(snapshot).flatMap(([name, group]) => [
          ...(group.hbm === undefined ? [] : [{ labels: { [label]: name, tier: 'hbm' }, value: group.hbm }]),
          { labels: { [label]: name, tier: 'ram' }, value: group.ram },
          { labels: { [label]: name, tier: 'ssd' }, value: group.ssd },
        ]),
    },
  ];
}

function latency({ stats }: MetricsSnapshot): Sample[] {
  const { readLatencyMs, writeLatencyMs } = stats.io;
  return [
    { labels: { direction: 'read', quantile: '0.5' }, value: readLatencyMs.p50 / 1000 },
    { labels: { direction: 'read', quantile: '0.99' }, value: readLatencyMs.p99 / 1000 },
    { labels: { direction: 'write', quantile: '0.5' }, value: writeLatencyMs.p50 / 1000 },
    { labels: { direction: 'write', quantile: '0.99' }, value: writeLatencyMs.p99 / 1000 },
  ];
}

const agentMetrics: readonly MetricDefinition[] = [
  {
    name: 'kvtier_build_info',
    type: 'gauge',
    help: 'Always 1; the label tells the version',
    labels: ['version'],
    collect: ({ version }) => [{ labels: { version }, value: 1 }],
  },
  {
    name: 'kvtier_agent_state',
    type: 'gauge',
    help: '1 for the state of the agent, 0 for the others',
    labels: ['state'],
    collect: ({ state }) => oneHot(agentStates, state),
  },
  plain('gauge', 'kvtier_uptime_seconds', { help: 'Time since the start of the process', read: ({ uptimeSeconds }) => uptimeSeconds }),
  plain('gauge', 'kvtier_process_resident_bytes', {
    help: 'Resident memory of the process, arenas included',
    read: ({ residentBytes }) => residentBytes,
  }),
  plain('gauge', 'kvtier_process_heap_bytes', {
    help: "JavaScript heap of the main thread as its last collection found it; no chunk's bytes are in it",
    read: ({ heapBytes }) => heapBytes,
  }),
  {
    name: 'kvtier_event_loop_lag_seconds',
    type: 'gauge',
    help: 'How late timers of the main thread ran in the last 10 s; quantile 1 is the maximum',
    labels: ['quantile'],
    collect: ({ eventLoopLag: lag }) =>
      [['0.5', lag.p50Ms] as const, ['0.99', lag.p99Ms] as const, ['1', lag.maxMs] as const].map(([quantile, ms]) => ({
        labels: { quantile },
        value: ms / 1000,
      })),
  },
];

const tierMetrics: readonly MetricDefinition[] = [
  {
    name: 'kvtier_tier_state',
    type: 'gauge',
    help: '1 for the state of the tier, 0 for the others',
    labels: ['tier', 'state'],
    collect: ({ stats }) => stats.tiers.flatMap((tier) => oneHot(tierStates, tier.state, { tier: tier.tier })),
  },
  perTier('kvtier_tier_capacity_bytes', 'Size of the tier', 'capacityBytes'),
  perTier('kvtier_tier_used_bytes', 'Payload; on SSD also headers, padding and files not yet unlinked', 'usedBytes'),
  perTier('kvtier_tier_dirty_bytes', 'Bytes that only this tier holds and that a crash would lose', 'dirtyBytes'),
  perTier('kvtier_tier_leased_bytes', 'Bytes under a lease: neither evicted nor reused', 'leasedBytes'),
  perTier('kvtier_tier_chunks', 'Chunks with a replica in the tier', 'chunkCount'),
  {
    name: 'kvtier_folder_state',
    type: 'gauge',
    help: '1 for the state of the SSD folder, 0 for the others',
    labels: ['folder', 'state'],
    collect: ({ stats }) =>
      stats.tiers.flatMap((tier) => (tier.folders ?? []).flatMap((folder) => oneHot(folderStates, folder.state, { folder: folder.path }))),
  },
  perFolder('kvtier_folder_capacity_bytes', 'Budget of the SSD folder', (folder) => folder.capacityBytes),
  perFolder('kvtier_folder_used_bytes', 'Bytes of files in the SSD folder', (folder) => folder.usedBytes),
  perFolder('kvtier_folder_chunks', 'Chunks in the SSD folder', (folder) => folder.chunkCount),
  perFolder('kvtier_folder_direct', '1 with O_DIRECT, 0 where the file system refuses it', (folder) => (folder.direct ? 1 : 0)),
  perFolder('kvtier_folder_read_bytes_per_second', 'Measured read bandwidth', (folder) => folder.readBytesPerSecond),
  perFolder('kvtier_folder_write_bytes_per_second', 'Measured write bandwidth', (folder) => folder.writeBytesPerSecond),
];

function perPin(name: string, help: string, read: (sum: PinSum) => number): MetricDefinition {
  const collect = ({ stats: { pins } }: MetricsSnapshot): Sample[] =>
    (['ram', 'ssd'] as const).flatMap((tier) =>
      (['soft', 'hard'] as const).map((mode) => ({ labels: { tier, mode }, value: read(pins[tier][mode]) })),
    );
  return { name, type: 'gauge', help, labels: ['tier', 'mode'], collect };
}

const pinMetrics: readonly MetricDefinition[] = [
  plain('gauge', 'kvtier_pins', { help: 'Chunks that are pinned', read: ({ stats }) => stats.pins.chunks }),
  perPin('kvtier_pinned_chunks', 'Replicas of pinned chunks', ({ chunks }) => chunks),
  perPin('kvtier_pinned_bytes', 'Payload bytes of pinned chunks', ({ bytes }) => bytes),
  plain('counter', 'kvtier_lost_pins_total', {
    help: 'Pins that could not be kept: a tier became smaller, or a value larger',
    read: ({ stats }) => stats.pins.lost,
  }),
];

const cacheMetrics: readonly MetricDefinition[] = [
  plain('counter', 'kvtier_probes_total', { help: 'Keys asked about', read: ({ stats }) => stats.probes }),
  plain('counter', 'kvtier_probe_hits_total', { help: 'Keys asked about that were there', read: ({ stats }) => stats.probeHits }),
  plain('counter', 'kvtier_lookups_total', {
    help: 'Keys asked for bytes; each is one hit or one miss',
    read: ({ stats }) => stats.lookups,
  }),
  labelled('counter', 'kvtier_hits_total', {
    help: 'Lookups served, by the tier that held the bytes',
    label: 'tier',
    read: ({ stats }) => ({ ...stats.hits }),
  }),
  plain('counter', 'kvtier_misses_total', { help: 'Lookups not served', read: ({ stats }) => stats.misses }),
  plain('counter', 'kvtier_size_guard_misses_total', {
    help: 'Misses since the stored size is not the one the client wants',
    read: ({ stats }) => stats.sizeGuardMisses,
  }),
  plain('counter', 'kvtier_refused_lookups_total', {
    help: 'Misses of chunks that are there: RAM had no room for them in time, or their device does not answer',
    read: ({ stats }) => stats.refusedLookups,
  }),
  plain('counter', 'kvtier_puts_total', { help: 'Chunks stored', read: ({ stats }) => stats.puts }),
  plain('counter', 'kvtier_put_bytes_total', { help: 'Payload bytes stored', read: ({ stats }) => stats.putBytes }),
  plain('counter', 'kvtier_duplicate_puts_total', {
    help: 'Puts of what was there already: a touch',
    read: ({ stats }) => stats.duplicatePuts,
  }),
  labelled('counter', 'kvtier_rejected_puts_total', {
    help: 'Puts refused: too_large, shed (nothing to evict in time), draining, quota (the tenant has nothing of its own to evict), quota_slot (at its quota, nothing of its own would leave a slot of this size)',
    label: 'reason',
    read: ({ stats: { rejectedPuts } }) => ({
      too_large: rejectedPuts.tooLarge,
      shed: rejectedPuts.shed,
      draining: rejectedPuts.draining,
      quota: rejectedPuts.quota,
      quota_slot: rejectedPuts.quotaSlot,
    }),
  }),
  plain('counter', 'kvtier_dropped_dirty_chunks_total', {
    help: 'Chunks dropped before they were on SSD',
    read: ({ stats }) => stats.droppedDirtyChunks,
  }),
  labelled('counter', 'kvtier_evictions_total', {
    help: 'Replicas that left a tier for space',
    label: 'tier',
    read: ({ stats }) => ({ ...stats.evictions }),
  }),
  plain('counter', 'kvtier_demotions_total', { help: 'Evictions into a lower tier', read: ({ stats }) => stats.demotions }),
  plain('counter', 'kvtier_promotions_total', { help: 'Copies into a higher tier', read: ({ stats }) => stats.promotions }),
  plain('counter', 'kvtier_deletes_total', { help: 'Chunks deleted by clients', read: ({ stats }) => stats.deletes }),
  plain('counter', 'kvtier_invalidated_chunks_total', {
    help: 'Chunks invalidated by operators',
    read: ({ stats }) => stats.invalidatedChunks,
  }),
  plain('counter', 'kvtier_expired_chunks_total', {
    help: 'Chunks that ended as their expiry said',
    read: ({ stats }) => stats.expiredChunks,
  }),
  ...pinMetrics,
  plain('gauge', 'kvtier_tenants_with_quota', { help: 'Tenants that have a quota', read: ({ stats }) => stats.quotas.tenants }),
  labelled('counter', 'kvtier_quota_evictions_total', {
    help: 'Replicas that a tenant gave up for its own quota; evictions too',
    label: 'tier',
    read: ({ stats }) => ({ ...stats.quotas.evictions }),
  }),
  plain('gauge', 'kvtier_leases', { help: 'Leases alive', read: ({ stats }) => stats.leases }),
  labelled('counter', 'kvtier_store_admission_chunks_total', {
    help: 'Decisions to write to SSD: admitted, skipped by the mode, shed by the bounded queue',
    label: 'decision',
    read: ({ stats: { storeAdmission } }) => ({
      admitted: storeAdmission.admittedChunks,
      skipped: storeAdmission.skippedChunks,
      shed: storeAdmission.shedChunks,
    }),
  }),
  plain('gauge', 'kvtier_store_admission_budget_bytes_per_second', {
    help: 'Write budget of the SSD',
    read: ({ stats }) => stats.storeAdmission.writeBudgetBytesPerSecond,
  }),
];

const ioMetrics: readonly MetricDefinition[] = [
  labelled('counter', 'kvtier_io_bytes_total', {
    help: 'Bytes of chunk files read and written',
    label: 'direction',
    read: ({ stats: { io } }) => ({ read: io.readBytes, write: io.writtenBytes }),
  }),
  labelled('counter', 'kvtier_io_errors_total', {
    help: 'Failed reads and writes of chunk files',
    label: 'direction',
    read: ({ stats: { io } }) => ({ read: io.readErrors, write: io.writeErrors }),
  }),
  plain('counter', 'kvtier_checksum_mismatches_total', {
    help: 'Reads whose bytes were not those that were put; served as a miss',
    read: ({ stats }) => stats.io.checksumMismatches,
  }),
  plain('gauge', 'kvtier_quarantined_files', { help: 'Files set aside', read: ({ stats }) => stats.io.quarantinedFiles }),
  plain('gauge', 'kvtier_io_queue_depth', { help: 'File jobs waiting', read: ({ stats }) => stats.io.queueDepth }),
  {
    name: 'kvtier_io_latency_seconds',
    type: 'gauge',
    help: 'Time of recent reads and writes of chunk files',
    labels: ['direction', 'quantile'],
    collect: latency,
  },
  plain('gauge', 'kvtier_catalog_queued_changes', {
    help: 'Changes the catalog has still to write',
    read: ({ stats }) => stats.catalog.queuedChanges,
  }),
  plain('counter', 'kvtier_catalog_dropped_changes_total', {
    help: 'Changes dropped by the full queue; rebuilt at the next start',
    read: ({ stats }) => stats.catalog.droppedChanges,
  }),
  plain('gauge', 'kvtier_catalog_wal_bytes', {
    help: 'Size of the write-ahead log of the catalog',
    read: ({ stats }) => stats.catalog.walBytes,
  }),
  plain('gauge', 'kvtier_catalog_up', {
    help: '1 while the catalog is written, 0 while it is degraded or off',
    read: ({ stats }) => (stats.catalog.state === 'ok' ? 1 : 0),
  }),
  plain('gauge', 'kvtier_recovery_done', {
    help: '1 once the adoption of files after the start has ended',
    read: ({ stats }) => (stats.recovery.done ? 1 : 0),
  }),
  labelled('gauge', 'kvtier_recovered_files', {
    help: 'Chunks at the start: loaded by the catalog, adopted by their header, dropped, kept in RAM',
    label: 'outcome',
    read: ({ stats: { recovery } }) => ({
      loaded: recovery.loadedRows,
      adopted: recovery.adoptedFiles,
      dropped: recovery.droppedFiles,
      kept: recovery.keptChunks,
    }),
  }),
];

const doorMetrics: readonly MetricDefinition[] = [
  perDoor('gauge', 'kvtier_door_connections', { help: 'Connections open', field: 'connections' }),
  perDoor('counter', 'kvtier_door_accepted_connections_total', { help: 'Connections accepted', field: 'acceptedConnections' }),
  perDoor('counter', 'kvtier_door_requests_total', { help: 'Commands or requests', field: 'requests' }),
  perDoor('counter', 'kvtier_door_errors_total', { help: 'Commands or requests answered with an error', field: 'errors' }),
  perDoor('counter', 'kvtier_door_received_bytes_total', { help: 'Bytes from clients', field: 'receivedBytes' }),
  perDoor('counter', 'kvtier_door_sent_bytes_total', { help: 'Bytes to clients', field: 'sentBytes' }),
  {
    name: 'kvtier_http_responses_total',
    type: 'counter',
    help: 'Answers of the REST API by route template; other: no route',
    labels: ['route', 'status'],
    collect: ({ httpResponses }) =>
      httpResponses.map(({ route, status, count }) => ({ labels: { route, status: String(status) }, value: count })),
  },
  labelled('counter', 'kvtier_webhook_calls_total', {
    help: "Calls of LMCache's own clear after an invalidation",
    label: 'outcome',
    read: ({ webhookCalls }) => ({ ...webhookCalls }),
  }),
];

const machineMetrics: readonly MetricDefinition[] = [
  labelled('counter', 'kvtier_memory_events_total', {
    help: 'Times that the cgroup met memory.high, memory.max, ran out of memory, had a process killed',
    label: 'event',
    read: ({ watch }) => watch?.memoryEvents ?? {},
  }),
  plain('gauge', 'kvtier_memory_stall_ratio', {
    help: 'Share of the last 10 s in which everything in the cgroup waited for memory',
    read: ({ watch }) => watch?.memoryStallRatio ?? 0,
  }),
  plain('counter', 'kvtier_clock_jumps_total', {
    help: 'Steps of the wall clock by more than 2 s',
    read: ({ watch }) => watch?.clockJumps ?? 0,
  }),
  plain('gauge', 'kvtier_descriptor_limit', {
    help: 'Open files that the process may have',
    read: ({ watch }) => watch?.descriptorLimit ?? 0,
  }),
  plain('counter', 'kvtier_door_pauses_total', {
    help: 'Times that the doors stopped accepting because no descriptor was left',
    read: ({ watch }) => watch?.doorPauses ?? 0,
  }),
  plain('counter', 'kvtier_log_writes_lost_total', {
    help: 'Writes to the log that failed, such as on a full disk',
    read: ({ lostLogWrites }) => lostLogWrites ?? 0,
  }),
];

export const metricDefinitions: readonly MetricDefinition[] = [
  ...agentMetrics,
  ...tierMetrics,
  ...cacheMetrics,
  ...ioMetrics,
  ...doorMetrics,
  ...machineMetrics,
  ...deviceMetrics,
  ...perGroup('model', ofModel, `a model; the ${MAX_GROUP_LABELS} largest, the rest under other`),
  ...perGroup('tenant', ofTenant, `a tenant, a salt named by its digest; the ${MAX_GROUP_LABELS} largest, the rest under other`),
];
