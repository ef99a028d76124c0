/** What a driver would punish: each has its code, its count and its words. */
import { describe, expect, test } from 'vitest';
import { pages, succeed } from './driver.ts';
import { allOf, pinned, scene } from './scene.ts';
import { ILLEGAL_ADDRESS, INVALID_CONTEXT, INVALID_HANDLE, INVALID_VALUE, MIB } from './words.ts';
import { mapped } from './mapping.ts';

const emulated = scene();

/** Not one violation but this, once. */
function expectOnly(kind: string, words: string): void {
  const { violations, texts } = emulated.report();
  expect(violations).toEqual({ [kind]: 1 });
  expect(texts.join('\n')).toContain(words);
}

describe('a call', () => {
  test('before cuInit is answered with 3', () => {
    emulated.control.start('');
    expect(emulated.driver.cu.cuDeviceGetCount(new Int32Array(1))).toBe(3);
    expectOnly('not-initialized', 'cuDeviceGetCount');
  });

  test('without a current context is answered with 201', () => {
    emulated.open();
    succeed(emulated.driver.cu.cuCtxSetCurrent(0));
    expect(emulated.driver.cu.cuMemAlloc_v2(new BigUint64Array(1), 4096)).toBe(INVALID_CONTEXT);
    expectOnly('no-context', 'cuMemAlloc_v2');
  });

  test('with a context that was destroyed is answered with 709, and the context cannot be made current', () => {
    const context = emulated.open();
    succeed(emulated.driver.cu.cuDevicePrimaryCtxRelease_v2(0));
    expect(emulated.driver.cu.cuCtxSynchronize()).toBe(709);
    expectOnly('destroyed-context', 'cuCtxSynchronize');
    expect(emulated.driver.cu.cuCtxSetCurrent(context)).toBe(INVALID_CONTEXT);
    expect(emulated.driver.cu.cuDevicePrimaryCtxRelease_v2(0)).toBe(INVALID_CONTEXT);
    expect(emulated.report().violations).toEqual({ 'destroyed-context': 1, 'bad-handle': 1, 'over-release': 1 });
  });

  test('with a stream or an event that was destroyed is answered with 400', () => {
    emulated.open();
    const { cu } = emulated.driver;
    const [stream, event] = [emulated.driver.stream(), emulated.driver.event()];
    succeed(cu.cuStreamDestroy_v2(stream));
    succeed(cu.cuEventDestroy_v2(event));
    expect(cu.cuStreamQuery(stream)).toBe(INVALID_HANDLE);
    expect(cu.cuEventQuery(event)).toBe(INVALID_HANDLE);
    expect(cu.cuEventRecord(event, stream)).toBe(INVALID_HANDLE);
    expect(cu.cuStreamDestroy_v2(stream)).toBe(INVALID_HANDLE);
    // New ones in the place of the old ones have other handles, and the old ones are not taken for them.
    expect(emulated.driver.event()).not.toBe(event);
    expect(emulated.driver.stream()).not.toBe(stream);
    expect(cu.cuEventQuery(event)).toBe(INVALID_HANDLE);
    expect(cu.cuStreamQuery(stream)).toBe(INVALID_HANDLE);
    expect(emulated.report().violations).toEqual({ 'bad-handle': 6 });
  });

  test('with a stream of another device than the current context is answered with 400', () => {
    emulated.open('devices=2');
    const stream = emulated.driver.stream();
    const event = emulated.driver.event();
    const host = pinned(emulated.driver, 1, 1);
    emulated.driver.open(1);
    const there = emulated.driver.allocate(MIB);
    expect(emulated.driver.cu.cuMemcpyHtoDAsync_v2(there, host.at, 4096, stream)).toBe(INVALID_HANDLE);
    expect(emulated.driver.cu.cuEventRecord(event, emulated.driver.stream())).toBe(INVALID_HANDLE);
    expect(emulated.report().violations).toEqual({ 'bad-handle': 2 });
  });
});

