/** When copies end: late, in order within a stream, by lot across streams, and what events say of it. */
import { describe, expect, test } from 'vitest';
import { succeed } from './driver.ts';
import { allOf, pinned, scene, type Host } from './scene.ts';
import { INVALID_HANDLE, INVALID_VALUE, KIB, MIB, NOT_READY } from './words.ts';

const emulated = scene();

interface Lane {
  readonly stream: number;
  readonly event: number;
}

function lane(): Lane {
  return { stream: emulated.driver.stream(), event: emulated.driver.event() };
}

/** `count` streams, each with one copy of its own memory and an event behind it; the order in which the events become ready. */
function orderOf(seed: number, count: number): readonly number[] {
  emulated.open(`seed=${seed}`);
  const { cu } = emulated.driver;
  const pointer = emulated.driver.allocate(MIB);
  const host = pinned(emulated.driver, count, 1);
  const lanes = Array.from({ length: count }, lane);
  lanes.forEach(({ stream, event }, index) => {
    succeed(cu.cuMemcpyHtoDAsync_v2(pointer + index * 4096, host.at + index * 4096, 4096, stream));
    succeed(cu.cuEventRecord(event, stream));
  });
  const order: number[] = [];
  for (let round = 0; round < count; round++) {
    expect(emulated.control.step(1)).toBe(1);
    lanes.forEach(({ event }, index) => {
      if (!order.includes(index) && cu.cuEventQuery(event) === 0) order.push(index);
    });
  }
  return order;
}

describe('copies', () => {
  test('of one stream end in order', () => {
    emulated.open();
    const { cu } = emulated.driver;
    const pointer = emulated.driver.allocate(MIB);
    const { stream } = lane();
    const events = Array.from({ length: 8 }, () => emulated.driver.event());
    for (const event of events) {
      succeed(cu.cuMemsetD8Async(pointer, 1, 4096, stream));
      succeed(cu.cuEventRecord(event, stream));
    }
    const ready = (): number => events.filter((event) => cu.cuEventQuery(event) === 0).length;
    for (let ended = 0; ended < events.length; ended++) {
      expect(ready()).toBe(ended);
      expect(cu.cuEventQuery(events[ended] ?? 0)).toBe(NOT_READY);
      emulated.control.step(1);
      succeed(cu.cuEventQuery(events[ended] ?? 0));
    }
  });

  test('have their target in ruins from begin to end', () => {
    emulated.open();
    const { cu } = emulated.driver;
    const pointer = emulated.driver.allocate(MIB);
    const { stream } = lane();
    const host = pinned(emulated.driver, 1, 1);
    succeed(cu.cuMemsetD8Async(pointer, 2, 4096, stream));
    succeed(cu.cuMemcpyDtoHAsync_v2(host.at, pointer, 4096, stream));
    emulated.control.step(1);
    while (allOf(host.bytes) === 1); // begins on its own
    expect(allOf(host.bytes)).toBeUndefined();
    emulated.control.step(1);
    expect(allOf(host.bytes)).toBe(2);
  });

  test('of two streams that do not wait for each other race for the same bytes', () => {
    emulated.open();
    const { cu } = emulated.driver;
    const pointer = emulated.driver.allocate(MIB);
    const [first, second] = [lane(), lane()];
    const host = pinned(emulated.driver, 2, 1);
    succeed(cu.cuMemcpyHtoDAsync_v2(pointer, host.at, 8192, first.stream));
    succeed(cu.cuMemcpyDtoDAsync_v2(pointer + 65536, pointer + 4096, 8192, second.stream));
    emulated.control.step(2);
    expect(emulated.report().violations).toEqual({ race: 1 });
  });

  test('of two streams that read the same bytes do not race, nor do those that an event puts in order', () => {
    emulated.open();
    const { cu } = emulated.driver;
    const pointer = emulated.driver.allocate(MIB);
    const [first, second] = [lane(), lane()];
    const [host, back] = [pinned(emulated.driver, 1, 6), pinned(emulated.driver, 2, 1)];
    succeed(cu.cuMemcpyHtoDAsync_v2(pointer, host.at, 4096, first.stream));
    succeed(cu.cuEventRecord(first.event, first.stream));
    succeed(cu.cuStreamWaitEvent(second.stream, first.event, 0));
    succeed(cu.cuMemcpyDtoHAsync_v2(back.at, pointer, 4096, second.stream));
    succeed(cu.cuMemcpyDtoHAsync_v2(back.at + 4096, pointer, 4096, first.stream));
    succeed(emulated.finish(first.stream));
    succeed(emulated.finish(second.stream));
    expect(allOf(back.bytes)).toBe(6);
    expect(emulated.report().violations).toEqual({});
  });

  test('end on their own where nobody steps, and take the time that latency and bandwidth say', () => {
    emulated.open('manual=0,latency_us=30000,jitter_us=0,bandwidth_mib=40,poison=0');
    const { cu } = emulated.driver;
    const pointer = emulated.driver.allocate(4 * MIB);
    const { stream, event } = lane();
    const before = emulated.driver.event();
    succeed(cu.cuEventRecord(before, stream));
    succeed(cu.cuMemsetD8Async(pointer, 1, 4 * MIB, stream));
    succeed(cu.cuEventRecord(event, stream));
    while (cu.cuEventQuery(event) === NOT_READY);
    const milliseconds = new Float32Array(1);
    succeed(cu.cuEventElapsedTime(milliseconds, before, event));
    expect(milliseconds[0]).toBeGreaterThan(30 + 100 - 1); // 4 MiB at 40 MiB/s
  });

  test('of nothing are nothing', () => {
    emulated.open();
    const pointer = emulated.driver.allocate(MIB);
    const { stream } = lane();
    const host = pinned(emulated.driver, 1, 1);
    succeed(emulated.driver.cu.cuMemcpyHtoDAsync_v2(pointer, host.at, 0, stream));
    succeed(emulated.driver.cu.cuStreamQuery(stream));
  });
});

