import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { lowestFreeDescriptor, raiseDescriptorLimit, descriptorLimit } from '#host/descriptors.ts';
import { memoryReader } from '#host/memory-events.ts';
import type { MemoryReading } from '#ports/machine-watch.ts';
import { connectionsWithin, descriptorsFor, MachineWatch } from '#telemetry/machine-watch.ts';
import { SimClock } from '#testsupport/sim-clock.ts';

const calm: MemoryReading = {
  ...{ high: 3, max: 5, oom: 1, oomKill: 0, currentBytes: 2 ** 30, limitBytes: 2 ** 31, someAvg10: 0, fullAvg10: 0 },
};

interface Machine {
  readonly clock: SimClock;
  readonly watch: MachineWatch;
  memory: MemoryReading | undefined;
  lowest: number;
  doorsOpen: boolean;
  mayResume: boolean;
  readonly log: string[];
}

function machine(): Machine {
  const clock = new SimClock();
  const log: string[] = [];
  const note = (message: string): void => void log.push(message);
  const state = { clock, memory: calm as MemoryReading | undefined, lowest: 20, doorsOpen: true, mayResume: true, log };
  const watch = new MachineWatch({
    clock,
    logger: { debug: note, info: note, warn: note, error: note },
    readMemory: () => state.memory,
    lowestFreeDescriptor: () => state.lowest,
    descriptorLimit: 1000,
    pauseDoors: () => void (state.doorsOpen = false),
    resumeDoors: () => (state.doorsOpen = state.mayResume),
  });
  watch.start();
  return Object.assign(state, { watch });
}

describe('MachineWatch and the wall clock', () => {
  test('finds a jump forwards and one backwards, once each, and none in hours of ordinary time', async () => {
    const { clock, watch, log } = machine();
    await clock.advance(7_200_000);
    expect(watch.counts().clockJumps).toBe(0);
    clock.wallOffsetMs += 3_600_000;
    await clock.advance(5000);
    expect(watch.counts().clockJumps).toBe(1);
    clock.wallOffsetMs -= 7_200_000;
    await clock.advance(5000);
    expect(watch.counts().clockJumps).toBe(2);
    expect(log).toEqual([expect.stringMatching(/1 h forwards/), expect.stringMatching(/2 h backwards/)]);
    expect(watch.reasons()).toEqual([]);
  });

  test('takes no slow adjustment for a jump', async () => {
    const { clock, watch } = machine();
    for (let second = 0; second < 600; second += 1) {
      clock.wallOffsetMs += 1;
      await clock.advance(1000);
    }
    expect(watch.counts().clockJumps).toBe(0);
  });
});

describe('MachineWatch and memory', () => {
  test('says once that there is pressure, keeps saying so in health for a minute, and says when it is over', async () => {
    const state = machine();
    const { clock, watch, log } = state;
    await clock.advance(3000);
    state.memory = { ...calm, fullAvg10: 25 };
    await clock.advance(3000);
    expect(watch.reasons()).toEqual([expect.stringMatching(/^memory: .*25 %.*1 GiB of 2 GiB; lower --ram/)]);
    state.memory = calm;
    await clock.advance(50_000);
    expect(watch.reasons()).toHaveLength(1);
    await clock.advance(12_000);
    expect(watch.reasons()).toEqual([]);
    expect(log).toEqual([expect.stringMatching(/^Memory pressure: .*does not shrink/), 'Memory pressure is over']);
    watch.checkInvariants();
  });

  test('tells of a process that was killed and of an out-of-memory, whatever the averages say', async () => {
    for (const [field, said] of [
      ['oomKill', /killed for memory/],
      ['oom', /ran out of memory/],
    ] as const) {
      const state = machine();
      state.memory = { ...calm, [field]: calm[field] + 1 };
      await state.clock.advance(1000);
      expect(state.watch.reasons().join()).toMatch(said);
    }
  });

  test('takes a limit that is met for page cache alone for what it is', async () => {
    const state = machine();
    state.memory = { ...calm, max: 500, high: 70 };
    await state.clock.advance(5000);
    expect(state.watch.reasons()).toEqual([]);
    state.memory = { ...calm, max: 501, someAvg10: 15 };
    await state.clock.advance(1000);
    expect(state.watch.reasons().join()).toMatch(/at its limit/);
    expect(state.watch.counts().memoryEvents).toEqual({ high: 0, max: 496, oom: 0, oom_kill: 0 });
  });

  test('says nothing where the kernel tells nothing, or stops to', async () => {
    const state = machine();
    state.memory = undefined;
    await state.clock.advance(5000);
    expect(state.watch.reasons()).toEqual([]);
  });
});

