import type { Context } from 'hono';
import type { CacheControl } from '#cache/control.ts';
import type { ApiEnv } from './app.ts';
import type { ApiDeps } from './deps.ts';
import { digestShape, shownTenant } from '#telemetry/shown-names.ts';
import { ShownControl } from './shown-control.ts';
import { TenantControl } from './tenant-control.ts';

/** A tenant in a path as answers name it: the caller may have given the salt or its digest. */
export function shownName({ revealSalts = false }: ApiDeps, tenant: string): string {
  return revealSalts || digestShape.test(tenant) ? tenant : shownTenant(tenant);
}

/** The cache as the caller may see it: all of it or a tenant's part, salts by digest. Every handler goes through here. */
export function controlOf({ control, revealSalts = false }: ApiDeps, context: Context<ApiEnv>): CacheControl {
  const { tenant } = context.get('credential');
  const part = tenant === undefined ? control : new TenantControl(control, tenant);
  return revealSalts ? part : new ShownControl(part);
}
