/** Who may call: bearer tokens, and the guard of the door that has none. */
import type { Context, MiddlewareHandler } from 'hono';
import { OPEN_CREDENTIAL, type Credential } from '#core/credential.ts';
import { KvtierError } from '#core/errors.ts';
import type { RestRoute } from '#protocol/rest/routes.ts';
import { createAuthenticate } from './credentials.ts';
import type { ApiDeps } from './deps.ts';

export interface Access {
  /**
   * Who calls; for a public route it may be nobody, whom it tells nothing of anybody.
   * Errors: UNAUTHORIZED without a known token, FORBIDDEN where the token does not reach that far.
   */
  require(context: Context, route: Pick<RestRoute, 'access' | 'tenant'>): Credential;
  /** Refuses what a page of another site can make a browser send. Does nothing once a token is configured. */
  readonly guard: MiddlewareHandler;
}

const NOBODY: Credential = { role: 'read', tenant: undefined };

export function createAccess({ tokens, hosts = [] }: Pick<ApiDeps, 'tokens' | 'hosts'>): Access {
  const authenticate = createAuthenticate(tokens);
  const allowedHosts = new Set(hosts.map((host) => hostnameOf(host) ?? host.toLowerCase()));

  const require: Access['require'] = (context, { access, tenant }) => {
    if (authenticate === undefined) return OPEN_CREDENTIAL;
    if (access === 'public') return NOBODY;
    const match = /^bearer +(\S+) *$/i.exec(context.req.header('authorization') ?? '');
    if (match === null) throw new KvtierError('UNAUTHORIZED', 'Cannot serve this without a token: send Authorization: Bearer TOKEN');
    const credential = authenticate(match[1] ?? '');
    if (credential === undefined) throw new KvtierError('UNAUTHORIZED', 'Cannot serve this: the token is not known');
    if (credential.role === 'tenant') {
      if (tenant === 'none') throw new KvtierError('FORBIDDEN', "Cannot do this with a tenant's token: it is about more than one tenant");
    } else if (access === 'admin' && credential.role !== 'admin')
      throw new KvtierError('FORBIDDEN', 'Cannot do this with the read token: wanted the admin token');
    return credential;
  };

  const guard: MiddlewareHandler = async (context, next) => {
    if (authenticate === undefined) refuseForeign(context, allowedHosts);
    await next();
  };
  return { require, guard };
}

/**
 * Without a token the loopback address is the only protection, and a browser on this machine can be made to reach it: by a name
 * that resolves to 127.0.0.1 (DNS rebinding, told by the Host header) or by a request from a foreign page (told by Origin, which
 * browsers send with everything that is not a GET, and by Sec-Fetch-Site).
 */
function refuseForeign(context: Context, allowedHosts: ReadonlySet<string>): void {
  // Whole, see listenHttp.
  const url = new URL(context.req.url);
  const host = context.req.header('host') ?? url.host;
  const hostname = hostnameOf(host);
  if (hostname === undefined || !(isLoopback(hostname) || allowedHosts.has(hostname))) {
    throw new KvtierError('FORBIDDEN', 'Cannot serve this Host header without a token: wanted loopback or the address of the door');
  }
  if (context.req.method === 'GET' || context.req.method === 'HEAD') return;
  const origin = context.req.header('origin');
  if (origin !== undefined && originHost(origin, url.protocol) !== host.toLowerCase()) {
    throw new KvtierError('FORBIDDEN', 'Cannot take a request that another origin sends without a token');
  }
  const site = context.req.header('sec-fetch-site');
  if (site !== undefined && site !== 'same-origin' && site !== 'none') {
    throw new KvtierError('FORBIDDEN', 'Cannot take a request that another site sends without a token');
  }
}

/** Host name of a Host header, lower case, without port; an IPv6 address in brackets. Undefined where it is none. */
function hostnameOf(host: string): string | undefined {
  if (!/^[A-Za-z0-9._-]+(:\d{1,5})?$|^\[[0-9A-Fa-f:.]+\](:\d{1,5})?$/.test(host)) return undefined;
  return URL.parse(`http://${host}/`)?.hostname;
}

function isLoopback(hostname: string): boolean {
  return hostname === 'localhost' || hostname === '[::1]' || /^127\.\d{1,3}\.\d{1,3}\.\d{1,3}$/.test(hostname);
}

/** `host:port` of an origin with the protocol of the door; undefined for `null` and anything else. */
function originHost(origin: string, protocol: string): string | undefined {
  const url = URL.parse(origin);
  return url?.protocol === protocol && url.origin === origin.toLowerCase() ? url.host : undefined;
}
