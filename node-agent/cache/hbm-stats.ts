/** What the HBM tier says of itself to operators. */
import type { DeviceMoves, DeviceStats, HbmStats, TierStats } from './control.ts';
import type { HbmReplicas } from './hbm-replicas.ts';

export function hbmTierStats(hbm: HbmReplicas, leasedBytes: number, alsoReasons: readonly string[]): TierStats {
  const reasons = [...hbm.tier.reasons, ...alsoReasons];
  return {
    tier: 'hbm',
    state: !hbm.tier.isOn ? 'off' : reasons.length > 0 ? 'degraded' : 'ok',
    reasons,
    capacityBytes: hbm.tier.capacityBytes,
    usedBytes: hbm.bytes,
    dirtyBytes: hbm.strayBytes,
    chunkCount: hbm.chunkCount,
    leasedBytes,
  };
}

export function hbmStats(hbm: HbmReplicas, exports: number): HbmStats {
  const sum = (of: keyof DeviceMoves): number => hbm.moves.reduce((total, moves) => total + moves[of], 0);
  return {
    promotions: sum('promotions'),
    demotions: sum('demotions'),
    loads: sum('loads'),
    checksumMismatches: sum('checksumMismatches'),
    exports,
    devices: hbm.tier.devices().map(({ use, copies, ...facts }, index): DeviceStats => ({
      ...facts,
      moves: { ...(hbm.moves[index] as DeviceMoves) },
      capacityBytes: use.capacityBytes,
      slotBytes: use.slotBytes,
      freeInUsedPiecesBytes: use.freeInUsedPiecesBytes,
      pieces: { total: use.pieces, used: use.usedPieces },
      classes: use.classes.map(({ classBytes, slotCount, usedSlotCount }) => ({ classBytes, slotCount, usedSlotCount })),
      copies: {
        toDeviceBytes: copies.toDeviceBytes,
        toHostBytes: copies.toHostBytes,
        toDeviceCopies: copies.toDeviceCopies,
        toHostCopies: copies.toHostCopies,
        toDeviceMs: copies.toDeviceMs,
        toHostMs: copies.toHostMs,
        errors: copies.errors,
        inFlight: copies.inFlight,
        latencyMs: { p50: copies.latencyMs(0.5), p99: copies.latencyMs(0.99) },
      },
    })),
  };
}