describe('the lot across streams', () => {
  test('is the same for the same seed', () => {
    expect(orderOf(7, 8)).toEqual(orderOf(7, 8));
  });

  test('is another for another seed, and hardly ever the order of submission', () => {
    const orders = Array.from({ length: 6 }, (_, seed) => orderOf(seed, 8).join());
    expect(new Set(orders).size).toBeGreaterThan(4);
    expect(orders.filter((order) => order === '0,1,2,3,4,5,6,7').length).toBeLessThan(2);
  });
});

describe('the default stream', () => {
  test('waits for blocking streams and they for it; a non-blocking one does not', () => {
    emulated.open();
    const { cu } = emulated.driver;
    const pointer = emulated.driver.allocate(MIB);
    const [blocking, free] = [emulated.driver.stream(0), emulated.driver.stream()];
    succeed(cu.cuMemsetD8Async(pointer, 1, 4096, blocking));
    succeed(cu.cuMemsetD8Async(pointer, 2, 4096, 0));
    succeed(cu.cuMemsetD8Async(pointer, 3, 4096, blocking));
    succeed(cu.cuMemsetD8Async(pointer + 65536, 4, 4096, free));
    succeed(emulated.finish(free));
    while (cu.cuStreamQuery(0) === NOT_READY || cu.cuStreamQuery(blocking) === NOT_READY) emulated.control.step(1);
    const host = pinned(emulated.driver, 1, 9);
    succeed(cu.cuMemcpyDtoHAsync_v2(host.at, pointer, 4096, free));
    succeed(emulated.finish(free));
    expect(allOf(host.bytes)).toBe(3);
    expect(emulated.report().violations).toEqual({}); // three writers of one page, never at once
  });
});

