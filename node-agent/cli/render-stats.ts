/** `kvtier stats` for people. */
import { formatBytes } from '#core/bytes.ts';
import { formatDuration } from '#core/duration.ts';
import { printable } from '#core/printable.ts';
import type { Devices } from '#protocol/rest/devices.ts';
import type { Stats } from '#protocol/rest/stats.ts';
import { columns, formatCount, formatShare, renderTable, tierColumns } from './table.ts';

function tiers(stats: Stats): string {
  const rows = stats.tiers.map((tier) => [
    tier.tier,
    tier.state,
    formatBytes(tier.usedBytes),
    formatBytes(tier.capacityBytes),
    formatShare(tier.usedBytes, tier.capacityBytes),
    formatCount(tier.chunkCount),
    formatBytes(tier.dirtyBytes),
    formatBytes(tier.leasedBytes),
  ]);
  const table = renderTable(columns('TIER', 'STATE', '>USED', '>CAPACITY', '>FULL', '>CHUNKS', '>ONLY HERE', '>LEASED'), rows);
  const reasons = stats.tiers.flatMap((tier) => tier.reasons.map((reason) => `  ${tier.tier}: ${printable(reason)}\n`));
  return table + reasons.join('');
}

function folders(stats: Stats): string {
  const rows = stats.tiers
    .flatMap((tier) => tier.folders ?? [])
    .map((folder) => [
      folder.path,
      folder.state,
      formatBytes(folder.usedBytes),
      formatBytes(folder.capacityBytes),
      formatCount(folder.chunkCount),
      folder.direct ? 'yes' : 'no',
      `${formatBytes(folder.readBytesPerSecond)}/s`,
      `${formatBytes(folder.writeBytesPerSecond)}/s`,
      folder.reason,
    ]);
  return renderTable(columns('FOLDER', 'STATE', '>USED', '>CAPACITY', '>CHUNKS', 'DIRECT', '>READ', '>WRITE', 'REASON'), rows);
}

/** A device that is none says so before its numbers. */
function devices(found: Devices | undefined): string {
  if (found === undefined) return '';
  const rows = found.devices.map(({ name, uuid, kind, state, pool, moves, copies, reason }) => [
    kind === 'cuda' ? name : `${name} (${kind})`,
    uuid,
    state,
    formatBytes(pool.usedBytes),
    formatBytes(pool.capacityBytes),
    formatBytes(pool.fragmentedBytes),
    formatCount(moves.promotions),
    formatCount(moves.demotions),
    `${formatBytes(copies.toDevice.bytesPerSecond)}/s`,
    `${formatBytes(copies.toHost.bytesPerSecond)}/s`,
    formatCount(copies.errors),
    reason,
  ]);
  const table = renderTable(
    columns('DEVICE', 'UUID', 'STATE', '>USED', '>CAPACITY', '>FRAGMENTED', '>PROMOTED', '>DEMOTED', '>IN', '>OUT', '>ERRORS', 'REASON'),
    rows,
  );
  const all = `  promoted ${formatCount(found.promotions)}, demoted ${formatCount(found.demotions)}, read ${formatCount(found.loads)}, wrong ${formatCount(found.checksumMismatches)}\n`;
  return table === '' ? '' : table + all;
}

function traffic(stats: Stats): string {
  const { hits, rejectedPuts: rejected, storeAdmission: admission, io } = stats;
  const found = hits.hbm + hits.ram + hits.ssd;
  const hbm = hits.hbm === 0 ? '' : `, hbm ${formatCount(hits.hbm)}`;
  return renderTable(columns('COUNT', '>SINCE START', 'OF IT'), [
    [
      'probes',
      formatCount(stats.probes),
      `${formatCount(stats.probeHits)} yes (${formatShare(stats.probeHits, stats.probes)}), ${formatCount(stats.leases)} leases alive`,
    ],
    [
      'lookups',
      formatCount(stats.lookups),
      `${formatCount(found)} hits (${formatShare(found, stats.lookups)}): ram ${formatCount(hits.ram)}, ssd ${formatCount(hits.ssd)}${hbm}`,
    ],
    [
      'misses',
      formatCount(stats.misses),
      `${formatCount(stats.sizeGuardMisses)} by the size guard, ${formatCount(stats.refusedLookups)} of what is there`,
    ],
    ['puts', formatCount(stats.puts), `${formatBytes(stats.putBytes)}, ${formatCount(stats.duplicatePuts)} already there`],
    [
      'rejected puts',
      formatCount(rejected.shed + rejected.tooLarge + rejected.draining + rejected.quota + rejected.quotaSlot),
      `too large ${formatCount(rejected.tooLarge)}, shed ${formatCount(rejected.shed)}, over a quota ${formatCount(rejected.quota + rejected.quotaSlot)}, draining ${formatCount(rejected.draining)}`,
    ],
    [
      'evictions',
      formatCount(stats.evictions.ram + stats.evictions.ssd + stats.evictions.hbm),
      `ram ${formatCount(stats.evictions.ram)}, ssd ${formatCount(stats.evictions.ssd)}; dropped unwritten ${formatCount(stats.droppedDirtyChunks)}`,
    ],
    ['moves', formatCount(stats.demotions + stats.promotions), `down ${formatCount(stats.demotions)}, up ${formatCount(stats.promotions)}`],
    [
      'ssd admission',
      formatCount(admission.admittedChunks),
      `${printable(admission.mode)}; skipped ${formatCount(admission.skippedChunks)}, shed ${formatCount(admission.shedChunks)}`,
    ],
    [
      'invalidated',
      formatCount(stats.invalidatedChunks),
      `deleted ${formatCount(stats.deletes)}, expired ${formatCount(stats.expiredChunks)}`,
    ],
    [
      'ssd reads',
      formatBytes(io.readBytes),
      `p50 ${io.readLatencyMs.p50.toFixed(1)} ms, p99 ${io.readLatencyMs.p99.toFixed(1)} ms, errors ${formatCount(io.readErrors)}, mismatches ${formatCount(io.checksumMismatches)}`,
    ],
    [
      'ssd writes',
      formatBytes(io.writtenBytes),
      `p50 ${io.writeLatencyMs.p50.toFixed(1)} ms, p99 ${io.writeLatencyMs.p99.toFixed(1)} ms, errors ${formatCount(io.writeErrors)}, queued ${formatCount(io.queueDepth)}`,
    ],
  ]);
}

