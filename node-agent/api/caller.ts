import type { Context } from 'hono';
import type { CacheControl } from '#cache/control.ts';
import type { ApiEnv } from './app.ts';
import type { ApiDeps } from './deps.ts';
import { TenantControl } from './tenant-control.ts';

/** The cache as the caller may see it: all of it, or a tenant's part. Every handler goes through here. */
export function controlOf({ control }: ApiDeps, context: Context<ApiEnv>): CacheControl {
  const { tenant } = context.get('credential');
  return tenant === undefined ? control : new TenantControl(control, tenant);
}
