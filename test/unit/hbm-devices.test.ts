import { describe, expect, test } from 'vitest';
import type { Address } from '#core/brand.ts';
import { MiB } from '#core/bytes.ts';
import { noopLogger } from '#core/logger.ts';
import type { DeviceMemory } from '#ports/device-memory.ts';
import { HbmDevices } from '#tiers/hbm/hbm-devices.ts';
import { settle } from '#testsupport/sim-clock.ts';
import { runbookOf } from '#testsupport/runbooks.ts';
import { SimDeviceMemory } from '#cuda/sim-device-memory.ts';

const OUT_OF_MEMORY = 2;

function twoCards(bytes = 64 * MiB): SimDeviceMemory {
  return new SimDeviceMemory({ deviceBytes: [bytes, bytes], host: () => new Uint8Array(0) });
}

function found(
  memory: DeviceMemory | { readonly reason: string },
  names: readonly (number | string)[],
  ...sizesBytes: number[]
): HbmDevices {
  return new HbmDevices(memory, { names, sizesBytes, logger: noopLogger });
}

const shares = ({ opened }: HbmDevices): unknown => opened.map(({ device, capacityBytes }) => [device.facts.ordinal, capacityBytes / MiB]);
const range = (index: number) => ({ address: (2 ** 40 + index * MiB) as Address, sizeBytes: MiB });

/** Every sentence has a runbook. */
function onlyReason({ reasons }: HbmDevices): string {
  expect(reasons).toHaveLength(1);
  expect(runbookOf(reasons[0] ?? '')).toBeDefined();
  return reasons[0] ?? '';
}

describe('HbmDevices', () => {
  test('opens every device with one size, the named ones with theirs, by number or UUID', () => {
    expect(shares(found(twoCards(), [], 16 * MiB))).toEqual([
      [0, 16],
      [1, 16],
    ]);
    const memory = twoCards();
    const named = found(memory, [memory.devices[1]?.uuid ?? '', 0], 32 * MiB, 16 * MiB);
    expect(shares(named)).toEqual([
      [1, 32],
      [0, 16],
    ]);
    expect(named.reasons).toEqual([]);
  });

  test('opens a device once that is named by number and by UUID', () => {
    const memory = twoCards();
    expect(shares(found(memory, [1, memory.devices[1]?.uuid ?? ''], 16 * MiB))).toEqual([[1, 16]]);
    memory.check();
  });

  test('has no device without a driver, and says what the driver said', async () => {
    const none = found({ reason: 'The CUDA driver has no device' }, [], MiB);
    expect([none.memory, none.opened]).toEqual([undefined, []]);
    expect(onlyReason(none)).toBe('hbm: no device can be used: The CUDA driver has no device');
    await none.register([range(0)]);
    expect(none.registration).toEqual({ state: 'none', bytes: 0, elapsedMs: 0 });
    await none.close();
  });

  test('names the devices that there are where one is wanted that is not, and opens the others', () => {
    const devices = found(twoCards(), [1, 7], 16 * MiB);
    expect(shares(devices)).toEqual([[1, 16]]);
    expect(onlyReason(devices)).toMatch(/^hbm: there is no device 7, the driver has 0 \(GPU-0.*0\), 1 \(GPU-0.*1\)$/);
  });

  test('gives the context back of a device with too little free memory, and says how much it has', async () => {
    const memory = twoCards();
    const devices = found(memory, [0], 65 * MiB);
    expect(onlyReason(devices)).toMatch(/^hbm: device 0 \(.*\) has 64 MiB free and 65 MiB is wanted: it gets no pool$/);
    await settle();
    expect(memory.leaks().devices).toBe(0);
    await devices.close();
    expect(memory.leaks()).toEqual({ devices: 0, bytes: 0, registrations: 0 });
  });

  test.each(['open', 'memory'] as const)('goes on with the other device where %s fails on one, and leaks nothing', async (call) => {
    const memory = twoCards();
    memory.faults.push({ call, code: OUT_OF_MEMORY });
    const devices = found(memory, [], 16 * MiB);
    expect(shares(devices)).toEqual([[1, 16]]);
    expect(onlyReason(devices)).toMatch(/^hbm: device 0 \(.*\) cannot be opened: .*OUT_OF_MEMORY/);
    await devices.close();
    expect(memory.leaks()).toEqual({ devices: 0, bytes: 0, registrations: 0 });
  });

  test('registers RAM range by range and gives everything back at the end', async () => {
    const memory = twoCards();
    const devices = found(memory, [], 16 * MiB);
    await devices.register([range(0), range(1)]);
    expect(devices.registration).toEqual({ state: 'done', bytes: 2 * MiB, elapsedMs: 2 });
    expect(memory.isRegistered(range(1).address, MiB)).toBe(true);
    await devices.close();
    expect(memory.leaks()).toEqual({ devices: 0, bytes: 0, registrations: 0 });
    expect(devices.registration.bytes).toBe(0);
    memory.check();
  });

  test('stays with the bounce buffer where a registration fails, and says so', async () => {
    const memory = twoCards();
    const devices = found(memory, [], 16 * MiB);
    memory.faults.push({ call: 'registerHost', code: 801 });
    await devices.register([range(0), range(1)]);
    expect(devices.registration.state).toBe('failed');
    expect(onlyReason(devices)).toMatch(/^hbm: RAM is not registered, copies go through a bounce buffer: /);
    await devices.close();
  });

  test('registers nothing more once it is closed, and waits for what is under way', async () => {
    const memory = twoCards();
    const devices = found(memory, [], 16 * MiB);
    const asked: Address[] = [];
    const { registerHost } = memory;
    memory.registerHost = (address, sizeBytes) => {
      asked.push(address);
      return registerHost.call(memory, address, sizeBytes);
    };
    const done = devices.register([range(0), range(1), range(2)]);
    await devices.close();
    await done;
    expect(asked).toEqual([range(0).address]);
    expect(memory.leaks().registrations).toBe(0);
    expect(memory.isRegistered(range(2).address, MiB)).toBe(false);
    memory.check();
  });
});
