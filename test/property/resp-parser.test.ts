import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { RespParser, type RespLimits } from '#protocol/resp/resp-parser.ts';
import { driveParser, encodeCommand, modelEvents, type FlatEvent, type ValueChoice } from '#testsupport/naive-resp.ts';

/** Small, so that every limit is met within a few bytes. */
const limits: RespLimits = {
  maxArguments: 9,
  maxInlineBytes: 30,
  maxArgumentBytes: 24,
  maxValueBytes: 200,
  streamThresholdBytes: 12,
  maxCommandBytes: 50,
};

const choices: readonly ValueChoice[] = ['take', 'take-small', 'elsewhere', 'elsewhere-with-trailer', 'skip', 'take-then-skip'];

function withoutSkipped(model: FlatEvent[], seen: FlatEvent[]): FlatEvent[] {
  return model.map((event, index) => {
    const other = seen[index];
    return event.kind === 'value' && other?.kind === 'value' && other.received === '<skipped>'
      ? { ...event, received: '<skipped>' }
      : event;
  });
}

function check(text: string, plan: { cuts: readonly number[]; choices: readonly ValueChoice[]; retain: boolean }): void {
  const seen = driveParser(new RespParser(limits), text, plan);
  expect(seen).toEqual(withoutSkipped(modelEvents(text, limits), seen));
}

const byteText = (options: { maxLength: number; minLength?: number }): fc.Arbitrary<string> =>
  fc.string({ ...options, size: 'max', unit: fc.integer({ min: 0, max: 255 }).map((code) => String.fromCharCode(code)) });

const argument = fc.oneof(
  { weight: 6, arbitrary: byteText({ maxLength: 10 }) },
  { weight: 1, arbitrary: byteText({ minLength: 20, maxLength: 40 }) },
);
const value = byteText({ maxLength: 60 });
const command = fc.oneof(
  fc
    .tuple(fc.constantFrom('GET', 'get', 'EXISTS', 'DeL', 'PING', 'NOSUCH', ''), fc.array(argument, { maxLength: 7 }))
    .map(([name, rest]) => [name, ...rest]),
  fc
    .tuple(fc.constantFrom('SET', 'set'), argument, value, fc.array(argument, { maxLength: 2 }))
    .map(([name, key, body, rest]) => [name, key, body, ...rest]),
  fc
    .tuple(fc.constantFrom('MSET', 'mSet'), fc.array(fc.tuple(argument, value), { maxLength: 4, size: 'max' }))
    .map(([name, pairs]) => [name, ...pairs.flat()]),
);
const spoken = fc
  .array(
    fc.oneof(
      fc.constantFrom(' ', '\t', '"', "'", '\\', '\\x41', '\\n', 'a', 'PING', 'post', 'Host:', '\\"', "\\'"),
      byteText({ maxLength: 3 }),
    ),
    { maxLength: 12 },
  )
  .map((parts) => `${parts.join('').replace(/\n/g, '').replace(/^\*/, '')}\r\n`);
const inline = fc.oneof(
  { weight: 5, arbitrary: spoken },
  { weight: 1, arbitrary: fc.constantFrom('PosT / x\r\n', 'host: a\n', '\r\n', '\n') },
);
const stream = fc
  .array(fc.oneof({ weight: 5, arbitrary: command.map(encodeCommand) }, { weight: 1, arbitrary: inline }), { maxLength: 6, size: 'max' })
  .map((parts) => parts.join(''));
/** Valid text with a few bytes changed, dropped or doubled: far more of the parser is reached than with noise. */
const mutated = fc
  .tuple(
    stream,
    fc.array(fc.tuple(fc.nat(400), fc.constantFrom('\r', '\n', '$', '*', '-', '+', '0', '9', 'x', '\0', '', '\xff')), { maxLength: 4 }),
  )
  .map(([text, edits]) => edits.reduce((out, [at, piece]) => out.slice(0, at) + piece + out.slice(at + 1), text));
const planOf = fc.record({
  cuts: fc.array(fc.nat(600), { maxLength: 40, size: 'max' }),
  choices: fc.array(fc.constantFrom(...choices), { minLength: 1, maxLength: 6 }),
  retain: fc.boolean(),
});

describe('RespParser', () => {
  test('gives the same events as the whole-buffer model however valid commands are cut and values are taken', () => {
    fc.assert(fc.property(stream, planOf, check), { numRuns: 400 });
  });

  test('gives the same events at every single split position', () => {
    fc.assert(
      fc.property(stream, fc.constantFrom(...choices), (text, choice) => {
        for (let cut = 1; cut < text.length; cut += 1) check(text, { cuts: [cut], choices: [choice], retain: false });
      }),
      { numRuns: 25 },
    );
  });

  test('gives the same events when it is fed one byte at a time', () => {
    fc.assert(
      fc.property(stream, fc.constantFrom(...choices), (text, choice) => {
        check(text, { cuts: Array.from({ length: text.length }, (_, index) => index), choices: [choice], retain: false });
      }),
      { numRuns: 100 },
    );
  });

  test('never throws, never loops and still agrees with the model on damaged input', () => {
    fc.assert(fc.property(mutated, planOf, check), { numRuns: 600 });
  });

  test('never throws, never loops and still agrees with the model on noise', () => {
    const noise = fc.array(
      fc.oneof(fc.constantFrom('*', '$', '\r\n', '\n', '-1', '0', '3', '12', 'SET', 'MSET', ' ', '"'), byteText({ maxLength: 4 })),
      { maxLength: 30, size: 'max' },
    );
    fc.assert(
      fc.property(
        noise.map((parts) => parts.join('')),
        planOf,
        check,
      ),
      { numRuns: 600 },
    );
  });

  test('is met by generators that reach every kind of event and every protocol error', () => {
    const seen = new Set<string>();
    for (const text of fc.sample(fc.oneof(stream, mutated), { numRuns: 3000, seed: 7 })) {
      for (const event of modelEvents(text, limits)) {
        seen.add(
          event.kind === 'error'
            ? event.message.replace(/got '.'/, 'got')
            : event.kind === 'oversized'
              ? `${event.kind} ${event.reason}`
              : event.kind,
        );
      }
    }
    expect([...seen].sort()).toEqual([
      'Protocol error: HTTP request on a RESP port',
      "Protocol error: expected '$', got",
      'Protocol error: expected CRLF after bulk string',
      'Protocol error: invalid bulk length',
      'Protocol error: invalid multibulk length',
      'Protocol error: too big inline request',
      'Protocol error: unbalanced quotes in request',
      'command',
      'oversized argument',
      'oversized command',
      'value',
    ]);
  });

  test('holds no more than twice the bytes that arrived plus one page, whatever is announced', () => {
    fc.assert(
      fc.property(mutated, fc.array(fc.nat(600), { maxLength: 20 }), (text, cuts) => {
        const parser = new RespParser({ ...limits, maxValueBytes: 2 ** 40, maxArgumentBytes: 2 ** 40, maxCommandBytes: 2 ** 41 });
        let arrived = 0;
        for (const cut of [...cuts, text.length].sort((a, b) => a - b)) {
          const piece = text.slice(arrived, cut);
          parser.push(Uint8Array.from(piece, (c) => c.charCodeAt(0)));
          arrived += piece.length;
          for (let event = parser.next(); event !== undefined; event = parser.next()) if (event.kind === 'value') parser.skipValue();
          expect(parser.heldBytes).toBeLessThanOrEqual(2 * arrived + 4096);
        }
      }),
      { numRuns: 200 },
    );
  });
});
