/** Full devices, injected errors, devices that are lost, memory that went bad. */
import { describe, expect, test } from 'vitest';
import { Driver, succeed } from './driver.ts';
import { allOf, pinned, scene } from './scene.ts';
import { ILLEGAL_ADDRESS, INVALID_VALUE, MIB, NOT_READY, OUT_OF_MEMORY } from './words.ts';

const ECC_UNCORRECTABLE = 214;

const emulated = scene();

describe('a device', () => {
  test('that is full says 2 and takes nothing, until something is freed', () => {
    emulated.open('capacity=16M,context=2M');
    const { cu } = emulated.driver;
    expect(emulated.driver.freeBytes()).toBe(14 * MIB);
    expect(cu.cuMemAlloc_v2(new BigUint64Array(1), 15 * MIB)).toBe(OUT_OF_MEMORY);
    expect(emulated.driver.freeBytes()).toBe(14 * MIB);
    const pointer = emulated.driver.allocate(14 * MIB);
    expect(cu.cuMemAlloc_v2(new BigUint64Array(1), 1)).toBe(OUT_OF_MEMORY);
    succeed(cu.cuMemFree_v2(pointer));
    emulated.driver.allocate(14 * MIB);
    expect(emulated.report().violations).toEqual({});
  });

  test('that has no room for a context says so', () => {
    emulated.control.start('capacity=16M,context=17M');
    succeed(emulated.driver.cu.cuInit(0));
    expect(emulated.driver.cu.cuDevicePrimaryCtxRetain(new BigUint64Array(1), 0)).toBe(OUT_OF_MEMORY);
    expect(emulated.report().alive).toEqual({});
  });

  test('is not there where there are none', () => {
    emulated.control.start('devices=0');
    expect(emulated.driver.cu.cuInit(0)).toBe(100);
  });

  test('that is an instance of a divided card says so by name and by two identities', () => {
    emulated.control.start('mig=1');
    succeed(emulated.driver.cu.cuInit(0));
    const [card, instance, name] = [new Uint8Array(16), new Uint8Array(16), new Uint8Array(64)];
    succeed(emulated.driver.cu.cuDeviceGetUuid(card, 0));
    succeed(emulated.driver.cu.cuDeviceGetUuid_v2(instance, 0));
    succeed(emulated.driver.cu.cuDeviceGetName(name, name.length, 0));
    expect(instance.toHex()).not.toBe(card.toHex());
    expect(new TextDecoder().decode(name)).toContain('MIG');
  });
});

describe('an injected error', () => {
  test('comes at the call that it was meant for, as often as it was meant, and that call does nothing', () => {
    emulated.open();
    emulated.control.inject('cuMemAlloc_v2', 999, { nth: 2, times: 2 });
    const codes = Array.from({ length: 5 }, () => emulated.driver.cu.cuMemAlloc_v2(new BigUint64Array(1), 4096));
    expect(codes).toEqual([0, 999, 999, 0, 0]);
    expect(emulated.report().alive).toEqual({ contexts: 1, allocations: 3 });
  });

  test('at any call counts all calls', () => {
    emulated.open();
    emulated.control.inject('*', 1, { nth: 3 });
    const { cu } = emulated.driver;
    expect([cu.cuCtxSynchronize(), cu.cuStreamQuery(0), cu.cuCtxSynchronize(), cu.cuCtxSynchronize()]).toEqual([0, 0, INVALID_VALUE, 0]);
    emulated.control.inject('*', 1);
    emulated.control.clearInjections();
    succeed(cu.cuCtxSynchronize());
  });

  test('at a call that gives something back comes when it was given back', () => {
    emulated.open();
    const { cu } = emulated.driver;
    const pointer = emulated.driver.allocate(4096);
    emulated.control.inject('cuMemFree_v2', 999);
    emulated.control.inject('cuDevicePrimaryCtxRelease_v2', 999);
    expect([cu.cuMemFree_v2(pointer), cu.cuMemFree_v2(pointer)]).toEqual([999, INVALID_VALUE]);
    expect(cu.cuDevicePrimaryCtxRelease_v2(0)).toBe(999);
    expect(emulated.counted('alive', 'leaks', 'violations')).toEqual({ alive: {}, leaks: {}, violations: { 'double-free': 1 } });
  });

  test('that is sticky stays', () => {
    emulated.open();
    emulated.control.inject('cuMemAlloc_v2', 719);
    expect(emulated.driver.cu.cuMemAlloc_v2(new BigUint64Array(1), 4096)).toBe(719);
    expect(emulated.driver.cu.cuCtxSynchronize()).toBe(719);
  });

  test('for a function that is not is refused', () => {
    emulated.open();
    expect(() => emulated.control.inject('cuNothing', 1)).toThrow('no such function');
  });
});

