/**
 * Copies of one device on their way: streams, events, and the batches in flight. A batch is submitted to the stream of its direction that
 * has the fewest bytes before it, between two events; it is done when the second has been reached. Within a stream batches end in their
 * order, so only the oldest of each stream is asked for; the streams are asked in turn, one batch each, so that batches settle as they get
 * ready. At most `inFlightLimit` batches are with the driver, at most WAITING_LIMIT wait here, first come first served.
 *
 * A batch of which some copies could not be submitted settles, with its failure, when those that were are done: both ends are the engine's
 * until then. A query that fails without a sticky code tells nothing about the copy; it is asked again, and after UNSURE_LIMIT such answers
 * in a row the device counts as lost. A batch that is not done after `stuckMs` makes the device lost as well; its `late` tells when it was
 * done after all.
 *
 * A device that is lost by a sticky code does no copy any more: the driver has torn its channels down. So `late` is not given there.
 *
 * Invariants (checkInvariants): a batch settles exactly once; its events are in no other batch's hands; `lively` counts those that are not
 * settled; a batch waits only while as many are with the driver as may be; nothing is stuck on a device that is well, nothing lively on one
 * that is lost; what waits in a lane is the sum of its batches.
 */
import { assert } from '#core/assert.ts';
import type { CopyDone, DeviceCopy, DeviceFailure } from '#ports/device-memory.ts';
import { BATCH_LIMIT, type Context, type CudaDriver, type Stream } from './driver.ts';
import { EventPool, type EventPair } from './event-pool.ts';
import { CUDA_ERROR_NOT_READY, CUDA_ERROR_NOT_SUPPORTED, CUDA_SUCCESS, ownFailure } from './status.ts';
import type { Polled } from './completion-poller.ts';

type Direction = DeviceCopy['direction'];

/** Two to and from the host, so that the next batch's set-up hides behind the running one: a card has an engine for each direction. */
const STREAMS: Readonly<Record<Direction, number>> = { 'to-device': 2, 'to-host': 2, 'on-device': 1 };
const WAITING_LIMIT = 16_384;
const UNSURE_LIMIT = 8;
/** A clock is read once in so many looks that found nothing. */
const LOOKS_A_CLOCK = 16;

interface Batch {
  readonly copies: readonly DeviceCopy[];
  readonly sizeBytes: number;
  readonly settle: (outcome: CopyDone | DeviceFailure) => void;
  events: EventPair | undefined;
  submittedAtMs: number;
  /** Of a part that could not be submitted. */
  failure: DeviceFailure | undefined;
  /** Its end is not marked by an event: it is over when its stream is empty. */
  unmarked: boolean;
  unsure: number;
  looks: number;
  /** Set when it has settled as stuck. */
  late: PromiseWithResolvers<boolean> | undefined;
}

interface Lane {
  readonly stream: Stream;
  readonly batches: Batch[];
  head: number;
  waitingBytes: number;
}

export interface CopyEngineOptions {
  readonly inFlightLimit: number;
  readonly stuckMs: number;
  /** Whether a whole host range is registered. */
  readonly isRegistered: (address: number, sizeBytes: number) => boolean;
  readonly onLost: (failure: DeviceFailure) => void;
  /** Something is in flight: the poller must run. */
  readonly onWork: () => void;
}

export class CopyEngine implements Polled, Disposable {
  readonly #driver: CudaDriver;
  readonly #context: Context;
  readonly #options: CopyEngineOptions;
  readonly #events: EventPool;
  readonly #lanes: Readonly<Record<Direction, Lane[]>> = { 'to-device': [], 'to-host': [], 'on-device': [] };
  readonly #all: Lane[] = [];
  #waiting: Batch[] = [];
  #waitingHead = 0;
  #withDriver = 0;
  #stuck = 0;
  #lost: DeviceFailure | undefined;
  #notCurrent = 0;
  #drained: PromiseWithResolvers<void> | undefined;
  pageableCopies = 0;

