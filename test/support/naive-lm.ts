/** A model of the lm:// codec that looks at the whole input at once, and a driver that feeds the real parser piece by piece. */
import type { LmEvent, LmParser } from '#protocol/lm/lm-parser.ts';

/** What a stream of bytes means. `payload` is what was handed on of a PUT's; '<skipped>' where it was refused. */
export type FlatLmEvent =
  | { readonly kind: 'request'; readonly command: string; readonly key: string; readonly keyIsWhole: boolean }
  | {
      readonly kind: 'put';
      readonly key: string;
      readonly keyIsWhole: boolean;
      readonly numbers: readonly number[];
      readonly sizeBytes: number;
      payload: string;
    }
  | { readonly kind: 'error'; readonly message: string };

export type PayloadChoice = 'take' | 'take-small' | 'elsewhere' | 'skip' | 'take-then-skip' | 'later';

const names = ['', 'PUT', 'GET', 'EXIST', 'LIST', 'HEALTH'];
const textOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString('latin1');

/** Slow and obvious: one request after another out of one buffer. */
export function modelLmEvents(input: Uint8Array, maxPayloadBytes: number): FlatLmEvent[] {
  const events: FlatLmEvent[] = [];
  const bytes = Buffer.from(input);
  for (let at = 0; at + 186 <= bytes.length;) {
    const number = (index: number): number => bytes.readInt32LE(at + index * 4);
    const padded = bytes.subarray(at + 36, at + 186).toString('latin1');
    const key = padded.replace(/ +$/, '');
    const keyIsWhole = key.length < 150 || [...key].every((letter) => letter.charCodeAt(0) < 0x80);
    const command = number(0) > 0 ? names[number(0)] : undefined;
    const sizeBytes = number(1);
    at += 186;
    if (command === undefined) return [...events, { kind: 'error', message: `unknown command ${bytes.readInt32LE(at - 186)}` }];
    if (command !== 'PUT') {
      events.push({ kind: 'request', command, key, keyIsWhole });
      continue;
    }
    if (sizeBytes < 0 || sizeBytes > maxPayloadBytes) {
      return [...events, { kind: 'error', message: `a payload of ${sizeBytes} bytes is announced, want 0 to ${maxPayloadBytes}` }];
    }
    const header = bytes.subarray(at - 186);
    const numbers = [2, 3, 5, 6, 7, 8].map((index) => header.readInt32LE(index * 4));
    const payload = bytes.subarray(at, at + sizeBytes).toString('latin1');
    events.push({ kind: 'put', key, keyIsWhole, numbers, sizeBytes, payload });
    at += sizeBytes;
  }
  return events;
}

/**
 * Feeds `input` cut at `cuts`, each piece in one buffer that is overwritten as soon as the parser has allowed it. Payloads are taken as
 * `choices` say, by turns; 'elsewhere' takes from the pieces that were not pushed yet, as a socket would give them; 'later' lets a
 * payload lie until the next piece is there, as a door that waits for room does.
 */
export function driveLmParser(
  parser: LmParser,
  input: Uint8Array,
  plan: { readonly cuts: readonly number[]; readonly choices: readonly PayloadChoice[]; readonly retain: boolean },
): FlatLmEvent[] {
  const events: FlatLmEvent[] = [];
  const scratch = new Uint8Array(input.length);
  const ends = [...new Set([...plan.cuts.map((cut) => cut % (input.length + 1)), input.length])].sort((a, b) => a - b);
  let offset = 0;
  let puts = 0;
  let open: { readonly event: FlatLmEvent & { kind: 'put' }; readonly choice: PayloadChoice } | undefined;

  const take = (): void => {
    if (open === undefined) return;
    const { event, choice } = open;
    if (choice === 'take-then-skip' && event.payload.length > 0) return skip();
    for (;;) {
      const bytes = parser.takeBuffered(choice === 'take-small' ? 3 : event.sizeBytes + 9);
      if (bytes.length === 0) break;
      event.payload += textOf(bytes);
      if (choice === 'take-then-skip') return skip();
    }
    if (choice === 'elsewhere' && parser.unreadBytes === 0) {
      const count = Math.min(parser.payloadRemaining, input.length - offset);
      event.payload += textOf(input.subarray(offset, offset + count));
      parser.valueReceivedElsewhere(count);
      offset += count;
    }
    if (parser.payloadRemaining === 0) open = undefined;
  };
  const skip = (): void => {
    if (open === undefined) return;
    parser.skipPayload();
    open.event.payload = '<skipped>';
    open = undefined;
  };
  const run = (): void => {
    for (;;) {
      take();
      const event = parser.next();
      parser.checkInvariants();
      if (event === undefined) return;
      const flat = flatten(event);
      events.push(flat);
      if (flat.kind !== 'put') continue;
      open = { event: flat, choice: plan.choices[puts % plan.choices.length] ?? 'take' };
      puts += 1;
      if (open.choice === 'skip') skip();
      if (open?.choice === 'later') return;
    }
  };
  for (const end of ends) {
    if (end <= offset) continue;
    const piece = scratch.subarray(0, end - offset);
    piece.set(input.subarray(offset, end));
    offset = end;
    parser.push(piece);
    run();
    if (plan.retain || parser.unreadBytes > 0) parser.retain();
    scratch.fill(0xee);
  }
  // What waits goes on when nothing more comes.
  for (let turn = 0; turn <= puts; turn += 1) run();
  return events;
}

function flatten(event: LmEvent): FlatLmEvent {
  if (event.kind === 'error') return event;
  const { keyIsWhole } = event;
  const key = textOf(event.key);
  if (event.kind === 'request') return { kind: 'request', command: event.command, key, keyIsWhole };
  const { fmt, dtype, shape } = event.block;
  return { kind: 'put', key, keyIsWhole, numbers: [fmt, dtype, ...shape], sizeBytes: event.sizeBytes, payload: '' };
}
