/**
 * The CUDA binding on an emulated machine of its own, with memory on both sides, for benchmarks of what a copy costs the main thread. The
 * emulator neither hashes nor poisons here, and moves a page a copy, so that what is left of it in a call is its lock and its tables.
 *
 * Whoever gives two copies in flight the same place has made a race, which the end says.
 */
import type { Address, DevicePtr } from '#core/brand.ts';
import type { CudaDevice } from '#cuda/cuda-device.ts';
import type { Context } from '#cuda/driver.ts';
import { openCudaMemory, type CudaMemory } from '#cuda/open-cuda-memory.ts';
import type { DeviceCopy } from '#ports/device-memory.ts';
import { privateEmulator, type EmulatorControl, type PrivateEmulator } from '#testsupport/cuda-emulator.ts';
import { HostMemory } from '#testsupport/host-memory.ts';

export const COPY_BYTES = 4096;
/** Copies that can be in flight at once. */
export const PLACES = 2048;
const MiB = 1024 ** 2;
const QUIET = 'check=0,poison=0';

export interface RigDevice {
  readonly device: CudaDevice;
  readonly context: Context;
  readonly base: DevicePtr;
}

export class HbmRig implements AsyncDisposable {
  readonly memory: CudaMemory;
  readonly control: EmulatorControl;
  readonly devices: readonly RigDevice[];
  readonly #emulator: PrivateEmulator;
  readonly #host: HostMemory;

  constructor(parts: {
    readonly memory: CudaMemory;
    readonly emulator: PrivateEmulator;
    readonly devices: readonly RigDevice[];
    readonly host: HostMemory;
  }) {
    this.memory = parts.memory;
    this.control = parts.emulator.control;
    this.#emulator = parts.emulator;
    this.devices = parts.devices;
    this.#host = parts.host;
  }

  /** `machine`: options of the emulator, as `latency_us=200`. */
  static async open(devices: number, machine: string): Promise<HbmRig> {
    const emulator = await privateEmulator();
    emulator.control.start(`devices=${devices},capacity=64M,${QUIET},${machine}`);
    // As many as are asked for are with the driver at once, so that its side of the cost is there as well.
    const memory = openCudaMemory({ driverPath: emulator.control.libraryPath, kind: 'emulated', inFlightLimit: 1024 });
    if ('reason' in memory) throw new Error(memory.reason);
    const opened = memory.devices.map(({ ordinal }): RigDevice => {
      const device = memory.open(ordinal);
      if ('ok' in device) throw new Error(device.message);
      const room = device.allocate(2 * PLACES * COPY_BYTES);
      if (!room.ok) throw new Error(room.message);
      const cuda = device as CudaDevice;
      return { device: cuda, context: cuda.context, base: room.pointer };
    });
    const host = new HostMemory(2 * PLACES * COPY_BYTES + MiB);
    const pinned = await memory.registerHost(host.address, host.sizeBytes);
    if (!pinned.ok) throw new Error(pinned.message);
    return new HbmRig({ memory, emulator, devices: opened, host });
  }

  /** A copy of one place: to the device and from it use different halves on both sides. */
  copy(direction: DeviceCopy['direction'], base: DevicePtr, place: number): DeviceCopy {
    const low = place * COPY_BYTES;
    const high = low + PLACES * COPY_BYTES;
    const host = (offset: number): Address => this.#host.at(offset);
    const device = (offset: number): DevicePtr => (base + offset) as DevicePtr;
    if (direction === 'to-device') return { direction, from: host(low), to: device(low), sizeBytes: COPY_BYTES };
    if (direction === 'to-host') return { direction, from: device(high), to: host(high), sizeBytes: COPY_BYTES };
    return { direction, from: device(high), to: device(low), sizeBytes: COPY_BYTES };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.control.options('manual=0');
    await this.memory.close();
    this.#host[Symbol.dispose]();
    const { violations, leaks } = this.control.report();
    await this.#emulator.dispose();
    const misused = Object.keys({ ...violations, ...leaks });
    if (misused.length > 0) throw new Error(`The benchmark misused the driver: ${misused.join(', ')}`);
  }
}
