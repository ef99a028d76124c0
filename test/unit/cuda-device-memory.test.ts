/** The CUDA binding on the emulated driver: the port's contract, and that nothing was leaked, misused or risky. */
import { afterAll, beforeAll } from 'vitest';
import { privateEmulator, type PrivateEmulator } from '#testsupport/cuda-emulator.ts';
import { describeDeviceMemory } from '#testsupport/describe-device-memory.ts';
import { beginEmulated } from '#testsupport/emulated-device-memory.ts';

let emulator: PrivateEmulator;
beforeAll(async () => {
  emulator = await privateEmulator();
});
afterAll(() => emulator.dispose());

describeDeviceMemory('CudaMemory on the emulated driver', () => beginEmulated(emulator.control), ['hold', 'lose', 'wait at close']);
