/** The GPUs of the agent as the REST API and the metrics print them. */
import type { DeviceStats, HbmStats } from '#cache/control.ts';
import type { DeviceRow, Devices } from '#protocol/rest/devices.ts';

/** What the cache does not know of the devices: the driver, and why there is none. */
export interface GpuInfo {
  /** Undefined: no driver is loaded, since no share is wanted or there is none. */
  readonly driver: Devices['driver'] | undefined;
  readonly reasons: readonly string[];
  readonly registration: Devices['registration'];
  readonly devices: readonly {
    readonly uuid: string;
    readonly computeCapability: string;
    readonly totalBytes: number;
    readonly pageableCopies: number;
  }[];
}

export const NO_GPU: GpuInfo = { driver: undefined, reasons: [], registration: { state: 'none', bytes: 0, elapsedMs: 0 }, devices: [] };

export function devicesView(hbm: HbmStats | undefined, gpu: GpuInfo = NO_GPU): Devices {
  const kind = gpu.driver?.kind ?? 'simulated';
  const devices = (hbm?.devices ?? []).map((device) => row(device, kind, gpu));
  const works = devices.some((device) => device.state !== 'off');
  const whole = gpu.reasons.length === 0 && devices.every((device) => device.state === 'ok');
  return {
    state: !works ? 'off' : whole ? 'ok' : 'degraded',
    reasons: [...gpu.reasons],
    driver: gpu.driver ?? null,
    registration: { ...gpu.registration },
    promotions: hbm?.promotions ?? 0,
    demotions: hbm?.demotions ?? 0,
    loads: hbm?.loads ?? 0,
    checksumMismatches: hbm?.checksumMismatches ?? 0,
    exports: hbm?.exports ?? 0,
    devices,
  };
}

function row(device: DeviceStats, kind: DeviceRow['kind'], gpu: GpuInfo): DeviceRow {
  const { ordinal, name, uuid, pciBusId, state, reason, copies } = device;
  const known = gpu.devices.find((candidate) => candidate.uuid === uuid);
  return {
    ordinal,
    name,
    uuid,
    pciBusId,
    kind,
    computeCapability: known?.computeCapability ?? '',
    totalBytes: known?.totalBytes ?? 0,
    state,
    reason,
    pool: {
      capacityBytes: device.capacityBytes,
      usedBytes: device.slotBytes,
      fragmentedBytes: device.freeInUsedPiecesBytes,
      pieces: device.pieces.total,
      usedPieces: device.pieces.used,
    },
    moves: { ...device.moves },
    copies: {
      toDevice: direction(copies.toDeviceBytes, copies.toDeviceCopies, copies.toDeviceMs),
      toHost: direction(copies.toHostBytes, copies.toHostCopies, copies.toHostMs),
      inFlight: copies.inFlight,
      errors: copies.errors,
      pageable: known?.pageableCopies ?? 0,
      latencyMs: { ...copies.latencyMs },
    },
  };
}

function direction(bytes: number, copies: number, elapsedMs: number): DeviceRow['copies']['toDevice'] {
  return { bytes, copies, bytesPerSecond: elapsedMs > 0 ? (bytes / elapsedMs) * 1000 : 0 };
}
