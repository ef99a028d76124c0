/** The native door: frames by the parser against a model of the whole stream, and bodies of every message, encoded again. */
import fc from 'fast-check';
import { MalformedBody, decodeBody, encodeFrame } from '#protocol/native/native-codec.ts';
import { FRAME_HEADER_BYTES } from '#protocol/native/native-schema.ts';
import { messages, modelFrames, parsedFrames, valuesOf } from '#testsupport/native-messages.ts';
import { demandEqual, type FuzzTarget } from './harness.ts';

const MAX_FRAME_BYTES = 300;
const MAX_COUNT = 1000;
const anyFrame = fc
  .constantFrom(...messages)
  .chain((message) => fc.tuple(fc.constant(message), valuesOf(message.shape), fc.maxSafeNat()))
  .map(([message, values, tag]) => encodeFrame({ op: message.op, tag }, message.shape, values as never));

export const nativeFrames: FuzzTarget = {
  name: 'native-frames',
  corpus: fc.array(anyFrame, { maxLength: 4 }).map((frames) => Uint8Array.from(Buffer.concat(frames))),
  begin: () => (input, random) => {
    const cuts = Array.from({ length: random.pick([0, 1, 3, 20]) }, () => random.below(input.length + 1));
    demandEqual(
      parsedFrames(input, cuts, MAX_FRAME_BYTES),
      modelFrames(input, MAX_FRAME_BYTES),
      'the frames of the parser against the model',
    );
  },
};

/** The operation stands in the header; what is decoded must be what is encoded, to the byte, but for the two spellings of equal keys. */
export const nativeBodies: FuzzTarget = {
  name: 'native-bodies',
  corpus: anyFrame,
  begin: () => (input) => {
    if (input.length < FRAME_HEADER_BYTES) return;
    const op = new DataView(input.buffer, input.byteOffset).getUint16(4, true);
    const body = input.slice(FRAME_HEADER_BYTES);
    for (const message of messages) {
      if (message.op !== op) continue;
      try {
        const values = decodeBody(message.shape, body, MAX_COUNT);
        const again = encodeFrame({ op, tag: 1 }, message.shape, values).slice(FRAME_HEADER_BYTES);
        demandEqual(decodeBody(message.shape, again, MAX_COUNT), values, `${message.name} ${message.direction}, decoded again`);
      } catch (problem) {
        if (!(problem instanceof MalformedBody)) throw problem;
      }
    }
  },
};
