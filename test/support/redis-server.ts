/** Starts the reference: a redis-server of the machine, on a loopback port. */
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { freePort } from './free-port.ts';

export interface RedisServer {
  readonly host: string;
  readonly port: number;
  readonly version: string;
  /** SIGKILL. Removes the folder if it was the server's own. */
  stop(): Promise<void>;
}

export interface RedisServerStart {
  /** Kept across restarts, with an append-only file in it; without it the server has a folder of its own and no persistence. */
  readonly folder?: string;
  readonly port?: number;
}

/** `7.0.15`; undefined where redis-server is not installed, so that a suite can skip and say why. */
export function redisServerVersion(): string | undefined {
  const result = spawnSync('redis-server', ['--version'], { encoding: 'utf8' });
  return result.status === 0 ? /v=([\d.]+)/.exec(result.stdout)?.[1] : undefined;
}

export function hasRedisCli(): boolean {
  return spawnSync('redis-cli', ['--version']).status === 0;
}

export const NO_REDIS_SERVER = 'redis-server is not installed';

/** Resolves when it accepts connections; throws with its log where it does not start. */
export async function startRedisServer(options: RedisServerStart = {}): Promise<RedisServer> {
  const version = redisServerVersion();
  if (version === undefined) throw new Error(NO_REDIS_SERVER);
  const folder = options.folder ?? mkdtempSync(join(tmpdir(), 'kvtier-redis-'));
  const port = options.port ?? (await freePort());
  const appendOnly = options.folder === undefined ? 'no' : 'yes';
  const args = [
    '--port',
    String(port),
    '--bind',
    '127.0.0.1',
    '--save',
    '',
    '--appendonly',
    appendOnly,
    '--dir',
    folder,
    '--daemonize',
    'no',
  ];
  const child = spawn('redis-server', args, { stdio: ['ignore', 'pipe', 'pipe'] });
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  let log = '';
  await new Promise<void>((resolve, reject) => {
    const read = (data: Buffer): void => {
      log += data.toString('utf8');
      if (log.includes('Ready to accept connections')) resolve();
    };
    child.stdout.on('data', read);
    child.stderr.on('data', read);
    child.once('error', reject);
    child.once('exit', () => reject(new Error(`redis-server did not start:\n${log}`)));
  });
  return {
    host: '127.0.0.1',
    port,
    version,
    async stop() {
      child.kill('SIGKILL');
      await exited;
      if (options.folder === undefined) rmSync(folder, { recursive: true, force: true });
    },
  };
}
