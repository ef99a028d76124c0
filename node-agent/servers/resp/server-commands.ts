/** RESP commands about the connection and the server: AUTH, HELLO, CLIENT, INFO and their kin. */
import type { RespCommandName } from '#protocol/resp/command-name.ts';
import { printable } from '#protocol/resp/resp-encoder.ts';
import type { CommandRunner } from './commands.ts';
import type { RespConnection } from './resp-connection.ts';

interface Context {
  readonly connection: RespConnection;
  readonly runner: CommandRunner;
}

/** The protocol level that clients look for in `redis_version`. */
const REDIS_VERSION = '7.0.15';
const text = new TextDecoder();

const configValues: Readonly<Record<string, string>> = {
  save: '',
  appendonly: 'no',
  maxmemory: '0',
  'maxmemory-policy': 'allkeys-lru',
  databases: '1',
  timeout: '0',
  'proto-max-bulk-len': '536870912',
};

export function runServerCommand(name: RespCommandName, args: readonly Uint8Array[], context: Context): Promise<void> | undefined {
  const { out } = context.connection;
  switch (name) {
    case 'PING':
      if (args.length > 1) out.bulk(args[1] as Uint8Array);
      else out.simple('PONG');
      return undefined;
    case 'ECHO':
      out.bulk(args[1] as Uint8Array);
      return undefined;
    case 'SELECT':
      return select(args, context);
    case 'QUIT':
      out.ok();
      context.connection.end();
      return undefined;
    case 'AUTH':
      if (authenticate(args.slice(1), context)) out.ok();
      return undefined;
    case 'HELLO':
      return hello(args, context);
    case 'CLIENT':
      return client(args, context);
    case 'COMMAND':
      if (args.length > 1 && lower(args[1]) === 'count') out.integer(0);
      else out.array(0);
      return undefined;
    case 'CONFIG':
      return config(args, context);
    case 'INFO':
      out.verbatim(info(args, context));
      return undefined;
    case 'DBSIZE':
      out.integer(chunkCount(context.connection));
      return undefined;
    case 'FLUSHDB':
    case 'FLUSHALL':
      return flush(args, context);
    default:
      out.error(`ERR unknown command '${printable(args[0] ?? new Uint8Array(0))}', with args beginning with: `);
      return undefined;
  }
}

function lower(argument: Uint8Array | undefined): string {
  return argument === undefined ? '' : text.decode(argument).toLowerCase();
}

function select(args: readonly Uint8Array[], { connection }: Context): undefined {
  const index = text.decode(args[1]);
  if (!/^-?\d+$/.test(index)) connection.out.error('ERR value is not an integer or out of range');
  else if (Number(index) === 0) connection.out.ok();
  else connection.out.error('ERR DB index is out of range');
  return undefined;
}

/** `[password]` or `[user, password]`. Replies where it fails. Without tokens any password is fine, as LMCache may be set up with one. */
function authenticate(credentials: readonly Uint8Array[], { connection, runner }: Context): boolean {
  const { options } = connection.server;
  const password = credentials.at(-1) ?? new Uint8Array(0);
  const user = credentials.length > 1 ? text.decode(credentials[0]) : '';
  if (user.length > 128) {
    connection.out.error('ERR user name is too long');
    return false;
  }
  if (options.tokensRequired) {
    const credential = options.authenticate(password);
    if (credential === undefined) {
      connection.out.error('WRONGPASS invalid username-password pair or user is disabled.');
      return false;
    }
    runner.role = credential.role;
    connection.identify(user, credential.tenant);
    connection.proof = options.resumption?.proofOf(password) ?? '';
  } else connection.identify(user, undefined);
  return true;
}

/** What the connection can see. */
function chunkCount({ server, tenant }: RespConnection): number {
  const { cache } = server.options;
  return tenant === undefined ? cache.chunkCount : cache.usageOf(tenant).chunkCount;
}

function hello(args: readonly Uint8Array[], context: Context): undefined {
  const { connection, runner } = context;
  const { out } = connection;
  let index = 1;
  let version = out.version;
  if (args.length > 1) {
    const wanted = text.decode(args[1]);
    if (!/^\d+$/.test(wanted)) return fail(out, 'ERR Protocol version is not an integer or out of range');
    if (wanted !== '2' && wanted !== '3') return fail(out, 'NOPROTO unsupported protocol version');
    version = wanted === '2' ? 2 : 3;
    index = 2;
  }
  while (index < args.length) {
    const word = lower(args[index]);
    if (word === 'auth' && index + 2 < args.length) {
      if (!authenticate([args[index + 1] as Uint8Array, args[index + 2] as Uint8Array], context)) return undefined;
      index += 3;
    } else if (word === 'setname' && index + 1 < args.length) {
      if (!setName(args[index + 1] as Uint8Array, connection)) return undefined;
      index += 2;
    } else return fail(out, `ERR Syntax error in HELLO option '${printable(args[index] as Uint8Array)}'`);
  }
  if (runner.role === undefined)
    return fail(
      out,
      'NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time',
    );
  out.version = version;
  out.map(7);
  out.bulkText('server').bulkText('redis').bulkText('version').bulkText(REDIS_VERSION).bulkText('proto').integer(version);
  out.bulkText('id').integer(connection.id).bulkText('mode').bulkText('standalone').bulkText('role').bulkText('master');
  out.bulkText('modules').array(0);
  return undefined;
}

