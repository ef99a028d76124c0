/**
 * A whole-buffer model of the RESP door's input: latin1 strings, regular expressions and slices, nothing incremental. It is the
 * oracle of RespParser: slow, obvious, and written without looking at states.
 */
import type { RespEvent, RespLimits, RespParser } from '#protocol/resp/resp-parser.ts';

/** What a connection got to see, in an order that does not depend on how the bytes were cut. */
export type FlatEvent =
  | { kind: 'command'; name: string; args: string[]; streamed: number }
  | { kind: 'value'; name: string; args: string[]; argIndex: number; argCount: number; sizeBytes: number; received: string }
  | {
      kind: 'oversized';
      name: string;
      reason: string;
      argIndex: number;
      argCount: number;
      sizeBytes: number;
      limitBytes: number;
      streamed: number;
    }
  | { kind: 'error'; message: string };

const NAMES = new Set(
  (
    'GET SET DEL MGET MSET PING ECHO AUTH QUIT INFO TYPE SCAN KEYS HELLO TOUCH EXISTS UNLINK STRLEN SELECT CLIENT CONFIG DBSIZE ' +
    'COMMAND FLUSHDB FLUSHALL'
  ).split(' '),
);

export function latin1(bytes: Uint8Array): string {
  let text = '';
  for (const byte of bytes) text += String.fromCharCode(byte);
  return text;
}

export function fromLatin1(text: string): Uint8Array {
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}

export function encodeCommand(args: readonly string[]): string {
  return `*${args.length}\r\n${args.map((arg) => `$${arg.length}\r\n${arg}\r\n`).join('')}`;
}

function nameOf(arg: string | undefined): string {
  const upper = (arg ?? '').replace(/[a-z]/g, (letter) => letter.toUpperCase());
  return NAMES.has(upper) ? upper : '';
}

/** The number on a line that starts at `at`; 'more' while it may still become one. */
function readLine(text: string, at: number): { value: number; next: number } | 'more' | 'bad' {
  const whole = /^(0|-?[1-9]\d{0,17})\r\n/.exec(text.slice(at, at + 24));
  if (whole !== null) return { value: Number(whole[1]), next: at + whole[0].length };
  return /^(-?|0\r?|-?[1-9]\d{0,17}\r?)$/.test(text.slice(at, at + 24)) && text.length - at < 24 ? 'more' : 'bad';
}

function splitInline(line: string): string[] | undefined {
  const args: string[] = [];
  let rest = line;
  for (;;) {
    rest = rest.replace(/^[ \t-\r]+/, '');
    if (rest === '') return args;
    const bare = /^[^ \t-\r"']*/.exec(rest)?.[0] ?? '';
    rest = rest.slice(bare.length);
    if (rest === '' || /^[ \t-\r]/.test(rest)) {
      args.push(bare);
      continue;
    }
    const pattern = rest.startsWith('"') ? /^"((?:\\[^]|[^"\\])*)"(?=[ \t-\r]|$)/ : /^'((?:\\'|(?!\\')[^'])*)'(?=[ \t-\r]|$)/;
    const quoted = pattern.exec(rest);
    if (quoted === null) return undefined;
    const body = quoted[1] ?? '';
    args.push(bare + (rest.startsWith('"') ? unescape(body) : body.replaceAll("\\'", "'")));
    rest = rest.slice(quoted[0].length);
  }
}

function unescape(body: string): string {
  const short: Record<string, string> = { n: '\n', r: '\r', t: '\t', b: '\b', a: '\x07' };
  return body.replace(/\\x([0-9a-fA-F]{2})|\\([^])/g, (_, hex: string | undefined, other: string | undefined) =>
    hex === undefined ? (short[other ?? ''] ?? other ?? '') : String.fromCharCode(parseInt(hex, 16)),
  );
}