describe('device memory', () => {
  test('that is freed twice is answered with 1', () => {
    emulated.open();
    const pointer = emulated.driver.allocate(MIB);
    succeed(emulated.driver.cu.cuMemFree_v2(pointer));
    expect(emulated.driver.cu.cuMemFree_v2(pointer)).toBe(INVALID_VALUE);
    expectOnly('double-free', pointer.toString(16));
  });

  test('has addresses that are not handed out twice', () => {
    emulated.open();
    const seen = new Set<number>();
    for (let round = 0; round < 50; round++) {
      const pointer = emulated.driver.allocate(MIB);
      seen.add(pointer);
      succeed(emulated.driver.cu.cuMemFree_v2(pointer));
    }
    expect(seen.size).toBe(50);
  });

  test('that is small is aligned as a driver aligns it, to 512 bytes and no more', () => {
    emulated.open();
    expect(emulated.driver.allocate(4096) % 4096).toBe(512);
    expect(emulated.driver.allocate(MIB) % (2 * MIB)).toBe(0);
  });

  test('that is freed somewhere else than at its base is answered with 1', () => {
    emulated.open();
    const pointer = emulated.driver.allocate(MIB);
    expect(emulated.driver.cu.cuMemFree_v2(pointer + 512)).toBe(INVALID_VALUE);
    expect(emulated.driver.cu.cuMemFree_v2(4096)).toBe(INVALID_VALUE);
    expect(emulated.report().violations).toEqual({ 'bad-pointer': 2 });
  });

  test.each([
    { what: 'after it was freed', kind: 'use-after-free', freed: true, offset: 0 },
    { what: 'over its end by one byte', kind: 'out-of-bounds', freed: false, offset: 1 },
    { what: 'behind its end', kind: 'out-of-bounds', freed: false, offset: MIB + 4096 },
  ])('that is copied to $what kills the context with 700 when the copy is due, for good', ({ kind, freed, offset }) => {
    emulated.open();
    const { cu } = emulated.driver;
    const pointer = emulated.driver.allocate(MIB);
    const [stream, event] = [emulated.driver.stream(), emulated.driver.event()];
    const host = pinned(emulated.driver, 256, 1);
    if (freed) succeed(cu.cuMemFree_v2(pointer));
    succeed(cu.cuMemcpyHtoDAsync_v2(pointer + offset, host.at, MIB, stream));
    succeed(cu.cuEventRecord(event, stream));
    emulated.control.step(1);
    expect(cu.cuEventQuery(event)).toBe(ILLEGAL_ADDRESS);
    expect(cu.cuMemAlloc_v2(new BigUint64Array(1), 4096)).toBe(ILLEGAL_ADDRESS);
    expect(cu.cuCtxSynchronize()).toBe(ILLEGAL_ADDRESS);
    expect(cu.cuDevicePrimaryCtxRetain(new BigUint64Array(1), 0)).toBe(ILLEGAL_ADDRESS);
    expect(emulated.report().violations).toEqual({ [kind]: 1 });
    // All gave it back: the next context is a new one.
    succeed(cu.cuDevicePrimaryCtxRelease_v2(0));
    emulated.driver.open();
    expect(emulated.driver.allocate(4096)).toBeGreaterThan(0);
  });

  test('that is read over its end, or written by a memset over its end, is found too', () => {
    emulated.open();
    const { cu } = emulated.driver;
    const pointer = emulated.driver.allocate(4096);
    const stream = emulated.driver.stream();
    succeed(cu.cuMemsetD8Async(pointer + 1, 1, 4096, stream));
    succeed(cu.cuMemcpyDtoHAsync_v2(pinned(emulated.driver, 1, 1).at, pointer + 1, 4096, stream));
    succeed(cu.cuMemcpyDtoDAsync_v2(pointer, pointer + 4095, 2, stream));
    expect(emulated.report().violations).toEqual({ 'out-of-bounds': 3 });
  });

  test('that is given as host memory, and the other way round, is answered with 1', () => {
    emulated.open();
    const { cu } = emulated.driver;
    const pointer = emulated.driver.allocate(MIB);
    const stream = emulated.driver.stream();
    const host = pinned(emulated.driver, 1, 1);
    expect(cu.cuMemcpyHtoDAsync_v2(pointer, pointer, 4096, stream)).toBe(INVALID_VALUE);
    expect(cu.cuMemcpyHtoDAsync_v2(host.at, host.at, 4096, stream)).toBe(INVALID_VALUE);
    expect(cu.cuMemcpyDtoHAsync_v2(pointer, pointer, 4096, stream)).toBe(INVALID_VALUE);
    expect(cu.cuMemHostRegister_v2(pointer, 4096, 1)).toBe(INVALID_VALUE);
    expect(emulated.report().violations).toEqual({ 'bad-pointer': 3 });
  });

  test('that is freed while a copy on it is in flight waits for the copy, and is counted', () => {
    emulated.open();
    const { cu } = emulated.driver;
    const pointer = emulated.driver.allocate(MIB);
    const stream = emulated.driver.stream();
    const host = pinned(emulated.driver, 1, 3);
    succeed(cu.cuMemsetD8Async(pointer, 7, 4096, stream));
    succeed(cu.cuMemcpyDtoHAsync_v2(host.at, pointer, 4096, stream));
    succeed(cu.cuMemFree_v2(pointer));
    expect(allOf(host.bytes)).toBe(7);
    expect(emulated.counted('violations', 'lint')).toEqual({ violations: { 'freed-in-flight': 1 }, lint: { 'sync-in-flight': 1 } });
  });
});

