/**
 * The copy engine on the emulated driver, whose copies end when the seed says so: submissions beyond what the driver gets at once, refused
 * calls, a device that is lost. The invariants hold after every step, each copy settles once, and what is told as done is there.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { DevicePtr } from '#core/brand.ts';
import { openCudaMemory, type CudaMemory } from '#cuda/open-cuda-memory.ts';
import type { Device, DeviceCopy } from '#ports/device-memory.ts';
import { privateEmulator, type PrivateEmulator } from '#testsupport/cuda-emulator.ts';
import { okay, same } from '#testsupport/device-results.ts';
import { HostMemory } from '#testsupport/host-memory.ts';
import { SimRng } from '#testsupport/sim-clock.ts';

const PIECE = 4096;
/** Places on the host and on the device; a copy has its own until it has settled. */
const PLACES = 96;
const IN_FLIGHT = 5;
const STEPS = 200;
const refusals = ['cuEventRecord', 'cuEventCreate', 'cuEventQuery', 'cuMemcpyHtoDAsync_v2', 'cuMemcpyBatchAsync', 'cuCtxSetCurrent'];

let emulator: PrivateEmulator;
beforeAll(async () => {
  emulator = await privateEmulator();
});
afterAll(() => emulator.dispose());

class Rig {
  readonly rng: SimRng;
  readonly memory: CudaMemory;
  readonly device: Device;
  readonly source = new HostMemory(PLACES * PIECE).fillRandom();
  readonly target = new HostMemory(PLACES * PIECE);
  readonly base: DevicePtr;
  /** Places of the device that hold their bytes for sure, and those nobody copies to at the moment. */
  readonly there = new Set<number>();
  free = Array.from({ length: PLACES }, (_, place) => place);
  submitted = 0;
  settled = 0;
  done = 0;

  constructor(seed: number) {
    this.rng = new SimRng(seed);
    emulator.control.start('devices=1,capacity=64M,manual=1');
    const memory = openCudaMemory({ driverPath: emulator.control.libraryPath, kind: 'emulated', inFlightLimit: IN_FLIGHT });
    if ('reason' in memory) throw new Error(memory.reason);
    this.memory = memory;
    const device = memory.open(0);
    if ('ok' in device) throw new Error(device.message);
    this.device = device;
    this.base = okay(device.allocate(PLACES * PIECE)).pointer;
  }

  at(place: number): DevicePtr {
    return (this.base + place * PIECE) as DevicePtr;
  }

  submit(): void {
    const places = this.free.splice(0, this.rng.chance(0.7) ? 1 : 1 + this.rng.below(6));
    if (places.length === 0) return;
    const up = places.every((place) => this.there.has(place));
    const copies = places.map((place): DeviceCopy => {
      if (up) return { direction: 'to-host', from: this.at(place), to: this.target.at(place * PIECE), sizeBytes: PIECE };
      this.there.delete(place);
      return { direction: 'to-device', from: this.source.at(place * PIECE), to: this.at(place), sizeBytes: PIECE };
    });
    this.submitted += 1;
    const id = this.submitted;
    let times = 0;
    void this.device.copy(copies).then((outcome) => {
      times += 1;
      expect([id, times]).toEqual([id, 1]);
      this.settled += 1;
      if (outcome.ok) {
        this.done += 1;
        for (const place of places) {
          if (up) expect([id, same(this.piece(this.target, place), this.piece(this.source, place))]).toEqual([id, true]);
          this.there.add(place);
        }
      }
      this.free.push(...places);
    });
  }

  piece(host: HostMemory, place: number): Uint8Array {
    return host.bytes.subarray(place * PIECE, (place + 1) * PIECE);
  }

  /** Lets the poller look, and looks itself. */
  async look(): Promise<void> {
    for (let turn = 0; turn < 3; turn += 1) await new Promise((resolve) => setImmediate(resolve));
    this.memory.checkInvariants();
    expect(this.device.copiesInFlight).toBe(this.submitted - this.settled);
  }

  async end(): Promise<void> {
    emulator.control.clearInjections();
    emulator.control.options('manual=0');
    await this.memory.close();
    this.memory.checkInvariants();
    for (const host of [this.source, this.target]) host[Symbol.dispose]();
  }
}

async function run(seed: number, loses: boolean): Promise<{ readonly submitted: number; readonly done: number; readonly waited: boolean }> {
  const rig = new Rig(seed);
  const { rng, memory, device } = rig;
  const { control } = emulator;
  for (const host of [rig.source, rig.target]) okay(await memory.registerHost(host.address, host.sizeBytes));
  let waited = false;
  const loseAt = loses ? STEPS / 2 + rng.below(STEPS / 4) : Number.POSITIVE_INFINITY;
  for (let step = 0; step < STEPS; step += 1) {
    if (step === loseAt) control.loseDevice(0, 700);
    if (rng.chance(0.55)) rig.submit();
    else if (rng.chance(0.2) && !loses) control.inject(rng.pick(refusals), rng.pick([1, 2, 999]), { nth: 1 + rng.below(4) });
    else control.step(1 + rng.below(3));
    memory.checkInvariants();
    waited ||= device.copiesInFlight > IN_FLIGHT;
    await rig.look();
  }
  control.clearInjections();
  control.options('manual=0');
  while (rig.settled < rig.submitted) await rig.look();
  const { submitted, done } = rig;
  if (!loses) {
    // And all that was told as done is there, at the end.
    const places = [...rig.there];
    rig.target.bytes.fill(0);
    for (const place of places)
      okay(await device.copy([{ direction: 'to-host', from: rig.at(place), to: rig.target.at(place * PIECE), sizeBytes: PIECE }]));
    for (const place of places) expect([place, same(rig.piece(rig.target, place), rig.piece(rig.source, place))]).toEqual([place, true]);
  } else {
    expect(device.lost).toMatchObject({ code: 700 });
  }
  const { violations, texts } = control.report();
  await rig.end();
  const { alive } = control.report();
  control.stop();
  expect([violations, texts, alive]).toEqual([{}, [], {}]);
  return { submitted, done, waited };
}

describe('CopyEngine', () => {
  test.each(Array.from({ length: 12 }, (_, index) => 4000 + index))('keeps its books under refused calls, seed %i', async (seed) => {
    const { submitted, done, waited } = await run(seed, false);
    expect(waited).toBe(true);
    expect(done).toBeGreaterThan(submitted / 2);
    expect(done).toBeLessThan(submitted);
  });

  test.each(Array.from({ length: 6 }, (_, index) => 5000 + index))('keeps its books when the device is lost, seed %i', async (seed) => {
    const { submitted, done } = await run(seed, true);
    expect(done).toBeGreaterThan(0);
    expect(done).toBeLessThan(submitted);
  });
});
