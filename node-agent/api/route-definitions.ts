/**
 * The routes as zod-openapi wants them: schemas of requests and answers, and prose for people. Method, path and access come from
 * the portable table (protocol/rest/routes.ts), so that the client and the server cannot differ.
 */
import { createRoute, z } from '@hono/zod-openapi';
import * as chunks from '#protocol/rest/chunks.ts';
import { devicesSchema } from '#protocol/rest/devices.ts';
import * as operations from '#protocol/rest/operations.ts';
import { problemSchema, PROBLEM_CONTENT_TYPE } from '#protocol/rest/problem.ts';
import { restRoutes, type RestRoute } from '#protocol/rest/routes.ts';
import * as quotas from '#protocol/rest/quotas.ts';
import * as stats from '#protocol/rest/stats.ts';

const problemAnswer = {
  description: 'A problem: see docs/errors.md for every code',
  content: { [PROBLEM_CONTENT_TYPE]: { schema: problemSchema } },
} as const;

const json = <T extends z.ZodType>(schema: T, description = 'Done') => ({ description, content: { 'application/json': { schema } } });
const text = <M extends string>(mediaType: M, description: string) =>
  ({ description, content: { [mediaType]: { schema: z.string() } } }) as {
    description: string;
    content: Record<M, { schema: z.ZodString }>;
  };
const body = <T extends z.ZodType>(schema: T) => ({ required: true, content: { 'application/json': { schema } } });

/** OpenAPI's security of a route; admin is told in words, since bearer tokens have no scopes there. */
function meta<R extends RestRoute, const T extends string>(route: R, tag: T, summary: string) {
  return {
    method: route.method.toLowerCase() as Lowercase<R['method']>,
    path: route.path as R['path'],
    tags: [tag],
    summary,
    description: route.access === 'public' ? 'No token needed.' : route.access === 'read' ? 'Read or admin token.' : 'Admin token.',
    security: route.access === 'public' ? [] : [{ bearer: [] }],
  };
}

