/** What moves on the main thread and what goes to the pool; the bytes themselves are the simulation's and the conformance suite's business. */
import { expect, test } from 'vitest';
import type { PutTicket } from '#cache/door.ts';
import type { Address, Fd } from '#core/brand.ts';
import { checksum } from '#core/checksum.ts';
import type { IoFailure, ReceiveDone, ReceiveJob, SocketIo } from '#ports/io-pool.ts';
import type { TransportSocket } from '#ports/transport.ts';
import { ValueTransfer } from '#servers/value-transfer.ts';
import { SimClock } from '#testsupport/sim-clock.ts';

const KiB = 1024;
const MiB = 1024 * KiB;
const hash = (block: Uint8Array, seed: bigint): bigint => Bun.hash.xxHash3(block, seed);
const CRLF = Uint8Array.of(13, 10);

/**
 * A peer that sends `value` and CRLF: each look finds the next of `steps` bytes, 0 of which are an empty look and -1 the end of the peer; then
 * all that is left. A look takes `lookMs`.
 */
function transferOf(
  value: Uint8Array,
  options: { readonly alone: boolean; readonly steps: readonly number[]; readonly busy?: boolean; readonly lookMs?: number },
) {
  let nowMs = 0;
  const clock = Object.assign(new SimClock(), { monotonicMs: () => nowMs });
  const memory = new Uint8Array(value.length);
  const wire = new Uint8Array(value.length + CRLF.length);
  wire.set(value);
  wire.set(CRLF, value.length);
  let sent = 0;
  let looks = 0;
  const handedOver: ReceiveJob[] = [];
  const sockets: SocketIo = {
    activeCount: options.busy === true ? 1 : 0,
    receiveNow(job) {
      nowMs += options.lookMs ?? 0;
      const step = options.steps[looks++] ?? wire.length;
      if (step < 0) return { ok: false, errno: 104, step: 'receive' };
      const bytes = wire.subarray(sent, sent + Math.min(step, job.sizeBytes + job.tail.length));
      sent += bytes.length;
      memory.set(bytes.subarray(0, job.sizeBytes), job.address - 4096);
      job.tail.set(bytes.subarray(job.sizeBytes));
      return bytes.length;
    },
    receive(job): Promise<ReceiveDone | IoFailure> {
      handedOver.push(job);
      memory.set(value.subarray(job.placedBytes), job.placedBytes);
      return Promise.resolve({ ok: true, checksum: checksum(memory, hash), tail: CRLF.slice(CRLF.length - job.tailBytes) });
    },
    sendNow: () => 0,
    send: () => Promise.reject(new Error('nothing is sent here')),
  };
  const socket = { fd: 7 as Fd, pause() {} } as unknown as TransportSocket;
  const owner = { isGone: false, stallMs: 1000, streamsAlone: options.alone, countReceived() {} };
  const source = { unreadBytes: 0, takeBuffered: () => new Uint8Array(0), valueReceivedElsewhere() {} };
  const ticket: PutTicket = {
    kind: 'ticket',
    address: 4096 as Address,
    sizeBytes: value.length,
    view: () => memory,
  };
  const transfer = new ValueTransfer(socket, { sockets, hash, clock }, { owner, source, tailBytes: CRLF.length });
  return { receive: () => transfer.receive(ticket), memory, handedOver, looks: () => looks };
}

function valueOf(sizeBytes: number): Uint8Array {
  const value = new Uint8Array(sizeBytes);
  for (let at = 0; at < sizeBytes; at += 1) value[at] = (at * 31 + (at >> 10)) & 255;
  return value;
}

test('4 MiB of a connection that streams alone never leave the main thread, in whatever pieces they come', () => {
  const value = valueOf(4 * MiB);
  const steps = [4096, 0, 0, 700 * KiB, 1, 0, MiB, 0, 0, 0, 3 * KiB, 2 * MiB];
  const { receive, memory, handedOver } = transferOf(value, { alone: true, steps });
  const received = receive();
  expect(received).toEqual({ checksum: checksum(value, hash), tail: CRLF });
  expect(Buffer.compare(memory, value)).toBe(0);
  expect(handedOver).toEqual([]);
});

