/** Statistics of an HBM tier as the cache gives them, every number another. */
import type { GpuInfo } from '#api/devices-view.ts';
import type { HbmStats } from '#cache/control.ts';

export const sampleUuid = 'GPU-12345678-1234-1234-1234-123456789abc';

export const sampleHbm: HbmStats = {
  promotions: 11,
  demotions: 12,
  loads: 13,
  checksumMismatches: 14,
  exports: 15,
  devices: [
    {
      ordinal: 0,
      name: 'Test card',
      uuid: sampleUuid,
      pciBusId: '0000:01:00.0',
      state: 'ok',
      reason: '',
      capacityBytes: 2 ** 30,
      slotBytes: 2 ** 28,
      freeInUsedPiecesBytes: 2 ** 20,
      pieces: { total: 8, used: 3 },
      classes: [],
      moves: { promotions: 31, demotions: 32, loads: 33, checksumMismatches: 34 },
      copies: {
        toDeviceBytes: 4_000_000,
        toHostBytes: 9_000_000,
        toDeviceCopies: 21,
        toHostCopies: 22,
        toDeviceMs: 2,
        toHostMs: 3,
        errors: 23,
        inFlight: 24,
        latencyMs: { p50: 0.25, p99: 0.5 },
      },
    },
  ],
};

export function sampleGpu(kind: 'cuda' | 'emulated'): GpuInfo {
  return {
    driver: { kind, version: '12.4' },
    reasons: [],
    registration: { state: 'done', bytes: 2 ** 25, elapsedMs: 31 },
    devices: [{ uuid: sampleUuid, computeCapability: '9.0', totalBytes: 2 ** 36, pageableCopies: 25 }],
  };
}
