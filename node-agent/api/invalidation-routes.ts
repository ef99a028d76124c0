/** Invalidation, its audit log, and epochs. */
import type { Invalidation } from '#protocol/rest/operations.ts';
import { toSelector } from '#protocol/rest/selector.ts';
import type { ApiApp, Guarded } from './app.ts';
import { controlOf } from './caller.ts';
import type { ApiDeps } from './deps.ts';
import { decodeCursor, encodeCursor } from './paging.ts';
import { definitions } from './route-definitions.ts';
import { callWebhook } from './webhook.ts';

export function bindInvalidationRoutes(app: ApiApp, { deps, guarded }: { readonly deps: ApiDeps; readonly guarded: Guarded }): void {
  const { clock } = deps;

  app.openapi(guarded('invalidate', definitions.invalidate), async (context) => {
    const { selector, dryRun = false, reason = '' } = context.req.valid('json');
    const order = { dryRun, reason, actor: 'admin' };
    const answer = await controlOf(deps, context).invalidate(toSelector(selector, clock.nowMs()), order);
    // It clears all of LMCache, hence what is others' too: not for a tenant to ask.
    const webhook = answer.dryRun || context.get('credential').role === 'tenant' ? 'off' : await callWebhook(deps.webhook, deps);
    return context.json({ ...answer, webhook }, 200);
  });

  app.openapi(guarded('invalidations', definitions.invalidations), async (context) => {
    const { cursor, limit } = context.req.valid('query');
    // One more than asked for tells whether there is a next page.
    const rows = await controlOf(deps, context).invalidations(
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
    const answer = await controlOf(deps, context).bumpEpoch(context.req.valid('param').model, { reason, actor: 'epoch' });
    return context.json({ ...answer, webhook: await callWebhook(deps.webhook, deps) }, 200);
  });
}
