/**
 * What every DeviceMemory promises: run against the simulated twin, the emulated driver and a real card (`bun run check:gpu`). Data are fresh
 * random bytes each time, so that nothing left over from a run before can pass for a copy.
 */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Address, DevicePtr } from '#core/brand.ts';
import type { CopyDone, Device, DeviceCopy, DeviceFailure, DeviceMemory } from '#ports/device-memory.ts';
import { okay, same } from './device-results.ts';
import { HostMemory } from './host-memory.ts';

export interface DeviceMemoryUnderTest {
  readonly memory: DeviceMemory;
  /** Lets copies that are in flight go on, where they do not by themselves, until none is. */
  readonly pump: () => void;
  /**
   * What not everything under test can do. `hold`: copies end only by `step`, one each, from now on. `lose`: the device is lost by a sticky
   * code. Undefined: the tests that need it are left out, which the caller accounts for.
   */
  readonly hold?: () => { readonly step: () => void };
  readonly lose?: (ordinal: number, code: number) => void;
  /** Closes the memory; throws where something was leaked or misused. */
  readonly dispose: () => Promise<void>;
}

export interface ContractOptions {
  readonly canHold: boolean;
  readonly canLose: boolean;
  /** False for the twin, which calls it misuse to close a device with copies in flight: the tier has drained them. */
  readonly waitsAtClose: boolean;
}

const KiB = 1024;
const MiB = 1024 * KiB;
const OUT_OF_MEMORY = 2;
const ILLEGAL_ADDRESS = 700;

