/** Bytes by tier, as they are added up for statistics and metrics. */
import type { NamespaceStats } from '#cache/control.ts';

export type TierBytes = NamespaceStats['bytes'];

/** HBM only where one of the two has such a tier. */
export function addTierBytes(a: TierBytes, b: TierBytes): TierBytes {
  const hbm = a.hbm === undefined && b.hbm === undefined ? {} : { hbm: (a.hbm ?? 0) + (b.hbm ?? 0) };
  return { ...hbm, ram: a.ram + b.ram, ssd: a.ssd + b.ssd };
}

export function allTierBytes({ hbm = 0, ram, ssd }: TierBytes): number {
  return hbm + ram + ssd;
}
