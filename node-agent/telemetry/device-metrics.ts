/** Metrics of the HBM tier and its devices. Each device's carry its kind: the numbers of an emulated one say nothing of a GPU. */
import type { DeviceRow, Devices } from '#protocol/rest/devices.ts';
import type { MetricDefinition, MetricsSnapshot, Sample } from './metric-definitions.ts';

const deviceStates = ['ok', 'degraded', 'off'] as const;

const rows = ({ devices }: MetricsSnapshot): readonly DeviceRow[] => devices?.devices ?? [];
const labelsOf = ({ uuid, kind }: DeviceRow): Readonly<Record<string, string>> => ({ device: uuid, kind });

function perDevice(
  type: MetricDefinition['type'],
  name: string,
  options: { readonly help: string; readonly read: (device: DeviceRow) => number },
): MetricDefinition {
  const { help, read } = options;
  const collect = (snapshot: MetricsSnapshot): Sample[] =>
    rows(snapshot).map((device) => ({ labels: labelsOf(device), value: read(device) }));
  return { name, type, help, labels: ['device', 'kind'], collect };
}

/** One sample for each value of a label besides those of the device. */
function spread(
  type: MetricDefinition['type'],
  name: string,
  options: { readonly help: string; readonly label: string; readonly read: (device: DeviceRow) => Readonly<Record<string, number>> },
): MetricDefinition {
  const { help, label, read } = options;
  const collect = (snapshot: MetricsSnapshot): Sample[] =>
    rows(snapshot).flatMap((device) =>
      Object.entries(read(device)).map(([key, value]) => ({ labels: { ...labelsOf(device), [label]: key }, value })),
    );
  return { name, type, help, labels: ['device', 'kind', label], collect };
}

/** 0 where there is no such tier. */
function ofTier(
  type: MetricDefinition['type'],
  name: string,
  options: { readonly help: string; readonly read: (devices: Devices) => number },
): MetricDefinition {
  const { help, read } = options;
  return {
    name,
    type,
    help,
    labels: [],
    collect: ({ devices }) => [{ labels: {}, value: devices === undefined ? 0 : read(devices) }],
  };
}

export const deviceMetrics: readonly MetricDefinition[] = [
  ofTier('counter', 'kvtier_hbm_promotions_total', { help: 'Copies from RAM to a device', read: (devices) => devices.promotions }),
  ofTier('counter', 'kvtier_hbm_demotions_total', {
    help: 'Chunks that left a device for RAM, since nothing else had them',
    read: (devices) => devices.demotions,
  }),
  ofTier('counter', 'kvtier_hbm_loads_total', {
    help: 'Copies from a device to RAM because somebody asked',
    read: (devices) => devices.loads,
  }),
  ofTier('counter', 'kvtier_hbm_checksum_mismatches_total', {
    help: 'Bytes from a device that were not those that were put; dropped, never served',
    read: (devices) => devices.checksumMismatches,
  }),
  ofTier('gauge', 'kvtier_hbm_exports', {
    help: 'Chunks that local clients read on the device at this moment',
    read: (devices) => devices.exports,
  }),
  ofTier('gauge', 'kvtier_registered_host_bytes', {
    help: 'RAM arenas that devices reach directly',
    read: (devices) => devices.registration.bytes,
  }),
  {
    name: 'kvtier_device_info',
    type: 'gauge',
    help: 'Always 1; the labels tell the device, and whether it is one',
    labels: ['device', 'kind', 'name', 'driver'],
    collect: (snapshot) =>
      rows(snapshot).map((device) => ({
        labels: { ...labelsOf(device), name: device.name, driver: snapshot.devices?.driver?.version ?? '' },
        value: 1,
      })),
  },
  spread('gauge', 'kvtier_device_state', {
    help: '1 for the state of the pool on the device, 0 for the others',
    label: 'state',
    read: ({ state }) => Object.fromEntries(deviceStates.map((candidate) => [candidate, candidate === state ? 1 : 0])),
  }),
  perDevice('gauge', 'kvtier_device_pool_capacity_bytes', {
    help: "Memory of the device that is the pool's",
    read: ({ pool }) => pool.capacityBytes,
  }),
  perDevice('gauge', 'kvtier_device_pool_used_bytes', {
    help: 'Slots of the pool in use, rounded up to their class',
    read: ({ pool }) => pool.usedBytes,
  }),
  perDevice('gauge', 'kvtier_device_pool_fragmented_bytes', {
    help: 'Room in pieces in use, which only the tenants of the piece can take',
    read: ({ pool }) => pool.fragmentedBytes,
  }),
  spread('gauge', 'kvtier_device_pool_pieces', {
    help: 'Pieces of the pool',
    label: 'use',
    read: ({ pool }) => ({ used: pool.usedPieces, free: pool.pieces - pool.usedPieces }),
  }),
  spread('counter', 'kvtier_device_copied_bytes_total', {
    help: 'Bytes copied, by direction',
    label: 'direction',
    read: ({ copies }) => ({ to_device: copies.toDevice.bytes, to_host: copies.toHost.bytes }),
  }),
  spread('counter', 'kvtier_device_copies_total', {
    help: 'Copies done, by direction',
    label: 'direction',
    read: ({ copies }) => ({ to_device: copies.toDevice.copies, to_host: copies.toHost.copies }),
  }),
  spread('gauge', 'kvtier_device_copy_bytes_per_second', {
    help: 'Bandwidth of all copies so far, by the time that the device spent on them',
    label: 'direction',
    read: ({ copies }) => ({ to_device: copies.toDevice.bytesPerSecond, to_host: copies.toHost.bytesPerSecond }),
  }),
  spread('gauge', 'kvtier_device_copy_latency_seconds', {
    help: 'Time of the last copies as the device measured it',
    label: 'quantile',
    read: ({ copies: { latencyMs } }) => ({ '0.5': latencyMs.p50 / 1000, '0.99': latencyMs.p99 / 1000 }),
  }),
  perDevice('counter', 'kvtier_device_promotions_total', {
    help: 'Copies of chunks from RAM to the device',
    read: ({ moves }) => moves.promotions,
  }),
  perDevice('counter', 'kvtier_device_demotions_total', {
    help: 'Chunks that left the device for RAM, since nothing else had them',
    read: ({ moves }) => moves.demotions,
  }),
  perDevice('counter', 'kvtier_device_loads_total', {
    help: 'Copies of chunks from the device to RAM',
    read: ({ moves }) => moves.loads,
  }),
  perDevice('counter', 'kvtier_device_checksum_mismatches_total', {
    help: 'Bytes from the device that were not those that were put',
    read: ({ moves }) => moves.checksumMismatches,
  }),
  perDevice('gauge', 'kvtier_device_copies_in_flight', { help: 'Copies submitted and not done', read: ({ copies }) => copies.inFlight }),
  perDevice('counter', 'kvtier_device_copy_errors_total', { help: 'Copies that failed', read: ({ copies }) => copies.errors }),
  perDevice('counter', 'kvtier_device_pageable_copies_total', {
    help: 'Copies of memory that was not registered, through a bounce buffer',
    read: ({ copies }) => copies.pageable,
  }),
];
