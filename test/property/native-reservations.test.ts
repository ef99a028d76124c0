import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Reservations } from '#servers/native/reservations.ts';

const BLOCK = 4096;
const BLOCKS = 24;

const step = fc.oneof(
  fc.record({
    what: fc.constant('take' as const),
    sizeBytes: fc.oneof(fc.nat(3 * BLOCK), fc.constantFrom(0, 1, BLOCK, BLOCK + 1, BLOCKS * BLOCK)),
  }),
  fc.record({ what: fc.constantFrom('give' as const, 'begin' as const, 'finish' as const), which: fc.nat(30), extra: fc.nat(2) }),
);

test('Reservations are those of a naive map of blocks: first fit, no overlap, nothing lost, what is in use stays', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 120, size: 'max' }), (steps) => {
      const room = new Reservations(BLOCKS * BLOCK);
      const blocks = new Array<number>(BLOCKS).fill(-1);
      const held = new Map<number, { readonly sizeBytes: number; inUse: boolean }>();
      for (const one of steps) {
        if (one.what === 'take') {
          const wanted = Math.ceil(one.sizeBytes / BLOCK);
          const at = blocks.findIndex(
            (_, index) => index + wanted <= BLOCKS && blocks.slice(index, index + wanted).every((owner) => owner < 0),
          );
          const offset = room.take(one.sizeBytes);
          if (one.sizeBytes === 0 || at < 0) expect(offset).toBe(-1);
          else {
            expect(offset).toBe(at * BLOCK);
            blocks.fill(offset, at, at + wanted);
            held.set(offset, { sizeBytes: one.sizeBytes, inUse: false });
          }
        } else {
          const offset = [...held.keys()][one.which] ?? one.which;
          const span = held.get(offset);
          const free = (): void => {
            held.delete(offset);
            for (const [index, owner] of blocks.entries()) if (owner === offset) blocks[index] = -1;
          };
          if (one.what === 'give') {
            const expected = span !== undefined && !span.inUse;
            expect(room.giveBack(offset)).toBe(expected);
            if (expected) free();
          } else if (one.what === 'begin') {
            const length = (span?.sizeBytes ?? 1) + one.extra - 1;
            const fits = span !== undefined && !span.inUse && length > 0 && length <= span.sizeBytes;
            const refused = room.begin([{ offset, length }]);
            expect(refused === undefined).toBe(fits);
            if (fits) span.inUse = true;
          } else if (span?.inUse === true) {
            room.finish([{ offset, length: span.sizeBytes }]);
            free();
          }
        }
        room.checkInvariants();
        expect(room.count).toBe(held.size);
      }
    }),
    { numRuns: 300 },
  );
});

test('a list of spans is begun whole or not at all, and a span twice is not whole', () => {
  const room = new Reservations(BLOCKS * BLOCK);
  const [first, second] = [room.take(BLOCK), room.take(BLOCK)];
  expect(
    room.begin([
      { offset: first, length: 1 },
      { offset: first, length: 1 },
    ]),
  ).toEqual({ offset: first, length: 1 });
  expect(
    room.begin([
      { offset: first, length: 1 },
      { offset: 1, length: 1 },
    ]),
  ).toEqual({ offset: 1, length: 1 });
  expect(
    room.begin([
      { offset: first, length: 1 },
      { offset: second, length: BLOCK },
    ]),
  ).toBeUndefined();
  expect(room.giveBack(first)).toBe(false);
});
