/** Where a registered range ends: a copy that ends there is direct, one that goes a byte further is pageable, and carries its bytes all the same. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Address } from '#core/brand.ts';
import { openCudaMemory, type CudaMemory } from '#cuda/open-cuda-memory.ts';
import { openSimulatedMemory } from '#cuda/open-simulated-memory.ts';
import type { Device, DeviceMemory } from '#ports/device-memory.ts';
import { privateEmulator, type PrivateEmulator } from '#testsupport/cuda-emulator.ts';
import { okay, same } from '#testsupport/device-results.ts';
import { HostMemory } from '#testsupport/host-memory.ts';

const PAGE = 4096;
/** Two pages that are registered, and one that is not. */
const [REGISTERED, WHOLE] = [2 * PAGE, 3 * PAGE];

let emulator: PrivateEmulator;
beforeAll(async () => {
  emulator = await privateEmulator();
});
afterAll(() => emulator.dispose());

function opened(): CudaMemory {
  emulator.control.start('devices=1,capacity=64M');
  const memory = openCudaMemory({ driverPath: emulator.control.libraryPath, kind: 'emulated' });
  if ('reason' in memory) throw new Error(memory.reason);
  return memory;
}

function deviceOf(memory: DeviceMemory): Device {
  const device = memory.open(0);
  if ('ok' in device) throw new Error(device.message);
  return device;
}

/** Copies down and up again from `offset` on; how many of the two were pageable. */
async function pageable(device: Device, host: HostMemory, { offset, sizeBytes }: { offset: number; sizeBytes: number }): Promise<number> {
  const before = device.pageableCopies;
  const { pointer } = okay(device.allocate(sizeBytes));
  const wanted = host.bytes.slice(offset, offset + sizeBytes);
  const beside = [host.bytes.slice(0, offset), host.bytes.slice(offset + sizeBytes)];
  okay(await device.copy([{ direction: 'to-device', from: host.at(offset), to: pointer, sizeBytes }]));
  host.bytes.fill(0, offset, offset + sizeBytes);
  okay(await device.copy([{ direction: 'to-host', from: pointer, to: host.at(offset), sizeBytes }]));
  expect(same(host.bytes.subarray(offset, offset + sizeBytes), wanted)).toBe(true);
  expect(same(host.bytes.subarray(0, offset), beside[0] ?? new Uint8Array(1))).toBe(true);
  expect(same(host.bytes.subarray(offset + sizeBytes), beside[1] ?? new Uint8Array(1))).toBe(true);
  okay(device.free(pointer));
  return device.pageableCopies - before;
}

const cases = [
  { what: 'the whole range', offset: 0, sizeBytes: REGISTERED, pageable: 0 },
  { what: 'the last byte', offset: REGISTERED - 1, sizeBytes: 1, pageable: 0 },
  { what: 'from the middle to the last byte', offset: PAGE + 17, sizeBytes: PAGE - 17, pageable: 0 },
  { what: 'the whole range and one byte past it', offset: 0, sizeBytes: REGISTERED + 1, pageable: 2 },
  { what: 'the last byte and one past it', offset: REGISTERED - 1, sizeBytes: 2, pageable: 2 },
  { what: 'the first byte past it', offset: REGISTERED, sizeBytes: 1, pageable: 2 },
];

describe.each([
  { name: 'CudaMemory on the emulated driver', open: (): DeviceMemory => opened() },
  { name: 'the simulation', open: (): DeviceMemory => openSimulatedMemory({ devices: 1, capacityBytes: 64 * 1024 ** 2 }, 'a test') },
])('$name at the end of a registered range', ({ open }) => {
  test.each(cases)('$what', async ({ offset, sizeBytes, pageable: wanted }) => {
    const memory = open();
    const device = deviceOf(memory);
    using host = new HostMemory(WHOLE).fillRandom();
    okay(await memory.registerHost(host.address, REGISTERED));
    expect(await pageable(device, host, { offset, sizeBytes })).toBe(wanted);
    await memory.close();
    if (memory.kind === 'simulated') return;
    // The driver judges as the binding does.
    const { violations, lint, leaks } = emulator.control.report();
    expect({ violations, lint, leaks }).toEqual({ violations: {}, lint: wanted === 0 ? {} : { 'pageable-copy': wanted }, leaks: {} });
    emulator.control.stop();
  });
});

test('ranges come and go in any order, two that touch are two, and a copy across their border is pageable', async () => {
  const memory = opened();
  const device = deviceOf(memory);
  using host = new HostMemory(8 * PAGE).fillRandom();
  const register = (page: number): Promise<unknown> => memory.registerHost(host.at(page * PAGE), PAGE).then(okay);
  for (const page of [4, 0, 5, 2]) {
    await register(page);
    memory.checkInvariants();
  }
  expect(await memory.registerHost(host.at(4 * PAGE), PAGE)).toMatchObject({
    ok: false,
    name: expect.stringContaining('ALREADY_REGISTERED'),
  });
  memory.checkInvariants();
  expect(await pageable(device, host, { offset: 4 * PAGE, sizeBytes: PAGE })).toBe(0);
  expect(await pageable(device, host, { offset: 4 * PAGE + 1, sizeBytes: PAGE })).toBe(2);
  expect(await pageable(device, host, { offset: 3 * PAGE, sizeBytes: 2 * PAGE })).toBe(2);
  okay(await memory.unregisterHost(host.at(4 * PAGE)));
  memory.checkInvariants();
  expect(await pageable(device, host, { offset: 4 * PAGE, sizeBytes: PAGE })).toBe(2);
  expect(await pageable(device, host, { offset: 5 * PAGE, sizeBytes: PAGE })).toBe(0);
  // In the middle of a range, or of none: it is not what was registered.
  for (const address of [host.at(5 * PAGE + 1), host.at(4 * PAGE), (host.address - PAGE) as Address])
    expect(await memory.unregisterHost(address)).toMatchObject({ ok: false, name: 'KVTIER_NOT_REGISTERED' });
  memory.checkInvariants();
  await memory.close();
  memory.checkInvariants();
  expect(emulator.control.report().leaks).toEqual({});
  emulator.control.stop();
});
