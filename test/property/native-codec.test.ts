import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { MalformedBody, decodeBody, encodeFrame } from '#protocol/native/native-codec.ts';
import { FRAME_HEADER_BYTES } from '#protocol/native/native-schema.ts';
import { jsonOf, messages, modelFrames, parsedFrames, valuesFromJson, valuesOf } from '#testsupport/native-messages.ts';

const MAX_FRAME_BYTES = 400;
const anyMessage = fc.constantFrom(...messages).chain((message) => valuesOf(message.shape).map((values) => ({ message, values })));
const anyFrame = fc
  .tuple(anyMessage, fc.nat(9), fc.maxSafeNat())
  .map(([{ message, values }, status, tag]) => encodeFrame({ op: message.op, status, tag }, message.shape, values as never));
const anyStream = fc.array(anyFrame, { maxLength: 6 }).map((frames) => Uint8Array.from(Buffer.concat(frames)));

describe('the codec of the native door', () => {
  test('decodes what it has encoded, for every message and any values', () => {
    fc.assert(
      fc.property(anyMessage, fc.maxSafeNat(), ({ message, values }, tag) => {
        const frame = encodeFrame({ op: message.op, tag }, message.shape, values as never);
        expect(decodeBody(message.shape, frame.subarray(FRAME_HEADER_BYTES))).toEqual(values);
        expect(valuesFromJson(message.shape, jsonOf(message.shape, values))).toEqual(values);
      }),
      { numRuns: 500 },
    );
  });

  test('refuses a body that is cut anywhere, and one with a byte left over', () => {
    fc.assert(
      fc.property(anyMessage, ({ message, values }) => {
        const body = encodeFrame({ op: message.op, tag: 1 }, message.shape, values as never).slice(FRAME_HEADER_BYTES);
        for (let length = 0; length < body.length; length += 1)
          expect(() => decodeBody(message.shape, body.subarray(0, length)), `${length} of ${body.length}`).toThrow(MalformedBody);
        expect(() => decodeBody(message.shape, Uint8Array.of(...body, 0))).toThrow(MalformedBody);
      }),
      { numRuns: 100 },
    );
  });

  test.each([
    ['keys', Uint8Array.of(0xff, 0xff, 0xff, 0xff, 1, 0)],
    ['keys', Uint8Array.of(0xff, 0xff, 0xff, 0x7f, 0, 0)],
    ['spans', Uint8Array.of(0xff, 0xff, 0xff, 0xff)],
    ['u8s', Uint8Array.of(0xff, 0xff, 0xff, 0xff, 1)],
    ['u32s', Uint8Array.of(0xff, 0xff, 0xff, 0x3f)],
    ['blob', Uint8Array.of(0xff, 0xff, 0xff, 0xff)],
    ['text', Uint8Array.of(0xff, 0xff)],
    ['text', Uint8Array.of(1, 0, 0xff)],
    ['u64', new Uint8Array(8).fill(0xff)],
  ] as const)('refuses a hostile %s before it makes anything of that size', (type, body) => {
    expect(() => decodeBody({ field: type }, body)).toThrow(/^field: /);
  });

  test('refuses more elements than are allowed, of keys that have no bytes too', () => {
    for (const type of ['keys', 'spans', 'u32s', 'u8s'] as const) {
      const body = new Uint8Array(6 + 5 * 12);
      body[0] = 5;
      expect(() => decodeBody({ field: type }, body, 4), type).toThrow('field: 5 are named, at most 4 are allowed');
    }
  });

  test.each([
    ['u8', 256],
    ['u16', 65_536],
    ['u32', 2 ** 32],
    ['u64', 2 ** 53],
    ['u32', -1],
    ['u32', 1.5],
    ['u64', Number.NaN],
  ] as const)('refuses to write a %s of %d', (type, value) => {
    expect(() => encodeFrame({ op: 1, tag: 1 }, { field: type }, { field: value })).toThrow(RangeError);
  });
});

describe('NativeParser', () => {
  test('says the same as a model of the whole stream, wherever it is cut', () => {
    const anyCuts = fc.array(fc.nat(2000), { maxLength: 40 });
    fc.assert(
      fc.property(anyStream, anyCuts, (stream, cuts) => {
        expect(parsedFrames(stream, cuts, MAX_FRAME_BYTES)).toEqual(modelFrames(stream, MAX_FRAME_BYTES));
      }),
      { numRuns: 400 },
    );
  });

  test('says the same where each byte comes alone, and where the stream is damaged', () => {
    const edits = fc.array(fc.tuple(fc.nat(2000), fc.nat(255)), { maxLength: 4 });
    fc.assert(
      fc.property(anyStream, edits, (stream, changes) => {
        for (const [at, value] of changes) if (stream.length > 0) stream[at % stream.length] = value;
        const each = Array.from({ length: stream.length }, (_, at) => at);
        expect(parsedFrames(stream, each, MAX_FRAME_BYTES)).toEqual(modelFrames(stream, MAX_FRAME_BYTES));
      }),
      { numRuns: 200 },
    );
  });
});
