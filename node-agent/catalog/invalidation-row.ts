/** Selectors as the catalog keeps them: JSON for people and for the audit log. */
import type { Selector } from '#core/selector.ts';

const fields = new Set([
  'all',
  'model',
  'modelPrefix',
  'tenant',
  'namespace',
  'keys',
  'keyPrefix',
  'chainFrom',
  'tag',
  'olderThan',
  'createdBefore',
  'tier',
]);

/**
 * The selector of a row; {} where it cannot be read. The audit log shows what it has: what is dead is the journal's to decide, so
 * a row that somebody edited does no harm.
 */
export function parseSelector(text: string): Selector {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value !== 'object' || value === null) return {};
    return Object.fromEntries(Object.entries(value).filter(([name]) => fields.has(name)));
  } catch {
    return {};
  }
}
