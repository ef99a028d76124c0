/** The lm:// door's frames: the parser against the whole-buffer model, and each request and reply encoded again. */
import fc from 'fast-check';
import { LM_REPLY_BYTES, LM_REQUEST_BYTES, decodeLmReply, decodeLmRequest, encodeLmReply, encodeLmRequest } from '#protocol/lm/lm-frame.ts';
import { LmParser } from '#protocol/lm/lm-parser.ts';
import { driveLmParser, modelLmEvents, type PayloadChoice } from '#testsupport/naive-lm.ts';
import { demandEqual, type FuzzTarget } from './harness.ts';

const maxPayloadBytes = 300;
const choices: readonly PayloadChoice[] = ['take', 'take-small', 'elsewhere', 'skip', 'take-then-skip', 'later'];
const int32 = fc.oneof(fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }), fc.integer({ min: -3, max: 9 }));
const block = fc.record({ fmt: int32, dtype: int32, shape: fc.tuple(int32, int32, int32, int32) });
const key = fc.oneof(
  fc.uint8Array({ maxLength: 150 }),
  fc.constantFrom('m@1@0@ab@bfloat16', 'm@1@0@-ab@half@3@t%v', ' ', '', 'a  ').map((text) => new TextEncoder().encode(text)),
);
const put = fc
  .record({ key, block, location: int32, payload: fc.uint8Array({ maxLength: maxPayloadBytes }) })
  .map(({ payload, ...rest }) => [
    encodeLmRequest('PUT', rest.key, { length: payload.length, block: rest.block, location: rest.location }),
    payload,
  ]);
const other = fc
  .record({ command: fc.constantFrom('GET' as const, 'EXIST' as const, 'LIST' as const, 'HEALTH' as const), key, block, length: int32 })
  .map((request) => [encodeLmRequest(request.command, request.key, request)]);

/** Which bytes of a request may differ when it is encoded again: none, but that a key's padding is its own. */
function again(frame: Uint8Array): Uint8Array {
  const { command, key: name, ...fields } = decodeLmRequest(frame);
  return encodeLmRequest(command, name, fields);
}

export const lm: FuzzTarget = {
  name: 'lm',
  corpus: fc.array(fc.oneof(put, other), { maxLength: 4 }).map((frames) => Uint8Array.from(Buffer.concat(frames.flat()))),
  begin: () => (input, random) => {
    const cuts = Array.from({ length: random.pick([0, 1, 3, 20]) }, () => random.below(input.length + 1));
    const plan = { cuts, choices: Array.from({ length: 3 }, () => random.pick(choices)), retain: random.below(2) === 0 };
    const seen = driveLmParser(new LmParser({ maxPayloadBytes }), input, plan);
    const model = modelLmEvents(input, maxPayloadBytes).map((event, index) => {
      const twin = seen[index];
      return event.kind === 'put' && twin?.kind === 'put' && twin.payload === '<skipped>' ? { ...event, payload: '<skipped>' } : event;
    });
    demandEqual(seen, model, 'the events of the parser against the model');
    if (input.length >= LM_REQUEST_BYTES) {
      const frame = input.slice(0, LM_REQUEST_BYTES);
      demandEqual(again(frame), frame, 'a request, encoded again');
    }
    if (input.length >= LM_REPLY_BYTES) {
      const { code, length, block: told } = decodeLmReply(input.slice(0, LM_REPLY_BYTES));
      demandEqual(decodeLmReply(encodeLmReply(code, length, told)), { code, length, block: told, location: 0 }, 'a reply, decoded again');
    }
  },
};
