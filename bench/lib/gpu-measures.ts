/** What `check:gpu` measures on a card: bandwidth by direction and size, pinning, what a context takes, what a poll costs. */
import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import type { Address, DevicePtr } from '#core/brand.ts';
import { formatBytes, GiB, MiB } from '#core/bytes.ts';
import { CopyEngine } from '#cuda/copy-engine.ts';
import { CudaDevice } from '#cuda/cuda-device.ts';
import type { CudaDriver, Event, Stream } from '#cuda/driver.ts';
import { CUDA_ERROR_NOT_READY, CUDA_SUCCESS } from '#cuda/status.ts';
import type { CudaMemory } from '#cuda/open-cuda-memory.ts';
import type { Device, DeviceCopy } from '#ports/device-memory.ts';
import { okay } from '#testsupport/device-results.ts';
import { HostMemory } from '#testsupport/host-memory.ts';
import { lastWords } from '#testsupport/second-process.ts';
import type { GpuSubject } from './gpu-subject.ts';
import { compare, type BenchCase } from './report.ts';
import { alternate, median } from './stats.ts';

/** As the cache has it (node-agent/gpus.ts). */
const COPIES_AT_ONCE = 4;
const CHUNK_SIZES = [1, 2, 4, 8, 16, 32, 64, 128].map((size) => size * MiB);
/** Of what one large copy reaches: wanted from this size on. */
const TARGET = { fromBytes: 8 * MiB, percent: 95 } as const;
const MEASURE_MS = { smoke: 10, real: 200 } as const;
const ROUNDS = { smoke: 1, real: 5 } as const;
const LARGE_BYTES = { smoke: 32 * MiB, real: 1 * GiB } as const;
const PAGE_BYTES = 4096;
const POLL_BUDGET = 64;
const STUCK_MS = 30_000;
const CHILD_LIMIT_MS = 60_000;

type Direction = DeviceCopy['direction'];
const directions: readonly Direction[] = ['to-device', 'to-host', 'on-device'];

export interface Measured {
  readonly cases: readonly BenchCase[];
  /** What a reader has to know beside the numbers. */
  readonly notes: readonly string[];
}

interface Options {
  readonly smoke: boolean;
}

const pick = <T>({ smoke }: Options, by: { readonly smoke: T; readonly real: T }): T => (smoke ? by.smoke : by.real);

/** Memory on all ends, the same for the large copy and for the chunks. */
interface Ground {
  readonly host: HostMemory;
  readonly first: DevicePtr;
  readonly second: DevicePtr;
  readonly sizeBytes: number;
}

/**
 * Chunks, four copies in flight, beside one large copy. A chunk's time is that of the wall, from the first submission to the last completion
 * seen, as the tier would have it; that of the large copy is the device's own, which no late look at it makes longer.
 */
export async function measureBandwidth(memory: CudaMemory, device: Device, options: Options): Promise<Measured> {
  const sizeBytes = largeBytes(okay(device.memory()).freeBytes, options);
  using host = new HostMemory(sizeBytes).fillRandom();
  okay(await memory.registerHost(host.address, host.sizeBytes));
  try {
    const [first, second] = [okay(device.allocate(sizeBytes)).pointer, okay(device.allocate(sizeBytes)).pointer];
    const measured = await measureDirections(device, { host, first, second, sizeBytes }, options);
    for (const pointer of [first, second]) okay(device.free(pointer));
    return measured;
  } finally {
    await memory.unregisterHost(host.address);
  }
}

async function measureDirections(device: Device, ground: Ground, options: Options): Promise<Measured> {
  const { sizeBytes } = ground;
  // Copies in flight never meet: a chunk's place is another's only four copies later.
  const sizes = CHUNK_SIZES.filter((size) => size * COPIES_AT_ONCE <= sizeBytes);
  const peerName = `one copy of ${formatBytes(sizeBytes)}`;
  const cases: BenchCase[] = [];
  const notes: string[] = [];
  if (sizeBytes < LARGE_BYTES.real)
    notes.push(`the large copy has ${formatBytes(sizeBytes)}, and chunks that fit into it four times were measured`);
  for (const direction of directions) {
    // The first one touches what nobody has touched.
    await largeCopy(device, direction, ground);
    for (const chunkBytes of sizes) {
      const { ours, peer } = await alternate(pick(options, ROUNDS), {
        ours: () => chunkCopies(device, direction, { ground, chunkBytes, limitMs: pick(options, MEASURE_MS) }),
        peer: () => largeCopy(device, direction, ground),
      });
      const name = `${direction} ${formatBytes(chunkBytes)}, ${COPIES_AT_ONCE} in flight`;
      const rates = { ours: median(ours) / 1e9, peer: median(peer) / 1e9 };
      const row = compare({ case: name, unit: 'GB/s', better: 'higher', ...rates, peerName });
      cases.push(row);
      const percent = row.ratio * 100;
      if (chunkBytes >= TARGET.fromBytes && percent < TARGET.percent)
        notes.push(`under the target: ${name}: ${percent.toFixed(1)} % of ${peerName}, target ${TARGET.percent} %`);
    }
  }
  return { cases, notes };
}

