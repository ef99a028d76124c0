/** What `check:gpu` holds a card to: the contract, bytes that arrive and nothing beside them, a second process, a card that is full. */
import assert from 'node:assert/strict';
import type { Address, DevicePtr } from '#core/brand.ts';
import { formatBytes, KiB, MiB } from '#core/bytes.ts';
import type { CudaMemory } from '#cuda/open-cuda-memory.ts';
import type { Device, DeviceCopy } from '#ports/device-memory.ts';
import { deviceMemoryCases, runContractCase } from '#testsupport/device-memory-contract.ts';
import { okay, same } from '#testsupport/device-results.ts';
import { HostMemory } from '#testsupport/host-memory.ts';
import type { GpuSubject } from './gpu-subject.ts';
import { randomBelow, seededRng } from './random.ts';

const OUT_OF_MEMORY = 2;
/** What the binding rounds allocations up to. */
const GRAIN_BYTES = 2 * MiB;
/** Of a card, when a context of ours is on it; with more taken somebody is at work there, who would not get what he asks for meanwhile. */
const TAKEN_BYTES = 2048 * MiB;

export interface Check {
  readonly name: string;
  readonly outcome: 'passed' | 'failed' | 'left out';
  /** What went wrong, or why it was left out. */
  readonly detail?: string;
}

/** Runs it; what it throws is a failure, a string why it was left out. */
export async function check(name: string, run: () => Promise<string | void>): Promise<Check> {
  try {
    const reason = await run();
    return typeof reason === 'string' ? { name, outcome: 'left out', detail: reason } : { name, outcome: 'passed' };
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    return { name, outcome: 'failed', detail: message.replace(/\s*\n\s*/g, ' ') };
  }
}

/** The cases that the tests run; those that nobody can bring about on a card are left out there. */
export async function checkContract(subject: GpuSubject, report: (check: Check) => void): Promise<void> {
  for (const contractCase of deviceMemoryCases) {
    const { name, needs } = contractCase;
    report(
      await check(`contract: ${name}`, async () => {
        if (needs !== undefined && !subject.can.includes(needs)) return `nobody can tell a card to do it (${needs}); the tests have it`;
        await runContractCase(contractCase, () => subject.beginCase());
        return undefined;
      }),
    );
  }
}

/** Around powers of two, where engines change how they copy. */
function sizesOf(smoke: boolean): readonly number[] {
  const around = [4 * KiB, 64 * KiB, 1 * MiB].flatMap((size) => [size - 1, size, size + 1]);
  return [1, 2, 3, 7, 511, ...around, 3 * MiB + 17, ...(smoke ? [] : [8 * MiB + 13, 32 * MiB, 64 * MiB - 5])];
}

/** A range on both sides of the bus: what is on the device should be what `model` says. */
interface Shadowed {
  readonly pointer: DevicePtr;
  readonly model: HostMemory;
}

/**
 * Fresh bytes host -> device -> device -> host, at places that are aligned to nothing, from registered and from pageable memory. After each
 * size everything around the targets is looked at too. `seed` draws the places.
 */
export async function checkCopies(
  memory: CudaMemory,
  device: Device,
  options: { readonly smoke: boolean; readonly seed: number },
): Promise<void> {
  const rng = seededRng(options.seed);
  const sizes = sizesOf(options.smoke);
  for (const sizeBytes of sizes) {
    for (const registered of [true, false]) {
      const room = sizeBytes + 2 * 4 * KiB;
      using source = new HostMemory(room).fillRandom();
      using target = new HostMemory(room).fillRandom();
      using expected = new HostMemory(room);
      using back = new HostMemory(room);
      using firstModel = new HostMemory(room).fillRandom();
      using secondModel = new HostMemory(room).fillRandom();
      const pinned = [back, firstModel, secondModel, ...(registered ? [source, target] : [])];
      for (const host of pinned) okay(await memory.registerHost(host.address, host.sizeBytes));
      const first: Shadowed = { pointer: okay(device.allocate(source.sizeBytes)).pointer, model: firstModel };
      const second: Shadowed = { pointer: okay(device.allocate(source.sizeBytes)).pointer, model: secondModel };
      try {
        for (const { pointer, model } of [first, second])
          await run(device, { direction: 'to-device', from: model.address, to: pointer, sizeBytes: model.sizeBytes });
        expected.bytes.set(target.bytes);
        const [from, over, behind, to] = [0, 0, 0, 0].map(() => randomBelow(rng, 8 * KiB)) as [number, number, number, number];
        await run(device, { direction: 'to-device', from: source.at(from), to: at(first, over), sizeBytes });
        firstModel.bytes.set(source.bytes.subarray(from, from + sizeBytes), over);
        await run(device, { direction: 'on-device', from: at(first, over), to: at(second, behind), sizeBytes });
        secondModel.bytes.set(source.bytes.subarray(from, from + sizeBytes), behind);
        await run(device, { direction: 'to-host', from: at(second, behind), to: target.at(to), sizeBytes });
        expected.bytes.set(source.bytes.subarray(from, from + sizeBytes), to);
        const what = `${sizeBytes} bytes, ${registered ? 'registered' : 'pageable'}, at ${from} -> ${over} -> ${behind} -> ${to}`;
        assert.ok(same(target.bytes, expected.bytes), `wrong bytes on the host: ${what}`);
        for (const { pointer, model } of [first, second]) {
          await run(device, { direction: 'to-host', from: pointer, to: back.address, sizeBytes: model.sizeBytes });
          assert.ok(same(back.bytes, model.bytes), `wrong bytes on the device: ${what}`);
        }
      } finally {
        for (const { pointer } of [first, second]) device.free(pointer);
        for (const host of pinned) await memory.unregisterHost(host.address);
      }
    }
  }
}

