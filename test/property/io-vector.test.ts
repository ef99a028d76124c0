/** What system calls are told of memory, beside the obvious way to write it down. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { IoVector } from '#host/io-vector.ts';
import { AF_UNIX, SOCK_SEQPACKET, addressOf, libc, viewOf } from '#host/libc.ts';
import { MessageVector } from '#host/message-vector.ts';

const exact = fc.oneof(fc.nat({ max: 4096 }), fc.maxSafeNat(), fc.constantFrom(2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 47, 2 ** 53 - 1));

test('IoVector writes addresses and sizes as the kernel reads them', () => {
  const vector = new IoVector(3);
  const words = new BigUint64Array(viewOf(Number(vector.pointer), 48).slice().buffer);
  expect([...words]).toEqual([0n, 0n, 0n, 0n, 0n, 0n]);
  fc.assert(
    fc.property(fc.nat({ max: 2 }), exact, exact, (index, address, sizeBytes) => {
      vector.set(index, address, sizeBytes);
      const now = new BigUint64Array(viewOf(Number(vector.pointer), 48).slice().buffer);
      expect([now[index * 2], now[index * 2 + 1]]).toEqual([BigInt(address), BigInt(sizeBytes)]);
    }),
  );
});

test('MessageVector sends what is left of its pieces, within the budget', () => {
  const name = new Uint8Array(110);
  name.set(new TextEncoder().encode(`\0\0\0kvtier-test-${process.pid}`));
  name[0] = AF_UNIX;
  const listener = libc.socket(AF_UNIX, SOCK_SEQPACKET, 0);
  const client = libc.socket(AF_UNIX, SOCK_SEQPACKET, 0);
  expect(libc.bind(listener, addressOf(name), name.length)).toBe(0);
  expect(libc.listen(listener, 1)).toBe(0);
  expect(libc.connect(client, addressOf(name), name.length)).toBe(0);
  const server = libc.accept4(listener, null, null, 0);
  expect(server).toBeGreaterThanOrEqual(0);
  const vector = new MessageVector();
  const piece = fc.uint8Array({ minLength: 1, maxLength: 40 });
  const into = new Uint8Array(256);
  fc.assert(
    fc.property(
      fc.array(piece, { minLength: 1, maxLength: 3 }),
      fc.nat({ max: 119 }),
      fc.integer({ min: 1, max: 130 }),
      (pieces, skip, budget) => {
        const all = pieces.flatMap((bytes) => [...bytes]);
        const left = all.slice(skip % all.length).slice(0, budget);
        vector.begin(skip % all.length, budget);
        for (const bytes of pieces) vector.add(Number(addressOf(bytes)), bytes.length);
        expect(vector.send(client)).toBe(left.length);
        expect(libc.read(server, addressOf(into), into.length)).toBe(left.length);
        expect([...into.subarray(0, left.length)]).toEqual(left);
      },
    ),
  );
  for (const fd of [client, server, listener]) libc.close(fd);
});
