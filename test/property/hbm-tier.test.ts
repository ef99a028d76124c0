/** The HBM tier on the simulated twin against a naive model: slots with their bytes and holders, pieces of tenant groups, copies, loss. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { KiB, MiB } from '#core/bytes.ts';
import type { Address, SlotIndex } from '#core/brand.ts';
import { HbmTier } from '#tiers/hbm/hbm-tier.ts';
import { settle, SimRng } from '#testsupport/sim-clock.ts';
import { SimDeviceMemory } from '#cuda/sim-device-memory.ts';

const HOST = 2 ** 40;
const logger = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

interface Row {
  readonly slot: SlotIndex;
  readonly group: string;
  readonly sizeBytes: number;
  /** What its bytes are; undefined: nobody has written them. */
  value: number | undefined;
  holds: number;
}

class Rig {
  readonly host = new Uint8Array(8 * MiB);
  readonly memory: SimDeviceMemory;
  readonly tier: HbmTier;
  readonly lost: number[] = [];

  constructor(deviceBytes: readonly number[] = [MiB, MiB], pieceBytes = 256 * KiB) {
    this.memory = new SimDeviceMemory({
      deviceBytes,
      host: (address, sizeBytes) => {
        if (address < HOST || address + sizeBytes > HOST + this.host.length) throw new RangeError('SIGSEGV');
        return this.host.subarray(address - HOST, address - HOST + sizeBytes);
      },
    });
    const devices = deviceBytes.map((capacityBytes, ordinal) => {
      const device = this.memory.open(ordinal);
      if ('ok' in device) throw new Error(device.message);
      return { device, capacityBytes };
    });
    const onLost = (index: number): void => void this.lost.push(index);
    this.tier = new HbmTier({ devices, maxChunkBytes: 128 * KiB, pieceBytes, onLost, logger });
  }

  async drain(rng: SimRng): Promise<void> {
    while (this.memory.step(rng)) await settle();
  }
}

async function model(seed: number, steps: number): Promise<void> {
  const rng = new SimRng(seed);
  const rig = new Rig();
  const { tier, memory, host } = rig;
  const rows = new Set<Row>();
  const busy = new Set<Row>();
  let nextValue = 1;
  let nextRoom = 0;
  const room = (): number => (nextRoom = (nextRoom + 1) % 64) * 128 * KiB;
  const use = (row: Row): void => {
    if (tier.release(row.slot)) rows.delete(row);
    else row.holds -= 1;
  };
  for (let step = 0; step < steps; step += 1) {
    const action = rng.weighted({ allocate: 6, free: 3, write: 6, read: 6, hold: 2, io: 16, fault: 0.5, lose: 0.05 });
    const idle = [...rows].filter((row) => !busy.has(row) && !tier.isLost(tier.deviceOf(row.slot)));
    if (action === 'allocate') {
      const sizeBytes = rng.pick([1, 4096, 20_000, 64 * KiB, 128 * KiB]);
      const group = rng.pick(['a', 'b', 'c']);
      const slot = tier.allocate(sizeBytes, group);
      if (slot >= 0) rows.add({ slot: slot as SlotIndex, group, sizeBytes, value: undefined, holds: 1 });
    } else if (action === 'free' && idle.length > 0) use(rng.pick(idle));
    else if (action === 'hold' && idle.length > 0) {
      const row = rng.pick(idle);
      row.holds += 1;
      tier.retain(row.slot);
    } else if ((action === 'write' || action === 'read') && idle.length > 0 && busy.size < 32) {
      const row = rng.pick(idle);
      const at = room();
      busy.add(row);
      row.holds += 1;
      tier.retain(row.slot);
      const value = nextValue++ % 251;
      if (action === 'write') host.fill(value, at, at + row.sizeBytes);
      const copied = action === 'write' ? 'copyIn' : 'copyOut';
      void tier[copied](row.slot, (HOST + at) as Address, row.sizeBytes).then((outcome) => {
        const finish = (): void => {
          busy.delete(row);
          use(row);
        };
        if (outcome.ok && action === 'write') row.value = value;
        else if (outcome.ok && row.value !== undefined && host.subarray(at, at + row.sizeBytes).some((byte) => byte !== row.value))
          memory.violate('a read gave bytes that were never written there');
        if (!outcome.ok && action === 'write') row.value = undefined;
        if (!outcome.ok && outcome.late !== undefined) void outcome.late.then(finish);
        else finish();
      });
    } else if (action === 'fault') memory.faults.push({ call: 'copy', late: rng.chance(0.5) });
    else if (action === 'lose') memory.opened[rng.below(memory.opened.length)]?.lose();
    else memory.step(rng);
    await settle();
    tier.checkInvariants();
    memory.check();
    expect(tier.usedSlots()).toBe(rows.size);
    for (const row of rows) expect(tier.useCount(row.slot)).toBeGreaterThanOrEqual(row.holds);
    const groups = new Map<number, string>();
    for (const row of rows) {
      const piece = tier.pieceOf(row.slot);
      expect(groups.get(piece) ?? row.group, 'a piece is one group’s').toBe(row.group);
      groups.set(piece, row.group);
    }
    expect(rig.lost).toEqual(
      memory.opened
        .flatMap((device, index) => (device.lost === undefined ? [] : [index]))
        .toSorted((a, b) => rig.lost.indexOf(a) - rig.lost.indexOf(b)),
    );
  }
  await rig.drain(rng);
  for (const row of [...rows]) while (rows.has(row)) use(row);
  expect(tier.usedSlots()).toBe(0);
  tier.checkInvariants();
  await tier.close();
  expect(memory.leaks()).toEqual({ devices: 0, bytes: 0, registrations: 0 });
  memory.check();
}

