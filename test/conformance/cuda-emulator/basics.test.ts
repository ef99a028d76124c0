import { Worker } from 'node:worker_threads';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { privateEmulator, type PrivateEmulator } from '#testsupport/cuda-emulator.ts';
import { Driver, pages, succeed } from './driver.ts';
import type { Errand } from './on-a-thread.ts';

const MIB = 1024 * 1024;
const NOT_READY = 600;

let emulator: PrivateEmulator;
let driver: Driver;

beforeAll(async () => {
  emulator = await privateEmulator();
  driver = new Driver(emulator.control.libraryPath);
});
afterEach(() => emulator.control.stop());
afterAll(() => emulator.dispose());

function start(options: string): void {
  emulator.control.start(options);
}

/** Ends what is in flight, however late it would be. */
function finish(stream: number): void {
  while (driver.cu.cuStreamQuery(stream) === NOT_READY) emulator.control.step(1);
}

function onAThread(name: Errand['name'], context = 0): Promise<readonly number[]> {
  const errand: Errand = { libraryPath: emulator.control.libraryPath, name, context };
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL('on-a-thread.ts', import.meta.url), { workerData: errand });
    worker.once('message', resolve);
    worker.once('error', reject);
  });
}

describe('a machine', () => {
  test('has the devices, memory and names that it was given', () => {
    start('devices=2,capacity=64M,context=4M,driver=12040,compute=89');
    expect(driver.read((out) => driver.cu.cuDriverGetVersion(out))).toBe(12040);
    succeed(driver.cu.cuInit(0));
    expect(driver.read((out) => driver.cu.cuDeviceGetCount(out))).toBe(2);
    expect(driver.cu.cuDeviceGet(new BigUint64Array(1), 2)).toBe(101);
    expect(driver.read((out) => driver.cu.cuDeviceTotalMem_v2(out, 1))).toBe(64 * MIB);
    expect(driver.read((out) => driver.cu.cuDeviceGetAttribute(out, 75, 0))).toBe(8);
    expect(driver.read((out) => driver.cu.cuDeviceGetAttribute(out, 76, 0))).toBe(9);
    driver.open(1);
    expect(driver.freeBytes()).toBe(60 * MIB);
    driver.close(1);
  });
});

describe('copies', () => {
  test('bring back what was sent, by way of a second place on the device', () => {
    start('capacity=64M,context=0');
    driver.open();
    const [first, second] = [driver.allocate(3 * MIB), driver.allocate(3 * MIB)];
    const stream = driver.stream();
    const [from, to] = [pages(768), pages(768)];
    crypto.getRandomValues(from.bytes.subarray(0, 65536));
    from.bytes[3 * MIB - 1] = 77;
    driver.register(from.bytes);
    driver.register(to.bytes);
    succeed(driver.cu.cuMemcpyHtoDAsync_v2(first, from.at, 3 * MIB, stream));
    succeed(driver.cu.cuMemcpyDtoDAsync_v2(second, first, 3 * MIB, stream));
    succeed(driver.cu.cuMemcpyDtoHAsync_v2(to.at, second, 3 * MIB, stream));
    const event = driver.event();
    succeed(driver.cu.cuEventRecord(event, stream));
    while (driver.cu.cuEventQuery(event) === NOT_READY);
    expect(Buffer.compare(from.bytes, to.bytes)).toBe(0);
    for (const at of [from.at, to.at]) succeed(driver.cu.cuMemHostUnregister(at));
    for (const pointer of [first, second]) succeed(driver.cu.cuMemFree_v2(pointer));
    succeed(driver.cu.cuEventDestroy_v2(event));
    succeed(driver.cu.cuStreamDestroy_v2(stream));
    driver.close();
    const { violations, lint, leaks, alive, copies, texts } = emulator.control.report();
    expect({ violations, lint, leaks, alive, copies, texts }).toEqual({
      violations: {},
      lint: {},
      leaks: {},
      alive: {},
      copies: 3,
      texts: [],
    });
  });

  test('end when they are let, and until then the target has not the bytes', () => {
    start('capacity=64M,context=0,manual=1,poison=0');
    driver.open();
    const pointer = driver.allocate(MIB);
    const stream = driver.stream();
    const [from, to] = [pages(1), pages(1)];
    from.bytes.fill(1);
    to.bytes.fill(2);
    driver.register(from.bytes);
    driver.register(to.bytes);
    succeed(driver.cu.cuMemcpyHtoDAsync_v2(pointer, from.at, 4096, stream));
    succeed(driver.cu.cuMemcpyDtoHAsync_v2(to.at, pointer, 4096, stream));
    expect(emulator.control.step(1)).toBe(1);
    expect(driver.cu.cuStreamQuery(stream)).toBe(NOT_READY);
    expect(to.bytes.every((byte) => byte === 2)).toBe(true);
    expect(emulator.control.step(5)).toBe(1);
    expect(driver.cu.cuStreamQuery(stream)).toBe(0);
    expect(to.bytes.every((byte) => byte === 1)).toBe(true);
    finish(stream);
  });
});

describe('threads', () => {
  test('see one device, and each has its own current context', async () => {
    start('capacity=64M,context=0');
    const context = driver.open();
    const before = driver.freeBytes();
    expect(await onAThread('nothing-current')).toEqual([201]);
    const [code, free, pointer] = await onAThread('use-context', context);
    expect([code, free]).toEqual([0, before]);
    expect(driver.freeBytes()).toBe(before - 8192);
    succeed(driver.cu.cuMemFree_v2(pointer ?? 0));
    const { violations, lint } = emulator.control.report();
    expect({ violations, lint }).toEqual({ violations: { 'no-context': 1 }, lint: {} });
    expect(await onAThread('retain')).toEqual([0, context, 0]);
    expect(emulator.control.report().lint).toEqual({ 'second-thread-context': 1 });
  });
});
