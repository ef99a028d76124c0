/** TTL, EXPIRE and their kin, with the replies and refusals of redis 7.0. */
import type { ChunkRef } from '#cache/door.ts';
import type { RespCommandName } from '#protocol/resp/command-name.ts';
import { printable } from '#protocol/resp/resp-encoder.ts';
import type { RespConnection } from './resp-connection.ts';
import { NOT_AN_INTEGER, invalidExpireTime, parseLong } from './set-options.ts';

interface Context {
  readonly connection: RespConnection;
  /** The chunk of a key, as this client may see it. */
  readonly find: (key: Uint8Array) => ChunkRef | undefined;
}

const LLONG_MAX = 2n ** 63n - 1n;
const LLONG_MIN = -(2n ** 63n);
const latin1 = new TextDecoder('latin1');

/** Answers one of the commands about expiries; false where it is none of them. */
export function runExpiryCommand(name: RespCommandName, args: readonly Uint8Array[], context: Context): boolean {
  switch (name) {
    case 'TTL':
      remaining(args, context, { perUnit: 1000, relative: true });
      return true;
    case 'PTTL':
      remaining(args, context, { perUnit: 1, relative: true });
      return true;
    case 'EXPIRETIME':
      remaining(args, context, { perUnit: 1000, relative: false });
      return true;
    case 'PEXPIRETIME':
      remaining(args, context, { perUnit: 1, relative: false });
      return true;
    case 'EXPIRE':
      expire(name, args, context, { perUnit: 1000n, relative: true });
      return true;
    case 'PEXPIRE':
      expire(name, args, context, { perUnit: 1n, relative: true });
      return true;
    case 'EXPIREAT':
      expire(name, args, context, { perUnit: 1000n, relative: false });
      return true;
    case 'PEXPIREAT':
      expire(name, args, context, { perUnit: 1n, relative: false });
      return true;
    case 'PERSIST':
      persist(args, context);
      return true;
    default:
      return false;
  }
}

/** -2: no such key, -1: it does not expire. */
function remaining(args: readonly Uint8Array[], { connection, find }: Context, kind: { perUnit: number; relative: boolean }): void {
  const { cache } = connection.server.options;
  const ref = find(args[1] as Uint8Array);
  const atMs = ref === undefined ? undefined : cache.expiresAtMs(ref);
  if (atMs === undefined) return void connection.out.integer(-2);
  if (atMs === 0) return void connection.out.integer(-1);
  const ms = kind.relative ? Math.max(0, atMs - cache.expiryNowMs()) : atMs;
  return void connection.out.integer(kind.perUnit === 1 ? ms : Math.floor((ms + 500) / kind.perUnit));
}

interface Rules {
  readonly nx: boolean;
  readonly xx: boolean;
  readonly gt: boolean;
  readonly lt: boolean;
}

function parseRules(args: readonly Uint8Array[]): Rules | string {
  const rules = { nx: false, xx: false, gt: false, lt: false };
  for (const argument of args.slice(3)) {
    const word = latin1.decode(argument).toLowerCase();
    if (!Object.hasOwn(rules, word)) return `ERR Unsupported option ${printable(argument)}`;
    rules[word as keyof Rules] = true;
  }
  if (rules.nx && (rules.xx || rules.gt || rules.lt)) return 'ERR NX and XX, GT or LT options at the same time are not compatible';
  if (rules.gt && rules.lt) return 'ERR GT and LT options at the same time are not compatible';
  return rules;
}

// oxlint-disable-next-line max-params -- the four that a command is
function expire(
  name: RespCommandName,
  args: readonly Uint8Array[],
  { connection, find }: Context,
  kind: { readonly perUnit: bigint; readonly relative: boolean },
): void {
  const { out, server } = connection;
  const { cache } = server.options;
  const rules = parseRules(args);
  if (typeof rules === 'string') return void out.error(rules);
  const value = parseLong(args[2]);
  if (value === undefined) return void out.error(NOT_AN_INTEGER);
  const ms = value * kind.perUnit;
  const at = ms + (kind.relative ? BigInt(cache.expiryNowMs()) : 0n);
  if (ms > LLONG_MAX || ms < LLONG_MIN || at > LLONG_MAX) return void out.error(invalidExpireTime(name));
  const ref = find(args[1] as Uint8Array);
  const current = ref === undefined ? undefined : cache.expiresAtMs(ref);
  if (ref === undefined || current === undefined || !allows(rules, current, at)) return void out.integer(0);
  // 0 means never to the cache; to redis it is the first moment of 1970.
  return void out.integer(cache.setExpiry(ref, Math.max(1, Number(at))) ? 1 : 0);
}

/** `current` 0: it does not expire, which counts as later than any time. */
function allows(rules: Rules, current: number, at: bigint): boolean {
  if (rules.nx && current !== 0) return false;
  if (rules.xx && current === 0) return false;
  if (rules.gt && (current === 0 || at <= BigInt(current))) return false;
  return !rules.lt || current === 0 || at < BigInt(current);
}

function persist(args: readonly Uint8Array[], { connection, find }: Context): void {
  const { cache } = connection.server.options;
  const ref = find(args[1] as Uint8Array);
  const current = ref === undefined ? undefined : cache.expiresAtMs(ref);
  const persisted = ref !== undefined && current !== undefined && current !== 0 && cache.setExpiry(ref, 0);
  connection.out.integer(persisted ? 1 : 0);
}
