import fc from 'fast-check';
import { expect, test } from 'vitest';
import { KeyArena } from '#cache/key-arena.ts';

const PAGE_BYTES = 16_384;

function pack(key: Uint8Array): { words: Uint32Array; start: number; lengthBytes: number } {
  const bytes = new Uint8Array(2052);
  bytes.set(key, 4);
  return { words: new Uint32Array(bytes.buffer), start: 1, lengthBytes: key.length };
}

test('KeyArena keeps every key under any order of allocation and free, in the fewest pages', () => {
  const lengths = fc.oneof(fc.integer({ min: 0, max: 9 }), fc.constantFrom(64, 63, 65, 1024, 2045, 2048));
  const command = fc.oneof(
    { weight: 3, arbitrary: fc.record({ kind: fc.constant('allocate' as const), length: lengths }) },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant('free' as const), pick: fc.nat() }) },
  );
  fc.assert(
    fc.property(fc.array(command, { maxLength: 80, size: 'max' }), (commands) => {
      const arena = new KeyArena();
      const model = new Map<number, { ref: number; readonly key: Uint8Array }>();
      commands.forEach((step, row) => {
        if (step.kind === 'allocate') {
          const key = new Uint8Array(step.length).map((_, at) => (row * 31 + at) & 0xff);
          model.set(row, { ref: arena.allocate(row, pack(key)), key });
        } else if (model.size > 0) {
          const gone = [...model.keys()][step.pick % model.size]!;
          const { ref } = model.get(gone)!;
          model.delete(gone);
          const moved = arena.free(ref);
          if (moved >= 0) model.get(moved)!.ref = ref;
        }
        arena.checkInvariants();
        for (const { ref, key } of model.values()) {
          expect(Buffer.compare(arena.view(ref), key)).toBe(0);
          const packed = pack(key);
          expect(arena.equals(ref, packed.words, packed.start, key.length)).toBe(true);
        }
        expect(arena.usedPageCount).toBe(fewestPages([...model.values()].map(({ key }) => key.length)));
      });
    }),
    { numRuns: 60 },
  );
});

test('KeyArena tells keys apart that differ in padding or length only', () => {
  const arena = new KeyArena();
  const refs = Array.from({ length: 10 }, (_, length) => arena.allocate(length, pack(new Uint8Array(length))));
  for (let length = 0; length < 10; length += 1) {
    const packed = pack(new Uint8Array(length));
    const equal = refs.map((ref) => arena.equals(ref, packed.words, packed.start, length));
    expect(equal.indexOf(true)).toBe(length);
    expect(equal.lastIndexOf(true)).toBe(length);
  }
});

/** One page holds blocks of one word count, each a header word and the key's words. */
function fewestPages(lengths: readonly number[]): number {
  const blocks = new Map<number, number>();
  for (const length of lengths) {
    const blockBytes = 4 + Math.ceil(length / 4) * 4;
    blocks.set(blockBytes, (blocks.get(blockBytes) ?? 0) + 1);
  }
  let pages = 0;
  for (const [blockBytes, count] of blocks) pages += Math.ceil(count / Math.floor(PAGE_BYTES / blockBytes));
  return pages;
}
