/**
 * What clients say of time: options of SET, and EXPIRE and its kin. Against the rules of redis 7.0 in whole numbers of any size; what is taken
 * is a time that the cache can keep.
 */
import fc from 'fast-check';
import type { ChunkRef } from '#cache/door.ts';
import { MAX_EXPIRES_AT_MS } from '#cache/expiry-bounds.ts';
import type { RespCommandName } from '#protocol/resp/command-name.ts';
import type { RespConnection } from '#servers/resp/resp-connection.ts';
import { runExpiryCommand } from '#servers/resp/expiry-commands.ts';
import { parseExpiry, parseSetOptions } from '#servers/resp/set-options.ts';
import { fromLatin1, latin1 } from '#testsupport/naive-resp.ts';
import { demand, demandEqual, type Check, type FuzzTarget } from './harness.ts';

const encoder = new TextEncoder();
const LLONG_MAX = 2n ** 63n - 1n;
const LLONG_MIN = -(2n ** 63n);

const edge = fc
  .tuple(
    fc.constantFrom(0n, 2n ** 31n, 2n ** 53n, 2n ** 63n, -(2n ** 63n), (2n ** 63n - 1n) / 1000n, 1_767_323_045_000n),
    fc.integer({ min: -3, max: 3 }),
  )
  .map(([base, off]) => String(base + BigInt(off)));
const number = fc.oneof(
  edge,
  fc.integer({ min: -5, max: 100_000 }).map(String),
  fc.bigInt({ min: -(2n ** 65n), max: 2n ** 65n }).map(String),
);
const timed = fc.tuple(fc.constantFrom('EX', 'px', 'EXAT', 'PxAt'), number).map((words) => words.join('\0'));
const word = fc.oneof(fc.constantFrom('NX', 'XX', 'KEEPTTL', 'GET', 'ex'), timed);
const set = fc.array(word, { maxLength: 3 }).map((words) => ['SET', 'k', 'v', ...words].join('\0'));
const short = fc.tuple(fc.constantFrom('SETEX', 'PSETEX'), number).map(([name, time]) => [name, 'k', time, 'v'].join('\0'));
const later = fc
  .tuple(
    fc.constantFrom('EXPIRE', 'PEXPIRE', 'EXPIREAT', 'PEXPIREAT'),
    fc.constantFrom('k', 'x', 'none'),
    number,
    fc.array(fc.constantFrom('NX', 'xx', 'GT', 'lt'), { maxLength: 2 }),
  )
  .map(([name, key, time, rules]) => [name, key, time, ...rules].join('\0'));
const asking = fc
  .tuple(fc.constantFrom('TTL', 'PTTL', 'EXPIRETIME', 'PEXPIRETIME', 'PERSIST'), fc.constantFrom('k', 'x', 'none'))
  .map((words) => words.join('\0'));

/** As C's strtoll in redis' string2ll: one spelling, 64 bits. */
function longOf(text: string | undefined): bigint | undefined {
  if (text === undefined || !/^-?[0-9]{1,25}$/.test(text)) return undefined;
  const value = BigInt(text);
  return String(value) === text && value >= LLONG_MIN && value <= LLONG_MAX ? value : undefined;
}

/** The time of a SET in ms since 1970; undefined where redis refuses it. */
function setTime(text: string | undefined, unit: string, nowMs: number): bigint | undefined {
  const value = longOf(text);
  if (value === undefined || value <= 0n) return undefined;
  const ms = unit.startsWith('E') ? value * 1000n : value;
  const at = unit.endsWith('AT') ? ms : ms + BigInt(nowMs);
  return ms > LLONG_MAX || at > LLONG_MAX ? undefined : at;
}

const NOW_MS = 1_767_323_045_000;

function isKept(ms: number): boolean {
  return Number.isFinite(ms) && ms > 0;
}

function checkSet(words: readonly string[], args: readonly Uint8Array[]): void {
  const parsed = parseSetOptions(args, () => NOW_MS);
  const rest = words.slice(3).map((each) => each.toUpperCase());
  const units = rest.filter((each, index) => ['EX', 'PX', 'EXAT', 'PXAT'].includes(each) && index + 1 < rest.length);
  if (typeof parsed === 'string') {
    demand(/^ERR [\x20-\x7e]{1,80}$/.test(parsed), `a refusal is a line: ${parsed}`);
    return;
  }
  const { expiry } = parsed;
  if (expiry === undefined || expiry === 'keep') return demand(units.length === 0, 'a time that is taken counts');
  const at = 'atMs' in expiry ? expiry.atMs : expiry.ttlMs + NOW_MS;
  demand(isKept(at), `a value ends at ${at}`);
  const last = rest.findLastIndex(
    (each, index) => units.includes(each) && index + 1 < rest.length && longOf(words[3 + index + 1]) !== undefined,
  );
  const wanted = setTime(words[3 + last + 1], rest[last] ?? '', NOW_MS);
  demand(wanted !== undefined && Math.abs(at - Number(wanted)) <= Number(wanted) * 2 ** -50, `a value ends at ${at}, and not at ${wanted}`);
}