/** Two of them fit on the card, with half of what is free left. */
function largeBytes(freeBytes: number, options: Options): number {
  let sizeBytes = pick(options, LARGE_BYTES);
  while (sizeBytes * 4 > freeBytes) sizeBytes /= 2;
  assert.ok(sizeBytes >= 4 * MiB, `${freeBytes} bytes are free on the card: too little to measure anything`);
  return sizeBytes;
}

function copyOf(
  direction: Direction,
  { host, first, second }: Ground,
  place: { readonly offset: number; readonly sizeBytes: number },
): DeviceCopy {
  const { offset, sizeBytes } = place;
  const [from, to] = [(first + offset) as DevicePtr, (second + offset) as DevicePtr];
  if (direction === 'to-device') return { direction, from: host.at(offset), to: from, sizeBytes };
  if (direction === 'to-host') return { direction, from, to: host.at(offset), sizeBytes };
  return { direction, from, to, sizeBytes };
}

/** Bytes per second by the device's clock. */
async function largeCopy(device: Device, direction: Direction, ground: Ground): Promise<number> {
  const { sizeBytes } = ground;
  const { elapsedMs } = okay(await device.copy([copyOf(direction, ground, { offset: 0, sizeBytes })]));
  return sizeBytes / (elapsedMs / 1000);
}

/** Bytes per second by the clock of this process. */
async function chunkCopies(
  device: Device,
  direction: Direction,
  options: { readonly ground: Ground; readonly chunkBytes: number; readonly limitMs: number },
): Promise<number> {
  const { ground, chunkBytes, limitMs } = options;
  const places = Math.floor(ground.sizeBytes / chunkBytes);
  let copies = 0;
  const startedAt = performance.now();
  const lane = async (): Promise<void> => {
    while (copies < COPIES_AT_ONCE || performance.now() - startedAt < limitMs) {
      const offset = (copies % places) * chunkBytes;
      copies += 1;
      okay(await device.copy([copyOf(direction, ground, { offset, sizeBytes: chunkBytes })]));
    }
  };
  // All to their ends: what is in flight has its memory until then.
  for (const ended of await Promise.allSettled(Array.from({ length: COPIES_AT_ONCE }, lane)))
    if (ended.status === 'rejected') throw ended.reason;
  return (copies * chunkBytes) / ((performance.now() - startedAt) / 1000);
}

/** Fresh pages are touched, then pinned, as an arena is that has its memory. */
export async function measurePinning(memory: CudaMemory, options: Options): Promise<Measured> {
  const sizeBytes = pick(options, LARGE_BYTES);
  const touches: number[] = [];
  const pins: number[] = [];
  for (let round = 0; round < pick(options, ROUNDS); round += 1) {
    using host = new HostMemory(sizeBytes);
    const startedAt = performance.now();
    for (let offset = 0; offset < sizeBytes; offset += PAGE_BYTES) host.bytes[offset] = 1;
    touches.push(performance.now() - startedAt);
    pins.push(okay(await memory.registerHost(host.address, sizeBytes)).elapsedMs);
    okay(await memory.unregisterHost(host.address));
  }
  const perGiB = (samples: readonly number[]): number => median(samples) * (GiB / sizeBytes);
  const row = compare({
    case: 'pinning host memory that is there',
    unit: 'ms/GiB',
    better: 'lower',
    ours: perGiB(pins),
    peer: perGiB(touches),
    peerName: 'first touch of its pages',
  });
  return { cases: [row], notes: [] };
}

