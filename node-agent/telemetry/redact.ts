/**
 * Takes secrets out of log records: tokens by the name of their field, by the shape of their text and by their value; tenants
 * (a cache_salt is a secret) become the digest that metrics and statistics use too. Rooms must not log secrets; this is the
 * second line.
 */
import { shownKey, shownLabel, shownTenant } from './shown-names.ts';

export const MASK = '********';

/** Depth and breadth of what is printed of a field; deeper is a bug of the caller, not a reason to fail. */
const MAX_DEPTH = 6;
const MAX_ITEMS = 100;
const MAX_TEXT_LENGTH = 8192;
/** A configured secret shorter than this is masked only where it is the whole value: as a part it would hit ordinary words. */
const MIN_PART_LENGTH = 6;

/** `token`, `readToken`, `auth_header`, `apiKey`, but not `tokenCount` or `tokensPerChunk`, which are the trade's own words. */
const secretName = /(token|secret|password|passwd|credentials?|authorization|cookie|api[-_]?key|auth[-_]?header)$/i;
const tenantName = /^(tenant|cache[-_]?salt|salt)$/i;
/** Of an object key it is `@` and the salt. */
const tailName = /^key[-_]?tail$/i;
const labelName = /^(namespace|label)$/i;
const keyName = /^(key|chain[-_]?from)$/i;
/**
 * LMCache's object key within a sentence: model@rank@group@hash@salt; the salt is the last field. A salt may hold blanks, which end it
 * here: rooms hand keys in as fields.
 */
const saltedKey = /(@[0-9a-f]{8}@[0-9a-f]{1,8}@[0-9a-f]{1,2048})@([^@\s"']+)/gi;
const bearer = /\b(Bearer)\s+\S+/gi;
const userInfo = /\b(\w+:\/\/)[^\s/@]+@/g;

export type Redact = (value: unknown, fieldName?: string) => unknown;

/**
 * A redactor that also knows the process's own tokens. Returns plain data: text, numbers, booleans, null, lists, records.
 * `reveal`: salts are shown as they are; tokens never.
 */
export function createRedact(secrets: readonly string[] = [], { reveal = false }: { readonly reveal?: boolean } = {}): Redact {
  const parts = secrets.filter((secret) => secret.length >= MIN_PART_LENGTH);
  const wholes = new Set(secrets);

  /** `whole`: salts have been taken out already. */
  const text = (value: string, whole = false): string => {
    if (wholes.has(value)) return MASK;
    let shown = value.length > MAX_TEXT_LENGTH ? `${value.slice(0, MAX_TEXT_LENGTH)}…` : value;
    for (const secret of parts) shown = shown.replaceAll(secret, MASK);
    shown = shown.replace(bearer, (_, word: string) => `${word} ${MASK}`).replace(userInfo, (_, scheme: string) => `${scheme}${MASK}@`);
    return reveal || whole ? shown : shown.replace(saltedKey, (_, key: string, salt: string) => `${key}@${shownTenant(salt)}`);
  };

  const named = (value: string, name: string): string => {
    if (secretName.test(name)) return value === '' ? '' : MASK;
    if (reveal) return text(value);
    if (tenantName.test(name)) return shownTenant(value);
    if (tailName.test(name)) return value.startsWith('@') ? `@${shownTenant(value.slice(1))}` : text(value);
    if (labelName.test(name)) return text(shownLabel(value));
    return keyName.test(name) ? text(shownKey(value), true) : text(value);
  };

  const walk = (value: unknown, name: string, seen: readonly unknown[]): unknown => {
    if (typeof value === 'string') return named(value, name);
    if (typeof value === 'number') return Number.isFinite(value) ? value : String(value);
    if (typeof value === 'bigint') return String(value);
    if (typeof value === 'boolean' || value === null || value === undefined) return value;
    if (typeof value === 'symbol' || typeof value === 'function') return `[${typeof value}]`;
    if (seen.includes(value)) return '[circular]';
    if (seen.length >= MAX_DEPTH) return '[deep]';
    const inside = [...seen, value];
    if (value instanceof Error) return error(value, inside);
    if (value instanceof Date) return Number.isNaN(value.getTime()) ? 'Invalid Date' : value.toISOString();
    if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer) return `[${value.byteLength} bytes]`;
    if (value instanceof Map) return walk(Object.fromEntries([...value].map(([key, item]) => [String(key), item])), name, inside);
    if (Array.isArray(value) || value instanceof Set) {
      const items = [...value];
      const shown = items.slice(0, MAX_ITEMS).map((item) => walk(item, name, inside));
      return items.length > MAX_ITEMS ? [...shown, `… ${items.length - MAX_ITEMS} more`] : shown;
    }
    const entries = Object.entries(value);
    const shown = entries.slice(0, MAX_ITEMS).map(([key, item]) => [text(key), secretName.test(name) ? MASK : walk(item, key, inside)]);
    return Object.fromEntries(shown);
  };

  const error = (value: Error, seen: readonly unknown[]): unknown => {
    const extra = 'code' in value ? { code: walk(value.code, 'code', seen) } : {};
    const context = 'context' in value ? { context: walk(value.context, 'context', seen) } : {};
    const cause = value.cause === undefined ? {} : { cause: walk(value.cause, 'cause', seen) };
    return { name: value.name, message: text(value.message), ...extra, ...context, ...cause, stack: text(value.stack ?? '') };
  };

  return (value, fieldName = '') => walk(value, fieldName, []);
}
