/** What the cache has beside its state where there is an HBM tier: who places, who reads, who exports. */
import type { EntryIndex } from '#core/brand.ts';
import type { CacheState } from './cache-state.ts';
import { HbmExports } from './hbm-exports.ts';
import { HbmPlacement } from './hbm-placement.ts';
import { HbmReader } from './hbm-reader.ts';
import type { HbmReplicas } from './hbm-replicas.ts';
import type { RamSpace } from './ram-space.ts';

export class HbmSide {
  readonly reader: HbmReader;
  readonly placement: HbmPlacement;
  readonly exports: HbmExports;
  readonly #state: CacheState;

  constructor(state: CacheState, hbm: HbmReplicas, space: RamSpace) {
    this.#state = state;
    this.reader = new HbmReader(state, hbm, space);
    this.placement = new HbmPlacement({ state, hbm, reader: this.reader, space });
    this.exports = new HbmExports(state, hbm);
  }

  /** Brings what only HBM has to SSD until the deadline (monotonic ms), also where a copy does not end. */
  async drain(persist: (entry: EntryIndex) => Promise<boolean>, deadlineMs: number): Promise<void> {
    const { clock } = this.#state;
    const over = Promise.withResolvers<void>();
    const cancel = clock.schedule(Math.max(0, deadlineMs - clock.monotonicMs()), over.resolve);
    await Promise.race([this.placement.drain(persist, () => clock.monotonicMs() >= deadlineMs), over.promise]);
    cancel();
  }
}
