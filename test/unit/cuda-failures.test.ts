/**
 * The CUDA binding when the driver says no: each function in turn, at each of its calls in a run that uses everything. Whatever fails, nothing
 * is leaked, nothing is misused, and a copy that says that it is done has brought the right bytes.
 */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { DevicePtr } from '#core/brand.ts';
import { isSticky } from '#cuda/status.ts';
import { openCudaMemory, type CudaMemory } from '#cuda/open-cuda-memory.ts';
import type { Device, DeviceCopy } from '#ports/device-memory.ts';
import { privateEmulator, type PrivateEmulator } from '#testsupport/cuda-emulator.ts';
import { okay, same } from '#testsupport/device-results.ts';
import { HostMemory } from '#testsupport/host-memory.ts';

const MiB = 1024 ** 2;
const PIECE = 64 * 1024;
const PIECES = 6;
const INVALID_VALUE = 1;
const nothingAlive = { contexts: 0, allocations: 0, imports: 0, streams: 0, events: 0, registrations: 0 };

let emulator: PrivateEmulator;
beforeAll(async () => {
  emulator = await privateEmulator();
});
afterAll(() => emulator.dispose());

const path = (): string => emulator.control.libraryPath;

interface Outcome {
  /** Undefined: the copies were all done, and this says whether the bytes were right. */
  readonly right: boolean | undefined;
  readonly failures: readonly string[];
}

/** Opens, pins, allocates, copies in every direction, exports, frees and closes; goes on after a failure as far as it makes sense. */
async function useEverything(memory: CudaMemory): Promise<Outcome> {
  using source = new HostMemory(PIECE * PIECES);
  using target = new HostMemory(PIECE * PIECES);
  source.fillRandom();
  const failures: string[] = [];
  const note = <T extends { readonly ok: boolean }>(result: T): T => {
    if (!result.ok && 'message' in result) failures.push(String(result.message));
    memory.checkInvariants();
    return result;
  };
  let right: boolean | undefined;
  const device = memory.open(0);
  if ('ok' in device) {
    note(device);
  } else {
    for (const host of [source, target]) note(await memory.registerHost(host.address, host.sizeBytes));
    note(device.memory());
    const [first, second] = [note(device.allocate(PIECE * PIECES)), note(device.allocate(PIECE * PIECES))];
    if (first.ok && second.ok) {
      right = await roundTrip(device, { first: first.pointer, second: second.pointer, source, target, note });
      note(device.exportHandle(first.pointer));
      note(device.free(first.pointer));
    }
    note(await memory.unregisterHost(source.address));
  }
  await memory.close();
  memory.checkInvariants();
  return { right, failures };
}

interface Places {
  readonly first: DevicePtr;
  readonly second: DevicePtr;
  readonly source: HostMemory;
  readonly target: HostMemory;
  readonly note: (result: { readonly ok: boolean }) => { readonly ok: boolean };
}

async function roundTrip(device: Device, { first, second, source, target, note }: Places): Promise<boolean | undefined> {
  const rows = Array.from({ length: PIECES }, (_, index) => index * PIECE);
  const each = (make: (offset: number) => DeviceCopy): Promise<boolean[]> =>
    Promise.all(rows.map(async (offset) => note(await device.copy([make(offset)])).ok));
  const down = note(
    await device.copy(
      rows.map((offset) => ({ direction: 'to-device', from: source.at(offset), to: (first + offset) as DevicePtr, sizeBytes: PIECE })),
    ),
  );
  const across = note(await device.copy([{ direction: 'on-device', from: first, to: second, sizeBytes: PIECE * PIECES }]));
  const up = await each((offset) => ({
    direction: 'to-host',
    from: (second + offset) as DevicePtr,
    to: target.at(offset),
    sizeBytes: PIECE,
  }));
  return down.ok && across.ok && up.every((done) => done) ? same(target.bytes, source.bytes) : undefined;
}

/** Runs it on a machine of its own with one call refused. Undefined where even the start was. */
async function withRefusal(name: string, nth: number, code = INVALID_VALUE): Promise<Outcome | undefined> {
  const { control } = emulator;
  control.start('devices=1,capacity=128M,latency_us=5,jitter_us=5');
  control.inject(name, code, { nth });
  const memory = openCudaMemory({ driverPath: path(), kind: 'emulated' });
  const outcome = 'reason' in memory ? undefined : await useEverything(memory);
  const { violations, leaks, alive, texts } = control.report();
  control.stop();
  const where = `${name}, call ${nth}`;
  expect([where, violations, texts]).toEqual([where, {}, []]);
  // What a lost context had goes with it: it takes nothing back.
  expect([where, isSticky(code) ? {} : leaks, alive]).toEqual([where, {}, {}]);
  if (!('reason' in memory)) expect([where, memory.alive]).toEqual([where, nothingAlive]);
  expect([where, outcome?.right ?? true]).toEqual([where, true]);
  return outcome;
}

