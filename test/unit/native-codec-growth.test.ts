import { expect, test } from 'vitest';
import { decodeBody, encodeFrame } from '#protocol/native/native-codec.ts';
import { FRAME_HEADER_BYTES, nativeOperations } from '#protocol/native/native-schema.ts';

test('frames of any length come back as they were, wherever their memory had to grow', () => {
  const { op, reply } = nativeOperations.LOOKUP;
  for (let count = 0; count < 300; count += 1) {
    const values = { tiers: new Uint8Array(count).fill(2), sizes: Array.from({ length: count }, (_, index) => index * 4097) };
    const frame = encodeFrame({ op, tag: count }, reply, values);
    expect(decodeBody(reply, frame.subarray(FRAME_HEADER_BYTES))).toEqual(values);
  }
});
