import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { LM_COMMANDS, LM_REQUEST_BYTES, decodeLmReply, decodeLmRequest, encodeLmReply, encodeLmRequest } from '#protocol/lm/lm-frame.ts';
import { LmParser } from '#protocol/lm/lm-parser.ts';
import { driveLmParser, modelLmEvents } from '#testsupport/naive-lm.ts';
import type { PayloadChoice } from '#testsupport/naive-lm.ts';

/** Small, so that it is met within a few bytes. */
const maxPayloadBytes = 300;
const choices: readonly PayloadChoice[] = ['take', 'take-small', 'elsewhere', 'skip', 'take-then-skip', 'later'];
const int32 = fc.oneof(fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }), fc.integer({ min: -3, max: 9 }));
const block = fc.record({ fmt: int32, dtype: int32, shape: fc.tuple(int32, int32, int32, int32) });
const key = fc.oneof(
  fc.uint8Array({ maxLength: 150 }),
  fc.uint8Array({ minLength: 148, maxLength: 150, max: 127 }),
  fc.constantFrom('m@1@0@ab@bfloat16', 'm@1@0@-ab@half@3@t%v', ' ', '').map((text) => new TextEncoder().encode(text)),
);

const put = fc
  .record({ key, block, location: int32, payload: fc.uint8Array({ maxLength: maxPayloadBytes }) })
  .map(({ payload, ...rest }) => [
    encodeLmRequest('PUT', rest.key, { length: payload.length, block: rest.block, location: rest.location }),
    payload,
  ]);
const other = fc
  .record({ command: fc.constantFrom('GET', 'EXIST', 'LIST', 'HEALTH'), key, block, length: int32 })
  .map((request) => [encodeLmRequest(request.command, request.key, request)]);
const hostile = fc.oneof(
  fc.tuple(int32, key).map(([command, name]) => [encodeLmRequest(command, name)]),
  fc.tuple(int32, key).map(([length, name]) => [encodeLmRequest('PUT', name, { length })]),
);
const stream = (...parts: fc.Arbitrary<Uint8Array[]>[]): fc.Arbitrary<Uint8Array> =>
  fc.array(fc.oneof(...parts), { maxLength: 5, size: 'max' }).map((frames) => Uint8Array.from(Buffer.concat(frames.flat())));
const valid = stream(put, put, other);
/** Cut off anywhere, and with some bytes changed. */
const damaged = fc
  .tuple(stream(put, other, hostile), fc.nat(1500), fc.array(fc.tuple(fc.nat(1500), fc.nat(255)), { maxLength: 4 }))
  .map(([bytes, length, edits]) => {
    const copy = bytes.slice(0, length % (bytes.length + 1) || bytes.length);
    for (const [at, value] of edits) if (copy.length > 0) copy[at % copy.length] = value;
    return copy;
  });
const planOf = fc.record({
  cuts: fc.array(fc.nat(2000), { maxLength: 30, size: 'max' }),
  choices: fc.array(fc.constantFrom(...choices), { minLength: 1, maxLength: 5 }),
  retain: fc.boolean(),
});

function check(input: Uint8Array, plan: { cuts: readonly number[]; choices: readonly PayloadChoice[]; retain: boolean }): void {
  const seen = driveLmParser(new LmParser({ maxPayloadBytes }), input, plan);
  const model = modelLmEvents(input, maxPayloadBytes).map((event, index) => {
    const twin = seen[index];
    return event.kind === 'put' && twin?.kind === 'put' && twin.payload === '<skipped>' ? { ...event, payload: '<skipped>' } : event;
  });
  expect(seen).toEqual(model);
}

