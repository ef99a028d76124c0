/** The typed client of the REST API: one method for each route of protocol/rest/routes.ts. Needs nothing but fetch. */
import { z } from 'zod';
import { badRequest, KvtierError } from '#core/errors.ts';
import * as chunks from '#protocol/rest/chunks.ts';
import { devicesSchema, type Devices } from '#protocol/rest/devices.ts';
import * as operations from '#protocol/rest/operations.ts';
import type { QuotaRequest } from '#protocol/rest/quotas.ts';
import { restRoutes, type RestRoute } from '#protocol/rest/routes.ts';
import * as stats from '#protocol/rest/stats.ts';
import type { WireSelector } from '#protocol/rest/selector.ts';
import { errorOfResponse } from './error-of-response.ts';
import { parseNdjson } from './ndjson.ts';

export type FetchLike = (url: string, init: RequestInit) => Promise<Response>;

export interface KvtierClientOptions {
  /** `http://127.0.0.1:7600`; a path prefix is kept. */
  readonly baseUrl: string;
  readonly token?: string | undefined;
  /** Default: the host's fetch. */
  readonly fetch?: FetchLike;
  /** Bound on answers that need no I/O of the agent; default 30 s. */
  readonly timeoutMs?: number;
  /** Bound on prefetch, persist, evict, pins, invalidate and epochs; default 10 min. Verify has none: its lines are its pulse. */
  readonly longTimeoutMs?: number;
}

export interface CallOptions {
  readonly signal?: AbortSignal;
}

interface Call extends CallOptions {
  readonly params?: Readonly<Record<string, string>>;
  readonly query?: Readonly<Record<string, string | number | undefined>>;
  readonly body?: unknown;
  readonly timeoutMs?: number | undefined;
  /** Statuses that are an answer although they are no success. */
  readonly accept?: readonly number[];
}

/**
 * Errors of every method: KvtierError with the code of the server's problem; IO_FAILED where the agent cannot be reached, did not
 * answer in time, or answered something that is not the API.
 */
export class KvtierClient {
  readonly baseUrl: string;
  readonly #token: string | undefined;
  readonly #fetch: FetchLike;
  readonly #timeoutMs: number;
  readonly #longTimeoutMs: number;

  constructor(options: KvtierClientOptions) {
    this.baseUrl = options.baseUrl.replace(/\/+$/, '');
    this.#token = options.token;
    this.#fetch = options.fetch ?? ((url, init) => fetch(url, init));
    this.#timeoutMs = options.timeoutMs ?? 30_000;
    this.#longTimeoutMs = options.longTimeoutMs ?? 600_000;
  }

  liveness(options: CallOptions = {}): Promise<stats.Liveness> {
    return this.#json(restRoutes.liveness, stats.livenessSchema, options);
  }

  /** Also while the agent is starting or draining: that state is the answer, not an error. */
  readiness(options: CallOptions = {}): Promise<stats.Health> {
    return this.#json(restRoutes.readiness, stats.healthSchema, { ...options, accept: [503] });
  }

  /** The Prometheus text. */
  async metrics(options: CallOptions = {}): Promise<string> {
    return await this.#text(restRoutes.metrics, options);
  }

  async openapi(options: CallOptions = {}): Promise<Readonly<Record<string, unknown>>> {
    return await this.#json(restRoutes.openapi, z.record(z.string(), z.unknown()), options);
  }

  /** The HTML page. */
  async docs(options: CallOptions = {}): Promise<string> {
    return await this.#text(restRoutes.docs, options);
  }

  stats(options: CallOptions = {}): Promise<stats.Stats> {
    return this.#json(restRoutes.stats, stats.statsSchema, options);
  }

  devices(options: CallOptions = {}): Promise<Devices> {
    return this.#json(restRoutes.devices, devicesSchema, options);
  }

  namespaces(query: chunks.PageQuery = {}, options: CallOptions = {}): Promise<chunks.NamespacePage> {
    return this.#json(restRoutes.namespaces, chunks.namespacePageSchema, { ...options, query: { ...query } });
  }

  tenants(query: chunks.PageQuery = {}, options: CallOptions = {}): Promise<chunks.TenantPage> {
    return this.#json(restRoutes.tenants, chunks.tenantPageSchema, { ...options, query: { ...query } });
  }

