/**
 * Chunks in HBM that another process copies for itself: it opens the piece by its handle, copies, and asks afterwards whether what it copied
 * was the chunk. The slot is held meanwhile, so the bytes stay; but a chunk that was deleted, overwritten, invalidated or expired, or whose
 * device was lost, did not hold, and the copy must be thrown away.
 *
 * Ownership: an export holds its slot until `release`. Whoever gives exports to other processes releases them when these end.
 */
import { assert } from '#core/assert.ts';
import type { EntryIndex, SlotIndex } from '#core/brand.ts';
import type { CacheState } from './cache-state.ts';
import type { ChunkRef, DeviceRead } from './door.ts';
import type { HbmReplicas } from './hbm-replicas.ts';

interface Export {
  held: boolean;
}

export class HbmExports {
  readonly #state: CacheState;
  readonly #hbm: HbmReplicas;
  /** Those of slots that are still their chunk's. */
  readonly #bySlot = new Map<SlotIndex, Set<Export>>();
  #count = 0;

  constructor(state: CacheState, hbm: HbmReplicas) {
    this.#state = state;
    this.#hbm = hbm;
    hbm.onDetached = (slot) => this.#detached(slot);
  }

  get count(): number {
    return this.#count;
  }

  /** Undefined where the chunk is gone or not in HBM, or its piece cannot be opened by others. */
  open(ref: ChunkRef): DeviceRead | undefined {
    const state = this.#state;
    const { tier } = this.#hbm;
    const entry = ref.entry as EntryIndex;
    if (!state.isSame(ref) || !this.#hbm.has(entry) || state.expiry.isOver(entry)) return undefined;
    const slot = this.#hbm.slotOf(entry) as SlotIndex;
    const exported = tier.exportSlot(slot);
    if ('ok' in exported) return undefined;
    tier.retain(slot);
    this.#count += 1;
    const own: Export = { held: true };
    const others = this.#bySlot.get(slot);
    if (others === undefined) this.#bySlot.set(slot, new Set([own]));
    else others.add(own);
    let open = true;
    return {
      ...exported,
      sizeBytes: state.index.sizeBytes(entry),
      release: () => {
        assert(open, 'an export is released once');
        open = false;
        this.#count -= 1;
        const left = this.#bySlot.get(slot);
        if (left?.delete(own) === true && left.size === 0) this.#bySlot.delete(slot);
        tier.release(slot);
        // What expired while it was copied may be found by nobody, by this reader neither.
        return own.held && !(state.isSame(ref) && state.expiry.isOver(entry));
      },
    };
  }

  /** The slot is its chunk's no more; it stays held, and with the last export it is free. */
  #detached(slot: SlotIndex): void {
    for (const own of this.#bySlot.get(slot) ?? []) own.held = false;
    this.#bySlot.delete(slot);
  }
}
