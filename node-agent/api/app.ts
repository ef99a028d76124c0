/**
 * The REST API: parse, call the cache, print. No decision about the cache is made here.
 *
 * Whoever listens must not cut quiet answers: persist, prefetch and invalidate wait for I/O without sending a byte.
 */
import { OpenAPIHono, type RouteConfig } from '@hono/zod-openapi';
import type { Context, MiddlewareHandler } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import type { Credential } from '#core/credential.ts';
import { KvtierError } from '#core/errors.ts';
import { restLimits } from '#protocol/rest/limits.ts';
import { restRoutes, type RestRoute, type RouteName } from '#protocol/rest/routes.ts';
import { createAccess, type Access } from './access.ts';
import { bindAgentRoutes } from './agent-routes.ts';
import { bindChunkRoutes } from './chunk-routes.ts';
import type { ApiDeps } from './deps.ts';
import { bindInvalidationRoutes } from './invalidation-routes.ts';
import { bindKeepingRoutes } from './keeping-routes.ts';
import { problemOfError, problemOfZodError, problemResponse } from './problems.ts';

/** What the middleware leaves: for the counter the template of the route that took the request, for the handler who calls. */
export interface ApiEnv {
  Variables: { route?: string; credential: Credential };
}

export type ApiApp = OpenAPIHono<ApiEnv>;

/** A definition with the middleware that its row of the route table asks for. */
export type Guarded = <R extends RouteConfig>(name: RouteName, definition: R) => R & { middleware: MiddlewareHandler<ApiEnv>[] };

export function createApi(deps: ApiDeps): ApiApp {
  const app: ApiApp = new OpenAPIHono<ApiEnv>({
    defaultHook: (result, context) => (result.success ? undefined : problemResponse(context, problemOfZodError(result.error))),
  });
  const access = createAccess(deps);
  app.onError((error, context) => failure(deps, error, context));
  app.use('*', countAndHarden(deps));
  app.use('*', exceptHealth(access.guard));
  app.notFound((context) => notFound(deps, { access, context }));
  app.openAPIRegistry.registerComponent('securitySchemes', 'bearer', { type: 'http', scheme: 'bearer' });
  const maxBodyBytes = deps.maxBodyBytes ?? restLimits.bodyBytes;
  const guarded: Guarded = (name, definition) => ({
    ...definition,
    middleware: middlewareOf(restRoutes[name], { access, maxBodyBytes, takesQuery: definition.request?.query !== undefined }),
  });
  bindAgentRoutes(app, { deps, guarded });
  bindChunkRoutes(app, { deps, guarded });
  bindInvalidationRoutes(app, { deps, guarded });
  bindKeepingRoutes(app, { deps, guarded });
  return app;
}

/** In this order: the unknown are told nothing and their body is not read; then the query, the kind of body, its size. */
function middlewareOf(
  route: RestRoute,
  { access, maxBodyBytes, takesQuery }: { readonly access: Access; readonly maxBodyBytes: number; readonly takesQuery: boolean },
): MiddlewareHandler<ApiEnv>[] {
  const authorize: MiddlewareHandler<ApiEnv> = async (context, next) => {
    context.set('route', route.path);
    context.set('credential', access.require(context, route));
    await next();
  };
  const query = takesQuery || route.access === 'public' ? [] : [refuseQuery];
  const hasBody = route.method === 'POST' || route.method === 'PUT';
  return hasBody ? [authorize, ...query, requireJson, limitBody(maxBodyBytes)] : [authorize, ...query];
}

/** `POST /v1/invalidate?dryRun=true` that ignored its query would take away what the caller meant to count. */
const refuseQuery: MiddlewareHandler<ApiEnv> = async (context, next) => {
  const [name] = Object.keys(context.req.query());
  if (name !== undefined) {
    throw new KvtierError('BAD_REQUEST', `Cannot take the query parameter ${JSON.stringify(name.slice(0, 64))}: this route has none`);
  }
  await next();
};

/** Also for bodies that may be empty: a form of a foreign page cannot send this type unasked. */
const requireJson: MiddlewareHandler<ApiEnv> = async (context, next) => {
  const mediaType = (context.req.header('content-type') ?? '').split(';')[0]?.trim().toLowerCase();
  if (mediaType !== 'application/json') {
    throw new KvtierError('UNSUPPORTED_MEDIA_TYPE', 'Cannot read the body: wanted Content-Type application/json');
  }
  await next();
};

function limitBody(maxSize: number): MiddlewareHandler {
  return bodyLimit({
    maxSize,
    onError: () => {
      throw new KvtierError('PAYLOAD_TOO_LARGE', `Cannot read the body: it is over ${maxSize} bytes`);
    },
  });
}

function countAndHarden({ metrics }: ApiDeps): MiddlewareHandler<ApiEnv> {
  return async (context, next) => {
    await next();
    context.header('x-content-type-options', 'nosniff');
    context.header('cache-control', 'no-store');
    metrics.countHttpResponse(context.get('route') ?? 'other', context.res.status);
  };
}

/** Probes come by pod address, and the answer to them is no secret. */
function exceptHealth(guard: MiddlewareHandler): MiddlewareHandler<ApiEnv> {
  return async (context, next) => {
    if (context.req.path === restRoutes.liveness.path || context.req.path === restRoutes.readiness.path) return await next();
    return await guard(context, next);
  };
}

function failure({ logger, onBug }: ApiDeps, error: unknown, context: Context): Response {
  const { problem, bug } = problemOfError(hasLeft(error, context) ? bodyCutOff(error) : error);
  if (bug) {
    logger.error('A request failed by a bug', {
      method: context.req.method,
      error: error instanceof Error ? error.message : String(error),
    });
    onBug(error);
  }
  return problemResponse(context, problem);
}

/** The client closed its connection within the body; reading that throws, and there is nobody to answer. */
function hasLeft(error: unknown, context: Context): boolean {
  return error instanceof Error && error.name === 'AbortError' && context.req.raw.signal.aborted;
}

function bodyCutOff(cause: unknown): KvtierError {
  return new KvtierError('BAD_REQUEST', 'Cannot read the body: the connection ended within it', { cause });
}

/** 405 with Allow where the path is one of ours under another method, else 404; both only for callers who may read. */
function notFound(deps: ApiDeps, { access, context }: { readonly access: Access; readonly context: Context }): Response {
  try {
    access.require(context, { access: 'read', tenant: 'all' });
    const methods = Object.values(restRoutes).flatMap((route) => (matchesTemplate(route.path, context.req.path) ? [route.method] : []));
    if (methods.length === 0) throw new KvtierError('NOT_FOUND', 'Cannot find this route; GET /docs lists all of them');
    const response = failure(
      deps,
      new KvtierError('METHOD_NOT_ALLOWED', `Cannot ${context.req.method} this route: wanted ${methods.join(', ')}`),
      context,
    );
    response.headers.set('allow', methods.join(', '));
    return response;
  } catch (error) {
    return failure(deps, error, context);
  }
}

function matchesTemplate(template: string, path: string): boolean {
  const wanted = template.split('/');
  const given = path.split('/');
  return (
    wanted.length === given.length &&
    wanted.every((segment, position) => segment === given[position] || (segment.startsWith('{') && given[position] !== ''))
  );
}
