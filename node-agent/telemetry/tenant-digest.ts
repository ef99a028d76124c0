import { createHash } from 'node:crypto';
import { DEFAULT_TENANT, isCredentialTenant } from '#core/namespace.ts';

/**
 * How logs, metrics and statistics name a tenant: a cache_salt is a secret. `default` and the names of tenants with a token are none and stay readable; all others are
 * `t-` and 48 bits of SHA-256, the same on every node and after every restart, so that series of many agents can be joined.
 * It hides the salt from a reader; a guess of a weak salt can still be confirmed.
 */
export function tenantDigest(tenant: string): string {
  if (tenant === DEFAULT_TENANT || isCredentialTenant(tenant)) return tenant;
  return `t-${createHash('sha256').update(tenant).digest('hex').slice(0, 12)}`;
}
