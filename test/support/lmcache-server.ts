/**
 * LMCache's multi-process server, `lmcache server`, as PyPI serves it, in front of a RESP server.
 *
 * Its L1 is gone with its process, so after a start everything that it finds is its L2's.
 */
import { rmSync } from 'node:fs';
import { answersGet, eventually, startEngineProcess } from '#testsupport/engine-process.ts';
import { freePort } from '#testsupport/free-port.ts';
import type { EngineEnvironment } from '#testsupport/engine-environment.ts';

export interface LmcacheServerStart {
  readonly environment: EngineEnvironment;
  readonly logPath: string;
  readonly resp: { readonly host: string; readonly port: number };
  /** Kept across restarts, so that the engine finds the next one; a free port without it. */
  readonly rpcPort?: number;
}

/** One lookup that found something, as its log tells it. */
export interface LmcacheLookup {
  readonly l1Chunks: number;
  readonly l2Chunks: number;
}

export interface RunningLmcacheServer {
  readonly rpcPort: number;
  /** Every lookup so far that found something. */
  lookups(): readonly LmcacheLookup[];
  /** Resolves when everything in L1 was stored in L2, or given up. */
  storesDone(): Promise<void>;
  log(): string;
  /** SIGKILL: it may wait for ever for sockets whose peer is gone. */
  kill9(): Promise<void>;
}

const START_PATIENCE_MS = 120_000;
let started = 0;

export async function startLmcacheServer({ environment, logPath, resp, rpcPort }: LmcacheServerStart): Promise<RunningLmcacheServer> {
  const port = rpcPort ?? (await freePort());
  const httpPort = await freePort();
  started += 1;
  const shmName = `kvtier-${process.pid}-${started}`;
  const server = startEngineProcess({
    logPath,
    argv: [
      environment.program('lmcache'),
      'server',
      ...['--host', '127.0.0.1', '--port', String(port), '--http-host', '127.0.0.1', '--http-port', String(httpPort)],
      ...['--l1-size-gb', '1', '--l1-init-size-gb', '1', '--chunk-size', '256', '--eviction-policy', 'LRU'],
      // No GPU: the engine copies into and out of L1, which is shared memory of this name.
      ...['--supported-transfer-mode', 'engine_driven', '--shm-name', shmName, '--disable-observability'],
      ...['--l2-adapter', JSON.stringify({ type: 'resp', host: resp.host, port: resp.port })],
    ],
    variables: environment.variables,
  });
  const kill9 = async (): Promise<void> => {
    await server.kill9();
    rmSync(`/dev/shm/lmcache_l1_pool_${shmName}`, { force: true });
  };
  const url = `http://127.0.0.1:${httpPort}`;
  try {
    await eventually('a healthy lmcache server', START_PATIENCE_MS, async () => {
      if (!server.alive()) throw new Error('lmcache server ended');
      return (await answersGet(`${url}/healthcheck`)) || undefined;
    });
  } catch (error) {
    await kill9();
    throw new Error(`lmcache server does not start; the end of ${logPath}:\n${server.log().slice(-3_000)}`, { cause: error });
  }
  return {
    rpcPort: port,
    lookups: () =>
      [...server.log().matchAll(/Prefetch request completed.*?\((\d+) L1, (\d+) L2\)/g)].map((found) => ({
        l1Chunks: Number(found[1]),
        l2Chunks: Number(found[2]),
      })),
    async storesDone() {
      // Twice in a row: for a moment a key is neither pending nor in flight.
      let quiet = 0;
      await eventually('the end of all stores in L2', 120_000, async () => {
        const answer = await fetch(`${url}/status`);
        const { storage_manager } = (await answer.json()) as { storage_manager: { store_controllers: unknown } };
        const left = sumOf(storage_manager.store_controllers, ['pending_keys_count', 'in_flight_task_count']);
        quiet = left === 0 ? quiet + 1 : 0;
        return quiet >= 2 || undefined;
      });
    },
    log: server.log,
    kill9,
  };
}

/** Adds up the numbers of these names in a JSON tree; throws where there is none, so that a rename is seen. */
function sumOf(tree: unknown, names: readonly string[]): number {
  const found: number[] = [];
  const walk = (node: unknown): void => {
    if (typeof node !== 'object' || node === null) return;
    for (const [name, value] of Object.entries(node)) {
      if (typeof value === 'number' && names.includes(name)) found.push(value);
      else walk(value);
    }
  };
  walk(tree);
  if (found.length === 0) throw new Error(`lmcache's status has no ${names.join(', ')}: ${JSON.stringify(tree).slice(0, 300)}`);
  return found.reduce((sum, value) => sum + value, 0);
}
