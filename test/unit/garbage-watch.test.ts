import { fullGC } from 'bun:jsc';
import { expect, test } from 'vitest';
import { GarbageWatch, heapBytes } from '#host/garbage-watch.ts';
import type { WatchedHeap } from '#host/garbage-watch.ts';
import { HostSharedMemory, viewedBytes } from '#host/shared-memory.ts';
import { SimClock } from '#testsupport/sim-clock.ts';

const MiB = 1024 ** 2;

function heapOf(sizes: { bytes: number; leftBytes: number }): WatchedHeap & { young: number; full: number } {
  const heap = {
    young: 0,
    full: 0,
    heapBytes: () => sizes.bytes,
    collectYoung: () => void (heap.young += 1),
    collectAll() {
      heap.full += 1;
      sizes.bytes = sizes.leftBytes;
    },
  };
  return heap;
}

test('collects all when the objects have outgrown what was left of them', () => {
  const sizes = { bytes: 20 * MiB, leftBytes: 20 * MiB };
  const heap = heapOf(sizes);
  const watch = new GarbageWatch(new SimClock(), heap);
  sizes.bytes = 38 * MiB;
  watch.look();
  expect(heap.full, 'half as much again and 8 MiB is allowed').toBe(0);
  sizes.bytes = 38 * MiB + 1;
  watch.look();
  expect(heap.full).toBe(1);
  expect(sizes.bytes).toBe(20 * MiB);
});

test('what is in use sets the next bound: a heap that has grown for good is not collected for ever', () => {
  const sizes = { bytes: 20 * MiB, leftBytes: 100 * MiB };
  const heap = heapOf(sizes);
  const watch = new GarbageWatch(new SimClock(), heap);
  sizes.bytes = 110 * MiB;
  for (let turn = 0; turn < 50; turn += 1) watch.look();
  expect(heap.full).toBe(1);
  sizes.bytes = 159 * MiB;
  watch.look();
  expect(heap.full).toBe(2);
});

test('buffers are collected by their bytes, as they pass', () => {
  const heap = heapOf({ bytes: 20 * MiB, leftBytes: 20 * MiB });
  const { leave } = new GarbageWatch(new SimClock(), heap);
  for (let buffer = 1; buffer <= 1024; buffer += 1) {
    leave(256 * 1024);
    expect(heap.young).toBe(Math.floor(buffer / 128));
  }
  expect(heap.full).toBe(0);
});

test('looks once a second, until it is stopped', async () => {
  const clock = new SimClock();
  const sizes = { bytes: 1 * MiB, leftBytes: 1 * MiB };
  const heap = heapOf(sizes);
  const watch = new GarbageWatch(clock, heap);
  watch.start();
  for (let second = 1; second <= 3; second += 1) {
    sizes.bytes = 50 * MiB;
    await clock.advance(1000);
    expect(heap.full).toBe(second);
  }
  watch.stop();
  sizes.bytes = 50 * MiB;
  await clock.advance(10_000);
  expect(heap.full).toBe(3);
});

test('an arena that is looked at is not counted as heap', () => {
  const memory = new HostSharedMemory('/dev/shm');
  const arena = memory.create('garbage-watch', 256 * MiB);
  try {
    fullGC();
    const before = heapBytes();
    const views = Array.from({ length: 1000 }, (_, index) => arena.view(index * 4096, 4096));
    fullGC();
    expect(views.length).toBe(1000);
    expect(heapBytes() - before).toBeLessThan(4 * MiB);
  } finally {
    arena.close();
  }
});

test('an arena is not looked at once it is closed: its memory is gone', () => {
  const arena = new HostSharedMemory('/dev/shm').create('garbage-watch-closed', 1 * MiB);
  const before = viewedBytes();
  expect(arena.view(4096, 10).length).toBe(10);
  expect(viewedBytes() - before).toBe(1 * MiB);
  arena.close();
  expect(() => arena.view(4096, 10)).toThrow('is open');
  expect(viewedBytes()).toBe(before);
});