/** Turns of the event loop, so that whatever would happen too early has had its chance. */
async function turns(count = 50): Promise<void> {
  for (let turn = 0; turn < count; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}

const at = (pointer: DevicePtr, offset: number): DevicePtr => (pointer + offset) as DevicePtr;

export function describeDeviceMemory(name: string, begin: () => Promise<DeviceMemoryUnderTest>, options: ContractOptions): void {
  describe(`${name} as DeviceMemory`, () => {
    let under: DeviceMemoryUnderTest;
    let device: Device;
    const host: HostMemory[] = [];
    beforeEach(async () => {
      under = await begin();
      device = opened(under.memory, 0);
    });
    afterEach(async () => {
      try {
        await under.dispose();
      } finally {
        for (const memory of host.splice(0)) memory[Symbol.dispose]();
      }
    });
    const hostMemory = async (sizeBytes: number, register = true): Promise<HostMemory> => {
      const memory = new HostMemory(sizeBytes);
      host.push(memory);
      if (register) okay(await under.memory.registerHost(memory.address, memory.sizeBytes));
      return memory;
    };
    const unregister = async (): Promise<void> => {
      for (const memory of host) await under.memory.unregisterHost(memory.address);
    };
    const copy = async (copies: readonly DeviceCopy[], on: Device = device): Promise<CopyDone | DeviceFailure> => {
      const done = on.copy(copies);
      under.pump();
      return done;
    };
    const allocate = (sizeBytes: number): DevicePtr => okay(device.allocate(sizeBytes)).pointer;

    for (const sizeBytes of [1, 4095, 64 * KiB, 3 * MiB + 17]) {
      test(`brings ${sizeBytes} bytes to the device, across it and back`, async () => {
        const source = (await hostMemory(sizeBytes)).fillRandom();
        const target = await hostMemory(sizeBytes);
        const [first, second] = [allocate(sizeBytes), allocate(sizeBytes)];
        okay(await copy([{ direction: 'to-device', from: source.address, to: first, sizeBytes }]));
        okay(await copy([{ direction: 'on-device', from: first, to: second, sizeBytes }]));
        okay(await copy([{ direction: 'to-host', from: second, to: target.address, sizeBytes }]));
        expect(same(target.bytes.subarray(0, sizeBytes), source.bytes.subarray(0, sizeBytes))).toBe(true);
        expect(same(target.bytes.subarray(sizeBytes), new Uint8Array(target.sizeBytes - sizeBytes))).toBe(true);
        expect(device.pageableCopies).toBe(0);
        await unregister();
      });
    }

    test('copies a list whole, more pieces than a driver takes in one call', async () => {
      const [pieceBytes, count] = [4 * KiB, 600];
      const source = (await hostMemory(pieceBytes * count)).fillRandom();
      const target = await hostMemory(pieceBytes * count);
      const pointer = allocate(pieceBytes * count);
      const pieces = Array.from({ length: count }, (_, index) => index * pieceBytes);
      // Pieces land in the opposite order, so that a piece that is left out or doubled is seen.
      const turned = (offset: number): number => (count - 1) * pieceBytes - offset;
      okay(
        await copy(
          pieces.map((offset) => ({
            direction: 'to-device',
            from: source.at(offset),
            to: at(pointer, turned(offset)),
            sizeBytes: pieceBytes,
          })),
        ),
      );
      okay(
        await copy(
          pieces.map((offset) => ({
            direction: 'to-host',
            from: at(pointer, offset),
            to: target.at(turned(offset)),
            sizeBytes: pieceBytes,
          })),
        ),
      );
      expect(same(target.bytes, source.bytes)).toBe(true);
      await unregister();
    });

    test('answers each of a thousand copies with its own bytes', async () => {
      const [pieceBytes, count] = [8 * KiB, 1000];
      const source = (await hostMemory(pieceBytes * count)).fillRandom();
      const target = await hostMemory(pieceBytes * count);
      const pointer = allocate(pieceBytes * count);
      const down = Array.from({ length: count }, async (_, index) => {
        const offset = index * pieceBytes;
        okay(await device.copy([{ direction: 'to-device', from: source.at(offset), to: at(pointer, offset), sizeBytes: pieceBytes }]));
      });
      expect(device.copiesInFlight).toBe(count);
      under.pump();
      await Promise.all(down);
      expect(device.copiesInFlight).toBe(0);
      const up = Array.from({ length: count }, async (_, index) => {
        const offset = index * pieceBytes;
        okay(await device.copy([{ direction: 'to-host', from: at(pointer, offset), to: target.at(offset), sizeBytes: pieceBytes }]));
        return same(target.bytes.subarray(offset, offset + pieceBytes), source.bytes.subarray(offset, offset + pieceBytes));
      });
      under.pump();
      expect((await Promise.all(up)).every((right) => right)).toBe(true);
      await unregister();
    });

    test('copies memory that is not registered, and counts it', async () => {
      const source = (await hostMemory(64 * KiB, false)).fillRandom();
      const target = await hostMemory(64 * KiB, false);
      const pointer = allocate(64 * KiB);
      okay(await copy([{ direction: 'to-device', from: source.address, to: pointer, sizeBytes: 64 * KiB }]));
      okay(await copy([{ direction: 'to-host', from: pointer, to: target.address, sizeBytes: 64 * KiB }]));
      expect(same(target.bytes, source.bytes)).toBe(true);
      expect(device.pageableCopies).toBe(2);
    });

    test('takes memory that was registered for pageable after it is unregistered', async () => {
      const source = (await hostMemory(8 * KiB)).fillRandom();
      const pointer = allocate(8 * KiB);
      okay(await copy([{ direction: 'to-device', from: source.address, to: pointer, sizeBytes: 8 * KiB }]));
      expect(device.pageableCopies).toBe(0);
      okay(await under.memory.unregisterHost(source.address));
      okay(await copy([{ direction: 'to-device', from: source.address, to: pointer, sizeBytes: 8 * KiB }]));
      expect(device.pageableCopies).toBe(1);
    });

    test('gives allocations at multiples of 4 KiB, and what is freed again', () => {
      const before = okay(device.memory());
      const pointers = [1, 4097, 5 * MiB].map(allocate);
      expect(pointers.filter((pointer) => pointer % (4 * KiB) !== 0)).toEqual([]);
      expect(okay(device.memory()).freeBytes).toBeLessThan(before.freeBytes - 5 * MiB + 1);
      for (const pointer of pointers) okay(device.free(pointer));
      expect(okay(device.memory()).freeBytes).toBe(before.freeBytes);
      expect(before.totalBytes).toBe(device.facts.totalBytes);
    });

    test('says out of memory and goes on', async () => {
      const failure = device.allocate(device.facts.totalBytes * 2);
      expect(failure).toMatchObject({ ok: false, code: OUT_OF_MEMORY, name: 'CUDA_ERROR_OUT_OF_MEMORY', lost: false });
      expect(failure.ok ? '' : failure.message).toContain(String(device.facts.totalBytes * 2).slice(0, 4));
      expect(device.lost).toBeUndefined();
      const source = (await hostMemory(4 * KiB)).fillRandom();
      okay(await copy([{ direction: 'to-device', from: source.address, to: allocate(4 * KiB), sizeBytes: 4 * KiB }]));
      await unregister();
    });

    test('exports 64 bytes, which the process that made them cannot open', () => {
      const { handle } = okay(device.exportHandle(allocate(2 * MiB)));
      expect(handle).toHaveLength(64);
      const own = device.openHandle(handle);
      expect(own.ok).toBe(false);
      expect(own.ok ? true : own.lost).toBe(false);
    });

    if (options.waitsAtClose) {
      test('closes behind the copies that are in flight', async () => {
        const source = (await hostMemory(1 * MiB)).fillRandom();
        const pointer = allocate(1 * MiB);
        const done = device.copy([{ direction: 'to-device', from: source.address, to: pointer, sizeBytes: 1 * MiB }]);
        let settled = false;
        void done.then(() => (settled = true));
        const closing = device.close().then(() => settled);
        under.pump();
        expect(await closing).toBe(true);
        expect(await done).toMatchObject({ ok: true });
      });
    }

    if (options.canHold) describeHeld(() => ({ under, device, hostMemory, unregister, allocate }));
    if (options.canLose) describeLost(() => ({ under, device, hostMemory, unregister, allocate }));
  });
}

interface Scene {
  readonly under: DeviceMemoryUnderTest;
  readonly device: Device;
  readonly hostMemory: (sizeBytes: number, register?: boolean) => Promise<HostMemory>;
  readonly unregister: () => Promise<void>;
  readonly allocate: (sizeBytes: number) => DevicePtr;
}

function opened(memory: DeviceMemory, ordinal: number): Device {
  const device = memory.open(ordinal);
  if ('ok' in device) throw new Error(device.message);
  return device;
}

function describeHeld(scene: () => Scene): void {
  test('settles no copy before it is done, and none twice', async () => {
    const { under, device, hostMemory, unregister, allocate } = scene();
    const source = (await hostMemory(4 * 4 * KiB)).fillRandom();
    const target = await hostMemory(4 * 4 * KiB);
    const pointer = allocate(16 * KiB);
    const { step } = under.hold?.() ?? { step: () => undefined };
    const landed: number[] = [];
    const run = (index: number, from: Address): Promise<unknown> =>
      device.copy([{ direction: 'to-device', from, to: at(pointer, index * 4 * KiB), sizeBytes: 4 * KiB }]).then((outcome) => {
        landed.push(index);
        return okay(outcome);
      });
    const all = [0, 1, 2, 3].map((index) => run(index, source.at(index * 4 * KiB)));
    await turns();
    expect([landed, device.copiesInFlight]).toEqual([[], 4]);
    for (let count = 1; count <= 4; count += 1) {
      step();
      for (let wait = 0; landed.length < count && wait < 1000; wait += 1) await turns(10);
      expect(landed).toHaveLength(count);
      expect(device.copiesInFlight).toBe(4 - count);
    }
    await Promise.all(all);
    const back = device.copy([{ direction: 'to-host', from: pointer, to: target.address, sizeBytes: 16 * KiB }]);
    step();
    okay(await back);
    expect(same(target.bytes, source.bytes)).toBe(true);
    await unregister();
  });
}

function describeLost(scene: () => Scene): void {
  test('tells of a loss once, before those whose copies fail, and answers every call with it', async () => {
    const { under, device, hostMemory, allocate } = scene();
    const source = (await hostMemory(16 * KiB)).fillRandom();
    const pointer = allocate(16 * KiB);
    under.hold?.();
    const told: string[] = [];
    device.onLost = (failure) => told.push(`lost ${failure.code}`);
    const copies = [0, 1, 2].map(async (index) => {
      const outcome = await device.copy([
        { direction: 'to-device', from: source.at(index * 4 * KiB), to: at(pointer, index * 4 * KiB), sizeBytes: 4 * KiB },
      ]);
      told.push(outcome.ok ? 'done' : `failed ${outcome.code} ${outcome.lost}`);
    });
    await turns();
    under.lose?.(0, ILLEGAL_ADDRESS);
    await Promise.all(copies);
    expect(told).toEqual(['lost 700', 'failed 700 true', 'failed 700 true', 'failed 700 true']);
    expect(device.lost).toMatchObject({ code: ILLEGAL_ADDRESS, lost: true });
    expect(device.copiesInFlight).toBe(0);
    expect(device.allocate(4 * KiB)).toMatchObject({ ok: false, lost: true });
    expect(device.memory()).toMatchObject({ ok: false, lost: true });
    expect(await device.copy([{ direction: 'to-device', from: source.address, to: pointer, sizeBytes: 4 * KiB }])).toMatchObject({
      ok: false,
      lost: true,
    });
    expect(told).toHaveLength(4);
  });

  test('goes on with another device when one is lost', async () => {
    const { under, device, hostMemory, unregister, allocate } = scene();
    const source = (await hostMemory(16 * KiB)).fillRandom();
    const target = await hostMemory(16 * KiB);
    allocate(16 * KiB);
    const other = opened(under.memory, 1);
    const pointer = okay(other.allocate(16 * KiB)).pointer;
    under.lose?.(0, 214);
    expect(device.memory()).toMatchObject({ ok: false, code: 214, lost: true });
    await device.close();
    const down = other.copy([{ direction: 'to-device', from: source.address, to: pointer, sizeBytes: 16 * KiB }]);
    under.pump();
    okay(await down);
    const up = other.copy([{ direction: 'to-host', from: pointer, to: target.address, sizeBytes: 16 * KiB }]);
    under.pump();
    okay(await up);
    expect(same(target.bytes, source.bytes)).toBe(true);
    expect(other.lost).toBeUndefined();
    // What the lost device had pinned, the other one has pinned again.
    expect(other.pageableCopies).toBe(0);
    await unregister();
  });
}
