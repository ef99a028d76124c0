/**
 * Every route of the REST door, once. The server binds a handler to each, the client has a method for each, and tests walk the
 * table: a route that is missing on either side fails.
 */
/** Who may call: 'public' needs no token, 'read' either token, 'admin' the admin token. */
export type RouteAccess = 'public' | 'read' | 'admin';

/**
 * What a tenant token gets, whatever `access` says: 'own' the route narrowed to the tenant's chunks, 'all' the same answer as
 * everybody (it tells nothing of chunks), 'none' a refusal.
 */
export type TenantAccess = 'own' | 'all' | 'none';

export interface RestRoute {
  readonly method: 'GET' | 'POST' | 'PUT' | 'DELETE';
  /** OpenAPI template. */
  readonly path: string;
  readonly access: RouteAccess;
  readonly tenant: TenantAccess;
}

export const restRoutes = {
  liveness: { method: 'GET', path: '/healthz', access: 'public', tenant: 'all' },
  readiness: { method: 'GET', path: '/readyz', access: 'public', tenant: 'all' },
  metrics: { method: 'GET', path: '/metrics', access: 'read', tenant: 'none' },
  openapi: { method: 'GET', path: '/openapi.json', access: 'read', tenant: 'all' },
  docs: { method: 'GET', path: '/docs', access: 'read', tenant: 'all' },
  stats: { method: 'GET', path: '/v1/stats', access: 'read', tenant: 'own' },
  devices: { method: 'GET', path: '/v1/devices', access: 'read', tenant: 'none' },
  namespaces: { method: 'GET', path: '/v1/namespaces', access: 'read', tenant: 'own' },
  tenants: { method: 'GET', path: '/v1/tenants', access: 'read', tenant: 'own' },
  quota: { method: 'GET', path: '/v1/tenants/{tenant}/quota', access: 'read', tenant: 'own' },
  setQuota: { method: 'PUT', path: '/v1/tenants/{tenant}/quota', access: 'admin', tenant: 'none' },
  removeQuota: { method: 'DELETE', path: '/v1/tenants/{tenant}/quota', access: 'admin', tenant: 'none' },
  chunks: { method: 'GET', path: '/v1/chunks', access: 'read', tenant: 'own' },
  chunk: { method: 'GET', path: '/v1/chunks/{id}', access: 'read', tenant: 'own' },
  lookup: { method: 'POST', path: '/v1/lookup', access: 'read', tenant: 'own' },
  prefetch: { method: 'POST', path: '/v1/prefetch', access: 'admin', tenant: 'own' },
  persist: { method: 'POST', path: '/v1/persist', access: 'admin', tenant: 'own' },
  evict: { method: 'POST', path: '/v1/evict', access: 'admin', tenant: 'own' },
  pin: { method: 'POST', path: '/v1/pin', access: 'admin', tenant: 'none' },
  unpin: { method: 'POST', path: '/v1/unpin', access: 'admin', tenant: 'none' },
  invalidate: { method: 'POST', path: '/v1/invalidate', access: 'admin', tenant: 'own' },
  invalidations: { method: 'GET', path: '/v1/invalidations', access: 'read', tenant: 'own' },
  bumpEpoch: { method: 'POST', path: '/v1/namespaces/{model}/epoch', access: 'admin', tenant: 'none' },
  verify: { method: 'POST', path: '/v1/verify', access: 'admin', tenant: 'none' },
} as const satisfies Readonly<Record<string, RestRoute>>;

export type RouteName = keyof typeof restRoutes;