/** Free memory of the card, as the context of this process sees it, before and while a second process has one of its own. */
export async function measureContext(subject: GpuSubject, device: Device): Promise<Measured> {
  const before = okay(device.memory());
  const program = fileURLToPath(new URL('gpu-context-child.ts', import.meta.url));
  const child = Bun.spawn([process.execPath, program, subject.driverPath], {
    env: { ...process.env, ...subject.environment },
    timeout: CHILD_LIMIT_MS,
    stdin: 'pipe',
    stdout: 'pipe',
    stderr: 'pipe',
  });
  const { value } = await child.stdout.getReader().read();
  const during = okay(device.memory());
  await child.stdin.end();
  const errors = await new Response(child.stderr).text();
  assert.equal(await child.exited, 0, `the second process failed: ${lastWords(errors)}`);
  assert.equal(new TextDecoder().decode(value).trim(), 'open');
  const takenBytes = before.freeBytes - during.freeBytes;
  if (takenBytes <= 0) return { cases: [], notes: ['what a context takes cannot be told: other programs gave memory back meanwhile'] };
  const row = compare({
    case: 'card memory that a context takes',
    unit: 'MiB',
    better: 'lower',
    ours: takenBytes / MiB,
    peer: before.totalBytes / MiB,
    peerName: 'the whole card',
  });
  return { cases: [row], notes: [] };
}

/** Looks at one large copy in flight until it is done, on nothing but that: what a look costs the main thread. */
export async function measurePoll(memory: CudaMemory, device: Device, options: Options): Promise<Measured> {
  assert.ok(device instanceof CudaDevice, 'a device of the binding');
  const sizeBytes = largeBytes(okay(device.memory()).freeBytes, options);
  using host = new HostMemory(sizeBytes);
  okay(await memory.registerHost(host.address, host.sizeBytes));
  const { pointer } = okay(device.allocate(sizeBytes));
  const { driver } = memory;
  const copy = { from: host.address, to: pointer, sizeBytes };
  try {
    const samples = await alternate(pick(options, ROUNDS), {
      ours: () => pollEngine(device, driver, copy),
      peer: () => pollDriver(driver, copy),
    });
    const row = compare({
      case: 'a poll that finds nothing done',
      unit: 'us',
      better: 'lower',
      ours: median(samples.ours),
      peer: median(samples.peer),
      peerName: 'cuEventQuery alone',
    });
    return { cases: [row], notes: [] };
  } finally {
    await memory.unregisterHost(host.address);
    device.free(pointer);
  }
}

interface LargeCopy {
  readonly from: Address;
  readonly to: DevicePtr;
  readonly sizeBytes: number;
}

/** Microseconds a poll of a copy engine with one copy in flight. */
async function pollEngine(device: CudaDevice, driver: CudaDriver, copy: LargeCopy): Promise<number> {
  using engine = new CopyEngine(driver, device.context, {
    inFlightLimit: COPIES_AT_ONCE,
    stuckMs: STUCK_MS,
    isRegistered: () => true,
    onLost: () => undefined,
    onWork: () => undefined,
  });
  const failure = engine.open();
  if (failure !== undefined) throw new Error(failure.message);
  const done = engine.copy([{ direction: 'to-device', ...copy }]);
  let polls = 0;
  const startedAt = performance.now();
  for (; engine.lively > 0; polls += 1) engine.poll(POLL_BUDGET);
  const elapsedMs = performance.now() - startedAt;
  okay(await done);
  return (elapsedMs * 1000) / polls;
}

/** Microseconds a query of the event behind the same copy, with nothing of ours around the call. */
function pollDriver(driver: CudaDriver, { from, to, sizeBytes }: LargeCopy): number {
  const well = (status: number, call: string): void => {
    if (status !== CUDA_SUCCESS) throw new Error(driver.failure(status, call).message);
  };
  well(driver.createStream(), 'cuStreamCreate()');
  const stream = driver.value as Stream;
  well(driver.createEvent(), 'cuEventCreate()');
  const event = driver.value as Event;
  try {
    well(driver.copyToDevice(to, from, sizeBytes, stream), `cuMemcpyHtoDAsync(${sizeBytes})`);
    well(driver.record(event, stream), 'cuEventRecord()');
    let polls = 1;
    const startedAt = performance.now();
    let status = driver.queryEvent(event);
    for (; status === CUDA_ERROR_NOT_READY; polls += 1) status = driver.queryEvent(event);
    const elapsedMs = performance.now() - startedAt;
    well(status, 'cuEventQuery()');
    return (elapsedMs * 1000) / polls;
  } finally {
    driver.destroyEvent(event);
    driver.destroyStream(stream);
  }
}