test('beside other streams more than 1 MiB goes to the pool', async () => {
  const value = valueOf(1 * MiB + 1);
  const { receive, handedOver, looks } = transferOf(value, { alone: false, steps: [4096, 64 * KiB] });
  expect(await receive()).toEqual({ checksum: checksum(value, hash), tail: CRLF });
  expect(handedOver.length).toBe(1);
  expect(looks()).toBeGreaterThan(0);
});

test('while the pool is at work more than 1 MiB goes there at once, alone or not', async () => {
  const value = valueOf(1 * MiB + 1);
  const { receive, handedOver, looks } = transferOf(value, { alone: true, steps: [], busy: true });
  expect(await receive()).toEqual({ checksum: checksum(value, hash), tail: CRLF });
  expect(handedOver.map((job) => job.placedBytes)).toEqual([0]);
  expect(looks()).toBe(0);
});

test('a value of more than 4 MiB begins on the main thread and goes on in the pool', async () => {
  const value = valueOf(5 * MiB);
  const { receive, handedOver } = transferOf(value, { alone: true, steps: [] });
  expect(await receive()).toEqual({ checksum: checksum(value, hash), tail: CRLF });
  expect(handedOver.map((job) => job.placedBytes)).toEqual([1 * MiB]);
});

test.each([
  { alone: true, sizeBytes: 4 * MiB, most: 1024 },
  { alone: true, sizeBytes: MiB, most: 1024 },
  { alone: true, sizeBytes: 64 * KiB, most: 64 },
  { alone: true, sizeBytes: 20_000, most: 32 },
  { alone: false, sizeBytes: 512 * KiB, most: 32 },
])('a peer that sends nothing of $sizeBytes bytes is looked for $most times (alone: $alone), then the pool waits for it', async (peer) => {
  const { alone, sizeBytes, most } = peer;
  const value = valueOf(sizeBytes);
  const { receive, memory, handedOver, looks } = transferOf(value, { alone, steps: [1000, ...Array.from({ length: 2000 }, () => 0)] });
  expect(await receive()).toEqual({ checksum: checksum(value, hash), tail: CRLF });
  expect(Buffer.compare(memory, value)).toBe(0);
  expect(handedOver.map((job) => job.placedBytes)).toEqual([1000]);
  expect(looks()).toBe(most + 1);
});

test.each([
  { alone: true, step: 1 },
  { alone: false, step: 1 },
  { alone: true, step: 0 },
])('4 ms after the first look the pool goes on, with $step bytes in each (alone: $alone)', async ({ alone, step }) => {
  const value = valueOf(1 * MiB);
  const { receive, memory, handedOver, looks } = transferOf(value, {
    alone,
    steps: Array.from({ length: 2000 }, () => step),
    lookMs: 0.25,
  });
  expect(await receive()).toEqual({ checksum: checksum(value, hash), tail: CRLF });
  expect(Buffer.compare(memory, value)).toBe(0);
  expect(looks()).toBe(16);
  expect(handedOver.map((job) => job.placedBytes)).toEqual([16 * step]);
});

test('a value that is whole when its 4 ms are over stays on the main thread', () => {
  const value = valueOf(1 * MiB);
  const { receive, handedOver } = transferOf(value, { alone: true, steps: [512 * KiB], lookMs: 2 });
  expect(receive()).toEqual({ checksum: checksum(value, hash), tail: CRLF });
  expect(handedOver).toEqual([]);
});

test('a peer that is gone is not looked for again: the pool says so', async () => {
  const { receive, handedOver, looks } = transferOf(valueOf(1 * MiB), { alone: true, steps: [1000, -1] });
  await receive();
  expect(looks()).toBe(2);
  expect(handedOver.map((job) => job.placedBytes)).toEqual([1000]);
});

test('half of what follows the value is kept for the pool to complete', async () => {
  const value = valueOf(256 * KiB);
  const { receive, handedOver } = transferOf(value, { alone: true, steps: [256 * KiB + 1] });
  expect(await receive()).toEqual({ checksum: checksum(value, hash), tail: CRLF });
  expect(handedOver.map(({ placedBytes, tailBytes }) => [placedBytes, tailBytes])).toEqual([[256 * KiB, 1]]);
});
