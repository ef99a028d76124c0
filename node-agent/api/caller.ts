import type { Context } from 'hono';
import type { CacheControl } from '#cache/control.ts';
import type { ApiEnv } from './app.ts';
import type { ApiDeps } from './deps.ts';
import { digestShape, shownTenant } from '#telemetry/shown-names.ts';
import { NamedControl, tenantNamed } from './named-control.ts';
import { ShownControl } from './shown-control.ts';
import { TenantControl } from './tenant-control.ts';

/** A tenant in a path as answers name it: the caller may have given its bare name, the salt or its digest. */
export function shownName({ revealSalts = false, tokens }: ApiDeps, name: string): string {
  const tenant = tenantNamed(name, tokens.tenants);
  return revealSalts || digestShape.test(tenant) ? tenant : shownTenant(tenant);
}

/** The cache as the caller may see it and names it: all of it or a tenant's part, salts by digest. Every handler goes through here. */
export function controlOf({ control, revealSalts = false, tokens }: ApiDeps, context: Context<ApiEnv>): CacheControl {
  const { tenant } = context.get('credential');
  const part = tenant === undefined ? control : new TenantControl(control, tenant);
  return new NamedControl(revealSalts ? part : new ShownControl(part), tokens.tenants);
}