describe('a device that is lost', () => {
  test('in the middle of copies: half of one arrives, the rest never, and every call says why', () => {
    emulated.open('devices=2,poison=0');
    const { cu } = emulated.driver;
    const other = emulated.driver.open(1);
    const first = emulated.driver.open(0);
    const pointer = emulated.driver.allocate(MIB);
    const [stream, event] = [emulated.driver.stream(), emulated.driver.event()];
    const host = pinned(emulated.driver, 4, 1);
    const back = pinned(emulated.driver, 4, 2);
    emulated.control.loseDevice(0, ECC_UNCORRECTABLE, 2);
    succeed(cu.cuMemcpyHtoDAsync_v2(pointer, host.at, 16384, stream));
    succeed(cu.cuMemcpyDtoHAsync_v2(back.at, pointer, 16384, stream));
    succeed(cu.cuMemcpyHtoDAsync_v2(pointer, host.at, 16384, stream));
    succeed(cu.cuEventRecord(event, stream));
    expect(emulated.control.step(10)).toBe(2);
    expect([allOf(back.bytes.subarray(0, 8192)), allOf(back.bytes.subarray(8192))]).toEqual([1, 2]);
    expect(cu.cuEventQuery(event)).toBe(ECC_UNCORRECTABLE);
    expect(cu.cuMemFree_v2(pointer)).toBe(ECC_UNCORRECTABLE);
    expect(cu.cuDevicePrimaryCtxRetain(new BigUint64Array(1), 0)).toBe(ECC_UNCORRECTABLE);
    // The other device goes on.
    succeed(cu.cuCtxSetCurrent(other));
    expect(emulated.driver.allocate(4096)).toBeGreaterThan(0);
    // Healed, the old context stays dead and a new one lives.
    emulated.control.loseDevice(0, 0);
    succeed(cu.cuCtxSetCurrent(first));
    expect(cu.cuCtxSynchronize()).toBe(ECC_UNCORRECTABLE);
    while (cu.cuDevicePrimaryCtxRelease_v2(0) === 0);
    emulated.driver.open(0);
    expect(emulated.driver.allocate(4096)).toBeGreaterThan(0);
    // What was on it could not be given back, and is not held against anybody.
    expect(emulated.counted('violations', 'leaks')).toEqual({ violations: { 'over-release': 1 }, leaks: {} });
  });

  test('before anybody has a context on it cannot be opened', () => {
    emulated.control.start('');
    succeed(emulated.driver.cu.cuInit(0));
    emulated.control.loseDevice(0, ECC_UNCORRECTABLE);
    expect(emulated.driver.cu.cuDevicePrimaryCtxRetain(new BigUint64Array(1), 0)).toBe(ECC_UNCORRECTABLE);
  });

  test('while nobody is in a call is found by the next one', () => {
    emulated.open();
    emulated.control.loseDevice(0, ILLEGAL_ADDRESS);
    expect(emulated.driver.cu.cuMemGetInfo_v2(new BigUint64Array(1), new BigUint64Array(1))).toBe(ILLEGAL_ADDRESS);
  });
});

describe('device memory that goes bad', () => {
  test('says nothing of it', () => {
    emulated.open();
    const pointer = emulated.driver.allocate(8192);
    const stream = emulated.driver.stream();
    const host = pinned(emulated.driver, 2, 1);
    succeed(emulated.driver.cu.cuMemcpyHtoDAsync_v2(pointer, host.at, 8192, stream));
    succeed(emulated.finish(stream));
    expect(emulated.control.corrupt(0)).toBe(2);
    succeed(emulated.driver.cu.cuMemcpyDtoHAsync_v2(host.at, pointer, 8192, stream));
    succeed(emulated.finish(stream));
    expect([0, 1, 4096, 8191].map((at) => host.bytes[at])).toEqual([0, 1, 0, 1]);
    expect(emulated.report().violations).toEqual({});
  });
});

describe('options', () => {
  test.each(['nonsense=1', 'devices', 'devices=17', 'devices=-1', 'capacity=1X', 'mig=2', 'devices='])('%s are refused', (options) => {
    expect(() => emulated.control.start(options)).toThrow('options are not understood');
  });

  test('change while the machine runs: what was held is let go', () => {
    emulated.open('poison=0');
    const pointer = emulated.driver.allocate(MIB);
    const stream = emulated.driver.stream();
    succeed(emulated.driver.cu.cuMemsetD8Async(pointer, 1, 4096, stream));
    expect(emulated.driver.cu.cuStreamQuery(stream)).toBe(NOT_READY);
    emulated.control.options('manual=0');
    while (emulated.driver.cu.cuStreamQuery(stream) === NOT_READY);
    succeed(emulated.driver.cu.cuStreamQuery(stream));
  });
});

describe('a stopped machine', () => {
  test('answers every call with 4', () => {
    emulated.open();
    emulated.control.stop();
    expect(emulated.driver.cu.cuInit(0)).toBe(4);
  });
});

describe('a library without batched copies', () => {
  const old = scene({ batchCopies: false });

  test('has not got the symbol, and all others', () => {
    old.open();
    expect(() => old.driver.batch([[0, 0, 0]], 0)).toThrow(/cuMemcpyBatchAsync/);
    expect(new Driver(old.control.libraryPath)).toBeDefined();
  });
});