describe('host memory', () => {
  test('that changes between submission and end of a copy is found', () => {
    emulated.open();
    const pointer = emulated.driver.allocate(MIB);
    const stream = emulated.driver.stream();
    const host = pinned(emulated.driver, 16, 1);
    succeed(emulated.driver.cu.cuMemcpyHtoDAsync_v2(pointer, host.at, 16 * 4096, stream));
    host.bytes[16 * 4096 - 1] = 2;
    emulated.finish(stream);
    expectOnly('source-changed', host.at.toString(16));
  });

  test('that a copy is to fill and the host writes meanwhile is found', () => {
    emulated.open();
    const pointer = emulated.driver.allocate(MIB);
    const stream = emulated.driver.stream();
    const host = pinned(emulated.driver, 16, 1);
    succeed(emulated.driver.cu.cuMemcpyDtoHAsync_v2(host.at, pointer, 16 * 4096, stream));
    while (allOf(host.bytes) === 1); // until the copy has begun
    host.bytes.fill(9);
    emulated.finish(stream);
    expectOnly('target-changed', host.at.toString(16));
  });

  test('that one copy fills and the next in the stream sends on has not changed', () => {
    emulated.open();
    const pointer = emulated.driver.allocate(MIB);
    const stream = emulated.driver.stream();
    const host = pinned(emulated.driver, 1, 1);
    succeed(emulated.driver.cu.cuMemsetD8Async(pointer, 5, 4096, stream));
    succeed(emulated.driver.cu.cuMemcpyDtoHAsync_v2(host.at, pointer, 4096, stream));
    succeed(emulated.driver.cu.cuMemcpyHtoDAsync_v2(pointer + 8192, host.at, 4096, stream));
    expect(emulated.finish(stream)).toBe(0);
    expect(emulated.report().violations).toEqual({});
  });

  test.each(['source', 'target'] as const)('that is unmapped before its copy ended kills the context (%s)', (side) => {
    emulated.open();
    const { cu } = emulated.driver;
    const pointer = emulated.driver.allocate(MIB);
    const stream = emulated.driver.stream();
    const map = mapped(65536);
    succeed(cu.cuMemHostRegister_v2(map.at, 65536, 1));
    succeed(
      side === 'source' ? cu.cuMemcpyHtoDAsync_v2(pointer, map.at, 65536, stream) : cu.cuMemcpyDtoHAsync_v2(map.at, pointer, 65536, stream),
    );
    map.takeAway();
    expect(emulated.finish(stream)).toBe(ILLEGAL_ADDRESS);
    expectOnly('host-unmapped', map.at.toString(16));
  });

  test('that is not mapped is not registered and not copied', () => {
    emulated.open();
    const map = mapped(65536);
    map.unmap();
    expect(emulated.driver.cu.cuMemHostRegister_v2(map.at, 65536, 1)).toBe(INVALID_VALUE);
    const pointer = emulated.driver.allocate(MIB);
    expect(emulated.driver.cu.cuMemcpyHtoDAsync_v2(pointer, map.at, 65536, emulated.driver.stream())).toBe(INVALID_VALUE);
    expectOnly('host-unmapped', map.at.toString(16));
  });

  test('that is unregistered while a copy on it is in flight is counted, and the call waits', () => {
    emulated.open();
    const pointer = emulated.driver.allocate(MIB);
    const stream = emulated.driver.stream();
    const host = pinned(emulated.driver, 1, 1);
    succeed(emulated.driver.cu.cuMemcpyHtoDAsync_v2(pointer, host.at, 4096, stream));
    succeed(emulated.driver.cu.cuMemHostUnregister(host.at));
    expect(emulated.driver.cu.cuStreamQuery(stream)).toBe(0);
    expectOnly('unregistered-in-flight', host.at.toString(16));
  });

  test('that was unmapped while it was registered is found when it is unregistered', () => {
    emulated.open();
    const map = mapped(65536);
    succeed(emulated.driver.cu.cuMemHostRegister_v2(map.at, 65536, 1));
    map.unmap();
    succeed(emulated.driver.cu.cuMemHostUnregister(map.at));
    expectOnly('host-unmapped', map.at.toString(16));
  });

  test('registered twice, in part, is answered with 712, and never registered with 713', () => {
    emulated.open();
    const { cu } = emulated.driver;
    const { at } = pages(4);
    succeed(cu.cuMemHostRegister_v2(at, 4096 * 3, 1));
    expect(cu.cuMemHostRegister_v2(at + 8192, 8192, 1)).toBe(712);
    expect(cu.cuMemHostUnregister(at + 4096)).toBe(713);
    succeed(cu.cuMemHostUnregister(at));
    expect(cu.cuMemHostUnregister(at)).toBe(713);
  });
});

