/**
 * The GPUs of the agent: driver, devices, pools and the registration of RAM, put together as the configuration says. Part of the
 * composition root: it decides nothing about chunks.
 *
 * Order of the end: after the cache, which drains what only HBM has; before RAM is unmapped, which is registered.
 */
import type { GpuInfo } from '#api/devices-view.ts';
import type { HbmParts } from '#cache/hbm-replicas.ts';
import type { ChunkIndex } from '#cache/chunk-index.ts';
import type { ScreenDevice } from '#cli/start-screen.ts';
import type { AgentConfig } from '#config/agent-config.ts';
import type { Address } from '#core/brand.ts';
import { KvtierError } from '#core/errors.ts';
import type { Logger } from '#core/logger.ts';
import { loadDeviceMemory, type DeviceMemoryChoice } from '#cuda/load-device-memory.ts';
import { createPolicy } from '#policy/create-policy.ts';
import type { RamTier } from '#tiers/ram/ram-tier.ts';
import { HbmDevices } from '#tiers/hbm/hbm-devices.ts';
import { HbmTier } from '#tiers/hbm/hbm-tier.ts';

/** Copies to devices at one time: two keep the link busy, the others hide their starts. */
const COPIES_AT_ONCE = 4;

/** The emulated machine is a data directory's own, and as large as its pools want it. */
export function deviceChoice({ hbm, ram, dataDir }: AgentConfig): DeviceMemoryChoice {
  const ordinals = hbm.devices.filter((name) => typeof name === 'number');
  return {
    driver: hbm.driver,
    driverPath: hbm.driverPath,
    emulator: {
      cacheFolder: `${dataDir}/emulator`,
      path: `${ram.shmDir}/kvtier-cuda-emulator-${Bun.hash(dataDir).toString(16)}`,
      devices: Math.max(1, ...ordinals.map((ordinal) => ordinal + 1)),
      capacityBytes: Math.max(0, ...hbm.sizesBytes),
    },
  };
}

export class Gpus {
  readonly #config: AgentConfig;
  readonly #devices: HbmDevices;
  readonly #tier: HbmTier | undefined;
  /** Memory of the RAM tier, in the order of its arenas. */
  readonly #arenas: { readonly address: Address; readonly sizeBytes: number }[] = [];
  #closed = false;
  /** A device is found lost. */
  onLost: (deviceIndex: number) => void = () => {};

  /** Undefined: no share is wanted, and no driver is loaded. Throws DEVICE_UNAVAILABLE where `hbm.required` is not met. */
  static async start(config: AgentConfig, logger: Logger): Promise<Gpus | undefined> {
    const { share, sizesBytes, devices, required } = config.hbm;
    if (share !== 'sizes') return undefined;
    const memory = await loadDeviceMemory(deviceChoice(config));
    const gpus = new Gpus(config, new HbmDevices(memory, { names: devices, sizesBytes, logger }), logger);
    const reason = gpus.reasons()[0] ?? gpus.#tier?.reasons[0];
    if (!required || reason === undefined) return gpus;
    await gpus.close();
    throw new KvtierError('DEVICE_UNAVAILABLE', `Cannot start, since hbm.required is set: ${reason.replace(/^hbm: /, '')}`);
  }

  constructor(config: AgentConfig, devices: HbmDevices, logger: Logger) {
    this.#config = config;
    this.#devices = devices;
    const note = devices.memory?.note;
    if (note !== undefined) logger.warn(`hbm: ${note}`, {});
    if (devices.opened.length === 0) return;
    this.#tier = new HbmTier({
      devices: devices.opened,
      maxChunkBytes: config.ram.maxChunkBytes,
      onLost: (index) => this.onLost(index),
      logger,
    });
  }

  /** What the cache needs of it; undefined where no device works. */
  parts(index: ChunkIndex): HbmParts | undefined {
    const { policy, promoteHits, promoteWindowMs } = this.#config.hbm;
    if (this.#tier === undefined) return undefined;
    const limits = { promoteHits, promoteWindowMs, copiesAtOnce: COPIES_AT_ONCE };
    return { tier: this.#tier, order: createPolicy(policy, index.policyFacts), limits };
  }

  addArena(address: Address, sizeBytes: number): void {
    this.#arenas.push({ address, sizeBytes });
  }

  /** Once all of RAM is there that will be: what no memory backs cannot be pinned. */
  async registerRam(ram: Pick<RamTier, 'grown' | 'backedBytes'>): Promise<void> {
    await ram.grown();
    if (this.#closed) return;
    let left = ram.backedBytes;
    const ranges = this.#arenas.flatMap(({ address, sizeBytes }) => {
      const backed = Math.min(sizeBytes, left);
      left -= backed;
      return backed > 0 ? [{ address, sizeBytes: backed }] : [];
    });
    await this.#devices.register(ranges);
  }

  /** What is not as it was to be; the tier's own reasons are in its row of the statistics. */
  reasons(): readonly string[] {
    return this.#devices.reasons;
  }

  /** What is so on purpose, and has to be known by whoever reads numbers. */
  notes(): readonly string[] {
    const { kind, note } = this.#devices.memory ?? {};
    if (kind === undefined || kind === 'cuda') return [];
    const because = note === undefined ? '' : ` (${note})`;
    return [`hbm is ${kind}${because}: there is no GPU, and its numbers say nothing of one`];
  }

  /** Why the devices are not those that were asked for; for the start screen. */
  warnings(): readonly string[] {
    const note = this.#devices.memory?.note;
    return note === undefined ? this.reasons() : [...this.reasons(), `hbm: ${note}`];
  }

  info(): GpuInfo {
    const { memory, opened, registration } = this.#devices;
    return {
      driver: memory === undefined ? undefined : { kind: memory.kind, version: memory.driverVersion },
      reasons: this.#devices.reasons,
      registration,
      devices: opened.map(({ device: { facts, pageableCopies } }) => ({
        uuid: facts.uuid,
        computeCapability: facts.computeCapability,
        totalBytes: facts.totalBytes,
        pageableCopies,
      })),
    };
  }

  screen(): readonly ScreenDevice[] {
    const kind = this.#devices.memory?.kind ?? 'simulated';
    return this.#devices.opened.map(({ device: { facts }, capacityBytes }) => ({
      name: facts.name,
      uuid: facts.uuid,
      kind,
      sizeBytes: capacityBytes,
    }));
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#tier?.close();
    await this.#devices.close();
  }
}