function fail(out: RespConnection['out'], message: string): undefined {
  out.error(message);
  return undefined;
}

function setName(argument: Uint8Array, connection: RespConnection): boolean {
  const valid = argument.length <= 128 && argument.every((byte) => byte > 0x20 && byte < 0x7f);
  if (!valid) {
    connection.out.error('ERR Client names cannot contain spaces, newlines or special characters.');
    return false;
  }
  connection.clientName = text.decode(argument);
  return true;
}

function client(args: readonly Uint8Array[], { connection }: Context): undefined {
  const { out } = connection;
  const word = lower(args[1]);
  if (word === 'setname' && args.length === 3) {
    if (setName(args[2] as Uint8Array, connection)) out.ok();
  } else if (word === 'getname' && args.length === 2) {
    if (connection.clientName === '') out.nullBulk();
    else out.bulkText(connection.clientName);
  } else if (word === 'id' && args.length === 2) out.integer(connection.id);
  else if (word === 'setinfo' && args.length === 4) {
    const attribute = lower(args[2]);
    if (attribute === 'lib-name' || attribute === 'lib-ver') out.ok();
    else out.error(`ERR Unrecognized option '${printable(args[2] as Uint8Array)}'`);
  } else out.error(`ERR unknown subcommand '${printable(args[1] as Uint8Array)}'. Try CLIENT HELP.`);
  return undefined;
}

function config(args: readonly Uint8Array[], { connection }: Context): undefined {
  const { out } = connection;
  if (lower(args[1]) !== 'get' || args.length < 3)
    return fail(out, `ERR unknown subcommand '${printable(args[1] as Uint8Array)}'. Try CONFIG HELP.`);
  const wanted = args.slice(2).map(lower);
  const found = Object.entries(configValues).filter(([name]) => wanted.includes(name) || wanted.includes('*'));
  out.map(found.length);
  for (const [name, value] of found) out.bulkText(name).bulkText(value);
  return undefined;
}

function info(args: readonly Uint8Array[], { connection }: Context): string {
  const { server, tenant } = connection;
  const { options } = server;
  const sections: Record<string, Readonly<Record<string, string | number>>> = {
    Server: { redis_version: REDIS_VERSION, redis_mode: 'standalone', kvtier_version: options.version },
    Clients: { connected_clients: server.connectionCount(tenant), maxclients: options.maxConnections },
    Replication: { role: 'master', connected_slaves: 0 },
    ...(tenant === undefined ? options.info() : tenantSections(connection, tenant)),
    Keyspace: { db0: `keys=${chunkCount(connection)},expires=${tenant === undefined ? options.cache.expiringCount : 0},avg_ttl=0` },
  };
  const wanted = args.slice(1).map(lower);
  const all = wanted.length === 0 || wanted.some((word) => ['all', 'everything', 'default'].includes(word));
  return Object.entries(sections)
    .filter(([name]) => all || wanted.includes(name.toLowerCase()))
    .map(
      ([name, fields]) =>
        `# ${name}\r\n${Object.entries(fields)
          .map(([field, value]) => `${field}:${value}\r\n`)
          .join('')}`,
    )
    .join('\r\n');
}

/** A tenant is told of its own alone; counters are not kept by tenant. */
function tenantSections({ server }: RespConnection, tenant: string): Readonly<Record<string, Readonly<Record<string, string | number>>>> {
  const usage = server.options.cache.usageOf(tenant);
  return { Memory: { used_memory: usage.ramBytes, maxmemory: 0, maxmemory_policy: 'allkeys-lru', ssd_used_bytes: usage.ssdBytes } };
}

function flush(args: readonly Uint8Array[], { connection, runner }: Context): Promise<void> | undefined {
  const { out, server } = connection;
  const mode = lower(args[1]);
  if (args.length > 1 && mode !== 'sync' && mode !== 'async') return fail(out, 'ERR syntax error');
  if (runner.role !== 'admin' && runner.role !== 'tenant') return fail(out, 'NOPERM this token may not flush');
  const { tenant } = connection;
  server.options.logger.info('FLUSH over RESP', {
    client: connection.remoteAddress,
    chunks: chunkCount(connection),
    ...(tenant === undefined ? {} : { tenant }),
  });
  return server.options.cache.flushAll(tenant ?? 'resp', tenant).then(
    () => void out.ok(),
    (problem: unknown) => void out.error(`ERR ${problem instanceof Error ? problem.message : 'flush failed'}`),
  );
}
