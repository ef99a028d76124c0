/** What an invalidation matches, and the one function that decides it: at the door, at recovery and for queued writes alike. */
import { DEFAULT_TENANT, isCredentialTenant, saltOf } from './namespace.ts';
import type { NamespaceDescriptor } from './namespace.ts';

/** Fields are ANDed; at least one is present; `all` stands alone. Times are wall-clock milliseconds. */
export interface Selector {
  readonly all?: true;
  readonly model?: string;
  readonly modelPrefix?: string;
  /** As `NamespaceDescriptor.tenant`: a salt, `@name`, or 'default'. */
  readonly tenant?: string;
  /** The namespace as the REST API prints it, see `namespaceLabel`. */
  readonly namespace?: string;
  /** Whole keys, in the client's spelling. */
  readonly keys?: readonly string[];
  /** Start of the client's spelling of a key. */
  readonly keyPrefix?: string;
  /** Whole key of a chunk; it and its known descendants. */
  readonly chainFrom?: string;
  /** `name=value`, or `name` for any value. */
  readonly tag?: string;
  /** Last use before this time. */
  readonly olderThan?: number;
  /** First put before this time. */
  readonly createdBefore?: number;
  /** Has a replica in this tier. */
  readonly tier?: 'hbm' | 'ram' | 'ssd';
}

/** What can be told of a chunk from its file header alone, hence also after a crash. */
export interface ChunkFacts {
  readonly namespace: NamespaceDescriptor;
  /** Whole key in the client's spelling. */
  readonly key: string;
  readonly createdAtMs: number;
}

/** Facts that only the live index knows; a selector that needs them is resolved to keys before it is journaled. */
export interface VolatileFacts {
  readonly lastUsedAtMs: number;
  readonly tiers: readonly ('hbm' | 'ram' | 'ssd')[];
  readonly inChain: boolean;
}

/** True where the selector cannot be judged from a file header: journal the matched keys instead of the selector. */
export function isVolatile(selector: Selector): boolean {
  return selector.olderThan !== undefined || selector.tier !== undefined || selector.chainFrom !== undefined;
}

/** `#salt`, `#@name` or `#@name/salt`; '' for the default tenant. */
function tenantLabel(descriptor: NamespaceDescriptor): string {
  const { tenant } = descriptor;
  if (tenant === DEFAULT_TENANT) return '';
  const salt = isCredentialTenant(tenant) ? saltOf(descriptor) : '';
  return salt === '' ? `#${tenant}` : `#${tenant}/${salt}`;
}

/** `model@rank@group`, `opaque`, with `#tenant` where the tenant is not the default. Stable across restarts. */
export function namespaceLabel(descriptor: NamespaceDescriptor): string {
  const tenant = tenantLabel(descriptor);
  if (descriptor.grammar === 'opaque') return `opaque${tenant}`;
  const parts = [descriptor.model, descriptor.rank, descriptor.group, descriptor.dtype, descriptor.layer];
  for (const [name, value] of Object.entries(descriptor.tags)) parts.push(`${name}%${value}`);
  return parts.filter((part) => part !== '').join('@') + tenant;
}

/** Judges the stable fields. */
export function matchesStable(selector: Selector, facts: ChunkFacts): boolean {
  if (selector.all === true) return true;
  const { namespace } = facts;
  if (selector.model !== undefined && namespace.model !== selector.model) return false;
  if (selector.modelPrefix !== undefined && !(namespace.model !== '' && namespace.model.startsWith(selector.modelPrefix))) return false;
  if (selector.tenant !== undefined && namespace.tenant !== selector.tenant) return false;
  if (selector.namespace !== undefined && namespaceLabel(namespace) !== selector.namespace) return false;
  if (selector.keyPrefix !== undefined && !facts.key.startsWith(selector.keyPrefix)) return false;
  if (selector.keys !== undefined && !selector.keys.includes(facts.key)) return false;
  if (selector.tag !== undefined && !matchesTag(selector.tag, namespace.tags)) return false;
  if (selector.createdBefore !== undefined && !(facts.createdAtMs < selector.createdBefore)) return false;
  return true;
}

/** Judges the volatile fields. */
export function matchesVolatile(selector: Selector, facts: VolatileFacts): boolean {
  if (selector.olderThan !== undefined && !(facts.lastUsedAtMs < selector.olderThan)) return false;
  if (selector.tier !== undefined && !facts.tiers.includes(selector.tier)) return false;
  if (selector.chainFrom !== undefined && !facts.inChain) return false;
  return true;
}

function matchesTag(tag: string, tags: Readonly<Record<string, string>>): boolean {
  const equals = tag.indexOf('=');
  if (equals < 0) return Object.hasOwn(tags, tag);
  const name = tag.slice(0, equals);
  return Object.hasOwn(tags, name) && tags[name] === tag.slice(equals + 1);
}
