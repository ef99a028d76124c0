/** What `check:gpu` looks at: the card of this machine, or the emulated driver, which says so in everything that comes of it. */
import assert from 'node:assert/strict';
import { dlopen } from 'bun:ffi';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { MiB } from '#core/bytes.ts';
import { DEFAULT_DRIVER_PATH, openCudaMemory, type CudaMemory } from '#cuda/open-cuda-memory.ts';
import type { NoDeviceMemory } from '#ports/device-memory.ts';
import { EmulatorControl, privateEmulator } from '#testsupport/cuda-emulator.ts';
import type { ContractNeed, DeviceMemoryUnderTest } from '#testsupport/device-memory-contract.ts';
import { beginEmulated } from '#testsupport/emulated-device-memory.ts';

/** An emulated card: small enough for /dev/shm of a small machine. */
const EMULATED_BYTES = { smoke: 512 * MiB, real: 2048 * MiB } as const;

export interface GpuSubject {
  readonly kind: 'cuda' | 'emulated';
  readonly driverPath: string;
  /** What a second process needs to see the same devices. */
  readonly environment: Readonly<Record<string, string>>;
  /** What it can do beyond the port: nobody tells a card when to end a copy, or to be lost. */
  readonly can: readonly ContractNeed[];
  /** For one case of the contract. */
  beginCase(): DeviceMemoryUnderTest;
  /** For everything else; once, when no case of the contract runs. */
  open(options: { readonly smoke: boolean }): CudaMemory;
  /** When the memory of `open` is closed: throws where anything was leaked or misused. */
  checkEnd(memory: CudaMemory): void;
  dispose(): Promise<void>;
}

/** `driver`: `emulated`, or what dlopen gets; undefined: as the loader finds it. */
export async function findGpu(driver: string | undefined): Promise<GpuSubject | NoDeviceMemory> {
  if (driver === 'emulated') {
    const emulator = await privateEmulator();
    return emulatedSubject(emulator.control, () => emulator.dispose());
  }
  if (driver !== undefined && isEmulator(driver)) {
    const folder = await mkdtemp('/dev/shm/kvtier-check-gpu-');
    const control = new EmulatorControl(driver, join(folder, 'machine'));
    return emulatedSubject(control, async () => {
      control.stop();
      await rm(folder, { recursive: true, force: true });
    });
  }
  const driverPath = driver ?? DEFAULT_DRIVER_PATH;
  const first = openCudaMemory({ driverPath });
  if ('reason' in first) return first;
  await first.close();
  return cardSubject(driverPath);
}

function isEmulator(path: string): boolean {
  try {
    dlopen(path, { kvtierEmuStart: { args: ['ptr', 'ptr'], returns: 'i32' } }).close();
    return true;
  } catch {
    // A driver has no such function; a library that cannot be loaded is told by whoever loads it as a driver.
    return false;
  }
}

function opened(driverPath: string, kind: 'cuda' | 'emulated'): CudaMemory {
  const memory = openCudaMemory({ driverPath, kind });
  if ('reason' in memory) throw new Error(memory.reason);
  return memory;
}

function checkAlive(memory: CudaMemory): void {
  assert.deepEqual(memory.alive, { contexts: 0, allocations: 0, imports: 0, streams: 0, events: 0, registrations: 0 });
}

function cardSubject(driverPath: string): GpuSubject {
  return {
    kind: 'cuda',
    driverPath,
    environment: {},
    can: ['wait at close'],
    beginCase() {
      const memory = opened(driverPath, 'cuda');
      return {
        memory,
        pump: () => memory.checkInvariants(),
        async dispose() {
          await memory.close();
          memory.checkInvariants();
          checkAlive(memory);
        },
      };
    },
    open: () => opened(driverPath, 'cuda'),
    checkEnd: checkAlive,
    dispose: () => Promise.resolve(),
  };
}

function emulatedSubject(control: EmulatorControl, dispose: () => Promise<void>): GpuSubject {
  return {
    kind: 'emulated',
    driverPath: control.libraryPath,
    environment: control.environment,
    can: ['wait at close', 'hold', 'lose'],
    beginCase: () => beginEmulated(control),
    open({ smoke }) {
      control.start(`devices=1,capacity=${EMULATED_BYTES[smoke ? 'smoke' : 'real'] / MiB}M`);
      return opened(control.libraryPath, 'emulated');
    },
    checkEnd(memory) {
      checkAlive(memory);
      const { violations, leaks, alive } = control.report();
      assert.deepEqual([violations, leaks, alive], [{}, {}, {}], 'violations, leaks, alive');
    },
    dispose,
  };
}

/** `NVIDIA H100 80GB HBM3 (GPU-…), driver 550.54.15, CUDA 12.4`; emulated where it is. */
export function describeGpu(memory: CudaMemory): string {
  const facts = memory.devices[0];
  const release = memory.kind === 'cuda' ? driverRelease() : undefined;
  const driver = `${release === undefined ? '' : `driver ${release}, `}CUDA ${memory.driverVersion}`;
  const others = memory.devices.length > 1 ? `, the first of ${memory.devices.length}` : '';
  return `${memory.kind === 'emulated' ? 'emulated: ' : ''}${facts?.name ?? 'no device'} (${facts?.uuid ?? ''})${others}, ${driver}`;
}

/** Of the kernel module; the driver API tells only which CUDA it supports. */
function driverRelease(): string | undefined {
  try {
    return readFileSync('/sys/module/nvidia/version', 'utf8').trim();
  } catch {
    // Another kind of machine (WSL has none): the line goes without it.
    return undefined;
  }
}
