/** What `kvtier doctor` wants to know of GPUs: which there are, and for about a second how fast copies go. */
import { ptr } from 'bun:ffi';
import type { Address } from '#core/brand.ts';
import { MiB } from '#core/bytes.ts';
import type { Device, DeviceFacts, DeviceKind, DeviceMemory, NoDeviceMemory } from '#ports/device-memory.ts';
import { loadDeviceMemory, type DeviceMemoryChoice } from './load-device-memory.ts';

export type CopyTrial =
  | { readonly reason: string }
  | {
      readonly freeBytes: number;
      readonly toDeviceBytesPerSecond: number;
      readonly toHostBytesPerSecond: number;
      /** What pinning took, ms for each GiB; or why there is none. */
      readonly pinning: number | string;
    };

export interface TriedDevices {
  readonly kind: DeviceKind;
  readonly driverVersion: string;
  readonly devices: readonly { readonly facts: DeviceFacts; readonly copy: CopyTrial | undefined }[];
}

const TRIAL_BYTES = 16 * MiB;
const TRIAL_MS = 500;
const PAGE = 4096;

/** `copies`: makes a context on each device, which costs hundreds of MiB as long as it lasts. Gives everything back. */
export async function tryDevices(
  choice: DeviceMemoryChoice,
  options: { readonly copies: boolean },
): Promise<TriedDevices | NoDeviceMemory> {
  const memory = await loadDeviceMemory(choice);
  if ('reason' in memory) return memory;
  try {
    const devices: TriedDevices['devices'][number][] = [];
    for (const facts of memory.devices) devices.push({ facts, copy: options.copies ? await tryCopies(memory, facts) : undefined });
    return { kind: memory.kind, driverVersion: memory.driverVersion, devices };
  } finally {
    await memory.close();
  }
}

async function tryCopies(memory: DeviceMemory, { ordinal }: DeviceFacts): Promise<CopyTrial> {
  const device = memory.open(ordinal);
  if ('ok' in device) return { reason: device.message };
  const room = device.memory();
  const held = new Uint8Array(new ArrayBuffer(TRIAL_BYTES + PAGE)).fill(0x5a);
  const host = (Math.ceil(ptr(held) / PAGE) * PAGE) as Address;
  const pinned = await memory.registerHost(host, TRIAL_BYTES);
  try {
    const toDevice = await measure(device, host, 'to-device');
    const toHost = typeof toDevice === 'number' ? await measure(device, host, 'to-host') : toDevice;
    if (typeof toDevice === 'string' || typeof toHost === 'string') return { reason: String(toHost) };
    return {
      freeBytes: room.ok ? room.freeBytes : 0,
      toDeviceBytesPerSecond: toDevice,
      toHostBytesPerSecond: toHost,
      pinning: pinned.ok ? pinned.elapsedMs * (2 ** 30 / TRIAL_BYTES) : pinned.message,
    };
  } finally {
    if (pinned.ok) await memory.unregisterHost(host);
    await device.close();
    held[0] = 0; // alive until here
  }
}

/** Bytes per second, or what went wrong. */
async function measure(device: Device, host: Address, direction: 'to-device' | 'to-host'): Promise<number | string> {
  const room = device.allocate(TRIAL_BYTES);
  if (!room.ok) return room.message;
  const { pointer } = room;
  const startedAt = performance.now();
  let bytes = 0;
  let failure: string | undefined;
  while (failure === undefined && performance.now() - startedAt < TRIAL_MS) {
    const outcome = await device.copy([
      direction === 'to-device'
        ? { direction, from: host, to: pointer, sizeBytes: TRIAL_BYTES }
        : { direction, from: pointer, to: host, sizeBytes: TRIAL_BYTES },
    ]);
    if (outcome.ok) bytes += TRIAL_BYTES;
    else failure = outcome.message;
  }
  const seconds = (performance.now() - startedAt) / 1000;
  if (failure === undefined) device.free(pointer);
  return failure ?? bytes / seconds;
}