  constructor(driver: CudaDriver, context: Context, options: CopyEngineOptions) {
    this.#driver = driver;
    this.#context = context;
    this.#options = options;
    this.#events = new EventPool(driver);
  }

  /** Makes the streams, with the context current. After a failure `dispose` takes back those that were made. */
  open(): DeviceFailure | undefined {
    for (const [direction, count] of Object.entries(STREAMS) as [Direction, number][]) {
      for (let index = 0; index < count; index += 1) {
        const status = this.#driver.createStream();
        if (status !== CUDA_SUCCESS) return this.#driver.failure(status, 'cuStreamCreate(CU_STREAM_NON_BLOCKING)');
        const lane: Lane = { stream: this.#driver.value as Stream, batches: [], head: 0, waitingBytes: 0 };
        this.#lanes[direction].push(lane);
        this.#all.push(lane);
      }
    }
    return undefined;
  }

  /** Batches that are not settled. */
  get lively(): number {
    return this.#withDriver + this.#waiting.length - this.#waitingHead;
  }

  /** Batches that are settled as stuck and with the driver still. */
  get stuck(): number {
    return this.#stuck;
  }

  copy(copies: readonly DeviceCopy[]): Promise<CopyDone | DeviceFailure> {
    assert(copies.length > 0, 'a list of copies is not empty');
    let sizeBytes = 0;
    for (const copy of copies) {
      assert(copy.sizeBytes > 0, 'a copy has bytes');
      sizeBytes += copy.sizeBytes;
    }
    if (this.#lost !== undefined) return Promise.resolve(this.#lost);
    if (this.#waiting.length - this.#waitingHead >= WAITING_LIMIT)
      return Promise.resolve(ownFailure('KVTIER_TOO_MANY_COPIES', `Cannot queue a copy of ${sizeBytes} bytes: ${WAITING_LIMIT} wait`));
    const { promise, resolve } = Promise.withResolvers<CopyDone | DeviceFailure>();
    const batch: Batch = {
      copies,
      sizeBytes,
      settle: resolve,
      events: undefined,
      submittedAtMs: performance.now(),
      failure: undefined,
      unmarked: false,
      unsure: 0,
      looks: 0,
      late: undefined,
    };
    if (this.#withDriver >= this.#options.inFlightLimit) this.#waiting.push(batch);
    else this.#submit(batch);
    return promise;
  }

  /** A call outside of the copies found the device lost, or a copy did. Runs `onLost`, then fails what is in flight. */
  lose(failure: DeviceFailure): void {
    if (this.#lost !== undefined) return;
    this.#lost = failure;
    this.#options.onLost(failure);
    const waiting = this.#waiting.slice(this.#waitingHead);
    this.#waiting = [];
    this.#waitingHead = 0;
    const inFlight: Batch[] = [];
    for (const lane of this.#all) {
      const kept: Batch[] = [];
      for (const batch of lane.batches.slice(lane.head)) {
        // What is stuck, or lost without a word of the driver, may be at work still.
        if (batch.late !== undefined) kept.push(batch);
        else if (failure.code < 0) {
          batch.late = Promise.withResolvers();
          kept.push(batch);
          inFlight.push(batch);
        } else {
          this.#giveBack(batch);
          inFlight.push(batch);
        }
      }
      lane.batches.splice(0, lane.batches.length, ...kept);
      lane.head = 0;
      lane.waitingBytes = kept.reduce((sum, batch) => sum + batch.sizeBytes, 0);
    }
    this.#withDriver = 0;
    this.#stuck = this.#all.reduce((sum, lane) => sum + lane.batches.length, 0);
    for (const batch of inFlight) batch.settle(batch.late === undefined ? failure : { ...failure, late: batch.late.promise });
    for (const batch of waiting) batch.settle(failure);
    this.#tellDrained();
  }

  #tellDrained(): void {
    if (this.lively > 0) return;
    this.#drained?.resolve();
    this.#drained = undefined;
  }

  /** Settles when no batch is left that has not: within `stuckMs` of the last submission, since what takes longer makes the device lost. */
  drained(): Promise<void> {
    if (this.lively === 0) return Promise.resolve();
    this.#drained ??= Promise.withResolvers();
    return this.#drained.promise;
  }

  poll(budget: number): number {
    const current = this.#driver.setCurrent(this.#context);
    if (current !== CUDA_SUCCESS) {
      this.#unsureOf(this.#driver.failure(current, 'cuCtxSetCurrent()'), (this.#notCurrent += 1));
      return 0;
    }
    this.#notCurrent = 0;
    let done = 0;
    for (let more = true; more && done < budget;) {
      more = false;
      for (const lane of this.#all) {
        if (done < budget && this.#pollLane(lane)) {
          done += 1;
          more = true;
        }
      }
    }
    if (done > 0) {
      this.#submitWaiting();
      this.#tellDrained();
    }
    return done;
  }

  #pollLane(lane: Lane): boolean {
    const batch = lane.batches[lane.head];
    if (batch === undefined) return false;
    const status =
      batch.unmarked || batch.events === undefined ? this.#driver.queryStream(lane.stream) : this.#driver.queryEvent(batch.events.end);
    if (status === CUDA_SUCCESS) {
      this.#shift(lane, batch);
      this.#finish(batch);
      return true;
    }
    if (status === CUDA_ERROR_NOT_READY) {
      batch.unsure = 0;
      this.#watchStuck(batch);
      return false;
    }
    const failure = this.#driver.failure(status, `cuEventQuery() of a copy of ${batch.sizeBytes} bytes`);
    if (failure.lost && batch.late !== undefined) {
      // The device is lost already, and now the driver says that nothing is at work any more.
      this.#shift(lane, batch);
      this.#giveBack(batch);
      this.#stuck -= 1;
      batch.late.resolve(false);
    } else {
      this.#unsureOf(failure, (batch.unsure += 1));
    }
    return false;
  }

  #unsureOf(failure: DeviceFailure, times: number): void {
    if (failure.lost) this.lose(failure);
    else if (times >= UNSURE_LIMIT) this.lose(ownFailure('KVTIER_DEVICE_SILENT', `${failure.message}, ${times} times in a row`, true));
  }

  #watchStuck(batch: Batch): void {
    if (batch.late !== undefined || (batch.looks += 1) % LOOKS_A_CLOCK !== 0) return;
    const elapsedMs = performance.now() - batch.submittedAtMs;
    if (elapsedMs < this.#options.stuckMs) return;
    this.lose(ownFailure('KVTIER_COPY_STUCK', `A copy of ${batch.sizeBytes} bytes is not done after ${Math.round(elapsedMs)} ms`, true));
  }

  #finish(batch: Batch): void {
    const elapsedMs = this.#elapsedMs(batch);
    this.#giveBack(batch);
    if (batch.late === undefined) {
      this.#withDriver -= 1;
      batch.settle(batch.failure ?? { ok: true, elapsedMs });
    } else {
      this.#stuck -= 1;
      batch.late.resolve(batch.failure === undefined);
    }
  }

  /** By the device's clock; by ours where it does not tell, which is no failure of the copy. */
  #elapsedMs(batch: Batch): number {
    const { events } = batch;
    if (events !== undefined && !batch.unmarked && this.#driver.elapsed(events.start, events.end) === CUDA_SUCCESS)
      return this.#driver.elapsedMs;
    return performance.now() - batch.submittedAtMs;
  }

  #giveBack(batch: Batch): void {
    if (batch.events !== undefined) this.#events.give(batch.events);
    batch.events = undefined;
  }

