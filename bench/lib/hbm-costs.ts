/**
 * What copies cost the main thread. But for `awaitedCost` on an emulator that ends them only when it is told to (`manual=1`): the clock of
 * the thread runs while the binding works and stands while the emulator does.
 */
import { CopyEngine } from '#cuda/copy-engine.ts';
import type { Event, Stream } from '#cuda/driver.ts';
import { CUDA_ERROR_NOT_READY, CUDA_SUCCESS } from '#cuda/status.ts';
import type { DeviceCopy } from '#ports/device-memory.ts';
import { PLACES, type HbmRig, type RigDevice } from './hbm-rig.ts';
import { median } from './stats.ts';
import { threadCpuUs } from './thread-clock.ts';

export type CopyShape =
  /** One `copy` call with one copy each. */
  | 'calls'
  /** One `copy` call with all of them. */
  | 'list';

interface CostRun {
  /** Copies in flight at once; 1: one after the other. */
  readonly inFlight: number;
  readonly shape: CopyShape;
  /** Copies that are measured; as many are made before. */
  readonly copies: number;
}

/** Microseconds of the main thread for one copy: of ours from `copy` to its settled promise, and of the driver's calls in that alone. */
export interface CopyCost {
  readonly oursUs: number;
  readonly driverUs: number;
}

const ROUNDS = 5;
const directions = ['to-device', 'to-host'] as const;

function firstOf(rig: HbmRig): RigDevice {
  const [first] = rig.devices;
  if (first === undefined) throw new Error('The emulated machine has no device');
  return first;
}

function wave(rig: HbmRig, { base }: RigDevice, { inFlight, shape }: CostRun): DeviceCopy[] {
  // A list goes one way, as copies of one call do.
  return Array.from({ length: inFlight }, (_, index) =>
    rig.copy(shape === 'list' ? 'to-device' : (directions[index % 2] ?? 'to-host'), base, index),
  );
}

function step(rig: HbmRig, copies: number): void {
  const stepped = rig.control.step(copies);
  if (stepped !== copies) throw new Error(`The emulator ended ${stepped} copies of ${copies}`);
}

/** Rounds of ours and of the driver alone by turns; medians. */
export async function copyCost(rig: HbmRig, run: CostRun): Promise<CopyCost> {
  const plain = new PlainCalls(rig);
  const ours: number[] = [];
  const driver: number[] = [];
  for (let round = -1; round < ROUNDS; round += 1) {
    const waves = Math.ceil(run.copies / run.inFlight / (round < 0 ? 1 : ROUNDS));
    const [engineUs, callsUs] = [await engineRound(rig, run, waves), plain.round(run, waves)];
    if (round < 0) continue; // for the compiler
    ours.push(engineUs / (waves * run.inFlight));
    driver.push(callsUs / (waves * run.inFlight));
  }
  plain.end();
  return { oursUs: median(ours), driverUs: median(driver) };
}

async function engineRound(rig: HbmRig, run: CostRun, waves: number): Promise<number> {
  const first = firstOf(rig);
  let totalUs = 0;
  for (let at = 0; at < waves; at += 1) {
    const copies = wave(rig, first, run);
    const startedUs = threadCpuUs();
    const promises = run.shape === 'list' ? [first.device.copy(copies)] : copies.map((copy) => first.device.copy([copy]));
    totalUs += threadCpuUs() - startedUs;
    step(rig, copies.length);
    const readyUs = threadCpuUs();
    const outcomes = await Promise.all(promises);
    totalUs += threadCpuUs() - readyUs;
    for (const outcome of outcomes) if (!outcome.ok) throw new Error(outcome.message);
  }
  return totalUs;
}

/** The calls that one copy needs of any program: two marks, the copy, one question, the time between the marks. */
class PlainCalls {
  readonly #rig: HbmRig;
  readonly #streams: Stream[] = [];
  readonly #events: Event[] = [];

  constructor(rig: HbmRig) {
    this.#rig = rig;
    const { driver } = rig.memory;
    driver.setCurrent(firstOf(rig).context);
    for (let index = 0; index < directions.length; index += 1) {
      driver.createStream();
      this.#streams.push(driver.value as Stream);
    }
  }