/** Every event that `text` gives, as if it had come in one piece and nothing followed. */
export function modelEvents(text: string, limits: RespLimits): FlatEvent[] {
  const events: FlatEvent[] = [];
  let at = 0;
  const fail = (message: string): FlatEvent[] => [...events, { kind: 'error', message: `Protocol error: ${message}` }];
  while (at < text.length) {
    if (text[at] !== '*') {
      const newline = text.indexOf('\n', at);
      const length = (newline < 0 ? text.length : newline) - at;
      if (length > limits.maxInlineBytes) return fail('too big inline request');
      if (newline < 0) return events;
      const args = splitInline(text.slice(at, newline).replace(/\r$/, ''));
      at = newline + 1;
      if (args === undefined) return fail('unbalanced quotes in request');
      if (args.length > limits.maxArguments) return fail('invalid multibulk length');
      if (/^(post|host:)$/i.test(args[0] ?? '')) return fail('HTTP request on a RESP port');
      if (args.length > 0) events.push({ kind: 'command', name: nameOf(args[0]), args, streamed: 0 });
      continue;
    }
    const count = readLine(text, at + 1);
    if (count === 'more') return events;
    if (count === 'bad' || count.value > limits.maxArguments) return fail('invalid multibulk length');
    at = count.next;
    const args: string[] = [];
    let oversized: FlatEvent | undefined;
    let streamed = 0;
    let buffered = 0;
    for (let index = 0; index < count.value; index += 1) {
      if (at >= text.length) return events;
      const mark = text[at] ?? '';
      if (mark !== '$') return fail(`expected '$', got '${mark >= ' ' && mark < '\x7f' ? mark : '?'}'`);
      const size = readLine(text, at + 1);
      if (size === 'more') return events;
      if (size === 'bad' || size.value < 0 || size.value > limits.maxValueBytes) return fail('invalid bulk length');
      const body = text.slice(size.next, size.next + size.value);
      at = size.next + body.length;
      const name = nameOf(args[0]);
      const isValue = (name === 'SET' && index === 2) || (name === 'MSET' && index >= 2 && index % 2 === 0);
      const common = { name, argIndex: index, argCount: count.value };
      let place = body;
      if (oversized === undefined && isValue && size.value > limits.streamThresholdBytes) {
        events.push({ kind: 'value', ...common, args: [...args], sizeBytes: size.value, received: body });
        streamed += 1;
        place = '';
      } else if (oversized === undefined && !isValue && size.value > limits.maxArgumentBytes) {
        oversized = {
          kind: 'oversized',
          ...common,
          reason: 'argument',
          sizeBytes: size.value,
          limitBytes: limits.maxArgumentBytes,
          streamed,
        };
      } else if (oversized === undefined) {
        buffered += size.value;
        if (buffered > limits.maxCommandBytes) {
          oversized = {
            kind: 'oversized',
            ...common,
            reason: 'command',
            sizeBytes: buffered,
            limitBytes: limits.maxCommandBytes,
            streamed,
          };
        }
      }
      if (body.length < size.value) return events;
      const trailer = text.slice(at, at + 2);
      if (!'\r\n'.startsWith(trailer)) return fail('expected CRLF after bulk string');
      if (trailer !== '\r\n') return events;
      at += 2;
      args.push(place);
    }
    if (oversized !== undefined) events.push(oversized);
    else if (count.value > 0) events.push({ kind: 'command', name: nameOf(args[0]), args, streamed });
  }
  return events;
}

/** How the caller deals with one value: where its bytes go, and when. Numbers are taken in turn. */
export type ValueChoice = 'take' | 'take-small' | 'elsewhere' | 'elsewhere-with-trailer' | 'skip' | 'take-then-skip';

/**
 * Plays a door: feeds `text` cut at `cuts`, takes values as `choices` say, and spoils each chunk as soon as the parser's contract
 * allows it, so that a view kept too long shows. Values that were skipped report what was received before the skip as '' .
 */
export function driveParser(
  parser: RespParser,
  text: string,
  plan: { cuts: readonly number[]; choices: readonly ValueChoice[]; retain: boolean },
): FlatEvent[] {
  const events: FlatEvent[] = [];
  let at = 0;
  let choiceIndex = 0;
  const bounds = [...new Set(plan.cuts.filter((cut) => cut > 0 && cut < text.length))].sort((a, b) => a - b);
  bounds.push(text.length);
  while (at < text.length) {
    const end = bounds.find((bound) => bound > at) ?? text.length;
    let chunk = fromLatin1(text.slice(at, end));
    at = end;
    parser.push(chunk);
    let value: Extract<FlatEvent, { kind: 'value' }> | undefined;
    let steps = 0;
    for (let event = parser.next(); event !== undefined; event = parser.next()) {
      parser.checkInvariants();
      if ((steps += 1) > 2 * text.length + 10) throw new Error('the parser does not come to an end');
      events.push(flatten(event));
      if (event.kind !== 'value') continue;
      if (plan.retain) {
        parser.retain();
        chunk.fill(0xee);
      }
      value = events.at(-1) as Extract<FlatEvent, { kind: 'value' }>;
      const choice = plan.choices[choiceIndex++ % Math.max(1, plan.choices.length)] ?? 'take';
      const limit = choice === 'take-small' ? 3 : Number.MAX_SAFE_INTEGER;
      if (choice === 'skip') {
        value.received = '<skipped>';
        parser.skipValue();
        continue;
      }
      for (let view = parser.takeBuffered(limit); view.length > 0; view = parser.takeBuffered(limit)) value.received += latin1(view);
      if (choice === 'take-then-skip') {
        value.received = '<skipped>';
        parser.skipValue();
        continue;
      }
      while (parser.valueRemaining > 0 && at < text.length) {
        if (parser.next() !== undefined) throw new Error('an event in the middle of a value');
        chunk.fill(0xee);
        const wanted = parser.valueRemaining;
        const slice = text.slice(at, at + Math.min(wanted, choice === 'take' || choice === 'take-small' ? 5 : wanted));
        at += slice.length;
        if (choice === 'elsewhere' || choice === 'elsewhere-with-trailer') {
          parser.valueReceivedElsewhere(slice.length);
          value.received += slice;
          if (choice === 'elsewhere-with-trailer' && parser.valueRemaining === 0 && text.length - at >= 2) {
            parser.trailerReceivedElsewhere(fromLatin1(text.slice(at, at + 2)));
            at += 2;
          }
        } else {
          chunk = fromLatin1(slice);
          parser.push(chunk);
          for (let view = parser.takeBuffered(limit); view.length > 0; view = parser.takeBuffered(limit)) value.received += latin1(view);
        }
        parser.checkInvariants();
      }
    }
    parser.checkInvariants();
    if (parser.unreadBytes === 0) chunk.fill(0xee);
  }
  return events;
}

function flatten(event: RespEvent): FlatEvent {
  if (event.kind === 'command') return { ...event, args: event.args.map(latin1) };
  if (event.kind === 'value') return { ...event, args: event.args.map(latin1), received: '' };
  return { ...event };
}