describe('one refused call leaks nothing and lets no wrong byte pass', () => {
  // Text of an error and what only other programs call are not on the way of a run in which all goes well.
  const names = [
    'cuInit cuDriverGetVersion cuDeviceGetCount cuDeviceGet cuDeviceGetName cuDeviceGetUuid cuDeviceGetUuid_v2 cuDeviceGetPCIBusId',
    'cuDeviceTotalMem_v2 cuDeviceGetAttribute cuDevicePrimaryCtxRetain cuDevicePrimaryCtxRelease_v2 cuCtxSetCurrent cuMemGetInfo_v2',
    'cuMemAlloc_v2 cuMemFree_v2 cuMemHostRegister_v2 cuMemHostUnregister cuStreamCreate cuStreamDestroy_v2 cuEventCreate cuEventDestroy_v2',
    'cuEventRecord cuEventQuery cuEventElapsedTime cuMemcpyDtoHAsync_v2 cuMemcpyDtoDAsync_v2 cuMemcpyBatchAsync cuIpcGetMemHandle',
  ].flatMap((line) => line.split(' '));
  let calls: Readonly<Record<string, number>>;
  beforeAll(async () => {
    const { control } = emulator;
    control.start('devices=1,capacity=128M,latency_us=5,jitter_us=5');
    const memory = openCudaMemory({ driverPath: path(), kind: 'emulated' });
    if ('reason' in memory) throw new Error(memory.reason);
    expect(await useEverything(memory)).toEqual({ right: true, failures: [] });
    const report = control.report();
    calls = report.calls;
    control.stop();
    expect([report.violations, report.lint, report.leaks]).toEqual([{}, {}, {}]);
    expect(Object.keys(calls).filter((name) => !names.includes(name))).toEqual([]);
  });

  for (const name of names) {
    test(name, async () => {
      const count = Math.min(calls[name] ?? 0, 16);
      expect(count).toBeGreaterThan(0);
      for (let nth = 1; nth <= count; nth += 1) await withRefusal(name, nth);
    });
  }
});

describe('a loss that a call tells of', () => {
  const first = ['cuMemcpyBatchAsync', 'cuMemGetInfo_v2'];
  for (const name of ['cuEventRecord', 'cuEventQuery', 'cuMemcpyDtoHAsync_v2', 'cuMemAlloc_v2', ...first]) {
    test(`by ${name} ends what is in flight and leaves nothing alive`, async () => {
      const outcome = await withRefusal(name, first.includes(name) ? 1 : 2, 719);
      expect(outcome?.failures.join()).toContain('CUDA_ERROR_LAUNCH_FAILED (719)');
      expect(outcome?.right).toBeUndefined();
    });
  }
});

describe('a device that does not answer', () => {
  let memory: CudaMemory;
  let device: Device;
  let host: HostMemory;
  beforeEach(() => {
    emulator.control.start('devices=1,capacity=128M,manual=1');
    const opened = openCudaMemory({ driverPath: path(), kind: 'emulated', stuckMs: 50 });
    if ('reason' in opened) throw new Error(opened.reason);
    memory = opened;
    const first = memory.open(0);
    if ('ok' in first) throw new Error(first.message);
    device = first;
    host = new HostMemory(MiB).fillRandom();
  });
  afterEach(async () => {
    memory.checkInvariants();
    emulator.control.options('manual=0');
    await memory.close();
    emulator.control.stop();
    host[Symbol.dispose]();
  });
  const copyDown = (): ReturnType<Device['copy']> => {
    const { pointer } = okay(device.allocate(MiB));
    return device.copy([{ direction: 'to-device', from: host.address, to: pointer, sizeBytes: MiB }]);
  };

  test('counts as lost after its time, and tells later that the copy was done after all', async () => {
    const outcome = await copyDown();
    expect(outcome).toMatchObject({ ok: false, code: -1, name: 'KVTIER_COPY_STUCK', lost: true });
    expect(device.lost).toMatchObject({ name: 'KVTIER_COPY_STUCK' });
    expect(device.copiesInFlight).toBe(0);
    emulator.control.step(1);
    expect(await (outcome.ok ? undefined : outcome.late)).toBe(true);
  });

  test('counts as lost when it answers nonsense again and again', async () => {
    emulator.control.inject('cuEventQuery', 999, { times: 1000 });
    const outcome = await copyDown();
    expect(outcome).toMatchObject({ ok: false, name: 'KVTIER_DEVICE_SILENT', lost: true });
    expect(outcome.ok ? '' : outcome.message).toContain('CUDA_ERROR_UNKNOWN (999)');
    emulator.control.clearInjections();
    emulator.control.step(1);
    expect(await (outcome.ok ? undefined : outcome.late)).toBe(true);
  });

  test('keeps what a stuck copy may write to, instead of freeing it under the engine', async () => {
    await copyDown();
    await memory.close();
    expect(memory.alive).toMatchObject({ contexts: 1, allocations: 1 });
    expect(emulator.control.report().violations).toEqual({});
  });
});