function doors(stats: Stats): string {
  return renderTable(
    columns('DOOR', 'ADDRESS', '>OPEN', '>ACCEPTED', '>REQUESTS', '>ERRORS', '>IN', '>OUT'),
    stats.doors.map((door) => [
      door.door,
      door.address,
      formatCount(door.connections),
      formatCount(door.acceptedConnections),
      formatCount(door.requests),
      formatCount(door.errors),
      formatBytes(door.receivedBytes),
      formatBytes(door.sentBytes),
    ]),
  );
}

function pins({ pins: stats }: Stats): string {
  if (stats.chunks === 0 && stats.lost === 0) return '';
  const rows = (['soft', 'hard'] as const).map((mode) => [
    mode,
    formatCount(stats.ram[mode].chunks),
    formatBytes(stats.ram[mode].bytes),
    formatCount(stats.ssd[mode].chunks),
    formatBytes(stats.ssd[mode].bytes),
  ]);
  const lost = stats.lost === 0 ? '' : `  ${formatCount(stats.lost)} pins could not be kept\n`;
  return renderTable(columns('PINS', '>IN RAM', '>BYTES', '>ON SSD', '>BYTES'), rows) + lost;
}

function owners(stats: Stats): string {
  const tiersOf = tierColumns([...stats.models, ...stats.tenants]);
  const models = renderTable(
    columns('MODEL', '>EPOCH', '>CHUNKS', ...tiersOf.heads),
    stats.models.map((row) => [
      row.model === '' ? '(opaque keys)' : row.model,
      String(row.epoch),
      formatCount(row.chunkCount),
      ...tiersOf.cells(row.bytes),
    ]),
  );
  const tenants = renderTable(
    columns('TENANT', '>CHUNKS', ...tiersOf.heads, 'QUOTA'),
    stats.tenants.map((row) => [row.tenant, formatCount(row.chunkCount), ...tiersOf.cells(row.bytes), quotaText(row.quota)]),
  );
  return [
    models,
    more(stats.modelCount - stats.models.length, 'models'),
    models === '' ? '' : '\n',
    tenants,
    more(stats.tenantCount - stats.tenants.length, 'tenants'),
  ].join('');
}

function quotaText(quota: Stats['tenants'][number]['quota']): string {
  const parts = [
    quota?.ramBytes === undefined || quota.ramBytes === null ? '' : `ram ${formatBytes(quota.ramBytes)}`,
    quota?.ssdBytes === undefined || quota.ssdBytes === null ? '' : `ssd ${formatBytes(quota.ssdBytes)}`,
  ];
  return parts.filter((part) => part !== '').join(', ');
}

function more(count: number, noun: string): string {
  return count > 0 ? `  and ${formatCount(count)} more ${noun}\n` : '';
}

/** `found`: where there is an HBM tier. */
export function renderStats(stats: Stats, found?: Devices): string {
  const head = `kvtier ${printable(stats.version)}, ${stats.state}, up ${formatDuration(stats.uptimeSeconds * 1000)}\n`;
  const catalog = stats.catalog.state === 'ok' ? '' : `catalog ${stats.catalog.state}: ${printable(stats.catalog.reason)}\n`;
  const recovery = stats.recovery.done
    ? ''
    : `recovery is under way: ${formatCount(stats.recovery.loadedRows)} rows loaded, ${formatCount(stats.recovery.adoptedFiles)} files adopted\n`;
  return [head + catalog + recovery, tiers(stats), folders(stats), devices(found), traffic(stats), pins(stats), doors(stats), owners(stats)]
    .filter((part) => part !== '')
    .join('\n');
}
