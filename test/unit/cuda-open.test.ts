/** Why there is no device memory, in a sentence for each cause; what is read of a device; the older driver; the second process. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { DevicePtr } from '#core/brand.ts';
import { isSticky } from '#cuda/status.ts';
import { openCudaMemory, type CudaMemory } from '#cuda/open-cuda-memory.ts';
import { privateEmulator, type PrivateEmulator } from '#testsupport/cuda-emulator.ts';
import { okay, same } from '#testsupport/device-results.ts';
import { HostMemory } from '#testsupport/host-memory.ts';
import { shareWithSecondProcess } from '#testsupport/second-process.ts';

let emulator: PrivateEmulator;
let older: PrivateEmulator;
beforeAll(async () => {
  emulator = await privateEmulator();
  older = await privateEmulator({ batchCopies: false });
});
afterAll(async () => {
  await emulator.dispose();
  await older.dispose();
});

function open(options: string, from = emulator): CudaMemory | { readonly reason: string } {
  from.control.start(options);
  return openCudaMemory({ driverPath: from.control.libraryPath, kind: 'emulated' });
}

function opened(options: string, from = emulator): CudaMemory {
  const memory = open(options, from);
  if ('reason' in memory) throw new Error(memory.reason);
  return memory;
}

describe('no device memory', () => {
  test('without a driver', () => {
    expect(openCudaMemory({ driverPath: 'libcuda-that-is-not.so.1' })).toEqual({
      reason: 'No CUDA driver: libcuda-that-is-not.so.1 cannot be loaded',
    });
  });

  test('with a library that is no driver', () => {
    expect(openCudaMemory({ driverPath: 'libc.so.6' })).toEqual({
      reason: expect.stringContaining('lacks cuInit, cuDriverGetVersion') as string,
    });
  });

  test('without a device', () => {
    expect(open('devices=0')).toEqual({ reason: expect.stringMatching(/no device.*CUDA_VISIBLE_DEVICES.*CUDA_ERROR_NO_DEVICE/) as string });
  });

  test('with a driver that is too old', () => {
    expect(open('driver=10020')).toEqual({
      reason: 'The CUDA driver is too old: it supports CUDA 10.2, and 11.0 is the oldest that will do',
    });
  });

  test('on a MIG instance', () => {
    expect(open('mig=1')).toEqual({ reason: expect.stringContaining('MIG instance (1 of 1)') as string });
  });

  test('with a kernel module of another version', () => {
    emulator.control.start('devices=1');
    emulator.control.inject('cuInit', 803);
    const memory = openCudaMemory({ driverPath: emulator.control.libraryPath });
    expect(memory).toEqual({ reason: expect.stringMatching(/different versions.*CUDA_ERROR_SYSTEM_DRIVER_MISMATCH/) as string });
  });
});

test('reads what identifies a device, and makes no context for it', async () => {
  const memory = opened('devices=2,capacity=64M');
  expect([memory.kind, memory.driverVersion, memory.devices.length]).toEqual(['emulated', '12.8', 2]);
  expect(memory.devices[1]).toMatchObject({ ordinal: 1, totalBytes: 64 * 1024 ** 2, computeCapability: '9.0', pciBusId: '0000:02:00.0' });
  expect(memory.devices[0]?.uuid).toMatch(/^GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
  expect(new Set(memory.devices.map((device) => device.uuid)).size).toBe(2);
  expect(emulator.control.report().calls['cuDevicePrimaryCtxRetain']).toBeUndefined();
  await memory.close();
});

test('copies lists one by one where the driver has no batch copy', async () => {
  const memory = opened('devices=1,capacity=64M', older);
  expect(memory.driver.hasBatch).toBe(false);
  const device = memory.open(0);
  if ('ok' in device) throw new Error(device.message);
  using host = new HostMemory(8192).fillRandom();
  using back = new HostMemory(8192);
  for (const { address, sizeBytes } of [host, back]) okay(await memory.registerHost(address, sizeBytes));
  const { pointer } = okay(device.allocate(8192));
  const half = (pointer + 4096) as DevicePtr;
  okay(
    await device.copy([
      { direction: 'to-device', from: host.address, to: pointer, sizeBytes: 4096 },
      { direction: 'to-device', from: host.at(4096), to: half, sizeBytes: 4096 },
    ]),
  );
  okay(await device.copy([{ direction: 'to-host', from: pointer, to: back.address, sizeBytes: 8192 }]));
  expect(same(back.bytes, host.bytes)).toBe(true);
  await memory.close();
  expect(older.control.report().leaks).toEqual({});
  older.control.stop();
});

test('falls back to single copies when the driver says that it does not support batches', async () => {
  const memory = opened('devices=1,capacity=64M');
  const device = memory.open(0);
  if ('ok' in device) throw new Error(device.message);
  using host = new HostMemory(8192).fillRandom();
  okay(await memory.registerHost(host.address, host.sizeBytes));
  const { pointer } = okay(device.allocate(8192));
  emulator.control.inject('cuMemcpyBatchAsync', 801);
  const rows = [0, 4096].map((offset) => ({
    direction: 'to-device' as const,
    from: host.at(offset),
    to: (pointer + offset) as DevicePtr,
    sizeBytes: 4096,
  }));
  okay(await device.copy(rows));
  okay(await device.copy(rows));
  expect(emulator.control.report().calls).toMatchObject({ cuMemcpyBatchAsync: 1, cuMemcpyHtoDAsync_v2: 4 });
  await memory.close();
});

test('shares an allocation with a second process, both ways', async () => {
  const memory = opened('devices=1,capacity=64M');
  const device = memory.open(0);
  if ('ok' in device) throw new Error(device.message);
  const { libraryPath: driverPath, environment } = emulator.control;
  await shareWithSecondProcess(memory, device, { driverPath, environment, sizeBytes: 3 * 1024 ** 2 + 5 });
  await memory.close();
  const { violations, leaks, reaped } = emulator.control.report();
  expect([violations, leaks, reaped]).toEqual([{}, {}, {}]);
});

test('knows which answers mean that a context is lost', () => {
  const lost = [214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719];
  expect(lost.filter((code) => !isSticky(code))).toEqual([]);
  expect([0, 1, 2, 201, 400, 600, 701, 712, 801, 999].filter(isSticky)).toEqual([]);
});
