import { describe, expect, test } from 'vitest';
import type { Fd } from '#core/brand.ts';
import type { TransportSocket } from '#ports/transport.ts';
import { Outbox } from '#servers/outbox.ts';
import { SimClock, settle } from '#testsupport/sim-clock.ts';

const stallMs = 1000;

/** A kernel with room for so many bytes; a test makes more room and tells the outbox. */
class NarrowSocket implements TransportSocket {
  readonly direct = true;
  readonly fd = 7 as Fd;
  readonly remoteAddress = 'peer';
  readonly taken: number[] = [];
  room: number;

  constructor(room: number) {
    this.room = room;
  }

  write(bytes: Uint8Array): number {
    const count = Math.min(this.room, bytes.length);
    this.taken.push(...bytes.subarray(0, count));
    this.room -= count;
    return count;
  }

  pause(): void {}
  resume(): void {}
  sip(): void {}
  end(): void {}
  terminate(): void {}
}

function setUp(room: number) {
  const clock = new SimClock();
  const socket = new NarrowSocket(room);
  const facts = { sent: 0, stalls: 0 };
  const outbox = new Outbox(socket, { clock, stallMs, onSent: (bytes) => void (facts.sent += bytes) }, () => void (facts.stalls += 1));
  return { clock, socket, outbox, facts };
}

/** Tells when a promise is settled. */
function watch(promise: Promise<void>): { done: boolean } {
  const state = { done: false };
  void promise.then(() => (state.done = true));
  return state;
}

describe('Outbox', () => {
  test('keeps what the kernel refused, in order, although its memory is used again', async () => {
    const { socket, outbox, facts } = setUp(3);
    const bytes = Uint8Array.of(1, 2, 3, 4, 5, 6);
    outbox.write(bytes);
    bytes.fill(99);
    expect(outbox.isBlocked).toBe(true);
    const drained = watch(outbox.drained());
    socket.room = 2;
    outbox.onDrain();
    await settle();
    expect([outbox.isBlocked, drained.done]).toEqual([true, false]);
    socket.room = 100;
    outbox.onDrain();
    await settle();
    expect([outbox.isBlocked, drained.done]).toEqual([false, true]);
    outbox.write(Uint8Array.of(7));
    expect([socket.taken, facts.sent]).toEqual([[1, 2, 3, 4, 5, 6, 7], 7]);
  });

  test('writes nothing past what waits', () => {
    const { outbox } = setUp(0);
    outbox.write(Uint8Array.of(1));
    expect(() => outbox.write(Uint8Array.of(2))).toThrow(/past what waits/);
  });

  test('wakes everybody who waits, when all has left or the peer is gone', async () => {
    for (const how of ['left', 'gone']) {
      const { socket, outbox, clock } = setUp(0);
      outbox.write(Uint8Array.of(1, 2));
      const waiting = [watch(outbox.drained()), watch(outbox.drained())];
      socket.room = 100;
      if (how === 'left') outbox.onDrain();
      else outbox.onClose();
      await settle();
      expect(
        waiting.map(({ done }) => done),
        how,
      ).toEqual([true, true]);
      expect(clock.timerCount, how).toBe(0);
    }
  });

  test('gives up a peer that takes nothing for the stall time, and none that took all in time', async () => {
    const { clock, socket, outbox, facts } = setUp(0);
    outbox.write(Uint8Array.of(1));
    void outbox.drained();
    await clock.advance(stallMs - 1);
    expect(facts.stalls).toBe(0);
    await clock.advance(1);
    expect(facts.stalls).toBe(1);
    socket.room = 1;
    outbox.onDrain();
    await settle();
    await clock.advance(10 * stallMs);
    expect(facts.stalls).toBe(1);
  });

  test('writes nothing to a peer that is gone, and keeps nobody waiting for it', async () => {
    const { socket, outbox } = setUp(100);
    outbox.onClose();
    outbox.write(Uint8Array.of(1));
    const drained = watch(outbox.drained());
    await settle();
    expect([socket.taken, drained.done]).toEqual([[], true]);
  });
});
