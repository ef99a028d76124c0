/** What stands behind the value of a SET, and the numbers of expiries, in redis' order of refusals and with its words. */
import type { ExpirySpec } from '#cache/door.ts';
import type { RespCommandName } from '#protocol/resp/command-name.ts';

export type Condition = 'absent' | 'present' | undefined;

export interface SetOptions {
  readonly condition: Condition;
  /** Undefined: the namespace's default, which is none unless configured. */
  readonly expiry: ExpirySpec | undefined;
}

export const NO_SET_OPTIONS: SetOptions = { condition: undefined, expiry: undefined };

const latin1 = new TextDecoder('latin1');
const LLONG_MAX = 2n ** 63n - 1n;
const LLONG_MIN = -(2n ** 63n);

export const NOT_AN_INTEGER = 'ERR value is not an integer or out of range';

export function invalidExpireTime(name: string): string {
  return `ERR invalid expire time in '${name.toLowerCase()}' command`;
}

/** A signed 64-bit number in its one spelling: no sign of plus, no leading zero. */
export function parseLong(argument: Uint8Array | undefined): bigint | undefined {
  if (argument === undefined || argument.length > 20) return undefined;
  const text = latin1.decode(argument);
  if (!/^(0|-?[1-9]\d*)$/.test(text)) return undefined;
  const value = BigInt(text);
  return value < LLONG_MIN || value > LLONG_MAX ? undefined : value;
}

type TimeWord = 'EX' | 'PX' | 'EXAT' | 'PXAT';

function isTimeWord(word: string): word is TimeWord {
  return word === 'EX' || word === 'PX' || word === 'EXAT' || word === 'PXAT';
}

/** The options of a SET, or redis' refusal of them. `now` gives the cache's time in ms. */
export function parseSetOptions(args: readonly Uint8Array[], now: () => number): SetOptions | string {
  if (args.length === 3) return NO_SET_OPTIONS;
  let condition: Condition;
  let keep = false;
  let unit: TimeWord | undefined;
  let time: Uint8Array | undefined;
  for (let index = 3; index < args.length; index += 1) {
    const word = latin1.decode(args[index]).toUpperCase();
    const wanted: Condition = word === 'NX' ? 'absent' : word === 'XX' ? 'present' : undefined;
    if (wanted !== undefined && (condition === undefined || condition === wanted)) condition = wanted;
    else if (word === 'KEEPTTL' && unit === undefined) keep = true;
    else if (isTimeWord(word) && !keep && (unit === undefined || unit === word) && index + 1 < args.length) {
      unit = word;
      time = args[index + 1];
      index += 1;
    } else return 'ERR syntax error';
  }
  if (unit === undefined) return { condition, expiry: keep ? 'keep' : undefined };
  const expiry = parseExpiry(time, unit, { command: 'SET', nowMs: now() });
  return typeof expiry === 'string' ? expiry : { condition, expiry };
}

/** The time of a SET, SETEX or PSETEX, or redis' refusal. Far times are cut by the cache (MAX_EXPIRES_AT_MS), long after the year 5000. */
export function parseExpiry(
  argument: Uint8Array | undefined,
  unit: TimeWord,
  { command, nowMs }: { readonly command: RespCommandName; readonly nowMs: number },
): Exclude<ExpirySpec, 'keep'> | string {
  const value = parseLong(argument);
  if (value === undefined) return NOT_AN_INTEGER;
  const ms = unit.startsWith('E') ? value * 1000n : value;
  const relative = !unit.endsWith('AT');
  // A sum that does not fit 64 bits counts as one in the past.
  if (value <= 0n || ms > LLONG_MAX || (relative && ms + BigInt(nowMs) > LLONG_MAX)) return invalidExpireTime(command);
  return relative ? { ttlMs: Number(ms) } : { atMs: Number(ms) };
}
