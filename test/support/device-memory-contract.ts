/**
 * What every DeviceMemory promises, as a list of cases: run against the simulated twin and the emulated driver by vitest
 * (describe-device-memory.ts) and against a real card by `bun run check:gpu`, which has Bun and the driver and nothing else. Data are fresh
 * random bytes each time, so that nothing left over from a run before can pass for a copy.
 */
import assert from 'node:assert/strict';
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
   * code. Undefined: the cases that need it are left out, which the caller accounts for.
   */
  readonly hold?: () => { readonly step: () => void };
  readonly lose?: (ordinal: number, code: number) => void;
  /** Closes the memory; throws where something was leaked or misused. */
  readonly dispose: () => Promise<void>;
}

/**
 * What a case needs beyond the port. `hold`, `lose`: as above. `wait at close`: that a device may be closed with copies in flight, which the
 * twin calls misuse, since the tier has drained them.
 */
export type ContractNeed = 'hold' | 'lose' | 'wait at close';

export interface ContractCase {
  readonly name: string;
  readonly needs?: ContractNeed;
  readonly run: (scene: Scene) => Promise<void>;
}

/** One case on a device memory of its own. Throws what the case found, what its end found, or both. */
export async function runContractCase(
  contractCase: ContractCase,
  begin: () => DeviceMemoryUnderTest | Promise<DeviceMemoryUnderTest>,
): Promise<void> {
  const under = await begin();
  const host: HostMemory[] = [];
  const errors: unknown[] = [];
  try {
    await contractCase.run(new Scene(under, host));
  } catch (error) {
    errors.push(error);
  }
  try {
    await under.dispose();
  } catch (error) {
    errors.push(error);
  } finally {
    for (const memory of host) memory[Symbol.dispose]();
  }
  if (errors.length === 1) throw errors[0];
  if (errors.length > 1) throw new AggregateError(errors, errors.map(String).join('; and then '));
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

/** Device 0, open, and what the cases do with it. */
class Scene {
  readonly under: DeviceMemoryUnderTest;
  readonly device: Device;
  readonly #host: HostMemory[];

  constructor(under: DeviceMemoryUnderTest, host: HostMemory[]) {
    this.under = under;
    this.device = opened(under.memory, 0);
    this.#host = host;
  }

  readonly hostMemory = async (sizeBytes: number, register = true): Promise<HostMemory> => {
    const memory = new HostMemory(sizeBytes);
    this.#host.push(memory);
    if (register) okay(await this.under.memory.registerHost(memory.address, memory.sizeBytes));
    return memory;
  };

  readonly unregister = async (): Promise<void> => {
    for (const memory of this.#host) await this.under.memory.unregisterHost(memory.address);
  };

  readonly copy = async (copies: readonly DeviceCopy[]): Promise<CopyDone | DeviceFailure> => {
    const done = this.device.copy(copies);
    this.under.pump();
    return done;
  };

  readonly allocate = (sizeBytes: number): DevicePtr => okay(this.device.allocate(sizeBytes)).pointer;
}

function opened(memory: DeviceMemory, ordinal: number): Device {
  const device = memory.open(ordinal);
  if ('ok' in device) throw new Error(device.message);
  return device;
}

const roundTrips: readonly ContractCase[] = [1, 4095, 64 * KiB, 3 * MiB + 17].map((sizeBytes) => ({
  name: `brings ${sizeBytes} bytes to the device, across it and back`,
  async run(scene) {
    const source = (await scene.hostMemory(sizeBytes)).fillRandom();
    const target = await scene.hostMemory(sizeBytes);
    const [first, second] = [scene.allocate(sizeBytes), scene.allocate(sizeBytes)];
    okay(await scene.copy([{ direction: 'to-device', from: source.address, to: first, sizeBytes }]));
    okay(await scene.copy([{ direction: 'on-device', from: first, to: second, sizeBytes }]));
    okay(await scene.copy([{ direction: 'to-host', from: second, to: target.address, sizeBytes }]));
    assert.ok(same(target.bytes.subarray(0, sizeBytes), source.bytes.subarray(0, sizeBytes)), 'the bytes came back');
    assert.ok(same(target.bytes.subarray(sizeBytes), new Uint8Array(target.sizeBytes - sizeBytes)), 'nothing behind them was written');
    assert.equal(scene.device.pageableCopies, 0);
    await scene.unregister();
  },
}));

const copies: readonly ContractCase[] = [
  {
    name: 'copies a list whole, more pieces than a driver takes in one call',
    async run(scene) {
      const [pieceBytes, count] = [4 * KiB, 600];
      const source = (await scene.hostMemory(pieceBytes * count)).fillRandom();
      const target = await scene.hostMemory(pieceBytes * count);
      const pointer = scene.allocate(pieceBytes * count);
      const pieces = Array.from({ length: count }, (_, index) => index * pieceBytes);
      // Pieces land in the opposite order, so that a piece that is left out or doubled is seen.
      const turned = (offset: number): number => (count - 1) * pieceBytes - offset;
      okay(
        await scene.copy(
          pieces.map((offset) => ({
            direction: 'to-device',
            from: source.at(offset),
            to: at(pointer, turned(offset)),
            sizeBytes: pieceBytes,
          })),
        ),
      );
      okay(
        await scene.copy(
          pieces.map((offset) => ({
            direction: 'to-host',
            from: at(pointer, offset),
            to: target.at(turned(offset)),
            sizeBytes: pieceBytes,
          })),
        ),
      );
      assert.ok(same(target.bytes, source.bytes), 'every piece is in its place');
      await scene.unregister();
    },
  },
  {
    name: 'answers each of a thousand copies with its own bytes',
    async run(scene) {
      const { under, device } = scene;
      const [pieceBytes, count] = [8 * KiB, 1000];
      const source = (await scene.hostMemory(pieceBytes * count)).fillRandom();
      const target = await scene.hostMemory(pieceBytes * count);
      const pointer = scene.allocate(pieceBytes * count);
      const down = Array.from({ length: count }, async (_, index) => {
        const offset = index * pieceBytes;
        okay(await device.copy([{ direction: 'to-device', from: source.at(offset), to: at(pointer, offset), sizeBytes: pieceBytes }]));
      });
      assert.equal(device.copiesInFlight, count);
      under.pump();
      await Promise.all(down);
      assert.equal(device.copiesInFlight, 0);
      const up = Array.from({ length: count }, async (_, index) => {
        const offset = index * pieceBytes;
        okay(await device.copy([{ direction: 'to-host', from: at(pointer, offset), to: target.at(offset), sizeBytes: pieceBytes }]));
        return same(target.bytes.subarray(offset, offset + pieceBytes), source.bytes.subarray(offset, offset + pieceBytes));
      });
      under.pump();
      const right = (await Promise.all(up)).filter((piece) => piece).length;
      assert.equal(right, count, 'the bytes of a copy are there when it settles');
      await scene.unregister();
    },
  },
  {
    name: 'copies memory that is not registered, and counts it',
    async run(scene) {
      const source = (await scene.hostMemory(64 * KiB, false)).fillRandom();
      const target = await scene.hostMemory(64 * KiB, false);
      const pointer = scene.allocate(64 * KiB);
      okay(await scene.copy([{ direction: 'to-device', from: source.address, to: pointer, sizeBytes: 64 * KiB }]));
      okay(await scene.copy([{ direction: 'to-host', from: pointer, to: target.address, sizeBytes: 64 * KiB }]));
      assert.ok(same(target.bytes, source.bytes), 'the bytes came back');
      assert.equal(scene.device.pageableCopies, 2);
    },
  },
  {
    name: 'takes memory that was registered for pageable after it is unregistered',
    async run(scene) {
      const source = (await scene.hostMemory(8 * KiB)).fillRandom();
      const pointer = scene.allocate(8 * KiB);
      okay(await scene.copy([{ direction: 'to-device', from: source.address, to: pointer, sizeBytes: 8 * KiB }]));
      assert.equal(scene.device.pageableCopies, 0);
      okay(await scene.under.memory.unregisterHost(source.address));
      okay(await scene.copy([{ direction: 'to-device', from: source.address, to: pointer, sizeBytes: 8 * KiB }]));
      assert.equal(scene.device.pageableCopies, 1);
    },
  },
];

const memory: readonly ContractCase[] = [
  {
    name: 'gives allocations at multiples of 4 KiB, and what is freed again',
    async run({ device, allocate }) {
      const before = okay(device.memory());
      const pointers = [1, 4097, 5 * MiB].map(allocate);
      assert.deepEqual(
        pointers.filter((pointer) => pointer % (4 * KiB) !== 0),
        [],
      );
      const during = okay(device.memory()).freeBytes;
      assert.ok(during < before.freeBytes - 5 * MiB + 1, `${during} of ${before.freeBytes} bytes are free beside three allocations`);
      for (const pointer of pointers) okay(device.free(pointer));
      assert.equal(okay(device.memory()).freeBytes, before.freeBytes);
      assert.equal(before.totalBytes, device.facts.totalBytes);
    },
  },
  {
    name: 'says out of memory and goes on',
    async run(scene) {
      const { device } = scene;
      const failure = device.allocate(device.facts.totalBytes * 2);
      assert.partialDeepStrictEqual(failure, { ok: false, code: OUT_OF_MEMORY, name: 'CUDA_ERROR_OUT_OF_MEMORY', lost: false });
      const message = failure.ok ? '' : failure.message;
      assert.ok(message.includes(String(device.facts.totalBytes * 2).slice(0, 4)), `the message names the size: ${message}`);
      assert.equal(device.lost, undefined);
      const source = (await scene.hostMemory(4 * KiB)).fillRandom();
      okay(await scene.copy([{ direction: 'to-device', from: source.address, to: scene.allocate(4 * KiB), sizeBytes: 4 * KiB }]));
      await scene.unregister();
    },
  },
  {
    name: 'exports 64 bytes, which the process that made them cannot open',
    async run({ device, allocate }) {
      const { handle } = okay(device.exportHandle(allocate(2 * MiB)));
      assert.equal(handle.length, 64);
      const own = device.openHandle(handle);
      assert.equal(own.ok, false);
      assert.equal(own.ok ? true : own.lost, false);
    },
  },
  {
    name: 'closes behind the copies that are in flight',
    needs: 'wait at close',
    async run({ under, device, hostMemory, allocate }) {
      const source = (await hostMemory(1 * MiB)).fillRandom();
      const pointer = allocate(1 * MiB);
      const done = device.copy([{ direction: 'to-device', from: source.address, to: pointer, sizeBytes: 1 * MiB }]);
      let settled = false;
      void done.then(() => (settled = true));
      const closing = device.close().then(() => settled);
      under.pump();
      assert.equal(await closing, true);
      assert.partialDeepStrictEqual(await done, { ok: true });
    },
  },
];

const held: ContractCase = {
  name: 'settles no copy before it is done, and none twice',
  needs: 'hold',
  async run({ under, device, hostMemory, unregister, allocate }) {
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
    assert.deepEqual([landed, device.copiesInFlight], [[], 4]);
    for (let count = 1; count <= 4; count += 1) {
      step();
      for (let wait = 0; landed.length < count && wait < 1000; wait += 1) await turns(10);
      assert.equal(landed.length, count);
      assert.equal(device.copiesInFlight, 4 - count);
    }
    await Promise.all(all);
    const back = device.copy([{ direction: 'to-host', from: pointer, to: target.address, sizeBytes: 16 * KiB }]);
    step();
    okay(await back);
    assert.ok(same(target.bytes, source.bytes), 'the bytes came back');
    await unregister();
  },
};

const losses: readonly ContractCase[] = [
  {
    name: 'tells of a loss once, before those whose copies fail, and answers every call with it',
    needs: 'lose',
    async run({ under, device, hostMemory, allocate }) {
      const source = (await hostMemory(16 * KiB)).fillRandom();
      const pointer = allocate(16 * KiB);
      under.hold?.();
      const told: string[] = [];
      device.onLost = (failure) => told.push(`lost ${failure.code}`);
      const failing = [0, 1, 2].map(async (index) => {
        const outcome = await device.copy([
          { direction: 'to-device', from: source.at(index * 4 * KiB), to: at(pointer, index * 4 * KiB), sizeBytes: 4 * KiB },
        ]);
        told.push(outcome.ok ? 'done' : `failed ${outcome.code} ${outcome.lost}`);
      });
      await turns();
      under.lose?.(0, ILLEGAL_ADDRESS);
      await Promise.all(failing);
      assert.deepEqual(told, ['lost 700', 'failed 700 true', 'failed 700 true', 'failed 700 true']);
      assert.partialDeepStrictEqual(device.lost, { code: ILLEGAL_ADDRESS, lost: true });
      assert.equal(device.copiesInFlight, 0);
      assert.partialDeepStrictEqual(device.allocate(4 * KiB), { ok: false, lost: true });
      assert.partialDeepStrictEqual(device.memory(), { ok: false, lost: true });
      const later = await device.copy([{ direction: 'to-device', from: source.address, to: pointer, sizeBytes: 4 * KiB }]);
      assert.partialDeepStrictEqual(later, { ok: false, lost: true });
      assert.equal(told.length, 4);
    },
  },
  {
    name: 'goes on with another device when one is lost',
    needs: 'lose',
    async run({ under, device, hostMemory, unregister, allocate }) {
      const source = (await hostMemory(16 * KiB)).fillRandom();
      const target = await hostMemory(16 * KiB);
      allocate(16 * KiB);
      const other = opened(under.memory, 1);
      const pointer = okay(other.allocate(16 * KiB)).pointer;
      under.lose?.(0, 214);
      assert.partialDeepStrictEqual(device.memory(), { ok: false, code: 214, lost: true });
      await device.close();
      const down = other.copy([{ direction: 'to-device', from: source.address, to: pointer, sizeBytes: 16 * KiB }]);
      under.pump();
      okay(await down);
      const up = other.copy([{ direction: 'to-host', from: pointer, to: target.address, sizeBytes: 16 * KiB }]);
      under.pump();
      okay(await up);
      assert.ok(same(target.bytes, source.bytes), 'the bytes came back');
      assert.equal(other.lost, undefined);
      // What the lost device had pinned, the other one has pinned again.
      assert.equal(other.pageableCopies, 0);
      await unregister();
    },
  },
];

export const deviceMemoryCases: readonly ContractCase[] = [...roundTrips, ...copies, ...memory, held, ...losses];
