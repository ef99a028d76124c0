/** The HBM tier on simulated devices, as the composition root opens it; for simulations of the cache and of the agent. */
import type { HbmLimits, HbmParts } from '#cache/hbm-replicas.ts';
import type { Logger } from '#core/logger.ts';
import { createPolicy } from '#policy/create-policy.ts';
import type { PolicyName } from '#policy/create-policy.ts';
import type { EntryFacts } from '#policy/eviction-policy.ts';
import { HbmTier } from '#tiers/hbm/hbm-tier.ts';
import type { SimRng } from './sim-clock.ts';
import { SimDeviceMemory } from '#cuda/sim-device-memory.ts';

export interface SimHbmOptions {
  /** Bytes of each simulated device; left out: there is no HBM tier. */
  readonly hbmBytes?: readonly number[];
  readonly hbmPieceBytes?: number;
  readonly hbmPolicy?: PolicyName;
  readonly hbmLimits?: Partial<HbmLimits>;
  readonly maxChunkBytes?: number;
}

export class SimHbm {
  readonly devices: SimDeviceMemory;
  readonly tier: HbmTier | undefined;
  readonly #options: SimHbmOptions;

  constructor(
    options: SimHbmOptions,
    parts: {
      readonly host: (address: number, sizeBytes: number) => Uint8Array;
      readonly logger: Logger;
      readonly onLost: (device: number) => void;
    },
  ) {
    const { hbmBytes, hbmPieceBytes, maxChunkBytes = 64 * 1024 } = options;
    this.#options = options;
    this.devices = new SimDeviceMemory({ deviceBytes: hbmBytes ?? [], host: parts.host });
    if (hbmBytes === undefined) return;
    const opened = hbmBytes.map((capacityBytes, ordinal) => {
      const device = this.devices.open(ordinal);
      if ('ok' in device) throw new Error(device.message);
      return { device, capacityBytes };
    });
    this.tier = new HbmTier({ devices: opened, maxChunkBytes, pieceBytes: hbmPieceBytes, logger: parts.logger, onLost: parts.onLost });
  }

  /** What a cache gets of it. */
  parts(facts: EntryFacts): { readonly hbm?: HbmParts } {
    const { tier } = this;
    if (tier === undefined) return {};
    const { hbmPolicy = 'leaf-lru', hbmLimits } = this.#options;
    const limits = { promoteHits: 2, promoteWindowMs: 600_000, copiesAtOnce: 4, ...hbmLimits };
    return { hbm: { tier, order: createPolicy(hbmPolicy, facts), limits } };
  }

  /** A step of the devices, as often as they have more to do than the other `busy` jobs. Chance is asked only where they have any. */
  stepAmong(rng: SimRng, busy: number): boolean {
    const own = this.devices.activeCount;
    return own > 0 && (busy === 0 || rng.chance(own / (own + busy + 1))) && this.devices.step(rng);
  }

  /** A copy that will fail, or a device that is lost. Says which. */
  fault(rng: SimRng): string {
    const { opened } = this.devices;
    if (opened.length > 0 && rng.chance(0.15)) {
      const device = rng.pick(opened);
      device.lose(rng.pick([700, 214]));
      return `device ${device.facts.ordinal} is lost`;
    }
    const late = rng.chance(0.5);
    this.devices.faults.push({ call: 'copy', late });
    return `a copy will fail${late ? ' late' : ''}`;
  }
}
