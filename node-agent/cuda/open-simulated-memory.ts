/**
 * Devices of an agent that has neither card nor emulator: the simulated twin, stepped by the event loop. Bytes of chunks are really copied,
 * between the host memory of this process and memory of this process that stands for a device; the main thread copies them, one copy a
 * turn. No other process can open that memory, so chunks are not exported.
 *
 * A misuse that a driver would punish is a bug and ends the process, as any other broken invariant does.
 */
import { toArrayBuffer } from 'bun:ffi';
import { SimDeviceMemory, type Lot } from './sim-device-memory.ts';

const lot: Lot = {
  chance: (probability) => Math.random() < probability,
  pick: (items) => items[Math.floor(Math.random() * items.length)] as (typeof items)[number],
};

export interface SimulatedMachine {
  readonly devices: number;
  /** Of each device; taken as it is written to. */
  readonly capacityBytes: number;
}

/** `note`: why there is no other device memory. */
export function openSimulatedMemory({ devices, capacityBytes }: SimulatedMachine, note: string): SimDeviceMemory {
  let stepping = false;
  const step = (): void => {
    memory.step(lot);
    memory.check();
    stepping = memory.activeCount > 0;
    if (stepping) setImmediate(step);
  };
  const memory = new SimDeviceMemory({
    deviceBytes: Array.from({ length: devices }, () => capacityBytes),
    host: (address, sizeBytes) => new Uint8Array(toArrayBuffer(address, 0, sizeBytes)),
    exports: false,
    // Zeroed by the kernel, so that a large pool costs nothing before it is used.
    allocate: (sizeBytes) => new Uint8Array(sizeBytes),
    monotonicMs: () => performance.now(),
    onWork: () => {
      if (stepping) return;
      stepping = true;
      setImmediate(step);
    },
    note,
  });
  return memory;
}
