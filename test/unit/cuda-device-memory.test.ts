/** The CUDA binding on the emulated driver: the port's contract, and that nothing was leaked, misused or risky. */
import { afterAll, beforeAll, expect } from 'vitest';
import { openCudaMemory, type CudaMemory } from '#cuda/open-cuda-memory.ts';
import { privateEmulator, type PrivateEmulator } from '#testsupport/cuda-emulator.ts';
import { describeDeviceMemory, type DeviceMemoryUnderTest } from '#testsupport/device-memory-contract.ts';

let emulator: PrivateEmulator;
beforeAll(async () => {
  emulator = await privateEmulator();
});
afterAll(() => emulator.dispose());

function opened(): CudaMemory {
  const memory = openCudaMemory({ driverPath: emulator.control.libraryPath, kind: 'emulated' });
  if ('reason' in memory) throw new Error(memory.reason);
  return memory;
}

const legal: readonly string[] = ['pageable-copy'];

describeDeviceMemory(
  'CudaMemory on the emulated driver',
  () => {
    const { control } = emulator;
    control.start('devices=2,capacity=128M');
    const memory = opened();
    let lost = false;
    const ownHandle = ['own-handle'];
    const under: DeviceMemoryUnderTest = {
      memory,
      // Its copies go on by themselves: after each submission there is nothing to do but to look.
      pump: () => memory.checkInvariants(),
      hold: () => {
        control.options('manual=1');
        return {
          step() {
            control.step(1);
            memory.checkInvariants();
          },
        };
      },
      lose: (ordinal, code) => {
        lost = true;
        control.loseDevice(ordinal, code);
        memory.checkInvariants();
      },
      async dispose() {
        control.options('manual=0');
        memory.checkInvariants();
        await memory.close();
        memory.checkInvariants();
        const { violations, lint, leaks, alive } = control.report();
        control.stop();
        expect(Object.keys(violations).filter((kind) => !ownHandle.includes(kind))).toEqual([]);
        expect(Object.keys(lint).filter((kind) => !legal.includes(kind))).toEqual([]);
        expect(alive).toEqual({});
        expect(memory.alive).toEqual({ contexts: 0, allocations: 0, imports: 0, streams: 0, events: 0, registrations: 0 });
        // What a lost context had goes with it: it takes nothing back.
        if (!lost) expect(leaks).toEqual({});
      },
    };
    return Promise.resolve(under);
  },
  { canHold: true, canLose: true, waitsAtClose: true },
);
