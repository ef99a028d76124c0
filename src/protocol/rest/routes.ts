/**
 * Every route of the REST door, once. The server binds a handler to each, the client has a method for each, and tests walk the
 * table: a route that is missing on either side fails.
 */
/** Who may call: 'public' needs no token, 'read' either token, 'admin' the admin token. */
export type RouteAccess = 'public' | 'read' | 'admin';

export interface RestRoute {
  readonly method: 'GET' | 'POST';
  /** OpenAPI template. */
  readonly path: string;
  readonly access: RouteAccess;
}

export const restRoutes = {
  liveness: { method: 'GET', path: '/healthz', access: 'public' },
  readiness: { method: 'GET', path: '/readyz', access: 'public' },
  metrics: { method: 'GET', path: '/metrics', access: 'read' },
  openapi: { method: 'GET', path: '/openapi.json', access: 'read' },
  docs: { method: 'GET', path: '/docs', access: 'read' },
  stats: { method: 'GET', path: '/v1/stats', access: 'read' },
  namespaces: { method: 'GET', path: '/v1/namespaces', access: 'read' },
  tenants: { method: 'GET', path: '/v1/tenants', access: 'read' },
  chunks: { method: 'GET', path: '/v1/chunks', access: 'read' },
  chunk: { method: 'GET', path: '/v1/chunks/{id}', access: 'read' },
  lookup: { method: 'POST', path: '/v1/lookup', access: 'read' },
  prefetch: { method: 'POST', path: '/v1/prefetch', access: 'admin' },
  persist: { method: 'POST', path: '/v1/persist', access: 'admin' },
  evict: { method: 'POST', path: '/v1/evict', access: 'admin' },
  invalidate: { method: 'POST', path: '/v1/invalidate', access: 'admin' },
  invalidations: { method: 'GET', path: '/v1/invalidations', access: 'read' },
  bumpEpoch: { method: 'POST', path: '/v1/namespaces/{model}/epoch', access: 'admin' },
  verify: { method: 'POST', path: '/v1/verify', access: 'admin' },
} as const satisfies Readonly<Record<string, RestRoute>>;

export type RouteName = keyof typeof restRoutes;
