/**
 * Looks at the checksum of what a former process left in RAM, before the first byte of it is served or written to SSD. Small payloads
 * here and now, larger ones in the I/O pool; one look for a chunk, however many wait.
 *
 * Invariants: a chunk that fails is out of RAM when the promise settles; the slot is retained meanwhile.
 */
import type { EntryIndex, SlotIndex } from '#core/brand.ts';
import { KiB } from '#core/bytes.ts';
import { checksum } from '#core/checksum.ts';
import type { CacheState } from './cache-state.ts';
import { UNVERIFIED } from './flags.ts';

/** Some 10 us of hashing: less than handing it over. */
const HERE_BYTES = 64 * KiB;

export class RamVerifier {
  readonly #state: CacheState;
  readonly #looks = new Map<number, { readonly generation: number; readonly promise: Promise<boolean> }>();

  constructor(state: CacheState) {
    this.#state = state;
  }

  /** True where the chunk is in RAM and its bytes are those that were put. */
  verify(entry: EntryIndex): Promise<boolean> {
    const generation = this.#state.index.generation(entry);
    const known = this.#looks.get(entry);
    if (known?.generation === generation) return known.promise;
    const promise = this.#look(entry, generation);
    const look = { generation, promise };
    this.#looks.set(entry, look);
    void promise.finally(() => {
      if (this.#looks.get(entry) === look) this.#looks.delete(entry);
    });
    return promise;
  }

  async #look(entry: EntryIndex, generation: number): Promise<boolean> {
    const state = this.#state;
    const { index, ram } = state;
    const slot = index.ramSlot(entry) as SlotIndex;
    const sizeBytes = index.sizeBytes(entry);
    ram.retain(slot);
    const sum = sizeBytes <= HERE_BYTES ? checksum(ram.view(slot, sizeBytes), state.hash) : await ram.checksum(slot, sizeBytes);
    // Replaced or evicted meanwhile: whoever asks looks again.
    const isSame = state.isSame({ entry, generation }) && index.ramSlot(entry) === slot;
    const isRight = isSame && sum === index.checksum(entry);
    if (isRight) state.clear(entry, UNVERIFIED);
    else if (isSame) this.#drop(entry, sum === undefined);
    if (ram.release(slot)) state.onRoom();
    return isRight;
  }

  #drop(entry: EntryIndex, isUnknown: boolean): void {
    const state = this.#state;
    const what = isUnknown ? 'cannot be read' : 'has wrong bytes';
    state.counters.keptMismatches += 1;
    state.logger.warn(`A chunk that a former process left in RAM ${what}: forgotten`, { generation: state.index.generation(entry) });
    if (state.index.ssdFolder(entry) < 0) return state.remove(entry);
    state.detachRam(entry);
    state.catalogReplicas(entry);
  }
}
