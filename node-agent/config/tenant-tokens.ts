/** Who has a token of its own: the value of `tenants.tokens`, as text (flag, variable) and as tables (file). */
import * as z from 'zod';
import { tenantNameShape } from '#core/namespace.ts';
import { secret } from './knob-types.ts';

/** More are refused: a token is compared with each of them. */
export const MAX_TENANTS = 1024;

export interface TenantToken {
  readonly token: string;
}

export interface TenantTokenFile {
  /** Its first line is the token. */
  readonly tokenFile: string;
}

export type TenantTokens = ReadonlyMap<string, TenantToken | TenantTokenFile>;

export function isTenantFile(given: TenantToken | TenantTokenFile): given is TenantTokenFile {
  return 'tokenFile' in given;
}

/** Names with a meaning of their own: a knob beside the tables, and the tenant of those without salt. */
const reserved: readonly string[] = ['reveal', 'tokens', 'default'];
const token = secret();

/** `name=token` pairs with white space between them, or a record of tables. Messages never quote a token. */
export function tenantTokens(): z.ZodType<TenantTokens> {
  const wanted = 'name=token pairs with spaces between them are wanted';
  const given = z.union([z.string(), z.record(z.string(), z.unknown())], { error: wanted });
  return given.transform((raw, context): TenantTokens => {
    const tenants = new Map<string, TenantToken | TenantTokenFile>();
    const refuse = (message: string): void => context.addIssue({ code: 'custom', message });
    const entries = typeof raw === 'string' ? pairsOf(raw) : Object.entries(raw);
    if (entries === undefined || entries.length === 0) refuse(wanted);
    for (const [name, value] of entries ?? []) {
      const problem = nameProblem(name) ?? (tenants.has(name) ? `tenant ${name} is named twice` : undefined);
      const credential = problem === undefined ? credentialOf(value) : undefined;
      if (problem !== undefined) refuse(problem);
      else if (typeof credential === 'string') refuse(`tenant ${name}: ${credential}`);
      else if (credential !== undefined) tenants.set(name, credential);
    }
    if (tenants.size > MAX_TENANTS) refuse(`${tenants.size} tenants are given, at most ${MAX_TENANTS} are allowed`);
    return tenants;
  });
}

function pairsOf(text: string): [string, unknown][] | undefined {
  const pairs = text.split(/\s+/).filter((pair) => pair !== '');
  const entries = pairs.map((pair): [string, unknown] => {
    const equals = pair.indexOf('=');
    return [pair.slice(0, Math.max(0, equals)), { token: pair.slice(equals + 1) }];
  });
  return entries.some(([name]) => name === '') ? undefined : entries;
}

/** A name that is none may be a token in the wrong place: it is not quoted. */
function nameProblem(name: string): string | undefined {
  if (!tenantNameShape.test(name))
    return 'the name of a tenant has 1 to 64 of a-z 0-9 . _ - and begins with a letter or digit; one that is given does not';
  return reserved.includes(name) ? `tenant ${name}: the name is reserved` : undefined;
}

/** Or what is wrong with it. */
function credentialOf(value: unknown): TenantToken | TenantTokenFile | string {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return 'a table with token or tokenFile is wanted';
  const names = Object.keys(value);
  const unknown = names.find((name) => name !== 'token' && name !== 'tokenFile');
  if (unknown !== undefined || names.length !== 1) return 'exactly one of token and tokenFile is wanted';
  if ('tokenFile' in value) {
    return typeof value.tokenFile === 'string' && value.tokenFile !== '' ? { tokenFile: value.tokenFile } : 'tokenFile: a path is wanted';
  }
  const parsed = token.safeParse('token' in value ? value.token : undefined);
  return parsed.success ? { token: parsed.data } : `token: ${parsed.error.issues[0]?.message ?? 'text is wanted'}`;
}
