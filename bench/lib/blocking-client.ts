/** A load of threads with a blocking socket each, as LMCache's native client has them; see blocking-client-worker.ts. */
export interface BlockingTarget {
  /** On 127.0.0.1. */
  readonly port: number;
  readonly sizeBytes: number;
  /** Keys are drawn from 0 to keys - 1. */
  readonly keys: number;
}

export interface BlockingRun {
  readonly command: 'SET' | 'GET';
  readonly requests: number;
  readonly seed: number;
  /** Keys in order instead of drawn: to fill. */
  readonly sequential: boolean;
  /** A GET that finds nothing is followed by a SET of the key, as a cache is used; without it that is an error. */
  readonly refill?: boolean;
}

export class BlockingLoad {
  readonly #threads: readonly Worker[];

  constructor(threads: readonly Worker[]) {
    this.#threads = threads;
  }

  /** Connected threads, which wait. */
  static async connect(target: BlockingTarget, connections: number): Promise<BlockingLoad> {
    const load = new BlockingLoad(
      Array.from({ length: connections }, () => new Worker(new URL('./blocking-client-worker.ts', import.meta.url).href)),
    );
    await load.#all(() => target);
    return load;
  }

  /** Seconds until the last thread has its last answer; `requests` are shared out evenly. */
  async run(run: BlockingRun): Promise<number> {
    const began = performance.now();
    await this.#all((index) => ({ ...run, requests: Math.ceil(run.requests / this.#threads.length), seed: run.seed + index }));
    return (performance.now() - began) / 1000;
  }

  async close(): Promise<void> {
    await this.#all(() => 'close');
    for (const thread of this.#threads) thread.terminate();
  }

  async #all(message: (index: number) => BlockingTarget | BlockingRun | 'close'): Promise<void> {
    await Promise.all(
      this.#threads.map(async (thread, index) => {
        const { promise, resolve, reject } = Promise.withResolvers<void>();
        thread.onmessage = () => resolve();
        thread.onerror = (event) => reject(new Error(event.message));
        thread.postMessage(message(index));
        await promise;
      }),
    );
  }
}

/** GB/s (10^9) of one run on connections of its own. */
export async function throughput(target: BlockingTarget, connections: number, run: BlockingRun): Promise<number> {
  const load = await BlockingLoad.connect(target, connections);
  const seconds = await load.run(run);
  await load.close();
  return (run.requests * target.sizeBytes) / 1e9 / seconds;
}

/** Every key of the target is there afterwards. */
export async function fill(target: BlockingTarget): Promise<void> {
  await throughput(target, 1, { command: 'SET', requests: target.keys, seed: 1, sequential: true });
}

/**
 * What a server that has run for a while has behind it, on each port: a runtime that compiles as it goes gets faster for its first twenty
 * thousand requests. Moves 16 GiB in and 4 GiB out of each.
 */
export async function warmUp(ports: readonly number[], seed: number): Promise<void> {
  const MiB = 1024 ** 2;
  for (const port of ports) {
    const target = { port, sizeBytes: MiB, keys: 256 };
    await fill(target);
    await throughput(target, 1, { command: 'SET', requests: 12 * 1024, seed, sequential: false });
    await throughput(target, 4, { command: 'SET', requests: 4 * 1024, seed, sequential: false });
    await throughput(target, 4, { command: 'GET', requests: 4 * 1024, seed, sequential: false });
  }
}
