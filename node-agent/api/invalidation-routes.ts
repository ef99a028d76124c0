/** Invalidation, its audit log, and epochs. */
import type { Invalidation } from '#protocol/rest/operations.ts';
import { toSelector } from '#protocol/rest/selector.ts';
import type { ApiApp, Guarded } from './app.ts';
import type { ApiDeps } from './deps.ts';
import { decodeCursor, encodeCursor } from './paging.ts';
import { definitions } from './route-definitions.ts';
import { callWebhook } from './webhook.ts';

export function bindInvalidationRoutes(app: ApiApp, { deps, guarded }: { readonly deps: ApiDeps; readonly guarded: Guarded }): void {
  const { clock, control } = deps;

  app.openapi(guarded('invalidate', definitions.invalidate), async (context) => {
    const { selector, dryRun = false, reason = '' } = context.req.valid('json');
    const answer = await control.invalidate(toSelector(selector, clock.nowMs()), { dryRun, reason, actor: 'admin' });
    const webhook = answer.dryRun ? 'off' : await callWebhook(deps.webhook, deps);
    return context.json({ ...answer, webhook }, 200);
  });

  app.openapi(guarded('invalidations', definitions.invalidations), async (context) => {
    const { cursor, limit } = context.req.valid('query');
    // One more than asked for tells whether there is a next page.
    const rows = await control.invalidations(
      cursor === undefined ? { limit: limit + 1 } : { beforeId: decodeCursor('invalidations', cursor), limit: limit + 1 },
    );
    const page = rows.slice(0, limit);
    const last = rows.length > limit ? page.at(-1) : undefined;
    const next = last === undefined ? null : encodeCursor('invalidations', last.id);
    return context.json(
      { invalidations: page.map((row) => ({ ...row, selector: { ...row.selector } as Invalidation['selector'] })), cursor: next },
      200,
    );
  });

  app.openapi(guarded('bumpEpoch', definitions.bumpEpoch), async (context) => {
    const { reason = '' } = context.req.valid('json');
    const answer = await control.bumpEpoch(context.req.valid('param').model, { reason, actor: 'epoch' });
    return context.json({ ...answer, webhook: await callWebhook(deps.webhook, deps) }, 200);
  });
}