function at({ pointer }: Shadowed, offset: number): DevicePtr {
  return (pointer + offset) as DevicePtr;
}

async function run(device: Device, copy: DeviceCopy): Promise<void> {
  okay(await device.copy([copy]));
}

/**
 * Allocates until the card refuses: the refusal is clear and names the size, the largest allocation that still fits can be used, and what is
 * given back is free again. A string: why it was left out.
 */
export async function checkFull(memory: CudaMemory, device: Device): Promise<string | void> {
  const { freeBytes: before, totalBytes } = okay(device.memory());
  const takenBytes = totalBytes - before;
  if (takenBytes > TAKEN_BYTES) return `${formatBytes(takenBytes)} of the card are taken: whoever uses it would not get more meanwhile`;
  const pieceBytes = 2 ** Math.floor(Math.log2(device.facts.totalBytes / 8));
  const taken: DevicePtr[] = [];
  try {
    for (;;) {
      const answer = device.allocate(pieceBytes);
      if (answer.ok) {
        taken.push(answer.pointer);
        assert.ok(taken.length <= 8, `${taken.length} pieces of ${pieceBytes} bytes fit on a card of ${device.facts.totalBytes}`);
        continue;
      }
      assert.partialDeepStrictEqual(answer, { code: OUT_OF_MEMORY, name: 'CUDA_ERROR_OUT_OF_MEMORY', lost: false });
      assert.ok(answer.message.includes(String(pieceBytes)), `the refusal names the size: ${answer.message}`);
      break;
    }
    const smaller = largestThatFits(device, pieceBytes / 2);
    assert.ok(smaller !== undefined, `nothing fits any more, with ${okay(device.memory()).freeBytes} bytes free`);
    taken.push(smaller.pointer);
    await roundTrip(memory, device, smaller);
  } finally {
    for (const pointer of taken) okay(device.free(pointer));
  }
  assert.equal(okay(device.memory()).freeBytes, before, 'bytes free before and after');
}

function largestThatFits(device: Device, fromBytes: number): { readonly pointer: DevicePtr; readonly sizeBytes: number } | undefined {
  for (let sizeBytes = fromBytes; sizeBytes >= GRAIN_BYTES; sizeBytes /= 2) {
    const answer = device.allocate(sizeBytes);
    if (answer.ok) return { pointer: answer.pointer, sizeBytes };
    assert.equal(answer.code, OUT_OF_MEMORY, answer.message);
  }
  return undefined;
}

/** At the end of the allocation, which is what would not be there. */
async function roundTrip(
  memory: CudaMemory,
  device: Device,
  room: { readonly pointer: DevicePtr; readonly sizeBytes: number },
): Promise<void> {
  const sizeBytes = Math.min(1 * MiB, room.sizeBytes);
  const pointer = (room.pointer + room.sizeBytes - sizeBytes) as DevicePtr;
  using source = new HostMemory(sizeBytes).fillRandom();
  using target = new HostMemory(sizeBytes);
  const pinned: readonly { readonly address: Address; readonly sizeBytes: number }[] = [source, target];
  for (const host of pinned) okay(await memory.registerHost(host.address, host.sizeBytes));
  try {
    await run(device, { direction: 'to-device', from: source.address, to: pointer, sizeBytes });
    await run(device, { direction: 'to-host', from: pointer, to: target.address, sizeBytes });
  } finally {
    for (const host of pinned) await memory.unregisterHost(host.address);
  }
  assert.ok(same(target.bytes, source.bytes), 'wrong bytes in an allocation of a card that is nearly full');
}