describe('legal but slow or risky', () => {
  test('an async copy of pageable memory is lint, also where only a part is registered', () => {
    emulated.open();
    const { cu } = emulated.driver;
    const pointer = emulated.driver.allocate(MIB);
    const stream = emulated.driver.stream();
    const { at } = pages(3);
    succeed(cu.cuMemcpyHtoDAsync_v2(pointer, at, 8192, stream));
    succeed(cu.cuMemHostRegister_v2(at, 4096, 1));
    succeed(cu.cuMemcpyHtoDAsync_v2(pointer, at, 8192, stream));
    expect(emulated.report().lint).toEqual({ 'pageable-copy': 2 });
    // Two registrations that touch are enough.
    succeed(cu.cuMemHostRegister_v2(at + 4096, 4096, 1));
    succeed(cu.cuMemcpyHtoDAsync_v2(pointer, at, 8192, stream));
    expect(emulated.report().lint).toEqual({ 'pageable-copy': 2 });
    expect(emulated.finish(stream)).toBe(0);
  });

  test('a registration that is not portable is pageable memory to another device', () => {
    emulated.open('devices=2');
    const { at } = pages(1);
    succeed(emulated.driver.cu.cuMemHostRegister_v2(at, 4096, 0));
    succeed(emulated.driver.cu.cuMemcpyHtoDAsync_v2(emulated.driver.allocate(4096), at, 4096, emulated.driver.stream()));
    expect(emulated.report().lint).toEqual({});
    emulated.driver.open(1);
    succeed(emulated.driver.cu.cuMemcpyHtoDAsync_v2(emulated.driver.allocate(4096), at, 4096, emulated.driver.stream()));
    expect(emulated.report().lint).toEqual({ 'pageable-copy': 1 });
  });

  test('waiting for a device with copies in flight, allocating then, and the default stream are lint', () => {
    emulated.open();
    const { cu } = emulated.driver;
    const pointer = emulated.driver.allocate(MIB);
    succeed(cu.cuCtxSynchronize());
    expect(emulated.report().lint).toEqual({});
    succeed(cu.cuMemsetD8Async(pointer, 1, 4096, emulated.driver.stream()));
    emulated.driver.allocate(4096);
    succeed(cu.cuCtxSynchronize());
    succeed(cu.cuStreamQuery(0));
    expect(emulated.report().lint).toEqual({ 'alloc-in-flight': 1, 'sync-in-flight': 1, 'default-stream': 1 });
  });
});

describe('what is left behind', () => {
  test('is counted when its context is destroyed, and its bytes are free again', () => {
    emulated.open('context=1M');
    const before = emulated.driver.freeBytes();
    emulated.driver.allocate(MIB);
    emulated.driver.allocate(4096);
    emulated.driver.stream();
    emulated.driver.event();
    pinned(emulated.driver, 1, 1);
    expect(emulated.report().alive).toEqual({ contexts: 1, allocations: 2, streams: 1, events: 1, registrations: 1 });
    emulated.driver.close();
    expect(emulated.counted('alive', 'usedBytes', 'leaks')).toEqual({
      alive: {},
      usedBytes: [0],
      leaks: { allocations: 2, streams: 1, events: 1, registrations: 1 },
    });
    emulated.driver.open();
    expect(emulated.driver.freeBytes()).toBe(before);
  });
});
