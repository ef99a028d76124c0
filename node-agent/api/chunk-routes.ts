/** Reading, moving and verifying chunks. */
import type { ChunkFilter, ChunkInfo } from '#cache/control.ts';
import { KvtierError } from '#core/errors.ts';
import type { Chunk } from '#protocol/rest/chunks.ts';
import { toSelector } from '#protocol/rest/selector.ts';
import { resolveTimePoint } from '#protocol/rest/time-point.ts';
import type { ApiApp, Guarded } from './app.ts';
import { controlOf } from './caller.ts';
import type { ApiDeps } from './deps.ts';
import { decodeCursor, encodeCursor, pageOf } from './paging.ts';
import { problemOfError } from './problems.ts';
import { definitions } from './route-definitions.ts';
import { namespaceViews, tenantViews } from './stats-view.ts';
import { verifyStream } from './verify-stream.ts';

export function bindChunkRoutes(app: ApiApp, { deps, guarded }: { readonly deps: ApiDeps; readonly guarded: Guarded }): void {
  bindListings(app, { deps, guarded });
  const { clock } = deps;

  app.openapi(guarded('lookup', definitions.lookup), (context) => {
    const { keys, tenant } = context.req.valid('json');
    const answers = controlOf(deps, context).lookup(keys, { tenant });
    const hits = answers.findIndex(({ tier }) => tier === undefined);
    const rows = answers.map(({ key, tier, sizeBytes, reason }) => ({ key, tier: tier ?? null, sizeBytes: sizeBytes ?? null, reason }));
    return context.json({ hitCount: hits < 0 ? answers.length : hits, answers: rows }, 200);
  });

  app.openapi(guarded('prefetch', definitions.prefetch), async (context) => {
    const { keys, tenant, tier } = context.req.valid('json');
    return context.json(await controlOf(deps, context).prefetch(keys, { tenant, tier }), 200);
  });

  app.openapi(guarded('persist', definitions.persist), async (context) => {
    const { selector } = context.req.valid('json');
    return context.json(await controlOf(deps, context).persist(toSelector(selector, clock.nowMs())), 200);
  });

  app.openapi(guarded('evict', definitions.evict), async (context) => {
    const { tier, selector } = context.req.valid('json');
    return context.json(await controlOf(deps, context).evict(tier, toSelector(selector, clock.nowMs())), 200);
  });

  bindVerify(app, { deps, guarded });
}

function bindListings(app: ApiApp, { deps, guarded }: { readonly deps: ApiDeps; readonly guarded: Guarded }): void {
  app.openapi(guarded('namespaces', definitions.namespaces), (context) => {
    const { rows, cursor } = pageOf(namespaceViews(controlOf(deps, context)), { kind: 'namespaces', ...context.req.valid('query') });
    return context.json({ namespaces: rows, cursor }, 200);
  });

  app.openapi(guarded('tenants', definitions.tenants), (context) => {
    const { rows, cursor } = pageOf(tenantViews(controlOf(deps, context)), { kind: 'tenants', ...context.req.valid('query') });
    return context.json({ tenants: rows, cursor }, 200);
  });

  app.openapi(guarded('chunks', definitions.chunks), (context) => {
    const { cursor, limit, olderThan, ...stable } = context.req.valid('query');
    const filter = {
      ...withoutAbsent(stable),
      ...(olderThan === undefined ? {} : { olderThan: resolveTimePoint(olderThan, deps.clock.nowMs()) }),
    } as ChunkFilter;
    const page = controlOf(deps, context).chunks(
      filter,
      cursor === undefined ? { limit } : { cursor: decodeCursor('chunks', cursor), limit },
    );
    const next = page.cursor === undefined ? null : encodeCursor('chunks', page.cursor);
    return context.json({ chunks: page.chunks.map(chunkView), cursor: next }, 200);
  });

  app.openapi(guarded('chunk', definitions.chunk), (context) => {
    const chunk = controlOf(deps, context).chunk(context.req.valid('param').id);
    if (chunk === undefined)
      throw new KvtierError('NOT_FOUND', 'Cannot find the chunk: the id is unknown, or stale since the chunk was removed');
    return context.json(chunkView(chunk), 200);
  });
}

/** One run at a time: each reads the whole SSD. */
function bindVerify(app: ApiApp, { deps, guarded }: { readonly deps: ApiDeps; readonly guarded: Guarded }): void {
  let running = false;
  app.openapi(guarded('verify', definitions.verify), async (context) => {
    if (running) throw new KvtierError('OVERLOADED', 'Cannot verify: a run is under way, and one at a time is allowed');
    const progress = controlOf(deps, context).verify();
    running = true;
    const stream = await verifyStream(progress, {
      clock: deps.clock,
      problemOf: (error) => {
        const { problem, bug } = problemOfError(error);
        if (bug) deps.onBug(error);
        return problem;
      },
      onEnd: () => {
        running = false;
      },
    });
    return context.body(stream, 200, { 'content-type': 'application/x-ndjson' }) as never;
  });
}

function chunkView(chunk: ChunkInfo): Chunk {
  const { parentId = null, expiresAtMs = null, pinned = null } = chunk;
  return { ...chunk, tiers: [...chunk.tiers], parentId, expiresAtMs, pinned };
}

/** Absent filters are left out rather than undefined: the cache's types tell the two apart. */
function withoutAbsent<T extends object>(fields: T): Partial<T> {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as Partial<T>;
}
