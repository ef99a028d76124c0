import { expect, test } from 'vitest';
import type { Fd } from '#core/brand.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';
import type { LocalSocket } from '#ports/local-door.ts';
import { decodeBody } from '#protocol/native/native-codec.ts';
import { nativeDescriptor } from '#protocol/native/native-key.ts';
import { NativeParser } from '#protocol/native/native-parser.ts';
import { nativeOperations } from '#protocol/native/native-schema.ts';
import { FrameQueue } from '#servers/native/frame-queue.ts';
import { NativeEvents } from '#servers/native/native-events.ts';
import { SimClock } from '#testsupport/sim-clock.ts';

/** A kernel with so much room. */
class Kernel {
  room = 0;
  bytes: number[] = [];
  descriptors: number[] = [];
  tries = 0;
  readonly socket = {
    write: (bytes: Uint8Array) => this.#take(bytes),
    writeWithDescriptor: (bytes: Uint8Array, fd: Fd) => {
      this.tries += 1;
      if (this.room === 0) return -1;
      this.descriptors.push(fd);
      return this.#take(bytes);
    },
  } as unknown as LocalSocket;

  #take(bytes: Uint8Array): number {
    const taken = Math.min(this.room, bytes.length);
    this.room -= taken;
    this.bytes.push(...bytes.subarray(0, taken));
    return taken;
  }
}

test('FrameQueue keeps the order over frames that are cut and descriptors that find no room, and tries these at one pace', () => {
  const clock = new SimClock();
  const kernel = new Kernel();
  let stalled = 0;
  const frames = new FrameQueue(kernel.socket, { clock, stallMs: 1000, onStall: () => void (stalled += 1) });
  frames.send(Uint8Array.of(1), 7 as Fd);
  for (let index = 2; index < 6; index += 1) frames.send(Uint8Array.of(index, index));
  frames.send(Uint8Array.of(6), 8 as Fd);
  const until = (ms: number): void => {
    for (const untilMs = clock.monotonicMs() + ms; clock.fire(untilMs););
  };
  until(100);
  expect(kernel.tries).toBeLessThanOrEqual(52);
  kernel.room = 4;
  until(10);
  expect([kernel.bytes, kernel.descriptors]).toEqual([[1, 2, 2, 3], [7]]);
  kernel.room = 100;
  frames.onDrain();
  expect([kernel.bytes, kernel.descriptors]).toEqual([
    [1, 2, 2, 3, 3, 4, 4, 5, 5, 6],
    [7, 8],
  ]);
  until(5000);
  expect([frames.isBlocked, stalled]).toEqual([false, 0]);
  kernel.room = 0;
  frames.send(Uint8Array.of(9), 9 as Fd);
  until(1500);
  expect(stalled, 'a client that takes nothing is given up once').toBe(1);
  frames.close();
});

test('NativeEvents keeps a bounded number of keys for a client that is deaf, and then says how many were lost', async () => {
  const kernel = new Kernel();
  const frames = new FrameQueue(kernel.socket, { clock: new SimClock(), stallMs: 1000, onStall: () => {} });
  const events = new NativeEvents(frames, undefined);
  events.wanted = 1;
  const fields = { model: 'm', layout: '0123456789abcdef', rank: '', group: '', salt: '' };
  const descriptor = nativeDescriptor(fields, undefined) as NamespaceDescriptor;
  frames.send(Uint8Array.of(0));
  for (let index = 0; index < 5000; index += 1) events.add('stored', descriptor, new TextEncoder().encode(`k${index}`));
  events.add('removed', descriptor, new TextEncoder().encode('not wanted'));
  await Promise.resolve();
  kernel.room = 1e6;
  frames.onDrain();
  await new Promise((resolve) => setImmediate(resolve));
  events.add('stored', descriptor, new TextEncoder().encode('later'));
  await new Promise((resolve) => setImmediate(resolve));
  const parser = new NativeParser(1e6);
  parser.push(Uint8Array.from(kernel.bytes.slice(1)));
  const seen = { keys: [] as string[], lost: 0 };
  for (let event = parser.next(); event !== undefined && 'body' in event; event = parser.next()) {
    const { keys, lost } = decodeBody(nativeOperations.EVENT.reply, event.body);
    seen.keys.push(...keys.map((key) => new TextDecoder().decode(key)));
    seen.lost += lost;
  }
  expect(seen.keys).toEqual([...Array.from({ length: 4096 }, (_, index) => `k${index}`), 'later']);
  expect(seen.lost).toBe(904);
});
