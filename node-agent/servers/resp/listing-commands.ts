/** KEYS and SCAN. */
import { matchesGlob } from './glob.ts';
import type { RespConnection } from './resp-connection.ts';

const MAX_KEYS_REPLY = 10_000;
/** Rows of the index that one step of a listing looks at: about a millisecond. */
const SCAN_ROWS = 4096;
const latin1 = new TextDecoder('latin1');

export function listKeys(pattern: Uint8Array, { out, server, tenant }: RespConnection): undefined {
  const keys: Uint8Array[] = [];
  let cursor = 0;
  do {
    cursor = server.options.cache.scan(cursor, { limit: SCAN_ROWS, tenant }, (key) => {
      if (keys.length <= MAX_KEYS_REPLY && matchesGlob(pattern, key)) keys.push(key);
    });
    if (keys.length > MAX_KEYS_REPLY) {
      out.error('ERR use SCAN');
      return undefined;
    }
  } while (cursor !== 0);
  out.array(keys.length);
  for (const key of keys) out.bulk(key);
  return undefined;
}

export function scanKeys(args: readonly Uint8Array[], { out, server, tenant }: RespConnection): undefined {
  const options = parseScanOptions(args);
  if (typeof options === 'string') {
    out.error(options);
    return undefined;
  }
  const keys: Uint8Array[] = [];
  // One tenant's keys may be few among many: looking on costs less than another round trip.
  const rows = tenant === undefined ? options.count : SCAN_ROWS;
  let next = options.cursor;
  let looked = 0;
  let found = 0;
  do {
    const limit = options.count - found;
    next = server.options.cache.scan(next, { limit, tenant }, (key) => {
      found += 1;
      if (options.match === undefined || matchesGlob(options.match, key)) keys.push(key);
    });
    looked += limit;
  } while (next !== 0 && found < options.count && looked < rows);
  out
    .array(2)
    .bulkText(String(next))
    .array(options.type === undefined || options.type === 'string' ? keys.length : 0);
  if (options.type === undefined || options.type === 'string') for (const key of keys) out.bulk(key);
  return undefined;
}

function parseScanOptions(
  args: readonly Uint8Array[],
): { cursor: number; count: number; match: Uint8Array | undefined; type: string | undefined } | string {
  const cursorText = latin1.decode(args[1]);
  if (!/^\d{1,15}$/.test(cursorText)) return 'ERR invalid cursor';
  const options = {
    cursor: Number(cursorText),
    count: 10,
    match: undefined as Uint8Array | undefined,
    type: undefined as string | undefined,
  };
  for (let index = 2; index < args.length; index += 2) {
    const word = latin1.decode(args[index]).toUpperCase();
    const value = args[index + 1];
    if (value === undefined) return 'ERR syntax error';
    if (word === 'MATCH') options.match = value;
    else if (word === 'TYPE') options.type = latin1.decode(value).toLowerCase();
    else if (word === 'COUNT') {
      const count = latin1.decode(value);
      if (!/^-?\d{1,15}$/.test(count)) return 'ERR value is not an integer or out of range';
      if (Number(count) < 1) return 'ERR syntax error';
      options.count = Math.min(Number(count), 10_000);
    } else return 'ERR syntax error';
  }
  return options;
}