describe('LmParser', () => {
  test('gives the same events as the whole-buffer model however valid requests are cut and payloads are taken', () => {
    fc.assert(fc.property(valid, planOf, check), { numRuns: 400 });
  });

  test('gives the same events at every single split position', () => {
    fc.assert(
      fc.property(stream(put, other), fc.constantFrom(...choices), fc.boolean(), (input, choice, retain) => {
        for (let cut = 1; cut < input.length; cut += 1) check(input, { cuts: [cut], choices: [choice], retain });
      }),
      { numRuns: 15 },
    );
  });

  test('gives the same events when it is fed one byte at a time', () => {
    fc.assert(
      fc.property(valid, fc.constantFrom(...choices), (input, choice) => {
        check(input, { cuts: Array.from({ length: input.length }, (_, index) => index), choices: [choice], retain: false });
      }),
      { numRuns: 40 },
    );
  });

  test('never throws, never loops and still agrees with the model on damaged and truncated input', () => {
    fc.assert(fc.property(damaged, planOf, check), { numRuns: 600 });
  });

  test('never throws, never loops and still agrees with the model on noise', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 800, size: 'max' }), planOf, check), { numRuns: 300 });
  });

  test('is met by generators that reach every kind of event and both errors', () => {
    const seen = new Set<string>();
    for (const input of fc.sample(fc.oneof(valid, damaged), { numRuns: 1500, seed: 7 })) {
      for (const event of modelLmEvents(input, maxPayloadBytes)) {
        seen.add(event.kind === 'error' ? event.message.replaceAll(/-?\d+/g, 'N') : event.kind === 'put' ? 'PUT' : event.command);
        if (event.kind !== 'error') seen.add(event.keyIsWhole ? 'whole key' : 'cut key');
      }
    }
    expect([...seen].sort()).toEqual(
      [...Object.keys(LM_COMMANDS), 'a payload of N bytes is announced, want N to N', 'cut key', 'unknown command N', 'whole key'].sort(),
    );
  });

  test('holds no more than the bytes that arrived and were not taken, whatever is announced', () => {
    fc.assert(
      fc.property(damaged, fc.array(fc.nat(1500), { maxLength: 20 }), (input, cuts) => {
        const parser = new LmParser({ maxPayloadBytes: 2 ** 31 - 1 });
        let arrived = 0;
        for (const cut of [...cuts, input.length].sort((a, b) => a - b)) {
          const piece = input.slice(arrived, cut);
          parser.push(piece);
          arrived += piece.length;
          for (let event = parser.next(); event !== undefined; event = parser.next()) if (event.kind === 'put') parser.skipPayload();
          expect(parser.heldBytes).toBeLessThan(LM_REQUEST_BYTES);
        }
      }),
      { numRuns: 200 },
    );
  });

  test('keeps the key of an event until the next one, whatever is pushed meanwhile', () => {
    fc.assert(
      fc.property(other, valid, (first, later) => {
        const parser = new LmParser();
        parser.push(Uint8Array.from(Buffer.concat(first)));
        const event = parser.next();
        if (event === undefined || event.kind === 'error') throw new Error('a request');
        const before = Buffer.from(event.key).toString('hex');
        parser.push(later);
        parser.retain();
        parser.push(later);
        expect(Buffer.from(event.key).toString('hex')).toBe(before);
      }),
      { numRuns: 100 },
    );
  });
});

describe('frames', () => {
  test('of a request give back what was put in', () => {
    fc.assert(
      fc.property(int32, key, int32, block, int32, (command, name, length, described, location) => {
        const decoded = decodeLmRequest(encodeLmRequest(command, name, { length, block: described, location }));
        expect(decoded).toMatchObject({ command, length, block: described, location });
        const text = Buffer.from(name).toString('latin1');
        expect(Buffer.from(decoded.key).toString('latin1')).toBe(text.replace(/ +$/, ''));
      }),
    );
  });

  test('of a reply give back what was put in', () => {
    fc.assert(
      fc.property(int32, int32, block, (code, length, described) => {
        expect(decodeLmReply(encodeLmReply(code, length, described))).toEqual({ code, length, block: described, location: 0 });
      }),
    );
  });
});