  #event(index: number): Event {
    const { driver } = this.#rig.memory;
    while (this.#events.length <= index) {
      driver.createEvent();
      this.#events.push(driver.value as Event);
    }
    return this.#events[index] as Event;
  }

  round(run: CostRun, waves: number): number {
    const { driver } = this.#rig.memory;
    const first = firstOf(this.#rig);
    const marks = run.shape === 'list' ? 1 : run.inFlight;
    this.#event(2 * marks);
    let totalUs = 0;
    driver.setCurrent(first.context);
    for (let at = 0; at < waves; at += 1) {
      const copies = wave(this.#rig, first, run);
      const startedUs = threadCpuUs();
      if (run.shape === 'list') this.#list(copies);
      else for (const [index, copy] of copies.entries()) this.#one(copy, index);
      totalUs += threadCpuUs() - startedUs;
      step(this.#rig, copies.length);
      const readyUs = threadCpuUs();
      for (let mark = 0; mark < marks; mark += 1) {
        const [start, end] = [this.#event(2 * mark), this.#event(2 * mark + 1)];
        if (driver.queryEvent(end) !== CUDA_SUCCESS || driver.elapsed(start, end) !== CUDA_SUCCESS) throw new Error('A copy is not done');
      }
      totalUs += threadCpuUs() - readyUs;
    }
    return totalUs;
  }

  #one(copy: DeviceCopy, index: number): void {
    const { driver } = this.#rig.memory;
    const stream = this.#streams[index % this.#streams.length] as Stream;
    driver.record(this.#event(2 * index), stream);
    if (copy.direction === 'to-device') driver.copyToDevice(copy.to, copy.from, copy.sizeBytes, stream);
    else if (copy.direction === 'to-host') driver.copyToHost(copy.to, copy.from, copy.sizeBytes, stream);
    driver.record(this.#event(2 * index + 1), stream);
  }

  #list(copies: readonly DeviceCopy[]): void {
    const { driver } = this.#rig.memory;
    const stream = this.#streams[0] as Stream;
    driver.record(this.#event(0), stream);
    for (const [row, copy] of copies.entries()) driver.setBatchRow(row, copy.to, copy.from, copy.sizeBytes);
    driver.copyBatch(copies.length, stream);
    driver.record(this.#event(1), stream);
  }

  end(): void {
    const { driver } = this.#rig.memory;
    driver.setCurrent(firstOf(this.#rig).context);
    for (const event of this.#events) driver.destroyEvent(event);
    for (const stream of this.#streams) driver.destroyStream(stream);
  }
}

/** Microseconds of one poll that finds nothing done, with so many copies in flight; and of the questions to the driver in it. */
export function pollCost(rig: HbmRig, inFlight: number, polls: number): { readonly oursUs: number; readonly driverUs: number } {
  const { driver } = rig.memory;
  const first = firstOf(rig);
  const engine = new CopyEngine(driver, first.context, {
    inFlightLimit: inFlight,
    stuckMs: 600_000,
    isRegistered: () => true,
    onLost: () => undefined,
    onWork: () => undefined,
  });
  driver.setCurrent(first.context);
  const failure = engine.open();
  if (failure !== undefined) throw new Error(failure.message);
  for (let at = 0; at < inFlight; at += 1) void engine.copy([rig.copy(directions[at % 2] ?? 'to-host', first.base, at)]);
  // An event that is not reached, asked once for each stream that has something: what any program would have to ask.
  driver.createStream();
  const stream = driver.value as Stream;
  driver.createEvent();
  const event = driver.value as Event;
  const last = rig.copy('to-host', first.base, inFlight);
  if (last.direction === 'to-host') driver.copyToHost(last.to, last.from, last.sizeBytes, stream);
  driver.record(event, stream);
  const questions = Math.min(inFlight, 4);
  const ours: number[] = [];
  const plain: number[] = [];
  for (let round = -1; round < ROUNDS; round += 1) {
    const startedUs = threadCpuUs();
    for (let at = 0; at < polls; at += 1) if (engine.poll(64) !== 0) throw new Error('A copy is done before it was told to be');
    const betweenUs = threadCpuUs();
    for (let at = 0; at < polls * questions; at += 1) if (driver.queryEvent(event) !== CUDA_ERROR_NOT_READY) throw new Error('Reached');
    if (round < 0) continue;
    ours.push((betweenUs - startedUs) / polls);
    plain.push((threadCpuUs() - betweenUs) / polls);
  }
  step(rig, inFlight + 1);
  while (engine.lively > 0) engine.poll(inFlight);
  driver.destroyEvent(event);
  driver.destroyStream(stream);
  engine[Symbol.dispose]();
  return { oursUs: median(ours), driverUs: median(plain) };
}

/** Percent of the main thread that waiting for so many copies takes, none of which gets done; and what a timer of 1 ms takes alone. */
export async function waitShare(rig: HbmRig, inFlight: number, waitMs: number): Promise<{ readonly ours: number; readonly timer: number }> {
  const first = firstOf(rig);
  const share = async (): Promise<number> => {
    const [startedMs, startedUs] = [performance.now(), threadCpuUs()];
    await Bun.sleep(waitMs);
    return (threadCpuUs() - startedUs) / 10 / (performance.now() - startedMs);
  };
  const ticks = setInterval(() => undefined, 1);
  const timer = await share();
  clearInterval(ticks);
  const promises = wave(rig, first, { inFlight, shape: 'calls', copies: inFlight }).map((copy) => first.device.copy([copy]));
  await Bun.sleep(20); // past the part that looks in each turn
  const ours = await share();
  step(rig, inFlight);
  await Promise.all(promises);
  return { ours, timer };
}

/** Microseconds of the main thread for one copy that is awaited while nothing else happens, for one turn of that, and for an empty turn. */
export async function awaitedCost(
  rig: HbmRig,
  copies: number,
): Promise<{ readonly copyUs: number; readonly turnUs: number; readonly emptyTurnUs: number }> {
  const { device, base } = firstOf(rig);
  const [turns, startedUs] = [rig.memory.poller.turns, threadCpuUs()];
  for (let at = 0; at < copies; at += 1) {
    const outcome = await device.copy([rig.copy(directions[at % 2] ?? 'to-host', base, at % PLACES)]);
    if (!outcome.ok) throw new Error(outcome.message);
  }
  const betweenUs = threadCpuUs();
  const looked = rig.memory.poller.turns - turns;
  for (let at = 0; at < looked; at += 1) await new Promise((resolve) => setImmediate(resolve));
  const endedUs = threadCpuUs();
  return {
    copyUs: (betweenUs - startedUs) / copies,
    turnUs: (betweenUs - startedUs) / looked,
    emptyTurnUs: (endedUs - betweenUs) / looked,
  };
}
