/** The simulation that stands in for the emulated driver where there is no C compiler: it goes on by itself and really copies. */
import { afterEach, expect, test } from 'vitest';
import type { DevicePtr } from '#core/brand.ts';
import { GiB, MiB } from '#core/bytes.ts';
import { openSimulatedMemory } from '#cuda/open-simulated-memory.ts';
import type { SimDevice, SimDeviceMemory } from '#cuda/sim-device-memory.ts';
import { okay, same } from '#testsupport/device-results.ts';
import { HostMemory } from '#testsupport/host-memory.ts';

const CHUNK = 64 * 1024;
const COUNT = 40;

let memory: SimDeviceMemory;
function opened(capacityBytes: number): SimDevice {
  memory = openSimulatedMemory({ devices: 1, capacityBytes }, 'for a test');
  const device = memory.open(0);
  if ('ok' in device) throw new Error(device.message);
  return device;
}
afterEach(async () => {
  await memory.close();
  memory.check();
  expect(memory.leaks()).toEqual({ devices: 0, bytes: 0, registrations: 0 });
});

test('copies that are in flight together all end without anybody who steps them, and carry their bytes there and back', async () => {
  const device = opened(16 * MiB);
  using source = new HostMemory(COUNT * CHUNK).fillRandom();
  using target = new HostMemory(COUNT * CHUNK);
  for (const host of [source, target]) okay(await memory.registerHost(host.address, host.sizeBytes));
  const { pointer } = okay(device.allocate(COUNT * CHUNK));
  // The last chunk of the host is the first of the device.
  const slots = Array.from({ length: COUNT }, (_, index) => (pointer + (COUNT - 1 - index) * CHUNK) as DevicePtr);
  const down = slots.map((to, index) => device.copy([{ direction: 'to-device', from: source.at(index * CHUNK), to, sizeBytes: CHUNK }]));
  expect(device.copiesInFlight).toBe(COUNT);
  for (const outcome of await Promise.all(down)) okay(outcome);
  const up = slots.map((from, index) => device.copy([{ direction: 'to-host', from, to: target.at(index * CHUNK), sizeBytes: CHUNK }]));
  for (const outcome of await Promise.all(up)) expect(okay(outcome).elapsedMs).toBeGreaterThan(0);
  expect(same(target.bytes, source.bytes)).toBe(true);
  expect([device.copiesInFlight, device.pageableCopies]).toEqual([0, 0]);
  // It was idle, and starts again.
  okay(await device.copy([{ direction: 'on-device', from: slots[0] as DevicePtr, to: slots[1] as DevicePtr, sizeBytes: CHUNK }]));
  expect(same(device.at(slots[1] as DevicePtr, CHUNK), source.bytes.subarray(0, CHUNK))).toBe(true);
});

test('gives no handle, since no other process can open its memory, and says that it is out of memory where no piece is so large', () => {
  const device = opened(64 * GiB);
  const { pointer } = okay(device.allocate(MiB));
  expect(device.exportHandle(pointer)).toMatchObject({ ok: false, name: 'CUDA_ERROR_NOT_SUPPORTED', lost: false });
  expect(device.allocate(48 * GiB)).toMatchObject({ ok: false, name: 'CUDA_ERROR_OUT_OF_MEMORY', lost: false });
  expect([memory.kind, memory.note]).toEqual(['simulated', 'for a test']);
});
