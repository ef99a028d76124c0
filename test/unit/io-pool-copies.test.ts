/** Copies between a client's memory and ours that are handed over together, on the real pool. */
import { toArrayBuffer } from 'bun:ffi';
import { ftruncateSync, unlinkSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Address } from '#core/brand.ts';
import { checksum } from '#core/checksum.ts';
import { KiB, MiB } from '#core/bytes.ts';
import { HostIoPool } from '#host/io-pool.ts';
import { asPointer } from '#host/libc.ts';
import { HostRegions } from '#host/regions.ts';
import { HostSharedMemory } from '#host/shared-memory.ts';
import type { Region } from '#ports/local-door.ts';
import type { Arena } from '#ports/shared-memory.ts';

const EFAULT = 14;
const SIZE = 64 * KiB;
const COUNT = 200;
let pool: HostIoPool;
let region: Region;
let arena: Arena;

const hash = (block: Uint8Array, seed: bigint): bigint => Bun.hash.xxHash3(block, seed);
const regionBytes = (): Uint8Array => new Uint8Array(toArrayBuffer(asPointer(region.address), 0, region.sizeBytes));
const piece = (index: number): Uint8Array => new Uint8Array(SIZE).fill(index + 1);

beforeEach(async () => {
  pool = await HostIoPool.start({
    socketWorkers: 1,
    fileWorkers: 2,
    onCrash: (reason) => {
      throw new Error(reason);
    },
  });
  const made = new HostRegions([]).create(COUNT * SIZE);
  if ('problem' in made) throw new Error(made.problem);
  region = made;
  arena = new HostSharedMemory('/dev/shm').create('io-pool-copies', 16 * MiB);
  expect(arena.allocate(0, arena.sizeBytes)).toBe(true);
  pool.registerArena(arena.address, arena.sizeBytes);
});
afterEach(async () => {
  await pool.close();
  region.close();
  arena.close();
});

const span = (index: number): { region: Region; offset: number; sizeBytes: number } => ({ region, offset: index * SIZE, sizeBytes: SIZE });
const place = (index: number): { address: Address } => ({ address: (arena.address + index * SIZE) as Address });

describe('HostIoPool copies', () => {
  it('answers each of many with its own checksum, and takes every byte to its place', async () => {
    for (let index = 0; index < COUNT; index += 1) regionBytes().set(piece(index), index * SIZE);
    const stored = await Promise.all(Array.from({ length: COUNT }, (_, index) => pool.regions.copyIn(span(index), place(index))));
    for (const [index, outcome] of stored.entries()) expect(outcome).toEqual({ ok: true, checksum: checksum(piece(index), hash) });
    regionBytes().fill(0);
    const loaded = await Promise.all(
      Array.from({ length: COUNT }, (_, index) => pool.regions.copyOut(place(COUNT - 1 - index), span(index))),
    );
    expect(loaded.every((outcome) => outcome.ok)).toBe(true);
    for (let index = 0; index < COUNT; index += 1)
      expect(Buffer.compare(regionBytes().subarray(index * SIZE, (index + 1) * SIZE), piece(COUNT - 1 - index))).toBe(0);
  });

  it('fails those alone whose memory is gone', async () => {
    // Half of a file that may shrink: the second half is taken away.
    const path = `/dev/shm/kvtier-copies-${process.pid}`;
    await Bun.write(path, new Uint8Array(COUNT * SIZE).fill(5));
    const opened = new HostRegions(['/dev/shm']).byPath(path, { pid: process.pid, uid: process.getuid?.() ?? 0 });
    if ('problem' in opened) throw new Error(opened.problem);
    unlinkSync(path);
    ftruncateSync(opened.fd, (COUNT / 2) * SIZE);
    const outcomes = await Promise.all(
      Array.from({ length: COUNT }, async (_, index) => {
        // One of each half by turns, so that they share messages.
        const chunk = index % 2 === 0 ? index / 2 : COUNT - (index + 1) / 2;
        const outcome = await pool.regions.copyIn({ region: opened, offset: chunk * SIZE, sizeBytes: SIZE }, place(chunk));
        return { chunk, outcome };
      }),
    );
    const fives = checksum(new Uint8Array(SIZE).fill(5), hash);
    for (const { chunk, outcome } of outcomes) {
      expect(outcome).toMatchObject(chunk < COUNT / 2 ? { ok: true, checksum: fives } : { ok: false, errno: EFAULT });
    }
    opened.close();
  });

  it('resolves every copy when it is closed', async () => {
    const outcomes = Array.from({ length: COUNT }, (_, index) => pool.regions.copyOut(place(index), span(index)));
    await pool.close();
    const done = await Promise.all(outcomes);
    expect(done.some((outcome) => outcome.ok)).toBe(true);
    expect(done.every((outcome) => outcome.ok || outcome.step === 'pool closed')).toBe(true);
  });
});
