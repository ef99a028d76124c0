/** How long chunks live where a put does not say: the value of `ttl.rules`, and what it means for a namespace. */
import * as z from 'zod';
import { formatDuration, parseDuration } from '#core/duration.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';
import { matchesWildcard } from '#core/wildcard.ts';

/** Each namespace that comes up is compared with all of them. */
export const MAX_TTL_RULES = 256;
/** A second: less is a mistake, and would make the sweep all that the agent does. */
export const MIN_TTL_MS = 1000;
/** Ten years. */
export const MAX_TTL_MS = 3650 * 86_400_000;

export interface TtlRule {
  /** Patterns with `*`. */
  readonly model: string;
  readonly tenant: string;
  /** 0: for ever. */
  readonly ttlMs: number;
}

/** `MODEL[@TENANT]=DURATION` or `=off`; undefined where the text is none. A model's name may hold an equals sign, a duration none. */
function parseRule(text: string): TtlRule | undefined {
  const equals = text.lastIndexOf('=');
  if (equals < 0) return undefined;
  const who = text.slice(0, equals);
  // No model has an `@` in its name; the tenant of a token begins with one.
  const at = who.indexOf('@');
  const model = at < 0 ? who : who.slice(0, at);
  const tenant = at < 0 ? '*' : who.slice(at + 1);
  const time = text.slice(equals + 1).trim();
  const ttlMs = time === 'off' ? 0 : parseDuration(time);
  return ttlMs === undefined ? undefined : { model, tenant, ttlMs };
}

/** A list of rules; a variable separates them by commas. */
export function ttlRules(): z.ZodType<readonly TtlRule[]> {
  const wanted = 'MODEL=DURATION, MODEL@TENANT=DURATION, or a list of them, is wanted, such as llama-*=24h';
  return z.union([z.string(), z.array(z.string())], { error: wanted }).transform((raw, context) => {
    const refuse = (message: string): void => context.addIssue({ code: 'custom', message });
    const rules: TtlRule[] = [];
    for (const text of (Array.isArray(raw) ? raw : raw.split(',')).map((item) => item.trim())) {
      const rule = parseRule(text);
      if (rule === undefined) refuse(wanted);
      else if (rule.ttlMs !== 0 && (rule.ttlMs < MIN_TTL_MS || rule.ttlMs > MAX_TTL_MS))
        refuse(
          `${formatDuration(rule.ttlMs)} is given; ${formatDuration(MIN_TTL_MS)} to ${formatDuration(MAX_TTL_MS)}, or off, is allowed`,
        );
      else rules.push(rule);
    }
    if (rules.length > MAX_TTL_RULES) refuse(`${rules.length} rules are given, at most ${MAX_TTL_RULES} are allowed`);
    return rules;
  });
}

/** The rule's own spelling. */
export function formatTtlRule({ model, tenant, ttlMs }: TtlRule): string {
  return `${model}${tenant === '*' ? '' : `@${tenant}`}=${ttlMs === 0 ? 'off' : formatDuration(ttlMs)}`;
}

/** Milliseconds that a namespace's chunks live where a put does not say; 0: for ever. The first rule that fits counts. */
export function ttlOf(ttl: { readonly defaultMs: number; readonly rules: readonly TtlRule[] }, namespace: NamespaceDescriptor): number {
  const rule = ttl.rules.find(({ model, tenant }) => matchesWildcard(model, namespace.model) && matchesWildcard(tenant, namespace.tenant));
  return rule?.ttlMs ?? ttl.defaultMs;
}
