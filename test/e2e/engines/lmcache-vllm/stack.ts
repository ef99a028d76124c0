/** vLLM, `lmcache server` in front of it, and the peer behind that: started in this order from behind, and killed one by one. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { EngineEnvironment } from '#testsupport/engine-environment.ts';
import { eventually } from '#testsupport/engine-process.ts';
import { startLmcacheServer } from '#testsupport/lmcache-server.ts';
import type { RunningLmcacheServer } from '#testsupport/lmcache-server.ts';
import { startVllm } from '#testsupport/vllm.ts';
import type { RunningVllm } from '#testsupport/vllm.ts';
import type { Peer, StartPeer } from './peers.ts';

/**
 * How often LMCache's connector asks whether its server lives, and how long it waits for the answer: 10 s by default. A request that comes
 * before it has noticed blocks the engine for `lmcache.mp.mq_timeout`, 300 s, and then ends it.
 */
const HEARTBEAT_SECONDS = 2;
/** The scheduler's and the worker's. */
const HEARTBEATS = 2;

/** Everything but the engine, which it outlives, or is replaced under. */
export class Stack<P extends Peer = Peer> {
  readonly #environment: EngineEnvironment;
  readonly #folder: string;
  readonly #startPeer: StartPeer<P>;
  #starts = 0;
  #peer: P | undefined;
  #lmcache: RunningLmcacheServer | undefined;

  constructor(environment: EngineEnvironment, folder: string, startPeer: StartPeer<P>) {
    this.#environment = environment;
    this.#folder = folder;
    this.#startPeer = startPeer;
    mkdirSync(join(folder, 'data'), { recursive: true });
  }

  get peer(): P {
    if (this.#peer === undefined) throw new Error('The peer is not there');
    return this.#peer;
  }

  get lmcache(): RunningLmcacheServer {
    if (this.#lmcache === undefined) throw new Error('lmcache server is not there');
    return this.#lmcache;
  }

  async startPeer(): Promise<void> {
    this.#peer = await this.#startPeer(join(this.#folder, 'data'), this.#peer?.port);
  }

  async startLmcache(rpcPort = this.#lmcache?.rpcPort): Promise<void> {
    this.#starts += 1;
    this.#lmcache = await startLmcacheServer({
      environment: this.#environment,
      logPath: join(this.#folder, `lmcache-${this.#starts}.log`),
      resp: this.peer,
      ...(rpcPort === undefined ? {} : { rpcPort }),
    });
  }

  async kill9(): Promise<void> {
    await this.#lmcache?.kill9();
    await this.#peer?.kill9();
  }
}

/** vLLM with LMCache's connector. */
export function startEngine(environment: EngineEnvironment, logPath: string, rpcPort: number): Promise<RunningVllm> {
  return startVllm({
    environment,
    logPath,
    kvTransferConfig: {
      kv_connector: 'LMCacheMPConnector',
      kv_role: 'kv_both',
      kv_connector_module_path: 'lmcache.integration.vllm.lmcache_mp_connector',
      kv_connector_extra_config: {
        'lmcache.mp.host': 'tcp://127.0.0.1',
        'lmcache.mp.port': rpcPort,
        'lmcache.mp.heartbeat_interval': HEARTBEAT_SECONDS,
      },
    },
  });
}

/** Runs `replace` while both of the engine's heartbeats know that lmcache server is away, and waits until both know that it is back. */
export async function whileEngineKnows(vllm: RunningVllm, lmcache: RunningLmcacheServer, replace: () => Promise<void>): Promise<void> {
  const count = (line: string): number => vllm.log().split(line).length - 1;
  const [away, back] = ['entering degraded mode', 'resuming normal operation'];
  const [awayBefore, backBefore] = [count(away), count(back)];
  await lmcache.kill9();
  await eventually('both heartbeats miss lmcache server', 60_000, () => count(away) >= awayBefore + HEARTBEATS || undefined);
  await replace();
  await eventually('both heartbeats find lmcache server', 60_000, () => count(back) >= backBefore + HEARTBEATS || undefined);
}
