/**
 * Who may do what, as a table: every route and every command, with what each caller gets of an object that a tenant stored. The
 * conformance test tries each cell on the real agent, docs/security.md prints the table. A route or command without a row does not
 * compile.
 */
import type { OperationName } from '#protocol/native/native-schema.ts';
import type { RespCommandName } from '#protocol/resp/command-name.ts';
import { restRoutes, type RouteName } from '#protocol/rest/routes.ts';

export const callers = ['none', 'wrong', 'read', 'admin', 'own', 'other'] as const;
/** `own` and `other`: the token of the tenant whose object it is, and that of another. */
export type Caller = (typeof callers)[number];

/** `-` refused, `x` the answer tells of the object or the object is changed, `.` answered as if the object did not exist. */
export type Cell = '-' | 'x' | '.';

/** One cell a caller, in the order of `callers`. */
type Cells = `${Cell}${Cell}${Cell}${Cell}${Cell}${Cell}`;

export interface RouteRow {
  readonly cells: Cells;
  /** Body of the request; `key` is the object's, `tenant` its owner's name with @. */
  readonly body?: (key: string, tenant: string) => unknown;
  /** What the admin, or the owner, does before the object is asked for, so that there is something to be told. */
  readonly prepare?: 'pin' | 'quota' | 'persist' | 'invalidate';
}

const selected = (key: string): unknown => ({ selector: { keys: [key] } });
const keyed = (key: string, tenant: string): unknown => ({ keys: [key], tenant });

export const routeRows: Readonly<Record<RouteName, RouteRow>> = {
  liveness: { cells: '......' },
  readiness: { cells: '......' },
  metrics: { cells: '--xx--' },
  openapi: { cells: '--....' },
  docs: { cells: '--....' },
  stats: { cells: '--xxx.' },
  devices: { cells: '--..--' },
  namespaces: { cells: '--xxx.' },
  tenants: { cells: '--xxx.' },
  quota: { cells: '--xxx.' },
  setQuota: { cells: '---x--', body: () => ({ ramBytes: 1_000_000 }) },
  removeQuota: { cells: '---x--', body: () => ({}), prepare: 'quota' },
  chunks: { cells: '--xxx.' },
  chunk: { cells: '--xxx.' },
  lookup: { cells: '--xxx.', body: keyed },
  prefetch: { cells: '---xx.', body: keyed },
  persist: { cells: '---xx.', body: selected },
  evict: { cells: '---xx.', body: (key) => ({ tier: 'ram', selector: { keys: [key] } }) },
  pin: { cells: '---x--', body: (key) => ({ mode: 'soft', selector: { keys: [key] } }) },
  unpin: { cells: '---x--', body: selected, prepare: 'pin' },
  invalidate: { cells: '---xx.', body: selected },
  invalidations: { cells: '--xxx.', prepare: 'invalidate' },
  bumpEpoch: { cells: '---x--', body: () => ({}) },
  verify: { cells: '---x--', body: () => ({}), prepare: 'persist' },
};

export interface CommandRow {
  readonly cells: Cells;
  /** Words behind the name; `token` is the caller's own. */
  readonly args?: (key: string, token: string) => readonly string[];
}

const one = (key: string): readonly string[] => [key];
const read = { cells: '--..x.', args: one } as const;
const list = '--xxx.';
const neutral = '--....';

/** The keys of a connection without a tenant's token are others than any tenant's, also where they are spelled alike. */
export const commandRows: Readonly<Record<RespCommandName, CommandRow>> = {
  GET: read,
  MGET: read,
  EXISTS: read,
  STRLEN: read,
  TYPE: read,
  TOUCH: read,
  TTL: read,
  PTTL: read,
  EXPIRETIME: read,
  PEXPIRETIME: read,
  SET: { cells: '---.x.', args: (key) => [key, 'changed'] },
  MSET: { cells: '---.x.', args: (key) => [key, 'changed'] },
  SETEX: { cells: '---.x.', args: (key) => [key, '1000', 'changed'] },
  PSETEX: { cells: '---.x.', args: (key) => [key, '1000000', 'changed'] },
  DEL: { cells: '---.x.', args: one },
  UNLINK: { cells: '---.x.', args: one },
  EXPIRE: { cells: '---.x.', args: (key) => [key, '1000'] },
  PEXPIRE: { cells: '---.x.', args: (key) => [key, '1000000'] },
  EXPIREAT: { cells: '---.x.', args: (key) => [key, '4000000000'] },
  PEXPIREAT: { cells: '---.x.', args: (key) => [key, '4000000000000'] },
  PERSIST: { cells: '---.x.', args: one },
  SCAN: { cells: list, args: () => ['0', 'COUNT', '1000'] },
  KEYS: { cells: list, args: () => ['*'] },
  DBSIZE: { cells: list },
  INFO: { cells: list },
  FLUSHDB: { cells: '---xx.' },
  FLUSHALL: { cells: '---xx.' },
  PING: { cells: neutral },
  ECHO: { cells: neutral, args: () => ['x'] },
  SELECT: { cells: neutral, args: () => ['0'] },
  CLIENT: { cells: neutral, args: () => ['GETNAME'] },
  COMMAND: { cells: neutral },
  CONFIG: { cells: neutral, args: () => ['GET', '*'] },
  AUTH: { cells: neutral, args: (_key, token) => [token] },
  HELLO: { cells: neutral },
  QUIT: { cells: '......' },
};

/**
 * The native door, where tenants have tokens. As over RESP, a caller without a tenant's token names other chunks than any tenant, also
 * where they are spelled alike; OPEN, CONTINUE and EVENT are nobody's to ask.
 */
export const operationRows: Readonly<Record<OperationName, Cells>> = {
  HELLO: neutral,
  PING: neutral,
  NAMESPACE: neutral,
  ATTACH: neutral,
  DETACH: neutral,
  LOOKUP: read.cells,
  LOAD: read.cells,
  STORE: '---.x.',
  LET_GO: read.cells,
  OPEN: '------',
  RELEASE: neutral,
  RESERVE: '---...',
  COMMIT: '---.x.',
  ABORT: '---...',
  TOUCH: read.cells,
  PREFETCH: '---.x.',
  PIN: '---.--',
  INVALIDATE: '---xx.',
  EVENTS: list,
  STATS: list,
  CONTINUE: '------',
  EVENT: '------',
};

const shown: Readonly<Record<Cell, string>> = { '-': '-', x: 'yes', '.': 'blind' };

function line(name: string, cells: string): string {
  return `| ${name} | ${[...cells].map((cell) => shown[cell as Cell]).join(' | ')} |`;
}

/** The table of docs/security.md. */
export function matrixPage(): string {
  const head = (what: string): string =>
    `| ${what} | no token | wrong token | read token | admin token | tenant, own object | tenant, another's |\n|---|---|---|---|---|---|---|`;
  const routes = Object.entries(routeRows).map(([name, { cells }]) => {
    const { method, path } = restRoutes[name as RouteName];
    return line(`\`${method} ${path}\``, cells);
  });
  const commands = Object.entries(commandRows).map(([name, { cells }]) => line(`\`${name}\``, cells));
  const operations = Object.entries(operationRows).map(([name, cells]) => line(`\`${name}\``, cells));
  return [head('route'), ...routes, '', head('command'), ...commands, '', head('native operation'), ...operations].join('\n');
}
