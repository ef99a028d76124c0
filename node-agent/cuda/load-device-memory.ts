/**
 * The device memory that the configuration names: the driver of this machine, or the emulator, compiled and given a machine of its own.
 * Where the emulator cannot be compiled the simulation stands in for it, and its note says why.
 */
import { dlopen } from 'bun:ffi';
import { MiB } from '#core/bytes.ts';
import type { DeviceMemory, NoDeviceMemory } from '#ports/device-memory.ts';
import { buildEmulator, EMULATOR_FILE_VARIABLE } from './emulator/build-emulator.ts';
import { openCudaMemory } from './open-cuda-memory.ts';
import { openSimulatedMemory } from './open-simulated-memory.ts';

export interface EmulatedMachine {
  /** Where the compiled library stays. */
  readonly cacheFolder: string;
  /** The file that is the machine, in shared memory. */
  readonly path: string;
  readonly devices: number;
  /** Of each device; room for contexts comes on top. */
  readonly capacityBytes: number;
}

/** Contexts of a few processes, and rounding. */
const SPARE_BYTES = 256 * MiB;

export interface DeviceMemoryChoice {
  readonly driver: 'real' | 'emulated';
  /** Undefined: as the loader finds it. */
  readonly driverPath: string | undefined;
  readonly emulator: EmulatedMachine;
}

/** Opens no context. What cannot be is a reason, never an exception. */
export async function loadDeviceMemory({ driver, driverPath, emulator }: DeviceMemoryChoice): Promise<DeviceMemory | NoDeviceMemory> {
  if (driver === 'real') return openCudaMemory(driverPath === undefined ? {} : { driverPath });
  const built = await buildEmulator({ cacheFolder: emulator.cacheFolder });
  if (!built.ok) {
    const { devices, capacityBytes } = emulator;
    const note = `the emulated driver cannot be had, a simulation stands in for it: ${built.reason}`;
    return openSimulatedMemory({ devices, capacityBytes: capacityBytes + SPARE_BYTES }, note);
  }
  const machine = startMachine(built.path, emulator);
  if ('reason' in machine) return machine;
  const memory = openCudaMemory({ driverPath: built.path, kind: 'emulated' });
  if ('reason' in memory) {
    machine.stop();
    return memory;
  }
  const close = memory.close.bind(memory);
  // The file goes with its last user: it is memory.
  return Object.assign(memory, { close: () => close().then(machine.stop) });
}

/** A machine that is named by the environment is somebody's, who made it as he wants it. */
function startMachine(
  libraryPath: string,
  { path, devices, capacityBytes }: EmulatedMachine,
): { readonly stop: () => void } | NoDeviceMemory {
  if ((process.env[EMULATOR_FILE_VARIABLE] ?? '') !== '') return { stop: () => {} };
  try {
    const library = dlopen(libraryPath, {
      kvtierEmuStart: { args: ['ptr', 'ptr'], returns: 'i32' },
      kvtierEmuStop: { args: [], returns: 'i32' },
      kvtierEmuFailure: { args: [], returns: 'cstring' },
    });
    const options = `devices=${devices},capacity=${Math.ceil((capacityBytes + SPARE_BYTES) / MiB)}M`;
    if (library.symbols.kvtierEmuStart(text(path), text(options)) === 0) return { stop: () => void library.symbols.kvtierEmuStop() };
    return { reason: `the emulated driver does not start: ${String(library.symbols.kvtierEmuFailure())}` };
  } catch (error) {
    return { reason: `the emulated driver does not start: ${error instanceof Error ? error.message : String(error)}` };
  }
}

function text(value: string): Uint8Array {
  return new TextEncoder().encode(`${value}\0`);
}