describe('an event', () => {
  test('that was never recorded is ready, is waited for by nobody, and has no time', () => {
    emulated.open();
    const { cu } = emulated.driver;
    const { stream, event } = lane();
    succeed(cu.cuEventQuery(event));
    succeed(cu.cuStreamWaitEvent(stream, event, 0));
    succeed(cu.cuStreamQuery(stream));
    expect(cu.cuEventElapsedTime(new Float32Array(1), event, event)).toBe(INVALID_HANDLE);
  });

  test('that is recorded again speaks of the last time, while who waited for the first waits for that', () => {
    emulated.open();
    const { cu } = emulated.driver;
    const pointer = emulated.driver.allocate(MIB);
    const [first, second] = [lane(), lane()];
    succeed(cu.cuMemsetD8Async(pointer, 1, 4096, first.stream));
    succeed(cu.cuEventRecord(first.event, first.stream));
    succeed(cu.cuStreamWaitEvent(second.stream, first.event, 0));
    succeed(cu.cuEventRecord(second.event, second.stream));
    succeed(cu.cuMemsetD8Async(pointer, 2, 4096, first.stream));
    succeed(cu.cuEventRecord(first.event, first.stream));
    emulated.control.step(1);
    succeed(emulated.finish(second.stream));
    expect(cu.cuEventQuery(first.event)).toBe(NOT_READY);
    emulated.control.step(1);
    succeed(emulated.finish(first.stream));
    succeed(cu.cuEventQuery(first.event));
  });

  test('that is destroyed while it is awaited still lets the stream go on', () => {
    emulated.open();
    const { cu } = emulated.driver;
    const pointer = emulated.driver.allocate(MIB);
    const [first, second] = [lane(), lane()];
    succeed(cu.cuMemsetD8Async(pointer, 1, 4096, first.stream));
    succeed(cu.cuEventRecord(first.event, first.stream));
    succeed(cu.cuStreamWaitEvent(second.stream, first.event, 0));
    succeed(cu.cuEventDestroy_v2(first.event));
    expect(cu.cuStreamQuery(second.stream)).toBe(NOT_READY);
    succeed(emulated.finish(first.stream));
    succeed(emulated.finish(second.stream));
  });

  test('has a time only where it was made with one, and when it is ready', () => {
    emulated.open();
    const { cu } = emulated.driver;
    const pointer = emulated.driver.allocate(MIB);
    const { stream, event } = lane();
    const [before, untimed] = [emulated.driver.event(), emulated.driver.event(2)];
    succeed(cu.cuEventRecord(before, stream));
    succeed(cu.cuMemsetD8Async(pointer, 1, 4096, stream));
    succeed(cu.cuEventRecord(event, stream));
    succeed(cu.cuEventRecord(untimed, stream));
    const milliseconds = new Float32Array(1);
    expect(cu.cuEventElapsedTime(milliseconds, before, event)).toBe(NOT_READY);
    succeed(emulated.finish(stream));
    succeed(cu.cuEventElapsedTime(milliseconds, before, event));
    expect(milliseconds[0]).toBeGreaterThan(0);
    expect(cu.cuEventElapsedTime(milliseconds, before, untimed)).toBe(INVALID_HANDLE);
  });
});

describe('a stream that is destroyed', () => {
  test('still ends what it has, and is gone afterwards', () => {
    emulated.open();
    const { cu } = emulated.driver;
    const pointer = emulated.driver.allocate(MIB);
    const { stream, event } = lane();
    const host = pinned(emulated.driver, 1, 1);
    succeed(cu.cuMemsetD8Async(pointer, 4, 4096, stream));
    succeed(cu.cuMemcpyDtoHAsync_v2(host.at, pointer, 4096, stream));
    succeed(cu.cuEventRecord(event, stream));
    succeed(cu.cuStreamDestroy_v2(stream));
    expect(cu.cuStreamQuery(stream)).toBe(INVALID_HANDLE);
    expect(emulated.report().alive['streams']).toBe(1);
    emulated.control.step(2);
    succeed(cu.cuCtxSynchronize());
    succeed(cu.cuEventQuery(event));
    expect(allOf(host.bytes)).toBe(4);
    expect(emulated.report().alive['streams']).toBeUndefined();
  });
});

describe('a batch', () => {
  const three = (pointer: number, host: Host): readonly (readonly [number, number, number])[] => [
    [host.at, pointer, 4096],
    [pointer, pointer + 8192, 4096],
    [pointer + 8192, host.at + 4096, 4096],
  ];

  test('goes in all directions, in order', () => {
    emulated.open();
    const pointer = emulated.driver.allocate(64 * KIB);
    const { stream } = lane();
    const host = pinned(emulated.driver, 2, 1);
    host.bytes.fill(8, 0, 4096);
    expect(emulated.driver.batch(three(pointer, host), stream).code).toBe(0);
    succeed(emulated.finish(stream));
    expect(allOf(host.bytes)).toBe(8);
    expect(emulated.counted('violations', 'copies')).toEqual({ violations: {}, copies: 3 });
  });

  test('with a bad row is refused as a whole, and says which row', () => {
    emulated.open();
    const pointer = emulated.driver.allocate(64 * KIB);
    const { stream } = lane();
    const host = pinned(emulated.driver, 2, 1);
    const [first, second] = three(pointer, host);
    if (first === undefined || second === undefined) throw new Error('three rows');
    expect(emulated.driver.batch([first, second, [host.at, 0, 4096]], stream)).toEqual({ code: INVALID_VALUE, failed: 2n });
    expect(emulated.driver.batch([[host.at, host.at + 4096, 4096]], stream)).toEqual({ code: INVALID_VALUE, failed: 0n });
    succeed(emulated.driver.cu.cuStreamQuery(stream));
    expect(emulated.driver.batch([first], 0)).toMatchObject({ code: INVALID_VALUE }); // not on the default stream
  });
});