  chunks(query: chunks.ChunkQuery = {}, options: CallOptions = {}): Promise<chunks.ChunkPage> {
    return this.#json(restRoutes.chunks, chunks.chunkPageSchema, { ...options, query: { ...query } });
  }

  /** Errors: NOT_FOUND where the id is stale. */
  chunk(id: string, options: CallOptions = {}): Promise<chunks.Chunk> {
    return this.#json(restRoutes.chunk, chunks.chunkSchema, { ...options, params: { id } });
  }

  lookup(keys: readonly string[], options: CallOptions = {}): Promise<chunks.LookupResponse> {
    return this.#json(restRoutes.lookup, chunks.lookupResponseSchema, { ...options, body: { keys } });
  }

  /** Into RAM, or HBM where that is said. */
  prefetch(
    keys: readonly string[],
    { tier, ...options }: CallOptions & { readonly tier?: 'ram' | 'hbm' } = {},
  ): Promise<chunks.PrefetchResponse> {
    return this.#json(restRoutes.prefetch, chunks.prefetchResponseSchema, this.#long({ ...options, body: { keys, tier } }));
  }

  persist(selector: WireSelector, options: CallOptions = {}): Promise<operations.PersistResponse> {
    return this.#json(restRoutes.persist, operations.persistResponseSchema, this.#long({ ...options, body: { selector } }));
  }

  evict(request: operations.EvictRequest, options: CallOptions = {}): Promise<operations.EvictResponse> {
    return this.#json(restRoutes.evict, operations.evictResponseSchema, this.#long({ ...options, body: request }));
  }

  /** Durable once it resolves. */
  pin(request: operations.PinRequest, options: CallOptions = {}): Promise<operations.PinResponse> {
    return this.#json(restRoutes.pin, operations.pinResponseSchema, this.#long({ ...options, body: request }));
  }

  unpin(selector: WireSelector, options: CallOptions = {}): Promise<operations.UnpinResponse> {
    return this.#json(restRoutes.unpin, operations.unpinResponseSchema, this.#long({ ...options, body: { selector } }));
  }

  /** Errors: NOT_FOUND where the tenant has neither chunks nor a quota. */
  quota(tenant: string, options: CallOptions = {}): Promise<chunks.Tenant> {
    return this.#json(restRoutes.quota, chunks.tenantSchema, { ...options, params: { tenant } });
  }

  /** Replaces the whole quota; durable once it resolves. */
  setQuota(tenant: string, request: QuotaRequest, options: CallOptions = {}): Promise<chunks.Tenant> {
    return this.#json(restRoutes.setQuota, chunks.tenantSchema, { ...options, params: { tenant }, body: request });
  }

  /** Errors: NOT_FOUND where the tenant has none. */
  removeQuota(tenant: string, options: CallOptions = {}): Promise<chunks.Tenant> {
    return this.#json(restRoutes.removeQuota, chunks.tenantSchema, { ...options, params: { tenant } });
  }

  invalidate(request: operations.InvalidateRequest, options: CallOptions = {}): Promise<operations.InvalidateResponse> {
    return this.#json(restRoutes.invalidate, operations.invalidateResponseSchema, this.#long({ ...options, body: request }));
  }

  /** The audit log, newest first. */
  invalidations(query: chunks.PageQuery = {}, options: CallOptions = {}): Promise<operations.InvalidationPage> {
    return this.#json(restRoutes.invalidations, operations.invalidationPageSchema, { ...options, query: { ...query } });
  }

  bumpEpoch(model: string, request: operations.EpochRequest = {}, options: CallOptions = {}): Promise<operations.EpochResponse> {
    return this.#json(restRoutes.bumpEpoch, operations.epochResponseSchema, this.#long({ ...options, params: { model }, body: request }));
  }

