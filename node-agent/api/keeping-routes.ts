/** What is kept and for whom: pins, and quotas of tenants. */
import { KvtierError } from '#core/errors.ts';
import { toSelector } from '#protocol/rest/selector.ts';
import type { ApiApp, Guarded } from './app.ts';
import { controlOf, shownName } from './caller.ts';
import type { ApiDeps } from './deps.ts';
import { definitions } from './route-definitions.ts';
import { tenantView } from './stats-view.ts';

export function bindKeepingRoutes(app: ApiApp, { deps, guarded }: { readonly deps: ApiDeps; readonly guarded: Guarded }): void {
  const { clock } = deps;

  app.openapi(guarded('pin', definitions.pin), async (context) => {
    const { selector, mode, tier } = context.req.valid('json');
    return context.json(await controlOf(deps, context).pin(toSelector(selector, clock.nowMs()), mode, { tier }), 200);
  });

  app.openapi(guarded('unpin', definitions.unpin), async (context) => {
    return context.json(await controlOf(deps, context).unpin(toSelector(context.req.valid('json').selector, clock.nowMs())), 200);
  });

  app.openapi(guarded('quota', definitions.quota), (context) => {
    const row = tenantView(controlOf(deps, context), shownName(deps, context.req.valid('param').tenant));
    if (row.chunkCount === 0 && row.quota === null)
      throw new KvtierError('NOT_FOUND', 'Cannot find this tenant: it has no chunk and no quota');
    return context.json(row, 200);
  });

  app.openapi(guarded('setQuota', definitions.setQuota), async (context) => {
    const { tenant } = context.req.valid('param');
    const { ramBytes, ssdBytes } = context.req.valid('json');
    await controlOf(deps, context).setQuota(tenant, { ramBytes, ssdBytes });
    return context.json(tenantView(controlOf(deps, context), shownName(deps, tenant)), 200);
  });

  app.openapi(guarded('removeQuota', definitions.removeQuota), async (context) => {
    const { tenant } = context.req.valid('param');
    if (
      !controlOf(deps, context)
        .quotas()
        .some((quota) => quota.tenant === shownName(deps, tenant))
    )
      throw new KvtierError('NOT_FOUND', 'Cannot take the quota of this tenant away: it has none');
    await controlOf(deps, context).setQuota(tenant, undefined);
    return context.json(tenantView(controlOf(deps, context), shownName(deps, tenant)), 200);
  });
}
