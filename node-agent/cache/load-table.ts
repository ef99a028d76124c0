/**
 * Loads into RAM under way: one for a chunk, however many wait for it.
 *
 * Invariant: a chunk has at most one load of its present generation.
 */
import type { EntryIndex } from '#core/brand.ts';
import type { IoPriority } from '#ports/io-pool.ts';
import type { ChunkIndex } from './chunk-index.ts';

/** 'loaded': in RAM now. 'gone': removed meanwhile, missing, or wrong bytes. 'refused': no room, or the device failed. */
export type LoadOutcome = 'loaded' | 'gone' | 'refused';

interface Load {
  readonly generation: number;
  readonly priority: IoPriority;
  readonly promise: Promise<LoadOutcome>;
}

export class LoadTable {
  readonly #index: ChunkIndex;
  readonly #run: (entry: EntryIndex, generation: number, priority: IoPriority) => Promise<LoadOutcome>;
  readonly #loads = new Map<number, Load>();

  constructor(index: ChunkIndex, run: (entry: EntryIndex, generation: number, priority: IoPriority) => Promise<LoadOutcome>) {
    this.#index = index;
    this.#run = run;
  }

  has(entry: EntryIndex): boolean {
    return this.#loads.has(entry);
  }

  get size(): number {
    return this.#loads.size;
  }

  /** Begins a load, or joins the one that is under way. */
  load(entry: EntryIndex, priority: IoPriority): Promise<LoadOutcome> {
    const generation = this.#index.generation(entry);
    const known = this.#loads.get(entry);
    if (known !== undefined && known.generation === generation) return this.#join(known, entry, priority);
    const promise = this.#run(entry, generation, priority);
    const load = { generation, priority, promise };
    this.#loads.set(entry, load);
    const forget = (): void => {
      if (this.#loads.get(entry) === load) this.#loads.delete(entry);
    };
    void promise.finally(forget);
    return promise;
  }

  /** A read-ahead gives up where RAM is full; whoever waits for the chunk in earnest then waits for room too. */
  async #join(load: Load, entry: EntryIndex, priority: IoPriority): Promise<LoadOutcome> {
    const outcome = await load.promise;
    if (outcome !== 'refused' || priority !== 'demand' || load.priority === 'demand') return outcome;
    return this.#index.isLive(entry) && this.#index.generation(entry) === load.generation ? await this.load(entry, priority) : 'gone';
  }
}