describe('HbmTier', () => {
  it('keeps slots apart and bytes where they were put, over late copies and lost devices', async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer(), (seed) => model(seed, 150)),
      { numRuns: 30 },
    );
  });

  it('gives a piece to one tenant group, and to another once it is empty', () => {
    const { tier } = new Rig([512 * KiB]);
    const slots = [tier.allocate(64 * KiB, 'a'), tier.allocate(64 * KiB, 'b')];
    expect(slots.every((slot) => slot >= 0)).toBe(true);
    expect(tier.allocate(64 * KiB, 'c')).toBe(-1);
    expect(tier.groupOf(slots[0] as SlotIndex)).toBe('a');
    tier.release(slots[0] as SlotIndex);
    const taken = tier.allocate(64 * KiB, 'c');
    expect(tier.groupOf(taken as SlotIndex)).toBe('c');
  });

  it('uses what a device could allocate, and says what it could not', () => {
    const memory = new SimDeviceMemory({ deviceBytes: [600 * KiB], host: () => new Uint8Array(0) });
    const device = memory.open(0);
    if ('ok' in device) throw new Error(device.message);
    const tier = new HbmTier({
      devices: [{ device, capacityBytes: MiB }],
      maxChunkBytes: 64 * KiB,
      pieceBytes: 256 * KiB,
      onLost: () => {},
      logger,
    });
    expect(tier.capacityBytes).toBe(512 * KiB);
    expect(tier.reasons.join()).toContain('512 KiB of 1 MiB could be allocated: CUDA_ERROR_OUT_OF_MEMORY');
    expect(tier.devices()[0]?.state).toBe('degraded');
  });

  it('exports a slot as a handle and an offset that another process reads', async () => {
    const handles = new Map<string, never>();
    const host = new Uint8Array(64 * KiB).map((_, index) => index % 251);
    const options = { deviceBytes: [MiB], host: (_address: number, sizeBytes: number) => host.subarray(0, sizeBytes), handles };
    const [own, other] = [new SimDeviceMemory(options), new SimDeviceMemory(options)];
    const [device, foreign] = [own.open(0), other.open(0)];
    if ('ok' in device || 'ok' in foreign) throw new Error('no device');
    const tier = new HbmTier({ devices: [{ device, capacityBytes: MiB }], maxChunkBytes: 128 * KiB, onLost: () => {}, logger });
    tier.allocate(4096, 'a');
    const slot = tier.allocate(host.length, 'a') as SlotIndex;
    const copied = tier.copyIn(slot, HOST as Address, host.length);
    const rng = new SimRng(1);
    while (own.step(rng)) await settle();
    expect(await copied).toEqual({ ok: true });
    const exported = tier.exportSlot(slot);
    if ('ok' in exported) throw new Error(exported.message);
    expect(exported.handle.length).toBe(64);
    expect(device.openHandle(exported.handle)).toMatchObject({ ok: false });
    const opened = foreign.openHandle(exported.handle);
    if (!opened.ok) throw new Error(opened.message);
    expect(Buffer.from(foreign.at(opened.pointer + exported.offsetBytes, host.length)).equals(host)).toBe(true);
  });

  it('counts what the copies of a device come to, and says why a device is off', async () => {
    const { tier, memory, lost } = new Rig([MiB]);
    const slot = tier.allocate(4096, 'a') as SlotIndex;
    const copied = tier.copyIn(slot, HOST as Address, 4096);
    expect(tier.copiesInFlight).toBe(1);
    memory.step(new SimRng(1));
    await copied;
    expect(tier.devices()[0]?.copies).toMatchObject({ toDeviceBytes: 4096, toDeviceCopies: 1, toHostBytes: 0, errors: 0, inFlight: 0 });
    expect(tier.devices()[0]?.copies.latencyMs(0.5)).toBeGreaterThan(0);
    memory.opened[0]?.lose();
    expect(lost).toEqual([0]);
    expect(tier.isOn).toBe(false);
    expect(tier.allocate(4096, 'a')).toBe(-1);
    expect(tier.reasons.join()).toContain('CUDA_ERROR_ILLEGAL_ADDRESS');
  });
});
