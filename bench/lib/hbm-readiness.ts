/**
 * When copies settle that get ready in random order: many in flight over many streams, each as late as a lot says. The driver's own clock
 * tells when the mark behind a copy was passed, against a mark whose moment is known here; the rest is how long nobody had looked.
 *
 * The listener stands where the binding asks the driver for a copy's time, which is once a copy, right before its promise is resolved.
 */
import type { Polled } from '#cuda/completion-poller.ts';
import type { CudaDriver, Event, Stream } from '#cuda/driver.ts';
import { CUDA_SUCCESS } from '#cuda/status.ts';
import type { HbmRig, RigDevice } from './hbm-rig.ts';
import { randomBelow, seededRng } from './random.ts';
import { threadCpuUs } from './thread-clock.ts';

const directions = ['to-device', 'to-host', 'on-device'] as const;
const TRIES = 200;

export interface Readiness {
  /** Ms from a copy's being ready to the moment at which whoever waits for it goes on; in the order in which that happened. */
  readonly delaysMs: readonly number[];
  /** Ms by which a copy that was ready later had gone on before; 0 where none had. */
  readonly overtakenMs: readonly number[];
  /** Looks of the poller that ended while it was ready and not found: one where it got ready while the look ran, behind its own question. */
  readonly passedOver: readonly number[];
  /** Half of the time in which the known moment lies. */
  readonly uncertaintyMs: number;
  /** Of the main thread for one copy, issue and looks and completion and the listening: us. */
  readonly cpuUs: number;
  readonly copiesPerSecond: number;
}

/** A mark of one device that was passed at a moment that is known. */
interface Origin {
  readonly event: Event;
  readonly stream: Stream;
  readonly atMs: number;
  readonly uncertaintyMs: number;
}

/** Of many marks the one that was seen passed soonest after it was made. */
function originOf(driver: CudaDriver, { context }: RigDevice): Origin {
  driver.setCurrent(context);
  driver.createStream();
  const stream = driver.value as Stream;
  let best: Origin | undefined;
  for (let at = 0; at < TRIES; at += 1) {
    driver.createEvent();
    const event = driver.value as Event;
    const madeMs = performance.now();
    driver.record(event, stream);
    while (driver.queryEvent(event) !== CUDA_SUCCESS);
    const seenMs = performance.now();
    const uncertaintyMs = (seenMs - madeMs) / 2;
    const worse = best !== undefined && uncertaintyMs >= best.uncertaintyMs ? event : best?.event;
    if (worse !== undefined) driver.destroyEvent(worse);
    if (worse !== event) best = { event, stream, atMs: madeMs + uncertaintyMs, uncertaintyMs };
  }
  if (best === undefined) throw new Error('There is no mark');
  return best;
}

/** Keeps `inFlight` copies under way until `copies` have been made. Throws where one is lost, or settles twice, or none comes any more. */
export async function readiness(
  rig: HbmRig,
  run: { readonly inFlight: number; readonly copies: number; readonly seed: number },
): Promise<Readiness> {
  const { driver } = rig.memory;
  const origins = rig.devices.map((device) => originOf(driver, device));
  const readyMs: number[] = [];
  const foundMs: number[] = [];
  const elapsed = driver.elapsed.bind(driver);
  driver.elapsed = (start, end) => {
    // Marks of two devices have no time between them, so that only its own device's origin answers.
    const origin = origins.find(({ event }) => elapsed(event, end) === CUDA_SUCCESS);
    if (origin === undefined) throw new Error('A copy that is done has no moment');
    readyMs.push(origin.atMs + driver.elapsedMs);
    foundMs.push(performance.now());
    return elapsed(start, end);
  };
  const rng = seededRng(run.seed);
  const settledMs: number[] = [];
  let issued = 0;
  const lookedMs: number[] = [];
  // Behind the devices, so that it is asked when they have been.
  const witness: Polled = {
    lively: 1,
    stuck: 0,
    poll: () => {
      lookedMs.push(performance.now());
      return 0;
    },
  };
  rig.memory.poller.add(witness);
  const one = async (_: unknown, place: number): Promise<void> => {
    while (issued < run.copies) {
      issued += 1;
      const device = rig.devices[randomBelow(rng, rig.devices.length)] as RigDevice;
      const direction = directions[randomBelow(rng, directions.length)] as (typeof directions)[number];
      const outcome = await device.device.copy([rig.copy(direction, device.base, place)]);
      settledMs.push(performance.now());
      if (!outcome.ok) throw new Error(outcome.message);
    }
  };
  const [startedMs, startedUs] = [performance.now(), threadCpuUs()];
  await Promise.all(Array.from({ length: run.inFlight }, one));
  rig.memory.poller.remove(witness);
  const [cpuUs, tookMs] = [threadCpuUs() - startedUs, performance.now() - startedMs];
  driver.elapsed = elapsed;
  for (const [index, { event, stream }] of origins.entries()) {
    driver.setCurrent((rig.devices[index] as RigDevice).context);
    driver.destroyEvent(event);
    driver.destroyStream(stream);
  }
  if (readyMs.length !== run.copies || settledMs.length !== run.copies)
    throw new Error(`${run.copies} copies, ${readyMs.length} done, ${settledMs.length} settled`);
  const uncertaintyMs = Math.max(...origins.map((origin) => origin.uncertaintyMs));
  let latestMs = 0;
  const overtakenMs = readyMs.map((ready) => {
    const byMs = Math.max(0, latestMs - ready);
    latestMs = Math.max(latestMs, ready);
    return byMs;
  });
  return {
    delaysMs: settledMs.map((settled, index) => settled - (readyMs[index] as number)),
    overtakenMs,
    passedOver: foundMs.map((found, index) => countBetween(lookedMs, (readyMs[index] as number) + uncertaintyMs, found)),
    uncertaintyMs,
    cpuUs: cpuUs / run.copies,
    copiesPerSecond: (run.copies * 1000) / tookMs,
  };
}

/** How many of ascending moments lie in between. */
function countBetween(moments: readonly number[], fromMs: number, toMs: number): number {
  return Math.max(0, firstFrom(moments, toMs) - firstFrom(moments, fromMs));
}

function firstFrom(moments: readonly number[], fromMs: number): number {
  let low = 0;
  let high = moments.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((moments[middle] as number) < fromMs) low = middle + 1;
    else high = middle;
  }
  return low;
}