function checkShort(words: readonly string[], args: readonly Uint8Array[]): void {
  const command = words[0]?.toUpperCase() === 'SETEX' ? 'SETEX' : 'PSETEX';
  const unit = command === 'SETEX' ? 'EX' : 'PX';
  const parsed = parseExpiry(args[2], unit, { command, nowMs: NOW_MS });
  const wanted = setTime(words[2], unit, NOW_MS);
  demand((typeof parsed === 'string') === (wanted === undefined), `${words[2]} is read as ${JSON.stringify(parsed)}`);
  if (typeof parsed !== 'string') demand('ttlMs' in parsed && isKept(parsed.ttlMs), 'a time to live is one');
}

interface Answer {
  integer?: number;
  error?: string;
}

/** Two chunks, one that ends and one that does not, behind the commands. */
class Chunks {
  readonly ends = new Map<string, number>([
    ['k', 0],
    ['x', NOW_MS + 5000],
  ]);
  answer: Answer = {};

  run(name: RespCommandName, args: readonly Uint8Array[]): Answer {
    this.answer = {};
    const cache = {
      expiryNowMs: () => NOW_MS,
      expiresAtMs: (ref: ChunkRef) => this.ends.get(ref as unknown as string),
      setExpiry: (ref: ChunkRef, atMs: number) => {
        demand(Number.isFinite(atMs) && atMs >= 0, `the cache is asked for ${atMs}`);
        this.ends.set(ref as unknown as string, Math.min(atMs, MAX_EXPIRES_AT_MS));
        return true;
      },
    };
    const out = {
      integer: (value: number) => (this.answer = { integer: value }),
      error: (text: string) => (this.answer = { error: text }),
    };
    const connection = { out, server: { options: { cache } } } as unknown as RespConnection;
    const find = (key: Uint8Array): ChunkRef | undefined => {
      const text = latin1(key);
      return this.ends.has(text) ? (text as unknown as ChunkRef) : undefined;
    };
    demand(runExpiryCommand(name, args, { connection, find }), `${name} is a command`);
    return this.answer;
  }
}

function checkLater(words: readonly string[], args: readonly Uint8Array[]): void {
  const name = (words[0] ?? '').toUpperCase() as RespCommandName;
  const chunks = new Chunks();
  const before = chunks.ends.get(words[1] ?? '');
  const answer = chunks.run(name, args);
  const after = chunks.ends.get(words[1] ?? '');
  if (answer.error !== undefined) {
    demand(/^ERR [\x20-\x7e\\]+$/.test(answer.error) && answer.error.length < 8 * 128 + 200, `a refusal is a line: ${answer.error}`);
    demandEqual(after, before, 'what is refused changes nothing');
    return;
  }
  demand(answer.integer !== undefined && Number.isSafeInteger(answer.integer), `the answer is ${answer.integer}`);
  const value = longOf(words[2]);
  if (!name.includes('EXPIRE') || name.endsWith('TIME')) return;
  demand(value !== undefined, `${words[2]} is taken for a number`);
  const ms = name.startsWith('P') ? value : value * 1000n;
  const at = name.endsWith('AT') ? ms : ms + BigInt(NOW_MS);
  demand(ms <= LLONG_MAX && ms >= LLONG_MIN && at <= LLONG_MAX, `${words[2]} does not overflow`);
  if (answer.integer === 0) return demandEqual(after, before, 'what is answered by 0 changes nothing');
  const kept = at < 1n ? 1 : Math.min(Number(at), MAX_EXPIRES_AT_MS);
  demandEqual(after, kept, 'the end of the chunk');
}

const TIMES = ['TTL', 'PTTL', 'EXPIRETIME', 'PEXPIRETIME', 'EXPIRE', 'PEXPIRE', 'EXPIREAT', 'PEXPIREAT', 'PERSIST'];

const check: Check = (input) => {
  const words = latin1(input).split('\0').slice(0, 128);
  const args = words.map(fromLatin1);
  const name = words[0]?.toUpperCase() ?? '';
  // The number of arguments is the parser's to judge: fewer never come here.
  if (name === 'SETEX' || name === 'PSETEX') return args.length === 4 ? checkShort(words, args) : undefined;
  if (TIMES.includes(name))
    return args.length >= (name.includes('EXPIRE') && !name.endsWith('TIME') ? 3 : 2) ? checkLater(words, args) : undefined;
  return args.length >= 3 ? checkSet(words, args) : undefined;
};

export const expiry: FuzzTarget = {
  name: 'expiry',
  corpus: fc.oneof(set, short, later, asking).map((text) => encoder.encode(text)),
  begin: () => check,
};
