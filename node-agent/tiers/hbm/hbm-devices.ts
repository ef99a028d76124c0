/**
 * The devices that the configuration wants pools on: found, opened, with the memory that they are to give; and the registration of RAM, so
 * that they reach it directly. What cannot be had is a sentence in `reasons`, never an exception: RAM and SSD go on without.
 *
 * Requires: `close` before the registered memory is unmapped. Main thread only.
 */
import { formatBytes } from '#core/bytes.ts';
import type { Address } from '#core/brand.ts';
import type { Logger } from '#core/logger.ts';
import type { Device, DeviceFacts, DeviceMemory, NoDeviceMemory } from '#ports/device-memory.ts';
import type { HbmDeviceOptions } from './hbm-tier.ts';

export interface HbmDevicesOptions {
  /** One for every device, or one for each of `names`. */
  readonly sizesBytes: readonly number[];
  /** Ordinals or UUIDs, none twice; empty: every device. */
  readonly names: readonly (number | string)[];
  readonly logger: Logger;
}

export interface Registration {
  state: 'none' | 'running' | 'done' | 'failed';
  /** That devices reach directly. */
  bytes: number;
  elapsedMs: number;
}

export interface HostRange {
  /** Page aligned. */
  readonly address: Address;
  readonly sizeBytes: number;
}

export class HbmDevices {
  /** Undefined: there is none, and `reasons` says why. */
  readonly memory: DeviceMemory | undefined;
  /** Open, each with the memory that its pool is to have. */
  readonly opened: readonly HbmDeviceOptions[];
  /** What is not as it was to be, a sentence each. */
  readonly reasons: string[] = [];
  readonly registration: Registration = { state: 'none', bytes: 0, elapsedMs: 0 };
  readonly #logger: Logger;
  #registering: Promise<void> = Promise.resolve();
  #closed = false;

  constructor(found: DeviceMemory | NoDeviceMemory, options: HbmDevicesOptions) {
    this.#logger = options.logger;
    if ('reason' in found) {
      this.reasons.push(`hbm: no device can be used: ${found.reason}`);
      this.memory = undefined;
      this.opened = [];
    } else {
      this.memory = found;
      this.opened = this.#wanted(found, options).flatMap(({ facts, sizeBytes }) => this.#open(found, facts, sizeBytes));
    }
    for (const reason of this.reasons) options.logger.warn(reason, {});
  }

  #wanted(
    { devices }: DeviceMemory,
    { names, sizesBytes }: HbmDevicesOptions,
  ): { readonly facts: DeviceFacts; readonly sizeBytes: number }[] {
    const first = sizesBytes[0] ?? 0;
    if (names.length === 0) return devices.map((facts) => ({ facts, sizeBytes: first }));
    const taken = new Set<DeviceFacts>();
    return names.flatMap((name, index) => {
      const facts = devices.find(({ ordinal, uuid }) => name === ordinal || name === uuid);
      if (facts === undefined) {
        const known = devices.map(({ ordinal, uuid }) => `${ordinal} (${uuid})`).join(', ');
        this.reasons.push(`hbm: there is no device ${name}, the driver has ${known}`);
        return [];
      }
      // Named by number and by UUID: it is opened once, with what it was given first.
      if (taken.has(facts)) return [];
      taken.add(facts);
      return [{ facts, sizeBytes: sizesBytes.length === 1 ? first : (sizesBytes[index] ?? 0) }];
    });
  }

  #open(memory: DeviceMemory, facts: DeviceFacts, sizeBytes: number): HbmDeviceOptions[] {
    const named = `${facts.ordinal} (${facts.name}, ${facts.uuid})`;
    const device = memory.open(facts.ordinal);
    if ('ok' in device) {
      this.reasons.push(`hbm: device ${named} cannot be opened: ${device.message}`);
      return [];
    }
    const room = device.memory();
    if (room.ok && room.freeBytes >= sizeBytes) return [{ device, capacityBytes: sizeBytes }];
    if (room.ok)
      this.reasons.push(
        `hbm: device ${named} has ${formatBytes(room.freeBytes)} free and ${formatBytes(sizeBytes)} is wanted: it gets no pool`,
      );
    else this.reasons.push(`hbm: device ${named} cannot be opened: ${room.message}`);
    this.#giveBack(device);
    return [];
  }

  /** Its context costs memory that an engine may wait for. */
  #giveBack(device: Device): void {
    device.close().catch((problem: unknown) => this.#logger.warn('Cannot give a device back', { problem: String(problem) }));
  }

  /** One after the other, in the background; resolves at the end, also where it failed. Call once, where devices are open. */
  register(ranges: readonly HostRange[]): Promise<void> {
    this.#registering = this.#registerAll(ranges);
    return this.#registering;
  }

  async #registerAll(ranges: readonly HostRange[]): Promise<void> {
    if (this.memory === undefined || this.opened.length === 0) return;
    this.registration.state = 'running';
    for (const { address, sizeBytes } of ranges) {
      if (this.#closed) return;
      const outcome = await this.memory.registerHost(address, sizeBytes);
      if (this.#closed) return;
      if (!outcome.ok) {
        this.registration.state = 'failed';
        this.reasons.push(`hbm: RAM is not registered, copies go through a bounce buffer: ${outcome.message}`);
        this.#logger.warn(this.reasons.at(-1) ?? '', {});
        return;
      }
      this.registration.bytes += sizeBytes;
      this.registration.elapsedMs += outcome.elapsedMs;
    }
    this.registration.state = 'done';
    const { bytes, elapsedMs } = this.registration;
    this.#logger.info(`Devices reach ${formatBytes(bytes)} of RAM directly`, { elapsedMs: Math.round(elapsedMs) });
  }

  /** Gives devices and registrations back. What is being registered is waited for. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#registering;
    await this.memory?.close();
    this.registration.bytes = 0;
  }
}
