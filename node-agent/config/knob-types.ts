/**
 * The value types of the configuration: each accepts what a flag or variable gives (text) and what TOML gives (numbers, booleans,
 * lists), and hands on bytes, milliseconds and addresses. A message says what is wanted; the caller adds what was given.
 */
import * as z from 'zod';
import { formatBytes, parseBytes } from '#core/bytes.ts';
import { formatDuration, parseDuration } from '#core/duration.ts';

export interface Address {
  /** Without brackets, lower case. */
  readonly host: string;
  /** 0 picks a free port. */
  readonly port: number;
}

export interface SsdDir {
  readonly path: string;
  /** Undefined: a share of ssd.size. */
  readonly sizeBytes: number | undefined;
}

export type KnobShape =
  | 'text'
  | 'mode'
  | 'size'
  | 'rate'
  | 'duration'
  | 'count'
  | 'boolean'
  | 'choice'
  | 'address'
  | 'path'
  | 'folders'
  | 'shares'
  | 'devices'
  | 'secret'
  | 'tenants'
  | 'rules'
  | 'url';

interface Bounds<Word extends string> {
  readonly min: number;
  readonly max: number;
  /** Words accepted in place of a number. */
  readonly words?: readonly Word[];
}

const scalar = z.union([z.string(), z.number()], { error: 'text or a number is wanted' });

function orWords(words: readonly string[]): string {
  return words.map((word) => `, or ${word}`).join('');
}

/** A number read by `parse`, within bounds, or one of the words. */
function measured<const Word extends string>(
  bounds: Bounds<Word>,
  reading: { readonly parse: (text: string) => number | undefined; readonly wanted: string; readonly format: (value: number) => string },
): z.ZodType<number | Word> {
  const words = bounds.words ?? [];
  return scalar.transform((raw, context): number | Word => {
    const text = String(raw).trim();
    const word = words.find((candidate) => candidate === text.toLowerCase());
    if (word !== undefined) return word;
    const value = reading.parse(text);
    if (value === undefined) {
      context.addIssue({ code: 'custom', message: `${reading.wanted}${orWords(words)} is wanted` });
      return z.NEVER;
    }
    if (value < bounds.min || value > bounds.max) {
      context.addIssue({ code: 'custom', message: `${reading.format(bounds.min)} to ${reading.format(bounds.max)} is allowed` });
      return z.NEVER;
    }
    return value;
  });
}

/** Bytes: `64GiB`, or a number of bytes. */
export function size<const Word extends string = never>(bounds: Bounds<Word>): z.ZodType<number | Word> {
  return measured(bounds, { parse: parseBytes, wanted: 'a size such as 64GiB', format: formatBytes });
}

/** Bytes per second: `500MiB`, `500MiB/s`. */
export function rate<const Word extends string = never>(bounds: Bounds<Word>): z.ZodType<number | Word> {
  const parse = (text: string): number | undefined => parseBytes(text.replace(/\/s$/, ''));
  return measured(bounds, { parse, wanted: 'bytes per second such as 500MiB', format: (value) => `${formatBytes(value)}/s` });
}

/** Milliseconds: `30s`, or a number of milliseconds. */
export function duration<const Word extends string = never>(bounds: Bounds<Word>): z.ZodType<number | Word> {
  return measured(bounds, { parse: parseDuration, wanted: 'a duration such as 30s', format: formatDuration });
}

export function count<const Word extends string = never>(bounds: Bounds<Word>): z.ZodType<number | Word> {
  const parse = (text: string): number | undefined => (/^\d{1,15}$/.test(text) ? Number(text) : undefined);
  return measured(bounds, { parse, wanted: 'a whole number', format: String });
}

export function toggle(): z.ZodType<boolean> {
  return z.union([z.boolean(), z.string()], { error: 'true or false is wanted' }).transform((raw, context) => {
    if (raw === true || raw === 'true') return true;
    if (raw === false || raw === 'false') return false;
    context.addIssue({ code: 'custom', message: 'true or false is wanted' });
    return z.NEVER;
  });
}

export function choice<const Options extends readonly [string, ...string[]]>(options: Options): z.ZodType<Options[number]> {
  return z.enum(options, { error: `one of ${options.join(', ')} is wanted` });
}

export function text(wanted: string): z.ZodType<string> {
  return z.string({ error: `${wanted} is wanted` }).min(1, { error: `${wanted} is wanted` });
}

/** Permission bits in octal: `0660`. */
export function fileMode(): z.ZodType<number> {
  return z.union([z.number(), z.string()], { error: 'an octal mode such as 0660 is wanted' }).transform((raw, context) => {
    if (typeof raw === 'string' && /^0?[0-7]{3}$/.test(raw)) return Number.parseInt(raw, 8);
    context.addIssue({ code: 'custom', message: 'an octal mode such as 0660, in quotes, is wanted' });
    return z.NEVER;
  });
}