describe('MachineWatch and descriptors', () => {
  test('closes the doors before none is left, and opens them when enough are free, by turns', async () => {
    const state = machine();
    for (const [lowest, open] of [
      [980, true],
      [985, false],
      [-1, false],
      [950, false],
      [936, true],
      [980, true],
      [-1, false],
      [500, true],
    ] as const) {
      state.lowest = lowest;
      await state.clock.advance(1000);
      expect([lowest, state.doorsOpen, state.watch.reasons().length]).toEqual([lowest, open, open ? 0 : 1]);
      state.watch.checkInvariants();
    }
    expect(state.watch.counts().doorPauses).toBe(2);
    expect(state.log).toHaveLength(4);
  });

  test('tries again where the doors do not open', async () => {
    const state = machine();
    state.lowest = -1;
    await state.clock.advance(1000);
    [state.lowest, state.mayResume] = [20, false];
    await state.clock.advance(3000);
    expect(state.watch.reasons()).toHaveLength(1);
    state.mayResume = true;
    await state.clock.advance(1000);
    expect([state.doorsOpen, state.watch.reasons()]).toEqual([true, []]);
  });

  test('knows how many connections a limit allows', () => {
    for (const count of [1, 7, 1024, 65_536]) expect(connectionsWithin(descriptorsFor(count))).toBe(count);
    expect(connectionsWithin(64)).toBe(1);
  });
});

describe('the probes of the host', () => {
  const root = mkdtempSync(join(tmpdir(), 'kvtier-cgroup-'));
  afterAll(() => rmSync(root, { recursive: true, force: true }));

  test('read the innermost group that has events', () => {
    mkdirSync(join(root, 'proc/self'), { recursive: true });
    mkdirSync(join(root, 'sys/fs/cgroup/a/b'), { recursive: true });
    writeFileSync(join(root, 'proc/self/cgroup'), '1:name=systemd:/x\n0::/a/b\n');
    expect(memoryReader(root)()).toBeUndefined();
    const folder = join(root, 'sys/fs/cgroup/a');
    writeFileSync(join(folder, 'memory.events'), 'low 0\nhigh 3\nmax 5\noom 1\noom_kill 2\noom_group_kill 9\n');
    expect(memoryReader(root)()).toEqual({
      ...{ high: 3, max: 5, oom: 1, oomKill: 2, currentBytes: 0, limitBytes: undefined, someAvg10: 0, fullAvg10: 0 },
    });
    writeFileSync(join(folder, 'memory.current'), '1073741824\n');
    writeFileSync(join(folder, 'memory.max'), '2147483648\n');
    const lines = ['some avg10=12.50 avg60=1.00 avg300=0.10 total=5', 'full avg10=3.25 avg60=0.00 avg300=0.00 total=4'];
    writeFileSync(join(folder, 'memory.pressure'), `${lines.join('\n')}\n`);
    expect(memoryReader(root)()).toMatchObject({ currentBytes: 2 ** 30, limitBytes: 2 ** 31, someAvg10: 12.5, fullAvg10: 3.25 });
    writeFileSync(join(folder, 'memory.max'), 'max\n');
    expect(memoryReader(root)()).toMatchObject({ limitBytes: undefined });
  });

  test('tell the limit of open files and a descriptor that is free', () => {
    const limit = descriptorLimit();
    expect(limit.soft).toBeGreaterThan(0);
    expect(limit.hard).toBeGreaterThanOrEqual(limit.soft);
    expect(raiseDescriptorLimit(1)).toEqual(limit);
    expect(raiseDescriptorLimit(Number.MAX_SAFE_INTEGER).soft).toBe(limit.hard);
    expect(lowestFreeDescriptor()).toBeGreaterThan(2);
    expect(lowestFreeDescriptor()).toBeLessThan(limit.hard);
  });
});