export const definitions = {
  liveness: createRoute({
    ...meta(restRoutes.liveness, 'agent', 'The process answers'),
    responses: { 200: json(stats.livenessSchema, 'Alive'), default: problemAnswer },
  }),
  readiness: createRoute({
    ...meta(restRoutes.readiness, 'agent', 'The agent serves: 200 while ready or degraded, 503 while starting or draining'),
    responses: {
      200: json(stats.healthSchema, 'Ready or degraded'),
      503: json(stats.healthSchema, 'Starting or draining'),
      default: problemAnswer,
    },
  }),
  metrics: createRoute({
    ...meta(restRoutes.metrics, 'agent', 'Metrics for Prometheus'),
    responses: { 200: text('text/plain', 'Prometheus text format'), default: problemAnswer },
  }),
  openapi: createRoute({
    ...meta(restRoutes.openapi, 'agent', 'This document'),
    responses: { 200: json(z.record(z.string(), z.unknown()), 'OpenAPI 3.1'), default: problemAnswer },
  }),
  docs: createRoute({
    ...meta(restRoutes.docs, 'agent', 'This document as a page'),
    responses: { 200: text('text/html', 'A page without scripts or foreign resources'), default: problemAnswer },
  }),
  stats: createRoute({
    ...meta(restRoutes.stats, 'agent', 'Statistics since the start of the process'),
    responses: { 200: json(stats.statsSchema), default: problemAnswer },
  }),
  devices: createRoute({
    ...meta(restRoutes.devices, 'agent', 'GPUs that chunks are kept on, what their pools hold and how their copies go'),
    responses: { 200: json(devicesSchema), default: problemAnswer },
  }),
  namespaces: createRoute({
    ...meta(restRoutes.namespaces, 'chunks', 'Namespaces with their sizes'),
    request: { query: chunks.pageQuerySchema },
    responses: { 200: json(chunks.namespacePageSchema), default: problemAnswer },
  }),
  tenants: createRoute({
    ...meta(restRoutes.tenants, 'chunks', 'Tenants with their sizes and digests'),
    request: { query: chunks.pageQuerySchema },
    responses: { 200: json(chunks.tenantPageSchema), default: problemAnswer },
  }),
  quota: createRoute({
    ...meta(restRoutes.quota, 'tenants', 'A tenant with what it holds and may hold; 404 where it holds nothing and has no quota'),
    request: { params: quotas.tenantParamsSchema },
    responses: { 200: json(chunks.tenantSchema), default: problemAnswer },
  }),
  setQuota: createRoute({
    ...meta(restRoutes.setQuota, 'tenants', 'Set what a tenant may hold; durable once it is answered, and what is beyond goes after that'),
    request: { params: quotas.tenantParamsSchema, body: body(quotas.quotaRequestSchema) },
    responses: { 200: json(chunks.tenantSchema), default: problemAnswer },
  }),
  removeQuota: createRoute({
    ...meta(restRoutes.removeQuota, 'tenants', 'Take a quota away; 404 where there is none'),
    request: { params: quotas.tenantParamsSchema },
    responses: { 200: json(chunks.tenantSchema), default: problemAnswer },
  }),
  chunks: createRoute({
    ...meta(restRoutes.chunks, 'chunks', 'Chunks that match every filter given'),
    request: { query: chunks.chunkQuerySchema },
    responses: { 200: json(chunks.chunkPageSchema), default: problemAnswer },
  }),
  chunk: createRoute({
    ...meta(restRoutes.chunk, 'chunks', 'One chunk'),
    request: { params: chunks.chunkParamsSchema },
    responses: { 200: json(chunks.chunkSchema), default: problemAnswer },
  }),
  lookup: createRoute({
    ...meta(restRoutes.lookup, 'chunks', 'Where the bytes of whole keys are, in prefix order; takes no lease and counts nothing'),
    request: { body: body(chunks.keysRequestSchema) },
    responses: { 200: json(chunks.lookupResponseSchema), default: problemAnswer },
  }),
  prefetch: createRoute({
    ...meta(restRoutes.prefetch, 'chunks', 'Bring chunks into RAM or HBM; answers when they are there'),
    request: { body: body(chunks.prefetchRequestSchema) },
    responses: { 200: json(chunks.prefetchResponseSchema), default: problemAnswer },
  }),
  persist: createRoute({
    ...meta(restRoutes.persist, 'chunks', 'Write matching chunks to SSD now; answers when they are durable'),
    request: { body: body(operations.persistRequestSchema) },
    responses: { 200: json(operations.persistResponseSchema), default: problemAnswer },
  }),
  evict: createRoute({
    ...meta(restRoutes.evict, 'chunks', 'Free a tier of matching chunks without forgetting those that a lower tier takes'),
    request: { body: body(operations.evictRequestSchema) },
    responses: { 200: json(operations.evictResponseSchema), default: problemAnswer },
  }),
  pin: createRoute({
    ...meta(
      restRoutes.pin,
      'chunks',
      'Keep matching chunks: soft, evicted last, or hard, never evicted for space; durable once it is answered',
    ),
    request: { body: body(operations.pinRequestSchema) },
    responses: { 200: json(operations.pinResponseSchema), default: problemAnswer },
  }),
  unpin: createRoute({
    ...meta(restRoutes.unpin, 'chunks', 'End the pins of matching chunks'),
    request: { body: body(operations.unpinRequestSchema) },
    responses: { 200: json(operations.unpinResponseSchema), default: problemAnswer },
  }),
  invalidate: createRoute({
    ...meta(restRoutes.invalidate, 'invalidation', 'Never serve matching chunks again; final once it is answered'),
    request: { body: body(operations.invalidateRequestSchema) },
    responses: { 200: json(operations.invalidateResponseSchema), default: problemAnswer },
  }),
  invalidations: createRoute({
    ...meta(restRoutes.invalidations, 'invalidation', 'The audit log, newest first'),
    request: { query: chunks.pageQuerySchema },
    responses: { 200: json(operations.invalidationPageSchema), default: problemAnswer },
  }),
  bumpEpoch: createRoute({
    ...meta(
      restRoutes.bumpEpoch,
      'invalidation',
      'New weights, engine, dtype or layout under the same model name: invalidates what was stored before',
    ),
    request: { params: operations.epochParamsSchema, body: body(operations.epochRequestSchema) },
    responses: { 200: json(operations.epochResponseSchema), default: problemAnswer },
  }),
  verify: createRoute({
    ...meta(restRoutes.verify, 'chunks', 'Read every SSD file and compare checksums; streams progress'),
    request: { body: body(operations.emptyRequestSchema) },
    responses: {
      200: {
        description: 'One VerifyLine a line, the last with done or a problem',
        content: { 'application/x-ndjson': { schema: operations.verifyLineSchema } },
      },
      default: problemAnswer,
    },
  }),
} as const;