/** Absolute paths; a variable separates them by commas. */
export function paths(): z.ZodType<readonly string[]> {
  const wanted = 'absolute paths are wanted';
  return z.union([z.string(), z.array(z.string())], { error: wanted }).transform((raw, context) => {
    const items = (Array.isArray(raw) ? raw : raw.split(',')).map((item) => item.trim());
    for (const item of items) if (!item.startsWith('/')) context.addIssue({ code: 'custom', message: wanted });
    return items;
  });
}

/** A bearer token: visible ASCII, so that it survives an HTTP header and a RESP argument. */
export function secret(): z.ZodType<string> {
  return z.string({ error: 'text is wanted' }).regex(/^[\x21-\x7e]{1,1024}$/, { error: '1 to 1024 visible ASCII characters are wanted' });
}

export function httpUrl(): z.ZodType<string> {
  return z.string({ error: 'an http or https URL is wanted' }).refine((value) => /^https?:\/\//.test(value) && URL.canParse(value), {
    error: 'an http or https URL is wanted',
  });
}

/** Undefined where the text is no `host:port` with a port of 0 to 65535. IPv6 hosts stand in brackets. */
export function parseAddress(raw: string): Address | undefined {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9.-]+)):(\d{1,5})$/.exec(raw.trim());
  if (match === null) return undefined;
  const port = Number(match[3]);
  if (port > 65535) return undefined;
  if (match[1] !== undefined) {
    const url = `http://[${match[1]}]`;
    return URL.canParse(url) ? { host: new URL(url).hostname.slice(1, -1), port } : undefined;
  }
  const host = (match[2] ?? '').toLowerCase();
  if (/^[\d.]+$/.test(host)) {
    const octets = host.split('.');
    const valid = octets.length === 4 && octets.every((octet) => /^(0|[1-9]\d{0,2})$/.test(octet) && Number(octet) <= 255);
    return valid ? { host, port } : undefined;
  }
  return /^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$/.test(host) ? { host, port } : undefined;
}

/** `127.0.0.1:7600`, `[::1]:7600`. */
export function formatAddress(address: Address): string {
  return address.host.includes(':') ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`;
}

/** True where only this machine can reach the host. */
export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127\.\d+\.\d+\.\d+$/.test(host) || /^::ffff:7f[0-9a-f]{2}:[0-9a-f]{1,4}$/.test(host);
}

/** True where the host means every interface. */
export function isWildcard(host: string): boolean {
  return host === '0.0.0.0' || host === '::' || host === '::ffff:0:0';
}

export function address<const Word extends string = never>(words: readonly Word[] = []): z.ZodType<Address | Word> {
  return z.string({ error: 'an address such as 127.0.0.1:7600 is wanted' }).transform((raw, context): Address | Word => {
    const word = words.find((candidate) => candidate === raw.trim().toLowerCase());
    if (word !== undefined) return word;
    const parsed = parseAddress(raw);
    if (parsed !== undefined) return parsed;
    context.addIssue({
      code: 'custom',
      message: `an address such as 127.0.0.1:7600, localhost:0 or [::1]:7600${orWords(words)} is wanted`,
    });
    return z.NEVER;
  });
}

/** `PATH` or `PATH:SIZE`. A last part that is no size belongs to the path. */
export function parseSsdDir(raw: string): SsdDir {
  const colon = raw.lastIndexOf(':');
  const sizeBytes = colon > 0 ? parseBytes(raw.slice(colon + 1)) : undefined;
  return sizeBytes === undefined ? { path: raw, sizeBytes: undefined } : { path: raw.slice(0, colon), sizeBytes };
}

/** A list of `PATH[:SIZE]`; a variable separates them by commas. */
export function folders(minBytes: number): z.ZodType<readonly SsdDir[]> {
  const wanted = 'PATH or PATH:SIZE, or a list of them, is wanted';
  return z.union([z.string(), z.array(z.string())], { error: wanted }).transform((raw, context) => {
    const items = (Array.isArray(raw) ? raw : raw.split(',')).map((item) => parseSsdDir(item.trim()));
    for (const item of items) {
      if (item.path === '') context.addIssue({ code: 'custom', message: wanted });
      else if (item.sizeBytes !== undefined && item.sizeBytes < minBytes) {
        context.addIssue({
          code: 'custom',
          message: `${item.path} is given ${formatBytes(item.sizeBytes)}; at least ${formatBytes(minBytes)} is allowed`,
        });
      }
    }
    return items;
  });
}
