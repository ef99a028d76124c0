import fc from 'fast-check';
import { expect, test } from 'vitest';
import { formatLmBlock, parseLmBlock, sameLmBlock } from '#core/lm-block.ts';
import type { LmBlock } from '#core/lm-block.ts';

const int32 = fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 });
const block: fc.Arbitrary<LmBlock> = fc.record({ fmt: int32, dtype: int32, shape: fc.tuple(int32, int32, int32, int32) });

test('formatLmBlock is read back by parseLmBlock as the same block', () => {
  fc.assert(
    fc.property(block, (value) => {
      expect(parseLmBlock(formatLmBlock(value))).toEqual(value);
    }),
  );
});

test('parseLmBlock takes nothing but what formatLmBlock writes', () => {
  for (const text of ['', '[]', '[1,2,3,4,5]', '[1,2,3,4,5,6,7]', '[1, 2,3,4,5,6]', '[01,2,3,4,5,6]', '[-0,2,3,4,5,6]']) {
    expect(parseLmBlock(text), text).toBeUndefined();
  }
  for (const text of [
    '[2147483648,2,3,4,5,6]',
    '[1,2,3,4,5,-2147483649]',
    '[1,2,3,4,5,6]\n',
    ' [1,2,3,4,5,6]',
    '[1.5,2,3,4,5,6]',
    'null',
  ]) {
    expect(parseLmBlock(text), text).toBeUndefined();
  }
});

test('sameLmBlock sees each of the six numbers', () => {
  const first: LmBlock = { fmt: 1, dtype: 3, shape: [2, 32, 256, 1024] };
  expect(sameLmBlock(first, { fmt: 1, dtype: 3, shape: [2, 32, 256, 1024] })).toBe(true);
  for (let index = 0; index < 6; index += 1) {
    const numbers = [1, 3, 2, 32, 256, 1024].map((value, at) => (at === index ? value + 1 : value));
    const other = parseLmBlock(JSON.stringify(numbers));
    expect(other !== undefined && sameLmBlock(first, other), `number ${index}`).toBe(false);
  }
});
