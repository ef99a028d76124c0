/** The simulated twin of DeviceMemory keeps the contract of the port, as the binding does on the emulated driver. */
import { expect } from 'vitest';
import { viewOf } from '#host/libc.ts';
import { describeDeviceMemory } from '#testsupport/describe-device-memory.ts';
import { SimRng } from '#testsupport/sim-clock.ts';
import { SimDeviceMemory } from '#cuda/sim-device-memory.ts';

describeDeviceMemory(
  'SimDeviceMemory',
  () => {
    const memory = new SimDeviceMemory({ deviceBytes: [128 * 1024 ** 2, 128 * 1024 ** 2], host: viewOf });
    const rng = new SimRng(1);
    return Promise.resolve({
      memory,
      pump: () => {
        while (memory.step(rng));
      },
      // Its copies never go on by themselves.
      hold: () => ({ step: () => void memory.step(rng) }),
      lose: (ordinal, code) => memory.opened.find((device) => device.facts.ordinal === ordinal)?.lose(code),
      async dispose() {
        await memory.close();
        memory.check();
        expect(memory.leaks()).toEqual({ devices: 0, bytes: 0, registrations: 0 });
      },
    });
  },
  ['hold', 'lose'],
);
