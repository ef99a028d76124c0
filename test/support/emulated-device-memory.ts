/** The CUDA binding on an emulated machine of its own, for one case of the contract: what the emulator has to say comes with the end. */
import assert from 'node:assert/strict';
import { openCudaMemory } from '#cuda/open-cuda-memory.ts';
import type { EmulatorControl } from './cuda-emulator.ts';
import type { DeviceMemoryUnderTest } from './device-memory-contract.ts';

/** Misuse that a case of the contract is about: a handle that is opened where it was made. */
const meant: readonly string[] = ['own-handle'];
/** Risky, and what a case is about. */
const legal: readonly string[] = ['pageable-copy'];
const nothing = { contexts: 0, allocations: 0, imports: 0, streams: 0, events: 0, registrations: 0 };

/** Two devices of 128 MiB. The end throws where anything was leaked, misused or risky. */
export function beginEmulated(control: EmulatorControl): DeviceMemoryUnderTest {
  control.start('devices=2,capacity=128M');
  const memory = openCudaMemory({ driverPath: control.libraryPath, kind: 'emulated' });
  if ('reason' in memory) throw new Error(memory.reason);
  let lost = false;
  return {
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
      assert.deepEqual(
        Object.keys(violations).filter((kind) => !meant.includes(kind)),
        [],
        'violations',
      );
      assert.deepEqual(
        Object.keys(lint).filter((kind) => !legal.includes(kind)),
        [],
        'lint',
      );
      assert.deepEqual(alive, {});
      assert.deepEqual(memory.alive, nothing);
      // What a lost context had goes with it: it takes nothing back.
      if (!lost) assert.deepEqual(leaks, {});
    },
  };
}
