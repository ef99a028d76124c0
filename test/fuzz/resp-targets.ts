/** The RESP door's parsers: commands against the whole-buffer model, glob patterns against backtracking. */
import fc from 'fast-check';
import { matchesGlob } from '#servers/resp/glob.ts';
import { DEFAULT_RESP_LIMITS, RespParser, type RespLimits } from '#protocol/resp/resp-parser.ts';
import type { SeededRandom } from '#testsupport/kill-values.ts';
import { driveParser, encodeCommand, fromLatin1, latin1, modelEvents, type FlatEvent, type ValueChoice } from '#testsupport/naive-resp.ts';
import { demand, demandEqual, type FuzzTarget } from './harness.ts';

/** Small, so that every limit is met within a few bytes. */
const smallLimits: RespLimits = {
  maxArguments: 9,
  maxInlineBytes: 30,
  maxArgumentBytes: 24,
  maxValueBytes: 200,
  streamThresholdBytes: 12,
  maxCommandBytes: 50,
};
const choices: readonly ValueChoice[] = ['take', 'take-small', 'elsewhere', 'elsewhere-with-trailer', 'skip', 'take-then-skip'];

const byteText = (maxLength: number): fc.Arbitrary<string> =>
  fc.string({ maxLength, size: 'max', unit: fc.integer({ min: 0, max: 255 }).map((code) => String.fromCharCode(code)) });
const names = fc.constantFrom('GET', 'set', 'SET', 'MSET', 'mget', 'EXISTS', 'DEL', 'PING', 'SCAN', 'HELLO', 'CLIENT', 'NOSUCH', '');
const command = fc.tuple(names, fc.array(byteText(30), { maxLength: 7 })).map(([name, rest]) => encodeCommand([name, ...rest]));
const spoken = fc.array(fc.constantFrom(' ', '\t', '"', "'", '\\', '\\x41', '\\n', 'a', 'PING', 'Host:', '\\"', "\\'"), { maxLength: 8 });
const quoted = fc.constantFrom('"\\x41\\xfF\\n"', "'\\''", '"a b" c', '"\\xg1"', "'a\"'", '"\\');
const inline = fc
  .array(
    fc.oneof(
      spoken.map((parts) => parts.join('')),
      quoted,
    ),
    { maxLength: 3 },
  )
  .map((parts) => `${parts.join(' ')}\r\n`);
const stream = fc.array(fc.oneof({ weight: 5, arbitrary: command }, { weight: 1, arbitrary: inline }), { maxLength: 5 });

function plan(random: SeededRandom, length: number): { cuts: number[]; choices: ValueChoice[]; retain: boolean } {
  const cuts = Array.from({ length: random.pick([0, 1, 3, 20]) }, () => random.below(length + 1));
  return { cuts, choices: Array.from({ length: 1 + random.below(4) }, () => random.pick(choices)), retain: random.below(2) === 0 };
}

function withoutSkipped(model: readonly FlatEvent[], seen: readonly FlatEvent[]): FlatEvent[] {
  return model.map((event, index) => {
    const other = seen[index];
    const skipped = event.kind === 'value' && other?.kind === 'value' && other.received === '<skipped>';
    return skipped ? { ...event, received: '<skipped>' } : event;
  });
}

export const resp: FuzzTarget = {
  name: 'resp',
  corpus: stream.map((parts) => fromLatin1(parts.join(''))),
  begin: () => (input, random) => {
    const text = latin1(input);
    const limits = random.below(4) === 0 ? DEFAULT_RESP_LIMITS : smallLimits;
    const parser = new RespParser(limits);
    const seen = driveParser(parser, text, plan(random, text.length));
    demandEqual(seen, withoutSkipped(modelEvents(text, limits), seen), 'the events of the parser against the model');
    demand(parser.heldBytes <= 2 * input.length + 4096, `${parser.heldBytes} bytes are held of ${input.length}`);
  },
};

const globPiece = fc.constantFrom('*', '?', '[', ']', '^', '-', '\\', 'a', 'b', 'z', '[a-z]', '[^b]', '[]', '[z-a]', '\\*', '**', '\xff');
const globText = fc.array(fc.constantFrom('a', 'b', 'z', '*', '[', ']', '\\', '-', '^', '\xff'), { maxLength: 30 });
const SEPARATOR = 0;

/** By recursion over what `*` may take, as the definition says; for short texts. Undefined where that would take too long. */
function naiveGlob(pattern: Uint8Array, text: Uint8Array): boolean {
  const memory = new Map<number, boolean>();
  const at = (p: number, t: number): boolean => {
    const id = p * (text.length + 1) + t;
    const known = memory.get(id);
    if (known !== undefined) return known;
    let answer: boolean;
    if (p >= pattern.length) answer = t === text.length;
    else if (pattern[p] === 0x2a) answer = at(p + 1, t) || (t < text.length && at(p, t + 1));
    else if (t >= text.length) answer = false;
    else {
      const [matches, next] = element(pattern, p, text[t] ?? 0);
      answer = matches && at(next, t + 1);
    }
    memory.set(id, answer);
    return answer;
  };
  return at(0, 0);
}

/** Whether one element takes the byte, and where the next one begins. */
function element(pattern: Uint8Array, p: number, byte: number): [boolean, number] {
  const code = pattern[p];
  if (code === 0x3f) return [true, p + 1];
  if (code === 0x5c && p + 1 < pattern.length) return [pattern[p + 1] === byte, p + 2];
  if (code !== 0x5b) return [code === byte, p + 1];
  let at = p + 1;
  const negated = pattern[at] === 0x5e;
  if (negated) at += 1;
  const allowed = new Set<number>();
  while (at < pattern.length && pattern[at] !== 0x5d) {
    const [low, high] = [pattern[at] ?? 0, pattern[at + 2] ?? 0];
    if (low === 0x5c && at + 1 < pattern.length) {
      allowed.add(pattern[at + 1] ?? 0);
      at += 2;
    } else if (pattern[at + 1] === 0x2d && at + 2 < pattern.length) {
      for (let each = Math.min(low, high); each <= Math.max(low, high); each += 1) allowed.add(each);
      at += 3;
    } else {
      allowed.add(low);
      at += 1;
    }
  }
  return [allowed.has(byte) !== negated, at + 1];
}

export const glob: FuzzTarget = {
  name: 'glob',
  corpus: fc
    .tuple(fc.array(globPiece, { maxLength: 12 }), globText)
    .map(([pattern, text]) => fromLatin1(`${pattern.join('')}\0${text.join('')}`)),
  begin: () => (input) => {
    const zero = input.indexOf(SEPARATOR);
    const pattern = input.subarray(0, zero < 0 ? input.length : zero);
    const text = input.subarray(zero < 0 ? input.length : zero + 1);
    const answer = matchesGlob(pattern, text);
    if (pattern.length * text.length > 4000) return;
    demand(answer === naiveGlob(pattern, text), `the pattern gives ${answer}`);
  },
};
