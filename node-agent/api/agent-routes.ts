/** Health, metrics, statistics and the description of the API itself. */
import type { ApiApp, Guarded } from './app.ts';
import { controlOf } from './caller.ts';
import type { ApiDeps } from './deps.ts';
import { devicesView } from './devices-view.ts';
import { DOCS_CSP, docsPage, type PrintableDocument } from './docs-page.ts';
import { definitions } from './route-definitions.ts';
import { statsView } from './stats-view.ts';

export function bindAgentRoutes(app: ApiApp, { deps, guarded }: { readonly deps: ApiDeps; readonly guarded: Guarded }): void {
  const { agent, clock, metrics } = deps;
  const document = (): ReturnType<ApiApp['getOpenAPI31Document']> =>
    app.getOpenAPI31Document({
      openapi: '3.1.0',
      info: {
        title: 'kvtier',
        version: agent.version,
        description: 'The node agent of kvtier: inspect, move and invalidate KV-cache chunks.',
      },
    });

  app.openapi(guarded('liveness', definitions.liveness), (context) => context.json({ status: 'ok' as const }, 200));

  app.openapi(guarded('readiness', definitions.readiness), (context) => {
    const { state, reasons, notes = [] } = agent.health();
    const serves = state === 'ready' || state === 'degraded';
    return context.json({ state, reasons: [...reasons], ...(notes.length === 0 ? {} : { notes: [...notes] }) }, serves ? 200 : 503);
  });

  app.openapi(guarded('metrics', definitions.metrics), async (context) => {
    const shown = controlOf(deps, context);
    const text = await metrics.scrape(() => ({
      stats: shown.stats(),
      namespaces: shown.namespaces(),
      doors: agent.doors(),
      version: agent.version,
      state: agent.health().state,
      uptimeSeconds: Math.max(0, clock.nowMs() - agent.startedAtMs) / 1000,
      residentBytes: agent.residentBytes(),
      heapBytes: agent.heapBytes(),
      eventLoopLag: agent.eventLoopLag(),
      watch: agent.watch?.(),
      lostLogWrites: agent.lostLogWrites?.(),
      devices: devicesView(shown.stats().hbm, agent.gpu?.()),
    }));
    return context.text(text, 200, { 'content-type': metrics.contentType });
  });

  app.openapi(guarded('openapi', definitions.openapi), (context) => context.json(document() as never, 200));

  app.openapi(guarded('docs', definitions.docs), (context) => {
    context.header('content-security-policy', DOCS_CSP);
    return context.html(docsPage(document() as unknown as PrintableDocument), 200);
  });

  app.openapi(guarded('devices', definitions.devices), (context) =>
    context.json(devicesView(controlOf(deps, context).stats().hbm, agent.gpu?.()), 200),
  );

  app.openapi(guarded('stats', definitions.stats), (context) => {
    const { tenant } = context.get('credential');
    return context.json(statsView(controlOf(deps, context), agent, { nowMs: clock.nowMs(), tenant }), 200);
  });
}