  #shift(lane: Lane, batch: Batch): void {
    lane.waitingBytes -= batch.sizeBytes;
    lane.head += 1;
    // Moved to the front when half is used up: amortized, a move of one entry a batch.
    if (lane.head * 2 < lane.batches.length) return;
    lane.batches.splice(0, lane.head);
    lane.head = 0;
  }

  #submitWaiting(): void {
    while (this.#waitingHead < this.#waiting.length && this.#withDriver < this.#options.inFlightLimit) {
      const batch = this.#waiting[this.#waitingHead];
      assert(batch !== undefined, 'the head of the queue is in it');
      this.#waitingHead += 1;
      this.#submit(batch);
    }
    if (this.#waitingHead * 2 < this.#waiting.length) return;
    this.#waiting.splice(0, this.#waitingHead);
    this.#waitingHead = 0;
  }

  #leastLoaded(direction: Direction): Lane {
    const lanes = this.#lanes[direction];
    let least = lanes[0];
    assert(least !== undefined, 'there is a stream for each direction');
    for (const lane of lanes) if (lane.waitingBytes < least.waitingBytes) least = lane;
    return least;
  }

  /** Gives a batch to the driver, or settles it where nothing of it got there. */
  #submit(batch: Batch): void {
    const first = batch.copies[0];
    assert(first !== undefined, 'a list of copies is not empty');
    const lane = this.#leastLoaded(first.direction);
    const driver = this.#driver;
    const current = driver.setCurrent(this.#context);
    if (current !== CUDA_SUCCESS) return this.#refuse(batch, driver.failure(current, 'cuCtxSetCurrent()'));
    const events = this.#events.take();
    if ('ok' in events) return this.#refuse(batch, events);
    batch.events = events;
    batch.submittedAtMs = performance.now();
    const started = driver.record(events.start, lane.stream);
    if (started !== CUDA_SUCCESS) {
      this.#giveBack(batch);
      return this.#refuse(batch, driver.failure(started, 'cuEventRecord(start)'));
    }
    for (const copy of batch.copies) this.#countPageable(copy);
    batch.failure = this.#copyAll(batch.copies, lane.stream);
    const ended = driver.record(events.end, lane.stream);
    if (ended !== CUDA_SUCCESS) {
      batch.unmarked = true;
      // The bytes may be there or not; what nobody can tell is told as a failure.
      batch.failure ??= driver.failure(ended, 'cuEventRecord(end)');
    }
    lane.batches.push(batch);
    lane.waitingBytes += batch.sizeBytes;
    this.#withDriver += 1;
    if (batch.failure?.lost === true) this.lose(batch.failure);
    else this.#options.onWork();
  }

  #refuse(batch: Batch, failure: DeviceFailure): void {
    if (failure.lost) this.lose(failure);
    batch.settle(failure);
  }

  #copyAll(copies: readonly DeviceCopy[], stream: Stream): DeviceFailure | undefined {
    let at = 0;
    while (at < copies.length) {
      const rows = Math.min(BATCH_LIMIT, copies.length - at);
      if (rows > 1 && this.#driver.hasBatch) {
        const status = this.#copyBatch(copies, at, { rows, stream });
        if (status === CUDA_SUCCESS) {
          at += rows;
          continue;
        }
        if (status !== CUDA_ERROR_NOT_SUPPORTED) return this.#driver.failure(status, `cuMemcpyBatchAsync(${rows} copies)`);
        this.#driver.hasBatch = false;
      }
      const copy = copies[at];
      assert(copy !== undefined, 'a row is in its list');
      const status = this.#copyOne(copy, stream);
      if (status !== CUDA_SUCCESS) return this.#driver.failure(status, nameOf(copy));
      at += 1;
    }
    return undefined;
  }

  #copyBatch(copies: readonly DeviceCopy[], from: number, options: { readonly rows: number; readonly stream: Stream }): number {
    for (let row = 0; row < options.rows; row += 1) {
      const copy = copies[from + row];
      assert(copy !== undefined, 'a row is in its list');
      this.#driver.setBatchRow(row, copy.to, copy.from, copy.sizeBytes);
    }
    return this.#driver.copyBatch(options.rows, options.stream);
  }

  #copyOne(copy: DeviceCopy, stream: Stream): number {
    if (copy.direction === 'to-device') return this.#driver.copyToDevice(copy.to, copy.from, copy.sizeBytes, stream);
    if (copy.direction === 'to-host') return this.#driver.copyToHost(copy.to, copy.from, copy.sizeBytes, stream);
    return this.#driver.copyOnDevice(copy.to, copy.from, copy.sizeBytes, stream);
  }

  #countPageable(copy: DeviceCopy): void {
    if (copy.direction === 'on-device') return;
    const address = copy.direction === 'to-device' ? copy.from : copy.to;
    if (!this.#options.isRegistered(address, copy.sizeBytes)) this.pageableCopies += 1;
  }

  /** What the driver keeps for it. */
  get holds(): { readonly streams: number; readonly events: number } {
    const pairs = this.#events.idle.length + this.#inLanes().filter((batch) => batch.events !== undefined).length;
    return { streams: this.#all.length, events: pairs * 2 };
  }

  #inLanes(): Batch[] {
    return this.#all.flatMap((lane) => lane.batches.slice(lane.head));
  }

  /** Throws an InvariantError. Between turns of the event loop; costs as much as there is in flight. */
  checkInvariants(): void {
    const waiting = this.#waiting.slice(this.#waitingHead);
    const batches = this.#inLanes();
    const settled = batches.filter((batch) => batch.late !== undefined);
    assert(this.#withDriver === batches.length - settled.length, `${this.#withDriver} batches are counted as with the driver`);
    assert(this.#stuck === settled.length, `${this.#stuck} batches are counted as stuck, ${settled.length} are`);
    assert(this.#withDriver <= this.#options.inFlightLimit && waiting.length <= WAITING_LIMIT, 'what is in flight is bounded');
    assert(waiting.length === 0 || this.#withDriver === this.#options.inFlightLimit, 'nobody waits while there is room');
    assert(
      this.#lost === undefined ? this.#stuck === 0 : this.lively === 0,
      'stuck batches on a lost device, lively ones on one that is well',
    );
    assert(new Set([...waiting, ...batches]).size === waiting.length + batches.length, 'a batch is in one place');
    assert(
      waiting.every((batch) => batch.events === undefined && batch.late === undefined),
      'a batch that waits has no events and no verdict',
    );
    const pairs = [...this.#events.idle, ...batches.flatMap((batch) => batch.events ?? [])];
    const events = pairs.flatMap(({ start, end }) => [start, end]);
    assert(new Set(events).size === events.length, 'an event is in one pair, and a pair in one hand');
    for (const lane of this.#all) {
      const own = lane.batches.slice(lane.head);
      assert(lane.head <= lane.batches.length, 'the head of a lane is in it');
      assert(lane.waitingBytes === own.reduce((sum, batch) => sum + batch.sizeBytes, 0), "a lane's bytes are a sum over its batches");
    }
  }

  /** With the context current and nothing in flight. */
  [Symbol.dispose](): void {
    this.#events[Symbol.dispose]();
    for (const lane of this.#all.splice(0)) this.#driver.destroyStream(lane.stream);
    for (const lanes of Object.values(this.#lanes)) lanes.splice(0);
  }
}

function nameOf(copy: DeviceCopy): string {
  const call = { 'to-device': 'cuMemcpyHtoDAsync', 'to-host': 'cuMemcpyDtoHAsync', 'on-device': 'cuMemcpyDtoDAsync' }[copy.direction];
  return `${call}(0x${copy.to.toString(16)}, 0x${copy.from.toString(16)}, ${copy.sizeBytes})`;
}
