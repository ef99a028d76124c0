/** One socket worker does job after job with the same few objects: nothing of a job may be left in the next. */
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Address, Fd } from '#core/brand.ts';
import { checksum } from '#core/checksum.ts';
import { HostIoPool } from '#host/io-pool.ts';
import { AF_UNIX, ECONNRESET, SOCK_NONBLOCK, SOCK_STREAM, addressOf, libc, mapAnonymous, viewOf } from '#host/libc.ts';

const ROOM_BYTES = 4 * 1024 * 1024;
const SLOTS = 4;
const arena = mapAnonymous(SLOTS * ROOM_BYTES) as Address;
let pool: HostIoPool;
let listener = -1;
const name = new Uint8Array(110);
name.set(new TextEncoder().encode(`\0\0\0kvtier-transfers-${process.pid}`));
name[0] = AF_UNIX;

beforeAll(async () => {
  pool = await HostIoPool.start({ socketWorkers: 1, fileWorkers: 1, onCrash: (reason) => expect.unreachable(reason) });
  pool.registerArena(arena, SLOTS * ROOM_BYTES);
  listener = libc.socket(AF_UNIX, SOCK_STREAM, 0);
  expect(libc.bind(listener, addressOf(name), name.length)).toBe(0);
  expect(libc.listen(listener, 16)).toBe(0);
});

afterAll(async () => {
  await pool.close();
  libc.close(listener);
  libc.munmap(arena, SLOTS * ROOM_BYTES);
});

function pair(): readonly [peer: number, ours: number] {
  const peer = libc.socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
  expect(libc.connect(peer, addressOf(name), name.length)).toBe(0);
  return [peer, libc.accept4(listener, null, null, SOCK_NONBLOCK)];
}

const turn = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));

interface Job {
  readonly kind: 'receive' | 'send' | 'reset';
  readonly sizeBytes: number;
  readonly placedBytes: number;
  readonly aroundBytes: number;
  readonly seed: number;
  /** Turns of the loop before the first byte: time for the worker to wait for it. */
  readonly late: number;
}

const jobs = fc.array(
  fc.record<Job>({
    kind: fc.constantFrom('receive', 'receive', 'send', 'reset'),
    sizeBytes: fc.oneof(fc.nat({ max: 3000 }), fc.nat({ max: ROOM_BYTES })),
    placedBytes: fc.nat({ max: 2 * 1024 * 1024 }),
    aroundBytes: fc.nat({ max: 6 }),
    seed: fc.nat({ max: 255 }),
    late: fc.constantFrom(0, 0, 20),
  }),
  { minLength: 1, maxLength: SLOTS },
);

function bytesOf({ sizeBytes, seed }: Job): Uint8Array {
  return Uint8Array.from({ length: sizeBytes }, (_, at) => (at * 7 + (at >> 8) + seed) & 255);
}

async function writeAll(fd: number, bytes: Uint8Array): Promise<void> {
  for (let sent = 0; sent < bytes.length;) {
    const piece = bytes.slice(sent, sent + 100_000);
    const count = libc.write(fd, addressOf(piece), piece.length);
    if (count > 0) sent += count;
    else await turn();
  }
}

async function readAll(fd: number, bytes: Uint8Array): Promise<void> {
  const piece = new Uint8Array(100_000);
  for (let got = 0; got < bytes.length;) {
    const count = libc.read(fd, addressOf(piece), Math.min(piece.length, bytes.length - got));
    if (count > 0) bytes.set(piece.subarray(0, count), got);
    if (count > 0) got += count;
    else await turn();
  }
}

async function receive(job: Job, address: Address): Promise<void> {
  const [peer, ours] = pair();
  const payload = bytesOf(job);
  const tail = Uint8Array.from({ length: job.aroundBytes }, (_, at) => 200 + at);
  const memory = viewOf(address, ROOM_BYTES).fill(0);
  const placedBytes = Math.min(job.placedBytes, job.sizeBytes);
  memory.set(payload.subarray(0, placedBytes));
  const outcome = pool.sockets.receive({
    fd: ours as Fd,
    address,
    sizeBytes: job.sizeBytes,
    placedBytes,
    tailBytes: tail.length,
    stallMs: 30_000,
  });
  for (let left = job.late; left > 0; left -= 1) await turn();
  if (job.kind === 'reset' && placedBytes < job.sizeBytes) {
    await writeAll(peer, payload.subarray(placedBytes, -1));
    libc.close(peer);
    expect(await outcome).toMatchObject({ ok: false, errno: ECONNRESET });
  } else {
    await writeAll(peer, payload.subarray(placedBytes));
    for (const byte of tail) {
      await writeAll(peer, Uint8Array.of(byte));
      for (let left = job.late; left > 0; left -= 1) await turn();
    }
    const done = await outcome;
    expect(done).toEqual({ ok: true, checksum: checksum(payload, Bun.hash.xxHash3), tail });
    expect(Buffer.compare(memory.subarray(0, job.sizeBytes), payload)).toBe(0);
    libc.close(peer);
  }
  libc.close(ours);
}

async function send(job: Job, address: Address): Promise<void> {
  const [peer, ours] = pair();
  const payload = bytesOf(job);
  viewOf(address, ROOM_BYTES).set(payload);
  const header = new TextEncoder().encode('h'.repeat(job.aroundBytes + 1));
  const trailer = new TextEncoder().encode('t'.repeat(job.aroundBytes));
  const outcome = pool.sockets.send({ fd: ours as Fd, header, address, sizeBytes: job.sizeBytes, trailer, sentBytes: 0, stallMs: 30_000 });
  for (let left = job.late; left > 0; left -= 1) await turn();
  const got = new Uint8Array(header.length + job.sizeBytes + trailer.length);
  await readAll(peer, got);
  expect(await outcome).toMatchObject({ ok: true });
  expect(Buffer.compare(got, Buffer.concat([header, payload, trailer]))).toBe(0);
  libc.close(peer);
  libc.close(ours);
}

test('every transfer of a worker has its own bytes, its own tail and its own checksum, whatever went before and beside', async () => {
  await fc.assert(
    fc.asyncProperty(jobs, async (list) => {
      const rooms = list.map((job, index) => [job, (arena + index * ROOM_BYTES) as Address] as const);
      await Promise.all(rooms.map(([job, address]) => (job.kind === 'send' ? send(job, address) : receive(job, address))));
    }),
    { numRuns: 40 },
  );
}, 60_000);