  /**
   * Yields progress until `done`. Errors: also IO_FAILED where the stream ends before. Stopping early stops the agent's reading.
   */
  async *verify(options: CallOptions = {}): AsyncGenerator<operations.VerifyProgress, void, undefined> {
    const response = await this.#send(restRoutes.verify, { ...options, body: {}, timeoutMs: Number.POSITIVE_INFINITY });
    if (response.body === null) throw notTheApi(restRoutes.verify, 'no body');
    let done = false;
    for await (const value of parseNdjson(response.body)) {
      const line = operations.verifyLineSchema.safeParse(value);
      if (!line.success) throw notTheApi(restRoutes.verify, 'an unknown line', line.error);
      if ('problem' in line.data) throw new KvtierError(line.data.problem.code, line.data.problem.detail);
      done = line.data.done;
      yield line.data;
    }
    if (!done) throw new KvtierError('IO_FAILED', 'Cannot finish verify: the stream ended before the last file');
  }

  #long(call: Call): Call {
    return { ...call, timeoutMs: this.#longTimeoutMs };
  }

  async #json<T>(route: RestRoute, schema: z.ZodType<T>, call: Call): Promise<T> {
    const response = await this.#send(route, call);
    const text = await readText(route, response);
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (cause) {
      throw notTheApi(route, `${text.length} characters that are not JSON`, cause);
    }
    const parsed = schema.safeParse(value);
    if (!parsed.success) throw notTheApi(route, 'another shape', parsed.error);
    return parsed.data;
  }

  async #text(route: RestRoute, call: Call): Promise<string> {
    return await readText(route, await this.#send(route, call));
  }

  async #send(route: RestRoute, call: Call): Promise<Response> {
    const headers = new Headers({ accept: 'application/json, */*' });
    if (this.#token !== undefined) headers.set('authorization', `Bearer ${this.#token}`);
    // A redirect is no part of the API: not followed, so that the token goes to nobody else.
    const init: RequestInit = { method: route.method, headers, redirect: 'manual' };
    if (call.body !== undefined) {
      headers.set('content-type', 'application/json');
      init.body = JSON.stringify(call.body);
    }
    const signal = joinSignals(call.signal, call.timeoutMs ?? this.#timeoutMs);
    if (signal !== undefined) init.signal = signal;
    const response = await this.#fetchOrFail(route, this.baseUrl + fillPath(route.path, call), init);
    if (response.ok || call.accept?.includes(response.status) === true) return response;
    throw await errorOfResponse(`${route.method} ${route.path}`, response);
  }

  async #fetchOrFail(route: RestRoute, url: string, init: RequestInit): Promise<Response> {
    try {
      return await this.#fetch(url, init);
    } catch (cause) {
      const why = cause instanceof Error ? cause.message : String(cause);
      throw new KvtierError('IO_FAILED', `Cannot ${route.method} ${route.path} at ${this.baseUrl}: ${why}`, { cause });
    }
  }
}

/** `/v1/chunks/{id}` with its parameters percent-encoded and the query behind. Errors: BAD_REQUEST for what no path can carry. */
function fillPath(template: string, call: Call): string {
  const path = template.replace(/\{(\w+)\}/g, (_, name: string) => encodeSegment(name, call.params?.[name] ?? ''));
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(call.query ?? {})) if (value !== undefined) query.set(name, String(value));
  return query.size === 0 ? path : `${path}?${query}`;
}

/** URL parsers drop '.' and '..', percent-encoded too, and an empty segment names another route. */
function encodeSegment(name: string, value: string): string {
  if (value === '' || value === '.' || value === '..' || !value.isWellFormed()) {
    throw badRequest(`Cannot send ${name} ${JSON.stringify(value)} in a path: wanted well-formed text other than '', '.' and '..'`);
  }
  return encodeURIComponent(value);
}

function joinSignals(signal: AbortSignal | undefined, timeoutMs: number): AbortSignal | undefined {
  if (!Number.isFinite(timeoutMs)) return signal;
  const timeout = AbortSignal.timeout(timeoutMs);
  return signal === undefined ? timeout : AbortSignal.any([signal, timeout]);
}

async function readText(route: RestRoute, response: Response): Promise<string> {
  try {
    return await response.text();
  } catch (cause) {
    throw new KvtierError('IO_FAILED', `Cannot read the answer of ${route.method} ${route.path}: it broke before its end`, { cause });
  }
}

function notTheApi(route: RestRoute, what: string, cause?: unknown): KvtierError {
  return new KvtierError('IO_FAILED', `Cannot read the answer of ${route.method} ${route.path}: it is ${what}; is this a kvtier agent?`, {
    cause,
  });
}
